//! Calls of a node's machines to other nodes, and to the leader wherever it is.
//!
//! A call to the leader goes to the node believed to lead; `NotLeader` names a better one; nobody
//! known: some node is asked, who will know or not. A call that got no answer ends as unknown.
use super::daemon::{Caller, OutCall};
use super::fabric::{Ev, Fabric, Fetched};
use super::network::Packet;
use super::node::{Node, NodeTimer};
use super::node_work::join;
use super::settings::{addr_of, node_at};
use bytes::Bytes;
use dfs_core::wire::rpc::{Call, CallTarget, ConnId};
use dfs_core::wire::{
    ErrorClass, ErrorCode, MasterRequest, ReplicaRequest, Request, Response, WireError,
};
use std::time::Duration;

/// One attempt.
const ATTEMPT: Duration = Duration::from_millis(1000);

impl Node {
    pub(super) fn call(&mut self, caller: Caller, mut call: Call, fx: &mut Fabric) {
        self.tamper_with_call(&mut call.request, fx);
        if let Request::Master(MasterRequest::Heartbeat(hb)) = &call.request
            && let Err(what) = fx.reports.said(hb, self.run)
        {
            fx.fail(what);
        }
        let id = fx.id();
        let until = fx.now + ATTEMPT;
        let call = OutCall {
            caller,
            call,
            tries: 0,
            until,
            conn: None,
        };
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        daemon.calls.insert(id, call);
        self.attempt(id, fx);
    }

    /// Sends a call (again). Its id on the wire is new each time.
    pub(super) fn attempt(&mut self, id: u64, fx: &mut Fabric) {
        let new_id = fx.id();
        let (run, me) = (self.run, self.end());
        let any = fx.pick(fx.net.ends.nodes);
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        let Some(mut call) = daemon.calls.remove(&id) else {
            return;
        };
        let is_ordered = matches!(call.call.to, CallTarget::Leader);
        let target = match call.call.to {
            CallTarget::Leader => Some(daemon.hint.leader.and_then(node_at).unwrap_or(any)),
            CallTarget::Store(_, addr) | CallTarget::Node(_, addr) => node_at(addr),
            CallTarget::Voter(_) => None,
        };
        let Some(target) = target else {
            let error = WireError::new(ErrorCode::Unavailable, "nobody has this address");
            return self.call_over(call.caller, call.call.token, Err(error), fx);
        };
        let key = (target, is_ordered);
        let conn = match daemon.conns.get(&key).copied() {
            Some(conn) => conn,
            None => {
                let conn = fx.connect(me, run, target, is_ordered);
                daemon.conns.insert(key, conn);
                conn
            }
        };
        call.conn = Some(conn);
        call.tries += 1;
        let packet = Packet::Request {
            id: new_id,
            body: call.call.request.clone(),
            payload: join(call.call.payload.clone()),
        };
        daemon.calls.insert(new_id, call);
        fx.send(conn, me, packet);
        let timer = NodeTimer::CallTimeout(new_id);
        fx.after(
            ATTEMPT,
            Ev::Node {
                node: self.index,
                run,
                timer,
            },
        );
    }

    pub(super) fn on_reply(
        &mut self,
        id: u64,
        body: Result<Response, WireError>,
        payload: Bytes,
        fx: &mut Fabric,
    ) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        if !daemon.calls.contains_key(&id) {
            return;
        }
        match body {
            Err(e) => self.attempt_failed(id, e, fx),
            Ok(response) => {
                if let Some(call) = daemon.calls.remove(&id) {
                    if let (Caller::Replica, Request::Replica(ReplicaRequest::Fetch { object })) =
                        (call.caller, &call.call.request)
                    {
                        fx.fetched.push(Fetched {
                            node: self.index,
                            run: self.run,
                            object: *object,
                            bytes: payload.len() as u64,
                        });
                    }
                    let result = Ok((response, payload));
                    self.call_over(call.caller, call.call.token, result, fx);
                }
            }
        }
    }

    pub(super) fn attempt_failed(&mut self, id: u64, error: WireError, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        let Some(call) = daemon.calls.get(&id) else {
            return;
        };
        if matches!(call.call.to, CallTarget::Leader) {
            let was = call
                .conn
                .and_then(|conn| fx.conn(conn))
                .map(|state| state.callee);
            let was = was.map(addr_of);
            if error.code.class() == ErrorClass::Redirect {
                daemon.hint.leader = error.detail.parse().ok().filter(|addr| Some(*addr) != was);
            } else if daemon.hint.leader == was {
                daemon.hint.leader = None;
            }
            let again = error.code.class() != ErrorClass::Permanent;
            if again && call.tries < 4 && Self::may_retry(call.until, fx) {
                let timer = NodeTimer::CallAgain(id);
                let pause = fx.ms(1, 25);
                fx.after(
                    pause,
                    Ev::Node {
                        node: self.index,
                        run: self.run,
                        timer,
                    },
                );
                return;
            }
        }
        if let Some(call) = daemon.calls.remove(&id) {
            self.call_over(call.caller, call.call.token, Err(error), fx);
        }
    }

    /// A connection that went quiet is given up.
    pub(super) fn drop_conn(&mut self, conn: ConnId, fx: &mut Fabric) {
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.conns.retain(|_, c| *c != conn);
        }
        fx.close(conn, self.end());
    }
}

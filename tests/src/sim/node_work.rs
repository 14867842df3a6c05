//! What a node does with packets, timers and the actions of its machines.
use super::bugs::Bug;
use super::daemon::{Caller, Daemon};
use super::fabric::{Ev, Fabric};
use super::network::{End, Packet};
use super::node::{Node, NodeTimer};
use super::settings::{addr_of, node_at};
use bytes::Bytes;
use dfs_core::consensus::RaftMessage;
use dfs_core::master::leader::{MasterAction, MasterEvent};
use dfs_core::replica::{ReplicaAction, ReplicaEvent};
use dfs_core::types::{RaftId, Time};
use dfs_core::wire::master::MasterResponse;
use dfs_core::wire::rpc::{CallResult, ConnId, Reply, ReplyTo};
use dfs_core::wire::{
    ErrorCode, NodeRequest, NodeResponse, Push, ReplicaResponse, Request, Response, Stamp,
    WireError,
};
use std::net::SocketAddr;
use std::time::Duration;

/// Where the answers to probes go.
pub(super) const PROBE: ReplyTo = ReplyTo {
    conn: ConnId(u64::MAX),
    id: 0,
};

impl Node {
    pub(super) fn later(&self, pause: Duration, timer: NodeTimer, fx: &mut Fabric) {
        fx.after(
            pause,
            Ev::Node {
                node: self.index,
                run: self.run,
                timer,
            },
        );
    }

    pub(super) fn on_request(
        &mut self,
        conn: ConnId,
        id: u64,
        mut body: Request,
        payload: Bytes,
        fx: &mut Fabric,
    ) {
        let from = ReplyTo { conn, id };
        self.tamper_with_request(from, &mut body, fx);
        match body {
            Request::Master(body) => {
                let votes = self.daemon.as_ref().is_some_and(|d| d.voter.is_some());
                if votes {
                    return self.master(MasterEvent::Request { from, body }, fx);
                }
                let hint = self.daemon.as_ref().and_then(|d| d.hint.leader);
                let detail = hint.map_or_else(String::new, |addr| addr.to_string());
                let error = WireError::new(ErrorCode::NotLeader, detail);
                self.reply(
                    Reply {
                        to: from,
                        body: Err(error),
                        payload: Vec::new(),
                    },
                    fx,
                );
            }
            Request::Replica(body) => {
                self.replica(
                    ReplicaEvent::Request {
                        from,
                        body,
                        payload,
                    },
                    fx,
                );
            }
            Request::Node(request) => self.on_node_request(from, request, fx),
        }
    }

    fn on_node_request(&mut self, from: ReplyTo, request: NodeRequest, fx: &mut Fabric) {
        let body = match request {
            NodeRequest::WhoLeads => {
                let hint = self.daemon.as_deref().map(Daemon::hint);
                let hint = hint.unwrap_or_default();
                Ok(NodeResponse::Leader(hint))
            }
            NodeRequest::BecomeVoter { raft_id, .. } => self
                .become_voter(raft_id, fx)
                .map(|()| NodeResponse::Done)
                .map_err(|e| WireError::new(ErrorCode::NotSupported, e)),
            NodeRequest::RetireVoter { raft_id, term } => {
                let voter = self.daemon.as_ref().and_then(|d| d.voter.as_ref());
                match voter.is_some_and(|v| v.id == raft_id && v.master.raft().term() > term) {
                    true => Err(ErrorCode::Stale.into()),
                    false => {
                        self.retire_voter(raft_id, fx);
                        Ok(NodeResponse::Done)
                    }
                }
            }
            NodeRequest::SnapshotPage {
                index,
                after,
                bytes_max,
            } => {
                if self.daemon.as_ref().is_some_and(|d| d.voter.is_some()) {
                    let event = MasterEvent::SnapshotPage {
                        from,
                        index,
                        after,
                        bytes_max,
                    };
                    return self.master(event, fx);
                }
                Err(ErrorCode::NotReady.into())
            }
            _ => Ok(NodeResponse::Done),
        };
        self.reply(
            Reply {
                to: from,
                body: body.map(Response::Node),
                payload: Vec::new(),
            },
            fx,
        );
    }

    pub(super) fn on_cast(&mut self, request: Request, fx: &mut Fabric) {
        if let Request::Node(NodeRequest::Raft {
            from,
            addr,
            message,
        }) = request
        {
            self.master(
                MasterEvent::Raft {
                    from,
                    addr,
                    message,
                },
                fx,
            );
        }
    }

    pub(super) fn on_push(&mut self, push: &Push, fx: &mut Fabric) {
        if matches!(push, Push::Poke) {
            self.replica(ReplicaEvent::Poke, fx);
        }
    }

    pub(super) fn on_closed(&mut self, conn: ConnId, fx: &mut Fabric) {
        let mine = fx.conn(conn).filter(|state| state.caller == self.end());
        if let Some(callee) = mine.map(|state| state.callee) {
            self.doubt(callee, fx);
            let Some(daemon) = self.daemon.as_mut() else {
                return;
            };
            daemon.conns.retain(|_, c| *c != conn);
            let hit = daemon
                .calls
                .iter()
                .filter(|(_, call)| call.conn == Some(conn));
            let hit: Vec<u64> = hit.map(|(id, _)| *id).collect();
            for id in hit {
                self.attempt_failed(id, WireError::from(ErrorCode::UnknownOutcome), fx);
            }
        }
        self.master(MasterEvent::ConnClosed(conn), fx);
    }

    pub(super) fn on_timer(&mut self, timer: NodeTimer, fx: &mut Fabric) {
        match timer {
            NodeTimer::Tick => {
                if self.daemon.as_ref().is_some_and(|d| d.voter.is_some()) {
                    self.master(MasterEvent::Tick, fx);
                    self.later(Duration::from_millis(50), NodeTimer::Tick, fx);
                }
            }
            NodeTimer::Wake(number) => {
                if self.daemon.as_ref().is_some_and(|d| d.wake == number) {
                    self.replica(ReplicaEvent::Tick, fx);
                }
            }
            NodeTimer::LogSynced => self.log_synced(fx),
            NodeTimer::StoreSynced => self.store_synced(fx),
            NodeTimer::MasterFlushed => {
                let job = self
                    .daemon
                    .as_mut()
                    .and_then(|d| d.voter.as_mut()?.flush.take());
                if let Some(job) = job {
                    self.master(MasterEvent::Flushed(job.run()), fx);
                }
            }
            NodeTimer::StoreFlushed => {
                let Some(daemon) = self.daemon.as_mut() else {
                    return;
                };
                if let Some(job) = daemon.flush.take()
                    && let Err(e) = daemon.store.finish_flush(job.run())
                {
                    fx.fail(format!("node {}: a flush failed: {e}", self.index));
                }
                self.flush_store(fx);
            }
            NodeTimer::CallTimeout(id) => {
                let call = self.daemon.as_ref().and_then(|d| d.calls.get(&id));
                if let Some(conn) = call.map(|call| call.conn) {
                    if let Some(conn) = conn {
                        self.drop_conn(conn, fx);
                    }
                    self.attempt_failed(id, ErrorCode::UnknownOutcome.into(), fx);
                }
            }
            NodeTimer::CallAgain(id) => self.attempt(id, fx),
            NodeTimer::Member(node, state) => {
                self.master(MasterEvent::Member { node, state }, fx);
            }
            NodeTimer::Gossip(token) => self.on_gossip_timer(token, fx),
            NodeTimer::Members => self.tell_members(fx),
        }
    }

    /// Feeds the master, if there is one.
    pub(super) fn master(&mut self, event: MasterEvent, fx: &mut Fabric) {
        let (now, wall) = (self.clock.local(fx.now), self.clock.wall(fx.now));
        let Some(voter) = self.daemon.as_mut().and_then(|d| d.voter.as_mut()) else {
            return;
        };
        let mut out = Vec::new();
        voter.master.handle(now, wall, event, &mut out);
        for action in out {
            self.perform_master(action, fx);
        }
    }

    fn perform_master(&mut self, action: MasterAction, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        match action {
            MasterAction::Reply(reply) => self.reply(reply, fx),
            MasterAction::Push { conn, push } => {
                fx.send(conn, self.end(), Packet::Push(push.clone()));
                self.tamper_with_push(conn, &push, fx);
            }
            MasterAction::SendRaft { addr, message, .. } => {
                let Some(id) = daemon.voter.as_ref().map(|voter| voter.id) else {
                    return;
                };
                self.send_raft(id, addr, message, fx);
            }
            MasterAction::Persist { token, mut write } => {
                self.tamper_with_log(&mut write);
                let Some(voter) = self.daemon.as_mut().and_then(|d| d.voter.as_mut()) else {
                    return;
                };
                voter.queue.push((token, write));
                self.sync_log(fx);
                if self.plan.has(Bug::VoterAcksBeforeSync) {
                    self.master(MasterEvent::Persisted { token }, fx);
                }
            }
            MasterAction::Call(call) => self.call(Caller::Master, call, fx),
            MasterAction::Flush(job) => {
                if let Some(voter) = daemon.voter.as_mut() {
                    voter.flush = Some(job);
                }
                let pause = fx.ms(1, 60);
                self.later(pause, NodeTimer::MasterFlushed, fx);
            }
            MasterAction::Leader(hint) => {
                let says = hint.leader.and_then(node_at);
                fx.trace.say(
                    fx.now,
                    format_args!("node {}: leader {says:?}, term {}", self.index, hint.term),
                );
                daemon.hint_of_voter = hint.clone();
                daemon.hint = hint;
            }
            MasterAction::Fatal(why) => fx.fail(format!("node {}: fatal: {why}", self.index)),
        }
    }

    fn send_raft(&mut self, from: RaftId, to: SocketAddr, message: Vec<u8>, fx: &mut Fabric) {
        let Some(index) = node_at(to) else { return };
        fx.trace.mix_bytes(&message);
        let said = RaftMessage::decode(&message).map_err(|e| e.to_string());
        if let Err(what) = said
            .as_ref()
            .map_err(String::clone)
            .and_then(|m| fx.votes.said(from, m))
        {
            fx.fail(what);
        }
        let addr = addr_of(self.index);
        let request = Request::Node(NodeRequest::Raft {
            from,
            addr,
            message,
        });
        fx.cast(self.end(), End::Node(index), request);
        if let Ok(message) = said {
            self.tamper_with_raft(from, &message, fx);
        }
    }

    /// Feeds the replica and notes when it wants to be woken.
    pub(super) fn replica(&mut self, event: ReplicaEvent, fx: &mut Fabric) {
        let now = self.clock.local(fx.now);
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        daemon
            .replica
            .handle(now, event, &mut daemon.store, &mut out);
        for action in out {
            self.perform_replica(action, fx);
        }
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        let wake_at = self.clock.global(daemon.replica.next_wake(now)).max(fx.now);
        if wake_at != daemon.wake_at {
            daemon.wake += 1;
            daemon.wake_at = wake_at;
            let timer = NodeTimer::Wake(daemon.wake);
            // A wake-up that changes nothing must not be asked for again at the same instant.
            let at = wake_at.max(fx.now + Duration::from_micros(100));
            fx.at(
                at,
                Ev::Node {
                    node: self.index,
                    run: self.run,
                    timer,
                },
            );
        }
        self.flush_store(fx);
    }

    fn perform_replica(&mut self, action: ReplicaAction, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        match action {
            ReplicaAction::Reply(reply) => self.reply(reply, fx),
            ReplicaAction::Persist { token, batch } => {
                daemon.queue.push((token, batch));
                self.sync_store(fx);
                if self.plan.has(Bug::StoreAcksBeforeSync) {
                    self.replica(
                        ReplicaEvent::Persisted {
                            token,
                            result: Ok(()),
                        },
                        fx,
                    );
                }
            }
            ReplicaAction::Call(call) => self.call(Caller::Replica, call, fx),
            ReplicaAction::NamespaceDone { .. } => {} // nobody asks here
            ReplicaAction::Read(job) => {
                let planned = dfs_core::replica::read::plan(job, &daemon.store);
                let (reply, damaged) = planned.run();
                self.reply(reply, fx);
                for object in damaged {
                    self.replica(ReplicaEvent::Damaged { object }, fx);
                }
            }
            ReplicaAction::Scrub(job) => {
                let now = fx.now;
                let done = dfs_core::replica::scrub_job::plan(job, &daemon.store).run(|| now);
                self.replica(ReplicaEvent::Scrubbed(done), fx);
            }
        }
    }

    fn reply(&mut self, mut reply: Reply, fx: &mut Fabric) {
        self.tamper_with_reply(&mut reply.body);
        if reply.to.conn == PROBE.conn {
            let stamp = match reply.body {
                Ok(Response::Replica(ReplicaResponse::Stamp(stamp))) => Some(stamp),
                _ => None,
            };
            self.probed = matches!(stamp, Some(Stamp::Known { .. }));
            return;
        }
        let payload = join(reply.payload);
        fx.trace.mix(reply.to.id);
        fx.trace
            .mix(payload.len() as u64 * 2 + u64::from(reply.body.is_ok()));
        let packet = Packet::Reply {
            id: reply.to.id,
            body: reply.body,
            payload,
        };
        fx.send(reply.to.conn, self.end(), packet);
    }

    /// A call of a machine is over.
    pub(super) fn call_over(
        &mut self,
        caller: Caller,
        token: u64,
        mut result: CallResult,
        fx: &mut Fabric,
    ) {
        if let Ok((Response::Master(MasterResponse::Heartbeat(ok)), _)) = &mut result {
            for (index, pg, note) in &ok.notes {
                fx.trace.say(
                    fx.now,
                    format_args!("node {}: note {index} {pg:?}: {note:?}", self.index),
                );
            }
            self.tamper_with_answer(ok, fx);
        }
        match caller {
            Caller::Master => self.master(MasterEvent::CallDone { token, result }, fx),
            Caller::Replica => self.replica(ReplicaEvent::CallDone { token, result }, fx),
        }
    }

    /// Time left for another attempt.
    pub(super) fn may_retry(until: Time, fx: &Fabric) -> bool {
        fx.now + Duration::from_millis(30) < until
    }
}

/// One payload of its pieces.
pub(super) fn join(pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 => Bytes::new(),
        1 => pieces.into_iter().next().unwrap_or_default(),
        _ => pieces.concat().into(),
    }
}

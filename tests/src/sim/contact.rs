//! Contact with the master: find the leader, bind the session, keep it alive.
//!
//! 1. Ask all nodes who leads; a refusal's hint is tried first.
//! 2. Connect; drop every cache; open the session or declare it to the leader.
//! 3. Keep alive until the connection is of no use; then begin again.
use super::client::{CallKind, Client, ClientTimer, Cx};
use super::fabric::Fabric;
use super::settings::node_at;
use bytes::Bytes;
use dfs_core::types::{Term, Time};
use dfs_core::wire::master::{MasterResponse, OpenInode};
use dfs_core::wire::rpc::ConnId;
use dfs_core::wire::{
    ErrorClass, ErrorCode, MasterRequest, NodeRequest, NodeResponse, Request, Response, WireError,
};
use std::time::Duration;

const PROBE: Duration = Duration::from_millis(400);
const ATTEMPT: Duration = Duration::from_millis(1000);
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);

/// How contact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    Seeking,
    Binding(ConnId, usize),
    Bound(ConnId, usize),
}

impl Client {
    pub(super) fn bound(&self) -> Option<ConnId> {
        match self.contact {
            Contact::Bound(conn, _) => Some(conn),
            _ => None,
        }
    }

    pub(super) fn seek(&mut self, round: u64, cx: &mut Cx<'_>) {
        if self.contact != Contact::Seeking || round != self.round {
            return;
        }
        if let Some(node) = self.hint.take() {
            return self.bind(node, cx.fx);
        }
        for node in 0..cx.fx.net.ends.nodes {
            let conn = self.pooled(node, cx.fx);
            let request = Request::Node(NodeRequest::WhoLeads);
            self.call(
                conn,
                CallKind::Probe(round),
                request,
                (Bytes::new(), PROBE),
                cx.fx,
            );
        }
        self.later(PROBE, ClientTimer::ProbesOver(round), cx.fx);
    }

    pub(super) fn probe_over(
        &mut self,
        round: u64,
        result: Result<(Response, Bytes), WireError>,
        cx: &mut Cx<'_>,
    ) {
        let Ok((Response::Node(NodeResponse::Leader(hint)), _)) = result else {
            return;
        };
        let leader = hint.leader.and_then(node_at);
        if self.contact == Contact::Seeking
            && round == self.round
            && let Some(leader) = leader
        {
            self.bind(leader, cx.fx);
        }
    }

    pub(super) fn probes_over(&mut self, round: u64, fx: &mut Fabric) {
        if self.contact == Contact::Seeking && round == self.round {
            self.seek_again(fx);
        }
    }

    fn seek_again(&mut self, fx: &mut Fabric) {
        self.contact = Contact::Seeking;
        self.round += 1;
        let pause = if self.hint.is_some() {
            Duration::ZERO
        } else {
            fx.ms(20, 200)
        };
        self.later(pause, ClientTimer::Seek(self.round), fx);
    }

    fn bind(&mut self, node: usize, fx: &mut Fabric) {
        let conn = fx.connect(self.end(), 0, node, true);
        self.contact = Contact::Binding(conn, node);
        self.drop_caches();
        if self.opened {
            let term = self.clean_term;
            return self.send_keep_alive(conn, term, Vec::new(), fx);
        }
        let label = format!("client {}", self.index);
        let client = self.session;
        let open = Request::Master(MasterRequest::OpenSession { client, label });
        self.call(
            conn,
            CallKind::OpenSession,
            open,
            (Bytes::new(), ATTEMPT),
            fx,
        );
    }

    pub(super) fn session_opened(
        &mut self,
        result: Result<(Response, Bytes), WireError>,
        cx: &mut Cx<'_>,
    ) {
        let Contact::Binding(conn, _) = self.contact else {
            return;
        };
        match result {
            Ok((Response::Master(MasterResponse::Session { .. }), _)) => {
                self.opened = true;
                let term = self.clean_term;
                self.send_keep_alive(conn, term, Vec::new(), cx.fx);
            }
            Ok(_) => cx
                .fx
                .fail("an open session was answered with something else".into()),
            Err(e) => self.contact_refused(conn, &e, cx),
        }
    }

    fn send_keep_alive(
        &mut self,
        conn: ConnId,
        clean_term: Term,
        opens: Vec<OpenInode>,
        fx: &mut Fabric,
    ) {
        let sent = self.now(fx);
        let (client, low) = (self.session, self.low());
        let request = MasterRequest::KeepAlive {
            client,
            low,
            clean_term,
            opens,
            queued: false,
        };
        let kind = CallKind::KeepAlive {
            sent,
            declared: clean_term,
        };
        self.call(
            conn,
            kind,
            Request::Master(request),
            (Bytes::new(), ATTEMPT),
            fx,
        );
    }

    pub(super) fn keep_alive_due(&mut self, conn: ConnId, fx: &mut Fabric) {
        if self.bound() == Some(conn) {
            self.send_keep_alive(conn, self.clean_term, Vec::new(), fx);
        }
    }

    pub(super) fn kept_alive(
        &mut self,
        sent: Time,
        declared: Term,
        result: Result<(Response, Bytes), WireError>,
        cx: &mut Cx<'_>,
    ) {
        let (Contact::Binding(conn, node) | Contact::Bound(conn, node)) = self.contact else {
            return;
        };
        let answer = match result {
            Ok((Response::Master(answer), _)) => answer,
            Ok(_) => return,
            Err(e) => return self.contact_refused(conn, &e, cx),
        };
        let MasterResponse::Session {
            term,
            caches_valid,
            map_version,
            stores,
            ..
        } = answer
        else {
            return cx
                .fx
                .fail("a keep-alive was answered with something else".into());
        };
        self.note_stores(stores);
        self.map_newest = self.map_newest.max(map_version);
        if term != declared {
            // Another leader than the one that knows our interests.
            self.drop_caches();
            let opens = self.opens.keys().map(|ino| OpenInode {
                ino: *ino,
                write: true,
            });
            let opens = opens.collect();
            return self.send_keep_alive(conn, term, opens, cx.fx);
        }
        self.clean_term = term;
        self.window_until = sent + caches_valid;
        if self.bound().is_none() {
            cx.fx.trace.say(
                cx.fx.now,
                format_args!("client {} bound to {node}", self.index),
            );
            self.contact = Contact::Bound(conn, node);
            self.send_waiting_asks(cx);
        }
        self.later(KEEP_ALIVE_EVERY, ClientTimer::KeepAlive(conn), cx.fx);
    }

    fn contact_refused(&mut self, conn: ConnId, error: &WireError, cx: &mut Cx<'_>) {
        if error.code.class() == ErrorClass::Redirect {
            self.hint = error.detail.parse().ok().and_then(node_at);
        }
        if matches!(error.code, ErrorCode::SessionExpired | ErrorCode::NotFound) {
            let lost = self.session;
            self.lose_session(lost, cx);
        }
        self.leave(conn, cx.fx);
    }

    /// Leaves the leader, if it is still this connection's.
    pub(super) fn leave(&mut self, conn: ConnId, fx: &mut Fabric) {
        fx.close(conn, self.end());
        self.contact_closed(conn, fx);
    }

    pub(super) fn contact_closed(&mut self, conn: ConnId, fx: &mut Fabric) {
        let (Contact::Binding(mine, _) | Contact::Bound(mine, _)) = self.contact else {
            return;
        };
        if mine == conn {
            self.drop_caches();
            self.seek_again(fx);
        }
    }
}

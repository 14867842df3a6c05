//! Requests on their way in: each becomes a proposal, a read, or a change of soft state.
use super::event::MasterAction;
use super::leading::{Held, Leading, MutateAsked, OpenAsked, Pending, Read, ReadKind};
use super::machine::{Master, refusal, reply};
use crate::master::command::Command;
use crate::types::{ClientId, Ino, Term};
use crate::wire::master::{MasterRequest, MasterResponse, OpenInode};
use crate::wire::rpc::{ConnId, ReplyTo};
use crate::wire::{ErrorCode, Mutation, WireError};
use std::time::Duration;

impl Master {
    pub(super) fn on_request(
        &mut self,
        to: ReplyTo,
        body: MasterRequest,
        out: &mut Vec<MasterAction>,
    ) {
        if let MasterRequest::Audit { run } = body {
            return self.on_audit(to, run, out);
        }
        if self.leading.is_none() {
            out.push(refusal(to, self.not_leader()));
            return;
        }
        use MasterRequest as R;
        match body {
            R::OpenSession { client, label } => {
                let command = Command::OpenSession { client, label };
                self.propose(command, Pending::OpenSession { to, client });
            }
            R::KeepAlive {
                client,
                low,
                clean_term,
                opens,
                queued,
            } => {
                self.note_queued(client, queued);
                self.on_keep_alive(to, (client, low, clean_term), &opens, out);
            }
            R::CloseSession { client } => {
                let command = Command::EndSession {
                    client,
                    expired: false,
                };
                self.propose(command, Pending::Control { to });
            }
            R::Lock {
                op,
                low,
                body,
                waiter,
            } => self.on_lock(to, (op, low), body, waiter, out),
            R::Mutate {
                op,
                low,
                body,
                open,
            } => self.on_mutate(to, Command::Mutate { op, low, body }, (open, None), out),
            body @ R::MutateAfter { .. } => self.on_mutate_after(to, body, out),
            R::Query {
                client,
                interest,
                body,
            } => {
                self.read(
                    to,
                    ReadKind::Query {
                        client,
                        interest,
                        body,
                    },
                    out,
                );
            }
            R::PushAck { client, seq } => {
                if let Some(leading) = self.leading.as_deref_mut() {
                    leading.coherence.ack(client, seq);
                }
                out.push(reply(to, MasterResponse::Done));
            }
            R::Open {
                client,
                ino,
                write,
                interest,
            } => {
                self.on_open(to, client, (ino, write, interest), out);
            }
            R::Release { client, inos } => self.on_release(to, client, inos, out),
            R::Heartbeat(heartbeat) => self.on_heartbeat(to, heartbeat, out),
            body => self.on_control(to, body, out),
        }
    }

    fn on_release(
        &mut self,
        to: ReplyTo,
        client: ClientId,
        inos: Vec<Ino>,
        out: &mut Vec<MasterAction>,
    ) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if !leading.coherence.is_bound(client, to.conn) {
            return out.push(refusal(to, ErrorCode::NotReady.into()));
        }
        inos.into_iter()
            .for_each(|ino| leading.opens.release(client, ino));
        out.push(reply(to, MasterResponse::Done));
    }

    /// Requests of tools and stores that only look, and the few that steer.
    fn on_control(&mut self, to: ReplyTo, body: MasterRequest, out: &mut Vec<MasterAction>) {
        use MasterRequest as R;
        match body {
            R::PgListing { pg, after, limit } => {
                self.read(to, ReadKind::PgListing { pg, after, limit }, out);
            }
            R::FilesOf {
                store,
                after,
                limit,
            } => {
                self.read(
                    to,
                    ReadKind::FilesOf {
                        store,
                        after,
                        limit,
                    },
                    out,
                );
            }
            R::RepairControl { paused } => {
                self.propose(Command::RepairControl { paused }, Pending::Control { to });
            }
            R::RepairLog => self.read(to, ReadKind::RepairLog, out),
            R::RepairRecords => self.read(to, ReadKind::RepairRecords, out),
            R::FilesIn { pgs, after, limit } => {
                self.read(to, ReadKind::FilesIn { pgs, after, limit }, out);
            }
            R::Boost { lasts } => {
                let until = self.log_now() + lasts;
                self.propose(Command::RepairBoost { until }, Pending::Control { to });
            }
            R::Drain { node, draining } => self.on_drain(to, node, draining, out),
            R::Remove { node } => self.on_remove(to, node, out),
            R::RemoveStore { store } => self.on_remove_store(to, store, out),
            R::Watch { root } => self.on_watch(to, root, out),
            R::Forget { node } => self.on_drain(to, node, true, out),
            R::Status => self.read(to, ReadKind::Status, out),
            R::GroupSpace { after } => self.read(to, ReadKind::GroupSpace(after), out),
            R::ObjectFates { objects } => self.read(to, ReadKind::ObjectFates(objects), out),
            other => {
                tracing::warn!(?other, "a request of a session came as one of a tool");
                out.push(refusal(to, ErrorCode::BadRequest.into()));
            }
        }
    }

    fn on_mutate_after(&mut self, to: ReplyTo, body: MasterRequest, out: &mut Vec<MasterAction>) {
        let MasterRequest::MutateAfter {
            op,
            low,
            after,
            sole_at,
            listens,
            body,
            open,
        } = body
        else {
            return;
        };
        let command = Command::MutateAfter {
            op,
            low,
            after,
            sole_at,
            body,
        };
        self.on_mutate(to, command, (open, Some(listens)), out);
    }

    fn on_mutate(
        &mut self,
        to: ReplyTo,
        command: Command,
        (open, listens): (Option<bool>, Option<Duration>),
        out: &mut Vec<MasterAction>,
    ) {
        if self.is_busy() {
            let detail = "too many changes are in flight";
            out.push(refusal(to, WireError::new(ErrorCode::Busy, detail)));
            return;
        }
        let now = self.now;
        let (Some(leading), Some((op, body))) = (self.leading.as_deref_mut(), command.change())
        else {
            return;
        };
        let of_locks = matches!(body, Mutation::Unlock { .. } | Mutation::Abandon { .. });
        let locks = of_locks.then(|| body.clone());
        let mut at = leading.coherence.asked(op.client, to.conn, now);
        at.listens = listens.unwrap_or(at.listens);
        self.propose(command, Pending::Mutate(MutateAsked { to, at, open }));
        if let Some(body) = locks {
            self.foresee_locks(op.client, &body, out);
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        let in_flight = |l: &Leading| l.pending.len() + l.held.len() - l.held_answers;
        let max = self.config.proposals_max;
        self.leading.as_deref().is_some_and(|l| in_flight(l) >= max)
    }

    fn note_queued(&mut self, client: ClientId, queued: bool) {
        if queued && let Some(leading) = self.leading.as_deref_mut() {
            leading.coherence.queued(client);
        }
    }

    fn on_keep_alive(
        &mut self,
        to: ReplyTo,
        (client, low, clean_term): (ClientId, u64, Term),
        opens: &[OpenInode],
        out: &mut Vec<MasterAction>,
    ) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if leading.coherence.has_left(client, to.conn) {
            // Its connections are numbered as they come: this one was given up.
            return out.push(refusal(to, ErrorCode::NotReady.into()));
        }
        // One that is not live may be one whose entry is not applied here yet: the read decides.
        if leading.liveness.keep_alive(client, low, now) {
            if clean_term == leading.term {
                leading.opens.replace(client, opens);
            }
            leading
                .coherence
                .keep_alive(client, to.conn, clean_term, now, out);
        }
        self.read(to, ReadKind::KeepAlive { client }, out);
    }

    fn on_open(
        &mut self,
        to: ReplyTo,
        client: ClientId,
        (ino, write, interest): (Ino, bool, bool),
        out: &mut Vec<MasterAction>,
    ) {
        if !self.has_session(client) {
            out.push(refusal(to, no_session(client)));
            return;
        }
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if !leading.coherence.is_declared(client, to.conn) {
            // Sent before the session left this connection: it has been opened and released since, perhaps.
            let detail = "the session is bound to another connection";
            out.push(refusal(to, WireError::new(ErrorCode::NotReady, detail)));
            return;
        }
        if leading.coherence.is_silent_any_but(client) {
            leading.opens.doubt(ino);
        }
        // Noted until it is released, also if it is refused: who asks releases what it asked for.
        leading.opens.open(client, ino, write);
        let asked = OpenAsked {
            to,
            client,
            ino,
            write,
            interest,
            in_doubt: false,
        };
        match leading.coherence.wait_for_election(client, now) {
            Some(wait) => {
                leading.held.insert(wait, Held::Unknown(asked));
            }
            None => self.check_open(asked, out),
        }
    }

    /// All opens are known: asks writers to flush, then reads.
    pub(super) fn check_open(&mut self, mut asked: OpenAsked, out: &mut Vec<MasterAction>) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        // A lease that is being raised is not raised over who asks for it now.
        let is_raised = leading.raise_of(asked.ino).map(|(_, silent)| {
            silent.retain(|client| *client != asked.client);
        });
        // Who only reads overwrites nothing.
        asked.in_doubt = asked.write
            && leading.opens.is_in_doubt(asked.ino)
            && leading.coherence.is_silent_any_but(asked.client);
        let writers = leading.opens.other_writers(asked.ino, asked.client);
        match leading.coherence.recall(asked.ino, &writers, now, out) {
            Some(wait) => {
                leading.held.insert(wait, Held::Recalled(asked));
            }
            None if asked.in_doubt || is_raised.is_some() => self.fence(asked, Vec::new(), out),
            None => self.read(asked.to, ReadKind::Open(asked), out),
        }
    }

    /// Queues a read for the next round.
    pub(super) fn read(&mut self, to: ReplyTo, what: ReadKind, out: &mut Vec<MasterAction>) {
        let arrived = self.now;
        let map_version = self.state.map().version;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        // What keeps stores serving and caches valid waits behind nothing.
        let is_vital = matches!(what, ReadKind::Heartbeat(_) | ReadKind::KeepAlive { .. });
        if !is_vital && leading.reads_count + leading.held.len() >= self.config.reads_max {
            let detail = "too many questions are waiting";
            out.push(refusal(to, WireError::new(ErrorCode::Busy, detail)));
            return;
        }
        leading.reads_count += 1;
        leading.round_due |= match &what {
            ReadKind::Heartbeat(hb) => hb.map_version < map_version,
            _ => true,
        };
        leading.reads.push(Read { to, arrived, what });
    }

    fn on_watch(&mut self, to: ReplyTo, root: Ino, out: &mut Vec<MasterAction>) {
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.watchers.insert(to.conn, root);
            out.push(reply(to, MasterResponse::Done));
        }
    }

    pub(super) fn on_conn_closed(&mut self, conn: ConnId) {
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.coherence.conn_closed(conn);
            leading.stores.conn_closed(conn);
            leading.watchers.remove(&conn);
        }
    }
}

pub(super) fn no_session(client: ClientId) -> WireError {
    let detail = format!("session {client} has expired or was never opened");
    WireError::new(ErrorCode::SessionExpired, detail)
}

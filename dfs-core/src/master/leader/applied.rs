//! Committed entries: applied in order, each followed at once by what it means for the leader.
use super::coherence::{Moment, WaitId, whole};
use super::event::MasterAction;
use super::leading::{Held, MutateAsked, OpenAsked, Pending, Read, ReadKind, Task};
use super::machine::{Master, answered, refusal, reply};
use super::unsettled::Depends;
use crate::consensus::{CommittedEntry, RaftEvent};
use crate::master::command::{Command, LogEntry};
use crate::master::state::{Applied, WatchEvent};
use crate::types::{Attr, ClientId, Ino, LogIndex, Time};
use crate::wire::master::{MasterResponse, Mutated, QueryAnswer, Touched};
use crate::wire::rpc::ReplyTo;
use crate::wire::{MutationOk, Push, Query, WireError};
use std::collections::BTreeSet;

/// Inodes whose attributes travel with the answer to a change: two directories, and what was moved and met.
const OTHERS_MAX: usize = 4;

impl Master {
    pub(super) fn apply(&mut self, entries: Vec<CommittedEntry>, out: &mut Vec<MasterAction>) {
        for entry in entries {
            self.snapshots.applied_since_flush += 1;
            if entry.conf_state.is_some() {
                self.hint_changed();
            }
            if let Err(why) = self.apply_one(&entry, out) {
                tracing::error!(index = %entry.index, %why, "cannot apply: this voter stops");
                self.fail(&why, out);
                return;
            }
        }
        let index = self.state.applied().index;
        self.feed_raft(RaftEvent::Applied { index });
        self.answer_confirmed(out);
    }

    fn apply_one(
        &mut self,
        entry: &CommittedEntry,
        out: &mut Vec<MasterAction>,
    ) -> Result<(), String> {
        let pending = match (entry.token, self.leading.as_deref_mut()) {
            (Some(token), Some(leading)) => leading.pending.remove(&token),
            _ => None,
        };
        if entry.data.is_empty() {
            if let Some(token) = entry.token {
                self.voter_change_done(token);
            }
            let done = self.state.apply_empty(entry.index, entry.term);
            return done.map_err(|e| e.to_string());
        }
        let decoded: LogEntry = postcard::from_bytes(&entry.data)
            .map_err(|e| format!("entry {} does not decode: {e}", entry.index))?;
        let applied = self
            .state
            .apply(entry.index, entry.term, &decoded)
            .map_err(|e| e.to_string())?;
        if let Command::StoreSeen { .. } | Command::VoterAssigned { .. } = &decoded.command {
            self.hint_changed();
        }
        let at = self.state.applied().at;
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.clock.raise(at);
            self.after(entry.index, &decoded, applied, pending, out);
        }
        Ok(())
    }

    /// What an applied entry means for the leader.
    fn after(
        &mut self,
        index: LogIndex,
        entry: &LogEntry,
        applied: Applied,
        pending: Option<Pending>,
        out: &mut Vec<MasterAction>,
    ) {
        self.note_command(index, &entry.command, &applied, pending.as_ref());
        if let Some(client) = applied.ended {
            self.end_lock_waits(client, out);
        }
        for ino in &applied.unlocked {
            self.wake_locks(*ino, None);
        }
        self.tell_watchers(&applied.watch, entry.at, out);
        let now = self.now;
        let is_all_told = self
            .leading
            .as_deref()
            .is_none_or(|l| l.coherence.is_all_told());
        let (at, met) = match &pending {
            Some(Pending::Mutate(asked)) if is_all_told => (asked.at, Depends::Nothing),
            Some(Pending::Mutate(asked)) => (asked.at, self.found_by(&entry.command).1),
            _ => (Moment::default(), Depends::Nothing),
        };
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let author = applied.result.as_ref().map(|(op, _)| (op.client, at));
        let mut touched = applied.touched.clone();
        if let Command::OpenSession { .. } = &entry.command
            && applied.refused.is_none()
        {
            touched.push(whole(Ino::SOLE));
        }
        let wait = leading
            .coherence
            .touch(author, &touched, &met, index, now, out);
        if let Some((op, Ok(ok))) = &applied.result
            && let Some(ino) = cached_by_author(ok)
        {
            leading.coherence.register(op.client, ino, out, now);
        }
        let Some(pending) = pending else { return };
        match pending {
            Pending::Mutate(asked) => self.mutate_applied(asked, wait, entry, applied, out),
            Pending::Lock(asked) => match applied.result {
                Some((_, result)) => self.lock_decided(asked, result, out),
                None => {
                    let error = crate::wire::ErrorCode::Internal.into();
                    self.lock_decided(asked, Err(error), out);
                }
            },
            Pending::OpenSession { to, client } => {
                let answer = self.session_opened(client, applied.refused);
                // Until the only session there was knows that it is not.
                self.answer_after(wait, to, answer, out);
            }
            Pending::Control { to } => out.push(done_or(to, applied.refused)),
            Pending::RaiseLease { ino, opens, silent } => {
                if applied.refused.is_none() {
                    leading.opens.raised(ino, &silent);
                }
                for asked in opens {
                    self.lease_raised(asked, applied.refused.clone(), out);
                }
            }
            Pending::Bar { waits, clients } => {
                leading.coherence.barred(&clients);
                for (wait, lapsed) in waits {
                    self.release_wait(wait, lapsed, out);
                }
            }
            Pending::Task(task) => {
                leading.busy.remove(&task);
                if let Some(error) = applied.refused {
                    tracing::warn!(?task, %error, "the state machine refused a task");
                }
                if task == Task::Voters {
                    self.voter_assigned(&entry.command, out);
                }
            }
        }
    }

    fn mutate_applied(
        &mut self,
        asked: MutateAsked,
        wait: Option<WaitId>,
        entry: &LogEntry,
        applied: Applied,
        out: &mut Vec<MasterAction>,
    ) {
        match applied.result {
            Some((op, Ok(ok))) => {
                let others = self.others_changed(op.client, &ok, &applied.touched, out);
                let done = Mutated {
                    others,
                    ..Mutated::from(ok)
                };
                self.mutated(asked, wait, &entry.command, done, out);
            }
            Some((_, Err(error))) => self.refused(asked.to, &entry.command, error, out),
            None => out.push(refusal(asked.to, crate::wire::ErrorCode::Internal.into())),
        }
    }

    /// Answers when `wait` is over.
    fn answer_after(
        &mut self,
        wait: Option<WaitId>,
        to: ReplyTo,
        answer: Result<MasterResponse, WireError>,
        out: &mut Vec<MasterAction>,
    ) {
        match (wait, self.leading.as_deref_mut()) {
            (Some(wait), Some(leading)) => {
                let answer = Box::new(answer);
                leading.held.insert(wait, Held::Answer { to, answer });
                leading.held_answers += 1;
            }
            _ => out.push(answered(to, answer)),
        }
    }

    /// Attributes of what a change touched besides what its answer tells of; the author may cache them.
    fn others_changed(
        &mut self,
        author: ClientId,
        ok: &MutationOk,
        touched: &[Touched],
        out: &mut Vec<MasterAction>,
    ) -> Vec<Attr> {
        let told = cached_by_author(ok);
        let others = touched.iter().map(|t| t.ino);
        let others: BTreeSet<Ino> = others.filter(|ino| Some(*ino) != told).collect();
        let now = self.now;
        let mut attrs = Vec::new();
        for ino in others.into_iter().take(OTHERS_MAX) {
            let Ok(QueryAnswer::Attr(attr)) = self.state.query(&Query::GetAttr { ino }) else {
                continue;
            };
            if let Some(leading) = self.leading.as_deref_mut() {
                leading.coherence.register(author, ino, out, now);
            }
            attrs.push(attr);
        }
        attrs
    }

    /// Soft state that follows from a command, whoever proposed it.
    fn note_command(
        &mut self,
        index: LogIndex,
        command: &Command,
        applied: &Applied,
        pending: Option<&Pending>,
    ) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        match command {
            Command::OpenSession { client, .. } if applied.refused.is_none() => {
                leading.liveness.heard(*client, self.now);
                // One that the former leader opened may have caches that are not known here.
                match pending {
                    Some(Pending::OpenSession { to, .. }) => {
                        leading.coherence.opened(*client, to.conn);
                    }
                    _ => leading.coherence.found(*client),
                }
            }
            Command::BeginEpoch { .. } | Command::BeginRepair { .. } if applied.map_changed => {
                leading.stores.last_begin = index;
            }
            Command::Refill { .. } if applied.map_changed => {
                leading.stores.last_refill = index;
            }
            Command::ClockLeapt { gap } if matches!(pending, Some(Pending::Task(Task::Leap))) => {
                leading.clock.noted(*gap);
            }
            Command::StoreRemoved { store } if applied.refused.is_none() => {
                leading.stores.removed(*store);
            }
            _ => {}
        }
        if let Some(client) = applied.ended {
            leading.liveness.ended(client);
            leading.coherence.ended(client);
            leading.unsealed.extend(leading.opens.end(client));
        }
        leading.stores.news |= applied.map_changed;
        leading.stores.notes |= applied.notes_added;
        if applied.map_changed {
            self.map_changed();
        }
    }

    fn lease_raised(
        &mut self,
        asked: OpenAsked,
        refused: Option<WireError>,
        out: &mut Vec<MasterAction>,
    ) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if let Some(error) = refused {
            out.push(refusal(asked.to, error));
            return;
        }
        let read = Read {
            to: asked.to,
            arrived: self.now,
            what: ReadKind::Open(asked),
        };
        leading.reads.push(read);
        leading.round_due = true;
        leading.reads_count += 1;
    }

    fn tell_watchers(&mut self, events: &[WatchEvent], at: Time, out: &mut Vec<MasterAction>) {
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        if leading.watchers.is_empty() {
            return;
        }
        for event in events {
            let Some(dir) = self.path_of(event.parent) else {
                continue;
            };
            let path = joined(&dir, event.name.as_bytes());
            for (conn, root) in &leading.watchers {
                let below = self
                    .path_of(*root)
                    .is_some_and(|root| is_below(&path, &root));
                if below {
                    let (added, kind) = (event.added, event.kind);
                    let push = Push::Watch {
                        added,
                        path: path.clone(),
                        kind,
                        at,
                    };
                    out.push(MasterAction::Push { conn: *conn, push });
                }
            }
        }
    }

    /// Shuts out the writers that did not answer a recall, and those that have not said that they are any,
    /// then goes on with the open. Once for all opens that met them: a second raise would shut out
    /// whoever was let in by the first.
    pub(super) fn fence(
        &mut self,
        asked: OpenAsked,
        silent: Vec<ClientId>,
        out: &mut Vec<MasterAction>,
    ) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let ino = asked.ino;
        if let Some((opens, all)) = leading.raise_of(ino) {
            opens.push(asked);
            return all.extend(silent);
        }
        let is_doubtful = asked.in_doubt && !leading.opens.is_raised(ino);
        if !is_doubtful && !leading.opens.is_written_by(ino, &silent) {
            return self.lease_raised(asked, None, out);
        }
        let opens = vec![asked];
        let pending = Pending::RaiseLease { ino, opens, silent };
        self.propose(Command::RaiseLease { ino }, pending);
    }

    fn path_of(&self, ino: Ino) -> Option<Vec<u8>> {
        if ino == Ino::ROOT {
            return Some(b"/".to_vec());
        }
        match self.state.query(&Query::Paths { ino }) {
            Ok(QueryAnswer::Paths(paths)) => paths.into_iter().next(),
            _ => None,
        }
    }

    /// Answers and opens whose waits are over.
    pub(super) fn release_waits(&mut self, out: &mut Vec<MasterAction>) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let (mut clients, mut waits) = (BTreeSet::new(), Vec::new());
        for settled in leading.coherence.take_settled() {
            if settled.barred.is_empty() {
                self.release_wait(settled.wait, settled.lapsed, out);
            } else {
                clients.extend(settled.barred);
                waits.push((settled.wait, settled.lapsed));
            }
        }
        if !waits.is_empty() {
            // What these have queued must not change what whoever waited is about to see.
            let clients: Vec<ClientId> = clients.into_iter().collect();
            let command = Command::Bar {
                clients: clients.clone(),
            };
            self.propose(command, Pending::Bar { clients, waits });
        }
    }

    fn release_wait(&mut self, wait: WaitId, lapsed: Vec<ClientId>, out: &mut Vec<MasterAction>) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        match leading.held.remove(&wait) {
            Some(Held::Reply { to, body }) => out.push(reply(to, *body)),
            Some(Held::Answer { to, answer }) => {
                leading.held_answers -= 1;
                out.push(answered(to, *answer));
            }
            Some(Held::Unknown(asked)) => self.check_open(asked, out),
            Some(Held::Recalled(asked)) => self.fence(asked, lapsed, out),
            Some(Held::Look(read)) => {
                leading.held_answers -= 1;
                self.answer_seen(read, out);
            }
            None => {}
        }
    }

    pub(super) fn has_session(&self, client: ClientId) -> bool {
        self.state.session(client).is_some()
    }
}

fn done_or(to: ReplyTo, refused: Option<WireError>) -> MasterAction {
    match refused {
        Some(error) => refusal(to, error),
        None => reply(to, MasterResponse::Done),
    }
}

/// The inode whose attributes an answer carries: its author may cache them.
fn cached_by_author(ok: &MutationOk) -> Option<Ino> {
    match ok {
        MutationOk::Entry { attr, .. }
        | MutationOk::Attr(attr)
        | MutationOk::Committed { attr, .. } => Some(attr.ino),
        MutationOk::Done
        | MutationOk::Removed { .. }
        | MutationOk::Renamed { .. }
        | MutationOk::Reserved { .. }
        | MutationOk::Locked => None,
    }
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn is_below(path: &[u8], root: &[u8]) -> bool {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root)
        .is_some_and(|rest| rest.first() == Some(&b'/'))
}

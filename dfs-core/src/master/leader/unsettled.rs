//! Answers that tell of a change which not every session has heard of yet.
//!
//! A change is in the state as soon as it is applied, and acknowledged only when no session can
//! answer from its caches as if it had not been. Between the two, an answer that shows it would let
//! a second session see the new state and a third, later, the old one. Steps: an answer, or the
//! refusal of a change, is computed and its interests are registered; the inodes it depends on are
//! looked up among the pushes that are not acknowledged; if there are any to sessions other than
//! the asker's, it is held until they are acknowledged or have lapsed.
//!
//! Invariants:
//! 1. what is held was true when it was computed, which is after it was asked: the answer is as
//!    linearizable as one sent at once;
//!    A question from outside, while a session may have queued what changes its answer, is held itself
//!    instead, and answered as of after that;
//! 2. nobody waits for pushes to itself: they go before the answer on the same connection, and a
//!    session that binds another one has dropped its caches;
//! 3. after an election an answer waits, as a change does, until the caches of all sessions are
//!    known here: what the former leader had not settled may be in the state;
//! 4. a change is unsettled on all that it touched until all of its pushes are acknowledged, and those
//!    of the changes that it builds on: that one was possible tells of the other;
//! 5. only pushes outstanding at that moment are waited for, so later changes cannot starve it.
use super::coherence::{WaitId, whole};
use super::event::MasterAction;
use super::leading::{Held, MutateAsked, Read};
use super::machine::{Master, answered, reply};
use crate::master::command::Command;
use crate::types::{ChunkNo, ClientId, FileKind, Ino, Name};
use crate::wire::master::{Layout, MasterResponse, Mutated, QueryAnswer};
use crate::wire::rpc::ReplyTo;
use crate::wire::{Mutation, MutationOk, Query, WireError};
use std::collections::{BTreeMap, BTreeSet};

/// What an answer depends on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Depends {
    /// Nothing that sessions cache.
    Nothing,
    /// These inodes.
    On(Vec<Ino>),
    /// Inodes that are not told apart: a path, or a history.
    Widely,
}

/// Invalidations that are neither acknowledged nor lapsed, by what their changes touched.
#[derive(Debug, Default)]
pub(super) struct Unacked(BTreeMap<Ino, BTreeSet<(ClientId, u64)>>);

impl Unacked {
    pub fn add(&mut self, client: ClientId, seq: u64, inos: impl Iterator<Item = Ino>) {
        for ino in inos {
            self.0.entry(ino).or_default().insert((client, seq));
        }
    }

    pub fn remove(&mut self, client: ClientId, seq: u64, inos: impl Iterator<Item = Ino>) {
        for ino in inos {
            if let Some(of_ino) = self.0.get_mut(&ino) {
                of_ino.remove(&(client, seq));
                if of_ino.is_empty() {
                    self.0.remove(&ino);
                }
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Pushes to others than `asker`.
    pub fn of(&self, asker: Option<ClientId>, on: &Depends) -> BTreeSet<(ClientId, u64)> {
        let mut pushes = BTreeSet::new();
        if self.0.is_empty() {
            return pushes;
        }
        match on {
            Depends::Nothing => {}
            Depends::On(inos) => {
                let known = inos.iter().filter_map(|ino| self.0.get(ino));
                pushes.extend(known.flatten());
            }
            Depends::Widely => pushes.extend(self.0.values().flatten()),
        }
        pushes.retain(|(client, _)| Some(*client) != asker);
        pushes
    }
}

impl Master {
    /// Sends an answer, once what it depends on is settled.
    pub(super) fn answer_settled(
        &mut self,
        to: ReplyTo,
        asker: Option<ClientId>,
        on: &Depends,
        answer: Result<MasterResponse, WireError>,
        out: &mut Vec<MasterAction>,
    ) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return out.push(answered(to, answer));
        };
        match leading.coherence.wait_settled(asker, on, now) {
            Some(wait) => {
                let answer = Box::new(answer);
                leading.held.insert(wait, Held::Answer { to, answer });
                leading.held_answers += 1;
            }
            None => out.push(answered(to, answer)),
        }
    }

    /// Somebody looks who has no session: a session that was told to be the only one is so no more. It may
    /// have queued changes: then the question is answered only when they are decided, as of then.
    pub(super) fn look_from_outside(&mut self, read: Read, out: &mut Vec<MasterAction>) {
        let (now, as_of) = (self.now, self.state.applied().index);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let (sole, nothing) = ([whole(Ino::SOLE)], Depends::Nothing);
        let wait = leading
            .coherence
            .touch(None, &sole, &nothing, as_of, now, out);
        match wait {
            Some(wait) => {
                leading.held.insert(wait, Held::Look(read));
                leading.held_answers += 1;
            }
            None => self.answer_seen(read, out),
        }
    }

    /// A change is applied. Waits for the acks of what it made stale (`wait`), or, if nobody has that,
    /// for what it may only have found: a file that was there, the result that it had the first time.
    pub(super) fn mutated(
        &mut self,
        asked: MutateAsked,
        wait: Option<WaitId>,
        command: &Command,
        mut done: Mutated,
        out: &mut Vec<MasterAction>,
    ) {
        let (asker, on) = self.found_by(command);
        let (to, now) = (asked.to, self.now);
        let leading = self.leading.as_deref_mut();
        let wait = wait.or_else(|| leading.and_then(|l| l.coherence.wait_settled(asker, &on, now)));
        if wait.is_none()
            && let (Some(client), Some(write)) = (asker, asked.open)
        {
            // One that is held back would have to say what became of the file meanwhile.
            done.opened = self.open_made(to, client, &done.ok, write);
        }
        let body = MasterResponse::Mutated(done);
        match (wait, self.leading.as_deref_mut()) {
            (Some(wait), Some(leading)) => {
                let body = Box::new(body);
                leading.held.insert(wait, Held::Reply { to, body });
            }
            _ => out.push(reply(to, body)),
        }
    }

    /// Opens the file that a change has made, if nobody else can have it open. Its author learns its number
    /// with the answer only: one that never hears it cannot release it, and has it open until it is opened
    /// and released again, or the session ends.
    fn open_made(
        &mut self,
        to: ReplyTo,
        client: ClientId,
        ok: &MutationOk,
        write: bool,
    ) -> Option<Layout> {
        let MutationOk::Entry {
            attr,
            created: true,
        } = ok
        else {
            return None;
        };
        let ino = attr.ino;
        let query = Query::Layout {
            ino,
            version: None,
            first: ChunkNo::HOME,
            count: 1,
        };
        // The answer to a repeated op is an old one.
        let is_now = |found| found == Ok(QueryAnswer::Attr(attr.clone()));
        if attr.kind != FileKind::File || !is_now(self.state.query(&Query::GetAttr { ino })) {
            return None;
        }
        let Ok(QueryAnswer::Layout(layout)) = self.state.query(&query) else {
            return None;
        };
        let leading = self.leading.as_deref_mut()?;
        let is_alone = leading.coherence.is_declared(client, to.conn)
            && !leading.coherence.is_silent_any_but(client)
            && !leading.opens.is_open(ino);
        is_alone.then(|| {
            leading.opens.open(client, ino, write);
            layout
        })
    }

    /// A change was refused: that tells of what stood in its way.
    pub(super) fn refused(
        &mut self,
        to: ReplyTo,
        command: &Command,
        error: WireError,
        out: &mut Vec<MasterAction>,
    ) {
        let (asker, on) = match command.change() {
            // What is told again is why another change was refused: its place is not known any more.
            Some((op, Mutation::Abandon { .. })) => (Some(op.client), Depends::Widely),
            _ => self.found_by(command),
        };
        self.answer_settled(to, asker, &on, Err(error), out);
    }

    pub(super) fn found_by(&self, command: &Command) -> (Option<ClientId>, Depends) {
        match command.change() {
            Some((op, body)) => (Some(op.client), self.meets(body)),
            None => (None, Depends::Nothing),
        }
    }

    /// What a change looks at, besides what it changes.
    fn meets(&self, change: &Mutation) -> Depends {
        let mut inos = Vec::new();
        match change {
            Mutation::Create { parent, name, .. }
            | Mutation::CreateAs { parent, name, .. }
            | Mutation::Unlink { parent, name, .. }
            | Mutation::Rmdir { parent, name }
            | Mutation::Undelete { parent, name } => {
                self.note_entry(*parent, name, &mut inos);
            }
            Mutation::Link { ino, parent, name } => {
                inos.push(*ino);
                self.note_entry(*parent, name, &mut inos);
            }
            Mutation::Rename {
                from_parent,
                from_name,
                to_parent,
                to_name,
                ..
            } => {
                let moved = self.note_entry(*from_parent, from_name, &mut inos);
                let there = self.note_entry(*to_parent, to_name, &mut inos);
                // Whether a directory would end up in itself is found out all the way up.
                let is_dir = |kind: Option<FileKind>| kind == Some(FileKind::Dir);
                if from_parent != to_parent && (is_dir(moved) || is_dir(there)) {
                    return Depends::Widely;
                }
            }
            Mutation::SetAttr { ino, .. }
            | Mutation::SetXattr { ino, .. }
            | Mutation::RemoveXattr { ino, .. }
            | Mutation::Seal { ino, .. } => inos.push(*ino),
            Mutation::Commit(commit) => inos.push(commit.ino),
            Mutation::CommitLast(commit) => inos.push(commit.ino),
            Mutation::Abandon { .. }
            | Mutation::Purge(_)
            | Mutation::Accessed { .. }
            | Mutation::Reserve { .. }
            | Mutation::Lock(_)
            | Mutation::Unlock { .. } => return Depends::Nothing,
        }
        Depends::On(inos)
    }

    /// A directory, and what has the name in it, of which the kind is given.
    fn note_entry(&self, parent: Ino, name: &Name, inos: &mut Vec<Ino>) -> Option<FileKind> {
        inos.push(parent);
        let name = name.clone();
        let Ok(QueryAnswer::Attr(attr)) = self.state.query(&Query::Lookup { parent, name }) else {
            return None;
        };
        inos.push(attr.ino);
        Some(attr.kind)
    }
}

/// What an answer to a query depends on.
pub(super) fn depends(query: &Query, concerns: Vec<Ino>) -> Depends {
    match query {
        Query::Walk { .. }
        | Query::History { .. }
        | Query::HistoryNames { .. }
        | Query::RemovedDir { .. }
        | Query::Paths { .. } => Depends::Widely,
        Query::StatFs | Query::PgMap | Query::LockConflict { .. } => Depends::Nothing,
        Query::Lookup { .. }
        | Query::GetAttr { .. }
        | Query::ReadDir { .. }
        | Query::Parent { .. }
        | Query::ReadLink { .. }
        | Query::Xattrs { .. }
        | Query::Layout { .. } => Depends::On(concerns),
    }
}

//! From the crate's `Ready` to actions, and back when writes are durable.
//!
//! Steps of [`RaftNode::pump`], until the crate has nothing more:
//! 1. take its `Ready`; send what depends on no write;
//! 2. put hard state, snapshot and entries into the memory log and the write of this pump, in this
//!    order: a write that ends up in two frames may be cut between any two records, and a log must
//!    never hold what is newer than its term, nor a commit index beyond its end; hold the messages
//!    that depend on them;
//! 3. apply membership changes, hand committed entries out;
//! 4. release what waits for no write any more.
//!
//! A `Ready` that changes nothing but the commit index is not written: a stale commit index on disk
//! costs only a later apply, and the next write carries the new one.
use super::convert;
use super::event::RaftAction;
use super::node::RaftNode;
use super::snapshots::Install;
use super::types::{CommittedEntry, ConfChange, ConfState, HardState, LogRecord, LogWrite};
use crate::types::{LogIndex, Term};
use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb;
use std::collections::VecDeque;

/// Something that waits for writes: its own, and all before it.
#[derive(Debug)]
struct Held {
    /// Its own write, if it has one.
    write: Option<u64>,
    /// The crate's number, to report.
    ready: Option<u64>,
    messages: Vec<eraftpb::Message>,
    snapshot: Option<u64>,
    begins_install: bool,
}

impl Held {
    fn until(token: u64) -> Self {
        Self {
            write: Some(token),
            ready: None,
            messages: Vec::new(),
            snapshot: None,
            begins_install: false,
        }
    }
}

/// What is being written and what waits for it.
#[derive(Debug)]
pub(super) struct Outbox {
    held: VecDeque<Held>,
    /// Of the write of this pump.
    token: u64,
    persisted: u64,
    write: LogWrite,
    hard_written: HardState,
    /// Committed entries that wait for an installation to end.
    parked: Vec<CommittedEntry>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            token: 1,
            persisted: 0,
            write: LogWrite::default(),
            hard_written: HardState::default(),
            parked: Vec::new(),
        }
    }
}

impl Outbox {
    /// Adds a record to the write of this pump.
    pub(super) fn record(&mut self, record: LogRecord) {
        if let LogRecord::HardState(hard) = &record {
            self.hard_written = *hard;
        }
        self.write.records.push(record);
    }

    /// Makes everything that follows wait for the records of this pump.
    pub(super) fn hold(&mut self) {
        self.held.push_back(Held::until(self.token));
    }

    /// The same, and lets an installation begin then.
    pub(super) fn hold_install(&mut self) {
        self.held.push_back(Held {
            begins_install: true,
            ..Held::until(self.token)
        });
    }

    /// True if no write is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    /// True while the mark of an installed snapshot is not durable.
    pub(super) fn has_snapshot(&self) -> bool {
        self.held.iter().any(|held| held.snapshot.is_some())
    }

    /// Committed entries that waited; empties the list.
    pub(super) fn take_parked(&mut self) -> Vec<CommittedEntry> {
        std::mem::take(&mut self.parked)
    }
}

impl RaftNode {
    /// See the steps in the [module docs](self).
    pub(super) fn pump(&mut self, out: &mut Vec<RaftAction>) {
        loop {
            self.release(out);
            self.start_reads(out);
            self.settle(out);
            if !self.raw.has_ready() {
                break;
            }
            self.take_ready(out);
        }
        if !self.outbox.write.records.is_empty() {
            let write = std::mem::take(&mut self.outbox.write);
            let token = self.outbox.token;
            self.outbox.token += 1;
            out.push(RaftAction::Persist { token, write });
        }
        for peer in self.raw.store().take_wanting() {
            out.push(RaftAction::NeedSnapshot { peer });
        }
        self.check_invariants();
    }

    fn take_ready(&mut self, out: &mut Vec<RaftAction>) {
        let mut ready = self.raw.ready();
        for message in ready.take_messages() {
            self.send(message, out);
        }
        for read in ready.take_read_states() {
            self.on_read_state(&read, out);
        }
        let entries = ready.take_entries();
        let hard = self.raw.raft.hard_state();
        let must_write = ready.must_sync();
        let mut first = convert::hard_from_raft(&hard);
        let ends = entries.first().map_or(u64::MAX, |entry| entry.index - 1);
        let ends = ends.min(self.raw.store().last());
        first.commit = first.commit.min(LogIndex(ends));
        if must_write && first != self.outbox.hard_written {
            self.outbox.record(LogRecord::HardState(first));
        }
        let mut snapshot = None;
        if !ready.snapshot().is_empty() {
            let meta = convert::snapshot_from_raft(ready.snapshot());
            snapshot = Some(meta.index.0);
            self.outbox.record(LogRecord::Reset(meta.clone()));
            self.raw.mut_store().reset(meta);
        }
        for entry in &entries {
            let entry = convert::entry_from_raft(entry);
            self.outbox.record(LogRecord::Entry(entry));
        }
        // Which of these are committed decides who may vote: a learner that is to take over from the only
        // voter would otherwise not know after a restart that it has.
        let mut all = convert::hard_from_raft(&hard);
        all.commit = all
            .commit
            .min(LogIndex(entries.last().map_or(0, |entry| entry.index)));
        if must_write && all.commit > first.commit {
            self.outbox.record(LogRecord::HardState(all));
        }
        self.raw.mut_store().append(&entries);
        self.raw.mut_store().set_hard(hard);
        let held = Held {
            write: (must_write && !self.acks_too_early()).then_some(self.outbox.token),
            ready: Some(ready.number()),
            messages: ready.take_persisted_messages(),
            snapshot,
            begins_install: false,
        };
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        self.outbox.held.push_back(held);
        self.hand_out(committed, out);
    }

    fn acks_too_early(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        let planted = self.config.test_bug == Some(super::config::TestBug::AckBeforeSync);
        #[cfg(not(any(test, feature = "planted")))]
        let planted = false;
        planted
    }

    fn send(&self, message: eraftpb::Message, out: &mut Vec<RaftAction>) {
        let mut messages = Vec::new();
        convert::messages_from_raft(message, self.config.append_bytes_max, &mut messages);
        out.extend(messages.into_iter().map(|message| RaftAction::Send {
            to: message.to,
            message,
        }));
    }

    pub(super) fn on_persisted(&mut self, token: u64, out: &mut Vec<RaftAction>) {
        // A token that was never given out would be a broken driver's.
        self.outbox.persisted = self.outbox.persisted.max(token.min(self.outbox.token - 1));
        self.release(out);
    }

    /// Lets go of what waits for no write any more.
    fn release(&mut self, out: &mut Vec<RaftAction>) {
        let persisted = self.outbox.persisted;
        let mut ready = None;
        let mut snapshot = None;
        while let Some(front) = self.outbox.held.front()
            && front.write.is_none_or(|token| token <= persisted)
        {
            let front = self.outbox.held.pop_front().expect("there is a front");
            ready = front.ready.or(ready);
            snapshot = front.snapshot.or(snapshot);
            for message in front.messages {
                self.send(message, out);
            }
            if front.begins_install {
                self.begin_install(out);
            }
        }
        if let Some(number) = ready {
            self.raw.on_persist_ready(number);
        }
        if let Some(index) = snapshot
            && index > self.raw.raft.raft_log.applied
        {
            self.raw.advance_apply_to(index);
        }
    }

    /// Applies membership changes and hands committed entries to the driver.
    fn hand_out(&mut self, committed: Vec<eraftpb::Entry>, out: &mut Vec<RaftAction>) {
        let Some(last) = committed.last().map(|entry| entry.index) else {
            return;
        };
        let mut entries = Vec::with_capacity(committed.len());
        for entry in &committed {
            let is_command = entry.entry_type == eraftpb::EntryType::EntryNormal;
            let conf_state = match is_command {
                true => None,
                false => self.apply_conf(entry),
            };
            let token = self.proposals.remove(&entry.index);
            let token = token.and_then(|(term, token)| {
                if term != entry.term {
                    out.push(RaftAction::ProposalUnknown { token });
                }
                (term == entry.term).then_some(token)
            });
            // What the state includes already is delivered again after a start or an installation.
            if entry.index <= self.emitted {
                continue;
            }
            self.emitted = entry.index;
            entries.push(CommittedEntry {
                index: LogIndex(entry.index),
                term: Term(entry.term),
                data: if is_command {
                    entry.data.clone()
                } else {
                    Bytes::new()
                },
                conf_state,
                token,
            });
        }
        // Members are in force from here on, whatever the state machine has reached.
        self.raw.advance_apply_to(last);
        if self.is_leader() && !self.conf().is_voter(self.config.id) {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        self.emit(entries, out);
    }

    /// Hands entries out, or parks them while a snapshot is being installed.
    pub(super) fn emit(&mut self, entries: Vec<CommittedEntry>, out: &mut Vec<RaftAction>) {
        if self.install != Install::Idle {
            self.outbox.parked.extend(entries);
        } else if !entries.is_empty() {
            out.push(RaftAction::Apply { entries });
        }
    }

    /// Puts a change into force; `None` if it does not fit (on every member alike).
    fn apply_conf(&mut self, entry: &eraftpb::Entry) -> Option<ConfState> {
        let change = ConfChange::decode(&entry.context).ok()?;
        let change = convert::change_to_raft(&change);
        let conf = self.raw.apply_conf_change(&change).ok()?;
        let conf = convert::conf_from_raft(&conf);
        self.members_changed();
        let index = entry.index;
        self.raw.mut_store().note_conf(index, conf.clone());
        Some(conf)
    }

    /// Panics if what the [module docs of node](super::node) promise does not hold.
    fn check_invariants(&self) {
        let log = &self.raw.raft.raft_log;
        assert!(
            self.applied <= self.emitted,
            "applied what never left: {self:?}"
        );
        assert!(
            self.raw.store().base_index() <= self.emitted,
            "compacted what was not applied: {self:?}"
        );
        assert!(
            self.raw.raft.state == StateRole::Leader || self.proposals.is_empty(),
            "open proposals of a former leader: {self:?}"
        );
        assert!(log.applied <= log.committed, "{self:?}");
    }
}

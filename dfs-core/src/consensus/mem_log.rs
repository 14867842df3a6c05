//! The part of the log that the crate reads: entries since the base, in memory.
//!
//! Invariants:
//! 1. `entries[i].index == base.index + 1 + i`;
//! 2. `confs` starts at `base.index` and knows the members after every applied entry;
//! 3. `declared` is 0 or lies in `base.index..=applied`.
use super::convert;
use super::types::{ConfState, SnapshotMeta};
use crate::types::{LogIndex, RaftId, Term};
use raft::eraftpb;
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// See the [module docs](self).
pub(super) struct MemLog {
    base: SnapshotMeta,
    entries: Vec<eraftpb::Entry>,
    hard: eraftpb::HardState,
    confs: BTreeMap<u64, ConfState>,
    declared: u64,
    /// Members that need a snapshot while none fits. The crate asks through `&self`.
    wanting: RefCell<BTreeSet<RaftId>>,
}

impl MemLog {
    pub(super) fn new(
        base: SnapshotMeta,
        entries: Vec<eraftpb::Entry>,
        hard: eraftpb::HardState,
    ) -> Self {
        let confs = BTreeMap::from([(base.index.0, base.conf.clone())]);
        Self {
            base,
            entries,
            hard,
            confs,
            declared: 0,
            wanting: RefCell::default(),
        }
    }

    pub(super) fn base_index(&self) -> u64 {
        self.base.index.0
    }

    pub(super) fn last(&self) -> u64 {
        self.base.index.0 + self.entries.len() as u64
    }

    pub(super) fn hard(&self) -> &eraftpb::HardState {
        &self.hard
    }

    pub(super) fn set_hard(&mut self, hard: eraftpb::HardState) {
        self.hard = hard;
    }

    fn position(&self, index: u64) -> Option<usize> {
        let offset = index.checked_sub(self.base.index.0 + 1)?;
        let position = usize::try_from(offset).ok()?;
        (position < self.entries.len()).then_some(position)
    }

    /// The term of an entry, or of the base; `None` outside.
    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index.0 {
            return Some(self.base.term.0);
        }
        self.position(index).map(|at| self.entries[at].term)
    }

    /// Appends; what was at the first index or after is overwritten.
    pub(super) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        let keep = first.index.checked_sub(self.base.index.0 + 1);
        let keep = keep.expect("the crate never rewrites entries below the base");
        let keep = usize::try_from(keep).expect("entries fit memory");
        assert!(
            keep <= self.entries.len(),
            "invariant 1: append leaves a gap"
        );
        self.entries.truncate(keep);
        self.entries.extend_from_slice(entries);
    }

    /// Starts over after an installed snapshot.
    pub(super) fn reset(&mut self, base: SnapshotMeta) {
        self.entries.clear();
        self.confs = BTreeMap::from([(base.index.0, base.conf.clone())]);
        self.hard.commit = self.hard.commit.max(base.index.0);
        self.declared = 0;
        self.base = base;
    }

    /// Notes the members after applying `index`.
    pub(super) fn note_conf(&mut self, index: u64, conf: ConfState) {
        self.confs.insert(index, conf);
    }

    /// Members after applying `index`, which is at or above the base.
    pub(super) fn conf_at(&self, index: u64) -> &ConfState {
        let (_, conf) = self
            .confs
            .range(..=index)
            .next_back()
            .expect("invariant 2: confs starts at the base");
        conf
    }

    /// What a snapshot at `index` would be; `None` outside of the log.
    pub(super) fn meta_at(&self, index: u64) -> Option<SnapshotMeta> {
        Some(SnapshotMeta {
            index: LogIndex(index),
            term: Term(self.term_at(index)?),
            conf: self.conf_at(index).clone(),
        })
    }

    /// Forgets the entries up to `index`; returns the new base, `None` if nothing changes.
    pub(super) fn compact(&mut self, index: u64) -> Option<SnapshotMeta> {
        if index <= self.base.index.0 {
            return None;
        }
        let base = self.meta_at(index)?;
        let count = usize::try_from(index - self.base.index.0).expect("entries fit memory");
        self.entries.drain(..count);
        self.confs = self.confs.split_off(&index);
        self.confs.insert(index, base.conf.clone());
        self.base = base.clone();
        if self.declared < index {
            self.declared = 0;
        }
        Some(base)
    }

    /// The driver can serve the state at `index` or newer.
    pub(super) fn declare(&mut self, index: u64) {
        if index >= self.base.index.0 && index <= self.last() {
            self.declared = self.declared.max(index);
        }
    }

    /// Members that asked for a snapshot in vain since the last call.
    pub(super) fn take_wanting(&self) -> BTreeSet<RaftId> {
        self.wanting.take()
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf = convert::conf_to_raft(&self.base.conf);
        Ok(RaftState::new(self.hard.clone(), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base.index.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let (Some(first), Some(last)) = (self.position(low), self.position(high - 1)) else {
            return Err(Error::Store(StorageError::Unavailable));
        };
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let fitting = self.entries[first..=last].iter().take_while(|entry| {
            let is_first = size == 0;
            size += (entry.data.len() + entry.context.len()) as u64 + 16;
            is_first || size <= max
        });
        Ok(fitting.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_at(index) {
            Some(term) => Ok(term),
            None if index < self.base.index.0 => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let fits = |meta: &SnapshotMeta| {
            meta.index.0 >= request_index && meta.conf.contains(RaftId(to)) && self.declared > 0
        };
        match self.meta_at(self.declared).filter(fits) {
            Some(meta) => Ok(convert::snapshot_to_raft(&meta)),
            None => {
                self.wanting.borrow_mut().insert(RaftId(to));
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(indexes: std::ops::Range<u64>) -> MemLog {
        let base = SnapshotMeta {
            index: LogIndex(indexes.start - 1),
            ..SnapshotMeta::bootstrap([RaftId(1)])
        };
        let entries = indexes.map(|index| eraftpb::Entry {
            index,
            term: index / 10 + 1,
            data: vec![0; 84].into(),
            ..Default::default()
        });
        MemLog::new(base, entries.collect(), eraftpb::HardState::default())
    }

    fn read(log: &MemLog, low: u64, high: u64, max: u64) -> raft::Result<Vec<u64>> {
        let entries = log.entries(low, high, Some(max), GetEntriesContext::empty(false))?;
        Ok(entries.iter().map(|entry| entry.index).collect())
    }

    #[test]
    fn reads_are_limited_by_size_but_give_at_least_one_entry() {
        let log = log(6..16);
        assert_eq!(read(&log, 7, 12, 250).unwrap(), [7, 8]);
        assert_eq!(read(&log, 7, 12, 0).unwrap(), [7]);
        assert!(read(&log, 5, 12, 0).is_err());
        assert!(read(&log, 7, 17, 0).is_err());
    }

    #[test]
    fn compaction_keeps_the_term_and_members_of_the_base() {
        let mut log = log(6..16);
        let conf = ConfState::of_voters([RaftId(1), RaftId(2)]);
        log.note_conf(9, conf.clone());
        assert_eq!(log.compact(5), None);
        let base = log.compact(12).unwrap();
        assert_eq!((base.index, base.term), (LogIndex(12), Term(2)));
        assert_eq!(base.conf, conf);
        assert_eq!((log.term_at(12), log.term_at(11)), (Some(2), None));
        assert_eq!((log.last(), log.conf_at(15)), (15, &conf));
    }

    #[test]
    fn a_snapshot_is_offered_only_if_it_is_declared_and_includes_the_receiver() {
        let mut log = log(6..16);
        assert!(log.snapshot(0, 1).is_err());
        log.declare(8);
        assert_eq!(log.snapshot(0, 1).unwrap().get_metadata().index, 8);
        assert!(log.snapshot(0, 2).is_err());
        assert_eq!(log.take_wanting(), [RaftId(1), RaftId(2)].into());
        log.compact(10);
        assert!(log.snapshot(0, 1).is_err());
    }
}

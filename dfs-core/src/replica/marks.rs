//! Marks: "op X on inode I is in flight", kept by the members of the inode's home group.
use crate::types::{Ino, OpId, PgId, Time};
use std::collections::BTreeMap;

/// One mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When it came (or when this run began).
    pub since: Time,
    /// The batch that makes it durable.
    pub token: u64,
}

/// All marks, mirrored from their table.
#[derive(Debug, Default)]
pub struct Marks {
    by_inode: BTreeMap<(PgId, Ino), BTreeMap<OpId, Mark>>,
    len: usize,
}

impl Marks {
    /// Number of marks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One mark.
    #[must_use]
    pub fn get(&self, pg: PgId, ino: Ino, op: OpId) -> Option<Mark> {
        self.by_inode.get(&(pg, ino))?.get(&op).copied()
    }

    /// Ops in flight on an inode, ascending.
    #[must_use]
    pub fn of(&self, pg: PgId, ino: Ino) -> Vec<OpId> {
        let ops = self.by_inode.get(&(pg, ino));
        ops.map_or_else(Vec::new, |ops| ops.keys().copied().collect())
    }

    /// Adds one that is not there yet.
    pub fn insert(&mut self, pg: PgId, ino: Ino, op: OpId, mark: Mark) {
        if self
            .by_inode
            .entry((pg, ino))
            .or_default()
            .insert(op, mark)
            .is_none()
        {
            self.len += 1;
        }
    }

    /// Removes one; false if it was not there.
    pub fn remove(&mut self, pg: PgId, ino: Ino, op: OpId) -> bool {
        let Some(ops) = self.by_inode.get_mut(&(pg, ino)) else {
            return false;
        };
        let was_there = ops.remove(&op).is_some();
        if ops.is_empty() {
            self.by_inode.remove(&(pg, ino));
        }
        self.len -= usize::from(was_there);
        was_there
    }

    /// All marks of a group.
    #[must_use]
    pub fn of_pg(&self, pg: PgId) -> Vec<(Ino, OpId)> {
        let range = self.by_inode.range((pg, Ino(0))..=(pg, Ino(u64::MAX)));
        let marks = range.flat_map(|((_, ino), ops)| ops.keys().map(|op| (*ino, *op)));
        marks.collect()
    }

    /// Marks that came at or before `limit`, the oldest ones, at most `max`.
    #[must_use]
    pub fn older_than(&self, limit: Time, max: usize) -> Vec<(Ino, OpId)> {
        let all = self.by_inode.iter();
        let all = all.flat_map(|((_, ino), ops)| ops.iter().map(|(op, m)| (m.since, *ino, *op)));
        let mut old: Vec<_> = all.filter(|(since, ..)| *since <= limit).collect();
        old.sort_unstable();
        old.into_iter()
            .take(max)
            .map(|(_, ino, op)| (ino, op))
            .collect()
    }
}

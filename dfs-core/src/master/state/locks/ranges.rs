//! The locks of one kind on one file: who has which ranges.
//!
//! Invariants: what one owner has is ascending and does not overlap; ranges of one mode that touch
//! are one; no owner has nothing; no two owners have what excludes each other.
//! Source: fcntl(2), and POSIX.1-2024, fcntl, "Advisory record locking".
use crate::types::{HeldLock, Lock, LockHolder};
use std::collections::BTreeMap;

/// See the [module docs](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    held: BTreeMap<LockHolder, Vec<Lock>>,
}

impl Ranges {
    /// What `holder` has, ascending.
    pub fn of(&self, holder: LockHolder) -> &[Lock] {
        self.held.get(&holder).map_or(&[], Vec::as_slice)
    }

    /// Everybody and what they have.
    pub fn iter(&self) -> impl Iterator<Item = (LockHolder, &[Lock])> {
        self.held.iter().map(|(holder, locks)| (*holder, &**locks))
    }

    /// Nobody has anything.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Of the locks that keep `holder` from having `lock`, the one that begins first.
    pub fn conflict(&self, holder: LockHolder, lock: &Lock) -> Option<HeldLock> {
        let others = self.held.iter().filter(|(other, _)| **other != holder);
        let first = others.filter_map(|(other, locks)| {
            let lock = *locks.iter().find(|held| held.excludes(lock))?;
            let holder = *other;
            Some(HeldLock { holder, lock })
        });
        first.min_by_key(|held| (held.lock.first, held.holder))
    }

    /// Gives `lock` to `holder` in place of what it has there. The caller has seen that nobody
    /// excludes it.
    pub fn set(&mut self, holder: LockHolder, lock: Lock) {
        let mut lock = lock;
        let mut locks = cut(self.of(holder), lock.first, lock.last);
        // What it touches and is alike becomes part of it.
        locks.retain(|held| {
            let joins = held.exclusive == lock.exclusive
                && (held.last.checked_add(1) == Some(lock.first)
                    || lock.last.checked_add(1) == Some(held.first));
            if joins {
                lock.first = lock.first.min(held.first);
                lock.last = lock.last.max(held.last);
            }
            !joins
        });
        let at = locks.partition_point(|held| held.first < lock.first);
        locks.insert(at, lock);
        self.held.insert(holder, locks);
    }

    /// Takes `first..=last` from `holder`; true if it had anything there (never if `last` comes
    /// first).
    pub fn clear(&mut self, holder: LockHolder, first: u64, last: u64) -> bool {
        let held = self.of(holder);
        if first > last || !held.iter().any(|lock| lock.meets(first, last)) {
            return false;
        }
        let left = cut(held, first, last);
        self.put(holder, left);
        true
    }

    /// What `holder` has is this (as stored: it keeps the invariants).
    pub fn put(&mut self, holder: LockHolder, locks: Vec<Lock>) {
        if locks.is_empty() {
            self.held.remove(&holder);
        } else {
            self.held.insert(holder, locks);
        }
    }
}

/// `locks` without `first..=last`.
fn cut(locks: &[Lock], first: u64, last: u64) -> Vec<Lock> {
    let mut left = Vec::with_capacity(locks.len() + 2);
    for lock in locks {
        if !lock.meets(first, last) {
            left.push(*lock);
            continue;
        }
        if lock.first < first {
            let last = first - 1;
            left.push(Lock { last, ..*lock });
        }
        if lock.last > last {
            let first = last + 1;
            left.push(Lock { first, ..*lock });
        }
    }
    left
}

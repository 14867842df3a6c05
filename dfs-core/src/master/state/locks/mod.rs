//! Locks on files: who holds what, in tables and cached from them.
//!
//! There is a row for each range that an owner holds. A lock is granted only when nobody excludes
//! it; who waits is the leader's matter. Invariants:
//! 1. the cache is what the tables say;
//! 2. a lock belongs to a live session: the entry that ends the session releases it, and no commit
//!    of the session is applied after that entry, so a holder that is dead cannot write;
//! 3. ranges are counted, and bounded for each file, each session and the cluster.
//!
//! A whole-file lock that is taken in the other mode is given up first, as flock(2) says: two
//! readers that both want to write would wait for each other for ever.
mod ranges;
#[cfg(test)]
mod tests;

pub use ranges::Ranges;

use super::{StateError, keys};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{ClientId, HeldLock, Ino, Lock, LockHolder, LockRequest, LockSpace};
use crate::wire::{ErrorCode, WireError};
use std::collections::{BTreeMap, BTreeSet};

/// Ranges locked at most; the same on every voter.
#[derive(Debug, Clone, Copy)]
struct Limits {
    file: u64,
    session: u64,
    cluster: u64,
}

const LIMITS: Limits = Limits {
    file: 16_384,
    session: 100_000,
    cluster: 1_000_000,
};

/// Locks of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileLocks {
    posix: Ranges,
    flock: Ranges,
    count: u64,
}

impl FileLocks {
    /// Those of one kind.
    #[must_use]
    pub fn of(&self, space: LockSpace) -> &Ranges {
        match space {
            LockSpace::Posix => &self.posix,
            LockSpace::Flock => &self.flock,
        }
    }

    /// Those of one kind, to be changed in a copy.
    pub fn of_mut(&mut self, space: LockSpace) -> &mut Ranges {
        match space {
            LockSpace::Posix => &mut self.posix,
            LockSpace::Flock => &mut self.flock,
        }
    }
}

/// What a session has locked.
#[derive(Debug, Default)]
struct OfClient {
    rows: BTreeSet<(Ino, LockSpace, u64)>,
    count: u64,
}

/// All locks, cached from their table.
#[derive(Debug)]
pub struct Locks {
    limits: Limits,
    files: BTreeMap<Ino, FileLocks>,
    clients: BTreeMap<ClientId, OfClient>,
    count: u64,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            limits: LIMITS,
            files: BTreeMap::new(),
            clients: BTreeMap::new(),
            count: 0,
        }
    }
}

impl Locks {
    /// Loads the table.
    ///
    /// # Errors
    /// A damaged table.
    pub fn load(kv: &impl KvRead) -> Result<Self, StateError> {
        let mut all = Self::default();
        let prefix = [keys::LOCK];
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
            let lock: Lock = keys::decode("lock", &key, &value)?;
            let (ino, space, holder) = keys::lock_of(&key).ok_or_else(|| StateError::Decode {
                table: "lock",
                key: "not a key of a lock".into(),
            })?;
            // In the order of their first bytes.
            let mut locks = all.of(ino, space, holder).to_vec();
            locks.push(lock);
            all.replace(ino, space, holder, locks);
        }
        Ok(all)
    }

    /// Ranges locked at all.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The locks of a file, if it has any.
    pub fn file(&self, ino: Ino) -> Option<&FileLocks> {
        self.files.get(&ino)
    }

    fn of(&self, ino: Ino, space: LockSpace, holder: LockHolder) -> &[Lock] {
        self.files
            .get(&ino)
            .map_or(&[], |file| file.of(space).of(holder))
    }

    /// What keeps `client` from having the lock.
    pub fn conflict(&self, client: ClientId, ask: &LockRequest) -> Option<HeldLock> {
        let owner = ask.owner;
        let ranges = self.files.get(&ask.ino)?.of(ask.space);
        ranges.conflict(LockHolder { client, owner }, &ask.lock)
    }

    /// The owner has a whole-file lock in the other mode, which it gives up by asking.
    pub fn is_conversion(&self, client: ClientId, ask: &LockRequest) -> bool {
        let owner = ask.owner;
        let holder = LockHolder { client, owner };
        let held = self.of(ask.ino, ask.space, holder);
        ask.space == LockSpace::Flock && held.iter().any(|l| l.exclusive != ask.lock.exclusive)
    }

    /// Grants a lock. The first answer: waiters may go on (something was given up).
    ///
    /// # Errors
    /// `Locked`: another owner excludes it. `NoLocks`: a bound is reached. `Invalid`: no range.
    pub fn lock(
        &mut self,
        kv: &mut impl Kv,
        client: ClientId,
        ask: &LockRequest,
    ) -> (bool, Result<(), WireError>) {
        let LockRequest {
            ino,
            space,
            owner,
            lock,
        } = *ask;
        let whole = lock.first == 0 && lock.last == Lock::LAST_MAX;
        if lock.first > lock.last
            || lock.last > Lock::LAST_MAX
            || (space == LockSpace::Flock && !whole)
        {
            let detail = "this is no range that can be locked";
            return (false, Err(WireError::new(ErrorCode::Invalid, detail)));
        }
        let holder = LockHolder { client, owner };
        let converts = self.is_conversion(client, ask);
        if let Some(held) = self.conflict(client, ask) {
            if converts {
                self.store(kv, ino, space, holder, Vec::new());
            }
            let (session, pid) = (held.holder.client, held.lock.pid);
            let detail = format!("process {pid} of session {session} has it locked");
            return (converts, Err(WireError::new(ErrorCode::Locked, detail)));
        }
        let of_file = self.files.get(&ino).map_or(0, |file| file.count);
        let of_client = self.clients.get(&client).map_or(0, |c| c.count);
        // A range in the middle of another adds two.
        let full = [
            (of_file, self.limits.file, "the file"),
            (of_client, self.limits.session, "the session"),
            (self.count, self.limits.cluster, "the cluster"),
        ];
        if let Some((_, max, what)) = full.into_iter().find(|(n, max, _)| n + 2 > *max) {
            let detail = format!("{what} has {max} locked ranges, no more are kept");
            return (false, Err(WireError::new(ErrorCode::NoLocks, detail)));
        }
        let mut ranges = Ranges::default();
        ranges.put(holder, self.of(ino, space, holder).to_vec());
        ranges.set(holder, lock);
        self.store(kv, ino, space, holder, ranges.of(holder).to_vec());
        (!lock.exclusive, Ok(()))
    }

    /// An owner gives up `first..=last`; true if it had anything there.
    pub fn unlock(
        &mut self,
        kv: &mut impl Kv,
        ino: Ino,
        space: LockSpace,
        holder: LockHolder,
        (first, last): (u64, u64),
    ) -> bool {
        let mut ranges = Ranges::default();
        ranges.put(holder, self.of(ino, space, holder).to_vec());
        let had = ranges.clear(holder, first, last);
        if had {
            self.store(kv, ino, space, holder, ranges.of(holder).to_vec());
        }
        had
    }

    /// Releases what a session holds; the files concerned.
    pub fn end_session(&mut self, kv: &mut impl Kv, client: ClientId) -> BTreeSet<Ino> {
        let rows = self.clients.get(&client).map(|c| c.rows.clone());
        let rows = rows.unwrap_or_default();
        for &(ino, space, owner) in &rows {
            self.store(kv, ino, space, LockHolder { client, owner }, Vec::new());
        }
        rows.into_iter().map(|(ino, ..)| ino).collect()
    }

    /// The file is gone.
    pub fn drop_file(&mut self, kv: &mut impl Kv, ino: Ino) {
        let Some(file) = self.files.get(&ino).cloned() else {
            return;
        };
        for space in [LockSpace::Posix, LockSpace::Flock] {
            for (holder, _) in file.of(space).iter() {
                self.store(kv, ino, space, holder, Vec::new());
            }
        }
    }

    fn store(
        &mut self,
        kv: &mut impl Kv,
        ino: Ino,
        space: LockSpace,
        holder: LockHolder,
        locks: Vec<Lock>,
    ) {
        let old = self.of(ino, space, holder);
        // One change touches neighbours only: what is the same before and behind it stays.
        let same = |(a, b): &(&Lock, &Lock)| a == b;
        let head = old.iter().zip(&locks).take_while(same).count();
        let (old, new) = (&old[head..], &locks[head..]);
        let tail = old.iter().rev().zip(new.iter().rev());
        let tail = tail.take_while(same).count();
        for lock in &old[..old.len() - tail] {
            kv.delete(&keys::lock(ino, space, holder, lock.first));
        }
        for lock in &new[..new.len() - tail] {
            keys::put(kv, keys::lock(ino, space, holder, lock.first), lock);
        }
        self.replace(ino, space, holder, locks);
    }

    fn replace(&mut self, ino: Ino, space: LockSpace, holder: LockHolder, locks: Vec<Lock>) {
        let file = self.files.entry(ino).or_default();
        let client = self.clients.entry(holder.client).or_default();
        let row = (ino, space, holder.owner);
        let (old, new) = (file.of(space).of(holder).len() as u64, locks.len() as u64);
        if new == 0 {
            client.rows.remove(&row);
        } else {
            client.rows.insert(row);
        }
        file.of_mut(space).put(holder, locks);
        for count in [&mut file.count, &mut client.count, &mut self.count] {
            *count = *count - old + new;
        }
        if file.count == 0 {
            self.files.remove(&ino);
        }
        if client.count == 0 {
            self.clients.remove(&holder.client);
        }
    }
}

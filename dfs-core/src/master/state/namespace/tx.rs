//! One change of the namespace: writes into an overlay, so that a refusal leaves nothing behind.
//!
//! Invariants kept here, whoever calls:
//! 1. Totals, the orphan list and the home entry of the PG index follow every inode written.
//! 2. A directory counts the names in it that have a history record; the index of deleted names
//!    equals the records with `deleted` set.
//! 3. A tombstone directory whose last record went is forgotten by its own parent, and so upwards.
use super::keys;
use super::read;
use super::records::{Inode, Meta, NameHistory, VersionRec};
use crate::master::state::{ApplyCtx, ApplyError, Effects, StateError, WatchEvent};
use crate::store::{Kv, KvOp, KvRead, OverlayKv};
use crate::types::{
    ChunkNo, FileKind, Ino, Name, ObjectId, OpId, PgId, PgInfo, PgMap, StoreId, Time, Timestamp,
};
use crate::wire::master::Touched;
use crate::wire::{ErrorCode, WireError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Inode numbers tried at most for one whose group can be written.
const TRIED_MAX: u64 = 64;

/// See the module.
pub(super) struct Tx<'a> {
    pub kv: OverlayKv<'a>,
    pub at: Time,
    pub op: OpId,
    pub map: &'a PgMap,
    is_down: &'a dyn Fn(&StoreId) -> bool,
    pub effects: Effects,
    touched: BTreeMap<Ino, Touched>,
    /// Objects whose last reference went during this change; some may have come back since.
    pub released: BTreeSet<(PgId, ObjectId)>,
    meta: Meta,
}

/// Runs `f` on an overlay and applies what it wrote, unless it fails.
pub(super) fn run<T>(
    ctx: &mut ApplyCtx<'_>,
    f: impl FnOnce(&mut Tx<'_>) -> Result<T, ApplyError>,
) -> Result<T, ApplyError> {
    let (out, ops, effects) = {
        let base: &dyn KvRead = &*ctx.kv;
        let mut tx = Tx {
            kv: OverlayKv::new(base),
            at: ctx.at,
            op: ctx.op,
            map: ctx.map,
            is_down: ctx.is_down,
            effects: Effects::default(),
            touched: BTreeMap::new(),
            released: BTreeSet::new(),
            meta: read::meta(base)?,
        };
        let out = f(&mut tx)?;
        let (ops, effects) = tx.finish()?;
        (out, ops, effects)
    };
    for op in ops {
        match op {
            KvOp::Put(key, value) => ctx.kv.put(key, value),
            KvOp::Delete(key) => ctx.kv.delete(&key),
        }
    }
    ctx.effects.notes.extend(effects.notes);
    ctx.effects.touched.extend(effects.touched);
    ctx.effects.watch.extend(effects.watch);
    ctx.effects.garbage.extend(effects.garbage);
    Ok(out)
}

impl Tx<'_> {
    /// Log time as inodes keep it.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_log_time(self.at)
    }

    /// Placement groups of the cluster.
    pub(super) fn pg_of(&self, ino: Ino, chunk: ChunkNo) -> PgId {
        self.map.of_chunk(ino, chunk).0
    }

    /// Encodes and writes a value.
    pub(super) fn put<T: Serialize>(&mut self, key: Vec<u8>, value: &T) {
        let bytes = postcard::to_stdvec(value).expect("our records have no unencodable part");
        self.kv.put(key, bytes);
    }

    /// A number that no inode had before, preferably one whose first chunk can be written now: where
    /// stores are lost for good, a new file would else be no use by chance.
    pub(super) fn next_ino(&mut self) -> Ino {
        let first = self.meta.next_ino.max(Ino::ROOT.0);
        let mut numbers = (first..first.saturating_add(TRIED_MAX)).map(Ino);
        let ino = numbers.find(|ino| self.is_writable(*ino));
        let ino = ino.unwrap_or(Ino(first));
        self.meta.next_ino = ino.0 + 1;
        ino
    }

    /// Numbers that no inode had before: the first of `count`.
    pub(super) fn reserve_inos(&mut self, count: u32) -> Ino {
        let first = self.meta.next_ino.max(Ino::ROOT.0 + 1);
        self.meta.next_ino = first + u64::from(count);
        Ino(first)
    }

    /// Every number's first chunk can be written now.
    pub(super) fn is_all_writable(&self) -> bool {
        self.map.pgs.iter().all(|info| self.has_quorum(info))
    }

    fn is_writable(&self, ino: Ino) -> bool {
        let info = self.map.of_chunk(ino, ChunkNo::HOME).1;
        info.is_none_or(|info| self.has_quorum(info))
    }

    fn has_quorum(&self, info: &PgInfo) -> bool {
        let up = info.members.iter().filter(|store| !(self.is_down)(store));
        info.members.is_empty() || up.count() >= usize::from(self.map.quorum.w)
    }

    /// Names in the index of deleted history.
    pub(super) fn deleted_names(&self) -> u64 {
        self.meta.deleted_names
    }

    /// An inode named by a request.
    pub(super) fn inode(&self, ino: Ino) -> Result<Inode, ApplyError> {
        let found = read::inode(&self.kv, ino)?;
        found.ok_or_else(|| WireError::new(ErrorCode::Stale, format!("no inode {ino}")).into())
    }

    /// Writes an inode and what follows from it.
    pub(super) fn put_inode(&mut self, ino: Ino, inode: &Inode) -> Result<(), StateError> {
        let old = read::inode(&self.kv, ino)?;
        self.account(ino, old.as_ref(), Some(inode));
        self.put(keys::inode(ino), inode);
        Ok(())
    }

    /// Removes an inode's record and what follows from it.
    pub(super) fn remove_inode(&mut self, ino: Ino) -> Result<(), StateError> {
        let old = read::inode(&self.kv, ino)?;
        self.account(ino, old.as_ref(), None);
        self.kv.delete(&keys::inode(ino));
        Ok(())
    }

    /// Changes an inode that must exist.
    pub(super) fn update_inode(
        &mut self,
        ino: Ino,
        f: impl FnOnce(&mut Inode),
    ) -> Result<Inode, StateError> {
        let mut inode = read::known_inode(&self.kv, ino)?;
        f(&mut inode);
        self.put_inode(ino, &inode)?;
        Ok(inode)
    }

    fn account(&mut self, ino: Ino, old: Option<&Inode>, new: Option<&Inode>) {
        let totals = |i: Option<&Inode>| match i {
            Some(i) if i.nlink > 0 => (1, i.allocated),
            _ => (0, 0),
        };
        let ((old_inodes, old_bytes), (inodes, bytes)) = (totals(old), totals(new));
        self.meta.inodes = self.meta.inodes + inodes - old_inodes;
        self.meta.bytes = self.meta.bytes + bytes - old_bytes;
        let is_orphan = |i: Option<&Inode>| i.is_some_and(Inode::is_orphan);
        match (is_orphan(old), is_orphan(new)) {
            (false, true) => self.kv.put(keys::orphan(ino), Vec::new()),
            (true, false) => self.kv.delete(&keys::orphan(ino)),
            _ => {}
        }
    }

    /// Writes a kept version.
    pub(super) fn put_version(&mut self, ino: Ino, rec: &VersionRec) {
        self.put(keys::version(ino, rec.no), rec);
    }

    /// Writes (or, when empty, removes) a name's history record and what follows from it.
    pub(super) fn put_history(
        &mut self,
        dir: Ino,
        name: &Name,
        rec: &NameHistory,
    ) -> Result<(), StateError> {
        let mut at = (dir, name.clone(), rec.clone());
        while let Some((above, its_name, tombstone)) = self.put_one_history(&at.0, &at.1, &at.2)? {
            let mut rec = read::history(&self.kv, above, &its_name)?.unwrap_or_default();
            rec.dirs.retain(|(ino, _)| *ino != tombstone);
            at = (above, its_name, rec);
        }
        Ok(())
    }

    /// As [`Tx::put_history`]; answers the place of the tombstone directory that this emptied.
    fn put_one_history(
        &mut self,
        dir: &Ino,
        name: &Name,
        rec: &NameHistory,
    ) -> Result<Option<(Ino, Name, Ino)>, StateError> {
        let dir = *dir;
        let old = read::history(&self.kv, dir, name)?;
        let was_deleted = old.as_ref().and_then(|r| r.deleted);
        if was_deleted != rec.deleted {
            if let Some(at) = was_deleted {
                self.kv.delete(&keys::deleted(at, dir, name));
                self.meta.deleted_names -= 1;
            }
            if let Some(at) = rec.deleted {
                self.kv.put(keys::deleted(at, dir, name), Vec::new());
                self.meta.deleted_names += 1;
            }
        }
        if !rec.is_empty() {
            self.put(keys::history(dir, name), rec);
            if old.is_none() {
                self.count_history(dir, 1)?;
            }
            return Ok(None);
        }
        if old.is_none() {
            return Ok(None);
        }
        self.kv.delete(&keys::history(dir, name));
        self.count_history(dir, -1)
    }

    fn count_history(
        &mut self,
        dir: Ino,
        change: i64,
    ) -> Result<Option<(Ino, Name, Ino)>, StateError> {
        let mut emptied = None;
        self.update_inode(dir, |inode| {
            let Some(part) = inode.dir.as_mut() else {
                return;
            };
            part.histories = part.histories.saturating_add_signed(change);
            if part.histories == 0
                && let Some(removed) = part.removed.take()
            {
                emptied = Some((part.parent, removed.name, dir));
            }
        })?;
        Ok(emptied)
    }

    /// An inode changed; its attributes always count.
    pub(super) fn touch(&mut self, ino: Ino, content: bool, entries: bool) {
        let touched = self.touched.entry(ino).or_insert(Touched {
            ino,
            attrs: true,
            content: false,
            entries: false,
        });
        touched.content |= content;
        touched.entries |= entries;
    }

    /// A name came or went.
    pub(super) fn watch(&mut self, added: bool, parent: Ino, name: &Name, kind: FileKind) {
        self.effects.watch.push(WatchEvent {
            added,
            parent,
            name: name.clone(),
            kind,
        });
    }

    fn finish(mut self) -> Result<(Vec<KvOp>, Effects), StateError> {
        for (pg, object) in std::mem::take(&mut self.released) {
            if self.kv.get(&keys::object(object))?.is_none() {
                self.effects.garbage.push((pg, object));
            }
        }
        self.effects.touched = self.touched.values().copied().collect();
        let meta = self.meta.clone();
        if meta != read::meta(&self.kv)? {
            self.put(keys::META.to_vec(), &meta);
        }
        Ok((self.kv.into_ops(), self.effects))
    }
}

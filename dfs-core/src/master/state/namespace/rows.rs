//! Extent rows, copy-on-write per version, with exact references.
//!
//! A row `(inode, chunk, version)` is the whole content of a chunk from that version on, up to the
//! chunk's next row. Rules:
//! 1. An empty row exists only directly above one with extents (else its absence says the same).
//! 2. A row is there iff some kept version reads it.
//! 3. `f` counts, per object, the rows that refer to it; `g`, per PG, inode and chunk, the rows that
//!    refer to the PG. What falls to zero is garbage.
use super::keys;
use super::read;
use super::tx::Tx;
use crate::master::state::StateError;
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{ChunkNo, Extent, Ino, ObjectId, PgId, VersionNo};
use std::collections::{BTreeMap, BTreeSet};

/// Replaces the content of a chunk from the newest version `version` on. `older` is the newest kept
/// version below: the row that only later, dropped versions read is not kept beside the new one.
pub(super) fn write_row(
    tx: &mut Tx<'_>,
    ino: Ino,
    chunk: ChunkNo,
    (older, version): (Option<VersionNo>, VersionNo),
    extents: &[Extent],
) -> Result<(), StateError> {
    set_row(tx, ino, chunk, version, Some(extents))?;
    drop_row_below(tx, ino, chunk, older, version)?;
    drop_needless_hole(tx, ino, chunk, version)
}

/// Replaces, for all versions that read it, the row that a version reads by one with the same bytes.
pub(super) fn rewrite_row(
    tx: &mut Tx<'_>,
    ino: Ino,
    chunk: ChunkNo,
    version: VersionNo,
    extents: &[Extent],
) -> Result<(), StateError> {
    match read::row_at(&tx.kv, ino, chunk, version)? {
        Some((row, _)) => set_row(tx, ino, chunk, row, Some(extents)),
        None => Ok(()),
    }
}

/// Drops the row before the one at `version` if no kept version reads it; `older` is the newest kept
/// version below the place where the reader was.
fn drop_row_below(
    tx: &mut Tx<'_>,
    ino: Ino,
    chunk: ChunkNo,
    older: Option<VersionNo>,
    version: VersionNo,
) -> Result<(), StateError> {
    let below = VersionNo(version.0.saturating_sub(1));
    match read::row_at(&tx.kv, ino, chunk, below)? {
        Some((row, _)) if older.is_none_or(|older| row > older) => {
            set_row(tx, ino, chunk, row, None)
        }
        _ => Ok(()),
    }
}

/// Rule 1 for the row at `version`, if there is one.
fn drop_needless_hole(
    tx: &mut Tx<'_>,
    ino: Ino,
    chunk: ChunkNo,
    version: VersionNo,
) -> Result<(), StateError> {
    let is_hole = read::row_at(&tx.kv, ino, chunk, version)?
        .is_some_and(|(no, extents)| no == version && extents.is_empty());
    if !is_hole {
        return Ok(());
    }
    let below = VersionNo(version.0.saturating_sub(1));
    let under = read::row_at(&tx.kv, ino, chunk, below)?;
    if under.is_none_or(|(_, extents)| extents.is_empty()) {
        set_row(tx, ino, chunk, version, None)?;
    }
    Ok(())
}

/// Writes or removes one row and counts its references.
fn set_row(
    tx: &mut Tx<'_>,
    ino: Ino,
    chunk: ChunkNo,
    version: VersionNo,
    extents: Option<&[Extent]>,
) -> Result<(), StateError> {
    let key = keys::row(ino, chunk, version);
    let old: Option<Vec<Extent>> = read::get(&tx.kv, "row", &key)?;
    let was = objects_of(old.as_deref().unwrap_or_default());
    let is = objects_of(extents.unwrap_or_default());
    for (object, pg) in &is {
        if !was.contains_key(object) {
            count(tx, "object", keys::object(*object), 1)?;
            tx.released.remove(&(*pg, *object));
        }
    }
    for (object, pg) in &was {
        if !is.contains_key(object) && count(tx, "object", keys::object(*object), -1)? == 0 {
            tx.released.insert((*pg, *object));
        }
    }
    let pgs = |objects: &BTreeMap<ObjectId, PgId>| objects.values().copied().collect();
    let (pgs_were, pgs_are): (BTreeSet<PgId>, BTreeSet<PgId>) = (pgs(&was), pgs(&is));
    for pg in pgs_are.difference(&pgs_were) {
        count(tx, "PG index", keys::pg_index(*pg, ino, chunk), 1)?;
    }
    for pg in pgs_were.difference(&pgs_are) {
        count(tx, "PG index", keys::pg_index(*pg, ino, chunk), -1)?;
    }
    match extents {
        Some(extents) => {
            tx.put(key, &extents);
            tx.kv.put(keys::row_index(ino, version, chunk), Vec::new());
        }
        None => {
            tx.kv.delete(&key);
            tx.kv.delete(&keys::row_index(ino, version, chunk));
        }
    }
    Ok(())
}

/// Objects of a row and the PG of each.
pub(super) fn objects_of(extents: &[Extent]) -> BTreeMap<ObjectId, PgId> {
    extents.iter().map(|e| (e.object, e.pg)).collect()
}

/// Adds to a counter, which is absent when zero; answers the new count.
pub(super) fn count(
    tx: &mut Tx<'_>,
    table: &'static str,
    key: Vec<u8>,
    change: i64,
) -> Result<u64, StateError> {
    let old: u64 = read::get(&tx.kv, table, &key)?.unwrap_or(0);
    let new = old
        .checked_add_signed(change)
        .ok_or_else(|| read::broken(table, &key))?;
    if new == 0 {
        tx.kv.delete(&key);
    } else {
        tx.put(key, &new);
    }
    Ok(new)
}

/// Drops the rows that only version `dropped` read. Its kept neighbours: `older`, the next one
/// below, and `newer`, the next one above (the newest version is never dropped).
///
/// Only a chunk that changed between `dropped` and `newer` can have such a row, so the cost is that
/// of the change and not of the file.
pub(super) fn drop_rows(
    tx: &mut Tx<'_>,
    ino: Ino,
    older: Option<VersionNo>,
    dropped: VersionNo,
    newer: VersionNo,
) -> Result<(), StateError> {
    let from = keys::row_index(ino, dropped.next(), ChunkNo(0));
    let to = keys::row_index(ino, newer.next(), ChunkNo(0));
    let changed = tx.kv.scan(&from, &to, usize::MAX)?;
    for (key, _) in changed {
        let at = keys::ROW_INDEX.len() + 8;
        let (Some(no), Some(chunk)) = (keys::u64_at(&key, at), keys::u32_at(&key, at + 8)) else {
            return Err(read::broken("row index", &key));
        };
        let (chunk, successor) = (ChunkNo(chunk), VersionNo(no));
        drop_row_below(tx, ino, chunk, older, successor)?;
        drop_needless_hole(tx, ino, chunk, successor)?;
    }
    Ok(())
}

/// Drops every row of an inode.
pub(super) fn drop_all_rows(tx: &mut Tx<'_>, ino: Ino) -> Result<(), StateError> {
    let prefix = keys::rows_of(ino);
    let rows = tx.kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)?;
    for (key, _) in rows {
        let at = prefix.len();
        let (Some(chunk), Some(no)) = (keys::u32_at(&key, at), keys::u64_at(&key, at + 4)) else {
            return Err(read::broken("row", &key));
        };
        set_row(tx, ino, ChunkNo(chunk), VersionNo(no), None)?;
    }
    Ok(())
}

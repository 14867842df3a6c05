//! Unlink and rmdir, undelete, purge, trimming of deleted history, and the end of an inode.
use super::dentry;
use super::history;
use super::keys;
use super::moves;
use super::read;
use super::records::Removed;
use super::rows;
use super::tx::Tx;
use super::{KEPT, versions};
use crate::master::state::{ApplyError, StateError};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{ChunkNo, FileKind, Ino, Name, Time};
use crate::wire::master::Note;
use crate::wire::mutation::PurgeScope;
use crate::wire::{ErrorCode, MutationOk, WireError};

/// Removes a name that is no directory.
pub(super) fn unlink(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &Name,
    purge: bool,
) -> Result<MutationOk, ApplyError> {
    dentry::live_dir(tx, parent)?;
    let entry = dentry::existing(tx, parent, name)?;
    if entry.kind == FileKind::Dir {
        return Err(ErrorCode::IsDir.into());
    }
    let orphan = drop_name(tx, parent, name, purge)?;
    let ino = entry.ino;
    Ok(MutationOk::Removed { ino, orphan })
}

/// Takes a non-directory's name away; unless purged, the name remembers what it was.
/// Answers the inode if that was its last link.
fn drop_name(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &Name,
    purge: bool,
) -> Result<Option<Ino>, ApplyError> {
    let entry = dentry::existing(tx, parent, name)?;
    if entry.kind == FileKind::File && !purge {
        history::pin_lost(tx, parent, name, entry.ino, true)?;
    }
    let inode = dentry::remove(tx, parent, name, entry)?;
    if purge {
        history::forget(tx, parent, name)?;
    } else if entry.kind == FileKind::File {
        moves::give_back(tx, parent, name, entry.ino)?;
    }
    history::settle(tx, parent, name)?;
    versions::trim(tx, entry.ino, KEPT)?;
    Ok((inode.nlink == 0).then_some(entry.ino))
}

/// Removes a directory without live entries.
pub(super) fn rmdir(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> Result<MutationOk, ApplyError> {
    dentry::live_dir(tx, parent)?;
    let entry = dentry::existing(tx, parent, name)?;
    if entry.kind != FileKind::Dir {
        return Err(ErrorCode::NotDir.into());
    }
    remove_dir(tx, parent, name)?;
    Ok(MutationOk::Removed {
        ino: entry.ino,
        orphan: Some(entry.ino),
    })
}

/// Removes a directory's name. It stays as a tombstone if anything in it can be undeleted.
///
/// # Errors
/// `NotEmpty` when it has live entries.
pub(super) fn remove_dir(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> Result<(), ApplyError> {
    let entry = dentry::existing(tx, parent, name)?;
    let inode = tx.inode(entry.ino)?;
    let part = inode.dir.as_ref();
    if part.is_none_or(|part| part.entries > 0) {
        return Err(ErrorCode::NotEmpty.into());
    }
    let is_tombstone = part.is_some_and(|part| part.histories > 0);
    dentry::remove(tx, parent, name, entry)?;
    let at = tx.at;
    tx.update_inode(entry.ino, |inode| {
        inode.nlink = 0;
        if let Some(part) = inode.dir.as_mut().filter(|_| is_tombstone) {
            part.removed = Some(Removed {
                name: name.clone(),
                at,
            });
        }
    })?;
    tx.touch(entry.ino, false, true);
    if is_tombstone {
        let mut rec = history::record(&tx.kv, parent, name)?;
        rec.dirs.push((entry.ino, at));
        tx.put_history(parent, name, &rec)?;
    }
    Ok(())
}

/// Brings a deleted name back: the newest thing it was, with its history.
pub(super) fn undelete(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &Name,
) -> Result<MutationOk, ApplyError> {
    let dir = tx.inode(parent)?;
    if dir.kind != FileKind::Dir {
        return Err(ErrorCode::NotDir.into());
    }
    if read::dentry(&tx.kv, parent, name)?.is_some() {
        return Err(ErrorCode::Exists.into());
    }
    let rec = history::record(&tx.kv, parent, name)?;
    let file = rec.pins.last().zip(rec.deleted);
    let removed_dir = rec.dirs.last();
    let ino = match (file, removed_dir) {
        (None, None) => {
            let detail = format!("{name} has no deleted history here");
            return Err(WireError::new(ErrorCode::NotFound, detail).into());
        }
        (Some((_, at)), Some((ino, dir_at))) if *dir_at > at => *ino,
        (None, Some((ino, _))) => *ino,
        (Some((pin, _)), _) => pin.ino,
    };
    revive_dirs(tx, parent)?;
    if tx.inode(ino)?.kind == FileKind::Dir {
        revive_dirs(tx, ino)?;
    } else {
        dentry::add(tx, parent, name, ino, FileKind::File, None)?;
        history::settle(tx, parent, name)?;
    }
    tx.touch(ino, true, false);
    Ok(MutationOk::Entry {
        attr: tx.inode(ino)?.attr(ino),
        created: true,
    })
}

/// Brings a removed directory and those above it back under their old names.
fn revive_dirs(tx: &mut Tx<'_>, dir: Ino) -> Result<(), ApplyError> {
    let mut chain = Vec::new();
    let mut next = dir;
    loop {
        let inode = tx.inode(next)?;
        if inode.nlink > 0 {
            break;
        }
        let place = inode
            .dir
            .and_then(|part| part.removed.map(|r| (part.parent, r)));
        let Some((above, removed)) = place else {
            let detail = format!("directory {next} is gone for good");
            return Err(WireError::new(ErrorCode::NotFound, detail).into());
        };
        if read::dentry(&tx.kv, above, &removed.name)?.is_some() {
            let detail = format!("{} is in use again", removed.name);
            return Err(WireError::new(ErrorCode::Exists, detail).into());
        }
        chain.push((above, removed.name, next));
        next = above;
    }
    for (above, name, ino) in chain.into_iter().rev() {
        tx.update_inode(ino, |inode| {
            inode.nlink = 2;
            if let Some(part) = inode.dir.as_mut() {
                part.removed = None;
            }
        })?;
        dentry::add(tx, above, &name, ino, FileKind::Dir, None)?;
        let mut rec = history::record(&tx.kv, above, &name)?;
        rec.dirs.retain(|(tombstone, _)| *tombstone != ino);
        tx.put_history(above, &name, &rec)?;
    }
    Ok(())
}

/// Drops history for good.
pub(super) fn purge(tx: &mut Tx<'_>, scope: &PurgeScope) -> Result<MutationOk, ApplyError> {
    match scope {
        PurgeScope::Name { parent, name } => purge_name(tx, *parent, name)?,
        PurgeScope::AllDeleted => {
            trim(tx, Time(u64::MAX), 0, u32::MAX)?;
        }
    }
    Ok(MutationOk::Done)
}

fn purge_name(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> Result<(), ApplyError> {
    if tx.inode(parent)?.kind != FileKind::Dir {
        return Err(ErrorCode::NotDir.into());
    }
    let rec = history::record(&tx.kv, parent, name)?;
    let live = read::dentry(&tx.kv, parent, name)?;
    if live.is_none() && rec.is_empty() {
        return Err(ErrorCode::NotFound.into());
    }
    history::forget(tx, parent, name)?;
    if let Some(file) = live.filter(|d| d.kind == FileKind::File) {
        versions::trim(tx, file.ino, 1)?;
        tx.touch(file.ino, false, false);
    }
    for (dir, _) in rec.dirs {
        purge_tombstone(tx, dir)?;
    }
    Ok(())
}

/// Drops everything that a removed directory remembers; with the last of it the tombstone goes.
fn purge_tombstone(tx: &mut Tx<'_>, dir: Ino) -> Result<(), StateError> {
    let mut waiting = vec![dir];
    while let Some(dir) = waiting.pop() {
        let prefix = keys::histories_of(dir);
        for (key, value) in read::all(&tx.kv, &prefix)? {
            let rec: super::records::NameHistory = read::decode("history", &key, &value)?;
            let name = keys::name_at(&key, prefix.len());
            let name = name.ok_or_else(|| read::broken("history", &key))?;
            waiting.extend(rec.dirs.iter().map(|(ino, _)| *ino));
            history::forget(tx, dir, &name)?;
        }
    }
    Ok(())
}

/// Drops deleted names, oldest first: those deleted before `before`, and more while there are more
/// than `keep_names`; at most `max`. Answers how many.
pub(super) fn trim(
    tx: &mut Tx<'_>,
    before: Time,
    keep_names: u64,
    max: u32,
) -> Result<u64, StateError> {
    let mut left = tx.deleted_names();
    let end = prefix_end(keys::DELETED);
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    let mut dropped = 0;
    for (key, _) in tx.kv.scan(keys::DELETED, &end, limit)? {
        let at = keys::DELETED.len();
        let (time, dir) = (keys::u64_at(&key, at), keys::u64_at(&key, at + 8));
        let name = keys::name_at(&key, at + 16);
        let (Some(time), Some(dir), Some(name)) = (time, dir, name) else {
            return Err(read::broken("deleted", &key));
        };
        if time >= before.0 && left <= keep_names {
            break;
        }
        history::forget(tx, Ino(dir), &name)?;
        left -= 1;
        dropped += 1;
    }
    Ok(dropped)
}

/// Removes an orphan for good; false if it is none (any more).
pub(super) fn reap(tx: &mut Tx<'_>, ino: Ino) -> Result<bool, StateError> {
    let Some(inode) = read::inode(&tx.kv, ino)?.filter(|i| i.is_orphan()) else {
        return Ok(false);
    };
    rows::drop_all_rows(tx, ino)?;
    for prefix in [keys::versions_of(ino), keys::xattrs_of(ino)] {
        for (key, _) in read::all(&tx.kv, &prefix)? {
            tx.kv.delete(&key);
        }
    }
    if inode.kind == FileKind::File {
        let home = tx.pg_of(ino, ChunkNo::HOME);
        if inode.revision.0 > 0 {
            rows::count(tx, "PG index", keys::pg_index(home, ino, ChunkNo::HOME), -1)?;
        }
        tx.effects.notes.push((home, Note::Forget { ino }));
    }
    tx.remove_inode(ino)?;
    tx.touch(ino, true, false);
    Ok(true)
}

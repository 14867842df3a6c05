//! Directory entries: the checks and the two primitives that every name operation is made of.
use super::keys;
use super::read;
use super::records::{Dentry, Inode};
use super::tx::Tx;
use super::{FIRST_COOKIE, VERSIONS_NAME};
use crate::master::state::{ApplyError, StateError};
use crate::store::Kv;
use crate::types::{FileKind, Ino, Name};
use crate::wire::{ErrorCode, WireError};

/// A directory that may take names: there, a directory, and not removed.
pub(super) fn live_dir(tx: &Tx<'_>, dir: Ino) -> Result<Inode, ApplyError> {
    match read::inode(&tx.kv, dir)? {
        Some(inode) if inode.kind != FileKind::Dir => Err(ErrorCode::NotDir.into()),
        Some(inode) if inode.nlink > 0 => Ok(inode),
        _ => {
            let detail = format!("directory {dir} was removed");
            Err(WireError::new(ErrorCode::NotFound, detail).into())
        }
    }
}

/// `.versions` is no name to make.
pub(super) fn allowed_name(name: &Name) -> Result<(), ApplyError> {
    if name.as_bytes() == VERSIONS_NAME {
        let detail = "`.versions` is the name of every directory's history";
        return Err(WireError::new(ErrorCode::NotPermitted, detail).into());
    }
    Ok(())
}

/// An entry that must exist.
pub(super) fn existing(tx: &Tx<'_>, dir: Ino, name: &Name) -> Result<Dentry, ApplyError> {
    let found = read::dentry(&tx.kv, dir, name)?;
    found.ok_or_else(|| ErrorCode::NotFound.into())
}

/// Adds a name: entry, cookie, link, counts and the directory's times. The inode's own `nlink` is
/// the caller's for directories (2 and its subdirectories), raised here for others.
pub(super) fn add(
    tx: &mut Tx<'_>,
    dir: Ino,
    name: &Name,
    ino: Ino,
    kind: FileKind,
    cookie: Option<u64>,
) -> Result<(), StateError> {
    let now = tx.now();
    let mut given = cookie.unwrap_or(0);
    tx.update_inode(dir, |parent| {
        parent.mtime = now;
        parent.ctime = now;
        parent.nlink += u32::from(kind == FileKind::Dir);
        if let Some(part) = parent.dir.as_mut() {
            part.entries += 1;
            if cookie.is_none() {
                given = part.next_cookie.max(FIRST_COOKIE);
                part.next_cookie = given + 1;
            }
        }
    })?;
    let entry = Dentry {
        ino,
        kind,
        cookie: given,
    };
    tx.put(keys::dentry(dir, name), &entry);
    tx.put(keys::cookie(dir, given), &(name, ino, kind));
    tx.kv.put(keys::link(ino, dir, name), Vec::new());
    tx.update_inode(ino, |inode| {
        inode.ctime = now.max(inode.ctime);
        match inode.dir.as_mut() {
            Some(part) => part.parent = dir,
            None => inode.nlink += 1,
        }
    })?;
    tx.touch(dir, false, true);
    tx.touch(ino, false, false);
    tx.watch(true, dir, name, kind);
    Ok(())
}

/// Removes a name: the reverse of [`add`]. Answers the inode as it is then.
pub(super) fn remove(
    tx: &mut Tx<'_>,
    dir: Ino,
    name: &Name,
    entry: Dentry,
) -> Result<Inode, StateError> {
    let now = tx.now();
    let is_dir = entry.kind == FileKind::Dir;
    tx.update_inode(dir, |parent| {
        parent.mtime = now;
        parent.ctime = now;
        parent.nlink -= u32::from(is_dir);
        if let Some(part) = parent.dir.as_mut() {
            part.entries -= 1;
        }
    })?;
    tx.kv.delete(&keys::dentry(dir, name));
    tx.kv.delete(&keys::cookie(dir, entry.cookie));
    tx.kv.delete(&keys::link(entry.ino, dir, name));
    let inode = tx.update_inode(entry.ino, |inode| {
        inode.ctime = now.max(inode.ctime);
        inode.nlink -= u32::from(!is_dir);
    })?;
    tx.touch(dir, false, true);
    tx.touch(entry.ino, false, false);
    tx.watch(false, dir, name, entry.kind);
    Ok(inode)
}

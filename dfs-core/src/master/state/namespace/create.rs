//! Create, mkdir, mknod, symlink and link.
use super::history;
use super::records::{DirPart, Inode};
use super::tx::Tx;
use super::{FIRST_COOKIE, LINKS_MAX, SYMLINK_MAX, dentry, keys, read};
use crate::master::state::{ApplyError, StateError};
use crate::store::Kv;
use crate::types::{ClientId, FileKind, Ino, Name, Timestamp};
use crate::wire::mutation::{NewNode, RESERVE_MAX};
use crate::wire::{ErrorCode, MutationOk, WireError};

/// Lots of numbers that a session has at a time: two to take from, and those of what is queued.
const LOTS_MAX: usize = 5;

/// First number and count.
type Lots = Vec<(u64, u32)>;

/// The root directory of a new cluster.
pub(super) fn root(tx: &mut Tx<'_>) -> Result<(), StateError> {
    if read::inode(&tx.kv, Ino::ROOT)?.is_some() {
        return Ok(());
    }
    let ino = tx.next_ino();
    assert_eq!(ino, Ino::ROOT, "the first number of an empty namespace");
    let mut inode = Inode::new(FileKind::Dir, 0o755, 0, 0, tx.now());
    inode.nlink = 2;
    inode.dir = Some(dir_part(Ino::ROOT));
    tx.put_inode(ino, &inode)
}

fn dir_part(parent: Ino) -> DirPart {
    DirPart {
        parent,
        entries: 0,
        next_cookie: FIRST_COOKIE,
        histories: 0,
        removed: None,
    }
}

/// Makes a name; see [`crate::wire::Mutation::Create`].
pub(super) fn create(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &Name,
    node: &NewNode,
    exclusive: bool,
) -> Result<MutationOk, ApplyError> {
    let dir = dentry::live_dir(tx, parent)?;
    dentry::allowed_name(name)?;
    if let Some(there) = read::dentry(&tx.kv, parent, name)? {
        if exclusive || node.kind != FileKind::File || there.kind == FileKind::Symlink {
            return Err(ErrorCode::Exists.into());
        }
        if there.kind == FileKind::Dir {
            return Err(ErrorCode::IsDir.into());
        }
        let attr = tx.inode(there.ino)?.attr(there.ino);
        return Ok(MutationOk::Entry {
            attr,
            created: false,
        });
    }
    let ino = tx.next_ino();
    make(tx, ino, (parent, &dir), name, node)
}

/// Sets numbers aside; see [`crate::wire::Mutation::Reserve`].
pub(super) fn reserve(tx: &mut Tx<'_>, count: u32) -> Result<MutationOk, ApplyError> {
    if count == 0 || count > RESERVE_MAX {
        let detail = format!("1 to {RESERVE_MAX} numbers can be reserved at a time, not {count}");
        return Err(WireError::new(ErrorCode::Invalid, detail).into());
    }
    if !tx.is_all_writable() {
        // Then each new file gets a number whose group can be written, one at a time.
        let detail = "some groups have too few stores";
        return Err(WireError::new(ErrorCode::Unavailable, detail).into());
    }
    let key = keys::reserved(tx.op.client);
    let first = tx.reserve_inos(count);
    let mut lots = lots(tx)?;
    lots.push((first.0, count));
    let old = lots.len().saturating_sub(LOTS_MAX);
    lots.drain(..old);
    tx.put(key, &lots);
    Ok(MutationOk::Reserved { first })
}

/// The numbers that the session of this change has reserved last.
fn lots(tx: &Tx<'_>) -> Result<Lots, StateError> {
    let key = keys::reserved(tx.op.client);
    Ok(read::get(&tx.kv, "reserved", &key)?.unwrap_or_default())
}

/// A session has ended: its numbers are not used any more.
pub(super) fn give_back(tx: &mut Tx<'_>, client: ClientId) {
    tx.kv.delete(&keys::reserved(client));
}

/// Makes a name; see [`crate::wire::Mutation::CreateAs`].
pub(super) fn create_as(
    tx: &mut Tx<'_>,
    (ino, at): (Ino, Timestamp),
    parent: Ino,
    name: &Name,
    node: &NewNode,
) -> Result<MutationOk, ApplyError> {
    let dir = dentry::live_dir(tx, parent)?;
    dentry::allowed_name(name)?;
    if read::dentry(&tx.kv, parent, name)?.is_some() {
        return Err(ErrorCode::Exists.into());
    }
    let is_in = |lot: &(u64, u32)| (lot.0..lot.0 + u64::from(lot.1)).contains(&ino.0);
    if !lots(tx)?.iter().any(is_in) || read::inode(&tx.kv, ino)?.is_some() {
        let detail = format!("inode number {ino} was not reserved, or is in use");
        return Err(WireError::new(ErrorCode::Invalid, detail).into());
    }
    make(tx, ino, (parent, &dir), name, node)?;
    let inode = tx.update_inode(ino, |inode| {
        (inode.atime, inode.mtime) = (at, at);
        (inode.ctime, inode.crtime) = (at, at);
    })?;
    Ok(MutationOk::Entry {
        attr: inode.attr(ino),
        created: true,
    })
}

fn make(
    tx: &mut Tx<'_>,
    ino: Ino,
    (parent, dir): (Ino, &Inode),
    name: &Name,
    node: &NewNode,
) -> Result<MutationOk, ApplyError> {
    let mut inode = new_inode(tx, dir, node)?;
    if node.kind == FileKind::Dir {
        inode.nlink = 2;
        inode.dir = Some(dir_part(parent));
    }
    tx.put_inode(ino, &inode)?;
    dentry::add(tx, parent, name, ino, node.kind, None)?;
    history::settle(tx, parent, name)?;
    let attr = tx.inode(ino)?.attr(ino);
    Ok(MutationOk::Entry {
        attr,
        created: true,
    })
}

fn new_inode(tx: &Tx<'_>, dir: &Inode, node: &NewNode) -> Result<Inode, ApplyError> {
    let is_symlink = node.kind == FileKind::Symlink;
    if is_symlink == node.target.is_empty() {
        let detail = "a symlink needs a target, and nothing else has one";
        return Err(WireError::new(ErrorCode::Invalid, detail).into());
    }
    if node.target.len() > SYMLINK_MAX {
        return Err(ErrorCode::NameTooLong.into());
    }
    let (mode, gid) = node.inherited(dir.mode, dir.gid);
    let mut inode = Inode::new(node.kind, mode, node.uid, gid, tx.now());
    if is_symlink {
        inode.target.clone_from(&node.target);
    }
    if matches!(node.kind, FileKind::BlockDev | FileKind::CharDev) {
        inode.rdev = node.rdev;
    }
    Ok(inode)
}

/// Another name for a non-directory.
pub(super) fn link(
    tx: &mut Tx<'_>,
    ino: Ino,
    parent: Ino,
    name: &Name,
) -> Result<MutationOk, ApplyError> {
    let inode = tx.inode(ino)?;
    if inode.kind == FileKind::Dir {
        return Err(ErrorCode::NotPermitted.into());
    }
    dentry::live_dir(tx, parent)?;
    dentry::allowed_name(name)?;
    if read::dentry(&tx.kv, parent, name)?.is_some() {
        return Err(ErrorCode::Exists.into());
    }
    if inode.nlink == 0 {
        return Err(ErrorCode::NotFound.into());
    }
    if inode.nlink >= LINKS_MAX {
        return Err(ErrorCode::TooManyLinks.into());
    }
    dentry::add(tx, parent, name, ino, inode.kind, None)?;
    history::settle(tx, parent, name)?;
    Ok(MutationOk::Attr(tx.inode(ino)?.attr(ino)))
}

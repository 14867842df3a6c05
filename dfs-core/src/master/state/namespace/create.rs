//! Create, mkdir, mknod, symlink and link.
use super::history;
use super::records::{DirPart, Inode};
use super::tx::Tx;
use super::{FIRST_COOKIE, LINKS_MAX, SYMLINK_MAX, dentry, read};
use crate::master::state::{ApplyError, StateError};
use crate::types::{FileKind, Ino, Name};
use crate::wire::mutation::NewNode;
use crate::wire::{ErrorCode, MutationOk, WireError};

const SETGID: u32 = 0o2000;

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
    let mut inode = new_inode(tx, &dir, node)?;
    if node.kind == FileKind::Dir {
        inode.nlink = 2;
        inode.dir = Some(dir_part(parent));
    }
    let ino = tx.next_ino();
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
    let mut inode = Inode::new(node.kind, node.mode, node.uid, node.gid, tx.now());
    if dir.mode & SETGID != 0 {
        inode.gid = dir.gid;
        if node.kind == FileKind::Dir {
            inode.mode |= SETGID;
        }
    }
    if is_symlink {
        inode.mode = 0o777;
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

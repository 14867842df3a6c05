//! rename(2) with its flags, and what it does to history.
//!
//! * Onto a file: the replaced inode's versions become pins of the target; what the source name
//!   remembered besides the content that moves stays there as deleted history.
//! * Elsewhere (a plain rename): the source's pins go along, behind what the target remembers. They
//!   come back when a new file has the old name and the target is removed (see [`super::moves`]).
//! * EXCHANGE of two files: each side pins what it lost. With anything else on one side, the file's
//!   pins go along as in a plain rename.
use super::dentry;
use super::history;
use super::moves;
use super::read;
use super::records::Dentry;
use super::tx::Tx;
use super::{KEPT, remove, versions};
use crate::master::state::{ApplyError, StateError};
use crate::types::{FileKind, Ino, Name};
use crate::wire::mutation::RenameMode;
use crate::wire::{ErrorCode, MutationOk, WireError};

/// Renames `from` to `to`, each a directory and a name in it.
pub(super) fn rename(
    tx: &mut Tx<'_>,
    from: (Ino, &Name),
    to: (Ino, &Name),
    mode: RenameMode,
) -> Result<MutationOk, ApplyError> {
    dentry::live_dir(tx, from.0)?;
    dentry::live_dir(tx, to.0)?;
    let moved = dentry::existing(tx, from.0, from.1)?;
    dentry::allowed_name(to.1)?;
    let target = read::dentry(&tx.kv, to.0, to.1)?;
    check_flags(target, mode)?;
    let done = |orphan| MutationOk::Renamed {
        moved: moved.ino,
        met: target.map(|t| t.ino),
        orphan,
    };
    if target.is_some_and(|t| t.ino == moved.ino) {
        return Ok(done(None));
    }
    // In the order of rename(2): a directory into itself is that, whatever is there.
    refuse_cycle(tx, moved, to.0)?;
    check_kinds(moved, target, mode)?;
    match target {
        Some(target) if mode == RenameMode::Exchange => {
            refuse_cycle(tx, target, from.0)?;
            exchange(tx, from, to, moved, target)?;
            Ok(done(None))
        }
        Some(target) => {
            let orphan = replace(tx, from, to, moved, target)?;
            Ok(done(orphan))
        }
        None => {
            relocate(tx, from, to, moved, None)?;
            if moved.kind == FileKind::File {
                moves::note(tx, from, to, moved.ino)?;
                history::carry(tx, from, to)?;
            }
            history::settle(tx, from.0, from.1)?;
            history::settle(tx, to.0, to.1)?;
            Ok(done(None))
        }
    }
}

fn check_flags(target: Option<Dentry>, mode: RenameMode) -> Result<(), ApplyError> {
    match (target, mode) {
        (None, RenameMode::Exchange) => Err(ErrorCode::NotFound.into()),
        (Some(_), RenameMode::NoReplace) => Err(ErrorCode::Exists.into()),
        _ => Ok(()),
    }
}

fn check_kinds(moved: Dentry, target: Option<Dentry>, mode: RenameMode) -> Result<(), ApplyError> {
    let is_dir = |d: Dentry| d.kind == FileKind::Dir;
    let refused = match (target, mode) {
        (Some(t), RenameMode::Replace) if is_dir(moved) && !is_dir(t) => ErrorCode::NotDir,
        (Some(t), RenameMode::Replace) if !is_dir(moved) && is_dir(t) => ErrorCode::IsDir,
        _ => return Ok(()),
    };
    Err(refused.into())
}

/// A directory must not move below itself.
fn refuse_cycle(tx: &Tx<'_>, moved: Dentry, into: Ino) -> Result<(), ApplyError> {
    if moved.kind != FileKind::Dir {
        return Ok(());
    }
    #[cfg(feature = "planted")]
    if crate::planted::has(crate::planted::Planted::MovesIntoItself) {
        return Ok(());
    }
    let mut at = into;
    loop {
        if at == moved.ino {
            let detail = "a directory cannot move into itself";
            return Err(WireError::new(ErrorCode::Invalid, detail).into());
        }
        let parent = tx.inode(at)?.dir.map(|part| part.parent);
        match parent {
            Some(parent) if parent != at => at = parent,
            _ => return Ok(()),
        }
    }
}

/// Moves an entry; the target name must be free. `cookie` of the target's entry, if it had one.
fn relocate(
    tx: &mut Tx<'_>,
    from: (Ino, &Name),
    to: (Ino, &Name),
    moved: Dentry,
    cookie: Option<u64>,
) -> Result<(), StateError> {
    dentry::remove(tx, from.0, from.1, moved)?;
    dentry::add(tx, to.0, to.1, moved.ino, moved.kind, cookie)
}

/// Renames over an existing target; answers its inode if that was its last link.
fn replace(
    tx: &mut Tx<'_>,
    from: (Ino, &Name),
    to: (Ino, &Name),
    moved: Dentry,
    target: Dentry,
) -> Result<Option<Ino>, ApplyError> {
    if target.kind == FileKind::Dir {
        remove::remove_dir(tx, to.0, to.1)?;
        relocate(tx, from, to, moved, Some(target.cookie))?;
        return Ok(Some(target.ino));
    }
    let is_file = |d: Dentry| d.kind == FileKind::File;
    if is_file(target) {
        history::pin_lost(tx, to.0, to.1, target.ino, false)?;
    } else if is_file(moved) {
        history::carry(tx, from, to)?;
    }
    let replaced = dentry::remove(tx, to.0, to.1, target)?;
    relocate(tx, from, to, moved, Some(target.cookie))?;
    history::settle(tx, from.0, from.1)?;
    history::settle(tx, to.0, to.1)?;
    versions::trim(tx, target.ino, KEPT)?;
    Ok((replaced.nlink == 0).then_some(target.ino))
}

fn exchange(
    tx: &mut Tx<'_>,
    from: (Ino, &Name),
    to: (Ino, &Name),
    moved: Dentry,
    target: Dentry,
) -> Result<(), StateError> {
    match (moved.kind, target.kind) {
        (FileKind::File, FileKind::File) => {
            history::pin_lost(tx, from.0, from.1, moved.ino, false)?;
            history::pin_lost(tx, to.0, to.1, target.ino, false)?;
        }
        (FileKind::File, _) => history::carry(tx, from, to)?,
        (_, FileKind::File) => history::carry(tx, to, from)?,
        _ => {}
    }
    dentry::remove(tx, from.0, from.1, moved)?;
    dentry::remove(tx, to.0, to.1, target)?;
    dentry::add(
        tx,
        from.0,
        from.1,
        target.ino,
        target.kind,
        Some(moved.cookie),
    )?;
    dentry::add(tx, to.0, to.1, moved.ino, moved.kind, Some(target.cookie))?;
    history::settle(tx, from.0, from.1)?;
    history::settle(tx, to.0, to.1)
}

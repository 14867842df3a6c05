//! History belongs to the name: pins on what it used to be, then the versions of what it is.
//!
//! Invariants (after [`settle`], which every operation ends with for the names it changed):
//! 1. A name shows at most [`super::KEPT`] versions: pins, oldest first, then the live file's window.
//! 2. Display numbers rise strictly along that list; a live file's base is raised to keep it so.
//! 3. A name has no pin on the inode it is: that inode shows its own versions.
//! 4. `deleted` is set iff there are pins and the name is no regular file now.
//! 5. A pinned version is sealed, so what is pinned does not change.
//! 6. An inode's `pins` is the number of pins on it over all names.
use super::read;
use super::records::{Inode, NameHistory, Pin, VersionRec};
use super::tx::Tx;
use super::versions;
use super::{KEPT, keys};
use crate::master::state::StateError;
use crate::store::KvRead;
use crate::types::{FileKind, Ino, Name, VersionNo};

/// The record of a name, empty if it has none.
pub(super) fn record(kv: &dyn KvRead, dir: Ino, name: &Name) -> Result<NameHistory, StateError> {
    Ok(read::history(kv, dir, name)?.unwrap_or_default())
}

/// Appends what a name is losing to its pins: the file's window, sealed. With `empty_too` a file that
/// was never written is remembered as well (internal version 0).
pub(super) fn pin_lost(
    tx: &mut Tx<'_>,
    dir: Ino,
    name: &Name,
    ino: Ino,
    empty_too: bool,
) -> Result<(), StateError> {
    let inode = read::known_inode(&tx.kv, ino)?;
    let mut lost = read::window(&tx.kv, ino)?;
    if lost.is_empty() && empty_too && inode.version.0 == 0 {
        let kept = read::version(&tx.kv, ino, VersionNo(0))?;
        lost.push(kept.unwrap_or_else(|| VersionRec::newest(&inode, 0)));
    }
    if lost.is_empty() {
        return Ok(());
    }
    let mut rec = record(&tx.kv, dir, name)?;
    for mut version in lost {
        let least = rec.pins.last().map_or(1, |p| p.display + 1);
        rec.pins.push(Pin {
            ino,
            version: version.no,
            display: inode.display(version.no).max(least),
        });
        version.pins += 1;
        tx.put_version(ino, &version);
        tx.update_inode(ino, |i| {
            i.pins += 1;
            i.open = None;
        })?;
    }
    tx.put_history(dir, name, &rec)
}

/// Takes one pin from a version and drops what nothing keeps any more.
fn unpin(tx: &mut Tx<'_>, pin: Pin) -> Result<(), StateError> {
    let key = keys::version(pin.ino, pin.version);
    let mut rec = read::version(&tx.kv, pin.ino, pin.version)?
        .ok_or_else(|| read::broken("version", &key))?;
    rec.pins = rec.pins.saturating_sub(1);
    tx.put_version(pin.ino, &rec);
    tx.update_inode(pin.ino, |i| i.pins = i.pins.saturating_sub(1))?;
    if rec.pins == 0 {
        versions::trim(tx, pin.ino, KEPT)?;
    }
    Ok(())
}

/// Makes a name's record true again after its entry, its pins or its file's versions changed.
pub(super) fn settle(tx: &mut Tx<'_>, dir: Ino, name: &Name) -> Result<(), StateError> {
    let Some(mut rec) = read::history(&tx.kv, dir, name)? else {
        return Ok(());
    };
    let live = read::dentry(&tx.kv, dir, name)?.filter(|d| d.kind == FileKind::File);
    let mut shown = 0;
    let mut dropped = Vec::new();
    if let Some(live) = live {
        // The pins' versions stay as long as the window holds them: the link is there already.
        dropped.extend(rec.pins.iter().filter(|p| p.ino == live.ino).copied());
        rec.pins.retain(|p| p.ino != live.ino);
        shown = read::window(&tx.kv, live.ino)?.len();
    }
    let excess = (rec.pins.len() + shown).saturating_sub(KEPT);
    dropped.extend(rec.pins.drain(..excess.min(rec.pins.len())));
    let last = rec.pins.last().map(|p| p.display);
    rec.deleted = match live {
        None if last.is_some() => rec.deleted.or(Some(tx.at)),
        _ => None,
    };
    tx.put_history(dir, name, &rec)?;
    if let (Some(live), Some(last)) = (live, last) {
        raise_base(tx, live.ino, last)?;
    }
    for pin in dropped {
        unpin(tx, pin)?;
    }
    Ok(())
}

/// Raises an inode's display base so that its oldest version shows above `last`.
fn raise_base(tx: &mut Tx<'_>, ino: Ino, last: u64) -> Result<(), StateError> {
    let oldest = read::window(&tx.kv, ino)?
        .first()
        .map_or(VersionNo(1), |rec| rec.no);
    let inode = read::known_inode(&tx.kv, ino)?;
    if inode.display(oldest) <= last {
        tx.update_inode(ino, |i| i.display_base = last + 1 - oldest.0)?;
        tx.touch(ino, false, false);
    }
    Ok(())
}

/// Moves all pins of one name behind those of another (a plain rename); neither is settled yet.
pub(super) fn carry(
    tx: &mut Tx<'_>,
    from: (Ino, &Name),
    to: (Ino, &Name),
) -> Result<(), StateError> {
    let mut source = record(&tx.kv, from.0, from.1)?;
    if source.pins.is_empty() {
        return Ok(());
    }
    let mut target = record(&tx.kv, to.0, to.1)?;
    let first = source.pins.first().map_or(0, |p| p.display);
    let last = target.pins.last().map_or(0, |p| p.display);
    let shift = (last + 1).saturating_sub(first);
    target.pins.extend(source.pins.drain(..).map(|p| Pin {
        display: p.display + shift,
        ..p
    }));
    source.deleted = None;
    // The target's record first, so that a directory never looks empty in between.
    tx.put_history(to.0, to.1, &target)?;
    tx.put_history(from.0, from.1, &source)
}

/// Drops one pin of a name, if it is there.
pub(super) fn drop_pin(
    tx: &mut Tx<'_>,
    (dir, name): (Ino, &Name),
    (ino, version): (Ino, VersionNo),
) -> Result<(), StateError> {
    let mut rec = record(&tx.kv, dir, name)?;
    let is_it = |pin: &Pin| pin.ino == ino && pin.version == version;
    let dropped: Vec<Pin> = rec.pins.iter().copied().filter(is_it).collect();
    rec.pins.retain(|pin| !is_it(pin));
    tx.put_history(dir, name, &rec)?;
    for pin in dropped {
        unpin(tx, pin)?;
    }
    Ok(())
}

/// Drops all pins of a name at once.
pub(super) fn forget(tx: &mut Tx<'_>, dir: Ino, name: &Name) -> Result<(), StateError> {
    let Some(mut rec) = read::history(&tx.kv, dir, name)? else {
        return Ok(());
    };
    let pins = std::mem::take(&mut rec.pins);
    rec.deleted = None;
    tx.put_history(dir, name, &rec)?;
    for pin in pins {
        unpin(tx, pin)?;
    }
    Ok(())
}

/// Lets the names of an inode make room for its new version.
pub(super) fn make_room(tx: &mut Tx<'_>, ino: Ino, inode: &Inode) -> Result<(), StateError> {
    if inode.nlink == 0 {
        return Ok(());
    }
    for (dir, name) in read::links(&tx.kv, ino, usize::MAX)? {
        settle(tx, dir, &name)?;
    }
    Ok(())
}

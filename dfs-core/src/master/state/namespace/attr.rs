//! setattr and extended attributes.
use super::keys;
use super::read;
use super::tx::Tx;
use super::{XATTR_KEY_MAX, XATTR_TOTAL_MAX, XATTR_VALUE_MAX};
use crate::master::state::ApplyError;
use crate::store::{Kv, KvRead};
use crate::types::{FileKind, Ino, SetTime, Timestamp, without_suid};
use crate::wire::mutation::{ACCESSED_MAX, XattrMode};
use crate::wire::{ErrorCode, MutationOk, WireError};

/// The time that a request means.
pub(super) fn resolve(tx: &Tx<'_>, time: SetTime) -> Timestamp {
    match time {
        SetTime::Now => tx.now(),
        SetTime::At(time) => time,
    }
}

/// What a setattr changes.
pub(super) struct Wanted {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// chmod, chown, utimens.
pub(super) fn set_attr(
    tx: &mut Tx<'_>,
    ino: Ino,
    wanted: &Wanted,
) -> Result<MutationOk, ApplyError> {
    let mut inode = tx.inode(ino)?;
    if (wanted.uid.is_some() || wanted.gid.is_some()) && inode.kind != FileKind::Dir {
        inode.mode = without_suid(inode.mode);
    }
    inode.uid = wanted.uid.unwrap_or(inode.uid);
    inode.gid = wanted.gid.unwrap_or(inode.gid);
    if let Some(mode) = wanted.mode {
        inode.mode = mode & 0o7777;
    }
    if let Some(time) = wanted.atime {
        inode.atime = resolve(tx, time);
    }
    if let Some(time) = wanted.mtime {
        inode.mtime = resolve(tx, time);
    }
    inode.ctime = tx.now().max(inode.ctime);
    tx.put_inode(ino, &inode)?;
    tx.touch(ino, false, false);
    Ok(MutationOk::Attr(inode.attr(ino)))
}

/// Moves access times. No other time moves and nobody is told: who has the attributes cached sees
/// it with the next change.
pub(super) fn accessed(
    tx: &mut Tx<'_>,
    times: &[(Ino, Timestamp)],
) -> Result<MutationOk, ApplyError> {
    if times.len() > ACCESSED_MAX {
        let detail = "too many access times in one mutation";
        return Err(WireError::new(ErrorCode::BadRequest, detail).into());
    }
    for (ino, time) in times {
        let Some(mut inode) = read::inode(&tx.kv, *ino)? else {
            continue;
        };
        if inode.attr(*ino).is_accessed_at(*time) {
            inode.atime = *time;
            tx.put_inode(*ino, &inode)?;
        }
    }
    Ok(MutationOk::Done)
}

/// Sets an extended attribute.
pub(super) fn set_xattr(
    tx: &mut Tx<'_>,
    ino: Ino,
    (key, value): (&[u8], &[u8]),
    mode: XattrMode,
) -> Result<MutationOk, ApplyError> {
    let mut inode = tx.inode(ino)?;
    if key.is_empty() || key.len() > XATTR_KEY_MAX || key.contains(&0) {
        let detail = "an attribute's name has 1 to 255 bytes, none of them 0";
        return Err(WireError::new(ErrorCode::Invalid, detail).into());
    }
    if value.len() > XATTR_VALUE_MAX {
        let detail = "an attribute's value has at most 64 KiB";
        return Err(WireError::new(ErrorCode::TooBig, detail).into());
    }
    let stored = keys::xattr(ino, key);
    let old = tx.kv.get(&stored)?;
    match (&old, mode) {
        (Some(_), XattrMode::Create) => return Err(ErrorCode::Exists.into()),
        (None, XattrMode::Replace) => return Err(ErrorCode::NoData.into()),
        _ => {}
    }
    let freed = old.as_ref().map_or(0, |v| key.len() + v.len());
    let total = inode.xattr_bytes - freed as u64 + (key.len() + value.len()) as u64;
    if total > XATTR_TOTAL_MAX {
        let detail = "an inode's attributes have at most 1 MiB in all";
        return Err(WireError::new(ErrorCode::NoSpace, detail).into());
    }
    inode.xattr_bytes = total;
    inode.xattrs += u32::from(old.is_none());
    inode.ctime = tx.now().max(inode.ctime);
    tx.kv.put(stored, value.to_vec());
    tx.put_inode(ino, &inode)?;
    tx.touch(ino, false, false);
    Ok(MutationOk::Attr(inode.attr(ino)))
}

/// Removes an extended attribute.
pub(super) fn remove_xattr(
    tx: &mut Tx<'_>,
    ino: Ino,
    key: &[u8],
) -> Result<MutationOk, ApplyError> {
    let mut inode = tx.inode(ino)?;
    let stored = keys::xattr(ino, key);
    // An empty key would address the whole inode's range, where nothing is stored.
    let Some(old) = tx.kv.get(&stored)? else {
        return Err(ErrorCode::NoData.into());
    };
    inode.xattr_bytes -= (key.len() + old.len()) as u64;
    inode.xattrs -= 1;
    inode.ctime = tx.now().max(inode.ctime);
    tx.kv.delete(&stored);
    tx.put_inode(ino, &inode)?;
    tx.touch(ino, false, false);
    Ok(MutationOk::Attr(inode.attr(ino)))
}

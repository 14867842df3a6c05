//! What goes when space runs short: names deleted first, then old versions, the oldest first.
//!
//! The leader looks for it ([`deleted_bytes`], [`old_versions`]) and proposes what it found; applying
//! checks again, so that nothing goes that has become the newest content of a name meanwhile.
//!
//! Bytes are at most what is freed: versions share what did not change between them.
use super::records::{NameHistory, VersionRec};
use super::tx::Tx;
use super::{history, keys, read, remove, versions};
use crate::master::command::OldVersion;
use crate::master::state::StateError;
use crate::store::{KvRead, prefix_end};
use crate::types::{FileKind, Ino, Time, Timestamp, VersionNo};

/// An old version as the search finds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aged {
    /// When its content was written.
    pub at: Timestamp,
    /// Which.
    pub which: OldVersion,
    /// Bytes of it, at most what is freed.
    pub bytes: u64,
}

/// A page of the search.
#[derive(Debug, Clone, Default)]
pub struct AgedPage {
    /// Old versions that nothing else keeps.
    pub found: Vec<Aged>,
    /// Where to go on; `None` at the end.
    pub after: Option<Vec<u8>>,
}

/// Drops the `names` names that were deleted first, then `old`.
pub(super) fn free(tx: &mut Tx<'_>, names: u32, old: &[OldVersion]) -> Result<(), StateError> {
    if names > 0 {
        remove::trim(tx, Time(u64::MAX), 0, names)?;
    }
    for which in old {
        match which {
            OldVersion::Window { ino, version } => drop_window(tx, *ino, *version)?,
            OldVersion::Pin {
                dir,
                name,
                ino,
                version,
            } => {
                let is_deleted = read::history(&tx.kv, *dir, name)?
                    .is_none_or(|rec: NameHistory| rec.deleted.is_some());
                if !is_deleted {
                    history::drop_pin(tx, (*dir, name), (*ino, *version))?;
                }
            }
        }
    }
    Ok(())
}

/// Drops an inode's versions up to this one; never the newest.
fn drop_window(tx: &mut Tx<'_>, ino: Ino, upto: VersionNo) -> Result<(), StateError> {
    let newer = read::versions(&tx.kv, ino)?
        .iter()
        .filter(|rec| rec.no > upto)
        .count();
    versions::trim(tx, ino, newer.max(1))?;
    if read::inode(&tx.kv, ino)?.is_some() {
        tx.touch(ino, false, false);
    }
    Ok(())
}

/// Bytes of the names deleted first, in that order, at most `limit` of them.
pub(super) fn deleted_bytes(kv: &dyn KvRead, limit: usize) -> Result<Vec<u64>, StateError> {
    let mut all = Vec::new();
    for (key, _) in kv.scan(keys::DELETED, &prefix_end(keys::DELETED), limit)? {
        let at = keys::DELETED.len();
        let dir = keys::u64_at(&key, at + 8).ok_or_else(|| read::broken("deleted", &key))?;
        let name = keys::name_at(&key, at + 16).ok_or_else(|| read::broken("deleted", &key))?;
        let rec = history::record(kv, Ino(dir), &name)?;
        let mut bytes = 0;
        for pin in rec.pins {
            let inode = read::known_inode(kv, pin.ino)?;
            let facts = versions::facts(kv, pin.ino, &inode, pin.version)?;
            // A version that others keep frees nothing.
            bytes += facts.filter(|f| f.pins <= 1).map_or(0, |f| f.size);
        }
        all.push(bytes);
    }
    Ok(all)
}

/// Old versions of files with names, and what live names used to be: those in `rows` rows after
/// `after`.
pub(super) fn old_versions(
    kv: &dyn KvRead,
    after: Option<&[u8]>,
    rows: usize,
) -> Result<AgedPage, StateError> {
    let mut page = AgedPage::default();
    let tables = [keys::HISTORIES, keys::VERSIONS];
    let mut left = rows;
    for table in tables {
        let end = prefix_end(table);
        let from = match after {
            Some(after) if after >= end.as_slice() => continue,
            Some(after) if after.starts_with(table) => read::after(after),
            _ => table.to_vec(),
        };
        let pairs = kv.scan(&from, &end, left)?;
        for (key, value) in &pairs {
            if table == keys::HISTORIES {
                pins_of(kv, key, value, &mut page.found)?;
            } else {
                page.found.extend(window_of(kv, key, value)?);
            }
        }
        left -= pairs.len();
        if left == 0 {
            page.after = pairs.last().map(|(key, _)| key.clone());
            return Ok(page);
        }
    }
    Ok(page)
}

fn pins_of(
    kv: &dyn KvRead,
    key: &[u8],
    value: &[u8],
    found: &mut Vec<Aged>,
) -> Result<(), StateError> {
    let rec: NameHistory = read::decode("history", key, value)?;
    let at = keys::HISTORIES.len();
    let (Some(dir), Some(name)) = (keys::u64_at(key, at), keys::name_at(key, at + 8)) else {
        return Err(read::broken("history", key));
    };
    if rec.deleted.is_some() {
        return Ok(()); // goes with its name
    }
    for pin in rec.pins {
        let inode = read::known_inode(kv, pin.ino)?;
        let Some(facts) = versions::facts(kv, pin.ino, &inode, pin.version)? else {
            continue;
        };
        if facts.pins <= 1 {
            found.push(Aged {
                at: facts.mtime,
                which: OldVersion::Pin {
                    dir: Ino(dir),
                    name: name.clone(),
                    ino: pin.ino,
                    version: pin.version,
                },
                bytes: facts.size,
            });
        }
    }
    Ok(())
}

fn window_of(kv: &dyn KvRead, key: &[u8], value: &[u8]) -> Result<Option<Aged>, StateError> {
    let rec: VersionRec = read::decode("version", key, value)?;
    let ino =
        keys::u64_at(key, keys::VERSIONS.len()).ok_or_else(|| read::broken("version", key))?;
    if rec.pins > 0 {
        return Ok(None);
    }
    let inode = read::inode(kv, Ino(ino))?;
    let is_old =
        |i: &super::records::Inode| i.kind == FileKind::File && i.nlink > 0 && rec.no != i.version;
    Ok(inode.filter(is_old).map(|_| Aged {
        at: rec.mtime,
        which: OldVersion::Window {
            ino: Ino(ino),
            version: rec.no,
        },
        bytes: rec.size,
    }))
}

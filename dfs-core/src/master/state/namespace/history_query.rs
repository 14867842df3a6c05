//! What `.versions` shows: a name's history, and the names that have one.
//!
//! A file that was never written has no entry of its own; a name that is such a file shows only what
//! it was before. A deleted one is listed (internal version 0, empty), so that it can be undeleted.
use super::keys;
use super::query;
use super::read::{self, QueryError};
use super::records::{Dentry, Inode, NameHistory};
use super::versions;
use crate::store::{KvRead, prefix_end};
use crate::types::{FileKind, Ino, Name, Timestamp, VersionInfo, VersionNo};
use crate::wire::{ErrorCode, QueryAnswer};
use std::collections::BTreeMap;

/// Names of one answer at most.
const NAMES_MAX: u32 = 4096;
/// Entries looked at in one go.
const PAGE: usize = 256;

/// The versions of a name, newest first.
///
/// A version of an inode that the name no longer is shows that inode's owner: whoever replaces a
/// file does not come to own what it was.
pub(super) fn history(
    kv: &dyn KvRead,
    parent: Ino,
    name: &Name,
) -> Result<QueryAnswer, QueryError> {
    query::directory(kv, parent)?;
    let rec = read::history(kv, parent, name)?.unwrap_or_default();
    let entry = read::dentry(kv, parent, name)?;
    let live = match entry.filter(|d| d.kind == FileKind::File) {
        Some(d) => Some((d.ino, read::known_inode(kv, d.ino)?)),
        None => None,
    };
    if entry.is_none() && rec.pins.is_empty() {
        return Err(ErrorCode::NotFound.into());
    }
    let mask = live.as_ref().map_or(0o444, |(_, inode)| inode.mode & 0o444);
    let deleted_at = rec.deleted.map(Timestamp::from_log_time);
    let mut found = Vec::new();
    for pin in &rec.pins {
        let inode = read::known_inode(kv, pin.ino)?;
        let shown = (pin.version, pin.display);
        let mut info = describe(kv, pin.ino, &inode, shown)?;
        info.mode &= mask;
        info.deleted_at = deleted_at;
        found.push(info);
    }
    if let Some((ino, inode)) = live {
        for version in read::window(kv, ino)? {
            let shown = (version.no, inode.display(version.no));
            let mut info = describe(kv, ino, &inode, shown)?;
            info.is_current = version.no == inode.version;
            found.push(info);
        }
    }
    found.reverse();
    Ok(QueryAnswer::History(found))
}

fn describe(
    kv: &dyn KvRead,
    ino: Ino,
    inode: &Inode,
    (no, display): (VersionNo, u64),
) -> Result<VersionInfo, QueryError> {
    let facts = versions::facts(kv, ino, inode, no)?;
    let facts = facts.ok_or_else(|| read::broken("version", &keys::version(ino, no)))?;
    Ok(VersionInfo {
        version: VersionNo(display),
        ino,
        inode_version: no,
        revision: facts.revision,
        size: facts.size,
        mtime: facts.mtime,
        mode: facts.mode & inode.mode & 0o444,
        uid: inode.uid,
        gid: inode.gid,
        is_current: false,
        deleted_at: None,
    })
}

/// Names of a directory that have history, ascending; true with those that are deleted.
pub(super) fn names(
    kv: &dyn KvRead,
    dir: Ino,
    after: Option<&Name>,
    limit: u32,
) -> Result<QueryAnswer, QueryError> {
    query::directory(kv, dir)?;
    let limit = limit.clamp(1, NAMES_MAX) as usize;
    let mut found: Vec<(Name, bool)> = Vec::new();
    let mut after: Vec<u8> = after.map(|n| n.as_bytes().to_vec()).unwrap_or_default();
    while found.len() < limit {
        let (page, last) = page(kv, dir, &after)?;
        for (name, (entry, rec)) in page {
            let is_file = entry.is_some_and(|d| d.kind == FileKind::File);
            let has_pins = rec.is_some_and(|rec| !rec.pins.is_empty());
            let is_written = match entry.filter(|_| is_file) {
                Some(entry) => read::known_inode(kv, entry.ino)?.version.0 > 0,
                None => false,
            };
            if has_pins || is_written {
                found.push((name, !is_file));
            }
        }
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    found.truncate(limit);
    Ok(QueryAnswer::Names(found))
}

type Known = (Option<Dentry>, Option<NameHistory>);
type Page = (BTreeMap<Name, Known>, Option<Vec<u8>>);

/// Entries and history records of the next names, and the last of those names unless it is the end.
fn page(kv: &dyn KvRead, dir: Ino, after: &[u8]) -> Result<Page, QueryError> {
    let mut found: BTreeMap<Name, Known> = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    for prefix in [keys::dentries_of(dir), keys::histories_of(dir)] {
        let from = read::after(&[prefix.as_slice(), after].concat());
        let pairs = kv.scan(&from, &prefix_end(&prefix), PAGE)?;
        let is_full = pairs.len() == PAGE;
        for (key, value) in &pairs {
            let name = keys::name_at(key, prefix.len());
            let name = name.ok_or_else(|| read::broken("name", key))?;
            let known = found.entry(name).or_default();
            if prefix.starts_with(keys::DENTRIES) {
                known.0 = Some(read::decode("dentry", key, value)?);
            } else {
                known.1 = Some(read::decode("history", key, value)?);
            }
        }
        if let Some((key, _)) = pairs.last().filter(|_| is_full) {
            let end = key[prefix.len()..].to_vec();
            last = Some(last.map_or(end.clone(), |seen| seen.min(end)));
        }
    }
    if let Some(last) = &last {
        // Beyond it one of the two tables has not been read yet.
        found.retain(|name, _| name.as_bytes() <= last.as_slice());
    }
    Ok((found, last))
}

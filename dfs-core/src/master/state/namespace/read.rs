//! Typed reads of the namespace tables.
use super::keys;
use super::records::{Dentry, Inode, Meta, NameHistory, VersionRec};
use crate::master::state::StateError;
use crate::store::kv::{KvPair, prefix_end};
use crate::store::{KvError, KvRead};
use crate::types::{ChunkNo, Extent, FileKind, Ino, Name, VersionNo};
use serde::de::DeserializeOwned;

/// Pairs read at a time by [`for_each`].
const PAGE: usize = 256;

/// A tables' entry that makes no sense.
pub(super) fn broken(table: &'static str, key: &[u8]) -> StateError {
    StateError::Decode {
        table,
        key: key.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

/// Decodes a stored value.
pub(super) fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: &[u8],
    value: &[u8],
) -> Result<T, StateError> {
    postcard::from_bytes(value).map_err(|_| broken(table, key))
}

/// The value of a key, decoded.
pub(super) fn get<T: DeserializeOwned>(
    kv: &dyn KvRead,
    table: &'static str,
    key: &[u8],
) -> Result<Option<T>, StateError> {
    match kv.get(key)? {
        Some(value) => decode(table, key, &value).map(Some),
        None => Ok(None),
    }
}

/// Calls `f` for every pair below `prefix`, ascending, until it answers false.
pub(super) fn for_each(
    kv: &dyn KvRead,
    prefix: &[u8],
    mut f: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
) -> Result<(), StateError> {
    for_each_in(kv, prefix, &prefix_end(prefix), &mut f)
}

/// Calls `f` for every pair with `from <= key < to`, ascending, until it answers false.
pub(super) fn for_each_in(
    kv: &dyn KvRead,
    from: &[u8],
    to: &[u8],
    mut f: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
) -> Result<(), StateError> {
    let mut from = from.to_vec();
    loop {
        let page = kv.scan(&from, to, PAGE)?;
        for (key, value) in &page {
            if !f(key, value)? {
                return Ok(());
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = after(key),
            _ => return Ok(()),
        }
    }
}

/// All pairs below `prefix`, ascending.
pub(super) fn all(kv: &dyn KvRead, prefix: &[u8]) -> Result<Vec<KvPair>, StateError> {
    let mut found = Vec::new();
    for_each(kv, prefix, |k, v| {
        found.push((k.to_vec(), v.to_vec()));
        Ok(true)
    })?;
    Ok(found)
}

/// The smallest key above `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

pub(super) fn meta(kv: &dyn KvRead) -> Result<Meta, StateError> {
    Ok(get(kv, "meta", keys::META)?.unwrap_or_default())
}

pub(super) fn inode(kv: &dyn KvRead, ino: Ino) -> Result<Option<Inode>, StateError> {
    get(kv, "inode", &keys::inode(ino))
}

/// An inode that another table says exists.
pub(super) fn known_inode(kv: &dyn KvRead, ino: Ino) -> Result<Inode, StateError> {
    inode(kv, ino)?.ok_or_else(|| broken("inode", &keys::inode(ino)))
}

pub(super) fn dentry(kv: &dyn KvRead, dir: Ino, name: &Name) -> Result<Option<Dentry>, StateError> {
    get(kv, "dentry", &keys::dentry(dir, name))
}

pub(super) fn history(
    kv: &dyn KvRead,
    dir: Ino,
    name: &Name,
) -> Result<Option<NameHistory>, StateError> {
    get(kv, "history", &keys::history(dir, name))
}

pub(super) fn version(
    kv: &dyn KvRead,
    ino: Ino,
    no: VersionNo,
) -> Result<Option<VersionRec>, StateError> {
    get(kv, "version", &keys::version(ino, no))
}

/// Every kept version of an inode, oldest first.
pub(super) fn versions(kv: &dyn KvRead, ino: Ino) -> Result<Vec<VersionRec>, StateError> {
    let pairs = all(kv, &keys::versions_of(ino))?;
    let decoded = pairs.iter().map(|(k, v)| decode("version", k, v));
    decoded.collect()
}

/// The versions that names of a live inode show: its newest [`super::KEPT`], oldest first.
pub(super) fn window(kv: &dyn KvRead, ino: Ino) -> Result<Vec<VersionRec>, StateError> {
    let from = keys::version(ino, VersionNo(1));
    let to = prefix_end(&keys::versions_of(ino));
    let pairs = kv.scan_back(&from, &to, super::KEPT)?;
    let decoded = pairs.iter().rev().map(|(k, v)| decode("version", k, v));
    decoded.collect()
}

/// The row that holds a chunk's content at a version: the newest one not above it.
pub(super) fn row_at(
    kv: &dyn KvRead,
    ino: Ino,
    chunk: ChunkNo,
    version: VersionNo,
) -> Result<Option<(VersionNo, Vec<Extent>)>, StateError> {
    let from = keys::rows_of_chunk(ino, chunk);
    let to = after(&keys::row(ino, chunk, version));
    let Some((key, value)) = kv.scan_back(&from, &to, 1)?.pop() else {
        return Ok(None);
    };
    let no = keys::u64_at(&key, from.len()).ok_or_else(|| broken("row", &key))?;
    Ok(Some((VersionNo(no), decode("row", &key, &value)?)))
}

/// The contents of chunks `first..=last` at a version, holes left out, ascending.
pub(super) fn rows_at(
    kv: &dyn KvRead,
    ino: Ino,
    version: VersionNo,
    first: ChunkNo,
    last: ChunkNo,
) -> Result<Vec<(ChunkNo, Vec<Extent>)>, StateError> {
    let end = prefix_end(&keys::rows_of_chunk(ino, last));
    let mut from = keys::rows_of_chunk(ino, first);
    let at = keys::rows_of(ino).len();
    let mut found: Vec<(ChunkNo, Vec<Extent>)> = Vec::new();
    loop {
        let page = kv.scan(&from, &end, PAGE)?;
        for (key, value) in &page {
            let (Some(chunk), Some(no)) = (keys::u32_at(key, at), keys::u64_at(key, at + 4)) else {
                return Err(broken("row", key));
            };
            if no > version.0 {
                continue;
            }
            let extents = decode("row", key, value)?;
            match found.last_mut() {
                Some((seen, newest)) if seen.0 == chunk => *newest = extents,
                _ => found.push((ChunkNo(chunk), extents)),
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = after(key),
            _ => break,
        }
    }
    found.retain(|(_, extents)| !extents.is_empty());
    Ok(found)
}

/// The first chunk behind `chunk` that has a row at any version.
pub(super) fn row_after(
    kv: &dyn KvRead,
    ino: Ino,
    chunk: ChunkNo,
) -> Result<Option<ChunkNo>, StateError> {
    let prefix = keys::rows_of(ino);
    let from = prefix_end(&keys::rows_of_chunk(ino, chunk));
    let found = kv.scan(&from, &prefix_end(&prefix), 1)?;
    let Some((key, _)) = found.first() else {
        return Ok(None);
    };
    let no = keys::u32_at(key, prefix.len()).ok_or_else(|| broken("row", key))?;
    Ok(Some(ChunkNo(no)))
}

/// Names of an inode: `(directory, name)`, in key order, at most `limit`.
pub(super) fn links(
    kv: &dyn KvRead,
    ino: Ino,
    limit: usize,
) -> Result<Vec<(Ino, Name)>, StateError> {
    let prefix = keys::links_of(ino);
    let pairs = kv.scan(&prefix, &prefix_end(&prefix), limit)?;
    let parse = |(key, _): &KvPair| {
        let dir = keys::u64_at(key, prefix.len());
        let name = keys::name_at(key, prefix.len() + 8);
        dir.zip(name)
            .map(|(dir, name)| (Ino(dir), name))
            .ok_or_else(|| broken("link", key))
    };
    pairs.iter().map(parse).collect()
}

/// One page of a directory: entries with cookie > `after`.
pub(super) fn entries(
    kv: &dyn KvRead,
    dir: Ino,
    after_cookie: u64,
    limit: usize,
) -> Result<Vec<(u64, Name, Ino, FileKind)>, StateError> {
    let prefix = keys::cookies_of(dir);
    let from = after(&keys::cookie(dir, after_cookie));
    let pairs = kv.scan(&from, &prefix_end(&prefix), limit)?;
    let parse = |(key, value): &KvPair| {
        let cookie = keys::u64_at(key, prefix.len()).ok_or_else(|| broken("cookie", key))?;
        let (name, ino, kind) = decode("cookie", key, value)?;
        Ok((cookie, name, ino, kind))
    };
    pairs.iter().map(parse).collect()
}

/// Bytes that a row's extents cover.
pub(super) fn covered(extents: &[Extent]) -> u64 {
    extents.iter().map(|e| u64::from(e.len)).sum()
}

/// Table errors as they are told to a client that only asked.
pub(super) fn unreadable(e: &StateError) -> crate::wire::WireError {
    crate::wire::WireError::new(crate::wire::ErrorCode::Internal, e.to_string())
}

impl From<StateError> for QueryError {
    fn from(e: StateError) -> Self {
        Self(unreadable(&e))
    }
}
impl From<KvError> for QueryError {
    fn from(e: KvError) -> Self {
        Self(unreadable(&StateError::Kv(e)))
    }
}
impl From<crate::wire::ErrorCode> for QueryError {
    fn from(code: crate::wire::ErrorCode) -> Self {
        Self(code.into())
    }
}
impl From<crate::wire::WireError> for QueryError {
    fn from(e: crate::wire::WireError) -> Self {
        Self(e)
    }
}

/// A refused or failed query: carries what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueryError(pub crate::wire::WireError);

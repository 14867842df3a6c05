//! What a namespace snapshot says of inodes and names, without a running master.
use super::keys;
use super::read;
use crate::master::state::StateError;
use crate::store::KvRead;
use crate::types::{Attr, ChunkNo, Extent, Ino, Name, ObjectId};
use std::collections::BTreeSet;
use std::ops::Range;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Attributes.
    pub attr: Attr,
    /// Of a symlink.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The inode number that the next new inode would have had.
///
/// # Errors
/// [`StateError`] when the rows are broken; so for all of these.
pub fn next_ino(kv: &dyn KvRead) -> Result<Ino, StateError> {
    Ok(Ino(read::meta(kv)?.next_ino))
}

/// Numbers below that which may have been used since: sessions had reserved them.
pub fn reserved_inos(kv: &dyn KvRead) -> Result<Vec<Range<Ino>>, StateError> {
    let mut found = Vec::new();
    read::for_each(kv, keys::RESERVED, |key, value| {
        let lots: Vec<(u64, u32)> = read::decode("reserved", key, value)?;
        let range = |(first, count): (u64, u32)| Ino(first)..Ino(first + u64::from(count));
        found.extend(lots.into_iter().map(range));
        Ok(true)
    })?;
    Ok(found)
}

/// All inodes, ascending: those without a name too.
pub fn all_inos(kv: &dyn KvRead) -> Result<Vec<Ino>, StateError> {
    let mut found = Vec::new();
    read::for_each(kv, keys::INODES, |key, _| {
        let ino = keys::u64_at(key, keys::INODES.len());
        found.push(Ino(ino.ok_or_else(|| read::broken("inode", key))?));
        Ok(true)
    })?;
    Ok(found)
}

/// An inode, if it is there.
pub fn node(kv: &dyn KvRead, ino: Ino) -> Result<Option<NodeRecord>, StateError> {
    let Some(inode) = read::inode(kv, ino)? else {
        return Ok(None);
    };
    let prefix = keys::xattrs_of(ino);
    let xattrs = read::all(kv, &prefix)?;
    let name = |(key, value): (Vec<u8>, Vec<u8>)| (key[prefix.len()..].to_vec(), value);
    Ok(Some(NodeRecord {
        attr: inode.attr(ino),
        target: inode.target,
        xattrs: xattrs.into_iter().map(name).collect(),
    }))
}

/// Names in a directory, in their order.
pub fn names(kv: &dyn KvRead, dir: Ino) -> Result<Vec<(Name, Ino)>, StateError> {
    let prefix = keys::dentries_of(dir);
    let mut found = Vec::new();
    read::for_each(kv, &prefix, |key, value| {
        let name = keys::name_at(key, prefix.len()).ok_or_else(|| read::broken("dentry", key))?;
        let dentry: super::records::Dentry = read::decode("dentry", key, value)?;
        found.push((name, dentry.ino));
        Ok(true)
    })?;
    Ok(found)
}

/// The current content: extents by chunk, ascending.
pub fn content(kv: &dyn KvRead, ino: Ino) -> Result<Vec<(ChunkNo, Vec<Extent>)>, StateError> {
    let Some(inode) = read::inode(kv, ino)? else {
        return Ok(Vec::new());
    };
    read::rows_at(kv, ino, inode.version, ChunkNo(0), ChunkNo(u32::MAX))
}

/// Objects that any version of the inode refers to.
pub fn objects(kv: &dyn KvRead, ino: Ino) -> Result<BTreeSet<ObjectId>, StateError> {
    let mut found = BTreeSet::new();
    read::for_each(kv, &keys::rows_of(ino), |key, value| {
        let extents: Vec<Extent> = read::decode("row", key, value)?;
        found.extend(extents.iter().map(|extent| extent.object));
        Ok(true)
    })?;
    Ok(found)
}

//! Views: what a placement group holds, and which inodes some groups hold.
use super::keys;
use super::read;
use super::walk;
use crate::master::state::StateError;
use crate::store::{KvRead, prefix_end};
use crate::types::{ChunkNo, Extent, Ino, ObjectId, ObjectSum, PgId, PgMap, pg_of};
use crate::wire::master::{GroupBytes, PgRow, SharedBytes};
use std::collections::{BTreeMap, BTreeSet};

/// An inode, one of its paths, and its size in bytes.
pub type InodePath = (Ino, Vec<u8>, u64);

/// Rows of a PG after `(inode, chunk)`, ascending, at most `limit`; true at the end. A row lists every
/// object in this PG that any kept version of the chunk refers to; the home chunk's also the stamp.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn pg_rows(
    kv: &dyn KvRead,
    map: &PgMap,
    pg: PgId,
    after: Option<(Ino, ChunkNo)>,
    limit: usize,
) -> Result<(Vec<PgRow>, bool), StateError> {
    let prefix = keys::pg_index_of(pg);
    let from = match after {
        Some((ino, chunk)) => read::after(&keys::pg_index(pg, ino, chunk)),
        None => prefix.clone(),
    };
    let limit = limit.max(1);
    let mut pairs = kv.scan(&from, &prefix_end(&prefix), limit + 1)?;
    let is_end = pairs.len() <= limit;
    pairs.truncate(limit);
    let mut rows = Vec::with_capacity(pairs.len());
    for (key, _) in pairs {
        let at = prefix.len();
        let (ino, chunk) = (keys::u64_at(&key, at), keys::u32_at(&key, at + 8));
        let (Some(ino), Some(chunk)) = (ino.map(Ino), chunk.map(ChunkNo)) else {
            return Err(read::broken("PG index", &key));
        };
        rows.push(pg_row(kv, map, pg, ino, chunk)?);
    }
    Ok((rows, is_end))
}

/// Bytes of the objects of some groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupSpace {
    /// Ascending; a group may go on in the next page. Only objects that no other row refers to.
    pub groups: Vec<GroupBytes>,
    /// The others: each may come again, with other rows. It is live if it is so in one of them.
    pub shared: Vec<SharedBytes>,
    /// Where to go on; `None` at the end.
    pub next: Option<(PgId, Ino, ChunkNo)>,
}

/// Bytes of the objects of the next `limit` rows of all PGs. Objects that another chunk or another file
/// refers to (an append over two chunks, a version restored from elsewhere) are told apart, so that whoever
/// adds up counts them once.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn group_space(
    kv: &dyn KvRead,
    after: Option<(PgId, Ino, ChunkNo)>,
    limit: usize,
) -> Result<GroupSpace, StateError> {
    let from = match after {
        Some((pg, ino, chunk)) => read::after(&keys::pg_index(pg, ino, chunk)),
        None => keys::PG_INDEX.to_vec(),
    };
    let pairs = kv.scan(&from, &prefix_end(keys::PG_INDEX), limit)?;
    let mut space = GroupSpace::default();
    for (key, _) in &pairs {
        let row = keys::parse_pg_index(key).ok_or_else(|| read::broken("PG index", key))?;
        add_row(kv, row, &mut space)?;
        space.next = Some(row);
    }
    space.next = space.next.filter(|_| pairs.len() == limit);
    Ok(space)
}

fn add_row(
    kv: &dyn KvRead,
    (pg, ino, chunk): (PgId, Ino, ChunkNo),
    space: &mut GroupSpace,
) -> Result<(), StateError> {
    let inode = read::known_inode(kv, ino)?;
    let newest = match inode.nlink {
        0 => None,
        _ => read::row_at(kv, ino, chunk, inode.version)?,
    };
    let newest = newest.into_iter().flat_map(|(_, extents)| extents);
    let newest: BTreeSet<_> = newest.map(|e| e.object).collect();
    // Objects with their lengths and how many rows of this chunk refer to them.
    let mut objects: BTreeMap<ObjectId, (u64, u64)> = BTreeMap::new();
    for (key, value) in read::all(kv, &keys::rows_of_chunk(ino, chunk))? {
        let extents: Vec<Extent> = read::decode("row", &key, &value)?;
        let here = extents.into_iter().filter(|e| e.pg == pg);
        let of_row: BTreeMap<_, _> = here.map(|e| (e.object, e.sum.len)).collect();
        for (object, len) in of_row {
            objects.entry(object).or_insert((u64::from(len), 0)).1 += 1;
        }
    }
    for (object, (len, rows)) in objects {
        let is_live = newest.contains(&object);
        let all: Option<u64> = read::get(kv, "object", &keys::object(object))?;
        if all != Some(rows) {
            space.shared.push(SharedBytes {
                pg,
                object,
                len,
                is_live,
            });
            continue;
        }
        if space.groups.last().is_none_or(|last| last.pg != pg) {
            space.groups.push(GroupBytes {
                pg,
                ..GroupBytes::default()
            });
        }
        let last = space.groups.last_mut().expect("pushed above");
        match is_live {
            true => last.live += len,
            false => last.version += len,
        }
    }
    Ok(())
}

/// Objects of a chunk in this PG that any kept version refers to.
fn objects_of(
    kv: &dyn KvRead,
    pg: PgId,
    ino: Ino,
    chunk: ChunkNo,
) -> Result<BTreeMap<ObjectId, ObjectSum>, StateError> {
    let mut objects = BTreeMap::new();
    for (key, value) in read::all(kv, &keys::rows_of_chunk(ino, chunk))? {
        let extents: Vec<Extent> = read::decode("row", &key, &value)?;
        let here = extents.into_iter().filter(|e| e.pg == pg);
        objects.extend(here.map(|e| (e.object, e.sum)));
    }
    Ok(objects)
}

fn pg_row(
    kv: &dyn KvRead,
    map: &PgMap,
    pg: PgId,
    ino: Ino,
    chunk: ChunkNo,
) -> Result<PgRow, StateError> {
    let objects = objects_of(kv, pg, ino, chunk)?;
    let pgs = u16::try_from(map.pgs.len()).unwrap_or(u16::MAX);
    let is_home = chunk == ChunkNo::HOME && pg_of(ino, chunk, pgs) == pg;
    let inode = read::known_inode(kv, ino)?;
    let is_committed = inode.revision.0 > 0;
    Ok(PgRow {
        ino,
        chunk,
        objects: objects.into_iter().collect(),
        clean: (is_home && is_committed).then_some((inode.revision, inode.op)),
        is_wide: chunk != ChunkNo::HOME || has_more(kv, ino, chunk)?,
    })
}

/// True if the inode has rows of chunks after this one.
fn has_more(kv: &dyn KvRead, ino: Ino, chunk: ChunkNo) -> Result<bool, StateError> {
    let from = prefix_end(&keys::rows_of_chunk(ino, chunk));
    let more = kv.scan(&from, &prefix_end(&keys::rows_of(ino)), 1)?;
    Ok(!more.is_empty())
}

/// Inodes above `after` that have a row in any of `pgs`, ascending, at most `limit`, each with one path
/// (empty for what has no name, such as deleted history) and its size; true at the end.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn inos_of_pgs(
    kv: &dyn KvRead,
    pgs: &BTreeSet<PgId>,
    after: Ino,
    limit: usize,
) -> Result<(Vec<InodePath>, bool), StateError> {
    let mut heads: BTreeSet<(Ino, PgId)> = BTreeSet::new();
    for pg in pgs {
        heads.extend(next_ino(kv, *pg, after)?.map(|ino| (ino, *pg)));
    }
    let mut found = Vec::new();
    while let Some((ino, _)) = heads.first().copied() {
        if found.len() == limit.max(1) {
            return Ok((found, false));
        }
        let inode = read::known_inode(kv, ino)?;
        let path = walk::paths(kv, ino, 1)?.pop().unwrap_or_default();
        found.push((ino, path, inode.size));
        while let Some((_, pg)) = heads.first().copied().filter(|(head, _)| *head == ino) {
            heads.pop_first();
            heads.extend(next_ino(kv, pg, ino)?.map(|next| (next, pg)));
        }
    }
    Ok((found, true))
}

/// The next inode above `after` with a row in `pg`.
fn next_ino(kv: &dyn KvRead, pg: PgId, after: Ino) -> Result<Option<Ino>, StateError> {
    let prefix = keys::pg_index_of(pg);
    let from = keys::pg_index(pg, Ino(after.0.saturating_add(1)), ChunkNo(0));
    let first = kv.scan(&from, &prefix_end(&prefix), 1)?;
    let parse = |(key, _): &(Vec<u8>, Vec<u8>)| {
        let ino = keys::u64_at(key, prefix.len());
        ino.map(Ino).ok_or_else(|| read::broken("PG index", key))
    };
    first.first().map(parse).transpose()
}

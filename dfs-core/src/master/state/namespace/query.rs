//! Linearizable reads of the namespace.
use super::history_query;
use super::keys;
use super::read::{self, QueryError};
use super::records::Inode;
use super::versions;
use super::walk;
use crate::store::KvRead;
use crate::types::{CHUNK_SIZE, ChunkNo, FileKind, Ino, Name, PgMap, VersionNo};
use crate::wire::master::{ChunkLayout, DirEntry, Layout};
use crate::wire::{ErrorCode, Query, QueryAnswer, WireError};

/// Chunks of one layout answer at most.
const CHUNKS_MAX: u32 = 64;
/// Entries of one directory page at most.
const ENTRIES_MAX: u32 = 4096;

/// Answers a query. `StatFs` needs the stores' space and is refused here; `PgMap` answers `map`.
///
/// # Errors
/// A [`WireError`] for the client: `NotFound`, `Stale`, `NotDir`, `Invalid`, or `Internal` when the
/// tables are broken.
pub fn query(kv: &dyn KvRead, map: &PgMap, q: &Query) -> Result<QueryAnswer, WireError> {
    answer(kv, map, q).map_err(|e| e.0)
}

fn answer(kv: &dyn KvRead, map: &PgMap, q: &Query) -> Result<QueryAnswer, QueryError> {
    match q {
        Query::Lookup { parent, name } => {
            let ino = lookup(kv, *parent, name)?;
            attr(kv, ino)
        }
        Query::GetAttr { ino } => attr(kv, *ino),
        Query::Walk {
            start,
            path,
            follow_last,
        } => attr(kv, walk::walk(kv, *start, path, *follow_last)?),
        Query::ReadDir {
            ino,
            after,
            limit,
            with_attrs,
        } => read_dir(kv, *ino, *after, *limit, *with_attrs),
        Query::Parent { ino } => attr(kv, directory(kv, *ino)?.1),
        Query::ReadLink { ino } => {
            let inode = inode(kv, *ino)?;
            if inode.kind != FileKind::Symlink {
                return Err(ErrorCode::Invalid.into());
            }
            Ok(QueryAnswer::Target(inode.target))
        }
        Query::Xattrs { ino } => xattrs(kv, *ino),
        Query::Layout {
            ino,
            version,
            first,
            count,
        } => layout(kv, *ino, *version, *first, *count),
        Query::LockConflict { .. } => {
            let detail = "locks are no part of the namespace";
            Err(WireError::new(ErrorCode::BadRequest, detail).into())
        }
        Query::History { parent, name } => history_query::history(kv, *parent, name),
        Query::HistoryNames { dir, after, limit } => {
            history_query::names(kv, *dir, after.as_ref(), *limit)
        }
        Query::RemovedDir { parent, name } => {
            let rec = read::history(kv, *parent, name)?;
            let newest = rec.and_then(|rec| rec.dirs.last().copied());
            let (ino, _) = newest.ok_or(ErrorCode::NotFound)?;
            attr(kv, ino)
        }
        Query::StatFs => {
            let detail = "space is not the namespace's to tell";
            Err(WireError::new(ErrorCode::BadRequest, detail).into())
        }
        Query::PgMap => Ok(QueryAnswer::PgMap(map.clone())),
        Query::Paths { ino } => {
            inode(kv, *ino)?;
            Ok(QueryAnswer::Paths(walk::paths(kv, *ino, usize::MAX)?))
        }
    }
}

/// An inode that a request names.
pub(super) fn inode(kv: &dyn KvRead, ino: Ino) -> Result<Inode, QueryError> {
    let found = read::inode(kv, ino)?;
    found.ok_or_else(|| WireError::new(ErrorCode::Stale, format!("no inode {ino}")).into())
}

fn attr(kv: &dyn KvRead, ino: Ino) -> Result<QueryAnswer, QueryError> {
    Ok(QueryAnswer::Attr(inode(kv, ino)?.attr(ino)))
}

/// A directory, live or removed, and its parent.
pub(super) fn directory(kv: &dyn KvRead, ino: Ino) -> Result<(Inode, Ino), QueryError> {
    let inode = inode(kv, ino)?;
    let Some(parent) = inode.dir.as_ref().map(|part| part.parent) else {
        return Err(ErrorCode::NotDir.into());
    };
    Ok((inode, parent))
}

/// The inode of a name.
pub(super) fn lookup(kv: &dyn KvRead, parent: Ino, name: &Name) -> Result<Ino, QueryError> {
    if let Some(entry) = read::dentry(kv, parent, name)? {
        return Ok(entry.ino);
    }
    directory(kv, parent)?;
    Err(ErrorCode::NotFound.into())
}

fn read_dir(
    kv: &dyn KvRead,
    ino: Ino,
    after: u64,
    limit: u32,
    with_attrs: bool,
) -> Result<QueryAnswer, QueryError> {
    directory(kv, ino)?;
    let limit = limit.clamp(1, ENTRIES_MAX) as usize;
    let mut found = read::entries(kv, ino, after, limit + 1)?;
    let is_end = found.len() <= limit;
    found.truncate(limit);
    let mut entries = Vec::with_capacity(found.len());
    for (cookie, name, ino, kind) in found {
        let attr = match with_attrs {
            true => Some(read::known_inode(kv, ino)?.attr(ino)),
            false => None,
        };
        entries.push(DirEntry {
            name,
            ino,
            kind,
            cookie,
            attr,
        });
    }
    Ok(QueryAnswer::Entries(entries, is_end))
}

fn xattrs(kv: &dyn KvRead, ino: Ino) -> Result<QueryAnswer, QueryError> {
    inode(kv, ino)?;
    let prefix = keys::xattrs_of(ino);
    let pairs = read::all(kv, &prefix)?;
    let named = pairs
        .into_iter()
        .map(|(k, v)| (k[prefix.len()..].to_vec(), v));
    Ok(QueryAnswer::Xattrs(named.collect()))
}

fn layout(
    kv: &dyn KvRead,
    ino: Ino,
    version: Option<VersionNo>,
    first: ChunkNo,
    count: u32,
) -> Result<QueryAnswer, QueryError> {
    let inode = inode(kv, ino)?;
    let (no, revision, op, size) = match version.filter(|v| *v != inode.version) {
        None => (inode.version, inode.revision, inode.op, inode.size),
        Some(no) => {
            let facts = versions::facts(kv, ino, &inode, no)?;
            let Some(facts) = facts else {
                let detail = format!("version {no} of inode {ino} is not kept any more");
                return Err(WireError::new(ErrorCode::NotFound, detail).into());
            };
            (no, facts.revision, facts.op, facts.size)
        }
    };
    let count = count.min(CHUNKS_MAX);
    let (mut chunks, mut next) = (Vec::new(), Some(first));
    if count > 0 {
        let last = ChunkNo(first.0.saturating_add(count - 1));
        let rows = read::rows_at(kv, ino, no, first, last)?;
        let chunk = |(chunk, extents)| ChunkLayout { chunk, extents };
        chunks = rows.into_iter().map(chunk).collect();
        next = match size > last.start() + CHUNK_SIZE {
            true => read::row_after(kv, ino, last)?,
            false => None,
        };
    }
    Ok(QueryAnswer::Layout(Layout {
        revision,
        op,
        size,
        chunks,
        next,
    }))
}

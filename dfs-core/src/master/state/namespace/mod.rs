//! The namespace: directories, inodes, contents, versions and the history of names, as
//! deterministic tables. What a rule says is said once, in the module that does it:
//!
//! * [`create`], [`remove`], [`rename`], [`attr`] the operations on names and attributes;
//! * [`commit`] over [`content`] and [`rows`]: a put, what it makes of the content, exact references;
//! * [`versions`] which commits make one version; [`history`] what a name remembers;
//! * [`mod@query`] reads; [`placement`] which PG holds what; [`mod@audit`] the audit.
//!
//! Every change runs in a [`tx`] on an overlay: a refusal leaves the tables untouched.
mod attr;
mod audit;
mod commit;
mod content;
mod create;
mod dentry;
pub mod export;
mod extents;
mod history;
mod history_query;
mod keys;
mod moves;
mod placement;
mod query;
mod read;
mod records;
mod remove;
mod rename;
mod rows;
mod space;
#[cfg(test)]
mod tests;
mod tx;
mod versions;
mod walk;

pub use audit::{Audit, check};
pub use keys::NAMESPACE_TABLES;
pub use placement::{GroupSpace, InodePath, group_space, inos_of_pgs, pg_rows};
pub use query::query;
pub use space::{Aged, AgedPage};

use crate::master::state::{ApplyCtx, ApplyError, StateError};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{ClientId, FileKind, Ino, LogIndex, ObjectId, OpId, PgMap, QuorumSizes, Time};
use crate::wire::{ErrorCode, Mutation, MutationOk, WireError};

/// Versions that a name keeps, the newest included.
pub const KEPT: usize = 5;
/// The name under which every directory shows its history; no entry may have it.
pub const VERSIONS_NAME: &[u8] = b".versions";
/// Hard links of a non-directory at most (as ext4).
pub const LINKS_MAX: u32 = 65_000;
/// Bytes of a symlink's target at most.
pub const SYMLINK_MAX: usize = 4095;
/// Bytes of an extended attribute's name at most.
pub const XATTR_KEY_MAX: usize = 255;
/// Bytes of an extended attribute's value at most.
pub const XATTR_VALUE_MAX: usize = 64 * 1024;
/// Bytes of an inode's extended attributes, names and values, at most.
pub const XATTR_TOTAL_MAX: u64 = 1 << 20;
/// Cookies below stand for the start, `.` and `..`.
const FIRST_COOKIE: u64 = 3;

/// Some kept version refers to the object.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn is_referenced(kv: &dyn KvRead, object: ObjectId) -> Result<bool, StateError> {
    Ok(kv.get(&keys::object(object))?.is_some())
}

/// Totals of what has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveTotals {
    /// Inodes with at least one link.
    pub inodes: u64,
    /// Bytes that their newest contents cover, one copy.
    pub bytes: u64,
    /// Names in the index of deleted history.
    pub deleted_names: u64,
}

/// Creates the root directory of a new cluster. Does nothing to a namespace that has one.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn format(kv: &mut dyn Kv, at: Time) -> Result<(), StateError> {
    let map = PgMap {
        version: LogIndex(0),
        quorum: QuorumSizes::DEFAULT,
        pgs: Vec::new(),
    };
    let mut ctx = ApplyCtx {
        kv,
        at,
        index: LogIndex(0),
        op: OpId::default(),
        map: &map,
        is_down: &|_| false,
        effects: crate::master::state::Effects::default(),
    };
    broken_only(tx::run(&mut ctx, |tx| Ok(create::root(tx)?)))
}

/// Applies a mutation. `Abandon` concerns sessions, `Lock` and `Unlock` have tables of their own:
/// they are refused here.
///
/// # Errors
/// [`ApplyError::Refused`]: nothing changed and no effect was left. [`ApplyError::Broken`]: the
/// tables are broken and the voter must stop.
pub fn apply(ctx: &mut ApplyCtx<'_>, body: &Mutation) -> Result<MutationOk, ApplyError> {
    tx::run(ctx, |tx| dispatch(tx, body))
}

fn dispatch(tx: &mut tx::Tx<'_>, body: &Mutation) -> Result<MutationOk, ApplyError> {
    match body {
        Mutation::Create {
            parent,
            name,
            node,
            exclusive,
        } => create::create(tx, *parent, name, node, *exclusive),
        Mutation::Reserve { count } => create::reserve(tx, *count),
        Mutation::CreateAs {
            ino,
            parent,
            name,
            node,
            at,
        } => create::create_as(tx, (*ino, *at), *parent, name, node),
        Mutation::Link { ino, parent, name } => create::link(tx, *ino, *parent, name),
        Mutation::Unlink {
            parent,
            name,
            purge,
        } => remove::unlink(tx, *parent, name, *purge),
        Mutation::Rmdir { parent, name } => remove::rmdir(tx, *parent, name),
        Mutation::Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            mode,
        } => rename::rename(tx, (*from_parent, from_name), (*to_parent, to_name), *mode),
        Mutation::SetAttr {
            ino,
            mode,
            uid,
            gid,
            atime,
            mtime,
        } => {
            let wanted = attr::Wanted {
                mode: *mode,
                uid: *uid,
                gid: *gid,
                atime: *atime,
                mtime: *mtime,
            };
            attr::set_attr(tx, *ino, &wanted)
        }
        Mutation::SetXattr {
            ino,
            key,
            value,
            mode,
        } => attr::set_xattr(tx, *ino, (key, value), *mode),
        Mutation::RemoveXattr { ino, key } => attr::remove_xattr(tx, *ino, key),
        Mutation::Commit(body) => commit::commit(tx, body, false),
        Mutation::CommitLast(body) => commit::commit(tx, body, true),
        Mutation::Abandon { .. } => {
            let detail = "an abandon concerns the session, not the namespace";
            Err(WireError::new(ErrorCode::BadRequest, detail).into())
        }
        Mutation::Lock(_) | Mutation::Unlock { .. } => {
            let detail = "locks are no part of the namespace";
            Err(WireError::new(ErrorCode::BadRequest, detail).into())
        }
        Mutation::Seal { ino, token } => commit::seal(tx, *ino, *token),
        Mutation::Undelete { parent, name } => remove::undelete(tx, *parent, name),
        Mutation::Purge(scope) => remove::purge(tx, scope),
        Mutation::Accessed { times } => attr::accessed(tx, times),
    }
}

/// Removes an orphan: inode, rows, objects (to `effects.garbage`), with a `Forget` note. Answers
/// false, and changes nothing, when the inode has a link or a pin or is gone.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn reap(ctx: &mut ApplyCtx<'_>, ino: Ino) -> Result<bool, StateError> {
    broken_only(tx::run(ctx, |tx| Ok(remove::reap(tx, ino)?)))
}

/// Seals the open versions of inodes that no mount has open for writing.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn seal_all(ctx: &mut ApplyCtx<'_>, inos: &[Ino]) -> Result<(), StateError> {
    broken_only(tx::run(ctx, |tx| {
        for ino in inos {
            let Some(mut inode) = read::inode(&tx.kv, *ino)? else {
                continue;
            };
            if inode.open.is_some() {
                versions::seal(&mut inode, |_| true);
                tx.put_inode(*ino, &inode)?;
            }
        }
        Ok(())
    }))
}

/// Ends a session: its writing periods are over and the order of its puts is forgotten.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn end_session(ctx: &mut ApplyCtx<'_>, client: ClientId) -> Result<(), StateError> {
    broken_only(tx::run(ctx, |tx| {
        create::give_back(tx, client);
        Ok(commit::end_session(tx, client)?)
    }))
}

/// What kind of inode this is, if it lives.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn kind_of(kv: &dyn KvRead, ino: Ino) -> Result<Option<FileKind>, StateError> {
    Ok(read::inode(kv, ino)?.map(|inode| inode.kind))
}

/// True iff an object that `op` wrote is in use: then the op was applied.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn op_is_referenced(kv: &dyn KvRead, op: OpId) -> Result<bool, StateError> {
    let prefix = keys::refs_of(op);
    Ok(!kv.scan(&prefix, &prefix_end(&prefix), 1)?.is_empty())
}

/// Drops deleted names, oldest first: those deleted before `before`, and more while there are more
/// than `keep_names`; at most `max`. Answers how many.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn trim_history(
    ctx: &mut ApplyCtx<'_>,
    before: Time,
    keep_names: u64,
    max: u32,
) -> Result<u64, StateError> {
    let trimmed = tx::run(ctx, |tx| Ok(remove::trim(tx, before, keep_names, max)?));
    broken_only(trimmed)
}

/// Drops the `names` names that were deleted first, then old versions that are still old.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn free_space(
    ctx: &mut ApplyCtx<'_>,
    names: u32,
    versions: &[crate::master::command::OldVersion],
) -> Result<(), StateError> {
    broken_only(tx::run(ctx, |tx| Ok(space::free(tx, names, versions)?)))
}

/// Bytes of the names deleted first, in that order, at most `limit` of them.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn deleted_bytes(kv: &dyn KvRead, limit: usize) -> Result<Vec<u64>, StateError> {
    space::deleted_bytes(kv, limit)
}

/// Old versions in the next `rows` rows after `after`.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn old_versions(
    kv: &dyn KvRead,
    after: Option<&[u8]>,
    rows: usize,
) -> Result<AgedPage, StateError> {
    space::old_versions(kv, after, rows)
}

/// Raises an inode's write-lease sequence, so that commits under the old one are refused.
///
/// # Errors
/// [`ApplyError::Refused`] with `Stale` when the inode is gone.
pub fn raise_lease(ctx: &mut ApplyCtx<'_>, ino: Ino) -> Result<crate::types::LeaseSeq, ApplyError> {
    tx::run(ctx, |tx| {
        let mut inode = tx.inode(ino)?;
        inode.lease = inode.lease.next();
        tx.put_inode(ino, &inode)?;
        Ok(inode.lease)
    })
}

/// Inodes above `after` with neither link nor pin, ascending, at most `limit`.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn orphans(kv: &dyn KvRead, after: Ino, limit: usize) -> Result<Vec<Ino>, StateError> {
    let from = read::after(&keys::orphan(after));
    let pairs = kv.scan(&from, &prefix_end(keys::ORPHANS), limit)?;
    let parse = |(key, _): &(Vec<u8>, Vec<u8>)| {
        let ino = keys::u64_at(key, keys::ORPHANS.len());
        ino.map(Ino).ok_or_else(|| read::broken("orphan", key))
    };
    pairs.iter().map(parse).collect()
}

/// Totals of what has a name.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn live_totals(kv: &dyn KvRead) -> Result<LiveTotals, StateError> {
    let meta = read::meta(kv)?;
    Ok(LiveTotals {
        inodes: meta.inodes,
        bytes: meta.bytes,
        deleted_names: meta.deleted_names,
    })
}

/// When the oldest deleted name was deleted, if there is one.
///
/// # Errors
/// [`StateError`] when the tables are broken.
pub fn oldest_deleted(kv: &dyn KvRead) -> Result<Option<Time>, StateError> {
    let first = kv.scan(keys::DELETED, &prefix_end(keys::DELETED), 1)?;
    let at = keys::DELETED.len();
    let parse = |(key, _): &(Vec<u8>, Vec<u8>)| {
        let time = keys::u64_at(key, at);
        time.map(Time).ok_or_else(|| read::broken("deleted", key))
    };
    first.first().map(parse).transpose()
}

/// For operations that refuse nothing.
fn broken_only<T>(done: Result<T, ApplyError>) -> Result<T, StateError> {
    done.map_err(|e| match e {
        ApplyError::Broken(e) => e,
        ApplyError::Refused(e) => StateError::Decode {
            table: "namespace",
            key: e.to_string(),
        },
    })
}

//! The second half of a put: the linearization point of a file's content.
//!
//! 1. Undecided, in its session's order for this inode; the inode lives; epochs and acks good; lease
//!    and base current. A COMPACT is in nobody's order and under no lease: the extents it names say
//!    all that has to be the same.
//! 2. `revision += 1`, whatever changed: the mark at the home PG has to be told.
//! 3. A change of content is taken into the open version or begins the next one, and its rows are
//!    written there; what they supersede is released. A COMPACT changes the row where it is: the same
//!    bytes, for every version that reads it.
//! 4. Its ctime is when the bytes were written, as its mtime: what `fstat` said before the close stays true.
//! 5. Notes: `Committed` to the home PG, `Hold` to each object's PG.
use super::KEPT;
use super::attr;
use super::content::{self, Plan};
use super::history;
use super::keys;
use super::read;
use super::records::Inode;
use super::rows;
use super::tx::Tx;
use super::versions;
use crate::master::state::ctx::acks_are_good;
use crate::master::state::{ApplyError, StateError};
use crate::types::layout::CROWDED_EXTENTS;
use crate::types::{
    ChunkNo, FileKind, Ino, ObjectId, ObjectSum, PgId, Revision, SetTime, Timestamp, without_suid,
};
use crate::wire::master::Note;
use crate::wire::{Change, Commit, ErrorCode, MutationOk, PutExtent, WireError};
use std::collections::{BTreeMap, BTreeSet};

/// Applies a put.
pub(super) fn commit(
    tx: &mut Tx<'_>,
    commit: &Commit,
    is_last: bool,
) -> Result<MutationOk, ApplyError> {
    let ino = commit.ino;
    let mut inode = admit(tx, commit)?;
    content::check_puts(tx, &commit.change)?;
    let plan = content::plan(tx, ino, &inode, &commit.change)?;
    let is_compact = matches!(commit.change, Change::Compact { .. });
    if !is_compact {
        tx.put(keys::decided(tx.op.client, ino), &tx.op.seq.clone());
    }

    if inode.revision.0 == 0 {
        let home = tx.pg_of(ino, ChunkNo::HOME);
        rows::count(tx, "PG index", keys::pg_index(home, ino, ChunkNo::HOME), 1)?;
    }
    let is_change = !plan.rows.is_empty() || plan.size != inode.size;
    let (mut begun, mut crowded) = (None, None);
    if let Change::Compact { put, .. } = &commit.change {
        compact(tx, (ino, &inode), put, &plan)?;
    } else if is_change {
        if versions::takes_new_version(&mut inode, commit.token, plan.kind) {
            // With a full window its names have no pins left to drop.
            begun = Some(read::window(&tx.kv, ino)?.len() < KEPT);
            versions::begin(tx, ino, &mut inode)?;
        }
        crowded = write_rows(tx, ino, &mut inode, &plan)?;
        inode.size = plan.size;
    }
    inode.revision = inode.revision.next();
    inode.op = tx.op;
    if !is_compact {
        inode.ctime = changed_at(tx.now(), inode.ctime, commit.mtime);
    }
    if let Some(time) = commit.mtime {
        inode.mtime = attr::resolve(tx, time);
    }
    if commit.kill_suid {
        inode.mode = without_suid(inode.mode);
    }
    if is_last {
        end_periods(&mut inode, commit.token);
    }
    tx.put_inode(ino, &inode)?;
    if let Some(may_have_pins) = begun {
        versions::trim(tx, ino, KEPT)?;
        if may_have_pins {
            history::make_room(tx, ino, &inode)?;
        }
    }
    tx.touch(ino, true, false);
    note(tx, ino, inode.revision, &plan.placed);
    Ok(MutationOk::Committed {
        attr: tx.inode(ino)?.attr(ino),
        revision: inode.revision,
        offset: plan.offset,
        crowded,
    })
}

/// Step 3, the rows; answers a chunk that has become crowded.
fn write_rows(
    tx: &mut Tx<'_>,
    ino: Ino,
    inode: &mut Inode,
    plan: &Plan,
) -> Result<Option<ChunkNo>, StateError> {
    let kept = read::versions(&tx.kv, ino)?;
    let older = kept.iter().map(|rec| rec.no);
    let older = older.filter(|no| *no < inode.version && no.0 > 0).max();
    let mut crowded = None;
    for (chunk, row) in &plan.rows {
        let old = read::row_at(&tx.kv, ino, *chunk, inode.version)?;
        let old = old.map(|(_, extents)| extents).unwrap_or_default();
        rows::write_row(tx, ino, *chunk, (older, inode.version), row)?;
        inode.allocated = inode.allocated + read::covered(row) - read::covered(&old);
        if old.len() / CROWDED_EXTENTS < row.len() / CROWDED_EXTENTS {
            crowded = Some(*chunk);
        }
    }
    Ok(crowded)
}

/// Step 3 of a COMPACT: an object that replaces nothing any more is garbage.
fn compact(
    tx: &mut Tx<'_>,
    (ino, inode): (Ino, &Inode),
    put: &PutExtent,
    plan: &Plan,
) -> Result<(), StateError> {
    for (chunk, row) in &plan.rows {
        rows::rewrite_row(tx, ino, *chunk, inode.version, row)?;
    }
    if plan.placed.is_empty() {
        // The object's number is this op's, which is applied once: nothing else refers to it.
        tx.released.insert((tx.pg_of(ino, put.chunk), put.object));
    }
    Ok(())
}

/// Seconds between a put's bytes and its commit beyond which its word on ctime is not taken: what looks
/// for changes since some moment must not miss those that were told later.
const TOLD_LATE_MAX: u64 = 2;

/// Step 4. A ctime never goes back, and no mount with a wrong clock sets it.
fn changed_at(now: Timestamp, was: Timestamp, written: Option<SetTime>) -> Timestamp {
    match written {
        Some(SetTime::At(time)) if time.secs.abs_diff(now.secs) <= TOLD_LATE_MAX => was.max(time),
        _ => now,
    }
}

/// Step 1: everything that can be said before looking at the content.
fn admit(tx: &Tx<'_>, commit: &Commit) -> Result<Inode, ApplyError> {
    let ino = commit.ino;
    let is_compact = matches!(commit.change, Change::Compact { .. });
    let key = keys::decided(tx.op.client, ino);
    let decided: Option<u64> = read::get(&tx.kv, "decided", &key)?;
    if decided.is_some_and(|highest| tx.op.seq <= highest) && !is_compact {
        let detail = format!("a later put of this session on inode {ino} was decided before");
        return Err(WireError::new(ErrorCode::OpAborted, detail).into());
    }
    let inode = tx.inode(ino)?;
    match inode.kind {
        FileKind::File => {}
        FileKind::Dir => return Err(ErrorCode::IsDir.into()),
        _ => return Err(ErrorCode::Invalid.into()),
    }
    let home = tx.pg_of(ino, ChunkNo::HOME);
    if !acks_are_good(tx.map, home, commit.home_epoch, &commit.mark_acks) {
        let detail = format!("the mark's acks are not of PG {}'s current epoch", home.0);
        return Err(WireError::new(ErrorCode::WrongEpoch, detail).into());
    }
    for put in content::puts(&commit.change) {
        let pg = tx.pg_of(ino, put.chunk);
        if !acks_are_good(tx.map, pg, put.epoch, &put.acks) {
            let detail = format!("the object's acks are not of PG {}'s current epoch", pg.0);
            return Err(WireError::new(ErrorCode::WrongEpoch, detail).into());
        }
    }
    if commit.lease != inode.lease && !is_compact {
        let detail = format!("lease {} was raised to {}", commit.lease, inode.lease);
        return Err(WireError::new(ErrorCode::StaleLease, detail).into());
    }
    if commit.base.is_some_and(|base| base != inode.revision) {
        let detail = format!("inode {ino} is at revision {}", inode.revision);
        return Err(WireError::new(ErrorCode::Conflict, detail).into());
    }
    Ok(inode)
}

fn note(tx: &mut Tx<'_>, ino: Ino, revision: Revision, placed: &[(ChunkNo, crate::types::Extent)]) {
    let home = tx.pg_of(ino, ChunkNo::HOME);
    let op = tx.op;
    let notes = &mut tx.effects.notes;
    notes.push((home, Note::Committed { ino, revision, op }));
    let mut held: BTreeMap<(PgId, ChunkNo), Vec<(ObjectId, ObjectSum)>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (chunk, extent) in placed {
        // An object split over two chunks is told once per row, so that both list it.
        if seen.insert((*chunk, extent.object)) {
            let group = held.entry((extent.pg, *chunk)).or_default();
            group.push((extent.object, extent.sum));
        }
    }
    for ((pg, chunk), objects) in held {
        let hold = Note::Hold {
            ino,
            chunk,
            objects,
        };
        notes.push((pg, hold));
    }
}

/// Ends a writing period and those before it.
fn end_periods(inode: &mut Inode, token: crate::wire::WriteToken) {
    // Periods of one session follow each other: a later one may have changed nothing, and taken no part.
    versions::seal(inode, |t| t.client == token.client && t.seq <= token.seq);
}

/// A mount's last writable handle is gone.
pub(super) fn seal(
    tx: &mut Tx<'_>,
    ino: Ino,
    token: crate::wire::WriteToken,
) -> Result<MutationOk, ApplyError> {
    let Some(mut inode) = read::inode(&tx.kv, ino)? else {
        return Ok(MutationOk::Done);
    };
    let was = inode.open.clone();
    end_periods(&mut inode, token);
    if inode.open != was {
        tx.put_inode(ino, &inode)?;
    }
    Ok(MutationOk::Done)
}

/// Ends a session's part in versions and forgets what it decided.
pub(super) fn end_session(
    tx: &mut Tx<'_>,
    client: crate::types::ClientId,
) -> Result<(), StateError> {
    let prefix = keys::decided_of(client);
    for (key, _) in read::all(&tx.kv, &prefix)? {
        let ino = keys::u64_at(&key, prefix.len()).ok_or_else(|| read::broken("decided", &key))?;
        crate::store::Kv::delete(&mut tx.kv, &key);
        let Some(mut inode) = read::inode(&tx.kv, Ino(ino))? else {
            continue;
        };
        let was = inode.open.clone();
        versions::seal(&mut inode, |t| t.client == client);
        if inode.open != was {
            tx.put_inode(Ino(ino), &inode)?;
        }
    }
    Ok(())
}

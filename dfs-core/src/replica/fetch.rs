//! Fetching objects from peers: what a note named and was missed, what was found damaged, what a
//! group that is being filled lacks.
//!
//! Steps of one object: wait until it is due; ask a source for all of it; check length, block sums
//! and identity against what the *master* said; write; done. A source that fails is followed by the
//! next one, with a growing pause.
//!
//! Invariants:
//! 1. nothing is stored that does not match the identity asked for;
//! 2. at most `fetches_max` are under way, and no more bytes per second than the master allows;
//! 3. an object that is no longer wanted when its bytes arrive is not stored.
use super::config::ReplicaConfig;
use super::event::store_name;
use super::groups::Role;
use super::machine::{After, CallKind, Cx, Replica};
use super::tables::{MissingRow, ObjectRow, TableError, Tx, keys};
use crate::store::{ObjectHeader, ObjectWrite};
use crate::types::{LogIndex, ObjectId, PgId, StoreId, Time};
use crate::wire::rpc::{CallResult, CallTarget};
use crate::wire::{ErrorCode, ReplicaRequest, ReplicaResponse, Request, Response, WireError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// First pause after a failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause when there is no room or no source.
const PAUSE_IDLE: Duration = Duration::from_secs(1);
/// A burst the rate limit allows, in bytes: one object of the largest size.
const BURST: u64 = 4 << 20;

/// Why an object is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A note named it; it is on disk as missing.
    Note(LogIndex),
    /// Its bytes on disk are damaged; it is on disk as missing.
    Damaged,
    /// A listing named it.
    Fill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Due(Time),
    Asked,
    Writing,
}

#[derive(Debug, Clone, Copy)]
struct Want {
    row: ObjectRow,
    why: Why,
    tries: u32,
    step: Step,
}

/// Bytes per second, with a debt: a fetch may start while anything is left.
#[derive(Debug, Default)]
struct Bucket {
    rate: u64,
    left: i64,
    filled_at: Time,
}

impl Bucket {
    fn refill(&mut self, now: Time) {
        let nanos = u64::try_from(now.since(self.filled_at).as_nanos()).unwrap_or(u64::MAX);
        let gain = u128::from(nanos) * u128::from(self.rate) / 1_000_000_000;
        let gain = i64::try_from(gain).unwrap_or(i64::MAX);
        if gain > 0 {
            self.left = self.left.saturating_add(gain).min(BURST as i64);
            self.filled_at = now;
        }
    }

    fn is_open(&self) -> bool {
        self.rate == 0 || self.left > 0
    }

    fn take(&mut self, bytes: u32) {
        if self.rate > 0 {
            self.left = self.left.saturating_sub(i64::from(bytes));
        }
    }
}

/// Objects wanted and fetches under way.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    wants: BTreeMap<ObjectId, Want>,
    due: BTreeSet<(Time, ObjectId)>,
    busy: usize,
    bucket: Bucket,
}

impl Fetches {
    pub fn set_rate(&mut self, bytes_per_second: u64) {
        self.bucket.rate = bytes_per_second;
    }

    /// A row of the missing table, after a restart.
    pub fn want_missing(&mut self, id: ObjectId, row: MissingRow, now: Time) {
        let why = if row.since == LogIndex(0) {
            Why::Damaged
        } else {
            Why::Note(row.since)
        };
        self.want(id, row.object, why, now);
    }

    /// Wants an object from `soonest` on. A want that is there stays as it is, except that a
    /// listing's becomes a note's (which is on disk).
    pub fn want(&mut self, id: ObjectId, row: ObjectRow, why: Why, soonest: Time) {
        if let Some(want) = self.wants.get_mut(&id) {
            if want.why == Why::Fill {
                want.why = why;
            }
            return;
        }
        self.wants.insert(
            id,
            Want {
                row,
                why,
                tries: 0,
                step: Step::Due(soonest),
            },
        );
        self.due.insert((soonest, id));
    }

    /// It is wanted because its bytes here are damaged.
    pub fn is_damaged(&self, id: ObjectId) -> bool {
        self.wants.get(&id).is_some_and(|w| w.why == Why::Damaged)
    }

    /// Objects of a group that notes up to `upto` named are all here.
    pub fn is_caught_up(&self, pg: PgId, upto: LogIndex) -> bool {
        let waits = |why| match why {
            Why::Note(index) => index <= upto,
            Why::Damaged | Why::Fill => true,
        };
        !self.wants.values().any(|w| w.row.pg == pg && waits(w.why))
    }

    pub fn len(&self) -> usize {
        self.wants.len()
    }

    fn step(&mut self, id: ObjectId, step: Step) {
        let want = self.wants.get_mut(&id).expect("the caller holds it");
        self.busy += usize::from(step == Step::Asked);
        self.busy -= usize::from(want.step == Step::Asked);
        if let Step::Due(at) = want.step {
            self.due.remove(&(at, id));
        }
        if let Step::Due(at) = step {
            self.due.insert((at, id));
        }
        want.step = step;
    }

    fn remove(&mut self, id: ObjectId) -> Option<Want> {
        if !self.wants.contains_key(&id) {
            return None;
        }
        self.step(id, Step::Writing);
        self.wants.remove(&id)
    }

    pub fn next_wake(&self, now: Time, config: &ReplicaConfig) -> Option<Time> {
        if self.busy >= config.fetches_max {
            return None;
        }
        let (due, _) = self.due.first()?;
        // While the rate limit is closed, look again soon.
        Some(if self.bucket.is_open() {
            *due
        } else {
            (*due).max(now + PAUSE / 4)
        })
    }
}

/// Checks a peer's answer against the identity asked for.
fn verify(
    (me, source): (StoreId, StoreId),
    id: ObjectId,
    row: &ObjectRow,
    result: CallResult,
) -> Result<ObjectWrite, WireError> {
    let (response, bytes): (_, Bytes) = result?;
    let Response::Replica(ReplicaResponse::Read {
        offset: 0, sums, ..
    }) = response
    else {
        return Err(WireError::new(
            ErrorCode::BadRequest,
            "the answer is no read from byte 0",
        ));
    };
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if sums.object_sum(len) != row.sum || !sums.verify_blocks(0, &bytes) {
        let detail = format!(
            "inode {} object {id}: bytes do not match the master's sum, hop {} -> {}",
            row.ino,
            store_name(source),
            store_name(me),
        );
        return Err(WireError::new(ErrorCode::DamagedInTransit, detail));
    }
    let (ino, chunk) = (row.ino, row.chunk);
    let header = ObjectHeader {
        id,
        ino,
        chunk,
        len,
        sums,
        path_hint: None,
    };
    Ok(ObjectWrite { header, bytes })
}

impl Replica {
    pub(super) fn pump_fetches(&mut self, cx: &mut Cx<'_>) {
        if self.groups.count().is_none() {
            return; // sources are not known yet
        }
        self.fetches.bucket.refill(cx.now);
        while !self.is_paused
            && self.fetches.busy < self.config.fetches_max
            && self.fetches.bucket.is_open()
        {
            match self.fetches.due.first() {
                Some((due, id)) if *due <= cx.now => self.start_fetch(cx, *id),
                _ => return,
            }
        }
    }

    fn start_fetch(&mut self, cx: &mut Cx<'_>, id: ObjectId) {
        let want = self.fetches.wants[&id];
        let is_member = matches!(self.groups.role(want.row.pg), Some(Role::Member { .. }));
        let is_stale = want.why == Why::Fill && !self.fills.contains_key(&want.row.pg);
        if !is_member || is_stale {
            self.fetches.remove(id);
            return;
        }
        let sources = self.groups.sources(want.row.pg);
        let sources: Vec<_> = sources
            .iter()
            .filter_map(|s| self.stores.get(s).map(|addr| (*s, *addr)))
            .collect();
        if sources.is_empty() || cx.store.admit(u64::from(want.row.sum.len)).is_err() {
            self.retry(cx, id, PAUSE_IDLE);
            return;
        }
        let (store, addr) = sources[want.tries as usize % sources.len()];
        self.fetches.step(id, Step::Asked);
        self.fetches.bucket.take(want.row.sum.len);
        let read = ReplicaRequest::Read {
            object: id,
            offset: 0,
            len: want.row.sum.len,
            stamp: None,
        };
        let to = CallTarget::Store(store, addr);
        self.call(cx, CallKind::Fetch(id, store), to, Request::Replica(read));
    }

    pub(super) fn on_fetched(
        &mut self,
        cx: &mut Cx<'_>,
        id: ObjectId,
        source: StoreId,
        result: CallResult,
    ) {
        let Some(want) = self.fetches.wants.get(&id).copied() else {
            return; // invariant 3
        };
        if want.step != Step::Asked || self.failure.is_some() {
            return;
        }
        if !matches!(self.groups.role(want.row.pg), Some(Role::Member { .. })) {
            self.fetches.remove(id); // it would be a stray
            return;
        }
        match verify((self.config.store, source), id, &want.row, result) {
            Ok(put) => {
                let mut tx = self.tables.begin();
                self.tables.put_object(&mut tx, put, &want.row);
                if want.why != Why::Fill {
                    self.tables.delete(&mut tx, keys::object(b'x', id));
                }
                self.fetches.step(id, Step::Writing);
                self.persist(cx, tx, vec![After::Fetched(id)]);
            }
            Err(error) => {
                tracing::debug!(%error, object = %id, "fetch failed");
                self.fetch_failed(cx, id);
            }
        }
    }

    /// The fetched object is durable.
    pub(super) fn fetch_stored(&mut self, cx: &mut Cx<'_>, id: ObjectId) {
        let Some(want) = self.fetches.remove(id) else {
            return; // deleted meanwhile, by a later batch
        };
        self.counts.repaired_bytes += u64::from(want.row.sum.len);
        self.counts.repaired_files += 1;
        self.fill_got(cx, want.row.pg, id, true);
    }

    /// Tries again later, or leaves it to the listing's next pass.
    pub(super) fn fetch_failed(&mut self, cx: &mut Cx<'_>, id: ObjectId) {
        let Some(want) = self.fetches.wants.get_mut(&id) else {
            return;
        };
        want.tries += 1;
        let (tries, pg, why) = (want.tries, want.row.pg, want.why);
        let sources = self.groups.sources(pg).len();
        if why == Why::Fill && tries as usize >= 2 * sources.max(1) {
            self.fetches.remove(id);
            self.fill_got(cx, pg, id, false);
        } else {
            self.retry(cx, id, (PAUSE * 2u32.pow(tries.min(6) - 1)).min(PAUSE_MAX));
        }
    }

    fn retry(&mut self, cx: &Cx<'_>, id: ObjectId, pause: Duration) {
        self.fetches.step(id, Step::Due(cx.now + pause));
    }

    /// The object is here by another way, or shall not be here: it is no longer missing.
    pub(super) fn unwant(&mut self, cx: &mut Cx<'_>, tx: &mut Tx, id: ObjectId) {
        let Some(want) = self.fetches.remove(id) else {
            return;
        };
        if want.why != Why::Fill {
            self.tables.delete(tx, keys::object(b'x', id));
        }
        self.fill_got(cx, want.row.pg, id, true);
    }

    /// A reader found the object damaged.
    pub(super) fn on_damaged(&mut self, cx: &mut Cx<'_>, id: ObjectId) -> Result<(), TableError> {
        let row = self.tables.object(cx.store, id)?;
        let Some(row) = row.filter(|_| !self.writing.contains_key(&id)) else {
            return Ok(()); // deleted or replaced meanwhile
        };
        if self.failure.is_some() || self.fetches.wants.contains_key(&id) {
            return Ok(());
        }
        tracing::warn!(object = %id, inode = %row.ino, "object damaged on disk: fetching a good copy");
        let mut tx = self.tables.begin();
        let missing = MissingRow {
            object: row,
            since: LogIndex(0),
        };
        self.tables.put(&mut tx, keys::object(b'x', id), &missing);
        self.persist(cx, tx, Vec::new());
        self.fetches.want(id, row, Why::Damaged, cx.now);
        Ok(())
    }
}

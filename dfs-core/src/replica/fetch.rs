//! Fetching objects from peers: what a note named and was missed, what was found damaged, what a
//! group that is being filled lacks.
//!
//! Steps of one object: wait until it is due; ask a source for all of it; check length, block sums
//! and identity against what the *master* said; write; done. A source that fails is followed by the
//! next one, with a growing pause.
//!
//! Invariants:
//! 1. nothing is stored that does not match the identity asked for;
//! 2. at most `fetches_max` are under way, and no more bytes per second than the master allows; copies
//!    [make way](super::pace) for programs;
//! 3. an object that is no longer wanted when its bytes arrive is not stored.
use super::event::store_name;
use super::fill::BOOST;
use super::groups::Role;
use super::machine::{After, CallKind, Cx, Replica};
use super::pace::{Bucket, Pace};
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
    /// From when on it is missing.
    since: Time,
    /// When a source was asked for it last.
    asked: Time,
}

/// Objects wanted and fetches under way.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    wants: BTreeMap<ObjectId, Want>,
    due: BTreeSet<(Time, ObjectId)>,
    busy: usize,
    /// On their way to the disk.
    writing: usize,
    bucket: Bucket,
    pub(super) pace: Pace,
    /// Wanted, and there was no room for them when they were due.
    starved: BTreeSet<ObjectId>,
    /// No object is asked for before: there is no room.
    roomless_until: Time,
    /// What was due first last time made way for programs.
    makes_way: bool,
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
        if let Some(want) = self.wants.get_mut(&id) {
            want.since = Time::ZERO;
        }
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
                since: soonest,
                asked: soonest,
            },
        );
        self.due.insert((soonest, id));
    }

    /// It is on its way here.
    pub fn is_wanted(&self, id: ObjectId) -> bool {
        self.wants.contains_key(&id)
    }

    /// It was fetched, and is on its way to the disk.
    pub fn is_writing(&self, id: ObjectId) -> bool {
        let want = self.wants.get(&id);
        want.is_some_and(|want| want.step == Step::Writing)
    }

    /// Damaged objects of which `is_such` says yes to group and tries.
    pub fn damaged(&self, is_such: impl Fn((PgId, u32)) -> bool) -> u64 {
        let damaged = self.wants.values().filter(|w| w.why == Why::Damaged);
        damaged.filter(|w| is_such((w.row.pg, w.tries))).count() as u64
    }

    /// It is wanted because its bytes here are damaged.
    pub fn is_damaged(&self, id: ObjectId) -> bool {
        self.wants.get(&id).is_some_and(|w| w.why == Why::Damaged)
    }

    /// Objects wanted because notes up to `upto` named them.
    pub fn noted(&self, upto: LogIndex) -> Vec<ObjectId> {
        let is_such = |w: &Want| matches!(w.why, Why::Note(index) if index <= upto);
        let wants = self.wants.iter().filter(|(_, w)| is_such(w));
        wants.map(|(id, _)| *id).collect()
    }

    /// Objects of a group that notes up to `upto` named are all here.
    pub fn is_caught_up(&self, pg: PgId, upto: LogIndex) -> bool {
        let waits = |why| match why {
            Why::Note(index) => index <= upto,
            Why::Damaged | Why::Fill => true,
        };
        !self.wants.values().any(|w| w.row.pg == pg && waits(w.why))
    }

    /// Objects for which there is no room.
    pub fn starved(&self) -> u64 {
        self.starved.len() as u64
    }

    /// Objects by group that are missing since `before` or longer.
    pub fn lacking(&self, before: Time) -> BTreeMap<PgId, u32> {
        let mut lacking = BTreeMap::new();
        for want in self.wants.values().filter(|w| w.since <= before) {
            *lacking.entry(want.row.pg).or_default() += 1;
        }
        lacking
    }

    pub fn len(&self) -> usize {
        self.wants.len()
    }

    fn step(&mut self, id: ObjectId, step: Step) {
        let want = self.wants.get_mut(&id).expect("the caller holds it");
        self.busy += usize::from(step == Step::Asked);
        self.busy -= usize::from(want.step == Step::Asked);
        self.writing += usize::from(step == Step::Writing);
        self.writing -= usize::from(want.step == Step::Writing);
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
        self.writing -= 1;
        self.starved.remove(&id);
        self.wants.remove(&id)
    }

    /// What was fetched found no room and is due again later; with the note that named it, if it is
    /// on disk that it is missing. `None` if it was not fetched.
    pub fn is_starved_again(&mut self, id: ObjectId, now: Time) -> Option<Option<LogIndex>> {
        let why = self.wants.get(&id).filter(|w| w.step == Step::Writing)?.why;
        self.starved.insert(id);
        self.roomless_until = now + PAUSE_IDLE;
        self.step(id, Step::Due(now + PAUSE_IDLE));
        Some(match why {
            Why::Note(index) => Some(index),
            Why::Damaged => Some(LogIndex(0)),
            Why::Fill => None,
        })
    }

    /// Nothing waits that a note up to `upto` named.
    pub fn is_healed(&self, upto: LogIndex) -> bool {
        let waits = |why| matches!(why, Why::Note(index) if index <= upto);
        !self.wants.values().any(|w| waits(w.why))
    }

    pub fn next_wake(&self, now: Time, busy_max: usize) -> Option<Time> {
        if self.busy >= busy_max {
            return None;
        }
        let (due, _) = self.due.first()?;
        let due = (*due).max(self.roomless_until);
        // While the rate limit is closed, or copies make way, look again soon.
        let is_free = self.bucket.is_open() && !self.makes_way;
        Some(if is_free {
            due
        } else {
            let soon = now + PAUSE / 4;
            due.max(self.pace.rests_until(now).map_or(soon, |end| end.min(soon)))
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
    let Response::Replica(ReplicaResponse::Fetched { sums, about }) = response else {
        return Err(WireError::new(
            ErrorCode::BadRequest,
            "the answer is no object",
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
        about,
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
            && cx.now >= self.fetches.roomless_until
            && self.fetches.busy < self.fetches_max()
            && self.fetches.bucket.is_open()
        {
            let (id, next) = match self.fetches.due.first() {
                Some((due, id)) if *due <= cx.now => (*id, self.fetches.wants[id]),
                _ => return,
            };
            self.fetches.makes_way = self.makes_way(cx.now, &next);
            if self.fetches.makes_way {
                return;
            }
            self.start_fetch(cx, id);
        }
    }

    /// True if a copy has to wait for the [rest](super::pace) of those before it.
    fn makes_way(&self, now: Time, next: &Want) -> bool {
        if self.orders.is_boosted || !self.is_unhurried(next) {
            return false;
        }
        // Those of a group at its last copy may be due behind this one.
        if self
            .fills
            .keys()
            .any(|pg| self.groups.complete_members(*pg) <= 1)
        {
            return false;
        }
        let fetches = &self.fetches;
        let is_busy = fetches.busy + fetches.writing > 0;
        fetches.pace.has_clients(now) && (is_busy || fetches.pace.rests_until(now).is_some())
    }

    /// It fills a group, and is not about the last copy.
    fn is_unhurried(&self, want: &Want) -> bool {
        want.why == Why::Fill && self.groups.complete_members(want.row.pg) > 1
    }

    pub(super) fn fetches_max(&self) -> usize {
        let factor = if self.orders.is_boosted { BOOST } else { 1 };
        self.config.fetches_max * factor
    }

    fn start_fetch(&mut self, cx: &mut Cx<'_>, id: ObjectId) {
        let want = self.fetches.wants[&id];
        let is_member = matches!(self.groups.role(want.row.pg), Some(Role::Member { .. }));
        let is_stale = want.why == Why::Fill && !self.fills.contains_key(&want.row.pg);
        if !is_member || is_stale {
            self.fetches.remove(id);
            return;
        }
        if self.writing.contains_key(&id) {
            self.retry(cx, id, PAUSE); // it is about to arrive by another way
            return;
        }
        let sources = self.groups.sources(want.row.pg);
        let sources: Vec<_> = sources
            .iter()
            .filter_map(|s| self.stores.get(s).map(|addr| (*s, *addr)))
            .collect();
        let bytes = u64::from(want.row.sum.len);
        let has_room = cx.store.admit(bytes).is_ok();
        if !has_room && cx.store.would_admit(bytes) {
            self.quarantine.press(cx.now);
            self.fetches.roomless_until = cx.now + PAUSE;
            self.retry(cx, id, PAUSE);
            return;
        }
        if !has_room {
            // The others wait too: there may be very many.
            self.fetches.starved.insert(id);
            self.fetches.roomless_until = cx.now + PAUSE_IDLE;
            self.retry(cx, id, PAUSE_IDLE);
            return;
        }
        self.fetches.starved.remove(&id);
        if sources.is_empty() {
            self.retry(cx, id, PAUSE_IDLE);
            return;
        }
        let (store, addr) = sources[want.tries as usize % sources.len()];
        self.fetches.step(id, Step::Asked);
        if let Some(want) = self.fetches.wants.get_mut(&id) {
            want.asked = cx.now;
        }
        self.fetches.bucket.take(want.row.sum.len);
        let fetch = ReplicaRequest::Fetch { object: id };
        let to = CallTarget::Store(store, addr);
        self.call(cx, CallKind::Fetch(id, store), to, Request::Replica(fetch));
    }

    pub(super) fn on_fetched(
        &mut self,
        cx: &mut Cx<'_>,
        id: ObjectId,
        source: StoreId,
        result: CallResult,
    ) -> Result<(), TableError> {
        let Some(want) = self.fetches.wants.get(&id).copied() else {
            return Ok(()); // invariant 3
        };
        if want.step != Step::Asked || self.failure.is_some() {
            return Ok(());
        }
        if self.writing.contains_key(&id) {
            self.retry(cx, id, PAUSE);
            return Ok(());
        }
        if !matches!(self.groups.role(want.row.pg), Some(Role::Member { .. })) {
            self.fetches.remove(id); // it would be a stray
            return Ok(());
        }
        match verify((self.config.store, source), id, &want.row, result) {
            Ok(put) => {
                let mut tx = self.tables.begin();
                self.tables.put_object(&mut tx, put, &want.row);
                self.count_fetched(cx, &mut tx, &want.row)?;
                if want.why != Why::Fill {
                    self.tables.delete(&mut tx, keys::object(b'x', id));
                }
                if want.why == Why::Damaged {
                    self.tables
                        .put(&mut tx, keys::scrub(), self.scrub.repaired());
                }
                self.fetches.step(id, Step::Writing);
                self.persist(cx, tx, vec![After::Fetched(id)]);
            }
            Err(error) => {
                tracing::debug!(%error, object = %id, "fetch failed");
                self.fetch_failed(cx, id);
            }
        }
        Ok(())
    }

    /// The fetched object is durable.
    pub(super) fn fetch_stored(&mut self, cx: &mut Cx<'_>, id: ObjectId) {
        let Some(want) = self.fetches.remove(id) else {
            return; // deleted meanwhile, by a later batch
        };
        if self.is_unhurried(&want) {
            self.fetches.pace.copied(want.asked, cx.now);
        }
        self.counts.repaired_bytes += u64::from(want.row.sum.len);
        self.counts.repaired_files += 1;
        if let Why::Note(index) = want.why
            && !self.fills.contains_key(&want.row.pg)
        {
            self.rejoin.caught_up(index, &want.row);
        }
        self.fill_got(cx, want.row.pg, id, true);
    }

    /// Tries again later, or leaves it to the listing's next pass. What a note named is tried on,
    /// but no listing waits for it.
    pub(super) fn fetch_failed(&mut self, cx: &mut Cx<'_>, id: ObjectId) {
        let Some(want) = self.fetches.wants.get_mut(&id) else {
            return;
        };
        want.tries += 1;
        let (tries, pg, why) = (want.tries, want.row.pg, want.why);
        let sources = self.groups.sources(pg).len();
        let is_lost = tries as usize >= 2 * sources.max(1);
        if why == Why::Fill && is_lost {
            self.fetches.remove(id);
        } else {
            self.retry(cx, id, (PAUSE * 2u32.pow(tries.min(6) - 1)).min(PAUSE_MAX));
        }
        if is_lost {
            self.fill_got(cx, pg, id, false);
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
        if want.why == Why::Damaged {
            self.tables.put(tx, keys::scrub(), self.scrub.repaired());
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
        self.refetch(cx, id, row, false);
        Ok(())
    }

    /// The object is not held as the master recorded it: counted and durably wanted.
    pub(super) fn refetch(&mut self, cx: &mut Cx<'_>, id: ObjectId, row: ObjectRow, missing: bool) {
        let mut tx = self.tables.begin();
        let wanted = MissingRow {
            object: row,
            since: LogIndex(0),
        };
        self.tables.put(&mut tx, keys::object(b'x', id), &wanted);
        self.tables
            .put(&mut tx, keys::scrub(), self.scrub.found(missing));
        self.persist(cx, tx, Vec::new());
        self.fetches.want(id, row, Why::Damaged, cx.now);
    }
}

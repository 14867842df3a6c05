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
//! 3. an object that is no longer wanted when its bytes arrive is not stored;
//! 4. a source of a group that moved fetches nothing for it, but goes on wanting what it lacks: it must
//!    not seem to have it.
use super::event::store_name;
use super::fill::BOOST;
use super::groups::Role;
use super::machine::{After, CallKind, Cx, Replica};
use super::tables::{MissingRow, ObjectRow, TableError, Tx, keys};
use super::wants::{Step, Want, Why};
use crate::store::{ObjectHeader, ObjectWrite};
use crate::types::{LogIndex, ObjectId, PgId, StoreId};
use crate::wire::rpc::{CallResult, CallTarget};
use crate::wire::{ErrorCode, ReplicaRequest, ReplicaResponse, Request, Response, WireError};
use bytes::Bytes;
use std::time::Duration;

/// First pause after a failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause when there is no room or no source.
pub(super) const PAUSE_IDLE: Duration = Duration::from_secs(1);

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
    #[cfg(feature = "planted")]
    let (sums, row) = match crate::planted::has(crate::planted::Planted::CopiesUnverified) {
        true => {
            let sums = crate::types::BlockSums::of(&bytes);
            let sum = sums.object_sum(len);
            (sums, &ObjectRow { sum, ..*row })
        }
        false => (sums, row),
    };
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
        self.wants.bucket.refill(cx.now);
        self.wants.makes_way = false;
        while !self.is_paused && self.wants.busy() < self.fetches_max() {
            let makes_way = self.makes_way(cx);
            let Some((id, want)) = self.wants.due(cx.now, makes_way) else {
                return;
            };
            self.start_fetch(cx, id, &want);
        }
    }

    /// True if what fills a group has to wait for the [rest](super::pace) of that before it.
    fn makes_way(&self, cx: &Cx<'_>) -> bool {
        let (pace, now) = (&self.wants.pace, cx.now);
        // Objects of a group at its last copy may be due behind those of others.
        let is_last_copy = |pg: &PgId| self.is_at_last_copy(*pg);
        !self.orders.is_boosted
            && pace.has_clients(now)
            && (self.wants.is_turn_over() || pace.rests_until(now).is_some())
            && !self.fills.keys().any(is_last_copy)
    }

    /// There is one complete copy of the group elsewhere at most, as far as the map and the master say:
    /// that one may be all there is, or the others' stores are down.
    pub(super) fn is_at_last_copy(&self, pg: PgId) -> bool {
        self.groups.complete_members(pg) <= 1 || self.orders.last_copies.contains(&pg)
    }

    /// Map or orders changed: what is wanted of groups at their last copy goes first.
    pub(super) fn note_last_copies(&mut self) {
        let groups = self.groups.iter().map(|(pg, _)| pg);
        let last = groups.filter(|pg| self.is_at_last_copy(*pg)).collect();
        self.wants.set_last_copies(last);
    }

    pub(super) fn fetches_max(&self) -> usize {
        let factor = if self.orders.is_boosted { BOOST } else { 1 };
        self.config.fetches_max * factor
    }

    fn start_fetch(&mut self, cx: &mut Cx<'_>, id: ObjectId, want: &Want) {
        let role = self.groups.role(want.row.pg);
        let is_stale = want.why == Why::Fill && !self.fills.contains_key(&want.row.pg);
        if role == Some(Role::Gone) || is_stale {
            self.wants.remove(id);
            return;
        }
        if !matches!(role, Some(Role::Member { .. })) {
            self.retry(cx, id, PAUSE_MAX); // invariant 4
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
            self.wants.await_room(id, cx.now + PAUSE);
            return;
        }
        if !has_room {
            self.wants.starve(id, cx.now + PAUSE_IDLE);
            return;
        }
        self.wants.finds_room(id);
        if sources.is_empty() {
            self.retry(cx, id, PAUSE_IDLE);
            return;
        }
        let (store, addr) = sources[want.tries as usize % sources.len()];
        self.wants.asked(id, cx.now);
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
        let Some(want) = self.wants.get(id).copied() else {
            return Ok(()); // invariant 3
        };
        if want.step != Step::Asked || self.failure.is_some() {
            return Ok(());
        }
        if self.writing.contains_key(&id) {
            self.retry(cx, id, PAUSE);
            return Ok(());
        }
        match self.groups.role(want.row.pg) {
            Some(Role::Member { .. }) => {}
            Some(Role::Gone) => {
                self.wants.remove(id); // it would be a stray
                return Ok(());
            }
            Some(Role::Prior) | None => {
                self.retry(cx, id, PAUSE_MAX); // invariant 4
                return Ok(());
            }
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
                self.wants.step(id, Step::Writing);
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
        let Some(want) = self.wants.remove(id) else {
            return; // deleted meanwhile, by a later batch
        };
        if want.why == Why::Fill {
            self.wants.pace.copied(want.asked, cx.now);
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
        let Some(want) = self.wants.failed(id) else {
            return;
        };
        let (tries, pg, why) = (want.tries, want.row.pg, want.why);
        let sources = self.groups.sources(pg).len();
        let is_lost = tries as usize >= 2 * sources.max(1);
        if why == Why::Fill && is_lost {
            self.wants.remove(id);
        } else {
            self.retry(cx, id, (PAUSE * 2u32.pow(tries.min(6) - 1)).min(PAUSE_MAX));
        }
        if is_lost {
            self.fill_got(cx, pg, id, false);
        }
    }

    fn retry(&mut self, cx: &Cx<'_>, id: ObjectId, pause: Duration) {
        self.wants.step(id, Step::Due(cx.now + pause));
    }

    /// The object is here by another way, or shall not be here: it is no longer missing.
    pub(super) fn unwant(&mut self, cx: &mut Cx<'_>, tx: &mut Tx, id: ObjectId) {
        let Some(want) = self.wants.remove(id) else {
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
        if self.failure.is_some() || self.wants.is_wanted(id) {
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
        self.wants.want(id, row, Why::Damaged, cx.now);
    }
}

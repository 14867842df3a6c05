//! The replica machine: events in, actions out, and batches that become durable in order.
//!
//! ```text
//!  request ──> check ──> Persist(token) ──> Persisted(token) ──> check again ──> reply
//! ```
//! Invariants:
//! 1. nothing that depends on a batch is sent before its `Persisted`;
//! 2. batches end in the order they began;
//! 3. after a failed commit nothing is persisted or acknowledged any more (fail-stop).
//!
//! Assumed: a store loses what was not persisted at a crash and nothing else; messages are lost,
//! repeated, late and out of order; the clock is CLOCK_BOOTTIME.
use super::catch_up::CatchUp;
use super::config::ReplicaConfig;
use super::event::{ReadJob, ReplicaAction, ReplicaEvent, refuse};
use super::fill::Fill;
use super::fill_check::FillChecks;
use super::groups::Groups;
use super::heartbeat::Heartbeats;
use super::lease::ServingLease;
use super::load::Load;
use super::marks::{Mark, Marks};
use super::prepare::AckWait;
use super::purge::Purge;
use super::quarantine::Quarantine;
use super::recent::RecentOps;
use super::reconcile::Reconcile;
use super::rejoin::Rejoin;
use super::scrub::Scrub;
use super::tables::{self, MissingRow, TableError, Tables, Tx, keys};
use super::wants::Wants;
use crate::store::ObjectStore;
use crate::types::{Epoch, LogIndex, ObjectId, PgId, StoreId, Time};
use crate::wire::repair::RepairOrders;
use crate::wire::rpc::{Call, CallResult, CallTarget, ReplyTo};
use crate::wire::{ErrorCode, ReplicaRequest, Request, WireError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What one call to the machine works with.
pub(super) struct Cx<'a> {
    pub now: Time,
    pub store: &'a mut ObjectStore,
    pub out: &'a mut Vec<ReplicaAction>,
}

/// What to do when a batch is durable.
#[derive(Debug)]
pub(super) enum After {
    Ack(AckWait),
    /// Was told that it is not kept; its mark is in memory all the same.
    Refused(AckWait),
    Dropped(ReplyTo),
    Cursor(LogIndex),
    Adopted(Vec<(PgId, Epoch)>),
    Fetched(ObjectId),
    Purged,
    Rested,
    Namespace(u64),
}

#[derive(Debug, Default)]
pub(super) struct Wait {
    /// Number of the batch.
    pub seq: u64,
    /// Since when it is under way.
    pub since: Time,
    pub bytes: u64,
    pub objects: Vec<ObjectId>,
    pub after: Vec<After>,
}

/// What a call was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    Heartbeat,
    Listing(PgId),
    Fetch(ObjectId, StoreId),
    ScrubListing,
    Fates,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub stamp_reads: u64,
    pub prepares: u64,
    pub repaired_bytes: u64,
    pub repaired_files: u64,
    pub read_bytes: u64,
}

/// One store's replica. See the [module docs](self).
#[derive(Debug)]
pub struct Replica {
    pub(super) config: ReplicaConfig,
    pub(super) tables: Tables,
    pub(super) groups: Groups,
    pub(super) lease: ServingLease,
    pub(super) heartbeats: Heartbeats,
    pub(super) marks: Marks,
    pub(super) aborted: RecentOps,
    pub(super) settled: RecentOps,
    pub(super) wants: Wants,
    pub(super) fills: BTreeMap<PgId, Fill>,
    pub(super) fill_checks: FillChecks,
    pub(super) load: Load,
    pub(super) purge: Purge,
    pub(super) quarantine: Quarantine,
    pub(super) reconcile: Reconcile,
    pub(super) scrub: Scrub,
    pub(super) catch_up: CatchUp,
    /// Notes applied, maybe not durably.
    pub(super) cursor: LogIndex,
    pub(super) cursor_durable: LogIndex,
    pub(super) waits: BTreeMap<u64, Wait>,
    pub(super) token_durable: u64,
    pub(super) waiting_bytes: u64,
    /// Objects on their way to the disk, and the batch they are in.
    pub(super) writing: BTreeMap<ObjectId, u64>,
    pub(super) calls: BTreeMap<u64, CallKind>,
    call_next: u64,
    pub(super) stores: BTreeMap<StoreId, SocketAddr>,
    pub(super) is_paused: bool,
    pub(super) orders: RepairOrders,
    pub(super) rejoin: Rejoin,
    /// Groups with rows of what was copied.
    pub(super) counted: BTreeSet<PgId>,
    /// The cluster does not take this store.
    pub(super) is_refused: bool,
    pub(super) failure: Option<String>,
    pub(super) counts: Counts,
    pub(super) object_reads: Arc<AtomicU64>,
}

impl Replica {
    /// Starts from what the store holds. No lease and no map yet: nothing is served before the
    /// first heartbeat is answered. `now` is the age that found marks are given.
    ///
    /// # Errors
    /// [`TableError`] when a table cannot be read: the store is damaged.
    pub fn recover(
        config: ReplicaConfig,
        now: Time,
        store: &ObjectStore,
    ) -> Result<Self, TableError> {
        let tables = Tables::default();
        let rows = |table: u8| tables.scan(store, &keys::table(table), None, usize::MAX);
        let mut groups = Groups::new(config.store);
        for (key, value) in rows(b'e')? {
            let pg = keys::parse_pg(&key).ok_or_else(|| tables::bad_key(&key))?;
            groups.restore(pg, tables::decode(&key, &value)?);
        }
        let mut marks = Marks::default();
        for (key, _) in rows(b'm')? {
            let (pg, ino, op) = keys::parse_mark(&key).ok_or_else(|| tables::bad_key(&key))?;
            marks.insert(
                pg,
                ino,
                op,
                Mark {
                    since: now,
                    token: 0,
                },
            );
        }
        let mut aborted = RecentOps::new(config.aborted_max);
        for (key, value) in rows(b'a')? {
            let age = keys::parse_counter(&key).ok_or_else(|| tables::bad_key(&key))?;
            aborted.restore(age, tables::decode(&key, &value)?);
        }
        let mut wants = Wants::default();
        for (key, value) in rows(b'x')? {
            let id = keys::parse_object(&key).ok_or_else(|| tables::bad_key(&key))?;
            let row: MissingRow = tables::decode(&key, &value)?;
            wants.want_missing(id, row, now);
        }
        let cursor = tables.get(store, &keys::cursor())?.unwrap_or_default();
        let scrub = tables.get(store, &keys::scrub())?.unwrap_or_default();
        let mut counted = BTreeSet::new();
        for (key, _) in rows(b'f')? {
            counted.extend(keys::parse_fill(&key).map(|(pg, _)| pg));
        }
        let rejoin = Rejoin::new(&config, now, cursor > LogIndex(0));
        let reconcile = Reconcile::new(now + config.reconcile_after);
        let gaps = tables.get(store, &keys::gaps())?.unwrap_or_default();
        Ok(Self {
            scrub: Scrub::new(scrub, now + config.scrub_delay),
            settled: RecentOps::new(config.settled_max),
            heartbeats: Heartbeats::new(now),
            config,
            tables,
            groups,
            lease: ServingLease::default(),
            marks,
            aborted,
            wants,
            fills: BTreeMap::new(),
            fill_checks: FillChecks::default(),
            load: Load::default(),
            purge: Purge::default(),
            quarantine: Quarantine::recover(now, store)?,
            reconcile,
            catch_up: CatchUp::new(gaps),
            cursor,
            cursor_durable: cursor,
            waits: BTreeMap::new(),
            token_durable: 0,
            waiting_bytes: 0,
            writing: BTreeMap::new(),
            calls: BTreeMap::new(),
            call_next: 0,
            stores: BTreeMap::new(),
            is_paused: false,
            orders: RepairOrders::default(),
            rejoin,
            counted,
            is_refused: false,
            failure: None,
            counts: Counts::default(),
            object_reads: Arc::default(),
        })
    }

    /// Counts object reads; whoever does them adds to it.
    #[must_use]
    pub fn object_reads(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.object_reads)
    }

    /// Notes up to this index are durably applied.
    #[must_use]
    pub fn cursor_durable(&self) -> LogIndex {
        self.cursor_durable
    }

    /// Why it acknowledges nothing any more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// When the next [`Tick`](ReplicaEvent::Tick) is wanted at the latest.
    #[must_use]
    pub fn next_wake(&self, now: Time) -> Time {
        let mut wake = self.heartbeats.next_wake(now, &self.config);
        if self.failure.is_none() {
            wake = wake.min(self.load.next_wake());
            wake = self.quarantine.next_wake().map_or(wake, |at| wake.min(at));
        }
        if self.failure.is_none() && self.groups.count().is_some() {
            let waits = [self.scrub.next_wake(), self.reconcile.next_wake()];
            wake = waits.into_iter().flatten().fold(wake, Time::min);
        }
        if self.failure.is_none() && !self.is_paused && self.groups.count().is_some() {
            let fetches = self.wants.next_wake(now, self.fetches_max());
            wake = fetches
                .into_iter()
                .chain(self.fills_wake())
                .chain(self.fill_checks.next_wake(now))
                .fold(wake, Time::min);
        }
        wake
    }

    /// Applies one event. Actions are appended to `out` in the order they must be done.
    pub fn handle(
        &mut self,
        now: Time,
        event: ReplicaEvent,
        store: &mut ObjectStore,
        out: &mut Vec<ReplicaAction>,
    ) {
        let cx = &mut Cx { now, store, out };
        let result = match event {
            ReplicaEvent::Request {
                from,
                body,
                payload,
            } => {
                if let Err(error) = self.on_request(cx, from, body, payload) {
                    cx.out.push(refuse(from, error));
                }
                Ok(())
            }
            ReplicaEvent::Persisted { token, result } => self.on_persisted(cx, token, result),
            ReplicaEvent::CallDone { token, result } => self.on_call_done(cx, token, result),
            ReplicaEvent::Namespace { token, work } => self.on_namespace(cx, token, work),
            ReplicaEvent::Damaged { object } if object.is_namespace() => {
                tracing::warn!(%object, "part of a namespace snapshot is damaged");
                Ok(()) // the next snapshot replaces it
            }
            ReplicaEvent::Damaged { object } => self.on_damaged(cx, object),
            ReplicaEvent::Scrubbed(done) => self.on_scrubbed(cx, done),
            ReplicaEvent::Poke => {
                self.heartbeats.ask(cx.now, &self.config);
                Ok(())
            }
            ReplicaEvent::Tick => Ok(()),
        };
        let result = result.and_then(|()| self.pump(cx));
        if let Err(error) = result {
            self.fail_stop(cx, &error.to_string());
        }
        self.check_invariants();
    }

    fn on_request(
        &mut self,
        cx: &mut Cx<'_>,
        from: ReplyTo,
        body: ReplicaRequest,
        payload: Bytes,
    ) -> Result<(), WireError> {
        let is_clients = matches!(
            body,
            ReplicaRequest::Prepare { .. } | ReplicaRequest::Read { .. } | ReplicaRequest::Stamp(_)
        );
        if is_clients {
            self.wants.pace.client_asks(cx.now);
        }
        match body {
            ReplicaRequest::Prepare {
                op,
                ino,
                mark,
                objects,
                about,
            } => self.on_prepare(cx, from, (op, ino, mark), (&objects, about), &payload),
            ReplicaRequest::Read {
                object,
                offset,
                len,
                stamp,
            } => {
                self.on_read(cx, from, (object, offset, len), stamp);
                Ok(())
            }
            ReplicaRequest::Stamp(wanted) => self.on_stamp(cx, from, wanted),
            ReplicaRequest::Drop { ops, ino } => self.on_drop(cx, from, &ops, ino),
            ReplicaRequest::Check { objects } => self.on_check(cx, from, objects),
            ReplicaRequest::Usage => {
                self.on_usage(cx, from);
                Ok(())
            }
            ReplicaRequest::Fetch { object } => {
                cx.out
                    .push(ReplicaAction::Read(ReadJob::Fetch { to: from, object }));
                Ok(())
            }
            ReplicaRequest::Scrub { start } => {
                self.on_scrub(cx, from, start);
                Ok(())
            }
            body => self.on_inventory(cx, from, body),
        }
    }

    fn on_call_done(
        &mut self,
        cx: &mut Cx<'_>,
        token: u64,
        result: CallResult,
    ) -> Result<(), TableError> {
        match self.calls.remove(&token) {
            Some(CallKind::Heartbeat) => self.on_heartbeat_done(cx, token, result),
            Some(CallKind::Listing(pg)) => self.on_listing(cx, pg, token, result),
            Some(CallKind::Fetch(id, source)) => self.on_fetched(cx, id, source, result),
            Some(CallKind::Fates) => self.on_fates(cx, token, result),
            Some(CallKind::ScrubListing) => {
                self.on_scrub_listing(cx, token, result);
                Ok(())
            }
            // Not ours, or told twice.
            None => Ok(()),
        }
    }

    /// Background work that may go on now.
    fn pump(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        if self.failure.is_none() {
            self.pump_waits(cx);
            self.pump_adoption(cx);
        }
        let writing = [
            Self::pump_purge,
            Self::pump_quarantine,
            Self::pump_load,
            Self::pump_counts,
            Self::pump_fills,
            Self::pump_scrub,
            Self::pump_reconcile,
        ];
        for pump in writing {
            // The one before may have met the failure.
            if self.failure.is_none() {
                pump(self, cx)?;
            }
        }
        if self.failure.is_none() {
            self.pump_catch_up(cx);
            self.pump_fill_checks(cx);
            self.pump_fetches(cx);
            self.pump_rejoin(cx);
        }
        self.pump_heartbeat(cx);
        Ok(())
    }

    /// Makes the batch visible and hands it to the storage thread.
    pub(super) fn persist(&mut self, cx: &mut Cx<'_>, tx: Tx, after: Vec<After>) {
        if self.failure.is_some() {
            // Met by a batch before this one, of the same event (invariant 3).
            self.give_up(cx, after);
            return;
        }
        let (token, bytes) = (tx.token, tx.object_bytes());
        let objects: Vec<_> = tx.objects().collect();
        match cx.store.apply(self.tables.finish(tx)) {
            Ok(batch) => {
                self.writing.extend(objects.iter().map(|id| (*id, token)));
                self.waiting_bytes += bytes;
                self.waits.insert(
                    token,
                    Wait {
                        seq: batch.seq(),
                        since: cx.now,
                        bytes,
                        objects,
                        after,
                    },
                );
                cx.out.push(ReplicaAction::Persist { token, batch });
            }
            Err(error) => {
                self.fail_stop(cx, &error.to_string());
                self.give_up(cx, after);
            }
        }
    }

    fn on_persisted(
        &mut self,
        cx: &mut Cx<'_>,
        token: u64,
        result: Result<(), String>,
    ) -> Result<(), TableError> {
        let Some(wait) = self.waits.remove(&token) else {
            return Ok(()); // told twice
        };
        assert!(
            self.waits.keys().next().is_none_or(|next| *next > token),
            "invariant 2"
        );
        self.waiting_bytes -= wait.bytes;
        for id in &wait.objects {
            if self.writing.get(id) == Some(&token) {
                self.writing.remove(id);
            }
        }
        if let Err(cause) = result {
            self.fail_stop(cx, &cause);
        }
        if self.failure.is_some() {
            // Even if this one is durable: nothing is acknowledged any more.
            self.give_up(cx, wait.after);
            return Ok(());
        }
        self.token_durable = token;
        if cx.store.take_roomless(wait.seq) {
            return self.without_room(cx, &wait.objects, wait.after);
        }
        self.arrived(cx, &wait.objects)?;
        wait.after
            .into_iter()
            .try_for_each(|after| self.after(cx, after))
    }

    pub(super) fn after(&mut self, cx: &mut Cx<'_>, after: After) -> Result<(), TableError> {
        match after {
            After::Ack(wait) => self.acknowledge(cx, wait)?,
            After::Refused(_) => {}
            After::Dropped(to) => self.dropped(cx, to),
            After::Cursor(upto) => self.cursor_durable = upto,
            After::Adopted(epochs) => self.adopted(cx, &epochs),
            After::Fetched(id) => self.fetch_stored(cx, id),
            After::Purged => self.purge_done(cx),
            After::Rested => self.rested(cx.now),
            After::Namespace(token) => {
                let result = Ok(());
                cx.out.push(ReplicaAction::NamespaceDone { token, result });
            }
        }
        Ok(())
    }

    /// The store has failed: says so to whoever waits.
    fn give_up(&mut self, cx: &mut Cx<'_>, after: Vec<After>) {
        for after in after {
            if let After::Ack(AckWait { to, .. }) | After::Dropped(to) = after {
                cx.out.push(refuse(to, ErrorCode::StoreFailed.into()));
            } else if let After::Namespace(token) = after {
                let result = Err("the store has failed".to_owned());
                cx.out.push(ReplicaAction::NamespaceDone { token, result });
            }
        }
    }

    /// Nothing is acknowledged any more until a restart has recovered what is on the disk.
    pub(super) fn fail_stop(&mut self, cx: &mut Cx<'_>, cause: &str) {
        if self.failure.is_none() {
            tracing::error!(store = %self.config.store, cause, "store failed: it acknowledges nothing");
            self.failure = Some(cause.to_owned());
            self.heartbeats.now(cx.now);
        }
    }

    /// Makes a call; its result comes to [`on_call_done`](Self::on_call_done).
    pub(super) fn call(
        &mut self,
        cx: &mut Cx<'_>,
        kind: CallKind,
        to: CallTarget,
        request: Request,
    ) -> u64 {
        self.call_next += 1;
        let token = self.call_next;
        self.calls.insert(token, kind);
        cx.out.push(ReplicaAction::Call(Call {
            token,
            to,
            request,
            payload: Vec::new(),
        }));
        token
    }

    /// An error for a request that met a table that cannot be read.
    pub(super) fn broken(error: &TableError) -> WireError {
        WireError::new(ErrorCode::StoreFailed, error.to_string())
    }

    fn check_invariants(&self) {
        let waiting: u64 = self.waits.values().map(|w| w.bytes).sum();
        assert!(waiting == self.waiting_bytes, "bytes under way are counted");
        assert!(
            self.cursor_durable <= self.cursor,
            "the durable cursor is never ahead"
        );
        assert!(
            self.waits
                .keys()
                .next()
                .is_none_or(|t| *t > self.token_durable),
            "invariant 2"
        );
    }
}

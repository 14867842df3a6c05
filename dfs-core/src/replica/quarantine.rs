//! Deleted objects rest in the store for a while before their bytes go.
//!
//! ```text
//!  a committed reason ──> rests ──quarantine over, or room is needed──> gone
//! ```
//! For the machine an object that rests is deleted: it has no row, is not read, listed, scrubbed or
//! counted, and is fetched or prepared anew if it belongs here again (the store lets it go then). Steps, one batch at a
//! time, those deleted first first:
//! 1. those that rest for the configured time go;
//! 2. if less than a quarter of the store's part of the device is free above the reserve
//!    ([`resting_excess`](crate::store::ObjectStore::resting_excess)), so many go as that takes;
//! 3. if somebody was not admitted, some go at once.
//!
//! So nobody is refused for want of room, and no history goes, while anything rests.
//!
//! Time: the clock of what rests stands still while the daemon is down, and begins at the newest
//! deletion on disk. So nothing rests for less than the configured time, whatever clocks do; but the time
//! since that deletion is forgotten at each restart, and what rests may stay for as long again.
//!
//! Invariant: an object leaves the disk only by way of here, with its [`RestReason`] on disk; except one
//! whose batch is under way, one that the same bytes replace, and snapshots of the namespace.
use super::machine::{After, Cx, Replica};
use super::tables::{TableError, Tx};
use crate::store::{KvError, ObjectStore, Rest, RestReason, StoreError};
use crate::types::{ObjectId, Time};
use std::time::Duration;

/// Objects of one batch at most.
const PAGE: usize = 256;
/// Bytes of one batch, about.
const BATCH_BYTES: u64 = 256 << 20;
/// Bytes that go when somebody was not admitted, at least.
const PRESSED_BYTES: u64 = 64 << 20;
/// Between two looks while something rests.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two lines in the log about what went.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Quarantine {
    /// What the clock showed at `began`.
    base_ms: u64,
    began: Time,
    /// The next look; `None` while nothing rests.
    due: Option<Time>,
    is_busy: bool,
    /// Somebody was not admitted.
    is_pressed: bool,
    gone: Gone,
}

/// What went since that was last told.
#[derive(Debug, Default)]
struct Gone {
    objects: usize,
    bytes: u64,
    /// Of these, before their time was over.
    early: u64,
    told_at: Option<Time>,
}

impl Gone {
    /// Says so in the log, if that was not done lately.
    fn tell(&mut self, now: Time) {
        if self.told_at.is_some_and(|at| now.since(at) < TELL_EVERY) {
            return;
        }
        let Self {
            objects,
            bytes,
            early,
            ..
        } = std::mem::take(self);
        tracing::info!(objects, bytes, early, "objects leave the quarantine");
        self.told_at = Some(now);
    }
}

impl Quarantine {
    pub fn recover(now: Time, store: &ObjectStore) -> Result<Self, TableError> {
        Ok(Self {
            base_ms: store.newest_rest_ms().map_err(of_store)?,
            began: now,
            due: store.has_resting().then_some(now + LOOK_EVERY),
            is_busy: false,
            is_pressed: false,
            gone: Gone::default(),
        })
    }

    fn clock_ms(&self, now: Time) -> u64 {
        let past = now.since(self.began).as_millis();
        let past = u64::try_from(past).unwrap_or(u64::MAX);
        self.base_ms.saturating_add(past)
    }

    /// Room is needed: some go at once.
    pub fn press(&mut self, now: Time) {
        self.is_pressed = true;
        self.due = Some(now);
    }

    pub fn next_wake(&self) -> Option<Time> {
        self.due.filter(|_| !self.is_busy)
    }
}

fn of_store(error: StoreError) -> TableError {
    let cause = error.to_string();
    TableError::Kv(KvError::Engine { cause })
}

impl Replica {
    /// Deletes an object that is held: it rests.
    pub(super) fn rest_object(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        id: ObjectId,
        reason: RestReason,
    ) {
        if self.config.quarantine.is_zero() || self.writing.contains_key(&id) {
            self.tables.delete_object(tx, id);
            return;
        }
        let since_ms = self.quarantine.clock_ms(cx.now);
        let rest = Rest {
            id,
            since_ms,
            reason,
        };
        self.tables.rest_object(tx, rest);
        self.quarantine.due.get_or_insert(cx.now + LOOK_EVERY);
    }

    /// A batch of what goes is durable.
    pub(super) fn rested(&mut self, now: Time) {
        self.quarantine.is_busy = false;
        self.quarantine.due = Some(now);
    }

    pub(super) fn pump_quarantine(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        let Some(due) = self.quarantine.next_wake() else {
            return Ok(());
        };
        if cx.now < due {
            return Ok(());
        }
        let oldest = cx.store.oldest_resting(PAGE).map_err(of_store)?;
        let clock = self.quarantine.clock_ms(cx.now);
        let keep = u64::try_from(self.config.quarantine.as_millis()).unwrap_or(u64::MAX);
        let is_pressed = std::mem::take(&mut self.quarantine.is_pressed);
        let pressed = if is_pressed { PRESSED_BYTES } else { 0 };
        let excess = cx.store.resting_excess().max(pressed);
        self.quarantine.due = (!oldest.is_empty()).then_some(cx.now + LOOK_EVERY);
        let (mut bytes, mut early) = (0, 0);
        let mut tx = None;
        for resting in oldest {
            let is_over = clock.saturating_sub(resting.since_ms) >= keep;
            if bytes >= BATCH_BYTES || !(is_over || bytes < excess) {
                break;
            }
            let tx = tx.get_or_insert_with(|| self.tables.begin());
            tx.expire(resting.since_ms, resting.id);
            bytes += resting.cost_bytes;
            early += u64::from(!is_over);
        }
        let Some(tx) = tx else {
            return Ok(());
        };
        let gone = &mut self.quarantine.gone;
        gone.objects += tx.expires();
        gone.bytes += bytes;
        gone.early += early;
        gone.tell(cx.now);
        self.quarantine.is_busy = true;
        self.persist(cx, tx, vec![After::Rested]);
        Ok(())
    }
}

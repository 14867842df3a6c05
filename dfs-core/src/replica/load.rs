//! What a store tells about its room, its disk and its groups.
//!
//! Bytes by group come from walks over the object rows, a page at a time, so that nothing has to be
//! counted on the way of a write. A walk begins when the last one is old enough and something
//! changed; what it found is reported when it ends, if it differs from what the master was told.
use super::machine::{Cx, Replica};
use super::tables::{self, ObjectRow, TableError, keys};
use crate::types::{ObjectId, PgId, SMALL_OBJECT_MAX, Time};
use crate::wire::master::{SpaceAdvice, StoreLoad};
use crate::wire::replica::HeldBytes;
use crate::wire::{ErrorCode, WireError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows of one page of a walk.
const PAGE: usize = 256;
/// Between two pages.
const PAGE_EVERY: Duration = Duration::from_millis(20);
/// Between two walks, at least.
const WALK_EVERY: Duration = Duration::from_secs(2);
/// A store that has just become full says "try again" for this long: the master may know what can go.
const FULL_PATIENCE: Duration = Duration::from_secs(1);
/// Writers who found no room longer ago than this say nothing of now.
const FULL_FORGOTTEN: Duration = Duration::from_secs(10);
/// What the master said of space is asked for again after this, before a writer is refused.
const ADVICE_VALID: Duration = Duration::from_millis(300);
/// What it said because a writer was told to try again counts for this long, as writers pause and
/// answers are slow, but for one refusal only: room may come at any moment.
const ASKED_VALID: Duration = Duration::from_secs(3);
/// A store counts as full until this part of its size is free again.
const ROOM_PART: u64 = 64;
/// The same in bytes, at most.
const ROOM_MAX: u64 = 1 << 30;

/// What a walk counts, in bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counted {
    groups: BTreeMap<PgId, u64>,
    /// Of objects whose bytes lie in the tables.
    in_tables: u64,
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Load {
    next: Time,
    after: Option<Vec<u8>>,
    counted: Counted,
    /// As the last walk found it.
    found: Counted,
    /// The master was told the groups of `found`.
    is_told: bool,
    /// Batches applied when the last walk began.
    walked_at: u64,
    advice: SpaceAdvice,
    /// When the heartbeat was sent that `advice` answers.
    advised_at: Option<Time>,
    /// When it was asked for because a writer found no room, until it has been used.
    asked_at: Option<Time>,
    /// When the answer was first used.
    used_at: Option<Time>,
    /// When something that rests stood last between a writer and room.
    rested_at: Option<Time>,
    /// When writers first found no room, and last.
    full_since: Option<Time>,
    full_last: Option<Time>,
}

/// Of the bytes of an object, those that lie in the tables.
fn in_tables(len: u32) -> u64 {
    match len > SMALL_OBJECT_MAX {
        true => 0,
        false => u64::from(len),
    }
}

/// Bytes of snapshots of the namespace, and which of them lie in the tables. They are few, and neither
/// listed nor walked over; an unreadable row counts nothing.
fn namespace_bytes(cx: &Cx<'_>) -> (u64, u64) {
    let (mut all, mut small) = (0, 0);
    let mut after = ObjectId::of_namespace(0, 0);
    loop {
        let page = cx.store.list_objects(Some(after), PAGE).unwrap_or_default();
        let page: Vec<_> = page.iter().take_while(|l| l.id.is_namespace()).collect();
        let Some(last) = page.last() else {
            return (all, small);
        };
        after = last.id;
        for header in page.iter().filter_map(|l| l.header.as_ref()) {
            all += u64::from(header.len);
            small += in_tables(header.len);
        }
    }
}

impl Load {
    /// A heartbeat sent at `at`, which maybe carried the groups, was answered.
    pub fn told(&mut self, at: Time, groups: &Option<Vec<(PgId, u64)>>, advice: SpaceAdvice) {
        (self.advice, self.advised_at) = (advice, Some(at));
        if let Some(told) = groups {
            self.is_told |= told.iter().copied().eq(self.found.groups.clone());
        }
    }

    pub fn next_wake(&self) -> Time {
        self.next
    }
}

impl Replica {
    /// One page of the walk, if it is time.
    pub(super) fn pump_load(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        if cx.now < self.load.next {
            return Ok(());
        }
        if self.load.after.is_none() {
            self.load.next = cx.now + WALK_EVERY;
            if self.load.walked_at == cx.store.applied() {
                return Ok(());
            }
            self.load.walked_at = cx.store.applied();
            self.load.counted = Counted::default();
        }
        let after = self.load.after.take();
        let rows = self
            .tables
            .scan(cx.store, &keys::table(b'o'), after.as_deref(), PAGE)?;
        for (key, value) in &rows {
            let row: ObjectRow = tables::decode(key, value)?;
            let counted = &mut self.load.counted;
            *counted.groups.entry(row.pg).or_default() += u64::from(row.sum.len);
            counted.in_tables += in_tables(row.sum.len);
        }
        if rows.len() == PAGE {
            self.load.after = rows.last().map(|(key, _)| key.clone());
            self.load.next = cx.now + PAGE_EVERY;
            return Ok(());
        }
        let counted = std::mem::take(&mut self.load.counted);
        self.load.is_told &= counted.groups == self.load.found.groups;
        self.load.found = counted;
        Ok(())
    }

    /// What the objects held are for, as the last walk found it.
    pub(super) fn held_bytes(&self, cx: &Cx<'_>) -> HeldBytes {
        let found = &self.load.found;
        let is_walking = self.load.after.is_some();
        let (namespace, namespace_in_tables) = namespace_bytes(cx);
        let resting = cx.store.resting();
        HeldBytes {
            groups: found.groups.iter().map(|(pg, b)| (*pg, *b)).collect(),
            in_tables: found.in_tables,
            namespace,
            namespace_in_tables,
            quarantine_in_tables: resting.bytes.saturating_sub(resting.file_bytes),
            is_current: !is_walking && self.load.walked_at == cx.store.applied(),
        }
    }

    pub(super) fn load_report(&self, cx: &Cx<'_>, is_full: bool) -> StoreLoad {
        let is_news = is_full || !self.load.is_told;
        let groups = &self.load.found.groups;
        StoreLoad {
            reserve_bytes: cx.store.reserve_bytes(),
            coming_bytes: cx.store.coming_bytes(),
            starved: self.wants.starved(),
            disk_us: u64::try_from(cx.store.disk_latency().as_micros()).unwrap_or(u64::MAX),
            read_bytes: self.counts.read_bytes,
            groups: is_news.then(|| groups.iter().map(|(pg, bytes)| (*pg, *bytes)).collect()),
            set_aside: !self.config.set_aside.is_empty(),
            voting: self.config.voting.get(),
        }
    }

    /// Step 4 of a PREPARE: room. While bytes are being freed, or may soon be, the answer is "try
    /// again": a writer is refused for want of space only when nothing old is left to go.
    pub(super) fn admit_bytes(&mut self, cx: &Cx<'_>, bytes: u64) -> Result<(), WireError> {
        let Err(error) = cx.store.admit(bytes) else {
            let enough = (cx.store.part_bytes() / ROOM_PART).min(ROOM_MAX);
            if cx.store.admit(enough).is_ok() {
                self.load.full_since = None;
            }
            return Ok(());
        };
        Err(self.no_room(cx, bytes, &error.to_string()))
    }

    /// What a writer of `bytes` is told for whom there is no room.
    pub(super) fn no_room(&mut self, cx: &Cx<'_>, bytes: u64, why: &str) -> WireError {
        let last = self.load.full_last.replace(cx.now);
        // Nobody may have come to see that there was room meanwhile.
        if last.is_some_and(|at| cx.now.since(at) > FULL_FORGOTTEN) {
            self.load.full_since = None;
        }
        let since = *self.load.full_since.get_or_insert(cx.now);
        let name = super::event::store_name(self.config.store);
        let is_known = self.is_advised(cx);
        // What rests goes first; that takes a moment, and then another one until it is seen.
        let helps = cx.store.is_out_of_room() && cx.store.has_resting();
        if helps || cx.store.would_admit(bytes) {
            self.load.rested_at = Some(cx.now);
            self.quarantine.press(cx.now);
        }
        let recent = |at: Time| cx.now.since(at) < FULL_PATIENCE;
        let rests = self.load.rested_at.is_some_and(recent);
        if rests || !is_known || self.load.advice.freeing || recent(since) {
            let detail = format!("{name}: {why}; space is being freed");
            return WireError::new(ErrorCode::Freeing, detail);
        }
        WireError::new(ErrorCode::NoSpace, format!("{name}: {why}"))
    }

    /// True if the master's advice is new enough to refuse a writer; asks for it if not.
    fn is_advised(&mut self, cx: &Cx<'_>) -> bool {
        let (now, load) = (cx.now, &mut self.load);
        let Some(advised) = load.advised_at else {
            load.asked_at = Some(now);
            self.heartbeats.ask(now, &self.config);
            return false;
        };
        if now.since(advised) <= ADVICE_VALID {
            return true;
        }
        let is_answer = |asked: Time| asked <= advised && now.since(advised) <= ASKED_VALID;
        if load.asked_at.is_some_and(is_answer) {
            // Who asks again soon is one of those for whom it was asked.
            let used_at = *load.used_at.get_or_insert(now);
            if now.since(used_at) <= ADVICE_VALID {
                return true;
            }
            (load.asked_at, load.used_at) = (None, None);
        }
        // An answer may be under way to an earlier one that asked.
        let is_waiting = |asked: Time| advised < asked && now.since(asked) <= ASKED_VALID;
        if !load.asked_at.is_some_and(is_waiting) {
            (load.asked_at, load.used_at) = (Some(now), None);
        }
        self.heartbeats.ask(now, &self.config);
        false
    }
}

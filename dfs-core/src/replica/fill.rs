//! Filling a group this store was made a member of: stamps and objects by the leader's listing.
//!
//! ```text
//!  Idle ──ask a page──> Asking ──rows──> Fetching ──all here──> Idle (next page)
//!    ^                                       │ last page, something could not be had
//!    ├───────────────────────────────────────┘ (the pass begins again)
//!    │                                       │ last page, all here
//!    └── no CLEAN for a while ── Done <─────Ending (cursor and batches catch up)
//! ```
//! Invariants:
//! 1. an inode is *known* here only by news from this configuration or later: a note with an index
//!    above the map's, or a listing row of a state at least as new as that map;
//! 2. `Done` means that after a whole pass nothing listed is missing, every batch of it is durable,
//!    and the cursor has reached the newest listed state: later changes come as notes;
//! 3. a stamp that is held and whose inode a listing passes over is of a file that went while the
//!    group was not this store's: the listing is no older than any note that was applied.
//!
//! Why 1 suffices for stamps: commits before this epoch are in the listing; commits in it have W
//! marks among its members, so a reader of R members meets one.
use super::fill_count::WideFiles;
use super::machine::{CallKind, Cx, Replica};
use super::tables::{ObjectRow, TableError, Tx, bad_key, keys};
use super::wants::Why;
use crate::types::{ChunkNo, Epoch, Ino, LogIndex, ObjectId, PgId, PgPhase, Time};
use crate::wire::master::{MasterResponse, PgRow};
use crate::wire::repair::FillCount;
use crate::wire::rpc::{CallResult, CallTarget};
use crate::wire::{MasterRequest, Request, Response};
use std::collections::BTreeSet;
use std::time::Duration;

/// Wait before a page is asked for again after an error or a state that was too old.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Stamps looked at together.
const STAMPS: usize = 512;
/// How much more is copied at a time when repair is boosted.
pub(super) const BOOST: usize = 4;
/// Wait before another pass; it doubles up to [`PASS_AGAIN_MAX`] while passes fail.
const PASS_AGAIN: Duration = Duration::from_secs(1);
const PASS_AGAIN_MAX: Duration = Duration::from_secs(60);
/// A listing that notes overtook so often is waited for by the next ones.
const OVERTAKEN_MAX: u32 = 5;
/// A group that was reported filled and is still called filling is looked through again after this.
const DONE_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Idle(Time),
    Asking(u64),
    Fetching {
        left: BTreeSet<ObjectId>,
        is_last: bool,
    },
    Ending,
    Done(Time),
}

/// One group that is being filled.
#[derive(Debug)]
pub(super) struct Fill {
    pub epoch: Epoch,
    /// The map that made this store a member to be filled.
    since: LogIndex,
    known: BTreeSet<Ino>,
    /// Every inode up to this one is known.
    listed: Option<Ino>,
    is_all_listed: bool,
    step: Step,
    /// The page to ask for begins after this row.
    after: Option<(Ino, ChunkNo)>,
    /// Newest state listed in this pass.
    log_max: LogIndex,
    /// Last batch of this pass.
    token: u64,
    /// Objects of this pass that could not be had.
    failed: u64,
    /// Named by the pages so far.
    wide: WideFiles,
    /// What was copied, once it is done.
    count: FillCount,
    /// Everything is copied anew, whatever is here; these objects have been.
    renewed: Option<BTreeSet<ObjectId>>,
    /// Passes in a row that could not get everything.
    passes_failed: u32,
    /// What is held was read and compared up to this row.
    verified: Option<(Ino, ChunkNo)>,
    /// Listings in a row that notes overtook.
    overtaken: u32,
    /// It counts as complete and missed news ([`catch_up`](super::catch_up)).
    pub is_check: bool,
}

impl Fill {
    pub fn new(epoch: Epoch, since: LogIndex, now: Time, is_check: bool) -> Self {
        Self {
            epoch,
            since,
            known: BTreeSet::new(),
            listed: None,
            is_all_listed: false,
            step: Step::Idle(now),
            after: None,
            log_max: LogIndex(0),
            token: 0,
            failed: 0,
            wide: WideFiles::default(),
            count: FillCount::default(),
            renewed: None,
            passes_failed: 0,
            verified: None,
            overtaken: 0,
            is_check,
        }
    }

    pub fn is_wide(&self, ino: Ino) -> bool {
        self.wide.contains(ino)
    }

    /// What was copied, if it is done.
    pub fn done_count(&self) -> Option<&FillCount> {
        matches!(self.step, Step::Done(_)).then_some(&self.count)
    }

    /// This configuration told of the inode (invariant 1).
    pub fn knows(&self, ino: Ino) -> bool {
        let is_listed = self.is_all_listed || self.listed.is_some_and(|upto| ino <= upto);
        is_listed || self.known.contains(&ino)
    }

    /// A note told of the inode's newest commit.
    pub fn told(&mut self, index: LogIndex, ino: Ino) {
        if index > self.since && !self.knows(ino) {
            self.known.insert(ino);
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.step, Step::Done(_))
    }

    fn is_busy(&self) -> bool {
        matches!(self.step, Step::Asking(_) | Step::Fetching { .. })
    }

    fn begin_pass(&mut self, at: Time) {
        self.after = None;
        self.log_max = LogIndex(0);
        self.failed = 0;
        self.step = Step::Idle(at);
    }

    /// All objects of the page are here or given up.
    fn page_done(&mut self, now: Time, is_last: bool) {
        self.step = if !is_last {
            Step::Idle(now)
        } else if self.failed == 0 {
            self.passes_failed = 0;
            Step::Ending
        } else {
            let pause = PASS_AGAIN * 2u32.pow(self.passes_failed.min(6));
            self.passes_failed += 1;
            self.begin_pass(now + pause.min(PASS_AGAIN_MAX));
            return;
        };
    }
}

impl Replica {
    /// The map changed: what is to be filled?
    pub(super) fn fills_changed(&mut self, cx: &Cx<'_>) {
        let all: Vec<_> = self.groups.iter().map(|(pg, _)| pg).collect();
        for pg in all {
            let Some(mut new) = self.new_fill(pg, cx.now) else {
                if self.fills.remove(&pg).is_some() {
                    self.fill_checks.forget(pg);
                }
                continue;
            };
            let is_same = |f: &Fill| (f.epoch, f.is_check) == (new.epoch, new.is_check);
            if !self.fills.get(&pg).is_some_and(is_same) {
                self.fill_checks.forget(pg);
                let is_renewed = !new.is_check && self.rejoin.is_renewing(pg);
                new.renewed = is_renewed.then(BTreeSet::new);
                self.fills.insert(pg, new);
            }
        }
    }

    /// When a group is to be asked for again; none while no more may be filled at a time.
    pub(super) fn fills_wake(&self) -> Option<Time> {
        let is_free = self.fills_busy() < self.fills_max();
        let wake = |fill: &Fill| match fill.step {
            Step::Idle(at) if is_free => Some(at),
            Step::Done(at) => Some(at + DONE_AGAIN),
            _ => None,
        };
        self.fills.values().filter_map(wake).min()
    }

    fn fills_busy(&self) -> usize {
        self.fills.values().filter(|f| f.is_busy()).count()
    }

    fn fills_max(&self) -> usize {
        let factor = if self.orders.is_boosted { BOOST } else { 1 };
        self.config.fills_max * factor
    }

    pub(super) fn pump_fills(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        if self.is_paused || self.fills.is_empty() {
            return Ok(());
        }
        let mut ready = Vec::new();
        let mut done = Vec::new();
        for (pg, fill) in &mut self.fills {
            match fill.step {
                Step::Ending
                    if self.cursor_durable >= fill.log_max
                        && self.token_durable >= fill.token
                        && self.wants.is_caught_up(*pg, fill.log_max) =>
                {
                    done.push((*pg, fill.epoch));
                }
                Step::Done(at) if cx.now >= at + DONE_AGAIN => fill.begin_pass(cx.now),
                Step::Idle(at) if at <= cx.now => {
                    let info = self.groups.info(*pg);
                    let is_open = |phase| match phase {
                        PgPhase::Copying => true,
                        PgPhase::Active => fill.is_check,
                        PgPhase::Fencing => false,
                    };
                    if info.is_some_and(|i| is_open(i.phase)) {
                        ready.push(*pg);
                    } else {
                        // Not activated yet: the next map brings it back.
                        fill.step = Step::Idle(cx.now + PASS_AGAIN);
                    }
                }
                _ => {}
            }
        }
        for (pg, epoch) in done {
            let count = self.count_of(cx, pg, epoch)?;
            let fill = self.fills.get_mut(&pg).expect("found above");
            (fill.step, fill.count) = (Step::Done(cx.now), count);
            if fill.renewed.is_some() {
                self.rejoin.renewed(pg);
            }
            self.heartbeats.ask(cx.now, &self.config);
        }
        let busy = self.fills_busy();
        // Fewest copies first.
        ready.sort_by_key(|pg| {
            (
                !self.is_at_last_copy(*pg),
                self.groups.complete_members(*pg),
            )
        });
        let free = self.fills_max().saturating_sub(busy);
        for pg in ready.into_iter().take(free) {
            self.ask_page(cx, pg);
        }
        Ok(())
    }

    /// A listing is on its way that notes shall not overtake again.
    pub(super) fn listing_waits(&self) -> bool {
        let waits = |f: &Fill| f.overtaken >= OVERTAKEN_MAX && matches!(f.step, Step::Asking(_));
        self.fills.values().any(waits)
    }

    fn ask_page(&mut self, cx: &mut Cx<'_>, pg: PgId) {
        let after = self.fills[&pg].after;
        let limit = self.config.listing_rows;
        let request = Request::Master(MasterRequest::PgListing { pg, after, limit });
        let token = self.call(cx, CallKind::Listing(pg), CallTarget::Leader, request);
        self.fills.get_mut(&pg).expect("listed above").step = Step::Asking(token);
    }

    pub(super) fn on_listing(
        &mut self,
        cx: &mut Cx<'_>,
        pg: PgId,
        token: u64,
        result: CallResult,
    ) -> Result<(), TableError> {
        let cursor = self.cursor;
        let Some(fill) = self
            .fills
            .get_mut(&pg)
            .filter(|f| f.step == Step::Asking(token))
        else {
            return Ok(()); // of another configuration
        };
        let (rows, log, is_last) = match result {
            Ok((Response::Master(MasterResponse::PgListing(rows, log, is_last)), _)) => {
                (rows, log, is_last)
            }
            other => {
                tracing::debug!(pg = pg.0, ?other, "no listing");
                fill.step = Step::Idle(cx.now + ASK_AGAIN * 5);
                return Ok(());
            }
        };
        // Too old to teach anything, or older than a deletion that was already applied here.
        let is_stale = log < fill.since || log < cursor;
        let ascends = rows.is_sorted_by_key(|r| (r.ino, r.chunk));
        let moves = rows
            .first()
            .is_none_or(|r| Some((r.ino, r.chunk)) > fill.after);
        fill.overtaken = if log < cursor { fill.overtaken + 1 } else { 0 };
        if is_stale || !ascends || !moves || (rows.is_empty() && !is_last) || self.failure.is_some()
        {
            fill.step = Step::Idle(cx.now + ASK_AGAIN);
            return Ok(());
        }
        fill.log_max = fill.log_max.max(log);
        self.take_page(cx, pg, &rows, is_last)
    }

    fn take_page(
        &mut self,
        cx: &mut Cx<'_>,
        pg: PgId,
        rows: &[PgRow],
        is_last: bool,
    ) -> Result<(), TableError> {
        let mut tx = self.tables.begin();
        let mut left = BTreeSet::new();
        for row in rows {
            self.take_row(cx, &mut tx, pg, row, &mut left)?;
        }
        self.drop_stamps_of_the_gone(cx, &mut tx, pg, rows, is_last)?;
        let fill = self.fills.get_mut(&pg).expect("the caller found it");
        if let Some(last) = rows.last() {
            fill.after = Some((last.ino, last.chunk));
            fill.verified = fill.verified.max(fill.after);
            fill.listed = fill.listed.max(Some(last.ino));
            fill.known = fill.known.split_off(&last.ino);
        }
        if is_last {
            fill.is_all_listed = true;
            fill.known.clear();
        }
        fill.token = tx.token;
        fill.step = Step::Fetching { left, is_last };
        self.persist(cx, tx, Vec::new());
        self.page_maybe_done(cx, pg);
        Ok(())
    }

    /// Drops stamps of inodes that a page passes over (invariant 3).
    fn drop_stamps_of_the_gone(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        pg: PgId,
        rows: &[PgRow],
        is_last: bool,
    ) -> Result<(), TableError> {
        let stamped = rows.iter().filter(|row| row.clean.is_some());
        let stamped: BTreeSet<Ino> = stamped.map(|row| row.ino).collect();
        let upto = rows.last().filter(|_| !is_last).map(|row| row.ino);
        let mut after = self.fills[&pg].after.map(|(ino, _)| keys::stamp(pg, ino));
        loop {
            let prefix = keys::of_pg(b's', pg);
            let held = self
                .tables
                .scan(cx.store, &prefix, after.as_deref(), STAMPS)?;
            for (key, _) in &held {
                let ino = keys::parse_stamp(key).ok_or_else(|| bad_key(key))?;
                if upto.is_some_and(|upto| ino > upto) {
                    return Ok(());
                }
                if !stamped.contains(&ino) {
                    self.tables.delete(tx, key.clone());
                }
            }
            if held.len() < STAMPS {
                return Ok(());
            }
            after = held.last().map(|(key, _)| key.clone());
        }
    }

    fn take_row(
        &mut self,
        cx: &mut Cx<'_>,
        tx: &mut Tx,
        pg: PgId,
        row: &PgRow,
        left: &mut BTreeSet<ObjectId>,
    ) -> Result<(), TableError> {
        if let Some(clean) = row.clean {
            self.install_stamp(cx, tx, (pg, row.ino), clean)?;
            self.drop_mark(tx, (pg, row.ino), clean.1);
        }
        let fill = self.fills.get_mut(&pg).expect("the caller found it");
        fill.wide.note(row.ino, row.is_wide);
        let is_unverified = !fill.is_check && Some((row.ino, row.chunk)) > fill.verified;
        for &(id, sum) in &row.objects {
            let renewed = self.fills.get(&pg).and_then(|f| f.renewed.as_ref());
            let is_due = renewed.is_some_and(|all| !all.contains(&id));
            let object = ObjectRow {
                pg,
                ino: row.ino,
                chunk: row.chunk,
                sum,
            };
            let held = self
                .tables
                .object(cx.store, id)?
                .is_some_and(|r| r.sum == sum);
            // On its way to the disk, it may find no room there.
            let is_underway = self.writing.contains_key(&id);
            if !held || is_due || is_underway || self.wants.is_damaged(id) {
                self.wants.want(id, object, Why::Fill, cx.now);
                left.insert(id);
            } else if is_unverified && left.insert(id) {
                self.fill_checks.queue(pg, id, sum);
            }
        }
        Ok(())
    }

    /// An object of the group is here (or cannot be had).
    pub(super) fn fill_got(&mut self, cx: &Cx<'_>, pg: PgId, id: ObjectId, is_here: bool) {
        let Some(fill) = self.fills.get_mut(&pg) else {
            return;
        };
        if let Step::Fetching { left, .. } = &mut fill.step
            && left.remove(&id)
        {
            if !is_here {
                fill.failed += 1;
            } else if let Some(renewed) = &mut fill.renewed {
                renewed.insert(id);
            }
        }
        self.page_maybe_done(cx, pg);
    }

    fn page_maybe_done(&mut self, cx: &Cx<'_>, pg: PgId) {
        if let Some(fill) = self.fills.get_mut(&pg)
            && let Step::Fetching { left, is_last } = &fill.step
            && left.is_empty()
        {
            let is_last = *is_last;
            fill.page_done(cx.now, is_last);
        }
    }
}

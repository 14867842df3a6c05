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
//!    and the cursor has reached the newest listed state: later changes come as notes.
//!
//! Why 1 suffices for stamps: commits before this epoch are in the listing; commits in it have W
//! marks among its members, so a reader of R members meets one.
use super::fetch::Why;
use super::groups::Role;
use super::machine::{CallKind, Cx, Replica};
use super::tables::{ObjectRow, TableError, Tx};
use crate::types::{ChunkNo, Epoch, Ino, LogIndex, ObjectId, PgId, PgPhase, Time};
use crate::wire::master::{MasterResponse, PgRow};
use crate::wire::rpc::{CallResult, CallTarget};
use crate::wire::{MasterRequest, Request, Response};
use std::collections::BTreeSet;
use std::time::Duration;

/// Wait before a page is asked for again after an error or a state that was too old.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Wait before another pass.
const PASS_AGAIN: Duration = Duration::from_secs(1);
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
}

impl Fill {
    fn new(epoch: Epoch, since: LogIndex, now: Time) -> Self {
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
        }
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
            Step::Ending
        } else {
            self.begin_pass(now + PASS_AGAIN);
            return;
        };
    }
}

impl Replica {
    /// The map changed: what is to be filled?
    pub(super) fn fills_changed(&mut self, cx: &Cx<'_>) {
        let version = self.groups.version();
        let all: Vec<_> = self
            .groups
            .iter()
            .map(|(pg, info)| (pg, info.epoch))
            .collect();
        for (pg, epoch) in all {
            if self.groups.role(pg) != Some(Role::Member { filling: true }) {
                self.fills.remove(&pg);
            } else if self.fills.get(&pg).is_none_or(|f| f.epoch != epoch) {
                self.fills.insert(pg, Fill::new(epoch, version, cx.now));
            }
        }
    }

    /// Groups that are filled, as long as the master calls them filling.
    pub(super) fn filled(&self) -> Vec<(PgId, Epoch)> {
        let done = self
            .fills
            .iter()
            .filter(|(_, f)| matches!(f.step, Step::Done(_)));
        done.map(|(pg, f)| (*pg, f.epoch)).collect()
    }

    /// When a group is to be asked for again; none while no more may be filled at a time.
    pub(super) fn fills_wake(&self) -> Option<Time> {
        let is_free = self.fills_busy() < self.config.fills_max;
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

    pub(super) fn pump_fills(&mut self, cx: &mut Cx<'_>) {
        if self.is_paused || self.fills.is_empty() {
            return;
        }
        let mut ready = Vec::new();
        let mut news = false;
        for (pg, fill) in &mut self.fills {
            match fill.step {
                Step::Ending
                    if self.cursor_durable >= fill.log_max
                        && self.token_durable >= fill.token
                        && self.fetches.is_caught_up(*pg, fill.log_max) =>
                {
                    fill.step = Step::Done(cx.now);
                    news = true;
                }
                Step::Done(at) if cx.now >= at + DONE_AGAIN => fill.begin_pass(cx.now),
                Step::Idle(at) if at <= cx.now => {
                    let info = self.groups.info(*pg);
                    if info.is_some_and(|i| i.phase == PgPhase::Copying) {
                        ready.push((self.groups.complete_members(*pg), *pg));
                    } else {
                        // Not activated yet: the next map brings it back.
                        fill.step = Step::Idle(cx.now + PASS_AGAIN);
                    }
                }
                _ => {}
            }
        }
        if news {
            self.heartbeats.ask(cx.now, &self.config);
        }
        let busy = self.fills_busy();
        ready.sort_unstable(); // fewest copies first
        let free = self.config.fills_max.saturating_sub(busy);
        for (_, pg) in ready.into_iter().take(free) {
            self.ask_page(cx, pg);
        }
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
        let fill = self.fills.get_mut(&pg).expect("the caller found it");
        if let Some(last) = rows.last() {
            fill.after = Some((last.ino, last.chunk));
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
        for &(id, sum) in &row.objects {
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
            if !held || self.fetches.is_damaged(id) {
                self.fetches.want(id, object, Why::Fill, cx.now);
                left.insert(id);
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
            && !is_here
        {
            fill.failed += 1;
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

//! The scrub: everything this store must hold is read from the disk again, at a paced rate, and
//! compared with what the *master* recorded.
//!
//! ```text
//!  Wait ──due──> Clock ──time of day──> Due ──next group──> Asking ──rows──> Settling ──> Due
//!    ^             │ not yet             │ ^                 (leader's listing)             │
//!    ├─────────────┘                     │ └── Checking <──────────── a batch of objects <──┘
//!    └──────────── Ending <── no group is left
//! ```
//! Steps of a page of a group that this store is a complete member of:
//! 1. the leader lists what the group holds and up to which log index that is true;
//! 2. once the notes up to there are durable here, a listed object that is not held (and was not
//!    deleted meanwhile) is *missing*, one with another identity is *damaged*;
//! 3. the others are read from the disk, header page and bytes, and compared with the listed
//!    identity: a copy's own header proves nothing;
//! 4. what is missing or damaged is fetched from a verified copy, as what a note named.
//!
//! Where a pass stands is durable now and then, so a restart goes on there. Passes begin so often
//! that each byte is verified once in a period; while writes wait for the disk the next batch waits
//! too, for a second at most. Objects that nobody lists are not this module's concern.
//!
//! Invariants:
//! 1. no object is called missing by a listing that is older than a deletion applied here;
//! 2. what was found is durable together with its count, before it is fetched.
use super::event::{ReplicaAction, answer};
use super::groups::Role;
use super::machine::{CallKind, Cx, Replica};
use super::scrub_job::{ScrubJob, ScrubResult};
use super::tables::{ObjectRow, TableError, keys};
use crate::types::{ChunkNo, Ino, LogIndex, ObjectId, ObjectSum, PgId, Time};
use crate::wire::master::{MasterResponse, PgRow};
use crate::wire::rpc::{CallResult, CallTarget, ReplyTo};
use crate::wire::scrub::ScrubStatus;
use crate::wire::{MasterRequest, ReplicaResponse, Request, Response};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Rows of a listing page: few, because the leader looks through all groups' rows for them.
const LISTING_ROWS: u32 = 64;
/// Objects and bytes of one job.
const BATCH_OBJECTS: usize = 32;
const BATCH_BYTES: u64 = 8 << 20;
/// Least time between two steps of a pass that nobody asked for.
const PAUSE: Duration = Duration::from_millis(20);
/// Wait after a listing that failed, and after one that was too old.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const STALE_AGAIN: Duration = Duration::from_millis(100);
/// How long the notes of a listing may take before another one is asked for.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// Writes that wait for the disk put a batch off by this, this often.
const YIELD: Duration = Duration::from_millis(50);
const YIELDS_MAX: u32 = 20;
/// Between two times that the place of a pass is made durable.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// What is durable of the scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubRow {
    /// The pass under way.
    pass: Option<PassRow>,
    /// When it, or else the last one, began (Unix time).
    began: Option<Time>,
    last_ended: Option<Time>,
    passes: u64,
    /// Objects and bytes.
    checked: (u64, u64),
    damaged: u64,
    missing: u64,
    repaired: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct PassRow {
    /// Groups below are done.
    pg: PgId,
    /// Of this one, rows up to here.
    after: Option<(Ino, ChunkNo)>,
    checked: (u64, u64),
}

/// A page of a listing that waits for its notes.
#[derive(Debug)]
struct Page {
    since: Time,
    log: LogIndex,
    objects: BTreeMap<ObjectId, ObjectRow>,
    end: PageEnd,
}

/// Where a pass stands when a page is done.
#[derive(Debug, Clone, Copy)]
struct PageEnd {
    pg: PgId,
    after: Option<(Ino, ChunkNo)>,
}

#[derive(Debug)]
enum Step {
    Wait(Time),
    Clock(u64),
    Due(Time),
    Asking(u64, PgId),
    Settling(Page),
    Checking(u64),
    Ending(u64),
}

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Scrub {
    row: ScrubRow,
    step: Step,
    /// Of the page under way, what is still to be read.
    queue: VecDeque<(ObjectId, ObjectSum)>,
    page_end: Option<PageEnd>,
    is_asked: bool,
    asked: u64,
    job_last: u64,
    yields: u32,
    noted_at: Time,
}

impl Scrub {
    /// Goes on where the row says, at `first`.
    pub fn new(row: ScrubRow, first: Time) -> Self {
        Self {
            row,
            step: Step::Wait(first),
            queue: VecDeque::new(),
            page_end: None,
            is_asked: false,
            asked: 0,
            job_last: 0,
            yields: 0,
            noted_at: first,
        }
    }

    /// The object was deleted by a note.
    pub fn deleted(&mut self, id: ObjectId) {
        if let Step::Settling(page) = &mut self.step {
            page.objects.remove(&id);
        }
    }

    pub fn next_wake(&self) -> Option<Time> {
        match &self.step {
            Step::Wait(at) | Step::Due(at) => Some(*at),
            Step::Settling(page) => Some(page.since + SETTLE_MAX),
            Step::Clock(_) | Step::Asking(..) | Step::Checking(_) | Step::Ending(_) => None,
        }
    }

    /// A found object was written again.
    pub fn repaired(&mut self) -> &ScrubRow {
        self.row.repaired += 1;
        &self.row
    }

    /// An object was found damaged or missing.
    pub fn found(&mut self, is_missing: bool) -> &ScrubRow {
        if is_missing {
            self.row.missing += 1;
        } else {
            self.row.damaged += 1;
        }
        &self.row
    }

    fn begin(&mut self, now: Time, unix: Time) {
        self.row.pass = Some(PassRow::default());
        self.row.began = Some(unix);
        self.queue.clear();
        self.page_end = None;
        self.step = Step::Due(now);
    }

    /// The next objects to read.
    fn batch(&mut self) -> Vec<(ObjectId, ObjectSum)> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_OBJECTS
            && bytes < BATCH_BYTES
            && let Some(next) = self.queue.pop_front()
        {
            bytes += u64::from(next.1.len);
            batch.push(next);
        }
        batch
    }

    /// The page is done: the pass stands behind it.
    fn page_done(&mut self) {
        if let (Some(pass), Some(end)) = (&mut self.row.pass, self.page_end.take()) {
            (pass.pg, pass.after) = (end.pg, end.after);
        }
    }
}

impl Replica {
    /// Goes on with the pass, as far as it can without waiting.
    pub(super) fn pump_scrub(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        let Some(groups) = self.groups.count() else {
            return Ok(());
        };
        match &self.scrub.step {
            Step::Wait(at) if cx.now >= *at => {
                if self.scrub.row.pass.is_some() {
                    self.scrub.step = Step::Due(cx.now);
                } else {
                    let token = self.scrub_job(cx, Vec::new());
                    self.scrub.step = Step::Clock(token);
                }
            }
            Step::Settling(page) if self.cursor_durable >= page.log => {
                if let Step::Settling(page) =
                    std::mem::replace(&mut self.scrub.step, Step::Due(cx.now))
                {
                    self.scrub_page(cx, page)?;
                }
            }
            Step::Settling(page) if cx.now >= page.since + SETTLE_MAX => {
                self.scrub.step = Step::Due(cx.now);
            }
            Step::Due(at) if cx.now >= *at => self.scrub_next(cx, groups),
            _ => {}
        }
        Ok(())
    }

    fn scrub_job(&mut self, cx: &mut Cx<'_>, objects: Vec<(ObjectId, ObjectSum)>) -> u64 {
        self.scrub.job_last += 1;
        let token = self.scrub.job_last;
        cx.out
            .push(ReplicaAction::Scrub(ScrubJob { token, objects }));
        token
    }

    /// The next batch, page or group, or the end.
    fn scrub_next(&mut self, cx: &mut Cx<'_>, groups: u16) {
        if !self.scrub.queue.is_empty() {
            if self.waiting_bytes > 0 && self.scrub.yields < YIELDS_MAX {
                self.scrub.yields += 1;
                self.scrub.step = Step::Due(cx.now + YIELD);
                return;
            }
            self.scrub.yields = 0;
            let batch = self.scrub.batch();
            let token = self.scrub_job(cx, batch);
            self.scrub.step = Step::Checking(token);
            return;
        }
        self.scrub.page_done();
        let Some(pass) = self.scrub.row.pass else {
            self.scrub.step = Step::Wait(cx.now + PAUSE);
            return;
        };
        let complete = |pg: &u16| {
            matches!(
                self.groups.role(PgId(*pg)),
                Some(Role::Member { filling: false })
            )
        };
        let Some(pg) = (pass.pg.0..groups).find(complete).map(PgId) else {
            let token = self.scrub_job(cx, Vec::new());
            self.scrub.step = Step::Ending(token);
            return;
        };
        let after = pass.after.filter(|_| pg == pass.pg);
        let limit = LISTING_ROWS;
        let request = Request::Master(MasterRequest::PgListing { pg, after, limit });
        let token = self.call(cx, CallKind::ScrubListing, CallTarget::Leader, request);
        self.scrub.step = Step::Asking(token, pg);
    }

    pub(super) fn on_scrub_listing(&mut self, cx: &Cx<'_>, token: u64, result: CallResult) {
        let Step::Asking(asked, pg) = self.scrub.step else {
            return; // another pass was begun
        };
        if asked != token {
            return;
        }
        self.scrub.step = Step::Due(cx.now + ASK_AGAIN);
        let (rows, log, is_last) = match result {
            Ok((Response::Master(MasterResponse::PgListing(rows, log, is_last)), _)) => {
                (rows, log, is_last)
            }
            other => {
                tracing::debug!(pg = pg.0, ?other, "no listing for the scrub");
                return;
            }
        };
        // Invariant 1: a listing of the past may name what was deleted since.
        if log < self.cursor {
            self.scrub.step = Step::Due(cx.now + STALE_AGAIN);
            return;
        }
        if rows.is_empty() && !is_last {
            return;
        }
        let end = match rows.last() {
            Some(last) if !is_last => PageEnd {
                pg,
                after: Some((last.ino, last.chunk)),
            },
            _ => PageEnd {
                pg: PgId(pg.0.saturating_add(1)),
                after: None,
            },
        };
        if rows.is_empty() {
            self.scrub.page_end = Some(end);
            self.scrub.step = Step::Due(cx.now);
            return;
        }
        if self.cursor < log {
            self.heartbeats.ask(cx.now, &self.config);
        }
        self.scrub.step = Step::Settling(Page {
            since: cx.now,
            log,
            objects: objects_of(pg, &rows),
            end,
        });
    }

    /// Steps 2 and 3: the notes of the listing are durable here.
    fn scrub_page(&mut self, cx: &mut Cx<'_>, page: Page) -> Result<(), TableError> {
        for (id, row) in page.objects {
            if self.wants.is_wanted(id) || self.writing.contains_key(&id) {
                continue; // is being made good, or was written just now
            }
            let held = self.tables.object(cx.store, id)?;
            match held {
                Some(held) if held.sum == row.sum && cx.store.has_object(id).unwrap_or(false) => {
                    self.scrub.queue.push_back((id, row.sum));
                }
                held => {
                    tracing::warn!(object = %id, inode = %row.ino, "object that must be here is not: fetching it");
                    self.refetch(cx, id, row, held.is_none());
                }
            }
        }
        self.scrub.page_end = Some(page.end);
        Ok(())
    }

    pub(super) fn on_scrubbed(
        &mut self,
        cx: &mut Cx<'_>,
        done: ScrubResult,
    ) -> Result<(), TableError> {
        if self.on_fill_checked(cx, &done)? {
            return Ok(());
        }
        for id in done.damaged {
            self.on_damaged(cx, id)?;
        }
        match self.scrub.step {
            Step::Checking(token) if token == done.token => {
                let rate = self.scrub_rate(cx).max(1);
                let pause = Duration::from_nanos(
                    u64::try_from(u128::from(done.bytes) * 1_000_000_000 / u128::from(rate))
                        .unwrap_or(u64::MAX),
                );
                let least = if self.scrub.is_asked {
                    Duration::ZERO
                } else {
                    PAUSE
                };
                self.scrub.step = Step::Due(cx.now + pause.max(least));
                self.scrub_count(done.objects, done.bytes);
                if cx.now >= self.scrub.noted_at + NOTE_EVERY {
                    self.scrub.noted_at = cx.now;
                    self.scrub_note(cx);
                }
            }
            Step::Clock(token) if token == done.token => {
                let half = self.config.scrub_period / 2;
                match self.scrub.row.began.map(|began| began + half) {
                    Some(due) if !self.scrub.is_asked && done.unix < due => {
                        self.scrub.step = Step::Wait(cx.now + due.since(done.unix));
                    }
                    _ => self.scrub.begin(cx.now, done.unix),
                }
            }
            Step::Ending(token) if token == done.token => {
                self.scrub.row.pass = None;
                self.scrub.row.passes += 1;
                self.scrub.row.last_ended = Some(done.unix);
                self.scrub.is_asked = false;
                let began = self.scrub.row.began.unwrap_or(done.unix);
                let due = began + self.config.scrub_period / 2;
                self.scrub.step = Step::Wait(cx.now + due.since(done.unix));
                self.scrub_note(cx);
            }
            _ => {} // of a pass that was given up for one that somebody asked for
        }
        Ok(())
    }

    fn scrub_count(&mut self, objects: u64, bytes: u64) {
        let row = &mut self.scrub.row;
        let pass = row.pass.as_mut().map(|pass| &mut pass.checked);
        for checked in pass.into_iter().chain([&mut row.checked]) {
            checked.0 += objects;
            checked.1 += bytes;
        }
    }

    /// Makes counts and place durable.
    fn scrub_note(&mut self, cx: &mut Cx<'_>) {
        if self.failure.is_none() {
            let mut tx = self.tables.begin();
            self.tables.put(&mut tx, keys::scrub(), &self.scrub.row);
            self.persist(cx, tx, Vec::new());
        }
    }

    /// Bytes per second of this pass: all that is held within half a period, and some to spare.
    fn scrub_rate(&self, cx: &Cx<'_>) -> u64 {
        if self.scrub.is_asked {
            return self.config.scrub_rate_asked;
        }
        let half = (self.config.scrub_period / 2).as_secs().max(1);
        let needed = cx.store.used_bytes() / half;
        (needed + needed / 4).max(self.config.scrub_rate_min)
    }

    /// Answers how the scrub is; begins a pass first if that is wanted.
    pub(super) fn on_scrub(&mut self, cx: &mut Cx<'_>, to: ReplyTo, start: bool) {
        if start {
            self.scrub.asked += 1;
            self.config.table_counts.ask();
            self.scrub.is_asked = true;
            self.scrub.row.pass = None;
            self.scrub.queue.clear();
            self.scrub.page_end = None;
            self.scrub.step = Step::Wait(cx.now);
        }
        let status = self.scrub_status(cx);
        cx.out
            .push(answer(to, ReplicaResponse::Scrub(Box::new(status))));
    }

    fn scrub_status(&self, cx: &Cx<'_>) -> ScrubStatus {
        let row = &self.scrub.row;
        let pass = row.pass.unwrap_or_default();
        let groups = self.groups.count().unwrap_or(0);
        ScrubStatus {
            store: self.config.store,
            is_running: row.pass.is_some() || self.scrub.is_asked,
            is_asked: self.scrub.is_asked,
            passes: row.passes,
            asked: self.scrub.asked,
            groups: (pass.pg.0, groups),
            pass_checked: pass.checked,
            used_bytes: cx.store.used_bytes(),
            period_secs: self.config.scrub_period.as_secs(),
            rate: self.scrub_rate(cx),
            began: row.began,
            last_ended: row.last_ended,
            checked: row.checked,
            damaged: row.damaged,
            missing: row.missing,
            repaired: row.repaired,
            waiting: self.wants.damaged(|_| true),
            unrepaired: self
                .wants
                .damaged(|(pg, tries)| tries as usize >= 2 * self.groups.sources(pg).len().max(1)),
            tables: self.config.table_counts.totals(),
            set_aside: self.config.set_aside.clone(),
        }
    }
}

/// The objects of a page, each once.
fn objects_of(pg: PgId, rows: &[PgRow]) -> BTreeMap<ObjectId, ObjectRow> {
    let of_row = |row: &PgRow| {
        let (ino, chunk) = (row.ino, row.chunk);
        let object = move |&(id, sum): &(ObjectId, ObjectSum)| {
            let row = ObjectRow {
                pg,
                ino,
                chunk,
                sum,
            };
            (id, row)
        };
        row.objects.iter().map(object).collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_row).collect()
}

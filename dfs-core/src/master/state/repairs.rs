//! Repairs under way and their records, counted in the log so that no change of leader loses any.
//!
//! ```text
//!  BEGIN opens a job (or adds groups) ──> each filled group adds its counts ──> no group left: record
//! ```
//! A job belongs to a cause. Invariants:
//! 1. what a store copied for a group counts once, with the entry that makes the member complete;
//! 2. a file is counted once per job: those with bytes in one group only by number, the others by
//!    inode;
//! 3. a job without open groups becomes a record in the same entry.
use super::pgs::{PgState, Pgs};
use super::stores::Stores;
use super::{StateError, keys};
use crate::master::command::{ChangeCause, PgChange};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{LogIndex, PgId, PgPhase, StoreId, Time};
use crate::wire::repair::{FillCount, RejoinReport, RepairRecord, WaitKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Records kept.
const RECORDS_MAX: usize = 500;

/// Whose job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobCause {
    /// Groups got other members.
    Change(ChangeCause),
    /// A member is filled again.
    Refill(StoreId),
}

/// One repair under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Whose.
    pub cause: JobCause,
    /// Begin (log time).
    pub began: Time,
    /// Groups it has changed.
    pub pgs: BTreeSet<PgId>,
    /// Files with bytes in one group, and inodes of the others counted so far.
    pub files: u64,
    /// Objects copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Fewest live complete copies met.
    pub lowest: u8,
    /// Milliseconds.
    pub waited: BTreeMap<WaitKind, u64>,
}

/// Jobs, cached from their table, and the last pause.
#[derive(Debug, Default)]
pub struct Repairs {
    jobs: BTreeMap<JobCause, Job>,
    /// When repair was last paused and resumed (log time).
    pause: (Option<Time>, Option<Time>),
    /// Repair is boosted until then.
    boost: Time,
}

fn millis(from: Time, to: Time) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

fn coded(cause: JobCause) -> Vec<u8> {
    postcard::to_stdvec(&cause).expect("our own types serialize into a vector")
}

impl Repairs {
    /// Loads the tables.
    pub fn load(kv: &impl KvRead) -> Result<Self, StateError> {
        let prefix = keys::repair(keys::REPAIR_JOB, &[]);
        let mut jobs = BTreeMap::new();
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
            let job: Job = keys::decode("repair job", &key, &value)?;
            jobs.insert(job.cause, job);
        }
        Ok(Self {
            jobs,
            pause: keys::get(kv, "pause", keys::PAUSE)?.unwrap_or_default(),
            boost: keys::get(kv, "boost", keys::BOOST)?.unwrap_or_default(),
        })
    }

    /// Jobs under way.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// Repair is boosted until then (log time).
    pub fn boost(&self) -> Time {
        self.boost
    }

    /// Sets it.
    pub fn set_boost(&mut self, kv: &mut impl Kv, until: Time) {
        self.boost = until;
        keys::put(kv, keys::BOOST.to_vec(), &until);
    }

    /// Milliseconds of the last pause that lie between these times.
    pub fn paused_between(&self, from: Time, to: Time) -> u64 {
        let (Some(began), ended) = self.pause else {
            return 0;
        };
        let (from, to) = (from.max(began), ended.map_or(to, |at| at.min(to)));
        if to > from { millis(from, to) } else { 0 }
    }

    /// Repair was paused or resumed: jobs under way have waited.
    pub fn paused(&mut self, kv: &mut impl Kv, at: Time, is_paused: bool) {
        match (is_paused, self.pause) {
            (true, (Some(_), None)) => return,
            (true, _) => self.pause = (Some(at), None),
            (false, (Some(began), None)) => {
                self.pause = (Some(began), Some(at));
                for job in self.jobs.values_mut() {
                    let waited = millis(began.max(job.began), at);
                    *job.waited.entry(WaitKind::Pause).or_default() += waited;
                }
                self.jobs.values().for_each(|job| save(kv, job));
            }
            (false, _) => return,
        }
        keys::put(kv, keys::PAUSE.to_vec(), &self.pause);
    }

    /// Groups that BEGIN has changed.
    pub fn begun(
        &mut self,
        kv: &mut impl Kv,
        at: Time,
        (cause, changes): (ChangeCause, &[PgChange]),
        waited: &[(WaitKind, u64)],
        (pgs, stores): (&Pgs, &Stores),
    ) {
        if cause == ChangeCause::Create {
            return;
        }
        let is_applied = |change: &&PgChange| {
            pgs.get(change.pg)
                .is_some_and(|s| s.info.epoch == change.from.next() && s.cause == cause)
        };
        let began: Vec<PgId> = changes.iter().filter(is_applied).map(|c| c.pg).collect();
        self.opened(kv, at, JobCause::Change(cause), &began, (pgs, stores));
        if let Some(job) = self.jobs.get_mut(&JobCause::Change(cause)) {
            for (kind, ms) in waited {
                let known = job.waited.entry(*kind).or_default();
                *known = (*known).max(*ms);
            }
            save(kv, job);
        }
    }

    /// Members that are filled again.
    pub fn refilled(
        &mut self,
        kv: &mut impl Kv,
        at: Time,
        members: &[(PgId, StoreId)],
        (pgs, stores): (&Pgs, &Stores),
    ) {
        for (pg, store) in members {
            let is_filling = |s: &PgState| s.info.filling.contains(store);
            if pgs.get(*pg).is_some_and(is_filling) {
                self.opened(kv, at, JobCause::Refill(*store), &[*pg], (pgs, stores));
            }
        }
    }

    fn opened(
        &mut self,
        kv: &mut impl Kv,
        at: Time,
        cause: JobCause,
        began: &[PgId],
        (pgs, stores): (&Pgs, &Stores),
    ) {
        if began.is_empty() {
            return;
        }
        let job = self.jobs.entry(cause).or_insert_with(|| Job {
            cause,
            began: at,
            pgs: BTreeSet::new(),
            files: 0,
            objects: 0,
            bytes: 0,
            lowest: u8::MAX,
            waited: BTreeMap::new(),
        });
        job.pgs.extend(began);
        job.lowest = job.lowest.min(lowest(job, pgs, stores));
        save(kv, job);
    }

    /// A store went down: fewer copies may live now.
    pub fn store_down(&mut self, kv: &mut impl Kv, pgs: &Pgs, stores: &Stores) {
        for job in self.jobs.values_mut() {
            let now = lowest(job, pgs, stores);
            if now < job.lowest {
                job.lowest = now;
                save(kv, job);
            }
        }
    }

    /// Groups were activated: they waited so long for their fences.
    pub fn activated(&mut self, kv: &mut impl Kv, at: Time, pgs: &Pgs, which: &[PgId]) {
        for pg in which {
            let Some(state) = pgs.get(*pg) else { continue };
            if let Some(job) = self.jobs.get_mut(&JobCause::Change(state.cause)) {
                let waited = job.waited.entry(WaitKind::Lease).or_default();
                *waited = (*waited).max(millis(state.began, at));
                save(kv, job);
            }
        }
    }

    /// What a member copied until it was complete.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn counted(
        &mut self,
        kv: &mut impl Kv,
        pgs: &Pgs,
        store: StoreId,
        count: &FillCount,
    ) -> Result<(), StateError> {
        let refill = JobCause::Refill(store);
        let is_refill = |job: &Job| job.pgs.contains(&count.pg);
        let cause = match (self.jobs.get(&refill), pgs.get(count.pg)) {
            (Some(job), _) if is_refill(job) => refill,
            (_, Some(state)) => JobCause::Change(state.cause),
            (_, None) => return Ok(()),
        };
        let Some(job) = self.jobs.get_mut(&cause) else {
            return Ok(()); // of an entry that an older program wrote
        };
        job.files = job.files.saturating_add(count.files);
        job.objects = job.objects.saturating_add(count.objects);
        job.bytes = job.bytes.saturating_add(count.bytes);
        for ino in &count.wide {
            let key = keys::repair(keys::REPAIR_WIDE, &[&coded(cause), &ino.0.to_be_bytes()]);
            if kv.get(&key)?.is_none() {
                kv.put(key, Vec::new());
                job.files = job.files.saturating_add(1);
            }
        }
        save(kv, job);
        Ok(())
    }

    /// Jobs without an open group become records (invariant 3).
    ///
    /// # Errors
    /// Reading the tables.
    pub fn close(
        &mut self,
        kv: &mut impl Kv,
        (index, at): (LogIndex, Time),
        pgs: &Pgs,
        stores: &Stores,
    ) -> Result<(), StateError> {
        let is_done = |job: &&Job| !job.pgs.iter().any(|pg| is_open(job.cause, pgs.get(*pg)));
        let done: Vec<JobCause> = self
            .jobs
            .values()
            .filter(is_done)
            .map(|j| j.cause)
            .collect();
        for (seq, cause) in done.into_iter().enumerate() {
            let Some(job) = self.jobs.remove(&cause) else {
                continue;
            };
            let code = coded(cause);
            kv.delete(&keys::repair(keys::REPAIR_JOB, &[&code]));
            let wide = keys::repair(keys::REPAIR_WIDE, &[&code]);
            for (key, _) in kv.scan(&wide, &prefix_end(&wide), usize::MAX)? {
                kv.delete(&key);
            }
            let record = RepairRecord {
                cause: words(cause, stores),
                began: job.began,
                took_ms: millis(job.began, at),
                files: job.files,
                objects: job.objects,
                bytes: job.bytes,
                pgs: u32::try_from(job.pgs.len()).unwrap_or(u32::MAX),
                lowest_copies: job.lowest,
                waited: job.waited.into_iter().filter(|(_, ms)| *ms > 0).collect(),
                ..RepairRecord::default()
            };
            record_put(kv, index, seq, &record)?;
        }
        Ok(())
    }

    /// A store has come back and is done. Noted once per run.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn rejoined(
        kv: &mut impl Kv,
        (index, at): (LogIndex, Time),
        stores: &Stores,
        (store, report): (StoreId, &RejoinReport),
    ) -> Result<(), StateError> {
        if Self::rejoin_noted(kv, store, report)? {
            return Ok(());
        }
        let key = keys::repair(keys::REPAIR_REJOIN, &[&store.0.to_be_bytes()]);
        keys::put(kv, key, &report.incarnation);
        let record = RepairRecord {
            cause: format!("node {} came back", name(store, stores)),
            began: at - Duration::from_millis(report.took_ms),
            took_ms: report.took_ms,
            files: report.caught_files,
            objects: report.caught_objects,
            bytes: report.caught_bytes,
            wiped_groups: report.wiped_groups,
            wiped_objects: report.wiped_objects,
            ..RepairRecord::default()
        };
        record_put(kv, index, 0, &record)
    }

    /// The report of this run (or a later one) is noted.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn rejoin_noted(
        kv: &impl KvRead,
        store: StoreId,
        report: &RejoinReport,
    ) -> Result<bool, StateError> {
        let key = keys::repair(keys::REPAIR_REJOIN, &[&store.0.to_be_bytes()]);
        let known = keys::get(kv, "rejoin", &key)?;
        Ok(known.is_some_and(|run| report.incarnation <= run))
    }

    /// Records, oldest first.
    ///
    /// # Errors
    /// A damaged table.
    pub fn records(kv: &impl KvRead) -> Result<Vec<RepairRecord>, StateError> {
        let prefix = keys::repair(keys::REPAIR_RECORD, &[]);
        let all = kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)?;
        let decoded = all.iter().map(|(k, v)| keys::decode("repair record", k, v));
        decoded.collect()
    }
}

fn save(kv: &mut impl Kv, job: &Job) {
    keys::put(
        kv,
        keys::repair(keys::REPAIR_JOB, &[&coded(job.cause)]),
        job,
    );
}

fn record_put(
    kv: &mut impl Kv,
    index: LogIndex,
    seq: usize,
    record: &RepairRecord,
) -> Result<(), StateError> {
    let (index, seq) = (index.0.to_be_bytes(), (seq as u64).to_be_bytes());
    keys::put(
        kv,
        keys::repair(keys::REPAIR_RECORD, &[&index, &seq]),
        record,
    );
    let prefix = keys::repair(keys::REPAIR_RECORD, &[]);
    let all = kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)?;
    for (key, _) in all.iter().take(all.len().saturating_sub(RECORDS_MAX)) {
        kv.delete(key);
    }
    Ok(())
}

fn is_open(cause: JobCause, state: Option<&PgState>) -> bool {
    state.is_some_and(|s| match cause {
        JobCause::Change(cause) => s.cause == cause && s.info.phase != PgPhase::Active,
        JobCause::Refill(store) => s.info.filling.contains(&store),
    })
}

/// Fewest live complete copies of the job's open groups.
fn lowest(job: &Job, pgs: &Pgs, stores: &Stores) -> u8 {
    let is_up = |s: &StoreId| stores.all().get(s).is_some_and(|r| r.down_since.is_none());
    let open = job.pgs.iter().filter_map(|pg| pgs.get(*pg));
    let open = open.filter(|s| is_open(job.cause, Some(s)));
    let copies = open.map(|s| s.complete().filter(|m| is_up(m)).count());
    copies.min().map_or(u8::MAX, |n| n.min(254) as u8)
}

fn name(store: StoreId, stores: &Stores) -> String {
    let node = stores.all().get(&store).map_or(0, |row| row.node.0 >> 96);
    format!("{node:08x}")
}

fn words(cause: JobCause, stores: &Stores) -> String {
    match cause {
        JobCause::Change(ChangeCause::Create) => "created".to_owned(),
        JobCause::Change(ChangeCause::Failed(s)) => format!("node {} failed", name(s, stores)),
        JobCause::Change(ChangeCause::Drain(s)) => format!("node {} drained", name(s, stores)),
        JobCause::Change(ChangeCause::Rebalance(s)) => {
            format!("node {} got its share", name(s, stores))
        }
        JobCause::Refill(s) => format!("node {} was filled again", name(s, stores)),
    }
}

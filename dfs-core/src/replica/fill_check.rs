//! Filling does not take a copy's word: what is held from before is read from the disk and compared
//! with what the master listed, once, before its page is done. For when all are filled, the other
//! sources are let go.
//!
//! Steps: objects of a page that are held already are queued; a batch at a time is read beside the
//! machine; a good one counts as got, a damaged one is fetched like any that was found damaged, and
//! the page waits for it. What was prepared since is read too: which it was cannot be told. What could
//! not be read, as the process lacked something, is read again a little later.
use super::event::ReplicaAction;
use super::machine::{Cx, Replica};
use super::scrub_job::{ScrubJob, ScrubResult};
use super::tables::TableError;
use crate::types::{ObjectId, ObjectSum, PgId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Objects and bytes of one batch.
const BATCH_OBJECTS: usize = 32;
const BATCH_BYTES: u64 = 8 << 20;
/// Wait after a batch of which something could not be read.
const UNREAD_AGAIN: Duration = Duration::from_secs(1);
/// Tokens of these jobs begin here, so that they are told from the scrub's.
const TOKENS_FROM: u64 = 1 << 63;

/// Copies to be read, by group.
#[derive(Debug, Default)]
pub(super) struct FillChecks {
    queues: BTreeMap<PgId, VecDeque<(ObjectId, ObjectSum)>>,
    /// Under way.
    jobs: BTreeMap<u64, (PgId, Vec<(ObjectId, ObjectSum)>)>,
    jobs_made: u64,
    /// Nothing is read before.
    resting_until: Time,
}

impl FillChecks {
    /// Filling of the group begins anew.
    pub fn forget(&mut self, pg: PgId) {
        self.queues.remove(&pg);
        self.jobs.retain(|_, (of, _)| *of != pg);
    }

    pub fn queue(&mut self, pg: PgId, id: ObjectId, sum: ObjectSum) {
        self.queues.entry(pg).or_default().push_back((id, sum));
    }

    /// When something may be read that could not be, or waits for it.
    pub fn next_wake(&self, now: Time) -> Option<Time> {
        (now < self.resting_until && !self.queues.is_empty()).then_some(self.resting_until)
    }

    /// The next batch of one group that has none under way.
    fn next(&mut self) -> Option<ScrubJob> {
        let jobs = &self.jobs;
        let is_free = |pg: &PgId| jobs.values().all(|(of, _)| of != pg);
        let (pg, queue) = self.queues.iter_mut().find(|(pg, _)| is_free(pg))?;
        let pg = *pg;
        let (mut objects, mut bytes) = (Vec::new(), 0);
        while objects.len() < BATCH_OBJECTS
            && bytes < BATCH_BYTES
            && let Some(next) = queue.pop_front()
        {
            bytes += u64::from(next.1.len);
            objects.push(next);
        }
        if queue.is_empty() {
            self.queues.remove(&pg);
        }
        self.jobs_made += 1;
        let token = TOKENS_FROM + self.jobs_made;
        self.jobs.insert(token, (pg, objects.clone()));
        Some(ScrubJob { token, objects })
    }
}

impl Replica {
    pub(super) fn pump_fill_checks(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.fill_checks.resting_until {
            return;
        }
        while let Some(job) = self.fill_checks.next() {
            cx.out.push(ReplicaAction::Scrub(job));
        }
    }

    /// A batch was read. False if it was the scrub's.
    pub(super) fn on_fill_checked(
        &mut self,
        cx: &mut Cx<'_>,
        done: &ScrubResult,
    ) -> Result<bool, TableError> {
        if done.token < TOKENS_FROM {
            return Ok(false);
        }
        for id in &done.damaged {
            self.on_damaged(cx, *id)?;
        }
        let Some((pg, objects)) = self.fill_checks.jobs.remove(&done.token) else {
            return Ok(true); // filling began anew
        };
        for (id, sum) in objects {
            if done.unread.contains(&id) {
                self.fill_checks.queue(pg, id, sum);
                self.fill_checks.resting_until = cx.now + UNREAD_AGAIN;
            } else if !self.wants.is_wanted(id) {
                self.fill_got(cx, pg, id, true);
            }
        }
        Ok(true)
    }
}

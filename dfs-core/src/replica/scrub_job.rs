//! Re-reading objects from the disk: the waiting is done on a thread beside the machine.
//!
//! Steps: [`plan`] on the machine's thread looks the objects up; [`PlannedScrub::run`] on any thread
//! drops what the system has cached of the file, reads header page and bytes, and compares them
//! with the identity that the *master* recorded. Nothing is answered to anybody: what was found goes
//! back to the machine as [`Scrubbed`](super::ReplicaEvent::Scrubbed).
use crate::store::{ObjectStore, ReadPlan, StoreError};
use crate::types::{ObjectId, ObjectSum, Time};

/// Objects to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubJob {
    /// Names the job.
    pub token: u64,
    /// Which, and what they must be; may be empty (then only the time of day is wanted).
    pub objects: Vec<(ObjectId, ObjectSum)>,
}

/// What a job found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubResult {
    /// Of the job.
    pub token: u64,
    /// Objects read, or looked for.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects that are not what the master recorded.
    pub damaged: Vec<ObjectId>,
    /// Objects that could not be read for want of something else: nothing is known of them.
    pub unread: Vec<ObjectId>,
    /// When it ended (Unix time).
    pub unix: Time,
}

/// A job that is ready to run on any thread.
#[derive(Debug)]
pub struct PlannedScrub {
    token: u64,
    plans: Vec<(ObjectId, ObjectSum, Result<ReadPlan, StoreError>)>,
}

/// Looks the objects of a job up.
#[must_use]
pub fn plan(job: ScrubJob, store: &ObjectStore) -> PlannedScrub {
    let plan = |(id, sum)| (id, sum, store.plan_read(id, 0, u32::MAX));
    PlannedScrub {
        token: job.token,
        plans: job.objects.into_iter().map(plan).collect(),
    }
}

impl PlannedScrub {
    /// Reads and compares. `unix` tells the time of day when it is over.
    #[must_use]
    pub fn run(self, unix: impl FnOnce() -> Time) -> ScrubResult {
        let (mut bytes, mut damaged, mut unread) = (0, Vec::new(), Vec::new());
        let asked = self.plans.len();
        for (id, sum, plan) in self.plans {
            match plan.and_then(|plan| plan.scrub(Some(sum))) {
                Ok(read) => bytes += read,
                // Deleted between the two threads.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) if is_want(&error) => {
                    tracing::warn!(%error, "not scrubbed");
                    unread.push(id);
                }
                // Also what could not be opened: to fetch it in vain does less harm than to trust it.
                Err(error) => {
                    tracing::warn!(%error, "scrub");
                    damaged.push(id);
                }
            }
        }
        ScrubResult {
            token: self.token,
            objects: (asked - unread.len()) as u64,
            bytes,
            damaged,
            unread,
            unix: unix(),
        }
    }
}

/// True if the process lacked something, and the object may be all right.
fn is_want(error: &StoreError) -> bool {
    match error {
        StoreError::Disk(disk) => disk.is_want(),
        _ => false,
    }
}

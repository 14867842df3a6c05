//! The threads around the owner: commits, object reads, table flushes and scrubbing.
use super::{Input, ReplySink};
use crate::driver::queue::{NotReceived, Receiver, Sender, unbounded};
use dfs_core::net::clock::realtime;
use dfs_core::replica::ReplicaEvent;
use dfs_core::replica::read::Planned;
use dfs_core::replica::scrub_job::PlannedScrub;
use dfs_core::store::{FlushJob, PendingBatch, StoreWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one group commit, about: more would make the first ones wait too long.
const GROUP_BYTES: usize = 64 << 20;
/// Quiet time after which the journal's end is marked.
const QUIET: Duration = Duration::from_millis(200);

pub(super) fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Commits batches in groups. Ends when the channel closes, after all of them.
pub(super) fn storage(
    mut writer: StoreWriter,
    inbox: Sender<Input>,
    threads: &mut Vec<JoinHandle<()>>,
) -> std::io::Result<Sender<(u64, PendingBatch)>> {
    let (sender, batches) = unbounded::<(u64, PendingBatch)>();
    let run = move || {
        let mut is_marked = true;
        loop {
            let next = match is_marked {
                true => batches.recv(),
                false => batches.recv_timeout(QUIET),
            };
            let first = match next {
                Ok(first) => first,
                Err(NotReceived::TimedOut) => {
                    is_marked = true;
                    if let Err(error) = writer.idle() {
                        tracing::error!(%error, "marking the journal failed");
                    }
                    continue;
                }
                Err(NotReceived::Disconnected) => break,
            };
            is_marked = false;
            let (tokens, group) = take_group(first, &batches);
            let result = writer.commit(&group).map_err(|error| {
                tracing::error!(%error, "commit failed");
                error.to_string()
            });
            let _ = inbox.send(Input::Committed(tokens, result));
        }
        let _ = writer.idle();
    };
    threads.push(spawn("replica-storage", run)?);
    Ok(sender)
}

fn take_group(
    first: (u64, PendingBatch),
    batches: &Receiver<(u64, PendingBatch)>,
) -> (Vec<u64>, Vec<PendingBatch>) {
    let mut bytes = first.1.size_bytes();
    let (mut tokens, mut group) = (vec![first.0], vec![first.1]);
    while bytes < GROUP_BYTES
        && let Some((token, batch)) = batches.try_recv()
    {
        bytes += batch.size_bytes();
        tokens.push(token);
        group.push(batch);
    }
    (tokens, group)
}

/// What reader threads share.
pub(super) struct Readers {
    pub replies: Arc<dyn ReplySink>,
    pub inbox: Sender<Input>,
    pub counter: Arc<AtomicU64>,
}

impl Readers {
    pub fn start(
        self,
        count: usize,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> std::io::Result<Sender<Planned>> {
        let (sender, jobs) = unbounded::<Planned>();
        let shared = Arc::new(self);
        for _ in 0..count.max(1) {
            let (shared, jobs) = (Arc::clone(&shared), jobs.clone());
            let run = move || {
                while let Ok(job) = jobs.recv() {
                    shared.read(job);
                }
            };
            threads.push(spawn("replica-reader", run)?);
        }
        Ok(sender)
    }

    fn read(&self, job: Planned) {
        let (reply, damaged) = job.run();
        self.counter.fetch_add(1, Ordering::Relaxed);
        self.replies.reply_all(vec![reply]);
        for object in damaged {
            let event = ReplicaEvent::Damaged { object };
            let _ = self.inbox.send(Input::Event(event));
        }
    }
}

/// Work that may take its time.
pub(super) enum Background {
    Flush(FlushJob),
    Scrub(PlannedScrub),
}

pub(super) fn background(
    inbox: Sender<Input>,
    threads: &mut Vec<JoinHandle<()>>,
) -> std::io::Result<Sender<Background>> {
    let (sender, jobs) = unbounded::<Background>();
    let run = move || {
        while let Ok(job) = jobs.recv() {
            let done = match job {
                Background::Flush(job) => Input::Flushed(job.run()),
                Background::Scrub(job) => Input::Event(ReplicaEvent::Scrubbed(job.run(realtime))),
            };
            let _ = inbox.send(done);
        }
    };
    threads.push(spawn("replica-background", run)?);
    Ok(sender)
}

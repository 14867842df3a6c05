//! One voter on disk and its helper threads: the log, and the flush of the tables.
//!
//! ```text
//! raft.member      the Raft id this node votes under (absent: it does not vote)
//! raft/            the log
//! master.redb      the state tables
//! ```
//! Making a voter: tables and log first, the member file last. Retiring: the member file first. So a
//! crash in between leaves no voter, never half of one. A damaged log or table means a wiped voter: it
//! is removed, and the leader gives this node a new id when it needs it.
use super::Input;
use crate::driver::queue::{Receiver, Sender, unbounded};
use anyhow::Context;
use dfs_core::consensus::{
    LogConfig, LogError, LogId, LogWrite, RaftConfig, RaftLog, RecoveredLog, SnapshotMeta,
};
use dfs_core::master::leader::{Bootstrap, Master, MasterConfig, MasterEvent};
use dfs_core::membership::durable;
use dfs_core::store::{Disk, DiskError, FlushJob, LazyKv, RedbBase};
use dfs_core::types::{ClusterId, RaftId};
use std::sync::Arc;
use std::thread::JoinHandle;

const MEMBER: &str = "raft.member";
const LOG_DIR: &str = "raft";
const TABLES: &str = "master.redb";
/// Memory for the tables' pages, in bytes.
const TABLE_CACHE: usize = 16 << 20;
/// Records that share one sync at most.
const GROUP_MAX: usize = 256;

/// A voter that runs.
pub(super) struct Voter {
    pub id: RaftId,
    pub master: Master,
    pub log: Sender<(u64, LogWrite)>,
    pub flush: Sender<FlushJob>,
    threads: Vec<JoinHandle<()>>,
}

/// The Raft id this node votes under.
pub(super) fn member(disk: &dyn Disk) -> anyhow::Result<Option<RaftId>> {
    let body = durable::read(disk, MEMBER)?;
    let parse = |text: String| text.trim().parse().map(RaftId);
    body.map(parse)
        .transpose()
        .context("raft.member holds no number")
}

/// Removes whatever there is of a voter.
pub(super) fn remove(disk: &dyn Disk) -> anyhow::Result<()> {
    for path in [MEMBER, TABLES] {
        match disk.remove(path) {
            Ok(()) | Err(DiskError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        disk.sync_dir("")?;
    }
    RaftLog::destroy(disk, LOG_DIR)?;
    Ok(())
}

/// Makes the files of a new voter: the first of a cluster, or a blank one that joins.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    id: RaftId,
    is_first: bool,
) -> anyhow::Result<()> {
    remove(&**disk)?;
    let base = if is_first {
        SnapshotMeta::bootstrap([id])
    } else {
        SnapshotMeta::blank()
    };
    let log_id = LogId { cluster, raft: id };
    RaftLog::create(disk.clone(), LOG_DIR, log_id, LogConfig::default(), &base)?;
    durable::write(&**disk, MEMBER, &format!("{}\n", id.0))?;
    Ok(())
}

/// Why a voter did not open.
pub(super) enum OpenError {
    /// It cannot keep its promises: it counts as wiped.
    Damaged(String),
    /// Anything else.
    Other(anyhow::Error),
}

fn open_log(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    id: RaftId,
) -> Result<(RaftLog, RecoveredLog), OpenError> {
    let log_id = LogId { cluster, raft: id };
    RaftLog::open(disk.clone(), LOG_DIR, log_id, LogConfig::default()).map_err(|e| match e {
        LogError::Rot { .. } | LogError::Missing { .. } => OpenError::Damaged(e.to_string()),
        e => OpenError::Other(e.into()),
    })
}

/// Opens the voter `id` and starts its threads.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    config: MasterConfig,
    bootstrap: Bootstrap,
    inbox: &Sender<Input>,
) -> Result<Voter, OpenError> {
    let id = config.raft_id;
    let (log, recovered) = open_log(disk, cluster, id)?;
    let other = |e: anyhow::Error| OpenError::Other(e);
    let damaged = |e: &dyn std::fmt::Display| OpenError::Damaged(e.to_string());
    let base = RedbBase::open(&**disk, TABLES, TABLE_CACHE).map_err(|e| damaged(&e))?;
    let kv = LazyKv::open(Arc::new(base)).map_err(|e| damaged(&e))?;
    let raft = RaftConfig::new(id);
    let master = Master::new(config, raft, recovered, kv, Some(bootstrap), rand::random())
        .map_err(|e| damaged(&e))?;
    let (log_tx, log_rx) = unbounded();
    let (flush_tx, flush_rx) = unbounded();
    let mut threads = Vec::new();
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(run)
    };
    let done = inbox.clone();
    let run = Box::new(move || log_thread(id, log, &log_rx, &done));
    threads.push(spawn("raft-log", run).map_err(|e| other(e.into()))?);
    let done = inbox.clone();
    let run = Box::new(move || flush_thread(&flush_rx, &done));
    threads.push(spawn("master-flush", run).map_err(|e| other(e.into()))?);
    Ok(Voter {
        id,
        master,
        log: log_tx,
        flush: flush_tx,
        threads,
    })
}

fn log_thread(
    id: RaftId,
    mut log: RaftLog,
    writes: &Receiver<(u64, LogWrite)>,
    done: &Sender<Input>,
) {
    while let Ok((mut token, first)) = writes.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Some((next, write)) = writes.try_recv()
        {
            token = next;
            group.push(write);
        }
        let result = log
            .append(&group)
            .map(|()| token)
            .map_err(|e| e.to_string());
        let failed = result.is_err();
        if done.send(Input::Persisted(id, result)).is_err() || failed {
            return;
        }
        if writes.is_empty()
            && let Err(e) = log.prepare_spare()
        {
            tracing::warn!("no spare log segment: {e}");
        }
    }
}

fn flush_thread(jobs: &Receiver<FlushJob>, done: &Sender<Input>) {
    while let Ok(job) = jobs.recv() {
        let result = job.run();
        if done
            .send(Input::Event(MasterEvent::Flushed(result)))
            .is_err()
        {
            return;
        }
    }
}

impl Voter {
    /// Lets the threads finish what they have and waits for them.
    pub fn close(self) {
        let Self {
            master,
            log,
            flush,
            threads,
            ..
        } = self;
        drop((master, log, flush));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the voter panicked");
            }
        }
    }
}

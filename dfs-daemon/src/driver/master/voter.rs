//! One voter on disk and its helper threads: the log, and the flush of the tables.
//!
//! ```text
//! raft.member      the Raft id this node votes under (absent: it does not vote)
//! raft.taken       the highest Raft id that it ever ran under: none up to it is taken again
//! raft/            the log
//! master.redb      the state tables
//! ```
//! Making a voter: tables and log first, the member file last. Retiring: the member file first. So a
//! crash in between leaves no voter, never half of one. A damaged log or table means a wiped voter: it
//! is set aside, and the leader gives this node a new id when it needs it. So is one that does not open
//! for another reason (an unreadable sector), when the leader gives this node a new id meanwhile.
//!
//! Setting aside: the member file goes into the new directory first, under the name `moving.member`;
//! then the rest; then that file gets its own name. The next start finishes what a crash interrupted.
use super::Input;
use crate::driver::queue::{Receiver, Sender, unbounded};
use crate::driver::table_scrub::{TableScrub, TableScrubSetup};
use anyhow::bail;
use dfs_core::consensus::{
    LogConfig, LogError, LogId, LogWrite, RaftConfig, RaftError, RaftLog, RecoveredLog,
    SnapshotMeta,
};
use dfs_core::master::leader::{Bootstrap, Master, MasterConfig, MasterError, MasterEvent};
use dfs_core::master::state::StateError;
use dfs_core::membership::durable::{self, DurableError};
use dfs_core::store::{Base, Disk, DiskError, FlushJob, KvError, LazyKv, RedbBase, TableCounts};
use dfs_core::types::{ClusterId, RaftId};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const MEMBER: &str = "raft.member";
const TAKEN: &str = "raft.taken";
const ASIDE: &str = "voter.damaged-";
const MOVING: &str = "moving.member";
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
    tables: Arc<RedbBase>,
    scrub: TableScrub,
    threads: Vec<JoinHandle<()>>,
}

/// Settings of the tables' verification.
pub(super) struct Verify {
    pub counts: Arc<TableCounts>,
    pub period: Duration,
}

/// Sizes of a log that a ballast of this size serves.
pub(super) fn log_config(ballast: u64) -> LogConfig {
    let defaults = LogConfig::default();
    LogConfig {
        segment_bytes: defaults.segment_bytes.min(ballast / 4).max(64 << 10),
        ..defaults
    }
}

/// The Raft id this node votes under.
pub(super) fn member(disk: &dyn Disk) -> Result<Option<RaftId>, OpenError> {
    read_id(disk, MEMBER).map_err(|e| match e {
        DurableError::Damaged { .. } => OpenError::Damaged(e.to_string()),
        DurableError::Disk(_) => OpenError::Other(e.into()),
    })
}

fn read_id(disk: &dyn Disk, path: &str) -> Result<Option<RaftId>, DurableError> {
    let no_number = |_| DurableError::Damaged {
        path: path.to_owned(),
        what: "no number",
    };
    let body = durable::read(disk, path)?;
    let id = body.map(|text| text.trim().parse().map(RaftId));
    id.transpose().map_err(no_number)
}

/// The highest Raft id that this node ever ran under.
fn taken(disk: &dyn Disk) -> Option<RaftId> {
    let known = |path| match read_id(disk, path) {
        Ok(id) => id,
        Err(e) => {
            tracing::warn!("{path}: {e}");
            None
        }
    };
    known(TAKEN).max(known(MEMBER))
}

fn remove_if_there(disk: &dyn Disk, path: &str) -> Result<bool, DiskError> {
    match disk.remove(path) {
        Ok(()) => Ok(true),
        Err(DiskError::NotFound { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes whatever there is of a voter, but for what it may never take again.
pub(super) fn remove(disk: &dyn Disk) -> anyhow::Result<()> {
    remove_if_there(disk, MEMBER)?;
    disk.sync_dir("")?;
    RedbBase::remove(disk, TABLES)?;
    RaftLog::destroy(disk, LOG_DIR)?;
    Ok(())
}

/// Puts whatever there is of a damaged voter into a directory of its own, whose name is returned: it is
/// of no use to the group, but the last resort of a cluster that lost all its voters.
pub(super) fn set_aside(disk: &dyn Disk) -> anyhow::Result<String> {
    let there = disk.list("")?;
    let is_free = |name: &String| !there.contains(name);
    let name = (1..).map(|n| format!("{ASIDE}{n}")).find(is_free);
    let name = name.expect("names do not end");
    disk.sync_dir(&name)?;
    let moving = format!("{name}/{MOVING}");
    match disk.rename(MEMBER, &moving) {
        Ok(()) => {}
        Err(DiskError::NotFound { .. }) => durable::write(disk, &moving, "")?,
        Err(e) => return Err(e.into()),
    }
    // From here on it is no voter.
    [name.as_str(), ""]
        .into_iter()
        .try_for_each(|dir| disk.sync_dir(dir))?;
    move_rest(disk, &name)?;
    Ok(name)
}

/// Moves what a crash kept from being set aside.
pub(super) fn finish_set_aside(disk: &dyn Disk) -> anyhow::Result<()> {
    let there = disk.list("")?;
    for name in there.iter().filter(|name| name.starts_with(ASIDE)) {
        if disk.list(name)?.iter().any(|file| file == MOVING) {
            tracing::warn!(kept = name, "a damaged voter is still being set aside");
            move_rest(disk, name)?;
        }
    }
    Ok(())
}

fn move_rest(disk: &dyn Disk, name: &str) -> anyhow::Result<()> {
    let inner = format!("{name}/{LOG_DIR}");
    disk.sync_dir(&inner)?;
    let there = disk.list("")?;
    for file in there.iter().filter(|file| file.starts_with(TABLES)) {
        disk.rename(file, &format!("{name}/{file}"))?;
    }
    for file in disk.list(LOG_DIR)? {
        disk.rename(&format!("{LOG_DIR}/{file}"), &format!("{inner}/{file}"))?;
    }
    [inner.as_str(), name, LOG_DIR, ""]
        .into_iter()
        .try_for_each(|dir| disk.sync_dir(dir))?;
    disk.rename(&format!("{name}/{MOVING}"), &format!("{name}/{MEMBER}"))?;
    disk.sync_dir(name)?;
    Ok(())
}

/// Makes the files of a new voter: the first of a cluster, or a blank one that joins.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    id: RaftId,
    is_first: bool,
    log: LogConfig,
) -> anyhow::Result<()> {
    let highest = taken(&**disk).filter(|highest| highest.group() == id.group());
    if let Some(highest) = highest.filter(|highest| id <= *highest) {
        bail!(
            "id {} is not above {}, which this node had",
            id.0,
            highest.0
        );
    }
    finish_set_aside(&**disk)?;
    match member(&**disk) {
        Ok(None) => {}
        // One that did not open, or stopped: it may still be of use to a person.
        Ok(Some(_)) | Err(OpenError::Damaged(_)) => {
            set_aside(&**disk)?;
        }
        Err(e) => bail!("{e}"),
    }
    remove(&**disk)?;
    durable::write(&**disk, TAKEN, &format!("{}\n", id.0))?;
    let base = if is_first {
        SnapshotMeta::bootstrap([id])
    } else {
        SnapshotMeta::blank()
    };
    let log_id = LogId { cluster, raft: id };
    RaftLog::create(disk.clone(), LOG_DIR, log_id, log, &base)?;
    durable::write(&**disk, MEMBER, &format!("{}\n", id.0))?;
    Ok(())
}

/// Why a voter did not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It cannot keep its promises: it counts as wiped.
    #[error("{0}")]
    Damaged(String),
    /// A person must put something right before this node may run at all.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    /// Anything else.
    #[error("{0:#}")]
    Other(anyhow::Error),
}

fn of_tables(error: KvError) -> OpenError {
    match error.is_damage() {
        true => OpenError::Damaged(error.to_string()),
        false => OpenError::Other(anyhow::Error::new(error).context("opening master.redb")),
    }
}

fn of_master(error: MasterError) -> OpenError {
    match error {
        MasterError::State(StateError::Kv(error)) => of_tables(error),
        // A row of another program's, or a setting.
        MasterError::State(StateError::Decode { .. })
        | MasterError::Config(_)
        | MasterError::Raft(RaftError::Config(_)) => OpenError::Refused(error.into()),
        MasterError::State(StateError::Gap { .. }) | MasterError::Raft(_) => {
            OpenError::Damaged(error.to_string())
        }
    }
}

fn open_log(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    id: RaftId,
    config: LogConfig,
) -> Result<(RaftLog, RecoveredLog), OpenError> {
    let log_id = LogId { cluster, raft: id };
    RaftLog::open(disk.clone(), LOG_DIR, log_id, config).map_err(|e| match e {
        LogError::Rot { .. } | LogError::Missing { .. } => OpenError::Damaged(e.to_string()),
        LogError::Foreign { .. } | LogError::Version { .. } => OpenError::Refused(e.into()),
        e => OpenError::Other(e.into()),
    })
}

/// Opens the voter `id` and starts its threads.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    config: MasterConfig,
    bootstrap: Bootstrap,
    verify: Verify,
    log_config: LogConfig,
    inbox: &Sender<Input>,
) -> Result<Voter, OpenError> {
    let id = config.raft_id;
    let (log, recovered) = open_log(disk, cluster, id, log_config.clone())?;
    let other = |e: anyhow::Error| OpenError::Other(e);
    let Verify { counts, period } = verify;
    let base = RedbBase::open_counted(&**disk, TABLES, TABLE_CACHE, Arc::clone(&counts));
    let base = Arc::new(base.map_err(of_tables)?);
    let kv = LazyKv::open(Arc::clone(&base) as Arc<dyn Base>).map_err(of_tables)?;
    let raft = RaftConfig::new(id);
    let master = Master::new(config, raft, recovered, kv, Some(bootstrap), rand::random())
        .map_err(of_master)?;
    let (log_tx, log_rx) = unbounded();
    let (flush_tx, flush_rx) = unbounded();
    let mut threads = Vec::new();
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(run)
    };
    let done = inbox.clone();
    let spare = (Arc::clone(disk), log_config.segment_bytes);
    let run = Box::new(move || log_thread(id, log, &log_rx, &done, &spare));
    threads.push(spawn("raft-log", run).map_err(|e| other(e.into()))?);
    let done = inbox.clone();
    let run = Box::new(move || flush_thread(&flush_rx, &done));
    threads.push(spawn("master-flush", run).map_err(|e| other(e.into()))?);
    let tables = Arc::clone(&base);
    let scrub = TableScrubSetup {
        base,
        counts,
        period,
        // The owner looks itself.
        on_fault: Box::new(|_| {}),
    };
    let scrub = scrub.spawn("master-scrub").map_err(|e| other(e.into()))?;
    threads.push(scrub.1);
    Ok(Voter {
        id,
        tables,
        scrub: scrub.0,
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
    (disk, spare_bytes): &(Arc<dyn Disk>, u64),
) {
    // A spare is for speed: it is not made of the last room.
    let has_room = || {
        let space = disk.space();
        space.is_ok_and(|space| space.free_bytes > spare_bytes * 4)
    };
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
            && log.needs_spare()
            && has_room()
            && let Err(e) = log.prepare_spare()
        {
            tracing::warn!("no spare log segment: {e}");
        }
    }
    log.settle();
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
    /// Why its tables are past use; `None` while they are good.
    pub fn fault(&self) -> Option<String> {
        self.tables.fault().map(str::to_owned)
    }

    /// Lets the threads finish what they have and waits for them.
    pub fn close(self) {
        let Self {
            master,
            log,
            flush,
            scrub,
            threads,
            ..
        } = self;
        drop((master, log, flush, scrub));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the voter panicked");
            }
        }
    }
}

#[cfg(test)]
#[path = "voter_tests.rs"]
mod tests;

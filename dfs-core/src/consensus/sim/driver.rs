//! One member: what its daemon would do with the actions.
use super::disk::StopDisk;
use super::world::MS;
use crate::consensus::config::{RaftConfig, TestBug};
use crate::consensus::log::{LogConfig, LogId, RaftLog};
use crate::consensus::{CommittedEntry, ConfState, LogWrite, RaftNode, SnapshotMeta, StateAt};
use crate::types::{ClusterId, LogIndex, RaftId, Term, Time};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(super) const DIR: &str = "raft";

/// The state machine: last op and index of each key, and the op at each index.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) applied: u64,
    pub(super) term: u64,
    pub(super) conf: ConfState,
    pub(super) installed: Option<SnapshotMeta>,
    pub(super) keys: BTreeMap<u8, (u64, u64)>,
    pub(super) ops: Arc<BTreeMap<u64, u64>>,
}

impl Tables {
    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: LogIndex(self.applied),
            term: Term(self.term),
            conf: self.conf.clone(),
        }
    }

    fn at(&self) -> StateAt {
        StateAt {
            applied: LogIndex(self.applied),
            installed: self.installed.clone(),
        }
    }

    /// Applies one entry; a gap is an error.
    pub(super) fn apply(&mut self, entry: &CommittedEntry) -> Result<(), String> {
        if entry.index.0 != self.applied + 1 {
            return Err(format!("applied {} after {}", entry.index, self.applied));
        }
        (self.applied, self.term) = (entry.index.0, entry.term.0);
        if let Some(conf) = &entry.conf_state {
            self.conf = conf.clone();
        }
        if let Some((op, key, _)) = parse(&entry.data) {
            self.keys.insert(key, (op, entry.index.0));
            Arc::make_mut(&mut self.ops).insert(entry.index.0, op);
        }
        Ok(())
    }
}

/// A command: op, key and client.
pub(super) fn command(op: u64, key: u8, client: u8) -> Vec<u8> {
    let mut data = op.to_le_bytes().to_vec();
    data.extend([key, client]);
    data
}

fn parse(data: &[u8]) -> Option<(u64, u8, u8)> {
    let (op, rest) = data.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*op), *rest.first()?, *rest.get(1)?))
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) raft: RaftNode,
    pub(super) log: RaftLog,
    pub(super) tables: Tables,
    /// Writes for the next sync.
    pub(super) queue: VecDeque<(u64, LogWrite)>,
    /// Writes of the sync under way.
    pub(super) syncing: Vec<(u64, LogWrite)>,
    /// Reads that wait for an index: index and token.
    pub(super) reads: Vec<(u64, u64)>,
}

/// A member's machine and disk.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: RaftId,
    pub(super) disk: StopDisk,
    /// State tables as they are on disk.
    pub(super) durable: Tables,
    pub(super) process: Option<Process>,
    /// Counts starts; events of an earlier run are void.
    pub(super) run: u64,
    pub(super) paused_until: u64,
    pub(super) clock: Clock,
}

/// A member's own clock, and how often its driver looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    offset: u64,
    percent: u64,
    /// In the world's time.
    pub(super) tick: u64,
}

impl Clock {
    pub(super) fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self {
            offset: rng.random_range(0..1_000_000 * MS),
            // Two of them run apart by less than a tenth.
            percent: rng.random_range(96..=105),
            tick: rng.random_range(27..=60) * MS,
        }
    }

    pub(super) fn local(&self, now: u64) -> Time {
        Time(self.offset + now * self.percent / 100)
    }
}

impl Member {
    pub(super) fn new(id: u64, first: &[RaftId], rng: &mut ChaCha8Rng) -> Result<Self, String> {
        let id = RaftId(id);
        let is_first = first.contains(&id);
        let base = match is_first {
            true => SnapshotMeta::bootstrap(first.iter().copied()),
            false => SnapshotMeta::blank(),
        };
        let disk = StopDisk::default();
        let created = RaftLog::create(Arc::new(disk.clone()), DIR, log_id(id), log_config(), &base);
        created.map_err(|e| e.to_string())?;
        let durable = Tables {
            applied: base.index.0,
            term: base.term.0,
            conf: base.conf,
            ..Tables::default()
        };
        Ok(Self {
            id,
            disk,
            durable,
            process: None,
            run: 0,
            paused_until: 0,
            clock: Clock::draw(rng),
        })
    }

    /// Starts the process. True if it finished an interrupted installation.
    pub(super) fn boot(&mut self, seed: u64, bug: Option<TestBug>) -> Result<bool, String> {
        self.run += 1;
        let disk = Arc::new(self.disk.clone());
        let opened = RaftLog::open(disk, DIR, log_id(self.id), log_config());
        let (log, found) = opened.map_err(|e| format!("{:?}: {e}", self.id))?;
        let mut config = RaftConfig::new(self.id);
        config.keep_entries = 8;
        config.append_bytes_max = 200;
        // Longer than an election takes: only what was promised stands between a lease and the next leader.
        config.promise = Duration::from_millis([500, 2500][usize::from(seed % 2 == 1)]);
        config.test_bug = bug;
        let at = self.durable.at();
        let was_base = found.base.index.0;
        let raft = RaftNode::new(
            config,
            found,
            &at,
            (seed.wrapping_mul(31) + self.id.0) ^ (self.run << 32),
        );
        let raft = raft.map_err(|e| format!("{:?}: {e}", self.id))?;
        let adopted = raft.base_index().0 > was_base;
        self.process = Some(Process {
            raft,
            log,
            tables: self.durable.clone(),
            queue: VecDeque::new(),
            syncing: Vec::new(),
            reads: Vec::new(),
        });
        Ok(adopted)
    }
}

fn log_id(raft: RaftId) -> LogId {
    LogId {
        cluster: ClusterId(9),
        raft,
    }
}

fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        spares_max: 1,
    }
}

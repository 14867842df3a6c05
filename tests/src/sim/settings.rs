//! Who takes part, and the settings of every machine in a simulation.
use super::bugs::Bug;
use super::failover::Failover;
use super::fault_plan::FaultPlan;
use super::network::{Ends, NODES_MAX};
use dfs_core::client::get::GetConfig;
use dfs_core::client::put::PutConfig;
use dfs_core::consensus::{LogConfig, LogId, RaftConfig};
use dfs_core::master::leader::{Bootstrap, MasterConfig};
use dfs_core::replica::ReplicaConfig;
use dfs_core::store::StoreOptions;
use dfs_core::types::{ClusterId, Incarnation, NodeId, QuorumSizes, RaftId, StoreId};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// What takes part in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// The whole stack.
    #[default]
    All,
    /// Puts, gets and repair: one group, one voter, few names. Small and fast.
    Replication,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides everything.
    pub seed: u64,
    /// A planted fault.
    pub bug: Option<Bug>,
    /// Print what happens.
    pub prints: bool,
    /// Instead of chaos: one change of the cluster, and a leader lost in the middle of it.
    pub failover: Option<Failover>,
    /// What takes part.
    pub part: Part,
    /// Faults that are left out, by their numbers in the seed's plan.
    pub without: BTreeSet<usize>,
}

impl Settings {
    /// A run of a seed as it is; `DFS_TRACE=1` prints what happens.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let prints = std::env::var_os("DFS_TRACE").is_some();
        Self {
            seed,
            bug: None,
            prints,
            failover: None,
            part: Part::All,
            without: BTreeSet::new(),
        }
    }

    /// A leader lost at a step of a job, instead of chaos.
    #[must_use]
    pub fn losing_the_leader(seed: u64, failover: Failover) -> Self {
        Self {
            failover: Some(failover),
            ..Self::new(seed)
        }
    }

    /// With a planted fault.
    #[must_use]
    pub fn with_bug(seed: u64, bug: Bug) -> Self {
        Self {
            bug: Some(bug),
            ..Self::new(seed)
        }
    }

    pub(super) fn ends(&self) -> Ends {
        match (self.failover, self.part) {
            (Some(_), _) => Ends::USUAL,
            (None, Part::All) => Ends::draw(self.seed),
            (None, Part::Replication) => Ends::draw_few(self.seed),
        }
    }

    /// The command that repeats this run.
    #[must_use]
    pub fn command(&self) -> String {
        let seed = self.seed;
        if let Some(failover) = self.failover {
            return format!("DFS_SEED={seed} cargo test -p dfs-tests --test failover # {failover}");
        }
        let program = "cargo run --release -p dfs-tests --bin sim";
        let features = match self.bug {
            Some(bug) if bug.is_inside() => " --features planted",
            _ => "",
        };
        let mut command = format!("{program}{features} -- --seeds 1 --from {seed}");
        if self.part == Part::Replication {
            command += " --part replication";
        }
        if let Some(bug) = self.bug {
            command += &format!(" --bug {bug}");
        }
        if !self.without.is_empty() {
            let numbers: Vec<String> = self.without.iter().map(usize::to_string).collect();
            command += &format!(" --without {}", numbers.join(","));
        }
        command
    }
}

/// What all nodes of a run know.
#[derive(Debug)]
pub(super) struct Plan {
    pub seed: u64,
    pub bug: Option<Bug>,
    pub ends: Ends,
    pub cluster: ClusterId,
    pub pgs: u16,
    pub voters: u8,
    /// [`Part::Replication`].
    pub is_small: bool,
    /// Bytes rot on one node.
    pub rots: bool,
    /// Repair begins soon.
    pub is_hasty: bool,
    /// A short absence is no reason for repair.
    pub is_patient: bool,
}

/// Where node `index` listens.
pub(super) fn addr_of(index: usize) -> SocketAddr {
    let last = u8::try_from(index + 1).expect("few nodes");
    SocketAddr::from(([10, 0, 0, last], 7000))
}

/// The inverse of [`addr_of`].
pub(super) fn node_at(addr: SocketAddr) -> Option<usize> {
    (0..NODES_MAX).find(|i| addr_of(*i) == addr)
}

pub(super) fn node_id(index: usize) -> NodeId {
    NodeId((index as u128 + 1) << 96)
}

/// The store of a node that was wiped so many times.
pub(super) fn store_id(index: usize, wipes: u64) -> StoreId {
    StoreId((index as u128 + 1) << 96 | u128::from(wipes) << 16 | 0xd15c)
}

/// Share of a device that no object may use.
pub(super) const RESERVE_PERMILLE: u64 = 900;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Plan {
    pub fn new(settings: &Settings) -> Self {
        let is_small = settings.part == Part::Replication;
        Self {
            seed: settings.seed,
            bug: settings.bug,
            ends: settings.ends(),
            cluster: ClusterId(0xdf5),
            pgs: if is_small { 1 } else { 8 },
            voters: if is_small { 1 } else { 3 },
            is_small,
            rots: settings.failover.is_none() && FaultPlan::draw(settings).rots_on.is_some(),
            is_hasty: settings.seed.is_multiple_of(2) && settings.failover.is_none(),
            is_patient: settings.failover.is_some(),
        }
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub fn log_id(&self, raft: RaftId) -> LogId {
        LogId {
            cluster: self.cluster,
            raft,
        }
    }

    pub fn log_config(&self) -> LogConfig {
        LogConfig {
            segment_bytes: 16 << 10,
            spares_max: 1,
        }
    }

    pub fn raft_config(&self, id: RaftId) -> RaftConfig {
        let mut config = RaftConfig::new(id);
        config.keep_entries = 50;
        config
    }

    pub fn master_config(&self, node: NodeId, id: RaftId, addr: SocketAddr) -> MasterConfig {
        let mut config = MasterConfig::new(node, id, addr);
        config.heartbeat_timeout = ms(if self.is_hasty { 1200 } else { 1500 });
        config.session_valid = ms(if self.is_hasty { 4500 } else { 10_000 });
        config.repair_grace = ms(if self.is_hasty { 800 } else { 2500 });
        if self.is_patient {
            config.repair_grace = ms(4000);
        }
        config.create_settle = ms(300);
        config.voter_grace = ms(6000);
        config.delete_grace = ms(8000);
        config.snapshot_entries = 150;
        config.flush_bytes = 256 << 10;
        config
    }

    pub fn bootstrap(&self) -> Bootstrap {
        let quorum = QuorumSizes::DEFAULT;
        Bootstrap {
            cluster: self.cluster,
            quorum,
            pgs: self.pgs,
            voters: self.voters,
        }
    }

    pub fn store_options(&self) -> StoreOptions {
        StoreOptions {
            flush_bytes: 64 << 10,
            segment_bytes: 16 << 10,
            // So much room is left for the rest on a device that is full of objects.
            reserve_permille: RESERVE_PERMILLE,
            ..StoreOptions::default()
        }
    }

    pub fn replica_config(
        &self,
        index: usize,
        store: StoreId,
        incarnation: Incarnation,
    ) -> ReplicaConfig {
        let node = node_id(index);
        let mut config = ReplicaConfig::new(store, node, incarnation, addr_of(index));
        config.device = index as u64 + 1;
        config.old_mark_age = ms(2000);
        config.heal_delay = ms(500);
        config.listing_rows = 5;
        config.quarantine = ms(3000);
        if self.rots {
            config.scrub_delay = ms(500);
            config.scrub_period = ms(6000);
        }
        config
    }

    pub fn put_config(&self) -> PutConfig {
        PutConfig {
            deadline: ms(6000),
            message_max: 64 << 10,
            ..PutConfig::default()
        }
    }

    pub fn get_config(&self) -> GetConfig {
        GetConfig {
            deadline: ms(5000),
            ..GetConfig::default()
        }
    }
}

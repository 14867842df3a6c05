//! Settings of the master.
use crate::types::{ClusterId, NodeId, QuorumSizes, RaftId};
use std::net::SocketAddr;
use std::time::Duration;

/// Settings of a [`Master`](super::Master).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterConfig {
    /// This node.
    pub node: NodeId,
    /// Its Raft id.
    pub raft_id: RaftId,
    /// Its TCP address, where voters and clients reach it.
    pub addr: SocketAddr,
    /// A session without a keep-alive for this long expires.
    pub session_valid: Duration,
    /// A session may use its caches this long after sending a keep-alive that was answered.
    pub caches_valid: Duration,
    /// A store may serve this long after sending a heartbeat that was answered.
    pub serving_lease: Duration,
    /// Added to a lease before the leader counts it as run out, in percent: clocks differ in rate.
    pub lease_margin_percent: u32,
    /// A writer that is asked to flush for another session's open has this long.
    pub recall_timeout: Duration,
    /// It has this long while it keeps its session alive: its flush may itself have to wait until the
    /// grant of a third session that does not answer has run out.
    pub recall_timeout_alive: Duration,
    /// Interests one session may have; the oldest is dropped (and invalidated) beyond.
    pub interests_max: usize,
    /// Proposals in flight before mutations are refused with `Busy`.
    pub proposals_max: usize,
    /// Reads waiting for a ReadIndex round before more are refused with `Busy`.
    pub reads_max: usize,
    /// Locks that may be waited for at a time; more are refused.
    pub lock_waits_max: u64,
    /// Who waits for a lock and does not ask again for this long loses its place.
    pub lock_wait_forget: Duration,
    /// A store without a heartbeat for this long is down, whatever gossip says.
    pub heartbeat_timeout: Duration,
    /// A store that is down this long is replaced (at once where one live copy is left).
    pub repair_grace: Duration,
    /// PGs that drain and rebalancing may have under way at once.
    pub rebalance_pgs_max: usize,
    /// Bytes per second one store may copy for repair, 0 for no limit.
    pub repair_rate: u64,
    /// No new store for this long before the PGs get their first members, so that the first
    /// stores of a cluster share them.
    pub create_settle: Duration,
    /// A voter whose node is down this long is replaced.
    pub voter_grace: Duration,
    /// An object that nothing refers to is deleted this long after (longer than any read lasts).
    pub delete_grace: Duration,
    /// Deleted names keep their history this long.
    pub history_keep: Duration,
    /// Deleted names with history at most.
    pub history_names_max: u64,
    /// Notes kept for a store that is away; beyond, it is filled again.
    pub notes_max: u64,
    /// Entries after which tables are flushed and the log is compacted.
    pub snapshot_entries: u64,
    /// Bytes of unflushed tables after which they are flushed.
    pub flush_bytes: usize,
    /// Stores are told of a new map at most this often.
    pub poke_every: Duration,
    /// Stores are told that there are notes at most this often. Readers meanwhile ask the master
    /// about what was just written, so that a short wait is cheap, and a batch of notes costs a
    /// store as much as one.
    pub poke_notes_every: Duration,
    /// Changes of free space are proposed at most this often.
    pub space_every: Duration,
}

/// A setting out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("master.{field}: {why}")]
pub struct MasterConfigError {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub why: &'static str,
}

impl MasterConfig {
    /// The defaults.
    #[must_use]
    pub fn new(node: NodeId, raft_id: RaftId, addr: SocketAddr) -> Self {
        Self {
            node,
            raft_id,
            addr,
            session_valid: Duration::from_secs(10),
            caches_valid: Duration::from_secs(2),
            serving_lease: Duration::from_secs(2),
            lease_margin_percent: 10,
            recall_timeout: Duration::from_secs(2),
            recall_timeout_alive: Duration::from_secs(5),
            interests_max: 200_000,
            proposals_max: 20_000,
            reads_max: 50_000,
            lock_waits_max: 20_000,
            lock_wait_forget: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(3),
            repair_grace: Duration::from_secs(10),
            rebalance_pgs_max: 8,
            repair_rate: 0,
            create_settle: Duration::from_secs(1),
            voter_grace: Duration::from_secs(30),
            delete_grace: Duration::from_secs(30),
            history_keep: Duration::from_secs(24 * 3600),
            history_names_max: 100_000,
            notes_max: 500_000,
            snapshot_entries: 20_000,
            flush_bytes: 32 << 20,
            poke_every: Duration::from_millis(15),
            poke_notes_every: Duration::from_millis(100),
            space_every: Duration::from_secs(5),
        }
    }

    /// Checks relations.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), MasterConfigError> {
        let checks = [
            (self.raft_id.0 != 0, "raft_id", "must not be 0"),
            (
                !self.caches_valid.is_zero(),
                "caches_valid",
                "must not be 0",
            ),
            (
                self.session_valid > self.caches_valid * 2,
                "session_valid",
                "must exceed twice caches_valid",
            ),
            (
                self.recall_timeout_alive > self.recall_timeout
                    && self.recall_timeout_alive > self.with_margin(self.caches_valid) * 3 / 2,
                "recall_timeout_alive",
                "must exceed recall_timeout and what a change may wait for a cache",
            ),
            (
                !self.serving_lease.is_zero(),
                "serving_lease",
                "must not be 0",
            ),
            (
                self.interests_max >= 1000,
                "interests_max",
                "must be at least 1000",
            ),
            (
                self.proposals_max >= 1,
                "proposals_max",
                "must be at least 1",
            ),
            (self.reads_max >= 1, "reads_max", "must be at least 1"),
            (
                self.rebalance_pgs_max >= 1,
                "rebalance_pgs_max",
                "must be at least 1",
            ),
            (
                self.snapshot_entries >= 100,
                "snapshot_entries",
                "must be at least 100",
            ),
        ];
        match checks.into_iter().find(|(ok, ..)| !ok) {
            Some((_, field, why)) => Err(MasterConfigError { field, why }),
            None => Ok(()),
        }
    }

    /// Bytes (before copies) below which space is short, in a cluster for `size` bytes: a twentieth,
    /// at least 256 MiB, but at most a fifth.
    #[must_use]
    pub fn low_water(&self, size: u64) -> u64 {
        (size / 20).max((256 << 20).min(size / 5))
    }

    /// `lease` with the margin: what a leader waits before it counts the lease as run out.
    #[must_use]
    pub fn with_margin(&self, lease: Duration) -> Duration {
        lease + lease * self.lease_margin_percent / 100
    }
}

/// What the first leader of a cluster decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// Identity.
    pub cluster: ClusterId,
    /// Copies and quorums.
    pub quorum: QuorumSizes,
    /// Placement groups, fixed for ever.
    pub pgs: u16,
    /// Voters wanted: 1, 3 or 5.
    pub voters: u8,
}

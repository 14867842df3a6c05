//! Settings of a replica.
use super::voting::VotingNow;
use crate::store::TableCounts;
use crate::types::{Incarnation, NodeId, StoreId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Who this store is and how it behaves.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// The store.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// TCP address peers and clients reach it at.
    pub addr: SocketAddr,
    /// Failure-domain label; may be empty.
    pub zone: String,
    /// Identifies the device below the store.
    pub device: u64,
    /// Time between heartbeats; well below the serving lease. Default 500 ms.
    pub heartbeat_interval: Duration,
    /// Least time between two heartbeats (pokes and notes in between wait). Default 20 ms.
    pub heartbeat_spacing: Duration,
    /// A heartbeat unanswered for this long is sent again; below the lease. Default 1 s.
    pub heartbeat_timeout: Duration,
    /// Marks older than this are reported. Default 5 s.
    pub old_mark_age: Duration,
    /// Old marks in one heartbeat at most. Default 1,000.
    pub old_marks_max: usize,
    /// An object that a note names is fetched from a peer after this long: its PREPARE may still be
    /// on the way. Default 2 s.
    pub heal_delay: Duration,
    /// Objects fetched from peers at a time. Default 4.
    pub fetches_max: usize,
    /// Groups filled at a time. Default 4.
    pub fills_max: usize,
    /// Rows of a listing page. Default 256.
    pub listing_rows: u32,
    /// Aborted ops remembered on disk. Default 16,384.
    pub aborted_max: usize,
    /// Committed ops remembered in memory, so that a late PREPARE leaves no mark. Default 65,536.
    pub settled_max: usize,
    /// Object bytes that may wait for the disk; beyond it a PREPARE is told to retry.
    /// Default 256 MiB.
    pub waiting_bytes_max: u64,
    /// Every byte held is read and verified again within this time. Default 7 days.
    pub scrub_period: Duration,
    /// Bytes per second that the scrub verifies at least, while it runs. Default 4 MiB.
    pub scrub_rate_min: u64,
    /// Bytes per second of a scrub that was asked for. Default 64 MiB.
    pub scrub_rate_asked: u64,
    /// Wait after a start before the scrub goes on. Default 60 s.
    pub scrub_delay: Duration,
    /// What the checks of the node's table files count.
    pub table_counts: Arc<TableCounts>,
    /// The part that the node has in the master group, kept by who runs its voter.
    pub voting: Arc<VotingNow>,
    /// What was wrong with a directory that was set aside when the store opened; empty if none was.
    pub set_aside: String,
    /// Found with data, every replica is copied anew from the others. Default false: only what
    /// changed is.
    pub rejoin_wipe: bool,
    /// A search for objects that nothing refers to begins this long after a start and after a group
    /// was filled: what was under way then is decided. Default 60 s.
    pub reconcile_after: Duration,
    /// Between two such searches. Default 1 h.
    pub reconcile_every: Duration,
    /// What was deleted rests so long before it leaves the disk, as long as there is room; zero: it
    /// goes at once. Default 10 min.
    pub quarantine: Duration,
}

impl ReplicaConfig {
    /// Defaults for a store.
    #[must_use]
    pub fn new(store: StoreId, node: NodeId, incarnation: Incarnation, addr: SocketAddr) -> Self {
        Self {
            store,
            node,
            incarnation,
            addr,
            zone: String::new(),
            device: 0,
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_spacing: Duration::from_millis(20),
            heartbeat_timeout: Duration::from_secs(1),
            old_mark_age: Duration::from_secs(5),
            old_marks_max: 1_000,
            heal_delay: Duration::from_secs(2),
            fetches_max: 4,
            fills_max: 4,
            listing_rows: 256,
            aborted_max: 16_384,
            settled_max: 65_536,
            waiting_bytes_max: 256 << 20,
            scrub_period: Duration::from_secs(7 * 24 * 3600),
            scrub_rate_min: 4 << 20,
            scrub_rate_asked: 64 << 20,
            scrub_delay: Duration::from_secs(60),
            table_counts: Arc::default(),
            voting: Arc::default(),
            set_aside: String::new(),
            rejoin_wipe: false,
            reconcile_after: Duration::from_secs(60),
            reconcile_every: Duration::from_secs(3600),
            quarantine: Duration::from_secs(600),
        }
    }
}

//! Settings of a replica.
use crate::types::{Incarnation, NodeId, StoreId};
use std::net::SocketAddr;
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
        }
    }
}

//! What stores and the master tell each other of repair and of a return, and what is kept of it.
use crate::types::{Epoch, Incarnation, Ino, PgId, Time};
use serde::{Deserialize, Serialize};

/// What a store copied, durably, to fill one group. Sent along with `filled`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FillCount {
    /// The group.
    pub pg: PgId,
    /// At this epoch.
    pub epoch: Epoch,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files all of whose bytes are in this group.
    pub files: u64,
    /// Files with bytes in several groups, ascending: the master counts each once.
    pub wide: Vec<Ino>,
}

/// What a store did since it came back with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RejoinReport {
    /// The run it speaks of.
    pub incarnation: Incarnation,
    /// Replicas (groups) it has wiped, because they were re-replicated while it was away.
    pub wiped_groups: u32,
    /// Objects deleted thereby.
    pub wiped_objects: u64,
    /// Files that had changed while it was away and were copied.
    pub caught_files: u64,
    /// Objects copied thereby.
    pub caught_objects: u64,
    /// Their bytes.
    pub caught_bytes: u64,
    /// Milliseconds until it was done.
    pub took_ms: u64,
}

/// The part of a heartbeat that is about repair.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreRepair {
    /// One for each group in `filled`.
    pub counts: Vec<FillCount>,
    /// Until the master says that it has noted it.
    pub rejoin: Option<RejoinReport>,
    /// Groups that the store wants to be filled anew (`rejoin = "wipe"`).
    pub renew: Vec<(PgId, Epoch)>,
    /// Replicas it still has to wipe.
    pub wiping: u32,
}

/// The part of a heartbeat's answer that is about repair.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairOrders {
    /// Copy as fast as can be: programs may wait.
    pub is_boosted: bool,
    /// The report of this run's return is noted.
    pub is_rejoin_noted: bool,
    /// Groups that the store copies of which one other complete copy is alive at most.
    pub last_copies: Vec<PgId>,
}

/// What a repair waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitKind {
    /// `repair.grace_ms`: the node might have come back.
    Grace,
    /// Repair was paused.
    Pause,
    /// No store could take the copies, or none had anything to copy from.
    Room,
    /// The last serving leases of members that did not answer.
    Lease,
}

impl WaitKind {
    /// For people and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Grace => "grace",
            Self::Pause => "pause",
            Self::Room => "room",
            Self::Lease => "leases",
        }
    }
}

/// One finished repair, as exactly as it was counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairRecord {
    /// Why, e.g. `node 3f2a0c11 failed`.
    pub cause: String,
    /// Begin (Unix time).
    pub began: Time,
    /// Milliseconds from then to the end.
    pub took_ms: u64,
    /// Distinct files of which bytes were copied.
    pub files: u64,
    /// Objects copied.
    pub objects: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// PGs changed.
    pub pgs: u32,
    /// Fewest live complete copies that any of them had.
    pub lowest_copies: u8,
    /// Milliseconds by what it waited for.
    pub waited: Vec<(WaitKind, u64)>,
    /// Replicas wiped.
    pub wiped_groups: u32,
    /// Objects deleted thereby.
    pub wiped_objects: u64,
}

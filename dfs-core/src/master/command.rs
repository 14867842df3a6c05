//! What the Raft log holds: commands of the master's state machine.
//!
//! Every voter applies the same commands in the same order to the same tables; time comes from the
//! entry. FORMAT: append-only, like the wire.
use crate::types::{
    ClientId, ClusterId, Epoch, Incarnation, Ino, LogIndex, Name, NodeId, OpId, PgId, QuorumSizes,
    RaftId, StoreId, Time, VersionNo,
};
use crate::wire::Mutation;
use crate::wire::master::RepairReceipt;
use crate::wire::repair::{FillCount, RejoinReport, WaitKind};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// One log entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Log time, Unix nanoseconds: never runs back, gains at most 1 s over the leader's boot clock
    /// per step.
    pub at: Time,
    /// What to do.
    pub command: Command,
}

/// A new configuration of one placement group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgChange {
    /// Which.
    pub pg: PgId,
    /// The epoch it replaces; another current epoch makes the change a no-op.
    pub from: Epoch,
    /// New members, best first, at most N.
    pub members: Vec<StoreId>,
}

/// Why a set of PGs was changed; names the repair in its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChangeCause {
    /// PGs get their first members.
    Create,
    /// A store failed.
    Failed(StoreId),
    /// A store is being emptied.
    Drain(StoreId),
    /// A fresh or emptier store gets its share.
    Rebalance(StoreId),
}

/// A command of the state machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// First entry of a cluster. Later ones change nothing.
    Bootstrap {
        /// Identity.
        cluster: ClusterId,
        /// Copies and quorums.
        quorum: QuorumSizes,
        /// Placement groups, fixed for ever.
        pgs: u16,
        /// Voters wanted: 1, 3 or 5.
        voters: u8,
    },
    /// A client's change, exactly once by op-id.
    Mutate {
        /// X.
        op: OpId,
        /// Lowest unfinished sequence of the session.
        low: u64,
        /// What.
        body: Mutation,
    },
    /// Begins a session (no-op if it exists; refused if the uuid has expired).
    OpenSession {
        /// Fresh uuid.
        client: ClientId,
        /// For people.
        label: String,
    },
    /// Ends a session for ever: clean close, or no keep-alive for its lifetime.
    EndSession {
        /// The session.
        client: ClientId,
        /// True when it expired.
        expired: bool,
    },
    /// These ops will never be applied (their session expired or disowned them).
    Abort {
        /// Inode and op.
        ops: Vec<(Ino, OpId)>,
    },
    /// Raises the write-lease sequence of an inode: a holder did not answer a recall.
    RaiseLease {
        /// The inode.
        ino: Ino,
    },
    /// No session has these orphans open any more.
    Reap {
        /// Inodes with no links.
        inos: Vec<Ino>,
    },
    /// Cuts the open version of inodes whose writers are gone.
    SealAll {
        /// Inodes.
        inos: Vec<Ino>,
    },
    /// Drops deleted history older than the limits, oldest first, at most `max` names.
    TrimHistory {
        /// Removed before this (Unix time).
        before: Time,
        /// Names to keep at most.
        keep_names: u64,
        /// Names to drop at most in this entry.
        max: u32,
    },
    /// Turns delete-queue entries that are due into `Delete` notes, at most `max`.
    ReleaseDeletes {
        /// Queued before this (Unix time).
        before: Time,
        /// At most.
        max: u32,
    },
    /// All stores that matter have been told notes up to this index.
    TrimNotes {
        /// Inclusive.
        upto: LogIndex,
    },
    /// A store was seen: registers it or updates address, incarnation and zone.
    StoreSeen {
        /// The store.
        store: StoreId,
        /// Its node.
        node: NodeId,
        /// This run.
        incarnation: Incarnation,
        /// TCP address.
        addr: SocketAddr,
        /// Failure domain.
        zone: String,
        /// Device, for shared free space.
        device: u64,
    },
    /// Space of stores, now and then (for placement and statfs on every voter).
    StoreSpace {
        /// `(store, total, free, used)`.
        space: Vec<(StoreId, u64, u64, u64)>,
    },
    /// A store went down or came back, as the leader sees it.
    StoreDown {
        /// The store.
        store: StoreId,
        /// Since (Unix time), or `None` when it is back.
        since: Option<Time>,
    },
    /// A store is to be emptied, or no longer.
    StoreDrain {
        /// The store.
        store: StoreId,
        /// New state.
        draining: bool,
    },
    /// BEGIN: epoch + 1, members as given, phase Fencing (all PGs of one cause in one entry).
    BeginEpoch {
        /// Why.
        cause: ChangeCause,
        /// Which.
        changes: Vec<PgChange>,
    },
    /// ACTIVATE: N-R+1 old members are fenced; phase Copying, or Active if nothing is to be filled.
    Activate {
        /// PG and the epoch begun.
        pgs: Vec<(PgId, Epoch)>,
    },
    /// A member holds everything of the PG; when the last one does, the PG is CLEAN.
    Filled {
        /// PG, epoch, member.
        done: Vec<(PgId, Epoch, StoreId)>,
    },
    /// A prior member has deleted its strays.
    Emptied {
        /// PG, store.
        done: Vec<(PgId, StoreId)>,
    },
    /// A member missed notes that were trimmed, or its replica is suspect: fill it again.
    Refill {
        /// PG, epoch, member.
        members: Vec<(PgId, Epoch, StoreId)>,
    },
    /// Pauses or resumes repair.
    RepairControl {
        /// New state.
        paused: bool,
    },
    /// A repair ended.
    Receipt(RepairReceipt),
    /// A node votes (or learns) under a Raft id; ids are never reused.
    VoterAssigned {
        /// The node.
        node: NodeId,
        /// Its Raft id.
        raft_id: RaftId,
        /// TCP address.
        addr: SocketAddr,
    },
    /// A Raft id is out of the group for good.
    VoterRetired {
        /// The id.
        raft_id: RaftId,
    },
    /// Space is short: drops the `count` names that were deleted first, then these old versions.
    FreeSpace {
        /// Deleted names to drop.
        names: u32,
        /// Versions to drop; one that is the newest of its file stays.
        versions: Vec<OldVersion>,
    },
    /// [`BeginEpoch`](Self::BeginEpoch) of a repair, with what it waited for before.
    BeginRepair {
        /// Why.
        cause: ChangeCause,
        /// Which.
        changes: Vec<PgChange>,
        /// Milliseconds.
        waited: Vec<(WaitKind, u64)>,
    },
    /// [`Filled`](Self::Filled), with what was copied.
    FilledCounted {
        /// The member.
        store: StoreId,
        /// By group.
        done: Vec<FillCount>,
    },
    /// Repair goes as fast as can be until then (log time); in the past: no longer.
    RepairBoost {
        /// Log time.
        until: Time,
    },
    /// The store is out of the cluster for good. Refused while it counts in any group.
    StoreRemoved {
        /// The store.
        store: StoreId,
    },
    /// A store that came back has caught up and wiped what is elsewhere.
    Rejoined {
        /// The store.
        store: StoreId,
        /// What it did.
        report: RejoinReport,
    },
    /// Log time has gained this over what surely passed: what was before this entry is so much
    /// younger than it looks.
    ClockLeapt {
        /// Gained.
        gap: Duration,
    },
    /// A client's change that follows another one: see
    /// [`MutateAfter`](crate::wire::MasterRequest::MutateAfter).
    MutateAfter {
        /// X.
        op: OpId,
        /// Lowest unfinished sequence of the session.
        low: u64,
        /// Sequence of the op before; 0 for none.
        after: u64,
        /// See there.
        sole_at: LogIndex,
        /// What.
        body: Mutation,
    },
    /// Others are let in without the acknowledgement of these sessions: what they have queued comes too late.
    Bar {
        /// The sessions.
        clients: Vec<ClientId>,
    },
}

impl Command {
    /// A client's change, and its op-id.
    #[must_use]
    pub fn change(&self) -> Option<(OpId, &Mutation)> {
        match self {
            Self::Mutate { op, body, .. } | Self::MutateAfter { op, body, .. } => Some((*op, body)),
            _ => None,
        }
    }
}

/// A version that is not the newest of what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OldVersion {
    /// Of a file that has a name.
    Window {
        /// The file.
        ino: Ino,
        /// Internal number.
        version: VersionNo,
    },
    /// What a name used to be before it became another file.
    Pin {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Name,
        /// The file that it was.
        ino: Ino,
        /// Internal number.
        version: VersionNo,
    },
}

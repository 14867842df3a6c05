//! To a node itself: who it is, whom it sees, what it sent, and the voters' own traffic.
use crate::store::KvPair;
use crate::types::{ClusterId, Incarnation, LogIndex, NodeId, RaftId, StoreId, Term, Time};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A request to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Answered at once.
    Ping,
    /// Who this is.
    Id,
    /// Whom it sees.
    Members,
    /// Joins, leaves, suspicions and failures it saw, oldest first.
    MembersLog,
    /// Bytes by class since the last reset.
    Bandwidth,
    /// Sets the counters to zero.
    ResetBandwidth,
    /// Leaves the cluster gracefully and stops the daemon.
    Leave,
    /// Where the master is, as far as this node knows.
    WhoLeads,
    /// One Raft message (postcard of `consensus::RaftMessage`), voter to voter; sent as a `Cast`.
    Raft {
        /// The sender's Raft id.
        from: RaftId,
        /// Where the sender listens: a new learner knows no addresses yet.
        addr: SocketAddr,
        /// Encoded message.
        message: Vec<u8>,
    },
    /// A page of the state tables at a snapshot, pulled by a voter that lags.
    SnapshotPage {
        /// The snapshot's index, as the Raft message announced it.
        index: LogIndex,
        /// Pairs with keys greater than this.
        after: Vec<u8>,
        /// About this many bytes at most.
        bytes_max: u32,
    },
    /// Asks the node to become a member of the Raft group under this id (leader to node).
    BecomeVoter {
        /// The cluster.
        cluster: ClusterId,
        /// The id it shall run under, above every one it ran under before; a fresh log is made for it.
        raft_id: RaftId,
    },
    /// Tells a node that it is no longer in the Raft group; it may drop its log and state.
    RetireVoter {
        /// The id that was removed.
        raft_id: RaftId,
        /// The leader's term: a node that knows a newer one does not obey.
        term: Term,
    },
    /// A page of the namespace for a store's snapshot of it (store to leader).
    NamespacePage {
        /// The state that the pages before were of; 0 for the newest.
        index: LogIndex,
        /// With index 0: one that was pinned at most this long ago will do, in milliseconds.
        age_max_ms: u32,
        /// Rows with keys greater than this.
        after: Vec<u8>,
        /// About this many bytes at most.
        bytes_max: u32,
    },
    /// Asks the node to keep a snapshot of the namespace in its store, now. Answered when it is
    /// durable.
    StoreNamespace {
        /// Of this log index, if the leader still has it pinned; 0 for the newest.
        index: LogIndex,
    },
    /// Space that its data directory takes, measured now.
    DiskUse,
}

/// A node's view of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Stable id.
    pub node: NodeId,
    /// This run of it.
    pub incarnation: Incarnation,
    /// Its store.
    pub store: StoreId,
    /// Gossip address.
    pub gossip: SocketAddr,
    /// TCP address.
    pub tcp: SocketAddr,
    /// Label of its failure domain; may be empty.
    pub zone: String,
    /// How it looks.
    pub state: MemberState,
    /// Since when (Unix time).
    pub since: Time,
}

/// How a member looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Did not answer lately.
    Suspect,
    /// Declared failed. A hint, never a quorum decision.
    Down,
    /// Left gracefully.
    Left,
}

/// One line of the membership log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEventInfo {
    /// When (Unix time).
    pub at: Time,
    /// Whom.
    pub node: NodeId,
    /// The run of it.
    pub incarnation: Incarnation,
    /// `joined`, `left`, `suspected`, `failed`, `recovered` or `renewed`.
    pub what: String,
}

/// Traffic of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClassTraffic {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

/// Bytes by class since the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BandwidthInfo {
    /// When the counters were zero (Unix time).
    pub since: Time,
    /// UDP membership.
    pub gossip: ClassTraffic,
    /// Object payloads of clients.
    pub data: ClassTraffic,
    /// Master traffic: clients, heartbeats, Raft.
    pub metadata: ClassTraffic,
    /// Copies between stores.
    pub repair: ClassTraffic,
}

/// A namespace snapshot that a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespaceStored {
    /// The log up to which it is complete.
    pub index: LogIndex,
    /// When (Unix time, by the master's clock).
    pub taken_at: Time,
    /// Rows.
    pub rows: u64,
    /// Bytes of its objects.
    pub bytes: u64,
}

/// Where the master is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaderHint {
    /// The leader's TCP address, if known.
    pub leader: Option<SocketAddr>,
    /// Its node.
    pub leader_node: Option<NodeId>,
    /// In this term.
    pub term: Term,
    /// TCP addresses of the voters.
    pub voters: Vec<SocketAddr>,
    /// TCP addresses of all live members.
    pub members: Vec<SocketAddr>,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentityInfo {
    /// Stable id.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Its store.
    pub store: StoreId,
    /// The cluster.
    pub cluster: ClusterId,
    /// TCP address.
    pub tcp: SocketAddr,
    /// Gossip address.
    pub gossip: SocketAddr,
    /// Its Raft id, if it votes or learns.
    pub raft_id: Option<RaftId>,
    /// Process id.
    pub pid: u32,
    /// Data directory.
    pub data_dir: String,
    /// Program version.
    pub version: String,
}

/// Space that a data directory takes, in bytes of allocated blocks: each file and directory is in one
/// of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskUse {
    /// Bytes of objects that have a file each, by the lengths of the files.
    pub objects: u64,
    /// What these files take besides: headers, and the rest of the last blocks.
    pub padding: u64,
    /// The store's tables: small objects, and what is known of all.
    pub tables: TableSpace,
    /// The store's journal.
    pub journal: u64,
    /// The voter's tables.
    pub voter_tables: TableSpace,
    /// The voter's log.
    pub voter_log: u64,
    /// What is given up when the device is full.
    pub ballast: u64,
    /// Identity, known peers, locks, the directories themselves.
    pub other: u64,
    /// Stores and voters that were set aside because of damage.
    pub set_aside: u64,
    /// All blocks, added up apart from the parts.
    pub total: u64,
}

/// Space of a table file with its copy and sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableSpace {
    /// All three files.
    pub total: u64,
    /// Of these, pages that nothing is in, or will be when the next transactions are done.
    pub free: u64,
}

/// An answer of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NodeResponse {
    /// To `Ping` and other requests without an answer.
    Done,
    /// To `Id`.
    Id(NodeIdentityInfo),
    /// To `Members`.
    Members(Vec<MemberInfo>),
    /// To `MembersLog`.
    MembersLog(Vec<MemberEventInfo>),
    /// To `Bandwidth`.
    Bandwidth(BandwidthInfo),
    /// To `WhoLeads`.
    Leader(LeaderHint),
    /// To `SnapshotPage`: ascending pairs; empty at the end.
    SnapshotPage(Vec<KvPair>),
    /// To `NamespacePage`.
    NamespacePage {
        /// The state it is of.
        index: LogIndex,
        /// When that was pinned (Unix time).
        taken_at: Time,
        /// Ascending; empty at the end.
        pairs: Vec<KvPair>,
    },
    /// To `StoreNamespace`.
    NamespaceStored(NamespaceStored),
    /// To `DiskUse`.
    DiskUse(DiskUse),
}

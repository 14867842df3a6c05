//! What a put is told, what it asks for and how it ends.
use crate::types::{
    Attr, BlockSums, ChunkNo, Extent, Ino, LeaseSeq, LogIndex, ObjectSum, OpId, PgMap, PutAbout,
    Revision, SetTime, StoreId, VersionNo,
};
use crate::wire::{Commit, ErrorCode, MutationOk, ReplicaRequest, WireError, WriteToken};
use std::sync::Arc;
use std::time::Duration;

/// Timing and sizes of a put.
#[derive(Debug, Clone)]
pub struct PutConfig {
    /// Time from the start (or the last object added) until the put has ended, one way or another:
    /// three quarters of it to reach a quorum, the last one to have X decided.
    pub deadline: Duration,
    /// First pause before a member that failed is asked again; doubles per failure.
    pub retry_min: Duration,
    /// Longest such pause.
    pub retry_max: Duration,
    /// Payload bytes that one PREPARE carries at most, unless one chunk alone is more.
    pub message_max: u32,
}

impl Default for PutConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_secs(1),
            message_max: 4 << 20,
        }
    }
}

/// One object to be stored: a dirty range within one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutObject {
    /// The chunk.
    pub chunk: ChunkNo,
    /// First byte, relative to the chunk.
    pub start: u32,
    /// One CRC per block.
    pub sums: BlockSums,
    /// Length and identity.
    pub sum: ObjectSum,
}

/// What the put does with its objects; the shapes of [`crate::wire::Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutChange {
    /// Byte ranges.
    Write,
    /// At EOF, cut as if that were `at`.
    Append {
        /// The EOF expected.
        at: u64,
    },
    /// Absolute size; no objects.
    Truncate {
        /// New size.
        size: u64,
    },
    /// A hole; no objects.
    Punch {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Least size; no objects.
    Extend {
        /// New least size.
        size: u64,
    },
    /// The whole content.
    Replace {
        /// New size.
        size: u64,
    },
    /// An older version becomes current; no objects.
    Restore {
        /// Inode that holds it.
        from: Ino,
        /// Internal version there.
        inode_version: VersionNo,
    },
    /// One object with the bytes of these extents takes their place.
    Compact {
        /// Ascending, of one chunk.
        was: Arc<[Extent]>,
    },
}

/// One put, but for its bytes.
#[derive(Debug, Clone)]
pub struct PutSpec {
    /// X, registered as unfinished by the driver until [`PutAction::Finish`].
    pub op: OpId,
    /// The inode.
    pub ino: Ino,
    /// Write-lease sequence.
    pub lease: LeaseSeq,
    /// Writing period.
    pub token: WriteToken,
    /// What it does.
    pub change: PutChange,
    /// New mtime.
    pub mtime: Option<SetTime>,
    /// Whoever wrote these bytes still waits: should the lease be lost, they may be committed under
    /// a fresh one, as a write of this moment. Never for what was buffered.
    pub renews: bool,
    /// Clear suid and sgid.
    pub kill_suid: bool,
    /// Conditional on this revision.
    pub base: Option<Revision>,
    /// Objects in index order.
    pub objects: Vec<PutObject>,
    /// For the objects' headers.
    pub about: PutAbout,
    /// More objects follow as [`PutEvent::Object`]; nothing is committed before
    /// [`PutEvent::Complete`].
    pub more: bool,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum PutEvent {
    /// The answer to [`PutAction::Prepare`] `token`.
    Prepared {
        /// Of the request.
        token: u64,
        /// The store that acked, or why it did not.
        result: Result<StoreId, WireError>,
    },
    /// The answer to [`PutAction::RefreshMap`], newer or not; also a map that came unasked.
    Map(Arc<PgMap>),
    /// The answer to [`PutAction::Commit`].
    Committed(Result<MutationOk, WireError>),
    /// The answer to [`PutAction::RenewLease`]; `None`: there is no other.
    Renewed(Option<LeaseSeq>),
    /// The answer to [`PutAction::Abandon`].
    Abandoned(Result<MutationOk, WireError>),
    /// One more object (see [`PutSpec::more`]).
    Object(PutObject),
    /// No more objects.
    Complete {
        /// New size of a `Replace`; ignored otherwise.
        size: u64,
    },
    /// The caller gives up: X is abandoned unless it is being committed already.
    Cancel,
    /// The session is gone, and with it every undecided op.
    SessionLost,
    /// Time passed; at or after the time of [`PutAction::SetTimer`].
    Tick,
}

/// What the driver must do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum PutAction {
    /// Send to a store; the result comes back as [`PutEvent::Prepared`], exactly once.
    Prepare {
        /// Echoed.
        token: u64,
        /// The store.
        to: StoreId,
        /// Always [`ReplicaRequest::Prepare`].
        request: ReplicaRequest,
        /// Indexes of the objects whose bytes are the payload, in this order.
        bytes_of: Vec<u32>,
    },
    /// W members hold this object: its bytes need not be kept for a retry.
    Stored {
        /// Index.
        index: u32,
    },
    /// Fetch a PG map newer than this; answer with [`PutEvent::Map`] in any case.
    RefreshMap {
        /// The version known.
        newer_than: LogIndex,
    },
    /// Commit under X; may be asked more than once, never while one is unanswered.
    Commit(Commit),
    /// Open the inode for writing again, for another lease.
    RenewLease,
    /// Have the master decide that X is never applied (under an op-id of its own).
    Abandon,
    /// X is decided not to be: the store may drop what it prepared. No answer wanted.
    Drop {
        /// The store.
        to: StoreId,
        /// Always [`ReplicaRequest::Drop`].
        request: ReplicaRequest,
    },
    /// Deliver [`PutEvent::Tick`] no earlier than `at`; replaces the earlier timer.
    SetTimer {
        /// Absolute.
        at: crate::types::Time,
    },
    /// Nobody decides X: give the whole session up, so that nothing under it is sent any more.
    DropSession,
    /// X is decided, or its session was given up. Emitted exactly once.
    Finish(Result<PutDone, PutError>),
}

/// A put that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutDone {
    /// Attributes after it (or after a later change).
    pub attr: Attr,
    /// Its revision.
    pub revision: Revision,
    /// First byte written: the true EOF of an append.
    pub offset: u64,
    /// A chunk that has become worth compacting.
    pub crowded: Option<ChunkNo>,
}

/// Why a put was not applied (or, with `unknown`, may not have been).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Too few members acked by the deadline. Not applied.
    #[error("needs {needed} of {members} copies, {acked} acknowledged in time: {last}")]
    QuorumNotReached {
        /// W.
        needed: usize,
        /// Members asked.
        members: usize,
        /// Lowest number of acks of an object or the mark.
        acked: usize,
        /// What a member said last; empty if none answered.
        last: String,
    },
    /// So many members are full that W is out of reach. Not applied.
    #[error("no space for {needed} copies")]
    NoSpace {
        /// W.
        needed: usize,
    },
    /// The write lease was taken away. Not applied.
    #[error("the write lease was lost")]
    StaleLease,
    /// The master refused it for good. Not applied.
    #[error("refused: {0}")]
    Refused(WireError),
    /// Decided not to be applied before the commit arrived.
    #[error("aborted: {0}")]
    Aborted(WireError),
    /// The session is gone.
    #[error("session lost")]
    SessionLost {
        /// A commit was sent and not answered: it may have been applied.
        unknown: bool,
    },
    /// The caller gave up. Not applied.
    #[error("given up")]
    Cancelled,
}

impl PutError {
    /// The code that tells a caller best what happened.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::QuorumNotReached { .. } | Self::Cancelled => ErrorCode::Unavailable,
            Self::NoSpace { .. } => ErrorCode::NoSpace,
            Self::StaleLease => ErrorCode::StaleLease,
            Self::Refused(e) | Self::Aborted(e) => e.code,
            Self::SessionLost { .. } => ErrorCode::SessionExpired,
        }
    }
}

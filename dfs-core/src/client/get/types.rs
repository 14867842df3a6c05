//! What a get is told, what it asks for and how it ends.
use crate::types::{
    BLOCK_SIZE, BlockSums, Ino, LogIndex, ObjectId, ObjectSum, OpId, PgId, PgMap, Revision,
    StoreId, Time,
};
use crate::wire::{ErrorCode, ReplicaRequest, Stamp, WireError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Timing of a get.
#[derive(Debug, Clone)]
pub struct GetConfig {
    /// Time from the start until it fails.
    pub deadline: Duration,
    /// Another member is asked no sooner than this after the first.
    pub hedge_min: Duration,
    /// Pause before members that failed are asked again.
    pub retry: Duration,
    /// RESOLVEs because all members lack an object.
    pub resolves_max: u32,
}

impl Default for GetConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            hedge_min: Duration::from_millis(20),
            retry: Duration::from_millis(100),
            resolves_max: 3,
        }
    }
}

/// Whole blocks of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The object.
    pub object: ObjectId,
    /// The PG whose members hold it.
    pub pg: PgId,
    /// Its identity, as the master knows it.
    pub sum: ObjectSum,
    /// First block.
    pub first_block: u32,
    /// Blocks; at least 1.
    pub blocks: u32,
}

impl Piece {
    /// Offset of the first byte within the object.
    #[must_use]
    pub fn offset(&self) -> u32 {
        self.first_block.saturating_mul(BLOCK_SIZE as u32)
    }

    /// Bytes: whole blocks, but for the object's last one.
    #[must_use]
    pub fn len(&self) -> u32 {
        let end = self
            .first_block
            .saturating_add(self.blocks)
            .saturating_mul(BLOCK_SIZE as u32);
        end.min(self.sum.len).saturating_sub(self.offset())
    }

    /// True if it lies beyond the object's end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One get.
#[derive(Debug, Clone)]
pub struct GetSpec {
    /// The inode.
    pub ino: Ino,
    /// Its revision according to the layout that the pieces come from, and the op that made it.
    pub revision: Revision,
    /// See above.
    pub op: OpId,
    /// Check that the layout is current. False for immutable versions, and for a layout that was
    /// asked of the master within the same call.
    pub stamps: bool,
    /// What is wanted.
    pub pieces: Vec<Piece>,
}

/// The header of a read answer.
#[derive(Debug, Clone)]
pub struct ReadAnswer {
    /// Block-aligned offset of the first byte.
    pub offset: u32,
    /// All block sums of the object.
    pub sums: BlockSums,
    /// The stamp, if one was asked.
    pub stamp: Option<Result<Stamp, WireError>>,
}

/// The master's answer to a RESOLVE.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The current revision.
    pub revision: Revision,
    /// The op that made it.
    pub op: OpId,
    /// What is wanted, by the current layout.
    pub pieces: Vec<Piece>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum GetEvent {
    /// The answer to [`GetAction::Read`].
    Read {
        /// Of the request.
        token: u64,
        /// Header and payload.
        result: Result<(ReadAnswer, Bytes), WireError>,
    },
    /// The answer to [`GetAction::Stamp`].
    Stamp {
        /// Of the request.
        token: u64,
        /// The stamp.
        result: Result<Stamp, WireError>,
    },
    /// The answer to [`GetAction::Resolve`].
    Resolved(Result<Resolved, WireError>),
    /// The answer to [`GetAction::RefreshMap`], newer or not.
    Map(Arc<PgMap>),
    /// Time passed.
    Tick,
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq)]
pub enum GetAction {
    /// Send; the result comes back as [`GetEvent::Read`], exactly once.
    Read {
        /// Echoed.
        token: u64,
        /// The store.
        to: StoreId,
        /// Always [`ReplicaRequest::Read`].
        request: ReplicaRequest,
    },
    /// Send; the result comes back as [`GetEvent::Stamp`], exactly once.
    Stamp {
        /// Echoed.
        token: u64,
        /// The store.
        to: StoreId,
        /// Always [`ReplicaRequest::Stamp`].
        request: ReplicaRequest,
    },
    /// Ask the master for the current layout; answer with [`GetEvent::Resolved`].
    Resolve,
    /// Fetch a PG map newer than this; answer with [`GetEvent::Map`] in any case.
    RefreshMap {
        /// The version known.
        newer_than: LogIndex,
    },
    /// A store's copy is damaged: have it verified and repaired.
    Report {
        /// The store.
        store: StoreId,
        /// The object.
        object: ObjectId,
    },
    /// A store answered a read of so many bytes after this time, or failed to (`None`).
    Observe {
        /// The store.
        store: StoreId,
        /// Payload bytes asked.
        bytes: u32,
        /// Latency.
        took: Option<Duration>,
    },
    /// Deliver [`GetEvent::Tick`] no earlier than `at`; replaces the earlier timer.
    SetTimer {
        /// Absolute.
        at: Time,
    },
    /// The get is over. Emitted exactly once.
    Finish(Result<GetDone, GetError>),
}

/// Verified bytes of a current layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetDone {
    /// The revision they belong to.
    pub revision: Revision,
    /// The op that made it.
    pub op: OpId,
    /// Each piece of that revision with its bytes, in the order given.
    pub pieces: Vec<(Piece, Bytes)>,
    /// Stamps that were read.
    pub stamp_reads: u32,
    /// The layout was asked of the master.
    pub resolved: bool,
}

/// Why there are no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// Every copy fails its checksum.
    #[error("object {object}: no valid copy, {damaged} damaged")]
    Corrupt {
        /// The object.
        object: ObjectId,
        /// Copies seen that fail.
        damaged: usize,
    },
    /// No copy was found, although the layout names it.
    #[error("object {object}: no copy found")]
    Missing {
        /// The object.
        object: ObjectId,
    },
    /// No member answered in time.
    #[error("no answer in time: {last}")]
    Unavailable {
        /// What was said last.
        last: String,
    },
    /// The master refused the RESOLVE.
    #[error("refused: {0}")]
    Refused(WireError),
}

impl GetError {
    /// The code that tells a caller best what happened.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupt { .. } | Self::Missing { .. } => ErrorCode::Corrupt,
            Self::Unavailable { .. } => ErrorCode::Unavailable,
            Self::Refused(e) => e.code,
        }
    }
}

//! Error codes on the wire: append-only, each with a class that says what a caller may do.
use serde::{Deserialize, Serialize};

/// What a caller may conclude from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The operation was refused and changed nothing; asking again gives the same answer.
    Permanent,
    /// Refused and nothing changed; the same op-id may be tried again (after a refresh).
    Retry,
    /// Ask another node.
    Redirect,
    /// It may or may not have happened. Ask again with the same op-id; never report failed or done.
    Unknown,
}

/// Why a request was not done. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ErrorCode {
    /// No such file, inode, version, session or store.
    NotFound,
    /// The name exists.
    Exists,
    /// A path component is no directory.
    NotDir,
    /// It is a directory.
    IsDir,
    /// The directory has entries.
    NotEmpty,
    /// An argument makes no sense.
    Invalid,
    /// A name is longer than 255 bytes.
    NameTooLong,
    /// No space for W copies.
    NoSpace,
    /// Too many hard links.
    TooManyLinks,
    /// Link or rename across a boundary.
    CrossDevice,
    /// No such extended attribute.
    NoData,
    /// A value is too large.
    TooBig,
    /// Not permitted.
    NotPermitted,
    /// Read-only.
    ReadOnly,
    /// In use.
    Busy,
    /// The inode is gone.
    Stale,
    /// The file would be too large.
    FileTooBig,
    /// Not supported.
    NotSupported,
    /// A conditional put found another revision.
    Conflict,
    /// This node does not lead; the detail may hold the leader's address.
    NotLeader,
    /// The PG's epoch is another one: refresh the map, prepare again with the same op-id.
    WrongEpoch,
    /// The store has no serving lease just now.
    NoServingLease,
    /// The write-lease sequence was raised: reopen, or give up if revoked.
    StaleLease,
    /// The session has expired; its uuid is refused for ever.
    SessionExpired,
    /// The op was aborted or abandoned; it will never be applied.
    OpAborted,
    /// The op is below the session's lowest unfinished sequence.
    OpTooOld,
    /// Not enough nodes to do it now.
    Unavailable,
    /// The deadline passed before anything was sent.
    TimedOut,
    /// Sent, and no answer: the outcome is not known.
    UnknownOutcome,
    /// Stored bytes fail their checksum.
    Corrupt,
    /// Received bytes fail their checksum: damaged in transit.
    DamagedInTransit,
    /// The message cannot be understood.
    BadRequest,
    /// Wrong key or no handshake.
    Unauthorized,
    /// Another cluster's id.
    WrongCluster,
    /// The daemon is starting or stopping.
    NotReady,
    /// The store saw an I/O error and acknowledges nothing more.
    StoreFailed,
    /// A bug or a broken disk at the server.
    Internal,
    /// Another owner holds a lock that excludes the one asked for.
    Locked,
    /// No room for more locks on the file, in the session or in the cluster.
    NoLocks,
    /// No space now, but some is being freed: ask again.
    Freeing,
}

impl ErrorCode {
    /// The class of this code.
    #[must_use]
    pub fn class(self) -> ErrorClass {
        use ErrorCode as C;
        match self {
            C::NotLeader => ErrorClass::Redirect,
            C::WrongEpoch
            | C::NoServingLease
            | C::StaleLease
            | C::Unavailable
            | C::TimedOut
            | C::DamagedInTransit
            | C::NotReady
            | C::Busy
            | C::Freeing
            | C::Locked => ErrorClass::Retry,
            C::UnknownOutcome => ErrorClass::Unknown,
            C::NotFound
            | C::Exists
            | C::NotDir
            | C::IsDir
            | C::NotEmpty
            | C::Invalid
            | C::NameTooLong
            | C::NoSpace
            | C::TooManyLinks
            | C::CrossDevice
            | C::NoData
            | C::TooBig
            | C::NotPermitted
            | C::ReadOnly
            | C::Stale
            | C::FileTooBig
            | C::NotSupported
            | C::Conflict
            | C::SessionExpired
            | C::OpAborted
            | C::OpTooOld
            | C::Corrupt
            | C::BadRequest
            | C::Unauthorized
            | C::WrongCluster
            | C::StoreFailed
            | C::Internal
            | C::NoLocks => ErrorClass::Permanent,
        }
    }
}

/// An error with its reason: what, why, and where known what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail} ({code:?})")]
pub struct WireError {
    /// What kind.
    pub code: ErrorCode,
    /// For people (for `NotLeader`: the leader's TCP address, or empty).
    pub detail: String,
}

impl WireError {
    /// An error with a reason.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl From<ErrorCode> for WireError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            detail: String::new(),
        }
    }
}

//! What file operations answer instead of a result.
use crate::client::get::GetError;
use crate::client::put::PutError;
use crate::wire::{ErrorCode, WireError};

/// Why a file operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Buffered or direct writes were not applied (see the cause for the exception).
    #[error("write: {0}")]
    Put(#[from] PutError),
    /// Bytes could not be had.
    #[error("read: {0}")]
    Get(#[from] GetError),
    /// The master refused. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// Bytes written before were dropped with the session or the write lease.
    #[error("buffered writes were lost: {0}")]
    Dropped(&'static str),
    /// A lock that was taken through this handle was lost with the session.
    #[error("locks on this file were lost with the session: close it")]
    LocksLost,
    /// The handle is not open for this.
    #[error("the handle is not open for {0}")]
    WrongMode(&'static str),
    /// An offset beyond the largest file.
    #[error("beyond the largest file size")]
    TooBig,
    /// No data or hole there (ENXIO).
    #[error("beyond the end of the file")]
    BeyondEnd,
}

impl FileError {
    /// The code for an errno table. `WrongMode` is EBADF, `BeyondEnd` ENXIO: match them first.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Put(e) => e.code(),
            Self::Get(e) => e.code(),
            Self::Refused(e) => e.code,
            Self::Dropped(_) => ErrorCode::StaleLease,
            Self::LocksLost => ErrorCode::SessionExpired,
            Self::WrongMode(_) => ErrorCode::NotPermitted,
            Self::TooBig => ErrorCode::FileTooBig,
            Self::BeyondEnd => ErrorCode::Invalid,
        }
    }
}

/// A result of the file layer.
pub type FileResult<T> = Result<T, FileError>;

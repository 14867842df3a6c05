//! What can go wrong for a caller of the client library.
use super::config::ConfigError;
use crate::types::OpId;
use crate::wire::{ErrorCode, WireError};
use std::time::Duration;

/// Why an operation was not done, or not known to be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The cluster answered: no. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// Sent, and no answer by the deadline: it may or may not have happened, or may still happen.
    /// Never report it as failed or as done.
    #[error("outcome unknown of {op}: {last}")]
    Unknown {
        /// The mutation.
        op: OpId,
        /// What the last attempt said.
        last: WireError,
    },
    /// Not done by the deadline; nothing was changed.
    #[error("not done within {after:?}: {last}")]
    TimedOut {
        /// The deadline.
        after: Duration,
        /// What the last attempt said.
        last: WireError,
    },
    /// The answer does not fit the question: a server of another release, most likely.
    #[error("the server's answer does not fit the question ({asked})")]
    Mismatch {
        /// What was asked.
        asked: &'static str,
    },
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This client was told to stop, or was made without a session.
    #[error("{0}")]
    Unusable(&'static str),
}

impl ClientError {
    /// As a code, for an errno table.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(error) => error.code,
            Self::Unknown { .. } => ErrorCode::UnknownOutcome,
            Self::TimedOut { .. } => ErrorCode::TimedOut,
            Self::Mismatch { .. } => ErrorCode::BadRequest,
            Self::Config(_) => ErrorCode::Invalid,
            Self::Unusable(_) => ErrorCode::NotReady,
        }
    }
}

impl From<ErrorCode> for ClientError {
    fn from(code: ErrorCode) -> Self {
        Self::Refused(code.into())
    }
}

/// A result of the client library.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

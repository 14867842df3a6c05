//! What went wrong, as an exit code and as words: what, why, what to do next.
//!
//! Commands return `anyhow::Error`s whose context says what was being done. [`exit_of`] finds the
//! typed cause in the chain and gives it one of the documented exit codes; [`advice`] says what to
//! do next where there is something to do.
use crate::bench::error::BenchError;
use dfs_core::client::{ClientError, FileError};
use dfs_core::net::auth::KeyError;
use dfs_core::wire::{ErrorCode, WireError};
use std::io;

/// Documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed; nothing was changed by the part that failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such file, version or node.
    NotFound = 3,
    /// The cluster, or the nodes that hold the bytes, cannot be reached or did not answer in time.
    Unreachable = 4,
    /// It may or may not have happened.
    Unknown = 5,
    /// Stored bytes are damaged and no good copy is left.
    Damaged = 6,
}

/// For `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  no such file, version or node
  4  the cluster, or the nodes that hold the bytes, cannot be reached or did not answer in time
  5  the outcome is not known: it may or may not have happened
  6  damaged data: no copy of the bytes could be verified

FILE and PATH are paths in the cluster (/a/b), or paths below a mountpoint of dfs-mount. NODE is the
number of a node of a development cluster, an address (IP:PORT), or the beginning of a node id.
The cluster is found by --cluster, DFS_CLUSTER, the development cluster under DFS_DEV_DIR if that is
set, /etc/dfs/client.toml, the default development cluster, or the daemon on this machine.";

/// Errors of the tools themselves.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// Bytes cannot be verified.
    #[error("{0}")]
    Damaged(String),
    /// Parts failed; each was reported when it did.
    #[error("{failed} of {all} failed")]
    Parts {
        /// How many failed.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The first failure's exit code.
        exit: Exit,
    },
    /// A check found this many problems; each was printed.
    #[error("{0} problems were found")]
    Problems(usize),
    /// Interrupted by the user.
    #[error("interrupted")]
    Interrupted,
}

/// The exit code of an error.
#[must_use]
pub fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(e) = cause.downcast_ref::<ToolError>() {
            return match e {
                ToolError::Usage(_) => Exit::Usage,
                ToolError::NotFound(_) => Exit::NotFound,
                ToolError::Unreachable(_) => Exit::Unreachable,
                ToolError::Damaged(_) => Exit::Damaged,
                ToolError::Parts { exit, .. } => *exit,
                ToolError::Interrupted | ToolError::Problems(_) => Exit::Failed,
            };
        }
        let bench = cause.downcast_ref::<BenchError>();
        if let Some(exit) = bench.and_then(BenchError::exit) {
            return exit;
        }
        if let Some(e) = cause.downcast_ref::<io::Error>() {
            return match e.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            };
        }
    }
    code_of(error).map_or(Exit::Failed, exit_of_code)
}

/// The cluster's error code in the chain, if there is one.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> Option<ErrorCode> {
    error.chain().find_map(|cause| {
        let client = cause.downcast_ref::<ClientError>().map(ClientError::code);
        let file = || cause.downcast_ref::<FileError>().map(FileError::code);
        let wire = || cause.downcast_ref::<WireError>().map(|e| e.code);
        client.or_else(file).or_else(wire)
    })
}

/// True if the cluster's answer was this code.
#[must_use]
pub fn is_code(error: &anyhow::Error, code: ErrorCode) -> bool {
    code_of(error) == Some(code)
}

fn exit_of_code(code: ErrorCode) -> Exit {
    use ErrorCode as C;
    match code {
        C::NotFound | C::Stale => Exit::NotFound,
        C::UnknownOutcome => Exit::Unknown,
        C::Corrupt | C::DamagedInTransit => Exit::Damaged,
        C::TimedOut
        | C::Unavailable
        | C::NotLeader
        | C::NotReady
        | C::NoServingLease
        | C::Unauthorized
        | C::WrongCluster => Exit::Unreachable,
        C::Exists
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
        | C::Busy
        | C::FileTooBig
        | C::NotSupported
        | C::Conflict
        | C::WrongEpoch
        | C::StaleLease
        | C::SessionExpired
        | C::OpAborted
        | C::OpTooOld
        | C::BadRequest
        | C::StoreFailed
        | C::Internal
        | C::Locked
        | C::Freeing
        | C::NoLocks => Exit::Failed,
    }
}

/// What a code means in plain words, for answers that come without any.
fn plain(code: ErrorCode) -> Option<&'static str> {
    use ErrorCode as C;
    Some(match code {
        C::NotFound => "no such file or directory",
        C::Stale => "it was removed meanwhile",
        C::Exists => "it exists already",
        C::NotDir => "a part of the path is no directory",
        C::IsDir => "it is a directory",
        C::NotEmpty => "the directory is not empty",
        C::NameTooLong => "a name is longer than 255 bytes",
        C::Freeing => "no space now, but some is being freed",
        C::NoSpace => "no space left on enough stores",
        C::NotPermitted => "not permitted",
        C::Busy => "in use",
        C::Corrupt => "no copy of the bytes could be verified",
        C::TimedOut => "not done in time",
        C::UnknownOutcome => "sent, but no answer came: the outcome is not known",
        C::Unauthorized => "the cluster key is not the right one",
        C::WrongCluster => "this is another cluster",
        C::SessionExpired => "the session expired",
        C::Invalid => "it makes no sense",
        _ => return None,
    })
}

/// What to do next.
#[must_use]
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(e) = error.chain().find_map(|c| c.downcast_ref::<BenchError>()) {
        return Some(e.advice());
    }
    let key = error
        .chain()
        .any(|c| c.downcast_ref::<KeyError>().is_some());
    if key {
        return Some("name the cluster's key with --key-file FILE");
    }
    use ErrorCode as C;
    Some(match code_of(error)? {
        C::IsDir => "use -r for directories",
        C::NotEmpty => "use rm -r to remove a directory with what is in it",
        C::NoSpace => "free space (dfs-tools purge --all --yes drops deleted files) or add a node",
        C::TimedOut | C::Unavailable | C::NotReady | C::NotLeader => {
            "see how the cluster is: dfs-tools status; wait longer: --timeout SECONDS"
        }
        C::UnknownOutcome => "look whether it happened before doing it again",
        C::Corrupt => {
            "see which copies are damaged: dfs-tools where FILE; older content: dfs-tools \
                       versions FILE"
        }
        C::Unauthorized | C::WrongCluster => "name the cluster's key with --key-file FILE",
        C::SessionExpired => "do it again",
        _ => return None,
    })
}

/// The error in words: what was done and why it failed, without repetitions.
#[must_use]
pub fn words(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<WireError>() {
            Some(e) => wire_words(e),
            None => match cause.downcast_ref::<ClientError>() {
                Some(ClientError::Refused(e)) => wire_words(e),
                Some(ClientError::TimedOut { after, last }) => {
                    format!("not done within {after:?}: {}", wire_words(last))
                }
                Some(ClientError::Unknown { op, last }) => {
                    format!("the outcome of {op} is not known: {}", wire_words(last))
                }
                _ => cause.to_string(),
            },
        };
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn wire_words(e: &WireError) -> String {
    // An error that quotes another one repeats its code.
    let code = format!(" ({:?})", e.code);
    let detail = e.detail.trim_end_matches(code.as_str());
    match (plain(e.code), detail.is_empty()) {
        (Some(plain), true) => plain.to_owned(),
        (Some(plain), false) => format!("{plain} ({detail})"),
        (None, true) => format!("{:?}", e.code),
        (None, false) => detail.to_owned(),
    }
}

/// True if somebody closed the other end of our standard output: no error of ours.
#[must_use]
pub fn is_closed_output(error: &anyhow::Error) -> bool {
    error.chain().any(|c| {
        c.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use dfs_core::types::OpId;

    fn refused(code: ErrorCode) -> anyhow::Error {
        anyhow::Error::from(ClientError::from(code)).context("rm /a")
    }

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let exit = |code| exit_of(&refused(code)) as u8;
        assert_eq!(exit(ErrorCode::NotEmpty), 1);
        assert_eq!(exit(ErrorCode::NotFound), 3);
        assert_eq!(exit(ErrorCode::Unavailable), 4);
        assert_eq!(exit(ErrorCode::Unauthorized), 4);
        assert_eq!(exit(ErrorCode::UnknownOutcome), 5);
        assert_eq!(exit(ErrorCode::Corrupt), 6);
        let unknown = ClientError::Unknown {
            op: OpId::default(),
            last: WireError::new(ErrorCode::Unavailable, "gone"),
        };
        assert_eq!(exit_of(&anyhow::Error::from(unknown)), Exit::Unknown);
        let usage = anyhow::Error::from(ToolError::Usage("what".into())).context("put");
        assert_eq!(exit_of(&usage), Exit::Usage);
        let missing = std::fs::read("/no such file").context("put").unwrap_err();
        assert_eq!(exit_of(&missing), Exit::NotFound);
        assert_eq!(exit_of(&anyhow::anyhow!("anything")), Exit::Failed);
    }

    #[test]
    fn words_say_what_and_why_once() {
        assert_eq!(
            words(&refused(ErrorCode::NotFound)),
            "rm /a: no such file or directory"
        );
        let detail = WireError::new(ErrorCode::NoSpace, "2 stores are full");
        let error = anyhow::Error::from(ClientError::from(detail)).context("put x");
        assert_eq!(
            words(&error),
            "put x: no space left on enough stores (2 stores are full)"
        );
        assert!(advice(&error).unwrap().contains("purge"));
    }

    #[test]
    fn a_closed_output_is_told_from_other_failures() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_output(&anyhow::Error::from(pipe).context("ls")));
        assert!(!is_closed_output(&refused(ErrorCode::NotFound)));
    }
}

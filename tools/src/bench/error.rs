//! Why nothing, or not all, could be measured, and what to do next.
use crate::error::Exit;
use std::io;
use std::path::PathBuf;

/// What went wrong. Nothing is left in the directory, unless [`Left`](Self::Left) says so.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The directory is something else.
    #[error("{}: it is not a directory", path.display())]
    NotADirectory {
        /// As it was named.
        path: PathBuf,
    },
    /// It does not exist or cannot be looked at.
    #[error("{}", path.display())]
    NoDirectory {
        /// As it was named.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing can be made in it.
    #[error("making {}", path.display())]
    Unwritable {
        /// What was to be made.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Too little is free.
    #[error(
        "{}: too little room: it needs about {} MiB, and {} MiB are free",
        path.display(), need >> 20, free >> 20
    )]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// A group of rows could not be measured to its end.
    #[error("measuring {group}")]
    Group {
        /// Its name.
        group: &'static str,
        /// What was being done, and why it failed.
        source: anyhow::Error,
    },
    /// What was measured in could not be removed.
    #[error("removing {}", path.display())]
    Left {
        /// What is still there.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The run to compare with cannot be read.
    #[error("--compare {}", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The run to compare with is none.
    #[error("--compare {}: it is no whole run that was saved before ({why})", path.display())]
    NotARun {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl BenchError {
    /// Its exit code; `None` if the system's error has one.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::NotADirectory { .. } => Some(Exit::Usage),
            Self::NoRoom { .. } | Self::NotARun { .. } => Some(Exit::Failed),
            // A file of ours that has gone is not what the user named.
            Self::Group { .. } | Self::Left { .. } => Some(Exit::Failed),
            Self::NoDirectory { .. } | Self::Unwritable { .. } | Self::Unread { .. } => None,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NotADirectory { .. } | Self::NoDirectory { .. } => {
                "name a directory that exists, for example the mountpoint"
            }
            Self::Unwritable { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                "it is left of a run that was killed: remove it (rm -r), then do it again"
            }
            Self::Unwritable { .. } => "name a directory that you may write to",
            Self::NoRoom { .. } => "free some space, or measure less with --quick or --rows",
            Self::Group { source, .. } if is_full(source) => {
                "free some space, or measure less with --quick or --rows"
            }
            Self::Group { .. } => {
                "rows that were printed are good; choose others with --rows to leave this group out"
            }
            Self::Left { .. } => "remove it by hand (rm -r)",
            Self::Unread { .. } | Self::NotARun { .. } => {
                "make one with: dfs-tools bench DIR --save FILE"
            }
        }
    }
}

/// True if the device, or the user's share of it, is full.
fn is_full(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|c| c.downcast_ref::<io::Error>());
    io.is_some_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    })
}

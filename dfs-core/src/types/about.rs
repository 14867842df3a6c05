//! What an object says of the file it belongs to, so that a disk can be read without a master.
//!
//! All of it is what the writing client believed when it made the put: a hint for a rescue, never a
//! basis for a decision of a running cluster.
use super::{ClientId, Ino, ObjectId, OpId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

/// Longest path in a header, in bytes.
pub const PATH_HINT_MAX: usize = 1024;

/// A file's path as a client knew it, as bytes: it begins with `/`, unless its front is not known or
/// was cut to fit [`PATH_HINT_MAX`]; then it begins within the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PathHint(pub Vec<u8>);

impl PathHint {
    /// With at most [`PATH_HINT_MAX`] bytes: whole components are dropped from the front.
    #[must_use]
    pub fn new(path: Vec<u8>) -> Self {
        if path.len() <= PATH_HINT_MAX {
            return Self(path);
        }
        let tail = &path[path.len() - PATH_HINT_MAX..];
        let cut = tail.iter().position(|&b| b == b'/').map_or(0, |at| at + 1);
        Self(tail[cut..].to_vec())
    }

    /// True if the path is known from the root on.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.first() == Some(&b'/')
    }
}

/// What a put does with the content that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PutKind {
    /// Byte ranges over it.
    #[default]
    Write,
    /// At its end. The master may have moved the range: where it begins is approximate.
    Append,
    /// In place of all of it.
    Replace,
    /// The same bytes in fewer objects.
    Compact,
}

/// A put, as the client that made it describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PutAbout {
    /// Where the file was.
    pub path: Option<PathHint>,
    /// What it does.
    pub kind: PutKind,
    /// The revision it is expected to follow: puts of a file are in the order of `(base, op)`.
    pub base: Revision,
    /// The file's bytes after it; `None` if the writer did not know yet.
    pub size: Option<u64>,
    /// The file's mtime after it.
    pub mtime: Option<Timestamp>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What an object's header says besides which bytes they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObjectAbout {
    /// First byte, relative to the chunk.
    pub start: u32,
    /// The put.
    pub put: PutAbout,
}

impl Ino {
    /// What stores keep namespace snapshots under: no file has it. Objects of this inode belong to
    /// no placement group and have no row in a replica's tables; the store that made them drops them.
    pub const NAMESPACE: Self = Self(0);
}

impl ClientId {
    /// "Writes" namespace snapshots; no session has it. The sequence is the log index.
    pub const NAMESPACE: Self = Self(u128::from_be_bytes(*b"dfs namespace\0\0\0"));
}

impl ObjectId {
    /// True for a part of a namespace snapshot: no master knows it, and nothing but the store that
    /// holds it may delete, fetch or count it.
    #[must_use]
    pub const fn is_namespace(self) -> bool {
        self.op.client.0 == ClientId::NAMESPACE.0
    }

    /// A part of the namespace snapshot as of a log index.
    #[must_use]
    pub const fn of_namespace(index: u64, part: u32) -> Self {
        let op = OpId {
            client: ClientId::NAMESPACE,
            seq: index,
        };
        Self { op, index: part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_loses_whole_components_from_the_front() {
        let whole = PathHint::new(b"/a/b".to_vec());
        assert!(whole.is_whole() && whole.0 == b"/a/b");
        let long = [b"/x".repeat(600), b"/last\xff".to_vec()].concat();
        let cut = PathHint::new(long);
        assert!(!cut.is_whole() && cut.0.len() <= PATH_HINT_MAX);
        assert!(cut.0.starts_with(b"x/x/") && cut.0.ends_with(b"/x/last\xff"));
        let endless = PathHint::new(vec![b'y'; 5000]);
        assert_eq!(endless.0.len(), PATH_HINT_MAX);
    }
}

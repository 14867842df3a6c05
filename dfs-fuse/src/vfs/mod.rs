//! Filesystem operations without the kernel: inode numbers and names in, attributes and bytes out.
//!
//! Every operation is an `async fn` over the client library and returns an errno at once when it
//! cannot be done. One file per family: [`lookup`] names and attributes, [`namespace`] changes of
//! names, [`dir`] listing, [`mod@file`] content, [`locks`], [`xattr`], [`versions`] the history view,
//! [`status`] what this mount says of itself.
//! Invariants:
//! 1. below `.versions` and the root's `.dfs` nothing can be changed (EROFS), and no such name can be
//!    made (EPERM);
//! 2. the kernel is given a lifetime for attributes and entries only while no other session exists
//!    ([`Client::lend`]); otherwise it asks, and the client library answers from its cache while the
//!    master guards it;
//! 3. pages are kept over an open only if the content is the revision they were read at.
pub mod dir;
pub mod failures;
pub mod file;
pub mod handles;
pub mod late;
pub mod locks;
pub mod lookup;
pub mod namespace;
pub mod pages;
mod removed;
mod shown;
pub mod status;
pub mod versions;
pub mod waiting;
pub mod xattr;

use crate::error::errno;
use dfs_core::client::{Client, ClientError, FileError, FileLayer};
use dfs_core::types::{Ino, Name, NameError};
use dfs_core::wire::master::StatFsInfo;
use handles::Handles;
use late::LateReads;
use pages::Pages;
use status::StatusNode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use versions::{VersionNode, VersionNodes};
use waiting::Waits;

/// An errno on its way to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Result of an operation.
pub type VfsResult<T> = Result<T, Errno>;

/// Whoever handles an error logs it, once: here, unless it is an ordinary answer.
fn failed(n: i32, e: &dyn std::fmt::Display) -> Errno {
    if n == libc::EIO {
        tracing::warn!(target: "vfs", errno = n, "operation failed: {e}");
        failures::note(n, e.to_string());
    }
    Errno(n)
}

impl From<ClientError> for Errno {
    fn from(e: ClientError) -> Self {
        failed(errno(e.code()), &e)
    }
}

impl From<FileError> for Errno {
    fn from(e: FileError) -> Self {
        let n = match &e {
            FileError::WrongMode(_) => libc::EBADF,
            FileError::BeyondEnd => libc::ENXIO,
            other => errno(other.code()),
        };
        failed(n, &e)
    }
}

/// Who asks: what new objects belong to.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A file whose blocks the kernel is given as a whole takes at most this part of the memory.
const FILLED_SHARE: u64 = 4;

/// What a node number stands for.
#[derive(Debug, Clone)]
pub enum Node {
    /// An inode.
    Real(Ino),
    /// Part of a `.versions` tree.
    Version(VersionNode),
    /// Part of `.dfs`.
    Status(StatusNode),
}

/// The filesystem.
pub struct Vfs {
    pub(crate) client: Arc<Client>,
    pub(crate) files: Arc<FileLayer>,
    pub(crate) nodes: VersionNodes,
    pub(crate) handles: Handles,
    pub(crate) late: LateReads,
    pub(crate) pages: Arc<Pages>,
    pub(crate) root: Mutex<status::Root>,
    pub(crate) waits: Waits,
    pub(crate) removed: removed::Removed,
    /// Reads move access times (`relatime`).
    pub(crate) moves_atime: bool,
    /// Largest file whose blocks the kernel is given as a whole.
    pub(crate) filled_max: u64,
    /// Makes the kernel forget attributes.
    told: OnceLock<Box<dyn Fn(Ino) + Send + Sync>>,
    statfs: Mutex<Option<(Instant, StatFsInfo)>>,
}

impl Vfs {
    /// A filesystem over a connected client.
    #[must_use]
    pub fn new(client: Arc<Client>, files: Arc<FileLayer>, pages: Arc<Pages>) -> Self {
        // Bytes that could not be stored are not left in the kernel's pages, as if they had been.
        let holds = Arc::clone(&pages);
        files.on_lost(move |ino| {
            holds.drop_pages(ino);
            let what = format!("what was written to inode {ino} could not be stored");
            failures::note(libc::EIO, what);
        });
        // Once a file is closed nobody could ask any more.
        let follows = Arc::clone(&pages);
        files.on_stored(move |ino, revisions| follows.advance(ino, revisions));
        Self {
            client,
            files,
            nodes: VersionNodes::default(),
            handles: Handles::default(),
            late: LateReads::default(),
            pages,
            root: Mutex::default(),
            waits: Waits::default(),
            removed: removed::Removed::default(),
            moves_atime: true,
            filled_max: crate::memory_bytes() / FILLED_SHARE,
            told: OnceLock::new(),
            statfs: Mutex::new(None),
        }
    }

    /// The same for a mount whose reads move no access times.
    #[must_use]
    pub fn without_atime(mut self) -> Self {
        self.moves_atime = false;
        self
    }

    /// Closes do not wait until what was written is committed.
    pub(crate) fn is_behind(&self) -> bool {
        self.client.config().behind
    }

    /// A directory or link is read.
    pub(crate) fn note_access(&self, ino: Ino) {
        if self.moves_atime
            && let Some(attr) = self.client.cached_attr(ino)
            && self.files.accessed(&attr)
        {
            self.changed(&[ino]);
        }
    }

    pub(crate) fn node(&self, node: u64) -> VfsResult<Node> {
        if let Some(node) = StatusNode::of(node) {
            return Ok(Node::Status(node));
        }
        if versions::is_synthetic(node) {
            return self
                .nodes
                .get(node)
                .map(Node::Version)
                .ok_or(Errno(libc::ESTALE));
        }
        Ok(Node::Real(Ino(node)))
    }

    /// The inode behind a node that shall be changed. (The kernel refuses on a read-only mount.)
    pub(crate) fn writable(&self, node: u64) -> VfsResult<Ino> {
        match self.node(node)? {
            Node::Real(ino) => Ok(ino),
            Node::Version(_) | Node::Status(_) => Err(Errno(libc::EROFS)),
        }
    }

    /// Totals, at most a second old.
    ///
    /// # Errors
    /// EIO and the like.
    pub async fn statfs(&self) -> VfsResult<StatFsInfo> {
        let cached = |v: &Self| {
            *v.statfs
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some((at, totals)) = cached(self)
            && at.elapsed() < Duration::from_secs(1)
        {
            return Ok(totals);
        }
        let totals = self.client.statfs().await?;
        let mut slot = self
            .statfs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *slot = Some((Instant::now(), totals));
        Ok(totals)
    }

    /// The kernel dropped `count` lookups of a node.
    pub fn forget(&self, node: u64, count: u64) {
        if versions::is_synthetic(node) {
            self.nodes.forget(node, count);
        } else {
            self.removed.forget(Ino(node));
        }
    }
}

/// Checks a name from the kernel.
pub(crate) fn name(bytes: &[u8]) -> VfsResult<Name> {
    Name::new(bytes).map_err(|e| match e {
        NameError::TooLong => Errno(libc::ENAMETOOLONG),
        NameError::Invalid => Errno(libc::EINVAL),
    })
}

/// Checks a name that shall be made in `dir`: `.versions` is taken, and `.dfs` in the root.
pub(crate) fn new_name(dir: Ino, bytes: &[u8]) -> VfsResult<Name> {
    if bytes == versions::VERSIONS || (dir == Ino::ROOT && bytes == status::DIR) {
        return Err(Errno(libc::EPERM));
    }
    name(bytes)
}

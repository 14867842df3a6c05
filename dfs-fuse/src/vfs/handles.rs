//! Open handles by number.
use super::versions::VersionNode;
use super::{Errno, VfsResult};
use bytes::Bytes;
use dfs_core::client::OpenFile;
use dfs_core::types::{Attr, FileKind};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// One entry of a directory being listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Name.
    pub name: Vec<u8>,
    /// Node number.
    pub node: u64,
    /// Kind.
    pub kind: FileKind,
    /// Position after this entry.
    pub cookie: u64,
    /// Attributes, when listed with them.
    pub attr: Option<Attr>,
    /// What it is, in a `.versions` tree: it gets a node number when the kernel takes it.
    pub version: Option<VersionNode>,
}

/// What was fetched last of a directory: entries in order.
#[derive(Debug, Default)]
pub struct Page {
    /// The cookie the entries follow; `None` before the first fetch.
    pub after: Option<u64>,
    /// Entries.
    pub entries: Vec<Listed>,
    /// Nothing follows them.
    pub end: bool,
}

/// An open file or directory.
pub enum Handle {
    /// A file, or a version of one.
    File {
        /// The client library's handle.
        file: Arc<OpenFile>,
        /// Opened with O_APPEND.
        append: bool,
        /// Reading it moves the access time; true until something is read through it.
        unread: Option<AtomicBool>,
        /// The kernel may have answered reads from its pages.
        kept: bool,
        /// The kernel keeps in pages what is read through it, and nothing is written through it.
        filled: bool,
    },
    /// What `.dfs/status` said when it was opened.
    Text(Bytes),
    /// A directory.
    Dir {
        /// Its node.
        node: u64,
        /// What was fetched last.
        page: tokio::sync::Mutex<Page>,
    },
}

/// Table of open handles.
#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    table: RwLock<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    /// Adds a handle and returns its number.
    pub fn add(&self, handle: Handle) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut table = self
            .table
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.insert(id, Arc::new(handle));
        id
    }

    /// A handle by number.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, id: u64) -> VfsResult<Arc<Handle>> {
        let table = self
            .table
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.get(&id).cloned().ok_or(Errno(libc::EBADF))
    }

    /// An open file by number, and whether it appends.
    ///
    /// # Errors
    /// EBADF.
    pub fn file(&self, id: u64) -> VfsResult<(Arc<OpenFile>, bool)> {
        match &*self.get(id)? {
            Handle::File { file, append, .. } => Ok((file.clone(), *append)),
            Handle::Text(_) | Handle::Dir { .. } => Err(Errno(libc::EBADF)),
        }
    }

    /// Removes a handle.
    pub fn remove(&self, id: u64) -> Option<Arc<Handle>> {
        let mut table = self
            .table
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.remove(&id)
    }

    /// Removes all handles.
    pub fn drain(&self) -> Vec<Arc<Handle>> {
        let mut table = self
            .table
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.drain().map(|(_, h)| h).collect()
    }
}

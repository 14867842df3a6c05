//! A mount that may be gone at any time, and come back at its path as another process.
//!
//! 1. The root is opened once and kept, and every path is resolved from it: an operation belongs to the
//!    mount process that it was sent to, and never reaches the directory below a mount that is gone.
//! 2. An error that says that the mount is dead lets go of the root. It is opened anew as soon as something
//!    is mounted at the path again; that is another mount, with another number.
//! 3. While the root is kept, the device number of the mount is not given to another.
//!
//! So a mount can be unmounted politely only after the work has stopped.
use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A mount process's root.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where paths begin.
    pub root: Arc<OwnedFd>,
    /// Number of the mount.
    pub mount: u32,
    dev: u64,
}

impl Entry {
    /// Device number of the filesystem.
    #[must_use]
    pub fn dev(&self) -> u64 {
        self.dev
    }
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    /// Something was mounted there at first: without that, nothing is to be found there.
    is_mount: bool,
    numbers: Arc<AtomicU32>,
    current: Mutex<Option<Entry>>,
}

fn parent_dev(path: &Path) -> Result<u64, Errno> {
    Ok(stat(path.parent().unwrap_or(path))?.st_dev)
}

impl Mounted {
    /// What is mounted at `path` now (a plain directory will do in tests). `numbers` is shared by all
    /// mounts of a run.
    ///
    /// # Errors
    /// There is no directory.
    pub fn new(path: &Path, numbers: Arc<AtomicU32>) -> Result<Self, Errno> {
        let is_mount = stat(path)?.st_dev != parent_dev(path)?;
        let this = Self {
            path: path.to_owned(),
            is_mount,
            numbers,
            current: Mutex::new(None),
        };
        this.enter()?;
        Ok(this)
    }

    fn current(&self) -> MutexGuard<'_, Option<Entry>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<(OwnedFd, u64), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.path, flags, Mode::empty())?;
        let dev = fstat(&root)?.st_dev;
        if self.is_mount && dev == parent_dev(&self.path)? {
            return Err(Errno::NOTCONN);
        }
        Ok((root, dev))
    }

    /// The mount that is there now.
    ///
    /// # Errors
    /// None is.
    pub fn enter(&self) -> Result<Entry, Errno> {
        if let Some(entry) = &*self.current() {
            return Ok(entry.clone());
        }
        // Not under the lock: it may take as long as an operation may.
        let (root, dev) = self.open()?;
        let mut current = self.current();
        if let Some(entry) = &*current {
            return Ok(entry.clone());
        }
        let entry = Entry {
            root: Arc::new(root),
            mount: self.numbers.fetch_add(1, Ordering::Relaxed),
            dev,
        };
        *current = Some(entry.clone());
        Ok(entry)
    }

    /// An operation on this mount failed so.
    pub fn failed(&self, entry: &Entry, error: Errno) {
        let says_dead = [
            Errno::NOTCONN,
            Errno::CONNABORTED,
            Errno::NODEV,
            Errno::STALE,
        ];
        if !says_dead.contains(&error) {
            return;
        }
        let is_there = self.open().is_ok_and(|(_, dev)| dev == entry.dev);
        let mut current = self.current();
        if !is_there && current.as_ref().is_some_and(|c| c.mount == entry.mount) {
            *current = None;
        }
    }
}

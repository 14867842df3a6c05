//! A disk with faults that the simulated one has not.
use crate::store::{Disk, DiskError, DiskFile, DiskSpace, SimDisk};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What is wrong with a disk; clones speak of the same one.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<State>);

#[derive(Debug, Default)]
struct State {
    opens_to_fail: AtomicU32,
    is_out_of_room: AtomicBool,
}

impl Faults {
    /// The process may open no more files, so many times.
    pub fn fail_opens(&self, times: u32) {
        self.0.opens_to_fail.store(times, Ordering::Relaxed);
    }

    /// Not even what must never fail finds room.
    pub fn set_out_of_room(&self, is_out: bool) {
        self.0.is_out_of_room.store(is_out, Ordering::Relaxed);
    }
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct FaultyDisk {
    pub inner: SimDisk,
    pub faults: Faults,
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        let left = &self.faults.0.opens_to_fail;
        let take = |left: u32| left.checked_sub(1);
        let relaxed = Ordering::Relaxed;
        if left.fetch_update(relaxed, relaxed, take).is_ok() {
            return Err(DiskError::Io {
                path: path.to_owned(),
                what: "open",
                cause: "Too many open files (os error 24)".to_owned(),
            });
        }
        self.inner.open(path, create)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.inner.remove(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.inner.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.inner.sync_dir(dir)
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        self.inner.space()
    }

    fn is_out_of_room(&self) -> bool {
        self.faults.0.is_out_of_room.load(Ordering::Relaxed)
    }
}

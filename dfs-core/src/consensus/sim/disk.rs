//! A simulated disk whose next sync can be the moment of a crash.
use crate::store::{Disk, DiskError, DiskFile, DiskSpace, SimDisk};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A [`SimDisk`] that can stop in the middle of a batch: written, not synced.
#[derive(Debug, Clone, Default)]
pub(super) struct StopDisk {
    pub(super) inner: SimDisk,
    stops: Arc<AtomicBool>,
}

impl StopDisk {
    /// From now on no sync takes place; the caller crashes the disk next.
    pub(super) fn stop(&self, stops: bool) {
        self.stops.store(stops, Ordering::Relaxed);
    }

    fn check(&self, path: &str) -> Result<(), DiskError> {
        match self.stops.load(Ordering::Relaxed) {
            true => Err(DiskError::Io {
                path: path.to_owned(),
                what: "sync",
                cause: "power is gone".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct StopFile {
    disk: StopDisk,
    inner: Box<dyn DiskFile>,
}

impl Disk for StopDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(Box::new(StopFile {
            disk: self.clone(),
            inner: self.inner.open(path, create)?,
        }))
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
        self.check(dir)?;
        self.inner.sync_dir(dir)
    }
    fn space(&self) -> Result<DiskSpace, DiskError> {
        self.inner.space()
    }
}

impl DiskFile for StopFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.inner.read_at(offset, len)
    }
    fn forget_cached(&self, offset: u64, len: u64) {
        self.inner.forget_cached(offset, len);
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.inner.write_at(offset, bytes)
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        self.disk.check("file")?;
        self.inner.sync_data()
    }
    fn len(&self) -> Result<u64, DiskError> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.inner.set_len(len)
    }
}

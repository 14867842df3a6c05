//! A disk that is timed, and for tests made slow.
//!
//! Syncs and reads are timed apart, each smoothed; the slower of the two is the disk's latency. What
//! was not seen for a while is forgotten, so that a disk that recovered while idle is not held to
//! its past.
use bytes::Bytes;
use dfs_core::store::{Disk, DiskError, DiskFile, DiskSpace};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Age at which what was seen counts no longer.
const FORGET: Duration = Duration::from_secs(30);

/// One smoothed time.
#[derive(Debug, Default)]
struct Smoothed {
    /// Nanoseconds; 0 if none was seen.
    mean: AtomicU64,
    /// Milliseconds after the start.
    at: AtomicU64,
}

impl Smoothed {
    /// Threads may overtake each other here: a sample more or less does not matter.
    fn add(&self, took: Duration, at: Duration) {
        let new = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.mean.load(Ordering::Relaxed);
        let mean = match old {
            0 => new,
            old => old - old / 8 + new / 8,
        };
        self.mean.store(mean.max(1), Ordering::Relaxed);
        self.at.store(millis(at), Ordering::Relaxed);
    }

    fn get(&self, now: Duration) -> Duration {
        let age = millis(now).saturating_sub(self.at.load(Ordering::Relaxed));
        match age > millis(FORGET) {
            true => Duration::ZERO,
            false => Duration::from_nanos(self.mean.load(Ordering::Relaxed)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Times {
    began: Instant,
    delay: Duration,
    syncs: Smoothed,
    reads: Smoothed,
}

impl Times {
    fn timed<T>(&self, kind: &Smoothed, run: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        self.wait();
        let done = run();
        kind.add(began.elapsed(), self.began.elapsed());
        done
    }

    fn wait(&self) {
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
    }
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct WatchedDisk {
    disk: Arc<dyn Disk>,
    times: Arc<Times>,
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn DiskFile>,
    times: Arc<Times>,
}

impl WatchedDisk {
    /// Watches `disk`; every read, write and sync takes `delay` longer (for tests; else zero).
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, delay: Duration) -> Self {
        let times = Arc::new(Times {
            began: Instant::now(),
            delay,
            syncs: Smoothed::default(),
            reads: Smoothed::default(),
        });
        Self { disk, times }
    }
}

impl Disk for WatchedDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        let file = self.disk.open(path, create)?;
        let times = Arc::clone(&self.times);
        Ok(Box::new(WatchedFile { file, times }))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.disk.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.times
            .timed(&self.times.syncs, || self.disk.sync_dir(dir))
    }
    fn sync_many(&self, files: &[Box<dyn DiskFile>], dirs: &[&str]) -> Result<(), DiskError> {
        self.disk.sync_many(files, dirs)
    }
    fn space(&self) -> Result<DiskSpace, DiskError> {
        self.disk.space()
    }
    fn is_out_of_room(&self) -> bool {
        self.disk.is_out_of_room()
    }
    fn latency(&self) -> Duration {
        let now = self.times.began.elapsed();
        self.times.syncs.get(now).max(self.times.reads.get(now))
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.times
            .timed(&self.times.reads, || self.file.read_at(offset, len))
    }
    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        self.times
            .timed(&self.times.reads, || self.file.read_into(offset, out))
    }
    fn forget_cached(&self, offset: u64, len: u64) {
        self.file.forget_cached(offset, len);
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.times.wait();
        self.file.write_at(offset, bytes)
    }
    fn sync_with(&self, others: &[&dyn DiskFile]) -> Result<(), DiskError> {
        self.times
            .timed(&self.times.syncs, || self.file.sync_with(others))
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        self.times
            .timed(&self.times.syncs, || self.file.sync_data())
    }
    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> Result<(), DiskError> {
        self.file.allocate(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_is_seen_and_an_idle_one_is_forgiven() {
        let ms = Duration::from_millis;
        let smoothed = Smoothed::default();
        for i in 0..100 {
            smoothed.add(ms(80), ms(i));
        }
        assert!(smoothed.get(ms(100)) > ms(75));
        for i in 0..100 {
            smoothed.add(ms(1), ms(i));
        }
        assert!(smoothed.get(ms(100)) < ms(2));
        assert_eq!(smoothed.get(ms(200) + FORGET), Duration::ZERO);
    }
}

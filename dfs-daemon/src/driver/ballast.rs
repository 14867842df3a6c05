//! Room that is kept for what must never fail: a file that is given up when the device is full.
//!
//! What a store and a voter need to go on (journal, tables, log, small state files) is little, but
//! without it nothing can be deleted, so a full device would stay full. Others write to the device
//! too: only blocks that are ours already are sure.
//!
//! ```text
//!   held --an essential write finds no room--> given up --room for twice its size--> held
//! ```
//! 1. Objects ([`BULK`]) never touch it: such a write fails, and its writer is refused.
//! 2. An essential write that finds no room gives the ballast up and is tried again.
//! 3. If there is still none (others took it all), it waits until there is, trying again and again:
//!    nothing was promised that depends on it, nothing fails, and no hands are needed. Only a daemon
//!    that starts (it begins again) or stops does not wait, nor a disk whose callers cannot
//!    ([`GuardedDisk::hasty`]).
//! 4. While it is not held the store is full whatever the device says, so that room made is not
//!    given to objects before the ballast is whole again.
use bytes::Bytes;
use dfs_core::store::{Disk, DiskError, DiskFile, DiskSpace};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The file, in the data directory.
pub const FILE: &str = "ballast";
/// Where object files lie, below the store's root.
const BULK: &str = "objects/";
/// Part of the device that it is, within the limits below.
const PART: u64 = 256;
const SIZE_MIN: u64 = 8 << 20;
const SIZE_MAX: u64 = 64 << 20;
/// Of a tiny device it is not more than this part.
const PART_MAX: u64 = 8;
/// Between two tries of a write that waits for room.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks whether it can be held again.
const LOOK: Duration = Duration::from_millis(500);
/// Between two words in the log about the same trouble.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// See the [module docs](self).
#[derive(Debug)]
pub struct Ballast {
    disk: Arc<dyn Disk>,
    size: u64,
    is_held: AtomicBool,
    /// Writes that wait for room.
    waiting: AtomicUsize,
    may_wait: AtomicBool,
    given_up: AtomicU64,
    said_at: Mutex<Option<Instant>>,
}

/// Size of the ballast of a daemon that may use `total` bytes of its device.
#[must_use]
pub fn size_for(total: u64) -> u64 {
    (total / PART)
        .clamp(SIZE_MIN, SIZE_MAX)
        .min(total / PART_MAX)
}

impl Ballast {
    /// Takes the ballast of a data directory, if there is room, for a daemon that may use `capacity`
    /// bytes of the device at most (`None`: all).
    ///
    /// # Errors
    /// The device cannot be asked for its space.
    pub fn open(disk: Arc<dyn Disk>, capacity: Option<u64>) -> Result<Arc<Self>, DiskError> {
        let total = disk.space()?.total_bytes;
        let size = size_for(capacity.map_or(total, |most| total.min(most)));
        let this = Arc::new(Self {
            disk,
            size,
            is_held: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            may_wait: AtomicBool::new(false),
            given_up: AtomicU64::new(0),
            said_at: Mutex::new(None),
        });
        let there = this.disk.open(FILE, false).and_then(|file| file.len());
        match there {
            Ok(len) if len == size => this.is_held.store(true, Ordering::Release),
            Ok(_) => this.remove(),
            Err(_) => {}
        }
        if !this.hold() {
            tracing::warn!(
                size,
                "no room for the ballast: the device is full, and this store takes no objects"
            );
        }
        Ok(this)
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The daemon has started: writes wait for room from now on. Looks now and then whether the ballast
    /// can be held again.
    pub async fn keep(self: Arc<Self>) {
        self.may_wait.store(true, Ordering::Release);
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.is_held.load(Ordering::Acquire) {
                let this = Arc::clone(&self);
                // It may write: not on the thread of the network.
                let _ = tokio::task::spawn_blocking(move || this.hold()).await;
            }
        }
    }

    /// Writes that wait for room fail from now on.
    pub fn stop(&self) {
        self.may_wait.store(false, Ordering::Release);
    }

    /// True if it is there, taken now if that is possible.
    fn hold(&self) -> bool {
        if self.is_held.load(Ordering::Acquire) {
            return true;
        }
        let has_room = self
            .disk
            .space()
            .is_ok_and(|s| s.free_bytes / 2 >= self.size);
        if self.waiting.load(Ordering::Acquire) > 0 || !has_room {
            return false;
        }
        let taken = self.disk.open(FILE, true).and_then(|file| {
            file.allocate(self.size)?;
            file.sync_data()
        });
        if let Err(error) = taken {
            tracing::debug!(%error, "the ballast cannot be taken");
            self.remove();
            return false;
        }
        self.is_held.store(true, Ordering::Release);
        if self.given_up.load(Ordering::Relaxed) > 0 {
            tracing::info!("there is room again: the ballast is whole");
        }
        true
    }

    fn remove(&self) {
        match self.disk.remove(FILE) {
            Ok(()) | Err(DiskError::NotFound { .. }) => {}
            Err(error) => tracing::error!(%error, "the ballast cannot be given up"),
        }
    }

    /// True if room was made.
    fn give_up(&self, path: &str) -> bool {
        if !self.is_held.swap(false, Ordering::AcqRel) {
            return false;
        }
        self.given_up.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            path,
            "the device is full: the ballast is given up, and this store takes no objects"
        );
        self.remove();
        true
    }

    /// Waits a moment; false if the daemon starts or stops.
    fn wait(&self, error: &DiskError) -> bool {
        if !self.may_wait.load(Ordering::Acquire) {
            return false;
        }
        {
            let mut said = self.said_at.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
                *said = Some(Instant::now());
                tracing::error!(%error, "the device is full: waiting for room; nothing is lost");
            }
        }
        std::thread::sleep(TRY_AGAIN);
        true
    }

    fn is_out_of_room(&self) -> bool {
        !self.is_held.load(Ordering::Acquire) || self.waiting.load(Ordering::Acquire) > 0
    }
}

/// A disk under which a [`Ballast`] lies.
#[derive(Debug, Clone)]
pub struct GuardedDisk {
    disk: Arc<dyn Disk>,
    guard: Guard,
}

#[derive(Debug, Clone)]
struct Guard {
    ballast: Arc<Ballast>,
    waits: bool,
}

#[derive(Debug)]
struct GuardedFile {
    file: Box<dyn DiskFile>,
    /// `None` for an object's.
    guard: Option<Guard>,
}

impl Guard {
    fn run<T>(&self, mut run: impl FnMut() -> Result<T, DiskError>) -> Result<T, DiskError> {
        let mut is_counted = false;
        let done = loop {
            match run() {
                Err(DiskError::NoSpace { path }) if self.ballast.give_up(&path) => {}
                Err(error @ DiskError::NoSpace { .. }) if self.waits => {
                    if !std::mem::replace(&mut is_counted, true) {
                        self.ballast.waiting.fetch_add(1, Ordering::AcqRel);
                    }
                    if !self.ballast.wait(&error) {
                        break Err(error);
                    }
                }
                done => break done,
            }
        };
        if is_counted {
            self.ballast.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        done
    }
}

impl GuardedDisk {
    /// `disk`, on the device of `ballast`: its writes wait for room.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, ballast: Arc<Ballast>) -> Self {
        let guard = Guard {
            ballast,
            waits: true,
        };
        Self { disk, guard }
    }

    /// The same for callers that must not wait: a write that finds no room fails.
    #[must_use]
    pub fn hasty(disk: Arc<dyn Disk>, ballast: Arc<Ballast>) -> Self {
        let guard = Guard {
            ballast,
            waits: false,
        };
        Self { disk, guard }
    }
}

impl Disk for GuardedDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        let is_bulk = path.starts_with(BULK);
        let file = match create && !is_bulk {
            true => self.guard.run(|| self.disk.open(path, create))?,
            false => self.disk.open(path, create)?,
        };
        let guard = (!is_bulk).then(|| self.guard.clone());
        Ok(Box::new(GuardedFile { file, guard }))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.guard.run(|| self.disk.rename(from, to))
    }
    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.disk.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        // It may have to make the directory.
        self.guard.run(|| self.disk.sync_dir(dir))
    }
    fn sync_many(&self, files: &[Box<dyn DiskFile>], dirs: &[&str]) -> Result<(), DiskError> {
        self.disk.sync_many(files, dirs)
    }
    fn space(&self) -> Result<DiskSpace, DiskError> {
        let mut space = self.disk.space()?;
        if self.is_out_of_room() {
            space.free_bytes = 0;
        }
        Ok(space)
    }
    fn is_out_of_room(&self) -> bool {
        self.guard.ballast.is_out_of_room()
    }
    fn latency(&self) -> Duration {
        self.disk.latency()
    }
}

impl GuardedFile {
    fn run(&self, mut run: impl FnMut() -> Result<(), DiskError>) -> Result<(), DiskError> {
        match &self.guard {
            Some(guard) => guard.run(run),
            None => run(),
        }
    }
}

impl DiskFile for GuardedFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.file.read_at(offset, len)
    }
    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        self.file.read_into(offset, out)
    }
    fn forget_cached(&self, offset: u64, len: u64) {
        self.file.forget_cached(offset, len);
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.run(|| self.file.write_at(offset, bytes))
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        // Not tried again: what a failed sync covered may be gone.
        self.file.sync_data()
    }
    fn sync_with(&self, others: &[&dyn DiskFile]) -> Result<(), DiskError> {
        self.file.sync_with(others)
    }
    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.run(|| self.file.set_len(len))
    }
    fn allocate(&self, len: u64) -> Result<(), DiskError> {
        self.run(|| self.file.allocate(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::store::SimDisk;

    const MIB: u64 = 1 << 20;

    fn rig(capacity: u64) -> (SimDisk, Arc<Ballast>, GuardedDisk) {
        let disk = SimDisk::new();
        disk.set_capacity(Some(capacity));
        let ballast = Ballast::open(Arc::new(disk.clone()), None).unwrap();
        ballast.may_wait.store(true, Ordering::Release);
        let guarded = GuardedDisk::new(Arc::new(disk.clone()), Arc::clone(&ballast));
        (disk, ballast, guarded)
    }

    /// Somebody else takes all the room that is left.
    fn fill(disk: &SimDisk) {
        let free = usize::try_from(disk.space().unwrap().free_bytes).unwrap();
        let other = disk.open("other", true).unwrap();
        other
            .write_at(other.len().unwrap(), &vec![1; free])
            .unwrap();
    }

    #[test]
    fn objects_are_refused_and_the_journal_goes_on_when_the_device_is_full() {
        let (disk, ballast, guarded) = rig(80 * MIB);
        assert_eq!(ballast.size(), 8 * MIB);
        fill(&disk);
        let object = guarded.open("objects/00/a", true).unwrap();
        let full = object.write_at(0, &[7; 100]);
        assert!(matches!(full, Err(DiskError::NoSpace { .. })));
        assert!(!guarded.is_out_of_room(), "objects cost no ballast");
        let journal = guarded.open("journal/1", true).unwrap();
        journal.write_at(0, &[7; 100]).unwrap();
        assert!(guarded.is_out_of_room());
        assert_eq!(
            guarded.space().unwrap().free_bytes,
            0,
            "and nothing is promised"
        );
        // Room for half of it is not room.
        assert!(!ballast.hold());
        disk.remove("other").unwrap();
        assert!(ballast.hold());
        assert!(guarded.space().unwrap().free_bytes > 60 * MIB);
    }

    #[test]
    fn an_essential_write_waits_for_room_and_is_then_done() {
        let (disk, ballast, guarded) = rig(80 * MIB);
        fill(&disk);
        let writer = std::thread::spawn({
            let guarded = guarded.clone();
            move || guarded.open("journal/1", true)?.write_at(0, &[7; 9 << 20])
        });
        while ballast.waiting.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        assert!(guarded.is_out_of_room());
        let hasty = GuardedDisk::hasty(Arc::new(disk.clone()), Arc::clone(&ballast));
        let state = hasty.open("node/x", true).unwrap();
        let failed = state.write_at(0, &[7; 9 << 20]);
        assert!(matches!(failed, Err(DiskError::NoSpace { .. })), "at once");
        disk.remove("other").unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(
            disk.open("journal/1", false).unwrap().len().unwrap(),
            9 * MIB
        );
        assert!(ballast.hold() && !guarded.is_out_of_room());
    }

    #[test]
    fn a_daemon_that_stops_waits_for_no_room() {
        let (disk, ballast, guarded) = rig(80 * MIB);
        fill(&disk);
        ballast.stop();
        let file = guarded.open("journal/1", true).unwrap();
        assert!(file.write_at(0, &[7; 9 << 20]).is_err());
    }

    #[test]
    fn a_restart_finds_the_ballast_that_it_left() {
        let (disk, first, _) = rig(80 * MIB);
        drop(first);
        fill(&disk);
        let again = Ballast::open(Arc::new(disk.clone()), None).unwrap();
        assert!(!again.is_out_of_room());
    }
}

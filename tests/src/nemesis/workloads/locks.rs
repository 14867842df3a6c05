//! A counter in a file that a lock protects: take the lock, read, write one more, sync, unlock.
//!
//! 1. No increment is lost, and none happens twice: what a holder reads is what the last one wrote.
//! 2. No two hold the lock at once, as the clock of this process sees it (see
//!    [`counter`](crate::history::counter)).
//! 3. A mount that is cut off or killed loses its locks after 10 s, and what it writes to the files that
//!    it had locked is refused from then on. So only an increment that was acknowledged proves that its
//!    lock was held; one that failed may have happened before the lock was lost, and never after.
//!
//! `fcntl` locks belong to the process: each key has one thread on each mount, and nobody else opens its
//! file. Every other key is locked by `flock`, and so is every key where two mounts show one filesystem of
//! this machine: there `fcntl` locks do not keep the threads of one process apart.
use super::files::open_at;
use super::{Board, Entry, LastLook, Mounted, Worker, Workload};
use crate::history::counter::{CounterAnswer, CounterOp};
use crate::history::{Clock, Figures, Outcome, judge};
use rand::Rng;
use rustix::fs::{FlockOperation, OFlags, fcntl_lock, flock, fsync};
use rustix::io::{Errno, pread, pwrite};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Threads on each mount, which is keys.
const KEYS: u32 = 2;

/// See the [module docs](self).
pub struct Locks {
    dir: String,
    clock: Clock,
    board: Board<CounterOp, CounterAnswer>,
    keys: AtomicU32,
}

struct Open {
    mount: Arc<Mounted>,
    entry: Entry,
    file: OwnedFd,
    key: u32,
    /// By `fcntl`, otherwise by `flock`.
    by_process: bool,
}

impl Open {
    /// Takes or gives up the lock.
    fn lock(&self, take: bool) -> Result<(), Errno> {
        let how = match take {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::Unlock,
        };
        match self.by_process {
            true => fcntl_lock(&self.file, how),
            false => flock(&self.file, how),
        }
    }
}

/// The counter in a file.
fn count(file: &OwnedFd) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    match pread(file, &mut bytes, 0)? {
        0 => Ok(0),
        8 => Ok(u64::from_le_bytes(bytes)),
        _ => Err(Errno::IO),
    }
}

impl Locks {
    /// Below a directory that exists.
    pub fn new(dir: String, clock: Clock) -> Self {
        Self {
            dir,
            clock,
            board: Board::new(clock),
            keys: AtomicU32::new(0),
        }
    }

    fn path(&self, key: u32) -> String {
        format!("{}/c{key}", self.dir)
    }

    fn open(&self, worker: &Worker, key: u32) -> Option<Open> {
        let mount = worker.home.clone();
        let entry = mount.enter().ok()?;
        let by_process = key.is_multiple_of(2) && !worker.is_shown_twice(&entry);
        match open_at(&entry.root, &self.path(key), OFlags::RDWR | OFlags::CREATE) {
            Ok(file) => Some(Open {
                mount,
                entry,
                file,
                key,
                by_process,
            }),
            Err(e) => {
                mount.failed(&entry, e);
                None
            }
        }
    }

    /// One increment. False: the file is to be opened again.
    fn increment(&self, worker: &Worker, open: &Open) -> bool {
        match open.lock(true) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => return true,
            Err(e) => {
                open.mount.failed(&open.entry, e);
                return false;
            }
        }
        let held_since = self.clock.now();
        let who = worker.who(&open.entry);
        let begun = self.board.recorder.begin(who, open.key, CounterOp::Read);
        let from = match count(&open.file) {
            Ok(from) => from,
            Err(e) => {
                self.board.recorder.end(begun, Outcome::Fail);
                open.mount.failed(&open.entry, e);
                return false;
            }
        };
        let op = CounterOp::Increment {
            from,
            held_since,
            held_until: self.clock.now(),
        };
        self.board.recorder.amend(begun, op);
        let written = pwrite(&open.file, &(from + 1).to_le_bytes(), 0);
        let done = written.and_then(|n| match n {
            8 => fsync(&open.file),
            _ => Err(Errno::IO),
        });
        let outcome = match done {
            Ok(()) => Outcome::Ok(CounterAnswer::Done),
            Err(_) => Outcome::Unknown,
        };
        self.board.recorder.end(begun, outcome);
        let done = done.and_then(|()| open.lock(false));
        if let Err(e) = done {
            open.mount.failed(&open.entry, e);
        }
        done.is_ok()
    }
}

impl Workload for Locks {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn threads(&self) -> u32 {
        KEYS
    }

    fn run(&self, mut worker: Worker) {
        let mounts = u32::try_from(worker.mounts.len()).unwrap_or(1);
        let key = worker.number / mounts;
        self.keys.fetch_max(key + 1, Ordering::Relaxed);
        let mut open: Option<Open> = None;
        while worker.goes_on() {
            let current = open.take().or_else(|| self.open(&worker, key));
            let again = current
                .as_ref()
                .is_some_and(|open| self.increment(&worker, open));
            // What is dropped here is closed, and its lock with it.
            open = current.filter(|_| again && worker.rng.random_bool(0.8));
            worker.pause(Duration::from_millis(15));
        }
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.board.recorder.all())
    }

    fn verify(&self, last: &LastLook<'_>) -> Result<Figures, String> {
        for key in 0..self.keys.load(Ordering::Relaxed) {
            for mount in last.mounts {
                let path = mount.join(self.path(key));
                let read = || {
                    let file = open_at(rustix::fs::CWD, &path.to_string_lossy(), OFlags::RDONLY);
                    match file.and_then(|file| count(&file)) {
                        Err(Errno::NOENT) => Ok(0),
                        other => other.map_err(|e| e.to_string()),
                    }
                };
                let op = (key, CounterOp::Read);
                self.board
                    .read_last(last, op, |n| CounterAnswer::Is(*n), read);
            }
        }
        self.board
            .verdict(judge::counters(&self.board.recorder.all()))
    }

    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()> {
        self.board.save(dir, (self.name(), "counter"), seed)
    }
}

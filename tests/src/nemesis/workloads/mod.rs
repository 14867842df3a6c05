//! What programs do while things fail, and what must be true of what they were told.
//!
//! A workload is a few threads of real system calls on several mounts of one cluster. Each call is
//! recorded (see [`history`](crate::history::record)); afterwards the final state is read back on every
//! mount, and the whole history goes to all checkers that there are for it.
//!
//! What the semantics promise, and how it is held (see `dfs-fuse/docs/SEMANTICS.md`):
//! 1. *Acknowledged* is: `fsync` of what was written, and every change of a name, has returned 0. An error
//!    of `fsync` leaves everything unknown that was written on that handle since the last good one; an
//!    error of a change of names leaves it unknown, unless it says what was there
//!    ([`files::is_certain`]). A write whose new name was never asked for is certainly not there.
//! 2. Every read opens its file anew, so that it sees at least what was acknowledged, or returned to
//!    anybody, before it began: on every mount, also on one that was cut off, paused or killed.
//! 3. The one exception is what a mount shows of its own unacknowledged writes (see
//!    [`volatile`](crate::history::volatile)). Final reads belong to no mount: then all handles are
//!    closed, and nothing may be pending any more.
//! 4. An operation that fails before it could change anything, and a read that fails, says nothing.
//!    A mount whose process is dead is left alone until somebody has mounted there again; its threads
//!    work on other mounts meanwhile.
//!
//! | file | what | its order |
//! |---|---|---|
//! | `registers` | files replaced by write, fsync and rename | strict |
//! | `inplace` | blocks overwritten by one `pwrite` and fsync | strict but for own pending reads |
//! | `appends` | `O_APPEND` and fsync from all mounts to the same files | a log, strict likewise |
//! | `logs` | many writes and an fsync by one handle, read from other mounts | likewise |
//! | `exclusive` | `O_EXCL`, `unlink` and `stat` of contended names | strict |
//! | `locks` | a counter under `fcntl` locks and `flock` | strict |
//! | `names`, `tree_calls` | renames over each other; directories made and removed | strict, by the namespace model |
//! | `mounts`, `files` | a mount that may be gone and come back; bytes that tell what they are | |
//! | `runner` | starts, stops, judges all of them | |
mod appends;
mod exclusive;
pub mod files;
mod inplace;
mod locks;
mod logs;
mod mounts;
mod names;
mod registers;
mod runner;
mod tree_calls;

pub use mounts::{Entry, Mounted};
pub use runner::{Report, Row, Workloads};

use crate::history::record::save;
use crate::history::{Clock, Figures, Outcome, Recorder, Title, Who};
use rand_chacha::ChaCha8Rng;
use rustix::io::Errno;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Stands for all mounts in final reads: what they see is nobody's pending write.
const FINAL: Who = Who {
    client: u32::MAX,
    mount: u32::MAX,
};
/// How long a final read may fail before that is an anomaly.
const FINAL_MAX: Duration = Duration::from_secs(60);
/// Keys of all workloads that cannot be read, after which no others are tried: where nothing can be read,
/// that is to be said soon.
const UNREADABLE_MAX: u32 = 8;

/// A few threads that work on several mounts, and what became of it.
pub trait Workload: Send + Sync {
    /// For reports and files.
    fn name(&self) -> &'static str;

    /// How many threads work on each mount.
    fn threads(&self) -> u32 {
        2
    }

    /// Works until the worker is told to stop.
    fn run(&self, worker: Worker);

    /// Counts of what was recorded so far.
    fn figures(&self) -> Figures;

    /// Reads the final state on each mount, and judges the whole history.
    ///
    /// # Errors
    /// Every anomaly.
    fn verify(&self, last: &LastLook<'_>) -> Result<Figures, String>;

    /// Writes the history to a file in `dir`, for the program `judge`.
    ///
    /// # Errors
    /// It cannot be written.
    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()>;
}

/// The final reads of all workloads.
pub struct LastLook<'a> {
    /// Where.
    pub mounts: &'a [PathBuf],
    /// Keys that could not be read.
    unreadable: AtomicU32,
}

impl<'a> LastLook<'a> {
    /// On these mounts.
    #[must_use]
    pub fn new(mounts: &'a [PathBuf]) -> Self {
        Self {
            mounts,
            unreadable: AtomicU32::new(0),
        }
    }
}

/// What one thread works with.
pub struct Worker {
    /// Its number among the threads of its workload.
    pub number: u32,
    /// The mount that it works on.
    pub home: Arc<Mounted>,
    /// All mounts.
    pub mounts: Vec<Arc<Mounted>>,
    /// Its choices.
    pub rng: ChaCha8Rng,
    /// Told to stop.
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// It goes on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }

    /// A pause of up to `max`, so that nothing spins.
    pub fn pause(&mut self, max: Duration) {
        let millis = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        let pause = rand::Rng::random_range(&mut self.rng, 1..=millis.max(1));
        std::thread::sleep(Duration::from_millis(pause));
    }

    /// A mount to work on: the own one, or another while that one is gone. Pauses if there is none.
    pub fn enter(&mut self) -> Option<(Arc<Mounted>, Entry)> {
        let others = self.mounts.iter().filter(|m| !Arc::ptr_eq(m, &self.home));
        for mount in std::iter::once(&self.home).chain(others) {
            if let Ok(entry) = mount.enter() {
                return Some((mount.clone(), entry));
            }
        }
        self.pause(Duration::from_millis(100));
        None
    }

    /// Another of the mounts shows the same filesystem of this machine.
    #[must_use]
    pub fn is_shown_twice(&self, entry: &Entry) -> bool {
        let same = |m: &&Arc<Mounted>| m.enter().is_ok_and(|other| other.dev() == entry.dev());
        self.mounts.iter().filter(same).nth(1).is_some()
    }

    /// This thread on this mount.
    #[must_use]
    pub fn who(&self, entry: &Entry) -> Who {
        let (client, mount) = (self.number, entry.mount);
        Who { client, mount }
    }
}

/// A recorder, and what was seen that no history can say.
struct Board<O, A> {
    clock: Clock,
    recorder: Recorder<O, A>,
    anomalies: Mutex<Vec<String>>,
}

impl<O: Clone + Serialize, A: Clone + Serialize> Board<O, A> {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            recorder: Recorder::new(clock),
            anomalies: Mutex::default(),
        }
    }

    /// Something that must never be seen.
    fn anomaly(&self, what: String) {
        let at = self.clock.now() as f64 / 1e6;
        let mut all = self
            .anomalies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(format!("at {at:.3} ms: {what}"));
    }

    /// The verdict, and what was seen besides.
    fn verdict(&self, judged: Result<Figures, String>) -> Result<Figures, String> {
        let mut all = self
            .anomalies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let figures = judged.map_err(|e| all.push(e));
        match (figures, all.is_empty()) {
            (Ok(figures), true) => Ok(figures),
            _ => Err(all.join("\n")),
        }
    }

    /// Reads a key on a mount when all is over, again and again until it succeeds or it takes too long.
    /// Once a key could not be read, the others are tried once each, and soon no more.
    fn read_last<T>(
        &self,
        last: &LastLook<'_>,
        (key, op): (u32, O),
        answer: impl Fn(&T) -> A,
        mut read: impl FnMut() -> Result<T, String>,
    ) -> Option<T> {
        let unreadable = last.unreadable.load(Ordering::Relaxed);
        if unreadable >= UNREADABLE_MAX {
            return None;
        }
        let begin = Instant::now();
        loop {
            let begun = self.recorder.begin(FINAL, key, op.clone());
            match read() {
                Ok(seen) => {
                    self.recorder.end(begun, Outcome::Ok(answer(&seen)));
                    return Some(seen);
                }
                Err(e) => {
                    self.recorder.end(begun, Outcome::Fail);
                    if unreadable > 0 || begin.elapsed() > FINAL_MAX {
                        last.unreadable.fetch_add(1, Ordering::Relaxed);
                        self.anomaly(format!("key {key} cannot be read at the end: {e}"));
                        return None;
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    fn save(&self, dir: &Path, (name, kind): (&str, &str), seed: u64) -> std::io::Result<()> {
        let title = Title {
            kind: kind.to_owned(),
            seed,
        };
        let file = dir.join(format!("{name}.history"));
        save(&file, &title, &self.recorder.all())
    }
}

/// What an error of a change says of it.
fn outcome_of<A>(error: Errno) -> Outcome<A> {
    match files::is_certain(error) {
        true => Outcome::Fail,
        false => Outcome::Unknown,
    }
}

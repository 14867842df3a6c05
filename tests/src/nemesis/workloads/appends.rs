//! `O_APPEND` from all mounts to the same files: one `write` of a whole record, one `fsync`.
//!
//! 1. An acknowledged record is there exactly once, in an order that all reads agree on; one of unknown
//!    outcome at most once; none is torn.
//! 2. Reads open the file anew and read it whole: what is appended meanwhile comes behind. The size that
//!    the kernel knows may lie within a record for a moment, while others append before it; such a read is
//!    made again, and a record that stays torn is an anomaly.
use super::files::{decode_all, encode, open_at, read_all};
use super::{Board, Entry, LastLook, Mounted, Worker, Workload};
use crate::history::log::{LogAnswer, LogOp};
use crate::history::{Clock, Figures, Outcome, judge};
use rand::Rng;
use rustix::fs::OFlags;
use rustix::io::{Errno, write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Files in use at a time.
const KEYS: u32 = 2;
/// Operations after which they are left.
const OPS_MAX: u32 = 300;

/// See the [module docs](self).
pub struct Appends {
    dir: String,
    board: Board<LogOp, LogAnswer>,
    ids: AtomicU64,
    ops: AtomicU32,
}

/// How often a torn record is read.
const TRIES: u32 = 5;

/// Short records, and some of more than a page.
fn len_of(id: u64) -> usize {
    match id % 32 {
        0 => 5_000 + (id % 1_000) as usize,
        n => 8 + (n * 7) as usize,
    }
}

impl Appends {
    /// Below a directory that exists.
    pub fn new(dir: String, clock: Clock) -> Self {
        Self {
            dir,
            board: Board::new(clock),
            ids: AtomicU64::new(1),
            ops: AtomicU32::new(0),
        }
    }

    fn path(&self, key: u32) -> String {
        format!("{}/a{key}", self.dir)
    }

    /// Appends a record; says whether the `write` was asked for.
    fn put(&self, entry: &Entry, key: u32, id: u64) -> Result<(), (Errno, bool)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        let file = open_at(&entry.root, &self.path(key), flags).map_err(|e| (e, false))?;
        let record = encode(id, len_of(id));
        let written = write(&file, &record).map_err(|e| (e, true))?;
        if written != record.len() {
            return Err((Errno::IO, true));
        }
        rustix::fs::fsync(&file).map_err(|e| (e, true))
    }

    fn append(&self, worker: &Worker, mount: &Mounted, entry: &Entry, key: u32) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let who = worker.who(entry);
        let begun = self.board.recorder.begin(who, key, LogOp::Append(id));
        let outcome = match self.put(entry, key, id) {
            Ok(()) => Outcome::Ok(LogAnswer::Appended),
            Err((e, was_asked)) => {
                mount.failed(entry, e);
                match was_asked {
                    true => Outcome::Unknown,
                    false => Outcome::Fail,
                }
            }
        };
        self.board.recorder.end(begun, outcome);
    }

    fn read(&self, worker: &Worker, mount: &Mounted, entry: &Entry, key: u32) {
        let who = worker.who(entry);
        let begun = self.board.recorder.begin(who, key, LogOp::Read);
        let outcome = match whole_records(|| read_all(&entry.root, &self.path(key))) {
            Ok(Ok(ids)) => Outcome::Ok(LogAnswer::Saw(ids)),
            Ok(Err(e)) => {
                mount.failed(entry, e);
                Outcome::Fail
            }
            Err(what) => {
                let place = format!("file {key} on mount {}", entry.mount);
                self.board.anomaly(format!("{place}: {what}"));
                Outcome::Fail
            }
        };
        self.board.recorder.end(begun, outcome);
    }
}

/// The records of a file; the outer error is an anomaly.
fn whole_records(
    mut read: impl FnMut() -> Result<Vec<u8>, Errno>,
) -> Result<Result<Vec<u64>, Errno>, String> {
    let mut torn = String::new();
    for _ in 0..TRIES {
        match read() {
            Err(Errno::NOENT) => return Ok(Ok(Vec::new())),
            Err(e) => return Ok(Err(e)),
            Ok(all) => match decode_all(&all, len_of) {
                Ok((ids, false)) => return Ok(Ok(ids)),
                Ok((ids, true)) => torn = format!("cut behind record {}", ids.len()),
                Err(what) => torn = what,
            },
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("torn for long: {torn}"))
}

impl Workload for Appends {
    fn name(&self) -> &'static str {
        "appends"
    }

    fn run(&self, mut worker: Worker) {
        while worker.goes_on() {
            let Some((mount, entry)) = worker.enter() else {
                continue;
            };
            let group = self.ops.fetch_add(1, Ordering::Relaxed) / (OPS_MAX * KEYS);
            let key = group * KEYS + worker.rng.random_range(0..KEYS);
            match worker.rng.random_bool(0.6) {
                true => self.append(&worker, &mount, &entry, key),
                false => self.read(&worker, &mount, &entry, key),
            }
            worker.pause(Duration::from_millis(8));
        }
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.board.recorder.all())
    }

    fn verify(&self, last: &LastLook<'_>) -> Result<Figures, String> {
        let groups = self.ops.load(Ordering::Relaxed) / (OPS_MAX * KEYS) + 1;
        for key in 0..groups * KEYS {
            for mount in last.mounts {
                let path = mount.join(self.path(key));
                let read = || {
                    let all = || read_all(rustix::fs::CWD, &path.to_string_lossy());
                    whole_records(all)?.map_err(|e| e.to_string())
                };
                let answer = |ids: &Vec<u64>| LogAnswer::Saw(ids.clone());
                self.board.read_last(last, (key, LogOp::Read), answer, read);
            }
        }
        self.board.verdict(judge::logs(&self.board.recorder.all()))
    }

    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()> {
        self.board.save(dir, (self.name(), "log"), seed)
    }
}

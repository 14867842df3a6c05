//! Registers as editors save files: each value is written to a file of its own, synced, and renamed over
//! the key.
//!
//! 1. Until the rename is asked for, the value is certainly not there. An error of the rename leaves it
//!    unknown.
//! 2. A key is absent (nothing), or one whole value: a file is synced before it gets the name, so no
//!    read is of what may be lost, and none may be mixed or cut.
//! 3. After some operations the keys are left behind for new ones, so that each history stays of a length
//!    that can be searched.
use super::files::{decode_all, encode, open_at, read_all};
use super::{Board, Entry, LastLook, Mounted, Worker, Workload, outcome_of};
use crate::history::register::{NOTHING, RegisterAnswer, RegisterOp};
use crate::history::{Clock, Figures, Outcome, judge};
use rand::Rng;
use rustix::fs::{AtFlags, OFlags, renameat, unlinkat};
use rustix::io::{Errno, retry_on_intr, write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Keys in use at a time.
const KEYS: u32 = 3;
/// Operations after which they are left.
const OPS_MAX: u32 = 4_000;

/// See the [module docs](self).
pub struct Registers {
    dir: String,
    board: Board<RegisterOp, RegisterAnswer>,
    values: AtomicU64,
    ops: AtomicU32,
}

/// Small values, and some of several pages.
fn len_of(value: u64) -> usize {
    match value % 16 {
        0 => 20_000 + (value % 8_192) as usize,
        n => 16 + (n * 61) as usize,
    }
}

impl Registers {
    /// Below a directory that exists.
    pub fn new(dir: String, clock: Clock) -> Self {
        Self {
            dir,
            board: Board::new(clock),
            values: AtomicU64::new(NOTHING + 1),
            ops: AtomicU32::new(0),
        }
    }

    fn path(&self, key: u32) -> String {
        format!("{}/r{key}", self.dir)
    }

    /// Writes a file of its own for a value.
    fn write_new(entry: &Entry, path: &str, value: u64) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = open_at(&entry.root, path, flags)?;
        let all = encode(value, len_of(value));
        let mut left = &all[..];
        while !left.is_empty() {
            left = &left[retry_on_intr(|| write(&file, left))?..];
        }
        rustix::fs::fsync(&file)
    }

    fn write(&self, worker: &Worker, mount: &Mounted, entry: &Entry, key: u32) {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let temp = format!("{}/t{value}", self.dir);
        let who = worker.who(entry);
        let begun = self
            .board
            .recorder
            .begin(who, key, RegisterOp::Write(value));
        if let Err(e) = Self::write_new(entry, &temp, value) {
            self.board.recorder.end(begun, Outcome::Fail);
            mount.failed(entry, e);
            let _ = unlinkat(&entry.root, &temp, AtFlags::empty());
            return;
        }
        match renameat(&entry.root, &temp, &entry.root, self.path(key)) {
            Ok(()) => {
                let version = None;
                let answer = RegisterAnswer::Wrote { version };
                self.board.recorder.end(begun, Outcome::Ok(answer));
            }
            Err(e) => {
                self.board.recorder.end(begun, outcome_of(e));
                if e == Errno::NOENT {
                    self.board
                        .anomaly(format!("{temp} was synced, and is not there"));
                }
                mount.failed(entry, e);
            }
        }
    }

    fn read(&self, worker: &Worker, mount: &Mounted, entry: &Entry, key: u32) {
        let who = worker.who(entry);
        let begun = self.board.recorder.begin(who, key, RegisterOp::Read);
        let answer = match value_at(read_all(&entry.root, &self.path(key))) {
            Ok(Ok(value)) => Outcome::Ok(saw(value)),
            Ok(Err(e)) => {
                mount.failed(entry, e);
                Outcome::Fail
            }
            Err(what) => {
                let place = format!("key {key} on mount {}", entry.mount);
                self.board.anomaly(format!("{place}: {what}"));
                Outcome::Fail
            }
        };
        self.board.recorder.end(begun, answer);
    }
}

fn saw(value: u64) -> RegisterAnswer {
    let version = None;
    RegisterAnswer::Saw { value, version }
}

/// The value in a file that holds one; the outer error is an anomaly.
fn value_at(all: Result<Vec<u8>, Errno>) -> Result<Result<u64, Errno>, String> {
    match all {
        Err(Errno::NOENT) => Ok(Ok(NOTHING)),
        Err(e) => Ok(Err(e)),
        Ok(all) => match decode_all(&all, len_of)? {
            (values, false) if values.len() == 1 => Ok(Ok(values[0])),
            (values, is_cut) => Err(format!(
                "a file that was renamed has {} bytes, {} values, cut: {is_cut}",
                all.len(),
                values.len()
            )),
        },
    }
}

impl Workload for Registers {
    fn name(&self) -> &'static str {
        "registers"
    }

    fn run(&self, mut worker: Worker) {
        while worker.goes_on() {
            let Some((mount, entry)) = worker.enter() else {
                continue;
            };
            let group = self.ops.fetch_add(1, Ordering::Relaxed) / (OPS_MAX * KEYS);
            let key = group * KEYS + worker.rng.random_range(0..KEYS);
            match worker.rng.random_bool(0.4) {
                true => self.write(&worker, &mount, &entry, key),
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
                    let all = read_all(rustix::fs::CWD, &path.to_string_lossy());
                    value_at(all)?.map_err(|e| e.to_string())
                };
                let op = (key, RegisterOp::Read);
                self.board.read_last(last, op, |value| saw(*value), read);
            }
        }
        self.board
            .verdict(judge::registers(&self.board.recorder.all()))
    }

    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()> {
        self.board.save(dir, (self.name(), "register"), seed)
    }
}

//! Registers that are overwritten in place: one block, one `pwrite`, one `fsync`.
//!
//! 1. Acknowledged means that `fsync` returned 0. Any error after the `pwrite` was asked for leaves the
//!    value unknown; before that it is certainly not there.
//! 2. On its own mount a value may be read before it is acknowledged, and be lost later: see
//!    [`volatile`](crate::history::volatile), which allows exactly that.
//! 3. While a block is copied into the kernel's page of it, a read on the same mount may see half of it, as
//!    on any local file. Such a read is made again; a block that stays torn is an anomaly.
use super::files::{decode, encode, open_at, read_all};
use super::{Board, Entry, LastLook, Mounted, Worker, Workload};
use crate::history::register::{NOTHING, RegisterAnswer, RegisterOp};
use crate::history::{Clock, Figures, Outcome, judge};
use rand::Rng;
use rustix::fs::OFlags;
use rustix::io::{Errno, pwrite};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Keys in use at a time.
const KEYS: u32 = 3;
/// Operations after which they are left.
const OPS_MAX: u32 = 4_000;
/// Bytes of a block.
const BLOCK: usize = 4_096;
/// How often a torn block is read.
const TRIES: u32 = 4;

/// See the [module docs](self).
pub struct InPlace {
    dir: String,
    board: Board<RegisterOp, RegisterAnswer>,
    values: AtomicU64,
    ops: AtomicU32,
}

impl InPlace {
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
        format!("{}/p{key}", self.dir)
    }

    /// Writes a block. The outcome before the `pwrite` and after it differ.
    fn put(&self, entry: &Entry, key: u32, value: u64) -> Result<(), (Errno, bool)> {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = open_at(&entry.root, &self.path(key), flags).map_err(|e| (e, false))?;
        let block = encode(value, BLOCK);
        let written = pwrite(&file, &block, 0).map_err(|e| (e, true))?;
        if written != BLOCK {
            return Err((Errno::IO, true));
        }
        rustix::fs::fsync(&file).map_err(|e| (e, true))
    }

    fn write(&self, worker: &Worker, mount: &Mounted, entry: &Entry, key: u32) {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let who = worker.who(entry);
        let begun = self
            .board
            .recorder
            .begin(who, key, RegisterOp::Write(value));
        let outcome = match self.put(entry, key, value) {
            Ok(()) => Outcome::Ok(RegisterAnswer::Wrote { version: None }),
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
        let begun = self.board.recorder.begin(who, key, RegisterOp::Read);
        let outcome = match whole_block(|| read_all(&entry.root, &self.path(key))) {
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
        self.board.recorder.end(begun, outcome);
    }
}

fn saw(value: u64) -> RegisterAnswer {
    let version = None;
    RegisterAnswer::Saw { value, version }
}

/// The value in a block; the outer error is an anomaly.
fn whole_block(
    mut read: impl FnMut() -> Result<Vec<u8>, Errno>,
) -> Result<Result<u64, Errno>, String> {
    let mut torn = String::new();
    for _ in 0..TRIES {
        let all = match read() {
            Err(Errno::NOENT) => return Ok(Ok(NOTHING)),
            Err(e) => return Ok(Err(e)),
            Ok(all) if all.is_empty() => return Ok(Ok(NOTHING)),
            Ok(all) => all,
        };
        match decode(&all, |_| BLOCK) {
            Ok((value, _)) if all.len() == BLOCK => return Ok(Ok(value)),
            Ok(_) => torn = format!("{} bytes, not one block", all.len()),
            Err(what) => torn = what.unwrap_or_else(|| format!("cut at {} bytes", all.len())),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("torn for long: {torn}"))
}

impl Workload for InPlace {
    fn name(&self) -> &'static str {
        "inplace"
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
                    let all = || read_all(rustix::fs::CWD, &path.to_string_lossy());
                    whole_block(all)?.map_err(|e| e.to_string())
                };
                let op = (key, RegisterOp::Read);
                self.board.read_last(last, op, |value| saw(*value), read);
            }
        }
        self.board
            .verdict(judge::registers_in_place(&self.board.recorder.all()))
    }

    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()> {
        self.board.save(dir, (self.name(), "inplace"), seed)
    }
}

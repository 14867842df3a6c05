//! Logs as databases write them: one handle, many writes behind each other, an `fsync` now and then.
//!
//! 1. What was written before an `fsync` that returned 0 is there for good. An error leaves all that was
//!    written since the last good one unknown; the handle is given up, and with it the file.
//! 2. A file is at any time, on any mount, a beginning of what was written: no gap, no other byte. Of a
//!    record that nobody acknowledged the end may be missing.
//! 3. Each file has one writer; the others read it.
use super::files::{decode_all, encode, open_at, read_all};
use super::{Board, Entry, LastLook, Mounted, Worker, Workload};
use crate::history::log::{LogAnswer, LogOp};
use crate::history::{Begun, Clock, Figures, Outcome, judge};
use rand::Rng;
use rustix::fs::OFlags;
use rustix::io::{Errno, write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Records after which a file is left.
const RECORDS_MAX: usize = 120;

/// See the [module docs](self).
pub struct Logs {
    dir: String,
    board: Board<LogOp, LogAnswer>,
    ids: AtomicU64,
    files: AtomicU32,
}

/// A file that is being written.
struct Open {
    mount: Arc<Mounted>,
    entry: Entry,
    file: OwnedFd,
    key: u32,
    records: usize,
    /// Written since the last good `fsync`.
    pending: Vec<Begun>,
}

fn len_of(id: u64) -> usize {
    match id % 16 {
        0 => 9_000 + (id % 4_096) as usize,
        n => 8 + (n * 97) as usize,
    }
}

impl Logs {
    /// Below a directory that exists.
    pub fn new(dir: String, clock: Clock) -> Self {
        Self {
            dir,
            board: Board::new(clock),
            ids: AtomicU64::new(1),
            files: AtomicU32::new(0),
        }
    }

    fn path(&self, key: u32) -> String {
        format!("{}/l{key}", self.dir)
    }

    fn open(&self, mount: Arc<Mounted>, entry: Entry) -> Option<Open> {
        let key = self.files.fetch_add(1, Ordering::Relaxed);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        match open_at(&entry.root, &self.path(key), flags) {
            Ok(file) => Some(Open {
                mount,
                entry,
                file,
                key,
                records: 0,
                pending: Vec::new(),
            }),
            Err(e) => {
                mount.failed(&entry, e);
                None
            }
        }
    }

    /// Writes one record behind the others.
    fn write(&self, worker: &Worker, log: &mut Open) -> Result<(), Errno> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let record = encode(id, len_of(id));
        let who = worker.who(&log.entry);
        let begun = self.board.recorder.begin(who, log.key, LogOp::Append(id));
        log.pending.push(begun);
        log.records += 1;
        match write(&log.file, &record)? {
            n if n == record.len() => Ok(()),
            _ => Err(Errno::IO),
        }
    }

    /// Ends what is pending.
    fn settle(&self, log: &mut Open, done: Result<(), Errno>) {
        for begun in log.pending.drain(..) {
            self.board.recorder.end(
                begun,
                match done {
                    Ok(()) => Outcome::Ok(LogAnswer::Appended),
                    Err(_) => Outcome::Unknown,
                },
            );
        }
        if let Err(e) = done {
            log.mount.failed(&log.entry, e);
        }
    }

    /// Some records and an `fsync`. False: the file is left.
    fn burst(&self, worker: &mut Worker, log: &mut Open) -> bool {
        let count = worker.rng.random_range(1..=6);
        let mut done = Ok(());
        for _ in 0..count {
            done = done.and_then(|()| self.write(worker, log));
        }
        let done = done.and_then(|()| rustix::fs::fsync(&log.file));
        self.settle(log, done);
        done.is_ok() && log.records < RECORDS_MAX
    }

    fn read(&self, worker: &mut Worker, mount: &Mounted, entry: &Entry) {
        let files = self.files.load(Ordering::Relaxed);
        if files == 0 {
            return;
        }
        // Mostly of those that are being written.
        let key = worker.rng.random_range(files.saturating_sub(6)..files);
        let who = worker.who(entry);
        let begun = self.board.recorder.begin(who, key, LogOp::Read);
        let outcome = match records_at(read_all(&entry.root, &self.path(key))) {
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

/// The whole records of a file; the outer error is an anomaly.
fn records_at(all: Result<Vec<u8>, Errno>) -> Result<Result<Vec<u64>, Errno>, String> {
    match all {
        Err(Errno::NOENT) => Ok(Ok(Vec::new())),
        Err(e) => Ok(Err(e)),
        Ok(all) => Ok(Ok(decode_all(&all, len_of)?.0)),
    }
}

impl Workload for Logs {
    fn name(&self) -> &'static str {
        "logs"
    }

    fn run(&self, mut worker: Worker) {
        let mut log: Option<Open> = None;
        while worker.goes_on() {
            let Some((mount, entry)) = worker.enter() else {
                log = None;
                continue;
            };
            if worker.rng.random_bool(0.3) {
                self.read(&mut worker, &mount, &entry);
            } else {
                let mut current = log.take().or_else(|| self.open(mount, entry));
                let goes_on = current
                    .as_mut()
                    .is_some_and(|log| self.burst(&mut worker, log));
                log = current.filter(|_| goes_on);
            }
            worker.pause(Duration::from_millis(12));
        }
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.board.recorder.all())
    }

    fn verify(&self, last: &LastLook<'_>) -> Result<Figures, String> {
        for key in 0..self.files.load(Ordering::Relaxed) {
            for mount in last.mounts {
                let path = mount.join(self.path(key));
                let read = || {
                    let all = read_all(rustix::fs::CWD, &path.to_string_lossy());
                    records_at(all)?.map_err(|e| e.to_string())
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

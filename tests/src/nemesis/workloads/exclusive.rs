//! Contended names: `O_CREAT | O_EXCL`, `unlink` and `stat` from all mounts.
//!
//! 1. Of each name one creator wins, until it is unlinked; EEXIST and ENOENT are answers.
//! 2. Every third name is never unlinked: it is a race of its own, with one winner for good.
//! 3. An error that does not say what was there leaves the change unknown: the name may appear, or go,
//!    once, at any later time.
use super::files::open_at;
use super::{Board, Entry, LastLook, Mounted, Worker, Workload};
use crate::history::existence::{NameAnswer, NameOp};
use crate::history::{Clock, Figures, Outcome, judge};
use rand::Rng;
use rustix::fs::{AtFlags, OFlags, statat, unlinkat};
use rustix::io::Errno;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Names in use at a time.
const KEYS: u32 = 3;
/// Operations of each after which they are left.
const OPS_MAX: u32 = 60;

/// See the [module docs](self).
pub struct Exclusive {
    dir: String,
    board: Board<NameOp, NameAnswer>,
    ops: AtomicU32,
}

impl Exclusive {
    /// Below a directory that exists.
    pub fn new(dir: String, clock: Clock) -> Self {
        Self {
            dir,
            board: Board::new(clock),
            ops: AtomicU32::new(0),
        }
    }

    fn path(&self, key: u32) -> String {
        format!("{}/x{key}", self.dir)
    }

    fn one(&self, worker: &Worker, mount: &Mounted, entry: &Entry, (key, op): (u32, NameOp)) {
        let path = self.path(key);
        let begun = self.board.recorder.begin(worker.who(entry), key, op);
        let done = match op {
            NameOp::Create => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                open_at(&entry.root, &path, flags).map(|_| NameAnswer::Done)
            }
            NameOp::Unlink => {
                unlinkat(&entry.root, &path, AtFlags::empty()).map(|()| NameAnswer::Done)
            }
            NameOp::Look => look(&entry.root, &path),
        };
        let outcome = match done {
            Ok(answer) => Outcome::Ok(answer),
            Err(Errno::EXIST) => Outcome::Ok(NameAnswer::There),
            Err(Errno::NOENT) => Outcome::Ok(NameAnswer::Missing),
            Err(e) => {
                mount.failed(entry, e);
                super::outcome_of(e)
            }
        };
        self.board.recorder.end(begun, outcome);
    }
}

fn look(root: impl std::os::fd::AsFd, path: &str) -> Result<NameAnswer, Errno> {
    match statat(root, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(NameAnswer::There),
        Err(Errno::NOENT) => Ok(NameAnswer::Missing),
        Err(e) => Err(e),
    }
}

impl Workload for Exclusive {
    fn name(&self) -> &'static str {
        "exclusive"
    }

    fn run(&self, mut worker: Worker) {
        while worker.goes_on() {
            let Some((mount, entry)) = worker.enter() else {
                continue;
            };
            let group = self.ops.fetch_add(1, Ordering::Relaxed) / (OPS_MAX * KEYS);
            let key = group * KEYS + worker.rng.random_range(0..KEYS);
            let op = match worker.rng.random_range(0..10) {
                0..4 => NameOp::Create,
                4..7 if !key.is_multiple_of(3) => NameOp::Unlink,
                _ => NameOp::Look,
            };
            self.one(&worker, &mount, &entry, (key, op));
            worker.pause(Duration::from_millis(6));
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
                let read =
                    || look(rustix::fs::CWD, &path.to_string_lossy()).map_err(|e| e.to_string());
                self.board
                    .read_last(last, (key, NameOp::Look), |there| *there, read);
            }
        }
        self.board.verdict(judge::names(&self.board.recorder.all()))
    }

    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()> {
        self.board.save(dir, (self.name(), "existence"), seed)
    }
}

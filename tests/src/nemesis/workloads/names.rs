//! Operations on names, judged as one history of a small tree by the namespace model.
//!
//! Two workloads share it:
//! * *pingpong*: two directories that stay, three names in each, which are renamed over each other, with
//!   `RENAME_NOREPLACE` and `RENAME_EXCHANGE` too, created, unlinked, looked at and listed;
//! * *trees*: directories within directories that are made and removed, and files in them.
//!
//! No directory is renamed while others resolve paths through it: the kernel resolves a path name by name,
//! so that an operation may reach a place whose path has changed meanwhile, on any filesystem.
//!
//! An *arena* is a tree of its own; after some operations it is left for a new one, because the search is
//! over all of its names together. It is made before anything else is done in it, by one thread.
use super::files::is_certain;
use super::tree_calls::{MARKS, answer, perform};
use super::{Board, Entry, LastLook, Mounted, Worker, Workload};
use crate::history::namespace::{Mark, RenameMode, TreeAnswer, TreeOp, TreePath};
use crate::history::{Clock, Figures, Outcome, judge};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Operations after which an arena is left; each makes one object at most, with a mark of its own.
const OPS_MAX: u16 = 110;

/// What is done in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Names renamed over each other.
    PingPong,
    /// Directories made and removed.
    Trees,
}

/// See the [module docs](self).
pub struct Names {
    dir: String,
    style: Style,
    board: Board<TreeOp, TreeAnswer>,
    /// The arena in use and how many operations it has had; none is there yet.
    arena: Mutex<Option<(u32, u16)>>,
}

impl Names {
    /// Below a directory that exists.
    pub fn new(dir: String, style: Style, clock: Clock) -> Self {
        Self {
            dir,
            style,
            board: Board::new(clock),
            arena: Mutex::new(None),
        }
    }

    fn base(&self, arena: u32) -> String {
        format!("{}/t{arena}", self.dir)
    }

    /// The arena for the next operation and the mark for what it makes. A new arena is made by whoever
    /// needs it first, while the others wait.
    fn next(&self, who: &Worker, entry: &Entry) -> Option<(u32, Mark)> {
        let mut current = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((arena, ops)) = current.as_mut()
            && *ops < OPS_MAX
        {
            *ops += 1;
            return Some((*arena, *ops));
        }
        let arena = current.map_or(0, |(arena, _)| arena + 1);
        // One that cannot be made is left as well: its number is not used again.
        *current = Some((arena, OPS_MAX));
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&entry.root, self.base(arena), mode).ok()?;
        if self.style == Style::PingPong {
            for (dir, mark) in [(0, 126), (1, 127)] {
                let op = TreeOp::Mkdir(vec![dir], mark);
                self.one(who, entry, (arena, op)).ok()?;
            }
        }
        *current = Some((arena, 1));
        Some((arena, 1))
    }

    /// Does and records one operation.
    fn one(
        &self,
        worker: &Worker,
        entry: &Entry,
        (arena, op): (u32, TreeOp),
    ) -> Result<(), rustix::io::Errno> {
        let who = worker.who(entry);
        let begun = self.board.recorder.begin(who, arena, op.clone());
        let done = perform(&entry.root, &self.base(arena), &op);
        let (outcome, result) = match done {
            Ok(answer) => (Outcome::Ok(answer), Ok(())),
            Err(e) => match answer(e) {
                Some(answer) => (Outcome::Ok(answer), Ok(())),
                None if is_certain(e) => (Outcome::Fail, Err(e)),
                None => (Outcome::Unknown, Err(e)),
            },
        };
        self.board.recorder.end(begun, outcome);
        result
    }

    fn step(&self, worker: &mut Worker, mount: &Mounted, entry: &Entry) {
        let Some((arena, mark)) = self.next(worker, entry) else {
            return;
        };
        let op = match self.style {
            Style::PingPong => pingpong(&mut worker.rng, mark),
            Style::Trees => trees(&mut worker.rng, mark),
        };
        if let Err(e) = self.one(worker, entry, (arena, op)) {
            mount.failed(entry, e);
        }
    }

    /// Paths that are looked at in the end.
    fn places(&self) -> Vec<TreePath> {
        let of = |dir: &TreePath| {
            (0..3)
                .map(|n| [&dir[..], &[n]].concat())
                .collect::<Vec<_>>()
        };
        let top = of(&Vec::new());
        let second = top.iter().flat_map(of);
        top.iter().cloned().chain(second).collect()
    }
}

fn pingpong(rng: &mut ChaCha8Rng, mark: Mark) -> TreeOp {
    let mut name = || vec![rng.random_range(0..2), rng.random_range(0..3)];
    let (a, b) = (name(), name());
    match rng.random_range(0..100) {
        0..18 => TreeOp::Create(a, mark),
        18..24 => TreeOp::Unlink(a),
        24..48 => TreeOp::Rename(a, b, RenameMode::Replace),
        48..58 => TreeOp::Rename(a, b, RenameMode::NoReplace),
        58..68 => TreeOp::Rename(a, b, RenameMode::Exchange),
        68..74 => TreeOp::List(vec![a[0]]),
        _ => TreeOp::Look(a),
    }
}

fn trees(rng: &mut ChaCha8Rng, mark: Mark) -> TreeOp {
    let depth = rng.random_range(1..=2);
    let path: TreePath = (0..depth).map(|_| rng.random_range(0..3)).collect();
    match rng.random_range(0..100) {
        0..30 => TreeOp::Mkdir(path, mark),
        30..42 => TreeOp::Create(path, mark),
        42..60 => TreeOp::Rmdir(path),
        60..70 => TreeOp::Unlink(path),
        70..78 => TreeOp::List(path[1..].to_vec()),
        _ => TreeOp::Look(path),
    }
}

impl Workload for Names {
    fn name(&self) -> &'static str {
        match self.style {
            Style::PingPong => "pingpong",
            Style::Trees => "trees",
        }
    }

    fn run(&self, mut worker: Worker) {
        const { assert!(OPS_MAX < MARKS - 2) };
        while worker.goes_on() {
            let Some((mount, entry)) = worker.enter() else {
                continue;
            };
            self.step(&mut worker, &mount, &entry);
            worker.pause(Duration::from_millis(8));
        }
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.board.recorder.all())
    }

    fn verify(&self, last: &LastLook<'_>) -> Result<Figures, String> {
        let arenas = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        for arena in 0..arenas.map_or(0, |(arena, _)| arena + 1) {
            for mount in last.mounts {
                let base = mount.join(self.base(arena));
                // One that could not be made has no history.
                if !base.exists() {
                    continue;
                }
                for path in self.places() {
                    let op = TreeOp::Look(path);
                    let read = || {
                        let seen = perform(rustix::fs::CWD, &base.to_string_lossy(), &op);
                        seen.or_else(|e| answer(e).ok_or(e.to_string()))
                    };
                    let question = (arena, op.clone());
                    self.board
                        .read_last(last, question, TreeAnswer::clone, read);
                }
            }
        }
        self.board.verdict(judge::trees(&self.board.recorder.all()))
    }

    fn save(&self, dir: &Path, seed: u64) -> std::io::Result<()> {
        self.board.save(dir, (self.name(), "namespace"), seed)
    }
}

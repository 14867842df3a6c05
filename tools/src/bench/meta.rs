//! Names: files created, looked at, opened, renamed and removed, directories made and removed, by
//! one thread, and by eight at once in a directory each.
use super::phase::{Limit, nothing, repeat};
use super::rows::{Row, Unit};
use super::runner::{Bench, make_dir, make_file, open_file};
use super::sizes::Sizes;
use super::stop::Stop;
use anyhow::Context;
use std::path::PathBuf;
use std::time::Instant;

/// Of the rows that begin with `meta8`.
pub const THREADS: u64 = 8;

/// Rows of one thread, in the order of [`STEPS`].
pub const ONE: [Row; 7] = [
    ("meta1_create", Unit::OpsPerSec),
    ("meta1_stat_warm", Unit::OpsPerSec),
    ("meta1_openclose", Unit::OpsPerSec),
    ("meta1_rename", Unit::OpsPerSec),
    ("meta1_unlink", Unit::OpsPerSec),
    ("meta1_mkdir", Unit::OpsPerSec),
    ("meta1_rmdir", Unit::OpsPerSec),
];

/// Rows of eight, in the order of [`STEPS`].
pub const EIGHT: [Row; 7] = [
    ("meta8_create", Unit::OpsPerSec),
    ("meta8_stat_warm", Unit::OpsPerSec),
    ("meta8_openclose", Unit::OpsPerSec),
    ("meta8_rename", Unit::OpsPerSec),
    ("meta8_unlink", Unit::OpsPerSec),
    ("meta8_mkdir", Unit::OpsPerSec),
    ("meta8_rmdir", Unit::OpsPerSec),
];

/// The phases.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Stat,
    OpenClose,
    Rename,
    Unlink,
    Mkdir,
    Rmdir,
}

const STEPS: [Step; 7] = [
    Step::Create,
    Step::Stat,
    Step::OpenClose,
    Step::Rename,
    Step::Unlink,
    Step::Mkdir,
    Step::Rmdir,
];

/// Of one thread.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run_one(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let files = bench.sizes().meta;
    run(bench, &ONE, 1, files)
}

/// Of eight.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run_eight(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let files = bench.sizes().meta_each;
    run(bench, &EIGHT, THREADS, files)
}

fn run(bench: &mut Bench<'_>, rows: &[Row; 7], threads: u64, files: u64) -> anyhow::Result<()> {
    let mut workers = Vec::new();
    for p in 0..threads {
        let dir = bench.dir().join(format!("p{p}"));
        make_dir(&dir)?;
        workers.push(Worker::new(dir, files, bench.sizes()));
    }
    for (step, (metric, _)) in STEPS.into_iter().zip(rows) {
        let rate = together(step, &mut workers, bench.stop)?;
        bench.record(metric, rate)?;
    }
    Ok(())
}

/// Operations per second of all of them, from the first that begins to the last that ends.
fn together(step: Step, workers: &mut [Worker], stop: &Stop) -> anyhow::Result<f64> {
    let timed = &|worker: &mut Worker| -> anyhow::Result<(Instant, Instant, u64)> {
        let began = Instant::now();
        let ops = worker.run(step, stop)?;
        Ok((began, Instant::now(), ops))
    };
    let parts = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for worker in workers {
            let thread = std::thread::Builder::new();
            let started = thread.spawn_scoped(scope, move || timed(worker));
            running.push(started.context("starting a thread")?);
        }
        let joined = running.into_iter().map(|thread| {
            let end = thread.join();
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let began = parts.iter().map(|part| part.0).min();
    let ended = parts.iter().map(|part| part.1).max();
    let (began, ended) = began.zip(ended).expect("there is at least one thread");
    let ops: u64 = parts.iter().map(|part| part.2).sum();
    Ok(ops as f64 / (ended - began).as_secs_f64().max(1e-9))
}

/// One thread's directory, and how far each phase came: the next one takes what is there.
struct Worker {
    dir: PathBuf,
    limit: Limit,
    rounds: u64,
    /// Files made.
    made: u64,
    /// How many of them, from the first on, have their second name.
    renamed: u64,
    /// Directories made.
    dirs: u64,
}

impl Worker {
    fn new(dir: PathBuf, files: u64, sizes: &Sizes) -> Self {
        Self {
            dir,
            limit: Limit {
                count: files,
                time: sizes.meta_time,
            },
            rounds: sizes.meta_rounds,
            made: 0,
            renamed: 0,
            dirs: 0,
        }
    }

    fn run(&mut self, step: Step, stop: &Stop) -> anyhow::Result<u64> {
        let count = match step {
            Step::Create | Step::Mkdir => self.limit.count,
            Step::Stat | Step::OpenClose => self.made * self.rounds,
            Step::Rename | Step::Unlink => self.made,
            Step::Rmdir => self.dirs,
        };
        let time = self.limit.time;
        let op = |i| self.one(step, i);
        Ok(repeat(Limit { count, time }, stop, op, nothing)?.ops)
    }

    fn one(&mut self, step: Step, i: u64) -> anyhow::Result<()> {
        match step {
            Step::Create => {
                make_file(&self.file(i))?;
                self.made = i + 1;
            }
            Step::Stat => {
                let path = self.file(i % self.made);
                let what = || format!("looking at {}", path.display());
                std::fs::symlink_metadata(&path).with_context(what)?;
            }
            Step::OpenClose => drop(open_file(&self.file(i % self.made))?),
            Step::Rename => {
                let (from, to) = (self.file(i), self.second(i));
                let what = || format!("renaming {}", from.display());
                std::fs::rename(&from, &to).with_context(what)?;
                self.renamed = i + 1;
            }
            Step::Unlink => {
                let path = match i < self.renamed {
                    true => self.second(i),
                    false => self.file(i),
                };
                let what = || format!("removing {}", path.display());
                std::fs::remove_file(&path).with_context(what)?;
            }
            Step::Mkdir => {
                make_dir(&self.subdir(i))?;
                self.dirs = i + 1;
            }
            Step::Rmdir => {
                let path = self.subdir(i);
                let what = || format!("removing {}", path.display());
                std::fs::remove_dir(&path).with_context(what)?;
            }
        }
        Ok(())
    }

    fn file(&self, i: u64) -> PathBuf {
        self.dir.join(format!("f{i}"))
    }

    fn second(&self, i: u64) -> PathBuf {
        self.dir.join(format!("g{i}"))
    }

    fn subdir(&self, i: u64) -> PathBuf {
        self.dir.join(format!("d{i}"))
    }
}

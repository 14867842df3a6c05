//! Starts all workloads on the mounts of a cluster, stops them, and judges.
//!
//! 1. `start`: directories are made on the first mount; each workload gets its threads, each with a home.
//! 2. `stop_and_verify`: everybody is told to stop. A thread that has not ended after [`JOIN_MAX`] hangs:
//!    every operation has a shorter deadline. It is left behind, and its operation counts as unknown.
//! 3. Roots are let go, final states read on every mount, histories judged and, if wanted, saved.
use super::appends::Appends;
use super::exclusive::Exclusive;
use super::inplace::InPlace;
use super::locks::Locks;
use super::logs::Logs;
use super::names::{Names, Style};
use super::registers::Registers;
use super::{LastLook, Mounted, Worker, Workload};
use crate::history::{Clock, Figures};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long threads may take to end: more than any operation may.
pub const JOIN_MAX: Duration = Duration::from_secs(75);

/// What one workload did, and the verdict on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Counts.
    pub figures: Figures,
    /// Every anomaly, or none.
    pub verdict: Result<(), String>,
}

/// What all workloads did, and the verdicts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// By workload.
    pub rows: BTreeMap<String, Row>,
    /// What is wrong: verdicts, hangs, panics.
    pub anomalies: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, row) in &self.rows {
            let c = row.figures;
            writeln!(
                f,
                "{name:<10} {:>7} ok {:>5} failed {:>5} unknown, {:>4} keys, longest {:>6.0} ms, {} own pending, {} undecided: {}",
                c.ok,
                c.failed,
                c.unknown,
                c.keys,
                c.longest_ns as f64 / 1e6,
                c.own_pending,
                c.undecided,
                if row.verdict.is_ok() { "good" } else { "BAD" }
            )?;
        }
        for anomaly in &self.anomalies {
            writeln!(f, "ANOMALY {anomaly}")?;
        }
        Ok(())
    }
}

/// Workloads that run; see the [module docs](self).
pub struct Workloads {
    seed: u64,
    dir: String,
    workloads: Vec<Arc<dyn Workload>>,
    threads: Vec<(String, JoinHandle<()>)>,
    stop: Arc<AtomicBool>,
    mounts: Vec<Arc<Mounted>>,
    /// What was wrong at the start.
    anomalies: Vec<String>,
    keep: Option<PathBuf>,
}

impl Workloads {
    /// Starts all workloads on `mounts`, which must work now. If they do not, the report says so.
    pub fn start(mounts: &[PathBuf], seed: u64) -> Self {
        Self::start_only(mounts, seed, &[])
    }

    /// Starts the workloads of these names, or all if none is given.
    pub fn start_only(mounts: &[PathBuf], seed: u64, names: &[&str]) -> Self {
        let clock = Clock::start();
        let dir = format!("work-{seed}-{}", std::process::id());
        let below = |name: &str| format!("{dir}/{name}");
        let mut workloads: Vec<Arc<dyn Workload>> = vec![
            Arc::new(Registers::new(below("registers"), clock)),
            Arc::new(InPlace::new(below("inplace"), clock)),
            Arc::new(Appends::new(below("appends"), clock)),
            Arc::new(Logs::new(below("logs"), clock)),
            Arc::new(Exclusive::new(below("exclusive"), clock)),
            Arc::new(Locks::new(below("locks"), clock)),
            Arc::new(Names::new(below("pingpong"), Style::PingPong, clock)),
            Arc::new(Names::new(below("trees"), Style::Trees, clock)),
        ];
        workloads.retain(|w| names.is_empty() || names.contains(&w.name()));
        Self::start_these(workloads, (mounts, &dir), seed)
    }

    /// Starts these, whose directories are below `dir`, each by its name.
    pub fn start_these(
        workloads: Vec<Arc<dyn Workload>>,
        (paths, dir): (&[PathBuf], &str),
        seed: u64,
    ) -> Self {
        println!("workloads with seed {seed} in {dir}");
        let mut this = Self {
            seed,
            dir: dir.to_owned(),
            workloads,
            threads: Vec::new(),
            stop: Arc::default(),
            mounts: Vec::new(),
            anomalies: Vec::new(),
            keep: None,
        };
        if let Err(e) = this.prepare(paths, dir) {
            this.anomalies.push(format!("cannot start: {e}"));
            return this;
        }
        for workload in this.workloads.clone() {
            let per_mount = workload.threads();
            for number in 0..per_mount * u32::try_from(paths.len()).unwrap_or(1) {
                this.spawn(&workload, number);
            }
        }
        this
    }

    /// Keeps the histories in files below `dir`, whatever the verdict.
    #[must_use]
    pub fn keep_in(mut self, dir: &Path) -> Self {
        self.keep = Some(dir.to_owned());
        self
    }

    fn prepare(&mut self, paths: &[PathBuf], dir: &str) -> std::io::Result<()> {
        let numbers: Arc<AtomicU32> = Arc::default();
        for path in paths {
            let mounted = Mounted::new(path, numbers.clone())?;
            self.mounts.push(Arc::new(mounted));
        }
        let first = paths
            .first()
            .ok_or_else(|| std::io::Error::other("no mounts"))?;
        for workload in &self.workloads {
            std::fs::create_dir_all(first.join(dir).join(workload.name()))?;
        }
        Ok(())
    }

    fn spawn(&mut self, workload: &Arc<dyn Workload>, number: u32) {
        let name = format!("{}-{number}", workload.name());
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.threads.len() as u64);
        let worker = Worker {
            number,
            home: self.mounts[number as usize % self.mounts.len()].clone(),
            mounts: self.mounts.clone(),
            rng,
            stop: self.stop.clone(),
        };
        let workload = workload.clone();
        let thread = std::thread::Builder::new().name(name.clone());
        match thread.spawn(move || workload.run(worker)) {
            Ok(handle) => self.threads.push((name, handle)),
            Err(e) => self.anomalies.push(format!("no thread {name}: {e}")),
        }
    }

    /// Counts so far, by workload.
    pub fn figures(&self) -> BTreeMap<String, Figures> {
        let one = |w: &Arc<dyn Workload>| (w.name().to_owned(), w.figures());
        self.workloads.iter().map(one).collect()
    }

    /// Ends all threads.
    fn join(&mut self) {
        self.stop.store(true, Ordering::Release);
        let begin = Instant::now();
        let is_running = |t: &[(String, JoinHandle<()>)]| t.iter().any(|t| !t.1.is_finished());
        while is_running(&self.threads) && begin.elapsed() < JOIN_MAX {
            std::thread::sleep(Duration::from_millis(20));
        }
        for (name, thread) in self.threads.drain(..) {
            if !thread.is_finished() {
                let waited = begin.elapsed();
                let hang = format!("hang: thread {name} has not ended within {waited:?}");
                self.anomalies.push(hang);
            } else if thread.join().is_err() {
                self.anomalies.push(format!("thread {name} panicked"));
            }
        }
    }

    /// The directory below each mount in which everything happens.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// Ends all threads, lets go of the mounts, reads the final state on `mounts` and judges.
    #[must_use]
    pub fn stop_and_verify(self, mounts: &[PathBuf]) -> Report {
        self.stop_then(mounts, || {})
    }

    /// The same, and does something before the final state is read: the checkers must see it.
    #[must_use]
    pub fn stop_then(mut self, mounts: &[PathBuf], then: impl FnOnce()) -> Report {
        self.join();
        self.mounts.clear();
        then();
        let mut report = Report {
            anomalies: std::mem::take(&mut self.anomalies),
            ..Report::default()
        };
        let seed = self.seed;
        let last = LastLook::new(mounts);
        for workload in &self.workloads {
            let name = workload.name();
            let verdict = workload.verify(&last);
            let figures = *verdict.as_ref().unwrap_or(&workload.figures());
            let verdict = verdict.map(|_| ());
            if let Err(e) = &verdict {
                report.anomalies.push(format!("{name} (seed {seed}): {e}"));
            }
            if figures.undecided > 0 {
                let undecided = format!("{name} (seed {seed}): {} undecided", figures.undecided);
                report.anomalies.push(undecided);
            }
            let row = Row { figures, verdict };
            report.rows.insert(name.to_owned(), row);
            if let Some(dir) = &self.keep
                && let Err(e) = workload.save(dir, seed)
            {
                report
                    .anomalies
                    .push(format!("{name} cannot be saved: {e}"));
            }
        }
        report
    }
}

impl Drop for Workloads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a local directory, which is two mounts of itself.
    #[test]
    fn a_local_directory_is_judged_good() {
        let dir = tempfile::tempdir().unwrap();
        let paths = vec![dir.path().to_owned(); 2];
        let workloads = Workloads::start(&paths, 5);
        let begin = Instant::now();
        let has_worked = |w: &Workloads| w.figures().values().all(|f| f.ok > 30);
        while !has_worked(&workloads) && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let report = workloads.stop_and_verify(&paths);
        assert!(report.anomalies.is_empty(), "{report}");
        assert!(
            report.rows.values().all(|row| row.figures.ok > 30),
            "{report}"
        );
    }
}

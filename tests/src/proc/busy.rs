//! How busy processors and disk are, by the kernel's own counters.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(100);

/// Parts of the time, 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Busy {
    /// Neither idle nor waiting for a disk, of all processors together.
    pub processors: f64,
    /// The disk had something to do; 0 if it is none of its own (a tmpfs).
    pub disk: f64,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    used: u64,
    all: u64,
    disk_ms: u64,
}

/// Samples both until it is stopped.
pub struct Machine {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Machine {
    /// Watches this machine, and the disk that `dir` is on.
    ///
    /// # Panics
    /// `dir` is not there.
    #[must_use]
    pub fn watch(dir: &Path) -> Self {
        let device = rustix::fs::stat(dir).expect("a directory").st_dev;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                samples.extend(sample(device));
                std::thread::sleep(EVERY);
            }
            samples.extend(sample(device));
            samples
        });
        Self { stop, thread }
    }

    /// Stops; how busy they were for the last `of`.
    ///
    /// # Panics
    /// The kernel gave no counters.
    #[must_use]
    pub fn stop(self, of: Duration) -> Busy {
        self.stop.store(true, Ordering::Release);
        let samples = self.thread.join().expect("the sampler goes on");
        let last = samples.last().expect("counters of the kernel");
        let since = |s: &&Sample| last.at.duration_since(s.at) <= of;
        let first = samples.iter().find(since).unwrap_or(last);
        let part = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        let ms = u64::try_from(last.at.duration_since(first.at).as_millis());
        Busy {
            processors: part(last.used - first.used, last.all - first.all),
            disk: part(last.disk_ms - first.disk_ms, ms.unwrap_or(u64::MAX)),
        }
    }
}

/// Fields: proc(5), /proc/stat and /proc/diskstats.
fn sample(device: u64) -> Option<Sample> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks = stat.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.take(8).filter_map(|t| t.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disks = std::fs::read_to_string("/proc/diskstats").ok()?;
    let of_disk = disks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
        is_it.then(|| fields.get(12)?.parse().ok()).flatten()
    });
    Some(Sample {
        at: Instant::now(),
        used: all - idle,
        all,
        disk_ms: of_disk.unwrap_or(0),
    })
}

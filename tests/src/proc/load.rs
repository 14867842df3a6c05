//! Load with a memory outside the filesystem: what was acknowledged, and how long the longest wait was.
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One acknowledged file.
#[derive(Debug, Clone)]
pub struct Acked {
    /// Where.
    pub path: PathBuf,
    /// What: `len` bytes from `seed`.
    pub seed: u64,
    /// How many.
    pub len: usize,
}

/// What the load has seen so far.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Acknowledged (written, synced, closed, renamed into place).
    pub acked: Vec<Acked>,
    /// Longest time one operation took.
    pub stall: Duration,
    /// Failures, as the operating system gave them.
    pub errors: Vec<String>,
}

/// Bytes that nobody has to remember.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Writers below one directory; stopped and joined by [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `writers` threads below `dir`, each writing files of up to `len_max` bytes.
    ///
    /// # Panics
    /// The directories cannot be made.
    pub fn start(dir: &Path, writers: u64, len_max: usize) -> Self {
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<Mutex<Seen>>::default(),
        );
        let thread = |w: u64| {
            let (dir, stop, seen) = (dir.join(format!("w{w}")), stop.clone(), seen.clone());
            std::fs::create_dir_all(&dir).expect("a directory for the load");
            std::thread::spawn(move || {
                let mut i = 0;
                while !stop.load(Ordering::Acquire) {
                    i += 1;
                    one(&dir, w * 1_000_000 + i, len_max, &seen);
                }
            })
        };
        let threads = (0..writers).map(thread).collect();
        Self {
            stop,
            seen,
            threads,
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets the longest stall so far, to measure the next.
    pub fn reset_stall(&self) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stall = Duration::ZERO;
    }

    /// Stops the writers and says what they saw.
    ///
    /// # Panics
    /// A writer panicked.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().expect("a writer panicked");
        }
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn one(dir: &Path, seed: u64, len_max: usize, seen: &Mutex<Seen>) {
    let len = 1 + (seed.wrapping_mul(7919) as usize) % len_max;
    let path = dir.join(format!("f{seed}"));
    let begin = Instant::now();
    let write = || -> std::io::Result<()> {
        let temp = dir.join(".tmp");
        let mut file = File::create(&temp)?;
        file.write_all(&bytes(seed, len))?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&temp, &path)
    };
    let done = write();
    let took = begin.elapsed();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.stall = seen.stall.max(took);
    match done {
        Ok(()) => seen.acked.push(Acked { path, seed, len }),
        Err(e) => seen.errors.push(format!("{}: {e}", path.display())),
    }
}

/// How long each step of [`foreground`] took.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub longest_ms: f64,
    /// How many there were.
    pub count: usize,
}

/// What nobody notices.
pub const P99_FLOOR_MS: f64 = 50.0;

/// Small writes with close, each followed by a read of it, for a while or until `until` says so.
///
/// # Panics
/// One of them fails.
pub fn foreground(dir: &Path, least: Duration, mut until: impl FnMut() -> bool) -> Latency {
    let (begin, mut took) = (Instant::now(), Vec::new());
    std::fs::create_dir_all(dir).expect("a directory for the load");
    let mut asked = Instant::now();
    let mut over = false;
    while begin.elapsed() < least || !over {
        let i = took.len();
        let path = dir.join(format!("f{}", i % 50));
        let at = Instant::now();
        std::fs::write(&path, bytes(i as u64, 4000)).expect("a write of the load");
        let got = std::fs::read(&path).expect("a read of the load");
        assert!(got == bytes(i as u64, 4000), "{} is torn", path.display());
        took.push(at.elapsed());
        if asked.elapsed() > Duration::from_millis(250) {
            over = until();
            asked = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort();
    let ms = |t: Duration| t.as_secs_f64() * 1000.0;
    Latency {
        p99_ms: ms(took[took.len() * 99 / 100]),
        longest_ms: took.last().copied().map_or(0.0, ms),
        count: took.len(),
    }
}

/// Reads back everything acknowledged.
///
/// # Errors
/// The first file that is missing or differs.
pub fn verify(acked: &[Acked]) -> anyhow::Result<()> {
    for a in acked {
        let got = std::fs::read(&a.path)
            .map_err(|e| anyhow::anyhow!("acknowledged {}: {e}", a.path.display()))?;
        anyhow::ensure!(
            got == bytes(a.seed, a.len),
            "acknowledged {} has other bytes ({} of {})",
            a.path.display(),
            got.len(),
            a.len
        );
    }
    Ok(())
}

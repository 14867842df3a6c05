//! How much each group does, and how long a phase may take.
use super::phase::Limit;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Counts and times of a run.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// The streamed file. More than what a DFS mount caches, which advice cannot reach.
    pub big_mib: u64,
    /// Each of its phases.
    pub big_time: Duration,
    /// The file of random reads and writes.
    pub random_mib: u64,
    /// Each of its phases.
    pub random_time: Duration,
    /// Files of one process.
    pub meta: u64,
    /// Files of each of eight threads.
    pub meta_each: u64,
    /// How often each file is looked at and opened; these calls are short, and change nothing.
    pub meta_rounds: u64,
    /// Each phase of either.
    pub meta_time: Duration,
    /// Small files of each size.
    pub small: u64,
    /// Each phase of them.
    pub small_time: Duration,
    /// Small files that are fsynced.
    pub synced: u64,
    /// Files of the tree.
    pub tree: u64,
    /// Appends.
    pub appends: u64,
}

impl Sizes {
    /// Half a minute on a replicated filesystem, where most phases end by their time; less on a
    /// disk, where they end by their count.
    #[must_use]
    pub fn full() -> Self {
        Self {
            big_mib: 256,
            big_time: Duration::from_secs(4),
            random_mib: 128,
            random_time: Duration::from_millis(2500),
            meta: 5000,
            meta_each: 1000,
            meta_rounds: 20,
            meta_time: Duration::from_millis(800),
            small: 1000,
            small_time: Duration::from_millis(1500),
            synced: 1000,
            tree: 2000,
            appends: 10_000,
        }
    }

    /// A few seconds; enough to see whether it works.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            big_mib: 16,
            big_time: Duration::from_millis(500),
            random_mib: 8,
            random_time: Duration::from_millis(300),
            meta: 100,
            meta_each: 20,
            meta_rounds: 2,
            meta_time: Duration::from_millis(150),
            small: 50,
            small_time: Duration::from_millis(200),
            synced: 50,
            tree: 60,
            appends: 100,
        }
    }

    /// Of a phase of the streamed file, in blocks of a MiB.
    #[must_use]
    pub fn big(&self) -> Limit {
        let (count, time) = (self.big_mib, self.big_time);
        Limit { count, time }
    }

    /// Of a phase that does `count` of small files.
    #[must_use]
    pub fn of_small(&self, count: u64) -> Limit {
        let time = self.small_time;
        Limit { count, time }
    }

    /// Bytes that `files` files of at most `len_bytes` take, with a block for the name and
    /// attributes of each.
    #[must_use]
    pub fn room(files: u64, len_bytes: u64) -> u64 {
        files * (len_bytes + 4096)
    }

    /// Bytes of the streamed file.
    #[must_use]
    pub fn big_bytes(&self) -> u64 {
        self.big_mib * MIB
    }

    /// Bytes of the file of random reads and writes.
    #[must_use]
    pub fn random_bytes(&self) -> u64 {
        self.random_mib * MIB
    }
}

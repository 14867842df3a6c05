//! Reads a table file again in the background: each page within the scrub's period, or at once when
//! somebody asks.
//!
//! The file heals itself ([`MirrorFile`](dfs_core::store::MirrorFile)); what it finds is counted in
//! the [`TableCounts`] that all table files of a node share. The thread ends when the other end of
//! its queue is dropped. It also looks whether the tables are past use
//! ([`TableFault`](dfs_core::store::TableFault)), whoever met that, and tells.
use super::queue::{NotReceived, Receiver, Sender, unbounded};
use dfs_core::store::{RedbBase, TableCounts};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pages verified at a time.
const PAGES: usize = 64;
/// Bytes per second of a pass that nobody asked for, in all places together.
const RATE: u64 = 4 << 20;
/// How often the thread looks whether a pass was asked for.
const POLL: Duration = Duration::from_millis(250);
/// Wait after a start.
const DELAY: Duration = Duration::from_secs(60);

/// Keeps the thread running.
pub(crate) struct TableScrub {
    _running: Sender<()>,
}

/// What a table file is verified with.
pub(crate) struct TableScrubSetup {
    pub base: Arc<RedbBase>,
    pub counts: Arc<TableCounts>,
    /// Each page is verified within this time.
    pub period: Duration,
    /// Called once, when the tables are past use.
    pub on_fault: Box<dyn Fn(&str) + Send>,
}

impl TableScrubSetup {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn spawn(self, name: &str) -> std::io::Result<(TableScrub, JoinHandle<()>)> {
        let (running, stop) = unbounded();
        let builder = std::thread::Builder::new().name(name.to_owned());
        let thread = builder.spawn(move || self.run(&stop))?;
        Ok((TableScrub { _running: running }, thread))
    }

    fn run(&self, stop: &Receiver<()>) {
        let mut seen = self.counts.asked();
        let mut due = Instant::now() + DELAY;
        while wait(stop, POLL) {
            if let Some(cause) = self.base.fault() {
                (self.on_fault)(cause);
                break;
            }
            let asked = self.counts.asked();
            if asked == seen && Instant::now() < due {
                continue;
            }
            let is_asked = asked != seen;
            seen = asked;
            due = Instant::now() + self.period / 2;
            if !self.pass(stop, is_asked) {
                return;
            }
            self.counts.add_pass();
        }
        while wait(stop, POLL) {}
    }

    /// Verifies the whole file; false if the thread shall end.
    fn pass(&self, stop: &Receiver<()>, is_asked: bool) -> bool {
        if let Err(error) = self.base.check_header() {
            tracing::error!(%error, "a table file cannot be verified");
        }
        let (mut at, mut has_lost) = (Some(0), false);
        while let Some(first) = at.filter(|_| self.base.fault().is_none()) {
            let mut bytes = 0;
            at = match self.base.check(first, PAGES) {
                Ok(done) => {
                    bytes = done.bytes;
                    done.next
                }
                Err(error) => {
                    tracing::error!(%error, "a table file is damaged");
                    has_lost |= error.is_damage();
                    // One by one over the damaged place, so that the rest is verified too.
                    self.around(first)
                }
            };
            let pause = Duration::from_millis(bytes * 1000 / RATE);
            if !wait(stop, if is_asked { Duration::ZERO } else { pause }) {
                return false;
            }
        }
        if has_lost {
            // What a power cut left in pages that nothing refers to is no harm.
            match self.base.read_all() {
                Ok(()) => tracing::warn!("no row of the tables needs what is damaged"),
                Err(error) => tracing::error!(%error, "rows of the tables are lost"),
            }
        }
        true
    }

    fn around(&self, first: u64) -> Option<u64> {
        let mut next = None;
        for page in first..first + PAGES as u64 {
            next = match self.base.check(page, 1) {
                Ok(done) => Some(done.next?),
                Err(_) => Some(page + 1),
            };
        }
        next
    }
}

/// False if the thread shall end.
fn wait(stop: &Receiver<()>, pause: Duration) -> bool {
    !matches!(stop.recv_timeout(pause), Err(NotReceived::Disconnected))
}

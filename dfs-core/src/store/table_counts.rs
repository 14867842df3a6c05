//! What the checks of a node's table files found: shared by the files and whoever reports them.
use super::TableGauge;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Counts of one node since its start; all table files of the node share one.
#[derive(Debug, Default)]
pub struct TableCounts {
    checked_bytes: AtomicU64,
    repaired: AtomicU64,
    lost: AtomicU64,
    passes: AtomicU64,
    asked: AtomicU64,
    /// Of the files that are open.
    gauges: Mutex<Vec<Weak<TableGauge>>>,
}

/// [`TableCounts`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TableTotals {
    /// Bytes of table files re-read and verified since the start.
    pub checked_bytes: u64,
    /// Pages that were damaged in one place and were written again from another.
    pub repaired: u64,
    /// Pages of which no two places agreed.
    pub lost: u64,
    /// Whole passes over a table file.
    pub passes: u64,
}

impl TableCounts {
    /// Bytes were verified.
    pub fn add_checked(&self, bytes: u64) {
        self.checked_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    /// A damaged page was made good.
    pub fn add_repaired(&self) {
        self.repaired.fetch_add(1, Ordering::Relaxed);
    }
    /// A damaged page could not be made good.
    pub fn add_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
    /// A pass over a file ended.
    pub fn add_pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }
    /// Somebody wants a pass over every file now.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
    /// How often [`ask`](Self::ask) was called.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
    /// A file was opened.
    pub(super) fn watch(&self, gauge: &Arc<TableGauge>) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.retain(|known| known.strong_count() > 0);
        gauges.push(Arc::downgrade(gauge));
    }
    /// Of the files that are open.
    #[must_use]
    pub fn gauges(&self) -> Vec<Arc<TableGauge>> {
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.iter().filter_map(Weak::upgrade).collect()
    }
    /// The counts now.
    #[must_use]
    pub fn totals(&self) -> TableTotals {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TableTotals {
            checked_bytes: get(&self.checked_bytes),
            repaired: get(&self.repaired),
            lost: get(&self.lost),
            passes: get(&self.passes),
        }
    }
}

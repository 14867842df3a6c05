//! How many written bytes a mount may hold that are not committed.
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Counts bytes against a bound.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    /// Of those, the bytes of puts under way.
    flying: AtomicU64,
    /// Puts under way.
    puts: AtomicU64,
    max: u64,
    freed: Notify,
}

impl Budget {
    pub fn new(max: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            flying: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            max,
            freed: Notify::new(),
        }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// There is room for `more` (always, when nothing is held).
    pub fn has_room(&self, more: u64) -> bool {
        let used = self.used();
        used == 0 || used + more <= self.max
    }

    /// Most of the budget is used, and not enough of it is on its way: cut something.
    pub fn is_pressed(&self) -> bool {
        let flying = self.flying.load(Ordering::Acquire);
        self.used() * 4 > self.max * 3 && flying * 4 < self.max
    }

    /// Bytes that were taken are on their way in one put.
    pub fn fly(&self, bytes: u64) {
        self.puts.fetch_add(1, Ordering::AcqRel);
        self.flying.fetch_add(bytes, Ordering::AcqRel);
    }

    /// They have arrived, or were given up.
    pub fn land(&self, bytes: u64) {
        self.flying.fetch_sub(bytes, Ordering::AcqRel);
        self.puts.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Waits until fewer than `max` puts are under way.
    pub async fn wait_for_puts(&self, max: u64) {
        self.wait_until(|| self.may_put(max)).await;
    }

    /// Fewer than `max` puts are under way.
    pub fn may_put(&self, max: u64) -> bool {
        self.puts.load(Ordering::Acquire) < max
    }

    pub fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub fn give(&self, bytes: u64) {
        if bytes > 0 {
            let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
            debug_assert!(before >= bytes, "every byte is counted once");
            self.freed.notify_waiters();
        }
    }

    /// Waits until there is room for `more`.
    pub async fn wait_for_room(&self, more: u64) {
        self.wait_until(|| self.has_room(more)).await;
    }

    /// Looks again whenever something was freed.
    async fn wait_until(&self, is_free: impl Fn() -> bool) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if is_free() {
                return;
            }
            freed.await;
        }
    }
}

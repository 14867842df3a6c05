//! Work that no program waits for is begun together, at the ticks of one clock.
//!
//! A change or a put alone costs every voter, or every store, a flush and a dozen wake-ups; ten that come
//! within a few milliseconds cost little more than one. So what is done *behind* a program's back is held until
//! the next tick: queued changes, prepares and commits of small files meet there. Steps:
//! 1. whoever has such work waits in [`Leisure::hold`];
//! 2. whoever waits for any of it (`fsync`, a question to the master, another session) holds a [`Hurry`] meanwhile:
//!    nothing is held then.
//!
//! Invariant: no work waits longer than [`TICK`], and none while anybody waits for it.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Time between ticks.
pub const TICK: Duration = Duration::from_millis(10);

/// See the [module docs](self). The default one holds nothing.
#[derive(Debug, Default)]
pub struct Leisure {
    /// The first tick.
    begun: Option<Instant>,
    hurried: AtomicUsize,
    hurry: Notify,
}

/// Somebody waits; until this is dropped.
#[derive(Debug)]
pub struct Hurry(Arc<Leisure>);

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.hurried.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Leisure {
    /// One that holds work until its ticks.
    #[must_use]
    pub fn ticking() -> Self {
        Self {
            begun: Some(Instant::now()),
            ..Self::default()
        }
    }

    /// Returns at the next tick, or as soon as somebody hurries.
    pub async fn hold(&self) {
        let Some(begun) = self.begun else { return };
        let hurried = self.hurry.notified();
        tokio::pin!(hurried);
        // Before it is looked who hurries: who comes after that notifies.
        hurried.as_mut().enable();
        if self.hurried.load(Ordering::Acquire) > 0 {
            return;
        }
        let into = begun.elapsed().as_nanos() % TICK.as_nanos();
        let left = TICK - Duration::from_nanos(u64::try_from(into).unwrap_or(0));
        tokio::select! {
            () = hurried => {}
            () = tokio::time::sleep(left) => {}
        }
    }

    /// From now on somebody waits.
    #[must_use]
    pub fn hurry(self: &Arc<Self>) -> Hurry {
        self.hurried.fetch_add(1, Ordering::AcqRel);
        self.hurry.notify_waiters();
        Hurry(Arc::clone(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_held(leisure: &Leisure, of: Duration) -> bool {
        tokio::time::timeout(of, leisure.hold()).await.is_err()
    }

    #[tokio::test]
    async fn work_is_held_until_a_tick_and_not_while_somebody_waits() {
        let leisure = Arc::new(Leisure {
            // The next tick is far away, for this test.
            begun: Some(Instant::now() + TICK * 1000),
            ..Leisure::default()
        });
        assert!(!is_held(&Leisure::default(), Duration::ZERO).await);
        let begun = Instant::now();
        leisure.hold().await;
        assert!(begun.elapsed() <= TICK * 20, "at most one tick");
        let (one, two) = (leisure.hurry(), leisure.hurry());
        assert!(!is_held(&leisure, Duration::ZERO).await);
        drop(one);
        assert!(!is_held(&leisure, Duration::ZERO).await);
        drop(two);
        // Held again; and let go at once by who comes.
        let held = tokio::spawn({
            let leisure = Arc::clone(&leisure);
            async move { leisure.hold().await }
        });
        tokio::task::yield_now().await;
        let hurry = leisure.hurry();
        held.await.unwrap();
        drop(hurry);
        assert_eq!(leisure.hurried.load(Ordering::Acquire), 0);
    }
}

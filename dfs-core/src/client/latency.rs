//! How fast each store has answered lately: the order in which to ask, and when to hedge.
//!
//! Mean and mean deviation are smoothed as in TCP's round-trip estimate (Jacobson, SIGCOMM 1988;
//! RFC 6298), separately for small and large answers; mean + 2 deviations stands for p95.
use crate::types::{StoreId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// Answers above this many bytes are timed as large ones.
const LARGE: u32 = 64 * 1024;
/// Stores whose mean is within this of the best are as good as it.
const SLACK: Duration = Duration::from_millis(5);
/// A store that failed is asked last for this long.
const PENALTY: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, Default)]
struct Estimate {
    mean: Duration,
    deviation: Duration,
    seen: bool,
}

impl Estimate {
    fn add(&mut self, took: Duration) {
        if !self.seen {
            *self = Self {
                mean: took,
                deviation: took / 2,
                seen: true,
            };
            return;
        }
        let off = took.abs_diff(self.mean);
        self.deviation = (self.deviation * 3 + off) / 4;
        self.mean = (self.mean * 7 + took) / 8;
    }
}

#[derive(Debug, Clone, Default)]
struct Peer {
    small: Estimate,
    large: Estimate,
    failed_until: Option<Time>,
}

/// Recent latencies by store. See the [module docs](self).
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    peers: BTreeMap<StoreId, Peer>,
}

impl Latencies {
    /// Records an answer of `bytes` payload bytes after `took`.
    pub fn observe(&mut self, store: StoreId, bytes: u32, took: Duration) {
        let peer = self.peers.entry(store).or_default();
        peer.failed_until = None;
        if bytes > LARGE {
            &mut peer.large
        } else {
            &mut peer.small
        }
        .add(took);
    }

    /// Records that a store did not answer, or not usefully.
    pub fn observe_failure(&mut self, store: StoreId, now: Time) {
        self.peers.entry(store).or_default().failed_until = Some(now + PENALTY);
    }

    /// When to ask somebody else as well: p95 of this store for such an answer, at least `min`
    /// (four times that for large answers).
    #[must_use]
    pub fn hedge_after(&self, store: StoreId, bytes: u32, min: Duration) -> Duration {
        let peer = self.peers.get(&store).cloned().unwrap_or_default();
        let (estimate, min) = if bytes > LARGE {
            (peer.large, min * 4)
        } else {
            (peer.small, min)
        };
        (estimate.mean + estimate.deviation * 2).max(min)
    }

    /// `stores` in the order in which to ask: equally good ones rotated by `spread`, then slower
    /// ones, then those that failed lately.
    #[must_use]
    pub fn order(&self, now: Time, stores: &[StoreId], spread: u64) -> Vec<StoreId> {
        self.order_for(now, stores, spread, 0)
    }

    /// The same for an answer of `bytes`: who is quick to say little may have a slow disk.
    #[must_use]
    pub fn order_for(
        &self,
        now: Time,
        stores: &[StoreId],
        spread: u64,
        bytes: u32,
    ) -> Vec<StoreId> {
        let failed = |s: &StoreId| {
            self.peers
                .get(s)
                .and_then(|p| p.failed_until)
                .is_some_and(|until| until > now)
        };
        let mean = |s: &StoreId| {
            self.peers.get(s).map_or(Duration::ZERO, |p| {
                let of_size = if bytes > LARGE { p.large } else { p.small };
                of_size.mean
            })
        };
        let mut good: Vec<StoreId> = stores.iter().copied().filter(|s| !failed(s)).collect();
        good.sort_by_key(|s| (mean(s), *s));
        let best = good.first().map_or(Duration::ZERO, mean);
        let equals = good.iter().filter(|s| mean(s) <= best * 2 + SLACK).count();
        if equals > 0 {
            good[..equals].sort();
            good[..equals].rotate_left((spread % equals as u64) as usize);
        }
        good.extend(stores.iter().copied().filter(failed));
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slow_and_failed_stores_are_asked_last_and_equals_share_the_load() {
        let stores = [StoreId(1), StoreId(2), StoreId(3)];
        let mut lat = Latencies::default();
        for _ in 0..20 {
            lat.observe(StoreId(1), 10, MS);
            lat.observe(StoreId(2), 10, MS * 2);
            lat.observe(StoreId(3), 10, MS * 200);
        }
        assert_eq!(
            lat.order(Time(0), &stores, 0),
            [StoreId(1), StoreId(2), StoreId(3)]
        );
        assert_eq!(
            lat.order(Time(0), &stores, 1),
            [StoreId(2), StoreId(1), StoreId(3)]
        );
        lat.observe_failure(StoreId(1), Time(0));
        assert_eq!(lat.order(Time(1), &stores, 0)[2], StoreId(1));
        assert_eq!(lat.order(Time(0) + PENALTY, &stores, 0)[0], StoreId(1));
    }

    #[test]
    fn regression_large_answers_are_ordered_by_how_large_ones_came() {
        let stores = [StoreId(1), StoreId(2)];
        let mut lat = Latencies::default();
        for _ in 0..20 {
            for store in stores {
                lat.observe(store, 10, MS);
            }
            lat.observe(StoreId(1), LARGE + 1, MS * 60);
            lat.observe(StoreId(2), LARGE + 1, MS * 3);
        }
        for spread in 0..2 {
            let order = lat.order_for(Time(0), &stores, spread, LARGE + 1);
            assert_eq!(order, [StoreId(2), StoreId(1)], "a slow disk is asked last");
        }
        assert_eq!(lat.order(Time(0), &stores, 0)[0], StoreId(1));
    }

    #[test]
    fn hedging_waits_for_p95_and_never_less_than_the_minimum() {
        let mut lat = Latencies::default();
        assert_eq!(lat.hedge_after(StoreId(1), 1, MS * 20), MS * 20);
        for _ in 0..50 {
            lat.observe(StoreId(1), 10, MS * 100);
        }
        let after = lat.hedge_after(StoreId(1), 1, MS * 20);
        assert!((MS * 100..MS * 130).contains(&after), "{after:?}");
        assert_eq!(lat.hedge_after(StoreId(1), LARGE + 1, MS * 20), MS * 80);
    }
}

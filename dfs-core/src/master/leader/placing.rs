//! What placement is planned from: the stores and groups as they are heard.
//!
//! A store is **slow** when its disk takes much longer than the median of all disks, for a while; it
//! gets no new copies, unless there is no other place, until it is near the median again, for a while.
//! Fewer than three stores have no median that says anything.
//!
//! A store is **full** below a fiftieth of free room (and 4 GiB): it gives copies away. Up to a
//! twentieth (and 8 GiB) it is **tight**, and gets none for balance: else what it gave away would come back at once.
use super::leading::Leading;
use super::machine::Master;
use crate::master::state::StoreRow;
use crate::placement::{StoreRole, StoreView, Weights};
use crate::types::{StoreId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Slow from so many times the median on, and from this time on.
const SLOW_TIMES: u64 = 10;
const SLOW_LEAST_US: u64 = 20_000;
/// No longer slow below so many times the median, or this time.
const FAIR_TIMES: u64 = 4;
const FAIR_US: u64 = 8_000;
/// A store must look so for this long before it is called otherwise.
const SURE_AFTER: Duration = Duration::from_secs(1);

/// Who is slow.
#[derive(Debug, Default)]
pub(super) struct SlowWatch {
    slow: BTreeSet<StoreId>,
    /// Those that look otherwise than they are called, since when.
    turning: BTreeMap<StoreId, Time>,
}

impl SlowWatch {
    pub fn contains(&self, store: &StoreId) -> bool {
        self.slow.contains(store)
    }

    /// Judges by the latencies (microseconds, 0 if not known) of the stores that are up. Answers
    /// whose name changed.
    pub fn judge(&mut self, now: Time, disks: &BTreeMap<StoreId, u64>) -> Vec<(StoreId, bool)> {
        let mut known: Vec<u64> = disks.values().copied().filter(|us| *us > 0).collect();
        known.sort_unstable();
        let median = match known.len() {
            0..3 => u64::MAX / SLOW_TIMES,
            n => known[(n - 1) / 2],
        };
        let mut changed = Vec::new();
        for (store, us) in disks {
            let is_slow = self.slow.contains(store);
            let looks = match is_slow {
                false => *us >= SLOW_LEAST_US && *us > median.saturating_mul(SLOW_TIMES),
                true => *us > FAIR_US && *us > median.saturating_mul(FAIR_TIMES),
            };
            if looks == is_slow {
                self.turning.remove(store);
                continue;
            }
            let since = *self.turning.entry(*store).or_insert(now);
            if now.since(since) >= SURE_AFTER {
                self.turning.remove(store);
                match looks {
                    true => self.slow.insert(*store),
                    false => self.slow.remove(store),
                };
                changed.push((*store, looks));
            }
        }
        self.slow.retain(|store| disks.contains_key(store));
        changed
    }
}

impl Master {
    pub(super) fn watch_slow(&mut self) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let stores = &mut leading.stores;
        let up = |store: &StoreId| !stores.down.contains_key(store);
        let disks = stores
            .heard
            .iter()
            .filter(|(store, _)| up(store))
            .map(|(store, soft)| (*store, soft.load.disk_us))
            .collect();
        for (store, is_slow) in stores.slow.judge(now, &disks) {
            let us = disks[&store];
            tracing::warn!(store = %store, us, is_slow, "a disk's speed changed");
        }
    }

    /// Stores as the planner sees them; `failed` counts as failed whatever its grace.
    pub(super) fn views(&self, leading: &Leading, failed: Option<StoreId>) -> Vec<StoreView> {
        let view = |row: &StoreRow| {
            let soft = leading.stores.heard.get(&row.store);
            let down = leading.stores.down.get(&row.store);
            let is_over = down.is_some_and(|at| self.now.since(*at) >= self.config.repair_grace);
            let role = if row.draining || is_over || failed == Some(row.store) {
                StoreRole::Leaves
            } else if down.is_some() || soft.is_none_or(|s| s.wiping > 0) {
                StoreRole::Keeps
            } else if self.is_full(leading, row.store) {
                StoreRole::Sheds
            } else if leading.stores.slow.contains(&row.store) || self.is_tight(leading, row.store)
            {
                StoreRole::Spare
            } else {
                StoreRole::Receives
            };
            StoreView {
                store: row.store,
                node: row.node,
                zone: row.zone.clone(),
                device: row.device,
                free_bytes: self.room(leading, row),
                used_bytes: soft.map_or(row.used, |s| s.used),
                role,
                load: soft.map_or(0, |s| s.read_rate),
                starved: soft.is_some_and(|s| s.load.starved > 0),
            }
        };
        self.state.stores().values().map(view).collect()
    }

    /// What the groups weigh: the bytes that the complete members told, the most of each.
    pub(super) fn weights(&self, leading: &Leading) -> Weights {
        let mut bytes = vec![0; self.state.map().pgs.len()];
        for (store, soft) in &leading.stores.heard {
            for (pg, held) in soft.load.groups.iter().flatten() {
                let at = usize::from(pg.0);
                let info = self.state.map().pgs.get(at);
                let is_complete = info.is_some_and(|info| {
                    info.members.contains(store) && !info.filling.contains(store)
                });
                if is_complete {
                    bytes[at] = held.max(&bytes[at]).to_owned();
                }
            }
        }
        Weights::of_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(us: &[u64]) -> BTreeMap<StoreId, u64> {
        (1..).map(StoreId).zip(us.iter().copied()).collect()
    }

    #[test]
    fn a_disk_is_slow_beside_the_others_for_a_while_and_not_by_itself() {
        let mut watch = SlowWatch::default();
        let at = |ms: u64| Time::ZERO + Duration::from_millis(ms);
        let odd = disks(&[500, 600, 60_000, 700, 500]);
        assert!(watch.judge(at(0), &odd).is_empty(), "not at once");
        assert!(watch.judge(at(500), &disks(&[500; 5])).is_empty());
        assert!(watch.judge(at(600), &odd).is_empty(), "counted anew");
        assert_eq!(watch.judge(at(1700), &odd), [(StoreId(3), true)]);
        assert!(watch.contains(&StoreId(3)));
        // In between it stays what it is called.
        let middle = disks(&[2_000, 2_000, 9_000, 2_000, 2_000]);
        watch.judge(at(2000), &middle);
        assert!(watch.judge(at(4000), &middle).is_empty());
        watch.judge(at(5000), &disks(&[500; 5]));
        let fair = watch.judge(at(6000), &disks(&[500; 5]));
        assert_eq!(fair, [(StoreId(3), false)]);
        // All are slow: that is the load, or the disks that there are.
        let mut all = SlowWatch::default();
        all.judge(at(0), &disks(&[60_000; 5]));
        assert!(all.judge(at(9000), &disks(&[60_000; 5])).is_empty());
        let two = disks(&[500, 60_000]);
        all.judge(at(0), &two);
        assert!(all.judge(at(9000), &two).is_empty(), "two have no median");
    }
}

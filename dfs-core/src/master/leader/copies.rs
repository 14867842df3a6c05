//! Copies that are really there: a complete member that lacks objects is no full copy, nor one that
//! was not told the newest commits for some seconds.
use super::leading::Leading;
use super::machine::Master;
use crate::master::state::PgState;
use crate::types::{LogIndex, PgId, StoreId, Time};
use crate::wire::master::StoreLacks;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A store whose cursor is this many entries behind delays health.
const BEHIND_MAX: u64 = 20_000;
/// A store must have been told what was committed before this time.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Between samples of the applied index.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What a store says it lacks.
#[derive(Debug, Clone, Default)]
pub(super) struct Lacks {
    by_group: BTreeMap<PgId, u32>,
    total: u64,
    unnamed: u64,
}

impl Lacks {
    pub fn new(told: &StoreLacks) -> Self {
        let named: u64 = told.groups.iter().map(|(_, n)| u64::from(*n)).sum();
        Self {
            by_group: told.groups.iter().copied().collect(),
            total: told.total,
            unnamed: told.total.saturating_sub(named),
        }
    }

    /// Objects of a group that are missing; if not all groups were named, any may be concerned.
    pub fn of(&self, pg: PgId) -> u64 {
        let named = self.by_group.get(&pg);
        named.map_or(self.unnamed, |n| u64::from(*n))
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0 && self.by_group.is_empty()
    }
}

/// The applied index over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Progress {
    samples: VecDeque<(Time, LogIndex)>,
}

impl Progress {
    pub fn sample(&mut self, now: Time, applied: LogIndex) {
        let newest = self.samples.back();
        if newest.is_some_and(|(at, _)| now.since(*at) < SAMPLE_EVERY) {
            return;
        }
        self.samples.push_back((now, applied));
        while self
            .samples
            .get(1)
            .is_some_and(|(at, _)| now.since(*at) >= TOLD_WITHIN)
        {
            self.samples.pop_front();
        }
    }

    /// This process was stalled: nobody could be told meanwhile.
    pub fn forget(&mut self) {
        self.samples.clear();
    }

    /// What every store must have been told by now.
    pub fn due(&self, now: Time) -> LogIndex {
        let old = |(at, _): &&(Time, LogIndex)| now.since(*at) >= TOLD_WITHIN;
        self.samples
            .front()
            .filter(old)
            .map_or(LogIndex(0), |(_, index)| *index)
    }
}

impl Leading {
    /// The store says nothing of the group is missing (or has not been heard yet).
    pub fn has_all(&self, store: StoreId, pg: PgId) -> bool {
        let soft = self.stores.heard.get(&store);
        soft.is_none_or(|soft| soft.lacks.of(pg) == 0)
    }
}

impl Master {
    /// Groups that the store is to fill, or lacks objects of, while at most one other member that holds
    /// everything is alive: these it copies first.
    pub(super) fn last_copies(&self, store: StoreId) -> Vec<PgId> {
        let Some(leading) = self.leading.as_deref() else {
            return Vec::new();
        };
        let is_short = |(pg, state): &(PgId, &PgState)| {
            let is_filled = state.info.filling.contains(&store);
            let lacks = state.info.members.contains(&store) && !leading.has_all(store, *pg);
            let is_source = |m: &StoreId| *m != store && !leading.stores.down.contains_key(m);
            (is_filled || lacks) && state.complete().filter(is_source).count() <= 1
        };
        self.state
            .pgs()
            .filter(is_short)
            .map(|(pg, _)| pg)
            .collect()
    }

    /// Groups in which the store counts, or is a source of, and of which it has not all that it should,
    /// besides what it is still being filled with.
    pub(super) fn lacking_groups(&self, leading: &Leading, store: StoreId) -> Vec<PgId> {
        let is_here =
            |s: &PgState| s.info.members.contains(&store) || s.info.prior.contains(&store);
        let has_all = |pg| leading.has_all(store, pg) && !self.state.is_partial(pg, store);
        let groups = self.state.pgs();
        let lacking = groups.filter(|(pg, state)| is_here(state) && !has_all(*pg));
        lacking.map(|(pg, _)| pg).collect()
    }

    /// The store was not told what it must know by now, or is far behind.
    pub(super) fn is_behind(&self, leading: &Leading, cursor: LogIndex) -> bool {
        let behind = self.state.applied().index.0.saturating_sub(cursor.0);
        behind > BEHIND_MAX || cursor < leading.stores.progress.due(self.now)
    }

    /// What a store lacks of groups in which it counts as complete, for people.
    pub(super) fn lacking(&self, leading: &Leading, store: StoreId) -> Option<String> {
        let soft = leading.stores.heard.get(&store)?;
        if soft.lacks.is_empty() {
            return None;
        }
        let groups = self
            .state
            .pgs()
            .filter(|(_, s)| s.complete().any(|m| m == store));
        let lacks = groups.map(|(pg, _)| soft.lacks.of(pg)).filter(|n| *n > 0);
        let (count, objects) = lacks.fold((0, 0), |(count, sum), n| (count + 1, sum + n));
        if count == 0 {
            return None;
        }
        let node = self.state.stores().get(&store)?.node.0 >> 96;
        let objects = objects.min(soft.lacks.total);
        let what = if self.state.repair_paused() {
            "repair is paused"
        } else {
            "being copied"
        };
        Some(format!(
            "node {node:08x} lacks {objects} objects of {count} groups, {what}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_named_may_be_of_any_group() {
        let lacks = |total| {
            let groups = vec![(PgId(1), 2)];
            Lacks::new(&StoreLacks { groups, total })
        };
        let (all, more) = (lacks(2), lacks(5));
        assert_eq!((all.of(PgId(1)), all.of(PgId(2))), (2, 0));
        assert_eq!((more.of(PgId(1)), more.of(PgId(2))), (2, 3));
        assert!(Lacks::default().is_empty());
    }

    #[test]
    fn what_is_five_seconds_old_must_have_been_told() {
        let s = |n: u64| Time(n * 1_000_000_000);
        let mut progress = Progress::default();
        (10..=14).for_each(|i| progress.sample(s(i), LogIndex(i)));
        assert_eq!(progress.due(s(14)), LogIndex(0));
        assert_eq!(progress.due(s(15)), LogIndex(10));
        (15..=30).for_each(|i| progress.sample(s(i), LogIndex(i)));
        assert_eq!(progress.due(s(30)), LogIndex(25));
        progress.forget();
        assert_eq!(progress.due(s(40)), LogIndex(0));
    }
}

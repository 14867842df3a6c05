//! Plans: lists of [`PgChange`] for one cause each.
use super::choose::Balance;
use super::view::{StoreView, fair_shares};
use super::weigh::Weights;
use crate::master::command::PgChange;
use crate::types::{PgId, PgInfo, PgMap, PgPhase, StoreId};

/// First members of every PG that has none. Empty unless N stores on N nodes are there and stay, full
/// ones included: reads, names and deletes need groups where bytes find no room.
#[must_use]
pub fn plan_create(map: &PgMap, stores: &[StoreView], weights: &Weights) -> Vec<PgChange> {
    let n = usize::from(map.quorum.n);
    let mut balance = balance(map, stores, weights);
    let mut changes = Vec::new();
    for (pg, info) in numbered(map).filter(|(_, info)| info.members.is_empty()) {
        let mut members = Vec::with_capacity(n);
        while members.len() < n {
            let Some(store) = balance.choose_first(pg, &members) else {
                return Vec::new();
            };
            balance.add(store, pg);
            members.push(store);
        }
        changes.push(PgChange {
            pg,
            from: info.epoch,
            members,
        });
    }
    changes
}

/// A substitute for `failed` in every PG it is a member of, as far as there is one.
///
/// Fewest complete copies first. A PG in which `failed` holds the last complete copy stays: when
/// the store comes back, its bytes do.
#[must_use]
pub fn plan_failed(
    map: &PgMap,
    stores: &[StoreView],
    weights: &Weights,
    failed: StoreId,
) -> Vec<PgChange> {
    let mut balance = balance(map, stores, weights);
    let mut pgs: Vec<_> = numbered(map)
        .filter(|(_, info)| may_leave(info, failed))
        .collect();
    pgs.sort_by_key(|(pg, info)| (complete(info).count(), *pg));
    pgs.into_iter()
        .filter_map(|(pg, info)| replace(&mut balance, pg, info, failed))
        .collect()
}

/// At most `max` PGs moved off a store that is being drained. Only PGs at rest are moved.
#[must_use]
pub fn plan_drain(
    map: &PgMap,
    stores: &[StoreView],
    weights: &Weights,
    store: StoreId,
    max: usize,
) -> Vec<PgChange> {
    let mut balance = balance(map, stores, weights);
    let at_rest = |(_, info): &(PgId, &PgInfo)| at_rest(info) && info.members.contains(&store);
    numbered(map)
        .filter(at_rest)
        .filter_map(|(pg, info)| replace(&mut balance, pg, info, store))
        .take(max)
        .collect()
}

pub(super) fn balance<'a>(
    map: &PgMap,
    stores: &'a [StoreView],
    weights: &'a Weights,
) -> Balance<'a> {
    let shares = fair_shares(stores, map.pgs.len(), map.quorum.n);
    Balance::new(stores, shares, weights.held(map), weights)
}

pub(super) fn numbered(map: &PgMap) -> impl Iterator<Item = (PgId, &PgInfo)> {
    map.pgs
        .iter()
        .enumerate()
        .map(|(i, info)| (PgId(u16::try_from(i).unwrap_or(u16::MAX)), info))
}

/// Members that hold everything.
fn complete(info: &PgInfo) -> impl Iterator<Item = &StoreId> {
    info.members.iter().filter(|m| !info.filling.contains(m))
}

pub(super) fn at_rest(info: &PgInfo) -> bool {
    info.phase == PgPhase::Active && info.filling.is_empty() && info.prior.is_empty()
}

/// A member may be replaced if another one is complete.
fn may_leave(info: &PgInfo, store: StoreId) -> bool {
    info.phase != PgPhase::Fencing
        && info.members.contains(&store)
        && complete(info).any(|m| *m != store)
}

pub(super) fn without(info: &PgInfo, store: StoreId) -> Vec<StoreId> {
    info.members
        .iter()
        .copied()
        .filter(|m| *m != store)
        .collect()
}

/// `from`'s place goes to `to`, which comes last: it has the least.
pub(super) fn substituted(pg: PgId, info: &PgInfo, from: StoreId, to: StoreId) -> PgChange {
    let mut members = without(info, from);
    members.push(to);
    PgChange {
        pg,
        from: info.epoch,
        members,
    }
}

pub(super) fn replace(
    balance: &mut Balance<'_>,
    pg: PgId,
    info: &PgInfo,
    leaving: StoreId,
) -> Option<PgChange> {
    if !may_leave(info, leaving) {
        return None;
    }
    let to = balance.choose(pg, &without(info, leaving))?;
    balance.remove(leaving, pg);
    balance.add(to, pg);
    Some(substituted(pg, info, leaving, to))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

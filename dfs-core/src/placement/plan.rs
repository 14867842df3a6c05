//! Plans: lists of [`PgChange`] for one cause each.
use super::choose::Balance;
use super::view::{StoreView, fair_shares, held};
use crate::master::command::PgChange;
use crate::types::{PgId, PgInfo, PgMap, PgPhase, StoreId};

/// Copies a store may be below its share before anything is moved to it, as a part of the share.
const SLACK: f64 = 0.10;
/// The same in copies, for small shares.
const SLACK_COPIES: f64 = 2.0;

/// First members of every PG that has none. Empty unless N stores on N nodes can receive.
#[must_use]
pub fn plan_create(map: &PgMap, stores: &[StoreView]) -> Vec<PgChange> {
    let n = usize::from(map.quorum.n);
    let mut balance = balance(map, stores);
    let mut changes = Vec::new();
    for (pg, info) in numbered(map).filter(|(_, info)| info.members.is_empty()) {
        let mut members = Vec::with_capacity(n);
        while members.len() < n {
            let Some(store) = balance.choose(pg, &members) else {
                return Vec::new();
            };
            balance.add(store);
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
pub fn plan_failed(map: &PgMap, stores: &[StoreView], failed: StoreId) -> Vec<PgChange> {
    let mut balance = balance(map, stores);
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
pub fn plan_drain(map: &PgMap, stores: &[StoreView], store: StoreId, max: usize) -> Vec<PgChange> {
    let mut balance = balance(map, stores);
    let at_rest = |(_, info): &(PgId, &PgInfo)| at_rest(info) && info.members.contains(&store);
    numbered(map)
        .filter(at_rest)
        .filter_map(|(pg, info)| replace(&mut balance, pg, info, store))
        .take(max)
        .collect()
}

/// The store furthest below its share, and at most `max` PGs to move to it from stores above
/// theirs. `None` while everybody is within a tenth (or two copies) of the share.
#[must_use]
pub fn plan_rebalance(
    map: &PgMap,
    stores: &[StoreView],
    max: usize,
) -> Option<(StoreId, Vec<PgChange>)> {
    let mut balance = balance(map, stores);
    let slack = |b: &Balance<'_>, s: StoreId| (b.share(s) * SLACK).max(SLACK_COPIES);
    let target = stores
        .iter()
        .filter(|s| s.role == super::StoreRole::Receives)
        .filter(|s| balance.deficit(s.store) > slack(&balance, s.store))
        .max_by(|a, b| {
            balance
                .deficit(a.store)
                .total_cmp(&balance.deficit(b.store))
        })?;
    let mut moved: std::collections::BTreeSet<PgId> = Default::default();
    let mut changes = Vec::new();
    while changes.len() < max && balance.deficit(target.store) >= 1.0 {
        let Some(change) = best_move(&balance, map, target, &moved) else {
            break;
        };
        moved.insert(change.1.pg);
        balance.remove(change.0);
        balance.add(target.store);
        changes.push(change.1);
    }
    (!changes.is_empty()).then_some((target.store, changes))
}

/// The move to `target` from the donor furthest above its share.
fn best_move(
    balance: &Balance<'_>,
    map: &PgMap,
    target: &StoreView,
    moved: &std::collections::BTreeSet<PgId>,
) -> Option<(StoreId, PgChange)> {
    let mut best: Option<(f64, StoreId, PgChange)> = None;
    for (pg, info) in numbered(map).filter(|(pg, info)| at_rest(info) && !moved.contains(pg)) {
        for donor in &info.members {
            let surplus = -balance.deficit(*donor);
            let better = best.as_ref().is_none_or(|(s, ..)| surplus > *s);
            if surplus < 0.5 || !better {
                continue;
            }
            let rest: Vec<StoreId> = without(info, *donor);
            let Some(view) = balance.view(*donor) else {
                continue;
            };
            let crowd = |v: &StoreView| balance.crowd(v.domain(), &rest);
            if balance.fits(target, &rest) && crowd(target) <= crowd(view) {
                best = Some((surplus, *donor, substituted(pg, info, *donor, target.store)));
            }
        }
    }
    best.map(|(_, donor, change)| (donor, change))
}

fn balance<'a>(map: &PgMap, stores: &'a [StoreView]) -> Balance<'a> {
    let shares = fair_shares(stores, map.pgs.len(), map.quorum.n);
    Balance::new(stores, shares, held(map))
}

fn numbered(map: &PgMap) -> impl Iterator<Item = (PgId, &PgInfo)> {
    map.pgs
        .iter()
        .enumerate()
        .map(|(i, info)| (PgId(u16::try_from(i).unwrap_or(u16::MAX)), info))
}

/// Members that hold everything.
fn complete(info: &PgInfo) -> impl Iterator<Item = &StoreId> {
    info.members.iter().filter(|m| !info.filling.contains(m))
}

fn at_rest(info: &PgInfo) -> bool {
    info.phase == PgPhase::Active && info.filling.is_empty() && info.prior.is_empty()
}

/// A member may be replaced if another one is complete.
fn may_leave(info: &PgInfo, store: StoreId) -> bool {
    info.phase != PgPhase::Fencing
        && info.members.contains(&store)
        && complete(info).any(|m| *m != store)
}

fn without(info: &PgInfo, store: StoreId) -> Vec<StoreId> {
    info.members
        .iter()
        .copied()
        .filter(|m| *m != store)
        .collect()
}

/// `from`'s place goes to `to`, which comes last: it has the least.
fn substituted(pg: PgId, info: &PgInfo, from: StoreId, to: StoreId) -> PgChange {
    let mut members = without(info, from);
    members.push(to);
    PgChange {
        pg,
        from: info.epoch,
        members,
    }
}

fn replace(
    balance: &mut Balance<'_>,
    pg: PgId,
    info: &PgInfo,
    leaving: StoreId,
) -> Option<PgChange> {
    if !may_leave(info, leaving) {
        return None;
    }
    let to = balance.choose(pg, &without(info, leaving))?;
    balance.remove(leaving);
    balance.add(to);
    Some(substituted(pg, info, leaving, to))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

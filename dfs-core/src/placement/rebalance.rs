//! Moves without anything being broken: to emptier stores, off full ones, and out of one zone.
//!
//! A move is worth its bytes only if it brings both ends nearer to their shares: moving weight `w` from
//! a store `s` above its share to one `d` below it helps most at `w = (s + d) / 2`, and not at all
//! from `s + d` on. It is made up to [`GAIN_MAX`] of that, and only while one end is further from its
//! share than the slack; so plans end, and what other plans do meanwhile starts no swing. The leader
//! begins only when [`unevenness`] is well above 1, and goes on until it is 1.
//!
//! Where room is short, shares of room say little: a move to a store that is nearly as full as the one
//! it leaves would soon be made back. Such a move is not made, unless both share a device.
//!
//! A group that cannot be written, because too many of its members are full, comes first
//! ([`plan_relief`]), whatever the shares say.
//!
//! Nobody is herded: weights of copies on their way count as arrived, so that each further move looks
//! for who is emptiest *then*; a plan has few moves, and at most half of the room for moves goes to
//! one store while another is below its share as well.
use super::choose::{Balance, rendezvous};
use super::plan::{at_rest, balance, numbered, replace, substituted, without};
use super::view::{StoreRole, StoreView, room};
use super::weigh::Weights;
use crate::master::command::PgChange;
use crate::types::{PgId, PgInfo, PgMap, PgPhase, StoreId};
use std::collections::{BTreeMap, BTreeSet};

/// How far a store may be from its share before anything is moved, as a part of the share.
const SLACK: f64 = 0.04;
/// The same in mean copies, for small shares: creation may leave as much.
const SLACK_COPIES: f64 = 2.0;
/// Weight of a move, as a part of how far both ends are from their shares together.
const GAIN_MAX: f64 = 0.75;

/// A store with less free than this part must get at least [`ROOM_GAIN`] more than who gives.
const ROOM_SHORT: f64 = 0.1;
const ROOM_GAIN: f64 = 0.02;

/// One move that helps.
#[derive(Debug)]
struct Move {
    gain: f64,
    tie: u64,
    from: StoreId,
    to: StoreId,
    change: PgChange,
}

/// At most `max` moves, those to the store that gets most of them. `None` while everybody is near
/// the share, or nothing can be moved.
#[must_use]
pub fn plan_rebalance(
    map: &PgMap,
    stores: &[StoreView],
    weights: &Weights,
    max: usize,
) -> Option<(StoreId, Vec<PgChange>)> {
    let mut balance = balance(map, stores, weights);
    let mut moved: BTreeSet<PgId> = BTreeSet::new();
    let mut plans: BTreeMap<StoreId, Vec<PgChange>> = BTreeMap::new();
    while moved.len() < max && is_uneven(&balance) {
        let Some(best) = best_move(&balance, map, &moved) else {
            break;
        };
        moved.insert(best.change.pg);
        balance.remove(best.from, best.change.pg);
        balance.add(best.to, best.change.pg);
        plans.entry(best.to).or_default().push(best.change);
    }
    let half = max.div_ceil(2);
    let several = plans.len() > 1;
    let (to, mut changes) = plans.into_iter().max_by_key(|(_, plan)| plan.len())?;
    if several {
        changes.truncate(half);
    }
    Some((to, changes))
}

fn slack(balance: &Balance<'_>, store: StoreId) -> f64 {
    (balance.share(store) * SLACK).max(SLACK_COPIES)
}

fn is_uneven(balance: &Balance<'_>) -> bool {
    worst(balance) > 1.0
}

/// How far the store that is furthest from its share is from it, in slacks.
fn worst(balance: &Balance<'_>) -> f64 {
    let off = |s: &StoreView| balance.deficit(s.store).abs() / slack(balance, s.store);
    balance.stores().iter().map(off).fold(0.0, f64::max)
}

/// How far the worst store is from its share: up to 1 nothing is to be moved.
#[must_use]
pub fn unevenness(map: &PgMap, stores: &[StoreView], weights: &Weights) -> f64 {
    worst(&balance(map, stores, weights))
}

/// At most `max` moves out of groups that have fewer than W members with room, although another
/// store has enough: no plan takes more than half of what is free at its target, or that one would
/// be the next that is full.
#[must_use]
pub fn plan_relief(
    map: &PgMap,
    stores: &[StoreView],
    weights: &Weights,
    max: usize,
) -> Option<(StoreId, Vec<PgChange>)> {
    let mut balance = balance(map, stores, weights);
    let mut plans: BTreeMap<StoreId, Vec<PgChange>> = BTreeMap::new();
    let halves = stores.iter().map(|s| (s.store, s.free_bytes / 2));
    let mut left: BTreeMap<StoreId, u64> = halves.collect();
    // What is on its way to a store is not in its figures yet.
    for (pg, info) in numbered(map).filter(|(_, info)| !at_rest(info)) {
        for store in arriving(info) {
            let room = left.entry(*store).or_default();
            *room = room.saturating_sub(weights.bytes(pg));
        }
    }
    let is_full = |m: &&StoreId| {
        let view = stores.iter().find(|s| s.store == **m);
        view.is_some_and(|v| v.role == StoreRole::Sheds)
    };
    for (pg, info) in numbered(map).filter(|(_, info)| at_rest(info)) {
        let full: Vec<&StoreId> = info.members.iter().filter(is_full).collect();
        if info.members.len() - full.len() >= usize::from(map.quorum.w) {
            continue;
        }
        let above = |m: &&StoreId| balance.deficit(**m);
        let Some(&from) = full
            .into_iter()
            .min_by(|a, b| above(a).total_cmp(&above(b)))
        else {
            continue;
        };
        let rest = without(info, from);
        let Some(to) = balance.choose_willing(pg, &rest) else {
            continue;
        };
        let after = left.get(&to).and_then(|l| l.checked_sub(weights.bytes(pg)));
        let Some(after) = after else {
            continue;
        };
        left.insert(to, after);
        balance.remove(from, pg);
        balance.add(to, pg);
        let change = substituted(pg, info, from, to);
        plans.entry(to).or_default().push(change);
        if plans.values().map(Vec::len).sum::<usize>() >= max {
            break;
        }
    }
    plans.into_iter().max_by_key(|(_, plan)| plan.len())
}

/// Members that a group is or will be copied to.
fn arriving(info: &PgInfo) -> impl Iterator<Item = &StoreId> {
    let is_fencing = info.phase == PgPhase::Fencing;
    let is_new =
        move |m: &&StoreId| info.filling.contains(m) || (is_fencing && !info.prior.contains(m));
    info.members.iter().filter(is_new)
}

/// Both are short of room, and about equally so.
fn are_equally_full(all: &[StoreView], from: &StoreView, to: &StoreView) -> bool {
    let (left, free) = (room(from, all), room(to, all));
    from.device != to.device && free < ROOM_SHORT && free < left + ROOM_GAIN
}

/// The move that helps most.
fn best_move(balance: &Balance<'_>, map: &PgMap, moved: &BTreeSet<PgId>) -> Option<Move> {
    let targets: Vec<&StoreView> = balance
        .stores()
        .iter()
        .filter(|s| s.role == StoreRole::Receives && balance.deficit(s.store) > 0.0)
        .collect();
    let mut best: Option<Move> = None;
    for (pg, info) in numbered(map).filter(|(pg, info)| at_rest(info) && !moved.contains(pg)) {
        for from in donors(balance, info) {
            for to in &targets {
                let Some(found) = worth(balance, (pg, info), from, to) else {
                    continue;
                };
                let is_better = |b: &Move| (found.gain, found.tie) > (b.gain, b.tie);
                if best.as_ref().is_none_or(is_better) {
                    best = Some(found);
                }
            }
        }
    }
    best
}

/// Members that may give their copy away. Where one lacks objects, only that one: the others are
/// needed as they are.
fn donors<'a>(
    balance: &'a Balance<'_>,
    info: &'a PgInfo,
) -> impl Iterator<Item = &'a StoreView> + 'a {
    let starved = |s: &StoreId| balance.view(*s).is_some_and(|v| v.starved);
    let any_starved = info.members.iter().any(starved);
    info.members
        .iter()
        .filter_map(|m| balance.view(*m))
        .filter(move |v| !any_starved || v.starved)
        .filter(|v| v.role != StoreRole::Leaves && balance.deficit(v.store) < 0.0)
}

fn worth(
    balance: &Balance<'_>,
    (pg, info): (PgId, &PgInfo),
    from: &StoreView,
    to: &StoreView,
) -> Option<Move> {
    let (above, below) = (-balance.deficit(from.store), balance.deficit(to.store));
    let is_due = above > slack(balance, from.store) || below > slack(balance, to.store);
    let weight = balance.weight(pg);
    if !is_due || weight > (above + below) * GAIN_MAX {
        return None;
    }
    let rest = without(info, from.store);
    let crowd = |v: &StoreView| balance.crowd(v.domain(), &rest);
    let is_vain = are_equally_full(balance.stores(), from, to);
    if is_vain || !balance.fits(to, &rest) || crowd(to) > crowd(from) {
        return None;
    }
    Some(Move {
        gain: weight * (above + below - weight),
        tie: rendezvous(pg, to.store),
        from: from.store,
        to: to.store,
        change: substituted(pg, info, from.store, to.store),
    })
}

/// At most `max` groups of which two copies fail together although a domain without one has room:
/// one of the two moves there.
#[must_use]
pub fn plan_spread(
    map: &PgMap,
    stores: &[StoreView],
    weights: &Weights,
    max: usize,
) -> Option<(StoreId, Vec<PgChange>)> {
    let mut balance = balance(map, stores, weights);
    let mut plans: BTreeMap<StoreId, Vec<PgChange>> = BTreeMap::new();
    for (pg, info) in numbered(map).filter(|(_, info)| at_rest(info)) {
        let Some(from) = crowded(&balance, pg, info) else {
            continue;
        };
        let mut tried = balance.clone();
        if let Some(change) = replace(&mut tried, pg, info, from) {
            balance = tried;
            let to = *change.members.last().expect("the substitute comes last");
            plans.entry(to).or_default().push(change);
        }
        if plans.values().map(Vec::len).sum::<usize>() >= max {
            break;
        }
    }
    plans.into_iter().max_by_key(|(_, plan)| plan.len())
}

/// The member to be moved out of a domain with more than one copy, if its substitute would be in a
/// less crowded one.
fn crowded(balance: &Balance<'_>, pg: PgId, info: &PgInfo) -> Option<StoreId> {
    let crowd_of = |store: &StoreId, rest: &[StoreId]| {
        let view = balance.view(*store)?;
        Some(balance.crowd(view.domain(), rest))
    };
    let gives = |from: &StoreId| {
        let rest = without(info, *from);
        let now = crowd_of(from, &rest)?;
        let to = balance.choose_willing(pg, &rest).filter(|_| now > 0)?;
        (crowd_of(&to, &rest)? < now).then_some((*from, balance.deficit(*from)))
    };
    let all = info.members.iter().filter_map(gives);
    all.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(from, _)| from)
}

#[cfg(test)]
#[path = "rebalance_tests.rs"]
mod tests;

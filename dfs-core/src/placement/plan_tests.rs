use super::*;
use crate::placement::view::held;
use crate::placement::{StoreRole, plan_rebalance, plan_spread};
use crate::types::{Epoch, LogIndex, NodeId, QuorumSizes};
use std::collections::{BTreeMap, BTreeSet};

const PGS: usize = 256;

fn blank_map() -> PgMap {
    let info = PgInfo {
        epoch: Epoch(0),
        members: vec![],
        filling: vec![],
        prior: vec![],
        phase: PgPhase::Active,
    };
    PgMap {
        version: LogIndex(1),
        quorum: QuorumSizes::DEFAULT,
        pgs: vec![info; PGS],
    }
}

fn id(i: u64) -> StoreId {
    // Spread over the whole range, as uuids are.
    StoreId(u128::from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 32 | u128::from(i))
}

fn store(i: u64) -> StoreView {
    StoreView {
        store: id(i),
        node: NodeId(u128::from(i)),
        zone: String::new(),
        device: 1,
        free_bytes: 1 << 40,
        used_bytes: 0,
        role: StoreRole::Receives,
        load: 0,
        starved: false,
    }
}

fn stores(n: u64) -> Vec<StoreView> {
    (1..=n).map(store).collect()
}

fn even() -> Weights {
    Weights::even(PGS)
}

fn settle(map: &mut PgMap, changes: &[PgChange]) {
    for change in changes {
        let info = &mut map.pgs[usize::from(change.pg.0)];
        assert_eq!(info.epoch, change.from);
        info.epoch = change.from.next();
        info.members = change.members.clone();
    }
}

fn created(stores: &[StoreView]) -> PgMap {
    let mut map = blank_map();
    let plan = plan_create(&map, stores, &even());
    assert_eq!(plan.len(), PGS);
    settle(&mut map, &plan);
    map
}

fn spread(map: &PgMap) -> (u32, u32) {
    let held: BTreeMap<_, _> = held(map);
    (*held.values().min().unwrap(), *held.values().max().unwrap())
}

fn assert_sound(map: &PgMap, stores: &[StoreView]) {
    let node: BTreeMap<_, _> = stores.iter().map(|s| (s.store, s.node)).collect();
    for info in &map.pgs {
        let nodes: BTreeSet<_> = info.members.iter().map(|m| node[m]).collect();
        assert_eq!(nodes.len(), usize::from(map.quorum.n), "{info:?}");
    }
}

#[test]
fn creation_is_even_over_five_and_six_stores() {
    for n in [3, 4, 5, 6, 9] {
        let stores = stores(n);
        let map = created(&stores);
        assert_sound(&map, &stores);
        let (min, max) = spread(&map);
        let fair = (PGS * 3) as f64 / n as f64;
        assert!(
            f64::from(max) <= fair * 1.1 && f64::from(min) >= fair * 0.9,
            "{n}: {min}..{max}"
        );
    }
}

#[test]
fn creation_waits_for_n_nodes() {
    assert!(plan_create(&blank_map(), &stores(2), &even()).is_empty());
    let mut same_node = stores(3);
    same_node[2].node = same_node[1].node;
    assert!(plan_create(&blank_map(), &same_node, &even()).is_empty());
}

#[test]
fn regression_a_cluster_begins_on_full_devices() {
    let mut full = stores(3);
    full.iter_mut().for_each(|s| s.role = StoreRole::Sheds);
    assert_sound(&created(&full), &full);
    // One with room goes first.
    full.push(store(4));
    assert_eq!(held(&created(&full))[&id(4)], PGS as u32);
    full[0].role = StoreRole::Keeps;
    full[1].role = StoreRole::Leaves;
    assert!(plan_create(&blank_map(), &full, &even()).is_empty());
}

#[test]
fn partners_of_a_store_are_many() {
    let map = created(&stores(6));
    let sets: BTreeSet<BTreeSet<StoreId>> = map
        .pgs
        .iter()
        .map(|pg| pg.members.iter().copied().collect())
        .collect();
    assert!(sets.len() >= 15, "{} of 20 triples", sets.len());
}

#[test]
fn a_failed_store_is_replaced_everywhere_and_evenly_and_nothing_else_moves() {
    let mut stores = stores(6);
    let mut map = created(&stores);
    stores[2].role = StoreRole::Leaves;
    let before = map.clone();
    let plan = plan_failed(&map, &stores, &even(), id(3));
    assert_eq!(plan.len(), held(&before)[&id(3)] as usize);
    settle(&mut map, &plan);
    assert_sound(&map, &stores);
    assert!(!held(&map).contains_key(&id(3)));
    let (min, max) = spread(&map);
    assert!(
        f64::from(max) <= 153.6 * 1.12 && f64::from(min) >= 153.6 * 0.88,
        "{min}..{max}"
    );
    for (old, new) in before.pgs.iter().zip(&map.pgs) {
        let kept = old
            .members
            .iter()
            .filter(|m| new.members.contains(m))
            .count();
        assert!(kept >= 2, "{old:?} -> {new:?}");
    }
}

#[test]
fn without_a_spare_store_nothing_is_planned() {
    let mut stores = stores(3);
    let map = created(&stores);
    stores[0].role = StoreRole::Leaves;
    assert!(plan_failed(&map, &stores, &even(), id(1)).is_empty());
    assert!(plan_drain(&map, &stores, &even(), id(1), 8).is_empty());
}

#[test]
fn the_last_complete_copy_is_never_given_up() {
    let mut stores = stores(4);
    let mut map = created(&stores);
    for info in &mut map.pgs {
        info.filling = info
            .members
            .iter()
            .copied()
            .filter(|m| *m != id(1))
            .collect();
    }
    stores[0].role = StoreRole::Leaves;
    assert!(plan_failed(&map, &stores, &even(), id(1)).is_empty());
}

#[test]
fn fewest_copies_come_first() {
    let mut stores = stores(5);
    let mut map = created(&stores);
    let weak = map
        .pgs
        .iter()
        .rposition(|pg| pg.members.contains(&id(2)))
        .unwrap();
    let other = *map.pgs[weak].members.iter().find(|m| **m != id(2)).unwrap();
    map.pgs[weak].filling = vec![other];
    stores[1].role = StoreRole::Leaves;
    let plan = plan_failed(&map, &stores, &even(), id(2));
    assert_eq!(usize::from(plan[0].pg.0), weak);
}

#[test]
fn a_fresh_store_gets_its_share_in_small_steps_and_only_it_gains() {
    let old = stores(5);
    let mut map = created(&old);
    let all = stores(6);
    let before = held(&map);
    let mut steps = 0;
    while let Some((to, plan)) = plan_rebalance(&map, &all, &even(), 8) {
        assert_eq!(to, id(6));
        assert!(plan.len() <= 8);
        settle(&mut map, &plan);
        steps += 1;
        assert!(steps < 40, "does not end");
    }
    assert_sound(&map, &all);
    let after = held(&map);
    assert!(old.iter().all(|s| after[&s.store] <= before[&s.store]));
    let (min, max) = spread(&map);
    assert!(
        f64::from(max) <= 128.0 * 1.15 && f64::from(min) >= 128.0 * 0.85,
        "{min}..{max}"
    );
}

#[test]
fn a_balanced_cluster_is_left_alone() {
    let stores = stores(5);
    assert_eq!(plan_rebalance(&created(&stores), &stores, &even(), 8), None);
}

#[test]
fn a_drained_store_empties_in_steps() {
    let mut stores = stores(5);
    let mut map = created(&stores);
    stores[4].role = StoreRole::Leaves;
    for _ in 0..100 {
        let plan = plan_drain(&map, &stores, &even(), id(5), 8);
        assert!(plan.len() <= 8);
        if plan.is_empty() {
            break;
        }
        settle(&mut map, &plan);
    }
    assert!(!held(&map).contains_key(&id(5)));
    assert_sound(&map, &stores);
}

#[test]
fn copies_go_to_different_zones_while_there_is_room() {
    let mut stores = stores(6);
    for (i, s) in stores.iter_mut().enumerate() {
        s.zone = format!("rack{}", i % 3);
    }
    let map = created(&stores);
    let zone: BTreeMap<_, _> = stores.iter().map(|s| (s.store, s.zone.clone())).collect();
    for info in &map.pgs {
        let zones: BTreeSet<_> = info.members.iter().map(|m| &zone[m]).collect();
        assert_eq!(zones.len(), 3);
    }
    // Two zones only: every PG still uses both.
    for (i, s) in stores.iter_mut().enumerate() {
        s.zone = format!("rack{}", i % 2);
    }
    let map = created(&stores);
    let zone: BTreeMap<_, _> = stores.iter().map(|s| (s.store, s.zone.clone())).collect();
    for info in &map.pgs {
        let zones: BTreeSet<_> = info.members.iter().map(|m| &zone[m]).collect();
        assert_eq!(zones.len(), 2);
    }
}

#[test]
fn a_full_store_receives_nothing() {
    let mut stores = stores(4);
    stores[3].role = StoreRole::Keeps;
    let map = created(&stores);
    assert!(!held(&map).contains_key(&id(4)));
}

#[test]
fn a_larger_store_holds_more() {
    let mut stores = stores(6);
    stores[0].free_bytes *= 2;
    let map = created(&stores);
    let held = held(&map);
    let others: u32 = (2..=6).map(|i| held[&id(i)]).max().unwrap();
    assert!(held[&id(1)] as f64 > f64::from(others) * 1.6, "{held:?}");
}

/// Bytes of every store, one by one.
fn bytes_of(map: &PgMap, bytes: &[u64], stores: &[StoreView]) -> Vec<u64> {
    let held = |s: &StoreView| {
        let pairs = map.pgs.iter().zip(bytes);
        pairs
            .filter(|(info, _)| info.members.contains(&s.store))
            .map(|(_, b)| *b)
            .sum()
    };
    stores.iter().map(held).collect()
}

fn rebalanced(map: &mut PgMap, stores: &[StoreView], weights: &Weights) -> usize {
    let mut steps = 0;
    while let Some((_, plan)) = plan_rebalance(map, stores, weights, 8) {
        assert!(plan.len() <= 8);
        settle(map, &plan);
        steps += 1;
        assert!(steps < 100, "does not end");
    }
    assert_sound(map, stores);
    steps
}

#[test]
fn bytes_are_balanced_and_not_only_groups() {
    let old = stores(5);
    let mut map = created(&old);
    // A few large groups among many small ones, and most of them on the first stores.
    let size = |i: usize| match i % 9 {
        0 => 40 << 20,
        1..=4 => 4 << 20,
        _ => 0,
    };
    let bytes: Vec<u64> = (0..PGS).map(size).collect();
    let all = stores(6);
    rebalanced(&mut map, &all, &Weights::of_bytes(&bytes));
    let held = bytes_of(&map, &bytes, &all);
    let mean = held.iter().sum::<u64>() as f64 / 6.0;
    for bytes in &held {
        assert!((*bytes as f64 - mean).abs() < mean * 0.08, "{held:?}");
    }
}

#[test]
fn two_fresh_stores_gain_side_by_side() {
    let mut map = created(&stores(5));
    let all = stores(7);
    let mut first = BTreeSet::new();
    for _ in 0..6 {
        let (to, plan) = plan_rebalance(&map, &all, &even(), 8).unwrap();
        assert!(plan.len() <= 4, "half of the room while both are below");
        first.insert(to);
        settle(&mut map, &plan);
    }
    assert_eq!(first, [id(6), id(7)].into());
    rebalanced(&mut map, &all, &even());
}

#[test]
fn a_full_store_gives_away_while_others_have_room_and_only_then() {
    let mut stores = stores(5);
    for s in &mut stores {
        (s.device, s.free_bytes, s.used_bytes) = (s.node.0 as u64, 50, 50);
    }
    let mut map = created(&stores);
    let before = held(&map)[&id(2)];
    stores[1].role = StoreRole::Sheds;
    rebalanced(&mut map, &stores, &even());
    assert!(held(&map)[&id(2)] < before, "{before}");
    stores.iter_mut().for_each(|s| s.role = StoreRole::Sheds);
    assert_eq!(plan_rebalance(&map, &stores, &even(), 8), None);
}

#[test]
fn where_a_member_lacks_objects_only_its_copy_is_moved() {
    let old = stores(5);
    let mut map = created(&old);
    let mut all = stores(6);
    all[0].starved = true;
    while let Some((_, plan)) = plan_rebalance(&map, &all, &even(), 8) {
        for change in &plan {
            let was = &map.pgs[usize::from(change.pg.0)].members;
            let lost = was.iter().find(|m| !change.members.contains(m));
            assert!(!was.contains(&id(1)) || lost == Some(&id(1)), "{change:?}");
        }
        settle(&mut map, &plan);
    }
}

#[test]
fn copies_leave_a_crowded_zone_when_another_appears() {
    let mut stores = stores(6);
    for (i, s) in stores.iter_mut().enumerate() {
        s.zone = format!("rack{}", i % 2);
    }
    let mut map = created(&stores);
    assert_eq!(
        plan_spread(&map, &stores, &even(), 8),
        None,
        "as good as it gets"
    );
    let mut third = store(7);
    third.zone = "rack2".to_owned();
    stores.push(third);
    let mut steps = 0;
    while let Some((to, plan)) = plan_spread(&map, &stores, &even(), 8) {
        assert_eq!(to, id(7));
        settle(&mut map, &plan);
        steps += 1;
        assert!(steps < 100, "does not end");
    }
    let zone: BTreeMap<_, _> = stores.iter().map(|s| (s.store, s.zone.clone())).collect();
    for info in &map.pgs {
        let zones: BTreeSet<_> = info.members.iter().map(|m| &zone[m]).collect();
        assert_eq!(zones.len(), 3);
    }
    // What is spread stays so, whatever the shares say.
    while let Some((_, plan)) = plan_rebalance(&map, &stores, &even(), 8) {
        settle(&mut map, &plan);
    }
    assert_eq!(plan_spread(&map, &stores, &even(), 8), None);
}

#[test]
fn of_two_stores_with_equal_room_the_idle_one_is_chosen() {
    let mut stores = stores(8);
    stores[4].load = 1 << 30;
    let mut map = created(&stores[..7]);
    stores[0].role = StoreRole::Leaves;
    let plan = plan_failed(&map, &stores[..7], &even(), id(1));
    let gained = |to: u64| {
        plan.iter()
            .filter(|c| c.members.last() == Some(&id(to)))
            .count()
    };
    let idle: Vec<usize> = [2, 3, 4, 6, 7].map(gained).to_vec();
    assert!(gained(5) < *idle.iter().max().unwrap(), "{idle:?}");
    settle(&mut map, &plan);
}

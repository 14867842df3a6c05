use super::*;
use crate::placement::{plan_create, plan_drain, plan_failed};
use crate::types::{Epoch, LogIndex, NodeId, PgPhase, QuorumSizes};

const PGS: usize = 64;

fn store(i: u64) -> StoreView {
    StoreView {
        store: StoreId(u128::from(i)),
        node: NodeId(u128::from(i)),
        zone: String::new(),
        device: i,
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
        (info.epoch, info.members) = (change.from.next(), change.members.clone());
    }
}

fn created(stores: &[StoreView]) -> PgMap {
    let info = PgInfo {
        epoch: Epoch(0),
        members: vec![],
        filling: vec![],
        prior: vec![],
        phase: PgPhase::Active,
    };
    let mut map = PgMap {
        version: LogIndex(1),
        quorum: QuorumSizes::DEFAULT,
        pgs: vec![info; PGS],
    };
    let plan = plan_create(&map, stores, &even());
    settle(&mut map, &plan);
    map
}

fn holds(map: &PgMap, i: u64) -> bool {
    let id = StoreId(u128::from(i));
    map.pgs.iter().any(|pg| pg.members.contains(&id))
}

#[test]
fn regression_a_slow_store_gets_a_copy_where_there_is_no_other_place() {
    let mut all = stores(4);
    all[3].role = StoreRole::Spare;
    let mut map = created(&all);
    assert!(!holds(&map, 4), "while three others have room");
    all[1].role = StoreRole::Leaves;
    let plan = plan_failed(&map, &all, &even(), StoreId(2));
    assert_eq!(plan.len(), PGS, "better on a slow disk than not at all");
    assert_eq!(
        plan_drain(&map, &all, &even(), StoreId(2), 8).len(),
        8,
        "the same for a drained one"
    );
    settle(&mut map, &plan);
    assert!(holds(&map, 4) && !holds(&map, 2));
    let mut three = stores(3);
    three[0].role = StoreRole::Spare;
    assert!(holds(&created(&three), 1), "and at creation");
}

#[test]
fn a_slow_store_gets_nothing_for_balance() {
    let mut all = stores(5);
    all[4].role = StoreRole::Spare;
    let map = created(&all);
    assert_eq!(plan_rebalance(&map, &all, &even(), 8), None);
    all.iter_mut().for_each(|s| s.zone = "one".to_owned());
    all[4].zone = "two".to_owned();
    assert_eq!(plan_spread(&map, &all, &even(), 8), None);
}

#[test]
fn regression_a_few_files_move_no_groups() {
    let all = stores(5);
    let map = created(&all);
    let mut bytes = vec![0; PGS];
    (bytes[3], bytes[40]) = (1_000_000, 300_000);
    let weights = Weights::of_bytes(&bytes);
    assert!(unevenness(&map, &all, &weights) <= 1.0);
    assert_eq!(plan_rebalance(&map, &all, &weights, 8), None);
}

#[test]
fn regression_stores_that_are_equally_full_exchange_nothing() {
    let full = |i: u64, room: u64| StoreView {
        free_bytes: room,
        used_bytes: 1000 - room,
        role: match room {
            0..20 => StoreRole::Sheds,
            20..50 => StoreRole::Spare,
            _ => StoreRole::Receives,
        },
        ..store(i)
    };
    let mut all: Vec<_> = (1..)
        .zip([48, 52, 55, 60, 58])
        .map(|(i, r)| full(i, r))
        .collect();
    let map = created(&stores(5));
    assert_eq!(plan_rebalance(&map, &all, &even(), 8), None);
    // A sixth one with room takes from all of them.
    all.push(full(6, 1000));
    let (to, _) = plan_rebalance(&map, &all, &even(), 8).unwrap();
    assert_eq!(to, StoreId(6));
}

#[test]
fn regression_a_group_that_too_many_full_members_make_unwritable_is_moved() {
    let mut all = stores(5);
    let map = created(&all);
    all[0].role = StoreRole::Sheds;
    assert_eq!(plan_relief(&map, &all, &even(), 99), None, "W have room");
    all[1].role = StoreRole::Sheds;
    let is_choked = |pg: &PgInfo| {
        let full = [StoreId(1), StoreId(2)];
        pg.members.iter().filter(|m| full.contains(m)).count() > 1
    };
    let mut relieved = map.clone();
    while let Some((_, plan)) = plan_relief(&relieved, &all, &even(), 8) {
        assert!(
            plan.iter()
                .all(|c| is_choked(&map.pgs[usize::from(c.pg.0)]))
        );
        settle(&mut relieved, &plan);
    }
    assert!(map.pgs.iter().any(is_choked) && !relieved.pgs.iter().any(is_choked));
    all.iter_mut().for_each(|s| s.role = StoreRole::Sheds);
    assert_eq!(plan_relief(&map, &all, &even(), 8), None, "nobody has room");
}

#[test]
fn regression_relief_fills_no_store_to_the_brim() {
    let mut all = stores(5);
    let map = created(&all);
    for s in &mut all[..4] {
        s.role = StoreRole::Sheds;
    }
    all[4].free_bytes = 100 << 20;
    let weights = Weights::of_bytes(&[9 << 20; PGS]);
    let (to, plan) = plan_relief(&map, &all, &weights, 99).unwrap();
    assert_eq!((to, plan.len()), (StoreId(5), 5), "half of its room");
    all[4].free_bytes = 10 << 20;
    assert_eq!(plan_relief(&map, &all, &weights, 99), None);
}

#[test]
fn regression_relief_counts_what_is_on_its_way_to_a_store() {
    let mut all = stores(5);
    let map = created(&all);
    for s in &mut all[..4] {
        s.role = StoreRole::Sheds;
    }
    all[4].free_bytes = 100 << 20;
    let weights = Weights::of_bytes(&[9 << 20; PGS]);
    let (_, plan) = plan_relief(&map, &all, &weights, 3).unwrap();
    assert_eq!(plan.len(), 3);
    for phase in [PgPhase::Fencing, PgPhase::Copying] {
        let mut begun = map.clone();
        for change in &plan {
            let info = &mut begun.pgs[usize::from(change.pg.0)];
            info.prior = std::mem::replace(&mut info.members, change.members.clone());
            info.phase = phase;
            if phase == PgPhase::Copying {
                info.filling = vec![StoreId(5)];
            }
        }
        let (to, rest) = plan_relief(&begun, &all, &weights, 99).unwrap();
        assert_eq!((to, rest.len()), (StoreId(5), 2), "half of its room");
    }
}

/// A move brings the further of both ends nearer to its share by a good part of what it costs.
#[test]
fn a_move_is_worth_its_bytes() {
    let mut map = created(&stores(5));
    let all = stores(6);
    let off = |map: &PgMap| unevenness(map, &all, &even());
    let mut before = off(&map);
    while let Some((_, plan)) = plan_rebalance(&map, &all, &even(), 8) {
        settle(&mut map, &plan);
        assert!(off(&map) < before, "{before}");
        before = off(&map);
    }
}

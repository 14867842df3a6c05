//! Which copies count, who is silent, and which news a store missed.
use super::*;
use crate::master::command::{ChangeCause, Command, PgChange};
use crate::master::state::PgState;
use crate::types::{PgId, PgInfo};
use crate::wire::master::ClusterStatus;

fn four() -> Bench {
    let mut bench = Bench::new(1, 4);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    bench
}

pub(super) fn status(bench: &mut Bench) -> ClusterStatus {
    match bench.call(CLIENT_A, MasterRequest::Status) {
        Ok(MasterResponse::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn regression_a_store_that_lacks_objects_is_no_full_copy() {
    let mut bench = four();
    let before = status(&mut bench);
    assert_eq!(before.health, Health::Healthy, "{:?}", before.reasons);
    let pgs = &bench.leader().state().map().pgs;
    let pg = (0u16..)
        .zip(pgs)
        .find(|(_, pg)| pg.members.contains(&StoreId(2)));
    let pg = PgId(pg.unwrap().0);
    bench.set_lacks(StoreId(2), vec![(pg, 3)]);
    bench.run_for(1_000);
    let lacking = status(&mut bench);
    assert_eq!(lacking.health, Health::Degraded);
    let named = lacking.stores.iter().filter(|s| !s.lacking.is_empty());
    let named: Vec<_> = named.map(|s| (s.store, &s.lacking[..])).collect();
    assert_eq!(named, [(StoreId(2), &[pg][..])], "for the tools");
    let says = |text: &str| lacking.reasons.iter().any(|r| r.contains(text));
    assert!(
        says("lacks 3 objects of 1 groups, being copied"),
        "{:?}",
        lacking.reasons
    );
    assert!(
        says("1 groups have fewer than 3 copies"),
        "{:?}",
        lacking.reasons
    );
    bench.set_lacks(StoreId(2), Vec::new());
    bench.run_for(1_000);
    assert_eq!(status(&mut bench).health, Health::Healthy);
}

#[test]
fn regression_a_store_directory_that_was_replaced_does_not_make_the_leader_deaf() {
    let mut bench = four();
    // The same node as store 1.
    let former = StoreId((1 << 64) | 1);
    bench.add_store(former);
    bench.run_until("seen", |b| {
        b.leader().state().stores().contains_key(&former)
    });
    bench.mute(former);
    bench.run_for(5_000);
    bench.mute(StoreId(3));
    bench.run_for(5_000);
    let rows = bench.leader().state().stores();
    assert!(rows[&StoreId(3)].down_since.is_some());
    assert!(rows[&StoreId(2)].down_since.is_none());
}

#[test]
fn regression_copies_of_a_store_that_was_replaced_do_not_count_from_its_first_heartbeat_on() {
    let mut bench = four();
    let (former, fresh) = (StoreId(2), StoreId((1 << 64) | 2));
    bench.mute(former);
    bench.add_store(fresh);
    bench.restart_store(fresh);
    bench.run_until("seen", |b| b.leader().state().stores().contains_key(&fresh));
    let seen = status(&mut bench);
    assert_eq!(seen.health, Health::Degraded, "{:?}", seen.reasons);
    let says = |text: &str| seen.reasons.iter().any(|r| r.contains(text));
    assert!(says("which node 00000000 had before, is gone"), "{seen:?}");
}

#[test]
fn regression_a_late_heartbeat_does_not_make_a_store_be_filled_again() {
    let mut bench = Bench::new(1, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(2_000);
    sessions(&mut bench);
    ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    bench.run_until("trimmed", |b| {
        b.leader().state().notes_trimmed().unwrap() > crate::types::LogIndex(0)
    });
    bench.late_heartbeat(StoreId(3));
    bench.run_for(2_000);
    assert!(!bench.was_refilled(StoreId(3)));
}

#[test]
fn regression_a_store_is_told_which_of_the_groups_it_copies_are_at_their_last_live_copy() {
    let told = |b: &Bench| {
        let stores = [StoreId(1), StoreId(2)];
        stores.map(|store| b.told(store).1.len())
    };
    let mut bench = four();
    bench.mute(StoreId(3));
    bench.run_until("it is repaired", |b| b.count(PgPhase::Copying) > 0);
    assert_eq!(told(&bench), [0, 0], "another is there");
    let mut bench = four();
    bench.mute(StoreId(3));
    bench.mute(StoreId(4));
    // Nobody replaces the second of the two: as the map says, two copies are complete.
    bench.run_until("told", |b| told(b).iter().all(|groups| *groups > 0));
    let two = |b: &Bench| {
        let filling = |pg: &&PgInfo| pg.phase == PgPhase::Copying && pg.filling.len() == 1;
        b.leader().state().map().pgs.iter().filter(filling).count()
    };
    bench.run_until("one is filled", |b| two(b) > 0);
    // What lacks objects copies too.
    let mut bench = four();
    bench.mute(StoreId(3));
    bench.mute(StoreId(4));
    bench.run_for(20_000);
    assert_eq!(told(&bench), [0, 0], "nothing is copied");
    let (pg, _) = bench
        .leader()
        .state()
        .pgs()
        .find(|(_, state)| state.info.members.contains(&StoreId(2)))
        .unwrap();
    bench.set_lacks(StoreId(2), vec![(pg, 3)]);
    bench.run_for(1_000);
    assert_eq!(told(&bench), [0, 1]);
}

#[test]
fn regression_who_leaves_a_group_before_it_is_filled_is_no_full_copy() {
    let mut bench = four();
    let map = &bench.leader().state().map();
    let (pg, info) = (0u16..)
        .zip(&map.pgs)
        .find(|(_, pg)| !pg.members.contains(&StoreId(4)))
        .map(|(pg, info)| (PgId(pg), info.clone()))
        .unwrap();
    let leaving = info.members[2];
    // As a move that was planned a moment before its source said that it must be filled anew.
    bench.freeze_epochs(true);
    bench.propose(Command::Refill {
        members: vec![(pg, info.epoch, leaving)],
    });
    bench.run_until("it is filled anew", |b| b.count(PgPhase::Copying) == 1);
    bench.propose(Command::BeginEpoch {
        cause: ChangeCause::Rebalance(leaving),
        changes: vec![PgChange {
            pg,
            from: info.epoch,
            members: vec![info.members[0], info.members[1], StoreId(4)],
        }],
    });
    let is_moving = |b: &Bench| {
        let info = &b.leader().state().map().pgs[usize::from(pg.0)];
        info.phase == PgPhase::Copying && info.prior == [leaving]
    };
    bench.run_until("it began", |b| b.count(PgPhase::Fencing) == 1);
    bench.freeze_epochs(false);
    bench.run_until("the group moves", is_moving);
    bench.mute(StoreId(4));
    bench.run_for(600);
    assert!(is_moving(&bench));
    let seen = status(&mut bench);
    let is_such = |r: &String| r.contains("1 groups have fewer than 3 copies");
    assert!(seen.reasons.iter().any(is_such), "{:?}", seen.reasons);
    let named = seen.stores.iter().filter(|s| !s.lacking.is_empty());
    let named: Vec<_> = named.map(|s| (s.store, &s.lacking[..])).collect();
    assert_eq!(named, [(leaving, &[pg][..])]);
}

#[test]
fn regression_who_gives_a_group_away_and_lacks_objects_of_it_is_no_full_copy() {
    let mut bench = four();
    bench.add_store(StoreId(5));
    let moving = |b: &Bench| {
        let mut pgs = b.leader().state().pgs();
        let is_such = |info: &PgInfo| {
            info.phase == PgPhase::Copying && info.filling == [StoreId(5)] && !info.prior.is_empty()
        };
        let found = pgs.find(|(_, state)| is_such(&state.info));
        found.map(|(pg, state)| (pg, state.info.prior[0]))
    };
    bench.run_until("a group moves", |b| moving(b).is_some());
    bench.mute(StoreId(5));
    let (pg, source) = moving(&bench).unwrap();
    let says = |status: &ClusterStatus| {
        let is_such = |r: &String| r.contains("groups have fewer than 3 copies");
        status.reasons.iter().any(is_such)
    };
    bench.run_for(600);
    assert!(!says(&status(&mut bench)), "it keeps what it gives away");
    bench.set_lacks(source, vec![(pg, 3)]);
    bench.run_for(600);
    let lacking = status(&mut bench);
    assert!(says(&lacking), "{:?}", lacking.reasons);
    let mut pgs = bench.leader().state().pgs();
    let is_source = |state: &PgState| state.info.prior.contains(&source);
    assert!(
        pgs.any(|(other, state)| other == pg && is_source(state)),
        "it is still moving"
    );
}

#[test]
fn stores_are_told_the_term_of_the_leader_that_answers() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    let term = bench.leader().raft().term();
    bench.run_until("told", |b| b.told(StoreId(1)).0 == term);
    let former = bench.leader_id();
    bench.cut(former, true);
    bench.run_until("another leads", |b| {
        b.has_leader() && b.leader_id() != former
    });
    let later = bench.leader().raft().term();
    assert!(later > term, "{later} after {term}");
    bench.run_until("told", |b| b.told(StoreId(1)).0 == later);
}

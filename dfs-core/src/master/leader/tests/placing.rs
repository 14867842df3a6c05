//! Which groups move and which do not, and stores that are replaced on a node that lives.
use super::copies::status;
use super::*;
use crate::types::{LogIndex, NodeId, PgId};
use crate::wire::repair::RepairRecord;
use std::collections::BTreeSet;

fn records(bench: &mut Bench) -> Vec<RepairRecord> {
    match bench.call(CLIENT_A, MasterRequest::RepairRecords) {
        Ok(MasterResponse::Records(records)) => records,
        other => panic!("{other:?}"),
    }
}

/// Notes were trimmed while no store seemed to matter, and all of them were told to be filled again.
#[test]
fn regression_a_fresh_cluster_fills_nothing_again() {
    let mut bench = Bench::new(3, 3);
    bench.mute(StoreId(3));
    bench.run_for(6_000);
    let trimmed = bench.leader().state().notes_trimmed().unwrap();
    assert_eq!(trimmed, LogIndex(0), "members to come are told everything");
    bench.unmute(StoreId(3));
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    assert_eq!(records(&mut bench), []);
}

#[test]
fn regression_a_node_that_joins_is_filled_once() {
    let mut bench = Bench::new(1, 5);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    for seq in 1..=20 {
        ino_of(bench.call(CLIENT_A, mutate(A, seq, create(&format!("f{seq}")))));
    }
    bench.run_until("trimmed", |b| {
        b.leader().state().notes_trimmed().unwrap() > LogIndex(0)
    });
    bench.add_store(StoreId(6));
    bench.run_until("has its share", |b| {
        b.held(StoreId(6)) >= 6 && b.all_active()
    });
    bench.run_for(5_000);
    let records = records(&mut bench);
    assert!(!records.is_empty());
    for record in records {
        assert!(record.cause.contains("got its share"), "{record:?}");
        assert_eq!(
            record.lowest_copies, 2,
            "two stay until the third is filled: {record:?}"
        );
    }
}

#[test]
fn regression_a_store_that_was_replaced_can_be_removed_and_its_node_keeps_its_vote() {
    let mut bench = Bench::new(4, 4);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    let voters: BTreeSet<RaftId> = bench.leader().raft().voters().iter().copied().collect();
    let (old, new) = (StoreId(3), StoreId((1 << 64) | 3));
    bench.mute(old);
    bench.add_store(new);
    bench.run_until("seen", |b| b.leader().state().stores().contains_key(&new));
    let remove = |store| MasterRequest::RemoveStore { store };
    assert!(bench.call(CLIENT_A, remove(old)).is_err(), "it counts");
    assert!(bench.call(CLIENT_A, remove(new)).is_err(), "it is up");
    bench.run_until("repaired", |b| !b.holds(old) && b.all_active());
    bench.run_for(45_000);
    let now = bench.leader().raft().voters().iter().copied().collect();
    assert_eq!(voters, now, "the node lives and keeps its vote");
    let before = status(&mut bench);
    assert_eq!(before.health, Health::Healthy, "{:?}", before.reasons);
    assert!(
        before
            .notices
            .iter()
            .any(|n| n.contains("dfs-tools remove"))
    );
    let voting = before.stores.iter().filter(|s| s.voter).count();
    assert_eq!(voting, 3, "counted once");
    let node = MasterRequest::Remove { node: NodeId(3) };
    let refused = bench.call(CLIENT_A, node).unwrap_err();
    assert!(refused.detail.contains("had before") || refused.detail.contains("member"));
    bench.call(CLIENT_A, remove(old)).unwrap();
    bench.run_for(5_000);
    let after = status(&mut bench);
    assert_eq!(after.health, Health::Healthy, "{:?}", after.reasons);
    assert_eq!(after.notices, Vec::<String>::new());
    assert!(after.stores.iter().all(|s| s.up && s.store != old));
}

/// A copy that still lacked what was written while its store restarted counted as none, so that the
/// next restart made all groups of both be copied elsewhere.
#[test]
fn regression_a_restart_while_another_store_catches_up_copies_nothing() {
    let mut bench = Bench::new(1, 5);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    let all = (0..16).map(|pg| (PgId(pg), 5)).collect();
    bench.set_lacks(StoreId(2), all);
    bench.run_for(1_000);
    bench.mute(StoreId(3));
    bench.run_for(9_000);
    assert!(bench.holds(StoreId(3)) && bench.all_active());
    assert_eq!(records(&mut bench), []);
    // The last live copy waits for no grace.
    bench.mute(StoreId(4));
    bench.run_until("begun", |b| b.count(PgPhase::Copying) > 0);
}

#[test]
fn regression_the_only_copy_is_not_filled_anew_again_and_again() {
    let mut bench = one();
    bench.run_for(3_000);
    bench.want_renewal(StoreId(1));
    let before = bench.leader().state().applied().index;
    bench.run_for(8_000);
    let after = bench.leader().state().applied().index;
    assert!(after.0 < before.0 + 5, "{before} {after}");
    assert!(bench.all_active());
}

/// The log time that a leader with a wrong clock left behind was taken for sure by the next one.
#[test]
fn regression_a_wrong_clock_and_another_election_purge_nothing_before_its_time() {
    const DAY: i64 = 86_400_000;
    for skews in [[2 * DAY, 0], [2 * DAY, 5 * DAY], [-DAY, 0], [-DAY, 2 * DAY]] {
        let mut bench = Bench::new(3, 3);
        bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
        bench.run_until("groups exist", |b| b.members_complete());
        sessions(&mut bench);
        ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
        let (parent, name) = (Ino::ROOT, Name::new("f").unwrap());
        let purge = false;
        let unlink = Mutation::Unlink {
            parent,
            name,
            purge,
        };
        bench.call(CLIENT_A, mutate(A, 2, unlink)).unwrap();
        let kept = |b: &Bench| b.leader().state().deleted_bytes(9).unwrap().len();
        assert_eq!(kept(&bench), 1);
        for skew in skews {
            bench.skew_wall(skew);
            let old = bench.leader_id();
            bench.stop(old);
            bench.run_until("another leader", |b| b.has_leader());
            bench.start(old);
            bench.run_for(5_000);
            assert_eq!(kept(&bench), 1, "{skews:?}");
        }
    }
}

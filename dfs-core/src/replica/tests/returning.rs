//! What is counted: copies that fill a group, and what a store does that comes back.
use super::*;
use crate::wire::master::PgRow;
use crate::wire::repair::FillCount;

fn filling(epoch: u64) -> PgInfo {
    PgInfo {
        filling: vec![ME],
        prior: vec![peer(4)],
        phase: PgPhase::Copying,
        ..info(epoch, &[1, 2, 3])
    }
}

fn row(ino: u64, seqs: &[u64], is_wide: bool) -> PgRow {
    PgRow {
        ino: Ino(ino),
        chunk: ChunkNo(0),
        objects: seqs.iter().map(|seq| (id(*seq), sum(*seq))).collect(),
        clean: None,
        is_wide,
    }
}

fn list(rig: &mut Rig, rows: Vec<PgRow>, is_last: bool) {
    list_at(rig, 25, rows, is_last);
}

fn list_at(rig: &mut Rig, log: u64, rows: Vec<PgRow>, is_last: bool) {
    let call = rig.call().expect("a listing");
    let response = MasterResponse::PgListing(rows, LogIndex(log), is_last);
    rig.call_done(call.token, Ok((Response::Master(response), Bytes::new())));
    rig.settle();
}

fn give_all(rig: &mut Rig) {
    while let Some(call) = rig.call() {
        let Request::Replica(ReplicaRequest::Fetch { object }) = call.request else {
            panic!("{call:?}");
        };
        rig.give(&call, object.op.seq);
        rig.settle();
    }
}

fn counted(rig: &mut Rig) -> Vec<FillCount> {
    rig.answer(|ok| ok.notes_upto = LogIndex(31));
    rig.settle();
    rig.answer(|_| {});
    rig.answer(|_| {}).repair.counts
}

#[test]
fn regression_a_master_of_another_term_is_told_everything() {
    let mut rig = Rig::new();
    rig.learn(map(20, info(1, &[1, 2, 3])));
    let told = |h: &Heartbeat| (h.load.groups.is_some(), h.fenced.len());
    for _ in 0..5 {
        rig.answer(|_| {});
        rig.settle();
    }
    let (groups, fenced) = told(&rig.answer(|_| {}));
    assert!(!groups && fenced == 0, "it was told");
    let same = rig.answer(|ok| ok.term = Term(2));
    assert_eq!(told(&same), (false, 0));
    let (groups, fenced) = told(&rig.answer(|ok| ok.term = Term(2)));
    assert!(groups && fenced > 0, "it leads since then");
    assert_eq!(told(&rig.answer(|ok| ok.term = Term(2))), (false, 0));
}

#[test]
fn what_fills_a_group_is_counted_by_objects_bytes_and_files_also_over_a_crash() {
    let mut rig = Rig::new();
    rig.learn(map(20, filling(2)));
    list(
        &mut rig,
        vec![row(6, &[2, 3], false), row(7, &[4], true)],
        false,
    );
    // Two of the three come, then it crashes.
    for seq in [2, 3] {
        let call = rig.call().expect("a fetch");
        rig.give(&call, seq);
        rig.settle();
    }
    rig.crash();
    rig.learn(map(20, filling(2)));
    list(
        &mut rig,
        vec![row(6, &[2, 3], false), row(7, &[4], true)],
        true,
    );
    // What is there from before is read from the disk.
    while rig.run_scrubs() > 0 {
        rig.settle();
    }
    give_all(&mut rig);
    let bytes = [2, 3, 4].iter().map(|seq| content(*seq).len() as u64).sum();
    let count = FillCount {
        pg: PG,
        epoch: Epoch(2),
        objects: 3,
        bytes,
        files: 1,
        wide: vec![Ino(7)],
    };
    assert_eq!(counted(&mut rig), [count]);
    // Once the group is complete the rows go: another filling begins at zero.
    rig.learn(map(27, info(2, &[1, 2, 3])));
    rig.learn(map(28, filling(2)));
    list_at(&mut rig, 32, vec![], true);
    rig.answer(|ok| ok.notes_upto = LogIndex(33));
    rig.settle();
    let again = counted(&mut rig);
    assert_eq!((again[0].objects, again[0].files), (0, 0));
}

#[test]
fn a_store_that_was_away_says_what_it_caught_up_with_once() {
    let mut rig = Rig::serving();
    rig.committed(11, 1);
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    assert_eq!(
        rig.answer(|_| {}).repair.rejoin,
        None,
        "nothing was missed yet"
    );
    rig.crash();
    rig.answer(|ok| {
        ok.map = Some(map(12, info(1, &[1, 2, 3])));
        let hold = Note::Hold {
            ino: INO,
            chunk: ChunkNo(0),
            objects: vec![(id(5), sum(5))],
        };
        ok.notes = vec![(LogIndex(15), PG, hold)];
        ok.notes_upto = LogIndex(15);
    });
    rig.settle();
    let call = rig.call().expect("what was missed is fetched at once");
    rig.give(&call, 5);
    rig.settle();
    rig.answer(|_| {});
    let report = rig.answer(|_| {}).repair.rejoin.expect("a report");
    let len = content(5).len() as u64;
    assert_eq!((report.caught_files, report.caught_objects), (1, 1));
    assert_eq!((report.caught_bytes, report.wiped_groups), (len, 0));
    rig.answer(|ok| ok.repair.is_rejoin_noted = true);
    assert_eq!(rig.answer(|_| {}).repair.rejoin, None);
}

#[test]
fn a_replica_that_was_re_replicated_meanwhile_is_wiped_and_counted() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    rig.crash();
    rig.learn(map(30, info(3, &[2, 3, 4])));
    rig.tick(Duration::from_millis(10));
    rig.settle();
    rig.answer(|_| {});
    rig.settle();
    rig.answer(|_| {});
    let heartbeat = rig.answer(|_| {});
    let report = heartbeat.repair.rejoin.expect("a report");
    assert_eq!((report.wiped_groups, report.wiped_objects), (1, 1));
    assert_eq!(heartbeat.repair.wiping, 0);
    assert!(!rig.holds(1));
}

/// The master gave it new groups before it knew what it had to wipe.
#[test]
fn regression_a_store_that_comes_back_says_that_it_has_to_wipe_before_it_knows_what() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    rig.crash();
    let first = rig.answer(|ok| ok.map = Some(map(30, info(3, &[2, 3, 4]))));
    assert_eq!(first.repair.wiping, 1, "it has not heard of the map yet");
    let mut last = rig.answer(|_| {});
    while last.repair.wiping > 0 {
        assert!(last.repair.rejoin.is_none());
        rig.settle();
        last = rig.answer(|_| {});
    }
    let report = last.repair.rejoin.expect("said in the same breath");
    assert_eq!((report.wiped_groups, report.wiped_objects), (1, 1));
    assert!(!rig.holds(1));
}

#[test]
fn the_strict_rule_copies_every_object_anew_and_drops_none_before() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    rig.rejoin_wipe = true;
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    rig.answer(|_| {});
    let renew = rig.answer(|_| {}).repair.renew;
    assert_eq!(renew, [(PG, Epoch(1))]);
    // The master calls it filling; its copy stays until the peer's is here.
    rig.learn(map(
        20,
        PgInfo {
            prior: vec![],
            ..filling(1)
        },
    ));
    list(&mut rig, vec![row(5, &[1], false)], true);
    assert!(rig.holds(1));
    give_all(&mut rig);
    assert!(rig.holds(1));
    let counts = counted(&mut rig);
    assert_eq!((counts[0].objects, counts[0].files), (1, 1));
    rig.learn(map(30, info(1, &[1, 2, 3])));
    assert!(rig.answer(|_| {}).repair.renew.is_empty());
}

/// Few notes may be all that fits into an answer: there were more behind them.
#[test]
fn regression_a_store_is_not_up_to_date_before_it_was_told_all() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    rig.rejoin_wipe = true;
    rig.crash();
    for _ in 0..3 {
        let heartbeat = rig.answer(|ok| {
            ok.map = Some(map(12, info(1, &[1, 2, 3])));
            ok.is_told_all = false;
        });
        rig.settle();
        assert!(heartbeat.repair.renew.is_empty());
    }
    rig.answer(|_| {});
    rig.settle();
    assert_eq!(rig.answer(|_| {}).repair.renew, [(PG, Epoch(1))]);
}

/// Each epoch that others began made a store walk all its objects for a group that it had emptied.
#[test]
fn regression_a_group_that_was_emptied_is_not_walked_again() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    let gone = |rig: &mut Rig, version: u64, epoch: u64| {
        rig.learn(map(version, info(epoch, &[2, 3, 4])));
        rig.tick(Duration::from_millis(10));
        rig.settle();
        rig.answer(|_| {});
        rig.settle();
    };
    gone(&mut rig, 30, 3);
    assert!(!rig.holds(1));
    assert_eq!(rig.replica.purge.walks, 1);
    for i in 0..20 {
        gone(&mut rig, 40 + i, 4 + i);
        assert_eq!(rig.replica.purge.left(), 0);
    }
    assert_eq!(rig.replica.purge.walks, 1);
}

#[test]
fn regression_stamps_of_files_that_went_meanwhile_do_not_come_back_with_the_group() {
    let mut rig = Rig::serving();
    rig.committed(11, 1);
    let known = |stamp: Stamp| match stamp {
        Stamp::Known { clean, .. } => clean.0,
        Stamp::Unknown => panic!("it is told"),
    };
    assert!(known(rig.stamp(INO, 1).unwrap()) > Revision(0));
    // Others took its place, and it is given back before anything of it was wiped.
    let filling = PgInfo {
        filling: vec![ME],
        prior: vec![peer(4)],
        phase: PgPhase::Copying,
        ..info(2, &[1, 2, 3])
    };
    rig.learn(map(20, filling));
    rig.settle();
    let listing = std::iter::from_fn(|| rig.call()).find(|call| {
        matches!(&call.request, Request::Master(MasterRequest::PgListing { pg, .. }) if *pg == PG)
    });
    let row = PgRow {
        ino: Ino(INO.0 + 1),
        chunk: ChunkNo(0),
        objects: vec![],
        clean: Some((Revision(3), op(7))),
        is_wide: false,
    };
    let page = MasterResponse::PgListing(vec![row], LogIndex(25), true);
    let answer = Ok((Response::Master(page), Bytes::new()));
    rig.call_done(listing.expect("a listing").token, answer);
    rig.settle();
    assert_eq!(known(rig.stamp(INO, 2).unwrap()), Revision(0), "it is gone");
    let next = rig.stamp(Ino(INO.0 + 1), 2).unwrap();
    assert_eq!(known(next), Revision(3));
}

//! Copies that fill a group make way for programs, and nothing waits behind them.
use super::*;
use crate::wire::master::PgRow;

const MS: Duration = Duration::from_millis(1);

fn filling(members: &[u128], others: &[StoreId]) -> PgInfo {
    let filling = [&[ME], others].concat();
    PgInfo {
        filling,
        prior: vec![peer(4)],
        phase: PgPhase::Copying,
        ..info(2, members)
    }
}

/// Is listed objects 1 to 60 of a group it is to fill.
fn listed(map: PgMap) -> Rig {
    let mut rig = Rig::new();
    rig.learn(map);
    let row = |seq| PgRow {
        ino: Ino(5 + seq),
        chunk: ChunkNo(0),
        objects: vec![(id(seq), sum(seq))],
        clean: None,
        is_wide: false,
    };
    let is_listing = |c: &Call| matches!(&c.request, Request::Master(MasterRequest::PgListing { pg, .. }) if *pg == PG);
    let at = rig.calls.iter().position(is_listing).expect("a listing");
    let call = rig.calls.remove(at);
    let response = MasterResponse::PgListing((1..=60).map(row).collect(), LogIndex(25), true);
    rig.call_done(call.token, Ok((Response::Master(response), Bytes::new())));
    rig.settle();
    rig
}

/// Takes the fetches, and answers them after this long; what was fetched.
fn round(rig: &mut Rig, after: u32) -> Vec<u64> {
    let mut fetched = Vec::new();
    let calls: Vec<_> = std::iter::from_fn(|| rig.call()).collect();
    rig.tick(after * MS);
    for call in &calls {
        if let Request::Replica(ReplicaRequest::Fetch { object }) = call.request {
            fetched.push(object.op.seq);
            rig.give(call, object.op.seq);
        }
    }
    rig.settle();
    rig.tick(Duration::ZERO);
    fetched
}

/// A client asks, and the fetches of before are done; one that fills is under way then.
fn with_clients(rig: &mut Rig) {
    let _ = rig.stamp(INO, 2);
    assert_eq!(round(rig, 10).len(), 4, "asked for before");
    while round(rig, 1).is_empty() {}
    assert!(rig.calls.is_empty() || rig.call().is_none(), "they rest");
}

#[test]
fn copies_make_way_for_programs_unless_boosted() {
    let mut rig = listed(map(20, filling(&[1, 2, 3], &[])));
    assert_eq!(round(&mut rig, 10).len(), 4);
    assert_eq!(round(&mut rig, 10).len(), 4);
    let _ = rig.stamp(INO, 2);
    assert_eq!(round(&mut rig, 10).len(), 4, "asked for before");
    assert_eq!(round(&mut rig, 29).len(), 0, "they rest");
    assert_eq!(round(&mut rig, 1).len(), 0);
    assert_eq!(round(&mut rig, 10).len(), 4, "three times as long");
    rig.answer(|ok| ok.repair.is_boosted = true);
    assert!(round(&mut rig, 1).len() > 4);
    rig.answer(|_| {});
    assert_eq!(round(&mut rig, 1).len(), 16, "asked for before");
    // Nobody asks any more.
    rig.tick(1000 * MS);
    assert_eq!(round(&mut rig, 1).len(), 4);
}

#[test]
fn regression_nothing_rests_while_a_group_that_is_filled_is_at_its_last_copy() {
    // Another group than that of the objects.
    let other = PgInfo {
        prior: Vec::new(),
        ..filling(&[1, 2, 3], &[peer(3)])
    };
    let mut both = map(20, filling(&[1, 2, 3], &[]));
    both.pgs.push(other);
    let mut rig = listed(both);
    for _ in 0..3 {
        let _ = rig.stamp(INO, 2);
        assert_eq!(round(&mut rig, 10).len(), 4);
    }
}

#[test]
fn regression_nothing_rests_while_the_master_says_that_the_others_are_down() {
    let mut rig = listed(map(20, filling(&[1, 2, 3], &[])));
    rig.answer(|ok| ok.repair.last_copies = vec![PG]);
    for _ in 0..3 {
        let _ = rig.stamp(INO, 2);
        assert_eq!(round(&mut rig, 10).len(), 4);
    }
}

#[test]
fn regression_what_a_group_is_still_filled_with_is_not_reported_as_lacking() {
    let mut rig = listed(map(20, filling(&[1, 2, 3], &[])));
    for _ in 0..3 {
        rig.tick(Duration::from_secs(2));
        rig.answer(|_| {});
    }
    let told = rig.answer(|_| {});
    assert!(rig.replica.missing() > 0);
    assert_eq!((told.lacks.groups, told.lacks.total), (Vec::new(), 0));
}

#[test]
fn regression_what_notes_named_does_not_wait_behind_copies_that_rest() {
    let mut rig = listed(map(20, filling(&[1, 2, 3], &[])));
    with_clients(&mut rig);
    // One that is listed too, and one that is not.
    for seq in [60, 70] {
        rig.hold(20 + seq, seq);
    }
    let mut fetched = Vec::new();
    for _ in 0..21 {
        let _ = rig.stamp(INO, 2);
        fetched.extend(round(&mut rig, 100));
    }
    assert!(
        fetched.contains(&60) && fetched.contains(&70),
        "{fetched:?}"
    );
    assert!(rig.replica.missing() > 30, "the others make way");
}

#[test]
fn regression_what_notes_name_all_the_time_does_not_keep_groups_from_being_filled() {
    let mut rig = listed(map(20, filling(&[1, 2, 3], &[])));
    with_clients(&mut rig);
    rig.hold(90, 70);
    // That one is asked for and not answered, as if there were always another.
    let mut filled = 0;
    for _ in 0..100 {
        let _ = rig.stamp(INO, 2);
        let calls: Vec<_> = std::iter::from_fn(|| rig.call()).collect();
        rig.tick(50 * MS);
        for call in &calls {
            if let Request::Replica(ReplicaRequest::Fetch { object }) = call.request
                && object.op.seq <= 60
            {
                rig.give(call, object.op.seq);
                filled += 1;
            }
        }
        rig.settle();
    }
    assert!(filled > 20, "{filled} of those that are listed");
}

#[test]
fn regression_what_is_damaged_does_not_wait_behind_copies_that_rest() {
    let mut rig = listed(map(20, filling(&[1, 2, 3], &[])));
    rig.prepare_at(70, 2, true);
    rig.settle();
    rig.committed(26, 70);
    with_clients(&mut rig);
    rig.event(ReplicaEvent::Damaged { object: id(70) });
    rig.settle();
    assert_eq!(round(&mut rig, 0), [70]);
}

/// Two groups: this one, which it fills, and a complete one.
fn two_groups() -> PgMap {
    let mut map = map(20, filling(&[1, 2, 3], &[]));
    map.pgs.push(info(1, &[1, 2, 3]));
    map
}

/// Is told of objects it lacks, by their groups.
fn hold_many(rig: &mut Rig, groups: &[(PgId, std::ops::RangeInclusive<u64>)], last: &[PgId]) {
    rig.answer(|ok| {
        for (pg, seqs) in groups {
            let objects = seqs.clone().map(|seq| (id(seq), sum(seq))).collect();
            let hold = Note::Hold {
                ino: INO,
                chunk: ChunkNo(0),
                objects,
            };
            ok.notes.push((LogIndex(30), *pg, hold));
        }
        ok.notes_upto = LogIndex(30);
        ok.repair.last_copies = last.to_vec();
    });
    rig.settle();
}

/// Does `rounds` rounds in which objects above 60 can be had from nobody; which were asked for.
fn rounds(rig: &mut Rig, rounds: u32) -> Vec<u64> {
    let mut asked = Vec::new();
    for _ in 0..rounds {
        let calls: Vec<_> = std::iter::from_fn(|| rig.call()).collect();
        for call in &calls {
            let Request::Replica(ReplicaRequest::Fetch { object }) = call.request else {
                continue;
            };
            asked.push(object.op.seq);
            if object.op.seq > 60 {
                rig.call_done(call.token, Err(ErrorCode::NotFound.into()));
            } else {
                rig.give(call, object.op.seq);
            }
        }
        rig.settle();
        rig.tick(MS);
    }
    asked
}

#[test]
fn regression_what_nobody_has_does_not_keep_groups_from_being_filled() {
    let mut rig = listed(two_groups());
    hold_many(&mut rig, &[(PgId(1), 101..=130)], &[]);
    rig.tick(2100 * MS);
    rounds(&mut rig, 1);
    let asked = rounds(&mut rig, 6);
    let filling = asked.iter().filter(|seq| **seq <= 60).count();
    assert!(filling >= 3, "{asked:?}");
    assert!(asked.len() - filling > 2 * filling, "{asked:?}");
}

#[test]
fn regression_a_group_at_its_last_copy_goes_before_all_others() {
    let mut rig = Rig::new();
    let pgs = vec![info(1, &[1, 2, 3]); 2];
    rig.learn(PgMap {
        pgs,
        ..map(20, info(1, &[1, 2, 3]))
    });
    hold_many(&mut rig, &[(PG, 1..=40), (PgId(1), 41..=48)], &[PgId(1)]);
    rig.tick(2100 * MS);
    let asked = rounds(&mut rig, 3);
    let last = asked.iter().filter(|seq| **seq > 40).count();
    assert!(asked.len() == 12 && last == 8, "{asked:?}");
}

#[test]
fn groups_at_their_last_copy_are_filled_first_and_then_those_with_the_fewest() {
    let mut rig = Rig::new();
    let mut map = map(20, filling(&[1, 2, 3, 4], &[]));
    map.pgs = vec![map.pgs[0].clone(); 4];
    map.pgs.push(filling(&[1, 2, 3, 4], &[peer(2)]));
    map.pgs.push(map.pgs[0].clone());
    rig.answer(|ok| {
        ok.map = Some(map);
        ok.repair.last_copies = vec![PgId(5)];
    });
    let listed = |call: Call| match call.request {
        Request::Master(MasterRequest::PgListing { pg, .. }) => Some(pg.0),
        _ => None,
    };
    let calls = std::iter::from_fn(|| rig.call());
    let groups: Vec<_> = calls.filter_map(listed).collect();
    assert_eq!(groups, [5, 4, 0, 1]);
}

//! Epochs, fences, filling and strays.
use super::*;
use crate::wire::master::PgRow;

fn filling(epoch: u64, phase: PgPhase) -> PgInfo {
    PgInfo {
        filling: vec![ME],
        prior: vec![peer(4)],
        phase,
        ..info(epoch, &[1, 2, 3])
    }
}

/// A new member at epoch 2, and the listing call it makes.
fn new_member() -> (Rig, Call) {
    let mut rig = Rig::new();
    rig.learn(map(20, filling(2, PgPhase::Copying)));
    let call = rig.call().expect("a listing");
    (rig, call)
}

fn row(ino: u64, seq: u64) -> PgRow {
    PgRow {
        ino: Ino(ino),
        chunk: ChunkNo(0),
        objects: vec![(id(seq), sum(seq))],
        clean: Some((Revision(seq), op(seq))),
        is_wide: false,
    }
}

fn list(rig: &mut Rig, call: &Call, rows: Vec<PgRow>, log: u64, is_last: bool) {
    let response = MasterResponse::PgListing(rows, LogIndex(log), is_last);
    rig.call_done(call.token, Ok((Response::Master(response), Bytes::new())));
}

#[test]
fn a_newer_epoch_is_refused_to_old_clients_at_once_and_reported_when_durable() {
    let mut rig = Rig::serving();
    rig.answer(|_| {});
    let fencing = PgInfo {
        phase: PgPhase::Fencing,
        ..info(2, &[1, 2, 4])
    };
    rig.answer(|ok| {
        ok.map = Some(map(11, fencing));
        ok.lease = None;
    });
    assert_eq!(rig.stamp(INO, 1), Err(ErrorCode::WrongEpoch));
    assert_eq!(rig.stamp(INO, 2), Err(ErrorCode::WrongEpoch));
    rig.settle();
    let fenced = rig.answer(|_| {}).fenced;
    assert_eq!(fenced, [(PG, Epoch(2))]);
    // Still fencing: not served, and reported again, in case another master asks.
    assert_eq!(rig.stamp(INO, 2), Err(ErrorCode::WrongEpoch));
    assert_eq!(rig.answer(|_| {}).fenced, [(PG, Epoch(2))]);
    rig.learn(map(12, info(2, &[1, 2, 4])));
    assert_eq!(rig.stamp(INO, 2), known(0, &[]));
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).fenced.is_empty());
}

#[test]
fn the_fence_is_not_reported_before_it_is_durable() {
    let mut rig = Rig::serving();
    rig.answer(|_| {});
    rig.answer(|ok| ok.map = Some(map(11, info(2, &[1, 2, 4]))));
    let heartbeat = rig.answer(|_| {});
    assert!(
        heartbeat.fenced.iter().all(|(_, epoch)| *epoch < Epoch(2)),
        "{heartbeat:?}"
    );
}

#[test]
fn a_deposed_masters_map_does_not_bring_an_old_epoch_back() {
    let mut rig = Rig::serving();
    rig.learn(map(30, info(5, &[1, 2, 3])));
    rig.crash();
    rig.learn(map(11, info(4, &[2, 3, 4])));
    assert_eq!(rig.stamp(INO, 4), Err(ErrorCode::WrongEpoch));
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).emptied.is_empty());
    rig.learn(map(31, info(5, &[1, 2, 3])));
    assert_eq!(rig.stamp(INO, 5), known(0, &[]));
}

#[test]
fn a_member_that_is_filled_answers_unknown_until_it_is_told() {
    let (mut rig, listing) = new_member();
    assert_eq!(rig.stamp(INO, 2), Ok(Stamp::Unknown));
    // A commit of before this configuration teaches nothing: a newer one may exist.
    rig.committed(19, 1);
    assert_eq!(rig.stamp(INO, 2), Ok(Stamp::Unknown));
    rig.committed(21, 3);
    assert_eq!(rig.stamp(INO, 2), known(3, &[]));
    // Its acks count all the same.
    let to = rig.prepare_at(4, 2, true);
    rig.settle();
    assert!(rig.is_acked(to));
    assert_eq!(rig.stamp(Ino(6), 2), Ok(Stamp::Unknown));
    list(&mut rig, &listing, vec![row(6, 2)], 25, false);
    let clean = (Revision(2), op(2));
    assert_eq!(
        rig.stamp(Ino(6), 2),
        Ok(Stamp::Known {
            clean,
            dirty: vec![]
        })
    );
    assert_eq!(rig.stamp(Ino(8), 2), Ok(Stamp::Unknown));
}

#[test]
fn a_listing_of_an_older_state_teaches_nothing() {
    let (mut rig, listing) = new_member();
    list(&mut rig, &listing, vec![row(6, 2)], 19, true);
    rig.settle();
    assert_eq!(rig.stamp(Ino(6), 2), Ok(Stamp::Unknown));
    rig.tick(Duration::from_millis(150));
    assert!(rig.call().is_some(), "it asks again");
}

#[test]
fn is_filled_when_all_objects_are_here_and_the_cursor_has_caught_up() {
    let (mut rig, listing) = new_member();
    list(&mut rig, &listing, vec![row(6, 2), row(7, 3)], 25, false);
    rig.settle();
    let (first, second) = (rig.call().unwrap(), rig.call().unwrap());
    assert!(matches!(first.to, crate::wire::rpc::CallTarget::Store(s, _) if s == peer(2)));
    rig.give(&first, 2);
    rig.give(&second, 3);
    rig.settle();
    let page = rig.call().expect("the next page");
    list(&mut rig, &page, vec![], 26, true);
    rig.settle();
    assert!(rig.holds(2) && rig.holds(3));
    assert!(rig.answer(|_| {}).filled.is_empty(), "the cursor is behind");
    rig.committed(26, 4);
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).filled, [(PG, Epoch(2))]);
    // The master agrees: from now on an absent row means "nothing committed".
    rig.learn(map(27, info(2, &[1, 2, 3])));
    assert!(rig.answer(|_| {}).filled.is_empty());
    assert_eq!(rig.stamp(Ino(99), 2), known(0, &[]));
}

#[test]
fn a_pass_that_could_not_get_everything_is_repeated() {
    let (mut rig, listing) = new_member();
    list(&mut rig, &listing, vec![row(6, 2)], 25, true);
    rig.settle();
    rig.committed(25, 4);
    let mut asked = 0;
    for _ in 0..2000 {
        rig.tick(Duration::from_millis(10));
        rig.settle();
        if let Some(call) = rig.call() {
            match call.request {
                Request::Replica(_) => {
                    asked += 1;
                    rig.call_done(call.token, Err(ErrorCode::NotFound.into()));
                }
                _ => {
                    assert!(asked >= 6, "every source is asked twice: {asked}");
                    assert!(rig.answer(|_| {}).filled.is_empty());
                    return;
                }
            }
        }
    }
    panic!("no second pass");
}

#[test]
fn a_deleted_object_is_no_longer_waited_for() {
    let (mut rig, listing) = new_member();
    list(&mut rig, &listing, vec![row(6, 2)], 25, true);
    rig.settle();
    let fetch = rig.call().expect("a fetch");
    rig.tell(
        26,
        Note::Delete {
            objects: vec![id(2)],
        },
    );
    rig.give(&fetch, 2);
    rig.settle();
    assert!(!rig.holds(2));
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).filled, [(PG, Epoch(2))]);
}

#[test]
fn a_paused_repair_fills_nothing() {
    let mut rig = Rig::new();
    rig.answer(|ok| {
        ok.map = Some(map(20, filling(2, PgPhase::Copying)));
        ok.repair_paused = true;
    });
    rig.settle();
    rig.tick(Duration::from_secs(1));
    assert!(rig.call().is_none());
    rig.answer(|_| {});
    assert!(rig.call().is_some());
}

#[test]
fn a_refill_at_the_same_epoch_makes_it_unknown_again() {
    let mut rig = Rig::serving();
    rig.committed(11, 1);
    rig.learn(map(20, filling(1, PgPhase::Copying)));
    assert_eq!(rig.stamp(INO, 1), Ok(Stamp::Unknown));
    assert!(rig.call().is_some());
}

#[test]
fn a_prior_member_serves_reads_and_nothing_else_and_is_emptied_when_it_is_let_go() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.prepare(2);
    rig.settle();
    rig.committed(11, 1);
    let prior = PgInfo {
        prior: vec![ME],
        phase: PgPhase::Copying,
        filling: vec![peer(4)],
        ..info(2, &[2, 3, 4])
    };
    rig.learn(map(20, prior));
    assert_eq!(rig.stamp(INO, 2), Err(ErrorCode::WrongEpoch));
    let to = rig.prepare_at(1, 2, true);
    assert_eq!(rig.refusal(to), ErrorCode::WrongEpoch);
    let body = ReplicaRequest::Read {
        object: id(1),
        offset: 0,
        len: 9,
        stamp: None,
    };
    rig.request(body, Bytes::new());
    assert_eq!(rig.run_read(), Ok(content(1)));
    assert!(rig.answer(|_| {}).emptied.is_empty());
    rig.learn(map(21, info(2, &[2, 3, 4])));
    assert!(!rig.holds(1) && !rig.holds(2));
    assert_eq!(rig.store.objects(), 0);
    assert_eq!(rig.answer(|_| {}).emptied, [PG]);
    assert!(rig.answer(|_| {}).emptied.is_empty());
    rig.crash();
    rig.tick(Duration::from_secs(6));
    assert!(
        rig.answer(|_| {}).old_marks.is_empty(),
        "its marks are gone too"
    );
}

#[test]
fn a_store_that_comes_back_is_filled_again_although_it_kept_its_data() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    rig.crash();
    // Moved away at epoch 2 and back at epoch 3 while it was down.
    rig.learn(map(30, filling(3, PgPhase::Copying)));
    assert_eq!(rig.stamp(INO, 3), Ok(Stamp::Unknown));
    let listing = rig.call().unwrap();
    let mut kept = row(INO.0, 1);
    kept.clean = Some((Revision(5), op(5)));
    kept.objects.push((id(5), sum(5)));
    list(&mut rig, &listing, vec![kept], 31, true);
    rig.settle();
    assert_eq!(rig.stamp(INO, 3), known(5, &[]));
    assert_eq!(rig.run_scrubs(), 1, "what it kept is verified");
    let fetch = rig.call().expect("only the new object is fetched");
    assert!(rig.call().is_none());
    rig.give(&fetch, 5);
    rig.settle();
    assert!(rig.holds(1) && rig.holds(5));
}

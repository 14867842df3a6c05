//! News that were missed, copies that are missing, and what no listing waits for.
use super::*;
use crate::wire::master::PgRow;

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
    rig.settle();
}

fn is_listing_from_the_start(call: &Call) -> bool {
    matches!(
        call.request,
        Request::Master(MasterRequest::PgListing { after: None, .. })
    )
}

fn new_member() -> (Rig, Call) {
    let mut rig = Rig::new();
    let filling = PgInfo {
        filling: vec![ME],
        phase: PgPhase::Copying,
        ..info(2, &[1, 2, 3])
    };
    rig.learn(map(20, filling));
    let call = rig.call().expect("a listing");
    (rig, call)
}

/// The next call, of one kind or the other.
fn next_call(rig: &mut Rig, within: Duration) -> Option<Call> {
    let end = rig.now + within;
    while rig.now < end {
        rig.tick(Duration::from_millis(20));
        rig.settle();
        if let Some(call) = rig.call() {
            return Some(call);
        }
    }
    None
}

#[test]
fn regression_a_complete_member_that_missed_news_goes_through_the_listing() {
    let mut rig = Rig::serving();
    assert_eq!(rig.stamp(INO, 1), known(0, &[]));
    rig.answer(|ok| {
        ok.trimmed = LogIndex(50);
        ok.notes_upto = LogIndex(60);
    });
    rig.settle();
    assert_eq!(rig.stamp(INO, 1), Ok(Stamp::Unknown));
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).lacks.groups, [(PG, 1)]);
    assert_eq!(rig.replica.cursor_durable(), LogIndex(60));
    // It is not forgotten, although the cursor is beyond.
    rig.crash();
    rig.learn(map(61, info(1, &[1, 2, 3])));
    assert_eq!(rig.stamp(INO, 1), Ok(Stamp::Unknown));
    let listing = rig.call().expect("a listing");
    list(&mut rig, &listing, vec![row(INO.0, 2)], 62, true);
    let fetch = rig.call().expect("what is missing");
    rig.give(&fetch, 2);
    rig.settle();
    rig.committed(62, 1);
    rig.tick(Duration::from_millis(10));
    rig.settle();
    assert!(rig.holds(2));
    assert_eq!(rig.stamp(INO, 1), known(2, &[]));
    assert_eq!(rig.stamp(Ino(99), 1), known(0, &[]));
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).lacks.groups.is_empty());
    rig.crash();
    rig.learn(map(61, info(1, &[1, 2, 3])));
    assert_eq!(rig.stamp(INO, 1), known(2, &[]));
}

#[test]
fn regression_a_member_that_missed_news_while_it_was_filled_is_listed_anew() {
    let (mut rig, listing) = new_member();
    list(&mut rig, &listing, vec![row(6, 2)], 25, false);
    let fetch = rig.call().expect("a fetch");
    rig.give(&fetch, 2);
    rig.settle();
    let page = rig.call().expect("the next page");
    assert!(!is_listing_from_the_start(&page));
    rig.answer(|ok| {
        ok.trimmed = LogIndex(50);
        ok.notes_upto = LogIndex(60);
    });
    rig.settle();
    assert_eq!(rig.stamp(Ino(6), 2), Ok(Stamp::Unknown));
    list(&mut rig, &page, vec![], 61, true);
    let again = rig
        .call()
        .or_else(|| next_call(&mut rig, Duration::from_secs(1)));
    assert!(is_listing_from_the_start(&again.expect("another listing")));
    assert!(rig.answer(|_| {}).filled.is_empty());
}

#[test]
fn regression_what_is_missing_for_seconds_is_reported_and_what_is_late_is_not() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    rig.tick(Duration::from_millis(2500));
    let fetch = rig.call().expect("a fetch");
    rig.answer(|_| {});
    let soon = rig.answer(|_| {});
    assert!(soon.lacks.groups.is_empty() && soon.lacks.total == 0);
    rig.tick(Duration::from_secs(3));
    rig.answer(|_| {});
    let late = rig.answer(|_| {});
    assert_eq!((late.lacks.groups, late.lacks.total), (vec![(PG, 1)], 1));
    rig.give(&fetch, 1);
    rig.settle();
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).lacks.groups.is_empty());
}

#[test]
fn regression_no_listing_waits_for_a_noted_object_that_cannot_be_had() {
    let (mut rig, listing) = new_member();
    rig.hold(21, 9);
    list(&mut rig, &listing, vec![row(6, 9)], 25, true);
    let (mut listings, mut fetches) = (0, 0);
    let end = rig.now + Duration::from_secs(300);
    while rig.now < end {
        let Some(call) = next_call(&mut rig, Duration::from_secs(10)) else {
            continue;
        };
        match call.request {
            Request::Replica(_) => {
                fetches += 1;
                rig.call_done(call.token, Err(ErrorCode::NotFound.into()));
            }
            _ => {
                listings += 1;
                list(&mut rig, &call, vec![row(6, 9)], 25, true);
            }
        }
    }
    // After 1, 2, 4 ... 32 and then 60 seconds, each time a few more for the tries.
    assert!((5..=10).contains(&listings), "{listings}");
    assert!(fetches > 40, "it is tried on: {fetches}");
    assert!(rig.answer(|_| {}).filled.is_empty());
}

#[test]
fn regression_a_listing_that_notes_overtake_is_waited_for_in_the_end() {
    let (mut rig, mut listing) = new_member();
    let mut index = 30;
    for _ in 0..5 {
        rig.committed(index, 4);
        list(&mut rig, &listing, vec![row(6, 2)], index - 1, true);
        index += 10;
        listing = next_call(&mut rig, Duration::from_secs(1)).expect("asked again");
    }
    rig.committed(index, 4);
    assert_eq!(rig.replica.cursor_durable(), LogIndex(70), "the notes wait");
    list(&mut rig, &listing, vec![row(6, 2)], 71, true);
    let fetch = rig.call().expect("the page is taken");
    rig.give(&fetch, 2);
    rig.settle();
    rig.committed(index, 4);
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).filled, [(PG, Epoch(2))]);
}

#[test]
fn regression_an_abort_takes_objects_along_in_every_group() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.prepare(2);
    rig.settle();
    rig.answer(|ok| {
        let aborted = Note::Aborted {
            ino: Ino(0),
            op: op(1),
        };
        ok.notes = vec![(LogIndex(11), PgId(7), aborted)];
        ok.notes_upto = LogIndex(11);
    });
    rig.settle();
    assert!(!rig.holds(1) && rig.holds(2));
    let late = rig.prepare(1);
    assert_eq!(rig.refusal(late), ErrorCode::OpAborted);
}

#[test]
fn regression_a_copy_from_before_is_verified_before_its_group_is_filled() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.prepare(2);
    rig.settle();
    rig.committed(11, 2);
    let filling = PgInfo {
        filling: vec![ME],
        phase: PgPhase::Copying,
        ..info(1, &[1, 2, 3])
    };
    rig.learn(map(20, filling));
    let listing = rig.call().expect("a listing");
    list(&mut rig, &listing, vec![row(6, 1), row(7, 2)], 20, true);
    rig.committed(21, 2);
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).filled.is_empty(), "nothing was read yet");
    let job = rig.scrubs.pop().expect("the kept copies are read");
    assert_eq!(job.objects.len(), 2);
    let damaged = vec![id(1)];
    rig.event(ReplicaEvent::Scrubbed(scrub_job::ScrubResult {
        token: job.token,
        objects: 2,
        bytes: 0,
        damaged,
        unread: Vec::new(),
        unix: Time(0),
    }));
    rig.settle();
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).filled.is_empty(), "one copy is damaged");
    let fetch = rig.call().expect("a good copy");
    rig.give(&fetch, 1);
    rig.settle();
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).filled, [(PG, Epoch(1))]);
}

#[test]
fn regression_a_copy_that_could_not_be_read_is_not_taken_for_verified() {
    let mut rig = Rig::serving();
    puts::prepare_large(&mut rig, 1);
    rig.settle();
    let filling = PgInfo {
        filling: vec![ME],
        phase: PgPhase::Copying,
        ..info(1, &[1, 2, 3])
    };
    rig.learn(map(20, filling));
    let listing = rig.call().expect("a listing");
    let bytes = puts::large(1);
    let mut rows = vec![row(6, 1)];
    rows[0].objects[0].1 = BlockSums::of(&bytes).object_sum(bytes.len() as u32);
    list(&mut rig, &listing, rows, 20, true);
    rig.committed(21, 2);
    rig.faults.fail_opens(1);
    assert_eq!(rig.run_scrubs(), 1);
    rig.settle();
    rig.answer(|_| {});
    assert!(rig.answer(|_| {}).filled.is_empty(), "nothing was read");
    let mut read = 0;
    for _ in 0..100 {
        rig.tick(Duration::from_millis(20));
        read += rig.run_scrubs();
    }
    assert_eq!(read, 1, "it is read again, once");
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).filled, [(PG, Epoch(1))]);
    assert!(rig.call().is_none(), "nothing is fetched");
}

#[test]
fn regression_what_is_lacking_is_said_from_the_first_heartbeat_on() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    for is_filling in [false, true] {
        rig.crash();
        let mut info = info(1, &[1, 2, 3]);
        if is_filling {
            (info.filling, info.phase) = (vec![ME], PgPhase::Copying);
        }
        let first = rig.answer(|ok| ok.map = Some(map(12, info)));
        assert_eq!(first.map_version, LogIndex(0), "it knows no map yet");
        assert_eq!((first.lacks.groups, first.lacks.total), (vec![(PG, 1)], 1));
        rig.settle();
        let lacks = rig.answer(|_| {}).lacks.groups;
        let named = if is_filling { vec![] } else { vec![(PG, 1)] };
        assert_eq!(lacks, named, "filling: {is_filling}");
    }
}

#[test]
fn regression_a_source_of_a_group_that_moved_goes_on_saying_what_it_lacks() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    let moved = PgInfo {
        filling: vec![peer(4)],
        prior: vec![ME],
        phase: PgPhase::Copying,
        ..info(2, &[2, 3, 4])
    };
    rig.learn(map(20, moved));
    for _ in 0..10 {
        rig.tick(Duration::from_secs(1));
        rig.settle();
        rig.answer(|_| {});
    }
    assert!(rig.call().is_none(), "it fetches nothing any more");
    assert_eq!(rig.answer(|_| {}).lacks.groups, [(PG, 1)]);
    rig.learn(map(30, info(2, &[2, 3, 4])));
    for _ in 0..10 {
        rig.tick(Duration::from_secs(1));
        rig.settle();
        rig.answer(|_| {});
    }
    assert!(rig.answer(|_| {}).lacks.groups.is_empty());
    assert_eq!(rig.replica.missing(), 0);
}

#[test]
fn regression_a_source_that_missed_news_says_so_until_it_is_let_go() {
    let moved = PgInfo {
        filling: vec![peer(4)],
        prior: vec![ME],
        phase: PgPhase::Copying,
        ..info(2, &[2, 3, 4])
    };
    let miss = |rig: &mut Rig| {
        rig.answer(|ok| {
            ok.trimmed = LogIndex(50);
            ok.notes_upto = LogIndex(60);
        });
    };
    let lacks = |rig: &mut Rig| {
        for _ in 0..3 {
            rig.tick(Duration::from_secs(1));
            rig.settle();
            rig.answer(|_| {});
        }
        rig.answer(|_| {}).lacks.groups
    };
    for is_source_before in [false, true] {
        let mut rig = Rig::serving();
        if is_source_before {
            rig.learn(map(20, moved.clone()));
            miss(&mut rig);
        } else {
            miss(&mut rig);
            rig.learn(map(61, moved.clone()));
        }
        assert_eq!(lacks(&mut rig), [(PG, 1)], "{is_source_before}");
        rig.crash();
        rig.learn(map(61, moved.clone()));
        assert_eq!(lacks(&mut rig), [(PG, 1)], "{is_source_before}");
        rig.learn(map(70, info(2, &[2, 3, 4])));
        assert!(lacks(&mut rig).is_empty(), "{is_source_before}");
    }
}

#[test]
fn regression_what_was_found_missing_and_deleted_unheard_is_wanted_no_more() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.event(ReplicaEvent::Damaged { object: id(1) });
    rig.settle();
    assert_eq!(rig.replica.missing(), 1);
    // Its row goes, as of an object that the scrub did not find at all.
    let key = crate::replica::tables::keys::object(b'o', id(1));
    let mut tx = rig.replica.tables.begin();
    rig.replica.tables.delete(&mut tx, key);
    let (store, token) = (&mut rig.store, tx.token);
    let batch = store.apply(rig.replica.tables.finish(tx)).unwrap();
    rig.pending.push((token, batch));
    rig.settle();
    rig.answer(|ok| {
        ok.trimmed = LogIndex(50);
        ok.notes_upto = LogIndex(60);
    });
    rig.settle();
    assert_eq!(rig.replica.missing(), 0, "nobody may have it any more");
    let is_page = |c: &Call| matches!(c.request, Request::Master(MasterRequest::PgListing { .. }));
    let page = std::iter::from_fn(|| rig.call()).find(is_page);
    list(
        &mut rig,
        &page.expect("a listing"),
        vec![row(6, 1)],
        62,
        true,
    );
    assert!(rig.replica.wants.is_wanted(id(1)), "what is needed is");
}

//! Puts, gets and aborts.
use super::*;
use crate::types::{ObjectAbout, PathHint, PutAbout};
use crate::wire::replica::PrepareAbout;

#[test]
fn acks_when_the_batch_is_durable_and_not_before() {
    let mut rig = Rig::serving();
    let to = rig.prepare(1);
    assert_eq!(rig.reply(to), None);
    assert_eq!(rig.stamp(INO, 1), known(0, &[1]));
    rig.settle();
    assert!(rig.is_acked(to));
    rig.crash();
    assert!(rig.holds(1));
}

#[test]
fn serves_nothing_before_the_first_map() {
    let mut rig = Rig::new();
    let to = rig.prepare(1);
    assert_eq!(rig.refusal(to), ErrorCode::NoServingLease);
    assert_eq!(rig.stamp(INO, 1), Err(ErrorCode::NoServingLease));
}

#[test]
fn refuses_another_epoch_and_says_its_own() {
    let mut rig = Rig::serving();
    for epoch in [0, 2] {
        let to = rig.prepare_at(1, epoch, true);
        let Some(Err(error)) = rig.reply(to) else {
            panic!("not refused")
        };
        assert_eq!(error.code, ErrorCode::WrongEpoch);
        assert!(error.detail.contains("epoch 1 here"), "{}", error.detail);
        assert_eq!(rig.stamp(INO, epoch), Err(ErrorCode::WrongEpoch));
    }
    assert!(rig.pending.is_empty() && !rig.holds(1));
}

#[test]
fn a_lease_that_ends_before_the_disk_is_ready_refuses_the_ack() {
    let mut rig = Rig::serving();
    let to = rig.prepare(1);
    rig.now = rig.now + LEASE;
    rig.settle();
    assert_eq!(rig.refusal(to), ErrorCode::NoServingLease);
    assert_eq!(rig.stamp(INO, 1), Err(ErrorCode::NoServingLease));
    // The answer to a heartbeat of before grants nothing: the lease counts from its sending.
    rig.answer(|_| {});
    assert_eq!(rig.stamp(INO, 1), Err(ErrorCode::NoServingLease));
    // With a new lease the same op is acked without writing again.
    rig.answer(|_| {});
    let to = rig.prepare(1);
    assert!(rig.is_acked(to) && rig.pending.is_empty());
}

#[test]
fn an_epoch_that_changes_before_the_disk_is_ready_refuses_the_ack() {
    let mut rig = Rig::serving();
    let to = rig.prepare(1);
    rig.answer(|ok| ok.map = Some(map(11, info(2, &[1, 2, 4]))));
    rig.settle();
    assert_eq!(rig.refusal(to), ErrorCode::WrongEpoch);
    // Under the new epoch the object need not be sent again.
    let to = rig.prepare_at(1, 2, false);
    assert!(rig.is_acked(to));
}

#[test]
fn damaged_bytes_are_refused_with_the_hop_named_and_nothing_is_stored() {
    let mut rig = Rig::serving();
    let mut bytes = content(1).to_vec();
    let object = PrepareObject {
        id: id(1),
        chunk: ChunkNo(0),
        pg: PG,
        epoch: Epoch(1),
        len: bytes.len() as u32,
        sums: BlockSums::of(&bytes),
        has_bytes: true,
    };
    bytes[3] ^= 4;
    let body = ReplicaRequest::Prepare {
        op: op(1),
        ino: INO,
        mark: None,
        objects: vec![object],
        about: None,
    };
    let to = rig.request(body, bytes.into());
    let Some(Err(error)) = rig.reply(to) else {
        panic!("not refused")
    };
    assert_eq!(error.code, ErrorCode::DamagedInTransit);
    for part in ["inode 7", "object 00000009.1/0", "client -> store 00000001"] {
        assert!(error.detail.contains(part), "{}", error.detail);
    }
    assert!(rig.pending.is_empty());
}

#[test]
fn malformed_prepares_are_refused() {
    let mut rig = Rig::serving();
    let good = |len: u32, chunk, of: u64| PrepareObject {
        id: id(of),
        chunk: ChunkNo(chunk),
        pg: PG,
        epoch: Epoch(1),
        len,
        sums: BlockSums(vec![0; 1]),
        has_bytes: true,
    };
    let lists = [
        vec![good(0, 0, 1)],
        vec![good(5 << 20, 0, 1)],
        vec![good(5, 0, 2)],
        vec![good(5, 0, 1), good(5, 0, 1)],
        vec![good(6, 0, 1)],
    ];
    for objects in lists {
        let body = ReplicaRequest::Prepare {
            op: op(1),
            ino: INO,
            mark: None,
            objects,
            about: None,
        };
        let to = rig.request(body, Bytes::from_static(b"12345"));
        assert_eq!(rig.refusal(to), ErrorCode::BadRequest);
    }
}

#[test]
fn a_repeated_prepare_joins_the_one_under_way() {
    let mut rig = Rig::serving();
    let (first, again) = (rig.prepare(1), rig.prepare(1));
    assert_eq!(rig.pending.len(), 1);
    assert!(rig.reply(first).is_none() && rig.reply(again).is_none());
    rig.settle();
    assert!(rig.is_acked(first) && rig.is_acked(again));
}

#[test]
fn asks_for_bytes_it_does_not_hold() {
    let mut rig = Rig::serving();
    let to = rig.prepare_at(1, 1, false);
    assert_eq!(rig.refusal(to), ErrorCode::NotFound);
}

#[test]
fn the_same_object_with_other_bytes_is_refused() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    let bytes = Bytes::from_static(b"something else");
    let object = PrepareObject {
        id: id(1),
        chunk: ChunkNo(0),
        pg: PG,
        epoch: Epoch(1),
        len: bytes.len() as u32,
        sums: BlockSums::of(&bytes),
        has_bytes: true,
    };
    let body = ReplicaRequest::Prepare {
        op: op(1),
        ino: INO,
        mark: None,
        objects: vec![object],
        about: None,
    };
    let to = rig.request(body, bytes);
    assert_eq!(rig.refusal(to), ErrorCode::BadRequest);
    assert!(rig.holds(1));
}

#[test]
fn a_full_store_refuses_before_anything_is_stored() {
    let mut rig = Rig::serving();
    rig.disk.set_capacity(Some(0));
    let to = rig.prepare(1);
    assert_eq!(
        rig.refusal(to),
        ErrorCode::Freeing,
        "the master may free some"
    );
    rig.tick(Duration::from_millis(1100));
    rig.answer(|ok| ok.space.freeing = true);
    let to = rig.prepare(1);
    assert_eq!(rig.refusal(to), ErrorCode::Freeing, "it is freeing some");
    rig.tick(Duration::from_millis(600));
    rig.answer(|_| {});
    rig.answer(|_| {});
    let to = rig.prepare(1);
    assert_eq!(rig.refusal(to), ErrorCode::NoSpace);
    assert!(rig.pending.is_empty());
}

#[test]
fn regression_a_writer_that_pauses_longer_than_advice_is_new_is_refused_all_the_same() {
    let mut rig = Rig::serving();
    rig.disk.set_capacity(Some(0));
    let to = rig.prepare(1);
    assert_eq!(rig.refusal(to), ErrorCode::Freeing);
    rig.tick(Duration::from_millis(1100));
    rig.answer(|_| {});
    let mut codes = Vec::new();
    for _ in 0..4 {
        // The answer comes soon; the writer comes again when it is no longer new.
        rig.tick(Duration::from_millis(50));
        rig.answer(|_| {});
        rig.tick(Duration::from_millis(420));
        let to = rig.prepare(1);
        codes.push(rig.refusal(to));
        // Others who waited with it come at the same time.
        rig.tick(Duration::from_millis(30));
        let to = rig.prepare(2);
        assert_eq!(Some(&rig.refusal(to)), codes.last());
    }
    assert!(codes.contains(&ErrorCode::NoSpace), "{codes:?}");
    assert!(codes.contains(&ErrorCode::Freeing), "used once: {codes:?}");
}

#[test]
fn regression_a_store_that_was_full_long_ago_is_patient_again() {
    let mut rig = Rig::serving();
    rig.disk.set_capacity(Some(0));
    let refused = |rig: &mut Rig| {
        rig.answer(|_| {});
        let to = rig.prepare(1);
        rig.refusal(to)
    };
    assert_eq!(refused(&mut rig), ErrorCode::Freeing);
    rig.tick(Duration::from_millis(1100));
    assert_eq!(refused(&mut rig), ErrorCode::NoSpace);
    for _ in 0..20 {
        rig.tick(Duration::from_millis(1000));
        rig.answer(|_| {});
    }
    assert_eq!(refused(&mut rig), ErrorCode::Freeing);
}

/// A PREPARE of an object that has a file of its own.
pub fn prepare_large(rig: &mut Rig, seq: u64) -> ReplyTo {
    let bytes = Bytes::from(vec![seq as u8; 100_000]);
    let object = PrepareObject {
        id: id(seq),
        chunk: ChunkNo(0),
        pg: PG,
        epoch: Epoch(1),
        len: bytes.len() as u32,
        sums: BlockSums::of(&bytes),
        has_bytes: true,
    };
    let body = ReplicaRequest::Prepare {
        op: op(seq),
        ino: INO,
        mark: None,
        objects: vec![object],
        about: None,
    };
    rig.request(body, bytes)
}

#[test]
fn regression_a_device_that_others_fill_refuses_objects_and_fails_nothing() {
    let mut rig = Rig::serving();
    let (first, again) = (prepare_large(&mut rig, 1), prepare_large(&mut rig, 1));
    let small = rig.prepare(2);
    // After they were admitted.
    rig.disk.set_full(true);
    rig.settle();
    for to in [first, again] {
        assert_eq!(rig.refusal(to), ErrorCode::Freeing);
    }
    assert!(rig.is_acked(small), "what needs no new file goes on");
    assert_eq!(rig.replica.failure(), None);
    assert_eq!(
        rig.store.objects(),
        1,
        "the object that found no room is not held"
    );
    rig.disk.set_full(false);
    let to = prepare_large(&mut rig, 1);
    rig.settle();
    assert!(rig.is_acked(to));
    rig.crash();
    assert_eq!(rig.store.objects(), 2);
}

pub(super) fn large(seq: u64) -> Bytes {
    Bytes::from(vec![seq as u8; 100_000])
}

fn hold_large(seq: u64) -> Vec<Note> {
    let bytes = large(seq);
    let sum = BlockSums::of(&bytes).object_sum(bytes.len() as u32);
    let committed = Note::Committed {
        ino: INO,
        revision: Revision(seq),
        op: op(seq),
    };
    let hold = Note::Hold {
        ino: INO,
        chunk: ChunkNo(0),
        objects: vec![(id(seq), sum)],
    };
    vec![committed, hold]
}

/// Is told that object `seq` is committed and must be held, and makes nothing durable.
fn tell_hold_large(rig: &mut Rig, index: u64, seq: u64) {
    rig.answer(|ok| {
        let notes = hold_large(seq).into_iter();
        ok.notes = notes.map(|note| (LogIndex(index), PG, note)).collect();
        ok.notes_upto = LogIndex(index);
    });
}

fn wait_for_fetch(rig: &mut Rig) -> Call {
    for _ in 0..100 {
        rig.tick(Duration::from_millis(100));
        match rig.call() {
            Some(call) if matches!(call.request, Request::Replica(_)) => return call,
            _ => {}
        }
    }
    panic!("nothing is fetched");
}

fn fetched_large(rig: &mut Rig, token: u64, seq: u64) {
    let bytes = large(seq);
    let sums = BlockSums::of(&bytes);
    let fetched = ReplicaResponse::Fetched { sums, about: None };
    rig.call_done(token, Ok((Response::Replica(fetched), bytes)));
}

fn holds_large(rig: &Rig, seq: u64) -> bool {
    let read = rig.store.read_object(id(seq), 0, u32::MAX);
    read.is_ok_and(|read| read.bytes == large(seq))
}

#[test]
fn regression_an_object_that_is_committed_on_its_way_to_a_full_disk_is_missed_and_fetched() {
    for is_killed in [false, true] {
        let mut rig = Rig::serving();
        let to = prepare_large(&mut rig, 1);
        tell_hold_large(&mut rig, 11, 1);
        rig.disk.set_full(true);
        if is_killed {
            // Before anything could be taken back.
            let (_, batches): (Vec<_>, Vec<_>) = rig.pending.drain(..).unzip();
            rig.writer.commit(&batches).unwrap();
            rig.disk.set_full(false);
            rig.crash();
            rig.learn(map(12, info(1, &[1, 2, 3])));
        } else {
            rig.settle();
            assert_eq!(rig.refusal(to), ErrorCode::Freeing);
            rig.tick(Duration::from_secs(20));
            rig.answer(|_| {});
            assert_eq!(rig.answer(|_| {}).lacks.total, 1);
            rig.disk.set_full(false);
        }
        assert!(!holds_large(&rig, 1));
        let call = wait_for_fetch(&mut rig);
        fetched_large(&mut rig, call.token, 1);
        rig.settle();
        rig.answer(|_| {});
        assert_eq!(rig.answer(|_| {}).lacks.total, 0);
        rig.crash();
        assert!(holds_large(&rig, 1));
        rig.answer(|_| {});
        assert_eq!(rig.answer(|_| {}).lacks.total, 0, "not on disk either");
    }
}

#[test]
fn an_object_that_is_committed_on_its_way_to_the_disk_is_not_fetched() {
    let mut rig = Rig::serving();
    let to = prepare_large(&mut rig, 1);
    tell_hold_large(&mut rig, 11, 1);
    rig.settle();
    assert!(rig.is_acked(to));
    for is_killed in [false, true] {
        if is_killed {
            rig.crash();
            rig.learn(map(12, info(1, &[1, 2, 3])));
        }
        rig.tick(Duration::from_secs(20));
        rig.answer(|_| {});
        assert_eq!(rig.answer(|_| {}).lacks.total, 0);
        let is_fetch = |call: &Call| matches!(call.request, Request::Replica(_));
        assert!(!rig.calls.iter().any(is_fetch));
    }
}

#[test]
fn regression_a_late_prepare_that_finds_no_room_leaves_the_object_missing() {
    for is_killed in [false, true] {
        let mut rig = Rig::serving();
        tell_hold_large(&mut rig, 11, 1);
        rig.settle();
        prepare_large(&mut rig, 1);
        rig.disk.set_full(true);
        rig.settle();
        rig.disk.set_full(false);
        if is_killed {
            rig.crash();
            rig.learn(map(12, info(1, &[1, 2, 3])));
        }
        let call = wait_for_fetch(&mut rig);
        fetched_large(&mut rig, call.token, 1);
        rig.settle();
        assert!(holds_large(&rig, 1));
    }
}

#[test]
fn regression_after_a_kill_no_ack_is_given_for_bytes_that_found_no_room() {
    let mut rig = Rig::serving();
    prepare_large(&mut rig, 1);
    rig.disk.set_full(true);
    // Killed before the machine hears of it.
    let (_, batches): (Vec<_>, Vec<_>) = rig.pending.drain(..).unzip();
    rig.writer.commit(&batches).unwrap();
    assert!(rig.store.begin_flush(true).is_none(), "nor by the tables");
    rig.disk.set_full(false);
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    let to = prepare_large(&mut rig, 1);
    assert!(!rig.pending.is_empty(), "it is written");
    rig.settle();
    assert!(rig.is_acked(to) && holds_large(&rig, 1));
}

#[test]
fn regression_a_good_copy_outlives_its_replacement_that_finds_no_room() {
    for is_killed in [false, true] {
        let mut rig = Rig::serving();
        prepare_large(&mut rig, 1);
        rig.settle();
        rig.event(ReplicaEvent::Damaged { object: id(1) });
        rig.settle();
        let call = wait_for_fetch(&mut rig);
        fetched_large(&mut rig, call.token, 1);
        rig.disk.set_full(true);
        rig.settle();
        assert!(holds_large(&rig, 1), "the old bytes");
        assert_eq!(rig.store.objects(), 1);
        rig.disk.set_full(false);
        if is_killed {
            rig.crash();
            assert!(holds_large(&rig, 1), "the old bytes");
            rig.learn(map(12, info(1, &[1, 2, 3])));
        }
        let call = wait_for_fetch(&mut rig);
        fetched_large(&mut rig, call.token, 1);
        rig.settle();
        assert!(holds_large(&rig, 1));
        assert_eq!(rig.disk.paths("objects/").len(), 1);
    }
}

#[test]
fn a_mark_whose_batch_found_no_room_is_durable_before_the_next_ack() {
    let mut rig = Rig::serving();
    let bytes = large(1);
    let prepare = |rig: &mut Rig| {
        let object = PrepareObject {
            id: id(1),
            chunk: ChunkNo(0),
            pg: PG,
            epoch: Epoch(1),
            len: bytes.len() as u32,
            sums: BlockSums::of(&bytes),
            has_bytes: true,
        };
        let mark = MarkRequest {
            pg: PG,
            epoch: Epoch(1),
        };
        let body = ReplicaRequest::Prepare {
            op: op(1),
            ino: INO,
            mark: Some(mark),
            objects: vec![object],
            about: None,
        };
        rig.request(body, bytes.clone())
    };
    prepare(&mut rig);
    rig.disk.set_full(true);
    rig.settle();
    rig.disk.set_full(false);
    let to = prepare(&mut rig);
    rig.settle();
    assert!(rig.is_acked(to));
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    assert_eq!(rig.stamp(INO, 1), known(0, &[1]));
}

#[test]
fn a_commit_note_makes_the_stamp_clean() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 1);
    assert_eq!(rig.stamp(INO, 1), known(1, &[]));
    assert_eq!(rig.answer(|_| {}).cursor, LogIndex(11));
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    assert_eq!(rig.stamp(INO, 1), known(1, &[]));
}

#[test]
fn an_older_commit_note_does_not_lower_the_stamp() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.committed(11, 2);
    rig.committed(12, 1);
    assert_eq!(rig.stamp(INO, 1), known(2, &[]));
}

#[test]
fn a_prepare_that_comes_after_its_commit_leaves_no_mark() {
    let mut rig = Rig::serving();
    rig.committed(11, 1);
    let to = rig.prepare(1);
    rig.settle();
    assert!(rig.is_acked(to) && rig.holds(1));
    assert_eq!(rig.stamp(INO, 1), known(1, &[]));
}

#[test]
fn an_aborted_op_is_dropped_and_a_late_prepare_of_it_refused() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.tell(
        11,
        Note::Aborted {
            ino: INO,
            op: op(1),
        },
    );
    assert_eq!(rig.stamp(INO, 1), known(0, &[]));
    assert!(!rig.holds(1));
    let late = rig.prepare(1);
    assert_eq!(rig.refusal(late), ErrorCode::OpAborted);
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    let late = rig.prepare(1);
    assert_eq!(rig.refusal(late), ErrorCode::OpAborted);
}

#[test]
fn an_abort_that_overtakes_the_disk_refuses_the_ack() {
    let mut rig = Rig::serving();
    let to = rig.prepare(1);
    rig.answer(|ok| {
        ok.notes = vec![(
            LogIndex(11),
            PG,
            Note::Aborted {
                ino: INO,
                op: op(1),
            },
        )];
        ok.notes_upto = LogIndex(11);
    });
    rig.settle();
    assert_eq!(rig.refusal(to), ErrorCode::OpAborted);
    assert!(!rig.holds(1));
}

#[test]
fn a_client_drops_only_what_has_a_live_mark() {
    let mut rig = Rig::serving();
    for seq in 1..=2 {
        rig.prepare(seq);
    }
    rig.settle();
    rig.committed(11, 1);
    let body = ReplicaRequest::Drop {
        ops: vec![op(1), op(2)],
        ino: INO,
    };
    let to = rig.request(body, Bytes::new());
    rig.settle();
    assert_eq!(rig.reply(to), Some(Ok(ReplicaResponse::Dropped)));
    assert!(rig.holds(1) && !rig.holds(2));
    assert_eq!(rig.stamp(INO, 1), known(1, &[]));
}

#[test]
fn old_marks_are_reported_until_they_are_decided() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    assert!(rig.answer(|_| {}).old_marks.is_empty());
    rig.tick(Duration::from_secs(6));
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).old_marks, [(INO, op(1))]);
    rig.tell(
        11,
        Note::Aborted {
            ino: INO,
            op: op(1),
        },
    );
    assert!(rig.answer(|_| {}).old_marks.is_empty());
}

#[test]
fn a_read_gives_verified_bytes_without_a_lease() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.crash();
    let body = ReplicaRequest::Read {
        object: id(1),
        offset: 3,
        len: 2,
        stamp: None,
    };
    rig.request(body, Bytes::new());
    assert_eq!(rig.run_read(), Ok(content(1)));
    let body = ReplicaRequest::Read {
        object: id(2),
        offset: 0,
        len: 2,
        stamp: None,
    };
    rig.request(body, Bytes::new());
    assert_eq!(rig.run_read(), Err(ErrorCode::NotFound));
}

#[test]
fn after_a_failed_sync_nothing_is_acked_any_more() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    rig.disk.fail_next_sync();
    let (second, third) = (rig.prepare(2), rig.prepare(3));
    rig.settle();
    assert_eq!(rig.refusal(second), ErrorCode::StoreFailed);
    assert_eq!(rig.refusal(third), ErrorCode::StoreFailed);
    let again = rig.prepare(1);
    assert_eq!(rig.refusal(again), ErrorCode::StoreFailed);
    assert_eq!(rig.stamp(INO, 1), Err(ErrorCode::StoreFailed));
    let cursor = rig.answer(|ok| ok.notes_upto = LogIndex(40)).cursor;
    let next = rig.answer(|_| {});
    assert!(next.failed && next.cursor == cursor);
}

#[test]
fn what_the_client_says_of_a_file_is_kept_with_its_objects_and_goes_along_with_a_copy() {
    let mut rig = Rig::serving();
    let bytes = content(1);
    let object = PrepareObject {
        id: id(1),
        chunk: ChunkNo(0),
        pg: PG,
        epoch: Epoch(1),
        len: bytes.len() as u32,
        sums: BlockSums::of(&bytes),
        has_bytes: true,
    };
    let put = PutAbout {
        path: Some(PathHint(b"/dir/\xff".to_vec())),
        base: Revision(4),
        size: Some(77),
        ..PutAbout::default()
    };
    let about = PrepareAbout {
        put: put.clone(),
        starts: vec![60],
    };
    let body = ReplicaRequest::Prepare {
        op: op(1),
        ino: INO,
        mark: None,
        objects: vec![object],
        about: Some(Box::new(about)),
    };
    let to = rig.request(body, bytes);
    rig.settle();
    assert!(rig.is_acked(to));
    let header = rig.store.object_header(id(1)).unwrap().unwrap();
    let kept = Some(Box::new(ObjectAbout { start: 60, put }));
    assert_eq!(header.about, kept);
    // Another store asks for a copy.
    rig.request(ReplicaRequest::Fetch { object: id(1) }, Bytes::new());
    let job = rig.reads.pop().expect("a read was asked");
    let (reply, _) = read::plan(job, &rig.store).run();
    let Ok(Response::Replica(response)) = reply.body else {
        panic!("{:?}", reply.body)
    };
    let sums = header.sums;
    assert_eq!(response, ReplicaResponse::Fetched { sums, about: kept });
}

#[test]
fn a_fetched_object_keeps_what_the_client_said_of_its_file() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    rig.tick(Duration::from_secs(3));
    let call = rig.call().expect("a fetch");
    let (bytes, about) = (content(1), Some(Box::new(ObjectAbout::default())));
    let sums = BlockSums::of(&bytes);
    let fetched = ReplicaResponse::Fetched {
        sums,
        about: about.clone(),
    };
    rig.call_done(call.token, Ok((Response::Replica(fetched), bytes)));
    rig.settle();
    let header = rig.store.object_header(id(1)).unwrap().unwrap();
    assert_eq!(header.about, about);
}

#[test]
fn regression_a_refused_mark_whose_batch_finds_no_room_is_made_durable_before_it_is_acked() {
    let mut rig = Rig::serving();
    let put = |rig: &mut Rig| {
        let bytes = large(1);
        let object = PrepareObject {
            id: id(1),
            chunk: ChunkNo(0),
            pg: PG,
            epoch: Epoch(1),
            len: bytes.len() as u32,
            sums: BlockSums::of(&bytes),
            has_bytes: true,
        };
        let epoch = Epoch(1);
        let body = ReplicaRequest::Prepare {
            op: op(1),
            ino: INO,
            mark: Some(MarkRequest { pg: PG, epoch }),
            objects: vec![object],
            about: None,
        };
        rig.request(body, bytes)
    };
    let first = put(&mut rig);
    rig.faults.set_out_of_room(true);
    rig.tick(Duration::from_millis(1100));
    assert!(matches!(rig.reply(first), Some(Err(_))), "refused");
    rig.faults.set_out_of_room(false);
    rig.disk.set_full(true);
    rig.settle();
    rig.disk.set_full(false);
    assert_eq!(rig.store.objects(), 0, "the batch found no room");
    let again = put(&mut rig);
    rig.settle();
    assert!(rig.is_acked(again));
    rig.crash();
    rig.learn(map(12, info(1, &[1, 2, 3])));
    assert_eq!(rig.stamp(INO, 1), known(0, &[1]), "the mark was acked");
}

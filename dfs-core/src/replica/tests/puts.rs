//! Puts, gets and aborts.
use super::*;

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
    assert_eq!(rig.refusal(to), ErrorCode::NoSpace);
    assert!(rig.pending.is_empty());
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

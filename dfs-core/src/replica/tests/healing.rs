//! Missed and damaged objects.
use super::*;
use crate::wire::rpc::CallTarget;

fn heal(rig: &mut Rig) -> Call {
    rig.tick(Duration::from_millis(2100));
    rig.call().expect("a fetch from a peer")
}

#[test]
fn a_missed_object_is_fetched_from_another_member() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    assert!(rig.call().is_none(), "its prepare may be on the way");
    let call = heal(&mut rig);
    assert!(matches!(call.to, CallTarget::Store(s, _) if s == peer(2)));
    rig.give(&call, 1);
    rig.settle();
    assert!(rig.holds(1));
    assert_eq!(rig.replica.missing(), 0);
    rig.answer(|_| {});
    assert_eq!(rig.answer(|_| {}).repaired_bytes, content(1).len() as u64);
}

#[test]
fn a_prepare_that_comes_late_saves_the_fetch() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    rig.prepare(1);
    rig.settle();
    rig.tick(Duration::from_secs(5));
    assert!(rig.call().is_none() && rig.replica.missing() == 0);
}

#[test]
fn a_missing_object_survives_a_restart() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    assert_eq!(rig.answer(|_| {}).cursor, LogIndex(11));
    rig.crash();
    assert_eq!(rig.replica.missing(), 1);
    rig.learn(map(12, info(1, &[1, 2, 3])));
    let call = rig.call().expect("a fetch");
    rig.give(&call, 1);
    rig.settle();
    rig.crash();
    assert!(rig.holds(1) && rig.replica.missing() == 0);
}

#[test]
fn bytes_that_are_not_what_the_master_named_are_not_stored_and_the_next_source_is_asked() {
    let mut rig = Rig::serving();
    rig.hold(11, 1);
    let call = heal(&mut rig);
    rig.give(&call, 2);
    rig.settle();
    assert!(!rig.holds(1));
    rig.tick(Duration::from_millis(150));
    let call = rig.call().expect("another try");
    assert!(matches!(call.to, CallTarget::Store(s, _) if s == peer(3)));
    rig.give(&call, 1);
    rig.settle();
    assert!(rig.holds(1));
}

#[test]
fn a_damaged_object_is_named_and_replaced() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    let bytes = vec![5u8; 100_000];
    let big = ObjectId {
        op: op(2),
        index: 0,
    };
    let sums = BlockSums::of(&bytes);
    let object = PrepareObject {
        id: big,
        chunk: ChunkNo(0),
        pg: PG,
        epoch: Epoch(1),
        len: 100_000,
        sums: sums.clone(),
        has_bytes: true,
    };
    let body = ReplicaRequest::Prepare {
        op: op(2),
        ino: INO,
        mark: None,
        objects: vec![object],
        about: None,
    };
    rig.request(body, bytes.clone().into());
    rig.settle();
    rig.committed(11, 1);
    let file = rig.disk.paths("objects/").pop().unwrap();
    assert!(rig.disk.flip_bit(&file, 4096 + 7));
    let read = ReplicaRequest::Read {
        object: big,
        offset: 0,
        len: 9,
        stamp: None,
    };
    rig.request(read.clone(), Bytes::new());
    assert_eq!(rig.run_read(), Err(ErrorCode::Corrupt));
    rig.settle();
    let call = rig.call().expect("a fetch at once");
    let response = ReplicaResponse::Fetched { sums, about: None };
    rig.call_done(call.token, Ok((Response::Replica(response), bytes.into())));
    rig.settle();
    rig.request(read, Bytes::new());
    assert_eq!(rig.run_read().map(|b| b.len()), Ok(65536));
}

#[test]
fn the_rate_limit_is_kept() {
    let mut rig = Rig::serving();
    rig.answer(|ok| {
        ok.repair_rate = 10;
        let hold = |seq| {
            let objects = vec![(id(seq), sum(seq))];
            (
                LogIndex(11),
                PG,
                Note::Hold {
                    ino: INO,
                    chunk: ChunkNo(0),
                    objects,
                },
            )
        };
        ok.notes = (1..=20).map(hold).collect();
        ok.notes_upto = LogIndex(11);
    });
    rig.settle();
    let mut fetched = 0;
    for _ in 0..100 {
        rig.tick(Duration::from_millis(100));
        while let Some(call) = rig.call() {
            let Request::Replica(ReplicaRequest::Fetch { object }) = call.request else {
                panic!("{call:?}");
            };
            rig.give(&call, object.op.seq);
            rig.settle();
            fetched += 1;
        }
        if let Some(at) = rig.calls.pop() {
            rig.call_done(at.token, Err(ErrorCode::UnknownOutcome.into()));
        }
    }
    // Ten seconds at 10 bytes per second, objects of 17 or 18 bytes.
    assert!((4..=8).contains(&fetched), "{fetched}");
}

//! Deleted objects rest, and go.
use super::puts::prepare_large;
use super::*;

const KEEP: Duration = Duration::from_secs(600);

fn delete(rig: &mut Rig, index: u64, seqs: &[u64]) {
    let objects = seqs.iter().map(|seq| id(*seq)).collect();
    rig.tell(index, Note::Delete { objects });
}

/// A store that holds objects 1 to 3.
fn filled() -> Rig {
    let mut rig = Rig::serving();
    for seq in 1..=3 {
        rig.prepare(seq);
        rig.settle();
    }
    rig
}

fn resting(rig: &Rig) -> u64 {
    rig.store.resting().objects
}

/// Lets time pass in steps.
fn pass(rig: &mut Rig, time: Duration) {
    for _ in 0..20 {
        rig.tick(time / 20);
        rig.settle();
    }
}

#[test]
fn a_deleted_object_rests_for_its_time_and_then_goes() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1, 2]);
    pass(&mut rig, Duration::from_secs(60));
    delete(&mut rig, 21, &[3]);
    assert_eq!((resting(&rig), rig.store.objects()), (3, 0));
    pass(&mut rig, KEEP - Duration::from_secs(62));
    assert_eq!(resting(&rig), 3);
    pass(&mut rig, Duration::from_secs(20));
    assert_eq!(resting(&rig), 1, "the third was deleted later");
    pass(&mut rig, Duration::from_secs(60));
    assert_eq!(resting(&rig), 0);
    assert!(
        rig.replica.next_wake(rig.now) > rig.now,
        "it comes to rest itself"
    );
}

#[test]
fn it_says_when_it_wants_to_look() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1]);
    for _ in 0..100_000 {
        let wake = rig.replica.next_wake(rig.now);
        rig.now = rig.now.max(wake);
        if rig.calls.is_empty() {
            rig.event(ReplicaEvent::Tick);
        } else {
            rig.answer(|_| {});
        }
        rig.settle();
        if resting(&rig) == 0 {
            return;
        }
    }
    panic!("it never woke for it");
}

#[test]
fn what_rests_is_not_read_listed_scrubbed_or_counted() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1, 2, 3]);
    let read = ReplicaRequest::Read {
        object: id(1),
        offset: 0,
        len: 10,
        stamp: None,
    };
    rig.request(read, Bytes::new());
    assert_eq!(rig.run_read(), Err(ErrorCode::NotFound));
    rig.request(ReplicaRequest::Fetch { object: id(1) }, Bytes::new());
    assert_eq!(rig.run_read(), Err(ErrorCode::NotFound));
    let held = ReplicaRequest::Held {
        after: None,
        limit: 10,
    };
    let to = rig.request(held, Bytes::new());
    let Some(Ok(ReplicaResponse::Held(held, true))) = rig.reply(to) else {
        panic!("the list is short");
    };
    assert_eq!(held, []);
    let to = rig.request(ReplicaRequest::Usage, Bytes::new());
    let Some(Ok(ReplicaResponse::Usage(usage))) = rig.reply(to) else {
        panic!("usage is told");
    };
    assert_eq!((usage.objects, usage.used_bytes), (0, 0));
    assert_eq!(usage.quarantine_objects, 3);
    rig.answer(|_| {});
    let load = rig.answer(|_| {}).load;
    assert_eq!(load.coming_bytes, 0, "tables give nothing back");
    assert!(usage.quarantine_bytes >= 3 * content(1).len() as u64);
}

#[test]
fn what_is_prepared_again_is_held_again() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1]);
    assert!(!rig.holds(1));
    let to = rig.prepare_at(1, 1, false);
    assert_eq!(rig.refusal(to), ErrorCode::NotFound, "it wants the bytes");
    let to = rig.prepare(1);
    rig.settle();
    assert!(rig.is_acked(to) && rig.holds(1));
    assert_eq!(resting(&rig), 0);
    pass(&mut rig, KEEP * 2);
    assert!(rig.holds(1), "nothing that rested takes it along");
}

#[test]
fn what_belongs_here_again_is_fetched_anew() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1]);
    rig.hold(21, 1);
    rig.tick(Duration::from_secs(3));
    let call = rig.call().expect("it is fetched");
    assert!(!rig.holds(1), "what rests is not trusted");
    rig.give(&call, 1);
    rig.settle();
    assert!(rig.holds(1));
    assert_eq!(resting(&rig), 0);
}

#[test]
fn it_rests_over_a_crash_and_never_for_less_than_its_time() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1]);
    pass(&mut rig, KEEP / 2);
    delete(&mut rig, 21, &[2]);
    rig.crash();
    assert_eq!(resting(&rig), 2);
    assert!(!rig.holds(1) && !rig.holds(2));
    pass(&mut rig, KEEP / 2 + Duration::from_secs(20));
    assert_eq!(resting(&rig), 1, "time on disk counts");
    pass(&mut rig, KEEP / 2 - Duration::from_secs(40));
    assert_eq!(resting(&rig), 1);
    // A clock that begins anew, as after a start of the machine.
    rig.now = Time(5);
    rig.crash();
    pass(&mut rig, KEEP - Duration::from_secs(20));
    assert_eq!(resting(&rig), 1);
    pass(&mut rig, Duration::from_secs(40));
    assert_eq!(resting(&rig), 0);
}

#[test]
fn objects_of_an_aborted_op_and_of_a_group_that_moved_rest_too() {
    let mut rig = filled();
    rig.tell(
        20,
        Note::Aborted {
            ino: INO,
            op: op(1),
        },
    );
    assert_eq!(resting(&rig), 1);
    rig.learn(map(30, info(2, &[2, 3, 4])));
    pass(&mut rig, Duration::from_secs(2));
    assert_eq!((resting(&rig), rig.store.objects()), (3, 0));
    let reasons = rig.store.oldest_resting(10).unwrap();
    let reasons: Vec<_> = reasons.into_iter().filter_map(|r| r.reason).collect();
    let moved = RestReason::Moved(PG, Epoch(2));
    assert_eq!(reasons, [RestReason::Aborted, moved, moved]);
}

#[test]
fn without_a_quarantine_they_go_at_once_and_so_does_what_rested() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1]);
    assert_eq!(resting(&rig), 1);
    rig.change_config(|config| config.quarantine = Duration::ZERO);
    rig.tick(Duration::from_secs(1));
    rig.settle();
    assert_eq!(resting(&rig), 0);
    rig.learn(map(30, info(1, &[1, 2, 3])));
    delete(&mut rig, 31, &[2]);
    assert_eq!((resting(&rig), rig.store.objects()), (0, 1));
}

#[test]
fn a_writer_is_told_to_try_again_while_anything_rests() {
    let mut rig = filled();
    delete(&mut rig, 20, &[1, 2]);
    rig.disk.set_capacity(Some(0));
    for _ in 0..3 {
        rig.tick(Duration::from_millis(100));
        rig.answer(|_| {});
    }
    // Nothing becomes durable: what rests is still there, or on its way.
    rig.pending.clear();
    let to = rig.prepare(9);
    assert_eq!(rig.refusal(to), ErrorCode::Freeing);
}

#[test]
fn what_rests_goes_before_a_writer_is_refused() {
    let mut rig = Rig::serving();
    for seq in 1..=3 {
        prepare_large(&mut rig, seq);
        rig.settle();
    }
    delete(&mut rig, 20, &[1, 2, 3]);
    // Free are the reserve and less than an object takes.
    let used = (1 << 40) - rig.store.space().unwrap().free_bytes;
    rig.disk.set_capacity(Some((used + 50_000) * 20 / 19));
    let to = prepare_large(&mut rig, 9);
    assert_eq!(rig.refusal(to), ErrorCode::Freeing);
    rig.settle();
    assert_eq!(resting(&rig), 0, "at once");
    let to = prepare_large(&mut rig, 9);
    rig.settle();
    assert!(rig.is_acked(to));
    // With nothing left to go, nor known to the master.
    rig.disk.set_capacity(Some(0));
    rig.tick(Duration::from_millis(1500));
    rig.answer(|_| {});
    rig.tick(Duration::from_millis(100));
    let to = rig.prepare(8);
    assert_eq!(rig.refusal(to), ErrorCode::Freeing, "others are told first");
    rig.tick(Duration::from_millis(1500));
    rig.answer(|_| {});
    rig.answer(|_| {});
    let to = rig.prepare(8);
    assert_eq!(rig.refusal(to), ErrorCode::NoSpace, "nothing is left");
}

#[test]
fn when_room_gets_short_those_deleted_first_go_and_no_more_than_it_takes() {
    let mut rig = Rig::serving();
    for seq in 1..=8 {
        prepare_large(&mut rig, seq);
        rig.settle();
    }
    let free = rig.store.space().unwrap().free_bytes;
    let used = (1 << 40) - free;
    rig.disk.set_capacity(Some(used * 2));
    for seq in 1..=6 {
        delete(&mut rig, 20 + seq, &[seq]);
        rig.tick(Duration::from_millis(10));
    }
    assert_eq!(resting(&rig), 6, "more than a quarter is free");
    // About 250,000 bytes less than a quarter and the reserve.
    let capacity = (used - 250_000) * 10 / 7;
    rig.disk.set_capacity(Some(capacity));
    pass(&mut rig, Duration::from_secs(2));
    let left: Vec<_> = rig.store.oldest_resting(10).unwrap();
    assert!((1..=5).contains(&left.len()), "{left:?}");
    let first = 7 - left.len() as u64;
    assert_eq!(left[0].id, id(first), "the oldest went");
    assert!(rig.store.admit(capacity / 4).is_ok());
}

#[test]
fn what_rested_rests_again_if_it_finds_no_room() {
    let mut rig = Rig::serving();
    prepare_large(&mut rig, 1);
    rig.settle();
    delete(&mut rig, 20, &[1]);
    let before = rig.store.resting();
    let to = prepare_large(&mut rig, 1);
    rig.disk.set_full(true);
    let (tokens, batches): (Vec<_>, Vec<_>) = rig.pending.drain(..).unzip();
    rig.writer.commit(&batches).unwrap();
    rig.event(ReplicaEvent::Persisted {
        token: tokens[0],
        result: Ok(()),
    });
    assert_eq!(rig.refusal(to), ErrorCode::Freeing);
    assert_eq!((rig.store.resting(), rig.store.objects()), (before, 0));
    rig.settle();
    rig.disk.set_full(false);
    assert_eq!(rig.disk.paths("objects/").len(), resting(&rig) as usize);
}

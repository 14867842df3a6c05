//! Locks end to end in the master: granted, waited for, given up, inherited.
use super::*;
use crate::types::{Lock, LockRequest, LockSpace};
use crate::wire::rpc::ReplyTo;

fn ask(ino: Ino, owner: u64, first: u64, last: u64, exclusive: bool) -> LockRequest {
    LockRequest {
        ino,
        space: LockSpace::Posix,
        owner,
        lock: Lock {
            first,
            last,
            exclusive,
            pid: 100 + owner as u32,
        },
    }
}

fn flock(ino: Ino, exclusive: bool) -> LockRequest {
    LockRequest {
        space: LockSpace::Flock,
        ..ask(ino, 1, 0, Lock::LAST_MAX, exclusive)
    }
}

fn lock(client: ClientId, seq: u64, body: LockRequest, waiter: Option<u64>) -> MasterRequest {
    MasterRequest::Lock {
        op: OpId { client, seq },
        low: 1,
        body,
        waiter,
    }
}

fn unlock(client: ClientId, seq: u64, of: LockRequest) -> MasterRequest {
    let body = Mutation::Unlock {
        ino: of.ino,
        space: of.space,
        owner: of.owner,
        first: of.lock.first,
        last: of.lock.last,
    };
    let op = OpId { client, seq };
    MasterRequest::Mutate {
        op,
        low: 1,
        body,
        open: None,
    }
}

fn is_held(reply: Option<Result<MasterResponse, WireError>>) -> bool {
    matches!(reply, Some(Ok(MasterResponse::Locked { .. })))
}

fn code(reply: Result<MasterResponse, WireError>) -> ErrorCode {
    reply.unwrap_err().code
}

/// A file in a cluster of one, with two sessions.
fn file() -> (Bench, Ino) {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    (bench, ino)
}

fn wait(bench: &mut Bench, client: ClientId, seq: u64, body: LockRequest, n: u64) -> ReplyTo {
    let conn = if client == A { CLIENT_A } else { CLIENT_B };
    let waiting = bench.send(conn, lock(client, seq, body, Some(n)));
    bench.settle();
    waiting
}

#[test]
fn a_lock_is_granted_with_the_state_of_the_file_or_refused_at_once() {
    let (mut bench, ino) = file();
    let whole = ask(ino, 1, 0, Lock::LAST_MAX, true);
    match bench.call(CLIENT_A, lock(A, 2, whole, None)).unwrap() {
        MasterResponse::Locked { attr, layout, .. } => {
            assert_eq!((attr.ino, layout.unwrap().size), (ino, 0));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        code(bench.call(CLIENT_B, lock(B, 1, whole, None))),
        ErrorCode::Locked
    );
    let query = MasterRequest::Query {
        client: None,
        interest: false,
        body: Query::LockConflict {
            client: B,
            body: whole,
        },
    };
    let MasterResponse::Answer { body, .. } = bench.call(CLIENT_B, query).unwrap() else {
        panic!()
    };
    let QueryAnswer::Conflict(Some(held)) = body else {
        panic!("{body:?}")
    };
    assert_eq!((held.holder.client, held.lock.pid), (A, 101));
    bench.call(CLIENT_A, unlock(A, 3, whole)).unwrap();
    // What was refused under this op decided nothing.
    assert!(bench.call(CLIENT_B, lock(B, 1, whole, None)).is_ok());
    assert!(
        bench.call(CLIENT_B, lock(B, 1, whole, None)).is_ok(),
        "again"
    );
    let dir = ask(Ino::ROOT, 1, 0, 9, true);
    assert_eq!(
        code(bench.call(CLIENT_A, lock(A, 4, dir, None))),
        ErrorCode::Invalid
    );
}

#[test]
fn regression_an_unlock_of_a_range_that_ends_before_it_begins_is_refused() {
    let (mut bench, ino) = file();
    let whole = ask(ino, 1, 0, 99, true);
    bench.call(CLIENT_A, lock(A, 2, whole, None)).unwrap();
    let waiting = wait(&mut bench, B, 1, ask(ino, 1, 20, 29, true), 1);
    let done = bench.call(CLIENT_A, unlock(A, 3, ask(ino, 1, 50, 10, true)));
    assert_eq!(code(done), ErrorCode::Invalid);
    assert!(!bench.has_reply(waiting));
    assert_eq!(bench.leader().state().locks().count(), 1);
}

#[test]
fn those_who_wait_are_served_in_the_order_of_asking_and_answered_once() {
    let (mut bench, ino) = file();
    let first = ask(ino, 1, 0, 9, true);
    bench.call(CLIENT_A, lock(A, 2, first, None)).unwrap();
    let one = wait(&mut bench, B, 1, ask(ino, 1, 5, 14, true), 11);
    let two = wait(&mut bench, A, 3, ask(ino, 2, 0, 7, true), 12);
    let three = wait(&mut bench, B, 2, ask(ino, 2, 8, 30, false), 13);
    assert!(!bench.has_reply(one) && !bench.has_reply(two) && !bench.has_reply(three));
    assert_eq!(locks_of(&mut bench), (1, 3));
    bench.call(CLIENT_A, unlock(A, 4, first)).unwrap();
    assert!(is_held(bench.reply(one)));
    assert!(!bench.has_reply(two) && !bench.has_reply(three));
    let again = wait(&mut bench, A, 3, ask(ino, 2, 0, 7, true), 12);
    assert_eq!(
        code(bench.reply(two).unwrap()),
        ErrorCode::Locked,
        "asked again, the first question is over"
    );
    bench
        .call(CLIENT_B, unlock(B, 3, ask(ino, 1, 5, 14, true)))
        .unwrap();
    assert!(is_held(bench.reply(again)) && is_held(bench.reply(three)));
    assert_eq!(locks_of(&mut bench), (2, 0));
}

fn locks_of(bench: &mut Bench) -> (u64, u64) {
    match bench.call(CLIENT_A, MasterRequest::Status).unwrap() {
        MasterResponse::Status(status) => status.locks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_owner_that_asks_for_more_does_not_wait_for_one_that_waits_for_it() {
    let (mut bench, ino) = file();
    bench
        .call(CLIENT_A, lock(A, 2, ask(ino, 1, 0, 9, true), None))
        .unwrap();
    let waiting = wait(&mut bench, B, 1, ask(ino, 1, 0, 19, true), 1);
    let more = bench.call(CLIENT_A, lock(A, 3, ask(ino, 1, 10, 19, true), Some(2)));
    assert!(more.is_ok() && !bench.has_reply(waiting));
}

#[test]
fn a_wait_that_was_disowned_is_not_granted_any_more() {
    let (mut bench, ino) = file();
    let whole = ask(ino, 1, 0, 9, true);
    bench.call(CLIENT_A, lock(A, 2, whole, None)).unwrap();
    let waiting = wait(&mut bench, B, 1, whole, 1);
    let target = OpId { client: B, seq: 1 };
    let done = bench.call(CLIENT_B, mutate_low(B, 2, Mutation::Abandon { op: target }));
    assert_eq!(done, Ok(MasterResponse::Mutated(MutationOk::Done.into())));
    assert_eq!(code(bench.reply(waiting).unwrap()), ErrorCode::OpAborted);
    // It comes back under another op, in its old place before one that came later.
    let later = wait(&mut bench, A, 3, ask(ino, 9, 0, 9, true), 5);
    let back = wait(&mut bench, B, 3, whole, 1);
    bench.call(CLIENT_A, unlock(A, 4, whole)).unwrap();
    assert!(is_held(bench.reply(back)) && !bench.has_reply(later));
    // Disowned when it was granted already, it says so.
    let target = OpId { client: B, seq: 3 };
    let done = bench.call(CLIENT_B, mutate_low(B, 4, Mutation::Abandon { op: target }));
    assert_eq!(done, Ok(MasterResponse::Mutated(MutationOk::Locked.into())));
}

fn mutate_low(client: ClientId, seq: u64, body: Mutation) -> MasterRequest {
    let op = OpId { client, seq };
    MasterRequest::Mutate {
        op,
        low: 1,
        body,
        open: None,
    }
}

#[test]
fn who_does_not_ask_any_more_loses_its_place() {
    let (mut bench, ino) = file();
    let whole = ask(ino, 1, 0, 9, true);
    bench.call(CLIENT_A, lock(A, 2, whole, None)).unwrap();
    let silent = wait(&mut bench, B, 1, whole, 1);
    for _ in 0..7 {
        bench.run_for(1_000);
        alive(&mut bench);
    }
    assert_eq!(code(bench.reply(silent).unwrap()), ErrorCode::Locked);
    bench.call(CLIENT_A, unlock(A, 3, whole)).unwrap();
    assert!(bench.call(CLIENT_A, lock(A, 4, whole, None)).is_ok());
}

fn alive(bench: &mut Bench) {
    for (client, conn) in [(A, CLIENT_A), (B, CLIENT_B)] {
        bench.call(conn, keep_alive(client, Term(0))).unwrap();
    }
}

#[test]
fn a_session_that_expires_sets_its_locks_free_and_can_change_nothing_afterwards() {
    let (mut bench, ino) = file();
    let whole = ask(ino, 1, 0, 9, true);
    bench.call(CLIENT_B, lock(B, 1, whole, None)).unwrap();
    bench
        .call(CLIENT_B, lock(B, 2, flock(ino, true), None))
        .unwrap();
    let began = bench.now();
    let (mut seq, mut waiting) = (1, None);
    while waiting.is_none_or(|w| !bench.has_reply(w)) {
        assert!(bench.now().since(began).as_secs() < 12, "within the lease");
        seq += 1;
        waiting = Some(wait(&mut bench, A, seq, whole, 1));
        bench.run_for(500);
        bench.call(CLIENT_A, keep_alive(A, Term(0))).unwrap();
    }
    assert!(is_held(bench.reply(waiting.unwrap())));
    let late = bench.call(CLIENT_B, mutate_low(B, 3, chmod(ino, 0o600)));
    assert_eq!(code(late), ErrorCode::SessionExpired);
    assert_eq!(locks_of(&mut bench), (1, 0));
}

#[test]
fn who_waits_hears_at_once_of_a_holder_that_leaves_or_asks_for_less() {
    let (mut bench, ino) = file();
    let (whole, shared) = (ask(ino, 1, 0, 9, true), ask(ino, 1, 0, 9, false));
    bench.call(CLIENT_A, lock(A, 2, whole, None)).unwrap();
    let reader = wait(&mut bench, B, 1, shared, 1);
    assert!(!bench.has_reply(reader));
    bench.call(CLIENT_A, lock(A, 3, shared, None)).unwrap();
    assert!(is_held(bench.reply(reader)), "now they read together");
    let writer = wait(&mut bench, A, 4, whole, 2);
    assert!(!bench.has_reply(writer));
    bench
        .call(CLIENT_B, MasterRequest::CloseSession { client: B })
        .unwrap();
    assert!(is_held(bench.reply(writer)));
}

#[test]
fn a_reader_that_becomes_a_writer_lets_the_others_pass() {
    let (mut bench, ino) = file();
    bench
        .call(CLIENT_A, lock(A, 2, flock(ino, false), None))
        .unwrap();
    bench
        .call(CLIENT_B, lock(B, 1, flock(ino, false), None))
        .unwrap();
    let first = wait(&mut bench, A, 3, flock(ino, true), 1);
    assert!(!bench.has_reply(first));
    let second = wait(&mut bench, B, 2, flock(ino, true), 1);
    assert!(is_held(bench.reply(second)) && !bench.has_reply(first));
    bench
        .call(CLIENT_B, unlock(B, 3, flock(ino, true)))
        .unwrap();
    assert!(is_held(bench.reply(first)));
}

#[test]
fn locks_outlive_the_leader_and_who_waits_asks_the_next_one() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let whole = ask(ino, 1, 0, 9, true);
    bench.call(CLIENT_A, lock(A, 2, whole, None)).unwrap();
    wait(&mut bench, B, 1, whole, 1);
    let old = bench.leader_id();
    bench.stop(old);
    bench.run_until("another leader", |b| b.has_leader());
    assert_eq!(
        code(bench.call(CLIENT_B, lock(B, 2, whole, None))),
        ErrorCode::Locked
    );
    let waiting = wait(&mut bench, B, 1, whole, 1);
    assert!(!bench.has_reply(waiting));
    bench.call(CLIENT_A, unlock(A, 3, whole)).unwrap();
    bench.run_until("granted", |b| b.has_reply(waiting));
    assert!(is_held(bench.reply(waiting)));
    bench.start(old);
    bench.run_until("caught up", |b| {
        b.master(old).state().applied() == b.leader().state().applied()
    });
    let state = bench.master(old).state();
    assert_eq!(state.locks().count(), 1);
    assert!(state.locks().conflict(A, &whole).is_some());
}

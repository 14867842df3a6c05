//! What only the sole session may do, and files that are open as soon as they are made.
use super::bench::{Bench, CLIENT_A, CLIENT_B};
use super::{A, B, create, getattr, keep_alive, mutate, open, sessions};
use crate::types::{ClientId, Ino, LogIndex, Name, OpId, Term};
use crate::wire::master::{MasterRequest, MasterResponse, Mutated};
use crate::wire::mutation::MutationOk;
use crate::wire::rpc::{ConnId, ReplyTo};
use crate::wire::{ErrorCode, Push, Query};
use std::time::Duration;

fn begin(bench: &mut Bench, conn: ConnId, client: ClientId) -> ReplyTo {
    let label = "test".to_owned();
    let asked = bench.send(conn, MasterRequest::OpenSession { client, label });
    bench.settle();
    asked
}

fn is_sole(bench: &mut Bench, conn: ConnId, client: ClientId) -> bool {
    let term = bench.leader().raft().term();
    match bench.call(conn, keep_alive(client, term)) {
        Ok(MasterResponse::Session { sole, .. }) => sole,
        other => panic!("{other:?}"),
    }
}

/// A is the only session, and knows it.
fn alone() -> Bench {
    let mut bench = Bench::new(1, 1);
    bench.run_until("groups exist", |b| b.members_complete());
    let asked = begin(&mut bench, CLIENT_A, A);
    bench.run_until("a session", |b| b.has_reply(asked));
    assert!(is_sole(&mut bench, CLIENT_A, A));
    bench
}

/// Acknowledges the push that tells A that it is not the only one any more.
fn give_up(bench: &mut Bench) {
    let Some((CLIENT_A, Push::Invalidate { seq, touched, .. })) = bench.take_push() else {
        panic!("A is told")
    };
    assert_eq!(touched[0].ino, Ino::SOLE);
    let ack = MasterRequest::PushAck { client: A, seq };
    bench.call(CLIENT_A, ack).unwrap();
}

#[test]
fn a_second_session_begins_when_the_only_one_knows() {
    let mut bench = alone();
    let asked = begin(&mut bench, CLIENT_B, B);
    assert!(!bench.has_reply(asked), "A may have lent something");
    give_up(&mut bench);
    assert!(bench.has_reply(asked));
    assert!(!is_sole(&mut bench, CLIENT_A, A) && !is_sole(&mut bench, CLIENT_B, B));
    let close = MasterRequest::CloseSession { client: B };
    bench.call(CLIENT_B, close).unwrap();
    assert!(is_sole(&mut bench, CLIENT_A, A));
}

#[test]
fn one_that_is_silent_holds_up_the_next_session_as_long_as_its_caches_are_valid() {
    let mut bench = alone();
    let asked = begin(&mut bench, CLIENT_B, B);
    bench.run_for(1_500);
    assert!(!bench.has_reply(asked));
    bench.run_for(1_000);
    assert!(bench.has_reply(asked));
}

#[test]
fn who_looks_without_a_session_waits_too() {
    let mut bench = alone();
    let look = |body| MasterRequest::Query {
        client: None,
        interest: false,
        body,
    };
    let space = bench.send(CLIENT_B, look(Query::StatFs));
    bench.settle();
    assert!(bench.has_reply(space), "nothing that is lent");
    let ino = Ino::ROOT;
    let looks = bench.send(CLIENT_B, look(Query::GetAttr { ino }));
    bench.settle();
    assert!(!bench.has_reply(looks));
    give_up(&mut bench);
    assert!(bench.has_reply(looks));
    assert!(
        is_sole(&mut bench, CLIENT_A, A),
        "until somebody looks again"
    );
}

/// A change that A queued when it was told at `sole_at` that it is the only session.
fn queued(seq: u64, sole_at: LogIndex, name: &str) -> MasterRequest {
    MasterRequest::MutateAfter {
        op: OpId { client: A, seq },
        low: seq,
        after: 0,
        sole_at,
        listens: Duration::from_secs(9),
        body: create(name),
        open: None,
    }
}

/// As of when the only session is that.
fn sole_at(bench: &mut Bench) -> LogIndex {
    let term = bench.leader().raft().term();
    match bench.call(CLIENT_A, keep_alive(A, term)) {
        Ok(MasterResponse::Session {
            sole: true, as_of, ..
        }) => as_of,
        other => panic!("{other:?}"),
    }
}

#[test]
fn regression_who_looks_from_outside_sees_what_the_only_session_had_queued() {
    let mut bench = alone();
    let at = sole_at(&mut bench);
    let looks = bench.send(
        CLIENT_B,
        MasterRequest::Query {
            client: None,
            interest: false,
            body: Query::Lookup {
                parent: Ino::ROOT,
                name: Name::new("f").unwrap(),
            },
        },
    );
    bench.settle();
    assert!(!bench.has_reply(looks));
    bench.call(CLIENT_A, queued(1, at, "f")).unwrap();
    give_up(&mut bench);
    assert!(bench.has_reply(looks));
    assert!(
        bench.reply(looks).unwrap().is_ok(),
        "as of now, not of when it was asked"
    );
}

#[test]
fn regression_what_a_silent_session_has_queued_is_refused_once_another_was_let_in() {
    let mut bench = alone();
    let at = sole_at(&mut bench);
    bench.call(CLIENT_A, queued(1, at, "before")).unwrap();
    let asked = begin(&mut bench, CLIENT_B, B);
    bench.run_for(3_000);
    assert!(bench.has_reply(asked), "A does not answer");
    let refused = bench.call(CLIENT_A, queued(2, at, "late")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::OpAborted);
    let close = MasterRequest::CloseSession { client: B };
    bench.call(CLIENT_B, close).unwrap();
    // It hears that it is alone again: what it queues from here on is in time.
    give_up(&mut bench);
    let again = sole_at(&mut bench);
    assert!(again > at);
    bench.call(CLIENT_A, queued(3, again, "again")).unwrap();
}

#[test]
fn regression_a_session_begins_after_what_another_had_queued_before_an_election() {
    let (mut bench, at) = alone_at_an_election();
    let asked = begin(&mut bench, CLIENT_B, B);
    let said = says_queued(&bench);
    bench.call(CLIENT_A, said).unwrap();
    bench.run_for(100);
    assert!(!bench.has_reply(asked), "A has changes queued");
    bench.call(CLIENT_A, queued(1, at, "f")).unwrap();
    give_up(&mut bench);
    bench.run_until("a session", |b| b.has_reply(asked));
}

/// A says what it has open, and that changes are queued.
fn says_queued(bench: &Bench) -> MasterRequest {
    MasterRequest::KeepAlive {
        client: A,
        low: 1,
        clean_term: bench.leader().raft().term(),
        opens: vec![],
        queued: true,
    }
}

fn look() -> MasterRequest {
    MasterRequest::Query {
        client: None,
        interest: false,
        body: Query::GetAttr { ino: Ino::ROOT },
    }
}

/// A was alone, has queued changes since `at`, and there is another leader.
fn alone_at_an_election() -> (Bench, LogIndex) {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    let asked = begin(&mut bench, CLIENT_A, A);
    bench.run_until("a session", |b| b.has_reply(asked));
    let at = sole_at(&mut bench);
    bench.stop(bench.leader_id());
    bench.run_until("another leader", |b| b.has_leader());
    (bench, at)
}

#[test]
fn regression_one_that_comes_back_long_after_an_election_is_barred_once_somebody_looked() {
    let (mut bench, at) = alone_at_an_election();
    bench.run_for(4_000);
    let looks = bench.send(CLIENT_B, look());
    bench.run_until("an answer", |b| b.has_reply(looks));
    bench.call(CLIENT_A, says_queued(&bench)).unwrap();
    let refused = bench.call(CLIENT_A, queued(1, at, "late")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::OpAborted);
}

#[test]
fn regression_one_that_comes_back_long_after_an_election_goes_on_if_nobody_looked() {
    let (mut bench, at) = alone_at_an_election();
    bench.run_for(4_000);
    bench.call(CLIENT_A, says_queued(&bench)).unwrap();
    // Nobody waited when it said so; who comes now does.
    let looks = bench.send(CLIENT_B, look());
    bench.settle();
    assert!(!bench.has_reply(looks), "A has changes queued");
    bench.call(CLIENT_A, queued(1, at, "in time")).unwrap();
    give_up(&mut bench);
    bench.run_until("an answer", |b| b.has_reply(looks));
}

#[test]
fn regression_one_that_goes_on_sending_what_it_has_queued_is_not_barred() {
    let mut bench = alone();
    let at = sole_at(&mut bench);
    let asked = begin(&mut bench, CLIENT_B, B);
    for seq in 1..=8 {
        bench.run_for(500);
        assert!(!bench.has_reply(asked), "A is busy, and heard of");
        let name = format!("f{seq}");
        bench.call(CLIENT_A, queued(seq, at, &name)).unwrap();
    }
    give_up(&mut bench);
    bench.run_until("a session", |b| b.has_reply(asked));
}

#[test]
fn a_session_that_a_new_leader_does_not_know_holds_up_the_next() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    let asked = begin(&mut bench, CLIENT_A, A);
    bench.run_until("a session", |b| b.has_reply(asked));
    assert!(is_sole(&mut bench, CLIENT_A, A));
    bench.stop(bench.leader_id());
    bench.run_until("another leader", |b| b.has_leader());
    let asked = begin(&mut bench, CLIENT_B, B);
    bench.run_for(200);
    assert!(!bench.has_reply(asked), "A has not said what it has lent");
    assert!(!is_sole(&mut bench, CLIENT_A, A));
    bench.run_until("a session", |b| b.has_reply(asked));
}

fn make(bench: &mut Bench, seq: u64) -> Mutated {
    let request = match mutate(A, seq, create("f")) {
        MasterRequest::Mutate { op, low, body, .. } => MasterRequest::Mutate {
            op,
            low,
            body,
            open: Some(true),
        },
        other => other,
    };
    match bench.call(CLIENT_A, request) {
        Ok(MasterResponse::Mutated(done)) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_made_to_be_opened_is_open_and_its_directory_is_told_of() {
    let mut bench = Bench::new(1, 1);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    let made = make(&mut bench, 1);
    let MutationOk::Entry { attr, .. } = &made.ok else {
        panic!("{made:?}")
    };
    assert_eq!(made.opened.map(|layout| layout.size), Some(0));
    let others: Vec<Ino> = made.others.iter().map(|attr| attr.ino).collect();
    assert_eq!(others, [Ino::ROOT]);
    // Its author is asked to hand over what it wrote.
    let asked = bench.send(CLIENT_B, open(B, attr.ino, false));
    bench.settle();
    let Some((CLIENT_A, Push::Recall { ino, seq, .. })) = bench.take_push() else {
        panic!("A has it open")
    };
    assert_eq!(ino, attr.ino);
    let ack = MasterRequest::PushAck { client: A, seq };
    bench.call(CLIENT_A, ack).unwrap();
    bench.run_until("opened", |b| b.has_reply(asked));
    // The answer to a repeated op says nothing of now.
    assert_eq!(make(&mut bench, 1).opened, None);
}

#[test]
fn a_file_made_beside_a_silent_session_is_opened_in_a_second_step() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    bench.stop(bench.leader_id());
    bench.run_until("another leader", |b| b.has_leader());
    let first = bench.call(CLIENT_A, keep_alive(A, Term(0)));
    let Ok(MasterResponse::Session { term, .. }) = first else {
        panic!("{first:?}")
    };
    bench.call(CLIENT_A, keep_alive(A, term)).unwrap();
    assert_eq!(make(&mut bench, 1).opened, None, "B has yet to speak");
    let seen = bench.call(CLIENT_A, getattr(A, Ino::ROOT));
    assert!(seen.is_ok());
}

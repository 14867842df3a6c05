//! Opens beside sessions that are silent, and such as come late.
use super::bench::{Bench, CLIENT_A, CLIENT_B};
use super::{A, B, create, ino_of, keep_alive, mutate, one, open, sessions};
use crate::types::{ClientId, Ino, LeaseSeq, Term};
use crate::wire::master::{MasterRequest, MasterResponse, OpenInode};
use crate::wire::rpc::ConnId;
use crate::wire::{ErrorCode, Push};

/// The lease, and whether the file is shared.
fn opened(bench: &mut Bench, conn: ConnId, client: ClientId, ino: Ino) -> (LeaseSeq, bool) {
    let asked = bench.send(conn, open(client, ino, true));
    bench.run_until("opened", |b| b.has_reply(asked));
    match bench.reply(asked) {
        Some(Ok(MasterResponse::Opened { lease, shared, .. })) => (lease, shared),
        other => panic!("{other:?}"),
    }
}

/// Three voters, and a file that B writes under this lease.
fn three() -> (Bench, Ino, LeaseSeq) {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let (lease, shared) = opened(&mut bench, CLIENT_B, B, ino);
    assert!(!shared, "B may keep what it writes to itself");
    (bench, ino, lease)
}

/// The session tells the leader of now what it has open.
fn declare(bench: &mut Bench, conn: ConnId, client: ClientId, opens: Vec<OpenInode>) {
    let Ok(MasterResponse::Session { term, .. }) = bench.call(conn, keep_alive(client, Term(0)))
    else {
        panic!("the session is known")
    };
    let said = MasterRequest::KeepAlive {
        client,
        low: 1,
        clean_term: term,
        opens,
        queued: false,
    };
    bench.call(conn, said).unwrap();
}

#[test]
fn regression_a_writer_that_slept_through_an_election_does_not_write_over_others() {
    for wrote in [None, Some(false), Some(true)] {
        let (mut bench, ino, old_lease) = three();
        bench.stop(bench.leader_id());
        bench.run_until("another leader", |b| b.has_leader());
        let opens = vec![OpenInode { ino, write: true }];
        let of_a = wrote.map(|write| OpenInode { ino, write });
        declare(&mut bench, CLIENT_A, A, of_a.into_iter().collect());
        let reads = bench.send(CLIENT_A, open(A, ino, false));
        bench.run_until("opened", |b| b.has_reply(reads));
        let Some(Ok(MasterResponse::Opened { lease, .. })) = bench.reply(reads) else {
            panic!()
        };
        assert_eq!(lease, old_lease, "who reads overwrites nothing");
        let (lease, shared) = opened(&mut bench, CLIENT_A, A, ino);
        assert!(shared, "it keeps nothing to itself while B is silent");
        // One that wrote it beside B has seen to it that B keeps nothing to itself.
        let is_known = wrote == Some(true);
        assert_eq!(lease == old_lease, is_known, "worth nothing to B any more");
        let (again, _) = opened(&mut bench, CLIENT_A, A, ino);
        assert_eq!(again, lease, "once is enough");
        declare(&mut bench, CLIENT_B, B, opens);
        let next = bench.send(CLIENT_A, open(A, ino, true));
        bench.settle();
        assert!(!bench.has_reply(next), "B is asked for what it has");
    }
}

#[test]
fn regression_a_writer_that_tells_of_itself_in_time_is_asked_and_not_shut_out() {
    let (mut bench, ino, old_lease) = three();
    bench.stop(bench.leader_id());
    bench.run_until("another leader", |b| b.has_leader());
    declare(&mut bench, CLIENT_A, A, Vec::new());
    let asked = bench.send(CLIENT_A, open(A, ino, true));
    bench.settle();
    let opens = vec![OpenInode { ino, write: true }];
    declare(&mut bench, CLIENT_B, B, opens);
    // An open of its own, while it has yet to put what it has.
    let own = bench.send(CLIENT_B, open(B, ino, true));
    bench.settle();
    assert!(!bench.has_reply(asked), "B is asked for what it has");
    while let Some((conn, push)) = bench.take_push() {
        if let Push::Recall { seq, .. } = push {
            let client = if conn == CLIENT_A { A } else { B };
            let ack = MasterRequest::PushAck { client, seq };
            bench.call(conn, ack).unwrap();
        }
    }
    for asked in [asked, own] {
        bench.run_until("opened", |b| b.has_reply(asked));
        let Some(Ok(MasterResponse::Opened { lease, .. })) = bench.reply(asked) else {
            panic!()
        };
        assert_eq!(lease, old_lease);
    }
}

#[test]
fn regression_a_writer_that_tells_of_itself_during_a_recall_of_others_is_shut_out() {
    const C: ClientId = ClientId(0xc);
    const CLIENT_C: ConnId = ConnId(1003);
    let (mut bench, ino, old_lease) = three();
    let label = "test".to_owned();
    let begun = bench.call(CLIENT_C, MasterRequest::OpenSession { client: C, label });
    assert!(begun.is_ok());
    bench.stop(bench.leader_id());
    bench.run_until("another leader", |b| b.has_leader());
    for (conn, client) in [(CLIENT_A, A), (CLIENT_C, C)] {
        declare(&mut bench, conn, client, Vec::new());
    }
    // Both wait until B would have lost its caches; then each is asked to make room for the other.
    let asked = [(CLIENT_A, A), (CLIENT_C, C)].map(|(conn, client)| {
        let asked = bench.send(conn, open(client, ino, true));
        bench.settle();
        asked
    });
    bench.run_for(2_300);
    let opens = vec![OpenInode { ino, write: true }];
    declare(&mut bench, CLIENT_B, B, opens);
    let mut recalled = 0;
    while let Some((conn, push)) = bench.take_push() {
        if let Push::Recall { seq, .. } = push {
            let client = if conn == CLIENT_A { A } else { C };
            let ack = MasterRequest::PushAck { client, seq };
            bench.call(conn, ack).unwrap();
            recalled += 1;
        }
    }
    assert_eq!(recalled, 2);
    bench.run_until("opened", |b| asked.iter().all(|asked| b.has_reply(*asked)));
    for asked in asked {
        let Some(Ok(MasterResponse::Opened { lease, .. })) = bench.reply(asked) else {
            panic!()
        };
        assert_ne!(lease, old_lease, "B was not asked for what it has");
    }
}

#[test]
fn regression_what_comes_late_by_an_abandoned_connection_opens_and_releases_nothing() {
    const LATE: ConnId = ConnId(900);
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let late = bench.call(LATE, open(A, ino, true)).unwrap_err();
    assert_eq!(late.code, ErrorCode::NotReady);
    let (_, shared) = opened(&mut bench, CLIENT_B, B, ino);
    assert!(!shared, "A has it open no more");
    let release = MasterRequest::Release {
        client: B,
        inos: vec![ino],
    };
    let late = bench.call(LATE, release).unwrap_err();
    assert_eq!(late.code, ErrorCode::NotReady);
    let asked = bench.send(CLIENT_A, open(A, ino, true));
    bench.settle();
    assert!(!bench.has_reply(asked), "B still writes it, and is asked");
}

//! Masters driven end to end: logs on simulated disks, messages in a queue, stores that only say
//! what a store would say.
mod bench;
mod copies;
mod locks;
mod opens;
mod placing;
mod sole;
mod space;
mod store;
mod unsettled;
mod voters;

use crate::types::{ClientId, FileKind, Ino, Name, OpId, PgPhase, RaftId, StoreId, Term};
use crate::wire::master::{Health, MasterRequest, MasterResponse, Mutated, QueryAnswer};
use crate::wire::mutation::{Mutation, MutationOk, NewNode};
use crate::wire::repair::WaitKind;
use crate::wire::rpc::ConnId;
use crate::wire::{ErrorCode, Push, Query, WireError};
use bench::{Bench, CLIENT_A, CLIENT_B};

const A: ClientId = ClientId(0xa);
const B: ClientId = ClientId(0xb);

fn create(name: &str) -> Mutation {
    let node = NewNode {
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: vec![],
    };
    let name = Name::new(name).unwrap();
    Mutation::Create {
        parent: Ino::ROOT,
        name,
        node,
        exclusive: true,
    }
}

fn mutate(client: ClientId, seq: u64, body: Mutation) -> MasterRequest {
    MasterRequest::Mutate {
        op: OpId { client, seq },
        low: seq,
        body,
        open: None,
    }
}

fn chmod(ino: Ino, mode: u32) -> Mutation {
    Mutation::SetAttr {
        ino,
        mode: Some(mode),
        uid: None,
        gid: None,
        atime: None,
        mtime: None,
    }
}

fn getattr(client: ClientId, ino: Ino) -> MasterRequest {
    MasterRequest::Query {
        client: Some(client),
        interest: true,
        body: Query::GetAttr { ino },
    }
}

fn open(client: ClientId, ino: Ino, write: bool) -> MasterRequest {
    MasterRequest::Open {
        client,
        ino,
        write,
        interest: false,
    }
}

fn keep_alive(client: ClientId, clean_term: Term) -> MasterRequest {
    MasterRequest::KeepAlive {
        client,
        low: 1,
        clean_term,
        opens: vec![],
        queued: false,
    }
}

fn ino_of(reply: Result<MasterResponse, WireError>) -> Ino {
    match reply {
        Ok(MasterResponse::Mutated(Mutated {
            ok: MutationOk::Entry { attr, .. },
            ..
        })) => attr.ino,
        other => panic!("{other:?}"),
    }
}

fn mode_of(reply: Result<MasterResponse, WireError>) -> u32 {
    match reply {
        Ok(MasterResponse::Answer {
            body: QueryAnswer::Attr(attr),
            ..
        }) => attr.mode,
        other => panic!("{other:?}"),
    }
}

/// Opens sessions A and B with caches granted.
fn sessions(bench: &mut Bench) {
    let both = [(A, CLIENT_A), (B, CLIENT_B)];
    // Both begin before one of them could be told to be the only one.
    let opened = both.map(|(client, conn)| {
        let label = "test".to_owned();
        let opened = bench.call(conn, MasterRequest::OpenSession { client, label });
        match opened.unwrap() {
            MasterResponse::Session { term, .. } => term,
            opened => panic!("{opened:?}"),
        }
    });
    for ((client, conn), term) in both.into_iter().zip(opened) {
        bench.call(conn, keep_alive(client, term)).unwrap();
    }
}

fn one() -> Bench {
    let mut bench = Bench::new(1, 1);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    bench
}

#[test]
fn a_single_node_bootstraps_and_serves() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    assert_eq!(mode_of(bench.call(CLIENT_B, getattr(B, ino))), 0o644);
    let again = bench.call(CLIENT_A, mutate(A, 1, create("f")));
    assert_eq!(ino_of(again), ino, "the same op gets the same answer");
    let MasterResponse::Status(status) = bench.call(CLIENT_A, MasterRequest::Status).unwrap()
    else {
        panic!()
    };
    assert_eq!(status.health, Health::Healthy, "{:?}", status.reasons);
    assert_eq!(status.pgs, (16, 0, 0));
}

#[test]
fn a_change_is_acknowledged_only_after_the_other_cache_dropped_it() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    bench.call(CLIENT_B, getattr(B, ino)).unwrap();
    let pending = bench.send(CLIENT_A, mutate(A, 2, chmod(ino, 0o600)));
    bench.settle();
    assert_eq!(bench.reply(pending), None, "B has not acknowledged");
    let (conn, push) = bench.take_push().unwrap();
    let Push::Invalidate { seq, touched, .. } = push else {
        panic!("{push:?}")
    };
    assert_eq!((conn, touched[0].ino), (CLIENT_B, ino));
    bench
        .call(CLIENT_B, MasterRequest::PushAck { client: B, seq })
        .unwrap();
    assert!(bench.reply(pending).unwrap().is_ok());
}

#[test]
fn a_change_waits_for_a_silent_cache_no_longer_than_its_grant() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    bench.call(CLIENT_B, getattr(B, ino)).unwrap();
    let began = bench.now();
    let pending = bench.send(CLIENT_A, mutate(A, 2, chmod(ino, 0o600)));
    bench.run_until("answered", |b| b.has_reply(pending));
    assert!(bench.now().since(began).as_millis() <= 2300);
}

#[test]
fn an_open_waits_for_the_writer_to_flush() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let opened = bench.call(CLIENT_A, open(A, ino, true)).unwrap();
    assert!(matches!(
        opened,
        MasterResponse::Opened { shared: false, .. }
    ));
    let pending = bench.send(CLIENT_B, open(B, ino, false));
    bench.settle();
    assert_eq!(bench.reply(pending), None);
    let Some((CLIENT_A, Push::Recall { seq, .. })) = bench.take_push() else {
        panic!()
    };
    bench
        .call(CLIENT_A, MasterRequest::PushAck { client: A, seq })
        .unwrap();
    let opened = bench.reply(pending).unwrap().unwrap();
    assert!(matches!(
        opened,
        MasterResponse::Opened { shared: true, .. }
    ));
}

#[test]
fn a_writer_that_does_not_answer_loses_its_lease() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let Ok(MasterResponse::Opened { lease: first, .. }) = bench.call(CLIENT_A, open(A, ino, true))
    else {
        panic!()
    };
    let pending = bench.send(CLIENT_B, open(B, ino, true));
    bench.run_until("answered", |b| b.has_reply(pending));
    let Ok(MasterResponse::Opened { lease, .. }) = bench.reply(pending).unwrap() else {
        panic!()
    };
    assert!(lease > first);
}

/// The second raise took away the lease that the first had just given.
#[test]
fn regression_two_opens_that_meet_a_silent_writer_get_the_same_lease() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    bench.call(CLIENT_A, open(A, ino, true)).unwrap();
    const C: ClientId = ClientId(0xc0de);
    let conn = ConnId(0xc0de);
    let label = String::new();
    bench
        .call(conn, MasterRequest::OpenSession { client: C, label })
        .unwrap();
    let second = bench.send(CLIENT_B, open(B, ino, true));
    bench.settle();
    bench.run_for(50);
    let third = bench.send(conn, open(C, ino, true));
    bench.settle();
    while let Some((to, push)) = bench.take_push() {
        if let (CLIENT_B, Push::Recall { seq, .. }) = (to, push) {
            bench
                .call(CLIENT_B, MasterRequest::PushAck { client: B, seq })
                .unwrap();
        }
    }
    bench.run_until("answered", |b| b.has_reply(second) && b.has_reply(third));
    let lease = |reply: Option<Result<MasterResponse, WireError>>| match reply {
        Some(Ok(MasterResponse::Opened { lease, .. })) => lease,
        other => panic!("{other:?}"),
    };
    assert_eq!(lease(bench.reply(second)), lease(bench.reply(third)));
}

#[test]
fn a_silent_session_expires_and_its_uuid_is_refused() {
    let mut bench = one();
    bench.run_for(11_000);
    let refused = bench.call(CLIENT_A, mutate(A, 1, create("f"))).unwrap_err();
    assert_eq!(refused.code, ErrorCode::SessionExpired);
    let label = String::new();
    let refused = bench.call(CLIENT_A, MasterRequest::OpenSession { client: A, label });
    assert_eq!(refused.unwrap_err().code, ErrorCode::SessionExpired);
}

#[test]
fn a_leader_that_was_stalled_accuses_nobody() {
    let mut bench = Bench::new(1, 4);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    bench.stall(30_000);
    bench.run_for(1_000);
    assert!(
        bench.call(CLIENT_A, mutate(A, 1, create("f"))).is_ok(),
        "the session lives"
    );
    let down = |row: &crate::master::state::StoreRow| row.down_since.is_some();
    assert!(!bench.leader().state().stores().values().any(down));
}

#[test]
fn an_orphan_lives_while_it_is_open_and_is_reaped_after() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    bench.call(CLIENT_A, open(A, ino, true)).unwrap();
    let name = Name::new("f").unwrap();
    let unlink = Mutation::Unlink {
        parent: Ino::ROOT,
        name,
        purge: true,
    };
    bench.call(CLIENT_A, mutate(A, 2, unlink)).unwrap();
    bench.run_for(3_000);
    assert!(bench.call(CLIENT_A, getattr(A, ino)).is_ok(), "still open");
    bench
        .call(
            CLIENT_A,
            MasterRequest::Release {
                client: A,
                inos: vec![ino],
            },
        )
        .unwrap();
    bench.run_for(3_000);
    let gone = bench.call(CLIENT_A, getattr(A, ino)).unwrap_err();
    assert!(
        matches!(gone.code, ErrorCode::NotFound | ErrorCode::Stale),
        "{gone:?}"
    );
}

#[test]
fn three_nodes_become_three_voters_and_serve_after_the_leader_died() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let old = bench.leader_id();
    bench.stop(old);
    bench.run_until("another leader", |b| b.has_leader());
    assert_ne!(bench.leader_id(), old);
    // The caches of B are not known to the new leader: a change waits for it, or for its grant. So
    // does a question, since what the old leader had not settled may be in the state.
    let began = bench.now();
    let asked = bench.send(CLIENT_A, getattr(A, ino));
    let pending = bench.send(CLIENT_A, mutate(A, 2, chmod(ino, 0o600)));
    bench.settle();
    assert_eq!(bench.reply(pending), None);
    bench.run_until("answered", |b| b.has_reply(pending) && b.has_reply(asked));
    assert!(bench.now().since(began).as_millis() <= 2300);
    assert!(bench.reply(pending).unwrap().is_ok());
    assert_eq!(mode_of(bench.reply(asked).unwrap()), 0o644);
}

#[test]
fn a_new_leader_waits_for_no_one_once_all_sessions_are_known() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let old = bench.leader_id();
    bench.stop(old);
    bench.run_until("another leader", |b| b.has_leader());
    let pending = bench.send(CLIENT_A, mutate(A, 2, chmod(ino, 0o600)));
    bench.settle();
    assert_eq!(bench.reply(pending), None);
    for (client, conn) in [(A, CLIENT_A), (B, CLIENT_B)] {
        let term = match bench.call(conn, keep_alive(client, Term(0))).unwrap() {
            MasterResponse::Session {
                term, caches_valid, ..
            } => {
                assert!(caches_valid.is_zero(), "what it caches is not known");
                term
            }
            other => panic!("{other:?}"),
        };
        bench.call(conn, keep_alive(client, term)).unwrap();
    }
    assert!(bench.reply(pending).unwrap().is_ok());
}

#[test]
fn a_failed_store_is_replaced_after_the_grace_and_leaves_a_receipt() {
    let mut bench = Bench::new(1, 4);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    let lost = StoreId(2);
    bench.mute(lost);
    bench.run_for(9_000);
    assert!(bench.holds(lost), "within the grace period nothing moves");
    bench.run_until("repaired", |b| !b.holds(lost) && b.all_active());
    let receipts = bench.call(CLIENT_A, MasterRequest::RepairLog).unwrap();
    bench.run_for(1_000);
    let MasterResponse::Receipts(_) = receipts else {
        panic!("{receipts:?}")
    };
    let Ok(MasterResponse::Receipts(list)) = bench.call(CLIENT_A, MasterRequest::RepairLog) else {
        panic!()
    };
    assert!(
        list.iter().any(|r| r.cause.contains("failed") && r.pgs > 0),
        "{list:?}"
    );
    let answer = bench.call(CLIENT_A, MasterRequest::RepairRecords);
    let Ok(MasterResponse::Records(records)) = answer else {
        panic!("{answer:?}")
    };
    let record = records.iter().find(|r| r.cause.contains("failed")).unwrap();
    // Every group counts what `Store` says it copied for it.
    assert_eq!(record.objects, 3 * u64::from(record.pgs), "{record:?}");
    assert_eq!(record.bytes, 300 * u64::from(record.pgs), "{record:?}");
    // One small file in each group, and one large file that is in all of them.
    assert_eq!(record.files, u64::from(record.pgs) + 1, "{record:?}");
    assert_eq!(record.lowest_copies, 2);
    let grace = record
        .waited
        .iter()
        .find(|(kind, _)| *kind == WaitKind::Grace);
    assert!(grace.is_some_and(|(_, ms)| *ms >= 9_900), "{record:?}");
}

#[test]
fn a_group_is_not_activated_before_enough_old_members_let_go() {
    let mut bench = Bench::new(1, 5);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    bench.mute(StoreId(2));
    bench.freeze_epochs(true);
    bench.run_until("begun", |b| b.count(PgPhase::Fencing) > 0);
    let began = bench.now();
    bench.run_for(1_500);
    assert!(
        bench.count(PgPhase::Fencing) > 0,
        "nobody has let go, leases may run"
    );
    // Members that refuse to adopt get no lease any more: their last one runs out.
    bench.run_until("leases ran out", |b| b.count(PgPhase::Fencing) == 0);
    let took = bench.now().since(began).as_millis();
    assert!((1_500..=3_500).contains(&took), "{took} ms");
    bench.freeze_epochs(false);
    bench.run_until("repaired", |b| b.all_active());
}

#[test]
fn regression_a_new_leader_goes_on_with_a_fence_that_the_former_one_began() {
    let mut bench = Bench::new(3, 5);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    bench.mute(StoreId(5));
    bench.freeze_epochs(true);
    bench.run_until("begun", |b| b.count(PgPhase::Fencing) > 0);
    bench.run_for(200);
    let old = bench.leader_id();
    bench.stop(old);
    bench.run_until("another leader", |b| b.has_leader());
    assert!(bench.count(PgPhase::Fencing) > 0, "it was begun before");
    bench.run_until("leases ran out", |b| b.count(PgPhase::Fencing) == 0);
}

#[test]
fn a_store_that_missed_trimmed_notes_is_filled_again() {
    let mut bench = Bench::new(1, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(2_000);
    bench.set_cursor_back(StoreId(3));
    sessions(&mut bench);
    ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    bench.run_until("filled again", |b| b.was_refilled(StoreId(3)));
    bench.run_until("active", |b| b.all_active());
}

#[test]
fn a_fresh_store_gets_its_share() {
    let mut bench = Bench::new(1, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.add_store(StoreId(4));
    bench.run_until("has its share", |b| {
        b.held(StoreId(4)) >= 10 && b.all_active()
    });
}

#[test]
fn a_voter_that_lags_pulls_the_state() {
    let mut bench = Bench::small_log(3, 3);
    bench.run_until("three voters", |b| b.leader().raft().voters().len() == 3);
    bench.run_until("groups exist", |b| b.members_complete());
    sessions(&mut bench);
    let lagging = bench.a_follower();
    bench.stop(lagging);
    let mut ino = Ino(0);
    for seq in 1..=600u64 {
        ino = ino_of(bench.call(CLIENT_A, mutate(A, seq, create(&format!("f{seq}")))));
        if seq % 100 == 0 {
            bench.call(CLIENT_A, keep_alive(A, Term(0))).unwrap();
        }
    }
    bench.run_until("log is compacted", |b| {
        b.leader().raft().base_index().0 > 300
    });
    bench.start(lagging);
    bench.run_until("caught up", |b| {
        b.master(lagging).state().applied().index >= b.leader().state().applied().index
    });
    let query = Query::GetAttr { ino };
    assert!(bench.master(lagging).state().query(&query).is_ok());
    let hash = |b: &Bench, id: RaftId| b.master(id).state().applied();
    let leader = bench.leader_id();
    bench.run_until("equal", |b| hash(b, lagging) == hash(b, leader));
}

#[test]
fn a_restarted_voter_replays_its_log() {
    let mut bench = one();
    let ino = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let id = bench.leader_id();
    bench.stop(id);
    bench.start(id);
    bench.run_until("leads again", |b| b.has_leader());
    assert_eq!(mode_of(bench.call(CLIENT_A, getattr(A, ino))), 0o644);
    let again = bench.send(CLIENT_A, mutate(A, 1, create("f")));
    bench.run_until("answered", |b| b.has_reply(again));
    assert_eq!(ino_of(bench.reply(again).unwrap()), ino);
}

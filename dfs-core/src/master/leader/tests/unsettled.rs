//! Answers that tell of a change which a session that caches the old state has not heard of.
use super::bench::{Bench, CLIENT_A, CLIENT_B};
use super::{A, B, chmod, create, getattr, ino_of, keep_alive, mode_of, mutate, one, open};
use crate::master::leader::leading::Held;
use crate::types::{ClientId, FileKind, Ino, LogIndex, Name, OpId};
use crate::wire::ErrorCode;
use crate::wire::master::{MasterRequest, MasterResponse};
use crate::wire::mutation::RenameMode;
use crate::wire::rpc::{ConnId, ReplyTo};
use crate::wire::{Mutation, MutationOk, Push, Query};

const C: ClientId = ClientId(0xc);
const CLIENT_C: ConnId = ConnId(1003);

/// Sessions A, B and C; B caches the root, "f" of mode 644 and "g".
fn three() -> (Bench, Ino, Ino) {
    let mut bench = one();
    let label = "test".to_owned();
    let opened = bench.call(CLIENT_C, MasterRequest::OpenSession { client: C, label });
    let Ok(MasterResponse::Session { term, .. }) = opened else {
        panic!("{opened:?}")
    };
    bench.call(CLIENT_C, keep_alive(C, term)).unwrap();
    let f = ino_of(bench.call(CLIENT_A, mutate(A, 1, create("f"))));
    let g = ino_of(bench.call(CLIENT_A, mutate(A, 2, create("g"))));
    for ino in [Ino::ROOT, f, g] {
        bench.call(CLIENT_B, getattr(B, ino)).unwrap();
    }
    (bench, f, g)
}

fn is_waiting(bench: &mut Bench, asked: ReplyTo) -> bool {
    bench.settle();
    !bench.has_reply(asked)
}

/// B acknowledges all that it was told.
fn ack(bench: &mut Bench) {
    let mut acked = 0;
    while let Some((conn, push)) = bench.take_push() {
        if let (CLIENT_B, Push::Invalidate { seq, .. }) = (conn, push) {
            let ack = MasterRequest::PushAck { client: B, seq };
            bench.call(CLIENT_B, ack).unwrap();
            acked += 1;
        }
    }
    assert!(acked > 0);
}

fn lookup(name: &str) -> MasterRequest {
    MasterRequest::Query {
        client: None,
        interest: false,
        body: Query::Lookup {
            parent: Ino::ROOT,
            name: Name::new(name).unwrap(),
        },
    }
}

#[test]
fn regression_a_question_shows_no_change_that_a_cache_still_hides() {
    let (mut bench, f, g) = three();
    let changed = bench.send(CLIENT_A, mutate(A, 3, chmod(f, 0o600)));
    assert!(is_waiting(&mut bench, changed));
    let asked = bench.send(CLIENT_C, getattr(C, f));
    let opened = bench.send(CLIENT_C, open(C, f, false));
    assert!(is_waiting(&mut bench, asked) && is_waiting(&mut bench, opened));
    // What is not concerned, the author, and who is being told do not wait.
    let other = bench.send(CLIENT_C, getattr(C, g));
    let authors = bench.send(CLIENT_A, getattr(A, f));
    let told = bench.send(CLIENT_B, getattr(B, f));
    for asked in [other, told] {
        assert!(!is_waiting(&mut bench, asked));
    }
    // To the author its own change is news as to anybody else: it must not hand it on either.
    assert!(is_waiting(&mut bench, authors));
    ack(&mut bench);
    for asked in [changed, opened, authors] {
        assert!(bench.reply(asked).unwrap().is_ok());
    }
    assert_eq!(mode_of(bench.reply(asked).unwrap()), 0o600);
}

#[test]
fn regression_a_name_and_a_refusal_show_no_creation_that_a_cache_still_hides() {
    let (mut bench, ..) = three();
    let created = bench.send(CLIENT_A, mutate(A, 3, create("new")));
    assert!(is_waiting(&mut bench, created));
    let looked = bench.send(CLIENT_C, lookup("new"));
    let refused = bench.send(CLIENT_C, mutate(C, 1, create("new")));
    let Mutation::Create {
        parent, name, node, ..
    } = create("new")
    else {
        unreachable!()
    };
    let exclusive = false;
    let found = Mutation::Create {
        parent,
        name,
        node,
        exclusive,
    };
    let found = bench.send(CLIENT_C, mutate(C, 2, found));
    for asked in [looked, refused, found] {
        assert!(is_waiting(&mut bench, asked));
    }
    ack(&mut bench);
    assert!(bench.reply(looked).unwrap().is_ok());
    assert!(bench.reply(found).unwrap().is_ok());
    let error = bench.reply(refused).unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Exists);
    assert!(bench.reply(created).unwrap().is_ok());
}

#[test]
fn an_answer_waits_no_longer_than_a_silent_sessions_grant() {
    let (mut bench, f, _) = three();
    let changed = bench.send(CLIENT_A, mutate(A, 3, chmod(f, 0o600)));
    assert!(is_waiting(&mut bench, changed));
    let asked = bench.send(CLIENT_C, getattr(C, f));
    assert!(is_waiting(&mut bench, asked));
    let began = bench.now();
    bench.run_until("answered", |b| b.has_reply(asked));
    assert!(bench.now().since(began).as_millis() <= 3100);
    assert_eq!(mode_of(bench.reply(asked).unwrap()), 0o600);
    let again = bench.send(CLIENT_C, getattr(C, f));
    assert!(
        !is_waiting(&mut bench, again),
        "its caches are not used any more"
    );
}

#[test]
fn regression_who_disowns_a_change_that_was_made_waits_for_the_others_too() {
    let (mut bench, f, _) = three();
    let changed = bench.send(CLIENT_A, mutate(A, 3, chmod(f, 0o600)));
    assert!(is_waiting(&mut bench, changed));
    let op = OpId { client: A, seq: 3 };
    let disown = MasterRequest::Mutate {
        op: OpId { client: A, seq: 4 },
        low: 3,
        body: Mutation::Abandon { op },
        open: None,
    };
    let disowned = bench.send(CLIENT_A, disown);
    assert!(
        is_waiting(&mut bench, disowned),
        "it says that the change was made"
    );
    ack(&mut bench);
    for asked in [changed, disowned] {
        let Ok(MasterResponse::Mutated(crate::wire::master::Mutated {
            ok: MutationOk::Attr(attr),
            ..
        })) = bench.reply(asked).unwrap()
        else {
            panic!()
        };
        assert_eq!(attr.mode, 0o600);
    }
}

#[test]
fn regression_a_lock_that_is_held_is_not_called_refused_when_the_lead_is_lost() {
    let (to, not_leader) = (
        ReplyTo {
            conn: CLIENT_A,
            id: 1,
        },
        ErrorCode::NotLeader.into(),
    );
    let attr = || crate::client::testing::attr(9);
    for (answer, expected) in [
        (
            MasterResponse::Locked {
                attr: attr(),
                as_of: LogIndex(4),
                layout: None,
            },
            ErrorCode::UnknownOutcome,
        ),
        (MasterResponse::Done, ErrorCode::NotLeader),
    ] {
        let answer = Box::new(Ok(answer));
        let held = Held::Answer { to, answer };
        assert_eq!(held.refused(&not_leader).1.code, expected);
    }
}

#[test]
fn regression_a_rename_shows_neither_name_before_both_are_settled() {
    let (mut bench, ..) = three();
    let made = |name| match create(name) {
        Mutation::Create {
            name,
            mut node,
            parent,
            exclusive,
        } => {
            node.kind = FileKind::Dir;
            Mutation::Create {
                parent,
                name,
                node,
                exclusive,
            }
        }
        other => other,
    };
    let dir = bench.send(CLIENT_A, mutate(A, 3, made("dir")));
    bench.settle();
    ack(&mut bench);
    let dir = ino_of(bench.reply(dir).unwrap());
    // B caches where it goes to, and nobody where it comes from.
    bench.call(CLIENT_B, getattr(B, dir)).unwrap();
    let name = Name::new("g").unwrap();
    let rename = Mutation::Rename {
        from_parent: Ino::ROOT,
        from_name: name.clone(),
        to_parent: dir,
        to_name: name.clone(),
        mode: RenameMode::Replace,
    };
    let renamed = bench.send(CLIENT_A, mutate(A, 4, rename));
    assert!(is_waiting(&mut bench, renamed));
    let parent = Ino::ROOT;
    let gone = bench.send(
        CLIENT_C,
        mutate(
            C,
            1,
            Mutation::Unlink {
                parent,
                name,
                purge: false,
            },
        ),
    );
    assert!(
        is_waiting(&mut bench, gone),
        "that it is gone tells of where it is"
    );
    ack(&mut bench);
    assert!(bench.reply(renamed).unwrap().is_ok());
    let error = bench.reply(gone).unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
}

fn mkdir(bench: &mut Bench, seq: u64, parent: Ino, name: &str) -> Ino {
    let Mutation::Create { mut node, .. } = create("d") else {
        unreachable!()
    };
    node.kind = FileKind::Dir;
    let made = Mutation::Create {
        parent,
        name: Name::new(name).unwrap(),
        node,
        exclusive: true,
    };
    ino_of(bench.call(CLIENT_A, mutate(A, seq, made)))
}

fn rename((from_parent, from): (Ino, &str), (to_parent, to): (Ino, &str)) -> Mutation {
    Mutation::Rename {
        from_parent,
        from_name: Name::new(from).unwrap(),
        to_parent,
        to_name: Name::new(to).unwrap(),
        mode: RenameMode::Replace,
    }
}

#[test]
fn regression_that_a_directory_is_not_moved_into_itself_tells_of_a_move_above() {
    let mut bench = one();
    let y = mkdir(&mut bench, 1, Ino::ROOT, "y");
    let a = mkdir(&mut bench, 2, y, "a");
    let x = mkdir(&mut bench, 3, a, "x");
    let b = mkdir(&mut bench, 4, x, "b");
    let other = mkdir(&mut bench, 5, Ino::ROOT, "other");
    // B believes that x is below y.
    bench.call(CLIENT_B, getattr(B, a)).unwrap();
    let out = mutate(A, 6, rename((a, "x"), (other, "x")));
    let out = bench.send(CLIENT_A, out);
    assert!(is_waiting(&mut bench, out));
    let down = mutate(A, 7, rename((Ino::ROOT, "y"), (b, "y")));
    let down = bench.send(CLIENT_A, down);
    assert!(is_waiting(&mut bench, down));
    ack(&mut bench);
    assert!(bench.reply(out).unwrap().is_ok());
    assert!(bench.reply(down).unwrap().is_ok());
}

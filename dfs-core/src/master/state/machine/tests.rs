//! Entries applied once, alike and in order.
use super::*;
use crate::master::command::{ChangeCause, PgChange};
use crate::store::MemKv;
use crate::types::{
    ClientId, Epoch, FileKind, Incarnation, Ino, LeaseSeq, Name, NodeId, PgId, StoreId, Timestamp,
};
use crate::wire::MutationOk;
use crate::wire::master::Note;
use crate::wire::mutation::{Change, Commit, NewNode, WriteToken};
use crate::wire::repair::FillCount;
use std::time::Duration;

const C: ClientId = ClientId(9);

struct Fixture {
    state: MasterState<MemKv>,
    index: u64,
}

impl Fixture {
    fn new() -> Self {
        let state = MasterState::open(MemKv::default()).unwrap();
        let mut this = Self { state, index: 0 };
        let quorum = QuorumSizes::DEFAULT;
        this.apply(Command::Bootstrap {
            cluster: ClusterId(1),
            quorum,
            pgs: 4,
            voters: 3,
        });
        this.apply(Command::OpenSession {
            client: C,
            label: "test".into(),
        });
        this
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        let entry = LogEntry {
            at: Time(self.index * 1000),
            command,
        };
        self.state
            .apply(LogIndex(self.index), Term(1), &entry)
            .unwrap()
    }

    fn create(&mut self, seq: u64, name: &str) -> Result<MutationOk, WireError> {
        let body = Mutation::Create {
            parent: Ino::ROOT,
            name: Name::new(name).unwrap(),
            node: NewNode {
                kind: FileKind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                rdev: 0,
                target: Vec::new(),
            },
            exclusive: true,
        };
        let op = OpId { client: C, seq };
        let applied = self.apply(Command::Mutate { op, low: 1, body });
        applied.result.unwrap().1
    }
}

#[test]
fn a_repeated_mutation_answers_the_same_and_changes_nothing() {
    let mut f = Fixture::new();
    let first = f.create(1, "a").unwrap();
    assert_eq!(f.create(1, "a").unwrap(), first);
    assert_eq!(f.create(2, "a").unwrap_err().code, ErrorCode::Exists);
    assert_eq!(
        f.create(2, "b").unwrap_err().code,
        ErrorCode::Exists,
        "op 2 is decided"
    );
}

#[test]
fn an_abandoned_op_is_never_applied() {
    let mut f = Fixture::new();
    let target = OpId { client: C, seq: 5 };
    let body = Mutation::Abandon { op: target };
    let op = OpId { client: C, seq: 6 };
    let applied = f.apply(Command::Mutate { op, low: 1, body });
    assert_eq!(applied.result.unwrap().1, Ok(MutationOk::Done));
    assert!(applied.notes_added, "stores are told");
    assert_eq!(f.create(5, "late").unwrap_err().code, ErrorCode::OpAborted);
}

#[test]
fn a_change_that_follows_another_waits_for_it_and_for_nothing_else() {
    let mut f = Fixture::new();
    let reserve = Mutation::Reserve { count: 4 };
    let op = |seq| OpId { client: C, seq };
    let first = f.apply(Command::Mutate {
        op: op(1),
        low: 1,
        body: reserve,
    });
    let Ok(MutationOk::Reserved { first }) = first.result.unwrap().1 else {
        panic!("reserved nothing");
    };
    let make = |ino: u64, name: &str| Mutation::CreateAs {
        ino: Ino(ino),
        parent: Ino::ROOT,
        name: Name::new(name).unwrap(),
        node: NewNode {
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
        },
        at: Timestamp::from_log_time(Time(5)),
    };
    let mut after = |seq, low, after, body| {
        let op = op(seq);
        let applied = f.apply(Command::MutateAfter {
            op,
            low,
            after,
            sole_at: LogIndex(3),
            body,
        });
        applied.result.unwrap().1.map_err(|e| e.code)
    };
    assert_eq!(
        after(3, 2, 2, make(first.0 + 1, "b")),
        Err(ErrorCode::NotReady)
    );
    assert!(after(2, 2, 0, make(first.0, "a")).is_ok());
    let done = after(3, 2, 2, make(first.0 + 1, "b"));
    assert!(done.is_ok());
    assert_eq!(after(3, 2, 2, make(first.0 + 1, "b")), done, "once");
    let in_use = after(4, 4, 3, make(first.0, "c"));
    assert_eq!(in_use, Err(ErrorCode::Invalid), "the number is in use");
    let beyond = after(5, 5, 4, make(first.0 + 4, "c"));
    assert_eq!(
        beyond,
        Err(ErrorCode::Invalid),
        "the number was not reserved"
    );
    // Op 8 was given up: the session says that all below 9 are finished.
    assert!(after(9, 9, 8, make(first.0 + 2, "c")).is_ok());
    for count in [0, u32::MAX] {
        let refused = after(10, 9, 9, Mutation::Reserve { count });
        assert_eq!(refused, Err(ErrorCode::Invalid));
    }
}

#[test]
fn regression_the_objects_of_a_refused_put_are_told_to_all_stores() {
    let mut f = Fixture::new();
    let commit = Commit {
        ino: Ino(4711),
        lease: LeaseSeq(0),
        token: WriteToken::default(),
        home_epoch: Epoch(1),
        mark_acks: Vec::new(),
        change: Change::Write { puts: Vec::new() },
        mtime: None,
        kill_suid: false,
        base: None,
    };
    let (op, ino) = (OpId { client: C, seq: 5 }, commit.ino);
    let body = Mutation::Commit(commit);
    let applied = f.apply(Command::Mutate { op, low: 1, body });
    assert!(applied.result.unwrap().1.is_err());
    let nobody = |_| false;
    let told = f.state.notes_after(LogIndex(0), &nobody, 9).unwrap().0;
    let notes: Vec<_> = told.into_iter().map(|(_, _, note)| note).collect();
    assert_eq!(notes, [Note::Aborted { ino, op }]);
}

#[test]
fn equal_logs_give_equal_tables_after_a_reopen_too() {
    let (mut a, mut b) = (Fixture::new(), Fixture::new());
    for i in 1..20 {
        a.create(i, &format!("f{i}")).unwrap();
        b.create(i, &format!("f{i}")).unwrap();
        b.state = MasterState::open(b.state.kv().clone()).unwrap();
    }
    assert_eq!(a.state.kv(), b.state.kv());
    assert_eq!(a.state.applied(), b.state.applied());
}

#[test]
fn an_entry_that_does_not_follow_is_refused() {
    let mut f = Fixture::new();
    let entry = LogEntry {
        at: Time(1),
        command: Command::RepairControl { paused: true },
    };
    let gap = f.state.apply(LogIndex(9), Term(1), &entry);
    assert!(matches!(gap, Err(StateError::Gap { .. })));
}

/// A cluster of four stores, three of which are members of the first group.
fn with_stores() -> Fixture {
    let mut f = Fixture::new();
    for n in 1..=4 {
        f.apply(Command::StoreSeen {
            store: StoreId(n),
            node: NodeId(n),
            incarnation: Incarnation(1),
            addr: "127.0.0.1:1".parse().unwrap(),
            zone: String::new(),
            device: 1,
        });
    }
    let changed = f.apply(change(0, &[1, 2, 3]));
    assert!(changed.map_changed);
    f
}

fn change(from: u64, members: &[u128]) -> Command {
    let change = PgChange {
        pg: PgId(0),
        from: Epoch(from),
        members: members.iter().copied().map(StoreId).collect(),
    };
    Command::BeginEpoch {
        cause: ChangeCause::Rebalance(StoreId(4)),
        changes: vec![change],
    }
}

#[test]
fn regression_a_store_that_was_removed_becomes_no_member_by_a_change_planned_before() {
    let mut f = with_stores();
    f.apply(Command::StoreRemoved { store: StoreId(4) });
    assert!(!f.apply(change(1, &[1, 2, 4])).map_changed);
    assert_eq!(f.state.counts_in(StoreId(4)), None);
    // One beside it that is still possible is made.
    let (mut both, mut other) = (change(1, &[1, 2, 4]), change(0, &[1, 2, 3]));
    let (Command::BeginEpoch { changes, .. }, Command::BeginEpoch { changes: more, .. }) =
        (&mut both, &mut other)
    else {
        unreachable!("made above");
    };
    more[0].pg = PgId(1);
    changes.append(more);
    assert!(f.apply(both).map_changed);
    assert_eq!(f.state.counts_in(StoreId(4)), None);
    let pgs = &f.state.map().pgs;
    assert_eq!((pgs[0].epoch, pgs[1].epoch), (Epoch(1), Epoch(1)));
}

#[test]
fn regression_impossible_counts_of_a_store_do_not_stop_a_voter() {
    let mut f = with_stores();
    f.apply(change(1, &[1, 2, 4]));
    f.apply(Command::Activate {
        pgs: vec![(PgId(0), Epoch(2))],
    });
    let count = FillCount {
        pg: PgId(0),
        epoch: Epoch(2),
        objects: u64::MAX,
        bytes: u64::MAX,
        files: u64::MAX,
        wide: vec![Ino(7)],
    };
    f.apply(Command::FilledCounted {
        store: StoreId(4),
        done: vec![count],
    });
    let records = f.state.repair_records().unwrap();
    assert_eq!(records.last().map(|r| r.files), Some(u64::MAX));
}

#[test]
fn regression_impossible_leaps_of_the_clock_do_not_stop_a_voter() {
    let mut f = Fixture::new();
    let gap = Duration::MAX;
    (0..70).for_each(|_| drop(f.apply(Command::ClockLeapt { gap })));
    assert_eq!(f.state.leaps().after(Time(0)), Duration::MAX);
}

#[test]
fn log_time_never_runs_back() {
    let mut f = Fixture::new();
    let at = f.state.applied().at;
    f.index += 1;
    let entry = LogEntry {
        at: Time(1),
        command: Command::RepairControl { paused: true },
    };
    f.state.apply(LogIndex(f.index), Term(1), &entry).unwrap();
    assert_eq!(f.state.applied().at, at);
    assert!(f.state.repair_paused());
}

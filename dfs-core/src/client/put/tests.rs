//! The rules of a put, one test each.
use super::*;
use crate::types::PutAbout;
use crate::types::{
    Attr, BlockSums, ChunkNo, ClientId, Epoch, FileKind, Ino, LeaseSeq, LogIndex, OpId, PgInfo,
    PgMap, PgPhase, QuorumSizes, Revision, StoreId, Time, Timestamp, VersionNo,
};
use crate::wire::{Change, Commit, ErrorCode, MutationOk, ReplicaRequest, WriteToken};
use std::sync::Arc;
use std::time::Duration;

const X: OpId = OpId {
    client: ClientId(9),
    seq: 5,
};
const INO: Ino = Ino(77);

fn map(version: u64, epoch: u64, members: &[u128]) -> Arc<PgMap> {
    let info = PgInfo {
        epoch: Epoch(epoch),
        members: members.iter().map(|&m| StoreId(m)).collect(),
        filling: vec![],
        prior: vec![],
        phase: PgPhase::Active,
    };
    Arc::new(PgMap {
        version: LogIndex(version),
        quorum: QuorumSizes::DEFAULT,
        pgs: vec![info; 4],
    })
}

pub(crate) fn attr(revision: u64) -> Attr {
    Attr {
        ino: INO,
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        crtime: Timestamp::default(),
        revision: Revision(revision),
        version: VersionNo(1),
        lease: LeaseSeq(1),
        has_xattrs: false,
    }
}

fn object(chunk: u32, bytes: &[u8]) -> PutObject {
    let sums = BlockSums::of(bytes);
    let sum = sums.object_sum(bytes.len() as u32);
    PutObject {
        chunk: ChunkNo(chunk),
        start: 0,
        sums,
        sum,
    }
}

fn spec(objects: Vec<PutObject>) -> PutSpec {
    PutSpec {
        op: X,
        ino: INO,
        lease: LeaseSeq(3),
        token: WriteToken {
            client: X.client,
            seq: 1,
        },
        change: PutChange::Write,
        mtime: None,
        renews: false,
        kill_suid: false,
        base: None,
        objects,
        about: PutAbout::default(),
        more: false,
    }
}

/// A put and what it asked for.
struct Rig {
    put: PutMachine,
    now: Time,
    out: Vec<PutAction>,
}

impl Rig {
    fn new(spec: PutSpec) -> Self {
        let mut out = Vec::new();
        let put = PutMachine::start(
            Time(1),
            PutConfig::default(),
            spec,
            map(1, 1, &[1, 2, 3]),
            &mut out,
        );
        Self {
            put,
            now: Time(1),
            out,
        }
    }
    fn event(&mut self, event: PutEvent) {
        self.put.handle(self.now, event, &mut self.out);
    }
    fn later(&mut self, by: Duration) {
        self.now = self.now + by;
        self.event(PutEvent::Tick);
    }
    /// Takes the PREPAREs asked for: (token, store, request, bytes_of).
    fn prepares(&mut self) -> Vec<(u64, u128, ReplicaRequest, Vec<u32>)> {
        let mut taken = Vec::new();
        self.out.retain(|a| match a {
            PutAction::Prepare {
                token,
                to,
                request,
                bytes_of,
            } => {
                taken.push((*token, to.0, request.clone(), bytes_of.clone()));
                false
            }
            _ => true,
        });
        taken
    }
    fn commit(&mut self) -> Option<Commit> {
        let at = self
            .out
            .iter()
            .position(|a| matches!(a, PutAction::Commit(_)))?;
        match self.out.remove(at) {
            PutAction::Commit(c) => Some(c),
            _ => None,
        }
    }
    fn asked(&mut self, what: impl Fn(&PutAction) -> bool) -> bool {
        let before = self.out.len();
        self.out.retain(|a| !what(a));
        self.out.len() != before
    }
    fn refresh(&mut self) -> bool {
        self.asked(|a| matches!(a, PutAction::RefreshMap { .. }))
    }
    fn abandon(&mut self) -> bool {
        self.asked(|a| matches!(a, PutAction::Abandon))
    }
    fn finished(&mut self) -> Option<Result<PutDone, PutError>> {
        self.out.iter().find_map(|a| match a {
            PutAction::Finish(r) => Some(r.clone()),
            _ => None,
        })
    }
    fn ack(&mut self, token: u64, store: u128) {
        self.event(PutEvent::Prepared {
            token,
            result: Ok(StoreId(store)),
        });
    }
    fn fail(&mut self, token: u64, code: ErrorCode) {
        self.event(PutEvent::Prepared {
            token,
            result: Err(code.into()),
        });
    }
    fn commit_ok(&mut self) {
        self.event(PutEvent::Committed(Ok(committed())));
    }
}

fn committed() -> MutationOk {
    MutationOk::Committed {
        attr: attr(4),
        revision: Revision(4),
        offset: 0,
        crowded: None,
    }
}

#[test]
fn commits_at_the_write_quorum_and_not_before() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    assert_eq!(sent.iter().map(|s| s.1).collect::<Vec<_>>(), [1, 2, 3]);
    for (_, _, request, bytes_of) in &sent {
        let ReplicaRequest::Prepare { mark, objects, .. } = request else {
            panic!("{request:?}")
        };
        assert!(
            mark.is_some() && objects.len() == 1 && bytes_of == &[0],
            "one round"
        );
    }
    rig.ack(sent[2].0, 3);
    assert_eq!(rig.commit(), None);
    rig.ack(sent[2].0, 3);
    assert_eq!(rig.commit(), None, "a repeated ack counts once");
    rig.ack(sent[0].0, 1);
    let commit = rig.commit().expect("two of three");
    assert_eq!(commit.mark_acks, [StoreId(1), StoreId(3)]);
    let Change::Write { puts } = &commit.change else {
        panic!("{commit:?}")
    };
    assert_eq!(
        (puts.len(), &puts[0].acks),
        (1, &vec![StoreId(1), StoreId(3)])
    );
    rig.commit_ok();
    assert_eq!(
        rig.finished().expect("done").expect("applied").revision,
        Revision(4)
    );
    rig.ack(sent[1].0, 2);
    assert_eq!(rig.commit(), None);
}

#[test]
fn a_truncate_needs_only_the_mark() {
    let mut s = spec(vec![]);
    s.change = PutChange::Truncate { size: 9 };
    let mut rig = Rig::new(s);
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    assert_eq!(
        rig.commit().expect("committed").change,
        Change::Truncate { size: 9 }
    );
}

#[test]
fn acks_of_two_epochs_are_never_mixed_and_bytes_are_not_sent_twice() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.fail(sent[1].0, ErrorCode::WrongEpoch);
    assert!(rig.refresh());
    rig.event(PutEvent::Map(map(2, 2, &[1, 2, 4])));
    let again = rig.prepares();
    assert_eq!(again.iter().map(|s| s.1).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(
        again.iter().map(|s| s.3.len()).collect::<Vec<_>>(),
        [0, 1, 1]
    );
    // The late ack of member 3 under epoch 1 and one new ack are no quorum.
    rig.ack(sent[2].0, 3);
    rig.ack(again[2].0, 4);
    assert_eq!(rig.commit(), None);
    rig.ack(again[0].0, 1);
    let commit = rig.commit().expect("two of epoch 2");
    assert_eq!(
        (commit.home_epoch, commit.mark_acks),
        (Epoch(2), vec![StoreId(1), StoreId(4)])
    );
}

#[test]
fn a_member_that_lost_the_bytes_is_sent_them_again() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.event(PutEvent::Map(map(2, 2, &[1, 2, 3])));
    let again = rig.prepares();
    assert_eq!(again[0].3.len(), 0);
    rig.fail(again[0].0, ErrorCode::NotFound);
    let third = rig.prepares();
    assert_eq!((third[0].1, &third[0].3), (1, &vec![0]));
}

#[test]
fn a_commit_refused_for_its_epoch_prepares_again_under_the_same_op() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    rig.commit().expect("first try");
    rig.event(PutEvent::Committed(Err(ErrorCode::WrongEpoch.into())));
    assert!(rig.refresh() && rig.commit().is_none());
    rig.event(PutEvent::Map(map(1, 1, &[1, 2, 3])));
    assert!(rig.commit().is_none(), "no newer map, nothing to commit");
    rig.later(Duration::from_millis(30));
    assert!(rig.refresh());
    rig.event(PutEvent::Map(map(5, 2, &[1, 2, 4])));
    let again = rig.prepares();
    rig.ack(again[0].0, 1);
    rig.ack(again[1].0, 2);
    assert_eq!(rig.commit().expect("second try").home_epoch, Epoch(2));
}

#[test]
fn a_map_that_comes_during_a_commit_waits_for_its_answer() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    rig.commit().expect("first try");
    rig.event(PutEvent::Map(map(5, 2, &[1, 2, 4])));
    assert!(rig.prepares().is_empty());
    rig.event(PutEvent::Committed(Err(ErrorCode::WrongEpoch.into())));
    assert_eq!(rig.prepares().len(), 3);
}

#[test]
fn a_member_without_a_lease_or_with_damaged_bytes_is_asked_again() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.fail(sent[0].0, ErrorCode::NoServingLease);
    assert!(rig.prepares().is_empty());
    rig.later(Duration::from_millis(20));
    assert_eq!(rig.prepares().iter().map(|s| s.1).collect::<Vec<_>>(), [1]);
    rig.fail(sent[1].0, ErrorCode::DamagedInTransit);
    assert_eq!(
        rig.prepares().iter().map(|s| s.1).collect::<Vec<_>>(),
        [2],
        "at once"
    );
}

#[test]
fn where_history_is_being_freed_a_writer_waits_beyond_its_deadline() {
    let deadline = PutConfig::default().deadline;
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let freeing = |rig: &mut Rig| {
        for (token, ..) in rig.prepares() {
            rig.fail(token, ErrorCode::Freeing);
        }
    };
    freeing(&mut rig);
    for _ in 0..15 {
        rig.later(deadline / 10);
        freeing(&mut rig);
        assert!(!rig.abandon(), "room is being made");
    }
    rig.later(deadline / 10);
    let sent = rig.prepares();
    rig.ack(sent[0].0, sent[0].1);
    rig.ack(sent[1].0, sent[1].1);
    rig.commit().expect("there is room now");
    rig.commit_ok();
    assert!(rig.finished().expect("finished").is_ok());
}

#[test]
fn regression_who_gets_no_room_by_the_deadline_is_told_so_and_not_that_nobody_answered() {
    let deadline = PutConfig::default().deadline;
    for (codes, want) in [
        (
            [
                ErrorCode::NoSpace,
                ErrorCode::Unavailable,
                ErrorCode::Unavailable,
            ],
            false,
        ),
        (
            [
                ErrorCode::NoSpace,
                ErrorCode::Freeing,
                ErrorCode::Unavailable,
            ],
            true,
        ),
        (
            [ErrorCode::Freeing, ErrorCode::Freeing, ErrorCode::Freeing],
            true,
        ),
    ] {
        let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
        let mut steps = 0;
        while !rig.abandon() {
            for (token, to, ..) in rig.prepares() {
                rig.fail(token, codes[to as usize - 1]);
            }
            rig.later(deadline / 10);
            steps += 1;
            assert!(steps < 100, "every put ends");
        }
        rig.event(PutEvent::Abandoned(Ok(MutationOk::Done)));
        let error = rig.finished().expect("finished").expect_err("no room");
        assert_eq!(
            error.code() == ErrorCode::NoSpace,
            want,
            "{codes:?}: {error}"
        );
    }
}

#[test]
fn two_full_members_of_three_end_it_with_no_space() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.fail(sent[0].0, ErrorCode::NoSpace);
    assert!(!rig.abandon());
    rig.fail(sent[2].0, ErrorCode::NoSpace);
    assert!(rig.abandon() && rig.finished().is_none());
    rig.event(PutEvent::Abandoned(Ok(MutationOk::Done)));
    assert_eq!(rig.finished(), Some(Err(PutError::NoSpace { needed: 2 })));
    let drops = rig
        .out
        .iter()
        .filter(|a| matches!(a, PutAction::Drop { .. }))
        .count();
    assert_eq!(drops, 3);
}

#[test]
fn without_a_quorum_it_abandons_at_the_deadline_and_reports_only_once_that_is_decided() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.later(Duration::from_secs(22));
    assert!(!rig.abandon());
    rig.later(Duration::from_secs(1));
    assert!(rig.abandon() && rig.finished().is_none());
    rig.ack(sent[1].0, 2);
    assert_eq!(rig.commit(), None, "a late ack does not revive it");
    rig.event(PutEvent::Abandoned(Err(ErrorCode::UnknownOutcome.into())));
    assert!(rig.finished().is_none());
    rig.later(Duration::from_secs(1));
    assert!(rig.abandon(), "asked again");
    rig.event(PutEvent::Abandoned(Ok(MutationOk::Done)));
    assert!(matches!(
        rig.finished(),
        Some(Err(PutError::QuorumNotReached {
            needed: 2,
            members: 3,
            acked: 1,
            ..
        }))
    ));
}

/// A compaction that nobody waits for took the buffered writes and locks of all files with it.
#[test]
fn regression_a_compaction_that_no_master_decides_costs_nobody_the_session() {
    let quarter = PutConfig::default().deadline / 4;
    let mut compaction = spec(vec![object(0, b"abc")]);
    compaction.change = PutChange::Compact { was: [].into() };
    let mut rig = Rig::new(compaction);
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    assert!(rig.commit().is_some());
    rig.later(quarter * 4);
    assert!(!rig.asked(|a| matches!(a, PutAction::DropSession)));
    assert_eq!(rig.finished(), Some(Err(PutError::Cancelled)));
}

/// A put whose master was gone for good asked for its fate for ever, and fsync with it.
#[test]
fn regression_with_no_master_to_decide_it_ends_at_the_deadline_by_giving_the_session_up() {
    let quarter = PutConfig::default().deadline / 4;
    for (commit_sent, unknown) in [(false, false), (true, true)] {
        let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
        let sent = rig.prepares();
        rig.ack(sent[0].0, 1);
        if commit_sent {
            rig.ack(sent[1].0, 2);
            assert!(rig.commit().is_some());
            rig.later(quarter * 3);
            rig.event(PutEvent::Committed(Err(ErrorCode::UnknownOutcome.into())));
        } else {
            rig.later(quarter * 3);
        }
        assert!(rig.abandon() && rig.finished().is_none());
        rig.event(PutEvent::Abandoned(Err(ErrorCode::Unavailable.into())));
        rig.later(quarter - Duration::from_secs(1));
        assert!(rig.abandon() && rig.finished().is_none(), "still asking");
        rig.later(Duration::from_secs(1));
        assert!(rig.asked(|a| matches!(a, PutAction::DropSession)));
        let lost = PutError::SessionLost { unknown };
        assert_eq!(rig.finished(), Some(Err(lost)));
    }
}

#[test]
fn a_lost_commit_reply_is_asked_again_with_the_same_op() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    let first = rig.commit().expect("first try");
    rig.event(PutEvent::Committed(Err(ErrorCode::UnknownOutcome.into())));
    assert!(rig.commit().is_none());
    rig.later(Duration::from_secs(1));
    assert_eq!(rig.commit(), Some(first));
    rig.commit_ok();
    assert!(matches!(rig.finished(), Some(Ok(_))));
}

#[test]
fn an_unknown_commit_is_never_reported_as_failed() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    rig.commit().expect("first try");
    rig.later(Duration::from_secs(24));
    rig.event(PutEvent::Committed(Err(ErrorCode::UnknownOutcome.into())));
    assert!(rig.abandon() && rig.finished().is_none());
    rig.event(PutEvent::Abandoned(Ok(MutationOk::Done)));
    assert!(
        rig.finished().is_none(),
        "the commit may have come before it was disowned"
    );
    rig.commit().expect("asked for X's fate");
    rig.commit_ok();
    assert!(matches!(rig.finished(), Some(Ok(_))));
}

/// A tool's upload failed because another session was shut out while it ran.
#[test]
fn regression_a_write_that_is_waited_for_is_committed_under_another_lease() {
    let mut rig = Rig::new(PutSpec {
        renews: true,
        ..spec(vec![object(0, b"abc")])
    });
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    let first = rig.commit().expect("first try");
    rig.event(PutEvent::Committed(Err(ErrorCode::StaleLease.into())));
    assert!(rig.asked(|a| matches!(a, PutAction::RenewLease)) && rig.commit().is_none());
    rig.event(PutEvent::Renewed(Some(LeaseSeq(8))));
    let again = Commit {
        lease: LeaseSeq(8),
        ..first
    };
    assert_eq!(rig.commit(), Some(again));
    rig.commit_ok();
    assert!(matches!(rig.finished(), Some(Ok(_))));
}

#[test]
fn what_was_buffered_is_never_committed_under_another_lease() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    rig.commit().expect("first try");
    rig.event(PutEvent::Committed(Err(ErrorCode::StaleLease.into())));
    assert!(rig.abandon() && !rig.asked(|a| matches!(a, PutAction::RenewLease)));
    rig.event(PutEvent::Abandoned(Ok(MutationOk::Done)));
    assert_eq!(rig.finished(), Some(Err(PutError::StaleLease)));
}

#[test]
fn a_lost_session_ends_it_and_says_whether_the_outcome_is_unknown() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    rig.event(PutEvent::SessionLost);
    assert_eq!(
        rig.finished(),
        Some(Err(PutError::SessionLost { unknown: true }))
    );
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    rig.event(PutEvent::SessionLost);
    assert_eq!(
        rig.finished(),
        Some(Err(PutError::SessionLost { unknown: false }))
    );
}

#[test]
fn a_lost_lease_is_reported_after_the_op_is_disowned() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.ack(sent[1].0, 2);
    rig.commit().expect("tried");
    rig.event(PutEvent::Committed(Err(ErrorCode::StaleLease.into())));
    assert!(rig.abandon() && rig.finished().is_none());
    rig.event(PutEvent::Abandoned(Ok(MutationOk::Done)));
    assert_eq!(rig.finished(), Some(Err(PutError::StaleLease)));
}

#[test]
fn a_group_that_is_being_fenced_is_waited_for() {
    let mut fencing = (*map(2, 2, &[1, 2, 4])).clone();
    fencing
        .pgs
        .iter_mut()
        .for_each(|p| p.phase = PgPhase::Fencing);
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    rig.prepares();
    rig.event(PutEvent::Map(Arc::new(fencing)));
    assert!(rig.prepares().is_empty());
    rig.later(Duration::from_millis(20));
    assert!(rig.refresh());
    let mut active = (*map(3, 2, &[1, 2, 4])).clone();
    active
        .pgs
        .iter_mut()
        .for_each(|p| p.phase = PgPhase::Copying);
    rig.event(PutEvent::Map(Arc::new(active)));
    assert_eq!(rig.prepares().len(), 3);
}

#[test]
fn a_streamed_put_commits_once_after_its_last_object() {
    let mut s = spec(vec![]);
    s.change = PutChange::Replace { size: 0 };
    s.more = true;
    let mut rig = Rig::new(s);
    for chunk in 0..3u32 {
        rig.event(PutEvent::Object(object(chunk, b"abc")));
    }
    rig.later(Duration::from_secs(1));
    let sent = rig.prepares();
    for s in &sent {
        if s.1 != 3 {
            rig.ack(s.0, s.1);
        }
    }
    let stored = rig
        .out
        .iter()
        .filter(|a| matches!(a, PutAction::Stored { .. }))
        .count();
    assert_eq!((stored, rig.commit()), (3, None));
    rig.later(Duration::from_secs(60));
    assert!(!rig.abandon(), "a slow caller is not a slow member");
    rig.event(PutEvent::Complete { size: 8_388_611 });
    let Change::Replace { puts, size } = rig.commit().expect("committed").change else {
        panic!()
    };
    assert_eq!((puts.len(), size), (3, 8_388_611));
}

#[test]
fn an_answer_of_another_store_is_no_ack() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.ack(sent[0].0, 1);
    rig.event(PutEvent::Prepared {
        token: sent[1].0,
        result: Ok(StoreId(7)),
    });
    assert_eq!(rig.commit(), None);
}

#[test]
fn a_member_that_knows_of_an_abort_ends_it() {
    let mut rig = Rig::new(spec(vec![object(0, b"abc")]));
    let sent = rig.prepares();
    rig.fail(sent[1].0, ErrorCode::OpAborted);
    assert!(rig.abandon() && rig.finished().is_none());
    rig.event(PutEvent::Abandoned(Err(ErrorCode::OpAborted.into())));
    assert!(matches!(rig.finished(), Some(Err(PutError::Aborted(_)))));
}

//! One event at a time: what the machine answers, and what it holds back.
use super::test_group::{Group, ids, node, persists, propose, recovered, sends};
use super::*;
use crate::types::{LogIndex, RaftId, Term, Time};
use bytes::Bytes;
use std::time::Duration;

#[test]
fn a_single_voter_commits_by_itself_after_its_own_sync() {
    let mut node = node(1, &[1]);
    let mut out = Vec::new();
    node.handle(Time::ZERO, RaftEvent::Campaign, &mut out);
    assert!(node.is_leader() && !node.has_committed_in_term());
    let token = persists(&out)[0].0;
    out.clear();
    node.handle(Time::ZERO, RaftEvent::ReadIndex { token: 5 }, &mut out);
    assert_eq!(out, [], "no read before an entry of the term is committed");
    node.handle(Time::ZERO, RaftEvent::Persisted { token }, &mut out);
    assert!(node.has_committed_in_term());
    let (token, index) = (5, LogIndex(2));
    assert!(out.contains(&RaftAction::ReadReady { token, index }));
    out.clear();
    node.handle_all(Time::ZERO, (10..20).map(propose), &mut out);
    let writes = persists(&out);
    assert_eq!(
        writes.len(),
        1,
        "proposals that came together share a write"
    );
    let token = writes[0].0;
    assert!(!out.iter().any(|a| matches!(a, RaftAction::Apply { .. })));
    out.clear();
    node.handle(Time::ZERO, RaftEvent::Persisted { token }, &mut out);
    let [RaftAction::Apply { entries }] = out.as_slice() else {
        panic!("{out:?}");
    };
    let tokens: Vec<_> = entries.iter().filter_map(|entry| entry.token).collect();
    assert_eq!(tokens, (10..20).collect::<Vec<_>>());
}

#[test]
fn votes_and_acks_wait_for_the_sync_and_a_leaders_appends_do_not() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    let mut out = Vec::new();
    let leader = group.nodes.get_mut(&1).unwrap();
    leader.handle(Time::ZERO, propose(1), &mut out);
    assert_eq!((persists(&out).len(), sends(&out)), (1, 2));
    let message = out.into_iter().find_map(|action| match action {
        RaftAction::Send {
            to: RaftId(2),
            message,
        } => Some(message),
        _ => None,
    });
    let (from, message) = (RaftId(1), message.unwrap());
    let mut out = Vec::new();
    let follower = group.nodes.get_mut(&2).unwrap();
    follower.handle(Time::ZERO, RaftEvent::Message { from, message }, &mut out);
    assert_eq!(sends(&out), 0);
    let token = persists(&out)[0].0;
    follower.handle(Time::ZERO, RaftEvent::Persisted { token }, &mut out);
    assert_eq!(sends(&out), 1);
    // A vote in a new term.
    let (from, mut out) = (RaftId(3), Vec::new());
    let message = RaftMessage {
        to: RaftId(2),
        term: Term(9),
        body: RaftBody::Vote {
            pre: false,
            transfer: true,
            last_index: LogIndex(50),
            last_term: Term(8),
            commit: LogIndex(0),
            commit_term: Term(0),
        },
    };
    follower.handle(Time::ZERO, RaftEvent::Message { from, message }, &mut out);
    assert_eq!(sends(&out), 0);
    let (token, write) = persists(&out)[0];
    let vote = HardState {
        term: Term(9),
        vote: Some(RaftId(3)),
        commit: follower.commit_index(),
    };
    assert_eq!(write.records, [LogRecord::HardState(vote)]);
    follower.handle(Time::ZERO, RaftEvent::Persisted { token }, &mut out);
    assert_eq!(sends(&out), 1);
}

#[test]
fn a_commit_is_applied_at_a_majority_without_the_leaders_own_sync() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.tick(2);
    group.log.clear();
    let mut out = Vec::new();
    let now = group.now;
    let leader = group.nodes.get_mut(&1).unwrap();
    leader.handle(now, propose(1), &mut out);
    let token = persists(&out)[0].0;
    for action in out.drain(..) {
        if let RaftAction::Send { to, message } = action {
            group.queue.push_back((RaftId(1), to, message));
        }
    }
    group.settle();
    let index = LogIndex(3);
    assert_eq!(
        group.nodes[&1].commit_index(),
        index,
        "both followers hold it"
    );
    assert_eq!(
        group.take_log(1),
        [],
        "not durable here, so not applied here"
    );
    group.feed(1, [RaftEvent::Persisted { token }]);
    assert_eq!(group.applied_tokens(1), [1]);
}

#[test]
fn reads_that_come_during_a_round_share_the_next() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.log.clear();
    group.feed(1, [RaftEvent::ReadIndex { token: 1 }]);
    let first_round = group.queue.len();
    group.feed(1, (2..9).map(|token| RaftEvent::ReadIndex { token }));
    assert_eq!(group.queue.len(), first_round, "one round at a time");
    group.settle();
    let log = group.take_log(1);
    let ready = |token| RaftAction::ReadReady {
        token,
        index: LogIndex(2),
    };
    assert_eq!(log, (1..9).map(ready).collect::<Vec<_>>());
}

#[test]
fn a_leader_that_is_cut_off_answers_no_read_and_gives_up() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.log.clear();
    group.down = [2, 3].into();
    group.feed(1, [RaftEvent::ReadIndex { token: 1 }, propose(2)]);
    group.tick(25);
    let log = group.take_log(1);
    let dropped = RaftAction::ReadDropped {
        token: 1,
        leader: None,
    };
    assert!(log.contains(&RaftAction::LostLeadership), "{log:?}");
    assert!(log.contains(&dropped), "{log:?}");
    assert!(
        log.contains(&RaftAction::ProposalUnknown { token: 2 }),
        "{log:?}"
    );
    assert!(
        !log.iter()
            .any(|a| matches!(a, RaftAction::ReadReady { .. }))
    );
    assert!(!group.nodes[&1].is_leader());
}

#[test]
fn a_dead_leader_is_replaced_within_a_second_or_so() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.tick(3);
    group.down = [1].into();
    let mut ticks = 0;
    while !group.nodes[&2].is_leader() && !group.nodes[&3].is_leader() {
        group.tick(1);
        ticks += 1;
        assert!(ticks < 30, "no leader after {ticks} ticks");
    }
    assert!(ticks >= 8, "a live leader is not deposed early");
    let leader = 2 + u64::from(group.nodes[&3].is_leader());
    group.down.clear();
    group.feed(1, [propose(7)]);
    group.tick(3);
    assert_eq!(group.nodes[&1].leader(), Some(RaftId(leader)));
    group.log.clear();
    group.feed(1, [propose(8), RaftEvent::ReadIndex { token: 9 }]);
    let leader = Some(RaftId(leader));
    let reason = DropReason::NotLeader { leader };
    let expected = [
        RaftAction::ProposalDropped { token: 8, reason },
        RaftAction::ReadDropped { token: 9, leader },
    ];
    assert_eq!(group.take_log(1), expected);
}

#[test]
fn ticks_that_come_in_a_burst_count_once() {
    let mut node = node(1, &[1]);
    let mut out = Vec::new();
    let burst = (0..100).map(|_| RaftEvent::Tick);
    node.handle_all(Time(1), burst, &mut out);
    assert!(!node.is_leader());
}

#[test]
fn messages_that_would_break_the_log_are_dropped_with_a_reason() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    let term = group.nodes[&1].term();
    let mut refused = |at: u64, from: u64, body: RaftBody| {
        let (from, to) = (RaftId(from), RaftId(at));
        let message = RaftMessage { to, term, body };
        let mut out = Vec::new();
        let node = group.nodes.get_mut(&at).unwrap();
        node.handle(Time::ZERO, RaftEvent::Message { from, message }, &mut out);
        match out.as_slice() {
            [RaftAction::Rejected { reason, .. }] => reason.clone(),
            other => panic!("{other:?}"),
        }
    };
    let (commit, mark) = (LogIndex(99), Bytes::new());
    let reason = refused(2, 1, RaftBody::Heartbeat { commit, mark });
    assert!(matches!(reason, MessageError::CommitBeyondLog { .. }));
    let (index, commit) = (LogIndex(99), LogIndex(0));
    let reason = refused(1, 2, RaftBody::Appended { index, commit });
    assert!(matches!(reason, MessageError::ReplyBeyondLog { .. }));
    let index = LogIndex(1);
    let reason = refused(1, 8, RaftBody::Appended { index, commit });
    assert!(matches!(reason, MessageError::NotMember { .. }));
    let reason = refused(2, 3, RaftBody::TimeoutNow);
    assert_eq!(reason, MessageError::NotLeader);
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.tick(2);
    group.feed(1, [RaftEvent::TransferLeader { to: RaftId(3) }]);
    group.settle();
    assert!(group.nodes[&3].is_leader() && !group.nodes[&1].is_leader());
}

/// What a member wanted durable, in order.
/// Three members whose promises last for longer than elections take, led by the first.
fn promising() -> Group {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    for node in group.nodes.values_mut() {
        node.config.promise = Duration::from_secs(3);
    }
    group.elect(1);
    group.feed(1, [RaftEvent::ReadIndex { token: 1 }]);
    group.settle();
    group
}

/// The read is answered at once, without a message.
fn reads_alone(group: &mut Group) -> bool {
    group.take_log(1);
    group.feed(1, [RaftEvent::ReadIndex { token: 9 }]);
    let is_ready = |action: &RaftAction| matches!(action, RaftAction::ReadReady { token: 9, .. });
    group.take_log(1).iter().any(is_ready)
}

#[test]
fn nobody_is_elected_while_a_leader_that_stands_still_holds_its_lease() {
    let mut group = promising();
    assert!(reads_alone(&mut group));
    group.queue.clear();
    let begun = group.now;
    group.down.insert(1);
    let led = |group: &Group| group.nodes[&2].is_leader() || group.nodes[&3].is_leader();
    while !led(&group) {
        assert!(
            group.now.since(begun) < Duration::from_secs(6),
            "they may elect by now"
        );
        group.tick(1);
    }
    assert!(group.now.since(begun) >= Duration::from_secs(3));
    // The first one goes on, and has heard of nothing.
    assert!(group.nodes[&1].is_leader() && !reads_alone(&mut group));
    group.now = begun + Duration::from_millis(2300);
    assert!(reads_alone(&mut group), "nobody led then");
}

#[test]
fn a_vote_that_somebody_else_asks_for_waits_until_the_promise_is_over() {
    let mut group = promising();
    let vote = |pre| RaftMessage {
        to: RaftId(2),
        term: Term(3),
        body: RaftBody::Vote {
            pre,
            transfer: false,
            last_index: LogIndex(9),
            last_term: Term(2),
            commit: LogIndex(2),
            commit_term: Term(2),
        },
    };
    // Its own timer would let it vote by now.
    group.down.insert(1);
    group.tick(12);
    group.queue.clear();
    let ask = |group: &mut Group, from| {
        let message = vote(true);
        let from = RaftId(from);
        group.feed(2, [RaftEvent::Message { from, message }]);
        std::mem::take(&mut group.queue).len()
    };
    assert_eq!(ask(&mut group, 3), 0);
    assert!(
        ask(&mut group, 1) > 0,
        "the leader has lost nothing to itself"
    );
}

#[test]
fn a_leader_that_hands_over_asks_the_others_before_it_answers() {
    let mut group = promising();
    assert!(reads_alone(&mut group));
    let to = RaftId(2);
    group.feed(1, [RaftEvent::TransferLeader { to }]);
    assert!(
        !reads_alone(&mut group),
        "the next leader may be elected by force"
    );
    // The word is lost, and rounds go on.
    group.queue.clear();
    group.tick(3);
    assert!(group.nodes[&1].is_leader() && !reads_alone(&mut group));
}

fn records(out: Vec<RaftAction>) -> Vec<LogRecord> {
    let writes = out.into_iter().filter_map(|action| match action {
        RaftAction::Persist { write, .. } => Some(write.records),
        _ => None,
    });
    writes.flatten().collect()
}

/// What a start finds of these.
fn read_again(base: &SnapshotMeta, records: &[LogRecord]) -> RecoveredLog {
    let mut found = recovered(base.clone());
    for record in records {
        match record {
            LogRecord::HardState(hard) => found.hard = *hard,
            LogRecord::Entry(entry) => found.entries.push(entry.clone()),
            other => panic!("{other:?}"),
        }
    }
    found
}

#[test]
fn regression_a_learner_that_took_over_from_the_only_voter_knows_it_after_a_restart() {
    let (old, new) = (RaftId(1), RaftId(2));
    let mut base = SnapshotMeta::bootstrap([old]);
    base.conf.learners = vec![new];
    let mut learner = RaftNode::new(
        RaftConfig::new(new),
        recovered(base.clone()),
        &StateAt::default(),
        1,
    )
    .unwrap();
    let steps = vec![ConfStep::Remove(old), ConfStep::Promote(new)];
    let changes = [ConfChange::Joint(steps), ConfChange::LeaveJoint];
    let entry = |(index, change): (LogIndex, ConfChange)| LogEntry {
        index,
        term: Term(7),
        kind: EntryKind::Conf,
        data: change.encode(),
    };
    let (joint, left) = (base.index.next(), base.index.next().next());
    // The former voter leaves the joint configuration once it is committed, so it says that it is.
    let body = RaftBody::Append {
        prev_index: base.index,
        prev_term: base.term,
        commit: joint,
        entries: [joint, left].into_iter().zip(changes).map(entry).collect(),
    };
    let (to, term) = (new, Term(7));
    let message = RaftMessage { to, term, body };
    let mut out = Vec::new();
    let event = RaftEvent::Message { from: old, message };
    learner.handle(Time(1), event, &mut out);
    // Acknowledged, so the former voter may leave and be none any more; nothing else arrives here.
    let found = read_again(&base, &records(out));
    assert_eq!(found.entries.len(), 2);
    let mut again = RaftNode::new(RaftConfig::new(new), found, &StateAt::default(), 1).unwrap();
    assert_eq!(again.voters(), [new]);
    let mut out = Vec::new();
    again.handle(Time(2), RaftEvent::Campaign, &mut out);
    assert_eq!(sends(&out), 0, "it may have promised something");
    let later = Time(2) + RaftConfig::new(new).promise;
    again.handle(later, RaftEvent::Campaign, &mut out);
    assert!(sends(&out) > 0, "it asks the former voter for its vote");
}

#[test]
fn regression_a_write_that_is_cut_between_two_records_leaves_a_log_that_opens() {
    let base = SnapshotMeta::bootstrap(ids(&[1, 2, 3]));
    let mut node = node(2, &[1, 2, 3]);
    let entry = |index| LogEntry {
        index: LogIndex(index),
        term: Term(7),
        kind: EntryKind::Command,
        data: Bytes::from_static(b"x"),
    };
    let body = RaftBody::Append {
        prev_index: base.index,
        prev_term: base.term,
        commit: LogIndex(base.index.0 + 2),
        entries: (1..=2).map(|i| entry(base.index.0 + i)).collect(),
    };
    let (from, to, term) = (RaftId(1), RaftId(2), Term(7));
    let message = RaftMessage { to, term, body };
    let mut out = Vec::new();
    node.handle(Time(1), RaftEvent::Message { from, message }, &mut out);
    let records = records(out);
    assert!(records.len() >= 3, "{records:?}");
    for cut in 0..=records.len() {
        let found = read_again(&base, &records[..cut]);
        let again = RaftNode::new(RaftConfig::new(to), found, &StateAt::default(), 1);
        assert!(again.is_ok(), "after {cut} of {records:?}: {again:?}");
    }
}

//! Changes of members, snapshots, starts and compaction.
use super::test_group::{Group, ids, persists, propose, recovered};
use super::*;
use crate::types::{LogIndex, RaftId, Term, Time};
use bytes::Bytes;

#[test]
fn a_learner_is_filled_promoted_and_takes_a_place_by_joint_consensus() {
    let mut group = Group::new(&[1, 2, 3, 4], &[1, 2, 3]);
    group.elect(1);
    let learner = ConfStep::AddLearner(RaftId(4));
    let change = ConfChange::One(learner);
    group.feed(1, [RaftEvent::ProposeConf { token: 1, change }]);
    group.settle();
    assert_eq!(group.applied_tokens(1), [1]);
    assert_eq!(group.nodes[&1].learners(), ids(&[4]));
    // The new member lacks what lies below the bootstrap index, so the state is announced.
    group.tick(3);
    let need = RaftAction::NeedSnapshot { peer: RaftId(4) };
    assert!(group.take_log(1).contains(&need));
    let index = group.nodes[&1].commit_index();
    group.feed(1, [RaftEvent::SnapshotAvailable { index }]);
    group.tick(3);
    let log = group.take_log(4);
    let announced = log.iter().find_map(|action| match action {
        RaftAction::InstallSnapshot { meta, from } => Some((meta.clone(), *from)),
        _ => None,
    });
    let (meta, from) = announced.unwrap();
    assert_eq!((meta.index, from), (index, RaftId(1)));
    group.feed(4, [RaftEvent::SnapshotInstalled { meta }]);
    group.settle();
    group.tick(3);
    assert_eq!(group.nodes[&1].progress(RaftId(4)), Some(index));
    let steps = vec![ConfStep::Remove(RaftId(1)), ConfStep::Promote(RaftId(4))];
    let change = ConfChange::Joint(steps);
    group.feed(1, [RaftEvent::ProposeConf { token: 2, change }]);
    group.settle();
    assert!(
        !group.nodes[&1].is_leader(),
        "a leader that was removed steps down"
    );
    group.tick(40);
    let leader = group.nodes.values().find(|node| node.is_leader()).unwrap();
    assert_eq!(leader.voters(), ids(&[2, 3, 4]));
    assert!(!leader.conf().is_joint());
}

#[test]
fn membership_changes_are_one_at_a_time() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.log.clear();
    let add = |token, id| RaftEvent::ProposeConf {
        token,
        change: ConfChange::One(ConfStep::AddLearner(RaftId(id))),
    };
    group.feed(1, [add(1, 4), add(2, 5)]);
    let log = group.take_log(1);
    let reason = ConfError::Busy.into();
    assert!(log.contains(&RaftAction::ProposalDropped { token: 2, reason }));
    group.settle();
    group.feed(1, [add(3, 4)]);
    let log = group.take_log(1);
    let is_misfit = |action: &RaftAction| {
        let RaftAction::ProposalDropped { token: 3, reason } = action else {
            return false;
        };
        matches!(reason, DropReason::Conf(ConfError::Misfit { .. }))
    };
    assert!(log.iter().any(is_misfit), "{log:?}");
}

#[test]
fn entries_wait_while_a_snapshot_is_installed() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    let meta = SnapshotMeta {
        index: LogIndex(40),
        term: Term(2),
        conf: ConfState::of_voters(ids(&[1, 2, 3])),
    };
    let message = RaftMessage {
        to: RaftId(2),
        term: Term(2),
        body: RaftBody::Snapshot(meta.clone()),
    };
    group.syncs = false;
    let from = RaftId(1);
    group.feed(2, [RaftEvent::Message { from, message }]);
    assert!(
        !group
            .log
            .iter()
            .any(|(_, a)| matches!(a, RaftAction::InstallSnapshot { .. }))
    );
    let token = *group.unsynced[&2].last().unwrap();
    group.feed(2, [RaftEvent::Persisted { token }]);
    let install = RaftAction::InstallSnapshot {
        meta: meta.clone(),
        from,
    };
    assert!(group.take_log(2).contains(&install));
    // The state that was pulled is newer than what was announced.
    let pulled = SnapshotMeta {
        index: LogIndex(44),
        ..meta
    };
    group.queue.clear();
    let installed = RaftEvent::SnapshotInstalled {
        meta: pulled.clone(),
    };
    group.feed(2, [installed]);
    assert!(
        group.queue.is_empty(),
        "the leader hears of it when the log is durable"
    );
    let token = *group.unsynced[&2].last().unwrap();
    group.feed(2, [RaftEvent::Persisted { token }]);
    let reply = &group.queue.back().unwrap().2.body;
    let index = pulled.index;
    assert!(matches!(reply, RaftBody::Appended { index: at, .. } if *at == index));
    assert_eq!(group.nodes[&2].base_index(), index);
}

#[test]
fn a_state_ahead_of_its_log_is_wiped_unless_an_installation_explains_it() {
    let config = RaftConfig::new(RaftId(1));
    let mut log = recovered(SnapshotMeta::bootstrap(ids(&[1, 2, 3])));
    let meta = SnapshotMeta {
        index: LogIndex(40),
        term: Term(3),
        conf: ConfState::of_voters(ids(&[1, 2, 3])),
    };
    let mut state = StateAt {
        applied: LogIndex(40),
        installed: None,
    };
    let start =
        |log: &RecoveredLog, state: &StateAt| RaftNode::new(config.clone(), log.clone(), state, 1);
    let lost = RaftError::AppliedBeyondLog {
        applied: LogIndex(40),
        last: LogIndex(1),
    };
    assert_eq!(start(&log, &state).unwrap_err(), lost);
    state.installed = Some(meta.clone());
    assert_eq!(start(&log, &state).unwrap_err(), lost);
    log.installing = Some(meta.clone());
    let mut node = start(&log, &state).unwrap();
    let mut out = Vec::new();
    node.handle(Time::ZERO, RaftEvent::Tick, &mut out);
    assert_eq!(persists(&out)[0].1.records[0], LogRecord::Reset(meta));
    assert_eq!((node.base_index(), node.term()), (LogIndex(40), Term(3)));
    let mut behind = recovered(SnapshotMeta {
        index: LogIndex(40),
        ..SnapshotMeta::bootstrap(ids(&[1]))
    });
    behind.hard.commit = LogIndex(40);
    let state = StateAt {
        applied: LogIndex(39),
        installed: None,
    };
    let error = start(&behind, &state).unwrap_err();
    assert!(matches!(error, RaftError::StateBehindLog { .. }));
}

#[test]
fn a_restart_applies_again_what_the_state_lacks_and_nothing_else() {
    let mut log = recovered(SnapshotMeta::bootstrap(ids(&[1])));
    let change = ConfChange::One(ConfStep::AddLearner(RaftId(7))).encode();
    for index in 2..8 {
        log.entries.push(LogEntry {
            index: LogIndex(index),
            term: Term(1),
            kind: if index == 3 {
                EntryKind::Conf
            } else {
                EntryKind::Command
            },
            data: if index == 3 {
                change.clone()
            } else {
                Bytes::from_static(b"x")
            },
        });
    }
    log.hard.commit = LogIndex(6);
    let state = StateAt {
        applied: LogIndex(4),
        installed: None,
    };
    let config = RaftConfig::new(RaftId(1));
    let mut node = RaftNode::new(config, log, &state, 1).unwrap();
    assert_eq!(node.learners(), ids(&[7]), "members come from the log");
    let mut out = Vec::new();
    node.handle(Time::ZERO, RaftEvent::Tick, &mut out);
    let [RaftAction::Apply { entries }] = out.as_slice() else {
        panic!("{out:?}");
    };
    let indexes: Vec<_> = entries.iter().map(|entry| entry.index.0).collect();
    assert_eq!(indexes, [5, 6]);
}

#[test]
fn compaction_keeps_a_tail_and_records_the_new_base() {
    let mut config = RaftConfig::new(RaftId(1));
    config.keep_entries = 3;
    let log = recovered(SnapshotMeta::bootstrap(ids(&[1])));
    let node = RaftNode::new(config, log, &StateAt::default(), 1).unwrap();
    let mut group = Group::new(&[1], &[1]);
    group.nodes.insert(1, node);
    group.elect(1);
    group.feed(1, (10..20).map(propose));
    let mut out = Vec::new();
    let node = group.nodes.get_mut(&1).unwrap();
    let upto = LogIndex(10);
    node.handle(Time::ZERO, RaftEvent::Compact { upto }, &mut out);
    let records = &persists(&out)[0].1.records;
    let [LogRecord::Base(base)] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!((base.index, node.base_index()), (LogIndex(7), LogIndex(7)));
    assert_eq!(base.conf, ConfState::of_voters(ids(&[1])));
}

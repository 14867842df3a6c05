//! One event at a time: what the machine answers, and what it holds back.
use super::*;
use crate::types::{LogIndex, RaftId, Term, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

fn recovered(base: SnapshotMeta) -> RecoveredLog {
    RecoveredLog {
        hard: HardState {
            term: base.term,
            vote: None,
            commit: base.index,
        },
        base,
        entries: Vec::new(),
        installing: None,
        dropped_torn_tail: false,
    }
}

fn ids(list: &[u64]) -> Vec<RaftId> {
    list.iter().copied().map(RaftId).collect()
}

fn node(id: u64, voters: &[u64]) -> RaftNode {
    let base = SnapshotMeta::bootstrap(ids(voters));
    let config = RaftConfig::new(RaftId(id));
    RaftNode::new(config, recovered(base), &StateAt::default(), id).unwrap()
}

fn propose(token: u64) -> RaftEvent {
    RaftEvent::Propose {
        token,
        data: Bytes::from(token.to_le_bytes().to_vec()),
    }
}

/// Members with a perfect network; writes become durable when `syncs` says so.
struct Group {
    nodes: BTreeMap<u64, RaftNode>,
    queue: VecDeque<(RaftId, RaftId, RaftMessage)>,
    /// Everything but sends, persists and rejections, by member.
    log: Vec<(u64, RaftAction)>,
    unsynced: BTreeMap<u64, Vec<u64>>,
    syncs: bool,
    down: BTreeSet<u64>,
    now: Time,
}

impl Group {
    fn new(members: &[u64], voters: &[u64]) -> Self {
        let nodes = members.iter().map(|&id| match voters.contains(&id) {
            true => (id, node(id, voters)),
            false => {
                let log = recovered(SnapshotMeta::blank());
                let config = RaftConfig::new(RaftId(id));
                let blank = RaftNode::new(config, log, &StateAt::default(), id);
                (id, blank.unwrap())
            }
        });
        Self {
            nodes: nodes.collect(),
            queue: VecDeque::new(),
            log: Vec::new(),
            unsynced: BTreeMap::new(),
            syncs: true,
            down: BTreeSet::new(),
            now: Time::ZERO,
        }
    }

    fn feed(&mut self, id: u64, events: impl IntoIterator<Item = RaftEvent>) {
        let mut out = Vec::new();
        let node = self.nodes.get_mut(&id).unwrap();
        node.handle_all(self.now, events, &mut out);
        let mut answers = Vec::new();
        for action in out {
            match action {
                RaftAction::Send { to, message } => {
                    self.queue.push_back((RaftId(id), to, message));
                }
                RaftAction::Persist { token, .. } => {
                    if self.syncs {
                        answers.push(RaftEvent::Persisted { token });
                    } else {
                        self.unsynced.entry(id).or_default().push(token);
                    }
                }
                action => {
                    if let RaftAction::Apply { entries } = &action {
                        let index = entries.last().unwrap().index;
                        answers.push(RaftEvent::Applied { index });
                    }
                    self.log.push((id, action));
                }
            }
        }
        if !answers.is_empty() {
            self.feed(id, answers);
        }
    }

    /// Delivers until nothing is under way.
    fn settle(&mut self) {
        while let Some((from, to, message)) = self.queue.pop_front() {
            let is_up = |id: RaftId| !self.down.contains(&id.0) && self.nodes.contains_key(&id.0);
            if is_up(from) && is_up(to) {
                self.feed(to.0, [RaftEvent::Message { from, message }]);
            }
        }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.now = self.now + Duration::from_millis(50);
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !self.down.contains(&id) {
                    self.feed(id, [RaftEvent::Tick]);
                }
            }
            self.settle();
        }
    }

    fn elect(&mut self, id: u64) {
        self.feed(id, [RaftEvent::Campaign]);
        self.settle();
        assert!(self.nodes[&id].is_leader());
    }

    fn take_log(&mut self, id: u64) -> Vec<RaftAction> {
        let (mine, others) = std::mem::take(&mut self.log)
            .into_iter()
            .partition(|(of, _)| *of == id);
        self.log = others;
        let mine: Vec<(u64, RaftAction)> = mine;
        mine.into_iter().map(|(_, action)| action).collect()
    }

    fn applied_tokens(&mut self, id: u64) -> Vec<u64> {
        let log = self.take_log(id);
        let entries = log.iter().filter_map(|action| match action {
            RaftAction::Apply { entries } => Some(entries),
            _ => None,
        });
        entries.flatten().filter_map(|entry| entry.token).collect()
    }
}

fn persists(out: &[RaftAction]) -> Vec<(u64, &LogWrite)> {
    let persists = out.iter().filter_map(|action| match action {
        RaftAction::Persist { token, write } => Some((*token, write)),
        _ => None,
    });
    persists.collect()
}

fn sends(out: &[RaftAction]) -> usize {
    let is_send = |action: &&RaftAction| matches!(action, RaftAction::Send { .. });
    out.iter().filter(is_send).count()
}

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
        RaftAction::Send { to, message } if to == RaftId(2) => Some(message),
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
fn leadership_is_handed_over_on_request() {
    let mut group = Group::new(&[1, 2, 3], &[1, 2, 3]);
    group.elect(1);
    group.tick(2);
    group.feed(1, [RaftEvent::TransferLeader { to: RaftId(3) }]);
    group.settle();
    assert!(group.nodes[&3].is_leader() && !group.nodes[&1].is_leader());
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

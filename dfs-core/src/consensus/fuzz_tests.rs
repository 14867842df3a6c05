//! Well-formed nonsense: whatever peers say, the machine neither panics nor breaks its invariants.
use super::*;
use crate::types::{LogIndex, RaftId, Term, Time};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

fn index(rng: &mut ChaCha8Rng) -> LogIndex {
    let far = rng.random_bool(0.05);
    LogIndex(if far {
        rng.random_range(0..u64::MAX)
    } else {
        rng.random_range(0..12)
    })
}

fn term(rng: &mut ChaCha8Rng) -> Term {
    let far = rng.random_bool(0.002);
    Term(if far {
        rng.random_range(0..u64::MAX)
    } else {
        rng.random_range(0..6)
    })
}

fn entries(rng: &mut ChaCha8Rng, prev: LogIndex, mut at: Term) -> Vec<LogEntry> {
    let count = rng.random_range(0..4);
    let mut out = Vec::new();
    for offset in 1..=count {
        at = Term(at.0.saturating_add(u64::from(rng.random_bool(0.2))));
        let change = match rng.random_range(0..4) {
            0 => ConfChange::One(ConfStep::AddLearner(RaftId(rng.random_range(1..6)))),
            1 => ConfChange::One(ConfStep::Remove(RaftId(rng.random_range(1..6)))),
            2 => ConfChange::Joint(vec![
                ConfStep::Promote(RaftId(rng.random_range(3..6))),
                ConfStep::Remove(RaftId(rng.random_range(1..3))),
            ]),
            _ => ConfChange::LeaveJoint,
        };
        let is_conf = rng.random_bool(0.3);
        out.push(LogEntry {
            index: LogIndex(prev.0.saturating_add(offset)),
            term: at,
            kind: if is_conf {
                EntryKind::Conf
            } else {
                EntryKind::Command
            },
            data: if is_conf {
                change.encode()
            } else {
                Bytes::from_static(b"cmd")
            },
        });
    }
    out
}

fn conf(rng: &mut ChaCha8Rng) -> ConfState {
    let mut ids = || {
        (1..6)
            .map(RaftId)
            .filter(|_| rng.random_bool(0.5))
            .collect()
    };
    let (voters, learners, voters_outgoing): (Vec<_>, Vec<_>, Vec<_>) = (ids(), ids(), ids());
    ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next: Vec::new(),
        auto_leave: rng.random_bool(0.5),
    }
}

fn body(rng: &mut ChaCha8Rng) -> RaftBody {
    let (prev_index, prev_term, commit) = (index(rng), term(rng), index(rng));
    match rng.random_range(0..12) {
        0..4 => RaftBody::Append {
            prev_index,
            prev_term,
            commit,
            entries: entries(rng, prev_index, prev_term),
        },
        4 => RaftBody::Appended {
            index: prev_index,
            commit,
        },
        5 => RaftBody::AppendRefused {
            index: prev_index,
            hint_index: index(rng),
            hint_term: prev_term,
            commit,
        },
        6 => RaftBody::Heartbeat {
            commit,
            mark: Bytes::from_static(b"x"),
        },
        7 => RaftBody::HeartbeatReply {
            commit,
            mark: Bytes::from(1u64.to_le_bytes().to_vec()),
        },
        8 => RaftBody::Vote {
            pre: rng.random(),
            transfer: rng.random(),
            last_index: prev_index,
            last_term: prev_term,
            commit,
            commit_term: term(rng),
        },
        9 => RaftBody::VoteReply {
            pre: rng.random(),
            granted: rng.random_bool(0.8),
            commit,
            commit_term: term(rng),
        },
        10 => RaftBody::Snapshot(SnapshotMeta {
            index: prev_index,
            term: prev_term,
            conf: conf(rng),
        }),
        _ => RaftBody::TimeoutNow,
    }
}

fn event(rng: &mut ChaCha8Rng, node: &RaftNode, token: u64) -> RaftEvent {
    match rng.random_range(0..20) {
        0..3 => RaftEvent::Tick,
        3 => RaftEvent::Propose {
            token,
            data: Bytes::from_static(b"mine"),
        },
        4 => RaftEvent::ReadIndex { token },
        5 => RaftEvent::Campaign,
        6 => RaftEvent::ProposeConf {
            token,
            change: ConfChange::One(ConfStep::Promote(RaftId(rng.random_range(1..6)))),
        },
        7 => RaftEvent::Compact { upto: index(rng) },
        8 => RaftEvent::TransferLeader {
            to: RaftId(rng.random_range(1..6)),
        },
        _ => {
            let near = node.term().0 + rng.random_range(0..2);
            let message = RaftMessage {
                to: RaftId(1),
                term: if rng.random_bool(0.8) {
                    Term(near)
                } else {
                    term(rng)
                },
                body: body(rng),
            };
            let from = RaftId(rng.random_range(1..6));
            RaftEvent::Message { from, message }
        }
    }
}

/// Runs a member among lying peers; the machine checks its invariants after every call.
fn run(seed: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let voters = (1..=rng.random_range(1..4)).map(RaftId);
    let base = SnapshotMeta::bootstrap(voters);
    let log = RecoveredLog {
        hard: HardState {
            term: base.term,
            vote: None,
            commit: base.index,
        },
        base,
        entries: Vec::new(),
        installing: None,
        dropped_torn_tail: false,
    };
    let mut config = RaftConfig::new(RaftId(1));
    config.keep_entries = 1;
    let mut node = RaftNode::new(config, log, &StateAt::default(), seed).unwrap();
    let (mut now, mut unsynced, mut accepted) = (Time::ZERO, Vec::new(), 0);
    for token in 1..150 {
        now = now + Duration::from_millis(60);
        let mut events = vec![event(&mut rng, &node, token)];
        if rng.random_bool(0.3) {
            events.push(event(&mut rng, &node, token + 1000));
        }
        if rng.random_bool(0.5)
            && let Some(token) = unsynced.pop()
        {
            unsynced.clear();
            events.push(RaftEvent::Persisted { token });
        }
        while !events.is_empty() {
            let mut out = Vec::new();
            node.handle_all(now, std::mem::take(&mut events), &mut out);
            accepted += out.len() as u64;
            for action in out {
                match action {
                    RaftAction::Persist { token, .. } => unsynced.push(token),
                    RaftAction::Apply { entries } => {
                        let index = entries.last().unwrap().index;
                        events.push(RaftEvent::Applied { index });
                    }
                    RaftAction::InstallSnapshot { .. } if rng.random_bool(0.3) => {
                        events.push(RaftEvent::SnapshotFailed);
                    }
                    RaftAction::InstallSnapshot { mut meta, .. } => {
                        meta.index = LogIndex(meta.index.0 + rng.random_range(0..3));
                        events.push(RaftEvent::SnapshotInstalled { meta });
                    }
                    _ => {}
                }
            }
        }
    }
    accepted
}

#[test]
fn lying_peers_do_not_stop_the_machine() {
    let mut failed = Vec::new();
    for seed in 0..1500 {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?}");
}

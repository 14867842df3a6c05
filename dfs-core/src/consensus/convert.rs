//! Between our values and the crate's structs.
//!
//! A membership change travels through the crate as an entry whose `context` is our encoding; the
//! crate's own encoding in `data` never leaves this process.
use super::message::{ENTRIES_MAX, RaftBody, RaftMessage};
use super::types::{ConfChange, ConfState, ConfStep, EntryKind, HardState, LogEntry, SnapshotMeta};
use crate::types::{LogIndex, RaftId, Term};
use bytes::Bytes;
use raft::eraftpb;
use raft::eraftpb::MessageType as Kind;

pub(super) fn entry_from_raft(entry: &eraftpb::Entry) -> LogEntry {
    let (kind, data) = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => (EntryKind::Command, entry.data.clone()),
        _ => (EntryKind::Conf, entry.context.clone()),
    };
    LogEntry {
        index: LogIndex(entry.index),
        term: Term(entry.term),
        kind,
        data,
    }
}

pub(super) fn entry_to_raft(entry: &LogEntry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry {
        index: entry.index.0,
        term: entry.term.0,
        ..Default::default()
    };
    match entry.kind {
        EntryKind::Command => out.data = entry.data.clone(),
        EntryKind::Conf => {
            out.entry_type = eraftpb::EntryType::EntryConfChangeV2;
            out.context = entry.data.clone();
        }
    }
    out
}

pub(super) fn hard_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState {
        term: Term(state.term),
        vote: (state.vote != 0).then_some(RaftId(state.vote)),
        commit: LogIndex(state.commit),
    }
}

pub(super) fn hard_to_raft(state: &HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term.0,
        vote: state.vote.map_or(0, |id| id.0),
        commit: state.commit.0,
        ..Default::default()
    }
}

fn sorted(ids: &[u64]) -> Vec<RaftId> {
    let mut ids: Vec<RaftId> = ids.iter().copied().map(RaftId).collect();
    ids.sort_unstable();
    ids
}

fn numbers(ids: &[RaftId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

pub(super) fn conf_from_raft(conf: &eraftpb::ConfState) -> ConfState {
    ConfState {
        voters: sorted(&conf.voters),
        learners: sorted(&conf.learners),
        voters_outgoing: sorted(&conf.voters_outgoing),
        learners_next: sorted(&conf.learners_next),
        auto_leave: conf.auto_leave,
    }
}

pub(super) fn conf_to_raft(conf: &ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: numbers(&conf.voters),
        learners: numbers(&conf.learners),
        voters_outgoing: numbers(&conf.voters_outgoing),
        learners_next: numbers(&conf.learners_next),
        auto_leave: conf.auto_leave,
        ..Default::default()
    }
}

pub(super) fn change_to_raft(change: &ConfChange) -> eraftpb::ConfChangeV2 {
    let steps = change.steps().iter().map(|step| {
        let mut single = eraftpb::ConfChangeSingle {
            node_id: step.member().0,
            ..Default::default()
        };
        single.change_type = match step {
            ConfStep::AddLearner(_) => eraftpb::ConfChangeType::AddLearnerNode,
            ConfStep::Promote(_) => eraftpb::ConfChangeType::AddNode,
            ConfStep::Remove(_) => eraftpb::ConfChangeType::RemoveNode,
        };
        single
    });
    let mut out = eraftpb::ConfChangeV2::default();
    out.set_changes(steps.collect::<Vec<_>>().into());
    if matches!(change, ConfChange::Joint(_)) {
        out.transition = eraftpb::ConfChangeTransition::Implicit;
    }
    out
}

pub(super) fn snapshot_to_raft(meta: &SnapshotMeta) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    let metadata = out.mut_metadata();
    metadata.index = meta.index.0;
    metadata.term = meta.term.0;
    metadata.set_conf_state(conf_to_raft(&meta.conf));
    out
}

pub(super) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> SnapshotMeta {
    let metadata = snapshot.get_metadata();
    SnapshotMeta {
        index: LogIndex(metadata.index),
        term: Term(metadata.term),
        conf: conf_from_raft(metadata.get_conf_state()),
    }
}

/// The crate's form of a message that passed [`RaftMessage::validate`].
pub(super) fn message_to_raft(from: RaftId, message: &RaftMessage) -> eraftpb::Message {
    let mut out = eraftpb::Message {
        to: message.to.0,
        from: from.0,
        term: message.term.0,
        ..Default::default()
    };
    out.msg_type = match &message.body {
        RaftBody::Append {
            prev_index,
            prev_term,
            commit,
            entries,
        } => {
            (out.index, out.log_term, out.commit) = (prev_index.0, prev_term.0, commit.0);
            let entries: Vec<_> = entries.iter().map(entry_to_raft).collect();
            out.set_entries(entries.into());
            Kind::MsgAppend
        }
        RaftBody::Appended { index, commit } => {
            (out.index, out.commit) = (index.0, commit.0);
            Kind::MsgAppendResponse
        }
        RaftBody::AppendRefused {
            index,
            hint_index,
            hint_term,
            commit,
        } => {
            (out.index, out.commit, out.reject) = (index.0, commit.0, true);
            (out.reject_hint, out.log_term) = (hint_index.0, hint_term.0);
            Kind::MsgAppendResponse
        }
        RaftBody::Heartbeat { commit, mark } => {
            (out.commit, out.context) = (commit.0, mark.clone());
            Kind::MsgHeartbeat
        }
        RaftBody::HeartbeatReply { commit, mark } => {
            (out.commit, out.context) = (commit.0, mark.clone());
            Kind::MsgHeartbeatResponse
        }
        RaftBody::Vote {
            pre,
            transfer,
            last_index,
            last_term,
            commit,
            commit_term,
        } => {
            (out.index, out.log_term) = (last_index.0, last_term.0);
            (out.commit, out.commit_term) = (commit.0, commit_term.0);
            if *transfer {
                out.context = Bytes::from_static(raft::CAMPAIGN_TRANSFER);
            }
            match pre {
                true => Kind::MsgRequestPreVote,
                false => Kind::MsgRequestVote,
            }
        }
        RaftBody::VoteReply {
            pre,
            granted,
            commit,
            commit_term,
        } => {
            (out.commit, out.commit_term) = (commit.0, commit_term.0);
            out.reject = !granted;
            match pre {
                true => Kind::MsgRequestPreVoteResponse,
                false => Kind::MsgRequestVoteResponse,
            }
        }
        RaftBody::Snapshot(meta) => {
            out.set_snapshot(snapshot_to_raft(meta));
            Kind::MsgSnapshot
        }
        RaftBody::TimeoutNow => Kind::MsgTimeoutNow,
    };
    out
}

/// Our form of what the crate sends; several when its batch is larger than a message may be.
/// Kinds that we never forward (proposals, reads) give none.
pub(super) fn messages_from_raft(
    message: eraftpb::Message,
    append_bytes_max: usize,
    out: &mut Vec<RaftMessage>,
) {
    let to = RaftId(message.to);
    let term = Term(message.term);
    let commit = LogIndex(message.commit);
    let commit_term = Term(message.commit_term);
    let vote = |pre| RaftBody::Vote {
        pre,
        transfer: message.context.as_ref() == raft::CAMPAIGN_TRANSFER,
        last_index: LogIndex(message.index),
        last_term: Term(message.log_term),
        commit,
        commit_term,
    };
    let vote_reply = |pre| RaftBody::VoteReply {
        pre,
        granted: !message.reject,
        commit,
        commit_term,
    };
    let body = match message.msg_type {
        Kind::MsgAppend => return split_append(&message, append_bytes_max, out),
        Kind::MsgAppendResponse if message.reject => RaftBody::AppendRefused {
            index: LogIndex(message.index),
            hint_index: LogIndex(message.reject_hint),
            hint_term: Term(message.log_term),
            commit,
        },
        Kind::MsgAppendResponse => RaftBody::Appended {
            index: LogIndex(message.index),
            commit,
        },
        Kind::MsgHeartbeat => RaftBody::Heartbeat {
            commit,
            mark: message.context,
        },
        Kind::MsgHeartbeatResponse => RaftBody::HeartbeatReply {
            commit,
            mark: message.context,
        },
        Kind::MsgRequestVote => vote(false),
        Kind::MsgRequestPreVote => vote(true),
        Kind::MsgRequestVoteResponse => vote_reply(false),
        Kind::MsgRequestPreVoteResponse => vote_reply(true),
        Kind::MsgSnapshot => RaftBody::Snapshot(snapshot_from_raft(message.get_snapshot())),
        Kind::MsgTimeoutNow => RaftBody::TimeoutNow,
        Kind::MsgHup
        | Kind::MsgBeat
        | Kind::MsgPropose
        | Kind::MsgUnreachable
        | Kind::MsgSnapStatus
        | Kind::MsgCheckQuorum
        | Kind::MsgTransferLeader
        | Kind::MsgReadIndex
        | Kind::MsgReadIndexResp => return,
    };
    out.push(RaftMessage { to, term, body });
}

fn split_append(message: &eraftpb::Message, bytes_max: usize, out: &mut Vec<RaftMessage>) {
    let mut prev = (LogIndex(message.index), Term(message.log_term));
    let mut rest: Vec<LogEntry> = message.entries.iter().map(entry_from_raft).collect();
    loop {
        let mut len_bytes = 0;
        let fitting = rest.iter().take(ENTRIES_MAX).take_while(|entry| {
            len_bytes += entry.data.len();
            len_bytes <= bytes_max
        });
        let count = fitting.count().max(1);
        let later = rest.split_off(count.min(rest.len()));
        let next = rest.last().map_or(prev, |last| (last.index, last.term));
        out.push(RaftMessage {
            to: RaftId(message.to),
            term: Term(message.term),
            body: RaftBody::Append {
                prev_index: prev.0,
                prev_term: prev.1,
                commit: LogIndex(message.commit),
                entries: std::mem::replace(&mut rest, later),
            },
        });
        prev = next;
        if rest.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(body: RaftBody) {
        let message = RaftMessage {
            to: RaftId(1),
            term: Term(9),
            body,
        };
        let mut out = Vec::new();
        messages_from_raft(message_to_raft(RaftId(2), &message), 1 << 20, &mut out);
        assert_eq!(out, [message]);
    }

    fn entry(index: u64, kind: EntryKind, data: Bytes) -> LogEntry {
        LogEntry {
            index: LogIndex(index),
            term: Term(3),
            kind,
            data,
        }
    }

    #[test]
    fn every_kind_of_message_converts_back_to_itself() {
        let (index, term, commit) = (LogIndex(7), Term(3), LogIndex(6));
        let change = ConfChange::Joint(vec![ConfStep::Remove(RaftId(4))]).encode();
        let conf = ConfState {
            voters: vec![RaftId(1), RaftId(2)],
            learners: vec![RaftId(6)],
            voters_outgoing: vec![RaftId(1), RaftId(4)],
            learners_next: vec![RaftId(4)],
            auto_leave: true,
        };
        for body in [
            RaftBody::Append {
                prev_index: index,
                prev_term: term,
                commit,
                entries: vec![
                    entry(8, EntryKind::Command, Bytes::from_static(b"a")),
                    entry(9, EntryKind::Conf, change),
                    entry(10, EntryKind::Conf, Bytes::new()),
                ],
            },
            RaftBody::Appended { index, commit },
            RaftBody::AppendRefused {
                index,
                hint_index: LogIndex(5),
                hint_term: Term(2),
                commit,
            },
            RaftBody::Heartbeat {
                commit,
                mark: Bytes::from_static(b"m"),
            },
            RaftBody::HeartbeatReply {
                commit,
                mark: Bytes::new(),
            },
            RaftBody::Vote {
                pre: true,
                transfer: false,
                last_index: index,
                last_term: term,
                commit,
                commit_term: term,
            },
            RaftBody::Vote {
                pre: false,
                transfer: true,
                last_index: index,
                last_term: term,
                commit,
                commit_term: term,
            },
            RaftBody::VoteReply {
                pre: true,
                granted: false,
                commit,
                commit_term: term,
            },
            RaftBody::Snapshot(SnapshotMeta { index, term, conf }),
            RaftBody::TimeoutNow,
        ] {
            round_trip(body);
        }
    }

    #[test]
    fn a_large_batch_is_split_into_appends_that_continue_each_other() {
        let mut message = eraftpb::Message {
            index: 4,
            log_term: 2,
            ..Default::default()
        };
        message.msg_type = Kind::MsgAppend;
        let data = Bytes::from(vec![0; 40]);
        let entries = (5..10).map(|i| entry(i, EntryKind::Command, data.clone()));
        let entries: Vec<_> = entries.map(|e| entry_to_raft(&e)).collect();
        message.set_entries(entries.into());
        let mut out = Vec::new();
        messages_from_raft(message, 100, &mut out);
        let shape: Vec<_> = out
            .iter()
            .map(|m| match &m.body {
                RaftBody::Append {
                    prev_index,
                    prev_term,
                    entries,
                    ..
                } => (prev_index.0, prev_term.0, entries.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shape, [(4, 2, 2), (6, 3, 2), (8, 3, 1)]);
    }
}

//! What members of the group say to each other.
//!
//! Each message says only what its kind needs, so a receiver can check every field. Proposals and
//! reads are never forwarded: a follower refuses them and names the leader.
//!
//! Invariants of a message that passed [`RaftMessage::validate`]:
//! 1. term, indexes and ids are in `1..=2^62` (indexes and previous terms may be 0);
//! 2. entries are contiguous from `prev_index + 1`, their terms never fall, from `prev_term` up to
//!    the message's term;
//! 3. a snapshot's members are well-formed; changes inside entries decode.
use super::types::{COUNTER_MAX, ConfChange, ConfError, EntryKind, LogEntry, SnapshotMeta};
use crate::types::{LogIndex, RaftId, Term};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of commands that one message may carry.
pub const ENTRIES_BYTES_MAX: usize = 3 << 20;
/// Encoded bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = ENTRIES_BYTES_MAX + (256 << 10);
/// Entries of one message.
pub const ENTRIES_MAX: usize = 16 << 10;
/// Bytes of the mark that ties a heartbeat to a round of reads.
pub const READ_MARK_MAX: usize = 16;

/// One message. The sender is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMessage {
    /// Whom it is for; another id (of a member that was wiped) drops it.
    pub to: RaftId,
    /// Term of the sender; of the election it asks about for a pre-vote.
    pub term: Term,
    /// What is said.
    pub body: RaftBody,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftBody {
    /// Leader to follower: entries after `prev_index`.
    Append {
        /// Entry before the first one.
        prev_index: LogIndex,
        /// Its term.
        prev_term: Term,
        /// Committed at the leader.
        commit: LogIndex,
        /// May be empty.
        entries: Vec<LogEntry>,
    },
    /// Follower to leader: durable up to `index`.
    Appended {
        /// Last entry that agrees with the leader's log, durable.
        index: LogIndex,
        /// Committed at the follower.
        commit: LogIndex,
    },
    /// Follower to leader: the entry before the appended ones does not match.
    AppendRefused {
        /// `prev_index` of the refused message.
        index: LogIndex,
        /// Where to try next.
        hint_index: LogIndex,
        /// The follower's term there.
        hint_term: Term,
        /// Committed at the follower.
        commit: LogIndex,
    },
    /// Leader to member: I lead; and, with a mark, do I still?
    Heartbeat {
        /// Committed at the leader, at most what this follower holds.
        commit: LogIndex,
        /// Mark of a round of reads; may be empty.
        mark: Bytes,
    },
    /// Answers a heartbeat.
    HeartbeatReply {
        /// Committed at the follower.
        commit: LogIndex,
        /// As received.
        mark: Bytes,
    },
    /// Asks for a vote in the message's term.
    Vote {
        /// Only asks whether it would be granted; changes no state.
        pre: bool,
        /// The leader asked this candidate to take over.
        transfer: bool,
        /// Last entry of the candidate.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
        /// Committed at the candidate.
        commit: LogIndex,
        /// Its term.
        commit_term: Term,
    },
    /// Answers [`RaftBody::Vote`].
    VoteReply {
        /// Of the request.
        pre: bool,
        /// Whether the vote is given.
        granted: bool,
        /// Committed at the voter, 0 if granted.
        commit: LogIndex,
        /// Its term.
        commit_term: Term,
    },
    /// Leader to follower: the entries you lack are gone, pull the state.
    Snapshot(SnapshotMeta),
    /// Leader to the member that shall take over: start an election now.
    TimeoutNow,
}

/// Why a message was dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than [`MESSAGE_BYTES_MAX`], does not decode, or bytes are left over.
    #[error("message of {len} bytes does not decode")]
    Undecodable {
        /// Bytes received.
        len: usize,
    },
    /// For another member: an id that was retired, or a stale address.
    #[error("for member {to:?}, this is {me:?}")]
    Misrouted {
        /// Named in the message.
        to: RaftId,
        /// This member.
        me: RaftId,
    },
    /// From an impossible id: 0, this member itself, or out of range.
    #[error("from impossible member {from:?}")]
    Sender {
        /// The sender.
        from: RaftId,
    },
    /// A number or list out of range.
    #[error("{field} is out of range")]
    Field {
        /// Which.
        field: &'static str,
    },
    /// Members of a snapshot or a change inside an entry.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// The leader believes we hold an entry that we do not: our log was lost under this id.
    #[error("commit {commit} lies beyond the last entry {last}")]
    CommitBeyondLog {
        /// Of the message.
        commit: LogIndex,
        /// Our last entry.
        last: LogIndex,
    },
    /// A reply about entries that were never sent.
    #[error("reply about entry {index} beyond the last entry {last}")]
    ReplyBeyondLog {
        /// Of the message.
        index: LogIndex,
        /// Our last entry.
        last: LogIndex,
    },
    /// A reply from somebody who is not a member.
    #[error("{from:?} is not a member")]
    NotMember {
        /// The sender.
        from: RaftId,
    },
    /// An order to take over from somebody who does not lead this term, or at a bad moment.
    #[error("take-over order is not from the present leader")]
    NotLeader,
    /// The crate refused it.
    #[error("refused: {cause}")]
    Refused {
        /// Its words.
        cause: String,
    },
}

fn counter(field: &'static str, value: u64) -> Result<(), MessageError> {
    match value <= COUNTER_MAX {
        true => Ok(()),
        false => Err(MessageError::Field { field }),
    }
}

impl RaftMessage {
    /// Bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain structs always encode")
    }

    /// Decodes bytes of the wire. The fields are checked by [`RaftMessage::validate`].
    ///
    /// # Errors
    /// [`MessageError::Undecodable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let undecodable = MessageError::Undecodable { len: bytes.len() };
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(undecodable);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            _ => Err(undecodable),
        }
    }

    /// Checks everything that needs no knowledge of the receiver but its id.
    ///
    /// # Errors
    /// The first violated bound.
    pub fn validate(&self, me: RaftId, from: RaftId) -> Result<(), MessageError> {
        if self.to != me {
            return Err(MessageError::Misrouted { to: self.to, me });
        }
        if from.0 == 0 || from == me || from.0 > COUNTER_MAX {
            return Err(MessageError::Sender { from });
        }
        if self.term.0 == 0 || self.term.0 > COUNTER_MAX {
            return Err(MessageError::Field { field: "term" });
        }
        match &self.body {
            RaftBody::Append {
                prev_index,
                prev_term,
                commit,
                entries,
            } => {
                counter("prev_index", prev_index.0)?;
                counter("commit", commit.0)?;
                check_entries(*prev_index, *prev_term, self.term, entries)
            }
            RaftBody::Appended { index, commit } => {
                counter("index", index.0)?;
                counter("commit", commit.0)
            }
            RaftBody::AppendRefused {
                index,
                hint_index,
                hint_term,
                commit,
            } => {
                counter("index", index.0)?;
                counter("hint_index", hint_index.0)?;
                counter("hint_term", hint_term.0)?;
                counter("commit", commit.0)
            }
            RaftBody::Heartbeat { commit, mark } | RaftBody::HeartbeatReply { commit, mark } => {
                if mark.len() > READ_MARK_MAX {
                    return Err(MessageError::Field { field: "mark" });
                }
                counter("commit", commit.0)
            }
            RaftBody::Vote {
                last_index,
                last_term,
                commit,
                commit_term,
                ..
            } => {
                counter("last_index", last_index.0)?;
                counter("last_term", last_term.0)?;
                counter("commit_term", commit_term.0)?;
                counter("commit", commit.0)
            }
            RaftBody::VoteReply {
                commit,
                commit_term,
                ..
            } => {
                counter("commit_term", commit_term.0)?;
                counter("commit", commit.0)
            }
            RaftBody::Snapshot(meta) => {
                meta.validate()?;
                match meta.term <= self.term {
                    true => Ok(()),
                    false => Err(MessageError::Field { field: "snapshot" }),
                }
            }
            RaftBody::TimeoutNow => Ok(()),
        }
    }
}

/// Checks invariant 2 and 3 of the [module docs](self).
fn check_entries(
    prev_index: LogIndex,
    prev_term: Term,
    term: Term,
    entries: &[LogEntry],
) -> Result<(), MessageError> {
    // The crate takes term 0 for "no such entry", and would match it beyond the end of the log.
    if (prev_index.0 == 0) != (prev_term.0 == 0) {
        return Err(MessageError::Field { field: "prev_term" });
    }
    if entries.len() > ENTRIES_MAX {
        return Err(MessageError::Field { field: "entries" });
    }
    let (mut last_index, mut last_term, mut len_bytes) = (prev_index, prev_term, 0usize);
    for entry in entries {
        if entry.index != last_index.next() || entry.index.0 > COUNTER_MAX {
            return Err(MessageError::Field {
                field: "entry.index",
            });
        }
        if entry.term < last_term || entry.term > term || entry.term.0 == 0 {
            return Err(MessageError::Field {
                field: "entry.term",
            });
        }
        if entry.kind == EntryKind::Conf {
            ConfChange::decode(&entry.data)?;
        }
        len_bytes = len_bytes.saturating_add(entry.data.len());
        (last_index, last_term) = (entry.index, entry.term);
    }
    match len_bytes <= ENTRIES_BYTES_MAX && prev_term <= term {
        true => Ok(()),
        false => Err(MessageError::Field { field: "entries" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::ConfState;

    fn append(prev: u64, entries: &[(u64, u64)]) -> RaftMessage {
        let entries = entries.iter().map(|&(index, term)| LogEntry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Command,
            data: Bytes::from_static(b"x"),
        });
        RaftMessage {
            to: RaftId(1),
            term: Term(5),
            body: RaftBody::Append {
                prev_index: LogIndex(prev),
                prev_term: Term(3),
                commit: LogIndex(0),
                entries: entries.collect(),
            },
        }
    }

    fn check(message: &RaftMessage) -> Result<(), MessageError> {
        message.validate(RaftId(1), RaftId(2))
    }

    #[test]
    fn messages_survive_the_wire_and_damaged_ones_are_refused() {
        let message = append(7, &[(8, 3), (9, 5)]);
        let bytes = message.encode();
        assert_eq!(RaftMessage::decode(&bytes).unwrap(), message);
        assert!(RaftMessage::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(RaftMessage::decode(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn entries_must_be_contiguous_with_terms_that_never_fall() {
        check(&append(7, &[(8, 3), (9, 5)])).unwrap();
        for entries in [
            &[(9, 3)][..],
            &[(8, 2)],
            &[(8, 6)],
            &[(8, 4), (9, 3)],
            &[(8, 4), (10, 4)],
        ] {
            assert!(check(&append(7, entries)).is_err(), "{entries:?}");
        }
        assert!(check(&append(COUNTER_MAX, &[(COUNTER_MAX + 1, 4)])).is_err());
    }

    #[test]
    fn misrouted_and_malformed_messages_are_refused() {
        let mut message = append(7, &[]);
        assert!(message.validate(RaftId(3), RaftId(2)).is_err());
        assert!(message.validate(RaftId(1), RaftId(1)).is_err());
        message.term = Term(0);
        assert!(check(&message).is_err());
        message.term = Term(5);
        let meta = |term| SnapshotMeta {
            index: LogIndex(4),
            term: Term(term),
            conf: ConfState::of_voters([RaftId(1)]),
        };
        message.body = RaftBody::Snapshot(meta(5));
        check(&message).unwrap();
        message.body = RaftBody::Snapshot(meta(6));
        assert!(check(&message).is_err());
        message.body = RaftBody::Snapshot(SnapshotMeta::blank());
        assert!(check(&message).is_err());
    }
}

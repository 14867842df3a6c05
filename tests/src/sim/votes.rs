//! Invariants of elections, read off what the members of the Raft group send:
//! 1. in a term a member votes for one candidate only, over restarts too;
//! 2. in a term one member only leads.
use dfs_core::consensus::{RaftBody, RaftMessage};
use dfs_core::types::{RaftId, Term};
use std::collections::BTreeMap;

/// Who voted for whom, and who leads.
#[derive(Debug, Default)]
pub(super) struct Votes {
    given: BTreeMap<(Term, RaftId), RaftId>,
    leads: BTreeMap<Term, RaftId>,
}

impl Votes {
    /// `from` says this.
    pub fn said(&mut self, from: RaftId, message: &RaftMessage) -> Result<(), String> {
        let term = message.term;
        let vote = match &message.body {
            RaftBody::Vote { pre: false, .. } => from,
            RaftBody::VoteReply {
                pre: false,
                granted: true,
                ..
            } => message.to,
            RaftBody::Append { .. } | RaftBody::Heartbeat { .. } | RaftBody::Snapshot(_) => {
                let first = *self.leads.entry(term).or_insert(from);
                return match first == from {
                    true => Ok(()),
                    false => Err(format!(
                        "members {} and {} both lead in term {term}",
                        first.0, from.0
                    )),
                };
            }
            _ => return Ok(()),
        };
        let first = *self.given.entry((term, from)).or_insert(vote);
        if first == vote {
            return Ok(());
        }
        let (from, first, vote) = (from.0, first.0, vote.0);
        Err(format!(
            "member {from} voted for {first} and for {vote} in term {term}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::types::LogIndex;

    fn granted(to: u64) -> RaftMessage {
        let body = RaftBody::VoteReply {
            pre: false,
            granted: true,
            commit: LogIndex(0),
            commit_term: Term(0),
        };
        RaftMessage {
            to: RaftId(to),
            term: Term(4),
            body,
        }
    }

    #[test]
    fn a_vote_may_be_repeated_and_not_given_twice() {
        let mut votes = Votes::default();
        votes.said(RaftId(1), &granted(2)).unwrap();
        votes.said(RaftId(1), &granted(2)).unwrap();
        votes.said(RaftId(3), &granted(3)).unwrap();
        assert!(votes.said(RaftId(1), &granted(3)).is_err());
    }
}

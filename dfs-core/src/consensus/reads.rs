//! Reads without log entries: rounds in which a majority confirms the leader.
//!
//! Steps (section 6.4): a round notes the commit index and asks the members with the next
//! heartbeat; when a majority has answered, every read of the round may be served from a state that
//! has applied that index. Reads that come in meanwhile share the next round. A lost heartbeat is
//! repeated with the regular ones. A leader that has committed nothing in its term waits.
//!
//! While the leader holds a lease (see `lease`) reads need no round. Leases by ticks are not used: a paused
//! leader would wake up believing in its lease.
use super::event::RaftAction;
use super::node::RaftNode;
use crate::types::{LogIndex, Time};

/// Reads that wait.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// For the next round.
    waiting: Vec<u64>,
    round: Option<Round>,
    rounds: u64,
    /// The lease is to be renewed, though nobody waits for it.
    renews: bool,
}

#[derive(Debug)]
struct Round {
    mark: Vec<u8>,
    /// `None` if members have changed since.
    began: Option<Time>,
    tokens: Vec<u64>,
}

impl RaftNode {
    pub(super) fn on_read(&mut self, token: u64, out: &mut Vec<RaftAction>) {
        if self.is_leader() {
            if self.lease.is_held(self.now) && self.has_committed_in_term() {
                let index = self.commit_index();
                out.push(RaftAction::ReadReady { token, index });
                self.reads.renews = self.lease.is_ageing(self.now, self.config.promise);
            } else {
                self.reads.waiting.push(token);
            }
        } else {
            let leader = self.leader();
            out.push(RaftAction::ReadDropped { token, leader });
        }
    }

    /// Starts a round if none is under way and reads wait.
    pub(super) fn start_reads(&mut self, out: &mut Vec<RaftAction>) {
        let is_wanted = !self.reads.waiting.is_empty() || self.reads.renews;
        if !is_wanted || self.reads.round.is_some() || !self.is_leader() {
            return;
        }
        if self.skips_quorum(out) || !self.has_committed_in_term() {
            return;
        }
        self.reads.renews = false;
        self.reads.rounds += 1;
        // Replies of an earlier term are dropped by term, so a counter is unique enough.
        let mark = self.reads.rounds.to_le_bytes().to_vec();
        self.reads.round = Some(Round {
            mark: mark.clone(),
            began: Some(self.now),
            tokens: std::mem::take(&mut self.reads.waiting),
        });
        self.raw.read_index(mark);
    }

    fn skips_quorum(&mut self, out: &mut Vec<RaftAction>) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.config.test_bug == Some(super::config::TestBug::ReadWithoutQuorum) {
            let index = self.commit_index();
            for token in std::mem::take(&mut self.reads.waiting) {
                out.push(RaftAction::ReadReady { token, index });
            }
            return true;
        }
        let _ = out;
        false
    }

    /// What is under way was begun among other members.
    pub(super) fn round_is_old(&mut self) {
        if let Some(round) = &mut self.reads.round {
            round.began = None;
        }
    }

    pub(super) fn on_read_state(&mut self, read: &raft::ReadState, out: &mut Vec<RaftAction>) {
        let is_current = |round: &mut Round| round.mark == read.request_ctx;
        if let Some(round) = self.reads.round.take_if(is_current) {
            if let Some(began) = round.began {
                self.lease.confirmed(began, self.config.promise);
            }
            let index = LogIndex(read.index);
            for token in round.tokens {
                out.push(RaftAction::ReadReady { token, index });
            }
        }
    }

    /// Ends all reads of a former leader.
    pub(super) fn drop_reads(&mut self, out: &mut Vec<RaftAction>) {
        let leader = self.leader();
        let round = self.reads.round.take().map_or(Vec::new(), |r| r.tokens);
        let waiting = std::mem::take(&mut self.reads.waiting);
        self.reads.renews = false;
        for token in round.into_iter().chain(waiting) {
            out.push(RaftAction::ReadDropped { token, leader });
        }
    }
}

//! Reads without log entries: rounds in which a majority confirms the leader.
//!
//! Steps (section 6.4): a round notes the commit index and asks the members with the next
//! heartbeat; when a majority has answered, every read of the round may be served from a state that
//! has applied that index. Reads that come in meanwhile share the next round. A lost heartbeat is
//! repeated with the regular ones. A leader that has committed nothing in its term waits.
//!
//! Leases by ticks are not used: a paused leader would wake up believing in its lease.
use super::event::RaftAction;
use super::node::RaftNode;
use crate::types::LogIndex;

/// Reads that wait.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// For the next round.
    waiting: Vec<u64>,
    round: Option<Round>,
    rounds: u64,
}

#[derive(Debug)]
struct Round {
    mark: Vec<u8>,
    tokens: Vec<u64>,
}

impl RaftNode {
    pub(super) fn on_read(&mut self, token: u64, out: &mut Vec<RaftAction>) {
        if self.is_leader() {
            self.reads.waiting.push(token);
        } else {
            let leader = self.leader();
            out.push(RaftAction::ReadDropped { token, leader });
        }
    }

    /// Starts a round if none is under way and reads wait.
    pub(super) fn start_reads(&mut self, out: &mut Vec<RaftAction>) {
        if self.reads.waiting.is_empty() || self.reads.round.is_some() {
            return;
        }
        if self.skips_quorum(out) || !self.has_committed_in_term() {
            return;
        }
        self.reads.rounds += 1;
        // Replies of an earlier term are dropped by term, so a counter is unique enough.
        let mark = self.reads.rounds.to_le_bytes().to_vec();
        self.reads.round = Some(Round {
            mark: mark.clone(),
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

    pub(super) fn on_read_state(&mut self, read: &raft::ReadState, out: &mut Vec<RaftAction>) {
        let is_current = |round: &mut Round| round.mark == read.request_ctx;
        if let Some(round) = self.reads.round.take_if(is_current) {
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
        for token in round.into_iter().chain(waiting) {
            out.push(RaftAction::ReadDropped { token, leader });
        }
    }
}

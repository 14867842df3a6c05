//! What a node says of its vote, shared between the thread of its voter and that of its store.
use crate::types::RaftId;
use crate::wire::master::Voting;
use std::sync::atomic::{AtomicU64, Ordering};

const NO: u64 = 0;
const FAILED: u64 = u64::MAX - 1;
const UNKNOWN: u64 = u64::MAX;

/// The part that a node has in the master group, as of now.
#[derive(Debug)]
pub struct VotingNow(AtomicU64);

impl Default for VotingNow {
    fn default() -> Self {
        Self(AtomicU64::new(UNKNOWN))
    }
}

impl VotingNow {
    /// As of now.
    #[must_use]
    pub fn get(&self) -> Voting {
        match self.0.load(Ordering::Acquire) {
            NO => Voting::No,
            FAILED => Voting::Failed,
            UNKNOWN => Voting::Unknown,
            id => Voting::As(RaftId(id)),
        }
    }

    /// From now on.
    pub fn set(&self, voting: Voting) {
        let number = match voting {
            Voting::Unknown => UNKNOWN,
            Voting::No => NO,
            Voting::As(id) => id.0,
            Voting::Failed => FAILED,
        };
        self.0.store(number, Ordering::Release);
    }
}

//! Where the master is, and calls to it from this node.
//!
//! A voter knows from Raft; other nodes ask. A call goes to the address known; `NotLeader` names a
//! better one; when nobody is known, all voters and members known are asked at once, and the answer
//! of the highest term counts.
//!
//! A call that fails makes the address forgotten here, but not what this node's voter knows: that is
//! told to who asks. Otherwise a leader that was slow for a moment could be forgotten by all nodes, and
//! as it goes on leading, no voter has news that would bring it back.
use bytes::Bytes;
use dfs_core::net::pool::Pool;
use dfs_core::wire::WireError;
use dfs_core::wire::node::LeaderHint;
use dfs_core::wire::rpc::CallResult;
use dfs_core::wire::{ErrorClass, ErrorCode, NodeRequest, NodeResponse, Request, Response};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One attempt of a call.
const ATTEMPT: Duration = Duration::from_millis(1000);
/// One question where the master is.
const ASK: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(50);

/// See the [module docs](self).
#[derive(Clone)]
pub struct LeaderBook {
    hint: Arc<Mutex<LeaderHint>>,
    /// What this node's voter said last.
    of_voter: Arc<Mutex<LeaderHint>>,
    pool: Pool,
}

impl LeaderBook {
    /// Knows nothing yet; asks through `pool`.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            hint: Arc::default(),
            of_voter: Arc::default(),
            pool,
        }
    }

    fn lock(&self) -> MutexGuard<'_, LeaderHint> {
        self.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_voter(&self) -> MutexGuard<'_, LeaderHint> {
        self.of_voter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known.
    #[must_use]
    pub fn hint(&self) -> LeaderHint {
        let mut hint = self.lock().clone();
        let of_voter = self.of_voter();
        if hint.leader.is_none() && of_voter.term >= hint.term {
            (hint.leader, hint.leader_node) = (of_voter.leader, of_voter.leader_node);
            hint.term = of_voter.term;
        }
        hint
    }

    /// Learns from this node's own voter.
    pub fn learn_of_voter(&self, new: LeaderHint) {
        *self.of_voter() = new.clone();
        self.learn(new);
    }

    /// This node's voter has stopped: what it said holds no longer, least of all that it leads.
    pub fn forget_voter(&self) {
        let said = std::mem::take(&mut *self.of_voter());
        if let Some(addr) = said.leader {
            self.forget(addr);
        }
        let mut hint = self.lock();
        if hint.leader.is_none() {
            // It may have been alone in its term: who leads in an older one is still welcome.
            hint.term = LeaderHint::default().term;
        }
    }

    /// Learns from somebody's answer. An older term is ignored.
    fn learn(&self, new: LeaderHint) {
        let mut hint = self.lock();
        if new.term < hint.term || (new.term == hint.term && new.leader.is_none()) {
            return;
        }
        if !new.voters.is_empty() {
            hint.voters = new.voters;
        }
        (hint.leader, hint.leader_node, hint.term) = (new.leader, new.leader_node, new.term);
    }

    /// The members that can be asked.
    pub fn set_members(&self, members: Vec<SocketAddr>) {
        self.lock().members = members;
    }

    fn forget(&self, addr: SocketAddr) {
        let mut hint = self.lock();
        if hint.leader == Some(addr) {
            (hint.leader, hint.leader_node) = (None, None);
        }
    }

    /// Asks everybody known where the master is.
    async fn discover(&self) {
        let hint = self.hint();
        let asked: BTreeSet<SocketAddr> =
            hint.voters.iter().chain(&hint.members).copied().collect();
        let mut answers = tokio::task::JoinSet::new();
        for addr in asked {
            let pool = self.pool.clone();
            answers.spawn(async move {
                let request = Request::Node(NodeRequest::WhoLeads);
                pool.call(addr, request, Vec::new(), Instant::now() + ASK)
                    .await
            });
        }
        while let Some(answer) = answers.join_next().await {
            if let Ok(Ok((Response::Node(NodeResponse::Leader(new)), _))) = answer
                && new.leader.is_some()
            {
                self.learn(new);
            }
        }
    }

    /// Calls the master, finding it if need be, until `deadline`.
    ///
    /// # Errors
    /// Its own refusal; `UnknownOutcome` if an attempt was sent and nobody answered; `Unavailable`
    /// if nobody leads.
    pub async fn call(
        &self,
        request: &Request,
        payload: &[Bytes],
        deadline: Instant,
    ) -> CallResult {
        let mut last = WireError::new(ErrorCode::Unavailable, "no master is known");
        let mut found = None;
        loop {
            let known = self.lock().leader;
            let Some(addr) = known.or(found.take()) else {
                self.discover().await;
                found = self.hint().leader;
                if found.is_none() {
                    if Instant::now() + PAUSE >= deadline {
                        return Err(last);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            };
            let attempt = deadline.min(Instant::now() + ATTEMPT);
            let answer = self
                .pool
                .call(addr, request.clone(), payload.to_vec(), attempt)
                .await;
            let Err(e) = answer else { return answer };
            match e.code.class() {
                ErrorClass::Permanent => return Err(e),
                ErrorClass::Redirect => {
                    self.forget(addr);
                    // One that names itself knows no better than this node.
                    let better = e.detail.parse().ok();
                    if let Some(better) = better.filter(|better| *better != addr) {
                        let mut hint = self.lock();
                        hint.leader.get_or_insert(better);
                    }
                }
                ErrorClass::Retry | ErrorClass::Unknown => self.forget(addr),
            }
            last = e;
            if Instant::now() + PAUSE >= deadline {
                return Err(last);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::net::pool::PoolConfig;
    use dfs_core::net::{ClusterKey, ConnOptions, Credentials};
    use dfs_core::types::Term;

    fn hint(port: u16, term: u64) -> LeaderHint {
        let leader = (port > 0).then(|| SocketAddr::from(([127, 0, 0, 1], port)));
        let term = Term(term);
        LeaderHint {
            leader,
            term,
            ..LeaderHint::default()
        }
    }

    fn book() -> LeaderBook {
        LeaderBook::new(Pool::new(
            Credentials::new(ClusterKey::from_bytes([7; 32])),
            ConnOptions::default(),
            PoolConfig::default(),
        ))
    }

    #[tokio::test]
    async fn regression_who_was_slow_is_forgotten_and_told_all_the_same_while_the_voter_knows() {
        let book = book();
        book.learn_of_voter(hint(7, 3));
        let leader = hint(7, 3).leader;
        book.forget(leader.unwrap());
        assert_eq!(book.lock().leader, None);
        assert_eq!(book.hint().leader, leader, "who asks is told");
        book.learn(hint(8, 4));
        book.forget(hint(8, 4).leader.unwrap());
        assert_eq!(book.hint().leader, None, "of an older term");
        book.learn_of_voter(hint(9, 4));
        book.learn_of_voter(hint(0, 4));
        book.forget(hint(9, 4).leader.unwrap());
        assert_eq!(book.hint().leader, None, "the voter has lost it too");
    }

    #[tokio::test]
    async fn regression_a_voter_that_led_and_stopped_is_not_named_any_more() {
        let book = book();
        book.learn_of_voter(hint(7, 3));
        book.forget_voter();
        assert_eq!(book.hint().leader, None);
        book.learn_of_voter(hint(7, 3));
        book.learn(hint(8, 4));
        book.forget_voter();
        assert_eq!(book.hint().leader, hint(8, 4).leader, "of somebody else");
    }
}

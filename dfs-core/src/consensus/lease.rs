//! Reads that a leader answers alone, because nobody else can lead yet.
//!
//! Steps:
//! 1. a member that handles an append or a heartbeat of its leader promises to help nobody else to the
//!    lead for [`RaftConfig::promise`](super::RaftConfig) from then on: it begins no election, and drops
//!    requests for votes;
//! 2. a round of reads (see `reads`) that a majority has answered began before each of these promises.
//!    So until [`LEASE_PERCENT`] of that time after its begin nobody else is elected, and what this
//!    leader has committed is all that is committed: reads of that time need no round;
//! 3. while reads come, a round is begun when half of the lease is over, and nobody waits for it.
//!
//! Invariants:
//! 1. clocks that run apart by less than a tenth do not make a lease outlast a promise;
//! 2. a member that starts with a log may have promised something before: it waits as long as any promise;
//! 3. a leader that hands the lead over asks its successor to break the promises: it uses no lease in that
//!    term any more, since that message may arrive late;
//! 4. a change of members ends the lease: the next majority may be one that has promised nothing.
//!
//! The clock is CLOCK_BOOTTIME, read before the events of a batch are handled and after they came in: a
//! process that was stopped wakes up with the lease over, and one that stops within a batch answers as of
//! the moment at which the lease was good, which lies after the question.
//!
//! Source: Gray and Cheriton, SOSP 1989; Ongaro's thesis, section 6.4.1, but for the clock.
use super::node::RaftNode;
use crate::types::{RaftId, Term, Time};
use std::time::Duration;

/// Of the promise's time. Promise and lease are measured by two clocks.
const LEASE_PERCENT: u32 = 80;

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Whom this member has promised to elect nobody else, and until when; `None` stands for somebody whom
    /// a former run has promised it.
    promised: (Option<RaftId>, Time),
    /// A former run may have promised something, and the clock has not been seen yet.
    is_bound_at_start: bool,
    /// This leader is the only one until then.
    until: Time,
    /// It asked another member to take over.
    is_barred: bool,
}

impl Lease {
    /// Of a member that starts, with the log of a former run.
    pub fn of_restart() -> Self {
        Self {
            is_bound_at_start: true,
            ..Self::default()
        }
    }

    /// The first moment of this run, whatever was promised before.
    pub fn begin(&mut self, now: Time, promise: Duration) {
        if std::mem::take(&mut self.is_bound_at_start) {
            self.promised = (None, now + promise);
        }
    }

    /// Handled a message of the leader.
    pub fn promise(&mut self, leader: RaftId, now: Time, promise: Duration) {
        self.promised = (Some(leader), now + promise);
    }

    /// This member may not help `candidate` to the lead.
    pub fn forbids(&self, candidate: RaftId, now: Time) -> bool {
        let (leader, until) = self.promised;
        now < until && leader != Some(candidate)
    }

    /// A majority has answered a round that began at `began`.
    pub fn confirmed(&mut self, began: Time, promise: Duration) {
        if !self.is_barred {
            self.until = self.until.max(began + promise * LEASE_PERCENT / 100);
        }
    }

    /// Reads may be answered.
    pub fn is_held(&self, now: Time) -> bool {
        now < self.until
    }

    /// The lease should be renewed.
    pub fn is_ageing(&self, now: Time, promise: Duration) -> bool {
        self.until.since(now) < promise * LEASE_PERCENT / 200
    }

    /// The members have changed.
    pub fn end(&mut self) {
        self.until = Time::ZERO;
    }

    /// Another member was asked to take over.
    pub fn bar(&mut self) {
        self.end();
        self.is_barred = true;
    }

    /// Another term, or another role.
    pub fn renew_term(&mut self) {
        self.end();
        self.is_barred = false;
    }
}

impl RaftNode {
    /// The members have changed: no lease that others than these have granted.
    pub(super) fn members_changed(&mut self) {
        self.lease.end();
        self.round_is_old();
    }

    /// What a former run of this member may have promised binds it from the first moment on.
    pub(super) fn begin_lease(&mut self) {
        let promise = self.config.promise;
        self.lease.begin(self.now, promise);
    }

    /// Handled a message that the leader of `term` sent.
    pub(super) fn promise_to(&mut self, leader: RaftId, term: Term) {
        let is_followed = self.leader() == Some(leader) && self.term() == term;
        if is_followed {
            self.lease.promise(leader, self.now, self.config.promise);
        }
    }

    /// Another member is asked to take over.
    pub(super) fn bar_lease(&mut self) {
        self.lease.bar();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISE: Duration = Duration::from_millis(500);
    const A: RaftId = RaftId(1);
    const B: RaftId = RaftId(2);

    fn ms(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    #[test]
    fn a_promise_outlasts_the_lease_that_is_built_on_it_on_clocks_that_run_apart() {
        let (mut leader, mut voter) = (Lease::default(), Lease::default());
        leader.confirmed(ms(1000), PROMISE);
        voter.promise(A, ms(1000), PROMISE);
        for real in 1000..1600 {
            // The leader's clock is slow, the voter's is fast.
            let (slow, fast) = (
                1000 + (real - 1000) * 95 / 100,
                1000 + (real - 1000) * 105 / 100,
            );
            assert!(
                !leader.is_held(ms(slow)) || voter.forbids(B, ms(fast)),
                "{real}"
            );
        }
        assert!(
            !voter.forbids(A, ms(1000)),
            "the leader itself may come back"
        );
        assert!(!voter.forbids(B, ms(1500)));
    }

    #[test]
    fn a_member_that_starts_anew_keeps_what_it_may_have_promised() {
        let mut voter = Lease::of_restart();
        voter.begin(ms(1000), PROMISE);
        assert!(voter.forbids(A, ms(1499)) && voter.forbids(B, ms(1499)));
        voter.begin(ms(1400), PROMISE);
        assert!(!voter.forbids(B, ms(1500)));
    }

    #[test]
    fn who_hands_the_lead_over_uses_no_lease_in_that_term() {
        let mut leader = Lease::default();
        leader.confirmed(ms(1000), PROMISE);
        assert!(leader.is_held(ms(1399)) && !leader.is_held(ms(1400)));
        assert!(leader.is_ageing(ms(1300), PROMISE) && !leader.is_ageing(ms(1100), PROMISE));
        leader.bar();
        leader.confirmed(ms(1100), PROMISE);
        assert!(!leader.is_held(ms(1100)));
        leader.renew_term();
        leader.confirmed(ms(1200), PROMISE);
        assert!(leader.is_held(ms(1200)));
        leader.end();
        assert!(!leader.is_held(ms(1200)));
    }
}

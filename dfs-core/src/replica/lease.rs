//! The serving lease: without it a store answers no stamp and acknowledges nothing.
//!
//! The master grants it in heartbeat answers; it counts from the moment the heartbeat was *sent*
//! (CLOCK_BOOTTIME, which runs through a suspend), so it always ends here before the master
//! believes it over.
//!
//! Invariant: the end never moves back.
//!
//! Source: Gray and Cheriton, *Leases* (SOSP 1989), section 3.
use crate::types::Time;
use std::time::Duration;

/// A lease on serving.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServingLease {
    until: Time,
}

impl ServingLease {
    /// The master granted `length` in the answer to a heartbeat sent at `sent_at`.
    pub fn grant(&mut self, sent_at: Time, length: Duration) {
        self.until = self.until.max(sent_at + length);
    }

    /// True while it lasts (end exclusive).
    #[must_use]
    pub fn holds(self, now: Time) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_sending_and_never_shrinks() {
        let mut lease = ServingLease::default();
        assert!(!lease.holds(Time(0)));
        lease.grant(Time(100), Duration::from_nanos(50));
        lease.grant(Time(90), Duration::from_nanos(20));
        assert!(lease.holds(Time(149)) && !lease.holds(Time(150)));
    }
}

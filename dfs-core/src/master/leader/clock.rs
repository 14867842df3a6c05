//! Log time: what the state machine takes for the present.
use crate::types::Time;
use std::time::Duration;

/// What log time may gain over the boot clock in one step.
const STEP_MAX: Duration = Duration::from_secs(1);

/// `max(last, min(wall, last + elapsed + 1 s))`: never back, and a stepped wall clock is followed
/// only slowly, so that it expires nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogClock {
    last: Time,
    last_boot: Time,
}

impl LogClock {
    /// At an election: not before what was applied. How long ago that was is not known here, so
    /// this leader's wall clock is taken as it is.
    pub fn new(applied: Time, now: Time, wall: Time) -> Self {
        Self {
            last: applied.max(wall),
            last_boot: now,
        }
    }

    /// Time of the next entry.
    pub fn stamp(&mut self, now: Time, wall: Time) -> Time {
        self.last = self.peek(now, wall);
        self.last_boot = now;
        self.last
    }

    /// What [`Self::stamp`] would say.
    pub fn peek(&self, now: Time, wall: Time) -> Time {
        let limit = self.last + now.since(self.last_boot) + STEP_MAX;
        self.last.max(wall.min(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Time {
        Time(n * 1_000_000_000)
    }

    #[test]
    fn log_time_never_runs_back_and_follows_a_step_forward_slowly() {
        let mut clock = LogClock::new(s(1000), s(10), s(1000));
        assert_eq!(clock.stamp(s(11), s(1001)), s(1001));
        assert_eq!(clock.stamp(s(12), s(500)), s(1001), "stepped back");
        assert_eq!(clock.stamp(s(12), s(9_000_000)), s(1002), "stepped forward");
        assert_eq!(clock.stamp(s(14), s(9_000_000)), s(1005));
    }

    #[test]
    fn a_new_leader_does_not_fall_behind_what_was_applied() {
        assert_eq!(
            LogClock::new(s(1000), s(1), s(900)).peek(s(2), s(901)),
            s(1000)
        );
    }
}

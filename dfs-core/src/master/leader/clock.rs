//! Log time: what the state machine takes for the present.
//!
//! Within a term it gains on the boot clock at most as much as passes there, and 1 s at a time. At
//! an election it is the new leader's wall clock, whatever that says: how long nobody led is not
//! known, and files need the right dates. So what expires is judged by what is sure: that the boot
//! clock has seen pass in this term, and a little for the time without a leader. What log time has
//! gained beyond is *unsure*; the leader notes it in the state
//! ([`Leaps`]), first of all in its term, so that it is known to the
//! leaders after it too.
use super::leading::Task;
use super::machine::Master;
use crate::master::command::Command;
use crate::master::state::Leaps;
use crate::types::Time;
use std::time::Duration;

/// What log time may gain over the boot clock in one step.
const STEP_MAX: Duration = Duration::from_secs(1);
/// How long nobody led, by the word of a wall clock: more is not believed for what expires.
const LEADERLESS_MAX: Duration = Duration::from_secs(60);

/// Log time that is gained from this on is noted.
const LEAP_NOTED: Duration = Duration::from_secs(10);

/// `max(last + elapsed / 2, min(wall, last + elapsed + min(elapsed, 1 s)))`: never back, and a wall clock
/// that was stepped forward is followed only slowly, so that it expires nothing. One that is behind is
/// waited for at half the speed: what is due must not stay for as long as a clock was ahead once.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogClock {
    last: Time,
    last_boot: Time,
    /// Log time minus boot clock where nothing was gained: its least in this term.
    floor: i128,
}

impl LogClock {
    /// At an election: not before what was applied.
    pub fn new(applied: Time, now: Time, wall: Time) -> Self {
        let last = applied.max(wall);
        // The first leader of all: there was nothing before.
        let sure = if applied == Time::ZERO {
            last
        } else {
            last.min(applied + LEADERLESS_MAX)
        };
        Self {
            last,
            last_boot: now,
            floor: offset(sure, now),
        }
    }

    /// Time of the next entry.
    pub fn stamp(&mut self, now: Time, wall: Time) -> Time {
        self.last = self.peek(now, wall);
        self.last_boot = now;
        self.floor = self.floor.min(offset(self.last, now));
        self.last
    }

    /// What [`Self::stamp`] would say.
    pub fn peek(&self, now: Time, wall: Time) -> Time {
        let elapsed = now.since(self.last_boot);
        let limit = self.last + elapsed + elapsed.min(STEP_MAX);
        (self.last + elapsed / 2).max(wall.min(limit))
    }

    /// What log time has gained that is not noted yet.
    pub fn unsure(&self, now: Time, wall: Time) -> Duration {
        let gained = offset(self.peek(now, wall), now) - self.floor;
        Duration::from_nanos(u64::try_from(gained.max(0)).unwrap_or(u64::MAX))
    }

    /// An entry was applied: what a former leader left may be later than what was known at the election.
    pub fn raise(&mut self, applied: Time) {
        self.last = self.last.max(applied);
    }

    /// This much of it is noted.
    pub fn noted(&mut self, gap: Duration) {
        self.floor += i128::try_from(gap.as_nanos()).unwrap_or(i128::MAX);
    }

    /// How long ago `at` (log time) surely was.
    pub fn since(&self, at: Time, (now, wall): (Time, Time), leaps: &Leaps) -> Duration {
        let looks = self.peek(now, wall).since(at);
        looks.saturating_sub(self.unsure(now, wall).saturating_add(leaps.after(at)))
    }

    /// What happened before this log time is surely `keep` ago.
    pub fn expires_before(&self, (now, wall): (Time, Time), keep: Duration, leaps: &Leaps) -> Time {
        let keep = keep.saturating_add(self.unsure(now, wall));
        leaps.before(self.peek(now, wall), keep)
    }
}

fn offset(log: Time, boot: Time) -> i128 {
    i128::from(log.0) - i128::from(boot.0)
}

impl Master {
    /// How long ago this log time surely was.
    pub(super) fn surely_since(&self, at: Time) -> Duration {
        let clock = self.leading.as_ref().map(|l| &l.clock);
        clock.map_or(Duration::ZERO, |c| {
            c.since(at, (self.now, self.wall), self.state.leaps())
        })
    }

    /// Notes what log time has gained.
    pub(super) fn note_leap(&mut self) {
        let (now, wall) = (self.now, self.wall);
        let gap = self.leading.as_ref().map(|l| l.clock.unsure(now, wall));
        if let Some(gap) = gap.filter(|gap| *gap >= LEAP_NOTED) {
            tracing::info!(
                ms = gap.as_millis(),
                "log time has leapt ahead of what surely passed"
            );
            self.propose_task(Task::Leap, Command::ClockLeapt { gap });
        }
    }

    /// What happened before this log time is surely `keep` ago.
    pub(super) fn expires_before(&self, keep: Duration) -> Time {
        let clock = self.leading.as_ref().map(|l| &l.clock);
        clock.map_or(Time::ZERO, |c| {
            c.expires_before((self.now, self.wall), keep, self.state.leaps())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;

    const fn s(n: u64) -> Time {
        Time(n * 1_000_000_000)
    }

    #[test]
    fn log_time_never_runs_back_and_follows_a_step_forward_slowly() {
        let mut clock = LogClock::new(s(1000), s(10), s(1000));
        assert_eq!(clock.stamp(s(11), s(1001)), s(1001));
        assert_eq!(clock.stamp(s(14), s(500)), s(1002) + s(1).since(s(0)) / 2);
        assert_eq!(clock.stamp(s(15), s(600)), s(1003), "stepped back");
        assert_eq!(clock.stamp(s(16), s(9_000_000)), s(1005), "stepped forward");
        assert_eq!(clock.stamp(s(18), s(9_000_000)), s(1008));
    }

    #[test]
    fn a_new_leader_does_not_fall_behind_what_was_applied() {
        assert_eq!(
            LogClock::new(s(1000), s(1), s(900)).peek(s(1), s(901)),
            s(1000)
        );
    }

    #[test]
    fn regression_entries_of_a_former_leader_that_are_applied_late_raise_the_clock() {
        let mut clock = LogClock::new(s(1000), s(10), s(900));
        clock.raise(s(1005));
        clock.raise(s(1002));
        assert_eq!(clock.stamp(s(11), s(901)), s(1005) + s(1).since(s(0)) / 2);
    }

    #[test]
    fn regression_many_entries_at_once_do_not_make_time_pass() {
        let mut clock = LogClock::new(s(1000), s(10), s(1000));
        for _ in 0..10_000 {
            clock.stamp(s(11), s(9_000_000));
        }
        assert_eq!(clock.peek(s(11), s(9_000_000)), s(1002));
    }

    #[test]
    fn regression_the_wall_clock_of_a_new_leader_expires_nothing() {
        let day = Duration::from_secs(86_400);
        let year = s(86_400 * 365);
        let mut clock = LogClock::new(s(1_000_000), s(10), year);
        assert_eq!(clock.peek(s(10), year), year, "files get the right dates");
        let (mut leaps, mut kv) = (Leaps::default(), MemKv::default());
        let at = |n: u64| (s(10 + n), year + Duration::from_secs(n));
        let sure = s(1_000_000 + 60 + 10) - day;
        assert_eq!(clock.expires_before(at(10), day, &leaps), sure);
        // The same when it is noted.
        let gap = clock.unsure(s(10), year);
        leaps.add(&mut kv, clock.stamp(s(10), year), gap);
        clock.noted(gap);
        assert_eq!(clock.expires_before(at(10), day, &leaps), sure);
        assert_eq!(
            clock.since(s(1_000_000), at(10), &leaps),
            sure.since(s(0)) + day - s(1_000_000).since(s(0))
        );
        // A day later all that was before the election is a day old, and what came since is not.
        let before = clock.expires_before(at(86_405), day, &leaps);
        assert_eq!(before, year + Duration::from_secs(5));
    }

    #[test]
    fn regression_a_second_election_after_a_wrong_clock_expires_nothing_either() {
        let day = Duration::from_secs(86_400);
        let (t0, ahead) = (s(10 * 86_400), s(12 * 86_400));
        let (mut leaps, mut kv) = (Leaps::default(), MemKv::default());
        let mut first = LogClock::new(t0, s(10), ahead);
        let gap = first.unsure(s(10), ahead);
        leaps.add(&mut kv, first.stamp(s(10), ahead), gap);
        first.noted(gap);
        let applied = first.stamp(s(20), ahead + Duration::from_secs(10));
        let wall = t0 + Duration::from_secs(30);
        for wall in [wall, wall - day, ahead + day] {
            let second = LogClock::new(applied, s(5), wall);
            let before =
                second.expires_before((s(15), wall + Duration::from_secs(10)), day, &leaps);
            assert!(before < t0 - day / 2, "what is of today stays");
            assert!(
                before >= t0 - day - Duration::from_secs(60),
                "and no longer"
            );
        }
    }

    #[test]
    fn a_clock_that_runs_too_fast_in_a_term_makes_nothing_older() {
        let mut clock = LogClock::new(s(1_000_000), s(0), s(1_000_000));
        let leaps = Leaps::default();
        let keep = Duration::from_secs(600);
        // It was stepped forward by a day: log time goes at twice the speed.
        for n in 1..=500 {
            clock.stamp(s(n), s(1_086_400 + n));
            let now = (s(n), s(1_086_400 + n));
            assert!(clock.expires_before(now, keep, &leaps) < s(1_000_000));
        }
        assert_eq!(clock.unsure(s(500), s(1_086_900)), Duration::from_secs(500));
    }

    #[test]
    fn regression_leaps_without_bounds_overflow_nothing() {
        let mut clock = LogClock::new(s(1_000_000), s(10), s(1_000_000));
        clock.raise(Time(u64::MAX));
        let (mut leaps, mut kv) = (Leaps::default(), MemKv::default());
        (0..2).for_each(|_| leaps.add(&mut kv, s(2_000_000), Duration::MAX));
        let now = (s(20), s(1_000_010));
        assert_eq!(clock.since(s(1), now, &leaps), Duration::ZERO);
        assert_eq!(clock.expires_before(now, Duration::MAX, &leaps), Time(0));
    }
}

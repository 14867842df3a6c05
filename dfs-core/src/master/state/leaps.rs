//! Leaps of log time: how much of it is only the word of a wall clock.
//!
//! A new leader takes log time from its wall clock, for files need the right dates. What of that
//! surely passed is not known, and a clock may be a day ahead. So the leader notes what log time has
//! gained, and no later leader calls anything older than it surely is.
use super::{StateError, keys};
use crate::store::{Kv, KvRead};
use crate::types::Time;
use std::time::Duration;

/// Leaps kept; older ones count together with the one after them.
const LEAPS_MAX: usize = 64;

/// When each leap was noted (log time) and how large it was, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaps(Vec<(Time, Duration)>);

impl Leaps {
    /// Loads the table.
    ///
    /// # Errors
    /// A damaged table.
    pub fn load(kv: &impl KvRead) -> Result<Self, StateError> {
        Ok(Self(
            keys::get(kv, "leaps", keys::LEAPS)?.unwrap_or_default(),
        ))
    }

    /// Notes one.
    pub fn add(&mut self, kv: &mut impl Kv, at: Time, gap: Duration) {
        self.0.push((at, gap));
        if self.0.len() > LEAPS_MAX {
            let (_, oldest) = self.0.remove(0);
            self.0[0].1 = self.0[0].1.saturating_add(oldest);
        }
        keys::put(kv, keys::LEAPS.to_vec(), &self.0);
    }

    /// What log time gained after `at`.
    #[must_use]
    pub fn after(&self, at: Time) -> Duration {
        let later = self.0.iter().filter(|(leapt, _)| *leapt > at);
        later.fold(Duration::ZERO, |sum, (_, gap)| sum.saturating_add(*gap))
    }

    /// What happened before the answer is surely `keep` older than `now`, if all that was gained is
    /// noted here. Log time gains at most as much as passes, or all at once: between a leap and what
    /// it gained, there is nothing that is younger than the leap.
    #[must_use]
    pub fn before(&self, now: Time, keep: Duration) -> Time {
        let mut before = now - keep;
        for (at, gap) in self.0.iter().rev() {
            if before >= *at {
                break;
            }
            before = before - *gap;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;

    const fn s(n: u64) -> Time {
        Time(n * 1_000_000_000)
    }

    const fn d(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_was_before_a_leap_is_so_much_younger() {
        let (mut leaps, mut kv) = (Leaps::default(), MemKv::default());
        assert_eq!(leaps.before(s(10_000), d(100)), s(9_900));
        leaps.add(&mut kv, s(9_950), d(5_000));
        assert_eq!(leaps.before(s(10_000), d(100)), s(4_900));
        assert_eq!(leaps.before(s(10_050), d(100)), s(9_950), "all is old now");
        assert_eq!(
            (leaps.after(s(9_000)), leaps.after(s(9_960))),
            (d(5_000), d(0))
        );
        assert_eq!(Leaps::load(&kv).unwrap(), leaps);
    }

    #[test]
    fn forgotten_leaps_count_with_later_ones() {
        let (mut leaps, mut kv) = (Leaps::default(), MemKv::default());
        (0..200).for_each(|i| leaps.add(&mut kv, s(1_000 + i), d(1)));
        assert_eq!(leaps.after(s(0)), d(200));
    }
}

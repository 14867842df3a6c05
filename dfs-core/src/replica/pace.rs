//! How fast objects are copied: no faster than the master says, and those that fill a group make way for
//! programs.
//!
//! While clients ask this store for something and repair is not boosted, one is copied at a time, or a few
//! that are small, and each is followed by a rest of [`REST`] times as long as it took, from the asking
//! until it was durable.
//! What it took says how busy processors, disks and network are,
//! whoever uses them: the busier, the longer the rest. Without clients copies go as fast as they can.
//!
//! Nothing rests while a group that is copied here has at most one other complete copy, by the map, or
//! alive, as the master says; what [does not fill groups](super::wants) never does, nor is it waited for:
//! what notes name while programs write may always be under way.
use crate::types::Time;
use std::time::Duration;

/// Rests are this many times as long as the copy took: a quarter of the time is for repair.
const REST: u32 = 3;
/// No rest is longer: one slow answer says little.
const REST_MAX: Duration = Duration::from_millis(500);
/// Clients that asked for nothing for so long do not count.
const CLIENTS_GONE: Duration = Duration::from_secs(1);

/// A burst the rate limit allows, in bytes: one object of the largest size.
const BURST: u64 = 4 << 20;

/// Bytes per second, with a debt: a fetch may start while anything is left.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub rate: u64,
    left: i64,
    filled_at: Time,
}

impl Bucket {
    pub fn refill(&mut self, now: Time) {
        let nanos = u64::try_from(now.since(self.filled_at).as_nanos()).unwrap_or(u64::MAX);
        let gain = u128::from(nanos) * u128::from(self.rate) / 1_000_000_000;
        let gain = i64::try_from(gain).unwrap_or(i64::MAX);
        if gain > 0 {
            self.left = self.left.saturating_add(gain).min(BURST as i64);
            self.filled_at = now;
        }
    }

    pub fn is_open(&self) -> bool {
        self.rate == 0 || self.left > 0
    }

    pub fn take(&mut self, bytes: u32) {
        if self.rate > 0 {
            self.left = self.left.saturating_sub(i64::from(bytes));
        }
    }
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// A client asked for something last.
    asked_at: Option<Time>,
    /// The end of the rest.
    rests_until: Option<Time>,
}

impl Pace {
    /// A client asks for something.
    pub fn client_asks(&mut self, now: Time) {
        self.asked_at = Some(now);
    }

    /// True while copies make way.
    pub fn has_clients(&self, now: Time) -> bool {
        self.asked_at.is_some_and(|at| now.since(at) < CLIENTS_GONE)
    }

    /// A copy that was asked for at `asked` is durable.
    pub fn copied(&mut self, asked: Time, now: Time) {
        let end = now + (now.since(asked) * REST).min(REST_MAX);
        self.rests_until = self.rests_until.max(Some(end));
    }

    /// When the rest is over, if it is not; there is none without clients.
    pub fn rests_until(&self, now: Time) -> Option<Time> {
        let end = self.rests_until.filter(|end| *end > now);
        end.filter(|_| self.has_clients(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_copy_rests_in_proportion_while_there_are_clients() {
        let (mut pace, asked) = (Pace::default(), Time(0));
        let at = |ms: u32| asked + ms * MS;
        pace.copied(asked, at(10));
        assert_eq!(pace.rests_until(at(10)), None, "nobody asks");
        pace.client_asks(asked);
        assert_eq!(pace.rests_until(at(10)), Some(at(40)));
        assert_eq!(pace.rests_until(at(40)), None);
        pace.copied(asked, at(900));
        assert_eq!(pace.rests_until(at(900)), Some(at(1400)), "no longer");
        assert_eq!(pace.rests_until(at(1000)), None, "they are gone");
    }
}

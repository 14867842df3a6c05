//! How long the kernel may answer from what it was told, without asking this mount.
//!
//! Nothing calls back what the kernel keeps of names without taking locks that a program may hold while
//! it waits for this mount, and so perhaps for another one. So the kernel gets lifetimes only while no
//! other session exists, and short ones. Steps:
//! 1. the answer to a keep-alive says that this session is the only one ([`Lending::begin`]);
//! 2. each answer to the kernel takes a lifetime ([`Lending::lend`]), and it is noted how long that lasts;
//! 3. another session begins, or somebody looks who has none: the master invalidates
//!    [`Ino::SOLE`](crate::types::Ino::SOLE), and both wait for the acknowledgement, which is sent when
//!    everything lent has run out ([`Lending::end`]) and what was queued meanwhile is decided.
//!
//! Invariants:
//! 1. nothing is lent beyond the window in which caches may be used: who does not acknowledge has lapsed
//!    by then, and so has what it lent;
//! 2. once `end` has returned, nothing is lent until the next `begin`.
//!
//! The programs of one mount see what the kernel knows, and it follows their own changes.
use crate::types::{LogIndex, Time};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest lifetime.
const LEND_MAX: Duration = Duration::from_millis(500);
/// From an answer to the moment at which the program that asked counts its lifetime from.
const SLACK: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct State {
    is_sole: bool,
    /// As of this place in the log.
    as_of: LogIndex,
    /// What was lent may be in use until then.
    until: Time,
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Lending(Mutex<State>);

impl Lending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No other session exists, if `is_current` still says so: it is asked when an [`end`](Self::end) can
    /// only come after it.
    pub(super) fn begin(&self, as_of: LogIndex, is_current: impl FnOnce() -> bool) {
        let mut state = self.state();
        state.is_sole = is_current();
        if state.is_sole {
            state.as_of = as_of;
        }
    }

    /// The place in the log as of which no other session existed.
    pub(super) fn since(&self) -> LogIndex {
        self.state().as_of
    }

    /// The lifetime of an answer given at `now`, while caches may be used for `window`.
    pub(super) fn lend(&self, now: Time, window: Duration) -> Duration {
        let mut state = self.state();
        // Whoever asked may count it from a later moment.
        let lifetime = LEND_MAX.min(window.saturating_sub(SLACK));
        if !state.is_sole || lifetime.is_zero() {
            return Duration::ZERO;
        }
        state.until = state.until.max(now + lifetime + SLACK);
        lifetime
    }

    /// Answers get a lifetime now.
    pub(super) fn is_on(&self) -> bool {
        self.state().is_sole
    }

    /// Something lent before may still be in use.
    pub(super) fn has_lent(&self, now: Time) -> bool {
        now < self.state().until
    }

    /// Nothing is lent any more; gives the moment at which the last loan has run out.
    pub(super) fn end(&self) -> Time {
        let mut state = self.state();
        state.is_sole = false;
        state.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sole_session_lends_and_no_longer_than_its_caches_are_valid() {
        let lending = Lending::default();
        let (now, second) = (Time(5_000_000_000), Duration::from_secs(1));
        assert_eq!(lending.lend(now, second), Duration::ZERO);
        lending.begin(LogIndex(1), || true);
        assert_eq!(lending.lend(now, second), LEND_MAX);
        assert_eq!(lending.lend(now, SLACK + LEND_MAX / 2), LEND_MAX / 2);
        assert_eq!(lending.lend(now, SLACK), Duration::ZERO);
        assert_eq!(lending.lend(now, Duration::ZERO), Duration::ZERO);
        assert_eq!(lending.end(), now + LEND_MAX + SLACK);
        assert_eq!(lending.lend(now + second, second), Duration::ZERO);
        assert_eq!(lending.end(), now + LEND_MAX + SLACK);
        lending.begin(LogIndex(1), || false);
        assert_eq!(lending.lend(now, second), Duration::ZERO);
    }
}

//! The clocks of the drivers.
//!
//! [`boottime`] orders events, timers and leases: it never jumps, and counts suspended time.
//! [`unix_ms`] is for display and for incarnations: an operator may set it back.
use crate::types::Time;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicI64, Ordering};

/// By how much tests set the wall clock of this process wrong, in nanoseconds.
static TEST_OFFSET: AtomicI64 = AtomicI64::new(0);

fn read(clock: ClockId) -> Time {
    let t = clock_gettime(clock);
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Time(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// CLOCK_BOOTTIME.
#[must_use]
pub fn boottime() -> Time {
    read(ClockId::Boottime)
}

/// CLOCK_REALTIME: nanoseconds since the Unix epoch, 0 before it; an operator may set it back.
#[must_use]
pub fn realtime() -> Time {
    let offset = TEST_OFFSET.load(Ordering::Relaxed);
    Time(read(ClockId::Realtime).0.saturating_add_signed(offset))
}

/// For tests only: sets this process's wall clock wrong by so much, as an operator might set the
/// machine's. [`boottime`] goes on as it was.
pub fn set_test_offset_ms(ms: i64) {
    TEST_OFFSET.store(ms.saturating_mul(1_000_000), Ordering::Relaxed);
}

/// Milliseconds since the Unix epoch; 0 before it.
#[must_use]
pub fn unix_ms() -> u64 {
    realtime().0 / 1_000_000
}

/// When a [`boottime`] was, in milliseconds since the Unix epoch by the clock as it is set now.
#[must_use]
pub fn unix_ms_of(at: Time) -> u64 {
    let ago = boottime().since(at).as_millis();
    unix_ms().saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn boottime_does_not_run_back_and_converts_to_wall_time() {
        let a = boottime();
        let b = boottime();
        assert!(a <= b);
        let early = unix_ms_of(a - Duration::from_secs(10));
        assert!(unix_ms() - early >= 9_999);
    }
}

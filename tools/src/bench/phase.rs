//! One phase: the same operation again and again, up to a count or a time.
use super::stop::Stop;
use std::time::{Duration, Instant};

/// How far a phase goes: to the count or the time, whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Operations.
    pub count: u64,
    /// Begun within this time; what is flushed at the end comes on top.
    pub time: Duration,
}

/// What a phase did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Operations.
    pub ops: u64,
    /// All of it, with what was flushed at the end.
    pub time: Duration,
}

impl Done {
    /// Operations per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.of(self.ops as f64)
    }

    /// Megabytes (10^6) per second, of operations of `len_bytes` each.
    #[must_use]
    pub fn mb_rate(&self, len_bytes: u64) -> f64 {
        self.of((self.ops * len_bytes) as f64 / 1e6)
    }

    fn of(&self, amount: f64) -> f64 {
        // A clock that did not move makes no infinite rate.
        amount / self.time.as_secs_f64().max(1e-9)
    }
}

/// Does `op` with 0, 1, ... and at the end, still timed, `last`.
///
/// # Errors
/// What `op` or `last` says; `Interrupted` when asked to stop.
pub fn repeat(
    limit: Limit,
    stop: &Stop,
    mut op: impl FnMut(u64) -> anyhow::Result<()>,
    last: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Done> {
    let began = Instant::now();
    let mut ops = 0;
    while ops < limit.count {
        stop.check()?;
        op(ops)?;
        ops += 1;
        if began.elapsed() >= limit.time {
            break;
        }
    }
    last()?;
    let time = began.elapsed();
    Ok(Done { ops, time })
}

/// Nothing at the end of a phase.
///
/// # Errors
/// Never.
pub fn nothing() -> anyhow::Result<()> {
    Ok(())
}

/// How long single operations took.
#[derive(Debug, Default)]
pub struct Latencies {
    all: Vec<Duration>,
    is_sorted: bool,
}

impl Latencies {
    /// Does and times one.
    ///
    /// # Errors
    /// What `op` says; it does not count then.
    pub fn time(&mut self, op: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let began = Instant::now();
        op()?;
        self.add(began.elapsed());
        Ok(())
    }

    fn add(&mut self, took: Duration) {
        self.all.push(took);
        self.is_sorted = false;
    }

    /// Microseconds that `percent` of all took at most; 100 is the longest. 0 if there are none.
    pub fn percentile_us(&mut self, percent: usize) -> f64 {
        if !self.is_sorted {
            self.all.sort_unstable();
            self.is_sorted = true;
        }
        let at = self.all.len() * percent / 100;
        let last = self.all.len().saturating_sub(1);
        let found = self.all.get(at.min(last));
        found.map_or(0.0, |d| d.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ToolError;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_phase_ends_at_its_count_or_its_time_and_does_one_at_least() {
        let stop = Stop::default();
        let run = |count, time| {
            let mut seen = Vec::new();
            let op = |i| {
                seen.push(i);
                Ok(())
            };
            let done = repeat(Limit { count, time }, &stop, op, nothing).unwrap();
            (done.ops, seen)
        };
        assert_eq!(run(3, LONG), (3, vec![0, 1, 2]));
        assert_eq!(run(3, Duration::ZERO), (1, vec![0]));
    }

    #[test]
    fn a_phase_that_is_asked_to_stop_does_no_more() {
        let stop = Stop::default();
        let (count, time) = (10, LONG);
        let mut ops = 0;
        let op = |_| {
            ops += 1;
            stop.ask();
            Ok(())
        };
        let error = repeat(Limit { count, time }, &stop, op, nothing).unwrap_err();
        assert!(matches!(
            error.downcast_ref::<ToolError>(),
            Some(ToolError::Interrupted)
        ));
        assert_eq!(ops, 1);
    }

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_us(50), 0.0);
        for us in (0..200).rev() {
            latencies.add(Duration::from_micros(us));
        }
        let [p50, p99, max] = [50, 99, 100].map(|p| latencies.percentile_us(p).round());
        assert_eq!([p50, p99, max], [100.0, 198.0, 199.0]);
        latencies.add(Duration::from_micros(500));
        assert_eq!(latencies.percentile_us(100).round(), 500.0);
    }

    #[test]
    fn rates_are_per_second() {
        let time = Duration::from_millis(500);
        let done = Done { ops: 10, time };
        assert_eq!(done.rate(), 20.0);
        assert_eq!(done.mb_rate(1_000_000), 20.0);
    }
}

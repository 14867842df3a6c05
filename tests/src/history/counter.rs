//! A counter that a lock protects: whoever holds the lock reads it and writes one more.
//!
//! 1. As one operation: `n` becomes `n + 1`, and each `n` is met once.
//! 2. By the clock: a holder certainly held the lock from the return of its acquisition to the call of a
//!    write that was acknowledged (the write of one that has lost its lock is refused). These times of two
//!    holders never overlap.
use super::record::{Outcome, Record};
use super::search::{Call, Model};
use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterOp {
    /// The holder read `from` and wrote one more.
    Increment {
        /// What it read.
        from: u64,
        /// Time after the lock was got.
        held_since: u64,
        /// Time before the write.
        held_until: u64,
    },
    /// What it is, read without the lock when all is over.
    Read,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterAnswer {
    /// The write was synced under the lock.
    Done,
    /// It is this.
    Is(u64),
}

/// A record of a counter.
pub type CounterRecord = Record<CounterOp, CounterAnswer>;

/// The sequential counter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counter;

impl Model for Counter {
    type Op = CounterOp;
    type Answer = CounterAnswer;
    type State = u64;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, op: &CounterOp, answer: Option<&CounterAnswer>) -> Option<u64> {
        match (op, answer) {
            (CounterOp::Increment { from, .. }, _) => (from == state).then_some(state + 1),
            (CounterOp::Read, Some(CounterAnswer::Is(value))) => (value == state).then_some(*state),
            (CounterOp::Read, _) => Some(*state),
        }
    }
}

/// The operations on one counter, for a search.
pub fn calls(records: &[CounterRecord]) -> Vec<Call<CounterOp, CounterAnswer>> {
    let call = |record: &CounterRecord| {
        let is_lost = record.outcome == Outcome::Fail
            || (record.op == CounterOp::Read && record.answer().is_none());
        (!is_lost).then(|| Call {
            op: record.op,
            call: record.call,
            ret: record.done(),
            answer: record.answer().copied(),
        })
    };
    records.iter().filter_map(call).collect()
}

/// Rule 2.
///
/// # Errors
/// Two held the lock at once.
pub fn check_holders(records: &[CounterRecord]) -> Result<(), String> {
    let mut held: Vec<(u64, u64, u32)> = Vec::new();
    for record in records {
        if let CounterOp::Increment {
            held_since,
            held_until,
            ..
        } = record.op
            && record.answer().is_some()
        {
            held.push((held_since, held_until, record.who.client));
        }
    }
    held.sort_unstable();
    let overlap = held.windows(2).find(|p| p[1].0 < p[0].1);
    overlap.map_or(Ok(()), |p| {
        let ms = p[1].0 as f64 / 1e6;
        Err(format!(
            "clients {} and {} both held the lock at {ms:.3} ms",
            p[0].2, p[1].2
        ))
    })
}

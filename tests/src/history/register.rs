//! Registers: a key holds one value, and every write has a value of its own.
//!
//! What makes their search short, without changing a verdict, as no value is written twice:
//! 1. a write of unknown outcome whose value nobody read is left out: nothing shows that it happened;
//! 2. one whose value was read has happened by the end of the first such read: it ends there.
use super::record::{Outcome, Record};
use super::search::{Call, Model};
use super::witness::{Kind, Stamped};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is read where nothing was written.
pub const NOTHING: u64 = 0;

/// What was asked of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterOp {
    /// Of a value that nobody else writes, not [`NOTHING`].
    Write(u64),
    /// Of what is there.
    Read,
}

/// What it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterAnswer {
    /// The write is done, and made this version if that is known.
    Wrote {
        /// Versions count up with every write.
        version: Option<u64>,
    },
    /// This is there.
    Saw {
        /// Value.
        value: u64,
        /// Its version, if that is known.
        version: Option<u64>,
    },
}

/// A record of a register.
pub type RegisterRecord = Record<RegisterOp, RegisterAnswer>;

/// The sequential register. Its versions are not believed.
///
/// Told how often each value is read, it refuses a write over a value that is still to be read: as no
/// value is written twice, it would not come back.
#[derive(Debug, Clone, Default)]
pub struct Register {
    reads: BTreeMap<u64, usize>,
}

impl Register {
    /// For these operations.
    pub fn of(calls: &[Call<RegisterOp, RegisterAnswer>]) -> Self {
        let mut reads: BTreeMap<u64, usize> = BTreeMap::new();
        for call in calls {
            if let Some(RegisterAnswer::Saw { value, .. }) = call.answer {
                *reads.entry(value).or_default() += 1;
            }
        }
        Self { reads }
    }

    /// A value, and how often it is still to be read.
    fn holding(&self, value: u64) -> (u64, usize) {
        (value, self.reads.get(&value).copied().unwrap_or(0))
    }
}

impl Model for Register {
    type Op = RegisterOp;
    type Answer = RegisterAnswer;
    type State = (u64, usize);

    fn initial(&self) -> (u64, usize) {
        self.holding(NOTHING)
    }

    fn step(
        &self,
        &(held, left): &(u64, usize),
        op: &RegisterOp,
        answer: Option<&RegisterAnswer>,
    ) -> Option<(u64, usize)> {
        match (op, answer) {
            (RegisterOp::Write(value), _) => (left == 0).then(|| self.holding(*value)),
            (RegisterOp::Read, Some(RegisterAnswer::Saw { value, .. })) => {
                (*value == held).then(|| (held, left.saturating_sub(1)))
            }
            (RegisterOp::Read, _) => Some((held, left)),
        }
    }

    fn is_harmless(&self, _: &(u64, usize), op: &RegisterOp, _: &(u64, usize)) -> bool {
        *op == RegisterOp::Read
    }
}

/// The value that a record read.
pub fn seen(record: &RegisterRecord) -> Option<u64> {
    match (record.op, record.answer()) {
        (RegisterOp::Read, Some(RegisterAnswer::Saw { value, .. })) => Some(*value),
        _ => None,
    }
}

/// The writes by value.
///
/// # Errors
/// One value was written twice: the history is none that can be judged.
pub fn writes(records: &[RegisterRecord]) -> Result<BTreeMap<u64, &RegisterRecord>, String> {
    let mut writes = BTreeMap::new();
    for record in records {
        let RegisterOp::Write(value) = record.op else {
            continue;
        };
        if value == NOTHING || writes.insert(value, record).is_some() {
            return Err(format!("value {value} was written twice, by the test"));
        }
    }
    Ok(writes)
}

/// When each value was read for the first time.
fn first_reads(records: &[RegisterRecord]) -> Result<BTreeMap<u64, u64>, String> {
    let writes = writes(records)?;
    let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records {
        let (Some(value), Some(ret)) = (seen(record), record.ret) else {
            continue;
        };
        if value == NOTHING {
            continue;
        }
        let Some(write) = writes.get(&value) else {
            return Err(format!("value {value} was read, but never written"));
        };
        if write.outcome == Outcome::Fail {
            return Err(format!(
                "the write of {value} failed for certain, but it was read"
            ));
        }
        if write.call > ret {
            return Err(format!("value {value} was read before it was written"));
        }
        let first = first_read.entry(value).or_insert(ret);
        *first = ret.min(*first);
    }
    Ok(first_read)
}

/// The operations on one key, for a search.
///
/// # Errors
/// A value was read that nobody had begun to write, or whose write was reported as not done.
pub fn calls(records: &[RegisterRecord]) -> Result<Vec<Call<RegisterOp, RegisterAnswer>>, String> {
    let first_read = first_reads(records)?;
    let call = |record: &RegisterRecord| {
        let ret = match (record.op, &record.outcome) {
            (_, Outcome::Ok(_)) => record.ret,
            (RegisterOp::Write(value), Outcome::Unknown) => first_read.get(&value).copied(),
            _ => None,
        };
        Some(Call {
            op: record.op,
            call: record.call,
            ret: Some(ret?),
            answer: record.answer().copied(),
        })
    };
    Ok(records.iter().filter_map(call).collect())
}

/// The operations whose version is known, and how many writes may have made a version that is not.
///
/// # Errors
/// As [`calls`]; or a read shows another version than the write of its value made, or two reads show
/// different ones.
pub fn stamped(records: &[RegisterRecord], base: u64) -> Result<(Vec<Stamped>, usize), String> {
    first_reads(records)?;
    let mut versions: BTreeMap<u64, u64> = BTreeMap::from([(NOTHING, base)]);
    for record in records {
        let (value, version) = match (record.op, record.answer()) {
            (RegisterOp::Write(value), Some(RegisterAnswer::Wrote { version })) => {
                (value, *version)
            }
            (_, Some(RegisterAnswer::Saw { value, version })) => (*value, *version),
            _ => continue,
        };
        let Some(version) = version else { continue };
        let known = *versions.entry(value).or_insert(version);
        if known != version {
            return Err(format!("value {value} has versions {known} and {version}"));
        }
    }
    let (mut stamped, mut unplaced) = (Vec::new(), 0);
    for record in records {
        let (value, kind) = match (record.op, &record.outcome) {
            (_, Outcome::Fail) => continue,
            (RegisterOp::Write(value), _) => (value, Kind::Write),
            (RegisterOp::Read, _) => match seen(record) {
                Some(value) => (value, Kind::Read),
                None => continue,
            },
        };
        match versions.get(&value) {
            Some(version) => stamped.push(Stamped {
                version: *version,
                kind,
                call: record.call,
                ret: record.done(),
            }),
            None if kind == Kind::Write => unplaced += 1,
            None => {}
        }
    }
    Ok((stamped, unplaced))
}

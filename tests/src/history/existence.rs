//! Names that are created exclusively and unlinked: a key is there or not.
use super::record::{Outcome, Record};
use super::search::{Call, Model};
use serde::{Deserialize, Serialize};

/// What was asked of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameOp {
    /// `O_CREAT | O_EXCL`.
    Create,
    /// `unlink`.
    Unlink,
    /// `stat`.
    Look,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameAnswer {
    /// Created, or unlinked.
    Done,
    /// It is there.
    There,
    /// It is not there.
    Missing,
}

/// A record of a name.
pub type NameRecord = Record<NameOp, NameAnswer>;

/// The sequential name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Name;

impl Model for Name {
    type Op = NameOp;
    type Answer = NameAnswer;
    type State = bool;

    fn initial(&self) -> bool {
        false
    }

    fn step(&self, state: &bool, op: &NameOp, answer: Option<&NameAnswer>) -> Option<bool> {
        let (should, next) = match (op, *state) {
            (NameOp::Create, false) => (NameAnswer::Done, true),
            (NameOp::Unlink, true) => (NameAnswer::Done, false),
            (_, true) => (NameAnswer::There, true),
            (_, false) => (NameAnswer::Missing, false),
        };
        answer.is_none_or(|is| *is == should).then_some(next)
    }
}

/// The operations on one name, for a search.
pub fn calls(records: &[NameRecord]) -> Vec<Call<NameOp, NameAnswer>> {
    let call = |record: &NameRecord| {
        let is_lost = record.outcome == Outcome::Fail
            || (record.op == NameOp::Look && record.outcome == Outcome::Unknown);
        (!is_lost).then(|| Call {
            op: record.op,
            call: record.call,
            ret: record.done(),
            answer: record.answer().copied(),
        })
    };
    records.iter().filter_map(call).collect()
}

/// A quick check without a search: of a name that was never unlinked, one create is acknowledged at
/// most, and whatever began after it had returned sees it there.
///
/// # Errors
/// Two winners, or a name that was gone again.
pub fn check_once(records: &[NameRecord]) -> Result<(), String> {
    let unlinks = |r: &&NameRecord| r.op == NameOp::Unlink && r.outcome != Outcome::Fail;
    if records.iter().any(|r| unlinks(&r)) {
        return Ok(());
    }
    let is_win = |r: &&NameRecord| r.op == NameOp::Create && r.answer() == Some(&NameAnswer::Done);
    let winners: Vec<&NameRecord> = records.iter().filter(is_win).collect();
    if winners.len() > 1 {
        return Err(format!("{} exclusive creates won", winners.len()));
    }
    let sees = |r: &&NameRecord| r.answer().is_some_and(|a| *a != NameAnswer::Missing);
    let since = records.iter().filter(sees).filter_map(|r| r.ret).min();
    let Some(since) = since else {
        return Ok(());
    };
    let late = |r: &NameRecord| r.call > since && r.answer() == Some(&NameAnswer::Missing);
    match records.iter().any(late) {
        true => Err("the name was there, and later it was not".to_owned()),
        false => Ok(()),
    }
}

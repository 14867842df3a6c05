//! Append-only logs: a key is a sequence of records, each appended once.
//!
//! The longest read gives the order of the records, so that nothing is guessed: every other read must be
//! a beginning of it, and the state of the search is how many of them are there.
//! 1. An append of unknown outcome that is in no read is left out; one that is in a read has happened by
//!    the end of the first such read.
//! 2. A record that is in the order happens at its place and nowhere else; one that was acknowledged and
//!    is not in the order can only come behind it, after every read.
//! 3. A read may show records that were appended on its own mount and not acknowledged when it began (see
//!    [`volatile`](super::volatile)): they may be gone later. It then says only that the records before
//!    the first of these were there, and none that are not in it.
use super::record::{Outcome, Record};
use super::search::{Call, Model};
use super::witness::{Kind, Stamped};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was asked of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogOp {
    /// A record that nobody else appends.
    Append(u64),
    /// All records.
    Read,
}

/// What it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogAnswer {
    /// It is there for good.
    Appended,
    /// All records, first to last.
    Saw(Vec<u64>),
}

/// A record of the history of a log.
pub type LogRecord = Record<LogOp, LogAnswer>;

/// An operation on a log whose order is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// The record that is number so in the order.
    Append(usize),
    /// A record that no read has shown.
    AppendUnseen,
    /// At least and at most so many records are there.
    Read(usize, usize),
}

/// The sequential log: how many records it has.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// How many are in the order.
    pub seen: usize,
}

impl Model for Log {
    type Op = Placed;
    type Answer = ();
    type State = usize;

    fn initial(&self) -> usize {
        0
    }

    fn step(&self, state: &usize, op: &Placed, _: Option<&()>) -> Option<usize> {
        match *op {
            Placed::Append(place) => (place == *state).then_some(state + 1),
            Placed::AppendUnseen => (*state >= self.seen).then_some(state + 1),
            Placed::Read(least, most) => (least..=most).contains(state).then_some(*state),
        }
    }
}

/// A history whose records have places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// For a search.
    pub calls: Vec<Call<Placed, ()>>,
    /// For the check over versions: the place of a record is its version, from 1.
    pub stamped: Vec<Stamped>,
    /// Appends that may have made a version that no read has shown.
    pub unplaced: usize,
    /// Records in the order.
    pub seen: usize,
    /// Reads that showed records of their own mount before the acknowledgement.
    pub own_pending: usize,
}

struct Read<'a> {
    record: &'a LogRecord,
    ids: &'a [u64],
    /// How many are there before the first own pending one.
    firm: usize,
}

/// Gives every record of one key its place.
///
/// # Errors
/// Reads contradict, a record is there twice, or one that cannot be there is.
pub fn settle(records: &[LogRecord]) -> Result<Settled, String> {
    let mut appends: BTreeMap<u64, &LogRecord> = BTreeMap::new();
    for record in records {
        if let LogOp::Append(id) = record.op
            && appends.insert(id, record).is_some()
        {
            return Err(format!("record {id} was appended twice, by the test"));
        }
    }
    let reads = reads(records, &appends);
    let order = order(&reads)?;
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for (place, id) in order.iter().enumerate() {
        let Some(append) = appends.get(id) else {
            return Err(format!("record {id} is there, but was never appended"));
        };
        if append.outcome == Outcome::Fail {
            return Err(format!(
                "the append of {id} failed for certain, but it is there"
            ));
        }
        if let Some(first) = places.insert(*id, place) {
            return Err(format!(
                "record {id} is there twice, at {first} and {place}"
            ));
        }
    }
    // When each place was seen for the first time.
    let mut first_seen = vec![u64::MAX; order.len()];
    for read in &reads {
        let ret = read.record.ret.unwrap_or(u64::MAX);
        for (seen, id) in first_seen.iter_mut().zip(&read.ids[..read.firm]) {
            if appends[id].call > ret {
                return Err(format!("record {id} was read before it was appended"));
            }
            *seen = ret.min(*seen);
        }
    }
    let mut settled = Settled {
        calls: Vec::new(),
        stamped: Vec::new(),
        unplaced: 0,
        seen: order.len(),
        own_pending: reads.iter().filter(|r| r.firm < r.ids.len()).count(),
    };
    for (id, record) in &appends {
        settled.append(record, places.get(id).copied(), &first_seen);
    }
    for read in &reads {
        settled.read(read, order);
    }
    Ok(settled)
}

impl Settled {
    fn append(&mut self, record: &LogRecord, place: Option<usize>, first_seen: &[u64]) {
        if record.outcome == Outcome::Fail {
            return;
        }
        let acked = record.done();
        let ret = match place {
            _ if acked.is_some() => acked,
            Some(place) => Some(first_seen[place]),
            None => None,
        };
        self.unplaced += usize::from(place.is_none());
        if let Some(place) = place {
            self.stamped.push(Stamped {
                version: place as u64 + 1,
                kind: Kind::Write,
                call: record.call,
                ret: acked,
            });
        }
        if let Some(ret) = ret {
            self.calls.push(Call {
                op: place.map_or(Placed::AppendUnseen, Placed::Append),
                call: record.call,
                ret: Some(ret),
                answer: None,
            });
        }
    }

    fn read(&mut self, read: &Read<'_>, order: &[u64]) {
        let agreeing = read.ids.iter().zip(order).take_while(|(a, b)| a == b);
        let (least, most) = (read.firm, agreeing.count());
        self.calls.push(Call {
            op: Placed::Read(least, most),
            call: read.record.call,
            ret: read.record.ret,
            answer: Some(()),
        });
        // What is not firm has no version.
        if least == most {
            self.stamped.push(Stamped {
                version: most as u64,
                kind: Kind::Read,
                call: read.record.call,
                ret: read.record.done(),
            });
        }
    }
}

fn reads<'a>(records: &'a [LogRecord], appends: &BTreeMap<u64, &LogRecord>) -> Vec<Read<'a>> {
    let read = |record: &'a LogRecord| {
        let Some(LogAnswer::Saw(ids)) = record.answer() else {
            return None;
        };
        let is_own_pending = |id: &u64| {
            appends.get(id).is_some_and(|append| {
                append.who.mount == record.who.mount
                    && append.outcome != Outcome::Fail
                    && append.done().is_none_or(|ret| ret >= record.call)
            })
        };
        let firm = ids.iter().position(is_own_pending).unwrap_or(ids.len());
        Some(Read { record, ids, firm })
    };
    records.iter().filter_map(read).collect()
}

/// The longest sequence that firm reads show. What follows own pending records is firm no more, but it
/// has happened: a read whose end is not firm gives the order only where no other read does.
fn order<'a>(reads: &[Read<'a>]) -> Result<&'a [u64], String> {
    let mut order: &[u64] = &[];
    for read in reads {
        let firm = &read.ids[..read.firm];
        if firm.len() > order.len() {
            order = firm;
        }
    }
    for read in reads {
        let firm = &read.ids[..read.firm];
        if !order.starts_with(firm) {
            let at = firm.iter().zip(order).take_while(|(a, b)| a == b).count();
            let client = read.record.who.client;
            return Err(format!(
                "two reads show different records at {at}: {:?} and {:?} (the former by client {client})",
                firm.get(at),
                order.get(at)
            ));
        }
    }
    Ok(order)
}

//! What programs did and what they were told, with times of one clock.
//!
//! 1. A time is taken, the operation is noted as begun, the call is made.
//! 2. After the return a time is taken, and the outcome is noted:
//!    *ok* with an answer (a refusal that says for certain what was there, EEXIST for one, is an answer
//!    too), *fail* (it has not happened and never will) or *unknown* (it may have happened, or may still).
//! 3. What was begun and never ended (a thread that hangs, a test that was stopped) counts as unknown.
//!
//! A history can be written to a file, one JSON object a line after a line with a [`Title`], and judged
//! again by the program `judge`.
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A clock that all threads of a run share; copies tell the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Who {
    /// Thread.
    pub client: u32,
    /// Mount, counted by mount process: one that was mounted again at its path is another.
    pub mount: u32,
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome<A> {
    /// It happened, and this was answered.
    Ok(A),
    /// It has not happened and never will.
    Fail,
    /// It may have happened, or may still.
    Unknown,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<O, A> {
    /// Who asked.
    pub who: Who,
    /// What it is about: keys are judged one by one.
    pub key: u32,
    /// What was asked.
    pub op: O,
    /// Time before the call, in ns.
    pub call: u64,
    /// Time after the return, if it returned.
    pub ret: Option<u64>,
    /// What became of it.
    pub outcome: Outcome<A>,
}

impl<O, A> Record<O, A> {
    /// The answer, if it happened and was answered.
    pub fn answer(&self) -> Option<&A> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Fail | Outcome::Unknown => None,
        }
    }

    /// The time after it, if it happened and was answered.
    pub fn done(&self) -> Option<u64> {
        self.answer().and(self.ret)
    }
}

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Title {
    /// How it is judged, see [`judge`](super::judge).
    pub kind: String,
    /// The seed of the run.
    pub seed: u64,
}

/// Names an operation that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun(usize);

/// A history that several threads write.
#[derive(Debug)]
pub struct Recorder<O, A> {
    clock: Clock,
    records: Mutex<Vec<Record<O, A>>>,
}

impl<O: Clone, A: Clone> Recorder<O, A> {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            records: Mutex::default(),
        }
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record<O, A>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation begins.
    pub fn begin(&self, who: Who, key: u32, op: O) -> Begun {
        let mut records = self.records();
        records.push(Record {
            who,
            key,
            op,
            call: self.clock.now(),
            ret: None,
            outcome: Outcome::Unknown,
        });
        Begun(records.len() - 1)
    }

    /// It ended so.
    pub fn end(&self, begun: Begun, outcome: Outcome<A>) {
        let now = self.clock.now();
        let record = &mut self.records()[begun.0];
        record.ret = Some(now);
        record.outcome = outcome;
    }

    /// What was asked is known only now.
    pub fn amend(&self, begun: Begun, op: O) {
        self.records()[begun.0].op = op;
    }

    /// All so far, in the order of their calls.
    pub fn all(&self) -> Vec<Record<O, A>> {
        self.records().clone()
    }
}

/// Writes a history to a file.
///
/// # Errors
/// The file cannot be written.
pub fn save<O: Serialize, A: Serialize>(
    path: &Path,
    title: &Title,
    records: &[Record<O, A>],
) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer(&mut file, title)?;
    for record in records {
        file.write_all(b"\n")?;
        serde_json::to_writer(&mut file, record)?;
    }
    file.write_all(b"\n")?;
    file.flush()
}

/// Reads the title of a file.
///
/// # Errors
/// It cannot be read, or has none.
pub fn load_title(path: &Path) -> io::Result<Title> {
    let mut line = String::new();
    BufReader::new(File::open(path)?).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Reads a history that [`save`] has written.
///
/// # Errors
/// It cannot be read, or holds other operations.
pub fn load<O: DeserializeOwned, A: DeserializeOwned>(
    path: &Path,
) -> io::Result<Vec<Record<O, A>>> {
    let lines = BufReader::new(File::open(path)?).lines().skip(1);
    lines
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

/// Records of one key each, in the order of their calls.
pub fn by_key<O: Clone, A: Clone>(records: &[Record<O, A>]) -> Vec<(u32, Vec<Record<O, A>>)> {
    let mut keys: std::collections::BTreeMap<u32, Vec<Record<O, A>>> = Default::default();
    for record in records {
        keys.entry(record.key).or_default().push(record.clone());
    }
    for records in keys.values_mut() {
        records.sort_by_key(|r| r.call);
    }
    keys.into_iter().collect()
}

/// The records around a time, a line each, for whoever looks for the cause.
pub fn around<O: std::fmt::Debug, A: std::fmt::Debug>(
    records: &[Record<O, A>],
    at: u64,
    count: usize,
) -> String {
    let mut near: Vec<&Record<O, A>> = records.iter().collect();
    near.sort_by_key(|r| {
        r.call
            .abs_diff(at)
            .min(r.ret.unwrap_or(r.call).abs_diff(at))
    });
    near.truncate(count);
    near.sort_by_key(|r| r.call);
    let line = |r: &&Record<O, A>| {
        let ms = |t: u64| t as f64 / 1e6;
        let ret = r
            .ret
            .map_or_else(|| "-".to_owned(), |t| format!("{:.3}", ms(t)));
        let Who { client, mount } = r.who;
        let begin = ms(r.call);
        format!(
            "  {begin:.3}..{ret} ms client {client} mount {mount}: {:?} -> {:?}",
            r.op, r.outcome
        )
    };
    near.iter().map(line).collect::<Vec<_>>().join("\n")
}

//! Verdicts on whole histories: every key by every checker that there is for its kind.
//!
//! | kind | checks |
//! |---|---|
//! | `register` | versions where they are known, zones, search |
//! | `inplace` | the same, without own pending reads (see [`volatile`]) |
//! | `log` | places as versions, search |
//! | `existence` | one winner, search |
//! | `counter` | holders by the clock, search |
//! | `namespace` | search |
use super::counter::{self, Counter, CounterRecord};
use super::existence::{self, Name, NameRecord};
use super::log::{self, Log, LogRecord};
use super::namespace::{self, Node, Tree, TreeRecord};
use super::record::{Outcome, Record, around, by_key, load, load_title};
use super::register::{self, Register, RegisterRecord};
use super::search::{Call, Model, Verdict, search};
use super::{volatile, witness, zones};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::path::Path;

/// Steps of a search for one key.
const STEPS_MAX: u64 = 5_000_000;
/// Records told around the place where no order was found.
const TOLD: usize = 24;

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Operations answered.
    pub ok: u64,
    /// Operations that certainly did not happen.
    pub failed: u64,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Longest time of an operation that was answered, in ns.
    pub longest_ns: u64,
    /// Keys.
    pub keys: u64,
    /// Reads of what their own mount had not yet put.
    pub own_pending: u64,
    /// Keys whose search was too long for a verdict.
    pub undecided: u64,
}

impl Figures {
    /// Counts records.
    pub fn of<O, A>(records: &[Record<O, A>]) -> Self {
        let mut figures = Self::default();
        for record in records {
            match record.outcome {
                Outcome::Ok(_) => figures.ok += 1,
                Outcome::Fail => figures.failed += 1,
                Outcome::Unknown => figures.unknown += 1,
            }
            let took = record.done().map_or(0, |ret| ret - record.call);
            figures.longest_ns = figures.longest_ns.max(took);
        }
        figures
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self.keys += other.keys;
        self.own_pending += other.own_pending;
        self.undecided += other.undecided;
    }
}

/// Searches one key.
///
/// # Errors
/// No order explains it, with the records around the place.
fn explain<M: Model, O: Debug, A: Debug>(
    model: &M,
    calls: &[Call<M::Op, M::Answer>],
    records: &[Record<O, A>],
) -> Result<bool, String> {
    match search(model, calls, STEPS_MAX) {
        Verdict::Explained => Ok(true),
        Verdict::GaveUp => Ok(false),
        Verdict::Refuted { stuck } => Err(format!(
            "no order of the operations explains all answers up to {:.3} ms:\n{}",
            stuck as f64 / 1e6,
            around(records, stuck, TOLD)
        )),
    }
}

/// Searches a register; `false` if it gave up.
///
/// # Errors
/// No order explains it.
pub fn search_register(records: &[RegisterRecord]) -> Result<bool, String> {
    let calls = register::calls(records)?;
    explain(&Register::of(&calls), &calls, records)
}

/// Runs `one` on every key.
fn each<O: Clone + Debug, A: Clone + Debug>(
    records: &[Record<O, A>],
    mut one: impl FnMut(&[Record<O, A>], &mut Figures) -> Result<bool, String>,
) -> Result<Figures, String> {
    let mut figures = Figures::of(records);
    let mut wrong = Vec::new();
    for (key, records) in by_key(records) {
        figures.keys += 1;
        match one(&records, &mut figures) {
            Ok(is_decided) => figures.undecided += u64::from(!is_decided),
            Err(why) => wrong.push(format!("key {key}: {why}")),
        }
    }
    match wrong.is_empty() {
        true => Ok(figures),
        false => Err(wrong.join("\n")),
    }
}

/// Registers whose reads are never of what may be lost.
///
/// # Errors
/// What each checker found wrong.
pub fn registers(records: &[RegisterRecord]) -> Result<Figures, String> {
    each(records, |records, _| one_register(records))
}

/// Registers that are written in place.
///
/// # Errors
/// What each checker found wrong.
pub fn registers_in_place(records: &[RegisterRecord]) -> Result<Figures, String> {
    each(records, |records, figures| {
        let (kept, own) = volatile::without_own_pending(records)?;
        figures.own_pending += own as u64;
        one_register(&kept)
    })
}

fn one_register(records: &[RegisterRecord]) -> Result<bool, String> {
    let (stamped, unplaced) = register::stamped(records, 0)?;
    // Without versions only the reads of nothing are stamped.
    let has_versions = stamped.iter().any(|s| s.version > 0);
    let by_versions = match has_versions {
        true => witness::check(&stamped, 0, unplaced),
        false => Ok(()),
    };
    let by_zones = zones::check(records).map_err(|e| format!("zones: {e}"));
    let by_search = search_register(records);
    let verdicts = [by_versions.err(), by_zones.err(), by_search.clone().err()];
    match verdicts.iter().any(Option::is_some) {
        true => Err(verdicts
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n")),
        false => by_search,
    }
}

/// Append-only logs.
///
/// # Errors
/// What each checker found wrong.
pub fn logs(records: &[LogRecord]) -> Result<Figures, String> {
    each(records, |records, figures| {
        let settled = log::settle(records)?;
        figures.own_pending += settled.own_pending as u64;
        witness::check(&settled.stamped, 0, settled.unplaced)?;
        let log = Log { seen: settled.seen };
        explain(&log, &settled.calls, records)
    })
}

/// Names that are created and unlinked.
///
/// # Errors
/// What each checker found wrong.
pub fn names(records: &[NameRecord]) -> Result<Figures, String> {
    each(records, |records, _| {
        existence::check_once(records)?;
        explain(&Name, &existence::calls(records), records)
    })
}

/// Counters under locks.
///
/// # Errors
/// What each checker found wrong.
pub fn counters(records: &[CounterRecord]) -> Result<Figures, String> {
    each(records, |records, _| {
        counter::check_holders(records)?;
        explain(&Counter, &counter::calls(records), records)
    })
}

/// Directory trees that begin empty.
///
/// # Errors
/// What each checker found wrong.
pub fn trees(records: &[TreeRecord]) -> Result<Figures, String> {
    let tree = Tree {
        initial: Node::empty(),
    };
    each(records, |records, _| {
        explain(&tree, &namespace::calls(records), records)
    })
}

/// Judges a file that [`save`](super::record::save) has written.
///
/// # Errors
/// It cannot be read, is of no known kind, or is wrong.
pub fn file(path: &Path) -> anyhow::Result<Figures> {
    let title = load_title(path)?;
    let verdict = match title.kind.as_str() {
        "register" => registers(&load(path)?),
        "inplace" => registers_in_place(&load(path)?),
        "log" => logs(&load(path)?),
        "existence" => names(&load(path)?),
        "counter" => counters(&load(path)?),
        "namespace" => trees(&load(path)?),
        other => anyhow::bail!("no judge for histories of kind {other:?}"),
    };
    verdict.map_err(|e| anyhow::anyhow!("seed {}: {e}", title.seed))
}

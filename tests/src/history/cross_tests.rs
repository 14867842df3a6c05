//! The checkers against each other and against all orders, on generated histories.
use super::existence::{self, Name};
use super::generate::{FAULTS, Fault, Size, is_explained, log, name, raw, register};
use super::log::{LogAnswer, LogOp, LogRecord};
use super::register::{Register, RegisterAnswer, RegisterOp, RegisterRecord};
use super::search::{Model, STEPS_MAX, Verdict, search};
use super::{judge, witness, zones};
use std::collections::BTreeMap;

/// So small that all orders can be tried.
const SMALL: Size = Size {
    clients: 3,
    ops: 3,
    unknown: 16,
    delay_max: 8,
};
const SEEDS: u64 = 2_100;

/// How many histories of each fault were really bad.
type Bad = BTreeMap<String, usize>;

fn is_telling(bad: &Bad) {
    println!("really bad: {bad:?}");
    assert_eq!(bad.len(), FAULTS.len(), "{bad:?}");
    assert!(bad.values().all(|n| *n >= 5), "{bad:?}");
}

/// Judges histories without a fault and with every fault; both must agree with all orders.
fn cross<R: std::fmt::Debug>(
    make: impl Fn(u64, Option<Fault>) -> Vec<R>,
    truth: impl Fn(&[R]) -> bool,
    verdict: impl Fn(&[R]) -> Result<(), String>,
) -> Bad {
    let mut bad = Bad::new();
    for seed in 0..SEEDS {
        let good = make(seed, None);
        if let Err(e) = verdict(&good) {
            panic!("seed {seed} is good: {e}\n{good:?}");
        }
        let fault = FAULTS[(seed % FAULTS.len() as u64) as usize];
        let history = make(seed, Some(fault));
        let is_good = truth(&history);
        let judged = verdict(&history);
        assert_eq!(
            is_good,
            judged.is_ok(),
            "seed {seed} {fault:?}: {judged:?}\n{history:?}"
        );
        if !is_good {
            *bad.entry(format!("{fault:?}")).or_default() += 1;
        }
    }
    bad
}

#[test]
fn registers_are_judged_as_all_orders_judge_them() {
    let truth = |h: &[RegisterRecord]| is_explained(&Register::default(), &raw(h));
    let bad = cross(
        |seed, fault| register(seed, SMALL, fault),
        truth,
        |h| {
            let by_search = judge::search_register(h).map(|decided| assert!(decided));
            let by_zones = zones::check(h);
            assert_eq!(
                by_search.is_ok(),
                by_zones.is_ok(),
                "{by_search:?} {by_zones:?} {h:?}"
            );
            // Without what makes it short, too.
            let plain = search(&Register::default(), &raw(h), STEPS_MAX) == Verdict::Explained;
            assert_eq!(by_search.is_ok(), plain);
            by_search
        },
    );
    is_telling(&bad);
}

#[test]
fn versions_convict_every_bad_history_and_no_good_one() {
    let mut bad = Bad::new();
    for seed in 0..SEEDS {
        let by_versions = |h: &[RegisterRecord]| {
            let (stamped, unplaced) = super::register::stamped(h, 0)?;
            witness::check(&stamped, 0, unplaced)
        };
        let good = by_versions(&register(seed, SMALL, None));
        assert_eq!(good, Ok(()), "seed {seed}");
        let fault = FAULTS[(seed % FAULTS.len() as u64) as usize];
        let history = register(seed, SMALL, Some(fault));
        if !is_explained(&Register::default(), &raw(&history)) {
            *bad.entry(format!("{fault:?}")).or_default() += 1;
            assert!(
                by_versions(&history).is_err(),
                "seed {seed} {fault:?} {history:?}"
            );
        }
    }
    is_telling(&bad);
}

/// A log as it is, for [`is_explained`].
struct PlainLog;

impl Model for PlainLog {
    type Op = LogOp;
    type Answer = LogAnswer;
    type State = Vec<u64>;

    fn initial(&self) -> Vec<u64> {
        Vec::new()
    }

    fn step(&self, state: &Vec<u64>, op: &LogOp, answer: Option<&LogAnswer>) -> Option<Vec<u64>> {
        match (op, answer) {
            (LogOp::Append(id), _) => Some(state.iter().copied().chain([*id]).collect()),
            (LogOp::Read, Some(LogAnswer::Saw(ids))) => (ids == state).then(|| state.clone()),
            (LogOp::Read, _) => Some(state.clone()),
        }
    }
}

#[test]
fn logs_are_judged_as_all_orders_judge_them() {
    let bad = cross(
        |seed, fault| log(seed, SMALL, fault),
        |h: &[LogRecord]| is_explained(&PlainLog, &raw(h)),
        |h| judge::logs(h).map(|figures| assert_eq!(figures.undecided, 0)),
    );
    is_telling(&bad);
}

#[test]
fn names_are_judged_as_all_orders_judge_them() {
    let bad = cross(
        |seed, fault| name(seed, SMALL, fault),
        |h| is_explained(&Name, &raw(h)),
        |h| {
            let quick = existence::check_once(h);
            let judged = judge::names(h).map(|figures| assert_eq!(figures.undecided, 0));
            assert!(quick.is_ok() || judged.is_err());
            judged
        },
    );
    println!("really bad: {bad:?}");
    assert!(bad.values().sum::<usize>() > 100);
}

/// Ten thousand operations of four clients, and what came of a search.
#[test]
fn long_histories_are_judged_in_time_good_and_bad() {
    let size = Size {
        clients: 4,
        ops: 2_500,
        unknown: 3,
        delay_max: 1_000,
    };
    let mut history = register(1, size, None);
    assert_eq!(judge::registers(&history).map(|f| f.undecided), Ok(0));
    // The last read shows what was there long before.
    let old = history.iter().find_map(super::register::seen).unwrap();
    let reads = |r: &&mut RegisterRecord| r.op == RegisterOp::Read && r.answer().is_some();
    let last = history
        .iter_mut()
        .filter(reads)
        .max_by_key(|r| r.call)
        .unwrap();
    let (value, version) = (old, None);
    last.outcome = super::Outcome::Ok(RegisterAnswer::Saw { value, version });
    assert!(zones::check(&history).is_err());
    assert!(judge::search_register(&history).is_err());
    let log = log(2, Size { ops: 300, ..size }, None);
    assert_eq!(judge::logs(&log).map(|f| f.undecided), Ok(0));
    let name = name(3, Size { ops: 1_000, ..size }, None);
    assert_eq!(judge::names(&name).map(|f| f.undecided), Ok(0));
}

#[test]
fn a_history_that_was_written_to_a_file_is_judged_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let title = super::Title {
        kind: "register".to_owned(),
        seed: 9,
    };
    let good = register(9, SMALL, None);
    super::record::save(&path, &title, &good).unwrap();
    assert_eq!(super::record::load(&path).ok(), Some(good));
    assert!(judge::file(&path).is_ok());
    let bad = register(9, SMALL, Some(Fault::Invented));
    assert!(judge::registers(&bad).is_err());
    super::record::save(&path, &title, &bad).unwrap();
    let said = judge::file(&path).unwrap_err().to_string();
    assert!(said.contains("seed 9"), "{said}");
}

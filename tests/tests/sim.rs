//! The simulation's seeds. Repeat one with `DFS_SEED=<seed> cargo test -p dfs-tests --test sim`
//! (`DFS_TRACE=1` prints what happens); run more with `DFS_SEEDS=<count>`, or with the program `sim`
//! (`cargo run --release -p dfs-tests --bin sim -- --help`), which also plants the bugs that need many
//! seeds and finds the faults that a failing seed needs. Built with `--features planted` it also plants
//! the bugs inside machines and runs the Raft group's own simulator (`--part consensus`).
use dfs_tests::sim::{Bug, Counts, Part, Settings, run};
use std::process::Command;
use std::time::Instant;

const SEEDS: u64 = 150;
/// Seeds that found something once, and what.
const REGRESSIONS: [(u64, &str); 6] = [
    (
        138,
        "an operation that came late was reported as never done",
    ),
    (418, "a planted failure fired after the faults had ended"),
    (
        2234,
        "a node that had missed that its vote was gone was not told again",
    ),
    (
        101_374,
        "an answer told of a change that another session's cache still hid",
    ),
    (
        301_626,
        "a refusal told of one half of a rename while a cache still hid the other",
    ),
    (
        900_027,
        "a node that renewed its incarnation suspected a living one for good",
    ),
];
/// The same, of the replication part.
const REGRESSIONS_OF_REPLICATION: [(u64, &str); 3] = [
    (
        2_004_611,
        "the only voter did not know after a restart that it was one",
    ),
    (
        2_039_487,
        "a slow disk held one sync of the only voter long after it was well",
    ),
    (
        3_000_407,
        "a node that renewed its incarnation suspected a living one for good",
    ),
];
/// Seeds a planted bug may take here.
const BUG_SEEDS: u64 = 1000;
/// Bugs that may need more: the program `sim` plants them.
const RARE: [Bug; 2] = [Bug::LeaderSkipsInvalidations, Bug::VoterAcksBeforeSync];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds() -> Vec<u64> {
    match number("DFS_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = 0..number("DFS_SEEDS").unwrap_or(SEEDS);
            let once = REGRESSIONS.iter().map(|(seed, _)| *seed);
            first.chain(once).collect()
        }
    }
}

#[test]
fn what_was_acknowledged_survives_and_nothing_stale_is_read() {
    let began = Instant::now();
    let (mut total, mut events, mut failures) = (Counts::default(), 0, Vec::new());
    let (mut slowest, mut simulated) = ((0, 0), 0.0);
    for seed in seeds() {
        let at = Instant::now();
        match run(Settings::new(seed)) {
            Ok(report) => {
                total.add(&report.counts);
                events += report.events;
                simulated += report.simulated.as_secs_f64();
            }
            Err(e) => {
                println!("{e}\n");
                failures.push(seed);
            }
        }
        slowest = slowest.max((at.elapsed().as_millis(), seed));
    }
    println!(
        "{total:#?}\n{events} events, {simulated:.0} s simulated, {:?}, slowest {slowest:?}",
        began.elapsed()
    );
    assert!(failures.is_empty(), "seeds failed: {failures:?}");
    let count = seeds().len() as u64;
    assert_eq!(
        total.shortfalls(count),
        [""; 0],
        "so the rest proves little"
    );
}

#[test]
fn regression_seeds_of_the_replication_part_do_well() {
    for (seed, what) in REGRESSIONS_OF_REPLICATION {
        let part = Part::Replication;
        let settings = Settings {
            part,
            ..Settings::new(seed)
        };
        if let Err(error) = run(settings) {
            panic!("seed {seed} ({what}): {error}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..3 {
        let hash = |seed| run(Settings::new(seed)).map(|report| report.hash);
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
}

#[test]
fn another_process_gives_the_same_trace() {
    let program = env!("CARGO_BIN_EXE_sim");
    let args = ["--seeds", "2", "--from", "3", "--hashes"];
    let told = Command::new(program).args(args).output();
    let told = String::from_utf8(told.expect("the program is built").stdout).expect("plain text");
    for seed in 3..5 {
        let report = run(Settings::new(seed)).expect("it is one of the seeds above");
        let line = format!("seed {seed}: hash {:016x}", report.hash);
        assert!(told.contains(&line), "{line} is not in:\n{told}");
    }
}

/// The seed that catches the bug, and what was noticed. It does well without the bug.
fn caught(bug: Bug) -> Option<(u64, String)> {
    let found = (0..BUG_SEEDS).find_map(|seed| {
        let error = run(Settings::with_bug(seed, bug)).err()?;
        run(Settings::new(seed)).ok()?;
        Some((seed, error.lines().next().unwrap_or_default().to_owned()))
    });
    println!("{bug:?}: {found:?}");
    found
}

#[test]
fn planted_bugs_are_caught() {
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| !RARE.contains(bug) && bug.can_be_planted())
        .filter(|bug| caught(*bug).is_none())
        .collect();
    assert!(
        missed.is_empty(),
        "not caught within {BUG_SEEDS} seeds: {missed:?}"
    );
}

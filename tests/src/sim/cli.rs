//! The program that runs seeds: `cargo run --release -p dfs-tests --bin sim -- --help`.
use super::shrink::shrink;
use super::{Bug, Counts, Part, Settings, run};
use clap::{Parser, ValueEnum};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

/// Seeds that a planted bug may take.
const BUG_SEEDS: u64 = 2000;
/// A long run says so often how far it is.
const REPORT_EVERY: u64 = 500;

/// What takes part in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum PartArg {
    /// The whole stack
    #[default]
    All,
    /// Puts, gets and repair of one group
    Replication,
    /// The Raft group alone: with three voters and with five in turn
    #[cfg(feature = "planted")]
    Consensus,
}

/// Runs seeds of the simulation of a whole cluster.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// How many seeds [default: 100, with --bugs at most 2000 for each bug]
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// What takes part
    #[arg(long, value_enum, default_value_t)]
    part: PartArg,
    /// Plants this bug
    #[arg(long)]
    bug: Option<Bug>,
    /// Plants each bug there is, or that of --bug, until it is caught
    #[arg(long, conflicts_with = "without")]
    bugs: bool,
    /// Leaves out what a failing seed does not need to fail
    #[arg(long)]
    shrink: bool,
    /// Leaves out these faults, by their numbers
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// Prints what happens
    #[arg(long)]
    trace: bool,
    /// Prints a hash of everything that happened, for each seed
    #[arg(long)]
    hashes: bool,
}

impl Args {
    fn settings(&self, seed: u64, bug: Option<Bug>) -> Settings {
        let plain = Settings::new(seed);
        Settings {
            bug,
            prints: plain.prints || self.trace,
            part: match self.part {
                PartArg::Replication => Part::Replication,
                _ => Part::All,
            },
            without: self.without.iter().copied().collect::<BTreeSet<_>>(),
            ..plain
        }
    }

    fn tell(&self, failing: &Settings, error: &str) {
        println!("{error}\n");
        if self.shrink {
            Self::tell_needed(failing);
        }
    }

    fn tell_needed(failing: &Settings) {
        let Some(shrunk) = shrink(failing) else {
            println!("seed {} does not fail again", failing.seed);
            return;
        };
        println!("of its faults these are needed ({} runs):", shrunk.runs);
        for (number, fault) in &shrunk.kept {
            println!("  {number:>3} {fault}");
        }
        println!("{}\n", shrunk.error);
    }
}

/// Runs what the arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(bug) = args.bug.filter(|bug| !bug.can_be_planted()) {
        println!("{bug} is inside a machine: build the program with --features planted");
        return ExitCode::FAILURE;
    }
    #[cfg(feature = "planted")]
    if args.part == PartArg::Consensus {
        return match run_consensus(&args) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    let is_well = if args.bugs {
        run_bugs(&args)
    } else {
        run_seeds(&args)
    };
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_seeds(args: &Args) -> bool {
    let began = Instant::now();
    let count = args.seeds.unwrap_or(100);
    let (mut total, mut events, mut simulated) = (Counts::default(), 0, 0.0);
    let mut failures = Vec::new();
    for seed in args.from..args.from + count {
        let done = seed - args.from;
        if done > 0 && done.is_multiple_of(REPORT_EVERY) {
            println!("{done} seeds done, {} failed", failures.len());
        }
        let settings = args.settings(seed, args.bug);
        match run(settings.clone()) {
            Ok(report) => {
                if args.hashes {
                    println!("seed {seed}: hash {:016x}", report.hash);
                }
                total.add(&report.counts);
                events += report.events;
                simulated += report.simulated.as_secs_f64();
            }
            Err(error) => {
                args.tell(&settings, &error);
                failures.push(seed);
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{total:#?}");
    println!(
        "{count} seeds from {}: {} failed {failures:?}; {events} events, {simulated:.0} s simulated, \
         {:.0} seeds per minute",
        args.from,
        failures.len(),
        count as f64 * 60.0 / took
    );
    // Runs that fail or leave faults out do less than others, and so does a part.
    let is_whole = matches!(args.part, PartArg::All);
    let is_usual = failures.is_empty() && is_whole && args.bug.is_none() && args.without.is_empty();
    let short = if is_usual {
        total.shortfalls(count)
    } else {
        Vec::new()
    };
    short.iter().for_each(|what| println!("too little: {what}"));
    failures.is_empty() && short.is_empty()
}

/// The simulator of the Raft group, which is the machine's own.
#[cfg(feature = "planted")]
fn run_consensus(args: &Args) -> bool {
    let began = Instant::now();
    let count = args.seeds.unwrap_or(100);
    let (mut events, mut failures) = (0, Vec::new());
    for seed in args.from..args.from + count {
        let voters = if seed.is_multiple_of(2) { 3 } else { 5 };
        match dfs_core::consensus::sim::run_seed(seed, voters) {
            Ok(some) => events += some,
            Err(error) => {
                println!("{error}, {voters} voters");
                failures.push(seed);
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "consensus: {count} seeds from {}: {} failed {failures:?}; {events} events, {:.0} seeds per \
         minute",
        args.from,
        failures.len(),
        count as f64 * 60.0 / took
    );
    failures.is_empty()
}

/// The first seed that notices a bug and is well without it, and what it noticed.
fn caught(args: &Args, bug: Bug) -> Option<(u64, String)> {
    let count = args.seeds.unwrap_or(BUG_SEEDS);
    for seed in args.from..args.from + count {
        let planted = args.settings(seed, Some(bug));
        let Err(error) = run(planted.clone()) else {
            continue;
        };
        if run(args.settings(seed, None)).is_err() {
            println!("seed {seed} fails without {bug} too");
            continue;
        }
        if args.shrink {
            Args::tell_needed(&planted);
        }
        return Some((seed, error.lines().next().unwrap_or_default().to_owned()));
    }
    None
}

fn run_bugs(args: &Args) -> bool {
    println!("{:<28} {:>5}  noticed", "bug", "seeds");
    let mut is_well = true;
    let is_meant = |bug: &Bug| args.bug.is_none_or(|only| only == *bug);
    for bug in Bug::ALL.into_iter().filter(is_meant) {
        let name = bug.to_string();
        if !bug.can_be_planted() {
            println!("{name:<28}     -  needs --features planted");
            continue;
        }
        match caught(args, bug) {
            Some((seed, noticed)) => {
                println!("{name:<28} {:>5}  {noticed}", seed - args.from + 1);
            }
            None => {
                println!("{name:<28} {:>5}  NOT CAUGHT", "-");
                is_well = false;
            }
        }
    }
    is_well
}

//! The program of the nemesis: `cargo run --release -p dfs-tests --bin nemesis -- --help`.
use super::campaign::{Plant, Report, Settings, run};
use super::schedule::Kind;
use super::{agent, lab};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Real daemons and mounts under faults, one cluster after the other; needs root.
#[derive(Debug, Parser)]
#[command(name = "nemesis")]
struct Args {
    /// The first campaign's seed; the next ones count on from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many clusters, one after the other
    #[arg(long, default_value_t = 1)]
    campaigns: u64,
    /// How long rounds begin in each
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// At most so many rounds in each
    #[arg(long, default_value_t = usize::MAX)]
    rounds: usize,
    /// Which faults
    #[arg(long, value_enum, default_value_t = Kind::Mixed)]
    kind: Kind,
    /// Daemons
    #[arg(long, default_value_t = 5)]
    nodes: usize,
    /// Plants this, for the judges to find; a broken cluster's verdict may take ten minutes
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// Runs the workloads on these mounts until the input ends
    #[arg(long, hide = true, requires = "keep")]
    work: Vec<PathBuf>,
    /// Where their histories go
    #[arg(long, hide = true)]
    keep: Option<PathBuf>,
}

/// Runs what the arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(keep) = &args.keep {
        return match agent::work(&args.work, args.seed, keep) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let Ok(program) = std::env::current_exe() else {
        eprintln!("nemesis: it does not know its own program");
        return ExitCode::from(2);
    };
    if let Some(why) = lab::obstacle() {
        eprintln!("nemesis: {why}");
        return ExitCode::from(2);
    }
    let mut total = Report::default();
    for seed in args.seed..args.seed + args.campaigns {
        let settings = Settings {
            seed,
            length: Duration::from_secs(args.seconds),
            rounds: args.rounds,
            kind: args.kind,
            nodes: args.nodes,
            plant: args.plant,
            program: program.clone(),
        };
        match run(&settings) {
            Ok(report) => {
                println!("campaign {seed}:\n{report}");
                total.add(report);
            }
            Err(e) => {
                eprintln!("nemesis: {e:#}");
                return ExitCode::from(2);
            }
        }
    }
    println!("all campaigns:\n{total}");
    if total.anomalies.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

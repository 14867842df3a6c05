//! The deterministic whole-stack simulation: the very machines that the daemon and the client run,
//! over a simulated network, disks and clocks.
//!
//! Three to seven nodes, one to three clients. One seed decides everything: delays, losses,
//! repetitions, cuts by direction, partitions, crashes that lose what was not synced, pauses, slow,
//! full and failing disks, wiped stores, rot, flipped bits, stepped clocks, wrong rumours of gossip,
//! clients that die, nodes to be emptied, late pushes, and what the clients do. A run:
//! 1. *setup*: one node bootstraps, the others join, three vote, groups get members;
//! 2. *chaos*: work and faults;
//! 3. *healing*: faults end; after a while every operation must succeed;
//! 4. *quiet*: work ends; every group becomes clean, every member holds all that it must; all nodes
//!    are restarted, and it becomes quiet again;
//! 5. *audit*: every client lists and reads everything, tables are checked, histories explained.
//!
//! | file | what |
//! |---|---|
//! | `fabric`, `network`, `clock`, `trace` | events, time, packets |
//! | `node`, `node_work`, `node_disk`, `node_calls`, `daemon`, `gossip` | a machine and its daemon |
//! | `client`, `contact`, `asks`, `jobs`, `answers`, `puts`, `gets` | a client |
//! | `workload`, `fault_plan`, `faults`, `losses`, `reading`, `world` | what happens |
//! | `oracle`, `contents`, `linear`, `audit`, `acks`, `copies`, `fences`, `leases`, `progress`, `reports`, `tree`, `versions`, `voters`, `votes`, `floors` | what must be true |
//! | `failover`, `failover_watch`, `failover_left` | a leader lost at a step of a repair, a rejoin, a drain, a rebalance |
//! | `settings` | who takes part |
//! | `bugs`, `planted`, `planted_leader` | planted bugs |
//! | `shrink`, `cli` | the faults that a failing seed needs; the program `sim` |
//!
//! Not simulated: the file layer's write buffer and caches, TLS, rot of tables and logs.
mod acks;
mod answers;
mod asks;
mod audit;
mod bugs;
pub mod cli;
mod client;
mod clock;
mod contact;
mod contents;
mod copies;
mod daemon;
mod fabric;
pub mod failover;
mod failover_left;
mod failover_watch;
mod fault_plan;
mod faults;
mod fences;
mod floors;
mod gets;
mod gossip;
mod jobs;
mod leases;
mod linear;
mod losses;
mod network;
mod node;
mod node_calls;
mod node_disk;
mod node_work;
mod oracle;
mod planted;
mod planted_leader;
mod progress;
mod puts;
mod reading;
mod reports;
mod settings;
pub mod shrink;
mod trace;
mod tree;
mod versions;
mod voters;
mod votes;
mod workload;
mod world;

pub use bugs::Bug;
pub use oracle::Counts;
pub use settings::{Part, Settings};
pub use world::Report;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one seed.
///
/// # Errors
/// The first broken promise, or the words of a machine's own assertion, with the command that
/// repeats it.
pub fn run(settings: Settings) -> Result<Report, String> {
    #[cfg(feature = "planted")]
    Bug::plant_inside(settings.bug);
    let repeat = format!("seed {}; repeat with {}", settings.seed, settings.command());
    let result = catch_unwind(AssertUnwindSafe(|| world::World::new(&settings).run()));
    match result {
        Ok(result) => result.map_err(|e| format!("{e}\n{repeat}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(format!("panic: {}\n{repeat}", text.unwrap_or_default()))
        }
    }
}

/// What goes wrong in a run, by number, left out or not; nothing in one with a failover.
#[must_use]
pub fn planned(settings: &Settings) -> Vec<String> {
    if settings.failover.is_some() {
        return Vec::new();
    }
    let plan = fault_plan::FaultPlan::draw(settings);
    let faults = plan.faults.iter();
    faults
        .map(|fault| format!("{:.3} s: {:?}", fault.at.as_secs_f64(), fault.hit))
        .collect()
}

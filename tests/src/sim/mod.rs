//! The deterministic whole-stack simulation: the very machines that the daemon and the client run,
//! over a simulated network, disks and clocks.
//!
//! Five nodes, two clients. One seed decides everything: delays, losses, repetitions, cuts by
//! direction, partitions, crashes that lose what was not synced, pauses, slow and failing disks,
//! stepped clocks, wrong rumours of gossip, and what the clients do. A run:
//! 1. *setup*: one node bootstraps, the others join, three vote, groups get members;
//! 2. *chaos*: work and faults;
//! 3. *healing*: faults end; after a while every operation must succeed;
//! 4. *quiet*: work ends; every group becomes clean, every member holds all that it must;
//! 5. *audit*: files are read back, tables checked, histories explained.
//!
//! | file | what |
//! |---|---|
//! | `fabric`, `network`, `clock`, `trace` | events, time, packets |
//! | `node`, `node_work`, `node_disk`, `node_calls`, `daemon` | a machine and its daemon |
//! | `client`, `contact`, `asks`, `jobs`, `puts`, `gets` | a client |
//! | `workload`, `faults`, `world` | what happens |
//! | `oracle`, `linear`, `audit` | what must be true |
//! | `failover`, `failover_watch`, `failover_left` | a leader lost at a step of a repair, a rejoin, a drain, a rebalance |
//! | `settings`, `planted` | who takes part, planted bugs |
//!
//! Not simulated: gossip itself, the file layer's write buffer and caches, TLS, disk rot.
mod asks;
mod audit;
mod client;
mod clock;
mod contact;
mod daemon;
mod fabric;
pub mod failover;
mod failover_left;
mod failover_watch;
mod faults;
mod gets;
mod jobs;
mod linear;
mod network;
mod node;
mod node_calls;
mod node_disk;
mod node_work;
mod oracle;
mod planted;
mod puts;
mod settings;
mod trace;
mod workload;
mod world;

pub use oracle::Counts;
pub use settings::{Bug, Settings};
pub use world::Report;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one seed.
///
/// # Errors
/// The first broken promise, or the words of a machine's own assertion, with the command that
/// repeats it.
pub fn run(settings: Settings) -> Result<Report, String> {
    let test = match settings.failover {
        Some(failover) => format!("failover # {failover}"),
        None => "sim".to_owned(),
    };
    let repeat = format!(
        "seed {}; repeat with DFS_SEED={} cargo test -p dfs-tests --test {test}",
        settings.seed, settings.seed
    );
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

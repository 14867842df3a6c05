//! Deterministic simulation of a Raft group over simulated disks and network.
//!
//! One seed chooses everything: latencies, loss, repetition, torn writes, pauses, crashes,
//! partitions, membership changes, snapshots. Repeat one with
//! `DFS_SEED=<seed> cargo test -p dfs-core consensus::sim -- --nocapture`; run more with `DFS_SEEDS`.
//!
//! Checked ([`check`]): every member applies the same commands in the same order; at most one leader
//! per term; what was acknowledged stays; no read is stale; no well-meant message is refused as
//! malformed; after healing the group makes progress and all members agree.
mod check;
mod clients;
mod disk;
mod driver;
mod nemesis;
mod world;

#[cfg(test)]
use super::config::TestBug;
use world::{Settings, World};

#[cfg(test)]
fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("DFS_SEED").map(|seed| seed.parse::<u64>()) {
        Ok(Ok(seed)) => seed..seed + 1,
        _ => {
            let more = std::env::var("DFS_SEEDS").map(|count| count.parse().ok());
            0..more.ok().flatten().unwrap_or(count)
        }
    }
}

/// Runs a seed; a broken promise or a panic is an error.
fn run(settings: Settings) -> Result<world::Stats, String> {
    let seed = settings.seed;
    let result = std::panic::catch_unwind(move || World::new(settings).run());
    match result {
        Ok(result) => result.map_err(|e| format!("seed {seed}: {e}")),
        Err(_) => Err(format!("seed {seed}: panic")),
    }
}

/// Runs a seed of a group with so many voters; gives the number of events. For the program that runs
/// many.
///
/// # Errors
/// The first promise that was found broken.
pub fn run_seed(seed: u64, voters: u64) -> Result<u64, String> {
    run(Settings::new(seed, voters)).map(|stats| stats.events)
}

#[cfg(test)]
fn run_all(voters: u64, count: u64) -> world::Stats {
    let mut total = world::Stats::default();
    for seed in seeds(count) {
        let settings = Settings::new(seed, voters);
        match run(settings) {
            Ok(stats) => total.add(&stats),
            Err(e) => panic!("{e}; repeat with DFS_SEED={seed}, {voters} voters"),
        }
    }
    println!("{voters} voters: {total:?}");
    total
}

#[test]
fn three_voters_keep_every_promise_under_faults() {
    let total = run_all(3, 120);
    if std::env::var("DFS_SEED").is_err() {
        assert!(total.acked > 10_000 && total.reads > 10_000, "{total:?}");
        assert!(total.installs > 50 && total.conf_changes > 100, "{total:?}");
        assert!(total.adoptions > 0 && total.torn > 50, "{total:?}");
    }
}

#[test]
fn five_voters_keep_every_promise_under_faults() {
    run_all(5, 80);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1000..1004 {
        let trace = |seed| run(Settings::new(seed, 3)).unwrap().trace;
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
        assert_ne!(trace(seed), trace(seed + 1));
    }
}

/// The first complaint about a planted fault.
#[cfg(test)]
fn complaint(bug: TestBug) -> Option<String> {
    (0..300).find_map(|seed| {
        let mut settings = Settings::new(seed, 3);
        settings.bug = Some(bug);
        run(settings).err()
    })
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    let complaint = complaint(TestBug::AckBeforeSync).expect("it is caught");
    println!("{complaint}");
}

#[test]
fn a_read_without_a_quorum_is_caught() {
    let complaint = complaint(TestBug::ReadWithoutQuorum).expect("it is caught");
    assert!(complaint.contains("stale read"), "{complaint}");
}

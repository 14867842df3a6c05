//! The leader is lost at each step of a repair, a rejoin, a drain and a rebalance, in the
//! simulation: the next one finishes, nothing is copied twice without need, nothing is lost.
//!
//! Repeat a seed with `DFS_SEED=<seed> cargo test -p dfs-tests --test failover` (`DFS_TRACE=1`
//! prints what happens, `DFS_CASE=Kill.Begun.Drain` takes one case); run more seeds of each case
//! with `DFS_FAILOVER_SEEDS=<count>`.
use dfs_tests::sim::failover::{Change, Failover, FailoverReport, Loss};
use dfs_tests::sim::{Settings, run};
use std::time::{Duration, Instant};

/// More seeds that a case may take until its step was seen.
const SEEDS_MORE: u64 = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The cases of a change. In the short form each step has one kind of loss, the other one at the next.
fn cases(change: Change) -> Vec<Failover> {
    let wanted = std::env::var("DFS_CASE").ok();
    let is_short = number("DFS_FAILOVER_SEEDS").is_none() && wanted.is_none();
    let mut cases = Vec::new();
    for (step, at) in change.steps().iter().zip(0u8..) {
        for (loss, turn) in [(Loss::Kill, 0), (Loss::CutOff, 1)] {
            let step = *step;
            let name = format!("{loss:?}.{step:?}.{change:?}");
            let is_chosen = wanted.as_ref().is_none_or(|wanted| *wanted == name);
            if is_chosen && !(is_short && at % 2 != turn) {
                cases.push(Failover { change, step, loss });
            }
        }
    }
    cases
}

#[derive(Default)]
struct Sum {
    runs: u32,
    hits: u32,
    copied: FailoverReport,
    failures: Vec<String>,
    missed: Vec<String>,
}

impl Sum {
    /// Runs the seeds of a case, and more until its step was seen.
    fn take(&mut self, case: Failover) {
        let seeds = match number("DFS_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("DFS_FAILOVER_SEEDS").unwrap_or(1) + SEEDS_MORE,
        };
        let enough = seeds.end.saturating_sub(SEEDS_MORE);
        let mut hits = 0;
        for seed in seeds {
            if seed >= enough && hits > 0 {
                break;
            }
            self.runs += 1;
            match run(Settings::losing_the_leader(seed, case)) {
                Ok(report) => {
                    let report = report.failover.expect("asked for");
                    hits += u32::from(report.is_hit);
                    self.copied.objects += report.objects;
                    self.copied.bytes += report.bytes;
                    self.copied.again += report.again;
                    self.copied.took = self.copied.took.max(report.took);
                }
                Err(e) => {
                    println!("{e}\n");
                    self.failures.push(format!("{case}, seed {seed}"));
                    hits += 1;
                }
            }
        }
        self.hits += hits;
        if hits == 0 {
            self.missed.push(case.to_string());
        }
    }
}

fn lose_leaders_during(change: Change) {
    let began = Instant::now();
    let mut sum = Sum::default();
    cases(change).into_iter().for_each(|case| sum.take(case));
    let FailoverReport {
        objects,
        bytes,
        again,
        took,
        ..
    } = sum.copied;
    println!(
        "figures: {change:?}: {} leaders lost in {} runs, {objects} objects ({bytes} bytes) \
         copied, none twice, {again} again after a crash of the copier; in order {took:.1?} \
         (simulated) after the loss at most; {:.1?}",
        sum.hits,
        sum.runs,
        began.elapsed()
    );
    assert!(sum.failures.is_empty(), "failed: {:#?}", sum.failures);
    assert!(sum.missed.is_empty(), "never seen: {:#?}", sum.missed);
    assert!(took < Duration::from_secs(30), "it takes long: {took:?}");
}

#[test]
fn a_repair_goes_on_under_the_next_leader() {
    lose_leaders_during(Change::Repair);
}

#[test]
fn a_rejoin_in_time_goes_on_under_the_next_leader() {
    lose_leaders_during(Change::RejoinInTime);
}

#[test]
fn a_late_rejoin_goes_on_under_the_next_leader() {
    lose_leaders_during(Change::RejoinLate);
}

#[test]
fn a_drain_goes_on_under_the_next_leader() {
    lose_leaders_during(Change::Drain);
}

#[test]
fn a_rebalance_goes_on_under_the_next_leader() {
    lose_leaders_during(Change::Rebalance);
}

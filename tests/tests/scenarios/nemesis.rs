//! A short nemesis: real daemons and mounts under faults and power cuts, judged by what programs saw.
//!
//! The full form is the program: `cargo run --release -p dfs-tests --bin nemesis -- --help`.
use dfs_tests::nemesis::campaign::{Settings, run};
use dfs_tests::nemesis::lab::obstacle;
use dfs_tests::nemesis::schedule::Kind;
use dfs_tests::proc::{exclusive, fuse_or_skip, number};
use std::time::Duration;

fn settings(kind: Kind, seconds: u64, rounds: usize) -> Settings {
    Settings {
        seed: number("DFS_SEED", 1) as u64,
        length: Duration::from_secs(seconds),
        rounds,
        kind,
        nodes: 5,
        program: env!("CARGO_BIN_EXE_nemesis").into(),
        plant: None,
    }
}

fn can_run(test: &str) -> bool {
    if !fuse_or_skip(test) {
        return false;
    }
    if let Some(why) = obstacle() {
        println!("SKIPPED {test}: {why}");
        return false;
    }
    true
}

#[test]
fn programs_see_nothing_wrong_under_faults_of_every_kind() {
    if !can_run("nemesis") {
        return;
    }
    let _alone = exclusive();
    let report = run(&settings(Kind::Mixed, 15, 6)).unwrap();
    println!("\n{report}");
    assert!(report.anomalies.is_empty(), "{:#?}", report.anomalies);
    assert!(report.rounds > 1);
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    if !can_run("nemesis with power cuts") {
        return;
    }
    let _alone = exclusive();
    let report = run(&settings(Kind::Power, 60, 3)).unwrap();
    println!("\n{report}");
    assert!(report.anomalies.is_empty(), "{:#?}", report.anomalies);
    assert_eq!(report.rounds, 3);
}

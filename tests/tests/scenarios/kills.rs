//! Daemons killed under load: no error, no long stall, nothing acknowledged lost.
use dfs_tests::proc::load::{Load, verify};
use dfs_tests::proc::{Cluster, Mount, cluster::holders, exclusive, fuse_or_skip, wait_for};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn wait_progress(load: &Load, files: usize) {
    let had = load.seen().acked.len();
    wait_for("the load to make progress", 30 * SECOND, || {
        load.seen().acked.len() >= had + files
    })
    .unwrap();
}

/// Kills `victim` under load and returns the longest stall.
fn kill_under_load(cluster: &Cluster, mount: &Mount, victim: u8) -> Duration {
    let load = Load::start(&mount.join("load"), 4, 300_000);
    wait_progress(&load, 20);
    load.reset_stall();
    cluster.kill(victim).unwrap();
    wait_progress(&load, 60);
    let seen = load.stop();
    assert_eq!(seen.errors, Vec::<String>::new());
    verify(&seen.acked).unwrap();
    seen.stall
}

#[test]
fn a_killed_replica_is_not_noticed() {
    if !fuse_or_skip("a killed replica") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    std::fs::write(mount.join("probe"), "x").unwrap();
    let leader = cluster.leader().unwrap();
    let holding = holders(&cluster, "/probe").unwrap();
    let victim = *holding
        .iter()
        .find(|n| **n != leader)
        .expect("two holders do not lead");
    assert_eq!(holding.len(), 3);
    let stall = kill_under_load(&cluster, &mount, victim);
    println!("replica killed: longest stall {stall:?}");
    assert!(stall <= 2 * SECOND, "{stall:?}");
    assert_eq!(cluster.leader().unwrap(), leader);
    mount.unmount().unwrap();
}

#[test]
fn a_killed_master_costs_a_short_pause() {
    if !fuse_or_skip("a killed master") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let leader = cluster.leader().unwrap();
    let stall = kill_under_load(&cluster, &mount, leader);
    println!("master killed: longest stall {stall:?}");
    assert!(stall <= 3 * SECOND, "{stall:?}");
    assert_ne!(cluster.leader().unwrap(), leader);
    mount.unmount().unwrap();
}

#[test]
fn each_daemon_killed_and_restarted_in_turn_loses_nothing() {
    if !fuse_or_skip("rolling kills") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let load = Load::start(&mount.join("load"), 2, 100_000);
    let mut led = 0;
    for round in 0..20u8 {
        let victim = round % 5 + 1;
        led += u32::from(cluster.leader().unwrap() == victim);
        cluster.kill(victim).unwrap();
        wait_progress(&load, 5);
        cluster.restart(victim).unwrap();
        wait_progress(&load, 5);
    }
    let seen = load.stop();
    println!(
        "20 rounds: {} acknowledged, victim led {led} times, longest stall {:?}",
        seen.acked.len(),
        seen.stall
    );
    assert_eq!(seen.errors, Vec::<String>::new());
    mount.unmount().unwrap();
    let again = Mount::new(&cluster, "mnt").unwrap();
    verify(&seen.acked).unwrap();
    again.unmount().unwrap();
}

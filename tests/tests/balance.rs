//! Balance in use: reads spread over the replicas, and a node with a slow disk costs programs little
//! and gets no new copies.
//!
//! `DFS_BALANCE_ROUNDS` sets how often each thing is measured.
#![allow(clippy::unwrap_used)]
use dfs_tests::proc::load::bytes;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number, wait_for};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const FILE: usize = 100_000;
/// Milliseconds by which each operation of the slow disk takes longer: some hundred times.
const SLOW_MS: u32 = 60;

fn stores(cluster: &Cluster) -> Vec<Value> {
    let status = cluster.status().unwrap_or_default();
    status["stores"].as_array().cloned().unwrap_or_default()
}

fn read_bytes(cluster: &Cluster) -> Vec<u64> {
    let stores = stores(cluster);
    stores
        .iter()
        .map(|s| s["read_bytes"].as_u64().unwrap())
        .collect()
}

fn p99(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took[took.len() * 99 / 100].as_secs_f64() * 1000.0
}

/// The 99th percentile, in milliseconds, of writes and of cold reads of `files` files.
fn measure(cluster: &Cluster, dir: &str, files: u64) -> (f64, f64) {
    let mount = Mount::new(cluster, &format!("w{dir}")).unwrap();
    let timed = |run: &dyn Fn(&Path), i: u64, below: &Path| {
        let at = Instant::now();
        run(&below.join(format!("f{i}")));
        at.elapsed()
    };
    let below = mount.join(dir);
    std::fs::create_dir(&below).unwrap();
    let write = |i: u64| timed(&|p| std::fs::write(p, bytes(i, FILE)).unwrap(), i, &below);
    // The first ones tell the client who is how fast.
    let _: Vec<_> = (0..20).map(|i| write(90_000 + i)).collect();
    let writes = p99((0..files).map(write).collect());
    mount.unmount().unwrap();
    let cold = Mount::new(cluster, &format!("r{dir}")).unwrap();
    let below = cold.join(dir);
    let read = |i: u64| {
        let check = |p: &Path| assert!(std::fs::read(p).unwrap() == bytes(i, FILE), "file {i}");
        timed(&check, i, &below)
    };
    let _: Vec<_> = (0..20).map(|i| read(90_000 + i)).collect();
    let reads = p99((0..files).map(read).collect());
    cold.unmount().unwrap();
    (writes, reads)
}

#[test]
fn reads_spread_over_the_replicas_and_a_slow_disk_costs_little() {
    if !fuse_or_skip("balance in use") {
        return;
    }
    let _alone = exclusive();
    let files = number("DFS_BALANCE_ROUNDS", 150) as u64;
    let cluster = Cluster::start(5).unwrap();
    let (writes, reads) = measure(&cluster, "before", files);
    wait_for("stores told what was read", 10 * SECOND, || {
        read_bytes(&cluster).iter().sum::<u64>() >= files * FILE as u64
    })
    .unwrap();
    let served = read_bytes(&cluster);
    let mean = served.iter().sum::<u64>() as f64 / served.len() as f64;
    let most = *served.iter().max().unwrap() as f64 / mean;
    // Of few files, chance alone puts many more on one node now and then.
    let bound = if files >= 1000 { 1.5 } else { 2.5 };
    assert!(most <= bound, "{served:?}: {most:.2} times the mean");

    // A node that does not lead gets a slow disk.
    let leader = cluster.leader().unwrap();
    let slow = if leader == 5 { 4 } else { 5 };
    let config =
        format!("[store]\ntest_slow_disk_ms = {SLOW_MS}\n[repair]\ndelete_grace_ms = 2000\n");
    let own = cluster.dev_dir().join(format!("node{slow}.toml"));
    std::fs::write(own, config).unwrap();
    cluster.kill(slow).unwrap();
    cluster.restart(slow).unwrap();
    cluster.wait_health("HEALTHY", 60 * SECOND).unwrap();
    let (slow_writes, slow_reads) = measure(&cluster, "slow", files);
    let marked = || {
        stores(&cluster)
            .iter()
            .filter(|s| s["slow"] == true)
            .count()
            == 1
    };
    wait_for("one node is marked", 20 * SECOND, marked).unwrap();
    assert!(cluster.tools(&["status"]).unwrap().contains("SLOW"));
    println!(
        "figures: reads of one node at most {most:.2} times the mean; p99 of writes {writes:.1} ms, {slow_writes:.1} ms with a slow disk; of cold reads {reads:.1} ms, {slow_reads:.1} ms"
    );
    // Times of a busy machine vary by themselves; a slow disk in the way would cost several times its delay.
    let bound = |before: f64| before.mul_add(1.5, f64::from(SLOW_MS) / 2.0);
    assert!(
        slow_writes <= bound(writes),
        "{writes} ms became {slow_writes}"
    );
    assert!(slow_reads <= bound(reads), "{reads} ms became {slow_reads}");
}

//! Balance in use: reads spread over the replicas, and a node with a slow disk costs programs little
//! and gets no new copies.
//!
//! `DFS_BALANCE_ROUNDS` sets how often each thing is measured.
use dfs_tests::proc::load::bytes;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number, wait_for};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const FILE: usize = 100_000;
/// Milliseconds by which each operation of the slow disk takes longer: some hundred times.
const SLOW_MS: u32 = 60;
/// From so many files on percentiles say something.
const FULL: u64 = 1000;

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

/// Starts a node again, with or without a slow disk.
fn restart(cluster: &Cluster, node: u8, slow_ms: u32) {
    let config =
        format!("[store]\ntest_slow_disk_ms = {slow_ms}\n[repair]\ndelete_grace_ms = 2000\n");
    let own = cluster.dev_dir().join(format!("node{node}.toml"));
    std::fs::write(own, config).unwrap();
    cluster.kill(node).unwrap();
    cluster.restart(node).unwrap();
    cluster.wait_health("HEALTHY", 60 * SECOND).unwrap();
}

/// The middle one of an odd number.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[test]
fn reads_spread_over_the_replicas_and_a_slow_disk_costs_little() {
    if !fuse_or_skip("balance in use") {
        return;
    }
    let _alone = exclusive();
    let files = number("DFS_BALANCE_ROUNDS", 150) as u64;
    let is_full = files >= FULL;
    let cluster = Cluster::start(5).unwrap();
    // A node that does not lead gets a slow disk.
    let leader = cluster.leader().unwrap();
    let slow = if leader == 5 { 4 } else { 5 };
    let mut well = Vec::new();
    let mut slowed = Vec::new();
    let mut most = 0.0;
    // Times of a busy machine vary by themselves: well and slow in turn.
    for round in 0..if is_full { 5 } else { 1 } {
        well.push(measure(&cluster, &format!("well{round}"), files));
        if round == 0 {
            most = unevenness(&cluster, files);
        }
        restart(&cluster, slow, SLOW_MS);
        slowed.push(measure(&cluster, &format!("slow{round}"), files));
        let marked = || {
            stores(&cluster)
                .iter()
                .filter(|s| s["slow"] == true)
                .count()
                == 1
        };
        wait_for("one node is marked", 20 * SECOND, marked).unwrap();
        assert!(cluster.tools(&["status"]).unwrap().contains("SLOW"));
        if is_full {
            restart(&cluster, slow, 0);
        }
    }
    let medians = |of: &[(f64, f64)]| {
        let writes = median(of.iter().map(|m| m.0).collect());
        (writes, median(of.iter().map(|m| m.1).collect()))
    };
    let ((writes, reads), (slow_writes, slow_reads)) = (medians(&well), medians(&slowed));
    println!(
        "\nfigures: reads of one node at most {most:.2} times the mean; p99 of writes {writes:.1} ms, {slow_writes:.1} ms with a slow disk; of cold reads {reads:.1} ms, {slow_reads:.1} ms (medians of {} rounds)",
        well.len()
    );
    // A slow disk in the way would cost several times its delay.
    let more = if is_full {
        0.0
    } else {
        f64::from(SLOW_MS) / 2.0
    };
    let bound = |before: f64| before.mul_add(1.5, more);
    assert!(slow_writes <= bound(writes), "{well:?} became {slowed:?}");
    assert!(slow_reads <= bound(reads), "{well:?} became {slowed:?}");
}

/// How many times the mean one node has served, of `files` files that were read. Of few files, chance
/// alone puts many more on one node now and then.
fn unevenness(cluster: &Cluster, files: u64) -> f64 {
    wait_for("stores told what was read", 10 * SECOND, || {
        read_bytes(cluster).iter().sum::<u64>() >= files * FILE as u64
    })
    .unwrap();
    let served = read_bytes(cluster);
    let mean = served.iter().sum::<u64>() as f64 / served.len() as f64;
    let most = *served.iter().max().unwrap() as f64 / mean;
    let bound = if files >= FULL { 1.5 } else { 2.5 };
    assert!(most <= bound, "{served:?}: {most:.2} times the mean");
    most
}

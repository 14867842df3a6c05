//! Growth: a fresh node receives its share of the bytes while programs go on, and nothing ever has
//! fewer copies than it should.
//!
//! The short form moves 40 MB; `DFS_GROWTH_MB=3000` is the full one.
use dfs_tests::proc::load::{Load, P99_FLOOR_MS, bytes, foreground, verify};
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number, wait_for};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// Bytes of a file of the data that is moved.
const FILE: usize = 500_000;
/// From so many bytes on, programs must not get slower than twice as slow meanwhile.
const FULL: usize = 1_000_000_000;

/// Bytes of objects by store, as the master hears them.
fn used(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.status().unwrap();
    let stores = status["stores"].as_array().unwrap().clone();
    stores
        .iter()
        .map(|s| s["used_bytes"].as_u64().unwrap())
        .collect()
}

/// How far the store furthest from the mean is, in percent of it.
fn off_mean(used: &[u64]) -> f64 {
    let mean = used.iter().sum::<u64>() as f64 / used.len() as f64;
    let off = |u: &u64| (*u as f64 - mean).abs() / mean * 100.0;
    used.iter().map(off).fold(0.0, f64::max)
}

#[test]
fn a_fresh_node_receives_its_share_and_nothing_has_fewer_copies_meanwhile() {
    if !fuse_or_skip("growth") {
        return;
    }
    let _alone = exclusive();
    let total = number("DFS_GROWTH_MB", 80) * 1_000_000;
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let data = mount.join("data");
    std::fs::create_dir(&data).unwrap();
    let count = total / FILE;
    for i in 0..count {
        std::fs::write(data.join(format!("f{i}")), bytes(i as u64, FILE)).unwrap();
    }
    let even = wait_for("five stores within a tenth", 60 * SECOND, || {
        off_mean(&used(&cluster)) < 10.0
    });
    even.unwrap_or_else(|e| panic!("{e}: {:?}", used(&cluster)));
    cluster.wait_health("HEALTHY", 30 * SECOND).unwrap();
    let least = if total >= FULL { 20 } else { 2 };
    let before = foreground(&mount.join("before"), least * SECOND, || true);

    let began = Instant::now();
    cluster.tools(&["dev", "up", "6"]).unwrap();
    let mut samples = 0;
    let during = foreground(&mount.join("during"), SECOND, || {
        // Health says at each sampled moment whether a group has fewer complete copies than N.
        let reasons = cluster.status().unwrap()["reasons"].to_string();
        let is_short = reasons.contains("fewer than") || reasons.contains("one copy");
        assert!(!is_short, "{reasons}");
        samples += 1;
        let used = used(&cluster);
        used.len() == 6 && off_mean(&used) < 10.0 || began.elapsed() > 4000 * SECOND
    });
    let took = began.elapsed();
    let shares = used(&cluster);
    assert!(off_mean(&shares) < 10.0, "{shares:?}");
    println!(
        "\nfigures: growth {} MB: share after {:.1} s, furthest {:.1} % off the mean, p99 {:.1} ms before and {:.1} ms during ({} writes), never below N copies in {samples} samples",
        total / 1_000_000,
        took.as_secs_f64(),
        off_mean(&shares),
        before.p99_ms,
        during.p99_ms,
        during.count,
    );
    // Too few samples say nothing of a percentile.
    if total >= FULL {
        let most = (2.0 * before.p99_ms).max(P99_FLOOR_MS);
        assert!(
            during.p99_ms <= most,
            "{before:?} before, {during:?} during"
        );
    }
    cluster.wait_health("HEALTHY", 60 * SECOND).unwrap();
    for i in 0..count {
        let got = std::fs::read(data.join(format!("f{i}"))).unwrap();
        assert_eq!(got, bytes(i as u64, FILE), "file {i}");
    }
    let load = Load::start(&mount.join("after"), 1, 10_000);
    wait_for("writes after growth", 10 * SECOND, || {
        load.seen().acked.len() > 5
    })
    .unwrap();
    let seen = load.stop();
    assert_eq!(seen.errors, [] as [String; 0]);
    verify(&seen.acked).unwrap();
    mount.unmount().unwrap();
}

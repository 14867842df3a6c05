//! A node is taken out of service while programs write: drained, stopped, removed; nobody notices.
//!
//! `DFS_LEAVING_FILES=3000` is the full form.
use dfs_tests::proc::load::{Load, bytes, verify};
use dfs_tests::proc::{Cluster, Mount, exclusive, fsck_clean, fuse_or_skip, number, wait_for};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Nothing is repaired while a node is down for the questions; the vote goes on soon.
const CONFIG: &str = "[repair]\ngrace_ms = 600000\nvoter_grace_ms = 1500\ndelete_grace_ms = 2000\n";

fn exit_code(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = cluster.tools_output(args).unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Groups that count a node's store, as `status` says.
fn groups_of(cluster: &Cluster, node: &str) -> Option<u64> {
    let status = cluster.status().ok()?;
    let mut stores = status["stores"].as_array()?.iter();
    stores.find(|s| s["node"] == node)?["pgs"].as_u64()
}

#[test]
fn a_node_is_drained_stopped_and_removed_under_writes_and_nobody_notices() {
    if !fuse_or_skip("a_node_is_drained_stopped_and_removed_under_writes_and_nobody_notices") {
        return;
    }
    let _alone = exclusive();
    let count = number("DFS_LEAVING_FILES", 60);
    let cluster = Cluster::start_with(5, CONFIG).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let data = mount.join("data");
    std::fs::create_dir(&data).unwrap();
    let len = |i: usize| 3000 + i * 977 % 100_000;
    for i in 0..count {
        std::fs::write(data.join(format!("f{i}")), bytes(i as u64, len(i))).unwrap();
    }
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    // One that votes has more to give away; the other is only away for a moment.
    let (leader, voters) = (cluster.leader().unwrap(), cluster.voters().unwrap());
    let leaver = *voters.iter().find(|v| **v != leader).unwrap();
    let other = (1..=5).find(|n| !voters.contains(n)).unwrap();
    let leaving = leaver.to_string();
    let id = cluster.json(&["id", &leaving]).unwrap();
    let node = id["node"].as_str().unwrap().to_owned();
    let load = Load::start(&mount.join("load"), 2, 40_000);
    wait_for("a load", 10 * SECOND, || load.seen().acked.len() > 10).unwrap();
    load.reset_stall();

    // Full: it can be stopped while all others are up, and not while one is away.
    let (code, said) = exit_code(&cluster, &["safe-to-stop", &leaving]);
    assert_eq!(code, Some(0), "{said}");
    cluster.kill(other).unwrap();
    let mut said = String::new();
    let unsafe_now = wait_for("unsafe", 20 * SECOND, || {
        let (code, words) = exit_code(&cluster, &["safe-to-stop", &leaving]);
        said = words;
        code == Some(1) && said.contains("placement groups")
    });
    unsafe_now.unwrap_or_else(|e| panic!("{e}: {said}"));
    cluster.restart(other).unwrap();
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let (code, said) = exit_code(&cluster, &["remove", &leaving]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("drain"), "{said}");

    let began = Instant::now();
    cluster.tools(&["drain", &leaving]).unwrap();
    let drained = began.elapsed();
    assert_eq!(groups_of(&cluster, &node), Some(0));
    wait_for("another voter", MINUTE, || {
        let voters = cluster.voters().unwrap_or_default();
        voters.len() == 3 && !voters.contains(&leaver)
    })
    .unwrap();
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let during = load.seen();

    // Empty: nothing depends on it any more, even while another one is away.
    cluster.kill(other).unwrap();
    let (code, said) = exit_code(&cluster, &["safe-to-stop", &leaving]);
    assert_eq!(code, Some(0), "{said}");
    cluster.restart(other).unwrap();
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let (code, said) = exit_code(&cluster, &["remove", &leaving]);
    assert_eq!(code, Some(1), "it still runs: {said}");
    cluster.kill(leaver).unwrap();
    let mut said = String::new();
    let removed = wait_for("removed", 30 * SECOND, || {
        let (code, words) = exit_code(&cluster, &["remove", &node]);
        said = words;
        code == Some(0)
    });
    removed.unwrap_or_else(|e| panic!("{e}: {said}"));
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let status = cluster.status().unwrap();
    assert_eq!(status["stores"].as_array().unwrap().len(), 4, "{status:#}");
    let after = load.seen().acked.len();
    let goes_on = || load.seen().acked.len() > after + 5;
    wait_for("writes after it", 10 * SECOND, goes_on).unwrap();
    let seen = load.stop();
    println!(
        "\nfigures: drained in {drained:?}; {} files written until then, {} in all; longest stall {:?} ({:?} until drained), {} errors",
        during.acked.len(),
        seen.acked.len(),
        seen.stall,
        during.stall,
        seen.errors.len()
    );
    assert_eq!(seen.errors, [] as [String; 0]);
    assert!(seen.stall < 10 * SECOND, "{:?}", seen.stall);
    verify(&seen.acked).unwrap();
    mount.unmount().unwrap();
    let cold = Mount::new(&cluster, "mnt").unwrap();
    verify(&seen.acked).unwrap();
    for i in 0..count {
        let got = std::fs::read(cold.join(format!("data/f{i}"))).unwrap();
        assert!(got == bytes(i as u64, len(i)), "f{i}");
    }
    cold.unmount().unwrap();
    let report = fsck_clean(&cluster).unwrap();
    println!("fsck: 0 problems, {}", report.checked);
}

//! Tables that rot while a daemon runs: beyond what heals, the store is set aside and filled again, and
//! nobody notices but the operator.
use dfs_tests::proc::{Cluster, exclusive, sh, wait_for};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const PAGE: u64 = 4096;

/// Damages every page but the first, in both places, each in another way.
fn rot(store: &Path) -> u64 {
    let mut pages = 0;
    for (name, at) in [("tables.redb", 100), ("tables.redb.copy", 200)] {
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).open(store.join(name));
        let file = file.unwrap();
        pages = file.metadata().unwrap().len() / PAGE;
        for page in 1..pages {
            file.write_all_at(&[0x5a; 64], page * PAGE + at).unwrap();
        }
        file.sync_all().unwrap();
    }
    pages
}

#[test]
fn tables_that_rot_under_a_running_daemon_are_set_aside_and_nothing_is_lost() {
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let local = cluster.scratch().join("files");
    std::fs::create_dir(&local).unwrap();
    for n in 0..60 {
        let content = format!("<file {n}>").repeat(1500);
        std::fs::write(local.join(n.to_string()), content).unwrap();
    }
    let put = ["put", "-r", local.to_str().unwrap(), "/"];
    cluster.tools(&put).unwrap();
    let leader = cluster.leader().unwrap();
    let victim = if leader == 3 { 2 } else { 3 };
    // A clean stop writes the tables out.
    let about = |cluster: &Cluster| {
        let nodes = cluster.nodes().unwrap();
        nodes.into_iter().find(|n| n.node == victim).unwrap()
    };
    let pid = about(&cluster).pid.unwrap();
    sh(&format!("kill {pid}")).unwrap();
    wait_for("a clean stop", 20 * SECOND, || {
        about(&cluster).pid.is_none()
    })
    .unwrap();
    cluster.restart(victim).unwrap();
    let data = about(&cluster).data_dir;
    cluster.wait_health("HEALTHY", 30 * SECOND).unwrap();
    let pages = rot(&data.join("store"));
    let began = Instant::now();
    cluster.tools(&["scrub", "start"]).unwrap();
    let log = || cluster.log(victim).unwrap_or_default();
    wait_for("a store set aside", 20 * SECOND, || {
        data.join("store.damaged-1").exists()
    })
    .unwrap_or_else(|e| panic!("{e}: {}", log()));
    for words in [
        "the store is damaged: starting again without it",
        "store set aside",
    ] {
        wait_for(words, 20 * SECOND, || log().contains(words))
            .unwrap_or_else(|e| panic!("{e}: {}", log()));
    }
    // Only the new daemon says that it keeps what it set aside.
    wait_for("a status that tells of it", 20 * SECOND, || {
        let status = cluster.tools(&["status"]).unwrap_or_default();
        status.contains("keeps a damaged store")
    })
    .unwrap_or_else(|e| panic!("{e}: {:?}", cluster.tools(&["status"])));
    cluster
        .wait_health("HEALTHY", 60 * SECOND)
        .unwrap_or_else(|e| panic!("{e}: {}", log()));
    println!(
        "figures: {pages} pages rotted, set aside and filled again in {:.1?}",
        began.elapsed()
    );
    cluster.tools(&["verify", "/", "-r"]).unwrap();
}

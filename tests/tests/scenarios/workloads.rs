//! The workloads of the nemesis on two mounts of a cluster that is well: nothing may be wrong, and what is
//! damaged behind their back must be found. `DFS_WORKLOAD_SECONDS` makes it longer.
use dfs_tests::nemesis::workloads::Workloads;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn mounted(test: &str) -> Option<(Cluster, [Mount; 2])> {
    if !fuse_or_skip(test) {
        return None;
    }
    let cluster = Cluster::start(3).unwrap();
    let mounts = ["a", "b"].map(|name| Mount::new(&cluster, name).unwrap());
    Some((cluster, mounts))
}

/// Takes back acknowledged changes, in every workload's directory.
fn damage(dir: &Path) {
    std::fs::remove_file(dir.join("registers/r0")).unwrap();
    let truncate = |name: &str, part: u64| {
        let file = File::options().write(true).open(dir.join(name)).unwrap();
        file.set_len(file.metadata().unwrap().len() * part / 4)
            .unwrap();
    };
    truncate("inplace/p0", 0);
    truncate("appends/a0", 0);
    truncate("logs/l0", 3);
    truncate("locks/c0", 0);
    std::fs::remove_file(dir.join("exclusive/x0")).unwrap();
    for tree in ["pingpong/t0/n2", "trees/t0/n2"] {
        // It was there or not: now it is the other way.
        match std::fs::symlink_metadata(dir.join(tree)) {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(dir.join(tree)).unwrap(),
            Ok(_) => std::fs::remove_file(dir.join(tree)).unwrap(),
            Err(_) => std::fs::create_dir(dir.join(tree)).unwrap(),
        }
    }
}

#[test]
fn programs_on_two_mounts_see_one_order_and_planted_damage_is_found() {
    let _alone = exclusive();
    let Some((_cluster, mounts)) = mounted("workloads") else {
        return;
    };
    let paths: Vec<PathBuf> = mounts.iter().map(|m| m.path().to_owned()).collect();
    let seconds = number("DFS_WORKLOAD_SECONDS", 4) as u64;

    let workloads = Workloads::start(&paths, 1);
    std::thread::sleep(Duration::from_secs(seconds));
    let report = workloads.stop_and_verify(&paths);
    println!("figures: {seconds} s on two mounts\n{report}");
    assert!(report.anomalies.is_empty(), "{report}");
    let of = |name: &str| report.rows[name].figures.ok;
    assert!(report.rows.keys().all(|name| of(name) > 20), "{report}");

    let workloads = Workloads::start(&paths, 2);
    std::thread::sleep(Duration::from_secs(2));
    let dir = workloads.dir().to_owned();
    let report = workloads.stop_then(&paths, || damage(&paths[0].join(&dir)));
    println!("figures: damaged behind their back\n{report}");
    for (name, row) in &report.rows {
        assert!(
            row.verdict.is_err(),
            "damage of {name} was not seen:\n{report}"
        );
    }
    for mount in mounts {
        mount.unmount().unwrap();
    }
}

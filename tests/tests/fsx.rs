//! `fsx`: random reads, writes, mappings, truncations, holes and copies against a model in memory.
//!
//! `DFS_FSX_SEEDS` and `DFS_FSX_OPS` make it longer.
#![allow(clippy::unwrap_used)]
use dfs_tests::proc::suite::{FSX, suite};
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip};
use std::process::Command;

/// Every operation that the suite has.
const WEIGHTS: &str = "[weights]\nclose_open = 1\ninvalidate = 1\nmapread = 10\nmapwrite = 10\n\
    read = 10\nwrite = 10\ntruncate = 5\nfsync = 1\nfdatasync = 1\nposix_fallocate = 3\n\
    punch_hole = 5\nsendfile = 5\nposix_fadvise = 1\ncopy_file_range = 5\n";

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |v| v.parse().expect("a number"))
}

/// Sizes of the file and of one operation: small, and over several chunks.
fn config(seed: u64) -> String {
    let (file, op) = if seed.is_multiple_of(3) {
        (12 << 20, 1 << 20)
    } else {
        (256 << 10, 64 << 10)
    };
    format!("flen = {file}\n[opsize]\nmax = {op}\n{WEIGHTS}")
}

#[test]
fn no_random_operation_shows_other_bytes_than_a_local_file_would() {
    if !fuse_or_skip("no_random_operation_shows_other_bytes_than_a_local_file_would") {
        return;
    }
    let _alone = exclusive();
    let fsx = suite(FSX).unwrap();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "fsx").unwrap();
    let (seeds, ops) = (number("DFS_FSX_SEEDS", 3), number("DFS_FSX_OPS", 5000));
    for seed in 1..=seeds {
        let toml = cluster.scratch().join("fsx.toml");
        std::fs::write(&toml, config(seed)).unwrap();
        let began = std::time::Instant::now();
        let output = Command::new(&fsx)
            .arg("-f")
            .arg(&toml)
            .args(["-N", &ops.to_string(), "-S", &seed.to_string(), "-P"])
            .args([cluster.scratch(), &mount.join(format!("f{seed}"))])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        println!("fsx seed {seed}: {ops} operations in {:?}", began.elapsed());
        let end: Vec<&str> = said.lines().rev().take(40).collect();
        assert!(output.status.success(), "seed {seed}: {end:#?}");
    }
    mount.unmount().unwrap();
}

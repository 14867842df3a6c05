//! `fsx`: random reads, writes, mappings, truncations, holes and copies against a model in memory.
//!
//! `DFS_FSX_SEEDS` and `DFS_FSX_OPS` make it longer; `DFS_FSX_KILLING_SECONDS` says for how long it goes on
//! while daemons are killed and started.
use dfs_tests::proc::suite::{FSX, suite};
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Every operation that the suite has.
const WEIGHTS: &str = "[weights]\nclose_open = 1\ninvalidate = 1\nmapread = 10\nmapwrite = 10\n\
    read = 10\nwrite = 10\ntruncate = 5\nfsync = 1\nfdatasync = 1\nposix_fallocate = 3\n\
    punch_hole = 5\nsendfile = 5\nposix_fadvise = 1\ncopy_file_range = 5\n";

/// Sizes of the file and of one operation: small, and over several chunks.
fn config(seed: usize) -> String {
    let (file, op) = if seed.is_multiple_of(3) {
        (12 << 20, 1 << 20)
    } else {
        (256 << 10, 64 << 10)
    };
    format!("flen = {file}\n[opsize]\nmax = {op}\n{WEIGHTS}")
}

/// One run over a file of its own.
fn run(fsx: &Path, cluster: &Cluster, mount: &Mount, seed: usize) {
    let ops = number("DFS_FSX_OPS", 5000);
    let toml = cluster.scratch().join("fsx.toml");
    std::fs::write(&toml, config(seed)).unwrap();
    let began = Instant::now();
    let output = Command::new(fsx)
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

#[test]
fn no_random_operation_shows_other_bytes_than_a_local_file_would() {
    if !fuse_or_skip("no_random_operation_shows_other_bytes_than_a_local_file_would") {
        return;
    }
    let _alone = exclusive();
    let fsx = suite(FSX).unwrap();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "fsx").unwrap();
    for seed in 1..=number("DFS_FSX_SEEDS", 2) {
        run(&fsx, &cluster, &mount, seed);
    }
    mount.unmount().unwrap();
}

/// Kills and starts one daemon after the other, one every `pause`, until told to stop.
fn kill_in_turn(cluster: &Cluster, pause: Duration, stop: &AtomicBool) -> usize {
    let mut kills = 0;
    let mut next = Instant::now() + pause / 4;
    while !stop.load(Ordering::Acquire) {
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let victim = u8::try_from(kills % 5 + 1).unwrap();
        cluster.kill(victim).unwrap();
        std::thread::sleep(pause / 4);
        cluster.restart(victim).unwrap();
        kills += 1;
        next += pause;
    }
    kills
}

#[test]
fn no_random_operation_shows_other_bytes_while_daemons_are_killed() {
    let seconds = number("DFS_FSX_KILLING_SECONDS", 0) as u64;
    if seconds == 0 || !fuse_or_skip("fsx while daemons are killed") {
        return;
    }
    let _alone = exclusive();
    let fsx = suite(FSX).unwrap();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "fsx").unwrap();
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (seeds, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_in_turn(&cluster, Duration::from_secs(20), &stop));
        let mut seed = 100;
        while began.elapsed() < Duration::from_secs(seconds) && !killer.is_finished() {
            // A failed seed ends the killer too.
            let ran = catch_unwind(AssertUnwindSafe(|| run(&fsx, &cluster, &mount, seed)));
            if let Err(why) = ran {
                stop.store(true, Ordering::Release);
                resume_unwind(why);
            }
            seed += 1;
        }
        stop.store(true, Ordering::Release);
        (seed - 100, killer.join().unwrap())
    });
    println!("while killing {kills} daemons: {seeds} more seeds");
    assert!(kills as u64 >= seconds / 20, "{kills}");
    mount.unmount().unwrap();
}

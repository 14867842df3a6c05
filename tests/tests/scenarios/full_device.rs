//! Devices that are really full: by our own bytes, and by somebody else's down to the last one.
//!
//! The short forms have devices of 100 and 220 MB; `DFS_FULL_DEVICE_MB` sets the size of the shared one.
use dfs_tests::proc::load::bytes;
use dfs_tests::proc::{Cluster, Mount, Tmpfs, exclusive, fuse_or_skip, number, wait_for};
use std::fs::File;
use std::io::{Error, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// Bytes of a file.
const FILE: usize = 1_000_000;
const CONFIG: &str = "[repair]\ndelete_grace_ms = 1000\n";

fn write(path: &Path, seed: u64) -> Result<(), Error> {
    let mut file = File::create(path)?;
    file.write_all(&bytes(seed, FILE))?;
    file.sync_all()
}

fn name(dir: &Path, i: u64) -> std::path::PathBuf {
    dir.join(format!("f{i}"))
}

/// Writes files until there is no room; those that were acknowledged.
fn fill(dir: &Path, seed: u64) -> Vec<u64> {
    let mut acked = Vec::new();
    for i in seed.. {
        match write(&name(dir, i), i) {
            Ok(()) => acked.push(i),
            Err(e) => {
                assert_full(&e, &format!("file {i}"));
                // What was not acknowledged is no file of ours.
                let _ = std::fs::remove_file(name(dir, i));
                break;
            }
        }
    }
    acked
}

fn assert_full(e: &Error, what: &str) {
    let full = rustix::io::Errno::NOSPC.raw_os_error();
    assert_eq!(e.raw_os_error(), Some(full), "{what}: {e}");
}

fn verify(dir: &Path, acked: &[u64]) {
    for i in acked {
        let got = std::fs::read(name(dir, *i)).unwrap_or_else(|e| panic!("f{i}: {e}"));
        assert!(got == bytes(*i, FILE), "acknowledged file {i} is torn");
    }
}

fn room(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bavail * stat.f_frsize
}

fn assert_unhurt(cluster: &Cluster, nodes: std::ops::RangeInclusive<u8>) {
    for i in nodes {
        let log = cluster.log(i).unwrap_or_default();
        for bad in [
            "panicked",
            "store failed",
            "set aside",
            "this voter has stopped",
        ] {
            assert!(!log.contains(bad), "node {i} said: {bad}\n{log}");
        }
    }
}

#[test]
fn a_node_whose_device_somebody_fills_stops_nobody_and_comes_back_by_itself() {
    if !fuse_or_skip("a really full device of one node") {
        return;
    }
    let _alone = exclusive();
    let small = |dir: &Path| Ok(vec![Tmpfs::new(&dir.join("node5"), 100)?]);
    let cluster = Cluster::start_on(5, CONFIG, small).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let dir = mount.join("d");
    std::fs::create_dir(&dir).unwrap();
    for i in 0..10 {
        write(&name(&dir, i), i).unwrap();
    }
    let taken = cluster.devices()[0].fill("other").unwrap();
    for i in 10..25 {
        write(&name(&dir, i), i).unwrap();
    }
    for i in 0..5 {
        std::fs::remove_file(name(&dir, i)).unwrap();
    }
    // Nor does it need room to start.
    cluster.kill(5).unwrap();
    cluster.restart(5).unwrap();
    for i in 25..30 {
        write(&name(&dir, i), i).unwrap();
    }
    let all: Vec<u64> = (5..30).collect();
    verify(&dir, &all);
    std::fs::remove_file(cluster.devices()[0].path().join("other")).unwrap();
    let took = cluster.wait_health("HEALTHY", 60 * SECOND).unwrap();
    wait_for("every object has its room", 30 * SECOND, || {
        let status = cluster.status().unwrap_or_default();
        let stores = status["stores"].as_array().cloned().unwrap_or_default();
        stores.len() == 5 && stores.iter().all(|s| s["starved"] == 0)
    })
    .unwrap();
    verify(&dir, &all);
    assert_unhurt(&cluster, 1..=5);
    println!(
        "figures: one node's device full by {taken} foreign bytes: all writes went on; healthy {:.1} s after they went",
        took.as_secs_f64()
    );
    mount.unmount().unwrap();
}

#[test]
fn on_a_device_that_is_full_for_all_nothing_is_lost_and_room_that_comes_is_used() {
    if !fuse_or_skip("a really full device of all nodes") {
        return;
    }
    let _alone = exclusive();
    let mb = number("DFS_FULL_DEVICE_MB", 220);
    let shared = |dir: &Path| Ok(vec![Tmpfs::new(dir, mb)?]);
    let cluster = Cluster::start_on(5, CONFIG, shared).unwrap();
    let device = &cluster.devices()[0];
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let dir = mount.join("d");
    std::fs::create_dir(&dir).unwrap();
    wait_for("df knows all stores", 10 * SECOND, || {
        room(mount.path()) > 0
    })
    .unwrap();
    let promised = room(mount.path());

    // History goes first.
    for i in 0..4 {
        write(&dir.join("many"), 91_000 + i).unwrap();
    }
    let began = Instant::now();
    let acked = fill(&dir, 0);
    let filled = began.elapsed();
    let written = (acked.len() * FILE) as u64;
    assert!(
        written * 100 >= promised * 75 && written * 100 <= promised * 125,
        "{written} of {promised} bytes that df promised"
    );
    let versions = std::fs::read_dir(dir.join(".versions/many")).unwrap();
    assert_eq!(
        versions.count(),
        1,
        "old versions go before a writer is refused"
    );

    // Somebody else takes the rest, to the last byte.
    let taken = device.fill("other").unwrap();
    let refused = write(&dir.join("more"), 1).expect_err("there is no room");
    assert_full(&refused, "with the device full to the last byte");
    let _ = std::fs::remove_file(dir.join("more"));
    verify(&dir, &acked);
    std::fs::create_dir(dir.join("sub")).unwrap();
    std::fs::rename(name(&dir, 0), dir.join("sub/f0")).unwrap();
    std::fs::rename(dir.join("sub/f0"), name(&dir, 0)).unwrap();
    cluster.kill(2).unwrap();
    cluster.restart(2).unwrap();

    // What is deleted gives room, at first to those that keep the cluster going.
    let (freed, rest) = acked.split_at(acked.len() / 2);
    for i in freed {
        std::fs::remove_file(name(&dir, *i)).unwrap();
    }
    std::fs::remove_file(device.path().join("other")).unwrap();
    let took = wait_for("a write after room came", 30 * SECOND, || {
        write(&dir.join("again"), 2).is_ok()
    })
    .unwrap();
    let more = fill(&dir, 10_000);
    assert!(
        more.len() * 10 >= freed.len() * 6,
        "{} files after {} were deleted",
        more.len(),
        freed.len()
    );
    verify(&dir, rest);
    verify(&dir, &more);
    assert_unhurt(&cluster, 1..=5);
    println!(
        "figures: a shared device of {mb} MB: df promised {promised} bytes, {written} were written in {:.1} s, {taken} foreign bytes took the rest; writes again {:.1} s after room came, {} files after {} were deleted",
        filled.as_secs_f64(),
        took.as_secs_f64(),
        more.len(),
        freed.len()
    );
    mount.unmount().unwrap();
}

//! A full cluster: ENOSPC before any ack, history goes first, deletes work, and room made is used
//! again without hands.
//!
//! The short form has stores of 60 MB; `DFS_FULL_STORE_MB` sets another size.
use dfs_tests::proc::load::bytes;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number, wait_for};
use std::fs::File;
use std::io::{Error, Write};
use std::path::Path;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Bytes of a file.
const FILE: usize = 1_000_000;

fn write(path: &Path, seed: u64) -> Result<(), Error> {
    let mut file = File::create(path)?;
    file.write_all(&bytes(seed, FILE))?;
    file.sync_all()
}

/// Writes files until there is no room; those that were acknowledged.
fn fill(dir: &Path, seed: u64) -> Vec<u64> {
    let mut acked = Vec::new();
    for i in seed.. {
        match write(&dir.join(format!("f{i}")), i) {
            Ok(()) => acked.push(i),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc_enospc()), "file {i}: {e}");
                // What was not acknowledged is no file of ours.
                let _ = std::fs::remove_file(dir.join(format!("f{i}")));
                return acked;
            }
        }
    }
    acked
}

fn libc_enospc() -> i32 {
    rustix::io::Errno::NOSPC.raw_os_error()
}

fn verify(dir: &Path, acked: &[u64]) {
    for i in acked {
        let got = std::fs::read(dir.join(format!("f{i}"))).unwrap();
        assert!(got == bytes(*i, FILE), "acknowledged file {i} is torn");
    }
}

fn room(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_full_cluster_refuses_before_any_ack_and_recovers_without_hands() {
    if !fuse_or_skip("a full cluster") {
        return;
    }
    let _alone = exclusive();
    let size = number("DFS_FULL_STORE_MB", 60) * 1_000_000;
    let config = format!("[store]\ncapacity_bytes = {size}\n");
    let cluster = Cluster::start_with(5, &config).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let dir = mount.join("d");
    std::fs::create_dir(&dir).unwrap();
    wait_for("df knows all stores", 10 * SECOND, || {
        room(mount.path()) > size as u64 * 3 / 2
    })
    .unwrap();
    let promised = room(mount.path());

    // History, in the order in which it shall go: deleted names, then old versions.
    for i in 0..8 {
        write(&dir.join(format!("gone{i}")), 90_000 + i).unwrap();
        std::fs::remove_file(dir.join(format!("gone{i}"))).unwrap();
    }
    for i in 0..4 {
        write(&dir.join("many"), 91_000 + i).unwrap();
    }
    let acked = fill(&dir, 0);
    let written = (acked.len() * FILE) as u64;
    assert!(
        written * 100 >= promised * 80 && written * 100 <= promised * 125,
        "{written} of {promised} bytes that df promised"
    );
    let versions = std::fs::read_dir(dir.join(".versions/many"))
        .unwrap()
        .count();
    assert_eq!(versions, 1, "old versions go before a writer is refused");
    let names = std::fs::read_dir(dir.join(".versions")).unwrap();
    let gone = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("gone");
    assert_eq!(names.flatten().filter(gone).count(), 0);

    // All but new bytes goes on.
    verify(&dir, &acked);
    std::fs::create_dir(dir.join("sub")).unwrap();
    File::create(dir.join("empty")).unwrap();
    std::fs::rename(dir.join("empty"), dir.join("sub/empty")).unwrap();
    assert_eq!(
        std::fs::metadata(dir.join("f0")).unwrap().len(),
        FILE as u64
    );

    // What is deleted can be written again.
    let (freed, rest) = acked.split_at(acked.len() / 4);
    for i in freed {
        std::fs::remove_file(dir.join(format!("f{i}"))).unwrap();
    }
    let more = fill(&dir, 10_000);
    assert!(
        more.len() * 10 >= freed.len() * 6,
        "{} files after {} were deleted",
        more.len(),
        freed.len()
    );
    verify(&dir, rest);
    verify(&dir, &more);

    // So can what a node with room takes.
    cluster.tools(&["dev", "up", "6"]).unwrap();
    let mut refused = None;
    let took = wait_for("writes with a sixth node", 60 * SECOND, || {
        refused = write(&dir.join("sixth"), 77).err();
        refused.is_none()
    })
    .unwrap_or_else(|e| {
        let real = room(cluster.scratch());
        panic!("{e}: {refused:?}, {real} bytes free below the stores")
    });
    cluster.wait_health("HEALTHY", 120 * SECOND).unwrap();
    verify(&dir, rest);
    println!(
        "figures: full stores of {} MB: {promised} bytes promised by df, {written} written; {} files after {} were deleted; a sixth node's room after {:.1} s",
        size / 1_000_000,
        more.len(),
        freed.len(),
        took.as_secs_f64()
    );
    mount.unmount().unwrap();
}

#[test]
fn one_full_node_stops_nobody_and_is_relieved() {
    if !fuse_or_skip("one full node") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start_with(5, "[store]\ncapacity_bytes = 200000000\n").unwrap();
    // The fifth comes back with hardly any room.
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let dir = mount.join("d");
    std::fs::create_dir(&dir).unwrap();
    for i in 0..20 {
        write(&dir.join(format!("f{i}")), i).unwrap();
    }
    let own = "[store]\ncapacity_bytes = 14000000\n";
    std::fs::write(cluster.dev_dir().join("node5.toml"), own).unwrap();
    cluster.kill(5).unwrap();
    cluster.restart(5).unwrap();
    for i in 20..50 {
        write(&dir.join(format!("f{i}")), i).unwrap();
    }
    // Its groups have moved to where there is room, and nothing lacks a copy.
    cluster.wait_health("HEALTHY", 90 * SECOND).unwrap();
    wait_for("every object has its room", 60 * SECOND, || {
        let status = cluster.status().unwrap_or_default();
        let stores = status["stores"].as_array().cloned().unwrap_or_default();
        stores.len() == 5 && stores.iter().all(|s| s["starved"] == 0)
    })
    .unwrap();
    let all: Vec<u64> = (0..50).collect();
    verify(&dir, &all);
    mount.unmount().unwrap();
}

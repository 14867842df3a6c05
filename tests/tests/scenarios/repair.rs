//! A node that is lost for good: its copies are made again, and the receipt says exactly what was done.
use dfs_tests::proc::busy::Machine;
use dfs_tests::proc::{
    Cluster, Mount, exclusive, fsck_clean, fuse_or_skip, load, number, wait_for,
};
use redb::{Database, ReadableDatabase, TableDefinition};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const CONFIG: &str = "[repair]\ngrace_ms = 1000\ndelete_grace_ms = 2000\n";

/// From so many files on, speed counts.
const FULL: usize = 10_000;

/// Files below a directory of at least so many bytes: larger objects lie in files of their own.
fn object_files(dir: &Path, least: usize, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => object_files(&entry.path(), least, found),
            Ok(meta) if meta.len() as usize >= least => {
                found.insert(entry.path());
            }
            _ => {}
        }
    }
}

fn objects_of(cluster: &Cluster, without: u8) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for node in cluster.nodes().unwrap() {
        if node.node != without {
            object_files(
                &node.data_dir.join("store").join("objects"),
                MIB,
                &mut found,
            );
        }
    }
    found
}

/// A cluster that holds `files` files of these lengths, and in which nothing is moved any more for balance.
fn filled(files: usize, len: impl Fn(usize) -> usize) -> Cluster {
    let cluster = Cluster::start_with(5, CONFIG).unwrap();
    let source = cluster.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..files {
        let bytes = load::bytes(i as u64 + 1, len(i));
        std::fs::write(source.join(format!("f{i}")), bytes).unwrap();
    }
    let put = ["put", "-r", source.to_str().unwrap(), "/"];
    cluster.tools(&put).unwrap();
    let minute = Duration::from_secs(60);
    cluster.wait_health("HEALTHY", minute).unwrap();
    let mut last = (String::new(), Instant::now());
    let is_at_rest = || {
        let log = cluster.tools(&["--json", "repair", "log"]);
        let log = log.unwrap_or_default();
        let status = cluster.status();
        let copying = status.map_or(1, |s| s["pgs"]["copying"].as_u64().unwrap_or(1));
        if log != last.0 || copying > 0 {
            last = (log, Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(4)
    };
    wait_for("rest", minute, is_at_rest).unwrap();
    cluster
}

/// The newest record of the repair log whose cause ends so.
fn record(cluster: &Cluster, cause: &str) -> Option<Value> {
    let log = cluster.json(&["repair", "log"]).ok()?;
    let mut all = log.as_array()?.iter().rev();
    all.find(|r| r["cause"].as_str().is_some_and(|c| c.ends_with(cause)))
        .cloned()
}

fn code(cluster: &Cluster, args: &[&str]) -> Option<i32> {
    cluster.tools_output(args).unwrap().status.code()
}

#[test]
fn the_receipt_of_a_lost_node_is_what_the_data_directories_gained() {
    let _alone = exclusive();
    let files = number("DFS_REPAIR_FILES", 40);
    let cluster = filled(files, |_| MIB);
    let leader = cluster.leader().unwrap();
    let victim = (1..=5).find(|n| *n != leader).unwrap();
    let before = objects_of(&cluster, victim);
    let all = objects_of(&cluster, 0).len();
    assert_eq!(all, 3 * files, "three copies of each before");
    let lost = all - before.len();
    assert_eq!(
        code(&cluster, &["safe-to-stop", &victim.to_string()]),
        Some(0)
    );

    cluster.kill(victim).unwrap();
    let began = Instant::now();
    let max = Duration::from_secs(120);
    wait_for("a receipt", max, || record(&cluster, "failed").is_some()).unwrap();
    let waited = began.elapsed();
    let r = record(&cluster, "failed").unwrap();
    let now = objects_of(&cluster, victim);
    let gained = now.difference(&before).count();
    println!("{r:#}");
    println!("figures: {lost} copies lost, {gained} made again, {waited:?} after the kill");
    assert_eq!(gained, lost, "each copy is made again");
    assert_eq!(r["objects"], lost as u64);
    assert_eq!(r["files"], lost as u64);
    assert_eq!(r["bytes"], (lost * MIB) as u64);
    assert_eq!(r["lowest_copies"], 2);
    assert!(r["waited_ms"]["grace"].as_u64().is_some_and(|ms| ms >= 900));
    let other = (1..=5).find(|n| *n != leader && *n != victim).unwrap();
    let removed = code(&cluster, &["remove", &other.to_string()]);
    assert_eq!(removed, Some(1), "a member of groups is not removed");

    // It comes back: what was made elsewhere meanwhile is wiped, and said.
    cluster.restart(victim).unwrap();
    let is_back = || record(&cluster, "came back").is_some();
    wait_for("a report of the return", max, is_back).unwrap();
    let back = record(&cluster, "came back").unwrap();
    println!("{back:#}");
    assert_eq!(back["wiped_objects"], lost as u64);
    assert!(back["wiped_replicas"].as_u64().is_some_and(|n| n > 0));
    fsck_clean(&cluster).unwrap();
}

/// Bytes before the object in a file of its own.
const HEADER: u64 = 4096;

/// Lengths of all objects that a stopped daemon holds, by name: small ones are read by the database's own
/// library (rows of bytes begin with f1; every value has a crc32c of four bytes), the others are files.
/// Nothing of ours is used.
fn held(cluster: &Cluster, node: u8) -> BTreeMap<Vec<u8>, u64> {
    let store = cluster.dev_dir().join(format!("node{node}/store"));
    let copy = cluster.scratch().join("tables.redb");
    std::fs::copy(store.join("tables.redb"), &copy).unwrap();
    let tables = Database::open(&copy).unwrap();
    let kv: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("kv");
    let read = tables.begin_read().unwrap();
    let rows = read.open_table(kv).unwrap();
    let bytes = rows.range(&[0xf1][..]..&[0xf2][..]).unwrap();
    let row = bytes.map(|row| {
        let (key, value) = row.unwrap();
        (key.value().to_vec(), value.value().len() as u64 - 4)
    });
    let mut all: BTreeMap<Vec<u8>, u64> = row.collect();
    let mut files = BTreeSet::new();
    object_files(&store.join("objects"), 0, &mut files);
    for file in files {
        let len = std::fs::metadata(&file).unwrap().len();
        // The name, without the generation behind the dot.
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        all.insert(name.into_bytes(), len - HEADER);
    }
    all
}

/// Stops all daemons, who leave everything in their files, and says what these nodes hold.
fn scan(cluster: &Cluster, nodes: &[u8]) -> BTreeMap<u8, BTreeMap<Vec<u8>, u64>> {
    cluster.tools(&["dev", "down"]).unwrap();
    let all = nodes.iter().map(|n| (*n, held(cluster, *n)));
    all.collect()
}

#[test]
fn a_boosted_repair_of_objects_of_all_sizes_is_what_a_scan_of_all_directories_finds() {
    let _alone = exclusive();
    let files = number("DFS_REPAIR_FILES_MIXED", 60);
    let cluster = filled(files, |i| 100 + i * 1_999 % 120_000);
    let before = scan(&cluster, &[1, 2, 3, 4, 5]);
    let copies: usize = before.values().map(BTreeMap::len).sum();
    assert_eq!(copies, 3 * files, "three copies of each before");
    cluster.start_all().unwrap();
    let max = Duration::from_secs(if files >= FULL { 900 } else { 120 });
    cluster.wait_health("HEALTHY", max).unwrap();
    cluster.tools(&["repair", "boost", "30m"]).unwrap();
    let leader = cluster.leader().unwrap();
    let victim = (1..=5).find(|n| *n != leader).unwrap();
    let machine = Machine::watch(&cluster.dev_dir());
    cluster.kill(victim).unwrap();
    wait_for("a receipt", max, || record(&cluster, "failed").is_some()).unwrap();
    let r = record(&cluster, "failed").unwrap();
    let seconds = r["took_ms"].as_f64().unwrap() / 1000.0;
    let busy = machine.stop(Duration::from_secs_f64(seconds));
    println!("{r:#}");
    let others: Vec<u8> = (1..=5).filter(|n| *n != victim).collect();
    let after = scan(&cluster, &others);
    let lost = &before[&victim];
    let mut gained = BTreeMap::new();
    for (node, now) in &after {
        let new = now.iter().filter(|(id, _)| !before[node].contains_key(*id));
        for (id, len) in new {
            assert_eq!(gained.insert(id.clone(), *len), None, "copied twice");
        }
    }
    let bytes: u64 = gained.values().sum();
    println!(
        "\nfigures: {} objects of {bytes} bytes copied in {seconds:.1} s, as a scan says and the receipt ({:.0} MB/s, {:.0} objects/s); processors busy {:.0} %, disk {:.0} %",
        gained.len(),
        bytes as f64 / 1e6 / seconds,
        gained.len() as f64 / seconds,
        busy.processors * 100.0,
        busy.disk * 100.0,
    );
    assert_eq!(&gained, lost, "each copy is made again");
    assert_eq!(r["objects"], gained.len() as u64);
    assert_eq!(r["files"], gained.len() as u64);
    assert_eq!(r["bytes"], bytes);
    if files >= FULL {
        let most = busy.processors.max(busy.disk);
        assert!(
            most >= 0.7,
            "neither processors nor disk were busy: {busy:?}"
        );
    }
    cluster.start_all().unwrap();
    cluster.wait_health("HEALTHY", max).unwrap();
    fsck_clean(&cluster).unwrap();
}

#[test]
fn programs_go_on_while_a_lost_node_is_repaired() {
    if !fuse_or_skip("programs during a repair") {
        return;
    }
    let _alone = exclusive();
    let files = number("DFS_REPAIR_FILES_MIXED", 60);
    let cluster = filled(files, |i| 100 + i * 1_999 % 120_000);
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let least = Duration::from_secs(if files >= FULL { 30 } else { 2 });
    let before = load::foreground(&mount.join("before"), least, || true);
    let leader = cluster.leader().unwrap();
    let victim = (1..=5).find(|n| *n != leader).unwrap();
    cluster.kill(victim).unwrap();
    let began = Instant::now();
    let max = Duration::from_secs(if files >= FULL { 1800 } else { 120 });
    let during = load::foreground(&mount.join("during"), least, || {
        record(&cluster, "failed").is_some() || began.elapsed() > max
    });
    let r = record(&cluster, "failed").unwrap();
    println!(
        "\nfigures: repair beside programs: {} files in {:.1} s, their p99 {:.1} ms before and {:.1} ms during ({} writes, none failed, longest {:.0} ms)",
        r["files"],
        r["took_ms"].as_f64().unwrap() / 1000.0,
        before.p99_ms,
        during.p99_ms,
        during.count,
        during.longest_ms,
    );
    // Too few samples say nothing of a percentile.
    if files >= FULL {
        let most = (2.0 * before.p99_ms).max(load::P99_FLOOR_MS);
        assert!(
            during.p99_ms <= most,
            "{before:?} before, {during:?} during"
        );
    }
    mount.unmount().unwrap();
    cluster.tools(&["verify", "/", "-r"]).unwrap();
    cluster.restart(victim).unwrap();
    cluster.wait_health("HEALTHY", max).unwrap();
    fsck_clean(&cluster).unwrap();
}

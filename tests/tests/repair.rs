//! A node that is lost for good: its copies are made again, and the receipt says exactly what was done.
#![allow(clippy::unwrap_used)]
use dfs_tests::proc::{Cluster, exclusive, fsck_clean, load, number, wait_for};
use redb::{Database, ReadableDatabase, TableDefinition};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const CONFIG: &str = "[repair]\ngrace_ms = 1000\ndelete_grace_ms = 2000\n";

/// Files below a directory with more than 64 KiB: objects of that size lie in files of their own.
fn object_files(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => object_files(&entry.path(), found),
            Ok(meta) if meta.len() as usize >= MIB => {
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
            object_files(&node.data_dir.join("store").join("objects"), &mut found);
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

/// Lengths of the small objects that a stopped daemon keeps in its tables, by name: read by the
/// database's own library, and nothing of ours. Rows of bytes begin with f1; every value has a crc32c of
/// four bytes.
fn small_objects(cluster: &Cluster, node: u8) -> BTreeMap<Vec<u8>, u64> {
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
    row.collect()
}

#[test]
fn objects_inside_the_tables_are_in_the_receipt_as_a_scan_of_the_tables_finds_them() {
    let _alone = exclusive();
    let files = number("DFS_REPAIR_SMALL", 60);
    let cluster = filled(files, |i| 100 + i * 977 % 60_000);
    // Daemons that are asked to stop leave everything in their tables.
    let scan = |nodes: &[u8]| -> Vec<(u8, BTreeMap<Vec<u8>, u64>)> {
        cluster.tools(&["dev", "down"]).unwrap();
        let all = nodes.iter().map(|n| (*n, small_objects(&cluster, *n)));
        all.collect()
    };
    let before = scan(&[1, 2, 3, 4, 5]);
    let copies: usize = before.iter().map(|(_, held)| held.len()).sum();
    assert_eq!(copies, 3 * files, "three copies of each before");
    cluster.start_all().unwrap();
    let max = Duration::from_secs(120);
    cluster.wait_health("HEALTHY", max).unwrap();
    let leader = cluster.leader().unwrap();
    let victim = (1..=5).find(|n| *n != leader).unwrap();
    cluster.kill(victim).unwrap();
    wait_for("a receipt", max, || record(&cluster, "failed").is_some()).unwrap();
    let r = record(&cluster, "failed").unwrap();
    println!("{r:#}");
    let others: Vec<u8> = (1..=5).filter(|n| *n != victim).collect();
    let after = scan(&others);
    let held = |all: &[(u8, BTreeMap<Vec<u8>, u64>)], node: u8| {
        let of = all.iter().find(|(n, _)| *n == node);
        of.map(|(_, held)| held.clone()).unwrap_or_default()
    };
    let lost = held(&before, victim);
    let mut gained = BTreeMap::new();
    for (node, now) in &after {
        let had = held(&before, *node);
        let new = now.iter().filter(|(id, _)| !had.contains_key(*id));
        for (id, len) in new {
            assert_eq!(gained.insert(id.clone(), *len), None, "copied twice");
        }
    }
    let bytes: u64 = gained.values().sum();
    println!(
        "\nfigures: {} small objects of {bytes} bytes copied, as the tables say and the receipt",
        gained.len()
    );
    assert_eq!(gained, lost, "each copy is made again");
    assert_eq!(r["objects"], gained.len() as u64);
    assert_eq!(r["files"], gained.len() as u64);
    assert_eq!(r["bytes"], bytes);
    cluster.start_all().unwrap();
    cluster.wait_health("HEALTHY", max).unwrap();
    fsck_clean(&cluster).unwrap();
}

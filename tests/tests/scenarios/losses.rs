//! Nodes lost for good: one after the other, two at once, three at once.
//!
//! `DFS_LOSSES_FILES=3000` is the full form.
use dfs_core::types::{ChunkNo, Ino, PgMap, StoreId, pg_of};
use dfs_tests::inside::Asking;
use dfs_tests::proc::load::{Load, bytes, verify};
use dfs_tests::proc::{Cluster, Mount, exclusive, fsck_clean, fuse_or_skip, number, wait_for};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Placement groups of a cluster, unless configured.
const GROUPS: u16 = 256;

fn config(grace: Duration) -> String {
    let ms = grace.as_millis();
    format!("[repair]\ngrace_ms = {ms}\nvoter_grace_ms = 1500\ndelete_grace_ms = 2000\n")
}

/// Files `f0`..: a few with a chunk more than the others.
fn len_of(i: usize) -> usize {
    match i % 30 {
        7 => 5_000_000,
        _ => 5_000 + i * 977 % 90_000,
    }
}

fn fill(dir: &Path, count: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let write = |i: usize| std::fs::write(dir.join(format!("f{i}")), bytes(i as u64, len_of(i)));
    std::thread::scope(|s| {
        for w in 0..4 {
            s.spawn(move || (w..count).step_by(4).for_each(|i| write(i).unwrap()));
        }
    });
}

fn check(dir: &Path, i: usize) {
    let got = std::fs::read(dir.join(format!("f{i}"))).unwrap_or_else(|e| panic!("f{i}: {e}"));
    assert!(got == bytes(i as u64, len_of(i)), "f{i} has other bytes");
}

fn short(cluster: &Cluster, node: u8) -> String {
    let id = cluster.json(&["id", &node.to_string()]).unwrap();
    id["node"].as_str().unwrap()[..8].to_owned()
}

fn store(cluster: &Cluster, node: u8) -> StoreId {
    let id = cluster.json(&["id", &node.to_string()]).unwrap();
    let text = id["store"].as_str().unwrap();
    StoreId(u128::from_str_radix(text, 16).unwrap())
}

/// The groups all count so many complete copies on stores that are not `gone`.
fn is_whole(map: &PgMap, gone: &BTreeSet<StoreId>, copies: usize) -> bool {
    (0..map.pgs.len()).all(|pg| live(map, pg, gone) >= copies)
}

/// Complete copies of a group on stores that are not `gone`.
fn live(map: &PgMap, pg: usize, gone: &BTreeSet<StoreId>) -> usize {
    let info = &map.pgs[pg];
    let is_complete = |s: &&StoreId| !info.filling.contains(s) && !gone.contains(s);
    info.members.iter().filter(is_complete).count()
}

/// Receipts of a lost node.
fn receipts(cluster: &Cluster, short: &str) -> Vec<Value> {
    let cause = format!("node {short} failed");
    let log = cluster.json(&["repair", "log"]).unwrap();
    let all = log.as_array().unwrap().iter();
    all.filter(|r| r["cause"] == cause).cloned().collect()
}

#[test]
fn two_nodes_lost_one_after_the_other_lose_nothing() {
    if !fuse_or_skip("two_nodes_lost_one_after_the_other_lose_nothing") {
        return;
    }
    let _alone = exclusive();
    let count = number("DFS_LOSSES_FILES", 60);
    let cluster = Cluster::start_with(5, &config(SECOND)).unwrap();
    let asking = Asking::new(&cluster).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let data = mount.join("data");
    fill(&data, count);
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let load = Load::start(&mount.join("load"), 2, 30_000);
    let (mut gone, mut lost) = (BTreeSet::new(), Vec::new());
    for _ in 0..2 {
        // The master itself is the worst to lose.
        let victim = cluster.leader().unwrap();
        let name = short(&cluster, victim);
        gone.insert(store(&cluster, victim));
        cluster.kill(victim).unwrap();
        let began = Instant::now();
        let repaired = wait_for("three copies of everything", 2 * MINUTE, || {
            let map = asking.map();
            map.is_ok_and(|map| is_whole(&map, &gone, 3))
                && !receipts_or_none(&cluster, &name).is_empty()
        });
        repaired.unwrap();
        // A majority of masters without those that are gone.
        wait_for("three masters", MINUTE, || voters_up(&cluster) == 3).unwrap();
        println!(
            "\nfigures: node {victim} (the master) lost: three copies and three masters again after {:?}",
            began.elapsed()
        );
        lost.push((victim, name));
    }
    let seen = load.stop();
    println!(
        "\nfigures: {} files written meanwhile, longest stall {:?}",
        seen.acked.len(),
        seen.stall
    );
    assert_eq!(seen.errors, [] as [String; 0]);
    let cold = Mount::new(&cluster, "cold").unwrap();
    (0..count).for_each(|i| check(&cold.join("data"), i));
    cold.unmount().unwrap();
    mount.unmount().unwrap();
    for (victim, name) in &lost {
        let lowest = |r: &Value| r["lowest_copies"].as_u64() == Some(2);
        let all = receipts(&cluster, name);
        assert!(all.iter().any(lowest), "node {victim}: {all:#?}");
        cluster.restart(*victim).unwrap();
    }
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let again = Mount::new(&cluster, "mnt").unwrap();
    verify(&seen.acked).unwrap();
    (0..count).for_each(|i| check(&again.join("data"), i));
    again.unmount().unwrap();
    let report = fsck_clean(&cluster).unwrap();
    println!("fsck: 0 problems, {}", report.checked);
}

fn receipts_or_none(cluster: &Cluster, short: &str) -> Vec<Value> {
    match cluster.tools(&["repair", "log"]) {
        Ok(_) => receipts(cluster, short),
        Err(_) => Vec::new(),
    }
}

fn voters_up(cluster: &Cluster) -> usize {
    let status = cluster.status().unwrap_or_default();
    let stores = status["stores"].as_array();
    let votes = |s: &&Value| s["voter"] == true && s["up"] == true;
    stores.into_iter().flatten().filter(votes).count()
}

/// Waits until nothing moves for balance any more.
fn await_rest(cluster: &Cluster) {
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let mut last = (String::new(), Instant::now());
    let is_at_rest = || {
        let log = cluster.tools(&["--json", "repair", "log"]);
        let log = log.unwrap_or_default();
        let status = cluster.status().unwrap_or_default();
        if log != last.0 || status["pgs"]["active"] != u64::from(GROUPS) {
            last = (log, Instant::now());
        }
        last.1.elapsed() > 4 * SECOND
    };
    wait_for("rest", 2 * MINUTE, is_at_rest).unwrap();
}

/// Nothing moves for balance from now on, until [`lose`].
fn hold_still(cluster: &Cluster) {
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let is_still = || {
        let status = cluster.status().unwrap_or_default();
        status["pgs"]["active"] == u64::from(GROUPS)
    };
    // What began a moment before does not end while repair is paused.
    let held = wait_for("all groups at rest", MINUTE, || {
        cluster.tools(&["repair", "pause"]).unwrap();
        let is_held = is_still();
        if !is_held {
            cluster.tools(&["repair", "resume"]).unwrap();
            let _ = wait_for("rest", MINUTE, is_still);
        }
        is_held
    });
    held.unwrap();
}

/// Kills nodes at once; repair goes on when the master knows of them all.
fn lose(cluster: &Cluster, victims: &[u8]) {
    let began = Instant::now();
    cluster.kill_together(victims).unwrap();
    let dead = began.elapsed();
    let all_known = || {
        let status = cluster.status().unwrap_or_default();
        let stores = status["stores"].as_array();
        let down = stores.into_iter().flatten().filter(|s| s["up"] == false);
        down.count() == victims.len()
    };
    wait_for("the master knows", 20 * SECOND, all_known).unwrap();
    let known = began.elapsed();
    cluster.tools(&["repair", "resume"]).unwrap();
    println!(
        "killed after {dead:?}, known after {known:?}, resumed after {:?}",
        began.elapsed()
    );
}

/// A voter that does not lead, and the nodes that do not vote.
fn one_voter_and_the_rest(cluster: &Cluster) -> (u8, Vec<u8>) {
    wait_for("three masters", MINUTE, || voters_up(cluster) == 3).unwrap();
    let (leader, voters) = (cluster.leader().unwrap(), cluster.voters().unwrap());
    let voter = voters.iter().find(|v| **v != leader).unwrap();
    let rest = (1..=5).filter(|n| !voters.contains(n));
    (*voter, rest.collect())
}

/// Three nodes, with two voters left, and the files that all three alone hold: some, if there are such
/// three; and the other files.
fn three_that_matter(
    cluster: &Cluster,
    count: usize,
) -> (Vec<u8>, BTreeSet<usize>, BTreeSet<usize>) {
    let (_, rest) = one_voter_and_the_rest(cluster);
    let (leader, voters) = (cluster.leader().unwrap(), cluster.voters().unwrap());
    let followers = voters.into_iter().filter(|v| *v != leader);
    let threes = followers.map(|v| [&rest[..], &[v]].concat());
    let judged = threes.map(|three| {
        let (lost, fine) = judge(cluster, count, &three);
        (three, lost, fine)
    });
    judged.max_by_key(|(_, lost, _)| lost.len()).unwrap()
}

/// When groups were first seen to be changed and to have a second copy again.
#[derive(Default)]
struct Course {
    samples: usize,
    begun: BTreeMap<usize, Instant>,
    whole: BTreeMap<usize, Instant>,
}

#[test]
fn two_nodes_lost_at_once_groups_with_one_copy_first() {
    if !fuse_or_skip("two_nodes_lost_at_once_groups_with_one_copy_first") {
        return;
    }
    let _alone = exclusive();
    let count = number("DFS_LOSSES_FILES", 60);
    let grace = 5 * SECOND;
    let cluster = Cluster::start_with(5, &config(grace)).unwrap();
    let asking = Asking::new(&cluster).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    fill(&mount.join("data"), count);
    await_rest(&cluster);
    let (voter, rest) = one_voter_and_the_rest(&cluster);
    let victims = [voter, rest[0]];
    let names = victims.map(|v| short(&cluster, v));
    let gone: BTreeSet<StoreId> = victims.iter().map(|v| store(&cluster, *v)).collect();
    let load = Load::start(&mount.join("load"), 3, 30_000);
    wait_for("a load", 10 * SECOND, || load.seen().acked.len() > 20).unwrap();
    let before = asking.map().unwrap();
    let groups = |copies: usize| -> BTreeSet<usize> {
        let all = 0..before.pgs.len();
        all.filter(|pg| live(&before, *pg, &gone) == copies)
            .collect()
    };
    let (ones, twos) = (groups(1), groups(2));
    assert!(!ones.is_empty() && !twos.is_empty());
    load.reset_stall();

    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (course, acked) = std::thread::scope(|s| {
        let watching = s.spawn(|| watch(&asking, &before, &gone, &stop));
        cluster.kill_together(&victims).unwrap();
        let acked = load.seen().acked.len();
        let whole = wait_for("three copies of everything", 2 * MINUTE, || {
            let map = asking.map();
            map.is_ok_and(|map| is_whole(&map, &gone, 3))
        });
        stop.store(true, Ordering::Release);
        whole.unwrap();
        (watching.join().unwrap(), acked)
    });
    let since = |at: Option<Instant>| at.map(|at| at.duration_since(began));
    let of = |times: &BTreeMap<usize, Instant>, pgs: &BTreeSet<usize>| -> Vec<Instant> {
        let mut all: Vec<_> = pgs.iter().filter_map(|pg| times.get(pg).copied()).collect();
        all.sort();
        all
    };
    let (ones_begun, twos_begun) = (of(&course.begun, &ones), of(&course.begun, &twos));
    let (ones_whole, twos_whole) = (of(&course.whole, &ones), of(&course.whole, &twos));
    let seen = load.stop();
    println!(
        "\nfigures: {} groups with one copy: begun until {:?}, two copies until {:?}; {} with two: begun from {:?}, three copies from {:?} to {:?}; {} samples",
        ones.len(),
        since(ones_begun.last().copied()),
        since(ones_whole.last().copied()),
        twos.len(),
        since(twos_begun.first().copied()),
        since(twos_whole.first().copied()),
        since(twos_whole.last().copied()),
        course.samples,
    );
    println!(
        "\nfigures: longest stall of a writer {:?}, {} files acknowledged after the loss, {} errors",
        seen.stall,
        seen.acked.len() - acked,
        seen.errors.len()
    );
    assert_eq!(ones_begun.len(), ones.len(), "all of them are repaired");
    assert!(
        ones_begun.last() <= twos_begun.first(),
        "one copy goes first"
    );
    assert!(ones_whole.last() <= twos_whole.first(), "and is safe first");
    assert_eq!(seen.errors, [] as [String; 0]);
    assert!(seen.acked.len() > acked + 20, "writes go on");
    // What waits for W waits for the detection and for one copy, not for the grace period.
    assert!(seen.stall < 15 * SECOND, "{:?}", seen.stall);
    let receipts = names.iter().flat_map(|name| receipts(&cluster, name));
    let lowest: Vec<u64> = receipts
        .filter_map(|r| r["lowest_copies"].as_u64())
        .collect();
    println!("\nfigures: lowest copies in the receipts: {lowest:?}");
    assert!(lowest.contains(&1), "a receipt says that one copy was left");
    let cold = Mount::new(&cluster, "cold").unwrap();
    (0..count).for_each(|i| check(&cold.join("data"), i));
    verify(&seen.acked).unwrap();
    cold.unmount().unwrap();
    mount.unmount().unwrap();
    for v in victims {
        cluster.restart(v).unwrap();
    }
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let report = fsck_clean(&cluster).unwrap();
    println!("fsck: 0 problems, {}", report.checked);
}

fn watch(asking: &Asking, before: &PgMap, gone: &BTreeSet<StoreId>, stop: &AtomicBool) -> Course {
    let mut course = Course::default();
    while !stop.load(Ordering::Acquire) {
        let Ok(map) = asking.map() else { continue };
        let now = Instant::now();
        course.samples += 1;
        for pg in 0..map.pgs.len() {
            let had = live(before, pg, gone);
            // One of those that are gone has been replaced.
            let dead = |map: &PgMap| {
                map.pgs[pg]
                    .members
                    .iter()
                    .filter(|s| gone.contains(s))
                    .count()
            };
            if dead(&map) < dead(before) {
                course.begun.entry(pg).or_insert(now);
            }
            if had < 3 && live(&map, pg, gone) > had {
                course.whole.entry(pg).or_insert(now);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    course
}

/// Paths that have a chunk on these nodes alone, and the paths that have none.
fn judge(cluster: &Cluster, count: usize, nodes: &[u8]) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let all = cluster.nodes().unwrap();
    let addrs = all.iter().filter(|n| nodes.contains(&n.node));
    let addrs: BTreeSet<String> = addrs.map(|n| n.addr.to_string()).collect();
    (0..count).partition(|i| {
        let view = cluster.json(&["where", &format!("/data/f{i}")]).unwrap();
        let mut chunks = view["chunks"].as_array().unwrap().iter();
        chunks.any(|chunk| {
            let mut replicas = chunk["replicas"].as_array().unwrap().iter();
            replicas.all(|r| r["addr"].as_str().is_some_and(|a| addrs.contains(a)))
        })
    })
}

/// Makes files and renames them: none is given to a group that is lost.
fn write_new_files(dir: &Path, lost: &BTreeSet<usize>) -> Vec<u64> {
    std::fs::create_dir(dir).unwrap();
    let began = Instant::now();
    let all: Vec<u64> = (0..60).collect();
    for i in &all {
        let path = dir.join(format!("n{i}"));
        let mut file = File::create(&path).unwrap();
        let ino = Ino(file.metadata().unwrap().ino());
        let group = usize::from(pg_of(ino, ChunkNo::HOME, GROUPS).0);
        assert!(!lost.contains(&group), "new file {i} in lost group {group}");
        file.write_all(&bytes(*i, 3000)).unwrap();
        let synced = file.sync_all();
        synced.unwrap_or_else(|e| panic!("new file {i}: {e}"));
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), bytes(*i, 3000));
        std::fs::rename(&path, dir.join(format!("m{i}"))).unwrap();
    }
    println!(
        "\nfigures: 60 new files written beside {} lost groups in {:?}",
        lost.len(),
        began.elapsed()
    );
    all
}

#[test]
fn three_nodes_lost_at_once_the_lost_files_are_named_and_everything_else_works() {
    if !fuse_or_skip("three_nodes_lost_at_once") {
        return;
    }
    let _alone = exclusive();
    let count = number("DFS_LOSSES_FILES", 60);
    let cluster = Cluster::start_with(5, &config(2 * SECOND)).unwrap();
    let asking = Asking::new(&cluster).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    fill(&mount.join("data"), count);
    mount.unmount().unwrap();
    hold_still(&cluster);
    let (victims, lost, fine) = three_that_matter(&cluster, count);
    assert!(!lost.is_empty() && fine.len() > lost.len(), "{lost:?}");
    let gone: BTreeSet<StoreId> = victims.iter().map(|v| store(&cluster, *v)).collect();
    let before = asking.map().unwrap();
    let groups = (0..before.pgs.len()).filter(|pg| live(&before, *pg, &gone) == 0);
    let groups: BTreeSet<usize> = groups.collect();
    let mount = Mount::with_options(&cluster, "cold", "timeout=6").unwrap();
    lose(&cluster, &victims);
    // What has a copy left gets a second one, which is all that two nodes can have.
    let began = Instant::now();
    let two = wait_for("two copies of all that is left", MINUTE, || {
        asking.map().is_ok_and(|map| {
            let mut rest = (0..map.pgs.len()).filter(|pg| !groups.contains(pg));
            rest.all(|pg| live(&map, pg, &gone) == 2)
        })
    });
    two.unwrap();
    println!(
        "\nfigures: three of five lost: {} of {count} files lost, the others twice there after {:?}",
        lost.len(),
        began.elapsed()
    );

    let named = cluster.json(&["lost"]).unwrap();
    let list = named["named"].as_array().unwrap().iter();
    let named: BTreeSet<String> = list
        .map(|f| f["path"].as_str().unwrap().to_owned())
        .collect();
    let expected = lost.iter().map(|i| format!("/data/f{i}"));
    assert_eq!(named, expected.collect());
    let text = cluster.tools(&["lost", "--all"]).unwrap();
    assert!(named.iter().all(|path| text.contains(path)), "{text}");

    let began = Instant::now();
    let data = mount.join("data");
    std::thread::scope(|s| {
        for i in &lost {
            let path = data.join(format!("f{i}"));
            s.spawn(move || {
                // All of a file: of a long one only a part is gone.
                let error = std::fs::read(&path).expect_err("no copy is left");
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "f{i}: {error}");
            });
        }
    });
    let took = began.elapsed();
    let status = std::fs::read_to_string(mount.join(".dfs/status")).unwrap();
    println!("\nfigures: EIO of all of them after {took:?}\n{status}");
    assert!(took < 20 * SECOND, "{took:?}");
    assert!(status.contains("errno 5") && status.contains("nodes that hold the file"));
    let one = format!("/data/f{}", lost.first().unwrap());
    let output = cluster.tools_output(&["get", &one, "-"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("get {one}: exit {:?}: {said}", output.status.code());
    assert_eq!(output.status.code(), Some(4), "unreachable, as README says");

    for i in &fine {
        check(&data, *i);
    }
    // Writing: over what is there, new files, names.
    for i in fine.iter().take(20) {
        let path = data.join(format!("f{i}"));
        std::fs::write(&path, b"new content").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new content");
        std::fs::write(&path, bytes(*i as u64, len_of(*i))).unwrap();
    }
    let made = write_new_files(&mount.join("new"), &groups);
    mount.unmount().unwrap();

    // The nodes were only away, after all.
    for v in &victims {
        cluster.restart(*v).unwrap();
    }
    cluster.wait_health("HEALTHY", 2 * MINUTE).unwrap();
    let again = Mount::new(&cluster, "again").unwrap();
    (0..count).for_each(|i| check(&again.join("data"), i));
    for i in made {
        let got = std::fs::read(again.join(format!("new/m{i}"))).unwrap();
        assert_eq!(got, bytes(i, 3000), "new file {i}");
    }
    again.unmount().unwrap();
    assert!(cluster.tools(&["lost"]).unwrap().contains("every file"));
    let report = fsck_clean(&cluster).unwrap();
    println!("fsck: 0 problems, {}", report.checked);
}

//! The scrub finds and repairs every flipped bit, wherever on a node's disk it is, while readers go on.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// Flips on one node before they are looked for.
const ROUND: usize = 10;

/// What file `n` holds: some live in the tables, some in object files of their own, some are chunks.
fn content(n: u64) -> Vec<u8> {
    let len = [700, 20_000, 100_000, 300_000][(n % 4) as usize] + n as usize;
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(n).fill(&mut bytes[..]);
    bytes
}

/// Files below `dir`, with their lengths, in an order that is the same every time.
fn files(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.len() > 0 && wanted(&path.to_string_lossy()) {
                found.push((path, meta.len()));
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64, bit: u8) {
    let mut options = std::fs::File::options();
    let file = options.read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
    file.sync_all().unwrap();
}

/// What a node's scrub says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    asked: bool,
    table_passes: u64,
    damaged: u64,
    missing: u64,
    repaired: u64,
    waiting: u64,
    pages: u64,
    lost: u64,
}

fn counts(cluster: &Cluster, addr: &str) -> Option<Counts> {
    let all = cluster.json(&["scrub", "status"]).ok()?;
    let one = all.as_array()?.iter().find(|n| n["addr"] == addr)?;
    let number = |name: &str| one[name].as_u64();
    Some(Counts {
        asked: one["asked"].as_bool()?,
        table_passes: number("table_passes")?,
        damaged: number("damaged")?,
        missing: number("missing")?,
        repaired: number("repaired")?,
        waiting: number("waiting")?,
        pages: number("table_pages_repaired")?,
        lost: number("table_pages_lost")?,
    })
}

/// Flips of one round on one node: how many object files and how many table pages they hit.
fn flip_round(data: &Path, flips: usize, rng: &mut StdRng) -> (u64, u64) {
    let objects = files(data, &|p| p.contains("/objects/"));
    let tables = files(data, &|p| p.contains(".redb"));
    assert!(!objects.is_empty() && tables.len() >= 3, "{tables:?}");
    let (mut hit, mut pages) = (std::collections::BTreeSet::new(), 0);
    let mut taken = std::collections::BTreeSet::new();
    while hit.len() + pages < flips {
        let is_table = rng.random_bool(0.5);
        let from = if is_table { &tables } else { &objects };
        let (path, len) = &from[rng.random_range(0..from.len())];
        let (at, bit) = (rng.random_range(0..*len), rng.random_range(0..8));
        if is_table {
            // One place of a page: what is damaged twice is for the other nodes' copies to heal.
            let stem = path.to_string_lossy();
            let stem = stem.trim_end_matches(".copy").trim_end_matches(".sums");
            let page = match path.extension().is_some_and(|e| e == "sums") {
                true if at < 512 => u64::MAX,
                true => (at - 512) / 4,
                false => at / 4096,
            };
            if !taken.insert((stem.to_owned(), page)) {
                continue;
            }
            // Sums are made good, and counted, by the page that they lie in.
            let is_sums = path.extension().is_some_and(|e| e == "sums");
            if is_sums && !taken.insert((path.display().to_string(), at / 4096)) {
                continue;
            }
            pages += 1;
        } else if !hit.insert(path.clone()) {
            continue;
        }
        flip(path, at, bit);
    }
    (hit.len() as u64, pages as u64)
}

/// Reads all files again and again through a mount, with nothing kept from one time to the next.
fn reader(mount: PathBuf, files: u64, stop: Arc<AtomicBool>, reads: Arc<AtomicU64>) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = mount.join(format!("f{}", n % files));
        let file = std::fs::File::open(&path).unwrap();
        // What the kernel has of it must not answer for the disks.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        drop(file);
        let got = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            got == content(n % files),
            "wrong bytes in {}",
            path.display()
        );
        reads.fetch_add(1, Ordering::Relaxed);
        n += 1;
    }
}

fn verified(cluster: &Cluster) -> Value {
    let output = cluster
        .tools_output(&["--json", "verify", "/", "-r"])
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn every_flipped_bit_is_found_repaired_and_counted_and_reaches_no_reader() {
    if !fuse_or_skip("flipped bits and the scrub") {
        return;
    }
    let _alone = exclusive();
    let flips = number("DFS_FLIPS", 10);
    let files = 40;
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    for n in 0..files {
        std::fs::write(mount.join(format!("f{n}")), content(n)).unwrap();
    }
    // The tables of a running store reach the disk when it stops.
    let nodes = cluster.nodes().unwrap();
    cluster.tools(&["dev", "down"]).unwrap();
    cluster.start_all().unwrap();
    cluster.wait_health("HEALTHY", 60 * SECOND).unwrap();
    let (stop, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let reading = {
        let (path, stop, reads) = (mount.path().to_owned(), stop.clone(), reads.clone());
        std::thread::spawn(move || reader(path, files, stop, reads))
    };
    let mut rng = StdRng::seed_from_u64(number("DFS_SEED", 5) as u64);
    let began = Instant::now();
    let (mut done, mut objects, mut pages, mut slowest) = (0, 0, 0, Duration::ZERO);
    while done < flips {
        let node = &nodes[(done / ROUND) % nodes.len()];
        let addr = node.addr.to_string();
        let round = ROUND.min(flips - done);
        let before = counts(&cluster, &addr).expect("the node answers");
        let (hit, torn) = flip_round(&node.data_dir, round, &mut rng);
        let flipped = Instant::now();
        cluster.tools(&["scrub", "start"]).unwrap();
        let mut now = before;
        wait_for("all flips found and repaired", 60 * SECOND, || {
            now = counts(&cluster, &addr).unwrap_or(now);
            !now.asked
                && now.waiting == 0
                && now.repaired >= before.repaired + hit
                && now.pages >= before.pages + torn
        })
        .unwrap_or_else(|e| panic!("{e}: {hit} objects, {torn} pages: {before:?} -> {now:?}"));
        // Readers may find them first, and each is counted once.
        let found = now.damaged + now.missing - before.damaged - before.missing;
        assert_eq!((found, now.repaired - before.repaired), (hit, hit));
        assert_eq!((now.pages - before.pages, now.lost), (torn, 0));
        slowest = slowest.max(flipped.elapsed());
        (done, objects, pages) = (done + round, objects + hit, pages + torn);
        assert!(!reading.is_finished(), "the reader has failed");
    }
    stop.store(true, Ordering::Relaxed);
    reading.join().unwrap();
    assert!(
        reads.load(Ordering::Relaxed) >= files,
        "the reader has read everything"
    );
    let all = verified(&cluster);
    let bad = all["damaged"].as_u64().unwrap() + all["missing"].as_u64().unwrap();
    assert_eq!((bad, all["unreachable"].as_u64()), (0, Some(0)), "{all}");
    assert_eq!(all["files"].as_u64(), Some(files));
    println!(
        "figures: {done} flips ({objects} in object files, {pages} in table files): all found, repaired \
         and counted in {:.1} s, a round of {ROUND} in {:.1} s at most; {} reads, none wrong; {} \
         replicas verify",
        began.elapsed().as_secs_f64(),
        slowest.as_secs_f64(),
        reads.load(Ordering::Relaxed),
        all["replicas"]
    );
    mount.unmount().unwrap();
}

#[test]
fn verify_names_path_chunk_and_node_of_a_damaged_copy() {
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let local = cluster.scratch().join("local");
    std::fs::write(&local, content(3)).unwrap();
    let local = local.to_str().unwrap();
    cluster.tools(&["put", local, "/one"]).unwrap();
    cluster.tools(&["put", local, "/one"]).unwrap();
    cluster.tools(&["repair", "pause"]).unwrap();
    let words = cluster.tools(&["verify", "/", "-r"]).unwrap();
    assert!(
        words.contains("1 files") && words.contains("0 damaged"),
        "{words}"
    );
    let node = cluster.nodes().unwrap().remove(1);
    let objects = files(&node.data_dir, &|p| p.contains("/objects/"));
    // Of both versions.
    assert!(objects.len() >= 2, "{objects:?}");
    for (path, len) in &objects {
        flip(path, len - 1, 3);
    }
    let output = cluster.tools_output(&["verify", "/one"]).unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{words}");
    assert_eq!(output.status.code(), Some(6), "{words}");
    let lines = words.lines().filter(|l| {
        l.starts_with("/one: chunk 0, node ")
            && l.contains(&node.addr.to_string())
            && l.contains("damaged")
    });
    assert_eq!(lines.count(), objects.len(), "{words}");
    cluster.tools(&["repair", "resume"]).unwrap();
    wait_for("repair of what verify found", 30 * SECOND, || {
        cluster.tools(&["verify", "/", "-r"]).is_ok()
    })
    .unwrap();
}

//! Nodes that come back: in time, too late, with `rejoin = "wipe"`, without their directory, with one of
//! another cluster, and with a clock that was set back.
//!
//! `DFS_REJOIN_FILES=5000` is the full form.
use dfs_core::types::crc32c;
use dfs_tests::proc::{Cluster, exclusive, fsck_clean, load, number, program, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Nobody's data is copied elsewhere while a scenario has a node down.
const PATIENT: &str = "[repair]\ngrace_ms = 600000\nvoter_grace_ms = 600000\ndelete_grace_ms = 2000
quarantine_ms = 3000\n";
const HASTY: &str = "[repair]\ngrace_ms = 1000\nvoter_grace_ms = 2000\ndelete_grace_ms = 2000
quarantine_ms = 3000\n";

/// What lies in the cluster: the seed and the length of each file.
type Files = BTreeMap<String, (u64, usize)>;

/// Puts files `names` with content of `round` (all above 64 KiB: an object and a file on disk each).
fn put(cluster: &Cluster, files: &mut Files, names: impl Iterator<Item = usize>, round: u64) {
    let source = cluster.scratch().join(format!("source{round}"));
    std::fs::create_dir(&source).unwrap();
    for i in names {
        let (seed, len) = (round * 1_000_000 + i as u64, 66_000 + i * 37 % 50_000);
        std::fs::write(source.join(format!("f{i}")), load::bytes(seed, len)).unwrap();
        files.insert(format!("/f{i}"), (seed, len));
    }
    // The files, not the directory: some of them are there already.
    let mut args = vec!["put".to_owned(), "-r".to_owned()];
    let names = std::fs::read_dir(&source).unwrap();
    args.extend(names.map(|e| e.unwrap().path().display().to_string()));
    args.push("/".to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cluster.tools(&args).unwrap();
}

/// Every byte of every file, as a fresh client reads it.
fn verify(cluster: &Cluster, files: &Files, round: &str) {
    let into = cluster.scratch().join(format!("read-{round}"));
    cluster
        .tools(&["get", "-r", "/", into.to_str().unwrap()])
        .unwrap();
    for (path, (seed, len)) in files {
        let got = std::fs::read(into.join(&path[1..])).unwrap();
        assert!(got == load::bytes(*seed, *len), "{round}: {path}");
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn identity(cluster: &Cluster, node: u8) -> Value {
    cluster.json(&["id", &node.to_string()]).unwrap()
}

fn records(cluster: &Cluster) -> Vec<Value> {
    let log = cluster.json(&["repair", "log"]);
    log.ok()
        .and_then(|log| log.as_array().cloned())
        .unwrap_or_default()
}

/// The newest record of the repair log whose cause is this.
fn record(cluster: &Cluster, cause: &str) -> Option<Value> {
    let all = records(cluster);
    all.into_iter().rev().find(|r| r["cause"] == cause)
}

fn await_record(cluster: &Cluster, cause: &str) -> Value {
    let mut found = None;
    let is_there = || {
        found = record(cluster, cause);
        found.is_some()
    };
    wait_for(cause, 2 * MINUTE, is_there)
        .unwrap_or_else(|e| panic!("{e}: {:#?}", records(cluster)));
    found.unwrap()
}

/// Object files of a node, and when each was written.
fn objects(cluster: &Cluster, node: u8) -> BTreeMap<PathBuf, SystemTime> {
    fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, SystemTime>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => walk(&entry.path(), found),
                Ok(meta) => drop(found.insert(entry.path(), meta.modified().unwrap())),
                Err(_) => {}
            }
        }
    }
    let mut found = BTreeMap::new();
    let data = cluster.dev_dir().join(format!("node{node}"));
    walk(&data.join("store").join("objects"), &mut found);
    found
}

/// Every member holds every object: a put is acknowledged when two of three have it, and HEALTHY bears
/// with a store that is still fetching the last ones.
fn all_copies_there(cluster: &Cluster) {
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    fsck_clean(cluster).unwrap();
}

/// Names and lengths of the files that a node counts for.
fn held(cluster: &Cluster, node: u8) -> BTreeMap<String, u64> {
    let list = cluster.json(&["store", &node.to_string()]).unwrap();
    let files = list["files"].as_array().unwrap().iter();
    files
        .map(|f| {
            let path = f["path"].as_str().unwrap().to_owned();
            (path, f["bytes"].as_u64().unwrap())
        })
        .collect()
}

fn received_for_repair(cluster: &Cluster, node: u8) -> u64 {
    let all = cluster.json(&["bandwidth", &node.to_string()]).unwrap();
    all[0]["repair"]["bytes_in"].as_u64().unwrap()
}

/// Some node that does not lead.
fn follower(cluster: &Cluster) -> u8 {
    let leader = cluster.leader().unwrap();
    (1..=5).find(|n| *n != leader).unwrap()
}

/// Every member lists this run of the node as alive.
fn await_alive_everywhere(cluster: &Cluster, id: &Value) -> Duration {
    let is_listed = |by: u8| {
        let list = cluster.json(&["members", &by.to_string()]);
        let list = list.unwrap_or_default();
        let mut rows = list.as_array().into_iter().flatten();
        rows.any(|m| {
            m["node"] == id["node"]
                && m["incarnation"] == id["incarnation"]
                && m["state"] == "alive"
        })
    };
    let max = 10 * SECOND;
    wait_for("this run alive in every list", max, || {
        (1..=5).all(is_listed)
    })
    .unwrap()
}

#[test]
fn a_node_that_comes_back_in_time_copies_only_what_changed_and_is_never_older_than_itself() {
    let _alone = exclusive();
    let count = number("DFS_REJOIN_FILES", 60);
    let cluster = Cluster::start_with(5, PATIENT).unwrap();
    let mut files = Files::new();
    put(&cluster, &mut files, 0..count, 1);
    all_copies_there(&cluster);
    let victim = follower(&cluster);
    let first = identity(&cluster, victim);
    let cause = |what: &str| format!("node {} {what}", &first["node"].as_str().unwrap()[..8]);

    cluster.kill(victim).unwrap();
    // Some are overwritten and some are new; the others stay as they are.
    let changed = count / 5 * 4..count / 5 * 6;
    put(&cluster, &mut files, changed.clone(), 2);
    cluster.restart(victim).unwrap();
    let back = await_record(&cluster, &cause("came back"));
    println!("{back:#}");
    let of_it = held(&cluster, victim);
    let named = changed.clone().map(|i| format!("/f{i}"));
    let missed: Vec<u64> = named.filter_map(|name| of_it.get(&name).copied()).collect();
    let bytes: u64 = missed.iter().sum();
    let received = received_for_repair(&cluster, victim);
    println!(
        "\nfigures: away while {} of {count} files changed: copied {} files, {} bytes ({received} received for repair) in {} ms",
        changed.len(),
        back["files"],
        back["bytes"],
        back["took_ms"],
    );
    assert!(!missed.is_empty() && missed.len() < of_it.len() / 2);
    assert_eq!(back["files"], missed.len() as u64, "{missed:?}");
    assert_eq!(back["objects"], missed.len() as u64);
    assert_eq!(back["bytes"], bytes);
    assert_eq!(back["wiped_replicas"], 0);
    assert!(
        received >= bytes && received < bytes + bytes / 10 + 100_000,
        "{received} bytes received to copy {bytes}"
    );
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    verify(&cluster, &files, "in time");

    // The clock is set back a day: the run before is a day ahead of it.
    cluster.kill(victim).unwrap();
    let path = cluster
        .dev_dir()
        .join(format!("node{victim}/node/identity"));
    let text = std::fs::read_to_string(&path).unwrap();
    let node = text.lines().nth(1).unwrap();
    let ahead = now_ms() + DAY_MS;
    let body = format!("dfs-node 1\n{node}\nincarnation {ahead}\n");
    let sum = crc32c(body.as_bytes());
    std::fs::write(&path, format!("{body}crc32c {sum:08x}\n")).unwrap();
    let mut before = ahead;
    for run in 0..2 {
        if run > 0 {
            cluster.kill(victim).unwrap();
        }
        put(&cluster, &mut files, changed.clone(), 3 + run);
        cluster.restart(victim).unwrap();
        let id = identity(&cluster, victim);
        let incarnation = id["incarnation"].as_u64().unwrap();
        assert_eq!(
            (&id["node"], &id["store"]),
            (&first["node"], &first["store"])
        );
        assert!(incarnation > before, "{incarnation} after {before}");
        assert!(now_ms() < incarnation, "the clock is behind");
        before = incarnation;
        let took = await_alive_everywhere(&cluster, &id);
        println!("\nfigures: clock a day back, run {run}: accepted by all after {took:?}");
        cluster.wait_health("HEALTHY", MINUTE).unwrap();
    }
    verify(&cluster, &files, "clock");

    // `rejoin = "wipe"` takes nothing for granted: all of it is copied again.
    let own = cluster.dev_dir().join(format!("node{victim}.toml"));
    std::fs::write(&own, format!("{PATIENT}rejoin = \"wipe\"\n")).unwrap();
    cluster.kill(victim).unwrap();
    let old = objects(&cluster, victim);
    let began = Instant::now();
    let since = SystemTime::now();
    cluster.restart(victim).unwrap();
    let all_new = || {
        let now = objects(&cluster, victim);
        now.len() >= of_it.len() && now.values().all(|written| *written >= since)
    };
    let replaced = wait_for("every object written anew", 2 * MINUTE, all_new);
    replaced.unwrap_or_else(|e| panic!("{e}: {:#?}", records(&cluster)));
    let filled = await_record(&cluster, &cause("was filled again"));
    println!("{filled:#}");
    println!(
        "\nfigures: rejoin = \"wipe\": {} objects copied again after {:?}",
        old.len(),
        began.elapsed()
    );
    let again: u64 = records(&cluster)
        .iter()
        .filter(|r| r["cause"] == cause("was filled again"))
        .filter_map(|r| r["objects"].as_u64())
        .sum();
    // Groups may have come or gone for balance meanwhile.
    let most = objects(&cluster, victim).len().max(old.len());
    let range = of_it.len()..=most;
    assert!(range.contains(&(again as usize)), "{again}: {range:?}");
    assert!(filled["lowest_copies"].as_u64() >= Some(2));
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    verify(&cluster, &files, "wipe");
    let checked = fsck_clean(&cluster).unwrap();
    println!("fsck: 0 problems, {}", checked.checked);
}

#[test]
fn a_node_that_comes_back_late_is_wiped_first_and_a_deleted_directory_is_a_new_store() {
    let _alone = exclusive();
    let count = number("DFS_REJOIN_FILES", 60);
    let cluster = Cluster::start_with(5, HASTY).unwrap();
    let mut files = Files::new();
    put(&cluster, &mut files, 0..count, 1);
    all_copies_there(&cluster);
    let victim = follower(&cluster);
    let first = identity(&cluster, victim);
    let short = first["node"].as_str().unwrap()[..8].to_owned();
    let old = objects(&cluster, victim).len();
    let groups = |cluster: &Cluster, store: &Value| {
        let status = cluster.status().ok()?;
        let mut all = status["stores"].as_array()?.iter();
        let row = all.find(|s| s["store"] == *store)?;
        Some((row["up"] == true, row["pgs"].as_u64()?))
    };

    cluster.kill(victim).unwrap();
    await_record(&cluster, &format!("node {short} failed"));
    put(&cluster, &mut files, count / 2..count, 2);
    let since = SystemTime::now();
    let said_before = cluster.log(victim).unwrap().len();
    cluster.restart(victim).unwrap();
    // It is given nothing before it has said that it wiped what it had.
    let came = format!("node {short} came back");
    let admitted = wait_for("wiped and admitted", MINUTE, || {
        let given = groups(&cluster, &first["store"]);
        let is_said = record(&cluster, &came).is_some();
        if let Some((true, n)) = given {
            assert!(n == 0 || is_said, "{n} groups before it was wiped");
        }
        is_said
    });
    let back = record(&cluster, &came).unwrap();
    println!("{back:#}");
    println!(
        "\nfigures: late: {} objects of {} replicas wiped, said after {:?}",
        back["wiped_objects"],
        back["wiped_replicas"],
        admitted.unwrap()
    );
    assert_eq!(back["wiped_objects"], old as u64);
    assert!(back["wiped_replicas"].as_u64() > Some(0));
    assert_eq!(back["bytes"], 0, "it counts for nothing that changed");
    let log = cluster.log(victim).unwrap();
    assert!(log[said_before..].contains("wiped what was re-replicated while this node was away"));
    // It serves and counts none of it; the bytes rest for a while.
    let kept = || {
        let mut kept = objects(&cluster, victim);
        kept.retain(|_, at| *at < since);
        kept
    };
    wait_for("wiped bytes gone", 20 * SECOND, || kept().is_empty())
        .unwrap_or_else(|e| panic!("{e}: {:?}", kept()));
    let log = cluster.log(victim).unwrap();
    assert!(log[said_before..].contains("objects leave the quarantine"));
    cluster.wait_health("HEALTHY", MINUTE).unwrap();

    // Without its directory it is another node with another store.
    cluster
        .tools(&["dev", "wipe", &victim.to_string()])
        .unwrap();
    cluster.restart(victim).unwrap();
    let second = identity(&cluster, victim);
    assert_ne!(second["store"], first["store"]);
    assert_ne!(second["node"], first["node"]);
    let node = first["node"].as_str().unwrap();
    let mut last = String::new();
    let removed = wait_for("the old store removed", MINUTE, || {
        let output = cluster.tools_output(&["remove", node]).unwrap();
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success()
    });
    removed.unwrap_or_else(|e| panic!("{e}: {last}"));
    let healthy = cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let status = cluster.status().unwrap();
    let stores = status["stores"].as_array().unwrap();
    assert_eq!(stores.len(), 5, "{status:#}");
    assert!(stores.iter().all(|s| s["store"] != first["store"]));
    println!(
        "\nfigures: deleted directory: a new store, the old one removed, HEALTHY after {healthy:?}"
    );
    verify(&cluster, &files, "late");
    fsck_clean(&cluster).unwrap();
    refuses_a_directory_of_another_cluster(&cluster);
}

/// Files below a directory, with a sum of the bytes of each.
fn listing(dir: &Path) -> BTreeMap<PathBuf, u32> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(listing(&entry.path())),
            // Whoever holds the lock writes its process there.
            false if entry.file_name() == "lock" => {}
            false => {
                let sum = crc32c(&std::fs::read(entry.path()).unwrap());
                found.insert(entry.path(), sum);
            }
        }
    }
    found
}

fn refuses_a_directory_of_another_cluster(cluster: &Cluster) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = port.local_addr().unwrap().to_string();
    drop(port);
    let foreign = cluster.scratch().join("foreign");
    let mut other = Command::new(program("dfs-daemon"))
        .args(["--bootstrap", "--listen", &addr, "--data"])
        .arg(&foreign)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let meta = foreign.join("store/store.meta");
    let begun = wait_for("the other cluster", 20 * SECOND, || {
        meta.exists() && foreign.join("node/identity").exists()
    });
    other.kill().unwrap();
    other.wait().unwrap();
    begun.unwrap();
    let theirs = std::fs::read_to_string(&meta).unwrap();
    let theirs = theirs
        .lines()
        .nth(1)
        .unwrap()
        .trim_start_matches("cluster ");
    let before = listing(&foreign);
    let leader = cluster.nodes().unwrap()[0].addr.to_string();
    let output = Command::new(program("dfs-daemon"))
        .args(["--listen", &addr, "--join", &leader, "--data"])
        .arg(&foreign)
        .arg("--key-file")
        .arg(cluster.dev_dir().join("cluster.key"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let ours = identity(cluster, 1)["cluster"].as_str().unwrap().to_owned();
    assert!(said.contains(&ours) && said.contains(theirs), "{said}");
    assert_eq!(listing(&foreign), before, "nothing in it was changed");
    let members = cluster.json(&["members", "1"]).unwrap();
    let alive = members.as_array().unwrap().iter();
    assert_eq!(alive.filter(|m| m["state"] == "alive").count(), 5);
}

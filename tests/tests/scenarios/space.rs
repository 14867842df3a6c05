//! What `status` says takes the space of each node is what `du` says, and what the files are.
use dfs_tests::proc::{Cluster, NodeStatus, Tmpfs, exclusive, fuse_or_skip, load, sh, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const CONFIG: &str = "[repair]\ndelete_grace_ms = 500\n";
/// What is deleted rests for the usual time first, and then only so long.
const HASTY: &str = "[repair]\ndelete_grace_ms = 500\nquarantine_ms = 2000\n";
const NODES: u8 = 4;
/// Of the device that they share: what rests does so only where a good part is free.
const DEVICE_MB: usize = 1500;
const COPIES: u64 = 3;
const LARGE: usize = 30;
const SMALL: usize = 60;
/// Nothing is moved or freed any more when nothing has changed for so long.
const REST: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Bytes before an object's in a file of its own.
const HEADER: u64 = 4096;
const PARTS: [&str; 7] = [
    "live",
    "version",
    "quarantine",
    "reclaimable",
    "metadata",
    "ballast",
    "set_aside",
];

/// What `du` says of a directory, in bytes.
fn du(path: &Path) -> u64 {
    let text = sh(&format!("du -s --block-size=1 {}", path.display())).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// No two contents of large files are equally long, nor is any as short as a small file's.
/// A file of its own. In all less than 4 MiB: above, groups are moved for balance by their bytes, and what
/// was moved away rests, too.
fn large(i: usize, round: usize) -> usize {
    66_000 + 1000 * i + 100 * round
}

fn small(i: usize) -> usize {
    1 + 50 * i
}

/// What should be there, told by nobody.
struct Expected {
    /// Bytes of the newest content, by name.
    live: BTreeMap<String, usize>,
    /// Of older ones and of deleted files.
    old: Vec<usize>,
    /// Of purged ones, which rest.
    purged: Vec<usize>,
}

impl Expected {
    /// Puts the files of a round.
    fn put(&mut self, cluster: &Cluster, round: usize, files: &[(String, usize)]) {
        let source = cluster.scratch().join(format!("round{round}"));
        std::fs::create_dir(&source).unwrap();
        for (name, len) in files {
            let bytes = load::bytes((round * 1000 + len) as u64, *len);
            std::fs::write(source.join(name), bytes).unwrap();
            self.old.extend(self.live.insert(name.clone(), *len));
        }
        let all = files.iter().map(|(name, _)| source.join(name));
        let all: Vec<_> = all.map(|p| p.display().to_string()).collect();
        let mut args = vec!["put"];
        args.extend(all.iter().map(String::as_str));
        args.push("/");
        cluster.tools(&args).unwrap();
    }

    fn remove(&mut self, cluster: &Cluster, args: &[&str], names: &[String], is_kept: bool) {
        let mut all = vec!["rm"];
        all.extend(args);
        let paths: Vec<_> = names.iter().map(|n| format!("/{n}")).collect();
        all.extend(paths.iter().map(String::as_str));
        cluster.tools(&all).unwrap();
        for name in names {
            let len = self.live.remove(name).unwrap();
            match is_kept {
                true => self.old.push(len),
                false => self.purged.push(len),
            }
        }
    }
}

/// Lengths of the objects that have a file each, by a walk over the directory.
fn object_files(dir: &Path, found: &mut Vec<u64>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        match about.is_dir() {
            true => object_files(&entry.path(), found),
            false => found.push(about.len() - HEADER),
        }
    }
}

/// Of these contents, the bytes that lie on a node in files of their own.
fn on_disk<'a>(node: &NodeStatus, wanted: impl Iterator<Item = &'a usize>) -> u64 {
    let mut files = Vec::new();
    object_files(&node.data_dir.join("store/objects"), &mut files);
    let wanted: Vec<u64> = wanted.map(|len| *len as u64).collect();
    files.iter().filter(|len| wanted.contains(len)).sum()
}

/// Bytes of the small files that the cluster says a node holds.
fn small_on(cluster: &Cluster, node: &NodeStatus) -> u64 {
    let answer = cluster.json(&["store", &node.addr.to_string()]).unwrap();
    let files = answer["files"].as_array().unwrap().iter();
    let small = files.filter(|f| f["path"].as_str().is_some_and(|p| p.contains("small")));
    small.map(|f| f["bytes"].as_u64().unwrap()).sum()
}

fn bytes(space: &Value, part: &str) -> u64 {
    space[part]
        .as_u64()
        .unwrap_or_else(|| panic!("{part} of {space}"))
}

fn copies(lens: &mut dyn Iterator<Item = &usize>) -> u64 {
    lens.sum::<usize>() as u64 * COPIES
}

/// Looks at every node, when all is at rest.
fn check(cluster: &Cluster, expected: &Expected, when: &str) -> BTreeMap<String, Value> {
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    let (mut spaces, mut since) = (Vec::new(), Instant::now());
    let is_done = |space: &Value| {
        space["error"].is_null()
            && space["is_settled"] == true
            && bytes(space, "unreferenced") == 0
            && bytes(space, "missing") == 0
    };
    let purged = copies(&mut expected.purged.iter());
    let rest = |answer: &[Value]| answer.iter().map(|s| bytes(s, "quarantine")).sum::<u64>();
    let waited = wait_for("all counted, and deleted bytes freed", MINUTE, || {
        let answer = cluster.json(&["status", "--space"]).unwrap();
        let answer = answer.as_array().unwrap().clone();
        let copying = cluster.status().unwrap()["pgs"]["copying"] != 0;
        let is_over = answer.iter().all(is_done) && rest(&answer) == purged;
        if copying || answer != spaces || !is_over {
            (spaces, since) = (answer, Instant::now());
        }
        since.elapsed() > REST
    });
    waited.unwrap_or_else(|e| panic!("{when}: {e}: {spaces:#?}"));
    assert_eq!(spaces.len(), usize::from(NODES));
    let nodes = cluster.nodes().unwrap();
    let mut all = BTreeMap::new();
    for space in spaces {
        let is_it = |n: &&NodeStatus| space["addr"] == n.addr.to_string();
        let node = nodes.iter().find(is_it).unwrap();
        let du = du(&node.data_dir);
        let sum: u64 = PARTS.map(|part| bytes(&space, part)).iter().sum();
        println!(
            "figures: {when}: node {} sum {sum} du {du} {space}",
            node.node
        );
        assert!(
            sum.abs_diff(du) * 50 <= du,
            "{when}: {sum} of {du}: {space}"
        );
        // Ballast and journal are much of it: what is wrong with the rest must show, too.
        assert!(
            sum.abs_diff(du) <= 1 << 20,
            "{when}: {sum} of {du}: {space}"
        );
        let live = on_disk(node, expected.live.values()) + small_on(cluster, node);
        assert_eq!(bytes(&space, "live"), live, "{when}: {space}");
        let version = on_disk(node, expected.old.iter());
        assert_eq!(bytes(&space, "version"), version, "{when}: {space}");
        let resting = on_disk(node, expected.purged.iter());
        assert_eq!(bytes(&space, "quarantine"), resting, "{when}: {space}");
        all.insert(node.addr.to_string(), space);
    }
    let sum_of = |part: &str| all.values().map(|s| bytes(s, part)).sum::<u64>();
    let live = copies(&mut expected.live.values());
    assert_eq!(sum_of("live"), live, "{when}: no copy more or less");
    assert_eq!(
        sum_of("version"),
        copies(&mut expected.old.iter()),
        "{when}"
    );
    all
}

/// The daemons share one device: together they promise no more than it has, and no less.
fn compare_totals(cluster: &Cluster, status: &Value) {
    let dir = cluster.dev_dir();
    let df = sh(&format!(
        "df -B1 --output=avail,size {} | tail -1",
        dir.display()
    ))
    .unwrap();
    let mut df = df
        .split_whitespace()
        .map(|word| word.parse::<u64>().unwrap());
    let (avail, size) = (df.next().unwrap(), df.next().unwrap());
    let room = avail.saturating_sub(size / 20);
    let free = bytes(status, "free_bytes");
    println!("figures: device {avail} of {size}, room {room}; free at 3 copies {free}");
    assert!((free * COPIES).abs_diff(room) <= room / 20);
    assert!(free <= bytes(status, "total_bytes"));
}

#[test]
fn the_space_of_each_node_adds_up_to_what_du_says_and_is_what_the_files_are() {
    if !fuse_or_skip("a device for the space of each node") {
        return;
    }
    let _alone = exclusive();
    let own = |dir: &Path| Ok(vec![Tmpfs::new(dir, DEVICE_MB)?]);
    let cluster = Cluster::start_on(NODES, CONFIG, own).unwrap();
    let mut expected = Expected {
        live: BTreeMap::new(),
        old: Vec::new(),
        purged: Vec::new(),
    };
    let larges = |round| (0..LARGE).map(move |i| (format!("large{i}"), large(i, round)));
    let smalls = (0..SMALL).map(|i| (format!("small{i}"), small(i)));
    let first: Vec<_> = larges(0).chain(smalls).collect();
    expected.put(&cluster, 0, &first);
    let again: Vec<_> = larges(1).take(LARGE / 2).collect();
    expected.put(&cluster, 1, &again);
    let loaded = check(&cluster, &expected, "loaded");
    let shown = cluster.tools(&["status"]).unwrap();
    for word in ["LIVE", "VERSIONS", "QUARANTINE", "RECLAIMABLE", "METADATA"] {
        assert!(shown.contains(word), "{shown}");
    }
    let status = cluster.status().unwrap();
    for store in status["stores"].as_array().unwrap() {
        let (brief, whole) = (&store["space"], &loaded[store["addr"].as_str().unwrap()]);
        assert_eq!(bytes(brief, "live"), bytes(whole, "live"), "{brief}");
    }
    compare_totals(&cluster, &status);

    let names =
        |from: usize, to: usize| (from..to).map(|i| format!("large{i}")).collect::<Vec<_>>();
    let kept = names(LARGE / 2, LARGE / 2 + 4);
    expected.remove(&cluster, &[], &kept, true);
    let purged = names(LARGE - 6, LARGE);
    expected.remove(&cluster, &["--purge"], &purged, false);
    check(&cluster, &expected, "purged");
    // Not a voter, which would have to be replaced first.
    let voters = cluster.voters().unwrap();
    let victim = (1..=NODES).find(|n| !voters.contains(n)).unwrap();
    cluster.kill(victim).unwrap();
    let more: Vec<_> = larges(2).take(4).collect();
    expected.put(&cluster, 2, &more);
    cluster.restart(victim).unwrap();
    let is_back = || {
        let status = cluster.status().unwrap();
        let stores = status["stores"].as_array().unwrap();
        stores.iter().all(|s| s["up"] == true && s["behind"] == 0)
    };
    wait_for("the node has caught up", MINUTE, is_back).unwrap();
    let back = check(&cluster, &expected, "back");

    // What was set aside because of damage is space, too.
    let nodes = cluster.nodes().unwrap();
    let aside = nodes[0].data_dir.join("store.damaged-1/objects/00");
    std::fs::create_dir_all(&aside).unwrap();
    std::fs::write(aside.join("x"), vec![7; 3_000_000]).unwrap();
    cluster.kill_all().unwrap();
    cluster.start_all().unwrap();
    let restarted = check(&cluster, &expected, "restarted");
    for (addr, space) in &restarted {
        for part in ["live", "version", "quarantine", "ballast"] {
            assert_eq!(space[part], back[addr][part], "{part}: {space}");
        }
        let is_first = *addr == nodes[0].addr.to_string();
        let aside = bytes(space, "set_aside");
        assert_eq!(aside >= 3_000_000, is_first, "{space}");
    }

    // What rests goes when its time is over, and its files with it.
    cluster.kill_all().unwrap();
    std::fs::write(cluster.dev_dir().join("dev.toml"), HASTY).unwrap();
    cluster.start_all().unwrap();
    let gone = std::mem::take(&mut expected.purged);
    check(&cluster, &expected, "rested");
    for node in cluster.nodes().unwrap() {
        assert_eq!(on_disk(&node, gone.iter()), 0, "node {}", node.node);
    }
}

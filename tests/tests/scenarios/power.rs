//! Everything killed at once: what was acknowledged is there afterwards, because it was synced first.
use dfs_tests::proc::load::{Load, verify};
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, run, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn all_daemons_killed_at_once_lose_nothing_acknowledged() {
    if !fuse_or_skip("all daemons killed") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::with_options(&cluster, "mnt", "timeout=10").unwrap();
    let load = Load::start(&mount.join("load"), 4, 200_000);
    wait_for("some load", 30 * SECOND, || load.seen().acked.len() > 200).unwrap();
    cluster.kill_all().unwrap();
    let acked = load.stop().acked;
    drop(mount);
    cluster.start_all().unwrap();
    let again = Mount::new(&cluster, "again").unwrap();
    let moved: Vec<_> = acked
        .iter()
        .map(|a| {
            let below = a.path.strip_prefix(cluster.scratch().join("mnt")).unwrap();
            dfs_tests::proc::load::Acked {
                path: again.join(below),
                ..a.clone()
            }
        })
        .collect();
    println!("{} acknowledged before the kill", moved.len());
    verify(&moved).unwrap();
    again.unmount().unwrap();
}

/// Every thread of a process has a tracer.
fn is_traced(pid: u32) -> bool {
    let untraced = |task: std::io::Result<std::fs::DirEntry>| {
        let status = task.and_then(|t| std::fs::read_to_string(t.path().join("status")));
        // A thread that has ended meanwhile needs none.
        status.is_ok_and(|s| s.contains("TracerPid:\t0\n"))
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|mut t| !t.any(untraced))
}

/// strace on every daemon: which files it synced, and when.
struct Traces {
    children: Vec<(u8, Child, PathBuf)>,
}

impl Traces {
    fn start(cluster: &Cluster) -> Self {
        let children = cluster.nodes().unwrap().into_iter().map(|n| {
            let out = cluster.scratch().join(format!("trace{}", n.node));
            let child = Command::new("strace")
                .args([
                    "-f",
                    "-qq",
                    "-ttt",
                    "-T",
                    "-y",
                    "-e",
                    "trace=fdatasync,fsync",
                    "-o",
                ])
                .arg(&out)
                .args(["-p", &n.pid.unwrap().to_string()])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("strace is installed");
            (n.node, child, out)
        });
        Self {
            children: children.collect(),
        }
    }

    fn stop(mut self) -> BTreeMap<u8, String> {
        let mut all = BTreeMap::new();
        for (node, child, out) in &mut self.children {
            let pid = i32::try_from(child.id()).unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
            child.wait().unwrap();
            all.insert(*node, std::fs::read_to_string(out).unwrap());
        }
        all
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// Nodes that finished a sync of a file whose path contains `part` between two moments. A call that
/// strace shows in two lines counts by its second.
fn synced(traces: &BTreeMap<u8, String>, part: &str, from: f64, to: f64) -> BTreeSet<u8> {
    let mut nodes = BTreeSet::new();
    for (node, trace) in traces {
        let mut unfinished: BTreeMap<&str, bool> = BTreeMap::new();
        for line in trace.lines() {
            let mut words = line.split_whitespace();
            let (Some(tid), Some(at)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(at) = at.parse::<f64>() else { continue };
            if line.contains("<unfinished") {
                unfinished.insert(tid, line.contains(part));
                continue;
            }
            let ours = match line.contains("resumed>") {
                true => unfinished.remove(tid).unwrap_or(false),
                false => line.contains(part),
            };
            let took = line
                .rsplit_once('<')
                .and_then(|(_, t)| t.trim_end_matches('>').parse().ok());
            let end = if line.contains("resumed>") {
                at
            } else {
                at + took.unwrap_or(0.0)
            };
            if ours && line.contains("= 0") && end >= from && end <= to {
                nodes.insert(*node);
            }
        }
    }
    nodes
}

#[test]
fn every_acknowledgement_follows_syncs_on_w_stores_and_a_majority_of_voters() {
    if !fuse_or_skip("syncs before acknowledgements") {
        return;
    }
    if run(Command::new("strace").arg("-V")).is_err() {
        println!("SKIPPED syncs before acknowledgements: needs strace");
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let traces = Traces::start(&cluster);
    let warm = |m: &Path| std::fs::write(m.join("warm"), "x").unwrap();
    let traced = || cluster.pids().unwrap().into_iter().all(is_traced);
    wait_for("strace on every thread", Duration::from_secs(20), traced).unwrap();
    warm(mount.path());
    let mut puts = Vec::new();
    let mut names = Vec::new();
    for i in 0..12usize {
        let file = std::fs::File::create(mount.join(format!("f{i}"))).unwrap();
        let data = vec![b'd'; 1 + i * 40_000];
        let from = now();
        std::io::Write::write_all(&mut &file, &data).unwrap();
        file.sync_all().unwrap();
        puts.push((from, now()));
        let from = now();
        std::fs::create_dir(mount.join(format!("d{i}"))).unwrap();
        names.push((from, now()));
    }
    let traces = traces.stop();
    for (from, to) in puts {
        let stores = synced(&traces, "/node", from, to);
        let journals: BTreeSet<u8> = synced_not(&traces, "/raft", from, to);
        let voters = synced(&traces, "/raft", from, to);
        assert!(journals.len() >= 2, "stores {journals:?} of {stores:?}");
        assert!(voters.len() >= 2, "put: voters {voters:?}");
    }
    for (from, to) in names {
        let voters = synced(&traces, "/raft", from, to);
        assert!(voters.len() >= 2, "mkdir: voters {voters:?}");
    }
    mount.unmount().unwrap();
}

/// As [`synced`], for files of a data directory whose path does not contain `part`.
fn synced_not(traces: &BTreeMap<u8, String>, part: &str, from: f64, to: f64) -> BTreeSet<u8> {
    let others: BTreeMap<u8, String> = traces
        .iter()
        .map(|(n, t)| {
            let keep = |l: &&str| !l.contains(part);
            (
                *n,
                t.lines().filter(keep).map(|l| format!("{l}\n")).collect(),
            )
        })
        .collect();
    synced(&others, "/node", from, to)
}

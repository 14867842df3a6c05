//! R=2 is real: reads ask two members, a hidden commit is never missed, and a file without its quorum
//! fails in time instead of hanging or guessing.
use dfs_core::wire::Stamp;
use dfs_tests::inside::{Fleet, Place, Probe};
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const R: usize = 2;

#[test]
fn every_uncached_read_asks_two_members_of_the_files_home() {
    if !fuse_or_skip("stamp reads") {
        return;
    }
    let _alone = exclusive();
    const FILES: usize = 20;
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    for i in 0..FILES {
        std::fs::write(mount.join(format!("f{i}")), vec![b'a'; 1 + i * 9000]).unwrap();
    }
    mount.unmount().unwrap();
    let cold = Mount::new(&cluster, "cold").unwrap();
    let mut probe = Probe::new(&cluster).unwrap();
    let (mut total, mut before) = (0, probe.stamp_reads().unwrap());
    for i in 0..FILES {
        let holders = dfs_tests::proc::cluster::holders(&cluster, &format!("/f{i}")).unwrap();
        // `where` itself asks every member for its stamp.
        let asked = probe.stamp_reads().unwrap();
        let bytes = std::fs::read(cold.join(format!("f{i}"))).unwrap();
        assert_eq!(bytes.len(), 1 + i * 9000);
        before.clone_from(&asked);
        let after = probe.stamp_reads().unwrap();
        let asked: BTreeMap<u8, u64> = after
            .iter()
            .map(|(node, n)| (*node, n - before[node]))
            .filter(|(_, n)| *n > 0)
            .collect();
        assert!(
            asked.len() >= R && asked.keys().all(|n| holders.contains(n)),
            "f{i}: stamps asked of {asked:?}, held by {holders:?}"
        );
        total += asked.values().sum::<u64>();
    }
    println!("{FILES} uncached reads: {total} stamp reads");
    // Read again: from the cache, which the master guards.
    let before = probe.stamp_reads().unwrap();
    std::fs::read(cold.join("f3")).unwrap();
    assert_eq!(
        probe.stamp_reads().unwrap(),
        before,
        "a cached read asks nobody"
    );
    cold.unmount().unwrap();
}

/// Clean at `revision`, with nothing in flight: would let a reader of it alone believe that it is the
/// newest.
fn says_old(stamp: &Stamp, revision: u64) -> bool {
    matches!(stamp, Stamp::Known { clean, dirty } if clean.0.0 <= revision && dirty.is_empty())
}

#[test]
fn a_commit_hidden_from_one_member_is_never_missed() {
    if !fuse_or_skip("a hidden commit") {
        return;
    }
    let _alone = exclusive();
    let fleet = Fleet::start(5, "").unwrap();
    let cluster = &fleet.cluster;
    let mount = Mount::new(cluster, "mnt").unwrap();
    let reader = Mount::new(cluster, "reader").unwrap();
    let mut probe = Probe::new(cluster).unwrap();
    let (mut hidden_reads, mut hidden_asked, mut rounds) = (0, 0, 0);
    for round in 0..6 {
        let name = format!("f{round}");
        let (old, new) = (
            format!("old {round} ").repeat(900),
            format!("new {round} ").repeat(900),
        );
        std::fs::write(mount.join(&name), &old).unwrap();
        let path = format!("/{name}");
        let leader = fleet.leader().unwrap();
        let holders = fleet.holders(&path).unwrap();
        let Some(victim) = holders.iter().copied().find(|h| *h != leader) else {
            panic!("{path}: held by {holders:?}");
        };
        let place = Place::of(cluster, &path).unwrap();
        // Every member has been told of the old content.
        let mut revision = 0;
        wait_for("clean stamps", 10 * SECOND, || {
            let stamps: Vec<_> = holders.iter().map(|h| probe.stamp(*h, place)).collect();
            let clean = |s: &Result<Stamp, _>| match s {
                Ok(Stamp::Known { clean, dirty }) if dirty.is_empty() => Some(clean.0.0),
                _ => None,
            };
            let all: Option<BTreeSet<u64>> = stamps.iter().map(clean).collect();
            revision = all.as_ref().and_then(|a| a.first().copied()).unwrap_or(0);
            revision > 0 && all.is_some_and(|a| a.len() == 1)
        })
        .unwrap();
        // The victim hears neither the PREPARE nor the master, but still holds its serving lease.
        fleet.proxy(victim).cut(true);
        let held = fleet.proxy(leader).hold(fleet.pid(victim));
        let began = Instant::now();
        std::fs::write(mount.join(&name), &new).unwrap();
        fleet.proxy(victim).cut(false);
        let before = probe.usage(victim).unwrap().stamp_reads;
        let mut is_hidden = false;
        while began.elapsed() < Duration::from_millis(1700) {
            let stamps: Vec<_> = holders
                .iter()
                .map(|h| (*h, probe.stamp(*h, place)))
                .collect();
            let old_ones = stamps
                .iter()
                .filter(|(_, s)| s.as_ref().is_ok_and(|s| says_old(s, revision)));
            let old_ones: Vec<u8> = old_ones.map(|(h, _)| *h).collect();
            assert!(
                old_ones.len() < R && old_ones.iter().all(|h| *h == victim),
                "round {round}: {old_ones:?} say that revision {revision} is the newest: {stamps:?}"
            );
            is_hidden |= old_ones == [victim];
            let got = cluster.tools(&["get", &path, "-"]).unwrap();
            assert!(got == new, "round {round}: a fresh client read old content");
            let got = std::fs::read_to_string(reader.join(&name)).unwrap();
            assert!(
                got == new,
                "round {round}: the second mount read old content"
            );
            hidden_reads += 2;
        }
        let after = probe.usage(victim).unwrap().stamp_reads;
        fleet.proxy(leader).release();
        println!(
            "round {round}: node {victim} hidden from {held} connections: {is_hidden}, asked {} times",
            after - before
        );
        rounds += u32::from(is_hidden);
        hidden_asked += after - before;
        // Told at last, it says so by itself.
        wait_for("the victim is told", 20 * SECOND, || {
            let stamp = probe.stamp(victim, place);
            matches!(stamp, Ok(Stamp::Known { clean, .. }) if clean.0.0 > revision)
        })
        .unwrap();
    }
    println!(
        "{rounds} of 6 rounds hidden: {hidden_reads} reads, victim's stamp asked {hidden_asked} times"
    );
    assert!(
        rounds >= 3,
        "the commit was hidden in {rounds} rounds of 6 only"
    );
    reader.unmount().unwrap();
    mount.unmount().unwrap();
}

#[test]
fn a_file_without_its_quorum_fails_in_time_and_others_work() {
    if !fuse_or_skip("two of three replicas gone") {
        return;
    }
    let _alone = exclusive();
    const FILES: usize = 40;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let content = |i: usize| format!("content {i} ").repeat(50 + i * 300);
    for i in 0..FILES {
        std::fs::write(mount.join(format!("f{i}")), content(i)).unwrap();
    }
    mount.unmount().unwrap();
    wait_for("nothing is being moved", Duration::from_secs(20), || {
        let status = cluster.status().unwrap_or_default();
        status["pgs"]["active"] == 256
    })
    .unwrap();
    cluster.tools(&["repair", "pause"]).unwrap();
    let voters = cluster.voters().unwrap();
    let victims: Vec<u8> = (1..=5).filter(|n| !voters.contains(n)).collect();
    assert_eq!((voters.len(), victims.len()), (3, 2), "{voters:?}");
    let (mut gone, mut live) = (Vec::new(), Vec::new());
    for i in 0..FILES {
        let holders = dfs_tests::proc::cluster::holders(&cluster, &format!("/f{i}")).unwrap();
        assert_eq!(holders.len(), 3);
        match victims.iter().all(|v| holders.contains(v)) {
            true => gone.push(i),
            false => live.push(i),
        }
    }
    println!(
        "victims {victims:?}: {} files lose two replicas",
        gone.len()
    );
    assert!(gone.len() >= 4, "{gone:?}");
    let options = format!("timeout={}", TIMEOUT.as_secs());
    let mount = Mount::with_options(&cluster, "mnt", &options).unwrap();
    let second = Mount::with_options(&cluster, "second", &options).unwrap();
    let overwritten = second.join(format!("f{}", gone[3]));
    std::fs::read(&overwritten).unwrap();
    // One that is in the cache of attributes already, and others that are not.
    std::fs::metadata(mount.join(format!("f{}", gone[0]))).unwrap();
    for victim in &victims {
        cluster.kill(*victim).unwrap();
    }
    let limit = TIMEOUT + 2 * SECOND;
    let mut slowest = Duration::ZERO;
    let mut timed = |what: String, run: &mut dyn FnMut() -> std::io::Result<()>| {
        let began = Instant::now();
        let result = run();
        let took = began.elapsed();
        slowest = slowest.max(took);
        assert!(took <= limit, "{what} took {took:?}");
        let error = result.expect_err(&what);
        println!("{what}: {error} after {took:?}");
    };
    for i in &gone[..2] {
        let path = mount.join(format!("f{i}"));
        timed(format!("read f{i}"), &mut || std::fs::read(&path).map(drop));
        timed(format!("write f{i}"), &mut || {
            use std::io::Write;
            let mut file = std::fs::File::options().append(true).open(&path)?;
            file.write_all(b"more")?;
            file.sync_all()
        });
    }
    timed(format!("overwrite f{}", gone[3]), &mut || {
        let file = std::fs::File::options().write(true).open(&overwritten)?;
        file.write_all_at(b"never stored", 0)?;
        file.sync_all()
    });
    // While one hangs on its deadline, the others go on.
    let stuck = mount.join(format!("f{}", gone[2]));
    let stuck = std::thread::spawn(move || std::fs::read(stuck).map(drop));
    let mut longest = Duration::ZERO;
    for i in &live {
        let began = Instant::now();
        let path = mount.join(format!("f{i}"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content(*i), "f{i}");
        std::fs::write(&path, "other").unwrap();
        longest = longest.max(began.elapsed());
    }
    println!(
        "{} other files: longest read and write {longest:?}",
        live.len()
    );
    assert!(longest < 3 * SECOND, "{longest:?}");
    stuck.join().unwrap().expect_err("a read without a quorum");
    let began = Instant::now();
    mount.unmount().unwrap();
    println!("umount took {:?}", began.elapsed());
    for victim in &victims {
        cluster.restart(*victim).unwrap();
    }
    cluster.tools(&["repair", "resume"]).unwrap();
    // What could not be stored is not read back from the kernel's pages either.
    let read = std::fs::read_to_string(&overwritten).unwrap();
    assert!(read == content(gone[3]), "{:?}", &read[..20]);
    second.unmount().unwrap();
    // Nothing was lost meanwhile.
    let again = Mount::new(&cluster, "mnt").unwrap();
    for i in &gone {
        let got = std::fs::read_to_string(again.join(format!("f{i}"))).unwrap();
        assert!(got.starts_with(&content(*i)), "f{i}");
    }
    again.unmount().unwrap();
}

/// A voter whose log is damaged is set aside, its store serves on, and the group had two voters of
/// three for ever.
#[test]
fn regression_a_voter_with_a_damaged_log_votes_again_under_a_new_id() {
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let raft_id = |i: u8| {
        let identity = cluster.json(&["id", &i.to_string()]).ok()?;
        identity["raft_id"].as_u64()
    };
    wait_for("three voters", 20 * SECOND, || {
        (1..=3).all(|i| raft_id(i).is_some()) && cluster.voters().is_ok_and(|v| v.len() == 3)
    })
    .unwrap();
    let leader = cluster.leader().unwrap();
    let victim = (1..=3).find(|i| *i != leader).unwrap();
    let before = raft_id(victim).unwrap();
    let node = cluster.nodes().unwrap().into_iter();
    let dir = node.clone().find(|n| n.node == victim).unwrap().data_dir;
    cluster.kill(victim).unwrap();
    let segment = std::fs::read_dir(dir.join("raft")).unwrap();
    let segment = segment
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("seg-"))
        .unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(segment)
        .unwrap();
    let (mut byte, at) = ([0], 4096 + 40);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    cluster.restart(victim).unwrap();
    let begun = Instant::now();
    wait_for("a new id", 30 * SECOND, || {
        raft_id(victim).is_some_and(|id| id > before)
    })
    .unwrap();
    cluster.wait_health("HEALTHY", 30 * SECOND).unwrap();
    println!("figures: voting again after {:?}", begun.elapsed());
    assert_eq!(cluster.voters().unwrap(), [1, 2, 3]);
    assert!(dir.join("voter.damaged-1/raft.member").exists());
    // It counts: the group does without another one.
    let other = (1..=3).find(|i| ![leader, victim].contains(i)).unwrap();
    cluster.kill(other).unwrap();
    wait_for("a leader without it", 20 * SECOND, || {
        cluster
            .status()
            .is_ok_and(|s| s["stores"].as_array().is_some())
    })
    .unwrap();
}

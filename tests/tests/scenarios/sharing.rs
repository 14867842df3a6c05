//! Several mounts of one cluster: what each promise of SEMANTICS.md says about them.
use dfs_tests::nemesis::workloads::Workloads;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, times};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn three(cluster: &Cluster) -> [Mount; 3] {
    ["a", "b", "c"].map(|n| Mount::new(cluster, n).unwrap())
}

fn end(mounts: impl IntoIterator<Item = Mount>) {
    mounts.into_iter().for_each(|m| m.unmount().unwrap());
}

#[test]
fn appends_from_three_mounts_are_neither_lost_nor_torn() {
    if !fuse_or_skip("appends_from_three_mounts_are_neither_lost_nor_torn") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mounts = three(&cluster);
    let records = times(3_000);
    std::fs::write(mounts[0].join("log"), b"").unwrap();
    let began = Instant::now();
    let writers: Vec<_> = (0..6)
        .map(|w| {
            let path = mounts[w % 3].join("log");
            std::thread::spawn(move || {
                let mut log = OpenOptions::new().append(true).open(path).unwrap();
                for i in 0..records / 6 {
                    let record = format!("{w} {i:06} {}\n", "r".repeat(i % 100));
                    log.write_all(record.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    println!(
        "{records} appends from three mounts in {:?}",
        began.elapsed()
    );
    for mount in &mounts {
        let text = std::fs::read_to_string(mount.join("log")).unwrap();
        let mut next = BTreeMap::new();
        for line in text.lines() {
            let mut parts = line.split(' ');
            let writer = parts.next().unwrap().to_owned();
            let i: usize = parts.next().unwrap().parse().unwrap();
            assert_eq!(parts.next().unwrap(), "r".repeat(i % 100), "torn: {line}");
            let due = next.entry(writer).or_insert(0);
            assert_eq!(i, *due, "lost or out of order");
            *due += 1;
        }
        assert_eq!(text.lines().count(), records);
    }
    end(mounts);
}

#[test]
fn attributes_and_names_changed_on_one_mount_are_seen_by_the_next_lookup_on_another() {
    if !fuse_or_skip("attributes across mounts") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let [a, b, c] = three(&cluster);
    for i in 0..120_u32 {
        let (here, there) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("f{}", i % 5);
        let seen = |m: &Mount| std::fs::metadata(m.join(&name));
        let _ = (seen(here), seen(there));
        std::fs::write(here.join(&name), vec![b'x'; i as usize]).unwrap();
        let mode = 0o600 | (i & 0o77);
        std::fs::set_permissions(here.join(&name), PermissionsExt::from_mode(mode)).unwrap();
        let (mine, theirs) = (seen(here).unwrap(), seen(there).unwrap());
        assert_eq!(theirs.mode() & 0o7777, mode, "round {i}");
        assert_eq!(
            (theirs.len(), theirs.ino()),
            (u64::from(i), mine.ino()),
            "round {i}"
        );
        assert_eq!(
            (theirs.mtime(), theirs.mtime_nsec()),
            (mine.mtime(), mine.mtime_nsec())
        );
        let moved = format!("moved{}", i % 3);
        std::fs::rename(here.join(&name), here.join(&moved)).unwrap();
        assert!(seen(there).is_err(), "round {i}: the old name is gone");
        assert_eq!(
            std::fs::metadata(there.join(&moved)).unwrap().ino(),
            mine.ino()
        );
        std::fs::remove_file(here.join(&moved)).unwrap();
        assert!(
            !there.join(&moved).exists() && !c.join(&moved).exists(),
            "round {i}"
        );
        let listed = std::fs::read_dir(there.path()).unwrap().count();
        assert_eq!(listed, 0, "round {i}");
    }
    end([a, b, c]);
}

#[test]
fn a_reader_never_misses_a_file_that_is_renamed_over() {
    if !fuse_or_skip("a_reader_never_misses_a_file_that_is_renamed_over") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let [a, b, c] = three(&cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let content = |i: u64| format!("{i:010}\n").repeat(1 + (i as usize % 700));
    std::fs::write(a.join("f"), content(0)).unwrap();
    let (dir, done) = (a.path().to_owned(), stop.clone());
    let writer = std::thread::spawn(move || {
        let mut i = 0;
        while !done.load(Ordering::Acquire) {
            i += 1;
            std::fs::write(dir.join("tmp"), content(i)).unwrap();
            std::fs::rename(dir.join("tmp"), dir.join("f")).unwrap();
        }
        i
    });
    let (limit, opens) = (times(2_500), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let readers: Vec<_> = [a.path(), b.path(), b.path(), c.path()]
        .map(|dir| {
            let (path, opens) = (dir.join("f"), opens.clone());
            std::thread::spawn(move || {
                let mut newest = 0;
                while opens.fetch_add(1, Ordering::AcqRel) < limit {
                    let text = std::fs::read_to_string(&path).expect("never missing");
                    let first: u64 = text.lines().next().expect("never empty").parse().unwrap();
                    assert!(text == content(first), "mixed content");
                    assert!(first >= newest, "an older file after a newer one");
                    newest = first;
                }
            })
        })
        .into();
    let read: Vec<_> = readers
        .into_iter()
        .map(std::thread::JoinHandle::join)
        .collect();
    stop.store(true, Ordering::Release);
    let renames = writer.join().unwrap();
    assert!(read.iter().all(Result::is_ok));
    println!(
        "{limit} opens beside {renames} renames in {:?}",
        began.elapsed()
    );
    end([a, b, c]);
}

#[test]
fn a_file_that_shrinks_and_grows_shows_no_byte_of_another_time() {
    if !fuse_or_skip("shrink and grow") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let [a, b, c] = three(&cluster);
    let path = a.join("f");
    std::fs::write(&path, b"").unwrap();
    for round in 0..150_u32 {
        let byte = b'a' + (round % 26) as u8;
        let (long, short) = (
            10_000 + (round as usize * 977) % 9000,
            (round as usize * 131) % 8000,
        );
        let f = OpenOptions::new().write(true).open(&path).unwrap();
        f.set_len(0).unwrap();
        f.write_all_at(&vec![byte; long], 0).unwrap();
        drop(f);
        let seen = std::fs::read(b.join("f")).unwrap();
        assert!(
            seen.len() == long && seen.iter().all(|x| *x == byte),
            "round {round}: written"
        );
        let f = OpenOptions::new().write(true).open(&path).unwrap();
        f.set_len(short as u64).unwrap();
        f.set_len(long as u64).unwrap();
        drop(f);
        for reader in [&b, &c] {
            let seen = std::fs::read(reader.join("f")).unwrap();
            assert_eq!(seen.len(), long, "round {round}: cut and grown");
            assert!(
                seen[..short].iter().all(|x| *x == byte) && seen[short..].iter().all(|x| *x == 0),
                "round {round}: stale bytes beyond the cut"
            );
        }
    }
    end([a, b, c]);
}

#[test]
fn a_follower_sees_what_another_mount_synced_within_a_second() {
    if !fuse_or_skip("a_follower_sees_what_another_mount_synced_within_a_second") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let [a, b, c] = three(&cluster);
    let lines: Vec<String> = (0..times(150)).map(|i| format!("line {i}\n")).collect();
    std::fs::write(a.join("log"), b"").unwrap();
    let synced = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let followers = [&a, &b, &c, &b].map(|mount| {
            let (file, all) = (std::fs::File::open(mount.join("log")), lines.concat());
            scope.spawn(move || follow(file.unwrap(), all.as_bytes()))
        });
        let mut log = OpenOptions::new().append(true).open(a.join("log")).unwrap();
        for line in &lines {
            log.write_all(line.as_bytes()).unwrap();
            log.sync_all().unwrap();
            synced.lock().unwrap().push(Instant::now());
        }
        let synced = synced.lock().unwrap();
        for (n, follower) in followers.into_iter().enumerate() {
            let seen = follower.join().unwrap();
            let late = seen
                .iter()
                .zip(&*synced)
                .map(|(seen, at)| seen.saturating_duration_since(*at));
            let slowest = late.max().unwrap();
            println!("follower {n}: at most {slowest:?} behind");
            assert!(
                slowest < Duration::from_secs(1),
                "follower {n}: {slowest:?} behind"
            );
        }
    });
    end([a, b, c]);
}

/// Reads a growing file through one descriptor, as `tail -f` does but without a pause, until it has
/// read `all`; no byte may ever differ. When each line was seen.
fn follow(mut file: std::fs::File, all: &[u8]) -> Vec<Instant> {
    let (mut got, mut seen, mut buffer) = (0, Vec::new(), vec![0; 4096]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while got < all.len() {
        let n = file.read(&mut buffer).unwrap();
        let now = Instant::now();
        assert!(now < deadline, "no more than {got} of {} bytes", all.len());
        let want = &all[got..all.len().min(got + n)];
        let shown = String::from_utf8_lossy(&buffer[..n]);
        assert!(
            buffer[..n] == *want,
            "at {got}: got {shown:?} for {:?}",
            String::from_utf8_lossy(want)
        );
        seen.extend(want.iter().filter(|b| **b == b'\n').map(|_| now));
        got += n;
    }
    seen
}

/// The kernel takes the end of an append of its own, placed by an old size, for newer than attributes
/// that were asked for before, and would end a fresh reader's reads there.
#[test]
fn regression_a_fresh_reader_beside_an_appender_of_its_mount_sees_what_others_appended() {
    if !fuse_or_skip("a fresh reader beside an appender") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mounts = ["a", "b"].map(|n| Mount::new(&cluster, n).unwrap());
    let paths: Vec<_> = mounts.iter().map(|m| m.path().to_owned()).collect();
    let workloads = Workloads::start_only(&paths, 1, &["appends"]);
    let signal = |signal| {
        let pid = i32::try_from(mounts[1].pid()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    // Appends take long while a mount that has read the file does not answer.
    for _ in 0..times(3) {
        std::thread::sleep(Duration::from_millis(500));
        signal(rustix::process::Signal::STOP);
        std::thread::sleep(Duration::from_millis(2500));
        signal(rustix::process::Signal::CONT);
    }
    let report = workloads.stop_and_verify(&paths);
    println!("{report}");
    assert!(report.anomalies.is_empty(), "{:#?}", report.anomalies);
    end(mounts);
}

/// The kernel forgets the answer to its question for attributes when it hears of another change before it
/// has come, and would end a fresh reader's reads at the size that it knew before.
#[test]
fn regression_fresh_readers_of_a_log_that_another_mount_writes_see_all_that_was_synced() {
    if !fuse_or_skip("fresh readers of a log") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mounts = ["a", "b"].map(|n| Mount::new(&cluster, n).unwrap());
    let synced = AtomicUsize::new(0);
    let ends = Instant::now() + Duration::from_secs(5 * times(1) as u64);
    let mut log = std::fs::File::create(mounts[0].join("log")).unwrap();
    let path = mounts[1].join("log");
    let read = || {
        let mut fresh = 0;
        while Instant::now() < ends {
            let least = synced.load(Ordering::Acquire);
            let seen = std::fs::read(&path).unwrap();
            assert!(seen.len() >= least, "{} of {least} bytes", seen.len());
            assert!(seen.iter().all(|b| *b == b'x'), "zeros");
            fresh += 1;
        }
        fresh
    };
    let (opens, records) = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(read)).collect();
        let mut records = 0;
        while Instant::now() < ends {
            log.write_all(&[b'x'; 100]).unwrap();
            log.sync_data().unwrap();
            synced.fetch_add(100, Ordering::Release);
            records += 1;
        }
        let opens: u32 = readers.into_iter().map(|r| r.join().unwrap()).sum();
        (opens, records)
    });
    println!("{opens} opens beside {records} synced records");
    drop(log);
    end(mounts);
}

/// The first question after a change came with the notification that made the kernel discard its answer.
#[test]
fn regression_an_open_file_follows_another_mount_at_the_first_look() {
    if !fuse_or_skip("the first look at an open file") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mounts = ["a", "b"].map(|n| Mount::new(&cluster, n).unwrap());
    let mut log = std::fs::File::create(mounts[0].join("log")).unwrap();
    let mut seeker = std::fs::File::open(mounts[1].join("log")).unwrap();
    let reader = std::fs::File::open(mounts[1].join("log")).unwrap();
    let mut all = [0; 1000];
    for round in 1..=5 {
        log.write_all(&[b'x'; 100]).unwrap();
        log.sync_data().unwrap();
        // Within a second, as is promised, and not at the second look.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(seeker.seek(SeekFrom::End(0)).unwrap(), round * 100);
        let got = reader.read_at(&mut all, 0).unwrap();
        assert_eq!(got as u64, round * 100);
    }
    drop((log, seeker, reader));
    end(mounts);
}

//! Two mounts: what one closed the other opens, races have one winner, appends lose nothing.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, times};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Bytes written in a round: mostly few, now and then some pages, and more than one chunk holds.
fn size(round: usize) -> usize {
    match round % 1000 {
        500 => (5 << 20) + round % 4096,
        x if x % 100 == 50 => 200_000 + round % 100_000,
        _ => 1 + (round * 131) % 5000,
    }
}

/// Files that are written and read at the same time, each by one mount and the other in turn.
const HANDS: usize = 4;

#[test]
fn what_one_mount_closed_the_other_opens_in_every_round() {
    if !fuse_or_skip("close to open") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let (a, b) = (
        Mount::new(&cluster, "a").unwrap(),
        Mount::new(&cluster, "b").unwrap(),
    );
    let rounds = times(1_200);
    let begin = Instant::now();
    let round = |i: usize| {
        let (hand, turn) = (i % HANDS, i / HANDS);
        let (writer, reader) = if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("f{hand}-{}", turn % 7);
        let content = format!("{i:08}").repeat(size(i).div_ceil(8));
        std::fs::write(writer.join(&name), &content).unwrap();
        let got = std::fs::read_to_string(reader.join(&name)).unwrap();
        assert_eq!(got.len(), content.len(), "iteration {i}: stale size");
        assert!(got == content, "iteration {i}: stale content");
        let seen = std::fs::metadata(reader.join(&name)).unwrap().len();
        assert_eq!(seen, content.len() as u64);
    };
    std::thread::scope(|threads| {
        for hand in 0..HANDS {
            threads.spawn(move || (hand..rounds).step_by(HANDS).for_each(round));
        }
    });
    println!(
        "{rounds} write-close-open-read rounds in {:?}",
        begin.elapsed()
    );
    a.unmount().unwrap();
    b.unmount().unwrap();
}

#[test]
fn exclusive_creates_have_exactly_one_winner() {
    if !fuse_or_skip("O_EXCL") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let (a, b) = (
        Mount::new(&cluster, "a").unwrap(),
        Mount::new(&cluster, "b").unwrap(),
    );
    let race = |dir: PathBuf| {
        move || {
            let create = |i: u32| {
                let path = dir.join(format!("lock{i}"));
                match OpenOptions::new().write(true).create_new(true).open(path) {
                    Ok(_) => true,
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
                    Err(e) => panic!("{e}"),
                }
            };
            (0..300).map(create).collect::<Vec<bool>>()
        }
    };
    let dirs = [a.path(), a.path(), b.path(), b.path()];
    let racers: Vec<_> = dirs.map(|d| std::thread::spawn(race(d.to_owned()))).into();
    let won: Vec<Vec<bool>> = racers.into_iter().map(|r| r.join().unwrap()).collect();
    for i in 0..300 {
        let winners = won.iter().filter(|w| w[i]).count();
        assert_eq!(winners, 1, "lock{i}");
    }
    a.unmount().unwrap();
    b.unmount().unwrap();
}

#[test]
fn appends_from_both_mounts_lose_nothing() {
    if !fuse_or_skip("appends") {
        return;
    }
    let _alone = exclusive();
    const RECORDS: u32 = 500;
    let cluster = Cluster::start(3).unwrap();
    let (a, b) = (
        Mount::new(&cluster, "a").unwrap(),
        Mount::new(&cluster, "b").unwrap(),
    );
    File::create(a.join("log")).unwrap();
    let writer = |path: PathBuf, tag: char| {
        move || {
            let mut log = OpenOptions::new().append(true).open(path).unwrap();
            for i in 0..RECORDS {
                log.write_all(format!("{tag}{i:05} {}\n", "x".repeat(i as usize % 90)).as_bytes())
                    .unwrap();
            }
        }
    };
    let one = std::thread::spawn(writer(a.join("log"), 'a'));
    let two = std::thread::spawn(writer(b.join("log"), 'b'));
    one.join().unwrap();
    two.join().unwrap();
    for mount in [&a, &b] {
        let text = std::fs::read_to_string(mount.join("log")).unwrap();
        for tag in ['a', 'b'] {
            let mine: Vec<_> = text.lines().filter(|l| l.starts_with(tag)).collect();
            let want: Vec<_> = (0..RECORDS)
                .map(|i| format!("{tag}{i:05} {}", "x".repeat(i as usize % 90)))
                .collect();
            assert_eq!(
                mine, want,
                "records of {tag}, in order, none lost, none torn"
            );
        }
    }
    a.unmount().unwrap();
    b.unmount().unwrap();
}

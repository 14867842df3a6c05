//! The rest of a block is given to the kernel with the part that was read, and nobody sees anything old of it.
use dfs_tests::proc::{Cluster, Mount, fuse_or_skip};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const BLOCK: usize = 64 * 1024;
const PAGE: usize = 4096;
/// Longer than pages are kept apart from a change.
const QUIET: Duration = Duration::from_secs(2);

fn page(file: &File, at: usize) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    file.read_exact_at(&mut bytes, at as u64).unwrap();
    bytes
}

/// The pages at `at`, if the kernel has them all: its mount stands still meanwhile.
fn from_kernel(mount: &Mount, file: &File, at: Vec<usize>) -> Option<Vec<Vec<u8>>> {
    let pid = Pid::from_raw(i32::try_from(mount.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let (seen, answer) = channel();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let pages = at.into_iter().map(|at| page(file, at)).collect();
            let _ = seen.send(pages);
        });
        let pages = answer.recv_timeout(Duration::from_millis(300)).ok();
        kill_process(pid, Signal::CONT).unwrap();
        pages
    })
}

#[test]
fn a_read_of_one_page_brings_its_block_to_the_kernel() {
    if !fuse_or_skip("pages") {
        return;
    }
    let cluster = Cluster::start(3).unwrap();
    const BLOCKS: usize = 32;
    let content: Vec<u8> = (0..BLOCKS * BLOCK + 5000)
        .map(|i| (i / 7 % 251) as u8)
        .collect();
    let writer = Mount::new(&cluster, "a").unwrap();
    fs::write(writer.join("file"), &content).unwrap();
    writer.unmount().unwrap();
    let mount = Mount::new(&cluster, "b").unwrap();
    let file = File::open(mount.join("file")).unwrap();
    // Each block once, since what is asked for while the mount stands still is read afterwards.
    let is_filled = (1..BLOCKS).step_by(2).any(|block| {
        let read = block * BLOCK + 5 * PAGE;
        assert_eq!(page(&file, read), content[read..read + PAGE]);
        // The pages come a moment after the answer: each time they are given more.
        std::thread::sleep(Duration::from_millis(block as u64));
        let all: Vec<usize> = (0..16).map(|i| block * BLOCK + i * PAGE).collect();
        let seen = from_kernel(&mount, &file, all.clone());
        for (at, seen) in all.into_iter().zip(seen.iter().flatten()) {
            assert!(*seen == content[at..at + PAGE], "the page at {at}");
        }
        seen.is_some()
    });
    assert!(is_filled, "the kernel has only what was asked for");
    // The end is no whole page.
    let _ = page(&file, BLOCKS * BLOCK);
    assert_eq!(
        fs::metadata(mount.join("file")).unwrap().len(),
        content.len() as u64
    );
    assert!(fs::read(mount.join("file")).unwrap() == content);
    drop(file);
    mount.unmount().unwrap();
}

/// Of a file that has rested blocks are read at random on one mount, and in that moment it is changed there
/// or on another.
#[test]
fn no_page_that_comes_late_covers_a_change() {
    if !fuse_or_skip("pages under changes") {
        return;
    }
    const BLOCKS: usize = 256;
    let seed = std::env::var("DFS_SEED").map_or(20_261, |s| s.parse().unwrap());
    println!("DFS_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let cluster = Cluster::start(3).unwrap();
    let here = Mount::new(&cluster, "here").unwrap();
    let there = Mount::new(&cluster, "there").unwrap();
    let mut content = vec![0u8; BLOCKS * BLOCK];
    fs::write(there.join("file"), &content).unwrap();
    let mut value = 0;
    for round in 0..4 {
        // Longer than pages are kept apart from a change.
        std::thread::sleep(QUIET + Duration::from_millis(100));
        let (who, stop) = (
            if round % 2 == 0 { &there } else { &here },
            AtomicBool::new(false),
        );
        std::thread::scope(|threads| {
            for reader in 0..2 {
                let (stop, path) = (&stop, here.join("file"));
                threads.spawn(move || {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed + 1 + reader);
                    while !stop.load(Ordering::Acquire) {
                        let file = File::open(&path).unwrap();
                        for _ in 0..20 {
                            // A cut may end it early.
                            let at = rng.random_range(0..BLOCKS * BLOCK / PAGE) * PAGE;
                            let _ = file.read_at(&mut [0; PAGE], at as u64).unwrap();
                        }
                    }
                });
            }
            for _ in 0..30 {
                value = value % 250 + 1;
                let at = rng.random_range(0..content.len() / PAGE) * PAGE;
                let file = File::options().write(true).open(who.join("file")).unwrap();
                file.write_all_at(&[value; PAGE], at as u64).unwrap();
                drop(file);
                content[at..at + PAGE].fill(value);
                let file = File::open(here.join("file")).unwrap();
                let (seen, other) = (page(&file, at), at ^ PAGE);
                assert!(
                    seen == content[at..at + PAGE],
                    "round {round}: {at} has {}",
                    seen[0]
                );
                assert!(
                    page(&file, other) == content[other..other + PAGE],
                    "round {round}"
                );
            }
            stop.store(true, Ordering::Release);
        });
        if round % 4 >= 2 {
            // Cut and made long again: what was there is zeros now.
            let at = rng.random_range(1..content.len() / PAGE) * PAGE;
            let file = File::options().write(true).open(who.join("file")).unwrap();
            file.set_len(at as u64).unwrap();
            file.set_len(content.len() as u64).unwrap();
            drop(file);
            content[at..].fill(0);
        }
        assert!(
            fs::read(here.join("file")).unwrap() == content,
            "round {round}"
        );
    }
    assert!(fs::read(there.join("file")).unwrap() == content);
    here.unmount().unwrap();
    there.unmount().unwrap();
}

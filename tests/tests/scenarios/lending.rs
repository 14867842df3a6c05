//! A mount that is alone lets the kernel answer; nobody else sees anything of that. And closes behind.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

fn lends(mount: &Mount) -> bool {
    let status = fs::read_to_string(mount.join(".dfs/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("lends"));
    line.unwrap().contains("to the kernel")
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_lone_mount_lent_to_the_kernel_is_over_before_another_can_change_it() {
    if !fuse_or_skip("lending") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    for round in 0..4 {
        let a = Mount::new(&cluster, "a").unwrap();
        let dir = format!("d{round}");
        fs::create_dir_all(a.join(&dir).join("sub")).unwrap();
        for i in 0..20 {
            fs::write(a.join(&dir).join(format!("f{i}")), b"content").unwrap();
        }
        until("alone", || lends(&a));
        let name = |i: usize| a.join(&dir).join(format!("f{i}"));
        let look = || {
            for i in 0..20 {
                fs::metadata(name(i)).unwrap();
            }
        };
        look();
        // Looked at until the last moment, by the time that the other one mounts.
        let b = std::thread::scope(|threads| {
            let other = threads.spawn(|| Mount::new(&cluster, "b").unwrap());
            while !other.is_finished() {
                look();
            }
            other.join().unwrap()
        });
        for i in 0..20 {
            let there = b.join(&dir).join(format!("f{i}"));
            match i % 4 {
                0 => fs::rename(&there, b.join(&dir).join(format!("g{i}"))).unwrap(),
                1 => fs::remove_file(&there).unwrap(),
                2 => fs::set_permissions(&there, fs::Permissions::from_mode(0o600)).unwrap(),
                _ => fs::write(&there, b"longer content").unwrap(),
            }
            let seen = fs::metadata(name(i));
            match i % 4 {
                0 | 1 => assert_eq!(seen.unwrap_err().kind(), ErrorKind::NotFound, "{i}"),
                2 => assert_eq!(seen.unwrap().mode() & 0o777, 0o600, "{i}"),
                _ => assert_eq!(seen.unwrap().len(), 14, "{i}"),
            }
        }
        fs::rename(b.join(&dir).join("sub"), b.join(&dir).join("bus")).unwrap();
        assert!(!a.join(&dir).join("sub").exists() && a.join(&dir).join("bus").is_dir());
        assert!(!lends(&a) && !lends(&b));
        b.unmount().unwrap();
        until("alone again", || lends(&a));
        a.unmount().unwrap();
    }
}

#[test]
fn a_file_that_was_closed_behind_is_seen_by_opens_and_survives_an_unmount() {
    if !fuse_or_skip("-o behind") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let a = Mount::with_options(&cluster, "a", "behind").unwrap();
    let b = Mount::new(&cluster, "b").unwrap();
    for i in 0..100 {
        let name = format!("f{}", i % 10);
        let content = format!("{i:05}").repeat(1 + i * 7);
        fs::write(a.join(&name), &content).unwrap();
        assert_eq!(fs::read_to_string(b.join(&name)).unwrap(), content);
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(a.join("log"))
            .or_else(|_| fs::File::create(a.join("log")))
            .unwrap();
        writeln!(file, "{i}").unwrap();
    }
    // Saved as editors do: the name never shows an empty file.
    for i in 0..30 {
        fs::write(a.join("tmp"), format!("save {i}")).unwrap();
        fs::rename(a.join("tmp"), a.join("saved")).unwrap();
        let saved = fs::read_to_string(b.join("saved")).unwrap();
        assert_eq!(saved, format!("save {i}"));
    }
    for i in 0..200 {
        fs::write(a.join(format!("last{i}")), i.to_string()).unwrap();
    }
    a.unmount().unwrap();
    let log = fs::read_to_string(b.join("log")).unwrap();
    assert!(log.lines().eq((0..100).map(|i| i.to_string())), "{log}");
    for i in 0..200 {
        let read = fs::read_to_string(b.join(format!("last{i}"))).unwrap();
        assert_eq!(read, i.to_string());
    }
    let kept = fs::read_dir(b.join(".versions/log")).unwrap().count();
    assert_eq!(kept, 5, "each close made a version");
    b.unmount().unwrap();
}

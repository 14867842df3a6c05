//! `pjdfstest`, the POSIX conformance suite, on a mount of five daemons.
use dfs_tests::proc::suite::{PJDFSTEST, suite};
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, program};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the suite says at its end.
#[derive(Debug)]
struct Counts {
    failed: u32,
    skipped: u32,
    passed: u32,
}

/// Two users that every Debian has; the suite switches to them.
fn config(remount: bool) -> String {
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nstat_st_birthtime = {{}}\n\
         utime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = {remount}\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
    )
}

fn counts(output: &str) -> Option<Counts> {
    let line = output.lines().rev().find(|l| l.contains("Summary"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = |what: &str| {
        let at = words.iter().position(|w| w.starts_with(what))?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some(Counts {
        failed: before("failed")?,
        skipped: before("skipped")?,
        passed: before("passed")?,
    })
}

/// Runs the suite, or the part of it that a filter names, and prints what did not pass.
fn run(mount: &Mount, scratch: &Path, remount: bool, filter: &[&str]) -> Counts {
    let toml = scratch.join("pjdfstest.toml");
    std::fs::write(&toml, config(remount)).unwrap();
    let mut command = Command::new(suite(PJDFSTEST).unwrap());
    command.env("NO_COLOR", "1").arg("-c").arg(&toml);
    command.args(["-s", "/dev/shm", "-p"]).arg(mount.path());
    let output = command.args(filter).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // One line per test, which ends with what became of it; reasons are indented.
    let bad = |l: &&str| l.contains("FAILED") || l.contains("failed");
    text.lines().filter(bad).for_each(|l| println!("{l}"));
    print!("{}", String::from_utf8_lossy(&output.stderr));
    counts(&text).expect("the suite ends with its counts")
}

/// mount(8) finds helpers by name in /sbin; gone again at the end, if it was not there before.
struct Helper(Option<PathBuf>);

impl Helper {
    fn new() -> Self {
        let path = PathBuf::from("/sbin/mount.fuse.dfs");
        let made = std::os::unix::fs::symlink(program("dfs-mount"), &path).is_ok();
        Self(made.then_some(path))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn the_posix_suite_passes_and_so_do_its_remounts() {
    if !fuse_or_skip("the_posix_suite_passes_and_so_do_its_remounts") {
        return;
    }
    let _alone = exclusive();
    suite(PJDFSTEST).unwrap();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::with_options(&cluster, "posix", "dev,suid").unwrap();
    // The suite makes its directory under the mountpoint and changes users below it.
    let whole = run(&mount, cluster.scratch(), false, &[]);
    println!("pjdfstest: {whole:?}");
    assert!(whole.failed == 0 && whole.passed >= 384, "{whole:?}");

    let _helper = Helper::new();
    let remounts = run(&mount, cluster.scratch(), true, &["erofs"]);
    println!("pjdfstest erofs: {remounts:?}");
    assert!(
        remounts.failed == 0 && remounts.skipped == 0 && remounts.passed == 13,
        "{remounts:?}"
    );
    mount.unmount().unwrap();
}

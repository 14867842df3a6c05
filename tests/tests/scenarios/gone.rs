//! A cluster that is gone, and a mount process that is gone: errors in time, with reasons, and no
//! cleaning by hand.
use dfs_tests::proc::mount::is_mounted;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// `-o timeout=` of the mount, in seconds.
const TIMEOUT: u64 = 4;

/// The errno of `f`, which must come within `max`.
fn error_within<T: std::fmt::Debug>(
    max: Duration,
    what: &str,
    f: impl FnOnce() -> std::io::Result<T>,
) -> i32 {
    let began = Instant::now();
    let error = f().expect_err(what).raw_os_error();
    let took = began.elapsed();
    println!("{what}: error {error:?} after {took:?}");
    assert!(took < max, "{what}: {took:?}");
    error.unwrap()
}

#[test]
fn a_mount_whose_cluster_is_gone_answers_in_time_and_says_why() {
    if !fuse_or_skip("a_mount_whose_cluster_is_gone_answers_in_time_and_says_why") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::with_options(&cluster, "mnt", &format!("timeout={TIMEOUT}")).unwrap();
    std::fs::write(mount.join("before"), b"kept").unwrap();
    let status = || std::fs::read_to_string(mount.join(".dfs/status")).unwrap();
    assert!(status().contains("in contact"), "{}", status());
    let listed = std::fs::read_dir(mount.path()).unwrap().count();
    assert_eq!(listed, 1, "the status is hidden");
    let eperm = std::fs::create_dir(mount.join(".dfs")).unwrap_err();
    assert!(
        eperm.raw_os_error() == Some(libc::EEXIST) || eperm.raw_os_error() == Some(libc::EPERM)
    );
    assert_eq!(
        std::fs::write(mount.join(".dfs/status"), b"x")
            .unwrap_err()
            .raw_os_error(),
        Some(libc::EROFS)
    );

    let mut open = std::fs::File::options()
        .write(true)
        .open(mount.join("before"))
        .unwrap();
    cluster.kill_all().unwrap();
    let max = Duration::from_secs(2 * TIMEOUT) + 2 * SECOND;
    for round in 0..2 {
        let what = format!("stat, round {round}");
        let e = error_within(max, &what, || std::fs::metadata(mount.join("never seen")));
        assert!([libc::EIO, libc::ETIMEDOUT].contains(&e), "{e}");
    }
    // What a handle buffered and cannot put is said once, at fsync or close.
    let fsync = error_within(max, "write and fsync", || {
        open.write_all(b"lost")?;
        open.sync_all()
    });
    assert_eq!(fsync, libc::EIO);
    let began = Instant::now();
    let said = status();
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    assert!(said.contains("none:") && said.contains("failure"), "{said}");

    cluster.start_all().unwrap();
    let back = wait_for("the mount works again", 30 * SECOND, || {
        std::fs::write(mount.join("after"), b"new").is_ok()
    });
    println!("works again after {:?}", back.unwrap());
    assert_eq!(std::fs::read(mount.join("before")).unwrap(), b"kept");
    drop(open);
    mount.unmount().unwrap();
}

#[test]
fn a_mountpoint_left_by_a_killed_mount_is_taken_over() {
    if !fuse_or_skip("a_mountpoint_left_by_a_killed_mount_is_taken_over") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    std::fs::write(mount.join("f"), b"content").unwrap();
    let path = mount.path().to_owned();
    mount.crash().unwrap();
    assert!(is_mounted(&path), "what a kill leaves behind");
    let again = Mount::new(&cluster, "mnt").unwrap();
    assert_eq!(std::fs::read(again.join("f")).unwrap(), b"content");
    again.unmount().unwrap();
    assert!(!is_mounted(&path));
}

/// A mount in the background, which goes also when the test fails.
struct Background(std::path::PathBuf);

impl Drop for Background {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(&self.0, flags);
        }
    }
}

#[test]
fn regression_what_was_started_from_below_a_mount_does_not_keep_it_busy() {
    if !fuse_or_skip("regression_what_was_started_from_below_a_mount_does_not_keep_it_busy") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let second = cluster.scratch().join("second");
    std::fs::create_dir(&second).unwrap();
    let _gone_at_the_end = Background(second.clone());
    for (program, args) in [
        ("dfs-tools", vec!["dev", "kill", "3"]),
        ("dfs-tools", vec!["dev", "start", "3"]),
        ("dfs-mount", vec![second.to_str().unwrap()]),
    ] {
        let mut command = cluster.command(program);
        let done = command.args(&args).current_dir(mount.path()).status();
        assert!(done.unwrap().success(), "{program} {args:?}");
    }
    mount.unmount().unwrap();
    std::fs::write(second.join("f"), b"still there").unwrap();
    let unmounted = Command::new("umount").arg(&second).status();
    assert!(unmounted.unwrap().success());
    assert!(!is_mounted(&second));
}

/// Writes the second page of a file through io_submit(2) with O_DIRECT and O_DSYNC, and keeps it
/// open: a close would store it.
const AIO_DSYNC: &str = r#"
import ctypes, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
setup, submit, getevents = (206, 209, 208) if os.uname().machine == "x86_64" else (0, 2, 4)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
page = mmap.mmap(-1, 4096)
page[:] = b"Z" * 4096
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
context = ctypes.c_ulong(0)
assert libc.syscall(setup, 8, ctypes.byref(context)) == 0
block = ctypes.create_string_buffer(struct.pack("<QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, at, 4096, 4096, 0, 0, 0), 64)
blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
assert libc.syscall(submit, context, ctypes.c_long(1), blocks) == 1
event = ctypes.create_string_buffer(32)
assert libc.syscall(getevents, context, ctypes.c_long(1), ctypes.c_long(1), event, None) == 1
assert struct.unpack("<QQqq", event.raw)[2] == 4096
print("acknowledged", flush=True)
sys.stdin.read()
"#;

#[test]
fn regression_a_record_appended_synchronously_outlives_its_mount() {
    use std::os::unix::fs::OpenOptionsExt;
    if !fuse_or_skip("regression_a_record_appended_synchronously_outlives_its_mount") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let mut options = std::fs::File::options();
    options
        .append(true)
        .create(true)
        .custom_flags(libc::O_DSYNC);
    let mut log = options.open(mount.join("log")).unwrap();
    log.write_all(b"first\n").unwrap();
    log.write_all(b"second\n").unwrap();
    let data = mount.join("data");
    std::fs::write(&data, [0; 8192]).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", AIO_DSYNC]).arg(&data);
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut writer = python.spawn().unwrap();
    let mut said = String::new();
    let out = writer.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut said).unwrap();
    mount.crash().unwrap();
    drop(log);
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(said, "acknowledged\n");
    let again = Mount::new(&cluster, "mnt").unwrap();
    let stored = std::fs::read(again.join("data")).unwrap();
    assert_eq!((stored[4095], stored[4096]), (0, b'Z'));
    assert_eq!(
        std::fs::read(again.join("log")).unwrap(),
        b"first\nsecond\n"
    );
    again.unmount().unwrap();
}

//! The program as a whole, without a cluster: exit codes, messages, closed pipes.
#![allow(clippy::unwrap_used)]
use dfs_core::net::auth::ClusterKey;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn tools(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-tools"));
    command
        .args(args)
        .env_clear()
        .env("HOME", dir)
        .env("DFS_DEV_DIR", dir.join("dev"));
    command
}

fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = tools(dir, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A cluster directory whose only node is not there.
fn dead_cluster(dir: &Path) -> String {
    let at = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let cluster = dir.join("dead");
    std::fs::create_dir(&cluster).unwrap();
    std::fs::write(cluster.join("seeds"), format!("{at}\n")).unwrap();
    ClusterKey::generate(&cluster.join("cluster.key")).unwrap();
    cluster.display().to_string()
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = run(dir.path(), &["versions", "/f", "6"]);
    assert!(code == 2 && err.contains("the last 5"), "{code} {err}");
    let (code, _, err) = run(dir.path(), &["purge", "--all"]);
    assert!(code == 2 && err.contains("--yes"), "{code} {err}");
}

#[test]
fn without_a_cluster_it_says_how_to_name_or_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = run(dir.path(), &["ls"]);
    assert!(code != 0 && err.contains("dev up"), "{code} {err}");
    let (code, _, err) = run(dir.path(), &["dev", "status"]);
    assert!(code == 3 && err.contains("dev up"), "{code} {err}");
    let (code, _, err) = run(dir.path(), &["dev", "status", "--cluster", "elsewhere"]);
    assert!(code == 2 && err.contains("DFS_DEV_DIR"), "{code} {err}");
}

#[test]
fn a_cluster_that_is_down_ends_with_4() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dead_cluster(dir.path());
    for command in [
        &["ls", "/"][..],
        &["mkdir", "/d"],
        &["id"],
        &["members"],
        &["bandwidth"],
    ] {
        let args = [command, &["--timeout", "0.3", "--cluster", &cluster]].concat();
        let (code, _, err) = run(dir.path(), &args);
        assert!(code == 4 && !err.is_empty(), "{command:?}: {code} {err}");
    }
}

#[test]
fn status_of_a_cluster_that_is_down_begins_with_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dead_cluster(dir.path());
    let args = ["status", "--timeout", "0.3", "--cluster", &cluster];
    let (code, out, _) = run(dir.path(), &args);
    assert!(code == 4 && out.starts_with("UNAVAILABLE"), "{code} {out}");
    let (code, out, _) = run(dir.path(), &[&args[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["health"].as_str()), (4, Some("UNAVAILABLE")));
    assert!(json["reasons"][0].as_str().unwrap().contains("no leader"));
}

#[test]
fn a_local_file_that_is_missing_is_found_before_the_cluster_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = run(dir.path(), &["put", "/no/such/file", "/x"]);
    assert!(code == 3 && err.contains("/no/such/file"), "{code} {err}");
}

#[test]
fn a_closed_output_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dead_cluster(dir.path());
    let mut command = tools(dir.path(), &["dev", "status"]);
    let mut child = command
        .env("DFS_DEV_DIR", cluster)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn names_that_are_no_utf8_are_taken() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let cluster = dead_cluster(dir.path());
    let name = std::ffi::OsStr::from_bytes(b"/a\xff");
    let mut command = tools(
        dir.path(),
        &["rm", "--timeout", "0.3", "--cluster", &cluster],
    );
    assert_eq!(command.arg(name).output().unwrap().status.code(), Some(4));
}

//! `bench` as a whole: rows, files, comparisons, errors, and nothing left behind. No speeds.
#![allow(clippy::unwrap_used)]
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn bench(args: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-tools"));
    command.arg("bench").env_clear();
    for arg in args {
        command.arg(arg);
    }
    command
}

fn run(args: &[&dyn AsRef<OsStr>]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = bench(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_bench_run_prints_its_rows_and_can_be_compared_and_leaves_nothing() {
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, saved) = (dir.path(), files.path().join("saved.json"));
    let rows = "meta1,append";
    let (code, out, err) = run(&[&dir, &"--quick", &"--rows", &rows, &"--save", &saved]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("--seed 1"), "{err}");
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let names: Vec<_> = lines.iter().map(|words| words[0]).collect();
    assert_eq!(
        (names[0], names[6], names[7]),
        ("meta1_create", "meta1_rmdir", "append_128")
    );
    for words in &lines {
        assert!(words.len() == 3 && words[1].parse::<f64>().is_ok() && words[2] == "ops/s");
    }

    let (code, out, err) = run(&[&dir, &"--quick", &"--rows", &rows, &"--compare", &saved]);
    assert_eq!(code, 0, "{err}");
    let heads: Vec<_> = out
        .lines()
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert_eq!((heads[0], &heads[1..]), ("METRIC", &names[..]));
    assert!(
        out.lines().all(|l| l.split_whitespace().count() == 5),
        "{out}"
    );

    let args: &[&dyn AsRef<OsStr>] = &[
        &dir,
        &"--quick",
        &"--rows",
        &"append",
        &"--json",
        &"--seed",
        &"9",
        &"--compare",
        &saved,
    ];
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (json["seed"].as_u64(), json["quick"].as_bool()),
        (Some(9), Some(true))
    );
    let row = &json["rows"][0];
    assert_eq!(row["metric"].as_str(), Some("append_128"));
    assert!(row["saved"].is_f64() && row["ratio"].is_f64(), "{row}");
    assert_eq!((entries(dir), entries(files.path())), (0, 1));
}

#[test]
fn a_bench_that_cannot_be_says_why_and_what_to_do_before_it_measures() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, file) = (dir.path().join("d"), dir.path().join("f"));
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(&file, "{\"dfs_bench\": 1, \"rows\": [").unwrap();
    let fails = |args: &[&dyn AsRef<OsStr>], code: i32, why: &str, next: &str| {
        let (got, out, err) = run(args);
        assert!(got == code && out.is_empty(), "{got} {out} {err}");
        assert!(err.contains(why) && err.contains(next), "{err}");
    };
    fails(&[&file], 2, "not a directory", "name a directory");
    let absent = dir.path().join("absent");
    fails(&[&absent], 3, "No such file", "name a directory");
    fails(
        &[&empty, &"--compare", &file],
        1,
        "no whole run",
        "--save FILE",
    );
    fails(
        &[&empty, &"--compare", &absent],
        3,
        "No such file",
        "--save FILE",
    );
    fails(
        &[&empty, &"--save", &absent.join("x")],
        3,
        "--save",
        "No such file",
    );
    fails(
        &[&empty, &"--cluster", &"127.0.0.1"],
        2,
        "no --cluster",
        "mounted",
    );
    fails(
        &[&"/proc", &"--quick"],
        3,
        "/proc/.dfs-bench-",
        "may write to",
    );
    assert_eq!((entries(&empty), entries(dir.path())), (0, 2));
}

#[test]
fn an_interrupted_bench_removes_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = bench(&[&dir.path()]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while entries(dir.path()) == 0 {
        assert!(Instant::now() < deadline, "it did not begin");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{err}");
    assert!(err.contains("dfs-tools: interrupted"), "{err}");
    assert_eq!(entries(dir.path()), 0);
}

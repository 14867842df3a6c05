//! Real processes: a cluster of daemons on loopback, mounts, and the tools, all cleaned up on drop.
//!
//! Every scenario works below a directory of its own, starts only processes that it knows by pid,
//! and waits for conditions with a deadline. Scenarios take [`exclusive`] so that one runs at a time:
//! they measure stalls, and the machine is small.
pub mod busy;
pub mod cluster;
pub mod compare;
pub mod fsck;
pub mod load;
pub mod lock_agent;
pub mod mount;
pub mod netns;
pub mod source_tree;
pub mod suite;
pub mod tmpfs;
pub(crate) mod watchdog;

pub use cluster::{Cluster, NodeStatus};
pub use fsck::fsck_clean;
pub use lock_agent::LockAgent;
pub use mount::Mount;
pub use tmpfs::Tmpfs;

use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Longest time a scenario may take, in seconds; `DFS_SCENARIO_SECONDS` sets another. One that hangs must
/// fail, not wait for whoever runs the tests.
const SCENARIO_MAX: usize = 600;

/// A number that the environment may set: the long suites try more often than the test command.
///
/// # Panics
/// It is set to something else.
pub fn number(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.map_or(default, |v| v.parse().expect("a number"))
}

/// How often a scenario of sharing tries something, `DFS_SHARING_TIMES` times as often if that is set.
pub fn times(n: usize) -> usize {
    n * number("DFS_SHARING_TIMES", 1)
}

/// What [`exclusive`] gives.
pub struct Alone {
    _watched: watchdog::Watched,
    _guard: MutexGuard<'static, ()>,
}

/// Taken by every scenario that starts processes. Ends this process if the scenario hangs.
pub fn exclusive() -> Alone {
    // A failed scenario poisons nothing: each begins from an empty directory.
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let max = number("DFS_SCENARIO_SECONDS", SCENARIO_MAX);
    Alone {
        _watched: watchdog::watch(Duration::from_secs(max as u64)),
        _guard: guard,
    }
}

/// True where FUSE mounts can be made; otherwise says so, once per test, in words that the gate
/// counts.
pub fn fuse_or_skip(test: &str) -> bool {
    let there = std::path::Path::new("/dev/fuse").exists() && rustix::process::getuid().is_root();
    if !there {
        println!("SKIPPED {test}: needs /dev/fuse and root");
    }
    there
}

/// The built program `name`, beside the test programs (or in `DFS_BIN`).
///
/// # Panics
/// It is not built: run `cargo build --workspace` first.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("DFS_BIN") {
        return PathBuf::from(dir).join(name);
    }
    let own = std::env::current_exe().expect("a process knows its own path");
    let found = own
        .ancestors()
        .skip(1)
        .take(3)
        .map(|d| d.join(name))
        .find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built; run: cargo build --workspace"))
}

/// Polls until `done` says so.
///
/// # Errors
/// `what` did not happen in time.
pub fn wait_for(
    what: &str,
    max: Duration,
    mut done: impl FnMut() -> bool,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    loop {
        if done() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > max {
            bail!("{what}: not within {max:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end and fails with its words if it fails.
///
/// # Errors
/// It cannot be run, or exits with a failure.
pub fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Runs a shell script with `-e`.
///
/// # Errors
/// As [`run`].
pub fn sh(script: &str) -> anyhow::Result<String> {
    let output = run(Command::new("bash").args(["-euo", "pipefail", "-c", script]))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Largest resident set of a process so far (VmHWM), in bytes.
///
/// # Errors
/// The process is gone.
pub fn peak_memory(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|l| l.starts_with("VmHWM"))
        .context("no VmHWM")?;
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .context("VmHWM has no number")?
        .parse()?;
    Ok(kib * 1024)
}

//! The workloads in a process of their own, told to stop by the end of its input.
//!
//! Whoever has a file of a mount open cannot start a process while that mount is frozen: the
//! process inherits the file, and the kernel tells the mount that it is closed before the new program
//! runs. The nemesis, which starts processes and thaws mounts, therefore opens nothing on them.
use super::workloads::{Report, Workloads};
use crate::proc::wait_for;
use anyhow::Context;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Threads that hang, and final reads that fail for long.
const VERDICT_MAX: Duration = Duration::from_secs(600);
/// The line before the report.
const REPORT: &str = "report: ";

/// The process; killed on drop.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    said: PathBuf,
}

impl Agent {
    /// Starts `program`, the nemesis' own, with all workloads on `mounts`; histories are kept in `keep`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        program: &Path,
        mounts: &[PathBuf],
        seed: u64,
        keep: &Path,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(keep)?;
        let said = keep.join("workloads.log");
        let log = std::fs::File::create(&said)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
            .args(["--seed", &seed.to_string(), "--keep"])
            .arg(keep);
        for mount in mounts {
            command.arg("--work").arg(mount);
        }
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("starting the workloads")?;
        Ok(Self { child, said })
    }

    /// Ends the workloads, which read the final state and judge.
    ///
    /// # Errors
    /// The process said no verdict: it hangs, or broke.
    pub fn stop_and_verify(mut self) -> anyhow::Result<Report> {
        drop(self.child.stdin.take());
        let mut status = None;
        let ended = wait_for("the verdict", VERDICT_MAX, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        let said = std::fs::read_to_string(&self.said)?;
        ended.with_context(|| said.clone())?;
        let line = said.lines().find_map(|l| l.strip_prefix(REPORT));
        let line = line.with_context(|| format!("workloads ended with {status:?}: {said}"))?;
        Ok(serde_json::from_str(line)?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does.
///
/// # Errors
/// Nobody takes the report.
pub fn work(mounts: &[PathBuf], seed: u64, keep: &Path) -> anyhow::Result<()> {
    let workloads = Workloads::start(mounts, seed).keep_in(keep);
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    let report = workloads.stop_and_verify(mounts);
    println!("{report}");
    println!("{REPORT}{}", serde_json::to_string(&report)?);
    Ok(())
}

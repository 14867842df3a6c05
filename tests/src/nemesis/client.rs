//! One mount: a `dfs-mount` process in its namespace, always at the same path.
use super::net::{Net, Place};
use super::node::{PORT, signal};
use crate::proc::mount::is_mounted;
use crate::proc::{program, wait_for, watchdog};
use anyhow::{Context, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A mount; taken down on drop.
#[derive(Debug)]
pub struct Client {
    place: Place,
    dir: PathBuf,
    at: PathBuf,
    process: Option<Child>,
}

impl Client {
    /// One that is not mounted yet.
    #[must_use]
    pub fn new(dir: &Path, place: Place) -> Self {
        let at = dir.join(format!("mnt{place}"));
        Self {
            place,
            dir: dir.to_owned(),
            at,
            process: None,
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Where it lives.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        let file = self.dir.join(format!("mount{}.log", self.place));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Mounts it and waits until it can be used.
    ///
    /// # Errors
    /// It cannot, with its words.
    pub fn mount(&mut self, net: &Net, nodes: usize) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.at)?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("mount{}.log", self.place)))?;
        let seeds: Vec<String> = (0..nodes)
            .map(|n| format!("{}:{PORT}", Net::addr(n)))
            .collect();
        let mut command = net.inside(self.place);
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        command
            .arg(program("dfs-mount"))
            .args(["-f", "--cluster", &seeds.join(",")]);
        command.arg("--key-file").arg(self.dir.join("cluster.key"));
        command.args(["-o", "timeout=10"]).arg(&self.at);
        command.env_remove("DFS_CLUSTER").env_remove("DFS_DEV_DIR");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("starting a mount")?;
        watchdog::add_mount(child.id(), &self.at);
        let child = self.process.insert(child);
        let at = self.at.clone();
        let mut has_ended = false;
        let usable = wait_for("a mount", Duration::from_secs(60), || {
            has_ended = child.try_wait().is_ok_and(|s| s.is_some());
            has_ended || is_mounted(&at)
        });
        if has_ended || usable.is_err() {
            bail!("dfs-mount did not mount: {}", self.log());
        }
        Ok(())
    }

    /// It is mounted, as far as we know.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.process.is_some()
    }

    /// Freezes it, or lets it go on.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn freeze(&self, is_frozen: bool) -> anyhow::Result<()> {
        let which = if is_frozen {
            Signal::STOP
        } else {
            Signal::CONT
        };
        self.process.as_ref().map_or(Ok(()), |p| signal(p, which))
    }

    /// Kills its process, as a crash would, and removes what is left of the mount.
    ///
    /// # Errors
    /// Of the signal.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
            watchdog::remove_mount(process.id(), &self.at);
        }
        while is_mounted(&self.at) {
            unmount(&self.at, UnmountFlags::DETACH)?;
        }
        Ok(())
    }

    /// True if its process ended though nobody told it to.
    pub fn has_ended(&mut self) -> bool {
        let ended = |p: &mut Child| p.try_wait().is_ok_and(|s| s.is_some());
        self.process.as_mut().is_some_and(ended)
    }

    /// Unmounts politely. How long that took.
    ///
    /// # Errors
    /// Busy, or the process did not end well within half a minute.
    pub fn unmount(&mut self) -> anyhow::Result<Duration> {
        let Some(mut process) = self.process.take() else {
            return Ok(Duration::ZERO);
        };
        let began = Instant::now();
        unmount(&self.at, UnmountFlags::empty())
            .with_context(|| format!("umount {}", self.at.display()))?;
        let mut status = None;
        let ended = wait_for("dfs-mount ends", Duration::from_secs(30), || {
            status = process.try_wait().ok().flatten();
            status.is_some()
        });
        if ended.is_err() {
            process.kill()?;
            process.wait()?;
        }
        watchdog::remove_mount(process.id(), &self.at);
        ended?;
        anyhow::ensure!(
            status.is_some_and(|s| s.success()),
            "dfs-mount ended with {status:?}"
        );
        Ok(began.elapsed())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            eprintln!("cleaning up: {e:#}");
        }
    }
}

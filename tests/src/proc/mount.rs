//! A mount by a `dfs-mount` process of its own.
use super::{Cluster, wait_for, watchdog};
use anyhow::{Context, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A mount; taken down on drop.
pub struct Mount {
    path: PathBuf,
    child: Child,
    log: PathBuf,
}

impl Mount {
    /// Mounts `cluster` on a fresh directory `name` beside it, with the options in `DFS_TEST_OPTIONS`.
    ///
    /// # Errors
    /// The mount does not become usable.
    pub fn new(cluster: &Cluster, name: &str) -> anyhow::Result<Self> {
        let options = std::env::var("DFS_TEST_OPTIONS").unwrap_or_default();
        Self::with_options(cluster, name, &options)
    }

    /// The same with `-o options`.
    ///
    /// # Errors
    /// The mount does not become usable.
    pub fn with_options(cluster: &Cluster, name: &str, options: &str) -> anyhow::Result<Self> {
        let path = cluster.scratch().join(name);
        // What a killed mount left there is no directory any more, until it is taken over.
        if !is_mounted(&path) {
            std::fs::create_dir_all(&path)?;
        }
        let log_path = cluster.scratch().join(format!("{name}.log"));
        let log = std::fs::File::create(&log_path)?;
        let mut command = cluster.command("dfs-mount");
        command.arg("-f").arg(&path);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        // In the foreground, so that its pid is known; usable once the mount table has it.
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut this = Self {
            path,
            child,
            log: log_path,
        };
        watchdog::add_mount(this.child.id(), &this.path);
        let usable = wait_for("mount usable", Duration::from_secs(20), || {
            let is_usable = is_mounted(&this.path) && is_served(&this.path);
            is_usable || this.child.try_wait().is_ok_and(|s| s.is_some())
        });
        if usable.is_err() || !is_mounted(&this.path) {
            bail!("dfs-mount did not mount: {}", this.said());
        }
        std::fs::metadata(&this.path).context("the fresh mount's root")?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process at once, as a crash would, and removes what is left of the mount.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills the process at once and leaves what the kernel keeps of the mount.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn crash(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        watchdog::remove_mount(self.child.id(), &self.path);
        std::mem::forget(self);
        Ok(())
    }

    /// Unmounts politely and waits for the process to end well.
    ///
    /// # Errors
    /// Busy, or the process ended with an error.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        unmount(&self.path, UnmountFlags::empty())
            .with_context(|| format!("umount {}", self.path.display()))?;
        let mut status = None;
        wait_for("dfs-mount ends", Duration::from_secs(20), || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        match status {
            Some(status) if status.success() => Ok(()),
            status => bail!("dfs-mount ended with {status:?}: {}", self.said()),
        }
    }

    /// What the process has written so far.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// True iff whoever serves `path` answers: of a mount that died the kernel may still know attributes.
fn is_served(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    statx(
        CWD,
        path,
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    )
    .is_ok()
}

/// True iff something is mounted on `path`.
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let wanted = path.display().to_string();
    table
        .lines()
        .any(|l| l.split(' ').nth(1) == Some(wanted.as_str()))
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.path) {
            let _ = unmount(&self.path, UnmountFlags::DETACH);
        }
        let ended = || self.child.try_wait().is_ok_and(|s| s.is_some());
        if wait_for("dfs-mount ends", Duration::from_secs(10), ended).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        watchdog::remove_mount(self.child.id(), &self.path);
    }
}

//! One daemon: its process, its disk, its clock and its boot id.
use super::disk::Disk;
use super::net::{Net, Place};
use crate::proc::{program, wait_for};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) const PORT: u16 = 7400;

/// Runs a program whose syncs succeed and do nothing; both end with whoever started them.
const LYING_KERNEL: [&str; 13] = [
    "strace",
    "-f",
    "-qq",
    "--seccomp-bpf",
    "-o",
    "/dev/null",
    "-e",
    "trace=fsync,fdatasync,sync_file_range,syncfs",
    "-e",
    "inject=fsync,fdatasync,sync_file_range,syncfs:retval=0",
    "setpriv",
    "--pdeathsig",
    "KILL",
];

/// A node; its process is killed on drop, before its disk goes.
#[derive(Debug)]
pub struct Node {
    place: Place,
    dir: PathBuf,
    process: Option<Child>,
    /// Milliseconds by which each operation of its disk takes longer.
    slow_ms: u64,
    /// Its machine has no power.
    is_off: bool,
    /// It only seems to sync.
    is_lying: bool,
    /// Settings of all nodes.
    common: String,
    /// Machines that it was so far: each has a boot id of its own.
    boots: u32,
    disk: Disk,
}

/// Sends a signal to a process that we started.
pub(super) fn signal(process: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no pid")?, signal)?;
    Ok(())
}

impl Node {
    /// A node that does not run yet, with files below `dir`.
    ///
    /// # Errors
    /// Of the disk.
    pub fn new(dir: &Path, place: Place, disk_mb: u64, common: &str) -> anyhow::Result<Self> {
        let image = dir.join(format!("disk{place}.img"));
        let disk = Disk::new(&image, &dir.join(format!("disk{place}")), disk_mb)?;
        let this = Self {
            place,
            dir: dir.to_owned(),
            process: None,
            slow_ms: 0,
            is_off: false,
            is_lying: false,
            common: common.to_owned(),
            boots: 0,
            disk,
        };
        this.set_clock(0)?;
        this.new_boot_id()?;
        Ok(this)
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    /// It runs (or is frozen).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("node{}.{what}", self.place))
    }

    /// Its wall clock is wrong by so much from now on.
    ///
    /// # Errors
    /// Of the file that says so.
    pub fn set_clock(&self, ms: i64) -> anyhow::Result<()> {
        // In one step: half a number is another time.
        let new = self.file("clock.new");
        std::fs::write(&new, ms.to_string())?;
        Ok(std::fs::rename(&new, self.file("clock"))?)
    }

    fn new_boot_id(&self) -> anyhow::Result<()> {
        let (place, boot) = (self.place, self.boots);
        let id = format!("{:08x}-0000-4000-8000-{place:012x}\n", boot + 1);
        Ok(std::fs::write(self.file("boot"), id)?)
    }

    /// Its disk is that slow from its next start on.
    pub fn set_slow(&mut self, ms: u64) {
        self.slow_ms = ms;
    }

    /// From its next start on nothing that it syncs is synced: its kernel says so and does nothing.
    pub fn set_lying(&mut self) {
        self.is_lying = true;
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn write_config(&self) -> anyhow::Result<()> {
        let text = format!(
            "data = {:?}\nkey_file = {:?}\nlisten = \"{addr}:{PORT}\"\n[store]\ntest_slow_disk_ms = {}\n\
             test_clock_file = {:?}\n{}",
            self.data(),
            self.dir.join("cluster.key"),
            self.slow_ms,
            self.file("clock"),
            self.common,
            addr = Net::addr(self.place),
        );
        Ok(std::fs::write(self.file("toml"), text)?)
    }

    /// Starts it if it does not run.
    ///
    /// Its mounts are a copy in which another boot id is seen; what is unmounted here is unmounted
    /// there.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, net: &Net, how: &[String]) -> anyhow::Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        self.write_config()?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.file("log"))?;
        // Copies of mounts that other tests unmount meanwhile would keep those alive.
        let script = "awk '$3 == \"fuse.dfs\" { print $2 }' /proc/self/mounts | xargs -r umount -l; \
                      mount --bind \"$0\" /proc/sys/kernel/random/boot_id && \
                      exec setpriv --pdeathsig KILL -- \"$@\"";
        let mut command: Command = net.inside(self.place);
        command.args([
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "--",
            "sh",
            "-c",
            script,
        ]);
        command.arg(self.file("boot"));
        if self.is_lying {
            command.args(LYING_KERNEL);
        }
        command.arg(program("dfs-daemon"));
        command.arg("--config").arg(self.file("toml")).args(how);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(command.spawn().context("starting a daemon")?);
        Ok(())
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

    /// Kills it at once and waits until it is gone.
    ///
    /// # Errors
    /// Of the wait.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Asks it to stop, and waits until it has, as an operator does.
    ///
    /// # Errors
    /// It does not end within half a minute, or ends badly.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        signal(&process, Signal::TERM)?;
        let mut status = None;
        let ended = wait_for("a daemon told to stop", Duration::from_secs(30), || {
            status = process.try_wait().ok().flatten();
            status.is_some()
        });
        if ended.is_err() {
            process.kill()?;
            process.wait()?;
        }
        ended?;
        anyhow::ensure!(
            status.is_some_and(|s| s.success()),
            "node {} told to stop ended with {status:?}",
            self.place
        );
        Ok(())
    }

    /// True if it ended though nobody told it to; then it does not run any more.
    ///
    /// # Errors
    /// Of the wait.
    pub fn has_ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let Some(process) = self.process.as_mut() else {
            return Ok(None);
        };
        let status = process.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// The power is gone: the disk first, then the process, which is frozen before if it shall not see
    /// that its disk is gone.
    ///
    /// # Errors
    /// Of the disk.
    pub fn cut_power(&mut self, is_unseen: bool) -> anyhow::Result<()> {
        if is_unseen {
            self.freeze(true)?;
        }
        self.is_off = true;
        self.disk.cut()
    }

    /// After [`Self::cut_power`]: the machine is off.
    ///
    /// # Errors
    /// Of the wait.
    pub fn off(&mut self) -> anyhow::Result<()> {
        self.kill()
    }

    /// Power again: another boot of the machine, which begins with what its disk has.
    ///
    /// # Errors
    /// Of the disk.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        self.disk.power_on()?;
        self.is_off = false;
        self.boots += 1;
        self.new_boot_id()
    }

    /// Ends every fault of this node, but leaves it down if it is.
    ///
    /// # Errors
    /// Of its disk.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        if self.is_off {
            self.kill()?;
            self.power_on()?;
        }
        self.freeze(false)?;
        self.set_clock(0)?;
        self.set_slow(0);
        self.disk.free()
    }

    /// Its store and all else that it had is gone.
    ///
    /// # Errors
    /// Of the disk.
    pub fn wipe(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.data())?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            eprintln!("cleaning up: {e:#}");
        }
    }
}

//! One daemon process of a development cluster.
use crate::nodes::identify;
use anyhow::{Context, bail};
use dfs_core::client::{Client, ClientConfig};
use dfs_core::net::auth::ClusterKey;
use dfs_core::types::LogIndex;
use dfs_daemon::dev::DevDir;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// Node `index` of a development cluster.
pub struct Node<'a> {
    /// Its cluster.
    pub dir: &'a DevDir,
    /// From 1.
    pub index: u8,
    /// Its address.
    pub addr: SocketAddr,
    /// Addresses of all nodes.
    pub all: &'a [SocketAddr],
}

impl Node<'_> {
    /// The running process, if there is one that is ours.
    ///
    /// # Errors
    /// The pid file cannot be read.
    pub fn pid(&self) -> anyhow::Result<Option<u32>> {
        let path = self.dir.pid_file(self.index);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let Ok(pid) = text.trim().parse::<u32>() else {
            return Ok(None);
        };
        // A pid is reused one day: only a process that names our data directory is ours.
        let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
            return Ok(None);
        };
        let data = self
            .dir
            .data_dir(self.index)
            .into_os_string()
            .into_encoded_bytes();
        Ok(command
            .split(|b| *b == 0)
            .any(|arg| arg == data)
            .then_some(pid))
    }

    /// Starts the daemon unless it runs.
    ///
    /// # Errors
    /// The program is missing or cannot be run.
    pub fn start(&self) -> anyhow::Result<()> {
        if self.pid()?.is_some() {
            return Ok(());
        }
        let program = beside("dfs-daemon")?;
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.dir.log_file(self.index))?;
        let mut command = Command::new(&program);
        command.arg("--data").arg(self.dir.data_dir(self.index));
        command.arg("--listen").arg(self.addr.to_string());
        command.arg("--config").arg(self.dir.config_of(self.index));
        command.arg("--key-file").arg(self.dir.key_file());
        let formed = self.dir.root().join("formed");
        if self.index == 1 && !formed.exists() {
            // The key was made for this cluster.
            command.args(["--bootstrap", "--key-unused"]);
        } else {
            let others = self.all.iter().filter(|a| **a != self.addr);
            let others: Vec<String> = others.map(ToString::to_string).collect();
            command.arg("--join").arg(others.join(","));
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Where it was started from can be unmounted and removed.
            .current_dir("/")
            .process_group(0);
        // First, so that no process is started whose pid finds no room on a full device.
        let pid_file = self.dir.pid_file(self.index);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&pid_file)
            .with_context(|| pid_file.display().to_string())?;
        let blank = [b' '; 16];
        file.write_all(&blank)
            .with_context(|| pid_file.display().to_string())?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        file.rewind()?;
        writeln!(file, "{:<15}", child.id())?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(pid) = self
            .pid()?
            .and_then(|p| Pid::from_raw(i32::try_from(p).unwrap_or(0)))
        else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("signalling node {}", self.index)),
        }
    }

    /// Kills the daemon at once and waits until it is gone.
    ///
    /// # Errors
    /// It does not run, or cannot be signalled.
    pub fn kill(&self) -> anyhow::Result<()> {
        if self.pid()?.is_none() {
            bail!("node {} does not run", self.index);
        }
        self.signal(Signal::KILL)?;
        self.wait_gone(STOP_MAX)
    }

    /// Asks the daemon to stop.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn terminate(&self) -> anyhow::Result<()> {
        // A stopped (frozen) process hears nothing else.
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)
    }

    /// Waits until an asked daemon is gone; kills it when it takes too long.
    ///
    /// # Errors
    /// It survives SIGKILL.
    pub fn wait_stopped(&self) -> anyhow::Result<()> {
        if self.wait_gone(STOP_MAX).is_err() {
            self.signal(Signal::KILL)?;
            self.wait_gone(STOP_MAX)?;
        }
        match std::fs::remove_file(self.dir.pid_file(self.index)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn wait_gone(&self, max: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + max;
        while let Some(pid) = self.pid()? {
            if zombie(pid) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("node {} (process {pid}) does not stop", self.index);
            }
            std::thread::sleep(POLL);
        }
        // A dying process loses its command line before its sockets.
        while TcpListener::bind(self.addr).is_err() {
            if Instant::now() > deadline {
                bail!("something else holds {} of node {}", self.addr, self.index);
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Kills the daemon if it runs and deletes its data.
    ///
    /// # Errors
    /// The data cannot be deleted.
    pub fn wipe(&self) -> anyhow::Result<()> {
        if self.pid()?.is_some() {
            self.kill()?;
        }
        let data = self.dir.data_dir(self.index);
        match std::fs::remove_dir_all(&data) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", data.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A child of ours that nobody reaped holds no sockets and no data any more.
fn zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The nodes answer.
    Answering,
    /// There is a leader, it counts the nodes' stores as up, and all groups are placed.
    Serving,
    /// And as many masters vote as shall: from then on one of them may die.
    Complete,
}

/// Waits until the nodes at `wanted` are ready; `all` are the addresses of the cluster.
///
/// # Errors
/// They were not in time, with the cluster's own words.
pub fn wait_ready(
    dir: &DevDir,
    all: &[SocketAddr],
    wanted: &[SocketAddr],
    ready: Ready,
    max: Duration,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut config = ClientConfig::new(all.to_vec(), ClusterKey::load(&dir.key_file())?);
    config.label = "dfs-tools dev".into();
    config.session = false;
    config.deadline_meta = Duration::from_secs(2);
    runtime.block_on(async {
        let deadline = Instant::now() + max;
        let client = Client::connect(config).await?;
        loop {
            let Err(why) = is_ready(&client, wanted, ready).await else {
                break;
            };
            if Instant::now() > deadline {
                let root = dir.root().display();
                bail!("the cluster does not serve after {max:?}: {why:#}; see {root}/node*.log");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        client.shutdown().await;
        Ok(())
    })?;
    if ready != Ready::Answering {
        // From now on a wiped node 1 joins like any other instead of beginning a second cluster.
        std::fs::write(dir.root().join("formed"), "")?;
    }
    Ok(())
}

async fn is_ready(client: &Client, wanted: &[SocketAddr], ready: Ready) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for addr in wanted {
        runs.push((addr, identify(client, *addr).await?));
    }
    if ready == Ready::Answering {
        return Ok(());
    }
    let status = client.status().await?;
    for (addr, id) in runs {
        // This run of it: the leader may not have noticed yet that the last one is gone.
        let is_up = status
            .stores
            .iter()
            .any(|s| s.up && s.store == id.store && s.incarnation == id.incarnation);
        if !is_up {
            bail!("the leader does not hear of the store at {addr} yet");
        }
    }
    let map = client.refresh_map(LogIndex(u64::MAX)).await?;
    if map.pgs.is_empty() || map.pgs.iter().any(|p| p.members.is_empty()) {
        let reasons = status.reasons.join("; ");
        bail!("the placement groups have no members yet: {reasons}");
    }
    let up = status.stores.iter().filter(|s| s.up);
    let voting = up.clone().filter(|s| s.voter).count();
    // An even number of masters bears no more deaths than one less.
    let shall = usize::from(status.voters_wanted).min(up.count().div_ceil(2) * 2 - 1);
    if ready == Ready::Complete && voting < shall {
        bail!("{voting} of {shall} masters vote yet");
    }
    Ok(())
}

/// A program in the same directory as this one, or on the PATH.
fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("own path")?;
    let mut dir = own.parent();
    // Test programs live one directory below the others.
    for _ in 0..2 {
        if let Some(candidate) = dir.map(|d| d.join(name)).filter(|p| p.is_file()) {
            return Ok(candidate);
        }
        dir = dir.and_then(std::path::Path::parent);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|d| d.join(name))
        .find(|p| p.is_file())
        .map(|p| std::path::absolute(&p).unwrap_or(p));
    found.with_context(|| format!("{name} is neither beside {} nor on the PATH", own.display()))
}

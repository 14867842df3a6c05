//! A cluster of daemon processes, as `dfs-tools dev` starts it.
use super::{Tmpfs, program, run, wait_for, watchdog};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// One line of `dfs-tools dev status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeStatus {
    /// From 1.
    pub node: u8,
    /// Process, if it runs.
    pub pid: Option<u32>,
    /// Address.
    pub addr: SocketAddr,
    /// Data directory.
    pub data_dir: PathBuf,
    /// It runs.
    pub running: bool,
}

/// A running cluster; destroyed on drop.
pub struct Cluster {
    dir: tempfile::TempDir,
    config: String,
    /// Devices below it.
    devices: Vec<Tmpfs>,
}

impl Cluster {
    /// Starts `n` daemons with the default configuration, except that deleted bytes go soon.
    ///
    /// # Errors
    /// They do not serve.
    pub fn start(n: u8) -> anyhow::Result<Self> {
        Self::start_with(n, "[repair]\ndelete_grace_ms = 2000\n")
    }

    /// Starts `n` daemons with this configuration file.
    ///
    /// # Errors
    /// They do not serve.
    pub fn start_with(n: u8, config: &str) -> anyhow::Result<Self> {
        Self::start_on(n, config, |_| Ok(Vec::new()))
    }

    /// Starts `n` daemons below what `devices` mounts below the cluster's directory, which it is told.
    /// They take no snapshots of the namespace by themselves: those come with the wall clock, and scenarios
    /// count what is in the stores.
    ///
    /// # Errors
    /// They do not serve.
    pub fn start_on(
        n: u8,
        config: &str,
        devices: impl FnOnce(&Path) -> anyhow::Result<Vec<Tmpfs>>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("dfs-test-").tempdir()?;
        let mut this = Self {
            dir,
            config: without_snapshots(config),
            devices: Vec::new(),
        };
        this.devices = devices(&this.dev_dir())?;
        watchdog::add_cluster(&this.dev_dir());
        this.tools(&["dev", "up", &n.to_string()])
            .with_context(|| this.complaints(n))?;
        Ok(this)
    }

    /// The lines of the daemons' logs that say what went wrong.
    fn complaints(&self, n: u8) -> String {
        let mut lines = Vec::new();
        for i in 1..=n {
            let log = self.log(i).unwrap_or_default();
            let bad = log
                .lines()
                .filter(|l| l.contains("ERROR") || l.contains("WARN"));
            lines.extend(bad.take(20).map(|l| format!("node {i}: {l}")));
        }
        lines.join("\n")
    }

    /// The devices that it was started on.
    #[must_use]
    pub fn devices(&self) -> &[Tmpfs] {
        &self.devices
    }

    /// The development cluster's directory.
    pub fn dev_dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// A directory beside the cluster, for mounts and files of the scenario.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A command that finds this cluster.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env("DFS_DEV_DIR", self.dev_dir())
            .env("DFS_DEV_CONFIG", &self.config);
        command.env_remove("DFS_CLUSTER");
        command
    }

    /// Runs `dfs-tools` and demands success.
    ///
    /// # Errors
    /// It failed, with its words.
    pub fn tools(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = run(self.command("dfs-tools").args(args))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `dfs-tools` whatever comes of it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn tools_output(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command("dfs-tools").args(args).output()?)
    }

    /// Runs `dfs-tools --json` and parses what it prints.
    ///
    /// # Errors
    /// It failed, or printed no JSON.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--json"];
        all.extend(args);
        let text = self.tools(&all)?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed no JSON: {text}"))
    }

    /// All nodes.
    ///
    /// # Errors
    /// The tools failed.
    pub fn nodes(&self) -> anyhow::Result<Vec<NodeStatus>> {
        Ok(serde_json::from_value(self.json(&["dev", "status"])?)?)
    }

    /// Kills daemon `i` (from 1) with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self, i: u8) -> anyhow::Result<()> {
        self.tools(&["dev", "kill", &i.to_string()]).map(|_| ())
    }

    /// Starts daemon `i` again and waits until it serves.
    ///
    /// # Errors
    /// It does not serve.
    pub fn restart(&self, i: u8) -> anyhow::Result<()> {
        self.tools(&["dev", "start", &i.to_string()]).map(|_| ())
    }

    /// What daemon `i` has logged so far.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self, i: u8) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(
            self.dev_dir().join(format!("node{i}.log")),
        )?)
    }

    /// `status --json`.
    ///
    /// # Errors
    /// No leader answers.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.json(&["status"])
    }

    /// The node (from 1) that leads.
    ///
    /// # Errors
    /// Nobody does.
    pub fn leader(&self) -> anyhow::Result<u8> {
        let status = self.status()?;
        let stores = status["stores"]
            .as_array()
            .context("status has no stores")?;
        let leader = stores
            .iter()
            .find(|s| s["leader"] == true)
            .context("nobody leads")?;
        let addr = leader["addr"].as_str().context("a store without address")?;
        let nodes = self.nodes()?;
        let node = nodes.iter().find(|n| n.addr.to_string() == addr);
        Ok(node.context("the leader is no node of this cluster")?.node)
    }

    /// Nodes (from 1) that vote.
    ///
    /// # Errors
    /// Nobody leads.
    pub fn voters(&self) -> anyhow::Result<Vec<u8>> {
        let status = self.status()?;
        let stores = status["stores"]
            .as_array()
            .context("status has no stores")?;
        let voters: Vec<&str> = stores
            .iter()
            .filter(|s| s["voter"] == true)
            .filter_map(|s| s["addr"].as_str())
            .collect();
        let nodes = self.nodes()?;
        let of = |n: &NodeStatus| voters.contains(&n.addr.to_string().as_str());
        Ok(nodes.iter().filter(|n| of(n)).map(|n| n.node).collect())
    }

    /// Waits until `status` begins with this health word.
    ///
    /// # Errors
    /// It does not in time, with the last status.
    pub fn wait_health(&self, word: &str, max: Duration) -> anyhow::Result<Duration> {
        let mut last = String::new();
        let waited = wait_for(word, max, || {
            last = self.tools(&["status"]).unwrap_or_else(|e| e.to_string());
            last.starts_with(word)
        });
        waited.with_context(|| format!("last status:\n{last}"))
    }

    /// Process ids of the running daemons.
    ///
    /// # Errors
    /// The tools failed.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self.nodes()?.iter().filter_map(|n| n.pid).collect())
    }

    /// All daemons killed at the same moment, with SIGKILL.
    ///
    /// # Errors
    /// One cannot be signalled.
    pub fn kill_all(&self) -> anyhow::Result<()> {
        let running = self.nodes()?;
        let running: Vec<u8> = running
            .iter()
            .filter(|n| n.running)
            .map(|n| n.node)
            .collect();
        self.kill_together(&running)
    }

    /// These daemons (from 1) killed at the same moment, with SIGKILL.
    ///
    /// # Errors
    /// One does not run, or cannot be signalled.
    pub fn kill_together(&self, victims: &[u8]) -> anyhow::Result<()> {
        let nodes = self.nodes()?;
        let of_them = |n: &&NodeStatus| victims.contains(&n.node);
        let pids = nodes.iter().filter(of_them).map(|n| n.pid);
        let pid = |pid: Option<u32>| Pid::from_raw(i32::try_from(pid?).ok()?);
        let pids: Vec<_> = pids.map(pid).collect();
        for pid in pids {
            kill_process(pid.context("a node does not run")?, Signal::KILL)?;
        }
        // Dying, a process may hold its port a moment longer.
        let is_gone = |n: &NodeStatus| !n.running && TcpListener::bind(n.addr).is_ok();
        let gone = || {
            let nodes = self.nodes();
            nodes.is_ok_and(|all| all.iter().filter(of_them).all(is_gone))
        };
        wait_for("the killed daemons dead", Duration::from_secs(10), gone).map(|_| ())
    }

    /// Starts all daemons that do not run and waits until they serve.
    ///
    /// # Errors
    /// They do not serve.
    pub fn start_all(&self) -> anyhow::Result<()> {
        self.tools(&["dev", "up"]).map(|_| ())
    }
}

fn without_snapshots(config: &str) -> String {
    let (section, never) = ("[store]\n", "namespace_snapshot_secs = 0\n");
    if config.contains("namespace_snapshot_secs") {
        return config.to_owned();
    }
    match config.split_once(section) {
        Some((before, after)) => format!("{before}{section}{never}{after}"),
        None => format!("{config}\n{section}{never}"),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for i in 1..=9 {
                if let Ok(log) = self.log(i) {
                    let lines: Vec<_> = log.lines().collect();
                    let tail = lines.len().saturating_sub(25);
                    eprintln!("--- node {i} said last:\n{}", lines[tail..].join("\n"));
                }
            }
        }
        if !self.devices.is_empty() {
            // A directory that is mounted on cannot be removed.
            if let Err(e) = self.kill_all() {
                eprintln!("cleaning up: {e:#}");
            }
            self.devices.clear();
        }
        // It may have gone with its device.
        let is_there = self.dev_dir().join("seeds").exists();
        if is_there && let Err(e) = self.tools(&["dev", "destroy"]) {
            eprintln!("cleaning up: {e:#}");
        }
        watchdog::remove_cluster(&self.dev_dir());
    }
}

/// Nodes (from 1) that `where` says hold a copy of the file's first chunk.
///
/// # Errors
/// The file does not exist.
pub fn holders(cluster: &Cluster, path: &str) -> anyhow::Result<Vec<u8>> {
    let answer = cluster.json(&["where", path])?;
    let replicas = answer["chunks"][0]["replicas"]
        .as_array()
        .context("no replicas")?;
    let nodes = cluster.nodes()?;
    let node_of = |addr: &str| {
        nodes
            .iter()
            .find(|n| n.addr.to_string() == addr)
            .map(|n| n.node)
    };
    Ok(replicas
        .iter()
        .filter_map(|r| r["addr"].as_str())
        .filter_map(node_of)
        .collect())
}

//! `dfs-tools dev`: a cluster of real daemon processes on loopback, for trying and testing.
//!
//! State lives below one directory (see `dfs_daemon::dev`), so that any later call, and any other
//! program with `DFS_DEV_DIR` set to it, finds the cluster. Only processes that this directory's
//! pid files name, and whose command line names their data directory, are ever signalled.
pub mod process;

use crate::error::ToolError;
use crate::format::Table;
use crate::output::Out;
use anyhow::Context;
use clap::Subcommand;
use dfs_daemon::dev::{DevDir, default_dir};
use process::{Node, Ready};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long the cluster may take until every node serves.
const UP_MAX: Duration = Duration::from_secs(60);

/// What the daemons of a development cluster are started with: they share a machine.
const DEV_CONFIG: &str = "# Configuration of a development cluster; see `dfs-daemon --help`.\n";

/// Commands on a development cluster.
#[derive(Debug, Clone, Subcommand)]
pub enum DevCommand {
    /// Start N daemons (or as many as there were), and wait until they serve
    Up {
        /// Number of nodes
        nodes: Option<u8>,
    },
    /// List the daemons
    Status,
    /// Kill daemon I at once (SIGKILL)
    Kill {
        /// Node, from 1
        node: u8,
    },
    /// Start daemon I again
    Start {
        /// Node, from 1
        node: u8,
    },
    /// Kill daemon I and delete its data
    Wipe {
        /// Node, from 1
        node: u8,
    },
    /// Stop all daemons; data stays
    Down,
    /// Stop all daemons and delete everything
    Destroy,
}

/// One line of `dev status`.
#[derive(Debug, Clone, Serialize)]
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

/// A development cluster that is there.
pub struct DevCluster {
    dir: DevDir,
    addrs: Vec<SocketAddr>,
}

impl DevCluster {
    /// The cluster under `DFS_DEV_DIR` or the default directory.
    ///
    /// # Errors
    /// There is none, or its files cannot be read.
    pub fn open() -> anyhow::Result<Self> {
        let dir = DevDir::new(default_dir());
        let addrs = dir.nodes()?;
        if addrs.is_empty() {
            let root = dir.root().display();
            let words =
                format!("no development cluster under {root}; start one: dfs-tools dev up 5");
            return Err(ToolError::NotFound(words).into());
        }
        Ok(Self { dir, addrs })
    }

    fn node(&self, i: u8) -> anyhow::Result<Node<'_>> {
        let addr = usize::from(i)
            .checked_sub(1)
            .and_then(|at| self.addrs.get(at));
        let missing = || {
            let all = self.addrs.len();
            ToolError::NotFound(format!(
                "no node {i}: this development cluster has 1 to {all}"
            ))
        };
        let addr = *addr.ok_or_else(missing)?;
        Ok(Node {
            dir: &self.dir,
            index: i,
            addr,
            all: &self.addrs,
        })
    }

    fn nodes(&self) -> impl Iterator<Item = anyhow::Result<Node<'_>>> {
        (1..).take(self.addrs.len()).map(|i| self.node(i))
    }

    /// One line per node.
    ///
    /// # Errors
    /// A pid file cannot be read.
    pub fn status(&self) -> anyhow::Result<Vec<NodeStatus>> {
        let line = |node: anyhow::Result<Node<'_>>| {
            let node = node?;
            let pid = node.pid()?;
            Ok(NodeStatus {
                node: node.index,
                pid,
                addr: node.addr,
                data_dir: self.dir.data_dir(node.index),
                running: pid.is_some(),
            })
        };
        self.nodes().map(line).collect()
    }

    /// Starts every node that does not run.
    ///
    /// # Errors
    /// A daemon cannot be started.
    pub fn start_all(&self) -> anyhow::Result<()> {
        self.nodes().try_for_each(|node| node?.start())
    }

    /// Asks every node to stop, and kills what does not.
    ///
    /// # Errors
    /// A node survives SIGKILL.
    pub fn stop_all(&self) -> anyhow::Result<()> {
        for node in self.nodes() {
            node?.terminate()?;
        }
        self.nodes().try_for_each(|node| node?.wait_stopped())
    }
}

/// Runs one command.
///
/// # Errors
/// What, why and what to do next.
pub fn run(command: &DevCommand, out: &mut Out) -> anyhow::Result<()> {
    match command {
        DevCommand::Up { nodes } => up(*nodes, out),
        DevCommand::Status => {
            let status = DevCluster::open()?.status()?;
            print(&status, out)
        }
        DevCommand::Kill { node } => DevCluster::open()?.node(*node)?.kill(),
        DevCommand::Start { node } => start(*node),
        DevCommand::Wipe { node } => DevCluster::open()?.node(*node)?.wipe(),
        DevCommand::Down => DevCluster::open()?.stop_all(),
        DevCommand::Destroy => {
            let cluster = DevCluster::open()?;
            cluster.stop_all()?;
            let root = cluster.dir.root();
            std::fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))
        }
    }
}

fn start(node: u8) -> anyhow::Result<()> {
    let cluster = DevCluster::open()?;
    let node = cluster.node(node)?;
    node.start()?;
    let running = cluster.status()?.iter().filter(|s| s.running).count();
    // With too few nodes there is no leader to wait for.
    let ready = match running * 2 > cluster.addrs.len() {
        true => Ready::Serving,
        false => Ready::Answering,
    };
    process::wait_ready(&cluster.dir, &cluster.addrs, &[node.addr], ready, UP_MAX)
}

fn up(nodes: Option<u8>, out: &mut Out) -> anyhow::Result<()> {
    let dir = DevDir::new(default_dir());
    let had = u8::try_from(dir.nodes()?.len()).unwrap_or(u8::MAX);
    let count = nodes.unwrap_or(if had == 0 { 5 } else { had });
    let config = std::env::var("DFS_DEV_CONFIG").unwrap_or_else(|_| DEV_CONFIG.to_owned());
    let addrs = dir
        .prepare(count, &config)
        .with_context(|| format!("development cluster under {}", dir.root().display()))?;
    let cluster = DevCluster { dir, addrs };
    cluster.start_all()?;
    let addrs = &cluster.addrs;
    process::wait_ready(&cluster.dir, addrs, addrs, Ready::Complete, UP_MAX)?;
    print(&cluster.status()?, out)?;
    if !out.json {
        let root = cluster.dir.root().display();
        out.line(format!("\nuse it with: export DFS_DEV_DIR={root}"))?;
    }
    Ok(())
}

fn print(status: &[NodeStatus], out: &mut Out) -> anyhow::Result<()> {
    if out.json {
        return out.json(status);
    }
    let mut table = Table::new(&["NODE>", "PID>", "ADDRESS", "DATA"]);
    for s in status {
        let pid = s
            .pid
            .map_or_else(|| "stopped".to_owned(), |p| p.to_string());
        let data = s.data_dir.display().to_string();
        table.row([s.node.to_string(), pid, s.addr.to_string(), data]);
    }
    out.table(&table)
}

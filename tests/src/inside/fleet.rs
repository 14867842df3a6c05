//! A cluster whose daemons all stand behind proxies.
//!
//! The daemons listen where `dfs-tools dev` has placed them, but tell everybody the address of their
//! proxy, so that all connections among them and of clients lead through it. Datagrams do not.
use super::proxy::Proxy;
use crate::proc::{Cluster, program, wait_for};
use anyhow::Context;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// See the [module docs](self).
pub struct Fleet {
    children: Vec<Child>,
    proxies: BTreeMap<u8, Proxy>,
    ids: BTreeMap<u8, String>,
    /// The cluster; dropped last.
    pub cluster: Cluster,
}

impl Fleet {
    /// Starts `n` daemons, then starts them again behind proxies.
    ///
    /// # Errors
    /// They do not serve.
    pub fn start(n: u8, config: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::start_with(n, config)?;
        let mut this = Self {
            children: Vec::new(),
            proxies: BTreeMap::new(),
            ids: BTreeMap::new(),
            cluster,
        };
        for i in 1..=n {
            let id = this.cluster.json(&["id", &i.to_string()])?;
            let id = id["node"].as_str().context("an id without node")?;
            this.ids.insert(i, id.to_owned());
        }
        this.cluster.kill_all()?;
        let nodes = this.cluster.nodes()?;
        for node in &nodes {
            let proxy = Proxy::start(node.addr)?;
            let others = nodes.iter().filter(|o| o.node != node.node);
            let join: Vec<String> = others.map(|o| o.addr.to_string()).collect();
            let dir = this.cluster.dev_dir();
            let file = dir.join(format!("node{}.toml", node.node));
            let gossip = format!("advertise_gossip = \"{}\"\n", node.addr);
            std::fs::write(&file, format!("{gossip}{config}"))?;
            let log = std::fs::File::options()
                .append(true)
                .open(dir.join(format!("node{}.log", node.node)))?;
            let child = Command::new(program("dfs-daemon"))
                .arg("--data")
                .arg(&node.data_dir)
                .args(["--listen", &node.addr.to_string()])
                .args(["--advertise", &proxy.addr().to_string()])
                .arg("--config")
                .arg(&file)
                .arg("--key-file")
                .arg(dir.join("cluster.key"))
                .args(["--join", &join.join(",")])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .spawn()?;
            // So that the tools know the process as theirs.
            let pid = format!("{}\n", child.id());
            std::fs::write(dir.join(format!("node{}.pid", node.node)), pid)?;
            this.children.push(child);
            this.proxies.insert(node.node, proxy);
        }
        let heard = wait_for(
            "every store heard of at its proxy",
            Duration::from_secs(40),
            || {
                let status = this.cluster.status().unwrap_or_default();
                let stores = status["stores"].as_array().cloned().unwrap_or_default();
                let there = |p: &Proxy| {
                    let addr = p.addr().to_string();
                    stores
                        .iter()
                        .any(|s| s["addr"] == addr.as_str() && s["up"] == true)
                };
                this.proxies.values().all(there)
            },
        );
        if let Err(e) = heard {
            anyhow::bail!("{e}\n{}", this.words());
        }
        this.cluster
            .wait_health("HEALTHY", Duration::from_secs(40))?;
        Ok(this)
    }

    /// Status, and what every daemon said last.
    fn words(&self) -> String {
        let status = self.cluster.tools(&["status"]);
        let mut words = status.unwrap_or_else(|e| e.to_string());
        for i in self.ids.keys() {
            let log = self.cluster.log(*i).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(25);
            words += &format!("\n--- node {i} said last:\n{}", lines[tail..].join("\n"));
        }
        words
    }

    /// The proxy of node `i` (from 1).
    ///
    /// # Panics
    /// There is no such node.
    pub fn proxy(&self, i: u8) -> &Proxy {
        &self.proxies[&i]
    }

    /// Process of node `i`.
    ///
    /// # Panics
    /// There is no such node.
    pub fn pid(&self, i: u8) -> u32 {
        self.children[usize::from(i) - 1].id()
    }

    fn node_of(&self, id: &str) -> Option<u8> {
        self.ids.iter().find(|(_, n)| *n == id).map(|(i, _)| *i)
    }

    /// The node that leads.
    ///
    /// # Errors
    /// Nobody does.
    pub fn leader(&self) -> anyhow::Result<u8> {
        let status = self.cluster.status()?;
        let stores = status["stores"].as_array().context("no stores")?;
        let leader = stores.iter().find(|s| s["leader"] == true);
        let id = leader.and_then(|s| s["node"].as_str());
        id.and_then(|id| self.node_of(id)).context("nobody leads")
    }

    /// The nodes that hold the file's first chunk.
    ///
    /// # Errors
    /// The file does not exist.
    pub fn holders(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let answer = self.cluster.json(&["where", path])?;
        let replicas = answer["chunks"][0]["replicas"].as_array();
        let ids = replicas.context("no replicas")?.iter();
        let node = |r: &serde_json::Value| self.node_of(r["node"].as_str()?);
        Ok(ids.filter_map(node).collect())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // A frozen one would not end otherwise.
        for proxy in self.proxies.values() {
            proxy.release();
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

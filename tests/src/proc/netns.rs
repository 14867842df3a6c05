//! Daemons in network namespaces: one per node, with a bridge in a namespace of its own, so that the
//! host's network is not touched. Needs root, `ip`, `tc` and `setpriv`.
//!
//! Each node has two interfaces: `tcp0` for connections and `udp0`, over which nothing but membership
//! goes (and ARP), so that what the kernel counts on it can be compared. Loss is dropped at random by
//! the kernel where a frame leaves its node: by `netem` where there is one, else by a filter of four BPF
//! instructions. A node is silenced at the bridge: no reset and no error tells of it.
//!
//! Everything goes on drop; what a killed run left behind goes at the next start: names hold the pid.
use super::{program, run};
use anyhow::{Context, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Names of namespaces begin with it.
pub(crate) const PREFIX: &str = "dfsdet-";
const PORT: u16 = 7400;

/// A cluster in namespaces; destroyed on drop.
pub struct Lan {
    dir: tempfile::TempDir,
    names: Vec<String>,
    daemons: Vec<Option<Child>>,
}

/// Counters of an interface: bytes with Ethernet headers, as the kernel counts them, and frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkCounts {
    /// Sent.
    pub out_bytes: u64,
    /// Sent.
    pub out_frames: u64,
}

pub(crate) fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args)).map(|_| ())
}

fn names() -> Vec<String> {
    let listed = run(Command::new("ip").args(["netns", "list"]));
    let text = listed.map_or_else(
        |_| String::new(),
        |o| String::from_utf8_lossy(&o.stdout).into(),
    );
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines()
        .filter_map(first)
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

pub(crate) fn remove(name: &str) {
    // Whoever still runs there was started there by a run of ours.
    if let Ok(pids) = run(Command::new("ip").args(["netns", "pids", name])) {
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    if let Err(e) = ip(&["netns", "del", name]) {
        eprintln!("cleaning up: {e:#}");
    }
}

/// What runs of this harness that are gone left behind.
fn remove_leftovers() {
    for name in names() {
        let owner = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(&name);
        }
    }
}

/// Why there can be no namespaces here, if so.
pub fn obstacle() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for tool in ["ip", "tc", "setpriv"] {
        let there = Command::new(tool).arg("-V").output();
        if there.is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    remove_leftovers();
    let probe = format!("{PREFIX}{}-probe", std::process::id());
    let script = format!(
        "ip netns add {probe} && ip -n {probe} link add p0 type veth peer name p1 && \
         ip -n {probe} link add br0 type bridge"
    );
    let made = super::sh(&script);
    remove(&probe);
    made.err().map(|e| format!("{e:#}"))
}

impl Lan {
    /// `n` nodes (2 to 200) of one cluster, everyone joined to the first.
    ///
    /// # Errors
    /// What could not be made.
    pub fn start(n: usize) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("dfs-test-").tempdir()?;
        let mut this = Self {
            dir,
            names: Vec::new(),
            daemons: (0..n).map(|_| None).collect(),
        };
        this.wire(n)?;
        for node in 0..n {
            this.start_node(node)?;
            if node == 0 {
                let key = this.key();
                super::wait_for("the key", std::time::Duration::from_secs(20), || {
                    key.exists()
                })?;
            }
        }
        Ok(this)
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.daemons.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.daemons.is_empty()
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("cluster.key")
    }

    fn switch(&self) -> &str {
        &self.names[0]
    }

    fn name(&self, node: usize) -> &str {
        &self.names[node + 1]
    }

    fn add_netns(&mut self, what: &str) -> anyhow::Result<()> {
        let name = format!("{PREFIX}{}-{what}", std::process::id());
        ip(&["netns", "add", &name])?;
        self.names.push(name);
        Ok(())
    }

    fn wire(&mut self, n: usize) -> anyhow::Result<()> {
        self.add_netns("switch")?;
        let switch = self.switch().to_owned();
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for node in 0..n {
            self.add_netns(&node.to_string())?;
            let name = self.name(node).to_owned();
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            for (plane, net) in [("tcp", 88), ("udp", 89)] {
                let port = format!("{plane}{node}");
                let end = format!("{plane}0");
                ip(&[
                    "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", &end,
                    "netns", &name,
                ])?;
                ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
                let addr = format!("10.{net}.0.{}/24", node + 1);
                ip(&["-n", &name, "addr", "add", &addr, "dev", &end])?;
                // No router solicitations among what is counted.
                let quiet = format!("echo 1 > /proc/sys/net/ipv6/conf/{end}/disable_ipv6 || true");
                run(self.inside(node, "sh").args(["-c", &quiet]))?;
                ip(&["-n", &name, "link", "set", &end, "up"])?;
            }
        }
        Ok(())
    }

    /// A command that runs in the node's namespace and ends with the thread that started it.
    fn inside(&self, node: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            self.name(node),
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
        ]);
        command.arg(program.as_ref());
        command
    }

    /// Address for connections.
    #[must_use]
    pub fn addr(&self, node: usize) -> String {
        format!("10.88.0.{}:{PORT}", node + 1)
    }

    fn start_node(&mut self, node: usize) -> anyhow::Result<()> {
        let data = self.dir.path().join(format!("node{node}"));
        let config = self.dir.path().join(format!("node{node}.toml"));
        std::fs::write(
            &config,
            format!(
                "data = {data:?}\nkey_file = {:?}\nlisten = \"0.0.0.0:{PORT}\"\nadvertise = \"{}\"\n\
                 advertise_gossip = \"10.89.0.{}:{PORT}\"\n[cluster]\nplacement_groups = 8\n",
                self.key(),
                self.addr(node),
                node + 1
            ),
        )?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))?;
        let mut command = self.inside(node, program("dfs-daemon"));
        command.arg("--config").arg(&config);
        if node == 0 {
            command.arg("--bootstrap");
        } else {
            command.args(["--join", &format!("10.89.0.1:{PORT}")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.daemons[node] = Some(command.spawn()?);
        Ok(())
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node{node}.log"))
    }

    /// What the daemon has logged so far.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    /// `dfs-tools --json` run at a node.
    ///
    /// # Errors
    /// It failed, or printed no JSON.
    pub fn json(&self, node: usize, args: &[&str]) -> anyhow::Result<Value> {
        let mut command = self.inside(node, program("dfs-tools"));
        command.arg("--json").args(["--cluster", &self.addr(node)]);
        command.arg("--key-file").arg(self.key()).args(args);
        command.env_remove("DFS_CLUSTER").env_remove("DFS_DEV_DIR");
        let output = run(&mut command)?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{args:?}: no JSON"))
    }

    /// Runs `dfs-tools` at a node.
    ///
    /// # Errors
    /// It failed, with its words.
    pub fn tools(&self, node: usize, args: &[&str]) -> anyhow::Result<()> {
        let mut command = self.inside(node, program("dfs-tools"));
        command.args(["--cluster", &self.addr(node)]);
        command.arg("--key-file").arg(self.key()).args(args);
        run(&mut command).map(|_| ())
    }

    /// Drops this share of what every node sends from now on, in percent; 0 ends it. Says how.
    ///
    /// # Errors
    /// The kernel can do neither.
    pub fn set_loss(&self, percent: u32) -> anyhow::Result<&'static str> {
        let mut how = "none";
        for node in 0..self.len() {
            for end in ["tcp0", "udp0"] {
                let tc = |args: &[&str]| run(self.inside(node, "tc").args(args));
                // There may be none.
                let _ = tc(&["qdisc", "del", "dev", end, "root"]);
                let _ = tc(&["qdisc", "del", "dev", end, "clsact"]);
                if percent == 0 {
                    continue;
                }
                let share = format!("{percent}%");
                if tc(&["qdisc", "add", "dev", end, "root", "netem", "loss", &share]).is_ok() {
                    how = "netem";
                    continue;
                }
                // A random word below the limit: drop (2), else go on (-1).
                let limit = u64::from(percent) * (1 << 32) / 100;
                let code = format!("4,32 0 0 4294963256,53 1 0 {limit},6 0 0 2,6 0 0 4294967295");
                tc(&["qdisc", "add", "dev", end, "clsact"])?;
                tc(&[
                    "filter", "add", "dev", end, "egress", "bpf", "da", "bytecode", &code,
                ])?;
                how = "a BPF filter";
            }
        }
        Ok(how)
    }

    /// Takes a node's ports at the bridge down, or up again.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn silence(&self, node: usize, is_silent: bool) -> anyhow::Result<()> {
        let state = if is_silent { "down" } else { "up" };
        // Both in one go: a silent death has no order.
        let batch = format!("link set udp{node} {state}\nlink set tcp{node} {state}\n");
        let file = self.dir.path().join("batch");
        std::fs::write(&file, batch)?;
        let path = file.to_str().context("a plain path")?;
        ip(&["-n", self.switch(), "-batch", path])
    }

    /// What the interface for membership has sent so far.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn sent(&self, node: usize) -> anyhow::Result<LinkCounts> {
        let output = run(self
            .inside(node, "ip")
            .args(["-s", "-j", "link", "show", "udp0"]))?;
        let links: Value = serde_json::from_slice(&output.stdout)?;
        let tx = &links[0]["stats64"]["tx"];
        match (tx["bytes"].as_u64(), tx["packets"].as_u64()) {
            (Some(out_bytes), Some(out_frames)) => Ok(LinkCounts {
                out_bytes,
                out_frames,
            }),
            _ => bail!("no counters in {links}"),
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 0..self.len() {
                let log = self.log(node);
                let lines: Vec<_> = log.lines().collect();
                let tail = lines.len().saturating_sub(8);
                eprintln!("--- node {node} said last:\n{}", lines[tail..].join("\n"));
            }
        }
        for mut daemon in self.daemons.iter_mut().filter_map(Option::take) {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for name in std::mem::take(&mut self.names).iter().rev() {
            remove(name);
        }
    }
}

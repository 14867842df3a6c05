//! Five daemons on disks of their own and two mounts, in namespaces; destroyed on drop.
//!
//! All lies below one directory, which is a shared mount: a daemon's own view of the mounts (in which
//! it sees another boot id) follows what is unmounted here, else a dead disk would stay in use.
use super::client::Client;
use super::net::{Net, Place};
use super::node::{Node, PORT};
use crate::proc::{program, run, sh, wait_for, watchdog};
use anyhow::{Context, bail};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount_bind, mount_change, unmount};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Mounts.
pub const CLIENTS: usize = 2;

/// The directory of a lab, mounted on itself.
#[derive(Debug)]
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("dfs-test-").tempdir()?;
        mount_bind(dir.path(), dir.path()).context("a directory as a mount")?;
        let this = Self(dir);
        watchdog::add_mount(0, this.0.path());
        mount_change(this.0.path(), MountPropagationFlags::SHARED)?;
        Ok(this)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(e) = unmount(self.0.path(), UnmountFlags::DETACH) {
            eprintln!("cleaning up: {}: {e}", self.0.path().display());
        }
        watchdog::remove_mount(0, self.0.path());
    }
}

/// The whole.
///
/// The order of its fields is the order in which they go: mounts, daemons with their disks,
/// namespaces, the directory.
#[derive(Debug)]
pub struct Lab {
    clients: Vec<Client>,
    nodes: Vec<Node>,
    net: Net,
    ground: Ground,
}

/// Why there can be no lab here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    if let Some(why) = crate::proc::netns::obstacle() {
        return Some(why);
    }
    let script = "d=$(mktemp -d); trap 'umount -q \"$d/at\" || true; rm -rf \"$d\"' EXIT; \
                  truncate -s 8M \"$d/image\"; mkfs.ext4 -q \"$d/image\"; mkdir \"$d/at\"; \
                  mount -o loop \"$d/image\" \"$d/at\"; nsenter --version; unshare --version";
    sh(script).err().map(|e| format!("{e:#}"))
}

impl Lab {
    /// `n` daemons that serve and two mounts that can be used. `config` is added to all daemons'
    /// configuration, below `[store]`. `is_lying`: their disks only seem to sync.
    ///
    /// # Errors
    /// What could not be made; nothing is left.
    pub fn start(n: usize, disk_mb: u64, config: &str, is_lying: bool) -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let net = Net::new(n + CLIENTS + 1)?;
        let mut this = Self {
            clients: Vec::new(),
            nodes: Vec::new(),
            net,
            ground,
        };
        let dir = this.dir().to_owned();
        for place in 0..n {
            this.nodes.push(Node::new(&dir, place, disk_mb, config)?);
            if is_lying {
                this.nodes[place].set_lying();
            }
        }
        this.nodes[0].start(&this.net, &["--bootstrap".into()])?;
        let key = this.key();
        wait_for("the key", Duration::from_secs(20), || key.exists())?;
        this.start_all()?;
        this.wait_health("HEALTHY", Duration::from_secs(60))?;
        for place in n..n + CLIENTS {
            let mut client = Client::new(&dir, place);
            client.mount(&this.net, n)?;
            this.clients.push(client);
        }
        Ok(this)
    }

    /// Where everything lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.ground.0.path()
    }

    fn key(&self) -> PathBuf {
        self.dir().join("cluster.key")
    }

    /// Number of daemons.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// A daemon.
    pub fn node(&mut self, place: Place) -> &mut Node {
        &mut self.nodes[place]
    }

    /// All daemons.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The network.
    pub fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// A mount.
    pub fn client(&mut self, i: usize) -> &mut Client {
        &mut self.clients[i]
    }

    /// Where the mounts are.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        self.clients.iter().map(|c| c.path().to_owned()).collect()
    }

    /// Mounts again what is not mounted.
    ///
    /// # Errors
    /// The mount does not become usable.
    pub fn mount_again(&mut self, i: usize) -> anyhow::Result<()> {
        let n = self.size();
        self.clients[i].kill()?;
        self.clients[i].mount(&self.net, n)
    }

    /// Starts a daemon that does not run, as an operator does: it joins through any other.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_node(&mut self, place: Place) -> anyhow::Result<()> {
        let others = (0..self.size()).filter(|i| *i != place);
        let seeds: Vec<String> = others.map(|i| format!("{}:{PORT}", Net::addr(i))).collect();
        self.nodes[place].start(&self.net, &["--join".into(), seeds.join(",")])
    }

    /// Starts all daemons that do not run.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.size()).try_for_each(|place| self.start_node(place))
    }

    /// Ends every fault, whatever state a round has left: all daemons run, all mounts are there.
    ///
    /// # Errors
    /// What cannot be ended.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.net.heal()?;
        self.nodes.iter_mut().try_for_each(Node::heal)?;
        self.start_all()?;
        for i in 0..self.clients.len() {
            self.clients[i].freeze(false)?;
            if !self.clients[i].is_mounted() {
                self.mount_again(i)?;
            }
        }
        Ok(())
    }

    /// Runs `dfs-tools` from a place that no fault reaches, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn tools_output(&self, args: &[&str]) -> anyhow::Result<Output> {
        let seeds: Vec<String> = (0..self.size())
            .map(|n| format!("{}:{PORT}", Net::addr(n)))
            .collect();
        let mut command: Command = self.net.inside(self.size() + CLIENTS);
        command
            .arg(program("dfs-tools"))
            .args(["--cluster", &seeds.join(",")]);
        command.arg("--key-file").arg(self.key()).args(args);
        command.env_remove("DFS_CLUSTER").env_remove("DFS_DEV_DIR");
        Ok(command.output()?)
    }

    /// Runs `dfs-tools` and demands success.
    ///
    /// # Errors
    /// It failed, with its words.
    pub fn tools(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.tools_output(args)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "{args:?}: {}\n{said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(said)
    }

    /// Runs `dfs-tools --json`.
    ///
    /// # Errors
    /// It failed, or printed no JSON.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--json"];
        all.extend(args);
        let text = self.tools(&all)?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed no JSON: {text}"))
    }

    /// Waits until `status` begins with this word.
    ///
    /// # Errors
    /// It does not in time, with the last status.
    pub fn wait_health(&self, word: &str, max: Duration) -> anyhow::Result<Duration> {
        let mut last = String::new();
        let waited = wait_for(word, max, || {
            last = self.tools(&["status"]).unwrap_or_else(|e| format!("{e:#}"));
            last.starts_with(word)
        });
        waited.with_context(|| format!("last status:\n{last}"))
    }

    /// Waits until every daemon has read again all that it keeps, and made good what was damaged.
    ///
    /// # Errors
    /// It has not in time; what the scrub says.
    pub fn wait_scrubbed(&self, max: Duration) -> anyhow::Result<Duration> {
        self.tools(&["scrub", "start"])?;
        let mut last = Value::Null;
        let is_over = |node: &Value| node["asked"] == false && node["waiting"] == 0;
        let waited = wait_for("a scrub of all nodes", max, || {
            last = self.json(&["scrub", "status"]).unwrap_or(Value::Null);
            last.as_array()
                .is_some_and(|all| all.len() == self.size() && all.iter().all(is_over))
        });
        waited.with_context(|| format!("the scrub says {last:#}"))
    }

    /// Problems that the check of everything names, once it names none or the time is over.
    ///
    /// # Errors
    /// It cannot run.
    pub fn fsck(&self, max: Duration) -> anyhow::Result<Vec<Value>> {
        let mut problems = Vec::new();
        let mut trouble = None;
        let _over = wait_for("a clean check", max, || {
            let said = self.tools_output(&["--json", "fsck"]);
            let report: anyhow::Result<Value> =
                said.and_then(|o| Ok(serde_json::from_slice(&o.stdout)?));
            match report {
                Ok(report) => {
                    trouble = None;
                    problems = report["problems"].as_array().cloned().unwrap_or_default();
                    report["problems"].as_array().is_some_and(Vec::is_empty)
                }
                Err(e) => {
                    trouble = Some(e);
                    false
                }
            }
        });
        trouble.map_or(Ok(problems), Err)
    }

    /// Ends of daemons and mounts that nobody ordered.
    ///
    /// # Errors
    /// Of the wait.
    pub fn deaths(&mut self) -> anyhow::Result<Vec<String>> {
        let mut dead = Vec::new();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.has_ended()? {
                dead.push(format!(
                    "daemon {i} ended by itself: {status}; {}",
                    tail(&node.log())
                ));
            }
        }
        for (i, client) in self.clients.iter_mut().enumerate() {
            if client.has_ended() {
                dead.push(format!(
                    "mount {i} ended by itself; {}",
                    tail(&client.log())
                ));
            }
        }
        Ok(dead)
    }

    /// Keeps what all processes have said, for who looks for a cause.
    ///
    /// # Errors
    /// Of the copy.
    pub fn keep_logs(&self, to: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(to)?;
        let script = "cp -- \"$1\"/*.log \"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(self.dir()).arg(to);
        run(&mut command).map(|_| ())
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

//! Layout of a development cluster's directory: shared by `dfs-tools dev` and `dfs-mount --dev`.
//!
//! ```text
//! DIR/cluster.key     the key (every program that talks to the cluster needs it)
//! DIR/seeds           one address per line: where programs find the cluster
//! DIR/dev.toml        the configuration the daemons are started with
//! DIR/node1.toml      instead of that for node 1, if it exists
//! DIR/node1/ ...      data directories
//! DIR/node1.log       what node 1 says
//! DIR/node1.pid       its process, while it runs on its own
//! ```
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

/// Nodes at most.
pub const NODES_MAX: u8 = 50;

/// A development cluster on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevDir {
    root: PathBuf,
}

/// The development cluster's directory when none is named: `DFS_DEV_DIR`, or
/// `~/.local/share/dfs-dev`.
#[must_use]
pub fn default_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("DFS_DEV_DIR").filter(|d| !d.is_empty()) {
        return dir.into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".local/share/dfs-dev")
}

impl DevDir {
    /// Names a directory; nothing is read or made. A relative path is meant from the current
    /// directory of this moment.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            root: std::path::absolute(&root).unwrap_or(root),
        }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The key file.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.root.join("cluster.key")
    }

    /// The daemons' configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.root.join("dev.toml")
    }

    /// The configuration file of node `i` (from 1): its own if there is one.
    #[must_use]
    pub fn config_of(&self, i: u8) -> PathBuf {
        let own = self.root.join(format!("node{i}.toml"));
        if own.exists() {
            own
        } else {
            self.config_file()
        }
    }

    /// Data directory of node `i` (from 1).
    #[must_use]
    pub fn data_dir(&self, i: u8) -> PathBuf {
        self.root.join(format!("node{i}"))
    }

    /// Log of node `i`.
    #[must_use]
    pub fn log_file(&self, i: u8) -> PathBuf {
        self.root.join(format!("node{i}.log"))
    }

    /// Pid file of node `i`.
    #[must_use]
    pub fn pid_file(&self, i: u8) -> PathBuf {
        self.root.join(format!("node{i}.pid"))
    }

    /// Addresses of the nodes, in order; empty if there is no cluster here.
    ///
    /// # Errors
    /// The file cannot be read or holds no addresses.
    pub fn nodes(&self) -> std::io::Result<Vec<SocketAddr>> {
        let text = match std::fs::read_to_string(self.root.join("seeds")) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let parse = |line: &str| {
            let bad = |e| std::io::Error::other(format!("{}/seeds: {e}", self.root.display()));
            line.trim().parse().map_err(bad)
        };
        text.lines()
            .filter(|l| !l.trim().is_empty())
            .map(parse)
            .collect()
    }

    /// Makes the directory, key, configuration and addresses of a cluster of `count` nodes, or adds
    /// nodes to the one that is there. Existing nodes keep their addresses. Returns all addresses.
    ///
    /// # Errors
    /// The directory cannot be written, or `count` is out of `1..=NODES_MAX`.
    pub fn prepare(&self, count: u8, config: &str) -> std::io::Result<Vec<SocketAddr>> {
        if count == 0 || count > NODES_MAX {
            return Err(std::io::Error::other(format!(
                "{count} nodes: 1 to {NODES_MAX} can be run"
            )));
        }
        std::fs::create_dir_all(&self.root)?;
        if !self.key_file().exists() {
            dfs_core::net::auth::ClusterKey::generate(&self.key_file())
                .map_err(std::io::Error::other)?;
        }
        if !self.config_file().exists() {
            write_durably(&self.config_file(), config)?;
        }
        let mut nodes = self.nodes()?;
        while nodes.len() < usize::from(count) {
            let port = free_port(&nodes)?;
            nodes.push(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        let lines: String = nodes.iter().map(|a| format!("{a}\n")).collect();
        write_durably(&self.root.join("seeds"), &lines)?;
        Ok(nodes)
    }
}

/// Ports below the range from which the kernel takes source ports: a node that is down for a while
/// must not find its port taken by somebody's connection.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port that is free for TCP and UDP on loopback just now.
fn free_port(taken: &[SocketAddr]) -> std::io::Result<u16> {
    for _ in 0..1000 {
        let port = rand::random_range(PORTS);
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let free = TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok();
        if free && !taken.contains(&addr) {
            return Ok(port);
        }
    }
    Err(std::io::Error::other("no free port on 127.0.0.1"))
}

fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let temp = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_keep_their_addresses_when_more_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let dev = DevDir::new(dir.path().join("c"));
        let three = dev.prepare(3, "").unwrap();
        let five = dev.prepare(5, "").unwrap();
        assert_eq!((&five[..3], five.len()), (&three[..], 5));
        assert_eq!(dev.prepare(2, "").unwrap(), five);
        assert!(dev.prepare(0, "").is_err());
    }
}

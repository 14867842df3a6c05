//! A cluster of daemons inside this process: `dfs-mount --dev`.
use crate::config::{ClusterConfig, Config, RepairConfig, StoreConfig};
use crate::dev::DevDir;
use crate::run::Daemon;
use anyhow::Context;
use dfs_core::client::{Client, ClientConfig};
use dfs_core::net::auth::ClusterKey;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the cluster may take until it serves.
const UP_MAX: Duration = Duration::from_secs(60);

/// A running embedded cluster.
pub struct Embedded {
    runtime: tokio::runtime::Handle,
    daemons: Vec<Daemon>,
    addrs: Vec<SocketAddr>,
    key: ClusterKey,
}

impl Embedded {
    /// Starts `nodes` daemons with their state under `dir` (made if missing; a later start finds
    /// the same data) and waits until they serve.
    ///
    /// # Errors
    /// The directory cannot be used, or the cluster does not come up.
    pub fn start(runtime: &tokio::runtime::Handle, dir: &Path, nodes: u8) -> anyhow::Result<Self> {
        let dev = DevDir::new(dir);
        let had = dev.nodes()?.len();
        let formed = dev.root().join("formed");
        let addrs = dev
            .prepare(nodes, "")
            .with_context(|| dir.display().to_string())?;
        let key = ClusterKey::load(&dev.key_file())?;
        let cluster = sizes(u8::try_from(addrs.len()).unwrap_or(u8::MAX));
        let mut this = Self {
            runtime: runtime.clone(),
            daemons: Vec::new(),
            addrs,
            key,
        };
        let started = this.start_all(&dev, &cluster, had == 0 || !formed.exists());
        let up = started.and_then(|()| this.wait_serving());
        match up {
            Ok(()) => {
                std::fs::write(formed, "")?;
                Ok(this)
            }
            Err(e) => {
                this.stop();
                Err(e.context(format!("embedded cluster under {}", dir.display())))
            }
        }
    }

    fn start_all(
        &mut self,
        dev: &DevDir,
        cluster: &ClusterConfig,
        fresh: bool,
    ) -> anyhow::Result<()> {
        for (i, addr) in self.addrs.iter().enumerate() {
            let node = u8::try_from(i + 1).unwrap_or(u8::MAX);
            let bootstrap = fresh && i == 0;
            let others = self.addrs.iter().copied().filter(|a| a != addr).collect();
            let config = Config {
                data: dev.data_dir(node),
                listen: *addr,
                advertise: None,
                advertise_gossip: None,
                bootstrap,
                key_unused: bootstrap,
                join: if bootstrap { Vec::new() } else { others },
                key_file: dev.key_file(),
                zone: String::new(),
                cluster: cluster.clone(),
                store: StoreConfig::default(),
                repair: RepairConfig::default(),
            };
            let daemon = self.runtime.block_on(Daemon::start(&config));
            self.daemons
                .push(daemon.with_context(|| format!("node {node}"))?);
        }
        Ok(())
    }

    fn wait_serving(&self) -> anyhow::Result<()> {
        let mut config = ClientConfig::new(self.addrs.clone(), self.key.clone());
        config.session = false;
        config.deadline_meta = Duration::from_secs(2);
        self.runtime.block_on(async {
            let client = Client::connect(config).await?;
            let deadline = Instant::now() + UP_MAX;
            loop {
                let status = client.status().await;
                let placed = client.refresh_map(dfs_core::types::LogIndex(0)).await;
                let why = match (status, placed) {
                    (Ok(s), Ok(map)) => {
                        let up = s.stores.iter().filter(|s| s.up).count();
                        let placed = map.pgs.iter().all(|p| !p.members.is_empty());
                        if up >= self.addrs.len() && placed && !map.pgs.is_empty() {
                            client.shutdown().await;
                            return Ok(());
                        }
                        format!("{up} of {} stores are up", self.addrs.len())
                    }
                    (Err(e), _) | (_, Err(e)) => e.to_string(),
                };
                if Instant::now() > deadline {
                    anyhow::bail!("does not serve after {UP_MAX:?}: {why}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }

    /// Addresses of the nodes.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The cluster's key.
    #[must_use]
    pub fn key(&self) -> &ClusterKey {
        &self.key
    }

    /// Stops all daemons; the data stays.
    pub fn stop(self) {
        let Self {
            runtime, daemons, ..
        } = self;
        runtime.block_on(async {
            let mut stopping = tokio::task::JoinSet::new();
            for daemon in daemons {
                stopping.spawn(daemon.stop());
            }
            while stopping.join_next().await.is_some() {}
        });
    }
}

/// One node alone keeps one copy; two keep two; more keep three.
fn sizes(nodes: u8) -> ClusterConfig {
    let (copies, write_quorum, read_quorum, masters) = match nodes {
        1 => (1, 1, 1, 1),
        2 => (2, 2, 1, 1),
        _ => (3, 2, 2, 3),
    };
    ClusterConfig {
        copies,
        write_quorum,
        read_quorum,
        masters,
        ..ClusterConfig::default()
    }
}

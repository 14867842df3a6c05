//! A client without a session, to ask the master what the tools do not print.
use crate::proc::Cluster;
use dfs_core::client::{Client, ClientConfig};
use dfs_core::net::ClusterKey;
use dfs_core::types::PgMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// See the [module docs](self).
pub struct Asking {
    runtime: Runtime,
    client: Arc<Client>,
}

impl Asking {
    /// Connects to a cluster.
    ///
    /// # Errors
    /// The cluster's key cannot be read.
    pub fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let key = ClusterKey::load(&cluster.dev_dir().join("cluster.key"))?;
        let nodes = cluster.nodes()?.iter().map(|n| n.addr).collect();
        let mut config = ClientConfig::new(nodes, key);
        config.label = "scenario".to_owned();
        config.session = false;
        config.deadline_meta = Duration::from_secs(3);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = runtime.block_on(Client::connect(config))?;
        Ok(Self { runtime, client })
    }

    /// All placement groups as the master has them now.
    ///
    /// # Errors
    /// Nobody leads.
    pub fn map(&self) -> anyhow::Result<PgMap> {
        Ok(self.runtime.block_on(self.client.pg_map_now())?)
    }
}

//! Asks one store directly, past every cache, retry and proxy.
use crate::proc::Cluster;
use anyhow::{Context, bail};
use bytes::Bytes;
use dfs_core::net::conn::deadline_in;
use dfs_core::net::{ClusterKey, Conn, ConnOptions, Credentials};
use dfs_core::types::{Epoch, Ino, PgId};
use dfs_core::wire::replica::{StampRequest, StoreUsage};
use dfs_core::wire::{
    ErrorCode, ReplicaRequest, ReplicaResponse, Request, Response, Stamp, WireError,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Where a file's first chunk lives.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The inode.
    pub ino: Ino,
    /// Its home group.
    pub pg: PgId,
    /// That group's epoch.
    pub epoch: Epoch,
}

impl Place {
    /// Of a file.
    ///
    /// # Errors
    /// It does not exist.
    pub fn of(cluster: &Cluster, path: &str) -> anyhow::Result<Self> {
        let view = cluster.json(&["where", path])?;
        let chunk = &view["chunks"][0];
        let number = |v: &serde_json::Value| v.as_u64().context("where prints no number");
        Ok(Self {
            ino: Ino(number(&view["ino"])?),
            pg: PgId(u16::try_from(number(&chunk["pg"])?)?),
            epoch: Epoch(number(&chunk["epoch"])?),
        })
    }
}

/// Connections to the stores of a cluster.
pub struct Probe {
    runtime: Runtime,
    credentials: Credentials,
    addrs: BTreeMap<u8, SocketAddr>,
    conns: BTreeMap<u8, Conn>,
}

impl Probe {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The cluster's key cannot be read.
    pub fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let key = ClusterKey::load(&cluster.dev_dir().join("cluster.key"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let nodes = cluster.nodes()?;
        Ok(Self {
            runtime,
            credentials: Credentials::new(key),
            addrs: nodes.iter().map(|n| (n.node, n.addr)).collect(),
            conns: BTreeMap::new(),
        })
    }

    /// Asks the store of node `i`.
    ///
    /// # Errors
    /// The store's own, or that it cannot be reached.
    pub fn ask(
        &mut self,
        i: u8,
        request: ReplicaRequest,
        payload: Vec<Bytes>,
    ) -> Result<ReplicaResponse, WireError> {
        let within = || deadline_in(Duration::from_secs(2));
        if self.conns.get(&i).is_none_or(Conn::is_closed) {
            let no_node = || WireError::new(ErrorCode::NotFound, format!("no node {i}"));
            let addr = *self.addrs.get(&i).ok_or_else(no_node)?;
            let connecting = async {
                Conn::connect(addr, &self.credentials, within(), ConnOptions::default()).await
            };
            let conn = self.runtime.block_on(connecting)?;
            self.conns.insert(i, conn);
        }
        let conn = &self.conns[&i];
        let request = Request::Replica(request);
        let asking = async { conn.call(request, payload, within()).await };
        match self.runtime.block_on(asking)? {
            (Response::Replica(answer), _) => Ok(answer),
            _ => Err(WireError::new(
                ErrorCode::BadRequest,
                "no answer of a store",
            )),
        }
    }

    /// Counters of the store of node `i`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn usage(&mut self, i: u8) -> anyhow::Result<StoreUsage> {
        match self.ask(i, ReplicaRequest::Usage, Vec::new())? {
            ReplicaResponse::Usage(usage) => Ok(usage),
            other => bail!("asked for usage: {other:?}"),
        }
    }

    /// Stamps answered so far, by node.
    ///
    /// # Errors
    /// One does not answer.
    pub fn stamp_reads(&mut self) -> anyhow::Result<BTreeMap<u8, u64>> {
        let nodes: Vec<u8> = self.addrs.keys().copied().collect();
        let one = |i| Ok((i, self.usage(i)?.stamp_reads));
        nodes.into_iter().map(one).collect()
    }

    /// What node `i` knows of a file.
    ///
    /// # Errors
    /// It refuses.
    pub fn stamp(&mut self, i: u8, place: Place) -> Result<Stamp, WireError> {
        let Place { ino, pg, epoch } = place;
        let request = ReplicaRequest::Stamp(StampRequest { ino, pg, epoch });
        match self.ask(i, request, Vec::new())? {
            ReplicaResponse::Stamp(stamp) => Ok(stamp),
            _ => Err(WireError::new(ErrorCode::BadRequest, "no stamp")),
        }
    }
}

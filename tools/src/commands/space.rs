//! `status --space`: what takes the space of each node, to the last block.
//!
//! 1. The leader adds up, group by group, the bytes of the objects that newest contents and older
//!    versions refer to; a member of a group holds both.
//! 2. Each node measures its data directory as `du` does, and says how many bytes of objects it holds.
//! 3. What is held and not referred to waits for its deletion; the rest of the directory is overhead:
//!    headers, tables, journal, log. So the parts add up to the whole.
use crate::cluster::Tools;
use crate::format::{Table, size};
use dfs_core::client::{Client, ClientError};
use dfs_core::types::{PgId, StoreId};
use dfs_core::wire::master::{MasterRequest, MasterResponse};
use dfs_core::wire::node::DiskUse;
use dfs_core::wire::{NodeRequest, NodeResponse, ReplicaRequest, ReplicaResponse};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Debug, Serialize)]
struct NodeSpace {
    node: String,
    addr: String,
    /// Bytes of objects that newest contents refer to.
    live: u64,
    /// Bytes of objects that only older or deleted versions refer to.
    version: u64,
    /// Bytes of objects held that nothing refers to any more.
    reclaimable: u64,
    /// Headers, tables, journal and log.
    overhead: u64,
    /// Stores that were set aside because of damage.
    set_aside: u64,
    /// All blocks of the data directory.
    total: u64,
    /// Why there is nothing to show.
    error: Option<String>,
}

/// Runs it.
///
/// # Errors
/// No leader answers.
pub async fn run(tools: &mut Tools) -> anyhow::Result<()> {
    // The addresses of stores come with a session.
    let client = tools.writer().await?;
    let within = tools.global.timeout.unwrap_or(Duration::from_secs(10));
    let wanted = wanted(&client, within).await?;
    let mut nodes = Vec::new();
    for info in client.status().await?.stores {
        let (live, version) = wanted.get(&info.store).copied().unwrap_or_default();
        let mut row = NodeSpace {
            node: info.node.to_string(),
            addr: info.addr.to_string(),
            live,
            version,
            reclaimable: 0,
            overhead: 0,
            set_aside: 0,
            total: 0,
            error: None,
        };
        match measured(&client, info.store, info.addr, within).await {
            Ok((used, disk)) => {
                row.reclaimable = used.saturating_sub(live + version);
                row.total = disk.total;
                let objects = live + version + row.reclaimable;
                row.set_aside = disk.set_aside;
                row.overhead = disk.total.saturating_sub(objects + disk.set_aside);
            }
            Err(e) => row.error = Some(format!("{e:#}")),
        }
        nodes.push(row);
    }
    if tools.out.json {
        return tools.out.json(&nodes);
    }
    let mut table = Table::new(&[
        "NODE",
        "ADDRESS",
        "LIVE>",
        "VERSIONS>",
        "RECLAIMABLE>",
        "OVERHEAD>",
        "SET ASIDE>",
        "TOTAL>",
        "",
    ]);
    for n in nodes {
        let id = n.node.get(..8).unwrap_or(&n.node).to_owned();
        table.row([
            id,
            n.addr,
            size(n.live),
            size(n.version),
            size(n.reclaimable),
            size(n.overhead),
            size(n.set_aside),
            size(n.total),
            n.error.unwrap_or_default(),
        ]);
    }
    tools.out.table(&table)
}

/// Bytes of newest contents and of older versions, by store.
async fn wanted(
    client: &Client,
    within: Duration,
) -> anyhow::Result<BTreeMap<StoreId, (u64, u64)>> {
    let map = client.pg_map().await?;
    let mut wanted: BTreeMap<StoreId, (u64, u64)> = BTreeMap::new();
    for (i, info) in map.pgs.iter().enumerate() {
        let pg = PgId(u16::try_from(i)?);
        let mut after = None;
        loop {
            let make = |_| MasterRequest::GroupSpace { pg, after };
            let answer = client.master_call(make, within).await?;
            let MasterResponse::GroupSpace {
                live,
                version,
                next,
            } = answer
            else {
                return Err(ClientError::Mismatch { asked: "space" }.into());
            };
            for store in info.members.iter().filter(|s| !info.filling.contains(s)) {
                let of = wanted.entry(*store).or_default();
                *of = (of.0 + live, of.1 + version);
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(wanted)
}

async fn measured(
    client: &Client,
    store: StoreId,
    addr: std::net::SocketAddr,
    within: Duration,
) -> anyhow::Result<(u64, DiskUse)> {
    let deadline = Instant::now() + within;
    let usage = client.replica_call(store, ReplicaRequest::Usage, Vec::new(), deadline);
    let ReplicaResponse::Usage(usage) = usage.await?.0 else {
        return Err(ClientError::Mismatch { asked: "usage" }.into());
    };
    match client.node_call(addr, NodeRequest::DiskUse).await? {
        NodeResponse::DiskUse(disk) => Ok((usage.used_bytes, disk)),
        _ => Err(ClientError::Mismatch { asked: "disk use" }.into()),
    }
}

//! `snapshot`: every store keeps the names and layouts of all files, as of now, for `rescue`.
use super::bandwidth::which;
use crate::cluster::Tools;
use crate::error::{Exit, ToolError, words};
use crate::format::{Table, short_id, size, unix_time};
use crate::nodes::identify;
use crate::output::note;
use clap::Args;
use dfs_core::client::{Client, ClientError};
use dfs_core::types::LogIndex;
use dfs_core::wire::node::NamespaceStored;
use dfs_core::wire::{ErrorCode, NodeRequest, NodeResponse};
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// How long one store may take, unless `--timeout` says otherwise.
const WITHIN: Duration = Duration::from_secs(600);

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Which node (default: all)
    pub node: Option<String>,
}

/// One store's snapshot.
#[derive(Debug, Serialize)]
struct SnapshotView {
    node: String,
    addr: String,
    index: u64,
    taken_at_ms: u64,
    rows: u64,
    bytes: u64,
}

/// Has the stores take a snapshot, all of the same state if they can.
///
/// # Errors
/// A node does not answer or cannot; the others have theirs.
pub async fn run(args: &SnapshotArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let within = tools.global.timeout.unwrap_or(WITHIN);
    let addrs = match &args.node {
        Some(node) => vec![crate::nodes::addr_of(tools, node).await?],
        None => which(None, tools).await?,
    };
    let (mut views, mut failed, mut index) = (Vec::new(), 0, LogIndex(0));
    let mut table = Table::new(&["NODE", "ADDRESS", "INDEX>", "TAKEN", "SIZE>"]);
    for addr in &addrs {
        match one(&client, *addr, index, within).await {
            Ok((node, stored)) => {
                index = stored.index;
                views.push(SnapshotView {
                    node: format!("{node:032x}"),
                    addr: addr.to_string(),
                    index: stored.index.0,
                    taken_at_ms: stored.taken_at.0 / 1_000_000,
                    rows: stored.rows,
                    bytes: stored.bytes,
                });
                table.row([
                    short_id(node),
                    addr.to_string(),
                    stored.index.to_string(),
                    unix_time(stored.taken_at),
                    size(stored.bytes),
                ]);
            }
            Err(e) => {
                failed += 1;
                note(words(
                    &e.context(format!("node {addr} has no new snapshot")),
                ));
            }
        }
    }
    if tools.out.json {
        tools.out.json(&views)?;
    } else {
        tools.out.table(&table)?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(ToolError::Parts {
            failed,
            all: addrs.len(),
            exit: Exit::Unreachable,
        }
        .into()),
    }
}

async fn one(
    client: &Client,
    addr: SocketAddr,
    index: LogIndex,
    within: Duration,
) -> anyhow::Result<(u128, NamespaceStored)> {
    let id = identify(client, addr).await?;
    let ask = |index| client.node_call_within(addr, NodeRequest::StoreNamespace { index }, within);
    let answer = match ask(index).await {
        // The leader has changed, or let that state go meanwhile.
        Err(e) if e.code() == ErrorCode::NotFound && index != LogIndex(0) => ask(LogIndex(0)).await,
        other => other,
    };
    match answer? {
        NodeResponse::NamespaceStored(stored) => Ok((id.node.0, stored)),
        _ => Err(ClientError::Mismatch { asked: "snapshot" }.into()),
    }
}

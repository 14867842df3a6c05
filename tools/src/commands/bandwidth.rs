//! `bandwidth` and `reset-time`: bytes by class since the counters were last reset.
use crate::cluster::Tools;
use crate::error::{Exit, ToolError, words};
use crate::format::{Table, short_id, size, unix_time};
use crate::nodes::{self, identify};
use crate::output::note;
use crate::view::BandwidthView;
use clap::Args;
use dfs_core::client::{Client, ClientError};
use dfs_core::wire::node::{BandwidthInfo, ClassTraffic, MemberState};
use dfs_core::wire::{NodeRequest, NodeResponse};
use std::net::SocketAddr;

/// Arguments of `bandwidth`.
#[derive(Debug, Args)]
pub struct BandwidthArgs {
    /// Which node (default: all)
    pub node: Option<String>,
}

/// Arguments of `reset-time`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Which node (default: all)
    pub node: Option<String>,
}

/// Shows the counters.
///
/// # Errors
/// A node does not answer; the others are shown.
pub async fn run(args: &BandwidthArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let addrs = which(args.node.as_deref(), tools).await?;
    let mut failed = 0;
    let mut found = Vec::new();
    for addr in &addrs {
        match ask(&client, *addr).await {
            Ok((node, b)) => found.push((node, *addr, b)),
            Err(e) => {
                failed += 1;
                note(words(&e));
            }
        }
    }
    if tools.out.json {
        let views: Vec<_> = found
            .iter()
            .map(|(node, addr, b)| BandwidthView::new(format!("{node:032x}"), addr.to_string(), b))
            .collect();
        tools.out.json(&views)?;
    } else {
        print(&found, tools)?;
    }
    all_answered(failed, addrs.len())
}

fn print(found: &[(u128, SocketAddr, BandwidthInfo)], tools: &mut Tools) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "NODE",
        "ADDRESS",
        "SINCE",
        "GOSSIP IN>",
        "OUT>",
        "DATA IN>",
        "OUT>",
        "METADATA IN>",
        "OUT>",
        "REPAIR IN>",
        "OUT>",
    ]);
    for (node, addr, b) in found {
        let classes = [b.gossip, b.data, b.metadata, b.repair];
        let cells = classes
            .iter()
            .flat_map(|c: &ClassTraffic| [size(c.bytes_in), size(c.bytes_out)]);
        let head = [short_id(*node), addr.to_string(), unix_time(b.since)];
        table.row(head.into_iter().chain(cells));
    }
    tools.out.table(&table)
}

async fn ask(client: &Client, addr: SocketAddr) -> anyhow::Result<(u128, BandwidthInfo)> {
    let id = identify(client, addr).await?;
    match client.node_call(addr, NodeRequest::Bandwidth).await? {
        NodeResponse::Bandwidth(b) => Ok((id.node.0, b)),
        _ => Err(ClientError::Mismatch { asked: "bandwidth" }.into()),
    }
}

/// The named node, or all that are not known to be gone.
pub(super) async fn which(
    node: Option<&str>,
    tools: &mut Tools,
) -> anyhow::Result<Vec<SocketAddr>> {
    if let Some(node) = node {
        return Ok(vec![nodes::addr_of(tools, node).await?]);
    }
    let client = tools.reader().await?;
    let me = nodes::any(&client).await?;
    let mut addrs = vec![me.tcp];
    let members = nodes::members(&client, me.tcp).await?;
    let live = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
    addrs.extend(members.iter().filter(|m| live(m.state)).map(|m| m.tcp));
    addrs.sort_unstable();
    addrs.dedup();
    Ok(addrs)
}

fn all_answered(failed: usize, all: usize) -> anyhow::Result<()> {
    match failed {
        0 => Ok(()),
        _ => Err(ToolError::Parts {
            failed,
            all,
            exit: Exit::Unreachable,
        }
        .into()),
    }
}

/// Sets the counters to zero.
///
/// # Errors
/// A node does not answer; the others were reset.
pub async fn reset(args: &ResetArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let addrs = which(args.node.as_deref(), tools).await?;
    let mut failed = 0;
    for addr in &addrs {
        if let Err(e) = client.node_call(*addr, NodeRequest::ResetBandwidth).await {
            failed += 1;
            let e = anyhow::Error::from(e).context(format!("node {addr}"));
            note(words(&e));
        }
    }
    all_answered(failed, addrs.len())
}

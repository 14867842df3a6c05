//! `id`, `leave`: one node.
use crate::cluster::Tools;
use crate::error::ToolError;
use crate::nodes::{self, identify};
use crate::view::IdView;
use anyhow::Context;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::wire::{ErrorCode, NodeRequest};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a leaving node may take until it is gone.
const LEAVE_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// Arguments of `id`.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// Which node (default: the first one that answers)
    pub node: Option<String>,
}

/// Arguments of `leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Which node (default: the only one on this machine)
    pub node: Option<String>,
}

/// Shows who a node is.
///
/// # Errors
/// It does not answer.
pub async fn id(args: &IdArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let id = match &args.node {
        Some(node) => {
            let addr = nodes::addr_of(tools, node).await?;
            identify(&client, addr).await?
        }
        None => nodes::any(&client).await?,
    };
    let view = IdView::from(&id);
    if tools.out.json {
        return tools.out.json(&view);
    }
    let raft = view
        .raft_id
        .map_or_else(|| "none".to_owned(), |r| r.to_string());
    for (key, value) in [
        ("node", view.node),
        ("run", view.incarnation.to_string()),
        ("store", view.store),
        ("cluster", view.cluster),
        ("address", view.addr),
        ("gossip", view.gossip),
        ("raft id", raft),
        ("process", view.pid.to_string()),
        ("data", view.data_dir),
        ("version", view.version),
    ] {
        tools.out.line(format!("{key:<8} {value}"))?;
    }
    Ok(())
}

/// Makes a node leave and waits until it has.
///
/// # Errors
/// It does not answer, or does not stop.
pub async fn leave(args: &LeaveArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let addr = match &args.node {
        Some(node) => nodes::addr_of(tools, node).await?,
        None => only_local(&client)?,
    };
    let who = identify(&client, addr).await?;
    let asked = client.node_call(addr, NodeRequest::Leave).await;
    match asked {
        Ok(_) => {}
        // It may be gone before its answer is sent.
        Err(e) if e.code() == ErrorCode::UnknownOutcome || e.code() == ErrorCode::Unavailable => {}
        Err(e) => return Err(e).with_context(|| format!("leave {addr}")),
    }
    let deadline = Instant::now() + LEAVE_MAX;
    while client.node_call(addr, NodeRequest::Ping).await.is_ok() {
        if Instant::now() > deadline {
            let words = format!("node {addr} was asked to leave and still answers");
            return Err(ToolError::Unreachable(words).into());
        }
        tokio::time::sleep(POLL).await;
    }
    if tools.out.json {
        return tools.out.json(&IdView::from(&who));
    }
    tools
        .out
        .line(format!("node {} at {addr} has left", who.node))
}

/// The only known daemon that runs on this machine.
fn only_local(client: &Client) -> anyhow::Result<SocketAddr> {
    let seeds = client.config().seeds.iter();
    // An address that can be bound is ours.
    let local: Vec<_> = seeds
        .copied()
        .filter(|a| UdpSocket::bind((a.ip(), 0)).is_ok())
        .collect();
    match local.as_slice() {
        [one] => Ok(*one),
        [] => {
            Err(ToolError::Usage("no daemon of this machine is known; name a NODE".into()).into())
        }
        several => {
            let list: Vec<_> = several.iter().map(ToString::to_string).collect();
            let words = format!(
                "several daemons run here; name a NODE, one of: {}",
                list.join(", ")
            );
            Err(ToolError::Usage(words).into())
        }
    }
}

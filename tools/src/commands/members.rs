//! `members`: whom a node sees, and what it saw.
use crate::cluster::Tools;
use crate::format::{Table, duration, short_id, unix_time};
use crate::nodes;
use crate::view::{MemberEventView, MemberView, member_state};
use clap::Args;
use dfs_core::client::ClientError;
use dfs_core::net::clock::unix_ms;
use dfs_core::types::Time;
use dfs_core::wire::node::{MemberEventInfo, MemberInfo};
use dfs_core::wire::{NodeRequest, NodeResponse};

/// Arguments of `members`.
#[derive(Debug, Args)]
pub struct MembersArgs {
    /// Whose list (default: the first node that answers)
    pub node: Option<String>,
    /// Joins, leaves, suspicions and failures it saw, oldest first
    #[arg(long)]
    pub log: bool,
}

/// Runs it.
///
/// # Errors
/// No node answers.
pub async fn run(args: &MembersArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let addr = match &args.node {
        Some(node) => nodes::addr_of(tools, node).await?,
        None => nodes::any(&client).await?.tcp,
    };
    if args.log {
        return match client.node_call(addr, NodeRequest::MembersLog).await? {
            NodeResponse::MembersLog(events) => print_log(&events, tools),
            _ => Err(ClientError::Mismatch {
                asked: "members log",
            }
            .into()),
        };
    }
    let mut members = nodes::members(&client, addr).await?;
    members.sort_by_key(|m| m.tcp);
    print(&members, tools)
}

fn print(members: &[MemberInfo], tools: &mut Tools) -> anyhow::Result<()> {
    if tools.out.json {
        let views: Vec<_> = members.iter().map(MemberView::from).collect();
        return tools.out.json(&views);
    }
    let now = Time(unix_ms() * 1_000_000);
    let mut table = Table::new(&["NODE", "ADDRESS", "STATE", "SINCE", "FOR>", "RUN>", "ZONE"]);
    for m in members {
        table.row([
            short_id(m.node.0),
            m.tcp.to_string(),
            member_state(m.state).to_owned(),
            unix_time(m.since),
            duration(now.since(m.since)),
            m.incarnation.to_string(),
            m.zone.clone(),
        ]);
    }
    tools.out.table(&table)
}

fn print_log(events: &[MemberEventInfo], tools: &mut Tools) -> anyhow::Result<()> {
    if tools.out.json {
        let views: Vec<_> = events.iter().map(MemberEventView::from).collect();
        return tools.out.json(&views);
    }
    let mut table = Table::new(&["TIME", "NODE", "RUN>", "WHAT"]);
    for e in events {
        let run = e.incarnation.to_string();
        table.row([unix_time(e.at), short_id(e.node.0), run, e.what.clone()]);
    }
    tools.out.table(&table)
}

//! `scrub start|status`: the background verification of every replica.
use crate::cluster::Tools;
use crate::error::{ToolError, words};
use crate::format::{Table, size, unix_time};
use clap::Subcommand;
use dfs_core::client::Client;
use dfs_core::types::{StoreId, Time};
use dfs_core::wire::master::StoreInfo;
use dfs_core::wire::scrub::ScrubStatus;
use dfs_core::wire::{ReplicaRequest, ReplicaResponse};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What to do about the scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ScrubCommand {
    /// Verify everything on every node now, once, at a higher rate
    Start,
    /// Show progress and what was found, node by node
    Status,
}

#[derive(Debug, Serialize)]
struct NodeView {
    node: String,
    addr: String,
    store: String,
    /// Why nothing is known of it; the other fields are absent then.
    error: Option<String>,
    #[serde(flatten)]
    scrub: Option<ScrubView>,
}

#[derive(Debug, Serialize)]
struct ScrubView {
    running: bool,
    asked: bool,
    passes: u64,
    groups_done: u16,
    groups: u16,
    pass_objects: u64,
    pass_bytes: u64,
    used_bytes: u64,
    period_seconds: u64,
    bytes_per_second: u64,
    began_ms: Option<u64>,
    last_ended_ms: Option<u64>,
    objects: u64,
    bytes: u64,
    damaged: u64,
    missing: u64,
    repaired: u64,
    waiting: u64,
    unrepaired: u64,
    table_bytes: u64,
    table_passes: u64,
    table_pages_repaired: u64,
    table_pages_lost: u64,
    set_aside: Option<String>,
}

impl From<&ScrubStatus> for ScrubView {
    fn from(s: &ScrubStatus) -> Self {
        let ms = |at: Time| at.0 / 1_000_000;
        Self {
            running: s.is_running,
            asked: s.is_asked,
            passes: s.passes,
            groups_done: s.groups.0,
            groups: s.groups.1,
            pass_objects: s.pass_checked.0,
            pass_bytes: s.pass_checked.1,
            used_bytes: s.used_bytes,
            period_seconds: s.period_secs,
            bytes_per_second: s.rate,
            began_ms: s.began.map(ms),
            last_ended_ms: s.last_ended.map(ms),
            objects: s.checked.0,
            bytes: s.checked.1,
            damaged: s.damaged,
            missing: s.missing,
            repaired: s.repaired,
            waiting: s.waiting,
            unrepaired: s.unrepaired,
            table_bytes: s.tables.checked_bytes,
            table_passes: s.tables.passes,
            table_pages_repaired: s.tables.repaired,
            table_pages_lost: s.tables.lost,
            set_aside: (!s.set_aside.is_empty()).then(|| s.set_aside.clone()),
        }
    }
}

type Answer = anyhow::Result<ScrubStatus>;

/// Runs it.
///
/// # Errors
/// The cluster does not answer; some node did not (exit code of an unreachable node).
pub async fn run(command: &ScrubCommand, tools: &mut Tools) -> anyhow::Result<()> {
    // The addresses of stores come with a session.
    let client = tools.writer().await?;
    let within = tools.global.timeout.unwrap_or(Duration::from_secs(10));
    let start = *command == ScrubCommand::Start;
    let status = client.status().await?;
    let mut stores: Vec<StoreInfo> = status.stores.into_iter().filter(|s| s.up).collect();
    stores.sort_by_key(|s| s.addr);
    let mut running = JoinSet::new();
    for (at, info) in stores.iter().enumerate() {
        let (client, store) = (client.clone(), info.store);
        running.spawn(async move { (at, ask(&client, store, start, within).await) });
    }
    let mut answers: Vec<Option<Answer>> = stores.iter().map(|_| None).collect();
    while let Some(done) = running.join_next().await {
        let (at, answer) = done?;
        answers[at] = Some(answer);
    }
    let silent = |a: &&Option<Answer>| !matches!(a, Some(Ok(_)));
    let silent = answers.iter().filter(silent).count();
    let views: Vec<_> = stores.iter().zip(&answers).map(view).collect();
    if tools.out.json {
        tools.out.json(&views)?;
    } else {
        if start {
            let told = stores.len() - silent;
            tools
                .out
                .line(format!("a pass over everything begins on {told} nodes"))?;
        }
        print(&views, tools)?;
    }
    match silent {
        0 => Ok(()),
        n => Err(ToolError::Unreachable(format!("{n} nodes did not answer")).into()),
    }
}

async fn ask(client: &Arc<Client>, store: StoreId, start: bool, within: Duration) -> Answer {
    let request = ReplicaRequest::Scrub { start };
    let deadline = Instant::now() + within;
    let (answer, _) = client
        .replica_call(store, request, Vec::new(), deadline)
        .await?;
    match answer {
        ReplicaResponse::Scrub(status) => Ok(*status),
        other => anyhow::bail!("the answer does not fit: {other:?}"),
    }
}

fn view((info, answer): (&StoreInfo, &Option<Answer>)) -> NodeView {
    let (scrub, error) = match answer {
        Some(Ok(status)) => (Some(ScrubView::from(status)), None),
        Some(Err(e)) => (None, Some(words(e))),
        None => (None, Some("not asked".to_owned())),
    };
    NodeView {
        node: info.node.to_string(),
        addr: info.addr.to_string(),
        store: info.store.to_string(),
        error,
        scrub,
    }
}

fn print(views: &[NodeView], tools: &mut Tools) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "NODE",
        "ADDRESS",
        "PASS",
        "VERIFIED>",
        "LAST PASS",
        "DAMAGED>",
        "MISSING>",
        "REPAIRED>",
        "WAITING>",
        "PAGES REPAIRED>",
    ]);
    for v in views {
        let node = v.node.get(..8).unwrap_or(&v.node).to_owned();
        let Some(s) = &v.scrub else {
            let why = v.error.clone().unwrap_or_default();
            table.row([node, v.addr.clone(), why]);
            continue;
        };
        let pass = match (s.running, s.groups) {
            (false, _) => "idle".to_owned(),
            (true, groups) => {
                let percent = u32::from(s.groups_done) * 100 / u32::from(groups.max(1));
                let kind = if s.asked { " (asked)" } else { "" };
                format!("{percent} %{kind}")
            }
        };
        let last = s.last_ended_ms.map_or("never".to_owned(), |ms| {
            unix_time(Time(ms.saturating_mul(1_000_000)))
        });
        let waiting = match s.unrepaired {
            0 => s.waiting.to_string(),
            n => format!("{} ({n} without a source)", s.waiting),
        };
        table.row([
            node,
            v.addr.clone(),
            pass,
            size(s.bytes),
            last,
            s.damaged.to_string(),
            s.missing.to_string(),
            s.repaired.to_string(),
            waiting,
            s.table_pages_repaired.to_string(),
        ]);
    }
    tools.out.table(&table)?;
    for v in views {
        if let Some(why) = v.scrub.as_ref().and_then(|s| s.set_aside.as_ref()) {
            let words = format!("{}: {why}", v.addr);
            tools.out.line(words)?;
        }
    }
    Ok(())
}

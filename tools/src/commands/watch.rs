//! `watch`: files added and removed, one line each, as it happens.
use crate::cluster::{Tools, walk};
use crate::error::ToolError;
use crate::format::{escape, kind, time_iso, unix_ms};
use crate::output::note;
use anyhow::Context;
use clap::Args;
use dfs_core::client::WatchEvent;
use dfs_core::types::Timestamp;
use serde::Serialize;
use std::ffi::OsString;

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Directory to watch with all below it
    #[arg(default_value = "/")]
    pub path: OsString,
}

#[derive(Serialize)]
struct EventView {
    at_ms: u64,
    added: bool,
    kind: &'static str,
    path: String,
}

/// Runs it until interrupted.
///
/// # Errors
/// No such directory, or no leader is reached.
pub async fn run(args: &WatchArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let path = tools.path(&args.path)?;
    let dir = walk(&client, &path, true).await?;
    let mut events = client
        .watch(dir.ino)
        .await
        .with_context(|| format!("watching {path}"))?;
    // What happens from this line on is seen.
    note(format!("watching {path}"));
    while let Some(event) = events.recv().await {
        print(&event, tools)?;
    }
    Err(ToolError::Unreachable("the watch has ended: the cluster is gone".into()).into())
}

fn print(event: &WatchEvent, tools: &mut Tools) -> anyhow::Result<()> {
    if tools.out.json {
        return tools.out.json_line(&EventView {
            at_ms: unix_ms(event.at),
            added: event.added,
            kind: kind(event.kind),
            path: escape(&event.path),
        });
    }
    let at = time_iso(Timestamp::from_log_time(event.at), 3);
    let what = if event.added { "added  " } else { "removed" };
    tools
        .out
        .text(format!("{at}  {what}  {:<7}  ", kind(event.kind)))?;
    tools.out.name(&event.path)?;
    tools.out.line("")?;
    tools.out.flush()
}

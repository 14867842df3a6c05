//! `purge`: history goes for good.
use crate::cluster::{Tools, place};
use crate::error::ToolError;
use anyhow::Context;
use clap::Args;
use dfs_core::wire::ErrorCode;
use dfs_core::wire::mutation::PurgeScope;
use std::ffi::OsString;

/// Arguments of `purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Drop the old versions of this file; of a removed one, everything
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub path: Option<OsString>,
    /// Drop everything that was removed, in the whole cluster
    #[arg(long)]
    pub all: bool,
    /// Needed with --all: it cannot be undone
    #[arg(long)]
    pub yes: bool,
}

/// Runs it.
///
/// # Errors
/// No such path; `--all` without `--yes`.
pub async fn run(args: &PurgeArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let Some(path) = &args.path else {
        if !args.yes {
            let words = "purge --all drops every removed file for good; say --yes as well";
            return Err(ToolError::Usage(words.into()).into());
        }
        let client = tools.writer().await?;
        return client
            .purge(PurgeScope::AllDeleted)
            .await
            .context("purge --all");
    };
    let client = tools.writer().await?;
    let path = tools.path(path)?;
    let place = place(&client, &path).await?;
    let scope = PurgeScope::Name {
        parent: place.parent,
        name: place.name,
    };
    match client.purge(scope).await {
        Err(e) if e.code() == ErrorCode::NotFound => {
            let words = format!("{path}: no such file, live or removed");
            Err(ToolError::NotFound(words).into())
        }
        done => done.with_context(|| format!("purge {path}")),
    }
}

//! `rm`: names go, their history stays for undelete unless purged.
use crate::cluster::{Tools, parent_of, show};
use crate::error::is_code;
use crate::path::ClusterPath;
use anyhow::Context;
use clap::Args;
use dfs_core::client::{Client, ClientError};
use dfs_core::types::{FileKind, Ino, Name};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::mutation::PurgeScope;
use std::ffi::OsString;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Names removed at the same time.
const AT_ONCE: usize = 16;
/// Entries asked for at once.
const PAGE: u32 = 1024;

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Files to remove
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Directories too, with all below them
    #[arg(short, long)]
    pub recursive: bool,
    /// Drop their history at once: undelete cannot bring them back
    #[arg(long)]
    pub purge: bool,
    /// A path that is not there is no error
    #[arg(short, long)]
    pub force: bool,
}

/// Runs it.
///
/// # Errors
/// No such path, a directory without `-r`.
pub async fn run(args: &RmArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.writer().await?;
    for arg in &args.paths {
        let path = tools.path(arg)?;
        match remove(&client, &path, args).await {
            Err(e) if args.force && is_code(&e, ErrorCode::NotFound) => {}
            done => done.with_context(|| format!("rm {path}"))?,
        }
    }
    Ok(())
}

async fn remove(client: &Arc<Client>, path: &ClusterPath, args: &RmArgs) -> anyhow::Result<()> {
    let (parent, name) = parent_of(client, path).await?;
    let attr = client.lookup(parent, &name).await?;
    if attr.kind != FileKind::Dir {
        if path.wants_dir {
            return Err(ClientError::from(ErrorCode::NotDir).into());
        }
        client.unlink(parent, &name, args.purge).await?;
        return Ok(());
    }
    if !args.recursive {
        return Err(ClientError::from(ErrorCode::IsDir).into());
    }
    Box::pin(empty(client, attr.ino, args.purge)).await?;
    client.rmdir(parent, &name).await?;
    if args.purge {
        purge(client, parent, &name).await?;
    }
    Ok(())
}

/// Removes everything in a directory.
async fn empty(client: &Arc<Client>, dir: Ino, purge_too: bool) -> anyhow::Result<()> {
    loop {
        // From the start each time: what was there is gone.
        let (page, _) = client.readdir(dir, 0, PAGE, false).await?;
        if page.is_empty() {
            return Ok(());
        }
        let mut running: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for entry in page {
            if entry.kind == FileKind::Dir {
                Box::pin(empty(client, entry.ino, purge_too)).await?;
            }
            if running.len() >= AT_ONCE
                && let Some(done) = running.join_next().await
            {
                done??;
            }
            let client = client.clone();
            running.spawn(async move {
                let (name, is_dir) = (entry.name, entry.kind == FileKind::Dir);
                remove_one(&client, dir, &name, is_dir, purge_too)
                    .await
                    .with_context(|| show(&name))
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
    }
}

async fn remove_one(
    client: &Client,
    dir: Ino,
    name: &Name,
    is_dir: bool,
    purge_too: bool,
) -> anyhow::Result<()> {
    let done = match is_dir {
        true => client.rmdir(dir, name).await,
        false => client.unlink(dir, name, purge_too).await.map(drop),
    };
    match done {
        // Somebody else removed it meanwhile.
        Err(e) if e.code() == ErrorCode::NotFound => return Ok(()),
        done => done?,
    }
    if is_dir && purge_too {
        purge(client, dir, name).await?;
    }
    Ok(())
}

/// Drops what a removed directory remembers.
async fn purge(client: &Client, parent: Ino, name: &Name) -> anyhow::Result<()> {
    let scope = PurgeScope::Name {
        parent,
        name: name.clone(),
    };
    match client.purge(scope).await {
        // It remembered nothing.
        Err(e) if e.code() == ErrorCode::NotFound => Ok(()),
        done => Ok(done?),
    }
}

//! `undelete`: a removed name comes back with content, attributes and history; directories that were
//! removed above it come back too.
use crate::cluster::{Tools, look, place, show};
use crate::error::{ToolError, is_code};
use crate::path::ClusterPath;
use anyhow::Context;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{FileKind, Ino};
use dfs_core::wire::ErrorCode;
use std::ffi::OsString;

/// Names asked for at once.
const PAGE: u32 = 1024;

/// Arguments of `undelete`.
#[derive(Debug, Args)]
pub struct UndeleteArgs {
    /// Removed file or directory; of a directory, all files that were directly in it come back
    pub path: OsString,
}

/// Runs it.
///
/// # Errors
/// It is not remembered, or something else has its name now.
pub async fn run(args: &UndeleteArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.writer().await?;
    let path = tools.path(&args.path)?;
    let place = place(&client, &path).await?;
    if let Some(live) = &place.live {
        if live.kind == FileKind::Dir {
            return report(children(&client, live.ino).await?, &path, tools);
        }
        let words = format!(
            "{path} is there; older content: dfs-tools versions {path}, dfs-tools restore {path} N"
        );
        return Err(ToolError::Usage(words).into());
    }
    let done = client
        .undelete(place.parent, &place.name)
        .await
        .map_err(anyhow::Error::from);
    match done {
        Err(e) if is_code(&e, ErrorCode::NotFound) => {
            let why = match was_replaced(&client, &path).await? {
                Some(dir) => format!(
                    "the directory {dir} that is there now never had it; one that was there before \
                     was removed: move {dir} away, then undelete again"
                ),
                None => {
                    "removed files are kept for a while unless purged. Names that are kept: ls \
                     DIR/.versions on a mount"
                        .to_owned()
                }
            };
            let words = format!("{path}: no such removed file; {why}");
            return Err(ToolError::NotFound(words).into());
        }
        done => done.map(drop).with_context(|| format!("undelete {path}"))?,
    }
    let back = look(&client, &path, false).await?;
    match back.filter(|a| a.kind == FileKind::Dir) {
        Some(dir) => report(children(&client, dir.ino).await?, &path, tools),
        None => tools.out.confirm(format!("{path} is back")),
    }
}

/// The directory of `path`, if another one was removed under its name.
async fn was_replaced(client: &Client, path: &ClusterPath) -> anyhow::Result<Option<ClusterPath>> {
    let Some(dir) = path.parent() else {
        return Ok(None);
    };
    let Ok(above) = place(client, &dir).await else {
        return Ok(None);
    };
    match client.removed_dir(above.parent, &above.name).await {
        Ok(_) => Ok(Some(dir)),
        Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn report(count: usize, path: &ClusterPath, tools: &mut Tools) -> anyhow::Result<()> {
    tools.out.confirm(format!(
        "{path} is back, with {count} files that were removed from it"
    ))
}

/// Brings back the files that were removed from a directory; says how many.
async fn children(client: &Client, dir: Ino) -> anyhow::Result<usize> {
    let mut after = None;
    let mut count = 0;
    loop {
        let page = client.history_names(dir, after.clone(), PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(count);
        };
        after = Some(last.clone());
        for (name, is_deleted) in &page {
            if !is_deleted {
                continue;
            }
            match client.undelete(dir, name).await {
                Ok(_) => count += 1,
                // A directory or link has the name now.
                Err(e) if e.code() == ErrorCode::Exists => {}
                Err(e) => return Err(e).with_context(|| format!("undelete {}", show(name))),
            }
        }
    }
}

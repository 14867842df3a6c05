//! `restore`: an old version becomes the current content, as a new version.
use crate::cluster::{Tools, place};
use crate::commands::versions::{choose, history};
use crate::error::ToolError;
use crate::view::AttrView;
use anyhow::Context;
use clap::Args;
use dfs_core::client::OpenMode;
use std::ffi::OsString;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// File
    pub file: OsString,
    /// Number of the version, as `versions` lists it
    pub version: u64,
}

/// Runs it.
///
/// # Errors
/// No such file or version.
pub async fn run(args: &RestoreArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let path = tools.path(&args.file)?;
    let (client, files) = tools.files().await?;
    let versions = history(&client, &path).await?;
    let wanted = choose(&path, &versions, args.version)?;
    let Some(live) = place(&client, &path).await?.live else {
        let words = format!("{path} was removed; bring it back first: dfs-tools undelete {path}");
        return Err(ToolError::NotFound(words).into());
    };
    if !wanted.is_current {
        let what = || format!("restore {path} version {}", wanted.version);
        let file = files
            .open(live.ino, OpenMode::WRITE)
            .await
            .with_context(what)?;
        file.restore(wanted.ino, wanted.inode_version)
            .await
            .with_context(what)?;
        file.flush().await.with_context(what)?;
    }
    let now = client.getattr(live.ino).await?;
    if tools.out.json {
        return tools
            .out
            .json(&AttrView::new(Some(&path.to_bytes()), &now, None));
    }
    match wanted.is_current {
        true => tools.out.line(format!(
            "version {} of {path} is current already",
            wanted.version
        )),
        false => tools
            .out
            .line(format!("{path} is as in version {} again", wanted.version)),
    }
}

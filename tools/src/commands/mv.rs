//! `mv`: rename, within the cluster.
use crate::cluster::{Tools, look, parent_of};
use crate::error::ToolError;
use crate::path::ClusterPath;
use anyhow::Context;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::FileKind;
use dfs_core::wire::mutation::RenameMode;
use std::ffi::OsString;

/// Arguments of `mv`.
#[derive(Debug, Args)]
pub struct MvArgs {
    /// What to move, and where to: a new name, or a directory
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Never replace a file
    #[arg(short, long)]
    pub no_clobber: bool,
}

/// Runs it.
///
/// # Errors
/// No such path; several sources and the last one is no directory.
pub async fn run(args: &MvArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.writer().await?;
    let paths: Vec<ClusterPath> = args
        .paths
        .iter()
        .map(|p| tools.path(p))
        .collect::<anyhow::Result<_>>()?;
    let Some((dest, sources)) = paths.split_last() else {
        return Err(ToolError::Usage("mv needs a source and a destination".into()).into());
    };
    let into = into_dir(&client, dest, sources.len()).await?;
    let mode = if args.no_clobber {
        RenameMode::NoReplace
    } else {
        RenameMode::Replace
    };
    for source in sources {
        let target = target(source, dest, into)?;
        let (from, from_name) = parent_of(&client, source).await?;
        let (to, to_name) = parent_of(&client, &target).await?;
        client
            .rename(from, &from_name, to, &to_name, mode)
            .await
            .with_context(|| format!("mv {source} {target}"))?;
    }
    Ok(())
}

/// True if the sources go into `dest`, false if the only one becomes it.
///
/// # Errors
/// It is no directory although it must be one.
pub async fn into_dir(client: &Client, dest: &ClusterPath, sources: usize) -> anyhow::Result<bool> {
    let mut plain = dest.clone();
    plain.wants_dir = false;
    let found = look(client, &plain, true).await?;
    let is_dir = found.as_ref().is_some_and(|a| a.kind == FileKind::Dir);
    match found {
        _ if is_dir => Ok(true),
        Some(_) if dest.wants_dir || sources > 1 => {
            Err(ToolError::Usage(format!("{dest} is no directory")).into())
        }
        None if sources > 1 => {
            let words = format!("{dest}: no such directory, and there are {sources} sources");
            Err(ToolError::NotFound(words).into())
        }
        _ => Ok(false),
    }
}

/// Where `source` goes.
///
/// # Errors
/// The root cannot go anywhere.
pub fn target(source: &ClusterPath, dest: &ClusterPath, into: bool) -> anyhow::Result<ClusterPath> {
    if !into {
        let mut dest = dest.clone();
        dest.wants_dir = false;
        return Ok(dest);
    }
    match source.name() {
        Some(name) => Ok(dest.join(name)),
        None => Err(ToolError::Usage("the root directory cannot be moved or copied".into()).into()),
    }
}

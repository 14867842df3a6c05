//! `mkdir` and `rmdir`.
use crate::cluster::{Tools, look, parent_of};
use crate::error::is_code;
use crate::path::ClusterPath;
use anyhow::Context;
use clap::Args;
use dfs_core::client::{Client, ClientError, new_node};
use dfs_core::types::FileKind;
use dfs_core::wire::ErrorCode;
use std::ffi::OsString;

/// Arguments of `mkdir`.
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// Directories to make
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Make what is missing above too; a directory that is there is no error
    #[arg(short, long)]
    pub parents: bool,
    /// Permission bits, octal
    #[arg(short, long, value_parser = octal, default_value = "755")]
    pub mode: u32,
}

/// Arguments of `rmdir`.
#[derive(Debug, Args)]
pub struct RmdirArgs {
    /// Directories to remove; they must be empty
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "not an octal number".to_owned())?;
    if mode > 0o7777 {
        return Err("at most 7777".to_owned());
    }
    Ok(mode)
}

/// The user and group that new objects belong to.
#[must_use]
pub fn owner() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

/// Makes directories.
///
/// # Errors
/// It exists, or what is above does not.
pub async fn mkdir(args: &MkdirArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.writer().await?;
    for arg in &args.paths {
        let path = tools.path(arg)?;
        if args.parents {
            make_all(&client, &path, args.mode).await?;
        } else {
            make(&client, &path, args.mode).await?;
        }
    }
    Ok(())
}

/// Makes one directory.
///
/// # Errors
/// It exists, or what is above does not.
pub async fn make(client: &Client, path: &ClusterPath, mode: u32) -> anyhow::Result<()> {
    if path.name().is_none() {
        return Err(anyhow::Error::from(ClientError::from(ErrorCode::Exists)).context("mkdir /"));
    }
    let (parent, name) = parent_of(client, path).await?;
    let (uid, gid) = owner();
    let node = new_node(FileKind::Dir, mode, uid, gid);
    let made = client.create(parent, &name, node, true).await;
    made.map(drop).with_context(|| format!("mkdir {path}"))
}

/// Makes a directory and what is missing above it.
///
/// # Errors
/// Something that is no directory is in the way.
pub async fn make_all(client: &Client, path: &ClusterPath, mode: u32) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let mut next = Some(path.clone());
    while let Some(path) = next {
        match look(client, &path, true).await? {
            Some(attr) if attr.kind == FileKind::Dir => break,
            Some(_) => {
                let error = anyhow::Error::from(ClientError::from(ErrorCode::NotDir));
                return Err(error.context(format!("mkdir {path}")));
            }
            None => {
                next = path.parent();
                missing.push(path);
            }
        }
    }
    for path in missing.iter().rev() {
        match make(client, path, mode).await {
            // Somebody else was faster.
            Err(e) if is_code(&e, ErrorCode::Exists) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Removes empty directories.
///
/// # Errors
/// Not there, not empty, or no directory.
pub async fn rmdir(args: &RmdirArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.writer().await?;
    for arg in &args.paths {
        let path = tools.path(arg)?;
        let (parent, name) = parent_of(&client, &path).await?;
        client
            .rmdir(parent, &name)
            .await
            .with_context(|| format!("rmdir {path}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("755"), Ok(0o755));
        assert!(octal("99").is_err() && octal("10000").is_err());
    }
}

//! `tree`: a directory with all below it.
use crate::cluster::{Tools, entries, walk};
use crate::format::{escape, kind};
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{FileKind, Ino};
use serde::Serialize;
use std::ffi::OsString;

/// Arguments of `tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// Where to start
    #[arg(default_value = "/")]
    pub path: OsString,
    /// Go down this many levels at most
    #[arg(short = 'L', long, value_name = "N")]
    pub level: Option<usize>,
}

#[derive(Serialize)]
struct NodeView {
    name: String,
    ino: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    children: Option<Vec<NodeView>>,
}

/// Runs it.
///
/// # Errors
/// No such path, or the cluster does not answer.
pub async fn run(args: &TreeArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let path = tools.path(&args.path)?;
    let attr = walk(&client, &path, true).await?;
    let level = args.level.unwrap_or(usize::MAX);
    if tools.out.json {
        let mut root = NodeView {
            name: path.to_string(),
            ino: attr.ino.0,
            kind: kind(attr.kind),
            children: None,
        };
        if attr.kind == FileKind::Dir {
            root.children = Some(Box::pin(below(&client, attr.ino, level)).await?);
        }
        return tools.out.json(&root);
    }
    tools.out.name(&path.to_bytes())?;
    tools.out.line("")?;
    let mut counts = (0u64, 0u64);
    if attr.kind == FileKind::Dir {
        Box::pin(print(tools, &client, attr.ino, level, "", &mut counts)).await?;
    }
    tools
        .out
        .line(format!("\n{} directories, {} files", counts.0, counts.1))
}

async fn below(client: &Client, dir: Ino, level: usize) -> anyhow::Result<Vec<NodeView>> {
    let mut children = Vec::new();
    if level == 0 {
        return Ok(children);
    }
    for entry in entries(client, dir, false).await? {
        let children_of = match entry.kind {
            FileKind::Dir => Some(Box::pin(below(client, entry.ino, level - 1)).await?),
            _ => None,
        };
        children.push(NodeView {
            name: escape(entry.name.as_bytes()),
            ino: entry.ino.0,
            kind: kind(entry.kind),
            children: children_of,
        });
    }
    Ok(children)
}

async fn print(
    tools: &mut Tools,
    client: &Client,
    dir: Ino,
    level: usize,
    indent: &str,
    counts: &mut (u64, u64),
) -> anyhow::Result<()> {
    if level == 0 {
        return Ok(());
    }
    let all = entries(client, dir, false).await?;
    let count = all.len();
    for (i, entry) in all.into_iter().enumerate() {
        let last = i + 1 == count;
        tools.out.text(indent)?;
        tools.out.text(if last { "└── " } else { "├── " })?;
        tools.out.name(entry.name.as_bytes())?;
        if entry.kind == FileKind::Dir {
            counts.0 += 1;
            tools.out.line("/")?;
            let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
            Box::pin(print(tools, client, entry.ino, level - 1, &deeper, counts)).await?;
        } else {
            counts.1 += 1;
            tools.out.line("")?;
        }
    }
    Ok(())
}

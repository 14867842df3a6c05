//! `store`: node to files. `map`: both ways, whole.
use crate::cluster::Tools;
use crate::error::ToolError;
use crate::format::{escape, short_id, size};
use crate::nodes;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{Ino, StoreId};
use dfs_core::wire::master::StoreInfo;
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows asked for at once.
const PAGE: u32 = 4096;

/// Arguments of `store`.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Which node
    pub node: String,
}

/// Arguments of `map`.
#[derive(Debug, Args)]
pub struct MapArgs {}

#[derive(Debug, Clone, Serialize)]
struct FileView {
    ino: u64,
    path: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct StoreFilesView {
    node: String,
    store: String,
    addr: String,
    files: Vec<FileView>,
}

#[derive(Debug, Serialize)]
struct HolderView {
    node: String,
    addr: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct FileNodesView {
    ino: u64,
    path: String,
    nodes: Vec<HolderView>,
}

#[derive(Debug, Serialize)]
struct MapView {
    files: Vec<FileNodesView>,
    nodes: Vec<StoreFilesView>,
}

type File = (Ino, Vec<u8>, u64);

async fn files_of(client: &Client, store: StoreId) -> anyhow::Result<Vec<File>> {
    let mut all: Vec<File> = Vec::new();
    loop {
        let after = all.last().map_or(Ino(0), |(ino, ..)| *ino);
        let (page, end) = client.files_of(store, after, PAGE).await?;
        let is_empty = page.is_empty();
        all.extend(page);
        if end || is_empty {
            return Ok(all);
        }
    }
}

fn view(info: &StoreInfo, files: &[File]) -> StoreFilesView {
    let file = |(ino, path, bytes): &File| FileView {
        ino: ino.0,
        path: escape(path),
        bytes: *bytes,
    };
    StoreFilesView {
        node: info.node.to_string(),
        store: info.store.to_string(),
        addr: info.addr.to_string(),
        files: files.iter().map(file).collect(),
    }
}

/// Lists the files that a node holds.
///
/// # Errors
/// No such node, or no leader answers.
pub async fn store(args: &StoreArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let known = nodes::known_of(tools, &args.node).await?;
    let status = client.status().await?;
    // Of a node that was wiped, the store that lives.
    let mut stores: Vec<_> = status
        .stores
        .iter()
        .filter(|s| s.node == known.node)
        .collect();
    stores.sort_by_key(|s| (s.up, s.incarnation));
    let Some(info) = stores.last() else {
        let words = format!("node {} has no store", known.node);
        return Err(ToolError::NotFound(words).into());
    };
    let mut files = files_of(&client, info.store).await?;
    files.sort_by(|a, b| a.1.cmp(&b.1));
    if tools.out.json {
        return tools.out.json(&view(info, &files));
    }
    print(info, &files, tools)
}

fn print(info: &StoreInfo, files: &[File], tools: &mut Tools) -> anyhow::Result<()> {
    let total: u64 = files.iter().map(|f| f.2).sum();
    let (node, addr) = (short_id(info.node.0), info.addr);
    let (count, total) = (files.len(), size(total));
    tools
        .out
        .line(format!("node {node} at {addr}: {count} files, {total}"))?;
    for (_, path, bytes) in files {
        tools.out.text(format!("{bytes:>14}  "))?;
        tools.out.name(path)?;
        tools.out.line("")?;
    }
    Ok(())
}

/// Shows both directions for all files and nodes.
///
/// # Errors
/// No leader answers.
pub async fn map(tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let status = client.status().await?;
    let mut stores: Vec<&StoreInfo> = status.stores.iter().collect();
    stores.sort_by_key(|s| s.addr);
    let mut held = Vec::new();
    for info in stores {
        let mut files = files_of(&client, info.store).await?;
        files.sort_by(|a, b| a.1.cmp(&b.1));
        held.push((info, files));
    }
    #[allow(clippy::type_complexity)] // Local, and said in full once.
    let mut by_file: BTreeMap<(&[u8], Ino), Vec<(&StoreInfo, u64)>> = BTreeMap::new();
    for (info, files) in &held {
        for (ino, path, bytes) in files {
            by_file
                .entry((path, *ino))
                .or_default()
                .push((info, *bytes));
        }
    }
    if tools.out.json {
        let holder = |(info, bytes): &(&StoreInfo, u64)| HolderView {
            node: info.node.to_string(),
            addr: info.addr.to_string(),
            bytes: *bytes,
        };
        let file = |((path, ino), nodes): (&(&[u8], Ino), &Vec<_>)| FileNodesView {
            ino: ino.0,
            path: escape(path),
            nodes: nodes.iter().map(holder).collect(),
        };
        return tools.out.json(&MapView {
            files: by_file.iter().map(file).collect(),
            nodes: held.iter().map(|(info, files)| view(info, files)).collect(),
        });
    }
    tools
        .out
        .line(format!("FILES TO NODES ({} files)", by_file.len()))?;
    for ((path, _), nodes) in &by_file {
        tools.out.name(path)?;
        let list: Vec<_> = nodes
            .iter()
            .map(|(s, _)| format!("{} ({})", short_id(s.node.0), s.addr))
            .collect();
        tools.out.line(format!("  ->  {}", list.join(", ")))?;
    }
    tools
        .out
        .line(format!("\nNODES TO FILES ({} nodes)", held.len()))?;
    for (info, files) in &held {
        print(info, files, tools)?;
    }
    Ok(())
}

//! `ls`: one line per entry, by name.
use crate::cluster::{Tools, entries, walk};
use crate::format::{Table, mode, time};
use crate::view::AttrView;
use anyhow::Context;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{Attr, FileKind};
use std::ffi::OsString;
use std::sync::Arc;

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Directories or files
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<OsString>,
    /// With mode, links, owner, group, size and time
    #[arg(short, long)]
    pub long: bool,
}

struct Line {
    name: Vec<u8>,
    attr: Option<Attr>,
    target: Option<Arc<[u8]>>,
}

/// Runs it.
///
/// # Errors
/// No such path, or the cluster does not answer.
pub async fn run(args: &LsArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let with_attrs = args.long || tools.out.json;
    let mut all = Vec::new();
    for (i, arg) in args.paths.iter().enumerate() {
        let path = tools.path(arg)?;
        let attr = walk(&client, &path, !args.long).await?;
        let lines = match attr.kind {
            FileKind::Dir => list(&client, &attr, with_attrs)
                .await
                .with_context(|| path.to_string())?,
            _ => {
                let target = target(&client, &attr).await?;
                vec![Line {
                    name: path.to_bytes(),
                    attr: Some(attr),
                    target,
                }]
            }
        };
        if tools.out.json {
            all.extend(lines);
            continue;
        }
        if args.paths.len() > 1 {
            let gap = if i == 0 { "" } else { "\n" };
            tools.out.line(format!("{gap}{path}:"))?;
        }
        print(tools, &lines, args.long)?;
    }
    if tools.out.json {
        let view = |l: &Line| {
            let target = l.target.as_deref();
            l.attr
                .as_ref()
                .map(|a| AttrView::new(Some(&l.name), a, target))
        };
        let views: Vec<_> = all.iter().filter_map(view).collect();
        tools.out.json(&views)?;
    }
    Ok(())
}

async fn list(client: &Client, dir: &Attr, with_attrs: bool) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for entry in entries(client, dir.ino, with_attrs).await? {
        let target = match &entry.attr {
            Some(attr) => target(client, attr).await?,
            None => None,
        };
        lines.push(Line {
            name: entry.name.into(),
            attr: entry.attr,
            target,
        });
    }
    Ok(lines)
}

async fn target(client: &Client, attr: &Attr) -> anyhow::Result<Option<Arc<[u8]>>> {
    match attr.kind {
        FileKind::Symlink => Ok(Some(client.readlink(attr.ino).await?)),
        _ => Ok(None),
    }
}

fn print(tools: &mut Tools, lines: &[Line], long: bool) -> anyhow::Result<()> {
    let attrs: Vec<&Attr> = lines.iter().filter_map(|l| l.attr.as_ref()).collect();
    if !long || attrs.len() != lines.len() {
        for line in lines {
            tools.out.name(&line.name)?;
            tools.out.line("")?;
        }
        return Ok(());
    }
    let mut table = Table::new(&["MODE", "LINKS>", "OWNER>", "GROUP>", "SIZE>", "MODIFIED"]);
    for a in &attrs {
        table.row([
            mode(a.kind, a.mode),
            a.nlink.to_string(),
            a.uid.to_string(),
            a.gid.to_string(),
            a.size.to_string(),
            time(a.mtime),
        ]);
    }
    // The name is not part of the table: it may be no UTF-8.
    let table = table.render();
    for (columns, line) in table.lines().skip(1).zip(lines) {
        tools.out.text(format!("{columns}  "))?;
        tools.out.name(&line.name)?;
        if let Some(target) = &line.target {
            tools.out.text(" -> ")?;
            tools.out.name(target)?;
        }
        tools.out.line("")?;
    }
    Ok(())
}

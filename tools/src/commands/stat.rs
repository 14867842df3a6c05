//! `stat`: everything about a file or directory.
use crate::cluster::{Tools, walk};
use crate::format::{kind, mode, size, time_iso};
use crate::view::AttrView;
use clap::Args;
use dfs_core::types::{Attr, FileKind};
use std::ffi::OsString;

/// Arguments of `stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// File or directory
    pub path: OsString,
    /// Follow a symbolic link in the last place
    #[arg(short = 'L', long)]
    pub follow: bool,
}

/// Runs it.
///
/// # Errors
/// No such path, or the cluster does not answer.
pub async fn run(args: &StatArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let path = tools.path(&args.path)?;
    let attr = walk(&client, &path, args.follow).await?;
    let target = match attr.kind {
        FileKind::Symlink => Some(client.readlink(attr.ino).await?),
        _ => None,
    };
    if tools.out.json {
        let view = AttrView::new(Some(&path.to_bytes()), &attr, target.as_deref());
        return tools.out.json(&view);
    }
    tools.out.text("path       ")?;
    tools.out.name(&path.to_bytes())?;
    if let Some(target) = &target {
        tools.out.text(" -> ")?;
        tools.out.name(target)?;
    }
    tools.out.line("")?;
    tools.out.text(lines(&attr))
}

fn lines(a: &Attr) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        text.push_str(&format!("{key:<10} {value}\n"));
    };
    line("kind", kind(a.kind).to_owned());
    line("size", format!("{} bytes ({})", a.size, size(a.size)));
    line("allocated", format!("{} bytes", a.allocated));
    line("mode", format!("{:04o} ({})", a.mode, mode(a.kind, a.mode)));
    line("owner", format!("{}:{}", a.uid, a.gid));
    line("links", a.nlink.to_string());
    line("inode", a.ino.to_string());
    if matches!(a.kind, FileKind::BlockDev | FileKind::CharDev) {
        line("device", a.rdev.to_string());
    }
    line("version", a.version.to_string());
    line("revision", a.revision.to_string());
    for (key, t) in [
        ("accessed", a.atime),
        ("modified", a.mtime),
        ("changed", a.ctime),
        ("created", a.crtime),
    ] {
        line(key, time_iso(t, 9));
    }
    text
}

//! `versions`: the last versions of a file, listed, written to a directory, or joined in one file.
use crate::cluster::{Tools, place};
use crate::commands::get::save;
use crate::error::ToolError;
use crate::format::{Table, size, time, time_iso};
use crate::output::note;
use crate::path::ClusterPath;
use crate::progress::Progress;
use crate::transfer::local::LocalFile;
use crate::transfer::source::Source;
use crate::view::VersionView;
use anyhow::Context;
use clap::Args;
use dfs_core::client::{Client, FileLayer, OpenFile};
use dfs_core::types::{FileKind, VersionInfo};
use dfs_core::wire::ErrorCode;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Versions a name keeps.
pub const KEPT: usize = 5;

/// Arguments of `versions`.
#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// File, also a removed one
    pub file: OsString,
    /// How many, newest first
    #[arg(value_name = "N", default_value_t = KEPT, value_parser = count)]
    pub count: usize,
    /// Write each to DIR as NAME.vNUMBER
    #[arg(short, long, value_name = "DIR", conflicts_with = "concat")]
    pub out: Option<PathBuf>,
    /// Write all to one file (`-` is standard output), each after a line that names version, size
    /// and time
    #[arg(long, value_name = "FILE")]
    pub concat: Option<PathBuf>,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=KEPT).contains(&n) => Ok(n),
        Ok(0) => Err("at least 1".to_owned()),
        Ok(n) => Err(format!("{n} versions are not kept; the last {KEPT} are")),
        Err(_) => Err("not a number".to_owned()),
    }
}

/// Runs it.
///
/// # Errors
/// No such file, no verified copy, or the output cannot be written.
pub async fn run(args: &VersionsArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let path = tools.path(&args.file)?;
    let client = match args.out.is_some() || args.concat.is_some() {
        true => tools.files().await?.0,
        false => tools.reader().await?,
    };
    let mut versions = history(&client, &path).await?;
    versions.truncate(args.count);
    if let Some(dir) = &args.out {
        let (_, files) = tools.files().await?;
        return write_each(&files, &path, &versions, dir, tools).await;
    }
    if let Some(to) = &args.concat {
        let (_, files) = tools.files().await?;
        return concat(&files, &path, &versions, to, tools).await;
    }
    print(&versions, tools)
}

/// The versions of a path, newest first; also of a removed one.
///
/// # Errors
/// There is no such file and never was, as far as is remembered.
pub async fn history(client: &Client, path: &ClusterPath) -> anyhow::Result<Vec<VersionInfo>> {
    let place = place(client, path).await?;
    if place.live.as_ref().is_some_and(|a| a.kind == FileKind::Dir) {
        let words = format!("{path} is a directory; versions are kept of files");
        return Err(ToolError::Usage(words).into());
    }
    let found = client.history(place.parent, &place.name).await;
    match found {
        Ok(mut versions) => {
            versions.sort_by_key(|v| std::cmp::Reverse(v.version));
            if versions.is_empty() {
                note(format!("{path} has no versions: it was never written"));
            }
            Ok(versions)
        }
        Err(e) if e.code() == ErrorCode::NotFound => {
            let words = format!("{path}: no such file, live or removed");
            Err(ToolError::NotFound(words).into())
        }
        Err(e) => Err(e).with_context(|| path.to_string()),
    }
}

/// The version with this number.
///
/// # Errors
/// It is not kept; says which are.
pub fn choose(
    path: &ClusterPath,
    versions: &[VersionInfo],
    number: u64,
) -> anyhow::Result<VersionInfo> {
    if let Some(found) = versions.iter().find(|v| v.version.0 == number) {
        return Ok(found.clone());
    }
    let kept: Vec<String> = versions.iter().map(|v| v.version.to_string()).collect();
    let words = match kept.is_empty() {
        true => format!("{path} has no version {number}: it has none"),
        false => format!(
            "{path} has no version {number}; kept are: {}",
            kept.join(", ")
        ),
    };
    Err(ToolError::NotFound(words).into())
}

fn print(versions: &[VersionInfo], tools: &mut Tools) -> anyhow::Result<()> {
    if tools.out.json {
        let views: Vec<_> = versions.iter().map(VersionView::from).collect();
        return tools.out.json(&views);
    }
    let mut table = Table::new(&["VERSION>", "BYTES>", "SIZE>", "MODIFIED", ""]);
    for v in versions {
        let what = match (v.is_current, v.deleted_at) {
            (true, _) => "current".to_owned(),
            (false, Some(at)) => format!("removed {}", time(at)),
            (false, None) => String::new(),
        };
        let number = v.version.to_string();
        table.row([
            number,
            v.size.to_string(),
            size(v.size),
            time(v.mtime),
            what,
        ]);
    }
    tools.out.table(&table)
}

fn open(files: &Arc<FileLayer>, v: &VersionInfo) -> Arc<OpenFile> {
    files.open_version(v.ino, v.inode_version, v.size)
}

async fn write_each(
    files: &Arc<FileLayer>,
    path: &ClusterPath,
    versions: &[VersionInfo],
    dir: &Path,
    tools: &mut Tools,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("mkdir {}", dir.display()))?;
    let progress = Progress::new(Some(versions.iter().map(|v| v.size).sum()));
    for v in versions {
        let dest = dir.join(file_name(path, v));
        let name = format!("{path} version {}", v.version);
        save(open(files, v), &name, &dest, v.mode | 0o600, &progress).await?;
    }
    progress.end();
    print(versions, tools)
}

fn file_name(path: &ClusterPath, v: &VersionInfo) -> OsString {
    let mut name = path.name().map_or_else(OsString::new, |n| {
        OsStr::from_bytes(n.as_bytes()).to_owned()
    });
    name.push(format!(".v{}", v.version));
    name
}

/// The line before each version in a joined file.
fn delimiter(path: &ClusterPath, v: &VersionInfo) -> String {
    let current = if v.is_current { " current" } else { "" };
    let (number, bytes, at) = (v.version, v.size, time_iso(v.mtime, 9));
    format!("=== {path} version={number} size={bytes} time={at}{current} ===\n")
}

async fn concat(
    files: &Arc<FileLayer>,
    path: &ClusterPath,
    versions: &[VersionInfo],
    to: &Path,
    tools: &mut Tools,
) -> anyhow::Result<()> {
    let mut local = match to.as_os_str() == "-" {
        true => None,
        false => Some(LocalFile::create(to)?),
    };
    let progress = Progress::new(Some(versions.iter().map(|v| v.size).sum()));
    let mut write = |bytes: &[u8]| {
        tokio::task::block_in_place(|| match &mut local {
            Some(file) => file.write(bytes),
            None => tools.out.bytes(bytes),
        })
    };
    for v in versions {
        write(delimiter(path, v).as_bytes())?;
        let mut source = Source::cluster(open(files, v), format!("{path} version {}", v.version));
        while let Some(block) = source.next().await? {
            write(&block)?;
            progress.add(block.len() as u64);
        }
        write(b"\n")?;
    }
    progress.end();
    match local {
        Some(file) => file.finish(0o666),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Exit, exit_of};
    use dfs_core::types::{Ino, Revision, Timestamp, VersionNo};

    fn version(number: u64) -> VersionInfo {
        VersionInfo {
            version: VersionNo(number),
            ino: Ino(2),
            inode_version: VersionNo(number),
            revision: Revision(number),
            size: 10,
            mtime: Timestamp { secs: 0, nanos: 0 },
            mode: 0o444,
            uid: 0,
            gid: 0,
            is_current: number == 9,
            deleted_at: None,
        }
    }

    #[test]
    fn more_than_are_kept_cannot_be_asked_for() {
        assert_eq!(count("5"), Ok(5));
        assert!(count("6").unwrap_err().contains("last 5"));
        assert!(count("0").is_err() && count("x").is_err());
    }

    #[test]
    fn a_version_that_is_not_kept_is_refused_with_those_that_are() {
        let path = ClusterPath::parse(b"/d/f").unwrap();
        let versions = [version(9), version(8)];
        assert_eq!(choose(&path, &versions, 8).unwrap(), version(8));
        let e = choose(&path, &versions, 3).unwrap_err();
        assert_eq!(e.to_string(), "/d/f has no version 3; kept are: 9, 8");
        assert_eq!(exit_of(&e), Exit::NotFound);
    }

    #[test]
    fn files_and_delimiters_name_the_version() {
        let path = ClusterPath::parse(b"/d/f").unwrap();
        assert_eq!(file_name(&path, &version(9)), "f.v9");
        let line = "=== /d/f version=9 size=10 time=1970-01-01T00:00:00.000000000Z current ===\n";
        assert_eq!(delimiter(&path, &version(9)), line);
    }
}

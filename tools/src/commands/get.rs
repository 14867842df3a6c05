//! `get`: files of the cluster to local ones. Only verified bytes are written, and a local file
//! appears when it is whole.
use crate::cluster::{Tools, entries, walk};
use crate::error::ToolError;
use crate::path::ClusterPath;
use crate::progress::Progress;
use crate::transfer::batch::Batch;
use crate::transfer::local::LocalFile;
use crate::transfer::source::Source;
use anyhow::{Context, bail};
use clap::Args;
use dfs_core::client::{Client, ClientError, FileLayer, OpenFile, OpenMode};
use dfs_core::types::{Attr, FileKind, Name};
use dfs_core::wire::ErrorCode;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Files of the cluster, and where to: a local file, a directory, or `-` for standard output
    #[arg(required = true, num_args = 2.., value_name = "SRC... LOCAL")]
    pub paths: Vec<OsString>,
    /// Directories too, with all below them
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep times
    #[arg(short, long)]
    pub preserve: bool,
}

/// Runs it.
///
/// # Errors
/// No such file, no verified copy, or the local file cannot be written.
pub async fn run(args: &GetArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let Some((local, sources)) = args.paths.split_last() else {
        return Err(ToolError::Usage("get needs a file and a local destination".into()).into());
    };
    let sources: Vec<ClusterPath> = sources
        .iter()
        .map(|s| tools.path(s))
        .collect::<anyhow::Result<_>>()?;
    let (client, files) = tools.files().await?;
    let mut found = Vec::new();
    for path in &sources {
        let attr = walk(&client, path, true).await?;
        if attr.kind == FileKind::Dir && !args.recursive {
            let error = anyhow::Error::from(ClientError::from(ErrorCode::IsDir));
            return Err(error.context(path.to_string()));
        }
        found.push((path.clone(), attr));
    }
    let total = found
        .iter()
        .map(|(_, a)| if a.kind == FileKind::File { a.size } else { 0 })
        .sum();
    if local == "-" {
        let progress = Progress::new(Some(total));
        for (path, attr) in &found {
            to_stdout(&files, path, attr, tools, &progress).await?;
        }
        progress.end();
        return Ok(());
    }
    let local = PathBuf::from(local);
    let into = local.is_dir();
    if !into && (sources.len() > 1 || local.as_os_str().as_bytes().ends_with(b"/")) {
        bail!("{}: no such directory", local.display());
    }
    let progress = Progress::new(Some(total));
    let mut get = Get {
        client,
        files,
        preserve: args.preserve,
        batch: Batch::new(progress),
    };
    for (path, attr) in found {
        let dest = match (into, path.name()) {
            (true, Some(name)) => local.join(os(name)),
            _ => local.clone(),
        };
        get.add(path, attr, dest).await?;
    }
    get.batch.finish().await
}

fn os(name: &Name) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
}

async fn to_stdout(
    files: &Arc<FileLayer>,
    path: &ClusterPath,
    attr: &Attr,
    tools: &mut Tools,
    progress: &Progress,
) -> anyhow::Result<()> {
    if attr.kind != FileKind::File {
        return Err(ToolError::Usage(format!("{path}: it is no regular file")).into());
    }
    let file = files
        .open(attr.ino, OpenMode::READ)
        .await
        .with_context(|| path.to_string())?;
    let mut source = Source::cluster(file, path.to_string());
    while let Some(block) = source.next().await? {
        tokio::task::block_in_place(|| tools.out.bytes(&block))?;
        progress.add(block.len() as u64);
    }
    tools.out.flush()
}

struct Get {
    client: Arc<Client>,
    files: Arc<FileLayer>,
    preserve: bool,
    batch: Batch,
}

impl Get {
    async fn add(&mut self, path: ClusterPath, attr: Attr, dest: PathBuf) -> anyhow::Result<()> {
        let mut waiting = vec![(path, attr, dest)];
        while let Some((path, attr, dest)) = waiting.pop() {
            match attr.kind {
                FileKind::Dir => {
                    self.dir(&path, &attr, &dest, &mut waiting).await?;
                }
                FileKind::File => self.file(path, attr, dest).await,
                _ => {
                    let done = self.special(&attr, &dest).await;
                    self.batch.note(done.with_context(|| format!("get {path}")));
                }
            }
        }
        Ok(())
    }

    async fn dir(
        &mut self,
        path: &ClusterPath,
        attr: &Attr,
        dest: &Path,
        waiting: &mut Vec<(ClusterPath, Attr, PathBuf)>,
    ) -> anyhow::Result<()> {
        match std::fs::create_dir(dest) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dest.is_dir() => {}
            made => made.with_context(|| format!("mkdir {}", dest.display()))?,
        }
        let all = entries(&self.client, attr.ino, true).await;
        for entry in all.with_context(|| path.to_string())? {
            let Some(attr) = entry.attr else { continue };
            if attr.kind == FileKind::File {
                self.batch.progress().expect(attr.size);
            }
            waiting.push((path.join(&entry.name), attr, dest.join(os(&entry.name))));
        }
        Ok(())
    }

    async fn file(&mut self, path: ClusterPath, attr: Attr, dest: PathBuf) {
        let files = self.files.clone();
        let (preserve, progress) = (self.preserve, self.batch.progress());
        let transfer = async move {
            progress.now(&path.to_string());
            let what = || format!("get {path}");
            let file = files
                .open(attr.ino, OpenMode::READ)
                .await
                .with_context(what)?;
            save(file, &path.to_string(), &dest, attr.mode, &progress)
                .await
                .with_context(what)?;
            if preserve {
                keep_times(&dest, &attr).with_context(what)?;
            }
            Ok(())
        };
        self.batch.add(transfer).await;
    }

    /// Symlinks; other special files are not made.
    async fn special(&self, attr: &Attr, dest: &Path) -> anyhow::Result<()> {
        if attr.kind != FileKind::Symlink {
            let kind = crate::format::kind(attr.kind);
            bail!("a {kind} has no content; left out");
        }
        let target = self.client.readlink(attr.ino).await?;
        if dest.is_symlink() {
            std::fs::remove_file(dest)?;
        }
        std::os::unix::fs::symlink(OsStr::from_bytes(&target), dest)
            .with_context(|| dest.display().to_string())
    }
}

/// Writes an open file of the cluster to a local one.
///
/// # Errors
/// No verified copy, or the local file cannot be written; nothing is left of it then.
pub async fn save(
    file: Arc<OpenFile>,
    name: &str,
    dest: &Path,
    mode: u32,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut local = LocalFile::create(dest)?;
    let mut source = Source::cluster(file, name.to_owned());
    while let Some(block) = source.next().await? {
        tokio::task::block_in_place(|| local.write(&block))?;
        progress.add(block.len() as u64);
    }
    local.finish(mode)
}

fn keep_times(dest: &Path, attr: &Attr) -> anyhow::Result<()> {
    let time = |t: dfs_core::types::Timestamp| rustix::fs::Timespec {
        tv_sec: t.secs,
        tv_nsec: t.nanos.into(),
    };
    let times = rustix::fs::Timestamps {
        last_access: time(attr.atime),
        last_modification: time(attr.mtime),
    };
    let none = rustix::fs::AtFlags::empty();
    Ok(rustix::fs::utimensat(rustix::fs::CWD, dest, &times, none)?)
}

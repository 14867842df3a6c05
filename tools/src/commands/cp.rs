//! `cp`: copies within the cluster. Bytes pass through here, verified on the way.
use crate::cluster::{Tools, entries, look, parent_of, walk};
use crate::commands::dirs::{make, owner};
use crate::commands::mv::{into_dir, target};
use crate::error::{ToolError, is_code};
use crate::path::ClusterPath;
use crate::progress::Progress;
use crate::transfer::batch::Batch;
use crate::transfer::source::Source;
use crate::transfer::upload::{Dest, Uploader};
use anyhow::Context;
use clap::Args;
use dfs_core::client::{ClientError, OpenMode, SetAttrArgs};
use dfs_core::types::{Attr, FileKind, SetTime};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::mutation::NewNode;
use std::ffi::OsString;

/// Arguments of `cp`.
#[derive(Debug, Args)]
pub struct CpArgs {
    /// What to copy, and where to: a new name, or a directory
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Directories too, with all below them
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep mode, owner and times
    #[arg(short, long)]
    pub preserve: bool,
}

/// Runs it.
///
/// # Errors
/// No such path; a directory without `-r`.
pub async fn run(args: &CpArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let paths: Vec<ClusterPath> = args
        .paths
        .iter()
        .map(|p| tools.path(p))
        .collect::<anyhow::Result<_>>()?;
    let Some((dest, sources)) = paths.split_last() else {
        return Err(ToolError::Usage("cp needs a source and a destination".into()).into());
    };
    let (client, files) = tools.files().await?;
    let into = into_dir(&client, dest, sources.len()).await?;
    let progress = Progress::new(Some(0));
    let up = Uploader {
        client,
        files,
        progress: progress.clone(),
    };
    let mut copy = Copy {
        up,
        preserve: args.preserve,
        batch: Batch::new(progress),
    };
    for source in sources {
        // Links are followed unless whole trees are copied, as cp(1) does.
        let attr = walk(&copy.up.client, source, !args.recursive).await?;
        let target = target(source, dest, into)?;
        if attr.kind == FileKind::Dir {
            if !args.recursive {
                let error = anyhow::Error::from(ClientError::from(ErrorCode::IsDir));
                return Err(error.context(format!("cp {source}")));
            }
            if source.contains(&target) {
                let words = format!("cannot copy {source} into itself ({target})");
                return Err(ToolError::Usage(words).into());
            }
        }
        copy.add(source.clone(), attr, target).await?;
    }
    copy.batch.finish().await
}

struct Copy {
    up: Uploader,
    preserve: bool,
    batch: Batch,
}

impl Copy {
    async fn add(
        &mut self,
        source: ClusterPath,
        attr: Attr,
        target: ClusterPath,
    ) -> anyhow::Result<()> {
        let mut waiting = vec![(source, attr, target)];
        while let Some((source, attr, target)) = waiting.pop() {
            match attr.kind {
                FileKind::Dir => {
                    let client = self.up.client.clone();
                    match make(&client, &target, attr.mode).await {
                        Err(e) if is_code(&e, ErrorCode::Exists) => {}
                        made => made?,
                    }
                    for entry in entries(&client, attr.ino, true).await? {
                        let Some(attr) = entry.attr else { continue };
                        let (from, to) = (source.join(&entry.name), target.join(&entry.name));
                        waiting.push((from, attr, to));
                    }
                    if self.preserve
                        && let Some(made) = look(&client, &target, true).await?
                    {
                        client.setattr(made.ino, owner_of(&attr)).await?;
                    }
                }
                FileKind::File => self.file(source, attr, target).await?,
                _ => {
                    let done = self.special(&attr, &target).await;
                    self.batch
                        .note(done.with_context(|| format!("cp {source} {target}")));
                }
            }
        }
        Ok(())
    }

    async fn file(
        &mut self,
        source: ClusterPath,
        attr: Attr,
        target: ClusterPath,
    ) -> anyhow::Result<()> {
        let up = self.up.clone();
        let preserve = self.preserve;
        let (parent, name) = parent_of(&up.client, &target).await?;
        let existing = look(&up.client, &target, true).await?;
        if existing.is_some_and(|e| e.ino == attr.ino) {
            let words = format!("{source} and {target} are the same file");
            return Err(ToolError::Usage(words).into());
        }
        up.progress.expect(attr.size);
        let (uid, gid) = owner();
        let dest = Dest {
            path: target,
            parent,
            name,
            mode: attr.mode & 0o777,
            uid,
            gid,
        };
        let transfer = async move {
            let what = || format!("cp {source} {}", dest.path);
            up.progress.now(&source.to_string());
            let file = up
                .files
                .open(attr.ino, OpenMode::READ)
                .await
                .with_context(what)?;
            let bytes = Source::cluster(file, source.to_string());
            let ino = up.put(&dest, bytes).await.with_context(what)?;
            if preserve {
                up.client
                    .setattr(ino, kept(&attr))
                    .await
                    .with_context(what)?;
            }
            Ok(())
        };
        self.batch.add(transfer).await;
        Ok(())
    }

    /// Everything without content.
    async fn special(&self, attr: &Attr, target: &ClusterPath) -> anyhow::Result<()> {
        let client = &self.up.client;
        let (parent, name) = parent_of(client, target).await?;
        let link = match attr.kind {
            FileKind::Symlink => client.readlink(attr.ino).await?.to_vec(),
            _ => Vec::new(),
        };
        let (uid, gid) = match self.preserve {
            true => (attr.uid, attr.gid),
            false => owner(),
        };
        let node = NewNode {
            kind: attr.kind,
            mode: attr.mode,
            uid,
            gid,
            rdev: attr.rdev,
            target: link,
        };
        client.create(parent, &name, node, true).await?;
        Ok(())
    }
}

fn owner_of(attr: &Attr) -> SetAttrArgs {
    SetAttrArgs {
        mode: Some(attr.mode),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        ..SetAttrArgs::default()
    }
}

fn kept(attr: &Attr) -> SetAttrArgs {
    SetAttrArgs {
        atime: Some(SetTime::At(attr.atime)),
        mtime: Some(SetTime::At(attr.mtime)),
        ..owner_of(attr)
    }
}

//! A file of the cluster gets new content: one put, one version.
use super::source::Source;
use crate::cluster::walk;
use crate::error::{ToolError, code_of};
use crate::path::ClusterPath;
use crate::progress::Progress;
use anyhow::Context;
use dfs_core::client::{Client, ClientError, FileLayer};
use dfs_core::types::{FileKind, Ino, Name};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::mutation::NewNode;
use std::sync::Arc;

/// Where content goes.
#[derive(Debug, Clone)]
pub struct Dest {
    /// Its path.
    pub path: ClusterPath,
    /// Directory.
    pub parent: Ino,
    /// Name in it.
    pub name: Name,
    /// Permission bits of a new file.
    pub mode: u32,
    /// Owner of a new file.
    pub uid: u32,
    /// Group of a new file.
    pub gid: u32,
}

/// Writes files.
#[derive(Clone)]
pub struct Uploader {
    /// Names.
    pub client: Arc<Client>,
    /// Content.
    pub files: Arc<FileLayer>,
    /// How far.
    pub progress: Progress,
}

impl Uploader {
    /// Replaces the content of a file by what `source` gives, or makes the file. A file that was
    /// made and could not be filled is removed again.
    ///
    /// # Errors
    /// The source cannot be read; the cluster refuses, or its answer did not come.
    pub async fn put(&self, dest: &Dest, source: Source) -> anyhow::Result<Ino> {
        let (ino, created) = self.open_or_create(dest).await?;
        let done = self.fill(ino, source).await;
        let Err(e) = done else { return Ok(ino) };
        if created && code_of(&e) != Some(ErrorCode::UnknownOutcome) {
            // The failure that is told is the one before.
            let _ = self.client.unlink(dest.parent, &dest.name, true).await;
        }
        Err(e)
    }

    async fn open_or_create(&self, dest: &Dest) -> anyhow::Result<(Ino, bool)> {
        let node = NewNode {
            kind: FileKind::File,
            mode: dest.mode & 0o7777,
            uid: dest.uid,
            gid: dest.gid,
            rdev: 0,
            target: Vec::new(),
        };
        let what = || dest.path.to_string();
        let (attr, created) = self
            .client
            .create(dest.parent, &dest.name, node, false)
            .await
            .with_context(what)?;
        match attr.kind {
            FileKind::File => Ok((attr.ino, created)),
            FileKind::Dir => Err(ClientError::from(ErrorCode::IsDir)).with_context(what),
            FileKind::Symlink => Ok((self.follow(dest).await?, false)),
            _ => Err(ToolError::Usage("it is no regular file".into())).with_context(what),
        }
    }

    /// The regular file that a symlink leads to.
    async fn follow(&self, dest: &Dest) -> anyhow::Result<Ino> {
        let attr = walk(&self.client, &dest.path, true).await?;
        match attr.kind {
            FileKind::File => Ok(attr.ino),
            FileKind::Dir => Err(ClientError::from(ErrorCode::IsDir).into()),
            _ => Err(ToolError::Usage(format!("{}: it is no regular file", dest.path)).into()),
        }
    }

    /// Nothing of it is seen before all of it is stored.
    async fn fill(&self, ino: Ino, mut source: Source) -> anyhow::Result<()> {
        let mut writer = self.files.replace(ino).await?;
        while let Some(block) = source.next().await? {
            writer.write(&block).await?;
            self.progress.add(block.len() as u64);
        }
        writer.finish().await?;
        Ok(())
    }
}

//! `put`: local files into the cluster, each as one new version.
use crate::cluster::{Tools, look};
use crate::commands::dirs::{make, owner};
use crate::commands::mv::into_dir;
use crate::error::{ToolError, is_code};
use crate::path::ClusterPath;
use crate::progress::Progress;
use crate::transfer::batch::Batch;
use crate::transfer::local::umask;
use crate::transfer::source::Source;
use crate::transfer::upload::{Dest, Uploader};
use anyhow::Context;
use clap::Args;
use dfs_core::client::{ClientError, SetAttrArgs};
use dfs_core::types::{FileKind, Ino, Name, SetTime, Timestamp};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::mutation::NewNode;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Local files (`-` is standard input), and the destination: a file, or a directory
    #[arg(required = true, num_args = 2.., value_name = "LOCAL... DEST")]
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
/// A file cannot be read or put.
pub async fn run(args: &PutArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let Some((dest, sources)) = args.paths.split_last() else {
        return Err(ToolError::Usage("put needs a local file and a destination".into()).into());
    };
    let dest = tools.path(dest)?;
    let total = total(sources, args.recursive)?;
    let (client, files) = tools.files().await?;
    let into = into_dir(&client, &dest, sources.len()).await?;
    let mut plain = dest.clone();
    plain.wants_dir = false;
    let progress = Progress::new(total);
    let up = Uploader {
        client,
        files,
        progress: progress.clone(),
    };
    let mut put = Put {
        args,
        up,
        umask: umask(),
        batch: Batch::new(progress),
    };
    for source in sources {
        let target = match into {
            false if dest.wants_dir && !args.recursive => {
                let words = format!("{dest}: no such directory; make it first: mkdir {dest}");
                return Err(ToolError::NotFound(words).into());
            }
            false => plain.clone(),
            true => dest.join(&name_of(source)?),
        };
        put.add(source, target).await?;
    }
    put.batch.finish().await
}

/// The name that a local file gets in a directory of the cluster.
fn name_of(source: &OsStr) -> anyhow::Result<Name> {
    if source == "-" {
        let words = "standard input needs the name of a file to become, not of a directory";
        return Err(ToolError::Usage(words.into()).into());
    }
    let path = Path::new(source);
    let named = match path.file_name() {
        Some(name) => name.to_owned(),
        // `.` and `..`: the name of the directory they stand for.
        None => std::fs::canonicalize(path)
            .with_context(|| path.display().to_string())?
            .file_name()
            .unwrap_or_default()
            .to_owned(),
    };
    Name::new(named.as_bytes())
        .map_err(|e| ToolError::Usage(format!("{}: {e}", path.display())).into())
}

/// Bytes to come, if all are known; checks that all sources are there.
fn total(sources: &[OsString], recursive: bool) -> anyhow::Result<Option<u64>> {
    let mut total = Some(0);
    for source in sources.iter().filter(|s| *s != "-") {
        let path = Path::new(source);
        let meta = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        if meta.is_dir() && !recursive {
            let error = anyhow::Error::from(ClientError::from(ErrorCode::IsDir));
            return Err(error.context(path.display().to_string()));
        }
        match meta.is_file() {
            true => total = total.map(|t| t + meta.len()),
            false if meta.is_dir() => {}
            false => total = None,
        }
    }
    let has_stdin = sources.iter().any(|s| s == "-");
    Ok(total.filter(|_| !has_stdin))
}

struct Put<'a> {
    args: &'a PutArgs,
    up: Uploader,
    umask: u32,
    batch: Batch,
}

impl Put<'_> {
    async fn add(&mut self, source: &OsStr, target: ClusterPath) -> anyhow::Result<()> {
        if source == "-" {
            let dest = self.dest(&target, None).await?;
            let up = self.up.clone();
            let input = Source::local(Box::new(io::stdin()), "standard input".into());
            self.batch
                .add(async move { up.put(&dest, input).await.map(drop) })
                .await;
            return Ok(());
        }
        let local = PathBuf::from(source);
        let meta = std::fs::metadata(&local).with_context(|| local.display().to_string())?;
        if !meta.is_dir() {
            let dest = self.dest(&target, Some(&meta)).await?;
            self.file(local, dest, meta).await;
            return Ok(());
        }
        // Directories first, so that each file finds its own.
        let mut waiting = vec![(local, target, meta)];
        let mut made = Vec::new();
        while let Some((local, target, meta)) = waiting.pop() {
            let dir = self.dir(&target, &meta).await?;
            let names = std::fs::read_dir(&local).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut names = names.with_context(|| local.display().to_string())?;
            names.sort_by_key(std::fs::DirEntry::file_name);
            for entry in names {
                let done = self.entry(&entry.path(), &target, dir, &mut waiting).await;
                if done.is_err() {
                    self.batch.note(done);
                }
            }
            made.push((dir, meta));
        }
        if self.args.preserve {
            // Filling a directory changes its times: set them when all is in place.
            let batch = std::mem::replace(&mut self.batch, Batch::new(Progress::hidden()));
            batch.finish().await?;
            for (dir, meta) in made.iter().rev() {
                self.up.client.setattr(*dir, kept(meta)).await?;
            }
        }
        Ok(())
    }

    async fn entry(
        &mut self,
        local: &Path,
        above: &ClusterPath,
        dir: Ino,
        waiting: &mut Vec<(PathBuf, ClusterPath, Metadata)>,
    ) -> anyhow::Result<()> {
        let what = || local.display().to_string();
        let name = name_of(local.as_os_str())?;
        let target = above.join(&name);
        let meta = std::fs::symlink_metadata(local).with_context(what)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            waiting.push((local.to_owned(), target, meta));
        } else if kind.is_file() {
            let (mode, uid, gid) = self.looks(Some(&meta));
            self.up.progress.expect(meta.len());
            let dest = Dest {
                path: target,
                parent: dir,
                name,
                mode,
                uid,
                gid,
            };
            self.file(local.to_owned(), dest, meta).await;
        } else {
            self.special(local, dir, &name, &meta)
                .await
                .with_context(what)?;
        }
        Ok(())
    }

    /// Symlinks, pipes, sockets and devices.
    async fn special(
        &self,
        local: &Path,
        dir: Ino,
        name: &Name,
        meta: &Metadata,
    ) -> anyhow::Result<()> {
        let file_type = meta.file_type();
        let (kind, rdev) = match () {
            () if file_type.is_symlink() => (FileKind::Symlink, 0),
            () if file_type.is_fifo() => (FileKind::Fifo, 0),
            () if file_type.is_socket() => (FileKind::Socket, 0),
            () if file_type.is_block_device() => (FileKind::BlockDev, meta.rdev()),
            () => (FileKind::CharDev, meta.rdev()),
        };
        let target = match kind {
            FileKind::Symlink => std::fs::read_link(local)?.as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let (mut mode, uid, gid) = self.looks(Some(meta));
        if kind == FileKind::Symlink {
            mode = 0o777;
        }
        let node = || NewNode {
            kind,
            mode,
            uid,
            gid,
            rdev,
            target: target.clone(),
        };
        let client = &self.up.client;
        let made = match client.create(dir, name, node(), true).await {
            // As cp -a does: what is not content is replaced.
            Err(e) if e.code() == ErrorCode::Exists => {
                client.unlink(dir, name, false).await?;
                client.create(dir, name, node(), true).await
            }
            made => made,
        };
        let (attr, _) = made?;
        if self.args.preserve {
            client.setattr(attr.ino, kept(meta)).await?;
        }
        Ok(())
    }

    async fn file(&mut self, local: PathBuf, dest: Dest, meta: Metadata) {
        let up = self.up.clone();
        let preserve = self.args.preserve;
        let transfer = async move {
            let shown = local.display().to_string();
            up.progress.now(&shown);
            let file = std::fs::File::open(&local).with_context(|| shown.clone())?;
            let source = Source::local(Box::new(file), shown.clone());
            let ino = up.put(&dest, source).await.with_context(|| shown.clone())?;
            if preserve {
                up.client
                    .setattr(ino, kept(&meta))
                    .await
                    .with_context(|| shown.clone())?;
            }
            Ok(())
        };
        self.batch.add(transfer).await;
    }

    /// Makes a directory unless it is there.
    async fn dir(&self, path: &ClusterPath, meta: &Metadata) -> anyhow::Result<Ino> {
        let client = &self.up.client;
        let (mode, ..) = self.looks(Some(meta));
        match make(client, path, mode).await {
            Err(e) if is_code(&e, ErrorCode::Exists) => {}
            made => made?,
        }
        match look(client, path, true).await? {
            Some(attr) if attr.kind == FileKind::Dir => Ok(attr.ino),
            _ => {
                let error = anyhow::Error::from(ClientError::from(ErrorCode::NotDir));
                Err(error.context(path.to_string()))
            }
        }
    }

    async fn dest(&self, path: &ClusterPath, meta: Option<&Metadata>) -> anyhow::Result<Dest> {
        let (parent, name) = crate::cluster::parent_of(&self.up.client, path).await?;
        let (mode, uid, gid) = self.looks(meta);
        Ok(Dest {
            path: path.clone(),
            parent,
            name,
            mode,
            uid,
            gid,
        })
    }

    /// Mode, user and group of what is made.
    fn looks(&self, meta: Option<&Metadata>) -> (u32, u32, u32) {
        let (uid, gid) = owner();
        match meta {
            Some(m) if self.args.preserve => (m.mode() & 0o7777, m.uid(), m.gid()),
            Some(m) => (m.mode() & 0o777 & !self.umask, uid, gid),
            None => (0o666 & !self.umask, uid, gid),
        }
    }
}

/// Mode, owner and times as they are here.
fn kept(meta: &Metadata) -> SetAttrArgs {
    let time = |secs: i64, nanos: i64| {
        let nanos = u32::try_from(nanos).unwrap_or(0);
        Some(SetTime::At(Timestamp { secs, nanos }))
    };
    SetAttrArgs {
        mode: Some(meta.mode() & 0o7777).filter(|_| !meta.file_type().is_symlink()),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        atime: time(meta.atime(), meta.atime_nsec()),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Exit, exit_of};

    #[test]
    fn a_local_file_keeps_its_name_also_if_it_is_no_utf8() {
        assert_eq!(
            name_of(OsStr::from_bytes(b"d/a\xff")).unwrap().as_bytes(),
            b"a\xff"
        );
        assert_eq!(exit_of(&name_of(OsStr::new("-")).unwrap_err()), Exit::Usage);
        assert!(name_of(OsStr::new(".")).is_ok());
    }

    #[test]
    fn what_is_missing_or_a_directory_is_found_before_anything_is_put() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "12345").unwrap();
        let arg = |name: &str| vec![dir.path().join(name).into_os_string()];
        assert_eq!(total(&arg("f"), false).unwrap(), Some(5));
        assert_eq!(
            exit_of(&total(&arg("none"), false).unwrap_err()),
            Exit::NotFound
        );
        assert_eq!(exit_of(&total(&arg(""), false).unwrap_err()), Exit::Failed);
        assert_eq!(total(&["-".into()], false).unwrap(), None);
    }
}

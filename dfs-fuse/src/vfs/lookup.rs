//! Names to nodes, and attributes.
use super::file::made_and_gone;
use super::status::{self, StatusNode};
use super::versions::{VERSIONS, VersionNode, VersionNodes};
use super::{Errno, Node, Vfs, VfsResult, name};
use dfs_core::client::{OpenMode, SetAttrArgs};
use dfs_core::types::{Attr, FileKind, Ino, Name, SetTime, VersionInfo, VersionNo, without_suid};
use dfs_core::wire::ErrorCode;

/// What setattr may change.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Content time.
    pub mtime: Option<SetTime>,
}

impl Vfs {
    /// Answers a lookup without waiting, if the cache can.
    #[must_use]
    pub fn lookup_cached(&self, parent: u64, bytes: &[u8]) -> Option<VfsResult<Attr>> {
        let hidden = bytes == VERSIONS || (Ino(parent) == Ino::ROOT && bytes == status::DIR);
        if super::versions::is_synthetic(parent) || hidden {
            return None;
        }
        let name = name(bytes).ok()?;
        let found = self.client.cached_lookup(Ino(parent), &name)?;
        if found.as_ref().is_some_and(|attr| !self.may_show(attr)) {
            return None;
        }
        Some(found.ok_or(Errno(libc::ENOENT)))
    }

    /// Looks a name up.
    ///
    /// # Errors
    /// ENOENT and the like.
    pub async fn lookup(&self, parent: u64, bytes: &[u8]) -> VfsResult<Attr> {
        self.shown(self.find(parent, bytes).await?).await
    }

    async fn find(&self, parent: u64, bytes: &[u8]) -> VfsResult<Attr> {
        match self.node(parent)? {
            Node::Real(Ino::ROOT) if bytes == status::DIR => {
                self.status_attr(StatusNode::Dir).await
            }
            Node::Real(ino) if bytes == b"." => {
                // By a file handle. What only its history keeps is no file to open any more.
                let attr = self.client.getattr(ino).await?;
                (attr.nlink > 0).then_some(attr).ok_or(Errno(libc::ESTALE))
            }
            Node::Real(dir) if bytes == b".." => Ok(self.client.parent(dir).await?),
            Node::Real(dir) if bytes == VERSIONS => {
                let attr = self.client.getattr(dir).await?;
                if attr.kind != FileKind::Dir {
                    return Err(Errno(libc::ENOTDIR));
                }
                Ok(synthetic_dir(&attr, VersionNodes::root(dir)))
            }
            Node::Real(dir) => Ok(self.client.lookup(dir, &name(bytes)?).await?),
            Node::Version(VersionNode::Root(dir)) => {
                let name = name(bytes)?;
                if self.history(dir, &name).await?.is_empty() {
                    return Err(Errno(libc::ENOENT));
                }
                let node = self.nodes.intern(VersionNode::Name(dir, name));
                Ok(synthetic_dir(&self.dir_attr(dir).await?, node))
            }
            Node::Version(VersionNode::Name(dir, name)) => {
                let wanted = version_number(bytes).ok_or(Errno(libc::ENOENT))?;
                let history = self.history(dir, &name).await?;
                let info = history.into_iter().find(|v| v.version == wanted);
                let info = info.ok_or(Errno(libc::ENOENT))?;
                Ok(self.version_attr(dir, &name, info))
            }
            Node::Version(VersionNode::File(..)) | Node::Status(StatusNode::File) => {
                Err(Errno(libc::ENOTDIR))
            }
            Node::Status(StatusNode::Dir) if bytes == status::FILE => {
                self.status_attr(StatusNode::File).await
            }
            Node::Status(StatusNode::Dir) => Err(Errno(libc::ENOENT)),
        }
    }

    /// The history of a name, with what programs of this mount have written.
    pub(crate) async fn history(&self, dir: Ino, name: &Name) -> VfsResult<Vec<VersionInfo>> {
        if self.is_behind()
            && let Some(attr) = self.client.cached_lookup(dir, name).flatten()
        {
            self.files.drain_ino(attr.ino).await;
        }
        Ok(self.client.history(dir, name).await?)
    }

    /// Attributes of the directory that a `.versions` tree hangs below; it may be gone by now.
    async fn dir_attr(&self, dir: Ino) -> VfsResult<Attr> {
        Ok(self.client.getattr(dir).await?)
    }

    /// Interns a version and returns its attributes.
    pub(crate) fn version_attr(&self, dir: Ino, name: &Name, info: VersionInfo) -> Attr {
        let node = self
            .nodes
            .intern(VersionNode::File(dir, name.clone(), Box::new(info.clone())));
        version_file(&info, node)
    }

    /// Attributes without waiting, if the cache has them.
    #[must_use]
    pub fn getattr_cached(&self, node: u64) -> Option<Attr> {
        if super::versions::is_synthetic(node) {
            None
        } else {
            let attr = self.client.cached_attr(Ino(node))?;
            self.may_show(&attr).then_some(attr)
        }
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// ENOENT and the like.
    pub async fn getattr(&self, node: u64) -> VfsResult<Attr> {
        match self.node(node)? {
            Node::Real(Ino::ROOT) => self.root_attr().await,
            Node::Real(ino) => match self.client.getattr(ino).await {
                Ok(attr) => self.shown(attr).await,
                Err(e) if matches!(e.code(), ErrorCode::Stale | ErrorCode::NotFound) => {
                    self.removed.get(ino).ok_or_else(|| e.into())
                }
                Err(e) => Err(e.into()),
            },
            Node::Status(node) => self.status_attr(node).await,
            Node::Version(VersionNode::Root(dir) | VersionNode::Name(dir, _)) => {
                Ok(synthetic_dir(&self.dir_attr(dir).await?, node))
            }
            Node::Version(VersionNode::File(_, _, info)) => Ok(version_file(&info, node)),
        }
    }

    /// chmod, chown, utimens and truncate, in this order of effect: content first, then times.
    ///
    /// # Errors
    /// EROFS below `.versions`; EISDIR or EINVAL for a size of no file; and the like.
    pub async fn setattr(
        &self,
        node: u64,
        handle: Option<u64>,
        caller_is_root: bool,
        set: SetAttr,
    ) -> VfsResult<Attr> {
        let ino = self.writable(node)?;
        if let Some(size) = set.size {
            let open = handle.and_then(|h| self.handles.file(h).ok());
            match open {
                Some((file, _)) if file.mode().write => {
                    file.truncate(size, !caller_is_root).await?;
                }
                _ => self.truncate_inode(ino, size, !caller_is_root).await?,
            }
        }
        let SetAttr {
            mode,
            uid,
            gid,
            size: _,
            atime,
            mtime,
        } = set;
        let nothing =
            mode.is_none() && uid.is_none() && gid.is_none() && atime.is_none() && mtime.is_none();
        // Without a size it is a chown to nobody: it moves the ctime, as on a local filesystem.
        if nothing && set.size.is_some() {
            // Not held back: the kernel truncates, and drops no page meanwhile.
            let attr = self.client.getattr(ino).await;
            return attr.map_err(|e| made_and_gone(e.into()));
        }
        let mut args = SetAttrArgs {
            mode,
            uid,
            gid,
            atime,
            mtime,
        };
        if self.is_behind() && atime.is_some() {
            self.files.access_time_set(ino).await;
        }
        if !nothing && set.size.is_none() && self.files.set_later(ino, args) {
            let attr = self.client.getattr(ino).await?;
            return self.shown(attr).await;
        }
        if mtime.is_some() || uid.is_some() || mode.is_some() || self.is_behind() {
            // What was written before must not change these again when it is put.
            self.files.drain_ino(ino).await;
        }
        if atime.is_some() {
            self.files.access_time_set(ino).await;
        }
        if nothing {
            // Or what the kernel sends before an fallocate(2) that clears them.
            let attr = self.client.getattr(ino).await?;
            let kept = without_suid(attr.mode);
            args.mode = (attr.kind == FileKind::File && kept != attr.mode).then_some(kept);
        }
        let attr = self.client.setattr(ino, args).await;
        if set.size.is_some() {
            return attr.map_err(|e| made_and_gone(e.into()));
        }
        self.shown(attr?).await
    }

    /// truncate(2) by path: a writing handle of a moment.
    async fn truncate_inode(&self, ino: Ino, size: u64, kill_suid: bool) -> VfsResult<()> {
        let _writing = self.writing(ino).await?;
        let file = self.files.open(ino, OpenMode::WRITE).await?;
        let done = match file.truncate(size, kill_suid).await {
            // It has answered for itself; what came before is not its failure.
            Ok(()) if self.is_behind() => {
                self.files.drain_ino(ino).await;
                Ok(())
            }
            Ok(()) => file.flush().await,
            failed => failed,
        };
        file.release();
        Ok(done?)
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// EINVAL if it is none.
    pub async fn readlink(&self, node: u64) -> VfsResult<Vec<u8>> {
        match self.node(node)? {
            Node::Real(ino) => {
                self.note_access(ino);
                Ok(self.client.readlink(ino).await?.to_vec())
            }
            Node::Version(_) | Node::Status(_) => Err(Errno(libc::EINVAL)),
        }
    }
}

/// A directory of a `.versions` tree: as the real one, without write permission.
pub(crate) fn synthetic_dir(real: &Attr, node: u64) -> Attr {
    Attr {
        ino: Ino(node),
        kind: FileKind::Dir,
        mode: real.mode & 0o7777 & !0o222,
        nlink: 2,
        size: 0,
        allocated: 0,
        ..real.clone()
    }
}

/// A version as a read-only file.
pub(crate) fn version_file(info: &VersionInfo, node: u64) -> Attr {
    Attr {
        ino: Ino(node),
        kind: FileKind::File,
        mode: info.mode,
        uid: info.uid,
        gid: info.gid,
        nlink: 1,
        rdev: 0,
        size: info.size,
        allocated: info.size,
        atime: info.mtime,
        mtime: info.mtime,
        ctime: info.mtime,
        crtime: info.mtime,
        revision: info.revision,
        version: info.version,
        lease: dfs_core::types::LeaseSeq(0),
        has_xattrs: false,
    }
}

fn version_number(bytes: &[u8]) -> Option<VersionNo> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(VersionNo(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_number_names_a_version() {
        assert_eq!(version_number(b"12"), Some(VersionNo(12)));
        for bad in [&b"012"[..], b"+1", b"", b"1 ", b"x"] {
            assert_eq!(version_number(bad), None);
        }
    }
}

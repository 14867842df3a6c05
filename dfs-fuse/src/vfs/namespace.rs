//! Changes of names.
use super::versions::{self, VERSIONS};
use super::{Caller, Errno, Vfs, VfsResult, name, new_name};
use dfs_core::types::{Attr, FileKind, Ino};
use dfs_core::wire::mutation::{NewNode, RenameMode};

impl Vfs {
    /// Makes anything but a regular file by create(2): mkdir, mknod, symlink.
    ///
    /// # Errors
    /// EEXIST, EPERM for `.versions`, EROFS, and the like.
    #[allow(clippy::too_many_arguments)]
    pub async fn make(
        &self,
        parent: u64,
        bytes: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
        target: Vec<u8>,
        caller: Caller,
    ) -> VfsResult<Attr> {
        let dir = self.writable(parent)?;
        let name = new_name(dir, bytes)?;
        if target.len() > 4095 {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        let Caller { uid, gid } = caller;
        let node = NewNode {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            rdev,
            target,
        };
        let (attr, _) = self.client.create(dir, &name, node, true).await?;
        self.changed(&[dir]);
        Ok(attr)
    }

    /// unlink(2).
    ///
    /// # Errors
    /// ENOENT, EISDIR, EROFS, and the like.
    pub async fn unlink(&self, parent: u64, bytes: &[u8]) -> VfsResult<()> {
        let dir = self.writable(parent)?;
        if bytes == VERSIONS {
            return Err(Errno(libc::EISDIR));
        }
        let name = name(bytes)?;
        let victim = self.client.cached_lookup(dir, &name).flatten();
        if let Some(attr) = victim.as_ref().filter(|_| self.is_behind()) {
            // What was closed behind is not put into a file that is gone: that would be told as lost.
            self.files.drain_ino(attr.ino).await;
        }
        self.client.unlink(dir, &name, false).await?;
        self.changed(&[dir]);
        self.remember_removed(victim);
        Ok(())
    }

    fn remember_removed(&self, victim: Option<Attr>) {
        let last = |attr: &Attr| attr.nlink == 1 || attr.kind == FileKind::Dir;
        if let Some(attr) = victim.filter(last) {
            self.removed.remember(attr);
        }
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// ENOENT, ENOTEMPTY, EROFS, and the like.
    pub async fn rmdir(&self, parent: u64, bytes: &[u8]) -> VfsResult<()> {
        let dir = self.writable(parent)?;
        if bytes == VERSIONS {
            return Err(Errno(libc::EPERM));
        }
        let name = name(bytes)?;
        let victim = self.client.cached_lookup(dir, &name).flatten();
        self.client.rmdir(dir, &name).await?;
        self.changed(&[dir]);
        self.remember_removed(victim);
        Ok(())
    }

    /// renameat2(2).
    ///
    /// # Errors
    /// EXDEV into or out of `.versions`, EINVAL for unknown flags, and the like.
    pub async fn rename(
        &self,
        from: u64,
        from_name: &[u8],
        to: u64,
        to_name: &[u8],
        flags: u32,
    ) -> VfsResult<()> {
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(Errno(libc::EINVAL)),
        };
        match (versions::is_synthetic(from), versions::is_synthetic(to)) {
            (true, true) => return Err(Errno(libc::EROFS)),
            (false, false) => {}
            _ => return Err(Errno(libc::EXDEV)),
        }
        let (from, to) = (self.writable(from)?, self.writable(to)?);
        let (from_name, to_name) = (new_name(from, from_name)?, new_name(to, to_name)?);
        let victim = self.client.cached_lookup(to, &to_name).flatten();
        let mut moved = self.client.cached_lookup(from, &from_name).flatten();
        if moved.is_none() && self.is_behind() {
            moved = self.client.lookup(from, &from_name).await.ok();
        }
        // A name never outlives, in a crash of this mount, the content that a program gave it before: with
        // `-o behind` that may still be on its way.
        if self.is_behind() {
            if let Some(attr) = &victim {
                self.files.drain_ino(attr.ino).await;
            }
            if let Some(attr) = &moved {
                self.stored(attr.ino).await?;
            }
        }
        self.client
            .rename(from, &from_name, to, &to_name, mode)
            .await?;
        let ends = moved.iter().chain(&victim).map(|attr| attr.ino);
        self.changed(&[from, to].into_iter().chain(ends).collect::<Vec<_>>());
        let is_same = moved.is_some_and(|m| victim.as_ref().is_some_and(|v| v.ino == m.ino));
        if mode == RenameMode::Replace && !is_same {
            self.remember_removed(victim);
        }
        Ok(())
    }

    /// What was closed behind is stored.
    ///
    /// # Errors
    /// It could not be, and nobody has heard of that yet: no name is given to what is not there.
    async fn stored(&self, ino: Ino) -> VfsResult<()> {
        self.files.drain_ino(ino).await;
        Ok(self.files.take_unheard(ino)?)
    }

    /// link(2).
    ///
    /// # Errors
    /// EEXIST, EXDEV out of `.versions`, and the like.
    pub async fn link(&self, node: u64, parent: u64, bytes: &[u8]) -> VfsResult<Attr> {
        if versions::is_synthetic(node) != versions::is_synthetic(parent) {
            return Err(Errno(libc::EXDEV));
        }
        let (ino, dir) = (self.writable(node)?, self.writable(parent)?);
        if self.is_behind() {
            self.stored(ino).await?;
        }
        let attr = self.client.link(ino, dir, &new_name(dir, bytes)?).await?;
        self.changed(&[dir, ino]);
        self.shown(attr).await
    }
}

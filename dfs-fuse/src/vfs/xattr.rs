//! Extended attributes.
//!
//! `user.`, `trusted.` and `security.` are stored as they come; POSIX ACLs are not there yet and
//! answer EOPNOTSUPP, as does every other namespace.
use super::{Errno, Node, Vfs, VfsResult};
use dfs_core::wire::mutation::XattrMode;

const TRUSTED: &[u8] = b"trusted.";
const NAMESPACES: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];

fn known(key: &[u8]) -> VfsResult<()> {
    let stored = |ns: &&[u8]| key.starts_with(ns) && key.len() > ns.len();
    if NAMESPACES.iter().any(stored) {
        Ok(())
    } else {
        Err(Errno(libc::EOPNOTSUPP))
    }
}

impl Vfs {
    /// One value.
    ///
    /// # Errors
    /// ENODATA if it is not set; EOPNOTSUPP for a namespace that is not kept.
    pub async fn getxattr(&self, node: u64, key: &[u8]) -> VfsResult<Vec<u8>> {
        known(key)?;
        let Node::Real(ino) = self.node(node)? else {
            return Err(Errno(libc::ENODATA));
        };
        if self
            .client
            .cached_attr(ino)
            .is_some_and(|attr| !attr.has_xattrs)
        {
            return Err(Errno(libc::ENODATA));
        }
        let all = self.client.xattrs(ino).await?;
        let found = all.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        found.ok_or(Errno(libc::ENODATA))
    }

    /// All keys, each followed by a NUL; `trusted.` ones for root only.
    ///
    /// # Errors
    /// EIO and the like.
    pub async fn listxattr(&self, node: u64, caller_is_root: bool) -> VfsResult<Vec<u8>> {
        let Node::Real(ino) = self.node(node)? else {
            return Ok(Vec::new());
        };
        let all = self.client.xattrs(ino).await?;
        let mut list = Vec::new();
        let shown = |key: &[u8]| caller_is_root || !key.starts_with(TRUSTED);
        for (key, _) in all.iter().filter(|(key, _)| shown(key)) {
            list.extend_from_slice(key);
            list.push(0);
        }
        Ok(list)
    }

    /// Sets a value.
    ///
    /// # Errors
    /// EEXIST or ENODATA as `flags` demand; EOPNOTSUPP; E2BIG; EROFS.
    pub async fn setxattr(
        &self,
        node: u64,
        key: &[u8],
        value: Vec<u8>,
        flags: i32,
    ) -> VfsResult<()> {
        let ino = self.writable(node)?;
        known(key)?;
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno(libc::EINVAL)),
        };
        self.client.setxattr(ino, key, &value, mode).await?;
        self.changed(&[ino]);
        Ok(())
    }

    /// Removes a value.
    ///
    /// # Errors
    /// ENODATA if it is not set; EOPNOTSUPP; EROFS.
    pub async fn removexattr(&self, node: u64, key: &[u8]) -> VfsResult<()> {
        let ino = self.writable(node)?;
        known(key)?;
        self.client.removexattr(ino, key).await?;
        self.changed(&[ino]);
        Ok(())
    }
}

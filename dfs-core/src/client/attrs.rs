//! Operations on attributes, link targets and extended attributes.
use super::cache::{Change, Key, Learned, Token, XattrList};
use super::core::Client;
use super::error::{ClientError, Result};
use crate::types::{Attr, FileKind, Ino, LogIndex, SetTime, Timestamp, without_suid};
use crate::wire::mutation::XattrMode;
use crate::wire::{Mutation, MutationOk, Query, QueryAnswer};
use std::sync::Arc;

/// What [`Client::setattr`] changes; `None` leaves as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttrArgs {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Content time.
    pub mtime: Option<SetTime>,
}

impl SetAttrArgs {
    /// What they make of attributes at `now`: the rules of the master.
    pub(super) fn apply(&self, attr: &mut Attr, now: Timestamp) {
        let time = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        if (self.uid.is_some() || self.gid.is_some()) && attr.kind != FileKind::Dir {
            attr.mode = without_suid(attr.mode);
        }
        attr.mode = self.mode.map_or(attr.mode, |mode| mode & 0o7777);
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
        attr.atime = self.atime.map_or(attr.atime, time);
        attr.mtime = self.mtime.map_or(attr.mtime, time);
        attr.ctime = attr.ctime.max(now);
    }

    /// The same with a time for now.
    pub(super) fn at(self, now: Timestamp) -> Self {
        let moment = |time| match time {
            SetTime::Now => SetTime::At(now),
            at => at,
        };
        Self {
            atime: self.atime.map(moment),
            mtime: self.mtime.map(moment),
            ..self
        }
    }

    /// The change that they ask for.
    #[must_use]
    pub fn body(&self, ino: Ino) -> Mutation {
        let Self {
            mode,
            uid,
            gid,
            atime,
            mtime,
        } = *self;
        Mutation::SetAttr {
            ino,
            mode,
            uid,
            gid,
            atime,
            mtime,
        }
    }
}

impl Client {
    /// Attributes, if the cache has them.
    #[must_use]
    pub fn cached_attr(&self, ino: Ino) -> Option<Attr> {
        if !self.may_cache() {
            return None;
        }
        self.cache.attr(ino).map(|attr| self.shown(attr))
    }

    /// Attributes as the master has them, without local dirty state; from the cache if there.
    #[must_use]
    pub fn cached_committed_attr(&self, ino: Ino) -> Option<Attr> {
        self.cache.attr(ino).filter(|_| self.may_cache())
    }

    /// Attributes.
    ///
    /// # Errors
    /// `NotFound` or `Stale`, and those of [`query`](Self::query).
    pub async fn getattr(&self, ino: Ino) -> Result<Attr> {
        if let Some(attr) = self.cached_attr(ino) {
            return Ok(attr);
        }
        let token = self.cache.token();
        match self.query(Query::GetAttr { ino }, true).await? {
            QueryAnswer::Attr(attr) => Ok(self.learn_attr(token, attr)),
            _ => Err(ClientError::Mismatch {
                asked: "attributes",
            }),
        }
    }

    /// Caches attributes that came with interest; gives them as shown.
    pub(super) fn learn_attr(&self, token: Token, attr: Attr) -> Attr {
        let learned = Learned {
            attr: Some(&attr),
            ..Learned::default()
        };
        self.cache.learn(token, learned);
        self.shown(attr)
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// `Invalid` (no symlink), `NotFound`, and those of [`query`](Self::query).
    pub async fn readlink(&self, ino: Ino) -> Result<Arc<[u8]>> {
        if let Some(target) = self.cache.target(ino).filter(|_| self.may_cache()) {
            return Ok(target);
        }
        let token = self.cache.token();
        let QueryAnswer::Target(target) = self.query(Query::ReadLink { ino }, true).await? else {
            return Err(ClientError::Mismatch { asked: "target" });
        };
        let target: Arc<[u8]> = target.into();
        let learned = Learned {
            target: Some((ino, Arc::clone(&target))),
            ..Learned::default()
        };
        self.cache.learn(token, learned);
        Ok(target)
    }

    /// All extended attributes, by name.
    ///
    /// # Errors
    /// `NotFound`, and those of [`query`](Self::query).
    pub async fn xattrs(&self, ino: Ino) -> Result<XattrList> {
        if self.may_cache() {
            if let Some(xattrs) = self.cache.xattrs(ino) {
                return Ok(xattrs);
            }
            // Asked for by every write of a kernel that looks for capabilities.
            if self.cache.attr(ino).is_some_and(|a| !a.has_xattrs) {
                return Ok(XattrList::default());
            }
        }
        let token = self.cache.token();
        let QueryAnswer::Xattrs(list) = self.query(Query::Xattrs { ino }, true).await? else {
            return Err(ClientError::Mismatch {
                asked: "extended attributes",
            });
        };
        let list = Arc::new(list);
        let learned = Learned {
            xattrs: Some((ino, Arc::clone(&list))),
            ..Learned::default()
        };
        self.cache.learn(token, learned);
        Ok(list)
    }

    /// chmod, chown, utimens; never changes the size.
    ///
    /// # Errors
    /// `NotFound`, and those of [`mutate`](Self::mutate).
    pub async fn setattr(&self, ino: Ino, args: SetAttrArgs) -> Result<Attr> {
        if let Some(attr) = self.setattr_behind(ino, args) {
            return Ok(attr);
        }
        let attr = self.change_node(ino, args.body(ino)).await?;
        attr.ok_or(ClientError::Mismatch { asked: "setattr" })
    }

    /// The same, of a change that a program was told of as done when no other session existed as of `sole_at`:
    /// it is refused if another one was let in since without waiting for it.
    pub(super) async fn setattr_as_of(
        &self,
        ino: Ino,
        args: SetAttrArgs,
        sole_at: LogIndex,
    ) -> Result<Attr> {
        if let Some(attr) = self.setattr_behind(ino, args) {
            return Ok(attr);
        }
        let change = self.cache.begin(vec![Key::Node(ino)]);
        let done = self.change_in_time(args.body(ino), sole_at).await;
        self.end_node_change(change, &done);
        match done? {
            MutationOk::Attr(attr) => Ok(self.shown(attr)),
            _ => Err(ClientError::Mismatch { asked: "setattr" }),
        }
    }

    /// Tells of reads: moves access times as [`Attr::is_accessed_at`] says.
    ///
    /// # Errors
    /// Those of [`mutate`](Self::mutate).
    pub async fn accessed(&self, times: Vec<(Ino, Timestamp)>) -> Result<()> {
        let body = Mutation::Accessed {
            times: times.clone(),
        };
        self.mutate(body).await?;
        self.cache.accessed(&times);
        Ok(())
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists`, `NoData` (by `mode`), `TooBig`, and those of [`mutate`](Self::mutate).
    pub async fn setxattr(
        &self,
        ino: Ino,
        key: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let body = Mutation::SetXattr {
            ino,
            key: key.to_vec(),
            value: value.to_vec(),
            mode,
        };
        self.change_node(ino, body).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoData`, and those of [`mutate`](Self::mutate).
    pub async fn removexattr(&self, ino: Ino, key: &[u8]) -> Result<()> {
        let body = Mutation::RemoveXattr {
            ino,
            key: key.to_vec(),
        };
        self.change_node(ino, body).await.map(drop)
    }

    /// A change of one inode and nothing else.
    pub(super) async fn change_node(&self, ino: Ino, body: Mutation) -> Result<Option<Attr>> {
        let keys = vec![Key::Node(ino)];
        let change = match body {
            // What programs are shown of it does not depend on it.
            Mutation::Seal { .. } => self.cache.begin_shown(keys),
            _ => self.cache.begin(keys),
        };
        let done = self.mutate(body).await;
        self.end_node_change(change, &done);
        match done? {
            MutationOk::Attr(attr) | MutationOk::Entry { attr, .. } => Ok(Some(self.shown(attr))),
            MutationOk::Committed { attr, .. } => Ok(Some(self.shown(attr))),
            MutationOk::Done
            | MutationOk::Removed { .. }
            | MutationOk::Renamed { .. }
            | MutationOk::Reserved { .. }
            | MutationOk::Locked => Ok(None),
        }
    }

    pub(super) fn end_node_change(&self, change: Change<'_>, done: &Result<MutationOk>) {
        match done {
            Ok(
                MutationOk::Attr(attr)
                | MutationOk::Committed { attr, .. }
                | MutationOk::Entry { attr, .. },
            ) => {
                let learned = Learned {
                    attr: Some(attr),
                    ..Learned::default()
                };
                change.end(learned);
            }
            Ok(_) => change.end(Learned::default()),
            Err(_) => self.changed_unseen(change, done),
        }
    }
}

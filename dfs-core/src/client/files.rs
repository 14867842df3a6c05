//! What the file layer asks of the master: opens, layouts, commits, versions.
use super::cache::Key;
use super::core::Client;
use super::error::{ClientError, Result};
use super::session::CacheToken;
use crate::net::clock::boottime;
use crate::net::conn::deadline_in;
use crate::types::{Attr, ChunkNo, Ino, LeaseSeq, Name, OpId, VersionInfo, VersionNo};
use crate::wire::master::Layout;
use crate::wire::mutation::PurgeScope;
use crate::wire::{
    MasterRequest, MasterResponse, Mutation, MutationOk, Query, QueryAnswer, WriteToken,
};
use std::time::Duration;

/// The answer to [`Client::open_rpc`].
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Attributes as committed (without local dirty state).
    pub attr: Attr,
    /// Sequence to give with commits.
    pub lease: LeaseSeq,
    /// Others have it open: no write-behind.
    pub shared: bool,
    /// The first chunks.
    pub layout: Option<Layout>,
}

/// When an open was asked for whose inode was not known yet.
#[derive(Debug, Clone, Copy)]
pub struct OpenMoment {
    pub(super) token: CacheToken,
    pub(super) recalls: u64,
}

impl Client {
    /// Registers an open handle at the master, which recalls a conflicting writer first. A new
    /// leader is told of it until [`release_rpc`](Self::release_rpc).
    ///
    /// # Errors
    /// `NotFound`, `Stale`, and those of [`master_call`](Self::master_call).
    pub async fn open_rpc(&self, ino: Ino, write: bool) -> Result<Opened> {
        self.check_usable(true)?;
        let until = boottime() + self.config.deadline_meta;
        let make = |client| MasterRequest::Open {
            client,
            ino,
            write,
            interest: true,
        };
        loop {
            let ticket = self.session.begin_open();
            let token = self.cache.token();
            let within = until.since(boottime());
            let MasterResponse::Opened {
                attr,
                lease,
                shared,
                layout,
            } = self.master_call_of(ino, make, within).await?
            else {
                return Err(ClientError::Mismatch { asked: "open" });
            };
            if self.session.note_open(&ticket, ino, write) {
                self.learn_attr(token, attr.clone());
                return Ok(Opened {
                    attr,
                    lease,
                    shared,
                    layout,
                });
            }
        }
    }

    /// The session has no handle on these inodes any more.
    ///
    /// # Errors
    /// Those of [`master_call`](Self::master_call); a new leader is not told of them in any case.
    pub async fn release_rpc(&self, inos: Vec<Ino>) -> Result<()> {
        // One that was made behind is noted as open when that is decided.
        let deadline = deadline_in(self.config.deadline_meta);
        let _ = self.follow_behind(deadline).await;
        self.session.note_release(&inos);
        let make = |client| MasterRequest::Release {
            client,
            inos: inos.clone(),
        };
        let deadline = deadline_in(self.config.deadline_meta);
        self.call_now(make, deadline).await.map(drop)
    }

    /// Extents of chunks `first..first + count` (at most 64) at a version, or now.
    ///
    /// # Errors
    /// `NotFound`, and those of [`query`](Self::query).
    pub async fn layout(
        &self,
        ino: Ino,
        version: Option<VersionNo>,
        first: ChunkNo,
        count: u32,
    ) -> Result<Layout> {
        let ask = Query::Layout {
            ino,
            version,
            first,
            count,
        };
        match self.query(ask, true).await? {
            QueryAnswer::Layout(layout) => Ok(layout),
            _ => Err(ClientError::Mismatch { asked: "layout" }),
        }
    }

    /// The second half of a put, under the op-id its objects were prepared with. Repeated until
    /// answered or until `within` has passed.
    ///
    /// # Errors
    /// `WrongEpoch` (prepare again), `StaleLease`, `Conflict`, `OpAborted`, ..., and those of
    /// [`mutate_as`](Self::mutate_as).
    pub(super) async fn commit(
        &self,
        commit: Mutation,
        op: OpId,
        within: Duration,
    ) -> Result<MutationOk> {
        // The bytes are shown over what is cached.
        let ino = commit.commit().map(|commit| commit.ino);
        let change = self
            .cache
            .begin_shown(ino.into_iter().map(Key::Node).collect());
        let done = self.mutate_as(op, commit, within).await;
        self.end_node_change(change, &done);
        done
    }

    /// Disowns an earlier op of this session: unless already applied, it never will be.
    ///
    /// # Errors
    /// Those of [`mutate_as`](Self::mutate_as).
    pub async fn abandon(&self, op: OpId, within: Duration) -> Result<()> {
        let ticket = self.session.begin_op();
        self.mutate_as(ticket.op(), Mutation::Abandon { op }, within)
            .await
            .map(drop)
    }

    /// The last writable handle on a dirtied inode was released: cut the version.
    ///
    /// # Errors
    /// Those of [`mutate`](Self::mutate).
    pub async fn seal(&self, ino: Ino, token: WriteToken) -> Result<()> {
        self.change_node(ino, Mutation::Seal { ino, token })
            .await
            .map(drop)
    }

    /// The last versions of a name, newest first; also of a deleted name.
    ///
    /// # Errors
    /// `NotFound`, and those of [`query`](Self::query).
    pub async fn history(&self, parent: Ino, name: &Name) -> Result<Vec<VersionInfo>> {
        let ask = Query::History {
            parent,
            name: name.clone(),
        };
        match self.query(ask, false).await? {
            QueryAnswer::History(versions) => Ok(versions),
            _ => Err(ClientError::Mismatch { asked: "history" }),
        }
    }

    /// Names in a directory that have history, ascending, and whether each is deleted.
    ///
    /// # Errors
    /// `NotFound`, and those of [`query`](Self::query).
    pub async fn history_names(
        &self,
        dir: Ino,
        after: Option<Name>,
        limit: u32,
    ) -> Result<Vec<(Name, bool)>> {
        let ask = Query::HistoryNames { dir, after, limit };
        match self.query(ask, false).await? {
            QueryAnswer::Names(names) => Ok(names),
            _ => Err(ClientError::Mismatch {
                asked: "history names",
            }),
        }
    }

    /// A removed subdirectory by the name it had.
    ///
    /// # Errors
    /// `NotFound`, and those of [`query`](Self::query).
    pub async fn removed_dir(&self, parent: Ino, name: &Name) -> Result<Attr> {
        let ask = Query::RemovedDir {
            parent,
            name: name.clone(),
        };
        match self.query(ask, false).await? {
            QueryAnswer::Attr(attr) => Ok(attr),
            _ => Err(ClientError::Mismatch {
                asked: "removed directory",
            }),
        }
    }

    /// Brings back a deleted name with its history.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, and those of [`mutate`](Self::mutate).
    pub async fn undelete(&self, parent: Ino, name: &Name) -> Result<MutationOk> {
        let change = self.cache.begin(vec![
            Key::Name(parent, name.clone()),
            Key::Names(parent),
            Key::Node(parent),
        ]);
        let body = Mutation::Undelete {
            parent,
            name: name.clone(),
        };
        let done = self.mutate(body).await;
        self.changed_unseen(change, &done);
        // Removed directories above it may have got their names back.
        self.cache.drop_all();
        done
    }

    /// Drops history for good.
    ///
    /// # Errors
    /// `NotFound`, and those of [`mutate`](Self::mutate).
    pub async fn purge(&self, scope: PurgeScope) -> Result<()> {
        self.mutate(Mutation::Purge(scope)).await.map(drop)
    }
}

//! Questions of people: totals, status, repair, whereabouts, watching.
use super::contact::probe;
use super::core::Client;
use super::error::{ClientError, Result};
use crate::net::conn::deadline_in;
use crate::net::{Conn, ConnOptions, PushHandler};
use crate::types::{FileKind, Ino, StoreId, Time};
use crate::wire::master::{ClusterStatus, StatFsInfo};
use crate::wire::node::LeaderHint;
use crate::wire::{
    ErrorCode, MasterRequest, MasterResponse, Push, Query, QueryAnswer, Request, WireError,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events a watcher may lag behind before the watch ends.
const WATCH_MAX: usize = 65_536;
/// Between attempts to watch again.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// Something was added or removed below a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// Added, or removed.
    pub added: bool,
    /// Path from the root.
    pub path: Vec<u8>,
    /// Kind.
    pub kind: FileKind,
    /// When (Unix time).
    pub at: Time,
}

impl Client {
    /// Totals for statfs.
    ///
    /// # Errors
    /// Those of [`query`](Self::query).
    pub async fn statfs(&self) -> Result<StatFsInfo> {
        match self.query(Query::StatFs, false).await? {
            QueryAnswer::StatFs(totals) => Ok(totals),
            _ => Err(ClientError::Mismatch { asked: "statfs" }),
        }
    }

    /// Every path of an inode.
    ///
    /// # Errors
    /// `NotFound`, and those of [`query`](Self::query).
    pub async fn paths(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        match self.query(Query::Paths { ino }, false).await? {
            QueryAnswer::Paths(paths) => Ok(paths),
            _ => Err(ClientError::Mismatch { asked: "paths" }),
        }
    }

    /// The cluster at a glance, from the leader.
    ///
    /// # Errors
    /// Those of [`master_call`](Self::master_call).
    pub async fn status(&self) -> Result<ClusterStatus> {
        let within = self.config.deadline_meta;
        match self.master_call(|_| MasterRequest::Status, within).await? {
            MasterResponse::Status(status) => Ok(*status),
            _ => Err(ClientError::Mismatch { asked: "status" }),
        }
    }

    /// Inodes, paths and bytes that a store holds, after `after`, and whether these are the last.
    ///
    /// # Errors
    /// `NotFound`, and those of [`master_call`](Self::master_call).
    pub async fn files_of(
        &self,
        store: StoreId,
        after: Ino,
        limit: u32,
    ) -> Result<(Vec<(Ino, Vec<u8>, u64)>, bool)> {
        let make = |_| MasterRequest::FilesOf {
            store,
            after,
            limit,
        };
        match self.master_call(make, self.config.deadline_meta).await? {
            MasterResponse::Files(files, end) => Ok((files, end)),
            _ => Err(ClientError::Mismatch { asked: "files" }),
        }
    }

    /// What any reachable node says of the leader and the members; needs no leader.
    ///
    /// # Errors
    /// No seed answered; the error lists what each said.
    pub async fn who_leads(&self) -> Result<LeaderHint> {
        let deadline = deadline_in(self.config.connect_timeout * 2);
        let mut failed = Vec::new();
        for addr in &self.config.seeds {
            match probe(&self.pool, *addr, deadline).await {
                Ok(hint) => return Ok(hint),
                Err(e) => failed.push(e.to_string()),
            }
        }
        let detail = format!("no node answered: {}", failed.join("; "));
        Err(WireError::new(ErrorCode::Unavailable, detail).into())
    }

    /// The leader's address, within `deadline_meta`.
    ///
    /// # Errors
    /// None was found.
    pub async fn leader_addr(&self) -> Result<SocketAddr> {
        let after = self.config.deadline_meta;
        let found = self.leader(deadline_in(after)).await;
        found
            .map(|conn| conn.peer())
            .map_err(|last| ClientError::TimedOut { after, last })
    }

    /// Additions and removals below a directory, from now on. Ends when the receiver is dropped or
    /// the client shut down. What happens while a new leader is sought is missed.
    ///
    /// # Errors
    /// The first attempt failed.
    pub async fn watch(self: &Arc<Self>, root: Ino) -> Result<mpsc::Receiver<WatchEvent>> {
        self.check_usable(false)?;
        let (sender, receiver) = mpsc::channel(WATCH_MAX);
        let mut conn = self.start_watch(root, &sender).await?;
        let client = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = conn.closed() => {}
                    () = sender.closed() => return,
                }
                loop {
                    tokio::time::sleep(WATCH_PAUSE).await;
                    let Some(client) = client.upgrade().filter(|c| !c.is_stopped()) else {
                        return;
                    };
                    if sender.is_closed() {
                        return;
                    }
                    if let Ok(again) = client.start_watch(root, &sender).await {
                        conn = again;
                        break;
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// A connection of its own, so that its pushes cannot be taken for the session's.
    async fn start_watch(&self, root: Ino, to: &mpsc::Sender<WatchEvent>) -> Result<Conn> {
        let leader = self.leader_addr().await?;
        let options = ConnOptions {
            bandwidth: Some(Arc::clone(&self.bandwidth)),
            pushes: Some(Arc::new(Watcher(to.clone()))),
            ..ConnOptions::default()
        };
        let deadline = deadline_in(self.config.connect_timeout);
        let conn = Conn::connect(leader, &self.config.credentials(), deadline, options).await?;
        let request = Request::Master(MasterRequest::Watch { root });
        let deadline = deadline_in(self.config.deadline_meta);
        conn.call(request, Vec::new(), deadline).await?;
        Ok(conn)
    }
}

struct Watcher(mpsc::Sender<WatchEvent>);

impl PushHandler for Watcher {
    fn push(&self, push: Push) {
        if let Push::Watch {
            added,
            path,
            kind,
            at,
        } = push
        {
            // Full: the watcher does not look, so it misses events.
            let _ = self.0.try_send(WatchEvent {
                added,
                path,
                kind,
                at,
            });
        }
    }
}

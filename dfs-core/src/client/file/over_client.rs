//! The file layer over the client core: the real cluster as a [`Backend`], and the core's hooks.
use super::backend::{Backend, BoxFuture, OpHandle, Opened};
use super::{FileConfig, FileLayer};
use crate::client::hooks::{Ack, AttrOverlay, RecallHandler};
use crate::client::{Client, ClientError, LockGrant, OpTicket, SetAttrArgs};
use crate::net::clock::{boottime, realtime};
use crate::types::{
    Attr, ChunkNo, ClientId, HeldLock, Ino, LockRequest, LockSpace, LogIndex, ObjectId, OpId,
    PathHint, PgMap, QuorumSizes, StoreId, Time, Timestamp, VersionNo,
};
use crate::wire::master::{Layout, Touched};
use crate::wire::replica::CheckState;
use crate::wire::{ErrorCode, Mutation, MutationOk, ReplicaRequest, ReplicaResponse, WireError};
use bytes::Bytes;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a check that a reader asked for may take.
const CHECK: Duration = Duration::from_secs(10);

impl FileLayer {
    /// The file layer of a connected client, with the client's settings. Plugs itself into the
    /// client's hooks.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(client: &Arc<Client>) -> Arc<Self> {
        let settings = client.config();
        let mut config = FileConfig {
            dirty_max_bytes: settings.dirty_max_bytes,
            behind: settings.behind,
            leisure: client.leisure(),
            write_delay: settings.write_delay,
            data_cache_max_bytes: settings.data_cache_max_bytes,
            ..FileConfig::default()
        };
        config.put.deadline = settings.deadline_data;
        config.get.deadline = settings.deadline_data;
        let layer = Self::over(
            Arc::new(OverClient {
                client: Arc::clone(client),
            }),
            config,
        );
        let hooks = Arc::new(Hooks {
            layer: Arc::downgrade(&layer),
        });
        client.set_recall_handler(hooks.clone());
        client.set_overlay(hooks);
        layer
    }
}

struct Hooks {
    layer: Weak<FileLayer>,
}

impl RecallHandler for Hooks {
    fn recall(&self, ino: Ino, shared: bool, ack: Ack) {
        let Some(layer) = self.layer.upgrade() else {
            return;
        };
        tokio::spawn(async move {
            layer.recalled(ino, shared).await;
            drop(ack);
        });
    }

    fn invalidated(&self, touched: &[Touched], as_of: LogIndex) {
        if let Some(layer) = self.layer.upgrade() {
            layer.invalidated(touched, as_of);
        }
    }

    fn all_invalidated(&self) {
        if let Some(layer) = self.layer.upgrade() {
            layer.all_invalidated();
        }
    }

    fn session_lost(&self) {
        if let Some(layer) = self.layer.upgrade() {
            layer.session_lost();
        }
    }

    fn unopened(&self, ino: Ino) {
        if let Some(layer) = self.layer.upgrade() {
            layer.unopened(ino);
        }
    }
}

impl AttrOverlay for Hooks {
    fn overlay(&self, attr: &mut Attr) {
        if let Some(layer) = self.layer.upgrade() {
            layer.overlay(attr);
        }
    }
}

struct OverClient {
    client: Arc<Client>,
}

impl From<crate::client::Opened> for Opened {
    fn from(opened: crate::client::Opened) -> Self {
        Self {
            attr: opened.attr,
            lease: opened.lease,
            shared: opened.shared,
            layout: opened.layout,
        }
    }
}

struct Ticket(OpTicket);

impl OpHandle for Ticket {
    fn op(&self) -> OpId {
        self.0.op()
    }
}

fn wire(e: ClientError) -> WireError {
    match e {
        ClientError::Refused(e) => e,
        ClientError::Unknown { .. } => WireError::new(ErrorCode::UnknownOutcome, e.to_string()),
        other => WireError::new(other.code(), other.to_string()),
    }
}

impl Backend for OverClient {
    fn client(&self) -> ClientId {
        self.client.client_id()
    }

    fn now(&self) -> Time {
        boottime()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_log_time(realtime())
    }

    fn path_hint(&self, ino: Ino) -> Option<PathHint> {
        self.client.path_hint(ino)
    }

    fn caches_valid(&self) -> bool {
        !self.client.cache_window().is_zero()
    }

    fn begin_op(&self) -> Box<dyn OpHandle> {
        Box::new(Ticket(self.client.begin_op()))
    }

    fn pg_map(&self) -> Arc<PgMap> {
        // The layer asks for one before its first put or get.
        self.client.cached_pg_map().unwrap_or_else(|| {
            let quorum = QuorumSizes::DEFAULT;
            Arc::new(PgMap {
                version: LogIndex(0),
                quorum,
                pgs: Vec::new(),
            })
        })
    }

    fn refresh_map(&self, newer_than: LogIndex) -> BoxFuture<'_, Arc<PgMap>> {
        Box::pin(async move {
            match self.client.refresh_map(newer_than.next()).await {
                Ok(map) => map,
                Err(error) => {
                    tracing::debug!(%error, "no newer map of the placement groups");
                    self.pg_map()
                }
            }
        })
    }

    fn replica_call(
        &self,
        to: StoreId,
        request: ReplicaRequest,
        payload: Vec<Bytes>,
        within: Duration,
    ) -> BoxFuture<'_, Result<(ReplicaResponse, Bytes), WireError>> {
        let deadline = crate::net::conn::deadline_in(within);
        Box::pin(self.client.replica_call(to, request, payload, deadline))
    }

    fn mutate_as(
        &self,
        op: OpId,
        body: Mutation,
        within: Duration,
    ) -> BoxFuture<'_, Result<MutationOk, WireError>> {
        Box::pin(async move {
            match body {
                Mutation::Commit(_) | Mutation::CommitLast(_) => {
                    self.client.commit(body, op, within).await
                }
                body => self.client.mutate_as(op, body, within).await,
            }
            .map_err(wire)
        })
    }

    fn mutate(&self, body: Mutation) -> BoxFuture<'_, Result<MutationOk, WireError>> {
        Box::pin(async move {
            match body {
                Mutation::Seal { ino, token } => self
                    .client
                    .seal(ino, token)
                    .await
                    .map(|()| MutationOk::Done),
                Mutation::Accessed { times } => {
                    self.client.accessed(times).await.map(|()| MutationOk::Done)
                }
                Mutation::SetAttr { ino, .. } => {
                    let changed = self.client.change_node(ino, body).await;
                    changed.map(|attr| attr.map_or(MutationOk::Done, MutationOk::Attr))
                }
                body => self.client.mutate(body).await,
            }
            .map_err(wire)
        })
    }

    fn hold_later(&self) -> Option<(Box<dyn Send>, LogIndex)> {
        let later = self.client.hold_later()?;
        let sole_at = later.sole_at;
        Some((Box::new(later), sole_at))
    }

    fn set_attr(
        &self,
        ino: Ino,
        args: SetAttrArgs,
        sole_at: LogIndex,
    ) -> BoxFuture<'_, Result<Attr, WireError>> {
        Box::pin(async move {
            let done = self.client.setattr_as_of(ino, args, sole_at).await;
            done.inspect_err(|error| self.client.note_failed(ino, error))
                .map_err(wire)
        })
    }

    fn layout(
        &self,
        ino: Ino,
        version: Option<VersionNo>,
        first: ChunkNo,
        count: u32,
    ) -> BoxFuture<'_, Result<Layout, WireError>> {
        Box::pin(async move {
            self.client
                .layout(ino, version, first, count)
                .await
                .map_err(wire)
        })
    }

    fn open(&self, ino: Ino, write: bool) -> BoxFuture<'_, Result<Opened, WireError>> {
        Box::pin(async move {
            let opened = self.client.open_rpc(ino, write).await;
            opened.map(Opened::from).map_err(wire)
        })
    }

    fn drop_session(&self, client: ClientId) {
        self.client.lose_session(client);
    }

    fn release(&self, inos: Vec<Ino>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.client.release_rpc(inos).await {
                tracing::debug!(%error, "a release was not heard; the next keep-alive tells");
            }
        })
    }

    fn try_lock(
        &self,
        session: ClientId,
        ask: LockRequest,
    ) -> BoxFuture<'_, Result<LockGrant, WireError>> {
        Box::pin(async move { self.client.try_lock(session, ask).await.map_err(wire) })
    }

    fn wait_lock<'a>(
        &'a self,
        session: ClientId,
        ask: LockRequest,
        give_up: &'a mut BoxFuture<'static, ()>,
    ) -> BoxFuture<'a, Result<Option<LockGrant>, WireError>> {
        Box::pin(async move {
            let asked = self.client.wait_lock(session, ask, give_up).await;
            asked.map_err(wire)
        })
    }

    fn unlock(
        &self,
        session: ClientId,
        what: (Ino, LockSpace, u64),
        range: (u64, u64),
    ) -> BoxFuture<'_, Result<(), WireError>> {
        Box::pin(async move { self.client.unlock(session, what, range).await.map_err(wire) })
    }

    fn lock_conflict(
        &self,
        ask: LockRequest,
    ) -> BoxFuture<'_, Result<Option<HeldLock>, WireError>> {
        Box::pin(async move { self.client.lock_conflict(ask).await.map_err(wire) })
    }

    fn report_damage(&self, ino: Ino, store: StoreId, object: ObjectId) {
        let client = Arc::clone(&self.client);
        tokio::spawn(async move {
            let deadline = crate::net::conn::deadline_in(CHECK);
            let request = ReplicaRequest::Check {
                objects: vec![object],
            };
            let checked = client
                .replica_call(store, request, Vec::new(), deadline)
                .await;
            // Verified by the store itself a moment later: its disk, or the way here?
            let place = match checked.map(|c| c.0) {
                Ok(ReplicaResponse::Checked(found)) => match found.first() {
                    Some(CheckState::Good(_)) => "in transit",
                    Some(CheckState::Damaged) => "on its disk",
                    Some(CheckState::Missing) | None => "unknown: the copy is gone",
                },
                Ok(_) | Err(_) => "unknown: the store does not answer",
            };
            tracing::warn!(%ino, %object, hop = format_args!("store {store} -> client"), place, "bytes damaged, not used");
        });
    }
}

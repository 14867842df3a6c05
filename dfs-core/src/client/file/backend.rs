//! What the file layer needs of the cluster: implemented by the client core, and by fakes in tests.
use crate::client::{LockGrant, SetAttrArgs};
use crate::types::{
    Attr, ChunkNo, ClientId, HeldLock, Ino, LeaseSeq, LockRequest, LockSpace, LogIndex, ObjectId,
    OpId, PathHint, PgMap, StoreId, Time, Timestamp, VersionNo,
};
use crate::wire::master::Layout;
use crate::wire::{Mutation, MutationOk, ReplicaRequest, ReplicaResponse, WireError};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A future that a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer to [`Backend::open`].
#[derive(Debug, Clone)]
pub struct Opened {
    /// Attributes at open.
    pub attr: Attr,
    /// Sequence to give with commits.
    pub lease: LeaseSeq,
    /// Another session has it open in a way that forbids write-behind.
    pub shared: bool,
    /// The first chunks of the current content.
    pub layout: Option<Layout>,
}

/// An op-id in use; dropping it says that its outcome is known (or reported as unknown).
pub trait OpHandle: Send + Sync {
    /// The op-id.
    fn op(&self) -> OpId;
}

/// The cluster as the file layer sees it. All calls fail over and retry inside, within their time.
pub trait Backend: Send + Sync + 'static {
    /// The current session.
    fn client(&self) -> ClientId;
    /// CLOCK_BOOTTIME.
    fn now(&self) -> Time;
    /// The mount's idea of the time of day: mtimes.
    fn wall(&self) -> Timestamp;
    /// What was cached under an interest may still be used.
    fn caches_valid(&self) -> bool;
    /// Takes the session's next op-id.
    fn begin_op(&self) -> Box<dyn OpHandle>;
    /// The PG map known.
    fn pg_map(&self) -> Arc<PgMap>;
    /// The PG map after trying to get one newer than `newer_than`.
    fn refresh_map(&self, newer_than: LogIndex) -> BoxFuture<'_, Arc<PgMap>>;
    /// One call of a store.
    fn replica_call(
        &self,
        to: StoreId,
        request: ReplicaRequest,
        payload: Vec<Bytes>,
        within: Duration,
    ) -> BoxFuture<'_, Result<(ReplicaResponse, Bytes), WireError>>;
    /// A mutation under an op-id taken before. `UnknownOutcome` if no answer came in time.
    fn mutate_as(
        &self,
        op: OpId,
        body: Mutation,
        within: Duration,
    ) -> BoxFuture<'_, Result<MutationOk, WireError>>;
    /// A mutation under a fresh op-id of the current session.
    fn mutate(&self, body: Mutation) -> BoxFuture<'_, Result<MutationOk, WireError>>;
    /// A change may be made later, without a word to the program: until what this gives is dropped, other
    /// sessions wait for it. `None`: it may not. The index is that of [`set_attr`](Self::set_attr).
    fn hold_later(&self) -> Option<(Box<dyn Send>, LogIndex)>;
    /// A change of attributes, made when this session was the only one as of `sole_at`.
    fn set_attr(
        &self,
        ino: Ino,
        args: SetAttrArgs,
        sole_at: LogIndex,
    ) -> BoxFuture<'_, Result<Attr, WireError>>;
    /// Extents of chunks `first..first + count` at a version (`None`: current), with interest in
    /// the inode's content.
    fn layout(
        &self,
        ino: Ino,
        version: Option<VersionNo>,
        first: ChunkNo,
        count: u32,
    ) -> BoxFuture<'_, Result<Layout, WireError>>;
    /// Registers the session's handle, with interest in attributes and content.
    fn open(&self, ino: Ino, write: bool) -> BoxFuture<'_, Result<Opened, WireError>>;
    /// Gives this session up if it is still the current one: nothing of it is sent any more, what
    /// is buffered under it is lost, and handles hear of it. Returns at once.
    fn drop_session(&self, client: ClientId);
    /// The session has no handle on these any more.
    fn release(&self, inos: Vec<Ino>) -> BoxFuture<'_, ()>;
    /// Locks a range for an owner of `session`; `Locked` if somebody excludes it.
    fn try_lock(
        &self,
        session: ClientId,
        ask: LockRequest,
    ) -> BoxFuture<'_, Result<LockGrant, WireError>>;
    /// As `try_lock`, waiting without a deadline; `None` when `give_up` came first.
    fn wait_lock<'a>(
        &'a self,
        session: ClientId,
        ask: LockRequest,
        give_up: &'a mut BoxFuture<'static, ()>,
    ) -> BoxFuture<'a, Result<Option<LockGrant>, WireError>>;
    /// Gives up a range; nothing is left to be done when `session` has ended.
    fn unlock(
        &self,
        session: ClientId,
        what: (Ino, LockSpace, u64),
        range: (u64, u64),
    ) -> BoxFuture<'_, Result<(), WireError>>;
    /// The first lock that excludes this one.
    fn lock_conflict(&self, ask: LockRequest)
    -> BoxFuture<'_, Result<Option<HeldLock>, WireError>>;
    /// Where a file is, as far as this client saw it.
    fn path_hint(&self, ino: Ino) -> Option<PathHint> {
        let _ = ino;
        None
    }
    /// A store's copy is damaged; it will be verified and repaired. Returns at once.
    fn report_damage(&self, ino: Ino, store: StoreId, object: ObjectId);
}

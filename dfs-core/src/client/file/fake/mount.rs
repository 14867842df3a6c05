//! One mount of the fake cluster.
use super::Cluster;
use crate::client::file::backend::{Backend, BoxFuture, OpHandle, Opened};
use crate::client::file::layer::FileLayer;
use crate::client::file::layout::LayoutCache;
use crate::client::{LockGrant, SetAttrArgs};
use crate::types::{
    ChunkNo, ClientId, Extent, HeldLock, Ino, LockRequest, LockSpace, LogIndex, ObjectId, OpId,
    PgMap, StoreId, Time, Timestamp, VersionNo,
};
use crate::wire::master::{ChunkLayout, Layout, Touched};
use crate::wire::{ErrorCode, Mutation, MutationOk, ReplicaRequest, ReplicaResponse, WireError};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

pub(in crate::client::file) struct FakeMount {
    pub cluster: Arc<Cluster>,
    pub(super) client: AtomicU64,
    pub(super) next_op: AtomicU64,
    pub(super) start: tokio::time::Instant,
    pub caches_valid: AtomicBool,
    pub layer: Mutex<Weak<FileLayer>>,
}

struct Op(OpId);
impl OpHandle for Op {
    fn op(&self) -> OpId {
        self.0
    }
}

impl FakeMount {
    fn id(&self) -> ClientId {
        ClientId(self.client.load(Ordering::SeqCst).into())
    }

    async fn run_mutation(&self, op: OpId, body: Mutation) -> Result<MutationOk, WireError> {
        tokio::time::sleep(Duration::from_micros(300)).await;
        if op.client != self.id() {
            return Err(ErrorCode::SessionExpired.into());
        }
        let (result, tell, touched) = {
            let mut guard = self.cluster.master();
            let master = &mut *guard;
            if let Some(decided) = master.decided.get(&op) {
                return decided.clone();
            }
            let map = Arc::clone(&self.cluster.map);
            let (result, ino) = match &body {
                Mutation::Commit(commit) => (master.commit(op, &map, commit), Some(commit.ino)),
                Mutation::CommitLast(commit) => {
                    let done = master.commit(op, &map, commit);
                    if done.is_ok() {
                        master.seal(commit.ino, commit.token);
                    }
                    (done, Some(commit.ino))
                }
                Mutation::Abandon { op } => {
                    let aborted = || Err(ErrorCode::OpAborted.into());
                    master.decided.entry(*op).or_insert_with(aborted);
                    (Ok(MutationOk::Done), None)
                }
                Mutation::Seal { ino, token } => {
                    master.seals += 1;
                    master.seal(*ino, *token);
                    (Ok(MutationOk::Attr(master.attr(*ino))), None)
                }
                Mutation::Accessed { times } => {
                    master.accessed.push(times.clone());
                    (Ok(MutationOk::Done), None)
                }
                Mutation::SetAttr { ino, .. } => {
                    (Ok(MutationOk::Attr(master.attr(*ino))), Some(*ino))
                }
                _ => (Err(ErrorCode::NotSupported.into()), None),
            };
            let final_answer = match &result {
                Ok(_) => true,
                Err(e) => e.code.class() == crate::wire::ErrorClass::Permanent,
            };
            if final_answer {
                master.decided.insert(op, result.clone());
            }
            let mut tell = BTreeSet::new();
            if let (Ok(_), Some(ino)) = (&result, ino) {
                let file = master.files.get_mut(&ino).unwrap();
                tell = std::mem::take(&mut file.interest);
                if tell.remove(&self.id()) {
                    file.interest.insert(self.id());
                }
            }
            (result, tell, ino)
        };
        for client in tell {
            if let Some(layer) = self.cluster.layer_of(client) {
                let ino = touched.unwrap();
                layer.invalidated(
                    &[Touched {
                        ino,
                        attrs: true,
                        content: true,
                        entries: false,
                    }],
                    LogIndex(0),
                );
            }
        }
        tokio::time::sleep(Duration::from_micros(300)).await;
        result
    }

    async fn run_open(&self, ino: Ino, write: bool) -> Result<Opened, WireError> {
        tokio::time::sleep(Duration::from_micros(200)).await;
        let me = self.id();
        let (recalls, shared, loses) = {
            let mut master = self.cluster.master();
            master.opens += 1;
            let file = master.files.get_mut(&ino).ok_or(ErrorCode::NotFound)?;
            let conflict = |w: bool| write || w;
            let others: Vec<ClientId> = (file.opens.iter())
                .filter(|(c, w)| **c != me && conflict(**w))
                .map(|(c, _)| *c)
                .collect();
            *file.opens.entry(me).or_default() |= write;
            if master.refuses_opens {
                return Err(ErrorCode::Stale.into());
            }
            let loses = std::mem::take(&mut master.loses_session_at_open);
            (others.clone(), !others.is_empty(), loses)
        };
        if let Some(layer) = self.cluster.layer_of(me).filter(|_| loses) {
            layer.session_lost();
        }
        for client in recalls {
            if let Some(layer) = self.cluster.layer_of(client) {
                layer.recalled(ino, true).await;
            }
        }
        let mut master = self.cluster.master();
        let attr = master.attr(ino);
        let file = master.files.get_mut(&ino).unwrap();
        file.interest.insert(me);
        let layout = Some(answer(&file.layout, ChunkNo(0), 1));
        Ok(Opened {
            attr,
            lease: file.lease,
            shared,
            layout,
        })
    }
}

fn answer(layout: &LayoutCache, first: ChunkNo, count: u32) -> Layout {
    let mut chunks = Vec::new();
    for no in first.0..first.0 + count {
        let chunk = ChunkNo(no);
        let from = chunk.start();
        let mapped = layout.map(from, (from + (4 << 20)).min(layout.size.max(from)));
        let extents: Vec<Extent> = mapped
            .into_iter()
            .filter_map(|m| {
                let (e, object_offset) = m.source?;
                let (start, len) = ((m.from - from) as u32, (m.to - m.from) as u32);
                Some(Extent {
                    start,
                    len,
                    object_offset,
                    ..e
                })
            })
            .collect();
        if !extents.is_empty() {
            chunks.push(ChunkLayout { chunk, extents });
        }
    }
    Layout {
        revision: layout.revision,
        op: layout.op,
        size: layout.size,
        chunks,
        next: Some(ChunkNo(first.0 + count)),
    }
}

impl Backend for FakeMount {
    fn client(&self) -> ClientId {
        self.id()
    }
    fn now(&self) -> Time {
        Time(1 + self.start.elapsed().as_nanos() as u64)
    }
    fn wall(&self) -> Timestamp {
        let now = self.now();
        Timestamp::from_log_time(Time(now.0 + 1_000_000_000_000))
    }
    fn caches_valid(&self) -> bool {
        self.caches_valid.load(Ordering::SeqCst)
    }
    fn begin_op(&self) -> Box<dyn OpHandle> {
        let seq = self.next_op.fetch_add(1, Ordering::SeqCst);
        Box::new(Op(OpId {
            client: self.id(),
            seq,
        }))
    }
    fn pg_map(&self) -> Arc<PgMap> {
        Arc::clone(&self.cluster.map)
    }
    fn refresh_map(&self, _newer_than: LogIndex) -> BoxFuture<'_, Arc<PgMap>> {
        Box::pin(async { self.pg_map() })
    }
    fn replica_call(
        &self,
        to: StoreId,
        request: ReplicaRequest,
        payload: Vec<Bytes>,
        within: Duration,
    ) -> BoxFuture<'_, Result<(ReplicaResponse, Bytes), WireError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(100 + to.0 as u64 * 50)).await;
            if self.cluster.master().stores[&to].down {
                tokio::time::sleep(within).await;
                return Err(ErrorCode::UnknownOutcome.into());
            }
            let answer = self
                .cluster
                .master()
                .replica(to, request, payload.concat().into());
            tokio::time::sleep(Duration::from_micros(100)).await;
            answer
        })
    }
    fn mutate_as(
        &self,
        op: OpId,
        body: Mutation,
        _within: Duration,
    ) -> BoxFuture<'_, Result<MutationOk, WireError>> {
        Box::pin(self.run_mutation(op, body))
    }
    fn mutate(&self, body: Mutation) -> BoxFuture<'_, Result<MutationOk, WireError>> {
        let op = self.begin_op().op();
        Box::pin(self.run_mutation(op, body))
    }
    fn hold_later(&self) -> Option<(Box<dyn Send>, LogIndex)> {
        Some((Box::new(()), LogIndex(1)))
    }
    fn set_attr(
        &self,
        ino: Ino,
        args: SetAttrArgs,
        _sole_at: LogIndex,
    ) -> BoxFuture<'_, Result<crate::types::Attr, WireError>> {
        let op = self.begin_op().op();
        Box::pin(async move {
            match self.run_mutation(op, args.body(ino)).await? {
                MutationOk::Attr(attr) => Ok(attr),
                _ => Err(ErrorCode::BadRequest.into()),
            }
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
            tokio::time::sleep(Duration::from_micros(200)).await;
            let mut master = self.cluster.master();
            master.queries += 1;
            let file = master.files.get_mut(&ino).ok_or(ErrorCode::NotFound)?;
            let layout = match version {
                Some(v) => file.versions.get(&v).ok_or(ErrorCode::NotFound)?,
                None => {
                    file.interest.insert(self.id());
                    &file.layout
                }
            };
            Ok(answer(layout, first, count))
        })
    }
    fn open(&self, ino: Ino, write: bool) -> BoxFuture<'_, Result<Opened, WireError>> {
        Box::pin(self.run_open(ino, write))
    }
    fn drop_session(&self, client: ClientId) {
        assert_ne!(client, self.id(), "the fake master always answers");
    }
    fn release(&self, inos: Vec<Ino>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(200)).await;
            let mut master = self.cluster.master();
            for ino in inos {
                if let Some(file) = master.files.get_mut(&ino) {
                    file.opens.remove(&self.id());
                }
            }
        })
    }
    fn try_lock(
        &self,
        session: ClientId,
        ask: LockRequest,
    ) -> BoxFuture<'_, Result<LockGrant, WireError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(300)).await;
            if session != self.id() {
                return Err(ErrorCode::SessionExpired.into());
            }
            let mut master = self.cluster.master();
            let holder = (session, ask.owner);
            if *master.locked.entry(ask.ino).or_insert(holder) != holder {
                return Err(ErrorCode::Locked.into());
            }
            let attr = master.attr(ask.ino);
            let file = master.files.get_mut(&ask.ino).unwrap();
            file.interest.insert(session);
            Ok(LockGrant {
                attr,
                as_of: LogIndex(0),
                layout: Some(answer(&file.layout, ChunkNo(0), 1)),
            })
        })
    }
    fn wait_lock<'a>(
        &'a self,
        session: ClientId,
        ask: LockRequest,
        give_up: &'a mut BoxFuture<'static, ()>,
    ) -> BoxFuture<'a, Result<Option<LockGrant>, WireError>> {
        Box::pin(async move {
            loop {
                match self.try_lock(session, ask).await {
                    Err(e) if e.code == ErrorCode::Locked => {}
                    other => return other.map(Some),
                }
                let pause = tokio::time::sleep(Duration::from_millis(1));
                tokio::select! {
                    () = pause => {}
                    () = &mut *give_up => return Ok(None),
                }
            }
        })
    }
    fn unlock(
        &self,
        session: ClientId,
        (ino, _, owner): (Ino, LockSpace, u64),
        _range: (u64, u64),
    ) -> BoxFuture<'_, Result<(), WireError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(300)).await;
            let delay = {
                let mut master = self.cluster.master();
                master.unlocks += 1;
                if master.lost_unlocks > 0 {
                    master.lost_unlocks -= 1;
                    return Err(ErrorCode::UnknownOutcome.into());
                }
                master.commits_at_unlock = Some(master.commits);
                if master.locked.get(&ino) == Some(&(session, owner)) {
                    master.locked.remove(&ino);
                }
                master.unlock_delay
            };
            tokio::time::sleep(delay).await;
            Ok(())
        })
    }
    fn lock_conflict(
        &self,
        _ask: LockRequest,
    ) -> BoxFuture<'_, Result<Option<HeldLock>, WireError>> {
        Box::pin(async { Ok(None) })
    }
    fn report_damage(&self, _ino: Ino, _store: StoreId, _object: ObjectId) {}
}

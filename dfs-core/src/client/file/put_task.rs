//! Runs a [`PutMachine`] against the [`Backend`]: sends what it asks for and feeds back answers.
use super::backend::{Backend, BoxFuture};
use crate::client::get::Piece;
use crate::client::leisure::Leisure;
use crate::client::put::{
    PutAction, PutConfig, PutDone, PutError, PutEvent, PutMachine, PutObject, PutSpec,
};
use crate::types::{BLOCK_SIZE, LeaseSeq, ObjectId, PgId, StoreId, Time};
use crate::wire::{Commit, ErrorCode, Mutation, ReplicaRequest, ReplicaResponse, WireError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Waits until this put may be committed: the earlier ones of the inode are decided.
pub(super) type Turn = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Gets another write lease; `None`: there is none to be had.
pub(super) type Renew = Box<dyn Fn() -> BoxFuture<'static, Option<LeaseSeq>> + Send>;

/// See [`PutTask::ends`].
pub(super) type Ends = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a put is told from outside while it runs.
pub(super) enum Feed {
    /// One more object with its bytes.
    Object(PutObject, Vec<Bytes>),
    /// The last object was fed; new size.
    Complete(u64),
    /// Give up.
    Cancel,
}

/// One put on its way. See the [module docs](self).
pub(super) struct PutTask {
    pub backend: Arc<dyn Backend>,
    pub config: PutConfig,
    pub spec: PutSpec,
    /// Bytes by object index, in pieces.
    pub bytes: BTreeMap<u32, Vec<Bytes>>,
    /// Changes when the session is lost.
    pub sessions: watch::Receiver<u64>,
    pub turn: Turn,
    /// Opens the inode for writing again.
    pub renew: Renew,
    /// Says, once and for all, whether its writing period has ended when it is committed.
    pub ends: Option<Ends>,
    /// It may wait: its prepares, and then its commit.
    pub leisure: Option<Arc<Leisure>>,
    /// More objects, for a streamed put.
    pub feed: Option<mpsc::Receiver<Feed>>,
    /// Told of objects that W members hold (their bytes are let go), for a streamed put.
    pub stored: Option<mpsc::UnboundedSender<u32>>,
}

impl PutTask {
    /// Runs the put to its end. The slowest member is still being sent to afterwards.
    pub async fn run(mut self) -> Result<PutDone, PutError> {
        if let Some(leisure) = &self.leisure {
            leisure.hold().await;
        }
        let (events_in, mut events) = mpsc::unbounded_channel();
        let mut driver = Driver {
            backend: Arc::clone(&self.backend),
            op: self.spec.op,
            turn: Some(self.turn),
            renew: self.renew,
            ends: self.ends,
            leisure: self.leisure,
            events: events_in,
            timer: None,
            deadline: self.config.deadline,
            objects: BTreeMap::new(),
            bytes: std::mem::take(&mut self.bytes),
            stored: self.stored.take(),
            finished: None,
        };
        driver.learn(&self.spec.objects, 0);
        let mut next_index = u32::try_from(self.spec.objects.len()).unwrap_or(u32::MAX);
        let mut out = Vec::new();
        let (now, map) = (self.backend.now(), self.backend.pg_map());
        let mut put = PutMachine::start(now, self.config, self.spec, map, &mut out);
        loop {
            for action in out.drain(..) {
                driver.perform(action, &put);
            }
            if let Some(result) = driver.finished.take() {
                return result;
            }
            let pause = driver.pause();
            let event = tokio::select! {
                Some(event) = events.recv() => event,
                _ = self.sessions.changed() => PutEvent::SessionLost,
                Some(fed) = next(&mut self.feed) => match fed {
                    Feed::Object(object, bytes) => {
                        driver.learn(std::slice::from_ref(&object), next_index);
                        driver.bytes.insert(next_index, bytes);
                        next_index += 1;
                        PutEvent::Object(object)
                    }
                    Feed::Complete(size) => PutEvent::Complete { size },
                    Feed::Cancel => PutEvent::Cancel,
                },
                () = tokio::time::sleep(pause) => PutEvent::Tick,
            };
            driver.timer = None; // The machine names the next one, if it needs any.
            put.handle(self.backend.now(), event, &mut out);
        }
    }
}

async fn next(feed: &mut Option<mpsc::Receiver<Feed>>) -> Option<Feed> {
    match feed {
        Some(feed) => feed.recv().await,
        None => std::future::pending().await,
    }
}

struct Driver {
    backend: Arc<dyn Backend>,
    op: crate::types::OpId,
    turn: Option<Turn>,
    renew: Renew,
    ends: Option<Ends>,
    leisure: Option<Arc<Leisure>>,
    events: mpsc::UnboundedSender<PutEvent>,
    timer: Option<Time>,
    deadline: Duration,
    objects: BTreeMap<u32, PutObject>,
    bytes: BTreeMap<u32, Vec<Bytes>>,
    stored: Option<mpsc::UnboundedSender<u32>>,
    finished: Option<Result<PutDone, PutError>>,
}

impl Driver {
    fn learn(&mut self, objects: &[PutObject], first: u32) {
        self.objects.extend((first..).zip(objects.iter().cloned()));
    }

    fn pause(&self) -> Duration {
        let at = self.timer.map(|at| at.since(self.backend.now()));
        at.unwrap_or(Duration::from_secs(3600))
            .max(Duration::from_micros(200))
    }

    fn perform(&mut self, action: PutAction, put: &PutMachine) {
        let (backend, events) = (Arc::clone(&self.backend), self.events.clone());
        match action {
            PutAction::Prepare {
                token,
                to,
                request,
                bytes_of,
            } => {
                self.prepare(token, to, request, &bytes_of, put);
            }
            PutAction::Stored { index } => {
                if let Some(stored) = &self.stored {
                    self.bytes.remove(&index);
                    // The writer may have gone: then nobody waits for it.
                    let _ = stored.send(index);
                }
            }
            PutAction::RefreshMap { newer_than } => {
                tokio::spawn(async move {
                    let map = backend.refresh_map(newer_than).await;
                    let _ = events.send(PutEvent::Map(map));
                });
            }
            PutAction::Commit(commit) => {
                let within = put.commit_within(backend.now());
                self.commit(commit, within);
            }
            PutAction::DropSession => backend.drop_session(self.op.client),
            PutAction::RenewLease => {
                let lease = (self.renew)();
                tokio::spawn(async move {
                    let _ = events.send(PutEvent::Renewed(lease.await));
                });
            }
            PutAction::Abandon => {
                let body = Mutation::Abandon { op: self.op };
                tokio::spawn(async move {
                    let result = backend.mutate(body).await;
                    let _ = events.send(PutEvent::Abandoned(result));
                });
            }
            PutAction::Drop { to, request } => {
                tokio::spawn(async move {
                    // Lost: the store hears of the abort from the master.
                    let within = Duration::from_secs(2);
                    let _ = backend.replica_call(to, request, Vec::new(), within).await;
                });
            }
            PutAction::SetTimer { at } => self.timer = Some(at),
            PutAction::Finish(result) => self.finished = Some(result),
        }
    }

    fn commit(&mut self, commit: Commit, within: Duration) {
        let (backend, events, op) = (Arc::clone(&self.backend), self.events.clone(), self.op);
        let (turn, leisure, ends) = (self.turn.take(), self.leisure.clone(), self.ends.clone());
        let until = self.backend.now() + within;
        tokio::spawn(async move {
            if let Some(turn) = turn {
                turn().await;
            }
            if let Some(leisure) = leisure {
                leisure.hold().await;
            }
            let within = until.since(backend.now());
            let body = match ends.is_some_and(|ends| ends()) {
                true => Mutation::CommitLast(Box::new(commit)),
                false => Mutation::Commit(commit),
            };
            let result = backend.mutate_as(op, body, within).await;
            let _ = events.send(PutEvent::Committed(result));
        });
    }

    fn prepare(
        &mut self,
        token: u64,
        to: StoreId,
        request: ReplicaRequest,
        bytes_of: &[u32],
        put: &PutMachine,
    ) {
        let (backend, events) = (Arc::clone(&self.backend), self.events.clone());
        let within = self.deadline;
        let have = bytes_of.iter().all(|i| self.bytes.contains_key(i));
        let mut parts = Vec::new();
        for index in bytes_of {
            let bytes = self.bytes.get(index).cloned();
            let object = self.objects.get(index).cloned();
            parts.push((*index, bytes, object, put.holders(*index)));
        }
        let op = self.op;
        tokio::spawn(async move {
            let mut payload = Vec::new();
            for (index, bytes, object, holders) in parts {
                match (bytes, object) {
                    (Some(bytes), _) => payload.extend(bytes),
                    (None, Some(object)) if !have => {
                        // Let go after W members had it: one of them gives it back.
                        let id = ObjectId { op, index };
                        match fetch(&*backend, id, &object, &holders).await {
                            Ok(bytes) => payload.push(bytes),
                            Err(e) => {
                                let _ = events.send(PutEvent::Prepared {
                                    token,
                                    result: Err(e),
                                });
                                return;
                            }
                        }
                    }
                    (None, _) => {
                        let e = WireError::new(ErrorCode::Internal, "bytes of an unknown object");
                        let _ = events.send(PutEvent::Prepared {
                            token,
                            result: Err(e),
                        });
                        return;
                    }
                }
            }
            let result = match backend.replica_call(to, request, payload, within).await {
                Ok((ReplicaResponse::Prepared { store }, _)) => Ok(store),
                Ok(_) => Err(WireError::new(
                    ErrorCode::BadRequest,
                    "no answer to a PREPARE",
                )),
                Err(e) => Err(e),
            };
            let _ = events.send(PutEvent::Prepared { token, result });
        });
    }
}

/// Reads a whole uncommitted object back from a store that acked it, and verifies it.
async fn fetch(
    backend: &dyn Backend,
    id: ObjectId,
    object: &PutObject,
    holders: &[StoreId],
) -> Result<Bytes, WireError> {
    let len = object.sum.len;
    let mut last = WireError::new(ErrorCode::Unavailable, "nobody holds the object");
    for &to in holders {
        let request = ReplicaRequest::Read {
            object: id,
            offset: 0,
            len,
            stamp: None,
        };
        match backend
            .replica_call(to, request, Vec::new(), Duration::from_secs(10))
            .await
        {
            Ok((ReplicaResponse::Read { offset: 0, .. }, bytes))
                if bytes.len() == len as usize && object.sums.verify_blocks(0, &bytes) =>
            {
                return Ok(bytes);
            }
            Ok(_) => last = WireError::new(ErrorCode::Corrupt, "a copy fails its checksum"),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The blocks of a put's object as cache entries: key and bytes.
pub(super) fn blocks_of(piece: &Piece, bytes: &Bytes) -> Vec<((ObjectId, u32), Bytes)> {
    let block = |(i, start): (u32, usize)| {
        let end = (start + BLOCK_SIZE).min(bytes.len());
        (
            (piece.object, piece.first_block + i),
            bytes.slice(start..end),
        )
    };
    (0u32..)
        .zip((0..bytes.len()).step_by(BLOCK_SIZE))
        .map(block)
        .collect()
}

/// A whole object as one piece.
pub(super) fn whole(object: ObjectId, pg: PgId, sum: crate::types::ObjectSum) -> Piece {
    let blocks = sum.len.div_ceil(BLOCK_SIZE as u32);
    Piece {
        object,
        pg,
        sum,
        first_block: 0,
        blocks,
    }
}

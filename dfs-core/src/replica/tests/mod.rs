//! One replica over a simulated disk, driven by hand: the test is master, clients and peers.
mod catching_up;
mod configuration;
mod faults;
mod healing;
mod namespace;
mod pacing;
mod puts;
mod quarantine;
mod reconcile;
mod returning;
mod scrubbing;

use self::faults::{Faults, FaultyDisk};
use super::event::{ReadJob, ReplicaAction, ReplicaEvent};
use super::scrub_job::{self, ScrubJob};
use super::{Replica, ReplicaConfig, read};
use crate::store::{
    MemBase, ObjectStore, PendingBatch, RestReason, SimDisk, StoreMeta, StoreOptions, StoreWriter,
};
use crate::types::{
    BlockSums, ChunkNo, ClientId, ClusterId, Epoch, Incarnation, Ino, LogIndex, NodeId, ObjectId,
    ObjectSum, OpId, PgId, PgInfo, PgMap, PgPhase, QuorumSizes, Revision, StoreId, Term, Time,
};
use crate::wire::master::{Heartbeat, HeartbeatOk, MasterResponse, Note};
use crate::wire::replica::{MarkRequest, PrepareObject, StampRequest};
use crate::wire::rpc::{Call, CallResult, ConnId, Reply, ReplyTo};
use crate::wire::{
    ErrorCode, MasterRequest, ReplicaRequest, ReplicaResponse, Request, Response, Stamp, WireError,
};
use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::Duration;

/// The store under test; its peers have other numbers.
pub const ME: StoreId = StoreId(1 << 96);
pub const PG: PgId = PgId(0);
pub const INO: Ino = Ino(7);
pub const LEASE: Duration = Duration::from_secs(2);

pub fn peer(n: u128) -> StoreId {
    StoreId(n << 96)
}

pub fn op(seq: u64) -> OpId {
    OpId {
        client: ClientId(9 << 96),
        seq,
    }
}

pub fn id(seq: u64) -> ObjectId {
    ObjectId {
        op: op(seq),
        index: 0,
    }
}

pub fn content(seq: u64) -> Bytes {
    format!("bytes of object {seq}").into_bytes().into()
}

pub fn sum(seq: u64) -> ObjectSum {
    let bytes = content(seq);
    BlockSums::of(&bytes).object_sum(bytes.len() as u32)
}

pub fn info(epoch: u64, members: &[u128]) -> PgInfo {
    PgInfo {
        epoch: Epoch(epoch),
        members: members.iter().map(|n| peer(*n)).collect(),
        filling: Vec::new(),
        prior: Vec::new(),
        phase: PgPhase::Active,
    }
}

/// A map of one group.
pub fn map(version: u64, info: PgInfo) -> PgMap {
    PgMap {
        version: LogIndex(version),
        quorum: QuorumSizes::DEFAULT,
        pgs: vec![info],
    }
}

pub struct Rig {
    pub now: Time,
    pub replica: Replica,
    pub disk: SimDisk,
    pub faults: Faults,
    pub base: MemBase,
    pub store: ObjectStore,
    pub writer: StoreWriter,
    pub pending: Vec<(u64, PendingBatch)>,
    pub replies: Vec<Reply>,
    pub calls: Vec<Call>,
    pub reads: Vec<ReadJob>,
    pub scrubs: Vec<ScrubJob>,
    pub namespace: Vec<(u64, Result<(), String>)>,
    pub requests: u64,
    pub rejoin_wipe: bool,
}

fn open(disk: &SimDisk, base: &MemBase, faults: &Faults) -> (ObjectStore, StoreWriter) {
    let (meta, _) = StoreMeta::open_or_create(disk, ClusterId(1), ME).unwrap();
    let base = Arc::new(base.clone());
    let disk = FaultyDisk {
        inner: disk.clone(),
        faults: faults.clone(),
    };
    ObjectStore::open(Arc::new(disk), base, &meta, StoreOptions::default()).unwrap()
}

fn start(store: &ObjectStore, now: Time, rejoin_wipe: bool) -> Replica {
    let addr = "127.0.0.1:1000".parse().unwrap();
    let mut config = ReplicaConfig::new(ME, NodeId(1), Incarnation(1), addr);
    config.rejoin_wipe = rejoin_wipe;
    Replica::recover(config, now, store).unwrap()
}

impl Rig {
    pub fn new() -> Self {
        let (disk, base, faults) = (SimDisk::new(), MemBase::new(), Faults::default());
        let (store, writer) = open(&disk, &base, &faults);
        let now = Time(1_000_000_000);
        Self {
            now,
            replica: start(&store, now, false),
            rejoin_wipe: false,
            disk,
            faults,
            base,
            store,
            writer,
            pending: Vec::new(),
            replies: Vec::new(),
            calls: Vec::new(),
            reads: Vec::new(),
            scrubs: Vec::new(),
            namespace: Vec::new(),
            requests: 0,
        }
    }

    /// A member of an active group at epoch 1 with a fresh lease; peers 2 and 3.
    pub fn serving() -> Self {
        let mut rig = Self::new();
        rig.learn(map(10, info(1, &[1, 2, 3])));
        rig
    }

    pub fn event(&mut self, event: ReplicaEvent) {
        let mut out = Vec::new();
        self.replica
            .handle(self.now, event, &mut self.store, &mut out);
        for action in out {
            match action {
                ReplicaAction::Reply(reply) => self.replies.push(reply),
                ReplicaAction::Persist { token, batch } => self.pending.push((token, batch)),
                ReplicaAction::Call(call) => self.calls.push(call),
                ReplicaAction::Read(job) => self.reads.push(job),
                ReplicaAction::Scrub(job) => self.scrubs.push(job),
                ReplicaAction::NamespaceDone { token, result } => {
                    self.namespace.push((token, result));
                }
            }
        }
    }

    pub fn tick(&mut self, after: Duration) {
        self.now = self.now + after;
        self.event(ReplicaEvent::Tick);
    }

    /// The storage thread catches up.
    pub fn settle(&mut self) {
        while !self.pending.is_empty() {
            let (tokens, batches): (Vec<_>, Vec<_>) = self.pending.drain(..).unzip();
            let result = self.writer.commit(&batches).map_err(|e| e.to_string());
            for token in tokens {
                self.event(ReplicaEvent::Persisted {
                    token,
                    result: result.clone(),
                });
            }
        }
    }

    /// Starts again with another configuration.
    pub fn change_config(&mut self, change: impl FnOnce(&mut ReplicaConfig)) {
        let addr = "127.0.0.1:1000".parse().unwrap();
        let mut config = ReplicaConfig::new(ME, NodeId(1), Incarnation(1), addr);
        change(&mut config);
        self.replica = Replica::recover(config, self.now, &self.store).unwrap();
    }

    /// Loses what is not durable and starts again.
    pub fn crash(&mut self) {
        self.disk.crash(&mut ChaCha8Rng::seed_from_u64(3));
        (self.store, self.writer) = open(&self.disk, &self.base, &self.faults);
        self.replica = start(&self.store, self.now, self.rejoin_wipe);
        self.pending.clear();
        self.replies.clear();
        self.calls.clear();
        self.reads.clear();
        self.scrubs.clear();
    }

    pub fn request(&mut self, body: ReplicaRequest, payload: Bytes) -> ReplyTo {
        self.requests += 1;
        let from = ReplyTo {
            conn: ConnId(1),
            id: self.requests,
        };
        self.event(ReplicaEvent::Request {
            from,
            body,
            payload,
        });
        from
    }

    /// The answer to a request, if it is there.
    pub fn reply(&mut self, to: ReplyTo) -> Option<Result<ReplicaResponse, WireError>> {
        let at = self.replies.iter().position(|r| r.to == to)?;
        let body = self.replies.remove(at).body;
        Some(body.map(|response| match response {
            Response::Replica(response) => response,
            other => panic!("{other:?}"),
        }))
    }

    pub fn refusal(&mut self, to: ReplyTo) -> ErrorCode {
        match self.reply(to) {
            Some(Err(error)) => error.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub fn prepare_at(&mut self, seq: u64, epoch: u64, has_bytes: bool) -> ReplyTo {
        let bytes = content(seq);
        let object = PrepareObject {
            id: id(seq),
            chunk: ChunkNo(0),
            pg: PG,
            epoch: Epoch(epoch),
            len: bytes.len() as u32,
            sums: BlockSums::of(&bytes),
            has_bytes,
        };
        let mark = Some(MarkRequest {
            pg: PG,
            epoch: Epoch(epoch),
        });
        let body = ReplicaRequest::Prepare {
            op: op(seq),
            ino: INO,
            mark,
            objects: vec![object],
            about: None,
        };
        self.request(body, if has_bytes { bytes } else { Bytes::new() })
    }

    pub fn prepare(&mut self, seq: u64) -> ReplyTo {
        self.prepare_at(seq, 1, true)
    }

    pub fn is_acked(&mut self, to: ReplyTo) -> bool {
        matches!(
            self.reply(to),
            Some(Ok(ReplicaResponse::Prepared { store: ME }))
        )
    }

    pub fn stamp(&mut self, ino: Ino, epoch: u64) -> Result<Stamp, ErrorCode> {
        let wanted = StampRequest {
            ino,
            pg: PG,
            epoch: Epoch(epoch),
        };
        let to = self.request(ReplicaRequest::Stamp(wanted), Bytes::new());
        match self.reply(to).expect("stamps are answered at once") {
            Ok(ReplicaResponse::Stamp(stamp)) => Ok(stamp),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        }
    }

    pub fn holds(&self, seq: u64) -> bool {
        self.store
            .read_object(id(seq), 0, u32::MAX)
            .is_ok_and(|r| r.bytes == content(seq))
    }

    /// What the last read job of the machine gives.
    pub fn run_read(&mut self) -> Result<Bytes, ErrorCode> {
        let job = self.reads.pop().expect("a read was asked");
        let (reply, damaged) = read::plan(job, &self.store).run();
        for object in damaged {
            self.event(ReplicaEvent::Damaged { object });
        }
        reply
            .body
            .map(|_| reply.payload[0].clone())
            .map_err(|e| e.code)
    }

    /// Does what the scrub asked of the disk; returns how many objects that were.
    pub fn run_scrubs(&mut self) -> usize {
        let mut objects = 0;
        for job in std::mem::take(&mut self.scrubs) {
            objects += job.objects.len();
            let now = self.now;
            let done = scrub_job::plan(job, &self.store).run(|| now);
            self.event(ReplicaEvent::Scrubbed(done));
        }
        objects
    }

    /// The heartbeat under way; waits for one if there is none.
    pub fn heartbeat(&mut self) -> (u64, Heartbeat) {
        for _ in 0..100 {
            let is_heartbeat =
                |c: &Call| matches!(c.request, Request::Master(MasterRequest::Heartbeat(_)));
            if let Some(at) = self.calls.iter().position(is_heartbeat) {
                let call = self.calls.remove(at);
                let Request::Master(MasterRequest::Heartbeat(heartbeat)) = call.request else {
                    unreachable!("found above");
                };
                return (call.token, heartbeat);
            }
            self.tick(Duration::from_millis(20));
        }
        panic!("no heartbeat in two seconds");
    }

    pub fn ok(&self, heartbeat: &Heartbeat) -> HeartbeatOk {
        HeartbeatOk {
            sent_at: heartbeat.sent_at,
            term: Term(1),
            lease: Some(LEASE),
            map: None,
            notes: Vec::new(),
            notes_upto: LogIndex(0),
            stores: (2..6)
                .map(|n| (peer(n), "127.0.0.1:2000".parse().unwrap()))
                .collect(),
            repair_paused: false,
            repair_rate: 0,
            space: Default::default(),
            repair: Default::default(),
            trimmed: LogIndex(0),
            is_told_all: true,
        }
    }

    /// Answers the next heartbeat, changed by `change`.
    pub fn answer(&mut self, change: impl FnOnce(&mut HeartbeatOk)) -> Heartbeat {
        let (token, heartbeat) = self.heartbeat();
        let mut ok = self.ok(&heartbeat);
        change(&mut ok);
        let response = Response::Master(MasterResponse::Heartbeat(Box::new(ok)));
        self.event(ReplicaEvent::CallDone {
            token,
            result: Ok((response, Bytes::new())),
        });
        heartbeat
    }

    /// Learns a map, and makes durable what follows from it.
    pub fn learn(&mut self, map: PgMap) {
        self.answer(|ok| ok.map = Some(map));
        self.settle();
    }

    /// Is told a note.
    pub fn tell(&mut self, index: u64, note: Note) {
        self.answer(|ok| {
            ok.notes = vec![(LogIndex(index), PG, note)];
            ok.notes_upto = LogIndex(index);
        });
        self.settle();
    }

    pub fn committed(&mut self, index: u64, seq: u64) {
        let note = Note::Committed {
            ino: INO,
            revision: Revision(seq),
            op: op(seq),
        };
        self.tell(index, note);
    }

    pub fn hold(&mut self, index: u64, seq: u64) {
        let objects = vec![(id(seq), sum(seq))];
        self.tell(
            index,
            Note::Hold {
                ino: INO,
                chunk: ChunkNo(0),
                objects,
            },
        );
    }

    /// Takes the next call that is no heartbeat.
    pub fn call(&mut self) -> Option<Call> {
        let is_other =
            |c: &Call| !matches!(c.request, Request::Master(MasterRequest::Heartbeat(_)));
        let at = self.calls.iter().position(is_other)?;
        Some(self.calls.remove(at))
    }

    pub fn call_done(&mut self, token: u64, result: CallResult) {
        self.event(ReplicaEvent::CallDone { token, result });
    }

    /// A peer answers a read with the content of object `seq`.
    pub fn give(&mut self, call: &Call, seq: u64) {
        let bytes = content(seq);
        let sums = BlockSums::of(&bytes);
        let response = ReplicaResponse::Fetched { sums, about: None };
        self.call_done(call.token, Ok((Response::Replica(response), bytes)));
    }
}

pub fn known(revision: u64, dirty: &[u64]) -> Result<Stamp, ErrorCode> {
    let by = if revision == 0 {
        OpId::default()
    } else {
        op(revision)
    };
    let dirty = dirty.iter().map(|seq| op(*seq)).collect();
    Ok(Stamp::Known {
        clean: (Revision(revision), by),
        dirty,
    })
}

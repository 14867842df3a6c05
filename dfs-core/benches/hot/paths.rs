//! The paths: what each prepares, and what one operation of it does.
use bytes::{Bytes, BytesMut};
use dfs_core::client::get::{
    GetAction, GetConfig, GetEvent, GetMachine, GetSpec, Piece, ReadAnswer,
};
use dfs_core::client::latency::Latencies;
use dfs_core::master::state::MasterState;
use dfs_core::master::{Command, LogEntry};
use dfs_core::replica::{Replica, ReplicaAction, ReplicaConfig, ReplicaEvent, read};
use dfs_core::store::{
    MemBase, MemKv, ObjectStore, PendingBatch, SimDisk, StoreMeta, StoreOptions, StoreWriter,
};
use dfs_core::types::about::{PathHint, PutAbout};
use dfs_core::types::{
    BlockSums, ChunkNo, ClientId, ClusterId, Epoch, FileKind, Incarnation, Ino, LogIndex, Name,
    NodeId, ObjectId, OpId, PgId, PgInfo, PgMap, PgPhase, QuorumSizes, Revision, StoreId, Term,
    Time, Timestamp,
};
use dfs_core::wire::frame::{decode, encode_head};
use dfs_core::wire::master::{HeartbeatOk, MasterResponse, Mutated};
use dfs_core::wire::mutation::NewNode;
use dfs_core::wire::replica::{MarkRequest, PrepareAbout, PrepareObject, StampRequest};
use dfs_core::wire::rpc::{ConnId, ReplyTo};
use dfs_core::wire::{
    Envelope, MasterRequest, Mutation, MutationOk, ReplicaRequest, Request, Response, Stamp,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLIENT: ClientId = ClientId(9 << 96);
/// Bytes of the objects put and got.
pub(super) const BLOCK: usize = 4096;

/// Time of `n` operations. What they worked on is not torn down: that would be counted too.
fn timed(n: u64, mut operation: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    (1..=n).for_each(&mut operation);
    let took = start.elapsed();
    std::mem::forget(operation);
    took
}

fn op(seq: u64) -> OpId {
    OpId {
        client: CLIENT,
        seq,
    }
}

fn store(n: u128) -> StoreId {
    StoreId(n << 96)
}

fn content(len: usize) -> Bytes {
    (0..len).map(|i| (i / 7) as u8).collect()
}

/// A map of one active group on three stores.
fn map() -> PgMap {
    let group = PgInfo {
        epoch: Epoch(1),
        members: (1..=3).map(store).collect(),
        filling: Vec::new(),
        prior: Vec::new(),
        phase: PgPhase::Active,
    };
    PgMap {
        version: LogIndex(10),
        quorum: QuorumSizes::DEFAULT,
        pgs: vec![group],
    }
}

fn object(seq: u64) -> ObjectId {
    ObjectId {
        op: op(seq),
        index: 0,
    }
}

/// The put of a whole small file, as a mount sends it.
fn prepare(seq: u64, len: u32, sums: BlockSums) -> ReplicaRequest {
    let (pg, epoch) = (PgId(0), Epoch(1));
    let put = PutAbout {
        path: Some(PathHint(b"/projects/reports/summary.txt".to_vec())),
        ..PutAbout::default()
    };
    let objects = vec![PrepareObject {
        id: object(seq),
        chunk: ChunkNo::HOME,
        pg,
        epoch,
        len,
        sums,
        has_bytes: true,
    }];
    ReplicaRequest::Prepare {
        op: op(seq),
        ino: Ino(1000 + seq),
        mark: Some(MarkRequest { pg, epoch }),
        objects,
        about: Some(Box::new(PrepareAbout {
            put,
            starts: vec![0],
        })),
    }
}

pub(super) fn prepare_frame() -> Envelope {
    let body = prepare(1, BLOCK as u32, BlockSums::of(&content(BLOCK)));
    Envelope::Request {
        id: 4711,
        body: Request::Replica(body),
    }
}

pub(super) fn mutated_frame() -> Envelope {
    let ok = Master::new().create(1);
    Envelope::Reply {
        id: 4711,
        body: Ok(Response::Master(MasterResponse::Mutated(Mutated::from(ok)))),
    }
}

pub(super) fn encode(n: u64, envelope: Envelope, payload_len: usize) -> Duration {
    timed(n, move |_| {
        let head = encode_head(black_box(&envelope), payload_len).expect("it fits");
        black_box(head);
    })
}

pub(super) fn decode_frame(n: u64, envelope: Envelope, payload_len: usize) -> Duration {
    let mut frame = encode_head(&envelope, payload_len).expect("it fits");
    frame.extend_from_slice(&content(payload_len));
    timed(n, move |_| {
        let mut buf = BytesMut::from(black_box(&frame[..]));
        let decoded = decode(&mut buf).expect("it is a frame");
        assert!(black_box(decoded).is_some_and(|f| f.payload.len() == payload_len));
    })
}

/// A master's state with one session, fed by hand.
struct Master {
    state: MasterState<MemKv>,
    index: u64,
}

impl Master {
    fn new() -> Self {
        let state = MasterState::open(MemKv::default()).expect("empty tables are whole");
        let mut this = Self { state, index: 0 };
        this.apply(Command::Bootstrap {
            cluster: ClusterId(1),
            quorum: QuorumSizes::DEFAULT,
            pgs: 256,
            voters: 3,
        });
        this.apply(Command::OpenSession {
            client: CLIENT,
            label: "bench".into(),
        });
        this
    }

    fn apply(&mut self, command: Command) -> Option<MutationOk> {
        self.index += 1;
        let entry = LogEntry {
            at: Time(self.index * 1000),
            command,
        };
        let applied = self.state.apply(LogIndex(self.index), Term(1), &entry);
        let result = applied.expect("the tables are whole").result;
        result.map(|(_, outcome)| outcome.expect("it is not refused"))
    }

    fn mutate(&mut self, seq: u64, body: Mutation) -> MutationOk {
        let (op, low) = (op(seq), seq);
        let done = self.apply(Command::Mutate { op, low, body });
        done.expect("a mutation has a result")
    }

    fn create(&mut self, seq: u64) -> MutationOk {
        let body = Mutation::Create {
            parent: Ino::ROOT,
            name: name(seq),
            node: file(),
            exclusive: true,
        };
        self.mutate(seq, body)
    }
}

fn name(seq: u64) -> Name {
    Name::new(format!("report-{seq}.txt")).expect("it is a name")
}

fn file() -> NewNode {
    NewNode {
        kind: FileKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: Vec::new(),
    }
}

pub(super) fn apply_create_unlink(n: u64) -> Duration {
    let mut master = Master::new();
    timed(n, move |i| {
        let seq = 2 * i;
        master.create(seq);
        let unlink = Mutation::Unlink {
            parent: Ino::ROOT,
            name: name(seq),
            purge: false,
        };
        black_box(master.mutate(seq + 1, unlink));
    })
}

pub(super) fn apply_create_as(n: u64) -> Duration {
    let mut master = Master::new();
    let count = u32::try_from(n).expect("a round is short");
    let MutationOk::Reserved { first } = master.mutate(1, Mutation::Reserve { count }) else {
        panic!("a reservation is answered as one");
    };
    let sole_at = LogIndex(master.index);
    timed(n, move |i| {
        let seq = i + 1;
        let body = Mutation::CreateAs {
            ino: Ino(first.0 + i - 1),
            parent: Ino::ROOT,
            name: name(seq),
            node: file(),
            at: Timestamp::from_log_time(Time(i)),
        };
        let made = master.apply(Command::MutateAfter {
            op: op(seq),
            low: i,
            after: i,
            sole_at,
            body,
        });
        black_box(made);
    })
}

/// A store with its machine, member of the one group, under a lease.
struct Node {
    replica: Replica,
    store: ObjectStore,
    writer: StoreWriter,
    now: Time,
}

impl Node {
    fn serving() -> Self {
        let disk = SimDisk::new();
        let (meta, _) = StoreMeta::open_or_create(&disk, ClusterId(1), store(1)).expect("no fault");
        let base = Arc::new(MemBase::new());
        let opened = ObjectStore::open(Arc::new(disk), base, &meta, StoreOptions::default());
        let (object_store, writer) = opened.expect("an empty store is whole");
        let addr = "127.0.0.1:1000".parse().expect("it is an address");
        let mut config = ReplicaConfig::new(store(1), NodeId(1), Incarnation(1), addr);
        config.waiting_bytes_max = u64::MAX;
        let now = Time(1_000_000_000);
        let replica = Replica::recover(config, now, &object_store).expect("the store is whole");
        let mut this = Self {
            replica,
            store: object_store,
            writer,
            now,
        };
        this.hear_of_the_map();
        this
    }

    fn handle(&mut self, event: ReplicaEvent) -> Vec<ReplicaAction> {
        let mut out = Vec::new();
        self.replica
            .handle(self.now, event, &mut self.store, &mut out);
        out
    }

    /// Waits for the first heartbeat and answers it with the map and a lease.
    fn hear_of_the_map(&mut self) {
        let heartbeat = loop {
            self.now = self.now + Duration::from_millis(20);
            let actions = self.handle(ReplicaEvent::Tick);
            let call = actions.into_iter().find_map(|action| match action {
                ReplicaAction::Call(call) => Some(call),
                _ => None,
            });
            if let Some(call) = call {
                break call;
            }
        };
        let Request::Master(MasterRequest::Heartbeat(sent)) = &heartbeat.request else {
            panic!("the first call is a heartbeat: {heartbeat:?}");
        };
        let ok = HeartbeatOk {
            sent_at: sent.sent_at,
            term: Term(1),
            lease: Some(Duration::from_secs(2)),
            map: Some(map()),
            notes: Vec::new(),
            notes_upto: LogIndex(0),
            stores: Vec::new(),
            repair_paused: false,
            repair_rate: 0,
            space: Default::default(),
            repair: Default::default(),
            trimmed: LogIndex(0),
            is_told_all: true,
        };
        let response = Response::Master(MasterResponse::Heartbeat(Box::new(ok)));
        let result = Ok((response, Bytes::new()));
        let token = heartbeat.token;
        let actions = self.handle(ReplicaEvent::CallDone { token, result });
        for (token, batch) in persists(actions) {
            self.writer.commit(&[batch]).expect("the disk has no fault");
            self.persisted(token);
        }
    }

    fn persisted(&mut self, token: u64) -> Vec<ReplicaAction> {
        let result = Ok(());
        self.handle(ReplicaEvent::Persisted { token, result })
    }

    fn request(&mut self, id: u64, body: ReplicaRequest, payload: Bytes) -> Vec<ReplicaAction> {
        let conn = ConnId(1);
        self.handle(ReplicaEvent::Request {
            from: ReplyTo { conn, id },
            body,
            payload,
        })
    }

    /// The batch is not committed, only told to be: what the simulated disk costs says nothing.
    fn prepare(&mut self, seq: u64, sums: &BlockSums, bytes: &Bytes) {
        let body = prepare(seq, bytes.len() as u32, sums.clone());
        let actions = self.request(seq, body, bytes.clone());
        let (token, _) = persists(actions).next().expect("there is a batch");
        let acks = self.persisted(token);
        assert!(
            matches!(&acks[..], [ReplicaAction::Reply(reply)] if reply.body.is_ok()),
            "acknowledged: {acks:?}"
        );
    }
}

fn persists(actions: Vec<ReplicaAction>) -> impl Iterator<Item = (u64, PendingBatch)> {
    actions.into_iter().filter_map(|action| match action {
        ReplicaAction::Persist { token, batch } => Some((token, batch)),
        _ => None,
    })
}

pub(super) fn replica_prepare(n: u64) -> Duration {
    let mut node = Node::serving();
    let bytes = content(BLOCK);
    let sums = BlockSums::of(&bytes);
    timed(n, move |i| node.prepare(i, &sums, &bytes))
}

pub(super) fn replica_read(n: u64) -> Duration {
    let mut node = Node::serving();
    let bytes = content(BLOCK);
    node.prepare(1, &BlockSums::of(&bytes), &bytes);
    let wanted = StampRequest {
        ino: Ino(1001),
        pg: PgId(0),
        epoch: Epoch(1),
    };
    timed(n, move |i| {
        let body = ReplicaRequest::Read {
            object: object(1),
            offset: 0,
            len: BLOCK as u32,
            stamp: Some(wanted),
        };
        let job = node.request(i, body, Bytes::new()).pop();
        let Some(ReplicaAction::Read(job)) = job else {
            panic!("a read makes a job: {job:?}");
        };
        let (reply, _) = read::plan(job, &node.store).run();
        assert!(black_box(reply).body.is_ok());
    })
}

pub(super) fn client_get(n: u64) -> Duration {
    let bytes = content(BLOCK);
    let sums = BlockSums::of(&bytes);
    let (revision, op) = (Revision(4), op(1));
    let spec = GetSpec {
        ino: Ino(1001),
        revision,
        op,
        stamps: true,
        pieces: vec![Piece {
            object: object(1),
            pg: PgId(0),
            sum: sums.object_sum(BLOCK as u32),
            first_block: 0,
            blocks: 1,
        }],
    };
    let (map, latencies) = (Arc::new(map()), Arc::new(Latencies::default()));
    let stamp = Stamp::Known {
        clean: (revision, op),
        dirty: Vec::new(),
    };
    timed(n, move |_| {
        let (config, mut out) = (GetConfig::default(), Vec::new());
        let (map, latencies) = (Arc::clone(&map), Arc::clone(&latencies));
        let mut get = GetMachine::start(Time(1), config, spec.clone(), map, latencies, &mut out);
        for action in std::mem::take(&mut out) {
            let event = match action {
                GetAction::Read { token, .. } => {
                    let answer = ReadAnswer {
                        offset: 0,
                        sums: sums.clone(),
                        stamp: Some(Ok(stamp.clone())),
                    };
                    let result = Ok((answer, bytes.clone()));
                    GetEvent::Read { token, result }
                }
                GetAction::Stamp { token, .. } => {
                    let result = Ok(stamp.clone());
                    GetEvent::Stamp { token, result }
                }
                _ => continue,
            };
            get.handle(Time(2), event, &mut out);
        }
        let is_done = |a: &GetAction| matches!(a, GetAction::Finish(Ok(_)));
        assert!(black_box(out).iter().any(is_done));
    })
}

pub(super) fn checksum(n: u64, len: usize) -> Duration {
    let bytes = content(len);
    timed(n, move |_| {
        black_box(BlockSums::of(black_box(&bytes)));
    })
}

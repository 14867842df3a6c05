//! A replica in a real directory, with a master that has it alone.
use super::*;
use crate::driver::WatchedDisk;
use dfs_core::replica::ReplicaConfig;
use dfs_core::store::{Disk, StoreOptions};
use dfs_core::types::{
    BlockSums, ChunkNo, ClientId, ClusterId, Epoch, Incarnation, Ino, LogIndex, NodeId, ObjectId,
    OpId, PgId, PgInfo, PgMap, PgPhase, QuorumSizes, StoreId, Term,
};
use dfs_core::wire::master::{HeartbeatOk, MasterResponse};
use dfs_core::wire::replica::{MarkRequest, PrepareObject, StampRequest};
use dfs_core::wire::rpc::ConnId;
use dfs_core::wire::{MasterRequest, ReplicaResponse, Request, Response, Stamp};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const ME: StoreId = StoreId(1);
const PG: PgId = PgId(0);
const EPOCH: Epoch = Epoch(1);

/// Grants leases and knows one group with one member.
struct Alone;

impl Caller for Alone {
    fn call(&self, call: Call, done: CallDone) {
        let Request::Master(MasterRequest::Heartbeat(heartbeat)) = call.request else {
            return; // given up
        };
        let info = PgInfo {
            epoch: EPOCH,
            members: vec![ME],
            filling: Vec::new(),
            prior: Vec::new(),
            phase: PgPhase::Active,
        };
        let quorum = QuorumSizes { n: 1, w: 1, r: 1 };
        let ok = HeartbeatOk {
            sent_at: heartbeat.sent_at,
            term: Term(1),
            lease: Some(Duration::from_secs(2)),
            map: Some(PgMap {
                version: LogIndex(1),
                quorum,
                pgs: vec![info],
            }),
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
        let ok = Response::Master(MasterResponse::Heartbeat(Box::new(ok)));
        done.finish(Ok((ok, Bytes::new())));
    }
}

#[derive(Default)]
struct Replies {
    come: Mutex<BTreeMap<u64, Reply>>,
    bell: Condvar,
}

impl ReplySink for Replies {
    fn reply_all(&self, replies: Vec<Reply>) {
        let mut come = self.come.lock().unwrap();
        come.extend(replies.into_iter().map(|r| (r.to.id, r)));
        self.bell.notify_all();
    }
}

struct Rig {
    replies: Arc<Replies>,
    driver: ReplicaDriver,
    next: u64,
}

impl Rig {
    fn start(root: &Path) -> Self {
        Self::start_on(root, StoreOptions::default(), |disk| disk)
    }

    /// On what `wrap` makes of the disk.
    fn start_on(
        root: &Path,
        options: StoreOptions,
        wrap: impl Fn(Arc<dyn Disk>) -> Arc<dyn Disk>,
    ) -> Self {
        let dir = StoreDir::open_on(root, ClusterId(1), ME, options, wrap).unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let machine = ReplicaConfig::new(dir.meta.store, NodeId(1), Incarnation(1), addr);
        let replies = Arc::new(Replies::default());
        let config = ReplicaDriverConfig::default();
        let sink = Arc::clone(&replies) as Arc<dyn ReplySink>;
        let driver = ReplicaDriver::start(dir, machine, &config, sink, Arc::new(Alone)).unwrap();
        let mut rig = Self {
            replies,
            driver,
            next: 0,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while rig.stamp().is_err() {
            assert!(
                Instant::now() < deadline,
                "it serves after the first heartbeat"
            );
        }
        rig
    }

    fn send(&mut self, body: ReplicaRequest, payload: Bytes) -> u64 {
        self.next += 1;
        let from = ReplyTo {
            conn: ConnId(1),
            id: self.next,
        };
        self.driver.handle().request(from, body, payload);
        self.next
    }

    fn wait(&self, id: u64) -> Reply {
        let come = self.replies.come.lock().unwrap();
        let limit = Duration::from_secs(10);
        let is_absent = |come: &mut BTreeMap<u64, Reply>| !come.contains_key(&id);
        let (mut come, _) = self
            .replies
            .bell
            .wait_timeout_while(come, limit, is_absent)
            .unwrap();
        come.remove(&id).expect("a reply within ten seconds")
    }

    fn ask(
        &mut self,
        body: ReplicaRequest,
        payload: Bytes,
    ) -> Result<(ReplicaResponse, Bytes), WireError> {
        let id = self.send(body, payload);
        let reply = self.wait(id);
        match reply.body? {
            Response::Replica(body) => Ok((body, reply.payload.concat().into())),
            other => panic!("{other:?}"),
        }
    }

    fn stamp(&mut self) -> Result<Stamp, WireError> {
        let wanted = StampRequest {
            ino: Ino(7),
            pg: PG,
            epoch: EPOCH,
        };
        match self.ask(ReplicaRequest::Stamp(wanted), Bytes::new())?.0 {
            ReplicaResponse::Stamp(stamp) => Ok(stamp),
            other => panic!("{other:?}"),
        }
    }

    fn usage(&mut self) -> dfs_core::wire::replica::StoreUsage {
        match self.ask(ReplicaRequest::Usage, Bytes::new()) {
            Ok((ReplicaResponse::Usage(usage), _)) => usage,
            other => panic!("{other:?}"),
        }
    }
}

fn op(seq: u64) -> OpId {
    OpId {
        client: ClientId(9),
        seq,
    }
}

fn object(seq: u64) -> ObjectId {
    ObjectId {
        op: op(seq),
        index: 0,
    }
}

fn prepare(seq: u64, bytes: &[u8]) -> ReplicaRequest {
    let object = PrepareObject {
        id: object(seq),
        chunk: ChunkNo(0),
        pg: PG,
        epoch: EPOCH,
        len: bytes.len() as u32,
        sums: BlockSums::of(bytes),
        has_bytes: true,
    };
    let mark = Some(MarkRequest {
        pg: PG,
        epoch: EPOCH,
    });
    ReplicaRequest::Prepare {
        op: op(seq),
        ino: Ino(7),
        mark,
        objects: vec![object],
        about: None,
    }
}

fn read(seq: u64, offset: u32, len: u32) -> ReplicaRequest {
    let stamp = Some(StampRequest {
        ino: Ino(7),
        pg: PG,
        epoch: EPOCH,
    });
    ReplicaRequest::Read {
        object: object(seq),
        offset,
        len,
        stamp,
    }
}

#[test]
fn what_was_acked_is_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let (small, large) = (vec![3u8; 1000], vec![5u8; 300_000]);
    let mut rig = Rig::start(root.path());
    rig.ask(prepare(1, &small), small.clone().into()).unwrap();
    rig.ask(prepare(2, &large), large.clone().into()).unwrap();
    rig.driver.stop();
    let mut rig = Rig::start(root.path());
    let (answer, bytes) = rig.ask(read(1, 0, 10), Bytes::new()).unwrap();
    assert_eq!(bytes, small);
    let ReplicaResponse::Read {
        stamp: Some(Ok(Stamp::Known { dirty, .. })),
        ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(dirty, [op(1), op(2)]);
    let (_, bytes) = rig.ask(read(2, 70_000, 10), Bytes::new()).unwrap();
    assert_eq!(bytes, large[65_536..131_072]);
    let usage = rig.usage();
    assert_eq!((usage.objects, usage.marks, usage.object_reads), (2, 2, 2));
}

#[test]
fn regression_a_stop_while_the_tables_are_written_leaves_nothing_in_the_journal() {
    let root = tempfile::tempdir().unwrap();
    let often = || StoreOptions {
        flush_bytes: 20_000,
        ..StoreOptions::default()
    };
    let mut rig = Rig::start_on(root.path(), often(), |disk| disk);
    let bytes = vec![1u8; 5_000];
    let ids: Vec<_> = (1..=200)
        .map(|seq| rig.send(prepare(seq, &bytes), bytes.clone().into()))
        .collect();
    for id in ids {
        assert!(rig.wait(id).body.is_ok());
    }
    rig.driver.stop();
    let again = StoreDir::open_on(root.path(), ClusterId(1), ME, often(), |disk| disk);
    let mut store = again.unwrap().store;
    assert!(store.begin_flush(true).is_none(), "the tables lack nothing");
}

#[test]
fn prepares_that_wait_share_their_sync() {
    let root = tempfile::tempdir().unwrap();
    // A disk that is slower than those who send, whatever else the machine does.
    let slow = |disk| Arc::new(WatchedDisk::new(disk, Duration::from_millis(1))) as Arc<dyn Disk>;
    let mut rig = Rig::start_on(root.path(), StoreOptions::default(), slow);
    let bytes = vec![1u8; 100];
    let before = rig.usage().syncs;
    let ids: Vec<_> = (1..=500)
        .map(|seq| rig.send(prepare(seq, &bytes), bytes.clone().into()))
        .collect();
    for id in ids {
        assert!(rig.wait(id).body.is_ok());
    }
    let syncs = rig.usage().syncs - before;
    assert!(syncs < 100, "{syncs} syncs for 500 prepares");
}

#[test]
fn a_call_that_is_given_up_ends_as_unknown() {
    let (inbox, inputs) = unbounded();
    drop(CallDone::new(7, inbox));
    let Ok(Input::Event(ReplicaEvent::CallDone {
        token: 7,
        result: Err(error),
    })) = inputs.recv()
    else {
        panic!("no result");
    };
    assert_eq!(error.code, ErrorCode::UnknownOutcome);
}

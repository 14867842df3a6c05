//! A worker's get: a layout, known or asked for, the map, then the get machine.
use super::answers::is_fair;
use super::asks::{AskError, Purpose, What};
use super::bugs::Bug;
use super::client::{CallKind, Client, Cx};
use super::jobs::{Job, META};
use super::oracle::{CHUNKS, Content, SLOT, bytes_of};
use bytes::Bytes;
use dfs_core::client::get::{
    GetAction, GetDone, GetError, GetEvent, GetMachine, GetSpec, Piece, ReadAnswer, Resolved,
};
use dfs_core::types::{BLOCK_SIZE, ChunkNo, Extent, Ino, PgMap, Revision};
use dfs_core::wire::master::{Layout, MasterResponse, QueryAnswer};
use dfs_core::wire::{ErrorCode, Query, ReplicaResponse, Response, Stamp, WireError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One get of a whole file.
pub(super) struct GetJob {
    pub ino: Ino,
    pub timer: u64,
    floor: Revision,
    /// What the pieces come from.
    layout: Option<Layout>,
    /// The layout was asked for in this get.
    is_fresh: bool,
    machine: Option<GetMachine>,
    must_work: bool,
}

impl Client {
    pub(super) fn begin_get(&mut self, worker: usize, ino: Ino, cx: &mut Cx<'_>) {
        let floor = cx.oracle.floor(ino);
        let layout = self
            .layouts
            .get(&ino)
            .cloned()
            .filter(|_| cx.fx.chance(0.8));
        let job = GetJob {
            ino,
            timer: 0,
            floor,
            is_fresh: layout.is_none(),
            layout,
            machine: None,
            must_work: cx.oracle.must_work,
        };
        let is_known = job.layout.is_some();
        let known = job.layout.as_ref().map(|layout| layout.revision);
        cx.fx.trace.say(
            cx.fx.now,
            format_args!("client {}: get {ino} begins, knows {known:?}", self.index),
        );
        self.begin_job(worker, Job::Get(Box::new(job)));
        if is_known {
            self.get_has_layout(worker, cx);
        } else {
            self.ask_layout(worker, ino, META, cx);
        }
    }

    fn ask_layout(&mut self, worker: usize, ino: Ino, within: Duration, cx: &mut Cx<'_>) {
        let (version, first, count) = (None, ChunkNo::HOME, CHUNKS);
        let body = Query::Layout {
            ino,
            version,
            first,
            count,
        };
        let owner = self.owner(worker, Purpose::Layout);
        self.ask(
            owner,
            What::Query {
                body,
                interest: false,
            },
            within,
            cx,
        );
    }

    fn get_has_layout(&mut self, worker: usize, cx: &mut Cx<'_>) {
        match self.known_map() {
            Some(map) => self.start_get(worker, map, cx),
            None => self.ask_map(worker, cx),
        }
    }

    fn start_get(&mut self, worker: usize, map: Arc<PgMap>, cx: &mut Cx<'_>) {
        let now = self.now(cx.fx);
        let latencies = Arc::new(self.latencies.clone());
        let Job::Get(job) = &mut self.jobs[worker] else {
            return;
        };
        let layout = job.layout.as_ref().expect("it was had before");
        let spec = GetSpec {
            ino: job.ino,
            revision: layout.revision,
            op: layout.op,
            stamps: !job.is_fresh && !cx.plan.has(Bug::ClientSkipsStamps),
            pieces: pieces_of(layout),
        };
        let mut out = Vec::new();
        let machine = GetMachine::start(now, cx.plan.get_config(), spec, map, latencies, &mut out);
        job.machine = Some(machine);
        self.perform_get(worker, out, cx);
    }

    fn feed_get(&mut self, worker: usize, event: GetEvent, cx: &mut Cx<'_>) {
        let now = self.now(cx.fx);
        let Job::Get(job) = &mut self.jobs[worker] else {
            return;
        };
        let Some(machine) = &mut job.machine else {
            return;
        };
        let mut out = Vec::new();
        machine.handle(now, event, &mut out);
        self.perform_get(worker, out, cx);
    }

    fn perform_get(&mut self, worker: usize, actions: Vec<GetAction>, cx: &mut Cx<'_>) {
        let mut newer = None;
        for action in actions {
            let job = self.job_numbers[worker];
            match action {
                GetAction::Read { token, to, request } => {
                    let kind = CallKind::Read { worker, job, token };
                    self.send_to_store(to, kind, request, Bytes::new(), cx);
                }
                GetAction::Stamp { token, to, request } => {
                    let kind = CallKind::Stamp { worker, job, token };
                    self.send_to_store(to, kind, request, Bytes::new(), cx);
                }
                GetAction::Resolve => {
                    let Job::Get(get) = &self.jobs[worker] else {
                        return;
                    };
                    let ino = get.ino;
                    self.ask_layout(worker, ino, Duration::from_secs(3), cx);
                }
                GetAction::RefreshMap { newer_than } => {
                    match self.map.clone().filter(|map| map.version > newer_than) {
                        Some(map) => newer = Some(map),
                        None => self.ask_map(worker, cx),
                    }
                }
                // Stores see to what they find damaged as they read it.
                GetAction::Report { .. } if cx.fx.is_harmed => {}
                GetAction::Report { store, object } => {
                    cx.fx
                        .fail(format!("store {store} has damaged bytes of {object}"));
                }
                GetAction::Observe { store, bytes, took } => {
                    let now = self.now(cx.fx);
                    match took {
                        Some(took) => self.latencies.observe(store, bytes, took),
                        None => self.latencies.observe_failure(store, now),
                    }
                }
                GetAction::SetTimer { at } => {
                    let Job::Get(get) = &mut self.jobs[worker] else {
                        return;
                    };
                    get.timer += 1;
                    let timer = get.timer;
                    self.machine_timer(worker, timer, at, cx);
                }
                GetAction::Finish(result) => self.finish_get(worker, result, cx),
            }
        }
        if let Some(map) = newer {
            self.feed_get(worker, GetEvent::Map(map), cx);
        }
    }

    pub(super) fn get_tick(&mut self, worker: usize, cx: &mut Cx<'_>) {
        self.feed_get(worker, GetEvent::Tick, cx);
    }

    pub(super) fn have_read(
        &mut self,
        worker: usize,
        job: u64,
        token: u64,
        result: Result<(Response, Bytes), WireError>,
        cx: &mut Cx<'_>,
    ) {
        if self.job_numbers[worker] != job {
            return;
        }
        let result = match result {
            Ok((
                Response::Replica(ReplicaResponse::Read {
                    offset,
                    sums,
                    stamp,
                    ..
                }),
                bytes,
            )) => Ok((
                ReadAnswer {
                    offset,
                    sums,
                    stamp,
                },
                bytes,
            )),
            Ok(_) => Err(ErrorCode::BadRequest.into()),
            Err(e) => Err(e),
        };
        self.feed_get(worker, GetEvent::Read { token, result }, cx);
    }

    pub(super) fn stamped(
        &mut self,
        worker: usize,
        job: u64,
        token: u64,
        result: Result<(Response, Bytes), WireError>,
        cx: &mut Cx<'_>,
    ) {
        if self.job_numbers[worker] != job {
            return;
        }
        cx.fx.trace.say(
            cx.fx.now,
            format_args!("client {}: stamp {result:?}", self.index),
        );
        let result: Result<Stamp, WireError> = match result {
            Ok((Response::Replica(ReplicaResponse::Stamp(stamp)), _)) => Ok(stamp),
            Ok(_) => Err(ErrorCode::BadRequest.into()),
            Err(e) => Err(e),
        };
        self.feed_get(worker, GetEvent::Stamp { token, result }, cx);
    }

    pub(super) fn get_answered(
        &mut self,
        worker: usize,
        mut job: Box<GetJob>,
        purpose: Purpose,
        result: Result<MasterResponse, AskError>,
        cx: &mut Cx<'_>,
    ) {
        let running = job.machine.is_some();
        if purpose == Purpose::Map {
            self.jobs[worker] = Job::Get(job);
            return match self.take_map(&result) {
                Some(map) if running => self.feed_get(worker, GetEvent::Map(map), cx),
                Some(map) => self.start_get(worker, map, cx),
                None => self.get_did_not_start(worker, result.err(), cx),
            };
        }
        let layout = match result {
            Ok(MasterResponse::Answer {
                body: QueryAnswer::Layout(layout),
                ..
            }) => Ok(layout),
            Ok(other) => return cx.fx.fail(format!("a layout was asked, came {other:?}")),
            Err(e) => Err(e),
        };
        if let Ok(layout) = &layout {
            self.layouts.insert(job.ino, layout.clone());
            job.layout = Some(layout.clone());
        }
        self.jobs[worker] = Job::Get(job);
        match layout {
            Ok(layout) if running => {
                let pieces = pieces_of(&layout);
                let (revision, op) = (layout.revision, layout.op);
                let event = GetEvent::Resolved(Ok(Resolved {
                    revision,
                    op,
                    pieces,
                }));
                self.feed_get(worker, event, cx);
            }
            Ok(_) => self.get_has_layout(worker, cx),
            Err(e) if running => self.feed_get(worker, GetEvent::Resolved(Err(e.last)), cx),
            Err(e) => self.get_did_not_start(worker, Some(e), cx),
        }
    }

    fn get_did_not_start(&mut self, worker: usize, why: Option<AskError>, cx: &mut Cx<'_>) {
        let Job::Get(job) = &self.jobs[worker] else {
            return;
        };
        let ino = job.ino;
        let is_refused = why.as_ref().is_some_and(|e| is_fair(e.last.code));
        if job.must_work && (!is_refused || cx.oracle.readings.is_listed(ino)) {
            cx.fx.fail(format!(
                "nothing is wrong, but a get of inode {ino} cannot start: {why:?}"
            ));
        }
        self.end_job(worker, cx);
    }

    fn finish_get(&mut self, worker: usize, result: Result<GetDone, GetError>, cx: &mut Cx<'_>) {
        let Job::Get(job) = std::mem::replace(&mut self.jobs[worker], Job::Idle) else {
            return;
        };
        let ino = job.ino;
        let text = result.as_ref().map(|d| (d.revision, d.resolved));
        cx.fx.trace.say(
            cx.fx.now,
            format_args!(
                "client {}: get {ino} from {} -> {text:?}",
                self.index, job.floor
            ),
        );
        cx.fx.trace.mix_bytes(format!("{ino} {text:?}").as_bytes());
        match result {
            Ok(done) => {
                if !done.resolved && !job.is_fresh {
                    cx.oracle.counts.by_stamps += 1;
                }
                let layout = job.layout.expect("a get that ran had one");
                if let Err(what) = check_get(ino, job.floor, &layout, &done, cx) {
                    cx.fx.fail(what);
                }
            }
            Err(e) => {
                self.layouts.remove(&ino);
                cx.oracle.counts.gets_failed += 1;
                let is_refused = matches!(&e, GetError::Refused(e)
                    if is_fair(e.code) && !cx.oracle.readings.is_listed(ino));
                let is_lost = match &e {
                    GetError::Corrupt { .. } => !cx.fx.is_harmed,
                    GetError::Missing { .. } => true,
                    _ => false,
                };
                if is_lost || (job.must_work && !is_refused) {
                    cx.fx.fail(format!("get of inode {ino} failed: {e}"));
                }
            }
        }
        self.end_job(worker, cx);
    }
}

/// The objects of a layout, whole, each once.
fn pieces_of(layout: &Layout) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for extent in layout.chunks.iter().flat_map(|chunk| &chunk.extents) {
        if pieces.iter().any(|p| p.object == extent.object) {
            continue;
        }
        let blocks = (extent.sum.len as usize).div_ceil(BLOCK_SIZE);
        pieces.push(Piece {
            object: extent.object,
            pg: extent.pg,
            sum: extent.sum,
            first_block: 0,
            blocks: u32::try_from(blocks).expect("objects are short"),
        });
    }
    pieces
}

/// The bytes are those of the puts that the layout names, and the content goes to the oracle.
fn check_get(
    ino: Ino,
    floor: Revision,
    layout: &Layout,
    done: &GetDone,
    cx: &mut Cx<'_>,
) -> Result<(), String> {
    if (layout.revision, layout.op) != (done.revision, done.op) {
        return Err(format!(
            "get of inode {ino} returned another layout's revision"
        ));
    }
    let bytes: BTreeMap<_, _> = done
        .pieces
        .iter()
        .map(|(p, bytes)| (p.object, bytes))
        .collect();
    for (object, bytes) in &bytes {
        let len = u32::try_from(bytes.len()).expect("objects are short");
        if **bytes != bytes_of(*object, len) {
            return Err(format!("get of inode {ino}: wrong bytes of {object}"));
        }
    }
    let mut content = Content::new();
    for chunk in &layout.chunks {
        for extent in &chunk.extents {
            if !bytes.contains_key(&extent.object) {
                return Err(format!("get of inode {ino}: no bytes of {}", extent.object));
            }
            let is_whole = bytes[&extent.object].len() == extent.sum.len as usize;
            let is_inside = u64::from(extent.object_offset) + u64::from(extent.len)
                <= u64::from(extent.sum.len);
            if !is_whole || !is_inside {
                let len = bytes[&extent.object].len();
                return Err(format!(
                    "inode {ino}: {len} bytes of an object for {extent:?}"
                ));
            }
            slots_of(ino, chunk.chunk, extent, &mut content)?;
        }
    }
    cx.oracle
        .got((ino, floor), (done.revision, done.op, layout.size), content)
}

fn slots_of(
    ino: Ino,
    chunk: ChunkNo,
    extent: &Extent,
    content: &mut Content,
) -> Result<(), String> {
    let is_whole = [extent.start, extent.len, extent.object_offset]
        .iter()
        .all(|n| n % SLOT == 0);
    if !is_whole {
        return Err(format!(
            "inode {ino}: an extent of no whole slots: {extent:?}"
        ));
    }
    for slot in 0..extent.len / SLOT {
        let place = (chunk, extent.start / SLOT + slot);
        let holds = (extent.object, extent.object_offset + slot * SLOT);
        if content.insert(place, holds).is_some() {
            return Err(format!("inode {ino}: extents overlap at {place:?}"));
        }
    }
    Ok(())
}

//! A worker's put: open for the lease, the map, then the put machine under one op-id.
use super::acks::Acks;
use super::answers::is_fair;
use super::asks::{AskError, Purpose, What};
use super::bugs::Bug;
use super::client::{CallKind, Client, Cx};
use super::jobs::{Job, META};
use super::leases::Leases;
use super::oracle::{Fate, SLOT, Shape, bytes_of};
use bytes::Bytes;
use dfs_core::client::put::{
    PutAction, PutChange, PutDone, PutError, PutEvent, PutMachine, PutObject, PutSpec,
};
use dfs_core::types::PutAbout;
use dfs_core::types::{
    BlockSums, ClientId, Ino, LeaseSeq, ObjectId, OpId, PgMap, Revision, SetTime,
};
use dfs_core::wire::master::MasterResponse;
use dfs_core::wire::{
    Commit, ErrorCode, Mutation, MutationOk, ReplicaResponse, Response, WireError, WriteToken,
};
use std::sync::Arc;
use std::time::Duration;

/// Puts of a file that may lose their lease one after the other, though nothing is wrong.
const STALE_MAX: u32 = 8;

/// One put.
pub(super) struct PutJob {
    pub ino: Ino,
    pub timer: u64,
    shape: Shape,
    lease: LeaseSeq,
    token: u64,
    floor: Revision,
    machine: Option<PutMachine>,
    op: OpId,
    objects: Vec<Bytes>,
    /// Op-ids of the abandons asked for.
    abandons: Vec<OpId>,
    acks: Acks,
    must_work: bool,
    /// The newest lease that anybody had been told of when the commit was sent.
    newest_lease: Option<LeaseSeq>,
}

impl PutJob {
    /// Nobody will hear what becomes of it.
    pub(super) fn leave(&self, cx: &mut Cx<'_>) {
        if self.machine.is_some()
            && let Err(what) = cx.oracle.put_ends(self.op, self.floor, Fate::Unknown)
        {
            cx.fx.fail(what);
        }
    }

    /// What must be true of a put that is acknowledged.
    fn check_done(&self, cx: &mut Cx<'_>) -> Result<(), String> {
        let sums = self.objects.iter().zip(0u32..).map(|(bytes, index)| {
            let len = u32::try_from(bytes.len()).expect("objects are short");
            let sum = BlockSums::of(bytes).object_sum(len);
            (ObjectId { op: self.op, index }, sum)
        });
        cx.fx.acknowledged.extend(sums);
        let newest = self.newest_lease.unwrap_or(self.lease);
        Leases::check(self.ino, self.lease, newest)
    }
}

impl Client {
    pub(super) fn begin_put(&mut self, worker: usize, ino: Ino, shape: Shape, cx: &mut Cx<'_>) {
        let job = PutJob {
            ino,
            timer: 0,
            shape,
            lease: LeaseSeq(0),
            token: 0,
            floor: Revision(0),
            machine: None,
            op: OpId::default(),
            objects: Vec::new(),
            abandons: Vec::new(),
            acks: Acks::default(),
            must_work: cx.oracle.must_work,
            newest_lease: None,
        };
        let known = self.opens.get(&ino).copied().filter(|_| cx.fx.chance(0.6));
        self.begin_job(worker, Job::Put(Box::new(job)));
        match known {
            Some((lease, token)) => self.put_opened(worker, lease, token, cx),
            None => {
                // Noted before it is asked for: a new leader must hear of it in any case.
                self.tokens += 1;
                let fresh = (LeaseSeq(0), self.tokens);
                self.opens.entry(ino).or_insert(fresh);
                let owner = self.owner(worker, Purpose::Open);
                self.ask(owner, What::Open { ino, write: true }, META, cx);
            }
        }
    }

    fn put_opened(&mut self, worker: usize, lease: LeaseSeq, token: u64, cx: &mut Cx<'_>) {
        let Job::Put(job) = &mut self.jobs[worker] else {
            return;
        };
        (job.lease, job.token) = (lease, token);
        match self.known_map() {
            Some(map) => self.start_put(worker, map, cx),
            None => self.ask_map(worker, cx),
        }
    }

    fn start_put(&mut self, worker: usize, map: Arc<PgMap>, cx: &mut Cx<'_>) {
        let now = self.now(cx.fx);
        let op = self.begin_op();
        let Job::Put(job) = &mut self.jobs[worker] else {
            return;
        };
        job.op = op;
        job.floor = cx.oracle.floor(job.ino);
        let mut objects = Vec::new();
        for (range, index) in job.shape.ranges().iter().zip(0u32..) {
            let len = range.count * SLOT;
            let bytes = bytes_of(ObjectId { op, index }, len);
            let sums = BlockSums::of(&bytes);
            let sum = sums.object_sum(len);
            let (chunk, start) = (range.chunk, range.first * SLOT);
            objects.push(PutObject {
                chunk,
                start,
                sums,
                sum,
            });
            job.objects.push(bytes);
        }
        let change = match &job.shape {
            Shape::Write(_) => PutChange::Write,
            Shape::Replace(_) => PutChange::Replace {
                size: job.shape.end(),
            },
            Shape::Truncate(size) => PutChange::Truncate { size: *size },
        };
        let spec = PutSpec {
            op,
            ino: job.ino,
            lease: job.lease,
            token: WriteToken {
                client: op.client,
                seq: job.token,
            },
            change,
            mtime: Some(SetTime::Now),
            renews: false,
            kill_suid: false,
            base: None,
            objects,
            about: PutAbout::default(),
            more: false,
        };
        cx.oracle.put_begins(op, job.ino, job.shape.clone());
        let mut out = Vec::new();
        let machine = PutMachine::start(now, cx.plan.put_config(), spec, map, &mut out);
        job.machine = Some(machine);
        cx.fx.trace.say(
            cx.fx.now,
            format_args!(
                "client {}: put {op} begins: {:?}",
                self.index,
                self.put_shape(worker)
            ),
        );
        self.perform_put(worker, out, cx);
    }

    fn put_shape(&self, worker: usize) -> Option<(Ino, &Shape)> {
        match &self.jobs[worker] {
            Job::Put(job) => Some((job.ino, &job.shape)),
            _ => None,
        }
    }

    fn feed_put(&mut self, worker: usize, event: PutEvent, cx: &mut Cx<'_>) {
        let now = self.now(cx.fx);
        let Job::Put(job) = &mut self.jobs[worker] else {
            return;
        };
        let Some(machine) = &mut job.machine else {
            return;
        };
        let mut out = Vec::new();
        machine.handle(now, event, &mut out);
        self.perform_put(worker, out, cx);
    }

    fn perform_put(&mut self, worker: usize, actions: Vec<PutAction>, cx: &mut Cx<'_>) {
        let (mut newer, mut lost, mut mixed) = (None, None, Vec::new());
        for action in actions {
            let number = self.job_numbers[worker];
            let Job::Put(job) = &mut self.jobs[worker] else {
                return;
            };
            match action {
                PutAction::Prepare {
                    token,
                    to,
                    request,
                    bytes_of,
                } => {
                    if cx.plan.has(Bug::ClientMixesEpochs) && job.acks.were_given(to, &request) {
                        mixed.push((token, to));
                        continue;
                    }
                    job.acks.asked(token, to, &request);
                    let pieces = bytes_of.iter().map(|i| job.objects[*i as usize].clone());
                    let payload = super::node_work::join(pieces.collect());
                    let kind = CallKind::Prepare {
                        worker,
                        job: number,
                        token,
                    };
                    self.send_to_store(to, kind, request, payload, cx);
                }
                PutAction::Stored { .. } => {}
                PutAction::RefreshMap { newer_than } => {
                    match self.map.clone().filter(|map| map.version > newer_than) {
                        Some(map) => newer = Some(map),
                        None => self.ask_map(worker, cx),
                    }
                }
                PutAction::Commit(commit) => {
                    if let Err(what) = job.acks.check(&commit) {
                        cx.fx.fail(what);
                    }
                    let newest = cx.oracle.leases.newest(job.ino);
                    job.newest_lease.get_or_insert(newest);
                    let what = What::Mutate(job.op, commit_or_last(job.op, commit));
                    let owner = self.owner(worker, Purpose::Commit);
                    self.ask(owner, what, Duration::from_secs(3), cx);
                }
                PutAction::Abandon => {
                    let op = job.op;
                    let own = self.begin_op();
                    if let Job::Put(job) = &mut self.jobs[worker] {
                        job.abandons.push(own);
                    }
                    let what = What::Mutate(own, Mutation::Abandon { op });
                    let owner = self.owner(worker, Purpose::Abandon);
                    self.ask(owner, what, Duration::from_secs(3), cx);
                }
                PutAction::Drop { to, request } => {
                    self.send_to_store(to, CallKind::Quiet, request, Bytes::new(), cx);
                }
                PutAction::SetTimer { at } => {
                    job.timer += 1;
                    let timer = job.timer;
                    self.machine_timer(worker, timer, at, cx);
                }
                PutAction::RenewLease => unreachable!("this client's puts renew nothing"),
                PutAction::DropSession => lost = Some(job.op.client),
                PutAction::Finish(result) => self.finish_put(worker, result, cx),
            }
        }
        if let Some(lost) = lost {
            self.lose_session(lost, cx);
        }
        if let Some(map) = newer {
            self.feed_put(worker, PutEvent::Map(map), cx);
        }
        for (token, store) in mixed {
            let result = Ok(store);
            self.feed_put(worker, PutEvent::Prepared { token, result }, cx);
        }
    }

    pub(super) fn put_tick(&mut self, worker: usize, cx: &mut Cx<'_>) {
        self.feed_put(worker, PutEvent::Tick, cx);
    }

    pub(super) fn prepared(
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
        let text = result.as_ref().map(|(answer, _)| answer);
        cx.fx.trace.say(
            cx.fx.now,
            format_args!("client {}: prepare: {text:?}", self.index),
        );
        let result = match result {
            Ok((Response::Replica(ReplicaResponse::Prepared { store }), _)) => Ok(store),
            Ok(_) => Err(ErrorCode::BadRequest.into()),
            Err(e) => Err(e),
        };
        if let (Job::Put(put), Ok(_)) = (&mut self.jobs[worker], &result) {
            put.acks.given(token);
        }
        self.feed_put(worker, PutEvent::Prepared { token, result }, cx);
    }

    pub(super) fn put_answered(
        &mut self,
        worker: usize,
        job: Box<PutJob>,
        purpose: Purpose,
        result: Result<MasterResponse, AskError>,
        cx: &mut Cx<'_>,
    ) {
        let (ino, token, running) = (job.ino, job.token, job.machine.is_some());
        let must_work = job.must_work;
        self.jobs[worker] = Job::Put(job);
        match (purpose, result) {
            (Purpose::Open, Ok(MasterResponse::Opened { lease, layout, .. })) => {
                let token = self.opens.get(&ino).map_or(token, |(_, token)| *token);
                self.opens.insert(ino, (lease, token));
                cx.oracle.leases.told(ino, lease);
                if let Some(layout) = layout {
                    self.layouts.insert(ino, layout);
                }
                self.put_opened(worker, lease, token, cx);
            }
            (Purpose::Map, result) => {
                let map = self.take_map(&result);
                match map {
                    Some(map) if running => self.feed_put(worker, PutEvent::Map(map), cx),
                    Some(map) => self.start_put(worker, map, cx),
                    None => self.put_did_not_start(worker, must_work, None, cx),
                }
            }
            (Purpose::Commit, result) => {
                let event = PutEvent::Committed(flat(result));
                self.feed_put(worker, event, cx);
            }
            (Purpose::Abandon, result) => {
                let event = PutEvent::Abandoned(flat(result));
                self.feed_put(worker, event, cx);
            }
            (_, Err(e)) => {
                self.opens.remove(&ino);
                self.put_did_not_start(worker, must_work, Some(e.last), cx);
            }
            (_, Ok(other)) => cx.fx.fail(format!("an open was answered with {other:?}")),
        }
    }

    fn put_did_not_start(
        &mut self,
        worker: usize,
        must_work: bool,
        why: Option<WireError>,
        cx: &mut Cx<'_>,
    ) {
        if must_work && !why.as_ref().is_some_and(|e| is_fair(e.code)) {
            cx.fx
                .fail(format!("nothing is wrong, but a put cannot start: {why:?}"));
        }
        self.end_job(worker, cx);
    }

    fn finish_put(&mut self, worker: usize, result: Result<PutDone, PutError>, cx: &mut Cx<'_>) {
        let Job::Put(job) = std::mem::replace(&mut self.jobs[worker], Job::Idle) else {
            return;
        };
        let (ino, op) = (job.ino, job.op);
        let text = result.as_ref().map(|done| done.revision);
        cx.fx.trace.say(
            cx.fx.now,
            format_args!("client {}: put {op} of {ino} -> {text:?}", self.index),
        );
        cx.fx.trace.mix_bytes(format!("{op} {result:?}").as_bytes());
        self.finish_op(op);
        job.abandons
            .iter()
            .for_each(|abandon| self.finish_op(*abandon));
        let fate = match &result {
            Ok(done) => Fate::Applied(done.revision),
            Err(PutError::SessionLost { unknown: true }) => Fate::Unknown,
            Err(_) => Fate::Never,
        };
        if let Err(what) = cx.oracle.put_ends(op, job.floor, fate) {
            cx.fx.fail(what);
        }
        if result.is_ok() {
            cx.oracle.stale_leases.remove(&ino);
            if let Err(what) = job.check_done(cx) {
                cx.fx.fail(what);
            }
        }
        if let Err(e) = &result {
            // The lease may be an old one: ask for it again next time.
            self.opens.remove(&ino);
            let is_fair = match e {
                PutError::StaleLease => job
                    .must_work
                    .then(|| lost_again(ino, cx))
                    .is_none_or(|n| n < STALE_MAX),
                PutError::Refused(e) => is_fair(e.code),
                _ => false,
            };
            if job.must_work && !is_fair {
                cx.fx.fail(format!(
                    "nothing is wrong, but put {op} of inode {ino} failed: {e}"
                ));
            }
        }
        let due = self.recalls.iter().filter(|(of, ..)| *of == ino);
        let due: Vec<_> = due.map(|(_, conn, seq)| (*conn, *seq)).collect();
        self.recalls.retain(|(of, ..)| *of != ino);
        for (conn, seq) in due {
            let timer = super::client::ClientTimer::Ack(conn, seq);
            self.later(Duration::ZERO, timer, cx.fx);
        }
        if cx.fx.chance(0.3) {
            self.seal_and_release(ino, job.token, cx);
        }
        self.end_job(worker, cx);
    }

    /// The last writable handle is closed.
    fn seal_and_release(&mut self, ino: Ino, token: u64, cx: &mut Cx<'_>) {
        if self.opens.remove(&ino).is_none() {
            return;
        }
        let op = self.begin_op();
        let token = WriteToken {
            client: self.session,
            seq: token,
        };
        let nobody = (0, 0, Purpose::Nothing);
        self.ask(
            nobody,
            What::Mutate(op, Mutation::Seal { ino, token }),
            META,
            cx,
        );
        self.ask(nobody, What::Release(ino), META, cx);
    }

    /// The session is gone, and with it every undecided op.
    pub(super) fn tell_puts_of_lost_session(&mut self, lost: ClientId, cx: &mut Cx<'_>) {
        for worker in 0..self.jobs.len() {
            let hit = matches!(&self.jobs[worker], Job::Put(job)
                if job.machine.is_some() && job.op.client == lost);
            if hit {
                self.feed_put(worker, PutEvent::SessionLost, cx);
            }
        }
    }
}

/// How many puts of the file in a row have now lost their lease.
fn lost_again(ino: Ino, cx: &mut Cx<'_>) -> u32 {
    let count = cx.oracle.stale_leases.entry(ino).or_default();
    *count += 1;
    *count
}

fn flat(result: Result<MasterResponse, AskError>) -> Result<MutationOk, WireError> {
    match result {
        Ok(MasterResponse::Mutated(done)) => Ok(done.ok),
        Ok(_) => Err(ErrorCode::BadRequest.into()),
        Err(e) if e.unknown => Err(WireError::new(ErrorCode::UnknownOutcome, e.last.detail)),
        Err(e) => Err(e.last),
    }
}

/// Some commits end their writing period. Asked again, one says the same.
fn commit_or_last(op: OpId, commit: Commit) -> Mutation {
    match op.seq % 3 {
        0 => Mutation::CommitLast(Box::new(commit)),
        _ => Mutation::Commit(commit),
    }
}

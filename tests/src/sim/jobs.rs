//! What the workers of a client do: namespace operations, puts and gets.
use super::answers::{answered, create, is_fair, keys_of, mutated, mutation, query};
use super::asks::{AskError, Owner, Purpose, What};
use super::client::{CachedName, CallKind, Client, ClientTimer, Cx};
use super::gets::GetJob;
use super::linear::{DIRS, NameAnswer, NameOp, dir_of};
use super::puts::PutJob;
use super::tree::{MOVING, TreeJob, name_of_moving};
use super::workload::{self, Task};
use bytes::Bytes;
use dfs_core::types::{FileKind, Ino, Name, OpId, PgMap, StoreId, Time};
use dfs_core::wire::master::{MasterResponse, Mutated, QueryAnswer};
use dfs_core::wire::{ErrorClass, ErrorCode, MutationOk, Query, ReplicaRequest, Request};
use std::sync::Arc;
use std::time::Duration;

/// A metadata operation that is not done by then fails.
pub(super) const META: Duration = Duration::from_secs(8);

/// What a worker is at.
pub(super) enum Job {
    Idle,
    /// Makes the directories of the run, one after the other.
    MakeDirs(Option<OpId>),
    Name(NameJob),
    Put(Box<PutJob>),
    Get(Box<GetJob>),
    /// Moves a directory into another one.
    Tree(TreeJob),
}

/// A namespace operation.
pub(super) struct NameJob {
    number: usize,
    op: NameOp,
    mutation: Option<OpId>,
    must_work: bool,
}

impl Client {
    pub(super) fn begin_job(&mut self, worker: usize, job: Job) -> u64 {
        self.jobs[worker] = job;
        self.job_numbers[worker] += 1;
        self.job_numbers[worker]
    }

    pub(super) fn owner(&self, worker: usize, purpose: Purpose) -> Owner {
        (worker, self.job_numbers[worker], purpose)
    }

    /// The worker has nothing to do and thinks for a while.
    pub(super) fn end_job(&mut self, worker: usize, cx: &mut Cx<'_>) {
        self.jobs[worker] = Job::Idle;
        self.job_numbers[worker] += 1;
        let pause = match (cx.oracle.is_calm, cx.oracle.must_work) {
            _ if cx.oracle.readings.has_begun() => Duration::from_millis(1),
            (_, true) => cx.fx.ms(100, 700),
            (true, _) => cx.fx.ms(400, 3_000),
            _ => cx.fx.ms(5, 200),
        };
        self.later(pause, ClientTimer::Next(worker), cx.fx);
    }

    /// Nobody is there any more to hear what becomes of what the workers were at.
    pub(super) fn leave_jobs(&mut self, cx: &mut Cx<'_>) {
        for worker in 0..self.jobs.len() {
            self.job_numbers[worker] += 1;
            match std::mem::replace(&mut self.jobs[worker], Job::Idle) {
                Job::Name(job) => {
                    let answer = match job.mutation {
                        Some(_) => NameAnswer::Unknown,
                        None => NameAnswer::Never,
                    };
                    cx.oracle.names.end(job.number, answer);
                }
                Job::Put(job) => job.leave(cx),
                Job::Idle | Job::MakeDirs(_) | Job::Get(_) | Job::Tree(_) => {}
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.jobs.iter().all(|job| matches!(job, Job::Idle))
    }

    pub(super) fn is_putting(&self, ino: Ino) -> bool {
        self.jobs
            .iter()
            .any(|job| matches!(job, Job::Put(put) if put.ino == ino))
    }

    pub(super) fn next_job(&mut self, worker: usize, cx: &mut Cx<'_>) {
        if !matches!(self.jobs[worker], Job::Idle) {
            return;
        }
        let task = match cx.oracle.readings.pop(self.index) {
            Some(task) => task,
            None if cx.oracle.is_busy => workload::next(self, cx),
            None => return,
        };
        match task {
            Task::Name(op) => self.begin_name(worker, op, cx),
            Task::List(dir) => self.begin_name(worker, NameOp::List { dir }, cx),
            Task::Put(ino, shape) => self.begin_put(worker, ino, shape, cx),
            Task::Get(ino) => self.begin_get(worker, ino, cx),
            Task::Move => self.begin_move(worker, cx),
            Task::Nothing => self.end_job(worker, cx),
        }
    }

    /// Makes the directories that the run works in.
    pub(super) fn make_dirs(&mut self, cx: &mut Cx<'_>) {
        let op = self.begin_op();
        self.begin_job(0, Job::MakeDirs(Some(op)));
        let made = cx.oracle.dirs.len();
        let name = match made < DIRS {
            true => Name::new(format!("d{made}")).expect("a plain name"),
            false => name_of_moving(cx.oracle.moving.len()),
        };
        let body = create(Ino::ROOT, name, FileKind::Dir, true);
        let owner = self.owner(0, Purpose::Whole);
        self.ask(owner, What::Mutate(op, body), META, cx);
    }

    fn begin_name(&mut self, worker: usize, op: NameOp, cx: &mut Cx<'_>) {
        let number = cx.oracle.names.begin(self.index, op);
        cx.oracle.counts.names += 1;
        if let Some(answer) = self.cached_answer(op, cx) {
            cx.oracle.counts.cached += 1;
            cx.oracle.names.end(number, answer);
            return self.end_job(worker, cx);
        }
        let what = match mutation(op, &cx.oracle.dirs) {
            Some(body) => {
                let op_id = self.begin_op();
                self.note_own_change(op, cx, true);
                What::Mutate(op_id, body)
            }
            None => What::Query {
                body: query(op, &cx.oracle.dirs),
                interest: true,
            },
        };
        let mutation = if let What::Mutate(op_id, _) = &what {
            Some(*op_id)
        } else {
            None
        };
        let must_work = cx.oracle.must_work;
        self.begin_job(
            worker,
            Job::Name(NameJob {
                number,
                op,
                mutation,
                must_work,
            }),
        );
        let owner = self.owner(worker, Purpose::Whole);
        self.ask(owner, what, META, cx);
    }

    /// What the caches say, while they may be used.
    fn cached_answer(&self, op: NameOp, cx: &Cx<'_>) -> Option<NameAnswer> {
        let NameOp::Lookup { key } = op else {
            return None;
        };
        let cached = self.names.get(&key)?;
        let may = self.now(cx.fx) < self.window_until
            && self.bound().is_some()
            && !self.own_changes.contains_key(&cached.dir);
        may.then_some(cached.ino.map_or(NameAnswer::NotFound, NameAnswer::Found))
    }

    /// Our own changes are not told to us: nothing of their directories is cached meanwhile.
    fn note_own_change(&mut self, op: NameOp, cx: &mut Cx<'_>, begins: bool) {
        self.cache_epoch += 1;
        for key in keys_of(op) {
            let dir = cx.oracle.dirs[dir_of(key)];
            self.names.retain(|_, cached| cached.dir != dir);
            let count = self.own_changes.entry(dir).or_default();
            if begins {
                *count += 1;
            } else {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.own_changes.remove(&dir);
                }
            }
        }
    }

    /// An ask of this worker's job is over.
    pub(super) fn job_answered(
        &mut self,
        worker: usize,
        purpose: Purpose,
        result: Result<MasterResponse, AskError>,
        is_cacheable: bool,
        cx: &mut Cx<'_>,
    ) {
        match std::mem::replace(&mut self.jobs[worker], Job::Idle) {
            Job::Idle => {}
            Job::MakeDirs(op) => self.dir_made(op, result, cx),
            Job::Name(job) => self.name_answered(worker, job, result, is_cacheable, cx),
            Job::Put(job) => self.put_answered(worker, job, purpose, result, cx),
            Job::Get(job) => self.get_answered(worker, job, purpose, result, cx),
            Job::Tree(job) => self.move_answered(worker, job, result, cx),
        }
    }

    fn dir_made(
        &mut self,
        op: Option<OpId>,
        result: Result<MasterResponse, AskError>,
        cx: &mut Cx<'_>,
    ) {
        if let Some(op) = op {
            self.finish_op(op);
        }
        match result {
            Ok(MasterResponse::Mutated(Mutated {
                ok: MutationOk::Entry { attr, .. },
                ..
            })) => {
                match cx.oracle.dirs.len() < DIRS {
                    true => cx.oracle.dirs.push(attr.ino),
                    false => cx.oracle.moving.push(attr.ino),
                }
                if cx.oracle.moving.len() < MOVING {
                    self.make_dirs(cx);
                }
            }
            other => cx
                .fx
                .fail(format!("the run's directories cannot be made: {other:?}")),
        }
    }

    fn name_answered(
        &mut self,
        worker: usize,
        job: NameJob,
        result: Result<MasterResponse, AskError>,
        is_cacheable: bool,
        cx: &mut Cx<'_>,
    ) {
        let NameJob {
            number,
            op,
            mutation,
            must_work,
        } = job;
        let answer = self.judge(op, &result, must_work, cx);
        let text = (self.index, worker);
        cx.fx.trace.say(
            cx.fx.now,
            format_args!("client {text:?}: {op:?} -> {answer:?}"),
        );
        cx.fx
            .trace
            .mix_bytes(format!("{op:?} {answer:?}").as_bytes());
        if let Some(op_id) = mutation {
            self.finish_op(op_id);
            if answer == NameAnswer::Unknown {
                // It may still happen, and nobody would tell us: no caching there any more.
                cx.oracle.counts.names_unknown += 1;
            } else if op_id.client == self.session {
                self.note_own_change(op, cx, false);
            }
        }
        match &answer {
            NameAnswer::Created(ino) => cx.oracle.created.push(*ino),
            NameAnswer::Listed(found) => {
                found
                    .iter()
                    .for_each(|(_, ino)| cx.oracle.readings.lists(*ino));
            }
            _ => {}
        }
        if let (NameOp::Lookup { key }, true) = (op, is_cacheable) {
            let dir = cx.oracle.dirs[dir_of(key)];
            let ino = match answer {
                NameAnswer::Found(ino) => Some(Some(ino)),
                NameAnswer::NotFound => Some(None),
                _ => None,
            };
            if let Some(ino) = ino
                && !self.own_changes.contains_key(&dir)
            {
                self.names.insert(key, CachedName { dir, ino });
            }
        }
        cx.oracle.names.end(number, answer);
        self.end_job(worker, cx);
    }

    fn judge(
        &self,
        op: NameOp,
        result: &Result<MasterResponse, AskError>,
        must_work: bool,
        cx: &mut Cx<'_>,
    ) -> NameAnswer {
        let error = match result {
            Ok(answer) => {
                let answer = match answer {
                    MasterResponse::Mutated(done) => mutated(op, &done.ok),
                    MasterResponse::Answer { body, .. } => answered(op, body),
                    other => Err(format!("it was answered with {other:?}")),
                };
                return answer.unwrap_or_else(|what| {
                    cx.fx.fail(format!("{op:?}: {what}"));
                    NameAnswer::Never
                });
            }
            Err(error) => error,
        };
        let code = error.last.code;
        if must_work && code != ErrorCode::Exists && !is_fair(code) {
            let (now, last) = (self.now(cx.fx), &error.last);
            cx.fx.fail(format!(
                "nothing is wrong, but {op:?} failed at {now:?}: {last}"
            ));
        }
        match code {
            _ if error.unknown => NameAnswer::Unknown,
            ErrorCode::NotFound => NameAnswer::NotFound,
            ErrorCode::Exists => NameAnswer::Exists,
            ErrorCode::SessionExpired | ErrorCode::OpAborted | ErrorCode::OpTooOld => {
                NameAnswer::Never
            }
            _ if code.class() != ErrorClass::Permanent => NameAnswer::Never,
            _ => {
                cx.fx.fail(format!("{op:?} was refused: {}", error.last));
                NameAnswer::Never
            }
        }
    }

    /// Sends what a machine wants of a store.
    pub(super) fn send_to_store(
        &mut self,
        store: StoreId,
        kind: CallKind,
        request: ReplicaRequest,
        payload: Bytes,
        cx: &mut Cx<'_>,
    ) {
        // One whose address is not known is answered as one that does not answer.
        let node = self.stores.get(&store).copied();
        let Some(node) = node else {
            let conn = dfs_core::wire::rpc::ConnId(0);
            let id = cx.fx.id();
            self.calls.insert(id, (conn, kind));
            return self.later(
                Duration::from_millis(1),
                ClientTimer::CallTimeout(id),
                cx.fx,
            );
        };
        let conn = self.pooled(node, cx.fx);
        let budget = (payload, Duration::from_millis(1500));
        self.call(conn, kind, Request::Replica(request), budget, cx.fx);
    }

    /// The map, if the newest that was heard of is known.
    pub(super) fn known_map(&self) -> Option<Arc<PgMap>> {
        self.map
            .clone()
            .filter(|map| map.version >= self.map_newest)
    }

    pub(super) fn ask_map(&mut self, worker: usize, cx: &mut Cx<'_>) {
        let owner = self.owner(worker, Purpose::Map);
        let what = What::Query {
            body: Query::PgMap,
            interest: false,
        };
        self.ask(owner, what, META, cx);
    }

    /// Takes a map that came; the newest known in any case.
    pub(super) fn take_map(
        &mut self,
        result: &Result<MasterResponse, AskError>,
    ) -> Option<Arc<PgMap>> {
        if let Ok(MasterResponse::Answer {
            body: QueryAnswer::PgMap(map),
            ..
        }) = result
        {
            if self
                .map
                .as_ref()
                .is_none_or(|known| known.version <= map.version)
            {
                self.map = Some(Arc::new(map.clone()));
            }
            self.map_newest = self.map_newest.min(map.version);
        }
        self.map.clone()
    }

    /// Sets a timer of the worker's machine; `local` is by this client's clock.
    pub(super) fn machine_timer(
        &mut self,
        worker: usize,
        number: u64,
        local: Time,
        cx: &mut Cx<'_>,
    ) {
        let job = self.job_numbers[worker];
        let at = self
            .clock
            .global(local)
            .max(cx.fx.now + Duration::from_micros(50));
        let timer = ClientTimer::Machine(worker, job, number);
        cx.fx.at(
            at,
            super::fabric::Ev::Client {
                client: self.index,
                timer,
            },
        );
    }

    pub(super) fn machine_tick(&mut self, worker: usize, job: u64, number: u64, cx: &mut Cx<'_>) {
        if self.job_numbers[worker] != job {
            return;
        }
        match &self.jobs[worker] {
            Job::Put(put) if put.timer == number => self.put_tick(worker, cx),
            Job::Get(get) if get.timer == number => self.get_tick(worker, cx),
            _ => {}
        }
    }
}

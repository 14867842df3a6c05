//! The owner thread: takes inputs, runs the machine, does what it says.
//!
//! One turn: 1. sleep until an input or the machine's next wake; 2. handle all inputs that wait;
//! 3. send the replies of the turn together; 4. housekeeping that is due.
use super::threads::Background;
use super::{CallDone, Caller, Input, ReplySink};
use crate::driver::queue::{NotReceived, Receiver, Sender};
use crate::driver::table_scrub::TableScrub;
use dfs_core::net::clock::boottime;
use dfs_core::replica::event::{ReadJob, ReplicaAction};
use dfs_core::replica::read::{self, Planned};
use dfs_core::replica::{Replica, ReplicaEvent, scrub_job};
use dfs_core::store::{DirLock, FAN_OUT, ObjectStore, PendingBatch};
use dfs_core::types::Time;
use dfs_core::wire::rpc::Reply;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Inputs handled before replies are sent.
const TURN: usize = 256;
/// Between two directories swept for files that a crash left over.
const SWEEP_PAUSE: Duration = Duration::from_millis(500);
/// How long a stop waits for the disk.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where the owner sends things.
pub(super) struct Outlets {
    pub storage: Sender<(u64, PendingBatch)>,
    pub readers: Sender<Planned>,
    pub background: Sender<Background>,
    /// Ends with the owner.
    pub _scrub: TableScrub,
    pub replies: Arc<dyn ReplySink>,
    pub caller: Arc<dyn Caller>,
}

pub(super) struct Owner {
    replica: Replica,
    store: ObjectStore,
    _lock: DirLock,
    inbox: Sender<Input>,
    outlets: Outlets,
    replies: Vec<Reply>,
    actions: Vec<ReplicaAction>,
    /// Directories swept so far.
    swept: u64,
    sweep_next: Time,
    /// Who waits for work on namespace snapshots.
    namespace: BTreeMap<u64, tokio::sync::oneshot::Sender<Result<(), String>>>,
    namespace_last: u64,
}

impl Owner {
    pub fn new(
        (replica, store, lock): (Replica, ObjectStore, DirLock),
        inbox: Sender<Input>,
        outlets: Outlets,
    ) -> Self {
        let now = boottime();
        Self {
            replica,
            store,
            _lock: lock,
            inbox,
            outlets,
            replies: Vec::new(),
            actions: Vec::new(),
            swept: 0,
            sweep_next: now + SWEEP_PAUSE,
            namespace: BTreeMap::new(),
            namespace_last: 0,
        }
    }

    pub fn run(mut self, inputs: &Receiver<Input>) {
        self.event(ReplicaEvent::Tick);
        loop {
            let now = boottime();
            let sleep = self.next_wake(now).since(now);
            let mut next = match inputs.recv_timeout(sleep) {
                Ok(input) => Some(input),
                Err(NotReceived::TimedOut) => None,
                Err(NotReceived::Disconnected) => return,
            };
            for _ in 0..TURN {
                let Some(input) = next.take() else { break };
                if matches!(input, Input::Stop) {
                    self.stop(inputs);
                    return;
                }
                self.input(input);
                next = inputs.try_recv();
            }
            if let Some(input) = next {
                // Taken beyond the turn: not lost.
                self.input(input);
            }
            self.event(ReplicaEvent::Tick);
            self.send_replies();
            self.housekeeping();
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.event(event),
            Input::Committed(tokens, result) => {
                for token in tokens {
                    let result = result.clone();
                    self.event(ReplicaEvent::Persisted { token, result });
                }
                self.begin_flush(false);
            }
            Input::Flushed(done) => {
                if let Err(error) = self.store.finish_flush(done) {
                    // The next batch meets the failed store and fails the machine.
                    tracing::error!(%error, "writing the tables failed");
                }
            }
            Input::Namespace(work, done) => {
                self.namespace_last += 1;
                let token = self.namespace_last;
                self.namespace.insert(token, done);
                self.event(ReplicaEvent::Namespace { token, work });
            }
            // Handled in the loop; one that came in the last place of a turn is sent again.
            Input::Stop => {
                let _ = self.inbox.send(Input::Stop);
            }
        }
    }

    fn event(&mut self, event: ReplicaEvent) {
        let mut actions = std::mem::take(&mut self.actions);
        self.replica
            .handle(boottime(), event, &mut self.store, &mut actions);
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, action: ReplicaAction) {
        match action {
            ReplicaAction::Reply(reply) => self.replies.push(reply),
            ReplicaAction::Persist { token, batch } => {
                self.outlets
                    .storage
                    .send((token, batch))
                    .expect("the storage thread ends after this one");
            }
            ReplicaAction::Call(call) => {
                let done = CallDone::new(call.token, self.inbox.clone());
                self.outlets.caller.call(call, done);
            }
            ReplicaAction::Read(job) => self.read(job),
            ReplicaAction::Scrub(job) => {
                let planned = scrub_job::plan(job, &self.store);
                let sent = self.outlets.background.send(Background::Scrub(planned));
                sent.expect("the background thread ends after this one");
            }
            ReplicaAction::NamespaceDone { token, result } => {
                if let Some(done) = self.namespace.remove(&token) {
                    // Whoever asked may have gone.
                    let _ = done.send(result);
                }
            }
        }
    }

    fn read(&mut self, job: ReadJob) {
        let planned = read::plan(job, &self.store);
        if planned.waits_for_disk() {
            self.outlets
                .readers
                .send(planned)
                .expect("the readers end after this one");
            return;
        }
        let (reply, damaged) = planned.run();
        self.replica.object_reads().fetch_add(1, Ordering::Relaxed);
        self.replies.push(reply);
        for object in damaged {
            let _ = self
                .inbox
                .send(Input::Event(ReplicaEvent::Damaged { object }));
        }
    }

    fn send_replies(&mut self) {
        if !self.replies.is_empty() {
            self.outlets
                .replies
                .reply_all(std::mem::take(&mut self.replies));
        }
    }

    fn begin_flush(&mut self, force: bool) -> bool {
        let Some(job) = self.store.begin_flush(force) else {
            return false;
        };
        let sent = self.outlets.background.send(Background::Flush(job));
        sent.expect("the background thread ends after this one");
        true
    }

    /// When the machine or the housekeeping wants a turn.
    fn next_wake(&self, now: Time) -> Time {
        let mut wake = self.replica.next_wake(now);
        if self.swept < FAN_OUT {
            // Due, but the store is not quiet: the commit that ends brings a turn.
            wake = wake.min(self.sweep_next.max(now + SWEEP_PAUSE / 10));
        }
        wake
    }

    fn housekeeping(&mut self) {
        let now = boottime();
        // Only while nothing is under way: a file whose deletion is not durable must stay, and so must
        // what an object that found no room should have replaced.
        let is_quiet =
            self.store.applied() == self.store.committed() && !self.store.is_taking_back();
        if self.swept < FAN_OUT && is_quiet && now >= self.sweep_next {
            self.sweep_next = now + SWEEP_PAUSE;
            match self.store.sweep(self.swept) {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed files left over by a crash"),
                Err(error) => tracing::warn!(%error, "cannot sweep object files"),
            }
            self.swept += 1;
        }
    }

    /// Waits for what is under way, then writes the tables out, so that the next start is quick.
    fn stop(&mut self, inputs: &Receiver<Input>) {
        let until = boottime() + STOP_MAX;
        loop {
            let is_quiet = self.store.applied() == self.store.committed();
            // One that is under way may not cover what came last.
            if is_quiet && !self.store.is_flushing() && !self.begin_flush(true) {
                break;
            }
            let left = until.since(boottime());
            match inputs.recv_timeout(left) {
                Ok(Input::Committed(tokens, result)) => {
                    self.input(Input::Committed(tokens, result));
                }
                Ok(Input::Flushed(done)) => {
                    if let Err(error) = self.store.finish_flush(done) {
                        tracing::error!(%error, "writing the tables failed");
                        break;
                    }
                }
                // Not answered: the connections are going away.
                Ok(_) => {}
                Err(_) => break,
            }
            if self.store.failure().is_some() {
                break;
            }
        }
        self.send_replies();
    }
}

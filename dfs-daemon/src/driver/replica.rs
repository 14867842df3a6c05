//! Runs the replica machine over a store's directory.
//!
//! ```text
//!  network ──request──> owner ──Persist──> storage (one group commit for all that wait)
//!     ^                  │  ^───────────────Persisted──┘
//!     │                  ├──Read──> readers ──reply──> network
//!     └──────reply───────┤
//!                        └──flush, scrub──> background
//! ```
//! The owner thread has the machine and the tables to itself: no locks. It never waits for a sync,
//! nor for an object file. Whatever waits for the disk when a commit begins shares its sync.
//! Objects that lie in the tables are read by the owner itself: a hop would cost more.
mod owner;
mod threads;

#[cfg(test)]
mod tests;

use super::queue::{Sender, unbounded};
use super::table_scrub::TableScrubSetup;
use bytes::Bytes;
use dfs_core::net::clock::boottime;
use dfs_core::replica::tables::TableError;
use dfs_core::replica::{NamespaceWork, Replica, ReplicaConfig, ReplicaEvent};
use dfs_core::store::{FlushDone, KvError, StoreDir};
use dfs_core::wire::rpc::{Call, CallResult, Reply, ReplyTo};
use dfs_core::wire::{ErrorCode, ReplicaRequest, WireError};
use owner::Owner;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where replies go. Called from several threads; must not block for long.
pub trait ReplySink: Send + Sync + 'static {
    /// Sends replies; those of one connection in this order.
    fn reply_all(&self, replies: Vec<Reply>);
}

impl ReplySink for dfs_core::net::server::ServerHandle {
    fn reply_all(&self, replies: Vec<Reply>) {
        Self::reply_all(self, replies);
    }
}

/// Makes calls for the machine. Called on the owner thread; must not block.
pub trait Caller: Send + Sync + 'static {
    /// Makes the call with a deadline of its own and finishes `done` with what came back.
    fn call(&self, call: Call, done: CallDone);
}

/// Takes the result of one call to the machine. Dropped unfinished it says `UnknownOutcome`.
#[derive(Debug)]
pub struct CallDone {
    token: u64,
    inbox: Option<Sender<Input>>,
}

impl CallDone {
    fn new(token: u64, inbox: Sender<Input>) -> Self {
        Self {
            token,
            inbox: Some(inbox),
        }
    }

    /// The call is over.
    pub fn finish(mut self, result: CallResult) {
        self.send(result);
    }

    fn send(&mut self, result: CallResult) {
        if let Some(inbox) = self.inbox.take() {
            let token = self.token;
            // The owner is gone only when the daemon stops.
            let _ = inbox.send(Input::Event(ReplicaEvent::CallDone { token, result }));
        }
    }
}

impl Drop for CallDone {
    fn drop(&mut self) {
        let lost = WireError::new(ErrorCode::UnknownOutcome, "the call was given up");
        self.send(Err(lost));
    }
}

/// What reaches the owner thread.
#[allow(clippy::large_enum_variant)] // The common variant is the large one.
enum Input {
    Event(ReplicaEvent),
    /// Batches are durable, or the store has failed.
    Committed(Vec<u64>, Result<(), String>),
    Flushed(Result<FlushDone, KvError>),
    Namespace(
        NamespaceWork,
        tokio::sync::oneshot::Sender<Result<(), String>>,
    ),
    Stop,
}

/// Settings of the driver.
#[derive(Debug, Clone)]
pub struct ReplicaDriverConfig {
    /// Threads that read object files. Default 3.
    pub readers: usize,
}

impl Default for ReplicaDriverConfig {
    fn default() -> Self {
        Self { readers: 3 }
    }
}

/// Why a replica could not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its tables.
    #[error("the store's tables: {0}")]
    Tables(#[from] TableError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Gives work to a running replica; cheap to clone, usable from any thread, never blocks.
#[derive(Debug, Clone)]
pub struct ReplicaHandle {
    inbox: Sender<Input>,
}

impl ReplicaHandle {
    /// A request; it is answered exactly once through the [`ReplySink`] (not at all after a stop).
    pub fn request(&self, from: ReplyTo, body: ReplicaRequest, payload: Bytes) {
        self.event(ReplicaEvent::Request {
            from,
            body,
            payload,
        });
    }

    /// Works on the store's namespace snapshots; returns when that is durable.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn namespace(&self, work: NamespaceWork) -> Result<(), String> {
        let (done, result) = tokio::sync::oneshot::channel();
        // Refused only after a stop; then nobody answers either.
        let _ = self.inbox.send(Input::Namespace(work, done));
        let stopped = |_| Err("this daemon is stopping".to_owned());
        result.await.unwrap_or_else(stopped)
    }

    /// The master has news for this store.
    pub fn poke(&self) {
        self.event(ReplicaEvent::Poke);
    }

    fn event(&self, event: ReplicaEvent) {
        // Refused only after a stop.
        let _ = self.inbox.send(Input::Event(event));
    }
}

/// A running replica. Stops when it is [stopped](Self::stop) or dropped.
#[derive(Debug)]
pub struct ReplicaDriver {
    handle: ReplicaHandle,
    lost: Arc<tokio::sync::Notify>,
    threads: Vec<JoinHandle<()>>,
}

impl ReplicaDriver {
    /// Recovers the machine from the store and starts its threads. The first heartbeat goes out at
    /// once.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        dir: StoreDir,
        machine: ReplicaConfig,
        config: &ReplicaDriverConfig,
        replies: Arc<dyn ReplySink>,
        caller: Arc<dyn Caller>,
    ) -> Result<Self, StartError> {
        let StoreDir {
            root,
            store,
            tables,
            writer,
            lock,
            ..
        } = dir;
        let lost = Arc::new(tokio::sync::Notify::new());
        let telling = Arc::clone(&lost);
        let scrub = TableScrubSetup {
            base: tables,
            counts: Arc::clone(&machine.table_counts),
            period: machine.scrub_period,
            on_fault: Box::new(move |cause| {
                tracing::error!(store = %root.display(), cause, "the store is damaged: it is served no more");
                if let Err(error) = StoreDir::condemn(&root, cause) {
                    tracing::error!(%error, "cannot note in the store that it is damaged");
                }
                telling.notify_one();
            }),
        };
        let replica = Replica::recover(machine, boottime(), &store)?;
        let (inbox, inputs) = unbounded();
        let mut threads = Vec::new();
        let storage = threads::storage(writer, inbox.clone(), &mut threads)?;
        let counter = replica.object_reads();
        let reads = threads::Readers {
            replies: Arc::clone(&replies),
            inbox: inbox.clone(),
            counter,
        };
        let readers = reads.start(config.readers, &mut threads)?;
        let background = threads::background(inbox.clone(), &mut threads)?;
        let (scrub, thread) = scrub.spawn("tables-scrub")?;
        threads.push(thread);
        let owner = Owner::new(
            (replica, store, lock),
            inbox.clone(),
            owner::Outlets {
                storage,
                readers,
                background,
                _scrub: scrub,
                replies,
                caller,
            },
        );
        threads.insert(0, threads::spawn("replica", move || owner.run(&inputs))?);
        Ok(Self {
            handle: ReplicaHandle { inbox },
            lost,
            threads,
        })
    }

    /// For those who give it work.
    #[must_use]
    pub fn handle(&self) -> ReplicaHandle {
        self.handle.clone()
    }

    /// Is notified when the store is damaged beyond use: an open would set it aside.
    #[must_use]
    pub fn lost(&self) -> Arc<tokio::sync::Notify> {
        Arc::clone(&self.lost)
    }

    /// Finishes what waits for the disk, writes the tables out and ends the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.handle.inbox.send(Input::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the replica panicked");
            }
        }
    }
}

impl Drop for ReplicaDriver {
    fn drop(&mut self) {
        self.end();
    }
}

//! What a replica hears and what it asks its driver to do.
use super::namespace::NamespaceWork;
use super::scrub_job::{ScrubJob, ScrubResult};
use crate::store::PendingBatch;
use crate::types::{ObjectId, StoreId};
use crate::wire::rpc::{Call, CallResult, Reply, ReplyTo};
use crate::wire::{ReplicaRequest, ReplicaResponse, Stamp, WireError};
use bytes::Bytes;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplicaEvent {
    /// A client or peer asks.
    Request {
        /// Whom to answer.
        from: ReplyTo,
        /// What.
        body: ReplicaRequest,
        /// The bytes that go with it.
        payload: Bytes,
    },
    /// A [`ReplicaAction::Persist`] is over. Reported in the order of the tokens.
    Persisted {
        /// Of the batch.
        token: u64,
        /// Durable, or why the store has failed.
        result: Result<(), String>,
    },
    /// A [`ReplicaAction::Call`] is over. Every call gets exactly one.
    CallDone {
        /// Of the call.
        token: u64,
        /// The answer.
        result: CallResult,
    },
    /// A reader (or the scrubber) found this object damaged on disk.
    Damaged {
        /// The object.
        object: ObjectId,
    },
    /// A [`ReplicaAction::Scrub`] is over.
    Scrubbed(ScrubResult),
    /// Work on this store's namespace snapshots; ends with [`ReplicaAction::NamespaceDone`].
    Namespace {
        /// Names it.
        token: u64,
        /// What.
        work: NamespaceWork,
    },
    /// The master has news: send a heartbeat now.
    Poke,
    /// Time passed; sent at or after [`Replica::next_wake`](super::Replica::next_wake).
    Tick,
}

/// Something to do, in order.
#[derive(Debug)]
pub enum ReplicaAction {
    /// Send it.
    Reply(Reply),
    /// Commit the batch, in the order given ([`StoreWriter`](crate::store::StoreWriter)), many
    /// together if many wait. Then feed `Persisted`.
    Persist {
        /// Names it; rising.
        token: u64,
        /// What; visible in the store already.
        batch: PendingBatch,
    },
    /// Make the call, feed `CallDone`.
    Call(Call),
    /// Work on namespace snapshots is durable, or why it is not.
    NamespaceDone {
        /// Names it.
        token: u64,
        /// How it ended.
        result: Result<(), String>,
    },
    /// Read objects and answer; plan it here and now, wait for the disk elsewhere.
    Read(ReadJob),
    /// Verify objects against the disk; plan it here and now, wait for the disk elsewhere. Then
    /// feed `Scrubbed`.
    Scrub(ScrubJob),
}

/// Object reads that depend on nothing but the store. See [`read`](super::read).
#[derive(Debug, Clone, PartialEq)]
pub enum ReadJob {
    /// Answers a `Read`.
    Read {
        /// Whom to answer.
        to: ReplyTo,
        /// The object.
        object: ObjectId,
        /// First byte wanted.
        offset: u32,
        /// Bytes wanted.
        len: u32,
        /// The stamp that goes along.
        stamp: Option<Result<Stamp, WireError>>,
    },
    /// Answers a `Check`.
    Check {
        /// Whom to answer.
        to: ReplyTo,
        /// Which.
        objects: Vec<ObjectId>,
    },
    /// Answers a `Fetch`.
    Fetch {
        /// Whom to answer.
        to: ReplyTo,
        /// The object.
        object: ObjectId,
    },
}

/// An error reply.
#[must_use]
pub fn refuse(to: ReplyTo, error: WireError) -> ReplicaAction {
    ReplicaAction::Reply(Reply {
        to,
        body: Err(error),
        payload: Vec::new(),
    })
}

/// A reply without payload.
#[must_use]
pub fn answer(to: ReplyTo, body: ReplicaResponse) -> ReplicaAction {
    let body = Ok(crate::wire::Response::Replica(body));
    ReplicaAction::Reply(Reply {
        to,
        body,
        payload: Vec::new(),
    })
}

/// How a store is named to people.
#[must_use]
pub fn store_name(store: StoreId) -> String {
    format!("store {:08x}", store.0 >> 96)
}

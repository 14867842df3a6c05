//! What the master hears and what it asks its driver to do.
use super::namespace::NamespaceAt;
use crate::consensus::LogWrite;
use crate::store::{FlushDone, FlushJob, KvError};
use crate::types::{LogIndex, NodeId, RaftId};
use crate::wire::MasterRequest;
use crate::wire::Push;
use crate::wire::node::{LeaderHint, MemberState};
use crate::wire::rpc::{Call, CallResult, ConnId, Reply, ReplyTo};
use std::net::SocketAddr;

/// What the master hears.
#[derive(Debug)]
pub enum MasterEvent {
    /// Every 20 to 50 ms.
    Tick,
    /// A request that arrived on a connection.
    Request {
        /// Whom to answer.
        from: ReplyTo,
        /// What is asked.
        body: MasterRequest,
    },
    /// A connection is gone: nothing can be pushed to it any more.
    ConnClosed(ConnId),
    /// A Raft message of another member.
    Raft {
        /// The sender.
        from: RaftId,
        /// Where it listens.
        addr: SocketAddr,
        /// Encoded `consensus::RaftMessage`.
        message: Vec<u8>,
    },
    /// A [`MasterAction::Persist`] is durable (and all before it).
    Persisted {
        /// Its token.
        token: u64,
    },
    /// How gossip sees a node: a hint.
    Member {
        /// Whom.
        node: NodeId,
        /// How it looks.
        state: MemberState,
    },
    /// A lagging voter wants a page of the tables ([`crate::wire::NodeRequest::SnapshotPage`]).
    SnapshotPage {
        /// Whom to answer.
        from: ReplyTo,
        /// Index of the snapshot.
        index: LogIndex,
        /// Keys greater than this.
        after: Vec<u8>,
        /// Bytes at most, about.
        bytes_max: u32,
    },
    /// A store wants a page of the namespace ([`crate::wire::NodeRequest::NamespacePage`]).
    NamespacePage {
        /// Whom to answer.
        from: ReplyTo,
        /// Of which state.
        at: NamespaceAt,
        /// Keys greater than this.
        after: Vec<u8>,
        /// Bytes at most, about.
        bytes_max: u32,
    },
    /// The result of a [`MasterAction::Call`].
    CallDone {
        /// Its token.
        token: u64,
        /// Its result.
        result: CallResult,
    },
    /// The result of a [`MasterAction::Flush`].
    Flushed(Result<FlushDone, KvError>),
    /// This node is about to stop: hand the lead over.
    StepDown,
}

/// What the driver shall do, in order.
#[derive(Debug)]
pub enum MasterAction {
    /// Answer a request.
    Reply(Reply),
    /// Push to a connection; one that is gone drops it.
    Push {
        /// The connection.
        conn: ConnId,
        /// What.
        push: Push,
    },
    /// Send a Raft message (as a `Cast` of `NodeRequest::Raft`); it may be lost.
    SendRaft {
        /// To which member.
        to: RaftId,
        /// Where it listens.
        addr: SocketAddr,
        /// Encoded.
        message: Vec<u8>,
    },
    /// Make log records durable, then feed [`MasterEvent::Persisted`]. Several may share one sync.
    Persist {
        /// Given back.
        token: u64,
        /// What.
        write: LogWrite,
    },
    /// Call another daemon, then feed [`MasterEvent::CallDone`].
    Call(Call),
    /// Run this on a background thread, then feed [`MasterEvent::Flushed`].
    Flush(FlushJob),
    /// The leader, the term or the voters changed: publish the hint.
    Leader(LeaderHint),
    /// This voter must stop (fail-stop): its tables or its log are broken.
    Fatal(String),
}

//! How machines speak of connections and calls; drivers and the simulator carry them.
use super::{Request, Response, WireError};
use crate::types::{NodeId, RaftId, StoreId};
use bytes::Bytes;
use std::net::SocketAddr;

/// One accepted connection, unique within the run of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Where a request came from: what a reply needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyTo {
    /// The connection.
    pub conn: ConnId,
    /// The request's id on it.
    pub id: u64,
}

/// A reply on its way out.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// To whom.
    pub to: ReplyTo,
    /// The answer.
    pub body: Result<Response, WireError>,
    /// Payload pieces, sent one after the other without copying.
    pub payload: Vec<Bytes>,
}

/// Whom a machine calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallTarget {
    /// The current master, wherever it is.
    Leader,
    /// A store, by the address the machine knows.
    Store(StoreId, SocketAddr),
    /// A node, by address.
    Node(NodeId, SocketAddr),
    /// A voter.
    Voter(RaftId),
}

/// An outgoing call; its result comes back as an event with the same token.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Chosen by the machine.
    pub token: u64,
    /// To whom.
    pub to: CallTarget,
    /// What.
    pub request: Request,
    /// Payload pieces.
    pub payload: Vec<Bytes>,
}

/// The result of a call. `UnknownOutcome` when it was sent and no answer came in time.
pub type CallResult = Result<(Response, Bytes), WireError>;

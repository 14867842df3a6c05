//! What crosses the network: one envelope, messages by plane, error codes.
//!
//! A frame is `len u32 | header_crc u32 | header_len u32 | header | payload`, little-endian; `len`
//! counts everything after itself. The header is a postcard [`Envelope`]; payload bytes follow it
//! and are never re-encoded. The header has its own CRC-32C; payload bytes are covered by the block
//! sums inside the header, which the receiver checks before it uses them.
//! Enums are append-only: a variant is never removed or reordered within a protocol version.
pub mod audit;
pub mod error;
pub mod frame;
pub mod master;
pub mod mutation;
pub mod node;
pub mod repair;
pub mod replica;
pub mod rpc;
pub mod scrub;

pub use error::{ErrorClass, ErrorCode, WireError};
pub use frame::{FRAME_MAX, Frame, FrameError};
pub use master::{MasterRequest, MasterResponse, Push, Query, QueryAnswer};
pub use mutation::{Change, Commit, Mutation, MutationOk, PutExtent, WriteToken};
pub use node::{NodeRequest, NodeResponse};
pub use replica::{ReplicaRequest, ReplicaResponse, Stamp};

use serde::{Deserialize, Serialize};

/// Raised when old and new programs could misunderstand each other.
pub const PROTOCOL_VERSION: u16 = 13;

/// Everything that travels on a TCP connection after the handshake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Envelope {
    /// A request; the reply carries the same `id`. Ids are the sender's, unique per connection.
    Request {
        /// Matches the reply.
        id: u64,
        /// What is asked.
        body: Request,
    },
    /// The reply to request `id`.
    Reply {
        /// Of the request.
        id: u64,
        /// The answer.
        body: Result<Response, WireError>,
    },
    /// Sent by a server unasked.
    Push(Push),
    /// Sent by a client without expecting a reply (Raft messages).
    Cast(Request),
}

/// A request to a daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// To the master (any voter; a follower answers `NotLeader` with a hint).
    Master(MasterRequest),
    /// To the replica store of this node.
    Replica(ReplicaRequest),
    /// To the node itself: membership, bandwidth, raft traffic, administration.
    Node(NodeRequest),
}

/// An answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// From the master.
    Master(MasterResponse),
    /// From the replica store.
    Replica(ReplicaResponse),
    /// From the node.
    Node(NodeResponse),
}

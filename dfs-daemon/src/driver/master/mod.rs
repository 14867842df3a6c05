//! Runs the master machine of a node that votes.
//!
//! ```text
//!  network ──request, raft──> owner ──Persist──> log thread (one fdatasync for all that wait)
//!     ^                        │  ^────────────Persisted──┘
//!     └──reply, push, raft─────┤
//!                              └──flush──> flush thread
//! ```
//! The owner thread has the machine to itself. All that arrived meanwhile is handled in one batch, so
//! that proposals share one log write and one message to each follower. A node that does not vote runs
//! no machine: it answers `NotLeader` with what it knows, until the leader asks it to vote.
mod owner;
mod voter;

use super::calls::Calls;
use super::leader_book::LeaderBook;
use super::queue::{Sender, unbounded};
use crate::config::Config;
use dfs_core::master::leader::{MasterEvent, NamespaceAt};
use dfs_core::net::server::ServerHandle;
use dfs_core::replica::VotingNow;
use dfs_core::store::{Disk, TableCounts};
use dfs_core::types::{ClusterId, NodeId, RaftId, Term};
use dfs_core::wire::rpc::{CallResult, ConnId, ReplyTo};
use dfs_core::wire::{MasterRequest, NodeRequest};
use owner::Owner;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What a master driver needs to know of its node.
pub struct MasterSetup {
    /// This node.
    pub node: NodeId,
    /// Its TCP address.
    pub addr: SocketAddr,
    /// The cluster.
    pub cluster: ClusterId,
    /// The daemon's configuration.
    pub config: Config,
    /// Begin a new cluster with this node as its first voter.
    pub bootstrap: bool,
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// What the checks of the node's table files count.
    pub table_counts: Arc<TableCounts>,
    /// Room that is kept for what the voter must write on a full device, in bytes.
    pub ballast: u64,
    /// Told what part this node has in the group.
    pub voting: Arc<VotingNow>,
}

/// What reaches the owner thread.
pub(super) enum Input {
    Event(MasterEvent),
    /// A request that wants its sender's connection but no answer.
    Cast(ConnId, MasterRequest),
    /// The result of a call of the voter with this Raft id.
    CallDone(RaftId, u64, CallResult),
    Persisted(RaftId, Result<u64, String>),
    BecomeVoter(ReplyTo, ClusterId, RaftId),
    RetireVoter(ReplyTo, RaftId, Term),
    Stop,
}

/// Gives work to the master driver; cheap to clone, never blocks.
#[derive(Clone)]
pub struct MasterHandle {
    inbox: Sender<Input>,
}

impl MasterHandle {
    fn send(&self, input: Input) {
        // Refused only after a stop.
        let _ = self.inbox.send(input);
    }

    /// A request; it is answered exactly once.
    pub fn request(&self, from: ReplyTo, body: MasterRequest) {
        self.send(Input::Event(MasterEvent::Request { from, body }));
    }

    /// A request that wants no answer.
    pub fn cast(&self, from: ConnId, body: MasterRequest) {
        self.send(Input::Cast(from, body));
    }

    /// A connection is gone.
    pub fn conn_closed(&self, conn: ConnId) {
        self.send(Input::Event(MasterEvent::ConnClosed(conn)));
    }

    /// A Raft message.
    pub fn raft_message(&self, from: RaftId, addr: SocketAddr, message: Vec<u8>) {
        self.send(Input::Event(MasterEvent::Raft {
            from,
            addr,
            message,
        }));
    }

    /// How gossip sees a node.
    pub fn member(&self, node: NodeId, state: dfs_core::membership::MemberState) {
        use dfs_core::membership::MemberState as S;
        use dfs_core::wire::node::MemberState as W;
        let state = match state {
            S::Alive => W::Alive,
            S::Suspect => W::Suspect,
            S::Down => W::Down,
            S::Left => W::Left,
        };
        self.send(Input::Event(MasterEvent::Member { node, state }));
    }

    /// A request about this node's vote.
    pub fn node_request(&self, from: ReplyTo, request: NodeRequest) {
        match request {
            NodeRequest::BecomeVoter { cluster, raft_id } => {
                self.send(Input::BecomeVoter(from, cluster, raft_id));
            }
            NodeRequest::RetireVoter { raft_id, term } => {
                self.send(Input::RetireVoter(from, raft_id, term));
            }
            NodeRequest::SnapshotPage {
                index,
                after,
                bytes_max,
            } => {
                let event = MasterEvent::SnapshotPage {
                    from,
                    index,
                    after,
                    bytes_max,
                };
                self.send(Input::Event(event));
            }
            NodeRequest::NamespacePage {
                index,
                age_max_ms,
                after,
                bytes_max,
            } => {
                let age_max = Duration::from_millis(u64::from(age_max_ms));
                let event = MasterEvent::NamespacePage {
                    from,
                    at: NamespaceAt { index, age_max },
                    after,
                    bytes_max,
                };
                self.send(Input::Event(event));
            }
            _ => tracing::warn!("a node request reached the master that is not for it"),
        }
    }
}

/// A running master driver.
pub struct MasterDriver {
    handle: MasterHandle,
    thread: Option<JoinHandle<()>>,
}

impl MasterDriver {
    /// Starts the driver; if this node votes, its machine is recovered first.
    ///
    /// # Errors
    /// A voter of another cluster or of a newer program, or a setting out of range. One that does not
    /// open for another reason is none of the store: the daemon runs without it, and says so.
    pub fn start(
        setup: MasterSetup,
        server: ServerHandle,
        calls: Calls,
        book: LeaderBook,
    ) -> anyhow::Result<Self> {
        let (inbox, inputs) = unbounded();
        let mut owner = Owner::new(setup, server, calls, book, inbox.clone());
        owner.recover()?;
        let thread = std::thread::Builder::new()
            .name("master".into())
            .spawn(move || owner.run(&inputs))?;
        Ok(Self {
            handle: MasterHandle { inbox },
            thread: Some(thread),
        })
    }

    /// For those who give it work.
    #[must_use]
    pub fn handle(&self) -> MasterHandle {
        self.handle.clone()
    }

    /// Hands the lead over if it has it, and stops.
    pub fn stop(mut self) {
        self.handle.send(Input::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the master's thread panicked");
        }
    }
}

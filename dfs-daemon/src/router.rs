//! Hands what arrives on the network to whom it is for.
use crate::driver::disk_use::DiskGauge;
use crate::driver::gossip::GossipHandle;
use crate::driver::master::MasterHandle;
use crate::driver::namespace::NamespaceKeeper;
use crate::driver::node_service::NodeService;
use crate::driver::replica::ReplicaHandle;
use bytes::Bytes;
use dfs_core::net::server::{Handler, ServerHandle};
use dfs_core::types::LogIndex;
use dfs_core::wire::rpc::{ConnId, Reply, ReplyTo};
use dfs_core::wire::{ErrorCode, NodeRequest, NodeResponse, Request, Response, WireError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// See the [module docs](self).
pub struct Router {
    /// Where replies go.
    pub server: ServerHandle,
    /// This node itself.
    pub node: NodeService,
    /// Its store.
    pub replica: ReplicaHandle,
    /// Its voter.
    pub master: MasterHandle,
    /// Membership, for leaving.
    pub gossip: GossipHandle,
    /// The store's snapshots of the namespace.
    pub namespace: NamespaceKeeper,
    /// Its data directory.
    pub disk: Arc<DiskGauge>,
    /// Told when the daemon shall stop because somebody said so.
    pub stop: Arc<Notify>,
    /// For work that waits.
    pub runtime: tokio::runtime::Handle,
}

impl Router {
    fn node_request(&self, from: ReplyTo, request: NodeRequest) {
        if let Some(answer) = self.node.answer(&request) {
            let body = Ok(Response::Node(answer));
            return self.server.reply(Reply {
                to: from,
                body,
                payload: Vec::new(),
            });
        }
        match request {
            NodeRequest::Leave => self.leave(from),
            NodeRequest::DiskUse => self.disk_use(from),
            NodeRequest::StoreNamespace { index } => self.store_namespace(from, index),
            request => self.master.node_request(from, request),
        }
    }

    /// Takes a snapshot of the namespace and answers when it is durable.
    fn store_namespace(&self, from: ReplyTo, index: LogIndex) {
        let (keeper, server) = (self.namespace.clone(), self.server.clone());
        self.runtime.spawn(async move {
            let stored = keeper.take(index, Duration::ZERO).await;
            let body = stored.map(|stored| Response::Node(NodeResponse::NamespaceStored(stored)));
            server.reply(Reply {
                to: from,
                body,
                payload: Vec::new(),
            });
        });
    }

    /// Walks the data directory, which takes a while.
    fn disk_use(&self, from: ReplyTo) {
        let (server, disk) = (self.server.clone(), Arc::clone(&self.disk));
        self.runtime.spawn_blocking(move || {
            let used = disk.measure().map(NodeResponse::DiskUse);
            let refused = |e: std::io::Error| WireError::new(ErrorCode::Internal, e.to_string());
            server.reply(Reply {
                to: from,
                body: used.map(Response::Node).map_err(refused),
                payload: Vec::new(),
            });
        });
    }

    /// Says goodbye to the other members, answers, and asks the daemon to stop.
    fn leave(&self, from: ReplyTo) {
        let (gossip, server, stop) = (
            self.gossip.clone(),
            self.server.clone(),
            Arc::clone(&self.stop),
        );
        self.runtime.spawn(async move {
            gossip.leave().await;
            let body = Ok(Response::Node(NodeResponse::Done));
            server.reply(Reply {
                to: from,
                body,
                payload: Vec::new(),
            });
            // The answer is on its way before the connections close.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stop.notify_one();
        });
    }
}

impl Handler for Router {
    fn request(&self, from: ReplyTo, request: Request, payload: Bytes) {
        match request {
            Request::Master(body) => self.master.request(from, body),
            Request::Replica(body) => self.replica.request(from, body, payload),
            Request::Node(body) => self.node_request(from, body),
        }
    }

    fn cast(&self, from: ConnId, request: Request, _payload: Bytes) {
        match request {
            Request::Node(NodeRequest::Raft {
                from,
                addr,
                message,
            }) => {
                self.master.raft_message(from, addr, message);
            }
            Request::Master(body) => self.master.cast(from, body),
            Request::Node(_) | Request::Replica(_) => {
                tracing::debug!("a message that wants an answer came without asking for one");
            }
        }
    }

    fn conn_closed(&self, conn: ConnId) {
        self.master.conn_closed(conn);
    }
}

//! The accepting end: authenticates peers, hands their requests to a [`Handler`], carries replies.
//!
//! * A peer that sends garbage, has the wrong key or says nothing is refused within
//!   [`ServerConfig::handshake_timeout`] and logged once per address.
//! * Requests are handed over on the connection's reading task, in wire order; the handler must not
//!   block. Replies and pushes are sent from whatever thread has them, in the order of the calls.
//! * A peer with more than [`ServerConfig::unanswered_max`] open requests is disconnected (our own
//!   clients keep far below).
use super::auth::ClusterKey;
use super::handshake::{self, Credentials, HandshakeError};
use super::link::{self, Link, SendError};
use crate::membership::bandwidth::Bandwidth;
use crate::types::ClusterId;
use crate::wire::rpc::{ConnId, Reply, ReplyTo};
use crate::wire::{Envelope, ErrorCode, Push, Request, WireError};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Takes requests. Every method is called on a network task and must return at once.
pub trait Handler: Send + Sync + 'static {
    /// Answer with [`ServerHandle::reply`], now or later, exactly once.
    fn request(&self, from: ReplyTo, request: Request, payload: Bytes);
    /// A request that wants no answer.
    fn cast(&self, from: ConnId, request: Request, payload: Bytes);
    /// The connection is gone; replies to it are dropped from now on.
    fn conn_closed(&self, conn: ConnId);
}

/// Limits of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Connections at once, authenticated or not.
    pub connections_max: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Requests of one connection that wait for their reply.
    pub unanswered_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            handshake_timeout: Duration::from_secs(3),
            unanswered_max: 8 * super::conn::IN_FLIGHT_MAX,
        }
    }
}

/// One message of [`ServerHandle::send_all`].
#[allow(clippy::large_enum_variant)] // The common variant is the large one.
#[derive(Debug)]
pub enum Outgoing {
    /// As [`ServerHandle::reply`].
    Reply(Reply),
    /// As [`ServerHandle::push`].
    Push(ConnId, Push),
}

struct Peer {
    link: Arc<Link>,
    unanswered: AtomicI64,
}

#[derive(Default)]
struct Shared {
    peers: RwLock<HashMap<ConnId, Arc<Peer>>>,
    next: AtomicU64,
    open: AtomicUsize,
    stopped: AtomicBool,
    complained: Mutex<HashSet<IpAddr>>,
    bandwidth: Option<Arc<Bandwidth>>,
}

/// Sends replies and pushes; cheap to clone, usable from any thread.
#[derive(Clone, Default)]
pub struct ServerHandle {
    shared: Arc<Shared>,
}

impl ServerHandle {
    /// A handle for a server that is started later; it counts bytes in `bandwidth`.
    #[must_use]
    pub fn new(bandwidth: Option<Arc<Bandwidth>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                bandwidth,
                ..Shared::default()
            }),
        }
    }

    fn peer(&self, conn: ConnId) -> Option<Arc<Peer>> {
        let peers = self.shared.peers.read();
        peers
            .unwrap_or_else(PoisonError::into_inner)
            .get(&conn)
            .cloned()
    }

    /// Sends a reply. One for a connection that is gone is dropped.
    pub fn reply(&self, reply: Reply) {
        if let Some(peer) = self.peer(reply.to.conn) {
            peer.unanswered.fetch_sub(1, Relaxed);
            let id = reply.to.id;
            let envelope = Envelope::Reply {
                id,
                body: reply.body,
            };
            if let Err(e) = peer.link.send(&envelope, reply.payload) {
                too_large(&peer.link, id, &e);
            }
        }
    }

    /// Sends many replies with few system calls (one or so per connection).
    pub fn reply_all(&self, replies: impl IntoIterator<Item = Reply>) {
        self.send_all(replies.into_iter().map(Outgoing::Reply));
    }

    /// Sends many messages with few system calls (one or so per connection); those of one
    /// connection in this order.
    pub fn send_all(&self, messages: impl IntoIterator<Item = Outgoing>) {
        let mut touched: Vec<(ConnId, Arc<Peer>)> = Vec::new();
        for message in messages {
            let conn = match &message {
                Outgoing::Reply(reply) => reply.to.conn,
                Outgoing::Push(conn, _) => *conn,
            };
            let peer = match touched.iter().find(|(c, _)| *c == conn) {
                Some((_, peer)) => peer,
                None => {
                    let Some(peer) = self.peer(conn) else {
                        continue;
                    };
                    touched.push((conn, peer));
                    &touched[touched.len() - 1].1
                }
            };
            match message {
                Outgoing::Reply(reply) => {
                    peer.unanswered.fetch_sub(1, Relaxed);
                    let id = reply.to.id;
                    let envelope = Envelope::Reply {
                        id,
                        body: reply.body,
                    };
                    if let Err(e) = peer.link.enqueue(&envelope, reply.payload) {
                        too_large(&peer.link, id, &e);
                    }
                }
                Outgoing::Push(_, push) => {
                    // Closed: its caches end with it.
                    let _ = peer.link.enqueue(&Envelope::Push(push), Vec::new());
                }
            }
        }
        for (_, peer) in touched {
            peer.link.flush();
        }
    }

    /// Sends a push; false if the connection is gone.
    pub fn push(&self, conn: ConnId, push: Push) -> bool {
        self.peer(conn)
            .is_some_and(|p| p.link.send(&Envelope::Push(push), Vec::new()).is_ok())
    }

    /// Closes a connection; the handler is told as usual.
    pub fn close(&self, conn: ConnId) {
        if let Some(peer) = self.peer(conn) {
            peer.link.close();
        }
    }

    /// Closes all connections.
    pub fn close_all(&self) {
        let peers = self.shared.peers.read();
        for peer in peers.unwrap_or_else(PoisonError::into_inner).values() {
            peer.link.close();
        }
    }

    /// The other end's address.
    #[must_use]
    pub fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        self.peer(conn).map(|p| p.link.peer())
    }

    /// Authenticated connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        let peers = self.shared.peers.read();
        peers.unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A reply that fits no frame becomes an error reply, so that the caller is not left waiting.
fn too_large(link: &Link, id: u64, error: &SendError) {
    if let SendError::Frame(e) = error {
        tracing::error!(peer = %link.peer(), error = %e, "reply cannot be sent");
        let body = Err(WireError::new(ErrorCode::Internal, e.to_string()));
        // Closed: nobody waits.
        let _ = link.send(&Envelope::Reply { id, body }, Vec::new());
    }
}

/// A running accept loop. Dropping it stops accepting and closes every connection.
pub struct Server {
    handle: ServerHandle,
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

struct Acceptor {
    handle: ServerHandle,
    key: ClusterKey,
    cluster: ClusterId,
    config: ServerConfig,
    handler: Arc<dyn Handler>,
}

impl Server {
    /// Serves `listener` (needs a runtime). The cluster is the credentials', or else the key's own.
    ///
    /// # Errors
    /// The listener's address cannot be read.
    pub fn start(
        listener: TcpListener,
        credentials: &Credentials,
        config: ServerConfig,
        handle: ServerHandle,
        handler: Arc<dyn Handler>,
    ) -> std::io::Result<Self> {
        let addr = listener.local_addr()?;
        let acceptor = Arc::new(Acceptor {
            handle: handle.clone(),
            key: credentials.key.clone(),
            cluster: credentials
                .cluster
                .unwrap_or_else(|| credentials.key.cluster_id()),
            config,
            handler,
        });
        let accepting = tokio::spawn(acceptor.run(listener));
        Ok(Self {
            handle,
            addr,
            accepting,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where replies go.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.handle.shared.stopped.store(true, SeqCst);
        self.handle.close_all();
    }
}

impl Acceptor {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let open = self.handle.shared.open.fetch_add(1, Relaxed);
                    let this = Arc::clone(&self);
                    tokio::spawn(async move {
                        this.serve(stream, peer, open).await;
                        this.handle.shared.open.fetch_sub(1, Relaxed);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: waiting lets some go.
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream, addr: SocketAddr, open: usize) {
        if open >= self.config.connections_max * 2 {
            return;
        }
        let busy = open >= self.config.connections_max;
        let shaking = async {
            link::set_options(&stream)?;
            handshake::accept(&mut stream, &self.key, self.cluster, busy).await
        };
        let purpose = match tokio::time::timeout(self.config.handshake_timeout, shaking).await {
            Ok(Ok(purpose)) => purpose,
            Ok(Err(error)) => return self.complain(addr, &error),
            Err(_) => {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return self.complain(addr, &HandshakeError::Io(late));
            }
        };
        let shared = &self.handle.shared;
        let (link, read) = Link::start(stream, addr, purpose, shared.bandwidth.clone());
        let conn = ConnId(shared.next.fetch_add(1, Relaxed) + 1);
        let peer = Arc::new(Peer {
            link,
            unanswered: AtomicI64::new(0),
        });
        let peers = || shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers().insert(conn, Arc::clone(&peer));
        if shared.stopped.load(SeqCst) {
            peer.link.close();
        }
        let max = i64::try_from(self.config.unanswered_max).unwrap_or(i64::MAX);
        let each = |frame: crate::wire::Frame| match frame.envelope {
            Envelope::Request { id, body } => {
                if peer.unanswered.fetch_add(1, Relaxed) >= max {
                    tracing::warn!(peer = %addr, "too many unanswered requests: closing");
                    return false;
                }
                self.handler
                    .request(ReplyTo { conn, id }, body, frame.payload);
                true
            }
            Envelope::Cast(body) => {
                self.handler.cast(conn, body, frame.payload);
                true
            }
            Envelope::Reply { .. } | Envelope::Push(_) => false,
        };
        if let Err(error) = peer.link.read_frames(read, each).await {
            tracing::warn!(peer = %addr, %error, "connection closed");
        }
        peers().remove(&conn);
        self.handler.conn_closed(conn);
    }

    fn complain(&self, addr: SocketAddr, error: &HandshakeError) {
        let complained = &self.handle.shared.complained;
        let mut complained = complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.len() >= 1024 {
            complained.clear();
        }
        if complained.insert(addr.ip()) {
            tracing::warn!(peer = %addr, %error, "connection refused (logged once per address)");
        }
    }
}

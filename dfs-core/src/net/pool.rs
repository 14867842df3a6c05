//! One live connection per address, made when first needed and replaced when it breaks.
//!
//! One caller connects, others to the same address wait for it. After a failure calls to that
//! address fail at once until a backoff (doubling from `backoff_min` to `backoff_max`) has passed.
use super::conn::{Conn, ConnOptions};
use super::handshake::Credentials;
use crate::wire::rpc::CallResult;
use crate::wire::{ErrorCode, Request, WireError};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Casts that may wait for one connection to be made; more are dropped.
const WAITING_CASTS_MAX: usize = 64;

/// Timing of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// From connect to the end of the handshake.
    pub connect_timeout: Duration,
    /// How long an address is left alone after the first failure.
    pub backoff_min: Duration,
    /// Most it is left alone.
    pub backoff_max: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(500),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
        }
    }
}

#[derive(Default)]
struct PeerState {
    live: Option<Arc<Conn>>,
    failures: u32,
    retry_at: Option<Instant>,
    error: Option<WireError>,
}

#[derive(Default)]
struct Peer {
    state: Mutex<PeerState>,
    connecting: tokio::sync::Mutex<()>,
    waiting_casts: AtomicUsize,
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live connection, or why there is none to be tried now, or `None`: connect.
    fn ready(&self) -> Option<Result<Arc<Conn>, WireError>> {
        let mut state = self.state();
        if let Some(conn) = &state.live {
            if !conn.is_closed() {
                return Some(Ok(Arc::clone(conn)));
            }
            state.live = None;
        }
        match (state.retry_at, &state.error) {
            (Some(at), Some(error)) if Instant::now() < at => Some(Err(error.clone())),
            _ => None,
        }
    }
}

struct Shared {
    credentials: Credentials,
    options: ConnOptions,
    config: PoolConfig,
    on_trouble: Option<Arc<dyn Fn(SocketAddr) + Send + Sync>>,
    peers: Mutex<HashMap<SocketAddr, Arc<Peer>>>,
}

/// Connections by address; cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// An empty pool; all its connections share credentials and options.
    #[must_use]
    pub fn new(credentials: Credentials, options: ConnOptions, config: PoolConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                credentials,
                options,
                config,
                on_trouble: None,
                peers: Mutex::default(),
            }),
        }
    }

    /// Tells of every address to which no connection could be made, or whose connection was closed
    /// by whatever cause. Only before the pool is cloned or used.
    #[must_use]
    pub fn telling_of_trouble(mut self, tell: Arc<dyn Fn(SocketAddr) + Send + Sync>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.on_trouble = Some(tell);
        }
        self
    }

    fn peer(&self, addr: SocketAddr) -> Arc<Peer> {
        let peers = self.shared.peers.lock();
        let mut peers = peers.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(peers.entry(addr).or_default())
    }

    /// The live connection to `addr`, made if need be, before `deadline`.
    ///
    /// # Errors
    /// As [`Conn::connect`]; also at once while the address is backed off.
    pub async fn get(&self, addr: SocketAddr, deadline: Instant) -> Result<Arc<Conn>, WireError> {
        let peer = self.peer(addr);
        if let Some(ready) = peer.ready() {
            return ready;
        }
        self.connect(addr, &peer, deadline).await
    }

    async fn connect(
        &self,
        addr: SocketAddr,
        peer: &Peer,
        deadline: Instant,
    ) -> Result<Arc<Conn>, WireError> {
        let config = &self.shared.config;
        let Ok(_one) = timeout_at(deadline.into(), peer.connecting.lock()).await else {
            return Err(WireError::new(
                ErrorCode::Unavailable,
                format!("{addr}: no connection in time"),
            ));
        };
        // Somebody else may have connected, or failed, meanwhile.
        if let Some(ready) = peer.ready() {
            return ready;
        }
        let until = deadline.min(Instant::now() + config.connect_timeout);
        let made = Conn::connect(
            addr,
            &self.shared.credentials,
            until,
            self.shared.options.clone(),
        );
        let made = made.await;
        let mut state = peer.state();
        match made {
            Ok(conn) => {
                let conn = Arc::new(conn);
                if let Some(tell) = self.shared.on_trouble.clone() {
                    let closed = conn.when_closed();
                    tokio::spawn(async move {
                        closed.await;
                        tell(addr);
                    });
                }
                *state = PeerState {
                    live: Some(Arc::clone(&conn)),
                    ..PeerState::default()
                };
                Ok(conn)
            }
            Err(error) => {
                let wait = config.backoff_min * 2u32.pow(state.failures.min(8));
                state.failures += 1;
                state.retry_at = Some(Instant::now() + wait.min(config.backoff_max));
                state.error = Some(error.clone());
                drop(state);
                if let Some(tell) = &self.shared.on_trouble {
                    tell(addr);
                }
                Err(error)
            }
        }
    }

    /// [`get`](Self::get) and [`Conn::call`].
    ///
    /// # Errors
    /// Of both.
    pub async fn call(
        &self,
        addr: SocketAddr,
        request: Request,
        payload: Vec<Bytes>,
        deadline: Instant,
    ) -> CallResult {
        let conn = self.get(addr, deadline).await?;
        conn.call(request, payload, deadline).await
    }

    /// Sends without expecting answers and without waiting, all in one go; connects in the
    /// background if need be (needs a runtime). May be lost, as any datagrams.
    pub fn cast_all(&self, addr: SocketAddr, requests: Vec<Request>) {
        let peer = self.peer(addr);
        match peer.ready() {
            // Lost if it closes just now: the sender's protocol repeats it.
            Some(Ok(conn)) => drop(conn.cast_all(requests)),
            Some(Err(_)) => {}
            None => {
                let count = requests.len();
                if peer.waiting_casts.fetch_add(count, Relaxed) >= WAITING_CASTS_MAX {
                    peer.waiting_casts.fetch_sub(count, Relaxed);
                    return;
                }
                let this = self.clone();
                tokio::spawn(async move {
                    let deadline = Instant::now() + this.shared.config.connect_timeout;
                    if let Ok(conn) = this.connect(addr, &peer, deadline).await {
                        let _ = conn.cast_all(requests);
                    }
                    peer.waiting_casts.fetch_sub(count, Relaxed);
                });
            }
        }
    }

    /// True while there is a live connection to `addr`.
    #[must_use]
    pub fn is_connected(&self, addr: SocketAddr) -> bool {
        matches!(self.peer(addr).ready(), Some(Ok(_)))
    }

    /// True while calls to `addr` fail at once.
    #[must_use]
    pub fn is_backed_off(&self, addr: SocketAddr) -> bool {
        matches!(self.peer(addr).ready(), Some(Err(_)))
    }

    /// Forgets that `addr` failed (its node is said to be back).
    pub fn retry_now(&self, addr: SocketAddr) {
        let peer = self.peer(addr);
        let mut state = peer.state();
        state.retry_at = None;
        state.failures = 0;
    }

    /// Closes all connections; later calls make new ones.
    pub fn close_all(&self) {
        let peers = self.shared.peers.lock();
        for (_, peer) in peers.unwrap_or_else(PoisonError::into_inner).drain() {
            if let Some(conn) = peer.state().live.take() {
                conn.close();
            }
        }
    }
}

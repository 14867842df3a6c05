//! The calling end of a connection: many calls at once, each answered under its id.
//!
//! What an error of [`Conn::call`] says:
//! 1. nothing was sent: `Unavailable` (connection gone), `TimedOut` (no room until the deadline),
//!    `TooBig` (does not fit a frame);
//! 2. sent, and no answer by the deadline or before the connection was lost: `UnknownOutcome`;
//! 3. any other code is the server's own answer.
//!
//! Pushes are handled on the reading task before any reply that follows them on the wire is handed
//! out, so a reply never overtakes an invalidation.
use super::handshake::{self, Credentials, Purpose};
use super::link::{self, Link, SendError};
use crate::membership::bandwidth::Bandwidth;
use crate::types::ClusterId;
use crate::wire::rpc::CallResult;
use crate::wire::{Envelope, ErrorCode, Push, Request, WireError};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout_at;

/// Calls in flight on one connection; more wait for their turn.
pub const IN_FLIGHT_MAX: usize = 1024;

/// Takes what a server sends unasked. Called on the reading task: must not block.
pub trait PushHandler: Send + Sync {
    /// One push, in wire order.
    fn push(&self, push: Push);
}

/// What a connection is made with, besides credentials.
#[derive(Clone)]
pub struct ConnOptions {
    /// Counts bytes sent and received.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// Takes pushes; without one they are dropped.
    pub pushes: Option<Arc<dyn PushHandler>>,
    /// What it is for.
    pub purpose: Purpose,
    /// Closed when a call ends unanswered after at least this long without a sign of life.
    pub silence_max: Duration,
}

impl Default for ConnOptions {
    fn default() -> Self {
        Self {
            bandwidth: None,
            pushes: None,
            purpose: Purpose::default(),
            silence_max: Duration::from_millis(900),
        }
    }
}

/// A multiplexed, authenticated TCP connection. Closed when dropped.
pub struct Conn {
    inner: Arc<Inner>,
}

struct Inner {
    link: Arc<Link>,
    cluster: ClusterId,
    pending: Mutex<HashMap<u64, oneshot::Sender<CallResult>>>,
    next_id: AtomicU64,
    slots: Semaphore,
    received: AtomicU64,
    pushes: Option<Arc<dyn PushHandler>>,
    silence_max: Duration,
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<CallResult>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_reader(self: Arc<Self>, read: OwnedReadHalf) {
        let each = |frame: crate::wire::Frame| {
            self.received.fetch_add(1, Relaxed);
            match frame.envelope {
                Envelope::Reply { id, body } => {
                    // No entry: the caller gave up waiting.
                    if let Some(waiter) = self.pending().remove(&id) {
                        let _ = waiter.send(body.map(|b| (b, frame.payload)));
                    }
                    true
                }
                Envelope::Push(push) => {
                    if let Some(handler) = &self.pushes {
                        handler.push(push);
                    }
                    true
                }
                Envelope::Request { .. } | Envelope::Cast(_) => false,
            }
        };
        if let Err(error) = self.link.read_frames(read, each).await {
            tracing::warn!(peer = %self.link.peer(), %error, "connection closed");
        }
        // Dropping the senders tells every caller that its outcome is unknown.
        self.pending().clear();
    }
}

/// Removes the entry of a call that is not waited for any more.
struct PendingGuard<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.inner.pending().remove(&self.id);
    }
}

impl Conn {
    /// Connects and authenticates, all before `deadline`.
    ///
    /// # Errors
    /// `Unavailable` (refused, no answer, broken), `Unauthorized`, `WrongCluster`, `BadRequest`
    /// (not our protocol); nothing was asked of the server.
    pub async fn connect(
        addr: SocketAddr,
        credentials: &Credentials,
        deadline: Instant,
        options: ConnOptions,
    ) -> Result<Self, WireError> {
        let unavailable = |e: &dyn std::fmt::Display| {
            WireError::new(ErrorCode::Unavailable, format!("{addr}: {e}"))
        };
        let connecting = async {
            let mut stream = TcpStream::connect(addr)
                .await
                .map_err(|e| unavailable(&e))?;
            link::set_options(&stream).map_err(|e| unavailable(&e))?;
            let cluster = handshake::connect(&mut stream, credentials, options.purpose)
                .await
                .map_err(|e| {
                    let mut error = e.to_wire();
                    error.detail = format!("{addr}: {}", error.detail);
                    error
                })?;
            Ok::<_, WireError>((stream, cluster))
        };
        let (stream, cluster) = timeout_at(deadline.into(), connecting)
            .await
            .map_err(|_| unavailable(&"no answer in time"))??;
        let (link, read) = Link::start(stream, addr, options.purpose, options.bandwidth);
        let inner = Arc::new(Inner {
            link,
            cluster,
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
            slots: Semaphore::new(IN_FLIGHT_MAX),
            received: AtomicU64::new(0),
            pushes: options.pushes,
            silence_max: options.silence_max,
        });
        tokio::spawn(Arc::clone(&inner).run_reader(read));
        Ok(Self { inner })
    }

    /// Asks and waits for the answer and its payload. Dropping the future forgets the call; it may
    /// still be carried out.
    ///
    /// # Errors
    /// See the module.
    pub async fn call(
        &self,
        request: Request,
        payload: Vec<Bytes>,
        deadline: Instant,
    ) -> CallResult {
        let inner = &*self.inner;
        let timed_out =
            || WireError::new(ErrorCode::TimedOut, "no room to send before the deadline");
        let _slot = match inner.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => timeout_at(deadline.into(), inner.slots.acquire())
                .await
                .map_err(|_| timed_out())?
                .expect("the semaphore is never closed"),
        };
        if !inner.link.has_room() {
            timeout_at(deadline.into(), inner.link.wait_for_room())
                .await
                .map_err(|_| timed_out())?;
        }
        let id = inner.next_id.fetch_add(1, Relaxed);
        let (sender, receiver) = oneshot::channel();
        inner.pending().insert(id, sender);
        let _guard = PendingGuard { inner, id };
        let received = inner.received.load(Relaxed);
        let asked = Instant::now();
        inner
            .link
            .send(&Envelope::Request { id, body: request }, payload)
            .map_err(|e| self.send_error(&e))?;
        match timeout_at(deadline.into(), receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(WireError::new(
                ErrorCode::UnknownOutcome,
                format!("{}: connection lost before the answer", inner.link.peer()),
            )),
            Err(_) => {
                let silent = inner.received.load(Relaxed) == received;
                if silent && asked.elapsed() >= inner.silence_max {
                    // Not a sign of life since we asked: others shall not wait for it either.
                    inner.link.close();
                }
                Err(WireError::new(
                    ErrorCode::UnknownOutcome,
                    format!("{}: no answer in time", inner.link.peer()),
                ))
            }
        }
    }

    /// Sends without expecting an answer; from any thread, never waits.
    ///
    /// # Errors
    /// `Unavailable` or `TooBig`; nothing was sent. Success says only that it was handed on.
    pub fn cast(&self, request: Request, payload: Vec<Bytes>) -> Result<(), WireError> {
        self.inner
            .link
            .send(&Envelope::Cast(request), payload)
            .map_err(|e| self.send_error(&e))
    }

    /// Sends messages that expect no answer together, in their order; from any thread, never waits.
    ///
    /// # Errors
    /// As [`cast`](Self::cast), of the first that cannot be sent; those before it are sent.
    pub fn cast_all(&self, requests: impl IntoIterator<Item = Request>) -> Result<(), WireError> {
        let link = &self.inner.link;
        let queued = requests
            .into_iter()
            .try_for_each(|request| link.enqueue(&Envelope::Cast(request), Vec::new()));
        link.flush();
        queued.map_err(|e| self.send_error(&e))
    }

    /// Sends a request whose answer nobody waits for; from any thread. Lost if the connection is.
    pub fn tell(&self, request: Request) {
        let id = self.inner.next_id.fetch_add(1, Relaxed);
        // A closed connection has nobody to tell.
        let _ = self
            .inner
            .link
            .send(&Envelope::Request { id, body: request }, Vec::new());
    }

    fn send_error(&self, error: &SendError) -> WireError {
        let code = match error {
            SendError::Closed => ErrorCode::Unavailable,
            SendError::Frame(_) => ErrorCode::TooBig,
        };
        WireError::new(code, format!("{}: {error}", self.peer()))
    }

    /// The server's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.inner.link.peer()
    }

    /// The server's cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    /// True once it can carry nothing more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.link.is_closed()
    }

    /// Ready when it is closed by either end, or dropped; does not keep it.
    pub fn when_closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.inner.link.when_closed()
    }

    /// Waits until it is closed by either end.
    pub async fn closed(&self) {
        self.inner.link.closed().await;
    }

    /// Closes it; calls in flight end with `UnknownOutcome`.
    pub fn close(&self) {
        self.inner.link.close();
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.inner.link.close();
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conn({})", self.peer())
    }
}

/// The instant `after` from now.
#[must_use]
pub fn deadline_in(after: Duration) -> Instant {
    Instant::now() + after
}

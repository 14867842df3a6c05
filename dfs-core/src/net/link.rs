//! One authenticated socket as a stream of frames, the same for both ends.
//!
//! Writing: a sender that finds the queue empty writes from its own thread (header and payload
//! pieces in one vectored call, nothing is copied); only what the socket does not take is queued for
//! the writer task, which then sends up to [`SLICES_MAX`] pieces per call. Works from threads outside
//! the runtime too. Order of sending is order on the wire.
//!
//! Reading: one task decodes frames out of a growing buffer; large payloads stay slices of it.
use super::handshake::Purpose;
use super::traffic::class_of;
use crate::membership::bandwidth::Bandwidth;
use crate::wire::frame::{self, FrameError};
use crate::wire::{Envelope, Frame};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};

/// Pieces per write call.
const SLICES_MAX: usize = 64;
/// First and usual size of the read buffer.
const READ_BUFFER: usize = 64 * 1024;
/// Payloads up to this are copied out, so that a cached small one does not pin a whole buffer.
const COPY_MAX: usize = 16 * 1024;
/// A peer with this much unread is given up.
const QUEUED_MAX: usize = 256 << 20;
/// Callers wait for room above this.
const QUEUED_HIGH: usize = 16 << 20;

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SendError {
    /// The connection is gone; nothing was sent.
    #[error("the connection is closed")]
    Closed,
    /// It does not fit a frame; nothing was sent.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

#[derive(Default)]
struct Outbox {
    queue: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

pub(super) struct Link {
    write: OwnedWriteHalf,
    peer: SocketAddr,
    out: Mutex<Outbox>,
    wake: Notify,
    room: Notify,
    closed: watch::Sender<bool>,
    bandwidth: Option<Arc<Bandwidth>>,
    repair: bool,
}

enum Flush {
    Empty,
    More,
    Blocked,
    Closed,
}

/// Options every socket of ours has: no delay, and a dead peer is noticed within about 12 s.
pub(super) fn set_options(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(2))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, 12_000)?;
    Ok(())
}

impl Link {
    /// Takes over an authenticated socket and starts its writer task (needs a runtime).
    pub(super) fn start(
        stream: TcpStream,
        peer: SocketAddr,
        purpose: Purpose,
        bandwidth: Option<Arc<Bandwidth>>,
    ) -> (Arc<Self>, OwnedReadHalf) {
        let (read, write) = stream.into_split();
        let link = Arc::new(Self {
            write,
            peer,
            out: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
            closed: watch::Sender::new(false),
            bandwidth,
            repair: purpose == Purpose::Repair,
        });
        tokio::spawn(Arc::clone(&link).run_writer());
        (link, read)
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn out(&self) -> MutexGuard<'_, Outbox> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, from this thread if the socket takes it at once.
    pub(super) fn send(&self, envelope: &Envelope, payload: Vec<Bytes>) -> Result<(), SendError> {
        let head = self.encode(envelope, &payload)?;
        let mut out = self.out();
        if out.closed {
            return Err(SendError::Closed);
        }
        let written = if out.queue.is_empty() {
            match self.write_now(&head, &payload) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    // Some of it may have left: the caller learns it from the closing.
                    drop(out);
                    self.close();
                    return Ok(());
                }
            }
        } else {
            0
        };
        let total = head.len() + payload.iter().map(Bytes::len).sum::<usize>();
        if written < total {
            push_rest(&mut out, head, payload, written);
            self.check_queue(out);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Queues a message; [`flush`](Self::flush) sends what was queued.
    pub(super) fn enqueue(
        &self,
        envelope: &Envelope,
        payload: Vec<Bytes>,
    ) -> Result<(), SendError> {
        let head = self.encode(envelope, &payload)?;
        let mut out = self.out();
        if out.closed {
            return Err(SendError::Closed);
        }
        push_rest(&mut out, head, payload, 0);
        self.check_queue(out);
        Ok(())
    }

    /// Sends what is queued as far as the socket takes it; the writer task does the rest.
    pub(super) fn flush(&self) {
        loop {
            match self.flush_some() {
                Flush::More => {}
                Flush::Blocked => return self.wake.notify_one(),
                Flush::Empty | Flush::Closed => return,
            }
        }
    }

    /// Waits until the queue is short again, or the link is closed.
    pub(super) async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            {
                let out = self.out();
                if out.closed || out.bytes < QUEUED_HIGH {
                    return;
                }
            }
            room.await;
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let out = self.out();
        out.closed || out.bytes < QUEUED_HIGH
    }

    fn encode(&self, envelope: &Envelope, payload: &[Bytes]) -> Result<Vec<u8>, SendError> {
        let payload_len = payload.iter().map(Bytes::len).sum();
        let head = frame::encode_head(envelope, payload_len)?;
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.add_out(class_of(envelope, self.repair), head.len() + payload_len);
        }
        Ok(head)
    }

    fn write_now(&self, head: &[u8], payload: &[Bytes]) -> io::Result<usize> {
        if payload.is_empty() {
            return self.write.try_write(head);
        }
        let mut slices = [IoSlice::new(&[]); 16];
        slices[0] = IoSlice::new(head);
        let mut used = 1;
        for (slot, piece) in slices[1..].iter_mut().zip(payload) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        self.write.try_write_vectored(&slices[..used])
    }

    fn check_queue(&self, out: MutexGuard<'_, Outbox>) {
        let too_much = out.bytes > QUEUED_MAX;
        drop(out);
        if too_much {
            tracing::warn!(peer = %self.peer, "peer does not read what is sent: closing");
            self.close();
        }
    }

    fn flush_some(&self) -> Flush {
        let mut out = self.out();
        if out.closed {
            return Flush::Closed;
        }
        if out.queue.is_empty() {
            return Flush::Empty;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(&out.queue) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        match self.write.try_write_vectored(&slices[..used]) {
            Ok(mut n) => {
                out.bytes -= n;
                while n > 0 {
                    let front = out.queue.front_mut().expect("written bytes were queued");
                    if front.len() > n {
                        front.advance(n);
                        break;
                    }
                    n -= front.len();
                    out.queue.pop_front();
                }
                if out.bytes < QUEUED_HIGH {
                    self.room.notify_waiters();
                }
                if out.queue.is_empty() {
                    Flush::Empty
                } else {
                    Flush::More
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Flush::Blocked,
            Err(_) => {
                drop(out);
                self.close();
                Flush::Closed
            }
        }
    }

    async fn run_writer(self: Arc<Self>) {
        loop {
            match self.flush_some() {
                Flush::Closed => return,
                Flush::More => {}
                Flush::Empty => self.wake.notified().await,
                Flush::Blocked => {
                    if self.write.writable().await.is_err() {
                        return self.close();
                    }
                }
            }
        }
    }

    /// Closes the socket in both directions; what is queued is dropped. Idempotent.
    pub(super) fn close(&self) {
        {
            let mut out = self.out();
            if out.closed {
                return;
            }
            out.closed = true;
            out.queue.clear();
            out.bytes = 0;
        }
        // Fails only when the socket is gone already.
        let _ = rustix::net::shutdown(self.write.as_ref(), rustix::net::Shutdown::Both);
        self.wake.notify_one();
        self.room.notify_waiters();
        self.closed.send_replace(true);
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(super) fn when_closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut watch = self.closed.subscribe();
        async move {
            // An error means that the link is gone.
            let _ = watch.wait_for(|closed| *closed).await;
        }
    }

    pub(super) async fn closed(&self) {
        let mut watch = self.closed.subscribe();
        // The sender lives as long as self.
        let _ = watch.wait_for(|closed| *closed).await;
    }

    /// Reads frames until the end; `each` returns false to stop. Closes the link at the end.
    pub(super) async fn read_frames(
        &self,
        mut read: OwnedReadHalf,
        mut each: impl FnMut(Frame) -> bool,
    ) -> Result<(), FrameError> {
        let mut buf = BytesMut::with_capacity(READ_BUFFER);
        let result = 'read: loop {
            loop {
                let before = buf.len();
                match frame::decode(&mut buf) {
                    Ok(Some(mut frame)) => {
                        if let Some(bandwidth) = &self.bandwidth {
                            let class = class_of(&frame.envelope, self.repair);
                            bandwidth.add_in(class, before - buf.len());
                        }
                        if !frame.payload.is_empty() && frame.payload.len() <= COPY_MAX {
                            frame.payload = Bytes::copy_from_slice(&frame.payload);
                        }
                        if !each(frame) {
                            break 'read Ok(());
                        }
                    }
                    Ok(None) => break,
                    Err(e) => break 'read Err(e),
                }
            }
            if buf.len() < READ_BUFFER && buf.capacity() - buf.len() < 4096 {
                buf.reserve(READ_BUFFER);
            }
            match read.read_buf(&mut buf).await {
                Ok(0) | Err(_) => break Ok(()),
                Ok(_) => {}
            }
        };
        self.close();
        result
    }
}

fn push_rest(out: &mut Outbox, head: Vec<u8>, payload: Vec<Bytes>, mut written: usize) {
    for mut piece in std::iter::once(Bytes::from(head)).chain(payload) {
        let skip = written.min(piece.len());
        written -= skip;
        piece.advance(skip);
        if !piece.is_empty() {
            out.bytes += piece.len();
            out.queue.push_back(piece);
        }
    }
}

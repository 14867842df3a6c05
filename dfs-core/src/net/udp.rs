//! The UDP socket of membership: sealed datagrams, counted.
//!
//! What is not authentic is counted and dropped here, so that the machine sees only members.
use super::auth::{DatagramSeal, SEAL_OVERHEAD};
use crate::membership::{Bandwidth, TrafficClass};
use crate::types::NodeId;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UdpSocket;

/// Receive buffer asked of the kernel: what arrives while this process is stalled waits there.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Largest datagram that is looked at.
const DATAGRAM_MAX: usize = 61_000 + SEAL_OVERHEAD;

/// Counters of what was dropped since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UdpDrops {
    /// Datagrams that were not authentic, among them all garbage.
    pub refused: u64,
    /// Datagrams the kernel did not take.
    pub unsent: u64,
}

/// A bound socket that seals and opens.
#[derive(Debug)]
pub struct SealedUdp {
    socket: UdpSocket,
    // Sends go past the runtime: it would refuse them until it has polled the socket once.
    sender: std::net::UdpSocket,
    seal: DatagramSeal,
    me: NodeId,
    bandwidth: Arc<Bandwidth>,
    drops: UdpDrops,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

/// Binds a nonblocking UDP socket with a large receive buffer.
///
/// # Errors
/// Of `bind`; a smaller buffer than asked for is none.
pub fn bind_udp(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(addr)?;
    socket.set_nonblocking(true)?;
    if let Err(cause) = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER) {
        tracing::debug!(target: "membership", %cause, "receive buffer keeps its size");
    }
    Ok(socket)
}

impl SealedUdp {
    /// Takes over a socket from [`bind_udp`].
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        socket: std::net::UdpSocket,
        seal: DatagramSeal,
        me: NodeId,
        bandwidth: Arc<Bandwidth>,
    ) -> io::Result<Self> {
        Ok(Self {
            sender: socket.try_clone()?,
            socket: UdpSocket::from_std(socket)?,
            seal,
            me,
            bandwidth,
            drops: UdpDrops::default(),
            inbox: vec![0; DATAGRAM_MAX],
            outbox: Vec::new(),
        })
    }

    /// Waits until a datagram may be there.
    ///
    /// # Errors
    /// If the socket is gone.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next authentic datagram (sender's address, payload) without waiting, and whether more
    /// may wait. Looks at no more than 64 datagrams, so that a flood of garbage does not keep the
    /// caller: `(None, true)` means ask again.
    pub fn try_recv(&mut self) -> (Option<(SocketAddr, Bytes)>, bool) {
        for _ in 0..64 {
            match self.socket.try_recv_from(&mut self.inbox) {
                Ok((len, from)) => {
                    self.bandwidth.add_in(TrafficClass::Gossip, len);
                    match self.seal.open(&self.inbox[..len]) {
                        Ok((_, payload)) => {
                            return (Some((from, Bytes::copy_from_slice(payload))), true);
                        }
                        Err(cause) => {
                            self.drops.refused += 1;
                            tracing::debug!(target: "membership", %from, %cause, "datagram refused");
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (None, false),
                // An earlier datagram was refused by its host; this one may be fine.
                Err(_) => {}
            }
        }
        (None, true)
    }

    /// Seals and sends a payload, best effort: what the kernel does not take at once is lost, as
    /// datagrams may be.
    pub fn send(&mut self, to: SocketAddr, payload: &[u8]) {
        self.seal.seal(self.me, payload, &mut self.outbox);
        match self.sender.send_to(&self.outbox, to) {
            Ok(len) => self.bandwidth.add_out(TrafficClass::Gossip, len),
            Err(cause) => {
                self.drops.unsent += 1;
                tracing::debug!(target: "membership", %to, %cause, "datagram not sent");
            }
        }
    }

    /// What was dropped.
    #[must_use]
    pub fn drops(&self) -> UdpDrops {
        self.drops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::auth::ClusterKey;
    use crate::types::{ClusterId, Time};

    #[tokio::test(flavor = "current_thread")]
    async fn only_authentic_datagrams_are_handed_over_and_all_are_counted() {
        let bandwidth = Arc::new(Bandwidth::new(Time(0)));
        let port = |key: u8, id| {
            let socket = bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
            let addr = socket.local_addr().unwrap();
            let seal = DatagramSeal::new(&ClusterKey::from_bytes([key; 32]), ClusterId(1));
            let port = SealedUdp::new(socket, seal, NodeId(id), bandwidth.clone()).unwrap();
            (port, addr)
        };
        let (mut a, a_addr) = port(1, 1);
        let (mut b, b_addr) = port(1, 2);
        let (mut stranger, _) = port(2, 3);
        stranger.send(b_addr, b"let me in");
        a.send(b_addr, b"hello");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        let got = loop {
            tokio::time::timeout_at(deadline, b.readable())
                .await
                .unwrap()
                .unwrap();
            if let (Some(got), _) = b.try_recv() {
                break got;
            }
        };
        assert_eq!(got, (a_addr, Bytes::from_static(b"hello")));
        assert_eq!(b.drops().refused, 1);
        assert_eq!(b.try_recv(), (None, false));
        let gossip = bandwidth.snapshot(Time(1)).classes[0];
        assert_eq!((gossip.in_messages, gossip.out_messages), (2, 2));
        assert_eq!(gossip.in_bytes, gossip.out_bytes);
    }
}

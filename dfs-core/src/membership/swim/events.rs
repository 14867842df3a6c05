//! What happens to the membership machine and what it wants done.
use crate::membership::list::MemberNotice;
use crate::membership::peers::Peer;
use crate::types::Incarnation;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// Names one timer; never reused within a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerToken(pub u64);

/// What happens to the machine.
#[derive(Debug, Clone)]
pub enum MemberEvent {
    /// First event: begin to join whoever is remembered.
    Start,
    /// An authenticated datagram's payload.
    Datagram {
        /// Where it came from (for reports only; a member's address is what it says of itself).
        from: SocketAddr,
        /// The payload.
        bytes: Bytes,
    },
    /// A timer set by [`MemberAction::SetTimer`] fired. All waiting datagrams came before it.
    Timer(TimerToken),
    /// Contact these addresses.
    Join {
        /// Datagram addresses of members.
        addrs: Vec<SocketAddr>,
    },
    /// Say goodbye and stop.
    Leave,
    /// A connection to this address broke or was refused: look at its member now.
    Doubt {
        /// The member's address for connections.
        tcp: SocketAddr,
    },
}

/// What the driver does, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberAction {
    /// Make this incarnation durable before performing any later action.
    PersistIncarnation(Incarnation),
    /// Remember these peers on disk; lazily, the newest list wins.
    PersistPeers(Vec<Peer>),
    /// Send a payload (sealed by the driver).
    Send {
        /// Target.
        to: SocketAddr,
        /// Payload.
        bytes: Vec<u8>,
    },
    /// Fire [`MemberEvent::Timer`] with `token` after `after`.
    SetTimer {
        /// The token.
        token: TimerToken,
        /// From now.
        after: Duration,
    },
    /// The list changed.
    Notify(MemberNotice),
    /// The goodbye is said: the driver may stop.
    Departed,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MembershipStats {
    /// Payloads that were malformed or not for this run.
    pub rejected: u64,
    /// Stalls of this process that deferred accusations.
    pub stalls: u64,
    /// Times this node was declared dead and came back.
    pub renewals: u64,
    /// Members looked at because a connection to them broke.
    pub looks: u64,
}

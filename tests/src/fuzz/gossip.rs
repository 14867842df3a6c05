//! Membership datagrams, from the seal to the machine.
use super::source::Source;
use bytes::Bytes;
use dfs_core::membership::{
    MemberAction, MemberEvent, Membership, MembershipConfig, NodeIdentity, Peer, PeerBook,
    TimerToken, Zone,
};
use dfs_core::net::ClusterKey;
use dfs_core::net::auth::{DatagramSeal, SEAL_OVERHEAD};
use dfs_core::types::{ClusterId, Incarnation, NodeId, StoreId, Time};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Datagrams that two machines exchange because of one input.
const DELIVERIES_MAX: u32 = 200;
/// Timers that fire because of one input.
const TIMERS_MAX: u32 = 60;

fn addr_of(node: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, node], 7400))
}

/// A node of the pair.
#[must_use]
pub fn identity(node: u8) -> NodeIdentity {
    NodeIdentity {
        id: NodeId(u128::from(node)),
        incarnation: Incarnation(1),
        gossip: addr_of(node),
        tcp: addr_of(node),
        store: StoreId(u128::from(node)),
        zone: Zone::default(),
    }
}

/// Two machines that know each other, and what is under way between them.
pub struct Pair {
    machines: [Membership; 2],
    now: Time,
    timers: BTreeMap<(Time, u8, u64), TimerToken>,
    queue: Vec<(u8, Vec<u8>)>,
    /// Every payload that was sent.
    pub sent: Vec<Vec<u8>>,
    packet_max: usize,
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// Both have said hello.
    #[must_use]
    pub fn new() -> Self {
        let config = MembershipConfig::default();
        let packet_max = config.packet_max;
        let made = |node: u8| {
            let other = identity(3 - node);
            let peers = PeerBook::from_list([Peer {
                id: other.id,
                gossip: other.gossip,
                tcp: other.tcp,
            }]);
            let seed = u64::from(node);
            Membership::new(config.clone(), identity(node), peers, seed, Time(1))
                .expect("the default configuration is valid")
        };
        let mut pair = Self {
            machines: [made(1), made(2)],
            now: Time(1),
            timers: BTreeMap::new(),
            queue: Vec::new(),
            sent: Vec::new(),
            packet_max,
        };
        for node in [1, 2] {
            pair.handle(node, MemberEvent::Start);
        }
        pair.deliver();
        pair
    }

    /// Node 1 or 2 handles an event.
    pub fn handle(&mut self, node: u8, event: MemberEvent) {
        let mut out = Vec::new();
        self.machines[usize::from(node - 1)].handle(self.now, event, &mut out);
        for action in out {
            match action {
                MemberAction::Send { to, bytes } => {
                    assert!(bytes.len() <= self.packet_max, "a datagram is too long");
                    self.sent.push(bytes.clone());
                    for other in [1, 2] {
                        if to == addr_of(other) {
                            self.queue.push((other, bytes.clone()));
                        }
                    }
                }
                MemberAction::SetTimer { token, after } => {
                    self.timers.insert((self.now + after, node, token.0), token);
                }
                _ => {}
            }
        }
    }

    /// A payload reaches a node.
    pub fn hear(&mut self, node: u8, payload: &[u8]) {
        let from = addr_of(3 - node);
        let bytes = Bytes::copy_from_slice(payload);
        self.handle(node, MemberEvent::Datagram { from, bytes });
    }

    /// All that is under way arrives, up to a number.
    pub fn deliver(&mut self) {
        for _ in 0..DELIVERIES_MAX {
            let Some((node, payload)) = self.queue.pop() else {
                return;
            };
            self.hear(node, &payload);
        }
        self.queue.clear();
    }

    /// The next timer fires.
    pub fn fire(&mut self) {
        if let Some(((at, node, _), token)) = self.timers.pop_first() {
            self.now = at;
            self.handle(node, MemberEvent::Timer(token));
        }
    }
}

/// Payloads that a peer with the key sends, whatever they say, and some time after each.
pub fn datagram(data: &[u8]) {
    let (mut source, mut pair) = (Source::new(data), Pair::new());
    let mut timers = 0;
    while !source.is_empty() {
        let how = source.byte();
        pair.hear(1 + (how & 1), source.piece());
        pair.deliver();
        for _ in 0..(how >> 1) % 8 {
            timers += 1;
            if timers > TIMERS_MAX {
                return;
            }
            pair.fire();
            pair.deliver();
        }
        pair.now = pair.now + Duration::from_millis(u64::from(how >> 4));
    }
}

/// Datagrams from anybody: only what was sealed with the key is opened, and it is what was sealed.
pub fn sealed_datagram(data: &[u8]) {
    let seal = DatagramSeal::new(&ClusterKey::from_bytes([7; 32]), ClusterId(3));
    let mut again = Vec::new();
    if let Ok((sender, payload)) = seal.open(data) {
        seal.seal(sender, payload, &mut again);
        assert_eq!(again, data);
        Pair::new().hear(1, payload);
    }
    seal.seal(NodeId(5), data, &mut again);
    assert_eq!(again.len(), data.len() + SEAL_OVERHEAD);
    assert_eq!(seal.open(&again), Ok((NodeId(5), data)));
    let at = data.first().map_or(0, |first| usize::from(*first)) % again.len();
    again[at] ^= 1;
    assert!(seal.open(&again).is_err(), "byte {at} is not covered");
}

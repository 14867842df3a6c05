//! The network: delays, losses, repetitions, cuts by direction, connections.
//!
//! Two kinds of traffic. Ordered connections (to the master) behave as TCP: order is kept, nothing
//! is repeated, a cut delays or ends them. The rest (stores, Raft) is loose: a pool of connections
//! with retries may reorder, repeat and lose requests, and the machines must bear it.
use super::fabric::Ev;
use super::trace::Trace;
use bytes::Bytes;
use dfs_core::types::Time;
use dfs_core::wire::{Push, Request, Response, WireError};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Daemons at most.
pub(super) const NODES_MAX: usize = 7;
/// Clients at most.
const CLIENTS_MAX: usize = 3;
const ENDS: usize = NODES_MAX + CLIENTS_MAX;
/// Directed pairs of ends.
pub(super) const NET_LANES: usize = ENDS * ENDS;

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Node(usize),
    Client(usize),
}

impl End {
    pub fn number(self) -> usize {
        match self {
            Self::Node(i) => i,
            Self::Client(i) => NODES_MAX + i,
        }
    }
}

/// How many take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub nodes: usize,
    pub clients: usize,
}

impl Ends {
    /// Of a run that is not about who takes part.
    pub const USUAL: Self = Self {
        nodes: 5,
        clients: 2,
    };

    /// As a seed has it: three nodes, so that none is to spare, to seven.
    pub fn draw(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xe4d5);
        Self {
            nodes: [3, 4, 5, 5, 5, 6, NODES_MAX][rng.random_range(0..7)],
            clients: [1, 2, 2, CLIENTS_MAX][rng.random_range(0..4)],
        }
    }

    /// For a small run.
    pub fn draw_few(seed: u64) -> Self {
        let nodes = 3 + usize::from(!seed.is_multiple_of(3));
        let clients = 1 + usize::from(!seed.is_multiple_of(4));
        Self { nodes, clients }
    }

    pub fn all(self) -> impl Iterator<Item = End> {
        let clients = (0..self.clients).map(End::Client);
        (0..self.nodes).map(End::Node).chain(clients)
    }
}

/// What travels.
#[derive(Debug, Clone)]
pub(super) enum Packet {
    Request {
        id: u64,
        body: Request,
        payload: Bytes,
    },
    Reply {
        id: u64,
        body: Result<Response, WireError>,
        payload: Bytes,
    },
    Push(Push),
    Cast(Request),
    /// The connection is gone.
    Closed,
}

impl Packet {
    /// All of it counts for the trace.
    pub fn mix_into(&self, trace: &mut Trace) {
        let (body, payload) = match self {
            Self::Request { id, body, payload } => (coded(&(0u8, id, body)), Some(payload)),
            Self::Reply { id, body, payload } => (coded(&(1u8, id, body)), Some(payload)),
            Self::Push(push) => (coded(&(2u8, push)), None),
            Self::Cast(request) => (coded(&(3u8, request)), None),
            Self::Closed => (vec![4], None),
        };
        trace.mix_bytes(&body);
        if let Some(payload) = payload {
            trace.mix_bytes(payload);
        }
    }
}

fn coded(what: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(what).expect("our own types serialize into a vector")
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub caller: End,
    pub caller_run: u64,
    pub callee: usize,
    /// The run that accepted it.
    pub callee_run: Option<u64>,
    pub ordered: bool,
    pub closed: bool,
    /// Last delivery, to the caller and to the callee.
    pub last: [Time; 2],
}

impl Conn {
    pub fn new(caller: End, caller_run: u64, callee: usize, ordered: bool) -> Self {
        Self {
            caller,
            caller_run,
            callee,
            callee_run: None,
            ordered,
            closed: false,
            last: [Time(0); 2],
        }
    }

    pub fn peer_of(&self, side: End) -> End {
        if side == self.caller {
            End::Node(self.callee)
        } else {
            self.caller
        }
    }
}

/// Pushes to one client stay in a full buffer for a while, or their connection breaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowPushes {
    pub client: usize,
    /// Microseconds at most.
    pub extra_us: u64,
    /// Share that is lost, and the connection with it.
    pub lost: f64,
}

/// How the network is now.
#[derive(Debug)]
pub(super) struct Net {
    pub ends: Ends,
    /// Usual one-way delay, in microseconds.
    pub delay_us: (u64, u64),
    /// Share of packets that take much longer.
    pub tail: f64,
    /// Share of loose packets that are lost.
    pub loss: f64,
    /// Share of loose packets that arrive twice.
    pub repeat: f64,
    /// Share of loose packets with an object's bytes of which a bit flips.
    pub garble: f64,
    /// Extra delay of everything to or from one end.
    pub slow: Option<(End, u64)>,
    /// What the leader tells one client unasked, and all behind it, comes late.
    pub slow_pushes: Option<SlowPushes>,
    cut: [bool; NET_LANES],
    held: BTreeMap<usize, Vec<Ev>>,
}

fn lane(from: End, to: End) -> usize {
    from.number() * ENDS + to.number()
}

impl Net {
    /// A network with the habits that the generator chooses.
    pub fn draw(ends: Ends, rng: &mut ChaCha8Rng) -> Self {
        let lossy = rng.random_bool(0.5);
        let base = rng.random_range(50..400);
        Self {
            ends,
            delay_us: (base, base * rng.random_range(2..20)),
            tail: if rng.random_bool(0.5) { 0.01 } else { 0.0 },
            loss: if lossy {
                rng.random_range(0.0..0.05)
            } else {
                0.0
            },
            repeat: if rng.random_bool(0.5) { 0.05 } else { 0.0 },
            garble: 0.0,
            slow: None,
            slow_pushes: None,
            cut: [false; NET_LANES],
            held: BTreeMap::new(),
        }
    }

    /// From now on nothing goes wrong.
    pub fn calm(&mut self) {
        (self.tail, self.loss, self.repeat, self.slow) = (0.0, 0.0, 0.0, None);
        self.slow_pushes = None;
        self.cut = [false; NET_LANES];
    }

    pub fn set_cut(&mut self, from: End, to: End, is_cut: bool) {
        if from != to {
            self.cut[lane(from, to)] = is_cut;
        }
    }

    pub fn uncut(&mut self) {
        self.cut = [false; NET_LANES];
    }

    pub fn is_cut(&self, from: End, to: End) -> bool {
        self.cut[lane(from, to)]
    }

    pub fn is_cut_lane(&self, lane: usize) -> bool {
        self.cut[lane]
    }

    pub fn hold(&mut self, from: End, to: End, event: Ev) {
        self.held.entry(lane(from, to)).or_default().push(event);
    }

    pub fn holds(&self, from: End, to: End) -> bool {
        self.held.contains_key(&lane(from, to))
    }

    pub fn take_held(&mut self, lane: usize) -> Vec<Ev> {
        self.held.remove(&lane).unwrap_or_default()
    }

    /// Stores answer a repeated request as they answered the first.
    pub fn may_repeat(&self, packet: &Packet) -> bool {
        matches!(
            packet,
            Packet::Request {
                body: Request::Replica(_),
                ..
            }
        )
    }

    /// What happens to pushes on this way now.
    pub fn slow_pushes_to(&self, to: End) -> Option<SlowPushes> {
        self.slow_pushes
            .filter(|slow| to == End::Client(slow.client))
    }

    pub fn delay(&self, from: End, to: End, rng: &mut ChaCha8Rng) -> Duration {
        if from == to {
            return Duration::from_micros(rng.random_range(5..30));
        }
        let mut us = rng.random_range(self.delay_us.0..=self.delay_us.1);
        if self.tail > 0.0 && rng.random_bool(self.tail) {
            us += rng.random_range(10_000..800_000);
        }
        if let Some((end, extra)) = self.slow
            && (end == from || end == to)
        {
            us += rng.random_range(extra / 2..=extra);
        }
        Duration::from_micros(us)
    }
}

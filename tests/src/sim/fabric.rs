//! What everybody shares: the event queue, the generator, the network and the trace.
//!
//! Events run in the order of (time, number). All randomness of a run comes from the one generator
//! here, so a seed decides everything.
use super::gossip::Datagram;
use super::network::{Conn, End, NET_LANES, Net, Packet};
use super::reports::Reports;
use super::trace::Trace;
use super::votes::Votes;
use super::{client::ClientTimer, faults::Fault, node::NodeTimer};
use dfs_core::types::{ObjectId, ObjectSum, OpId, Time};
use dfs_core::wire::Request;
use dfs_core::wire::rpc::ConnId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Ev {
    /// A packet arrives.
    Deliver {
        to: End,
        conn: ConnId,
        packet: Box<Packet>,
    },
    /// A datagram of the membership arrives.
    Datagram(Datagram),
    /// A timer of a node's run, or work of it that is done.
    Node {
        node: usize,
        run: u64,
        timer: NodeTimer,
    },
    /// A timer of a client.
    Client { client: usize, timer: ClientTimer },
    /// The nemesis acts.
    Fault(Fault),
    /// Conditions of the present phase are looked at.
    Phase,
}

/// A store got an object's bytes from another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetched {
    pub node: usize,
    /// The run of the daemon that got it.
    pub run: u64,
    pub object: ObjectId,
    pub bytes: u64,
}

/// See the [module docs](self).
pub(super) struct Fabric {
    pub now: Time,
    pub rng: ChaCha8Rng,
    /// Decides what happens to datagrams of the membership.
    pub gossip_rng: ChaCha8Rng,
    pub net: Net,
    pub trace: Trace,
    /// The first promise that was found broken.
    pub failure: Option<String>,
    pub events: u64,
    /// Since this was last looked at.
    pub fetched: Vec<Fetched>,
    pub votes: Votes,
    pub reports: Reports,
    /// Ops that a leader has seen, for a planted bug.
    pub decided: BTreeSet<OpId>,
    /// Bytes rotted, or flipped on the way.
    pub is_harmed: bool,
    /// Objects of puts that were just acknowledged.
    pub acknowledged: Vec<(ObjectId, ObjectSum)>,
    conns: BTreeMap<ConnId, Conn>,
    queue: BTreeMap<(Time, u64), Ev>,
    counter: u64,
}

impl Fabric {
    pub fn new(seed: u64, net: Net, trace: Trace) -> Self {
        Self {
            now: Time(1_000_000_000),
            rng: ChaCha8Rng::seed_from_u64(seed),
            gossip_rng: ChaCha8Rng::seed_from_u64(seed ^ 0x6055),
            net,
            trace,
            failure: None,
            events: 0,
            fetched: Vec::new(),
            votes: Votes::default(),
            reports: Reports::default(),
            decided: BTreeSet::new(),
            is_harmed: false,
            acknowledged: Vec::new(),
            conns: BTreeMap::new(),
            queue: BTreeMap::new(),
            counter: 0,
        }
    }

    /// The next event, whose time it becomes.
    pub fn pop(&mut self) -> Option<Ev> {
        let ((at, number), event) = self.queue.pop_first()?;
        self.now = at;
        self.events += 1;
        self.trace.mix(at.0);
        self.trace.mix(number);
        if let Ev::Deliver { to, packet, .. } = &event {
            self.trace.mix(to.number() as u64);
            packet.mix_into(&mut self.trace);
        }
        if let Ev::Datagram(datagram) = &event {
            self.trace.mix(datagram.to as u64);
            self.trace.mix_bytes(&datagram.bytes);
        }
        Some(event)
    }

    pub fn at(&mut self, at: Time, event: Ev) {
        self.counter += 1;
        self.queue.insert((at.max(self.now), self.counter), event);
    }

    pub fn after(&mut self, pause: Duration, event: Ev) {
        self.at(self.now + pause, event);
    }

    /// A number that nobody else has.
    pub fn id(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub fn pick(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    pub fn ms(&mut self, from: u64, to: u64) -> Duration {
        let micros = self.rng.random_range(from * 1000..=to * 1000);
        Duration::from_micros(micros)
    }

    /// A promise is broken; the first one is kept.
    pub fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            let at = self.now.since(Time(0)).as_secs_f64();
            self.failure = Some(format!("at {at:.3} s: {what}"));
        }
    }

    /// `caller` (in its run) connects to a node. Packets of an `ordered` connection keep their order.
    pub fn connect(&mut self, caller: End, run: u64, callee: usize, ordered: bool) -> ConnId {
        let conn = ConnId(self.id());
        self.conns
            .insert(conn, Conn::new(caller, run, callee, ordered));
        conn
    }

    pub fn conn(&mut self, conn: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(&conn)
    }

    /// One side closes; the other hears of it later.
    pub fn close(&mut self, conn: ConnId, by: End) {
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        let peer = state.peer_of(by);
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let pause = if self.net.is_cut(by, peer) {
            self.ms(2_000, 5_000)
        } else {
            self.ms(0, 50)
        };
        let packet = Box::new(Packet::Closed);
        self.after(
            pause,
            Ev::Deliver {
                to: peer,
                conn,
                packet,
            },
        );
    }

    /// Sends on a connection, as the network lets it.
    pub fn send(&mut self, conn: ConnId, from: End, packet: Packet) {
        let Some(state) = self.conns.get(&conn) else {
            return;
        };
        if state.closed {
            return;
        }
        let (to, ordered) = (state.peer_of(from), state.ordered);
        if ordered {
            return self.send_ordered(conn, from, to, packet);
        }
        if self.net.may_repeat(&packet) && self.chance(self.net.repeat) {
            self.send_loose(conn, from, to, packet.clone());
        }
        self.send_loose(conn, from, to, packet);
    }

    /// A Raft message: no connection, everything may happen to it.
    pub fn cast(&mut self, from: End, to: End, request: Request) {
        let packet = Packet::Cast(request);
        if self.chance(self.net.repeat) {
            self.send_loose(ConnId(0), from, to, packet.clone());
        }
        self.send_loose(ConnId(0), from, to, packet);
    }

    fn send_loose(&mut self, conn: ConnId, from: End, to: End, mut packet: Packet) {
        if self.net.garble > 0.0 {
            self.garble(&mut packet);
        }
        let packet = Box::new(packet);
        let event = Ev::Deliver { to, conn, packet };
        if self.net.is_cut(from, to) {
            if self.chance(0.2) {
                self.net.hold(from, to, event);
            }
        } else if !self.chance(self.net.loss) {
            let pause = self.net.delay(from, to, &mut self.rng);
            self.after(pause, event);
        }
    }

    /// Flips a bit of an object's bytes, perhaps.
    fn garble(&mut self, packet: &mut Packet) {
        let (Packet::Request { payload, .. } | Packet::Reply { payload, .. }) = packet else {
            return;
        };
        if !payload.is_empty() && self.chance(self.net.garble) {
            let mut bytes = payload.to_vec();
            let at = self.pick(bytes.len());
            bytes[at] ^= 1 << self.pick(8);
            *payload = bytes.into();
        }
    }

    /// Nothing overtakes, and nothing is lost unless the connection is.
    fn send_ordered(&mut self, conn: ConnId, from: End, to: End, packet: Packet) {
        let is_push = matches!(packet, Packet::Push(_));
        let slow = self.net.slow_pushes_to(to).filter(|_| is_push);
        let packet = Box::new(packet);
        let event = Ev::Deliver { to, conn, packet };
        if self.net.is_cut(from, to) || self.net.holds(from, to) {
            return self.net.hold(from, to, event);
        }
        let is_lost = slow.is_some_and(|slow| self.chance(slow.lost));
        if is_lost || self.chance(self.net.loss / 20.0) {
            self.break_conn(conn, from, to);
            return;
        }
        let mut pause = self.net.delay(from, to, &mut self.rng);
        if let Some(slow) = slow {
            let us = self.rng.random_range(slow.extra_us / 2..=slow.extra_us);
            pause += Duration::from_micros(us);
        }
        let soonest = self.now + pause;
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        let last = &mut state.last[usize::from(from == state.caller)];
        let at = soonest.max(*last);
        *last = at;
        self.at(at, event);
    }

    /// A packet was lost for good: both sides learn that, each in its time.
    fn break_conn(&mut self, conn: ConnId, a: End, b: End) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.closed = true;
        }
        for to in [a, b] {
            let pause = self.ms(10, 1_500);
            let packet = Box::new(Packet::Closed);
            self.after(pause, Ev::Deliver { to, conn, packet });
        }
    }

    /// What was held on a lane that is open again is on its way again, in order.
    pub fn release_held(&mut self) {
        for lane in 0..NET_LANES {
            if !self.net.is_cut_lane(lane) {
                let pause = self.ms(1, 200);
                for event in self.net.take_held(lane) {
                    self.after(pause, event);
                }
            }
        }
    }
}

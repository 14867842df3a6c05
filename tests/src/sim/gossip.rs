//! Membership: each daemon's gossip over the run's network, clocks and disks, and two promises of it.
//!
//! The machines are the daemon's, their datagrams sealed as on the wire: they are lost, late and
//! repeated as other loose packets are, and what is cut off is gone. Some of them come a second time,
//! altered or sealed by a stranger. The incarnation is in the node's own file before it is sent. What a
//! list says is told to the node's own voter, at each change and every second.
//!
//! Invariants:
//! 1. *unauthenticated bytes change nothing*: no altered or strange datagram reaches a machine;
//! 2. *all lists agree* within 6 s of the last change, once nothing goes wrong any more: whoever runs is
//!    alive in its present incarnation, and nobody else is active;
//! 3. an incarnation never goes back, neither in a list nor over restarts.
use super::fabric::{Ev, Fabric};
use super::node::{Node, NodeTimer};
use super::settings::{Plan, addr_of, node_id};
use bytes::Bytes;
use dfs_core::master::leader::MasterEvent;
use dfs_core::membership::{
    MemberAction, MemberEvent, MemberState, Membership, MembershipConfig, NodeIdentity,
    NodeIdentityFile, Peer, PeerBook, TimerToken, Zone,
};
use dfs_core::net::auth::{ClusterKey, DatagramSeal};
use dfs_core::types::{ClusterId, Incarnation, NodeId, Time};
use dfs_core::wire::node::MemberState as Told;
use rand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Lists agree so long after the last change.
const AGREE_MAX: Duration = Duration::from_secs(6);
/// The node's voter is told of the whole list so often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Share of datagrams that come again, altered or from a stranger.
const FORGED: f64 = 0.01;
/// Datagrams go to another port than requests.
const PORT: u16 = 7001;

/// A datagram under way.
#[derive(Debug, Clone)]
pub(super) struct Datagram {
    pub from: usize,
    pub to: usize,
    pub bytes: Bytes,
    /// Nobody with the cluster's key has sealed it so.
    pub is_forged: bool,
}

fn gossip_addr(index: usize) -> SocketAddr {
    SocketAddr::new(addr_of(index).ip(), PORT)
}

/// The seal of a run's daemons.
pub(super) fn seal_of(plan: &Plan) -> DatagramSeal {
    DatagramSeal::new(&ClusterKey::from_bytes([0xd5; 32]), plan.cluster)
}

/// Membership in one run of a daemon.
pub(super) struct Gossip {
    machine: Membership,
    identity: NodeIdentityFile,
    /// The disk did not take this incarnation yet; meanwhile nothing is sent.
    unwritten: Option<Incarnation>,
    /// Incarnations in the list.
    seen: BTreeMap<NodeId, Incarnation>,
}

/// What survives the process.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    peers: Vec<Peer>,
    incarnation: Incarnation,
}

impl Fabric {
    /// Sends a datagram, as the network lets it. Its luck is drawn apart from everything else's.
    fn datagram(&mut self, datagram: Datagram) {
        let (from, to) = (datagram.from, datagram.to);
        let ends = (Node::end_of(from), Node::end_of(to));
        if self.net.is_cut(ends.0, ends.1) || self.gossip_rng.random_bool(self.net.loss) {
            return;
        }
        let mut copies = vec![datagram];
        if self.gossip_rng.random_bool(self.net.repeat) {
            copies.push(copies[0].clone());
        }
        if self.gossip_rng.random_bool(FORGED) {
            let forged = self.forged(&copies[0]);
            copies.push(forged);
        }
        for copy in copies {
            let pause = self.net.delay(ends.0, ends.1, &mut self.gossip_rng);
            self.after(pause, Ev::Datagram(copy));
        }
    }

    /// One that a stranger could make of it.
    fn forged(&mut self, datagram: &Datagram) -> Datagram {
        let mut bytes = datagram.bytes.to_vec();
        let strange = |key, cluster, payload: &[u8]| {
            let seal = DatagramSeal::new(&ClusterKey::from_bytes([key; 32]), ClusterId(cluster));
            let mut sealed = Vec::new();
            seal.seal(node_id(datagram.from), payload, &mut sealed);
            sealed
        };
        match self.gossip_rng.random_range(0..5) {
            0 => bytes.truncate(self.gossip_rng.random_range(0..bytes.len())),
            1 => bytes = strange(0xd6, 0xdf5, &bytes),
            2 => bytes = strange(0xd5, 0xdf6, &bytes),
            3 => {
                let len = self.gossip_rng.random_range(0..200);
                bytes = (0..len).map(|_| self.gossip_rng.random()).collect();
            }
            _ => {
                let at = self.gossip_rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << self.gossip_rng.random_range(0..8);
            }
        }
        Datagram {
            bytes: bytes.into(),
            is_forged: true,
            ..datagram.clone()
        }
    }
}

impl Node {
    /// Opens the identity file and makes the machine of a new run; its incarnation is durable then.
    pub(super) fn boot_gossip(&mut self, fx: &Fabric) -> Result<(), String> {
        let wall_ms = self.clock.wall(fx.now).0 / 1_000_000;
        let disk = Arc::new(self.disk.clone());
        let path = NodeIdentityFile::PATH;
        let identity = NodeIdentityFile::open(disk, path, node_id(self.index), wall_ms);
        let identity = identity.map_err(|e| format!("identity: {e}"))?;
        let incarnation = identity.incarnation();
        if incarnation <= self.remembered.incarnation {
            let before = self.remembered.incarnation;
            return Err(format!("incarnation {incarnation} after {before}"));
        }
        self.remembered.incarnation = incarnation;
        let me = NodeIdentity {
            id: node_id(self.index),
            incarnation,
            gossip: gossip_addr(self.index),
            tcp: addr_of(self.index),
            store: self.store(),
            zone: Zone::default(),
        };
        let peers = PeerBook::from_list(self.remembered.peers.clone());
        let seed = self.plan.seed ^ (self.index as u64) << 48 ^ self.run << 56;
        let config = MembershipConfig::default();
        let machine = Membership::new(config, me, peers, seed, self.clock.local(fx.now));
        self.gossip = Some(Gossip {
            machine: machine.map_err(|e| e.to_string())?,
            identity,
            unwritten: None,
            seen: BTreeMap::new(),
        });
        Ok(())
    }

    /// The incarnation of this run.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.remembered.incarnation
    }

    /// The machine begins to join.
    pub(super) fn start_gossip(&mut self, fx: &mut Fabric) {
        self.gossip_event(MemberEvent::Start, fx);
        let others = (0..self.plan.ends.nodes).filter(|i| *i != self.index);
        let addrs = others.take(2).map(gossip_addr).collect();
        self.gossip_event(MemberEvent::Join { addrs }, fx);
        self.tell_members(fx);
    }

    /// Tells the voter of the list, again and again.
    pub(super) fn tell_members(&mut self, fx: &mut Fabric) {
        self.tell_voter(fx);
        self.later(TELL_EVERY, NodeTimer::Members, fx);
    }

    fn tell_voter(&mut self, fx: &mut Fabric) {
        let Some(gossip) = &self.gossip else { return };
        let members: Vec<(NodeId, MemberState)> = gossip
            .machine
            .list()
            .iter()
            .map(|m| (m.id, m.state))
            .collect();
        for (node, state) in members {
            let state = match state {
                MemberState::Alive => Told::Alive,
                MemberState::Suspect => Told::Suspect,
                MemberState::Down => Told::Down,
                MemberState::Left => Told::Left,
            };
            self.master(MasterEvent::Member { node, state }, fx);
        }
    }

    pub(super) fn on_datagram(&mut self, datagram: &Datagram, fx: &mut Fabric) {
        match self.seal.open(&datagram.bytes) {
            Ok(_) if datagram.is_forged => {
                let index = self.index;
                fx.fail(format!(
                    "node {index} takes a datagram that nobody of the cluster sealed"
                ));
            }
            Ok((_, payload)) => {
                let bytes = Bytes::copy_from_slice(payload);
                let from = gossip_addr(datagram.from);
                self.gossip_event(MemberEvent::Datagram { from, bytes }, fx);
            }
            Err(_) => {}
        }
    }

    pub(super) fn on_gossip_timer(&mut self, token: TimerToken, fx: &mut Fabric) {
        self.gossip_event(MemberEvent::Timer(token), fx);
    }

    /// A connection to another node broke.
    pub(super) fn doubt(&mut self, callee: usize, fx: &mut Fabric) {
        let tcp = addr_of(callee);
        self.gossip_event(MemberEvent::Doubt { tcp }, fx);
    }

    fn gossip_event(&mut self, event: MemberEvent, fx: &mut Fabric) {
        let now = self.clock.local(fx.now);
        let Some(gossip) = self.gossip.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        gossip.machine.handle(now, event, &mut out);
        if let Some(incarnation) = gossip.unwritten.take() {
            self.persist(incarnation);
        }
        let mut has_news = false;
        for action in out {
            has_news |= matches!(action, MemberAction::Notify(_));
            self.gossip_action(action, fx);
        }
        if has_news {
            self.check_incarnations(fx);
            self.tell_voter(fx);
        }
    }

    fn gossip_action(&mut self, action: MemberAction, fx: &mut Fabric) {
        let Some(gossip) = self.gossip.as_mut() else {
            return;
        };
        match action {
            MemberAction::PersistIncarnation(incarnation) => {
                self.persist(incarnation);
            }
            MemberAction::PersistPeers(peers) => self.remembered.peers = peers,
            MemberAction::Send { to, bytes } => {
                let target = (0..self.plan.ends.nodes).find(|i| gossip_addr(*i) == to);
                let (Some(to), None) = (target, gossip.unwritten) else {
                    return;
                };
                let mut sealed = Vec::new();
                self.seal.seal(node_id(self.index), &bytes, &mut sealed);
                fx.datagram(Datagram {
                    from: self.index,
                    to,
                    bytes: sealed.into(),
                    is_forged: false,
                });
            }
            MemberAction::SetTimer { token, after } => {
                let due = self.clock.local(fx.now) + after;
                let (node, run) = (self.index, self.run);
                let timer = NodeTimer::Gossip(token);
                fx.at(self.clock.global(due), Ev::Node { node, run, timer });
            }
            MemberAction::Notify(notice) => fx.trace.say(
                fx.now,
                format_args!(
                    "node {}: {} {} {}",
                    self.index,
                    notice.node,
                    notice.incarnation,
                    notice.what.name()
                ),
            ),
            MemberAction::Departed => {}
        }
    }

    /// Until the disk takes it nothing is sent.
    fn persist(&mut self, incarnation: Incarnation) {
        let Some(gossip) = self.gossip.as_mut() else {
            return;
        };
        match gossip.identity.advance(incarnation) {
            Ok(()) => self.remembered.incarnation = gossip.identity.incarnation(),
            Err(_) => gossip.unwritten = Some(incarnation),
        }
    }

    fn check_incarnations(&mut self, fx: &mut Fabric) {
        let Some(gossip) = self.gossip.as_mut() else {
            return;
        };
        for member in gossip.machine.list().iter() {
            let before = gossip.seen.insert(member.id, member.incarnation);
            if let Some(before) = before.filter(|before| *before > member.incarnation) {
                fx.fail(format!(
                    "node {} lists {} as {} after {before}",
                    self.index, member.id, member.incarnation
                ));
            }
        }
    }
}

/// Whether all lists agree; looked at while a run goes on.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Runs, and who runs.
    last: Vec<(u64, bool)>,
    since: Time,
}

impl Agreement {
    /// Looks at all lists. `is_calm`: nothing goes wrong any more.
    pub fn look(&mut self, now: Time, nodes: &[Node], is_calm: bool) -> Result<(), String> {
        let runs = |node: &Node| node.daemon.is_some() && !node.is_paused;
        let state: Vec<(u64, bool)> = nodes.iter().map(|n| (n.run, runs(n))).collect();
        if !is_calm || state != self.last {
            (self.last, self.since) = (state, now);
        }
        if now.since(self.since) <= AGREE_MAX {
            return Ok(());
        }
        for of in nodes.iter().filter(|node| runs(node)) {
            let Some(gossip) = &of.gossip else { continue };
            for about in nodes {
                let listed = gossip.machine.list().get(node_id(about.index));
                let is_right = match &about.gossip {
                    Some(it) if runs(about) => listed.is_some_and(|m| {
                        m.state == MemberState::Alive
                            && m.incarnation == it.machine.identity().incarnation
                    }),
                    _ => listed.is_none_or(|m| !m.state.is_active()),
                };
                if !is_right {
                    return Err(format!(
                        "{AGREE_MAX:?} after the last change node {} lists node {} as {:?}",
                        of.index,
                        about.index,
                        listed.map(|m| (m.state, m.incarnation))
                    ));
                }
            }
        }
        Ok(())
    }
}

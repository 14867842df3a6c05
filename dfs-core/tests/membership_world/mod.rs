//! Nodes, network and clock of the membership simulation.
#![allow(dead_code)] // Shared by test files that each need a part.
use bytes::Bytes;
use dfs_core::membership::{
    Member, MemberAction, MemberEvent, MemberNotice, MemberState, Membership, MembershipConfig,
    NodeIdentity, Peer, PeerBook, TimerToken, Zone,
};
use dfs_core::types::{Incarnation, NodeId, StoreId, Time};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub const MS: Duration = Duration::from_millis(1);

enum Happening {
    Deliver { from: usize, bytes: Bytes },
    Fire { run: u64, token: TimerToken },
    Resume,
}

/// Datagrams with their senders, and timers that fired.
type Waiting = (Vec<(usize, Bytes)>, Vec<TimerToken>);

#[derive(Default)]
struct Node {
    machine: Option<Membership>,
    run: u64,
    /// What waits while the process is stopped; `None` when it runs.
    stopped: Option<Waiting>,
    durable: Incarnation,
    peers: Vec<Peer>,
    notices: Vec<MemberNotice>,
    departed: bool,
    sent: u64,
    sent_bytes: u64,
}

pub struct World {
    pub now: Time,
    pub rng: ChaCha8Rng,
    loss: f64,
    nodes: Vec<Node>,
    /// Nodes below this index and the others do not hear each other.
    cut: usize,
    queue: BTreeMap<(Time, u64), (usize, Happening)>,
    tie: u64,
}

pub fn addr(i: usize) -> SocketAddr {
    ([127, 0, 0, 1], 7000 + u16::try_from(i).unwrap()).into()
}

pub fn id(i: usize) -> NodeId {
    NodeId(1 + i as u128)
}

pub fn datagram(from: usize, bytes: Bytes) -> MemberEvent {
    let from = addr(from);
    MemberEvent::Datagram { from, bytes }
}

/// The seeds of a test: one from the environment, or `count` of them.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("DFS_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).collect(),
    }
}

pub fn percentile(times: &mut [Duration], p: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * p / 100).min(times.len() - 1)]
}

impl World {
    /// A cluster of `n` in which everybody lists everybody as alive.
    pub fn formed(seed: u64, n: usize, loss: f64) -> Self {
        let mut world = Self {
            now: Time(1_000_000_000),
            rng: ChaCha8Rng::seed_from_u64(seed),
            loss,
            nodes: (0..n).map(|_| Node::default()).collect(),
            cut: 0,
            queue: BTreeMap::new(),
            tie: 0,
        };
        for i in 0..n {
            world.start(i, if i == 0 { &[] } else { &[0] });
        }
        let formed = world.run_until(Duration::from_secs(15), Self::complete);
        assert!(
            formed.is_some(),
            "seed {seed}: {n} nodes do not form a cluster"
        );
        world
    }

    pub fn start(&mut self, i: usize, contacts: &[usize]) {
        let node = &mut self.nodes[i];
        node.run += 1;
        node.stopped = None;
        node.departed = false;
        node.durable = node.durable.next().max(Incarnation(self.now.0 / 1_000_000));
        let me = NodeIdentity {
            id: id(i),
            incarnation: node.durable,
            gossip: addr(i),
            tcp: addr(i),
            store: StoreId(1 + i as u128),
            zone: Zone::new("rack").unwrap(),
        };
        let peers = PeerBook::from_list(node.peers.clone());
        let cfg = MembershipConfig::default();
        let machine = Membership::new(cfg, me, peers, self.rng.random(), self.now).unwrap();
        self.nodes[i].machine = Some(machine);
        self.event(i, MemberEvent::Start);
        if !contacts.is_empty() {
            let addrs = contacts.iter().map(|&c| addr(c)).collect();
            self.event(i, MemberEvent::Join { addrs });
        }
    }

    /// What the machine of `i` answers, without performing it.
    pub fn handle(&mut self, i: usize, event: MemberEvent) -> Vec<MemberAction> {
        let mut out = Vec::new();
        if let Some(machine) = self.nodes[i].machine.as_mut() {
            machine.handle(self.now, event, &mut out);
        }
        out
    }

    pub fn event(&mut self, i: usize, event: MemberEvent) {
        for action in self.handle(i, event) {
            self.perform(i, action);
        }
    }

    fn perform(&mut self, i: usize, action: MemberAction) {
        match action {
            MemberAction::PersistIncarnation(incarnation) => {
                assert!(incarnation > self.nodes[i].durable);
                self.nodes[i].durable = incarnation;
            }
            MemberAction::PersistPeers(peers) => self.nodes[i].peers = peers,
            MemberAction::Send { to, bytes } => {
                self.nodes[i].sent += 1;
                self.nodes[i].sent_bytes += bytes.len() as u64;
                let to = usize::from(to.port() - 7000);
                if self.rng.random_bool(self.loss) || (i < self.cut) != (to < self.cut) {
                    return;
                }
                let slow = self.rng.random_bool(0.02);
                let micros = self.rng.random_range(50..if slow { 20_000 } else { 1500 });
                let at = self.now + Duration::from_micros(micros);
                let bytes = bytes.into();
                self.schedule(at, to, Happening::Deliver { from: i, bytes });
            }
            MemberAction::SetTimer { token, after } => {
                let run = self.nodes[i].run;
                let late = Duration::from_micros(self.rng.random_range(0..2000));
                self.schedule(self.now + after + late, i, Happening::Fire { run, token });
            }
            MemberAction::Notify(notice) => self.nodes[i].notices.push(notice),
            MemberAction::Departed => self.nodes[i].departed = true,
        }
    }

    fn schedule(&mut self, at: Time, node: usize, what: Happening) {
        self.tie += 1;
        self.queue.insert((at, self.tie), (node, what));
    }

    fn step(&mut self) {
        let ((at, _), (i, what)) = self.queue.pop_first().unwrap();
        self.now = at;
        let node = &mut self.nodes[i];
        match what {
            Happening::Deliver { from, bytes } => match &mut node.stopped {
                Some((inbox, _)) => inbox.push((from, bytes)),
                None => self.event(i, datagram(from, bytes)),
            },
            Happening::Fire { run, token } if run == node.run => match &mut node.stopped {
                Some((_, fired)) => fired.push(token),
                None => self.event(i, MemberEvent::Timer(token)),
            },
            Happening::Fire { .. } => {}
            Happening::Resume => {
                // The driver's contract: the socket is drained before timers fire.
                let (inbox, fired) = node.stopped.take().unwrap_or_default();
                for (from, bytes) in inbox {
                    self.event(i, datagram(from, bytes));
                }
                for token in fired {
                    self.event(i, MemberEvent::Timer(token));
                }
            }
        }
    }

    /// Runs until `done` or for `limit`; the time it took, if it was done.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        let mut changes = usize::MAX;
        while self
            .queue
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= begin + limit)
        {
            // A condition on lists can only have changed with a notice.
            let count = self.nodes.iter().map(|n| n.notices.len()).sum::<usize>()
                + self.nodes.iter().filter(|n| n.departed).count();
            if count != changes && done(self) {
                return Some(self.now.since(begin));
            }
            changes = count;
            self.step();
        }
        self.now = begin + limit;
        None
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn kill(&mut self, i: usize) {
        self.nodes[i].machine = None;
        self.nodes[i].run += 1;
    }

    pub fn stop_for(&mut self, i: usize, time: Duration) {
        self.nodes[i].stopped = Some(Default::default());
        self.schedule(self.now + time, i, Happening::Resume);
    }

    pub fn is_running(&self, i: usize) -> bool {
        self.nodes[i].machine.is_some() && self.nodes[i].stopped.is_none()
    }

    /// Separates the nodes below `at` from the others; 0 heals.
    pub fn cut(&mut self, at: usize) {
        self.cut = at;
    }

    /// The datagrams that wait for a stopped node.
    pub fn take_inbox(&mut self, i: usize) -> Vec<MemberEvent> {
        let (inbox, _) = self.nodes[i].stopped.take().unwrap_or_default();
        let event = |(from, bytes)| datagram(from, bytes);
        inbox.into_iter().map(event).collect()
    }

    pub fn machine(&self, i: usize) -> &Membership {
        self.nodes[i].machine.as_ref().unwrap()
    }

    pub fn durable(&self, i: usize) -> Incarnation {
        self.nodes[i].durable
    }

    pub fn departed(&self, i: usize) -> bool {
        self.nodes[i].departed
    }

    fn row(&self, of: usize, about: usize) -> Option<&Member> {
        self.nodes[of].machine.as_ref()?.list().get(id(about))
    }

    fn live(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].machine.is_some())
    }

    /// Every live node lists every live node as alive, in its current incarnation.
    pub fn complete(&self) -> bool {
        self.live().all(|about| {
            let current = self.machine(about).identity().incarnation;
            self.live().all(|of| {
                let row = self.row(of, about);
                row.is_some_and(|m| m.state == MemberState::Alive && m.incarnation == current)
            })
        })
    }

    /// How many other live nodes list `about` in this state.
    pub fn listed_as(&self, about: usize, state: MemberState) -> usize {
        let says = |of: &usize| self.row(*of, about).is_some_and(|m| m.state == state);
        self.live().filter(|&of| of != about).filter(says).count()
    }

    /// Notices of this kind about a node, on all nodes.
    pub fn notices(&self, about: usize, what: &str) -> usize {
        let fits = |n: &&MemberNotice| n.node == id(about) && n.what.name() == what;
        let all = self.nodes.iter().flat_map(|n| n.notices.iter());
        all.filter(fits).count()
    }

    pub fn all_notices(&self, what: &str) -> usize {
        (0..self.nodes.len()).map(|i| self.notices(i, what)).sum()
    }

    /// Datagrams and bytes sent by all nodes.
    pub fn sent(&self) -> (u64, u64) {
        let sum = |a: (u64, u64), n: &Node| (a.0 + n.sent, a.1 + n.sent_bytes);
        self.nodes.iter().fold((0, 0), sum)
    }

    /// Everything observable, to compare two runs.
    pub fn history(&self) -> (Time, u64, (u64, u64), Vec<Vec<MemberNotice>>) {
        let notices = self.nodes.iter().map(|n| n.notices.clone()).collect();
        (self.now, self.tie, self.sent(), notices)
    }
}

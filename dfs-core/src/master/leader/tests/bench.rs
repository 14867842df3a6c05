//! A world small enough to hold in one struct.
use super::super::{Bootstrap, Master, MasterAction, MasterConfig, MasterEvent};
use super::store::{Store, addr, store_conn};
use crate::consensus::{LogConfig, LogId, RaftConfig, RaftLog, SnapshotMeta};
use crate::store::{LazyKv, MemBase, SimDisk};
use crate::types::{
    ClusterId, LogIndex, NodeId, PgId, PgMap, PgPhase, QuorumSizes, RaftId, StoreId, Term, Time,
};
use crate::wire::master::{MasterRequest, MasterResponse, SpaceAdvice, Voting};
use crate::wire::node::NodeResponse;
use crate::wire::rpc::{CallTarget, ConnId, ReplyTo};
use crate::wire::{NodeRequest, Push, Request, Response, WireError};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

pub const CLIENT_A: ConnId = ConnId(1001);
pub const CLIENT_B: ConnId = ConnId(1002);
const CLUSTER: ClusterId = ClusterId(77);
const TICK: u64 = 20;
/// Requests between nodes begin here, so that their replies are told from clients'.
const INTERNAL: u64 = 1 << 40;

type Answer = Result<MasterResponse, WireError>;

struct Node {
    number: u64,
    master: Option<Master>,
    log: Option<RaftLog>,
    disk: SimDisk,
    base: MemBase,
    runs: u64,
}

pub struct Bench {
    time: u64,
    nodes: BTreeMap<RaftId, Node>,
    /// Nodes that do not vote yet, by number.
    idle: Vec<u64>,
    stores: Vec<Store>,
    events: VecDeque<(RaftId, MasterEvent)>,
    replies: BTreeMap<ReplyTo, Answer>,
    pushes: VecDeque<(ConnId, Push)>,
    /// Calls between nodes: the caller and its token.
    calls: BTreeMap<u64, (RaftId, u64)>,
    next_id: u64,
    frozen: bool,
    /// Hears and says nothing as a voter.
    cut: Option<RaftId>,
    /// Of nodes that became voters.
    pub loses_answers: bool,
    /// Calls that tell a node to let go of an id, which it is yet to miss.
    pub misses_retirements: u32,
    /// Ids that nodes were told to let go of.
    pub retired: Vec<RaftId>,
    n: u8,
    small_log: bool,
    skew_ms: i64,
}

impl Bench {
    /// `nodes` daemons that may vote, `stores` stores (the first ones on those nodes).
    pub fn new(nodes: u64, stores: u64) -> Self {
        Self::with(nodes, stores, false)
    }

    /// With a log that is compacted every 100 entries, keeping none.
    pub fn small_log(nodes: u64, stores: u64) -> Self {
        Self::with(nodes, stores, true)
    }

    fn with(nodes: u64, stores: u64, small_log: bool) -> Self {
        let mut this = Self {
            time: 1_000_000,
            nodes: BTreeMap::new(),
            idle: (2..=nodes).collect(),
            stores: Vec::new(),
            events: VecDeque::new(),
            replies: BTreeMap::new(),
            pushes: VecDeque::new(),
            calls: BTreeMap::new(),
            next_id: 0,
            frozen: false,
            cut: None,
            loses_answers: false,
            misses_retirements: 0,
            retired: Vec::new(),
            n: stores.min(3) as u8,
            small_log,
            skew_ms: 0,
        };
        this.become_voter(RaftId(1), 1, &SnapshotMeta::bootstrap([RaftId(1)]));
        (1..=stores).for_each(|i| this.add_store(StoreId(u128::from(i))));
        this
    }

    pub fn add_store(&mut self, id: StoreId) {
        self.stores.push(Store {
            id,
            muted: false,
            map: None,
            adopted: BTreeMap::new(),
            cursor: LogIndex(0),
            refilled: false,
            due: 0,
            back: false,
            incarnation: 1,
            lacks: Vec::new(),
            wants_renewal: false,
            voting: Voting::Unknown,
            failed: false,
            space: None,
            advice: SpaceAdvice::default(),
            told: Default::default(),
        });
    }

    fn become_voter(&mut self, id: RaftId, number: u64, base: &SnapshotMeta) {
        let disk = SimDisk::default();
        let log_id = LogId {
            cluster: CLUSTER,
            raft: id,
        };
        let log = Arc::new(disk.clone());
        RaftLog::create(log, "raft", log_id, LogConfig::default(), base).unwrap();
        let base = MemBase::new();
        let node = Node {
            number,
            master: None,
            log: None,
            disk,
            base,
            runs: 0,
        };
        self.nodes.insert(id, node);
        self.start(id);
    }

    pub fn start(&mut self, id: RaftId) {
        let (n, small_log) = (self.n, self.small_log);
        let node = self.nodes.get_mut(&id).unwrap();
        node.runs += 1;
        let log_id = LogId {
            cluster: CLUSTER,
            raft: id,
        };
        let disk = Arc::new(node.disk.clone());
        let (log, recovered) = RaftLog::open(disk, "raft", log_id, LogConfig::default()).unwrap();
        let mut config = MasterConfig::new(NodeId(u128::from(node.number)), id, addr(node.number));
        let mut raft = RaftConfig::new(id);
        if small_log {
            config.snapshot_entries = 100;
            raft.keep_entries = 0;
        }
        let kv = LazyKv::open(Arc::new(node.base.clone())).unwrap();
        let quorum = QuorumSizes {
            n,
            w: n / 2 + 1,
            r: n / 2 + 1,
        };
        let voters = if self.idle.is_empty() && id == RaftId(1) {
            1
        } else {
            3
        };
        let bootstrap = Bootstrap {
            cluster: CLUSTER,
            quorum,
            pgs: 16,
            voters,
        };
        let seed = id.0 * 100 + node.runs;
        node.master =
            Some(Master::new(config, raft, recovered, kv, Some(bootstrap), seed).unwrap());
        node.log = Some(log);
    }

    pub fn stop(&mut self, id: RaftId) {
        let node = self.nodes.get_mut(&id).unwrap();
        (node.master, node.log) = (None, None);
        self.events.retain(|(to, _)| *to != id);
    }

    /// The voter is gone, and its node lives on without.
    pub fn set_aside(&mut self, id: RaftId) {
        self.stop(id);
        self.idle
            .extend(self.nodes.remove(&id).map(|node| node.number));
    }

    /// The leader puts this into the log.
    pub fn propose(&mut self, command: crate::master::command::Command) {
        let leader = self.leader_id();
        let node = self.nodes.get_mut(&leader).unwrap();
        let task = super::super::leading::Task::Voters;
        node.master.as_mut().unwrap().propose_task(task, command);
    }

    /// The voter hears and says nothing from now on, or no longer; its node's store does.
    pub fn cut(&mut self, id: RaftId, is_cut: bool) {
        self.cut = is_cut.then_some(id);
    }

    pub fn now(&self) -> Time {
        Time(self.time * 1_000_000)
    }

    fn wall(&self) -> Time {
        let now = 1_700_000_000_000_i64 + self.time as i64 + self.skew_ms;
        Time(now as u64 * 1_000_000)
    }

    /// From now on the wall clocks are so much ahead (or behind).
    pub fn skew_wall(&mut self, ms: i64) {
        self.skew_ms = ms;
    }

    pub fn master(&self, id: RaftId) -> &Master {
        self.nodes[&id].master.as_ref().unwrap()
    }

    fn leads(&self) -> Option<RaftId> {
        let leads = |node: &Node| node.master.as_ref().is_some_and(Master::leads);
        let best = self.nodes.iter().filter(|(_, node)| leads(node));
        best.max_by_key(|(_, node)| node.master.as_ref().unwrap().raft().term())
            .map(|(id, _)| *id)
    }

    pub fn has_leader(&self) -> bool {
        self.leads().is_some()
    }

    pub fn leader_id(&self) -> RaftId {
        self.leads().expect("somebody leads")
    }

    pub fn leader(&self) -> &Master {
        match self.leads() {
            Some(id) => self.master(id),
            None => self.nodes.values().find_map(|n| n.master.as_ref()).unwrap(),
        }
    }

    pub fn a_follower(&self) -> RaftId {
        let leader = self.leader_id();
        *self.nodes.keys().find(|id| **id != leader).unwrap()
    }

    pub fn send(&mut self, conn: ConnId, body: MasterRequest) -> ReplyTo {
        self.next_id += 1;
        let from = ReplyTo {
            conn,
            id: self.next_id,
        };
        let leader = self.leader_id();
        self.events
            .push_back((leader, MasterEvent::Request { from, body }));
        from
    }

    /// Asks and waits for the answer.
    pub fn call(&mut self, conn: ConnId, body: MasterRequest) -> Answer {
        let from = self.send(conn, body);
        self.settle();
        if !self.has_reply(from) {
            self.run_until("an answer", |b| b.has_reply(from));
        }
        self.reply(from).unwrap()
    }

    pub fn has_reply(&self, to: ReplyTo) -> bool {
        self.replies.contains_key(&to)
    }

    pub fn reply(&mut self, to: ReplyTo) -> Option<Answer> {
        self.settle();
        self.replies.remove(&to)
    }

    /// The next push to a client.
    pub fn take_push(&mut self) -> Option<(ConnId, Push)> {
        self.pushes.pop_front()
    }

    /// Handles everything that is under way, without letting time pass.
    pub fn settle(&mut self) {
        while let Some((to, event)) = self.events.pop_front() {
            let (now, wall) = (self.now(), self.wall());
            let mut out = Vec::new();
            match self
                .nodes
                .get_mut(&to)
                .and_then(|node| node.master.as_mut())
            {
                Some(master) => master.handle(now, wall, event, &mut out),
                None => continue,
            }
            for action in out {
                self.perform(to, action);
            }
        }
    }

    fn perform(&mut self, me: RaftId, action: MasterAction) {
        match action {
            MasterAction::Reply(reply) if reply.to.id >= INTERNAL => {
                let (caller, token) = self.calls.remove(&reply.to.id).unwrap();
                let result = reply.body.map(|r| (r, bytes::Bytes::new()));
                self.events
                    .push_back((caller, MasterEvent::CallDone { token, result }));
            }
            MasterAction::Reply(reply) => self.on_reply(reply.to, reply.body),
            MasterAction::Push { conn, push } => self.on_push(conn, push),
            MasterAction::SendRaft { to, .. } if [Some(me), Some(to)].contains(&self.cut) => {}
            MasterAction::SendRaft { to, message, .. } => {
                let addr = addr(self.nodes[&me].number);
                self.events.push_back((
                    to,
                    MasterEvent::Raft {
                        from: me,
                        addr,
                        message,
                    },
                ));
            }
            MasterAction::Persist { token, write } => {
                let node = self.nodes.get_mut(&me).unwrap();
                node.log.as_mut().unwrap().append(&[write]).unwrap();
                self.events
                    .push_back((me, MasterEvent::Persisted { token }));
            }
            MasterAction::Flush(job) => {
                self.events.push_back((me, MasterEvent::Flushed(job.run())));
            }
            MasterAction::Call(call) => {
                let CallTarget::Node(_, to) = call.to else {
                    panic!()
                };
                let Request::Node(request) = call.request else {
                    panic!()
                };
                self.on_call(me, call.token, to, request);
            }
            MasterAction::Leader(_) => {}
            MasterAction::Fatal(why) => panic!("{me:?}: {why}"),
        }
    }

    fn on_call(&mut self, me: RaftId, token: u64, to: SocketAddr, request: NodeRequest) {
        let number = u64::from(to.port()) - 7000;
        let done = |this: &mut Self| {
            let result = Ok((Response::Node(NodeResponse::Done), bytes::Bytes::new()));
            this.events
                .push_back((me, MasterEvent::CallDone { token, result }));
        };
        match request {
            NodeRequest::BecomeVoter { raft_id, .. } => {
                if self.idle.contains(&number) {
                    self.idle.retain(|i| *i != number);
                    self.become_voter(raft_id, number, &SnapshotMeta::blank());
                    if !self.loses_answers {
                        done(self);
                    }
                }
            }
            NodeRequest::SnapshotPage {
                index,
                after,
                bytes_max,
            } => {
                let peer = self
                    .nodes
                    .iter()
                    .find(|(_, n)| n.number == number)
                    .map(|(id, _)| *id);
                self.next_id += 1;
                let id = INTERNAL + self.next_id;
                self.calls.insert(id, (me, token));
                let from = ReplyTo {
                    conn: ConnId(0),
                    id,
                };
                let event = MasterEvent::SnapshotPage {
                    from,
                    index,
                    after,
                    bytes_max,
                };
                self.events.push_back((peer.unwrap(), event));
            }
            NodeRequest::RetireVoter { .. } if self.misses_retirements > 0 => {
                self.misses_retirements -= 1;
            }
            NodeRequest::RetireVoter { raft_id, .. } => {
                if self.nodes.get(&raft_id).is_some_and(|n| n.number == number) {
                    self.set_aside(raft_id);
                }
                self.retired.push(raft_id);
                done(self);
            }
            _ => done(self),
        }
    }

    fn on_reply(&mut self, to: ReplyTo, body: Result<Response, WireError>) {
        let body = body.map(|r| match r {
            Response::Master(m) => m,
            other => panic!("{other:?}"),
        });
        match self.stores.iter_mut().find(|s| store_conn(s.id) == to.conn) {
            Some(store) => {
                if let Ok(MasterResponse::Heartbeat(ok)) = body {
                    store.take(*ok, self.frozen);
                }
            }
            None => {
                let before = self.replies.insert(to, body);
                assert_eq!(before, None, "{to:?} is answered once");
            }
        }
    }

    fn on_push(&mut self, conn: ConnId, push: Push) {
        let now = self.time;
        match (
            self.stores.iter_mut().find(|s| store_conn(s.id) == conn),
            push,
        ) {
            (Some(store), Push::Poke) => store.due = now,
            (_, push) => self.pushes.push_back((conn, push)),
        }
    }

    fn heartbeats(&mut self) {
        let Some(leader) = self.leads() else { return };
        let (now, sent_at) = (self.time, self.now());
        for store in &mut self.stores {
            let number = store.id.0 as u64;
            let voter = self.nodes.values().find(|n| n.number == number);
            let is_stopped =
                voter.is_some_and(|n| n.master.is_none() && !store.muted && n.runs > 0);
            if store.muted || store.due > now || is_stopped {
                continue;
            }
            store.due = now + 500;
            let mut voters = self.nodes.iter().filter(|(_, n)| n.number == number);
            store.voting = match voters.next_back() {
                Some((id, _)) => Voting::As(*id),
                None if self.idle.contains(&number) => Voting::No,
                None => Voting::Unknown,
            };
            self.next_id += 1;
            let from = ReplyTo {
                conn: store_conn(store.id),
                id: self.next_id,
            };
            let body = MasterRequest::Heartbeat(store.heartbeat(number, sent_at));
            self.events
                .push_back((leader, MasterEvent::Request { from, body }));
        }
    }

    pub fn run_for(&mut self, ms: u64) {
        let end = self.time + ms;
        while self.time < end {
            self.step();
        }
    }

    /// All processes are stopped for a while, then go on.
    pub fn stall(&mut self, ms: u64) {
        self.time += ms;
    }

    fn step(&mut self) {
        self.time += TICK;
        let ids: Vec<RaftId> = self.nodes.keys().copied().collect();
        ids.into_iter()
            .for_each(|id| self.events.push_back((id, MasterEvent::Tick)));
        self.heartbeats();
        self.settle();
    }

    /// Lets time pass until `done`, at most a virtual minute.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.time + 60_000;
        while !done(self) {
            assert!(self.time < end, "not within a minute: {what}");
            self.step();
        }
    }

    fn map(&self) -> &PgMap {
        self.leader().state().map()
    }

    pub fn members_complete(&self) -> bool {
        let pgs = &self.map().pgs;
        !pgs.is_empty() && pgs.iter().all(|pg| pg.members.len() == usize::from(self.n))
    }

    pub fn all_active(&self) -> bool {
        self.map().pgs.iter().all(|pg| pg.phase == PgPhase::Active)
    }

    pub fn count(&self, phase: PgPhase) -> usize {
        self.map().pgs.iter().filter(|pg| pg.phase == phase).count()
    }

    pub fn holds(&self, store: StoreId) -> bool {
        self.held(store) > 0
    }

    pub fn held(&self, store: StoreId) -> usize {
        self.map()
            .pgs
            .iter()
            .filter(|pg| pg.members.contains(&store))
            .count()
    }

    fn store(&mut self, id: StoreId) -> &mut Store {
        self.stores.iter_mut().find(|s| s.id == id).unwrap()
    }

    pub fn mute(&mut self, id: StoreId) {
        self.store(id).muted = true;
    }

    pub fn unmute(&mut self, id: StoreId) {
        self.store(id).muted = false;
    }

    /// The store is served by a later run of its node.
    pub fn restart_store(&mut self, id: StoreId) {
        self.store(id).incarnation += 1;
    }

    /// Stores adopt no epochs any more.
    pub fn freeze_epochs(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// The store says that it was told nothing so far, until it is filled again.
    pub fn set_cursor_back(&mut self, id: StoreId) {
        let store = self.store(id);
        store.back = true;
        store.incarnation += 1;
    }

    /// A heartbeat of before the store was told anything arrives.
    pub fn late_heartbeat(&mut self, id: StoreId) {
        let (leader, now) = (self.leader_id(), self.now());
        self.next_id += 1;
        let from = ReplyTo {
            conn: store_conn(id),
            id: self.next_id,
        };
        let mut late = self.store(id).heartbeat(id.0 as u64, now);
        late.cursor = LogIndex(0);
        let body = MasterRequest::Heartbeat(late);
        self.events
            .push_back((leader, MasterEvent::Request { from, body }));
    }

    /// From now on the store wants all its groups filled anew.
    pub fn want_renewal(&mut self, id: StoreId) {
        self.store(id).wants_renewal = true;
    }

    /// From now on the store says that it lacks these.
    pub fn set_lacks(&mut self, id: StoreId, lacks: Vec<(PgId, u32)>) {
        self.store(id).lacks = lacks;
    }

    /// From now on the store says that it is on this device, of which so much is free now, and so much
    /// comes free when what rests goes.
    pub fn set_space(&mut self, id: StoreId, device: u64, free: u64, coming: u64) {
        self.store(id).space = Some((device, free, coming));
    }

    /// From now on the store says that it has failed.
    pub fn set_failed(&mut self, id: StoreId) {
        self.store(id).failed = true;
    }

    /// What the store was told last.
    pub fn advice(&self, id: StoreId) -> SpaceAdvice {
        self.stores.iter().find(|s| s.id == id).unwrap().advice
    }

    /// The term of who answered the store last, and which groups it shall copy first.
    pub fn told(&self, id: StoreId) -> (Term, Vec<PgId>) {
        let store = self.stores.iter().find(|s| s.id == id);
        store.unwrap().told.clone()
    }

    pub fn was_refilled(&self, id: StoreId) -> bool {
        self.stores.iter().any(|s| s.id == id && s.refilled)
    }
}

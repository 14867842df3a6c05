//! One client: a session, contact with the master, caches, and workers that run puts and gets.
//!
//! It follows the rules of the client library: contact first (find the leader, bind the session,
//! keep it alive), requests repeated under the same op-id, nothing reported as failed or done that
//! is not known to be.
use super::asks::Ask;
use super::clock::Clock;
use super::contact::Contact;
use super::fabric::{Ev, Fabric};
use super::jobs::Job;
use super::linear::Key;
use super::network::{End, Packet};
use super::oracle::Oracle;
use super::settings::{Plan, node_at};
use bytes::Bytes;
use dfs_core::client::latency::Latencies;
use dfs_core::types::{ClientId, Ino, LeaseSeq, LogIndex, OpId, PgMap, StoreId, Term, Time};
use dfs_core::wire::master::Layout;
use dfs_core::wire::rpc::ConnId;
use dfs_core::wire::{ErrorCode, MasterRequest, Push, Request, Response, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Threads of a client.
pub(super) const WORKERS: usize = 3;

/// What one handler works with.
pub(super) struct Cx<'a> {
    pub fx: &'a mut Fabric,
    pub oracle: &'a mut Oracle,
    pub plan: &'a Plan,
}

/// Timers of a client.
#[derive(Debug, Clone)]
pub(super) enum ClientTimer {
    /// Look for a leader.
    Seek(u64),
    /// The time for answers of a round of probes is over.
    ProbesOver(u64),
    KeepAlive(ConnId),
    CallTimeout(u64),
    AskAgain(u64),
    AskOver(u64),
    /// Of a put or get machine: worker, job, number.
    Machine(usize, u64, u64),
    /// The worker takes up something new.
    Next(usize),
    /// The push is acknowledged.
    Ack(ConnId, u64),
}

/// A call under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    Probe(u64),
    OpenSession,
    KeepAlive {
        sent: Time,
        declared: Term,
    },
    Ask(u64),
    Prepare {
        worker: usize,
        job: u64,
        token: u64,
    },
    Read {
        worker: usize,
        job: u64,
        token: u64,
    },
    Stamp {
        worker: usize,
        job: u64,
        token: u64,
    },
    /// Nobody waits for the answer.
    Quiet,
}

/// A lookup's answer, as cached.
#[derive(Debug, Clone, Copy)]
pub(super) struct CachedName {
    pub dir: Ino,
    pub ino: Option<Ino>,
}

/// See the [module docs](self).
pub(super) struct Client {
    pub index: usize,
    pub clock: Clock,
    pub session: ClientId,
    pub sessions: u64,
    pub opened: bool,
    pub clean_term: Term,
    pub next_seq: u64,
    pub unfinished: BTreeSet<u64>,
    /// Files open for writing: lease and writing period.
    pub opens: BTreeMap<Ino, (LeaseSeq, u64)>,
    pub tokens: u64,
    pub contact: Contact,
    /// Counts rounds of looking for a leader.
    pub round: u64,
    pub hint: Option<usize>,
    pub window_until: Time,
    /// Raised whenever something cached may have become wrong.
    pub cache_epoch: u64,
    pub names: BTreeMap<Key, CachedName>,
    /// Directories that may change without a word to us: our own changes under way or unknown.
    pub own_changes: BTreeMap<Ino, u32>,
    pub layouts: BTreeMap<Ino, Layout>,
    pub map: Option<Arc<PgMap>>,
    pub map_newest: LogIndex,
    pub stores: BTreeMap<StoreId, usize>,
    pub latencies: Latencies,
    pub calls: BTreeMap<u64, (ConnId, CallKind)>,
    pub asks: BTreeMap<u64, Ask>,
    pub pool: BTreeMap<usize, ConnId>,
    pub jobs: Vec<Job>,
    pub job_numbers: Vec<u64>,
    /// Recalls to be acknowledged when the put on their inode is over.
    pub recalls: Vec<(Ino, ConnId, u64)>,
    /// Recalls that were not to be acknowledged; when all is calm they are.
    pub ignored: Vec<(ConnId, u64)>,
    /// Its process is gone for now.
    pub is_dead: bool,
}

impl Client {
    pub fn new(index: usize, fx: &mut Fabric) -> Self {
        Self {
            index,
            clock: Clock::draw(&mut fx.rng),
            session: session_id(index, 1),
            sessions: 1,
            opened: false,
            clean_term: Term(0),
            next_seq: 1,
            unfinished: BTreeSet::new(),
            opens: BTreeMap::new(),
            tokens: 0,
            contact: Contact::Seeking,
            round: 0,
            hint: None,
            window_until: Time(0),
            cache_epoch: 0,
            names: BTreeMap::new(),
            own_changes: BTreeMap::new(),
            layouts: BTreeMap::new(),
            map: None,
            map_newest: LogIndex(0),
            stores: BTreeMap::new(),
            latencies: Latencies::default(),
            calls: BTreeMap::new(),
            asks: BTreeMap::new(),
            pool: BTreeMap::new(),
            jobs: (0..WORKERS).map(|_| Job::Idle).collect(),
            job_numbers: vec![0; WORKERS],
            recalls: Vec::new(),
            ignored: Vec::new(),
            is_dead: false,
        }
    }

    pub fn end(&self) -> End {
        End::Client(self.index)
    }

    pub fn now(&self, fx: &Fabric) -> Time {
        self.clock.local(fx.now)
    }

    pub fn later(&self, pause: Duration, timer: ClientTimer, fx: &mut Fabric) {
        fx.after(
            pause,
            Ev::Client {
                client: self.index,
                timer,
            },
        );
    }

    /// Takes the session's next op-id.
    pub fn begin_op(&mut self) -> OpId {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.unfinished.insert(seq);
        OpId {
            client: self.session,
            seq,
        }
    }

    /// The op's outcome is known, or was reported as unknown.
    pub fn finish_op(&mut self, op: OpId) {
        if op.client == self.session {
            self.unfinished.remove(&op.seq);
        }
    }

    pub fn low(&self) -> u64 {
        self.unfinished.first().copied().unwrap_or(self.next_seq)
    }

    pub fn low_for(&self, op: OpId) -> u64 {
        if op.client == self.session {
            self.low().min(op.seq)
        } else {
            0
        }
    }

    pub fn drop_caches(&mut self) {
        self.cache_epoch += 1;
        self.names.clear();
        self.window_until = Time(0);
    }

    /// The master has forgotten the session: everything under it is lost.
    pub fn lose_session(&mut self, lost: ClientId, cx: &mut Cx<'_>) {
        if lost != self.session {
            return;
        }
        cx.oracle.counts.sessions_lost += 1;
        cx.fx.trace.say(
            cx.fx.now,
            format_args!("client {} lost its session", self.index),
        );
        self.begin_session();
        self.tell_puts_of_lost_session(lost, cx);
    }

    /// Nothing of the session that was is known any more.
    pub fn begin_session(&mut self) {
        self.sessions += 1;
        self.session = session_id(self.index, self.sessions);
        (self.opened, self.clean_term, self.next_seq) = (false, Term(0), 1);
        self.unfinished.clear();
        self.opens.clear();
        self.own_changes.clear();
        self.drop_caches();
        self.recalls.clear();
        self.ignored.clear();
    }

    /// A connection of the pool to a node.
    pub fn pooled(&mut self, node: usize, fx: &mut Fabric) -> ConnId {
        let me = self.end();
        *self
            .pool
            .entry(node)
            .or_insert_with(|| fx.connect(me, 0, node, false))
    }

    /// Sends a request; its end comes to [`Self::call_over`], exactly once.
    pub fn call(
        &mut self,
        conn: ConnId,
        kind: CallKind,
        body: Request,
        (payload, within): (Bytes, Duration),
        fx: &mut Fabric,
    ) -> u64 {
        let id = fx.id();
        self.calls.insert(id, (conn, kind));
        fx.send(conn, self.end(), Packet::Request { id, body, payload });
        self.later(within, ClientTimer::CallTimeout(id), fx);
        id
    }

    pub fn handle(&mut self, event: Ev, cx: &mut Cx<'_>) {
        match event {
            _ if self.is_dead => {}
            Ev::Deliver { conn, packet, .. } => self.deliver(conn, *packet, cx),
            Ev::Client { timer, .. } => self.on_timer(timer, cx),
            _ => {}
        }
    }

    fn deliver(&mut self, conn: ConnId, packet: Packet, cx: &mut Cx<'_>) {
        match packet {
            Packet::Reply { id, body, payload } => {
                if let Some((_, kind)) = self.calls.remove(&id) {
                    self.call_over(kind, body.map(|body| (body, payload)), cx);
                }
            }
            Packet::Push(push) => self.on_push(conn, push, cx),
            Packet::Closed => self.on_closed(conn, cx),
            Packet::Request { .. } | Packet::Cast(_) => {}
        }
    }

    pub(super) fn on_closed(&mut self, conn: ConnId, cx: &mut Cx<'_>) {
        self.pool.retain(|_, c| *c != conn);
        let hit = self.calls.iter().filter(|(_, (c, _))| *c == conn);
        let hit: Vec<u64> = hit.map(|(id, _)| *id).collect();
        self.contact_closed(conn, cx.fx);
        for id in hit {
            self.call_failed(id, cx);
        }
    }

    /// No answer comes any more.
    fn call_failed(&mut self, id: u64, cx: &mut Cx<'_>) {
        if let Some((_, kind)) = self.calls.remove(&id) {
            self.call_over(kind, Err(ErrorCode::UnknownOutcome.into()), cx);
        }
    }

    fn call_over(
        &mut self,
        kind: CallKind,
        result: Result<(Response, Bytes), WireError>,
        cx: &mut Cx<'_>,
    ) {
        cx.fx.trace.mix(u64::from(result.is_ok()) + 2);
        match kind {
            CallKind::Probe(round) => self.probe_over(round, result, cx),
            CallKind::OpenSession => self.session_opened(result, cx),
            CallKind::KeepAlive { sent, declared } => {
                self.kept_alive(sent, declared, result, cx);
            }
            CallKind::Ask(ask) => self.ask_answered(ask, result.map(|(body, _)| body), cx),
            CallKind::Prepare { worker, job, token } => {
                self.prepared(worker, job, token, result, cx);
            }
            CallKind::Read { worker, job, token } => self.have_read(worker, job, token, result, cx),
            CallKind::Stamp { worker, job, token } => {
                self.stamped(worker, job, token, result, cx);
            }
            CallKind::Quiet => {}
        }
    }

    fn on_timer(&mut self, timer: ClientTimer, cx: &mut Cx<'_>) {
        match timer {
            ClientTimer::Seek(round) => self.seek(round, cx),
            ClientTimer::ProbesOver(round) => self.probes_over(round, cx.fx),
            ClientTimer::KeepAlive(conn) => self.keep_alive_due(conn, cx.fx),
            ClientTimer::CallTimeout(id) => {
                if let Some((conn, _)) = self.calls.get(&id).copied() {
                    // A silent connection closes itself.
                    if self.pool.values().any(|c| *c == conn) {
                        self.pool.retain(|_, c| *c != conn);
                        cx.fx.close(conn, self.end());
                    }
                    self.call_failed(id, cx);
                }
            }
            ClientTimer::AskAgain(id) => self.ask_again(id, cx),
            ClientTimer::AskOver(id) => self.ask_over(id, cx),
            ClientTimer::Machine(worker, job, number) => self.machine_tick(worker, job, number, cx),
            ClientTimer::Next(worker) => self.next_job(worker, cx),
            ClientTimer::Ack(conn, seq) => self.ack(conn, seq, cx.fx),
        }
    }

    fn on_push(&mut self, conn: ConnId, push: Push, cx: &mut Cx<'_>) {
        match push {
            Push::Invalidate { seq, touched, .. } => {
                if !cx.plan.has(super::bugs::Bug::ClientIgnoresInvalidations) {
                    self.cache_epoch += 1;
                    let hit = |c: &CachedName| {
                        touched
                            .iter()
                            .any(|t| t.ino == c.dir || Some(t.ino) == c.ino)
                    };
                    self.names.retain(|_, cached| !hit(cached));
                }
                // Mostly at once, sometimes late, now and then not at all.
                let pause = match cx.fx.pick(20) {
                    _ if cx.oracle.is_calm => cx.fx.ms(0, 1),
                    0 => return,
                    1 | 2 => cx.fx.ms(10, 2_500),
                    _ => cx.fx.ms(0, 1),
                };
                self.later(pause, ClientTimer::Ack(conn, seq), cx.fx);
            }
            Push::Recall { seq, ino, .. } => match cx.fx.pick(10) {
                0 if !cx.oracle.is_calm => self.ignored.push((conn, seq)),
                0..=3 => self.later(Duration::ZERO, ClientTimer::Ack(conn, seq), cx.fx),
                _ if self.is_putting(ino) => self.recalls.push((ino, conn, seq)),
                _ => self.later(Duration::ZERO, ClientTimer::Ack(conn, seq), cx.fx),
            },
            Push::Poke | Push::Watch { .. } => {}
        }
    }

    /// From now on nothing is ignored.
    pub fn calm_down(&mut self, fx: &mut Fabric) {
        for (conn, seq) in std::mem::take(&mut self.ignored) {
            self.ack(conn, seq, fx);
        }
    }

    fn ack(&mut self, conn: ConnId, seq: u64, fx: &mut Fabric) {
        let client = self.session;
        let request = Request::Master(MasterRequest::PushAck { client, seq });
        let budget = (Bytes::new(), Duration::from_secs(1));
        self.call(conn, CallKind::Quiet, request, budget, fx);
    }

    pub(super) fn note_stores(&mut self, stores: Vec<(StoreId, std::net::SocketAddr)>) {
        let known = stores
            .into_iter()
            .filter_map(|(store, addr)| Some((store, node_at(addr)?)));
        self.stores = known.collect();
    }
}

/// Fresh for every session of every client.
fn session_id(index: usize, session: u64) -> ClientId {
    ClientId(((index as u128 + 1) << 120) | (u128::from(session) << 96) | 0xc11e)
}

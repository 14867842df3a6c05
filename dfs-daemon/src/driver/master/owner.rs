//! The owner thread: one loop over the master machine, or over its absence.
//!
//! What one batch of inputs makes it send leaves together, one write per connection, after its log
//! write was handed on: what must wait for that write, the machine holds back itself.
use super::voter::{self, OpenError, Voter};
use super::{Input, MasterSetup};
use crate::driver::calls::Calls;
use crate::driver::leader_book::LeaderBook;
use crate::driver::queue::{NotReceived, Receiver, Sender};
use dfs_core::master::leader::{Bootstrap, MasterAction, MasterConfig, MasterEvent};
use dfs_core::net::clock::{boottime, unix_ms};
use dfs_core::net::server::{Outgoing, ServerHandle};
use dfs_core::types::{ClusterId, RaftId, Time};
use dfs_core::wire::rpc::{Reply, ReplyTo};
use dfs_core::wire::{ErrorCode, NodeRequest, NodeResponse, Request, Response, WireError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the machine is told that time passed: more often than its Raft ticks are apart.
const TICK: Duration = Duration::from_millis(40);
/// The same while there is no machine: nothing waits for it.
const IDLE: Duration = Duration::from_secs(60);
/// Inputs handled together at most.
const BATCH_MAX: usize = 512;
/// How long a leader that stops may take to hand over.
const HANDOVER: Duration = Duration::from_millis(600);

pub(super) struct Owner {
    setup: MasterSetup,
    server: ServerHandle,
    calls: Calls,
    book: LeaderBook,
    inbox: Sender<Input>,
    raft_id: Arc<AtomicU64>,
    voter: Option<Voter>,
    /// The voter shall be gone after this batch.
    ended: Option<Ended>,
    actions: Vec<MasterAction>,
    outbox: Outbox,
}

/// What the actions of one batch send.
#[derive(Default)]
struct Outbox {
    /// To clients and stores.
    messages: Vec<Outgoing>,
    /// To other voters.
    raft: BTreeMap<SocketAddr, Vec<Request>>,
}

enum Ended {
    Retired,
    Broken(String),
}

impl Owner {
    pub fn new(
        setup: MasterSetup,
        server: ServerHandle,
        calls: Calls,
        book: LeaderBook,
        inbox: Sender<Input>,
        raft_id: Arc<AtomicU64>,
    ) -> Self {
        let (voter, ended, actions) = (None, None, Vec::new());
        Self {
            setup,
            server,
            calls,
            book,
            inbox,
            raft_id,
            voter,
            ended,
            actions,
            outbox: Outbox::default(),
        }
    }

    /// Starts the voter that this node was, or the first one of a new cluster.
    pub fn recover(&mut self) -> anyhow::Result<()> {
        let disk = self.setup.disk.clone();
        let mut id = voter::member(&*disk)?;
        if id.is_none() && self.setup.bootstrap {
            let first = RaftId::first(rand::random_range(0..RaftId::GROUPS));
            voter::create(&disk, self.setup.cluster, first, true)?;
            id = Some(first);
        }
        crate::bootstrap::done(&*disk)?;
        let Some(id) = id else { return Ok(()) };
        match self.open(id) {
            Ok(()) => Ok(()),
            Err(OpenError::Damaged(why)) => {
                tracing::error!("this voter is damaged and counts as wiped: {why}");
                voter::remove(&*disk)
            }
            Err(OpenError::Other(e)) => Err(e),
        }
    }

    fn open(&mut self, id: RaftId) -> Result<(), OpenError> {
        let setup = &self.setup;
        let (repair, cluster) = (&setup.config.repair, &setup.config.cluster);
        let mut config = MasterConfig::new(setup.node, id, setup.addr);
        let ms = Duration::from_millis;
        config.repair_grace = ms(repair.grace_ms);
        config.voter_grace = ms(repair.voter_grace_ms);
        config.delete_grace = ms(repair.delete_grace_ms);
        config.history_keep = Duration::from_secs(repair.history_secs);
        config.repair_rate = repair.rate_bytes;
        let quorum = cluster.quorum().map_err(|e| OpenError::Other(e.into()))?;
        let bootstrap = Bootstrap {
            cluster: setup.cluster,
            quorum,
            pgs: cluster.placement_groups,
            voters: cluster.masters,
        };
        let voter = voter::open(&setup.disk, setup.cluster, config, bootstrap, &self.inbox)?;
        self.raft_id.store(id.0, Ordering::Release);
        self.voter = Some(voter);
        tracing::info!(raft_id = id.0, "voting");
        Ok(())
    }

    pub fn run(mut self, inputs: &Receiver<Input>) {
        let mut ticked = Instant::now();
        loop {
            let wait = match self.voter {
                Some(_) => TICK.saturating_sub(ticked.elapsed()),
                None => IDLE,
            };
            let first = match inputs.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(NotReceived::TimedOut) => None,
                Err(NotReceived::Disconnected) => break,
            };
            let mut events = Vec::new();
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                events.push(MasterEvent::Tick);
            }
            let rest = std::iter::from_fn(|| inputs.try_recv());
            let mut stop = false;
            for input in first.into_iter().chain(rest).take(BATCH_MAX) {
                if matches!(input, Input::Stop) {
                    stop = true;
                    break;
                }
                self.take(input, &mut events);
            }
            self.handle(events);
            if stop {
                self.hand_over(inputs);
                break;
            }
        }
        if let Some(voter) = self.voter.take() {
            voter.close();
        }
    }

    /// Sorts one input into the batch, or deals with it at once.
    fn take(&mut self, input: Input, events: &mut Vec<MasterEvent>) {
        let current = self.voter.as_ref().map(|v| v.id);
        match input {
            Input::Event(event) if current.is_some() => events.push(event),
            Input::Event(event) => self.without_voter(event),
            Input::Cast(conn, body) => {
                // Nobody waits for the answer: it is dropped with an id that no request has.
                let from = ReplyTo { conn, id: u64::MAX };
                if current.is_some() {
                    events.push(MasterEvent::Request { from, body });
                }
            }
            Input::CallDone(id, token, result) if current == Some(id) => {
                events.push(MasterEvent::CallDone { token, result });
            }
            Input::Persisted(id, Ok(token)) if current == Some(id) => {
                events.push(MasterEvent::Persisted { token });
            }
            Input::Persisted(id, Err(why)) if current == Some(id) => {
                self.ended = Some(Ended::Broken(why));
            }
            // Of a voter that was retired meanwhile.
            Input::CallDone(..) | Input::Persisted(..) => {}
            Input::BecomeVoter(from, cluster, id) => {
                let done = self.become_voter(cluster, id);
                self.answer(from, done);
            }
            Input::RetireVoter(from, id) => {
                if current == Some(id) {
                    self.ended = Some(Ended::Retired);
                }
                self.answer(from, Ok(()));
            }
            Input::Stop => {}
        }
    }

    fn answer(&self, to: ReplyTo, done: Result<(), WireError>) {
        let body = done.map(|()| Response::Node(NodeResponse::Done));
        self.server.reply(Reply {
            to,
            body,
            payload: Vec::new(),
        });
    }

    fn become_voter(&mut self, cluster: ClusterId, id: RaftId) -> Result<(), WireError> {
        if cluster != self.setup.cluster {
            return Err(ErrorCode::WrongCluster.into());
        }
        if self.voter.as_ref().is_some_and(|v| v.id == id) {
            return Ok(());
        }
        if let Some(old) = self.voter.take() {
            // The leader gave this node another id: the old one is out of the group.
            old.close();
        }
        let internal = |e: String| WireError::new(ErrorCode::Internal, e);
        voter::create(&self.setup.disk, cluster, id, false).map_err(|e| internal(e.to_string()))?;
        self.open(id).map_err(|e| match e {
            OpenError::Damaged(why) => internal(why),
            OpenError::Other(e) => internal(e.to_string()),
        })
    }

    /// What a node without a machine says.
    fn without_voter(&self, event: MasterEvent) {
        let (MasterEvent::Request { from, .. } | MasterEvent::SnapshotPage { from, .. }) = event
        else {
            return;
        };
        if from.id == u64::MAX {
            return;
        }
        let leader = self
            .book
            .hint()
            .leader
            .map(|a| a.to_string())
            .unwrap_or_default();
        let body = Err(WireError::new(ErrorCode::NotLeader, leader));
        self.server.reply(Reply {
            to: from,
            body,
            payload: Vec::new(),
        });
    }

    fn handle(&mut self, events: Vec<MasterEvent>) {
        let Some(voter) = &mut self.voter else { return };
        if !events.is_empty() {
            let wall = Time(unix_ms().saturating_mul(1_000_000));
            voter
                .master
                .handle_all(boottime(), wall, events, &mut self.actions);
        }
        let actions = std::mem::take(&mut self.actions);
        for action in actions {
            self.perform(action);
        }
        self.send();
        match self.ended.take() {
            Some(Ended::Retired) => self.retire(),
            Some(Ended::Broken(why)) => {
                tracing::error!("this voter has stopped: {why}; restart the daemon to recover it");
                self.raft_id.store(0, Ordering::Release);
                if let Some(voter) = self.voter.take() {
                    voter.close();
                }
            }
            None => {}
        }
    }

    fn retire(&mut self) {
        self.raft_id.store(0, Ordering::Release);
        let Some(voter) = self.voter.take() else {
            return;
        };
        tracing::info!(raft_id = voter.id.0, "no longer voting");
        voter.close();
        if let Err(e) = voter::remove(&*self.setup.disk) {
            tracing::error!("removing the files of a retired voter: {e:#}");
        }
    }

    /// Sends what the batch left in the outbox.
    fn send(&mut self) {
        let Outbox { messages, raft } = std::mem::take(&mut self.outbox);
        for (addr, requests) in raft {
            self.calls.cast_all(addr, requests);
        }
        self.server.send_all(messages);
    }

    fn perform(&mut self, action: MasterAction) {
        let Some(voter) = &self.voter else { return };
        match action {
            MasterAction::Reply(reply) if reply.to.id == u64::MAX => {}
            MasterAction::Reply(reply) => self.outbox.messages.push(Outgoing::Reply(reply)),
            MasterAction::Push { conn, push } => {
                self.outbox.messages.push(Outgoing::Push(conn, push));
            }
            MasterAction::SendRaft {
                to: _,
                addr,
                message,
            } => {
                let (from, own) = (voter.id, self.setup.addr);
                let request = NodeRequest::Raft {
                    from,
                    addr: own,
                    message,
                };
                let to = self.outbox.raft.entry(addr).or_default();
                to.push(Request::Node(request));
            }
            MasterAction::Persist { token, write } => {
                if voter.log.send((token, write)).is_err() {
                    self.ended = Some(Ended::Broken("the log thread has stopped".into()));
                }
            }
            MasterAction::Call(call) => {
                let (inbox, id) = (self.inbox.clone(), voter.id);
                self.calls.spawn(call, move |token, result| {
                    let _ = inbox.send(Input::CallDone(id, token, result));
                });
            }
            MasterAction::Flush(job) => {
                if voter.flush.send(job).is_err() {
                    self.ended = Some(Ended::Broken("the flush thread has stopped".into()));
                }
            }
            MasterAction::Leader(hint) => {
                tracing::info!(leader = ?hint.leader, term = hint.term.0, "master");
                self.book.learn(hint);
            }
            MasterAction::Retired => self.ended = Some(Ended::Retired),
            MasterAction::Fatal(why) => self.ended = Some(Ended::Broken(why)),
        }
    }

    /// A leader that stops hands its lead over first, so that nobody waits for an election.
    fn hand_over(&mut self, inputs: &Receiver<Input>) {
        let leads = |owner: &Self| owner.voter.as_ref().is_some_and(|v| v.master.leads());
        if !leads(self) {
            return;
        }
        let deadline = Instant::now() + HANDOVER;
        self.handle(vec![MasterEvent::StepDown]);
        while leads(self) && Instant::now() < deadline {
            let mut events = vec![MasterEvent::Tick];
            if let Ok(input) = inputs.recv_timeout(TICK) {
                self.take(input, &mut events);
            }
            self.handle(events);
        }
    }
}

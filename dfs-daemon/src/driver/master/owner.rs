//! The owner thread: one loop over the master machine, or over its absence.
//!
//! What one batch of inputs makes it send leaves together, one write per connection, after its log
//! write was handed on: what must wait for that write, the machine holds back itself.
use super::voter::{self, OpenError, Verify, Voter};
use super::{Input, MasterSetup};
use crate::driver::calls::Calls;
use crate::driver::leader_book::LeaderBook;
use crate::driver::queue::{NotReceived, Receiver, Sender};
use dfs_core::master::leader::{Bootstrap, MasterAction, MasterConfig, MasterEvent};
use dfs_core::net::clock::{boottime, unix_ms};
use dfs_core::net::server::{Outgoing, ServerHandle};
use dfs_core::store::NO_SPACE;
use dfs_core::types::{ClusterId, RaftId, Term, Time};
use dfs_core::wire::master::Voting;
use dfs_core::wire::rpc::{Reply, ReplyTo};
use dfs_core::wire::{ErrorCode, NodeRequest, NodeResponse, Request, Response, WireError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the machine is told that time passed: more often than its Raft ticks are apart.
const TICK: Duration = Duration::from_millis(40);
/// The same while there is no machine: nothing waits for it.
const IDLE: Duration = Duration::from_secs(60);
/// Until a voter that did not open is tried again.
const REOPEN: Duration = Duration::from_secs(10);
/// Inputs handled together at most.
const BATCH_MAX: usize = 512;
/// Between two looks for room by a voter that stopped for want of it.
const ROOM_EVERY: Duration = Duration::from_secs(1);
/// How long a leader that stops may take to hand over.
const HANDOVER: Duration = Duration::from_millis(600);

pub(super) struct Owner {
    setup: MasterSetup,
    server: ServerHandle,
    calls: Calls,
    book: LeaderBook,
    inbox: Sender<Input>,
    voter: Option<Voter>,
    /// The voter shall be gone after this batch.
    ended: Option<Ended>,
    /// It stopped for want of room, or did not open: when to try again.
    back_at: Option<Instant>,
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
    ) -> Self {
        let (voter, ended, actions) = (None, None, Vec::new());
        Self {
            setup,
            server,
            calls,
            book,
            inbox,
            voter,
            ended,
            back_at: None,
            actions,
            outbox: Outbox::default(),
        }
    }

    /// Starts the voter that this node was, or the first one of a new cluster.
    ///
    /// # Errors
    /// A person must put something right first. Whatever else keeps a voter from opening does not
    /// keep the store from serving.
    pub fn recover(&mut self) -> anyhow::Result<()> {
        let begins = self.setup.bootstrap;
        let result = self.recover_voter();
        self.back_at = None;
        let voting = match &result {
            Ok(Some(id)) => Voting::As(*id),
            Ok(None) => Voting::No,
            Err(_) => Voting::Failed,
        };
        self.setup.voting.set(voting);
        match result {
            Ok(_) => Ok(()),
            Err(OpenError::Refused(e)) => Err(e),
            Err(e) if begins => Err(anyhow::anyhow!("the first voter: {e}")),
            Err(e) => {
                tracing::error!("this node runs without its voter, which does not open: {e}");
                self.back_at = Some(Instant::now() + REOPEN);
                Ok(())
            }
        }
    }

    fn recover_voter(&mut self) -> Result<Option<RaftId>, OpenError> {
        let disk = self.setup.disk.clone();
        let aside = |why: String| {
            let kept = voter::set_aside(&*disk).map_err(OpenError::Other)?;
            tracing::error!(kept, "this voter is damaged and counts as wiped: {why}");
            Ok(None)
        };
        voter::finish_set_aside(&*disk).map_err(OpenError::Other)?;
        let mut id = match voter::member(&*disk) {
            Ok(id) => id,
            Err(OpenError::Damaged(why)) => return aside(why),
            Err(e) => return Err(e),
        };
        if id.is_none() && self.setup.bootstrap {
            let first = RaftId::first(rand::random_range(0..RaftId::GROUPS));
            let log = voter::log_config(self.setup.ballast);
            voter::create(&disk, self.setup.cluster, first, true, log).map_err(OpenError::Other)?;
            id = Some(first);
        }
        crate::bootstrap::done(&*disk).map_err(OpenError::Other)?;
        // A cluster begins once.
        self.setup.bootstrap = false;
        let Some(id) = id else { return Ok(None) };
        match self.open(id) {
            Ok(()) => Ok(Some(id)),
            Err(OpenError::Damaged(why)) => aside(why),
            Err(e) => Err(e),
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
        // Tables are kept twice.
        let part = usize::try_from(setup.ballast / 4).unwrap_or(usize::MAX);
        config.flush_bytes = config.flush_bytes.min(part);
        let quorum = cluster.quorum().map_err(|e| OpenError::Refused(e.into()))?;
        let bootstrap = Bootstrap {
            cluster: setup.cluster,
            quorum,
            pgs: cluster.placement_groups,
            voters: cluster.masters,
        };
        let hours = u64::from(setup.config.store.scrub_period_hours);
        let verify = Verify {
            counts: Arc::clone(&setup.table_counts),
            period: Duration::from_secs(hours * 3600),
        };
        let disk = &setup.disk;
        let log = voter::log_config(setup.ballast);
        let inbox = &self.inbox;
        let voter = voter::open(disk, setup.cluster, config, bootstrap, verify, log, inbox)?;
        self.setup.voting.set(Voting::As(id));
        self.voter = Some(voter);
        tracing::info!(raft_id = id.0, "voting");
        Ok(())
    }

    pub fn run(mut self, inputs: &Receiver<Input>) {
        let mut ticked = Instant::now();
        loop {
            let wait = match self.voter {
                Some(_) => TICK.saturating_sub(ticked.elapsed()),
                None => self
                    .back_at
                    .map_or(IDLE, |at| at.saturating_duration_since(Instant::now())),
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
            self.come_back();
            if stop {
                self.hand_over(inputs);
                break;
            }
        }
        if let Some(voter) = self.voter.take() {
            voter.close();
            self.book.forget_voter();
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
            Input::RetireVoter(from, id, term) => {
                let done = self.may_retire(id, term);
                if done.is_ok() && current == Some(id) {
                    self.ended = Some(Ended::Retired);
                }
                self.answer(from, done);
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
        if let Some(old) = &self.voter {
            // What it acknowledged may count: it goes only when a leader says so.
            let why = format!("this node still runs the id {}", old.id.0);
            return Err(WireError::new(ErrorCode::Stale, why));
        }
        let internal = |e: String| WireError::new(ErrorCode::Internal, e);
        self.back_at = None;
        let log = voter::log_config(self.setup.ballast);
        voter::create(&self.setup.disk, cluster, id, false, log)
            .map_err(|e| internal(format!("{e:#}")))?;
        self.open(id).map_err(|e| internal(e.to_string()))
    }

    /// A leader that was deposed does not know who is in the group now.
    fn may_retire(&self, id: RaftId, term: Term) -> Result<(), WireError> {
        let voter = self.voter.as_ref().filter(|voter| voter.id == id);
        match voter.map(|voter| voter.master.raft().term()) {
            Some(mine) if mine > term => {
                let why = format!("term {term} is over: this voter knows of {mine}");
                tracing::warn!(raft_id = id.0, "not retired: {why}");
                Err(WireError::new(ErrorCode::Stale, why))
            }
            _ => Ok(()),
        }
    }

    /// What a node without a machine says.
    fn without_voter(&self, event: MasterEvent) {
        let (MasterEvent::Request { from, .. }
        | MasterEvent::SnapshotPage { from, .. }
        | MasterEvent::NamespacePage { from, .. }) = event
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
        if let Some(why) = voter.fault() {
            self.set_aside(&why);
            return;
        }
        if !events.is_empty() {
            let wall = Time(unix_ms().saturating_mul(1_000_000));
            let master = &mut voter.master;
            master.handle_first(boottime(), wall, events, &mut self.actions);
            // The disks and the other voters have work already while this one applies.
            self.perform_all();
            if let Some(voter) = &mut self.voter {
                voter.master.handle_rest(&mut self.actions);
            }
        }
        self.perform_all();
        match self.ended.take() {
            Some(Ended::Retired) => self.retire(),
            Some(Ended::Broken(why)) => {
                let is_room = why.contains(NO_SPACE);
                self.back_at = is_room.then(|| Instant::now() + ROOM_EVERY);
                let next = match is_room {
                    true => "it comes back when there is room",
                    false => "restart the daemon to recover it",
                };
                tracing::error!("this voter has stopped: {why}; {next}");
                // One that will be back has its time; for another one the group looks at once.
                self.setup.voting.set(match is_room {
                    true => Voting::Unknown,
                    false => Voting::Failed,
                });
                if let Some(voter) = self.voter.take() {
                    voter.close();
                    self.book.forget_voter();
                }
            }
            None => {}
        }
    }

    /// Opens a voter again that stopped for want of room, or did not open: as a restart of the daemon
    /// would.
    fn come_back(&mut self) {
        if self.voter.is_some() {
            self.back_at = None;
        }
        if self.back_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.back_at = Some(Instant::now() + ROOM_EVERY);
        let wanted = 2 * voter::log_config(self.setup.ballast).segment_bytes;
        if !self.setup.disk.space().is_ok_and(|s| s.free_bytes > wanted) {
            return;
        }
        if let Err(e) = self.recover() {
            tracing::error!("this node stays without its voter: {e:#}");
        }
    }

    /// The tables are past use: nothing is answered from them any more, and the leader gives this node a
    /// new vote when it needs one.
    fn set_aside(&mut self, why: &str) {
        self.setup.voting.set(Voting::No);
        if let Some(voter) = self.voter.take() {
            voter.close();
            self.book.forget_voter();
        }
        (self.ended, self.outbox) = (None, Outbox::default());
        match voter::set_aside(&*self.setup.disk) {
            Ok(kept) => {
                tracing::error!(kept, "this voter is damaged and counts as wiped: {why}");
            }
            Err(e) => {
                self.setup.voting.set(Voting::Failed);
                tracing::error!("this voter has stopped: {why}; it cannot be set aside: {e:#}");
            }
        }
    }

    fn retire(&mut self) {
        self.setup.voting.set(Voting::No);
        let Some(voter) = self.voter.take() else {
            return;
        };
        tracing::info!(raft_id = voter.id.0, "no longer voting");
        voter.close();
        self.book.forget_voter();
        if let Err(e) = voter::remove(&*self.setup.disk) {
            tracing::error!("removing the files of a retired voter: {e:#}");
        }
    }

    fn perform_all(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            self.perform(action);
        }
        self.send();
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
                self.book.learn_of_voter(hint);
            }
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

//! The machine itself: events in, the Raft loop, actions out.
use super::audits::Audits;
use super::clock::LogClock;
use super::config::{Bootstrap, MasterConfig, MasterConfigError};
use super::event::{MasterAction, MasterEvent};
use super::leading::{Held, Leading, Pending, Task};
use super::namespace::NamespacePin;
use super::snapshot::Snapshots;
use crate::consensus::types::BOOTSTRAP_INDEX;
use crate::consensus::{
    CommittedEntry, DropReason, RaftAction, RaftConfig, RaftError, RaftEvent, RaftMessage,
    RaftNode, RecoveredLog, StateAt,
};
use crate::master::command::{Command, LogEntry};
use crate::master::state::{MasterState, StateError};
use crate::store::LazyKv;
use crate::types::{NodeId, RaftId, Term, Time};
use crate::wire::node::{LeaderHint, MemberState};
use crate::wire::rpc::{Reply, ReplyTo};
use crate::wire::{ErrorCode, MasterResponse, Response, WireError};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Why a master cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] MasterConfigError),
    /// The tables are damaged: a wiped voter.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log does not fit the tables: a wiped voter (or a setting).
    #[error(transparent)]
    Raft(#[from] RaftError),
}

/// One voter's master. See the [module docs](super).
pub struct Master {
    pub(super) config: MasterConfig,
    pub(super) raft: RaftNode,
    pub(super) state: MasterState<LazyKv>,
    pub(super) bootstrap: Option<Bootstrap>,
    /// Of the batch being handled.
    pub(super) now: Time,
    pub(super) wall: Time,
    pub(super) leading: Option<Box<Leading>>,
    /// Where members were heard from; newer than the tables.
    pub(super) addrs: BTreeMap<RaftId, SocketAddr>,
    /// How gossip sees nodes.
    pub(super) members: BTreeMap<NodeId, MemberState>,
    pub(super) snapshots: Snapshots,
    pub(super) namespace_pins: Vec<NamespacePin>,
    pub(super) audits: Audits,
    raft_in: Vec<RaftEvent>,
    /// Committed, and to be applied once what the log and the other members wait for has left.
    to_apply: Vec<CommittedEntry>,
    pub(super) tokens: u64,
    hint: LeaderHint,
    hint_is_old: bool,
    failed: bool,
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master")
            .field("raft", &self.raft)
            .field("applied", &self.state.applied())
            .field("leads", &self.leading.is_some())
            .finish_non_exhaustive()
    }
}

impl Master {
    /// Starts a voter from its tables and its log. `bootstrap` is what the first leader of a new
    /// cluster puts into the log; it changes nothing in a cluster that exists.
    ///
    /// # Errors
    /// [`MasterError`]; all but settings mean that this voter counts as wiped.
    pub fn new(
        config: MasterConfig,
        raft: RaftConfig,
        log: RecoveredLog,
        kv: LazyKv,
        bootstrap: Option<Bootstrap>,
        seed: u64,
    ) -> Result<Self, MasterError> {
        config.validate()?;
        let installed = super::snapshot::installed_meta(&kv)?;
        let mut state = MasterState::open(kv)?;
        if state.applied().index.0 == 0 && log.base.index == BOOTSTRAP_INDEX {
            state.apply_empty(BOOTSTRAP_INDEX, log.base.term)?;
        }
        let at = StateAt {
            applied: state.applied().index,
            installed,
        };
        let raft = RaftNode::new(raft, log, &at, seed)?;
        Ok(Self {
            snapshots: Snapshots::new(state.applied().index),
            namespace_pins: Vec::new(),
            audits: Audits::default(),
            config,
            raft,
            state,
            bootstrap,
            now: Time::ZERO,
            wall: Time::ZERO,
            leading: None,
            addrs: BTreeMap::new(),
            members: BTreeMap::new(),
            raft_in: Vec::new(),
            to_apply: Vec::new(),
            tokens: 0,
            hint: LeaderHint::default(),
            hint_is_old: true,
            failed: false,
        })
    }

    /// Handles one event. `now` is CLOCK_BOOTTIME, `wall` the Unix clock.
    pub fn handle(
        &mut self,
        now: Time,
        wall: Time,
        event: MasterEvent,
        out: &mut Vec<MasterAction>,
    ) {
        self.handle_all(now, wall, [event], out);
    }

    /// Handles events that came in together: their entries share one write and one message.
    pub fn handle_all(
        &mut self,
        now: Time,
        wall: Time,
        events: impl IntoIterator<Item = MasterEvent>,
        out: &mut Vec<MasterAction>,
    ) {
        self.handle_first(now, wall, events, out);
        self.handle_rest(out);
    }

    /// The first half of [`handle_all`](Self::handle_all): what is to be written and sent does not wait
    /// until entries are applied that were committed before. [`handle_rest`](Self::handle_rest) must follow,
    /// after the actions.
    pub fn handle_first(
        &mut self,
        now: Time,
        wall: Time,
        events: impl IntoIterator<Item = MasterEvent>,
        out: &mut Vec<MasterAction>,
    ) {
        (self.now, self.wall) = (now, wall);
        for event in events {
            if self.failed {
                return;
            }
            self.take(event, out);
        }
        self.run_raft(out);
    }

    /// The second half: applies what is committed, and answers.
    pub fn handle_rest(&mut self, out: &mut Vec<MasterAction>) {
        while !self.failed && !self.to_apply.is_empty() {
            self.apply_committed(out);
            self.run_raft(out);
        }
        if !self.failed {
            self.flush_if_due(out);
            self.drop_idle_pins();
        }
        self.publish(out);
    }

    fn take(&mut self, event: MasterEvent, out: &mut Vec<MasterAction>) {
        match event {
            MasterEvent::Tick => {
                self.raft_in.push(RaftEvent::Tick);
                self.on_tick(out);
            }
            MasterEvent::Request { from, body } => self.on_request(from, body, out),
            MasterEvent::ConnClosed(conn) => self.on_conn_closed(conn),
            MasterEvent::Raft {
                from,
                addr,
                message,
            } => {
                self.addrs.insert(from, addr);
                match RaftMessage::decode(&message) {
                    Ok(message) => self.raft_in.push(RaftEvent::Message { from, message }),
                    Err(error) => tracing::warn!(?from, %error, "raft message dropped"),
                }
            }
            MasterEvent::Persisted { token } => self.raft_in.push(RaftEvent::Persisted { token }),
            MasterEvent::Member { node, state } => {
                self.members.insert(node, state);
            }
            MasterEvent::SnapshotPage {
                from,
                index,
                after,
                bytes_max,
            } => {
                self.serve_page(from, index, &after, bytes_max, out);
            }
            MasterEvent::NamespacePage {
                from,
                at,
                after,
                bytes_max,
            } => self.serve_namespace(from, at, (&after, bytes_max), out),
            MasterEvent::CallDone { token, result } => self.on_call_done(token, result, out),
            MasterEvent::Flushed(result) => self.on_flushed(result, out),
            MasterEvent::StepDown => self.step_down(),
        }
    }

    /// Runs the Raft machine until nothing more follows from what came in, but for what is to be applied.
    fn run_raft(&mut self, out: &mut Vec<MasterAction>) {
        while !self.failed {
            self.release_waits(out);
            self.start_round();
            if self.raft_in.is_empty() {
                break;
            }
            let events = std::mem::take(&mut self.raft_in);
            let mut actions = Vec::new();
            self.raft.handle_all(self.now, events, &mut actions);
            for action in actions {
                self.on_raft(action, out);
                if self.failed {
                    return;
                }
            }
        }
    }

    fn apply_committed(&mut self, out: &mut Vec<MasterAction>) {
        let entries = std::mem::take(&mut self.to_apply);
        if !entries.is_empty() {
            self.apply(entries, out);
        }
    }

    fn on_raft(&mut self, action: RaftAction, out: &mut Vec<MasterAction>) {
        let is_before_applying = matches!(
            action,
            RaftAction::Send { .. }
                | RaftAction::Persist { .. }
                | RaftAction::Apply { .. }
                | RaftAction::Proposed { .. }
                | RaftAction::ReadReady { .. }
        );
        if !is_before_applying {
            self.apply_committed(out);
            if self.failed {
                return;
            }
        }
        match action {
            RaftAction::Send { to, message } => self.send(to, &message, out),
            RaftAction::Persist { token, write } => {
                out.push(MasterAction::Persist { token, write });
            }
            RaftAction::Apply { entries } => self.to_apply.extend(entries),
            RaftAction::Proposed { .. } => {}
            RaftAction::ProposalDropped { token, reason } => {
                let error = self.why_dropped(&reason);
                self.fail_pending(token, error, out);
            }
            RaftAction::ProposalUnknown { token } => {
                self.fail_pending(token, unknown_outcome(), out);
            }
            RaftAction::ReadReady { token, index } => self.round_ready(token, index, out),
            RaftAction::ReadDropped { token, .. } => self.round_dropped(token, out),
            RaftAction::BecameLeader { term } => self.became_leader(term),
            RaftAction::LostLeadership => self.lost_leadership(out),
            RaftAction::LeaderChanged { .. } => self.hint_is_old = true,
            RaftAction::NeedSnapshot { peer } => {
                tracing::info!(?peer, "a member lags behind the log");
                let index = self.state.applied().index;
                self.raft_in.push(RaftEvent::SnapshotAvailable { index });
            }
            RaftAction::InstallSnapshot { meta, from } => self.begin_install(&meta, from, out),
            RaftAction::Rejected { from, reason } => {
                tracing::warn!(?from, %reason, "raft message rejected");
            }
        }
    }

    fn send(&mut self, to: RaftId, message: &RaftMessage, out: &mut Vec<MasterAction>) {
        match self.addr_of(to) {
            Some(addr) => {
                let message = message.encode();
                out.push(MasterAction::SendRaft { to, addr, message });
            }
            None => self.raft_in.push(RaftEvent::Unreachable { peer: to }),
        }
    }

    pub(super) fn addr_of(&self, id: RaftId) -> Option<SocketAddr> {
        let heard = self.addrs.get(&id).copied();
        heard.or_else(|| self.state.raft_nodes().get(&id).map(|(_, addr)| *addr))
    }

    fn became_leader(&mut self, term: Term) {
        tracing::info!(%term, "this node leads");
        let sessions: Vec<_> = self.state.sessions().map(|(id, _)| id).collect();
        let clock = LogClock::new(self.state.applied().at, self.now, self.wall);
        let map_version = self.state.map().version;
        let leading = Leading::new(&self.config, term, self.now, clock, &sessions, map_version);
        self.leading = Some(Box::new(leading));
        self.hint_is_old = true;
        // Before anything else of this term, so that no later leader knows one without the other.
        self.note_leap();
        // What the former leader had under way is taken over.
        self.map_changed();
    }

    /// Everything in flight ends: proposals as unknown, reads at the next leader.
    fn lost_leadership(&mut self, out: &mut Vec<MasterAction>) {
        let Some(leading) = self.leading.take() else {
            return;
        };
        tracing::info!(term = %leading.term, "this node leads no more");
        self.hint_is_old = true;
        let mut leading = *leading;
        for (_, pending) in std::mem::take(&mut leading.pending) {
            for to in pending.reply_to() {
                out.push(refusal(to, unknown_outcome()));
            }
        }
        let rounds = std::mem::take(&mut leading.rounds).into_values();
        let confirmed = std::mem::take(&mut leading.confirmed)
            .into_iter()
            .map(|(_, reads)| reads);
        let reads = rounds.chain(confirmed).flatten().chain(leading.reads);
        let not_leader = self.not_leader();
        out.extend(reads.map(|read| refusal(read.to, not_leader.clone())));
        let waiting = leading.lock_waits.into_all().filter_map(|w| w.to);
        out.extend(waiting.map(|to| refusal(to, not_leader.clone())));
        for (_, held) in leading.held {
            let (to, error) = held.refused(&not_leader);
            out.push(refusal(to, error));
        }
    }

    pub(super) fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    pub(super) fn feed_raft(&mut self, event: RaftEvent) {
        self.raft_in.push(event);
    }

    /// Puts a command into the log; `pending` says what to do when it is applied.
    pub(super) fn propose(&mut self, command: Command, pending: Pending) {
        let token = self.next_token();
        let (now, wall) = (self.now, self.wall);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if let Pending::Task(task) = &pending
            && !leading.busy.insert(*task)
        {
            return;
        }
        let entry = LogEntry {
            at: leading.clock.stamp(now, wall),
            command,
        };
        leading.pending.insert(token, pending);
        let data = postcard::to_stdvec(&entry).expect("our own types serialize into a vector");
        self.raft_in.push(RaftEvent::Propose {
            token,
            data: data.into(),
        });
    }

    /// Proposes a task of the leader unless one of its kind is under way.
    pub(super) fn propose_task(&mut self, task: Task, command: Command) {
        self.propose(command, Pending::Task(task));
    }

    /// Log time as of now.
    pub(super) fn log_now(&self) -> Time {
        let clock = self
            .leading
            .as_ref()
            .map(|l| l.clock.peek(self.now, self.wall));
        clock.unwrap_or(self.state.applied().at)
    }

    fn fail_pending(&mut self, token: u64, error: WireError, out: &mut Vec<MasterAction>) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        match leading.pending.remove(&token) {
            Some(Pending::Task(task)) => {
                leading.busy.remove(&task);
            }
            Some(Pending::Lock(asked)) => self.lock_not_decided(&asked, error, out),
            Some(Pending::Bar { waits, .. }) => {
                for held in waits
                    .iter()
                    .filter_map(|(wait, _)| leading.held.remove(wait))
                {
                    leading.held_answers -=
                        usize::from(matches!(held, Held::Answer { .. } | Held::Look(_)));
                    let (to, error) = held.refused(&error);
                    out.push(refusal(to, error));
                }
            }
            Some(pending) => {
                let refused = |to| refusal(to, error.clone());
                out.extend(pending.reply_to().into_iter().map(refused));
            }
            None => self.voter_change_failed(token, &error),
        }
    }

    fn why_dropped(&self, reason: &DropReason) -> WireError {
        match reason {
            DropReason::NotLeader { .. } => self.not_leader(),
            DropReason::Length { .. } => WireError::new(ErrorCode::TooBig, reason.to_string()),
            DropReason::Transferring | DropReason::Backpressure | DropReason::Conf(_) => {
                WireError::new(ErrorCode::Busy, reason.to_string())
            }
        }
    }

    /// The refusal of a node that does not lead: the detail is the leader's address, or empty.
    pub(super) fn not_leader(&self) -> WireError {
        let leader = self.raft.leader().filter(|id| *id != self.config.raft_id);
        let addr = leader.and_then(|id| self.addr_of(id));
        let detail = addr.map_or(String::new(), |addr| addr.to_string());
        WireError::new(ErrorCode::NotLeader, detail)
    }

    /// The voter stops: nothing it says can be relied on any more.
    pub(super) fn fail(&mut self, why: &str, out: &mut Vec<MasterAction>) {
        self.failed = true;
        out.push(MasterAction::Fatal(why.to_owned()));
    }

    fn step_down(&mut self) {
        let me = self.config.raft_id;
        let voters = self.raft.voters().iter().copied().filter(|id| *id != me);
        let best = voters
            .filter(|id| self.raft.is_active(*id))
            .max_by_key(|id| self.raft.progress(*id));
        if let Some(to) = best.filter(|_| self.raft.is_leader()) {
            self.raft_in.push(RaftEvent::TransferLeader { to });
        }
    }

    pub(super) fn hint_changed(&mut self) {
        self.hint_is_old = true;
    }

    /// Publishes where the leader is, if that changed.
    fn publish(&mut self, out: &mut Vec<MasterAction>) {
        if !std::mem::take(&mut self.hint_is_old) {
            return;
        }
        let leader = self.raft.leader();
        let me = self.config.raft_id;
        let addr = match leader {
            Some(id) if id == me => Some(self.config.addr),
            Some(id) => self.addr_of(id),
            None => None,
        };
        let node = |id| self.state.raft_nodes().get(&id).map(|(node, _)| *node);
        let voters = self.raft.voters().iter();
        let hint = LeaderHint {
            leader: addr,
            leader_node: leader.and_then(node),
            term: self.raft.term(),
            voters: voters.filter_map(|id| self.addr_of(*id)).collect(),
            members: Vec::new(),
        };
        if hint != self.hint {
            self.hint = hint.clone();
            out.push(MasterAction::Leader(hint));
        }
    }

    /// The state, for inspection.
    #[must_use]
    pub fn state(&self) -> &MasterState<LazyKv> {
        &self.state
    }

    /// The Raft member, for inspection.
    #[must_use]
    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    /// What this leader has proposed by itself and not applied yet, by name; for inspection.
    #[must_use]
    pub fn proposed(&self) -> Vec<String> {
        let tasks = self.leading.iter().flat_map(|leading| &leading.busy);
        tasks.map(|task| format!("{task:?}")).collect()
    }

    /// True if this node leads and knows everything that was committed before.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leading.is_some() && self.raft.has_committed_in_term()
    }
}

pub(super) fn reply(to: ReplyTo, body: MasterResponse) -> MasterAction {
    let body = Ok(Response::Master(body));
    MasterAction::Reply(Reply {
        to,
        body,
        payload: Vec::new(),
    })
}

pub(super) fn refusal(to: ReplyTo, error: WireError) -> MasterAction {
    MasterAction::Reply(Reply {
        to,
        body: Err(error),
        payload: Vec::new(),
    })
}

pub(super) fn answered(to: ReplyTo, answer: Result<MasterResponse, WireError>) -> MasterAction {
    match answer {
        Ok(body) => reply(to, body),
        Err(error) => refusal(to, error),
    }
}

fn unknown_outcome() -> WireError {
    let detail = "this node lost the lead while the change was in flight";
    WireError::new(ErrorCode::UnknownOutcome, detail)
}

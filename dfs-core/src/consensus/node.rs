//! The Raft machine of one member: events in, actions out.
//!
//! It decides: who leads, what is committed and in which order, whether a read may be answered, who
//! is a member. It does not decide what commands mean, nor when to compact or whom to promote.
//!
//! ```text
//!  Propose --> Persist (leader) --.
//!         \--> Send(Append) --> Persist (follower) --> Send(Appended) --> commit --> Apply
//! ```
//!
//! Invariants:
//! 1. a message leaves only after every [`RaftAction::Persist`] it depends on was reported
//!    [`RaftEvent::Persisted`] (a leader's appends depend on none: section 10.2.1);
//! 2. entries leave in [`RaftAction::Apply`] once, in order, without gaps, and only when they are
//!    committed and durable here; none leaves while a snapshot is being installed;
//! 3. [`RaftAction::ReadReady`] leaves only after a majority confirmed the leader since the read
//!    came in, or while nobody else can be elected (see `lease`), and after the leader committed an
//!    entry of its own term;
//! 4. each proposal ends in exactly one of: `ProposalDropped` (never entered the log), its token on
//!    an applied entry, `ProposalUnknown` (it may or may not be applied, here or elsewhere);
//! 5. the same events and seed give the same actions.
//!
//! Failures assumed: messages are lost, repeated, reordered; the process stops at any moment and
//! loses writes that were not synced; peers are not malicious, but what they send is checked.
use super::config::RaftConfig;
use super::convert;
use super::event::{DropReason, RaftAction, RaftError, RaftEvent, StateAt};
use super::lease::Lease;
use super::log::RecoveredLog;
use super::mem_log::MemLog;
use super::message::{MessageError, RaftBody, RaftMessage};
use super::reads::Reads;
use super::ready::Outbox;
use super::snapshots::Install;
use super::start::recover;
use super::types::{ConfChange, ConfError, ConfState, LogRecord};
use crate::types::{LogIndex, RaftId, Term, Time};
use bytes::Bytes;
use raft::{RawNode, StateRole};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// What was last reported of the crate's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    term: u64,
    role: StateRole,
    leader: u64,
}

/// The machine. See the [module docs](self).
pub struct RaftNode {
    pub(super) config: RaftConfig,
    pub(super) raw: RawNode<MemLog>,
    rng: ChaCha8Rng,
    /// In force until the role or term changes or an election begins.
    election_timeout: usize,
    standing: Standing,
    ticked_at: Option<Time>,
    /// Of the batch being handled.
    pub(super) now: Time,
    pub(super) lease: Lease,
    pub(super) outbox: Outbox,
    /// Last entry that left in `Apply` or is part of the state.
    pub(super) emitted: u64,
    /// Last entry the driver reported as applied.
    pub(super) applied: u64,
    /// Open proposals by index: term and token.
    pub(super) proposals: BTreeMap<u64, (u64, u64)>,
    pub(super) reads: Reads,
    pub(super) install: Install,
    pub(super) snapshot_ticks: usize,
    /// Actions of the start, given out with the first event.
    startup: Vec<RaftAction>,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode")
            .field("id", &self.config.id)
            .field("standing", &self.standing)
            .field("last", &self.last_index())
            .field("commit", &self.commit_index())
            .field("persisted", &self.raw.raft.raft_log.persisted)
            .field("emitted", &self.emitted)
            .field("applied", &self.applied)
            .field("install", &self.install)
            .finish_non_exhaustive()
    }
}

impl RaftNode {
    /// Starts a member from its log and the position of its state tables. The first call of
    /// [`RaftNode::handle`] also gives the actions of the start (entries to apply again).
    ///
    /// # Errors
    /// [`RaftError`]; all but `Config` mean that the member counts as wiped.
    pub fn new(
        config: RaftConfig,
        log: RecoveredLog,
        state: &StateAt,
        rng_seed: u64,
    ) -> Result<Self, RaftError> {
        config.validate()?;
        let lease = match log.is_blank() {
            true => Lease::default(),
            false => Lease::of_restart(),
        };
        let (mut mem, applied, adopted) = recover(log, state)?;
        // The crate counts what is in the log as applied, and delivers the rest again; entries that
        // the state includes already only replay their membership changes.
        let mut hard = mem.hard().clone();
        hard.commit = hard.commit.max(applied).max(mem.base_index());
        mem.set_hard(hard);
        let base = mem.base_index();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config.to_raft(base), mem, &logger);
        let raw = raw.map_err(|e| RaftError::Inconsistent { why: e.to_string() })?;
        let standing = Standing {
            term: raw.raft.term,
            role: raw.raft.state,
            leader: 0,
        };
        let mut node = Self {
            rng: ChaCha8Rng::seed_from_u64(rng_seed),
            election_timeout: config.election_ticks,
            config,
            raw,
            standing,
            ticked_at: None,
            now: Time::ZERO,
            lease,
            outbox: Outbox::default(),
            emitted: applied,
            applied,
            proposals: BTreeMap::new(),
            reads: Reads::default(),
            install: Install::default(),
            snapshot_ticks: 0,
            startup: Vec::new(),
        };
        node.draw_election_timeout();
        let mut out = Vec::new();
        if let Some(meta) = adopted {
            let hard = node.raw.raft.hard_state();
            node.outbox.record(LogRecord::Reset(meta));
            node.outbox
                .record(LogRecord::HardState(convert::hard_from_raft(&hard)));
            node.outbox.hold();
        }
        node.pump(&mut out);
        node.startup = out;
        Ok(node)
    }

    /// Handles one event and appends the actions to `out`.
    pub fn handle(&mut self, now: Time, event: RaftEvent, out: &mut Vec<RaftAction>) {
        self.handle_all(now, [event], out);
    }

    /// Handles events that came in together; their entries share one write and one message per
    /// peer.
    pub fn handle_all(
        &mut self,
        now: Time,
        events: impl IntoIterator<Item = RaftEvent>,
        out: &mut Vec<RaftAction>,
    ) {
        self.now = now;
        self.begin_lease();
        out.append(&mut self.startup);
        for event in events {
            self.step(now, event, out);
            self.settle(out);
        }
        self.pump(out);
    }

    fn step(&mut self, now: Time, event: RaftEvent, out: &mut Vec<RaftAction>) {
        match event {
            RaftEvent::Tick => self.on_tick(now),
            RaftEvent::Message { from, message } => {
                if let Err(reason) = self.on_message(from, message) {
                    out.push(RaftAction::Rejected { from, reason });
                }
            }
            RaftEvent::Propose { token, data } => {
                let result = self.propose(data);
                self.note_proposal(token, result, out);
            }
            RaftEvent::ProposeConf { token, change } => {
                let result = self.propose_conf(&change);
                self.note_proposal(token, result, out);
            }
            RaftEvent::ReadIndex { token } => self.on_read(token, out),
            RaftEvent::Persisted { token } => self.on_persisted(token, out),
            RaftEvent::Applied { index } => {
                self.applied = self.applied.max(index.0.min(self.emitted));
            }
            RaftEvent::SnapshotAvailable { index } => {
                let index = index.0.min(self.applied);
                self.raw.mut_store().declare(index);
            }
            RaftEvent::SnapshotInstalled { meta } => self.on_installed(meta, out),
            RaftEvent::SnapshotFailed => self.on_install_failed(out),
            RaftEvent::Compact { upto } => self.on_compact(upto),
            RaftEvent::Campaign => {
                if self.may_campaign() && !self.lease.forbids(self.config.id, now) {
                    // It refuses only while a membership change waits to be applied.
                    let _ = self.raw.campaign();
                }
            }
            RaftEvent::TransferLeader { to } => {
                if self.is_leader() && self.conf().is_voter(to) {
                    self.bar_lease();
                    self.raw.transfer_leader(to.0);
                }
            }
            RaftEvent::Unreachable { peer } => self.raw.report_unreachable(peer.0),
        }
    }

    fn on_tick(&mut self, now: Time) {
        let too_early = |at: Time| now.since(at) < self.config.tick / 2;
        if self.ticked_at.is_some_and(too_early) {
            return;
        }
        self.ticked_at = Some(now);
        // The tick that would begin an election waits until that breaks no promise.
        let is_last = self.raw.raft.election_elapsed + 1 >= self.election_timeout;
        let is_bound = is_last && self.lease.forbids(self.config.id, now);
        if self.is_leader() || (self.may_campaign() && !is_bound) {
            self.raw.tick();
            if !self.is_leader() && self.raw.raft.election_elapsed == 0 {
                self.draw_election_timeout();
            }
        }
        self.snapshot_ticks += 1;
        if self.snapshot_ticks >= self.config.snapshot_retry_ticks {
            self.snapshot_ticks = 0;
            self.retry_snapshots();
        }
        self.leave_joint_if_forgotten();
    }

    /// The crate leaves a joint state when it applies the entry that entered it; a leader that
    /// changed in between may have missed that moment.
    fn leave_joint_if_forgotten(&mut self) {
        let raft = &self.raw.raft;
        if self.is_leader()
            && self.conf().is_joint()
            && self.conf().auto_leave
            && !raft.has_pending_conf()
        {
            let change = convert::change_to_raft(&ConfChange::LeaveJoint);
            // Refused under backpressure; the next tick tries again.
            let _ = self.raw.propose_conf_change(Vec::new(), change);
        }
    }

    /// False while an election could not be backed by durable state: the crate asserts that a
    /// winner's log is persisted, and that what it has applied is in the log.
    pub(super) fn may_campaign(&self) -> bool {
        if self.raw.raft.snap().is_some() || self.outbox.has_snapshot() {
            return false;
        }
        let conf = self.conf();
        let alone = |list: &[RaftId]| list.iter().all(|id| *id == self.config.id);
        // Alone it wins at once, and what a leader says does not wait for writes.
        let is_alone = alone(&conf.voters) && alone(&conf.voters_outgoing);
        !is_alone || (self.outbox.is_idle() && !self.raw.has_ready())
    }

    fn on_message(&mut self, from: RaftId, message: RaftMessage) -> Result<(), MessageError> {
        message.validate(self.config.id, from)?;
        let raft = &self.raw.raft;
        let (term, last) = (raft.term, raft.raft_log.last_index());
        let of_my_term = message.term.0 == term;
        match &message.body {
            RaftBody::Heartbeat { commit, .. } if commit.0 > last && message.term.0 >= term => {
                return Err(MessageError::CommitBeyondLog {
                    commit: *commit,
                    last: LogIndex(last),
                });
            }
            RaftBody::Appended { index, .. } | RaftBody::AppendRefused { index, .. }
                if of_my_term && self.is_leader() && index.0 > last =>
            {
                return Err(MessageError::ReplyBeyondLog {
                    index: *index,
                    last: LogIndex(last),
                });
            }
            RaftBody::TimeoutNow
                if !of_my_term || raft.leader_id != from.0 || !self.may_campaign() =>
            {
                return Err(MessageError::NotLeader);
            }
            // As if it had been lost.
            RaftBody::Vote {
                transfer: false, ..
            } if self.lease.forbids(from, self.now) => return Ok(()),
            RaftBody::Snapshot(meta) => {
                let meta = meta.clone();
                return self.on_snapshot_announced(from, &message, meta);
            }
            _ => {}
        }
        self.step_raft(from, &message)?;
        if matches!(
            message.body,
            RaftBody::Append { .. } | RaftBody::Heartbeat { .. }
        ) {
            self.promise_to(from, message.term);
        }
        Ok(())
    }

    pub(super) fn step_raft(
        &mut self,
        from: RaftId,
        message: &RaftMessage,
    ) -> Result<(), MessageError> {
        let result = self.raw.step(convert::message_to_raft(from, message));
        result.map_err(|error| match error {
            raft::Error::StepPeerNotFound => MessageError::NotMember { from },
            other => MessageError::Refused {
                cause: other.to_string(),
            },
        })
    }

    fn propose(&mut self, data: Bytes) -> Result<(), DropReason> {
        self.check_leads()?;
        let len_bytes = data.len();
        if len_bytes == 0 || len_bytes > self.config.entry_bytes_max {
            return Err(DropReason::Length { len_bytes });
        }
        let result = self.raw.propose(Vec::new(), data.into());
        result.map_err(|_| self.why_refused())
    }

    fn propose_conf(&mut self, change: &ConfChange) -> Result<(), DropReason> {
        self.check_leads()?;
        if self.raw.raft.has_pending_conf() {
            return Err(ConfError::Busy.into());
        }
        change.check(self.conf())?;
        let context = change.encode().to_vec();
        let raft_change = convert::change_to_raft(change);
        let result = self.raw.propose_conf_change(context, raft_change);
        result.map_err(|_| self.why_refused())
    }

    fn check_leads(&self) -> Result<(), DropReason> {
        match self.is_leader() {
            true => Ok(()),
            false => Err(DropReason::NotLeader {
                leader: self.leader(),
            }),
        }
    }

    fn why_refused(&self) -> DropReason {
        match self.raw.raft.lead_transferee {
            Some(_) => DropReason::Transferring,
            None => DropReason::Backpressure,
        }
    }

    fn note_proposal(
        &mut self,
        token: u64,
        result: Result<(), DropReason>,
        out: &mut Vec<RaftAction>,
    ) {
        if let Err(reason) = result {
            out.push(RaftAction::ProposalDropped { token, reason });
            return;
        }
        let (index, term) = (self.last_index(), self.term());
        self.proposals.insert(index.0, (term.0, token));
        out.push(RaftAction::Proposed { token, index, term });
    }

    /// Reports changes of role, term and leader, and keeps the election timeout ours.
    pub(super) fn settle(&mut self, out: &mut Vec<RaftAction>) {
        let raft = &self.raw.raft;
        let now = Standing {
            term: raft.term,
            role: raft.state,
            leader: raft.leader_id,
        };
        let before = std::mem::replace(&mut self.standing, now);
        if (before.term, before.role) != (now.term, now.role) {
            self.draw_election_timeout();
            self.lease.renew_term();
        }
        self.raw
            .raft
            .set_randomized_election_timeout(self.election_timeout);
        let led = before.role == StateRole::Leader;
        let leads = now.role == StateRole::Leader;
        if led && (!leads || before.term != now.term) {
            out.push(RaftAction::LostLeadership);
            for (_, (_, token)) in std::mem::take(&mut self.proposals) {
                out.push(RaftAction::ProposalUnknown { token });
            }
            self.drop_reads(out);
        }
        if before.leader != now.leader {
            out.push(RaftAction::LeaderChanged {
                leader: self.leader(),
                term: self.term(),
            });
        }
        if leads && (!led || before.term != now.term) {
            out.push(RaftAction::BecameLeader { term: self.term() });
        }
    }

    fn draw_election_timeout(&mut self) {
        let spread = self.rng.random_range(0..self.config.election_spread_ticks);
        self.election_timeout = self.config.election_ticks + spread;
        self.raw
            .raft
            .set_randomized_election_timeout(self.election_timeout);
    }

    /// This member.
    #[must_use]
    pub fn id(&self) -> RaftId {
        self.config.id
    }

    /// True if this member believes that it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// True if it leads and has committed an entry of its term, so that it knows all commits.
    #[must_use]
    pub fn has_committed_in_term(&self) -> bool {
        self.is_leader() && self.raw.raft.commit_to_current_term()
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<RaftId> {
        let leader = self.raw.raft.leader_id;
        (leader != 0).then_some(RaftId(leader))
    }

    /// The present term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// Committed as far as this member knows.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Last entry of the log, durable or not.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    /// The log in memory starts after this.
    #[must_use]
    pub fn base_index(&self) -> LogIndex {
        LogIndex(self.raw.store().base_index())
    }

    /// The members in force.
    #[must_use]
    pub fn conf(&self) -> &ConfState {
        self.raw.store().conf_at(u64::MAX)
    }

    /// The voters in force (the incoming ones while joint).
    #[must_use]
    pub fn voters(&self) -> &[RaftId] {
        &self.conf().voters
    }

    /// The learners in force.
    #[must_use]
    pub fn learners(&self) -> &[RaftId] {
        &self.conf().learners
    }

    /// At the leader: up to which entry a member's log is durable and agrees. `None` if it is not a
    /// member or this member does not lead.
    #[must_use]
    pub fn progress(&self, of: RaftId) -> Option<LogIndex> {
        let progress = self.raw.raft.prs().get(of.0)?;
        self.is_leader().then_some(LogIndex(progress.matched))
    }

    /// At the leader: true if the member answered within the last election timeout.
    #[must_use]
    pub fn is_active(&self, member: RaftId) -> bool {
        let progress = self.raw.raft.prs().get(member.0);
        self.is_leader() && (member == self.config.id || progress.is_some_and(|p| p.recent_active))
    }
}

//! Time, network, clients and the event loop.
use super::check::Checker;
use super::driver::{Member, Tables};
use crate::consensus::config::TestBug;
use crate::consensus::{LogWrite, RaftAction, RaftEvent, RaftMessage, SnapshotMeta};
use crate::types::{LogIndex, RaftId, crc32c};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// A millisecond in the world's nanoseconds.
pub(super) const MS: u64 = 1_000_000;
const CLIENTS: u8 = 8;

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) voters: u64,
    pub(super) bug: Option<TestBug>,
}

impl Settings {
    pub(super) fn new(seed: u64, voters: u64) -> Self {
        Self {
            seed,
            voters,
            bug: None,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Stats {
    pub(super) events: u64,
    pub(super) acked: u64,
    pub(super) reads: u64,
    pub(super) unknown: u64,
    pub(super) crashes: u64,
    pub(super) torn: u64,
    pub(super) elections: u64,
    pub(super) installs: u64,
    pub(super) adoptions: u64,
    pub(super) conf_changes: u64,
    pub(super) trace: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.acked += other.acked;
        self.reads += other.reads;
        self.unknown += other.unknown;
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.elections += other.elections;
        self.installs += other.installs;
        self.adoptions += other.adoptions;
        self.conf_changes += other.conf_changes;
        self.trace ^= other.trace;
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Message {
        from: RaftId,
        bytes: Vec<u8>,
        to: usize,
    },
    Tick {
        at: usize,
        run: u64,
    },
    Synced {
        at: usize,
        run: u64,
    },
    Pull {
        at: usize,
        run: u64,
        from: RaftId,
        meta: SnapshotMeta,
    },
    Client(u8),
    Timeout {
        client: u8,
        op: u64,
    },
    Strike,
    /// Power fails while a sync is under way.
    Crash {
        at: usize,
        run: u64,
    },
}

/// What a client waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub(super) op: u64,
    pub(super) key: u8,
    /// For a read: the least index it must see.
    pub(super) floor: Option<u64>,
}

pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) rng: ChaCha8Rng,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) members: Vec<Member>,
    /// Directions that drop everything.
    pub(super) cut: BTreeSet<(RaftId, RaftId)>,
    /// Loses power in its next sync.
    pub(super) doomed: Option<usize>,
    loss: f64,
    repeat: f64,
    pub(super) clients: Vec<Option<Open>>,
    /// They begin nothing new.
    clients_rest: bool,
    tokens: u64,
    /// Proposals and reads by token: client.
    pub(super) open: BTreeMap<u64, u8>,
    pub(super) conf_tokens: BTreeSet<u64>,
    pub(super) checker: Checker,
    pub(super) stats: Stats,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let loss = [0.0, 0.01, 0.05][rng.random_range(0..3)];
        let repeat = [0.0, 0.02][rng.random_range(0..2)];
        Self {
            settings,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            members: Vec::new(),
            cut: BTreeSet::new(),
            doomed: None,
            loss,
            repeat,
            clients: vec![None; usize::from(CLIENTS)],
            clients_rest: false,
            tokens: 0,
            open: BTreeMap::new(),
            conf_tokens: BTreeSet::new(),
            checker: Checker::default(),
            stats: Stats::default(),
        }
    }

    /// Faults for a while, then healing; the promises must hold throughout.
    pub(super) fn run(mut self) -> Result<Stats, String> {
        let first: Vec<RaftId> = (1..=self.settings.voters).map(RaftId).collect();
        for id in 1..=self.settings.voters + 2 {
            self.members.push(Member::new(id, &first, &mut self.rng)?);
        }
        self.boot_all()?;
        for client in 0..CLIENTS {
            self.schedule(500 * MS, Event::Client(client));
        }
        self.schedule(1000 * MS, Event::Strike);
        self.advance(7000 * MS)?;
        self.heal()?;
        let acked = self.stats.acked;
        self.advance(self.now + 5000 * MS)?;
        if self.stats.acked == acked {
            return Err("no progress after healing".into());
        }
        self.clients_rest = true;
        self.advance(self.now + 2500 * MS)?;
        self.check_end()?;
        self.stats.elections = self.checker.elections();
        Ok(self.stats)
    }

    fn heal(&mut self) -> Result<(), String> {
        self.queue
            .retain(|_, event| !matches!(event, Event::Strike | Event::Crash { .. }));
        self.cut.clear();
        self.doomed = None;
        (self.loss, self.repeat) = (0.0, 0.0);
        for member in &mut self.members {
            member.paused_until = 0;
        }
        self.boot_all()
    }

    fn check_end(&self) -> Result<(), String> {
        let (at, conf) = self.leader().ok_or("no leader at the end")?;
        let tables = |at: usize| self.members[at].process.as_ref().map(|p| &p.tables);
        let leader = tables(at).ok_or("the leader runs")?;
        let op_at = |index| leader.ops.get(&index).copied();
        self.checker.finish(leader.applied, op_at)?;
        for (at, member) in self.members.iter().enumerate() {
            let applied = tables(at).map(|t| t.applied);
            if conf.contains(member.id) && applied != Some(leader.applied) {
                let want = leader.applied;
                let raft = member.process.as_ref().map(|p| &p.raft);
                return Err(format!("{raft:?} has not caught up with {want} {conf:?}"));
            }
        }
        Ok(())
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at.max(self.now), self.scheduled), event);
    }

    pub(super) fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    fn note(&mut self, value: u64) {
        let mixed = (self.stats.trace ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.stats.trace = mixed ^ (mixed >> 29);
    }

    fn advance(&mut self, until: u64) -> Result<(), String> {
        while let Some(next) = self.queue.first_entry() {
            if next.key().0 > until {
                break;
            }
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.stats.events += 1;
            self.note(at);
            self.perform(event)?;
        }
        self.now = until;
        Ok(())
    }

    fn perform(&mut self, event: Event) -> Result<(), String> {
        let target = match &event {
            Event::Message { to, .. } => Some(*to),
            Event::Tick { at, .. } | Event::Synced { at, .. } | Event::Pull { at, .. } => Some(*at),
            Event::Client(_) | Event::Timeout { .. } | Event::Strike | Event::Crash { .. } => None,
        };
        if let Some(at) = target
            && self.members[at].paused_until > self.now
        {
            self.schedule(self.members[at].paused_until, event);
            return Ok(());
        }
        let is_current = |world: &Self, at: usize, run| world.members[at].run == run;
        match event {
            Event::Message { from, bytes, to } => {
                self.note(u64::from(crc32c(&bytes)));
                let message = RaftMessage::decode(&bytes).map_err(|e| e.to_string())?;
                self.feed(to, [RaftEvent::Message { from, message }])
            }
            Event::Tick { at, run } if is_current(self, at, run) => {
                let next = self.now + self.members[at].clock.tick;
                self.schedule(next, Event::Tick { at, run });
                self.feed(at, [RaftEvent::Tick])
            }
            Event::Synced { at, run } if is_current(self, at, run) => self.synced(at),
            Event::Pull {
                at,
                run,
                from,
                meta,
            } if is_current(self, at, run) => self.pull(at, from, &meta),
            Event::Client(_) if self.clients_rest => Ok(()),
            Event::Client(client) => self.begin(client),
            Event::Timeout { client, op } => {
                if self.clients[usize::from(client)].is_some_and(|open| open.op == op) {
                    self.stats.unknown += 1;
                    self.end(client);
                }
                Ok(())
            }
            Event::Strike => self.strike(),
            // Of a run that ended.
            Event::Crash { at, run } if is_current(self, at, run) => self.crash(at),
            Event::Tick { .. } | Event::Synced { .. } | Event::Pull { .. } => Ok(()),
            Event::Crash { .. } => Ok(()),
        }
    }

    pub(super) fn boot(&mut self, at: usize) -> Result<(), String> {
        let seed = self.settings.seed;
        if self.members[at].boot(seed, self.settings.bug)? {
            self.stats.adoptions += 1;
        }
        let run = self.members[at].run;
        let tick = self.members[at].clock.tick;
        let first = self.now + self.rng.random_range(0..tick);
        self.schedule(first, Event::Tick { at, run });
        Ok(())
    }

    /// Feeds events to a member and performs the actions.
    pub(super) fn feed(
        &mut self,
        at: usize,
        events: impl IntoIterator<Item = RaftEvent>,
    ) -> Result<(), String> {
        let now = self.members[at].clock.local(self.now);
        let mut out = Vec::new();
        let Some(process) = self.members[at].process.as_mut() else {
            return Ok(());
        };
        process.raft.handle_all(now, events, &mut out);
        while !out.is_empty() {
            let mut answers = Vec::new();
            for action in out.drain(..) {
                self.act(at, action, &mut answers)?;
            }
            let Some(process) = self.members[at].process.as_mut() else {
                return Ok(());
            };
            if !answers.is_empty() {
                process.raft.handle_all(now, answers, &mut out);
            }
        }
        self.serve_reads(at)?;
        self.sync(at);
        Ok(())
    }

    fn act(
        &mut self,
        at: usize,
        action: RaftAction,
        answers: &mut Vec<RaftEvent>,
    ) -> Result<(), String> {
        let id = self.members[at].id;
        match action {
            RaftAction::Send { to, message } => self.send(id, to, &message),
            RaftAction::Persist { token, write } => {
                let process = self.members[at].process.as_mut().ok_or("it runs")?;
                process.queue.push_back((token, write));
            }
            RaftAction::Apply { entries } => {
                for entry in entries {
                    self.checker.applied(id.0, &entry)?;
                    let process = self.members[at].process.as_mut().ok_or("it runs")?;
                    process.tables.apply(&entry)?;
                    if let Some(token) = entry.token {
                        self.done(token, entry.index.0);
                    }
                }
                self.checkpoint(at, answers)?;
            }
            RaftAction::ReadReady { token, index } => {
                let process = self.members[at].process.as_mut().ok_or("it runs")?;
                process.reads.push((index.0, token));
            }
            RaftAction::BecameLeader { term } => self.checker.leads(id.0, term.0)?,
            RaftAction::NeedSnapshot { .. } => {
                let process = self.members[at].process.as_ref().ok_or("it runs")?;
                let index = LogIndex(process.tables.applied);
                answers.push(RaftEvent::SnapshotAvailable { index });
            }
            RaftAction::InstallSnapshot { meta, from } => {
                let run = self.members[at].run;
                let when = self.now + self.rng.random_range(1..300) * MS;
                let pull = Event::Pull {
                    at,
                    run,
                    from,
                    meta,
                };
                self.schedule(when, pull);
            }
            RaftAction::Rejected { reason, .. } => self.checker.refused(&reason)?,
            RaftAction::ProposalDropped { token, .. }
            | RaftAction::ReadDropped { token, .. }
            | RaftAction::ProposalUnknown { token } => {
                if let Some(client) = self.open.remove(&token) {
                    self.end(client);
                }
            }
            RaftAction::Proposed { .. }
            | RaftAction::LostLeadership
            | RaftAction::LeaderChanged { .. } => {}
        }
        Ok(())
    }

    fn send(&mut self, from: RaftId, to: RaftId, message: &RaftMessage) {
        let Some(at) = self.members.iter().position(|m| m.id == to) else {
            return;
        };
        if self.cut.contains(&(from, to)) || self.rng.random_bool(self.loss) {
            return;
        }
        let bytes = message.encode();
        let copies = 1 + u64::from(self.rng.random_bool(self.repeat));
        for _ in 0..copies {
            let mut latency = self.rng.random_range(100_000..600_000);
            if self.rng.random_bool(0.02) {
                latency += self.rng.random_range(0..200 * MS);
            }
            let event = Event::Message {
                from,
                bytes: bytes.clone(),
                to: at,
            };
            self.schedule(self.now + latency, event);
        }
    }

    /// Starts a sync of everything queued if none is under way.
    fn sync(&mut self, at: usize) {
        let (now, run) = (self.now, self.members[at].run);
        let Some(process) = self.members[at].process.as_mut() else {
            return;
        };
        if process.syncing.is_empty() && !process.queue.is_empty() {
            process.syncing.extend(process.queue.drain(..));
            let mut latency = self.rng.random_range(300_000..3 * MS);
            if self.rng.random_bool(0.01) {
                latency += self.rng.random_range(0..300 * MS);
            }
            self.schedule(now + latency, Event::Synced { at, run });
            if self.doomed.take_if(|doomed| *doomed == at).is_some() {
                self.schedule(now + latency / 2, Event::Crash { at, run });
            }
        }
    }

    fn synced(&mut self, at: usize) -> Result<(), String> {
        let Some(process) = self.members[at].process.as_mut() else {
            return Ok(());
        };
        let (tokens, writes): (Vec<u64>, Vec<LogWrite>) = process.syncing.drain(..).unzip();
        process.log.append(&writes).map_err(|e| e.to_string())?;
        let token = *tokens.last().ok_or("a sync has writes")?;
        self.feed(at, [RaftEvent::Persisted { token }])
    }

    /// Makes the tables durable now and then, lazily.
    fn checkpoint(&mut self, at: usize, answers: &mut Vec<RaftEvent>) -> Result<(), String> {
        let durably = self.rng.random_bool(0.1);
        let compacts = self.rng.random_bool(0.5);
        let member = &mut self.members[at];
        let process = member.process.as_ref().ok_or("it runs")?;
        let index = LogIndex(process.tables.applied);
        answers.push(RaftEvent::Applied { index });
        if durably {
            member.durable = process.tables.clone();
            if compacts {
                answers.push(RaftEvent::Compact { upto: index });
            }
        }
        Ok(())
    }

    /// Replaces a member's tables by those of another, if they are reachable and new enough.
    fn pull(&mut self, at: usize, from: RaftId, meta: &SnapshotMeta) -> Result<(), String> {
        let id = self.members[at].id;
        let source = self.members.iter().find(|m| m.id == from);
        let is_cut = self.cut.contains(&(from, id)) || self.cut.contains(&(id, from));
        let tables = source.and_then(|m| m.process.as_ref()).map(|p| &p.tables);
        let fits = |t: &&Tables| t.applied >= meta.index.0 && t.conf.contains(id) && !is_cut;
        let Some(mut tables) = tables.filter(fits).cloned() else {
            return self.feed(at, [RaftEvent::SnapshotFailed]);
        };
        let meta = tables.meta();
        tables.installed = Some(meta.clone());
        self.stats.installs += 1;
        self.members[at].durable = tables.clone();
        if self.rng.random_bool(0.15) {
            // The state is replaced, the log is not.
            self.crash(at)?;
            return self.boot(at);
        }
        let process = self.members[at].process.as_mut().ok_or("it runs")?;
        process.tables = tables;
        self.feed(at, [RaftEvent::SnapshotInstalled { meta }])
    }
}

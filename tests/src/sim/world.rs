//! One run: setup, chaos, healing with work that must succeed, quiet, audit.
use super::client::{Client, ClientTimer, Cx, WORKERS};
use super::copies::check_copies;
use super::fabric::{Ev, Fabric};
use super::failover::FailoverReport;
use super::failover_watch::Watch;
use super::faults::{Fault, Nemesis};
use super::fences::Fences;
use super::gossip::{Agreement, Datagram};
use super::linear::DIRS;
use super::network::{End, Net, Packet};
use super::node::Node;
use super::oracle::{Counts, Oracle};
use super::progress::Progress;
use super::reading::Stage;
use super::settings::{Plan, Settings};
use super::trace::Trace;
use super::tree::{MOVING, check_tree};
use super::versions::check_versions;
use dfs_core::consensus::SnapshotMeta;
use dfs_core::master::state::{MasterState, namespace};
use dfs_core::store::LazyKv;
use dfs_core::types::{PgPhase, RaftId, Time};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the conditions of a phase.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The cluster is there by then.
const SETUP_MAX: Duration = Duration::from_secs(60);
/// From healing on: everything works after this.
const RECOVERY: Duration = Duration::from_secs(14);
/// And is in order after this.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// Events of one run at most: more is a machine that goes in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// Where a run stands, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Setup,
    MakingDirs,
    Chaos,
    Healing,
    /// What is begun now must succeed.
    Working,
    /// No new work; everything comes in order.
    Quiet,
    /// The files are read back.
    Reading,
}

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Of everything that happened.
    pub hash: u64,
    /// How much was done.
    pub counts: Counts,
    /// Events handled.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Of a run with a failover.
    pub failover: Option<FailoverReport>,
}

/// See the [module docs](self).
pub(super) struct World {
    pub fx: Fabric,
    pub nodes: Vec<Node>,
    pub oracle: Oracle,
    pub nemesis: Nemesis,
    plan: Arc<Plan>,
    pub(super) clients: Vec<Client>,
    phase: Phase,
    since: Time,
    /// All nodes were stopped and started at the end.
    was_restarted: bool,
    pub(super) fences: Fences,
    progress: Progress,
    agreement: Agreement,
    last_leader: Option<usize>,
    /// Why it is not quiet yet.
    pub(super) trouble: String,
    pub(super) failover: Option<Watch>,
}

impl World {
    pub fn new(settings: &Settings) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed ^ 0xd5f5);
        let plan = Arc::new(Plan::new(settings));
        let net = Net::draw(plan.ends, &mut rng);
        let mut fx = Fabric::new(settings.seed, net, Trace::new(settings.prints));
        let nodes = (0..plan.ends.nodes)
            .map(|i| Node::new(i, Arc::clone(&plan), &mut fx))
            .collect();
        let clients = (0..plan.ends.clients)
            .map(|i| Client::new(i, &mut fx))
            .collect();
        let nemesis = Nemesis::new(settings);
        let since = fx.now;
        Self {
            fx,
            nodes,
            oracle: Oracle::default(),
            nemesis,
            plan,
            clients,
            phase: Phase::Setup,
            since,
            was_restarted: false,
            fences: Fences::default(),
            progress: Progress::default(),
            agreement: Agreement::default(),
            last_leader: None,
            trouble: String::new(),
            failover: settings.failover.map(Watch::new),
        }
    }

    pub(super) fn say(&self, what: fmt::Arguments<'_>) {
        self.fx.trace.say(self.fx.now, what);
    }

    pub(super) fn is_chaos(&self) -> bool {
        self.phase == Phase::Chaos
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Report, String> {
        self.set_up()?;
        loop {
            if let Some(failure) = self.fx.failure.take() {
                return Err(format!("{failure}; {}", self.disorder()));
            }
            if self.fx.events > EVENTS_MAX {
                return Err(format!("{EVENTS_MAX} events, and no end"));
            }
            let Some(event) = self.fx.pop() else {
                return Err("nothing happens any more".into());
            };
            if matches!(event, Ev::Phase) {
                if self.look()? {
                    return self.finish();
                }
            } else {
                self.dispatch(event);
                self.watch_failover();
                self.watch_fences();
                self.watch_copies()?;
            }
        }
    }

    /// Looks at what has just been acknowledged. A store may be wiped between its own and the
    /// cluster's word, and what was superseded meanwhile may be gone.
    fn watch_copies(&mut self) -> Result<(), String> {
        if self.fx.acknowledged.is_empty() {
            return Ok(());
        }
        let mut objects = std::mem::take(&mut self.fx.acknowledged);
        let state = self.leader().and_then(|leader| self.state_of(leader));
        let Some(state) = state.filter(|_| !self.fx.is_harmed && self.oracle.counts.wipes == 0)
        else {
            return Ok(());
        };
        objects.retain(|(id, _)| namespace::is_referenced(state.kv(), *id) == Ok(true));
        check_copies(&self.nodes, &objects, usize::from(state.map().quorum.w))
    }

    /// Looks at what must be true at any time.
    fn check_progress(&mut self) -> Result<(), String> {
        for node in &self.nodes {
            self.progress.look(node)?;
        }
        let is_calm = self.oracle.is_calm;
        self.agreement.look(self.fx.now, &self.nodes, is_calm)?;
        if let Some(leader) = self.leader() {
            self.progress.look_at_leader(&self.nodes[leader])?;
            if let Some(state) = self.state_of(leader) {
                check_tree(state, &self.oracle.moving)?;
            }
        }
        Ok(())
    }

    fn set_up(&mut self) -> Result<(), String> {
        let first = SnapshotMeta::bootstrap([RaftId(1)]);
        self.nodes[0].found_voter(RaftId(1), &first)?;
        let late = self.failover.as_ref().and_then(Watch::late_node);
        (0..self.nodes.len())
            .filter(|node| Some(*node) != late)
            .for_each(|node| self.nodes[node].start(&mut self.fx));
        for client in 0..self.clients.len() {
            self.fx.after(
                LOOK_EVERY,
                Ev::Client {
                    client,
                    timer: ClientTimer::Seek(0),
                },
            );
        }
        self.fx.after(LOOK_EVERY, Ev::Phase);
        Ok(())
    }

    fn dispatch(&mut self, event: Ev) {
        match event {
            Ev::Fault(fault) => self.on_fault(fault),
            Ev::Deliver {
                to: End::Client(client),
                ..
            }
            | Ev::Client { client, .. } => {
                let (fx, oracle) = (&mut self.fx, &mut self.oracle);
                let plan = &self.plan;
                self.clients[client].handle(event, &mut Cx { fx, oracle, plan });
            }
            Ev::Deliver {
                to: End::Node(node),
                ref packet,
                ..
            } => {
                let is_down = self.nodes[node].daemon.is_none();
                // A process that is gone may still be answered for by its host.
                if is_down && matches!(**packet, Packet::Reply { .. } | Packet::Closed) {
                    return;
                }
                self.nodes[node].handle(event, &mut self.fx);
            }
            Ev::Datagram(Datagram { to: node, .. }) | Ev::Node { node, .. } => {
                self.nodes[node].handle(event, &mut self.fx);
            }
            Ev::Phase => {}
        }
    }

    pub(super) fn with_client(&mut self, client: usize, f: impl FnOnce(&mut Client, &mut Cx<'_>)) {
        let (fx, oracle) = (&mut self.fx, &mut self.oracle);
        let plan = &self.plan;
        f(&mut self.clients[client], &mut Cx { fx, oracle, plan });
    }

    /// The node that leads with the highest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |node: &&Node| node.daemon.as_ref().is_some_and(|d| d.leads());
        let term = |node: &&Node| {
            let voter = node.daemon.as_ref().and_then(|d| d.voter.as_ref());
            voter.map_or(0, |v| v.master.raft().term().0)
        };
        self.nodes
            .iter()
            .filter(leads)
            .max_by_key(term)
            .map(|node| node.index)
    }

    fn enter(&mut self, phase: Phase) {
        self.say(format_args!("{phase:?}"));
        self.phase = phase;
        self.since = self.fx.now;
    }

    /// Looks at the present phase; true at the very end.
    fn look(&mut self) -> Result<bool, String> {
        let elapsed = self.fx.now.since(self.since);
        let leader = self.leader();
        if leader.is_some() && leader != self.last_leader {
            self.last_leader = leader;
            self.oracle.counts.leaders += 1;
        }
        if self.is_chaos() {
            self.check_fences();
        }
        self.check_progress()?;
        let is_over = self.is_chaos()
            && match self.failover {
                Some(_) => self.failover_over(elapsed)?,
                None => elapsed > self.nemesis.plan.chaos,
            };
        match self.phase {
            Phase::Setup if self.is_set_up() => {
                self.enter(Phase::MakingDirs);
                self.with_client(0, |client, cx| client.make_dirs(cx));
            }
            Phase::Setup if elapsed > SETUP_MAX => {
                return Err(format!(
                    "no cluster after {SETUP_MAX:?}: {}",
                    self.disorder()
                ));
            }
            Phase::MakingDirs if self.oracle.moving.len() == MOVING => self.begin_chaos(),
            Phase::Chaos if is_over => {
                self.enter(Phase::Healing);
                self.oracle.is_calm = true;
                for client in &mut self.clients {
                    client.calm_down(&mut self.fx);
                }
                self.heal();
            }
            Phase::Healing if elapsed > RECOVERY => {
                self.oracle.must_work = true;
                self.enter(Phase::Working);
            }
            Phase::Working if elapsed > Duration::from_secs(3) => {
                self.oracle.is_busy = false;
                self.enter(Phase::Quiet);
            }
            Phase::Quiet => {
                self.trouble = self.disorder_at_rest();
                if elapsed > QUIET_MAX {
                    return Err(format!(
                        "not in order {QUIET_MAX:?} after: {}",
                        self.trouble
                    ));
                }
                if self.trouble.is_empty() && self.clients.iter().all(Client::is_idle) {
                    // A failover's own audit counts what is moved.
                    match self.was_restarted || self.failover.is_some() {
                        true => self.enter(Phase::Reading),
                        false => self.restart_all(),
                    }
                }
            }
            Phase::Reading => {
                let is_idle = self.clients.iter().all(Client::is_idle);
                if is_idle && self.oracle.readings.is_empty() && !self.read_next() {
                    self.trouble = self.disorder_at_rest();
                    if self.trouble.is_empty() {
                        return Ok(true);
                    }
                }
                if elapsed > QUIET_MAX {
                    return Err(format!("no end {QUIET_MAX:?} after: {}", self.trouble));
                }
            }
            _ => {}
        }
        self.fx.after(LOOK_EVERY, Ev::Phase);
        Ok(false)
    }

    fn is_set_up(&self) -> bool {
        self.disorder().is_empty() && self.clients.iter().all(|c| c.bound().is_some())
    }

    fn begin_chaos(&mut self) {
        self.enter(Phase::Chaos);
        self.oracle.is_busy = true;
        for client in 0..self.clients.len() {
            for worker in 0..WORKERS {
                let timer = ClientTimer::Next(worker);
                let pause = self.fx.ms(0, 100);
                self.fx.after(pause, Ev::Client { client, timer });
            }
        }
        if self.failover.is_none() {
            self.plan_faults();
        }
    }

    /// What is not as it shall be at rest; empty when all is well.
    fn disorder(&self) -> String {
        self.disorder_without(None)
    }

    /// The same, not minding that one node is down. Nodes that never ran are not minded.
    pub(super) fn disorder_without(&self, absent: Option<usize>) -> String {
        let trouble = self.disorder_of_groups();
        match self.leader().and_then(|leader| self.state_of(leader)) {
            Some(state) if trouble.is_empty() => {
                super::audit::disorder_of_stores(&self.nodes, state, absent)
            }
            _ => trouble,
        }
    }

    /// The same, and the voters have applied the same.
    fn disorder_at_rest(&self) -> String {
        let trouble = self.disorder();
        match self.leader() {
            Some(leader) if trouble.is_empty() => {
                super::voters::disorder_of_voters(&self.nodes, leader)
            }
            _ => trouble,
        }
    }

    pub(super) fn state_of(&self, node: usize) -> Option<&MasterState<LazyKv>> {
        let daemon = self.nodes[node].daemon.as_ref()?;
        Some(daemon.voter.as_ref()?.master.state())
    }

    /// What is not as it shall be by the master's own account; empty when all is well.
    pub(super) fn disorder_of_groups(&self) -> String {
        let Some(leader) = self.leader() else {
            return "nobody leads".into();
        };
        let daemon = self.nodes[leader].daemon.as_ref().expect("it leads");
        let voter = daemon.voter.as_ref().expect("it leads");
        let state = voter.master.state();
        if voter.master.raft().voters().len() != usize::from(self.plan.voters) {
            return format!("voters are {:?}", voter.master.raft().voters());
        }
        let is_known = |node: &Node| node.run == 0 || state.stores().contains_key(&node.store());
        if let Some(node) = self.nodes.iter().find(|node| !is_known(node)) {
            return format!("the store of node {} is not known", node.index);
        }
        if state.map().pgs.is_empty() {
            return "no groups".into();
        }
        for (pg, group) in state.pgs() {
            let info = &group.info;
            let is_clean = info.phase == PgPhase::Active
                && info.members.len() == usize::from(state.map().quorum.n)
                && info.filling.is_empty();
            if !is_clean {
                return format!("group {pg:?} is {info:?}");
            }
        }
        String::new()
    }

    /// All nodes stop, and start again a little later.
    fn restart_all(&mut self) {
        self.was_restarted = true;
        let kills = self.fx.chance(0.5);
        // These are none of the nemesis.
        let crashes = self.oracle.counts.crashes;
        for node in 0..self.nodes.len() {
            self.stop_node(node, kills);
            let pause = self.fx.ms(50, 500);
            self.fx.after(pause, Ev::Fault(Fault::Start(node)));
        }
        self.oracle.counts.crashes = crashes;
        self.enter(Phase::Quiet);
    }

    /// Begins the next stage of reading everything back. False when all was read.
    fn read_next(&mut self) -> bool {
        let written: Vec<_> = self.oracle.files().collect();
        let readings = &mut self.oracle.readings;
        match readings.next_stage(self.clients.len(), DIRS, written.into_iter()) {
            Stage::Over => return false,
            Stage::KnowingWhatIsKnown => {}
            Stage::KnowingNoLayouts => self.clients.iter_mut().for_each(|c| c.layouts.clear()),
        }
        for client in 0..self.clients.len() {
            for worker in 0..WORKERS {
                self.with_client(client, |client, cx| client.next_job(worker, cx));
            }
        }
        true
    }

    fn finish(mut self) -> Result<Report, String> {
        if let Some(failure) = self.fx.failure.take() {
            return Err(failure);
        }
        let leader = self.leader().ok_or("nobody leads at the end")?;
        let epochs = super::audit::audit(&self.nodes, leader, &mut self.fx.trace)?;
        self.oracle.counts.epochs = epochs;
        if let Some(state) = self.state_of(leader).filter(|_| !self.oracle.may_forget) {
            self.oracle.counts.versions = check_versions(state, &self.oracle.dirs)?;
        }
        self.oracle.counts.undecided += self.oracle.check_contents()?;
        if !self.oracle.names.check()? {
            self.oracle.counts.undecided += 1;
        }
        let idle = self.oracle.counts.idle();
        if !idle.is_empty() {
            return Err(idle);
        }
        Ok(Report {
            hash: self.fx.trace.hash(),
            counts: self.oracle.counts,
            events: self.fx.events,
            simulated: self.fx.now.since(Time(0)),
            failover: self.failover.as_ref().map(Watch::report),
        })
    }
}

//! Watches one change of the cluster, loses the leader at its step, and checks what must hold.
//!
//! Stages: *loading* (clients fill files), *waiting* (for what comes before the change), *watching*
//! (for the step), *lost* (the leader is away), *after*.
//!
//! Checked at once:
//! 1. no run of a store gets an object twice in one epoch of its group; a later run gets again only
//!    what can have been unsynced when the run before ended;
//! 2. a group is moved once for the cause of the change; again only after the store in question was
//!    taken for failed in between, as one is that does not find the next leader in time.
//!
//! Checked at the end: no group is without N complete members that hold everything, no store holds
//! what is not its own, receipts tell of each group that was moved once.
use super::fabric::{Ev, Fetched};
use super::failover::{Change, Failover, FailoverReport, Loss, Step};
use super::faults::Fault;
use super::network::{End, Ends};
use super::settings::{node_id, store_id};
use super::world::World;
use dfs_core::master::command::ChangeCause;
use dfs_core::master::leader::MasterEvent;
use dfs_core::master::state::{MasterState, PgState};
use dfs_core::store::LazyKv;
use dfs_core::types::{Epoch, ObjectId, PgId, PgPhase, Time, pg_of};
use dfs_core::wire::MasterRequest;
use dfs_core::wire::rpc::{ConnId, ReplyTo};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Clients fill files for this long first.
const LOAD: Duration = Duration::from_millis(2500);
/// A change with everything that follows from it takes no longer.
const LIMIT: Duration = Duration::from_secs(60);
/// In order for so long: over.
const CALM: Duration = Duration::from_millis(1500);
/// What a run of a store can have got and not synced when it ends.
const UNSYNCED_MAX: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Loading,
    /// For the groups of a node that died to be clean without it.
    Waiting,
    Watching,
    Lost,
    After,
}

/// See the [module docs](self).
pub(super) struct Watch {
    case: Failover,
    stage: Stage,
    /// The node that dies, is drained, or is new.
    pub subject: usize,
    stage_since: Time,
    lost_at: Option<Time>,
    calm_since: Option<Time>,
    /// Newest epoch seen of each group.
    epochs: BTreeMap<PgId, Epoch>,
    /// How often each group was moved for each cause.
    pub moved: BTreeMap<(ChangeCause, PgId), usize>,
    /// Groups that the store in question was put out of as failed, against the change, and is not
    /// back in.
    pub parted: BTreeSet<PgId>,
    /// Moves that had to be made again for that.
    pub repeated: usize,
    /// Groups that receipts of the cause told of before.
    pub told_before: u32,
    got: BTreeMap<(usize, ObjectId, Epoch), u64>,
    again: BTreeMap<(usize, u64), u64>,
    report: FailoverReport,
}

pub(super) type State = MasterState<LazyKv>;

impl Watch {
    pub fn new(case: Failover) -> Self {
        Self {
            case,
            stage: Stage::Loading,
            subject: Ends::USUAL.nodes - 1,
            stage_since: Time(0),
            lost_at: None,
            calm_since: None,
            epochs: BTreeMap::new(),
            moved: BTreeMap::new(),
            parted: BTreeSet::new(),
            repeated: 0,
            told_before: 0,
            got: BTreeMap::new(),
            again: BTreeMap::new(),
            report: FailoverReport::default(),
        }
    }

    /// The node that is not there from the start.
    pub fn late_node(&self) -> Option<usize> {
        (self.case.change == Change::Rebalance).then_some(self.subject)
    }

    pub fn report(&self) -> FailoverReport {
        self.report
    }

    /// The cause of the groups' changes.
    pub fn cause(&self) -> Option<ChangeCause> {
        let store = store_id(self.subject, 0);
        match self.case.change {
            Change::Repair => Some(ChangeCause::Failed(store)),
            Change::RejoinInTime => None,
            Change::Drain => Some(ChangeCause::Drain(store)),
            Change::RejoinLate | Change::Rebalance => Some(ChangeCause::Rebalance(store)),
        }
    }

    fn enter(&mut self, stage: Stage, now: Time) {
        if stage == Stage::Watching || stage == Stage::Waiting {
            self.moved.clear(); // what is moved from now on is of the change
            self.repeated = 0;
        }
        self.stage = stage;
        self.stage_since = now;
    }

    /// Invariant 2, and the newest epochs.
    fn note_epochs(&mut self, state: &State) -> Result<(), String> {
        for (pg, group) in state.pgs() {
            let known = self.epochs.entry(pg).or_default();
            if group.info.epoch <= *known {
                continue;
            }
            let is_first = known.0 == 0;
            *known = group.info.epoch;
            let times = self.moved.entry((group.cause, pg)).or_default();
            *times += 1;
            let is_again = *times > 1 && !is_first;
            if Some(group.cause) == self.cause() {
                let is_needed = self.parted.remove(&pg);
                if is_again && !is_needed {
                    return Err(format!("group {} was moved again: {:?}", pg.0, group.cause));
                }
                self.repeated += usize::from(is_again);
            } else if group.cause == ChangeCause::Failed(store_id(self.subject, 0)) {
                self.parted.insert(pg);
            }
        }
        Ok(())
    }

    /// Invariant 1.
    fn note_fetch(&mut self, fetched: Fetched, pg: PgId) -> Result<(), String> {
        if self.stage == Stage::Loading {
            return Ok(());
        }
        let epoch = self.epochs.get(&pg).copied().unwrap_or_default();
        let Fetched { node, run, .. } = fetched;
        self.report.objects += 1;
        self.report.bytes += fetched.bytes;
        match self.got.insert((node, fetched.object, epoch), run) {
            None => Ok(()),
            Some(before) if before == run => Err(format!(
                "node {node} got object {} of group {} twice in epoch {}",
                fetched.object, pg.0, epoch.0
            )),
            Some(_) => {
                self.report.again += 1;
                let again = self.again.entry((node, run)).or_default();
                *again += 1;
                if *again <= UNSYNCED_MAX {
                    return Ok(());
                }
                Err(format!(
                    "node {node} got {again} objects again after its restart"
                ))
            }
        }
    }

    /// Does the leader's state show the step? `task` tells what it has proposed, `strays` whether a
    /// store holds what is not its own.
    fn is_at_step(
        &self,
        state: &State,
        task: &dyn Fn(&str) -> bool,
        strays: &dyn Fn() -> bool,
    ) -> bool {
        let subject = store_id(self.subject, 0);
        let row = state.stores().get(&subject);
        let began = self.cause();
        let mine = |group: &PgState| Some(group.cause) == began;
        let phase = |phase: PgPhase| {
            state
                .pgs()
                .filter(|(_, s)| mine(s) && s.info.phase == phase)
                .count()
        };
        let (fencing, copying) = (phase(PgPhase::Fencing), phase(PgPhase::Copying));
        let clean = phase(PgPhase::Active);
        match self.case.step {
            Step::Away => row.is_some_and(|row| row.down_since.is_some()),
            Step::Returned => row.is_some_and(|row| row.down_since.is_none()),
            Step::CatchingUp => self.got.keys().any(|(node, ..)| *node == self.subject),
            Step::Proposed => task("BeginEpoch") && fencing + copying == 0,
            Step::Begun => fencing > 0,
            Step::Activating => fencing > 0 && task("Activate"),
            Step::Activated => copying > 0,
            Step::Copying => copying > 0 && self.has_copied(state),
            Step::Filling => copying > 0 && task("Filled"),
            Step::SomeFilled => copying > 0 && clean > 0,
            Step::LastFilling => fencing == 0 && copying > 0 && clean >= copying,
            Step::Clean => clean > 0 && copying + fencing == 0,
            Step::Emptying => self.is_moved(state) && strays(),
        }
    }

    /// Something was got for a group of the change.
    fn has_copied(&self, state: &State) -> bool {
        let copying: BTreeMap<PgId, Epoch> = state
            .pgs()
            .filter(|(_, s)| Some(s.cause) == self.cause() && s.info.phase == PgPhase::Copying)
            .map(|(pg, s)| (pg, s.info.epoch))
            .collect();
        let fills = |node: usize| {
            let store = store_id(node, 0);
            state
                .pgs()
                .any(|(pg, s)| copying.contains_key(&pg) && s.info.filling.contains(&store))
        };
        let epochs: BTreeSet<Epoch> = copying.values().copied().collect();
        self.got
            .keys()
            .any(|(node, _, epoch)| epochs.contains(epoch) && fills(*node))
    }

    /// Some group is clean without a store that it had before.
    fn is_moved(&self, state: &State) -> bool {
        let at_rest = |s: &PgState| s.info.phase == PgPhase::Active;
        match self.case.change {
            Change::RejoinLate => state.pgs().all(|(_, s)| at_rest(s)),
            _ => state
                .pgs()
                .any(|(_, s)| Some(s.cause) == self.cause() && at_rest(s)),
        }
    }

    /// What the change was for is reached.
    pub fn is_reached(&self, state: &State) -> bool {
        let subject = store_id(self.subject, 0);
        let is_member = |(_, s): (PgId, &PgState)| s.info.members.contains(&subject);
        match self.case.change {
            Change::Repair | Change::Drain => !state.pgs().any(is_member),
            Change::RejoinInTime | Change::RejoinLate | Change::Rebalance => {
                state.pgs().any(is_member)
            }
        }
    }
}

impl World {
    /// Called after every event.
    pub(super) fn watch_failover(&mut self) {
        let Some(mut watch) = self.failover.take() else {
            return;
        };
        if let Err(what) = self.watch(&mut watch) {
            self.fx.fail(format!("{what} ({})", watch.case));
        }
        self.failover = Some(watch);
    }

    pub(super) fn leader_state(&self) -> Option<&State> {
        self.state_of(self.leader()?)
    }

    fn watch(&mut self, watch: &mut Watch) -> Result<(), String> {
        if !self.is_chaos() {
            self.fx.fetched.clear();
            return Ok(());
        }
        if let Some(state) = self.leader_state() {
            watch.note_epochs(state)?;
        }
        for fetched in std::mem::take(&mut self.fx.fetched) {
            if let Some((ino, chunk)) = self.oracle.place_of(fetched.object) {
                watch.note_fetch(fetched, pg_of(ino, chunk, self.pgs()))?;
            }
        }
        if watch.stage == Stage::Watching
            && let Some(leader) = self.leader()
            && self.is_at_step(watch, leader)
        {
            self.lose(watch, leader);
        }
        Ok(())
    }

    fn is_at_step(&self, watch: &Watch, leader: usize) -> bool {
        let daemon = self.nodes[leader].daemon.as_ref();
        let Some(voter) = daemon.and_then(|d| d.voter.as_ref()) else {
            return false;
        };
        let task = |name: &str| voter.master.proposed().iter().any(|task| task == name);
        let state = voter.master.state();
        watch.is_at_step(state, &task, &|| self.stray(state).is_some())
    }

    fn lose(&mut self, watch: &mut Watch, leader: usize) {
        self.say(format_args!("leader {leader} is lost: {}", watch.case));
        watch.report.is_hit = true;
        watch.lost_at = Some(self.fx.now);
        watch.enter(Stage::Lost, self.fx.now);
        let away = self.fx.ms(800, 4000);
        match watch.case.loss {
            Loss::Kill => {
                self.stop_node(leader, true);
                self.fx.after(away, Ev::Fault(Fault::Start(leader)));
            }
            Loss::CutOff => {
                for other in self.fx.net.ends.all() {
                    self.fx.net.set_cut(other, End::Node(leader), true);
                    self.fx.net.set_cut(End::Node(leader), other, true);
                }
                self.uncut_after(away);
            }
        }
        // The subject of a rejoin comes back whoever leads.
        if watch.case.step == Step::Away && watch.case.change == Change::RejoinInTime {
            let pause = self.fx.ms(100, 1500);
            self.fx.after(pause, Ev::Fault(Fault::Start(watch.subject)));
        }
    }

    /// Looked at now and then in the middle of the run: true when the change is over.
    pub(super) fn failover_over(&mut self, elapsed: Duration) -> Result<bool, String> {
        let Some(mut watch) = self.failover.take() else {
            return Ok(true);
        };
        let result = self.go_on(&mut watch, elapsed);
        let case = watch.case;
        self.failover = Some(watch);
        result.map_err(|e| format!("{e} ({case})"))
    }

    fn go_on(&mut self, watch: &mut Watch, elapsed: Duration) -> Result<bool, String> {
        if elapsed > LIMIT {
            return Err(format!(
                "not over after {LIMIT:?}, in stage {:?}: {}",
                watch.stage, self.trouble
            ));
        }
        match watch.stage {
            Stage::Loading if elapsed > LOAD => self.begin_change(watch),
            Stage::Waiting => self.wait(watch),
            Stage::Lost => {
                watch.enter(Stage::After, self.fx.now);
                Ok(false)
            }
            Stage::Watching | Stage::After => self.is_over(watch),
            Stage::Loading => Ok(false),
        }
    }

    /// A node that neither leads nor votes, so that two lost nodes are no lost majority.
    fn bystander(&self) -> Option<usize> {
        let state = self.leader_state()?;
        let votes = |node: usize| {
            state
                .raft_nodes()
                .values()
                .any(|(id, _)| *id == node_id(node))
        };
        (0..self.nodes.len()).rev().find(|node| !votes(*node))
    }

    fn begin_change(&mut self, watch: &mut Watch) -> Result<bool, String> {
        let trouble = self.disorder_of_groups();
        let (Some(leader), true) = (self.leader(), trouble.is_empty()) else {
            return Ok(false); // the load has stirred something
        };
        if watch.late_node().is_none() {
            watch.subject = self.bystander().ok_or("every node votes")?;
        }
        let subject = watch.subject;
        self.say(format_args!("{:?} of node {subject}", watch.case.change));
        let mut stage = Stage::Watching;
        match watch.case.change {
            Change::Repair => self.stop_node(subject, true),
            Change::RejoinInTime | Change::RejoinLate => {
                self.stop_node(subject, true);
                if watch.case.step != Step::Away {
                    stage = Stage::Waiting;
                }
            }
            Change::Drain => {
                let from = ReplyTo {
                    conn: ConnId(0),
                    id: 0,
                };
                let body = MasterRequest::Forget {
                    node: node_id(subject),
                };
                self.nodes[leader].master(MasterEvent::Request { from, body }, &mut self.fx);
            }
            Change::Rebalance => self.start_node(subject),
        }
        watch.told_before = self.receipted(watch);
        watch.enter(stage, self.fx.now);
        Ok(false)
    }

    /// The node that died comes back, in time or when its groups were given away.
    fn wait(&mut self, watch: &mut Watch) -> Result<bool, String> {
        let subject = watch.subject;
        let since = self.fx.now.since(watch.stage_since);
        let is_due = match watch.case.change {
            Change::RejoinInTime => since > Duration::from_millis(2500),
            _ => {
                let is_free = |state: &State| {
                    let store = store_id(subject, 0);
                    !state.pgs().any(|(_, s)| s.info.members.contains(&store))
                };
                self.disorder_of_groups().is_empty() && self.leader_state().is_some_and(is_free)
            }
        };
        if is_due {
            watch.told_before = self.receipted(watch);
            self.start_node(subject);
            watch.enter(Stage::Watching, self.fx.now);
        }
        Ok(false)
    }

    fn is_over(&mut self, watch: &mut Watch) -> Result<bool, String> {
        self.trouble = self.what_is_left(watch);
        if !self.trouble.is_empty() {
            watch.calm_since = None;
            return Ok(false);
        }
        let since = *watch.calm_since.get_or_insert(self.fx.now);
        if self.fx.now.since(since) < CALM {
            return Ok(false);
        }
        if let Some(lost_at) = watch.lost_at {
            watch.report.took = since.since(lost_at);
        }
        Ok(true)
    }
}

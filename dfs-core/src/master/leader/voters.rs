//! Who votes: the leader keeps the wanted number of voters on live nodes.
//!
//! A new voter: `VoterAssigned` (a fresh id, committed) -> `BecomeVoter` call to the node -> learner
//! -> caught up -> voter. Ids come from the log index, so none is used twice. Promotions are made
//! so that the number of voters is odd, several at once by joint consensus; a voter whose node is
//! down for `voter_grace` (or whose stores drain), or that is lost in another way ([`voter_watch`]),
//! is replaced in the same joint change. An id that is assigned and not in the group is retired.
//!
//! A node that runs an id, in the group or not, gets no other one before it has let go of it: what
//! it acknowledged under the old one is never erased while it may count.
//!
//! One step at a time: the next one begins when the last one was applied, refused or timed out.
//!
//! [`voter_watch`]: super::voter_watch
use super::event::MasterAction;
use super::leading::Task;
use super::machine::Master;
use super::voter_watch::{Claim, VoterWatch};
use crate::consensus::{ConfChange, ConfStep, RaftEvent};
use crate::master::command::Command;
use crate::types::{NodeId, RaftId, Time};
use crate::wire::master::Voting;
use crate::wire::rpc::{Call, CallResult, CallTarget};
use crate::wire::{NodeRequest, Request, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A step that has not ended after this long is given up.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries a learner may lack and still count as caught up.
const CAUGHT_UP: u64 = 100;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    /// The id is being committed.
    Assigning,
    /// The node was asked; the token is the call's.
    Asking {
        token: u64,
        id: RaftId,
    },
    /// A membership change was proposed; the token is the proposal's.
    Changing {
        token: u64,
    },
}

/// The step under way in this term.
#[derive(Debug)]
pub(super) struct VoterPlan {
    step: Step,
    since: Time,
    /// Asked lately without success.
    refused: BTreeMap<NodeId, Time>,
    pub watch: VoterWatch,
}

impl VoterPlan {
    pub fn new(now: Time) -> Self {
        Self {
            step: Step::Idle,
            since: now,
            refused: BTreeMap::new(),
            watch: VoterWatch::default(),
        }
    }
}

/// A node that could vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub node: NodeId,
    pub addr: SocketAddr,
    pub zone: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VoterMove {
    Assign(NodeId, SocketAddr),
    Change(ConfChange),
    Retire(RaftId),
}

/// The group as the plan sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    pub wanted: usize,
    pub me: RaftId,
    pub voters: Vec<RaftId>,
    /// Learners, and whether each has caught up.
    pub learners: Vec<(RaftId, bool)>,
    /// Assigned ids: their node's zone.
    pub zones: BTreeMap<RaftId, String>,
    /// Ids whose node is down for too long, or leaves; and those that do not vote in fact.
    pub lost: BTreeSet<RaftId>,
    /// Lost ones that a live node still runs: it can get a new id when they are out of the group.
    pub stuck: BTreeSet<RaftId>,
    /// Live nodes that run no id and have no live one.
    pub candidates: Vec<Candidate>,
}

/// The next move, if any. Pure.
pub(super) fn next_move(group: &Group) -> Option<VoterMove> {
    let members: BTreeSet<RaftId> = group
        .voters
        .iter()
        .copied()
        .chain(group.learners.iter().map(|(id, _)| *id))
        .collect();
    if let Some(id) = group.zones.keys().find(|id| !members.contains(id)) {
        return Some(VoterMove::Retire(*id));
    }
    if let Some((id, _)) = group
        .learners
        .iter()
        .find(|(id, _)| group.lost.contains(id))
    {
        return Some(VoterMove::Change(ConfChange::One(ConfStep::Remove(*id))));
    }
    let live: Vec<RaftId> = group
        .voters
        .iter()
        .copied()
        .filter(|id| !group.lost.contains(id))
        .collect();
    let lost: Vec<RaftId> = group
        .voters
        .iter()
        .copied()
        .filter(|id| group.lost.contains(id))
        .collect();
    let ready: Vec<RaftId> = group
        .learners
        .iter()
        .filter(|(_, ready)| *ready)
        .map(|(id, _)| *id)
        .collect();
    let stuck = lost.iter().filter(|id| group.stuck.contains(id));
    let spare = group.candidates.len() + stuck.clone().count();
    let reachable = live.len() + group.learners.len() + spare;
    if live.len() > odd_below(group.wanted) {
        let surplus = live.iter().rev().find(|id| **id != group.me)?;
        return Some(VoterMove::Change(ConfChange::One(ConfStep::Remove(
            *surplus,
        ))));
    }
    let target = odd_below(group.wanted.min(reachable));
    let need = target.saturating_sub(live.len());
    if need > 0 && ready.len() >= need {
        let promoted = ready.iter().take(need).map(|id| ConfStep::Promote(*id));
        let removed = lost.iter().map(|id| ConfStep::Remove(*id));
        let steps: Vec<ConfStep> = promoted.chain(removed).collect();
        return Some(VoterMove::Change(match steps[..] {
            [step] => ConfChange::One(step),
            _ => ConfChange::Joint(steps),
        }));
    }
    if !lost.is_empty() && live.len() >= odd_below(group.wanted) {
        return Some(VoterMove::Change(ConfChange::One(ConfStep::Remove(
            lost[0],
        ))));
    }
    if need > group.learners.len() {
        if group.candidates.is_empty()
            && let Some(id) = stuck.clone().find(|id| **id != group.me)
        {
            return Some(VoterMove::Change(ConfChange::One(ConfStep::Remove(*id))));
        }
        let crowd = |zone: &str| {
            let taken = |id: &RaftId| !group.lost.contains(id) && members.contains(id);
            group
                .zones
                .iter()
                .filter(|(id, z)| taken(id) && z.as_str() == zone)
                .count()
        };
        let best = group
            .candidates
            .iter()
            .min_by_key(|c| (crowd(&c.zone), c.node))?;
        return Some(VoterMove::Assign(best.node, best.addr));
    }
    None
}

/// The largest odd number up to `n`, at least 1.
fn odd_below(n: usize) -> usize {
    n.saturating_sub(usize::from(n.is_multiple_of(2))).max(1)
}

impl Master {
    /// Takes the next step when none is under way.
    pub(super) fn plan_voters(&mut self, out: &mut Vec<MasterAction>) {
        if self.bootstrap_group() {
            return;
        }
        self.watch_voters(out);
        let now = self.now;
        let conf = self.raft.conf();
        let is_joint = conf.is_joint();
        let group = self.voter_group();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let plan = &mut leading.voters;
        let waits = plan.step != Step::Idle && now.since(plan.since) < STEP_TIMEOUT;
        if is_joint || waits || leading.busy.contains(&Task::Voters) {
            return;
        }
        plan.step = Step::Idle;
        let Some(next) = next_move(&group) else {
            return;
        };
        plan.since = now;
        tracing::info!(?next, "voters change");
        match next {
            VoterMove::Assign(node, addr) => {
                plan.step = Step::Assigning;
                let last = self.raft.last_index();
                let raft_id = self.config.raft_id.assigned_after(last.0);
                self.propose_task(
                    Task::Voters,
                    Command::VoterAssigned {
                        node,
                        raft_id,
                        addr,
                    },
                );
            }
            VoterMove::Change(change) => self.change_members(change),
            VoterMove::Retire(raft_id) => {
                plan.step = Step::Assigning;
                // Its node is told when this is applied and the id still in use there.
                self.propose_task(Task::Voters, Command::VoterRetired { raft_id });
            }
        }
    }

    /// The first entries of a cluster, and the first voter's address. True while that is due.
    fn bootstrap_group(&mut self) -> bool {
        let Some(leading) = self.leading.as_deref() else {
            return true;
        };
        if leading.busy.contains(&Task::Bootstrap) || !self.raft.has_committed_in_term() {
            return true;
        }
        if self.state.cluster().is_none() {
            if let Some(b) = self.bootstrap {
                let (cluster, quorum, pgs, voters) = (b.cluster, b.quorum, b.pgs, b.voters);
                let command = Command::Bootstrap {
                    cluster,
                    quorum,
                    pgs,
                    voters,
                };
                self.propose_task(Task::Bootstrap, command);
            }
            return true;
        }
        let (node, raft_id, addr) = (self.config.node, self.config.raft_id, self.config.addr);
        if !self.state.raft_nodes().contains_key(&raft_id) {
            let command = Command::VoterAssigned {
                node,
                raft_id,
                addr,
            };
            self.propose_task(Task::Bootstrap, command);
            return true;
        }
        false
    }

    fn voter_group(&self) -> Group {
        let nodes = self.state.raft_nodes();
        let rows = self.state.stores();
        let now = self.now;
        let mut lost_nodes = BTreeSet::new();
        let mut kept_nodes = BTreeSet::new();
        let mut live_nodes: BTreeMap<NodeId, Candidate> = BTreeMap::new();
        let mut zones: BTreeMap<NodeId, &str> = BTreeMap::new();
        let Some(leading) = self.leading.as_deref() else {
            return Group::default();
        };
        for row in rows.values() {
            let down = leading.stores.down.get(&row.store);
            if down.is_none() || !zones.contains_key(&row.node) {
                zones.insert(row.node, &row.zone);
            }
            // A store that the node had before says nothing about the node.
            let is_lost = down.is_some_and(|at| now.since(*at) >= self.config.voter_grace);
            match row.draining || is_lost {
                true => lost_nodes.insert(row.node),
                false => kept_nodes.insert(row.node),
            };
            let heard = leading.stores.heard.contains_key(&row.store);
            if heard && down.is_none() && !row.draining {
                let (node, addr, zone) = (row.node, row.addr, row.zone.clone());
                live_nodes.insert(node, Candidate { node, addr, zone });
            }
        }
        let mut lost: BTreeSet<RaftId> = nodes
            .iter()
            .filter(|(_, (n, _))| lost_nodes.contains(n) && !kept_nodes.contains(n))
            .map(|(id, _)| *id)
            .collect();
        let (claims, absent) = (self.claims(leading), self.absent_members(leading));
        let silent = self.silent_members(leading);
        let runs = |id: &RaftId| claims.values().any(|c| c.voting == Voting::As(*id));
        let stuck = silent.iter().copied().filter(runs).collect();
        lost.extend(absent.iter().chain(&silent));
        let is_asked_lately = |node: &NodeId| {
            leading
                .voters
                .refused
                .get(node)
                .is_some_and(|at| now.since(*at) < STEP_TIMEOUT)
        };
        for (_, (node, _)) in nodes.iter().filter(|(id, _)| !absent.contains(id)) {
            live_nodes.remove(node);
        }
        let is_free = |node: &NodeId| claims.get(node).is_some_and(Claim::is_free);
        live_nodes.retain(|node, _| is_free(node) && !is_asked_lately(node));
        let commit = self.raft.commit_index().0;
        let caught_up = |id: RaftId| {
            self.raft.is_active(id)
                && self
                    .raft
                    .progress(id)
                    .is_some_and(|at| at.0 + CAUGHT_UP >= commit)
        };
        let zone = |node: &NodeId| {
            zones
                .get(node)
                .map_or_else(String::new, |z| (*z).to_owned())
        };
        Group {
            wanted: usize::from(self.state.cluster().map_or(1, |c| c.voters)),
            me: self.config.raft_id,
            voters: self.raft.voters().to_vec(),
            learners: self
                .raft
                .learners()
                .iter()
                .map(|id| (*id, caught_up(*id)))
                .collect(),
            zones: nodes
                .iter()
                .map(|(id, (node, _))| (*id, zone(node)))
                .collect(),
            lost,
            stuck,
            candidates: live_nodes.into_values().collect(),
        }
    }

    fn change_members(&mut self, change: ConfChange) {
        let token = self.next_token();
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.voters.step = Step::Changing { token };
        }
        self.feed_raft(RaftEvent::ProposeConf { token, change });
    }

    /// An id was committed (or retired): asks the node to take it.
    pub(super) fn voter_assigned(&mut self, command: &Command, out: &mut Vec<MasterAction>) {
        let token = self.next_token();
        let cluster = self.state.cluster().map(|c| c.cluster);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.voters.step = Step::Idle;
        if let (
            &Command::VoterAssigned {
                node,
                raft_id,
                addr,
            },
            Some(cluster),
        ) = (command, cluster)
            && raft_id != self.config.raft_id
        {
            leading.voters.step = Step::Asking { token, id: raft_id };
            let request = NodeRequest::BecomeVoter { cluster, raft_id };
            out.push(call(token, node, addr, request));
        }
    }

    /// The node answered: it runs under the id and may learn.
    pub(super) fn voter_answered(&mut self, token: u64, result: &CallResult) -> bool {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return false;
        };
        let Step::Asking { token: asked, id } = leading.voters.step else {
            return false;
        };
        if asked != token {
            return false;
        }
        leading.voters.step = Step::Idle;
        match result {
            Ok(_) => self.change_members(ConfChange::One(ConfStep::AddLearner(id))),
            Err(error) => {
                tracing::warn!(?id, %error, "the node did not become a voter");
                if let Some((node, _)) = self.state.raft_nodes().get(&id) {
                    leading.voters.refused.insert(*node, now);
                }
            }
        }
        true
    }

    pub(super) fn voter_change_done(&mut self, token: u64) {
        if let Some(leading) = self.leading.as_deref_mut()
            && leading.voters.step == (Step::Changing { token })
        {
            leading.voters.step = Step::Idle;
        }
    }

    pub(super) fn voter_change_failed(&mut self, token: u64, error: &WireError) {
        if let Some(leading) = self.leading.as_deref_mut()
            && leading.voters.step == (Step::Changing { token })
        {
            tracing::info!(%error, "a change of voters was refused");
            leading.voters.step = Step::Idle;
        }
    }
}

pub(super) fn call(
    token: u64,
    node: NodeId,
    addr: SocketAddr,
    request: NodeRequest,
) -> MasterAction {
    let to = CallTarget::Node(node, addr);
    MasterAction::Call(Call {
        token,
        to,
        request: Request::Node(request),
        payload: Vec::new(),
    })
}

#[cfg(test)]
#[path = "voters_tests.rs"]
mod tests;

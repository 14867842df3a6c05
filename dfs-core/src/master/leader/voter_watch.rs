//! Members of the master group that are there by name only, and ids that nodes run for nothing.
//!
//! What counts as lost besides a node that is down:
//! 1. *absent*: the node says, heartbeat after heartbeat, that it does not run this id (its files
//!    were damaged and set aside, or it stopped by a failure);
//! 2. *silent*: the leader has not heard the member for `voter_grace`, whatever its node does;
//! 3. *orphaned*: no node is on record for it.
//!
//! A node that runs an id which is no member and never will be is told to let go of it.
//!
//! Invariants:
//! 1. an id without a row (`VoterRetired` is applied, or it was never assigned) that is no member
//!    becomes none: only the leader that has it assigned proposes it, and before it retires it. So
//!    only then a node is told to erase what it runs; a leader that was deposed is refused by its
//!    term;
//! 2. both watches are of one leader's term and begin anew when its process was stalled.
use super::event::MasterAction;
use super::leading::Leading;
use super::machine::Master;
use crate::types::{NodeId, RaftId, Time};
use crate::wire::NodeRequest;
use crate::wire::master::Voting;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A node must say for so long that it does not run an id: its heartbeats come every 500 ms.
const ABSENT_AFTER: Duration = Duration::from_secs(3);
/// Until a node is told again to let go of an id.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Since when members look lost; soft state of one term.
#[derive(Debug, Default)]
pub(super) struct VoterWatch {
    absent: BTreeMap<RaftId, Time>,
    silent: BTreeMap<RaftId, Time>,
    /// Ids that nodes were told to let go of.
    told: BTreeMap<RaftId, Time>,
}

/// What a node says of its vote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub voting: Voting,
    addr: SocketAddr,
    heard_at: Time,
}

impl Claim {
    fn denies(&self, id: RaftId) -> bool {
        match self.voting {
            Voting::Unknown => false,
            Voting::No | Voting::Failed => true,
            Voting::As(other) => other != id,
        }
    }

    /// It runs nothing that a new voter would replace.
    pub fn is_free(&self) -> bool {
        matches!(self.voting, Voting::No | Voting::Failed)
    }
}

impl VoterWatch {
    /// This process was stalled: what it did not hear meanwhile means nothing.
    pub fn forgive(&mut self) {
        self.absent.clear();
        self.silent.clear();
    }
}

/// Keeps since when `id` is in this state.
fn keep(since: &mut BTreeMap<RaftId, Time>, id: RaftId, is_so: bool, now: Time) {
    match is_so {
        true => {
            since.entry(id).or_insert(now);
        }
        false => {
            since.remove(&id);
        }
    }
}

impl Master {
    /// Everybody in the group, in force now.
    pub(super) fn group_members(&self) -> BTreeSet<RaftId> {
        let conf = self.raft.conf();
        let lists = [
            &conf.voters,
            &conf.voters_outgoing,
            &conf.learners,
            &conf.learners_next,
        ];
        lists.into_iter().flatten().copied().collect()
    }

    /// The newest word of each node that is up.
    pub(super) fn claims(&self, leading: &Leading) -> BTreeMap<NodeId, Claim> {
        let mut claims: BTreeMap<NodeId, Claim> = BTreeMap::new();
        for row in self.state.stores().values() {
            let soft = leading.stores.heard.get(&row.store);
            let Some(soft) = soft.filter(|_| !leading.stores.down.contains_key(&row.store)) else {
                continue;
            };
            let claim = Claim {
                voting: soft.load.voting,
                addr: row.addr,
                heard_at: soft.heard_at,
            };
            let known = claims.entry(row.node).or_insert(claim);
            if known.heard_at < claim.heard_at {
                *known = claim;
            }
        }
        claims
    }

    /// Nodes whose voter does not open, in words.
    pub(super) fn failed_voters(&self, leading: &Leading) -> Vec<String> {
        let claims = self.claims(leading).into_iter();
        let failed = claims.filter(|(_, claim)| claim.voting == Voting::Failed);
        let word = |(node, _): (NodeId, Claim)| {
            format!(
                "node {:08x} runs without its voter, which has failed (its log says why)",
                node.0 >> 96
            )
        };
        failed.map(word).collect()
    }

    /// Looks at every member, and tells nodes to let go of ids that are out of the group.
    pub(super) fn watch_voters(&mut self, out: &mut Vec<MasterAction>) {
        let (now, me) = (self.now, self.config.raft_id);
        let members = self.group_members();
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        let claims = self.claims(leading);
        let rows = self.state.raft_nodes();
        let others = members.iter().copied().filter(|id| *id != me);
        let looks: Vec<(RaftId, bool, bool)> = others
            .map(|id| {
                let claim = rows.get(&id).and_then(|(node, _)| claims.get(node));
                let is_absent = claim.is_some_and(|claim| claim.denies(id));
                (id, is_absent, !self.raft.is_active(id))
            })
            .collect();
        let is_stray = |id: RaftId| {
            id.group() == me.group() && !members.contains(&id) && !rows.contains_key(&id)
        };
        let strays: Vec<(NodeId, SocketAddr, RaftId)> = claims
            .iter()
            .filter_map(|(node, claim)| match claim.voting {
                Voting::As(id) if is_stray(id) => Some((*node, claim.addr, id)),
                _ => None,
            })
            .collect();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let (term, watch) = (leading.term, &mut leading.voters.watch);
        watch.absent.retain(|id, _| members.contains(id));
        watch.silent.retain(|id, _| members.contains(id));
        for (id, is_absent, is_silent) in looks {
            keep(&mut watch.absent, id, is_absent, now);
            keep(&mut watch.silent, id, is_silent, now);
        }
        watch.told.retain(|_, at| now.since(*at) < TELL_EVERY);
        for (node, addr, raft_id) in strays {
            if let Entry::Vacant(told) = watch.told.entry(raft_id) {
                told.insert(now);
                tracing::info!(?raft_id, %node, "this node shall let go of its vote");
                self.tokens += 1;
                let request = NodeRequest::RetireVoter { raft_id, term };
                out.push(super::voters::call(self.tokens, node, addr, request));
            }
        }
    }

    /// Members whose node says that it does not run them: gone for good.
    pub(super) fn absent_members(&self, leading: &Leading) -> BTreeSet<RaftId> {
        let claims = self.claims(leading);
        let absent = leading.voters.watch.absent.iter();
        let is_sure = |(id, since): &(&RaftId, &Time)| {
            let node = self.state.raft_nodes().get(*id).map(|(node, _)| *node);
            let claim = node.and_then(|node| claims.get(&node));
            let said = claim.is_some_and(|c| c.denies(**id) && c.heard_at > **since);
            said && self.now.since(**since) >= ABSENT_AFTER
        };
        absent.filter(is_sure).map(|(id, _)| *id).collect()
    }

    /// Members that are silent for too long, and those that no node is on record for.
    pub(super) fn silent_members(&self, leading: &Leading) -> BTreeSet<RaftId> {
        let silent = leading.voters.watch.silent.iter();
        let is_long = |since: &Time| self.now.since(*since) >= self.config.voter_grace;
        let silent = silent
            .filter(|(_, since)| is_long(since))
            .map(|(id, _)| *id);
        let rows = self.state.raft_nodes();
        let members = self.group_members().into_iter();
        let orphans = members.filter(|id| !rows.contains_key(id));
        silent.chain(orphans).collect()
    }
}

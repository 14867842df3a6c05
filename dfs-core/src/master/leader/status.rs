//! The cluster at a glance, for people.
use super::leading::Leading;
use super::machine::Master;
use super::reads::broken;
use crate::master::command::ChangeCause;
use crate::placement::{StoreRole, StoreView};
use crate::types::{ClientId, NodeId, PgPhase, StoreId};
use crate::wire::WireError;
use crate::wire::master::{ClusterStatus, Health, StoreInfo};
use std::collections::BTreeSet;
use std::time::Duration;

/// Health and its reasons, worst last.
#[derive(Debug)]
struct Verdict {
    health: Health,
    reasons: Vec<String>,
    notices: Vec<String>,
}

impl Verdict {
    fn add(&mut self, health: Health, reason: String) {
        self.health = self.health.max(health);
        self.reasons.push(reason);
    }
}

impl Master {
    pub(super) fn status(&mut self) -> Result<ClusterStatus, WireError> {
        let statfs = self.statfs_now().map_err(broken)?;
        let deletes_waiting = self.state.delete_queue_len().map_err(broken)?;
        let Some(leading) = self.leading.as_deref() else {
            return Err(self.not_leader());
        };
        let mut verdict = self.verdict(leading);
        if self.has_no_room(leading, &statfs) {
            let reason = "no room for anything new: delete files, purge history or add a node";
            verdict.add(Health::Degraded, reason.into());
        }
        let map = self.state.map();
        let phase = |phase| map.pgs.iter().filter(|pg| pg.phase == phase).count() as u32;
        let filling: u64 = map.pgs.iter().map(|pg| pg.filling.len() as u64).sum();
        let part = |total: u64| total.saturating_mul(filling) / (map.pgs.len() as u64).max(1);
        let voters_wanted = self.state.cluster().map_or(0, |c| c.voters);
        Ok(ClusterStatus {
            health: verdict.health,
            reasons: verdict.reasons,
            notices: verdict.notices,
            stores: self
                .state
                .stores()
                .keys()
                .map(|s| self.store_info(leading, *s))
                .collect(),
            pgs: (
                phase(PgPhase::Active),
                phase(PgPhase::Fencing),
                phase(PgPhase::Copying),
            ),
            term: leading.term,
            applied: self.state.applied().index,
            voters_wanted,
            sessions: self
                .state
                .sessions()
                .map(|(id, s)| self.session(leading, id, &s.label))
                .collect(),
            repair_paused: self.state.repair_paused(),
            repair_left: (part(statfs.inodes), part(statfs.live_bytes)),
            deletes_waiting,
            statfs,
            orphans: leading.orphans_seen,
            locks: (self.state.locks().count(), leading.lock_waits.count()),
            repair_rate: leading.stores.speed(),
            boosted: self.state.repairs().boost().since(self.log_now()),
        })
    }

    fn session(&self, leading: &Leading, id: ClientId, label: &str) -> (ClientId, String) {
        let silent = leading.liveness.silent_for(id, self.now);
        if silent > Duration::from_secs(2) {
            return (id, format!("{label} (silent for {} s)", silent.as_secs()));
        }
        (id, label.to_owned())
    }

    fn store_info(&self, leading: &Leading, store: StoreId) -> StoreInfo {
        let row = &self.state.stores()[&store];
        let soft = leading.stores.heard.get(&store);
        let map = self.state.map();
        let member =
            |pg: &&crate::types::PgInfo| pg.members.contains(&store) || pg.prior.contains(&store);
        let votes = |id: &crate::types::RaftId| {
            self.state
                .raft_nodes()
                .get(id)
                .is_some_and(|(node, _)| *node == row.node)
        };
        let applied = self.state.applied().index.0;
        let is_former = self.is_former(leading, store);
        StoreInfo {
            store,
            node: row.node,
            incarnation: row.incarnation,
            addr: row.addr,
            up: soft.is_some() && !leading.stores.down.contains_key(&store),
            down_since: row.down_since,
            voter: self.raft.voters().iter().any(votes) && !is_former,
            leader: row.node == self.config.node && !is_former,
            total_bytes: soft.map_or(row.total, |s| s.total),
            free_bytes: self.free_on_device(leading, row),
            used_bytes: soft.map_or(row.used, |s| s.used),
            pgs: map.pgs.iter().filter(member).count() as u32,
            lacking: self.lacking_groups(leading, store),
            filling: map
                .pgs
                .iter()
                .filter(|pg| pg.filling.contains(&store))
                .count() as u32,
            behind: soft.map_or(0, |s| applied.saturating_sub(s.cursor.0)),
            draining: row.draining,
            failed: soft.is_some_and(|s| s.failed),
            slow: leading.stores.slow.contains(&store),
            full: self.is_full(leading, store),
            starved: soft.map_or(0, |s| s.load.starved),
            disk_ms: soft.map_or(0, |s| s.load.disk_us.div_ceil(1000)),
            wiping: soft.map_or(0, |s| s.wiping),
            read_bytes: soft.map_or(0, |s| s.load.read_bytes),
        }
    }

    fn verdict(&self, leading: &Leading) -> Verdict {
        let mut v = Verdict {
            health: Health::Healthy,
            reasons: Vec::new(),
            notices: Vec::new(),
        };
        let map = self.state.map();
        let quorum = map.quorum;
        let rows = self.state.stores();
        let up: BTreeSet<StoreId> = rows
            .keys()
            .copied()
            .filter(|s| {
                leading.stores.heard.contains_key(s) && !leading.stores.down.contains_key(s)
            })
            .collect();
        let needs = |what: &str, n: u8| {
            format!(
                "{what} need {what_n}={n} stores, {k} are up",
                what_n = if what == "writes" { "W" } else { "R" },
                k = up.len()
            )
        };
        if self.state.cluster().is_none() || map.pgs.iter().any(|pg| pg.members.is_empty()) {
            let nodes = self.nodes_that_stay(leading);
            let reason = format!(
                "the cluster begins with N={} nodes, {nodes} are up and stay",
                quorum.n,
            );
            v.add(Health::Unavailable, reason);
            return v;
        }
        if up.len() < usize::from(quorum.w) {
            v.add(Health::Unavailable, needs("writes", quorum.w));
        }
        if up.len() < usize::from(quorum.r) {
            v.add(Health::Unavailable, needs("reads", quorum.r));
        }
        self.judge_groups(leading, &up, &mut v);
        self.judge_stores(leading, &mut v);
        v.notices.extend(self.failed_voters(leading));
        self.judge_silent(leading, &up, &mut v);
        let wanted = usize::from(self.state.cluster().map_or(1, |c| c.voters));
        let nodes: BTreeSet<NodeId> = rows.values().map(|row| row.node).collect();
        let possible = wanted.min(nodes.len().max(1));
        let voting = self
            .raft
            .voters()
            .iter()
            .filter(|id| self.raft.is_active(**id))
            .count();
        if voting < possible && possible > 1 && !(possible == 2 && voting == 1) {
            v.add(
                Health::Degraded,
                format!("{voting} of {wanted} voters are up"),
            );
        }
        v
    }

    /// Nodes of which a store may be the first member of a group.
    fn nodes_that_stay(&self, leading: &Leading) -> usize {
        let views = self.views(leading, None);
        let stays = |v: &&StoreView| !matches!(v.role, StoreRole::Keeps | StoreRole::Leaves);
        let nodes: BTreeSet<NodeId> = views.iter().filter(stays).map(|v| v.node).collect();
        nodes.len()
    }

    /// Stores that are down, or were not told what happened lately.
    fn judge_silent(&self, leading: &Leading, up: &BTreeSet<StoreId>, v: &mut Verdict) {
        for (store, row) in self.state.stores() {
            let members = self
                .state
                .map()
                .pgs
                .iter()
                .filter(|pg| pg.members.contains(store) || pg.prior.contains(store))
                .count();
            let soft = leading.stores.heard.get(store);
            if !up.contains(store) {
                let node = row.node.0 >> 96;
                let is_former = self.is_former(leading, *store);
                match members {
                    0 if is_former => v.notices.push(format!(
                        "store {store}, which node {node:08x} had before, is not needed any more: \
                         `dfs-tools remove {store}`"
                    )),
                    n if is_former => v.add(
                        Health::Degraded,
                        format!(
                            "store {store}, which node {node:08x} had before, is gone, {n} groups \
                             on it"
                        ),
                    ),
                    0 => v
                        .notices
                        .push(format!("node {node:08x} is down; its data is elsewhere")),
                    n => v.add(
                        Health::Degraded,
                        format!("node {node:08x} is down, {n} groups on it"),
                    ),
                }
            } else if let Some(s) = soft
                && members > 0
                && self.is_behind(leading, s.cursor)
            {
                v.add(Health::Degraded, format!("store {store} has not caught up"));
            }
        }
    }

    /// Stores that are up and cannot do all that they should.
    fn judge_stores(&self, leading: &Leading, v: &mut Verdict) {
        for (store, row) in self.state.stores() {
            let node = row.node.0 >> 96;
            let Some(soft) = leading.stores.heard.get(store) else {
                continue;
            };
            if !leading.stores.down.contains_key(store)
                && let Some(reason) = self.lacking(leading, *store)
            {
                v.add(Health::Degraded, reason);
            }
            if soft.load.starved > 0 {
                let count = soft.load.starved;
                let why = format!(
                    "node {node:08x} has no room for {count} objects: free space or add a node"
                );
                v.add(Health::Degraded, why);
            }
            if soft.load.set_aside {
                let why = format!(
                    "node {node:08x} keeps a damaged store that was set aside: see `dfs-tools scrub status`"
                );
                v.notices.push(why);
            }
            if leading.stores.slow.contains(store) {
                let ms = soft.load.disk_us.div_ceil(1000);
                let why = format!(
                    "the disk of node {node:08x} is slow ({ms} ms): it gets new copies only where there is no other place"
                );
                v.notices.push(why);
            }
        }
    }

    fn judge_groups(&self, leading: &Leading, up: &BTreeSet<StoreId>, v: &mut Verdict) {
        let map = self.state.map();
        let (n, least) = (
            usize::from(map.quorum.n),
            usize::from(map.quorum.w.max(map.quorum.r)),
        );
        let mut degraded = 0;
        let mut at_risk = 0;
        let mut unavailable = 0;
        for (pg, state) in self.state.pgs() {
            let live = state.info.members.iter().filter(|m| up.contains(m)).count();
            // Who gave its copy away keeps it until it is complete elsewhere, unless it had only a part.
            let moves = matches!(
                state.cause,
                ChangeCause::Rebalance(_) | ChangeCause::Drain(_)
            );
            let keeps = |m: &&StoreId| up.contains(m) && !self.state.is_partial(pg, **m);
            let kept = state.info.prior.iter().filter(|m| moves && keeps(m));
            let kept_full = kept.clone().filter(|m| leading.has_all(**m, pg)).count();
            let kept = kept.count();
            let copies = || state.complete().filter(|m| up.contains(m));
            let none = copies().count() + kept == 0;
            // One that lacks objects still gives the others.
            let full = copies().filter(|m| leading.has_all(*m, pg)).count();
            let full = (full + kept_full).min(n);
            if live < least || none || state.info.phase == PgPhase::Fencing {
                unavailable += 1;
            } else if full <= 1 && n > 1 {
                at_risk += 1;
            } else if full < n {
                degraded += 1;
            }
        }
        if unavailable > 0 {
            v.add(
                Health::Unavailable,
                format!("{unavailable} groups cannot be written or read"),
            );
        }
        if at_risk > 0 {
            v.add(
                Health::AtRisk,
                format!("{at_risk} groups have one copy left"),
            );
        }
        if degraded > 0 {
            v.add(
                Health::Degraded,
                format!("{degraded} groups have fewer than {n} copies"),
            );
        }
    }
}

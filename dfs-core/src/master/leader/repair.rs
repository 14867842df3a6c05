//! Changes of placement groups: creation, failed stores, drain, rebalancing, and their receipts.
//!
//! ```text
//!  plan --BeginEpoch--> Fencing --fences or run-out leases, Activate--> Copying --Filled--> CLEAN
//! ```
//! A member that served is *fenced* when it has durably adopted the new epoch, or when the last
//! lease it can have has run out (with a margin). The group is activated when so many are fenced
//! that the others can form neither a read nor a write quorum: `served - min(R, W) + 1`.
use super::leading::{Leading, Task};
use super::machine::Master;
use crate::master::command::{ChangeCause, Command, PgChange};
use crate::master::state::PgState;
use crate::placement::{
    StoreRole, StoreView, plan_create, plan_drain, plan_failed, plan_rebalance,
};
use crate::types::{Epoch, NodeId, PgId, PgInfo, PgPhase, QuorumSizes, StoreId, Time};
use crate::wire::master::RepairReceipt;
use crate::wire::node::MemberState;
use std::collections::BTreeMap;
use std::time::Duration;

/// A store below this part of its size receives nothing.
const FULL_PERCENT: u64 = 5;

/// One repair under way.
#[derive(Debug)]
struct Job {
    began: Time,
    pgs: BTreeMap<PgId, Epoch>,
    count: u32,
    copied: (u64, u64),
    lowest: u8,
}

/// Repairs under way.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    jobs: BTreeMap<ChangeCause, Job>,
    receipts: Vec<RepairReceipt>,
    /// What was under way at the election was taken over.
    known: bool,
    /// Some group is being fenced.
    pub fencing: bool,
}

pub(super) fn is_down_by_gossip(members: &BTreeMap<NodeId, MemberState>, node: NodeId) -> bool {
    matches!(
        members.get(&node),
        Some(MemberState::Down | MemberState::Left)
    )
}

/// How many members that served must be fenced before a new epoch may serve.
pub(super) fn fences_needed(served: usize, quorum: QuorumSizes) -> usize {
    (served + 1)
        .saturating_sub(usize::from(quorum.r.min(quorum.w)))
        .max(1)
}

/// True if enough of the members that served have let go.
fn is_fenced(
    leading: &Leading,
    (pg, state): (PgId, &PgState),
    quorum: QuorumSizes,
    now: Time,
    lease: Duration,
) -> bool {
    let let_go = |store: &&StoreId| {
        leading.stores.has_adopted(**store, pg, state.info.epoch)
            || now >= leading.stores.leased_at(**store) + lease
    };
    let fenced = state.serving.iter().filter(let_go).count();
    fenced >= fences_needed(state.serving.len(), quorum)
}

impl Master {
    /// Activates groups whose former members have let go.
    pub(super) fn activate_fenced(&mut self) {
        let (now, lease) = (self.now, self.config.with_margin(self.config.serving_lease));
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        if !leading.repairs.fencing || leading.busy.contains(&Task::Activate) {
            return;
        }
        let quorum = self.state.map().quorum;
        let ready: Vec<(PgId, Epoch)> = self
            .state
            .pgs()
            .filter(|(_, state)| state.info.phase == PgPhase::Fencing)
            .filter(|(pg, state)| is_fenced(leading, (*pg, state), quorum, now, lease))
            .map(|(pg, state)| (pg, state.info.epoch))
            .collect();
        if !ready.is_empty() {
            self.propose_task(Task::Activate, Command::Activate { pgs: ready });
        }
    }

    /// The map changed: jobs begin and end.
    pub(super) fn map_changed(&mut self) {
        let now = self.state.applied().at;
        let live = self.live_copies();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let copied = leading.stores.copied;
        let repairs = &mut leading.repairs;
        let known = std::mem::replace(&mut repairs.known, true);
        repairs.fencing = self
            .state
            .pgs()
            .any(|(_, s)| s.info.phase == PgPhase::Fencing);
        for (pg, state) in self.state.pgs() {
            // A member that is only filled again is no new repair.
            let begins = state.info.phase == PgPhase::Fencing
                || (!known && state.info.phase == PgPhase::Copying);
            if !begins || state.cause == ChangeCause::Create {
                continue;
            }
            let job = repairs.jobs.entry(state.cause).or_insert_with(|| Job {
                began: state.began,
                pgs: BTreeMap::new(),
                count: 0,
                copied,
                lowest: u8::MAX,
            });
            if job.pgs.insert(pg, state.info.epoch).is_none() {
                job.count += 1;
                job.lowest = job.lowest.min(live[usize::from(pg.0)]);
            }
        }
        for (cause, job) in &mut repairs.jobs {
            job.pgs.retain(|pg, _| {
                self.state
                    .pgs()
                    .nth(usize::from(pg.0))
                    .is_some_and(|(_, state)| {
                        state.cause == *cause && state.info.phase != PgPhase::Active
                    })
            });
        }
        let stores = self.state.stores();
        let node = |store: &StoreId| stores.get(store).map_or(0, |row| row.node.0 >> 96);
        let (done, open): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut repairs.jobs)
            .into_iter()
            .partition(|(_, job)| job.pgs.is_empty());
        repairs.jobs = open;
        for (cause, job) in done {
            let cause = match cause {
                ChangeCause::Create => "created".to_owned(),
                ChangeCause::Failed(s) => format!("node {:08x} failed", node(&s)),
                ChangeCause::Drain(s) => format!("node {:08x} drained", node(&s)),
                ChangeCause::Rebalance(s) => format!("node {:08x} got its share", node(&s)),
            };
            repairs.receipts.push(RepairReceipt {
                cause,
                began: job.began,
                took_ms: u64::try_from(now.since(job.began).as_millis()).unwrap_or(u64::MAX),
                files: copied.0.saturating_sub(job.copied.0),
                bytes: copied.1.saturating_sub(job.copied.1),
                pgs: job.count,
                lowest_copies: job.lowest,
            });
        }
    }

    /// Live complete copies of each group.
    pub(super) fn live_copies(&self) -> Vec<u8> {
        let down = |store: &StoreId| {
            self.leading
                .as_ref()
                .is_some_and(|l| l.stores.down.contains_key(store))
        };
        let live = |(_, state): (PgId, &PgState)| {
            state
                .complete()
                .filter(|store| !down(store))
                .count()
                .min(255) as u8
        };
        self.state.pgs().map(live).collect()
    }

    /// Plans the next change, one cause at a time.
    pub(super) fn plan_repair(&mut self) {
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        if let Some(receipt) = leading.repairs.receipts.first().cloned()
            && !leading.busy.contains(&Task::Receipt)
        {
            tracing::info!(cause = receipt.cause, ms = receipt.took_ms, "repair ended");
            if let Some(leading) = self.leading.as_deref_mut() {
                leading.repairs.receipts.remove(0);
            }
            self.propose_task(Task::Receipt, Command::Receipt(receipt));
        }
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        if self.state.cluster().is_none() || leading.busy.contains(&Task::BeginEpoch) {
            return;
        }
        if let Some((cause, changes)) = self.next_change(leading) {
            tracing::info!(?cause, pgs = changes.len(), "placement changes");
            self.propose_task(Task::BeginEpoch, Command::BeginEpoch { cause, changes });
        }
    }

    fn next_change(&self, leading: &Leading) -> Option<(ChangeCause, Vec<PgChange>)> {
        let map = self.state.map();
        let settled = self.now.since(leading.stores.fresh_at) >= self.config.create_settle;
        if settled && map.pgs.iter().any(|pg| pg.members.is_empty()) {
            let changes = plan_create(map, &self.views(leading, None));
            return (!changes.is_empty()).then_some((ChangeCause::Create, changes));
        }
        if self.state.repair_paused() {
            return None;
        }
        self.next_failed(leading)
            .or_else(|| self.next_move(leading))
    }

    /// A failed store: everything after the grace period, at once what has one live copy left.
    fn next_failed(&self, leading: &Leading) -> Option<(ChangeCause, Vec<PgChange>)> {
        let live = self.live_copies();
        for (store, since) in &leading.stores.down {
            let is_over = self.now.since(*since) >= self.config.repair_grace;
            let mut changes =
                plan_failed(self.state.map(), &self.views(leading, Some(*store)), *store);
            changes.retain(|change| is_over || live[usize::from(change.pg.0)] <= 1);
            // A group none of whose complete copies is up has nothing to copy from.
            changes.retain(|change| live[usize::from(change.pg.0)] >= 1);
            if !changes.is_empty() {
                return Some((ChangeCause::Failed(*store), changes));
            }
        }
        None
    }

    /// Drain first, then rebalancing; only while nothing is broken, and a few groups at a time.
    fn next_move(&self, leading: &Leading) -> Option<(ChangeCause, Vec<PgChange>)> {
        let is_moving = |info: &&PgInfo| info.phase != PgPhase::Active;
        let moving = self.state.map().pgs.iter().filter(is_moving).count();
        let room = self
            .config
            .rebalance_pgs_max
            .checked_sub(moving)
            .filter(|room| *room > 0)?;
        let views = self.views(leading, None);
        let draining = self.state.stores().values().filter(|row| row.draining);
        for store in draining.map(|row| row.store) {
            let changes = plan_drain(self.state.map(), &views, store, room);
            if !changes.is_empty() {
                return Some((ChangeCause::Drain(store), changes));
            }
        }
        let settled = self.now.since(leading.stores.fresh_at) >= self.config.create_settle * 2;
        if !leading.stores.down.is_empty() || !settled {
            return None;
        }
        let (store, changes) = plan_rebalance(self.state.map(), &views, room)?;
        Some((ChangeCause::Rebalance(store), changes))
    }

    /// Stores as the planner sees them; `failed` counts as failed whatever its grace.
    fn views(&self, leading: &Leading, failed: Option<StoreId>) -> Vec<StoreView> {
        let view = |row: &crate::master::state::StoreRow| {
            let soft = leading.stores.heard.get(&row.store);
            let down = leading.stores.down.get(&row.store);
            let (total, free, used) = soft.map_or((row.total, row.free, row.used), |s| {
                (s.total, s.free, s.used)
            });
            let is_over = down.is_some_and(|at| self.now.since(*at) >= self.config.repair_grace);
            let role = if row.draining || is_over || failed == Some(row.store) {
                StoreRole::Leaves
            } else if down.is_some() || soft.is_none() || free < total / 100 * FULL_PERCENT {
                StoreRole::Keeps
            } else {
                StoreRole::Receives
            };
            StoreView {
                store: row.store,
                node: row.node,
                zone: row.zone.clone(),
                device: row.device,
                free_bytes: free,
                used_bytes: used,
                role,
            }
        };
        self.state.stores().values().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_fenced_forms_no_quorum() {
        for (n, w, r) in [
            (3, 2, 2),
            (1, 1, 1),
            (5, 3, 3),
            (3, 3, 2),
            (4, 3, 2),
            (5, 4, 2),
        ] {
            let quorum = QuorumSizes { n, w, r };
            for served in 1..=usize::from(n) {
                let left = served - fences_needed(served, quorum).min(served);
                assert!(
                    left < usize::from(r) && left < usize::from(w),
                    "{quorum:?} {served}"
                );
            }
        }
        assert_eq!(fences_needed(3, QuorumSizes::DEFAULT), 2);
        assert_eq!(fences_needed(1, QuorumSizes { n: 1, w: 1, r: 1 }), 1);
    }
}

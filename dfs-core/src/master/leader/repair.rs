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
use crate::master::state::repairs::JobCause;
use crate::placement::{
    plan_create, plan_drain, plan_failed, plan_rebalance, plan_relief, plan_spread, unevenness,
};
use crate::types::{Epoch, NodeId, PgId, PgInfo, PgMap, PgPhase, QuorumSizes, StoreId, Time};
use crate::wire::node::MemberState;
use crate::wire::repair::WaitKind;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A repair that begins so much later than it might have has waited for room.
const ROOM_LEAST_MS: u64 = 1_500;
/// A group that was moved for balance stays where it is for this long.
const MOVED_AGAIN: Duration = Duration::from_secs(60);

/// Stores must be so many slacks from their shares, for so long, before any group is moved for
/// balance; once begun, it goes on until they are within one.
const UNEVEN_FROM: f64 = 1.5;
const UNEVEN_FOR: Duration = Duration::from_millis(500);

/// What this leader knows of repairs beyond the state.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// Under way as of the last map.
    open: BTreeSet<JobCause>,
    /// Some group is being fenced.
    pub fencing: bool,
    /// Since when stores are far from their shares.
    uneven: Option<Time>,
}

impl Repairs {
    fn watch(&mut self, now: Time, off: f64) {
        let is_begun = self.is_uneven(now);
        self.uneven = match self.uneven {
            _ if off <= 1.0 => None,
            since if off > UNEVEN_FROM => since.or(Some(now)),
            since => since.filter(|_| is_begun),
        };
    }

    fn is_uneven(&self, now: Time) -> bool {
        self.uneven.is_some_and(|at| now.since(at) >= UNEVEN_FOR)
    }
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

    /// The map changed: jobs begin and end (the state counts them; this tells people).
    pub(super) fn map_changed(&mut self) {
        let open: BTreeSet<JobCause> = self.state.repairs().jobs().map(|job| job.cause).collect();
        let mut phases = self.state.pgs().map(|(_, s)| s.info.phase);
        let fencing = phases.any(|phase| phase == PgPhase::Fencing);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.repairs.fencing = fencing;
        let before = std::mem::replace(&mut leading.repairs.open, open);
        let ended = before.difference(&leading.repairs.open).count();
        if ended == 0 {
            return;
        }
        let records = self.state.repair_records().unwrap_or_default();
        for r in records.iter().rev().take(ended) {
            let (files, bytes, ms) = (r.files, r.bytes, r.took_ms);
            let lowest = r.lowest_copies;
            tracing::info!(cause = r.cause, files, bytes, ms, lowest, "repair ended");
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
        self.watch_balance();
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        if self.state.cluster().is_none() || leading.busy.contains(&Task::BeginEpoch) {
            return;
        }
        if let Some((cause, changes)) = self.next_change(leading) {
            tracing::info!(?cause, pgs = changes.len(), "placement changes");
            let waited = self.waited_before(cause);
            let command = Command::BeginRepair {
                cause,
                changes,
                waited,
            };
            self.propose_task(Task::BeginEpoch, command);
        }
    }

    fn watch_balance(&mut self) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        let (views, weights) = (self.views(leading, None), self.weights(leading));
        let map = self.state.map();
        let exist = map.pgs.iter().all(|pg| !pg.members.is_empty());
        let off = if exist {
            unevenness(map, &views, &weights)
        } else {
            0.0
        };
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.repairs.watch(now, off);
        }
    }

    /// What the repair of a failed store waited for, from the failure until now.
    fn waited_before(&self, cause: ChangeCause) -> Vec<(WaitKind, u64)> {
        let ChangeCause::Failed(store) = cause else {
            return Vec::new();
        };
        let row = self.state.stores().get(&store);
        let Some(down) = row.and_then(|row| row.down_since) else {
            return Vec::new();
        };
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (now, repairs) = (self.log_now(), self.state.repairs());
        let all = ms(now.since(down));
        let grace = all.min(ms(self.config.repair_grace));
        let paused = repairs.paused_between(down + Duration::from_millis(grace), now);
        let rest = all.saturating_sub(grace + paused);
        // Steps are taken now and then, and a new leader needs a moment.
        let room = if rest >= ROOM_LEAST_MS { rest } else { 0 };
        let all = [
            (WaitKind::Grace, grace),
            (WaitKind::Pause, paused),
            (WaitKind::Room, room),
        ];
        all.into_iter().filter(|(_, ms)| *ms > 0).collect()
    }

    fn next_change(&self, leading: &Leading) -> Option<(ChangeCause, Vec<PgChange>)> {
        let map = self.state.map();
        let settled = self.now.since(leading.stores.fresh_at) >= self.config.create_settle;
        if settled && map.pgs.iter().any(|pg| pg.members.is_empty()) {
            let changes = plan_create(map, &self.views(leading, None), &self.weights(leading));
            return (!changes.is_empty()).then_some((ChangeCause::Create, changes));
        }
        let timeout = self.config.heartbeat_timeout;
        let stores = self.state.stores().keys();
        // After an election: not on the word of whoever spoke first.
        if self.state.repair_paused() || !leading.stores.are_known(stores, self.now, timeout) {
            return None;
        }
        self.next_failed(leading)
            .or_else(|| self.next_move(leading))
    }

    /// A failed store: everything after the grace period, at once what has one live copy left. A
    /// copy that lacks what was written while its store restarted is one: it gets only that.
    fn next_failed(&self, leading: &Leading) -> Option<(ChangeCause, Vec<PgChange>)> {
        let live = self.live_copies();
        let weights = self.weights(leading);
        for (store, since) in &leading.stores.down {
            let is_over = self.now.since(*since) >= self.config.repair_grace;
            let mut changes = {
                let views = self.views(leading, Some(*store));
                plan_failed(self.state.map(), &views, &weights, *store)
            };
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
        let (views, weights) = (self.views(leading, None), self.weights(leading));
        let draining = self.state.stores().values().filter(|row| row.draining);
        for store in draining.map(|row| row.store) {
            let changes = plan_drain(self.state.map(), &views, &weights, store, room);
            if !changes.is_empty() {
                return Some((ChangeCause::Drain(store), changes));
            }
        }
        let settled = self.now.since(leading.stores.fresh_at) >= self.config.create_settle * 2;
        // One whose data is elsewhere does not come into it.
        let is_missed = |store: &StoreId| {
            let mut groups = self.state.pgs();
            groups.any(|(_, s)| s.info.members.contains(store) || s.info.prior.contains(store))
        };
        if leading.stores.down.keys().any(is_missed) || !settled {
            return None;
        }
        let is_uneven = leading.repairs.is_uneven(self.now);
        let map = &self.rested();
        let (store, changes) = plan_relief(self.state.map(), &views, &weights, room)
            .or_else(|| plan_spread(map, &views, &weights, room))
            .or_else(|| plan_rebalance(map, &views, &weights, room).filter(|_| is_uneven))?;
        Some((ChangeCause::Rebalance(store), changes))
    }

    /// The map, with groups that were moved for balance a moment ago as if they still were: files that
    /// grow would move them back and forth.
    fn rested(&self) -> PgMap {
        let (mut map, now) = (self.state.map().clone(), self.log_now());
        for (pg, state) in self.state.pgs() {
            let was_moved = matches!(state.cause, ChangeCause::Rebalance(_));
            if was_moved && now.since(state.began) < MOVED_AGAIN {
                map.pgs[usize::from(pg.0)].phase = PgPhase::Copying;
            }
        }
        map
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

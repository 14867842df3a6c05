//! Commands about stores, voters, placement and repair.
use super::{MasterState, RECEIPTS_MAX, refused};
use crate::master::command::{ChangeCause, Command, PgChange};
use crate::master::state::ctx::{Applied, StateError};
use crate::master::state::keys;
use crate::master::state::repairs::Repairs;
use crate::master::state::stores::StoreRow;
use crate::store::{Kv, prefix_end};
use crate::types::{Epoch, PgId, PgPhase, StoreId};
use crate::wire::repair::{FillCount, WaitKind};
use crate::wire::{ErrorCode, WireError};

impl<K: Kv> MasterState<K> {
    pub(super) fn dispatch_stores(&mut self, command: &Command) -> Result<Applied, StateError> {
        let kv = &mut self.kv;
        match command {
            Command::StoreSeen {
                store,
                node,
                incarnation,
                addr,
                zone,
                device,
            } => {
                if self.stores.is_removed(*store) {
                    return Ok(refused(
                        ErrorCode::Invalid,
                        "this store was removed for good",
                    ));
                }
                self.stores.moved(kv, *node, *addr);
                let row = StoreRow {
                    store: *store,
                    node: *node,
                    incarnation: *incarnation,
                    addr: *addr,
                    zone: zone.clone(),
                    device: *device,
                    total: 0,
                    free: 0,
                    used: 0,
                    down_since: None,
                    draining: false,
                };
                self.stores.seen(kv, row);
            }
            Command::StoreSpace { space } => {
                for &(store, total, free, used) in space {
                    self.stores.update(kv, store, |r| {
                        (r.total, r.free, r.used) = (total, free, used)
                    });
                }
            }
            Command::StoreDown { store, since } => {
                self.stores.update(kv, *store, |r| r.down_since = *since);
                self.repairs.store_down(kv, &self.pgs, &self.stores);
            }
            Command::StoreDrain { store, draining } => {
                self.stores.update(kv, *store, |r| r.draining = *draining);
            }
            Command::VoterAssigned {
                node,
                raft_id,
                addr,
            } => {
                let given = self.stores.assign(kv, *raft_id, *node, *addr);
                let in_use = || WireError::new(ErrorCode::Exists, "this Raft id is in use");
                return Ok(Applied {
                    refused: (!given).then(in_use),
                    ..Applied::default()
                });
            }
            Command::VoterRetired { raft_id } => self.stores.retire(kv, *raft_id),
            Command::StoreRemoved { store } => {
                if let Some(pg) = self.pgs.counts_in(*store) {
                    let detail = format!("it is still in placement group {}", pg.0);
                    return Ok(refused(ErrorCode::Invalid, detail));
                }
                self.stores.remove(kv, *store);
            }
            _ => {}
        }
        Ok(Applied::default())
    }

    pub(super) fn dispatch_repair(&mut self, command: &Command) -> Result<Applied, StateError> {
        let (kv, index, at) = (&mut self.kv, self.applied.index, self.applied.at);
        let map_changed = match command {
            Command::BeginEpoch { cause, changes } => self.begin(*cause, changes, &[]),
            Command::BeginRepair {
                cause,
                changes,
                waited,
            } => self.begin(*cause, changes, waited),
            Command::Activate { pgs } => {
                let is_fencing = |(pg, epoch): &&(PgId, Epoch)| {
                    let state = self.pgs.get(*pg).map(|s| &s.info);
                    state.is_some_and(|i| i.epoch == *epoch && i.phase == PgPhase::Fencing)
                };
                let fenced: Vec<PgId> = pgs.iter().filter(is_fencing).map(|p| p.0).collect();
                let changed = self.pgs.activate(kv, index, pgs);
                self.repairs.activated(kv, at, &self.pgs, &fenced);
                changed
            }
            Command::Filled { done } => self.pgs.filled(kv, index, done),
            Command::FilledCounted { store, done } => self.filled(*store, done)?,
            Command::Refill { members } => {
                let changed = self.pgs.refill(kv, index, members);
                let members: Vec<_> = members.iter().map(|(pg, _, store)| (*pg, *store)).collect();
                let tables = (&self.pgs, &self.stores);
                self.repairs.refilled(kv, at, &members, tables);
                changed
            }
            Command::RepairControl { paused } => {
                keys::put(kv, keys::PAUSED.to_vec(), paused);
                self.repair_paused = *paused;
                self.repairs.paused(kv, at, *paused);
                false
            }
            Command::RepairBoost { until } => {
                self.repairs.set_boost(kv, *until);
                false
            }
            Command::Rejoined { store, report } => {
                Repairs::rejoined(kv, (index, at), &self.stores, (*store, report))?;
                false
            }
            Command::Receipt(receipt) => {
                keys::put(kv, keys::receipt(index), receipt);
                let all = kv.scan(&[keys::RECEIPT], &prefix_end(&[keys::RECEIPT]), usize::MAX)?;
                for (key, _) in all.iter().take(all.len().saturating_sub(RECEIPTS_MAX)) {
                    kv.delete(key);
                }
                false
            }
            // Prior members are let go when a group is CLEAN; that they emptied is only news.
            _ => false,
        };
        if map_changed {
            let now = (index, at);
            self.repairs
                .close(&mut self.kv, now, &self.pgs, &self.stores)?;
        }
        Ok(Applied {
            map_changed,
            ..Applied::default()
        })
    }

    fn begin(
        &mut self,
        cause: ChangeCause,
        changes: &[PgChange],
        waited: &[(WaitKind, u64)],
    ) -> bool {
        let (kv, index, at) = (&mut self.kv, self.applied.index, self.applied.at);
        // A store may have been removed after the change was planned.
        let is_known = |store: &StoreId| self.stores.all().contains_key(store);
        let is_possible = |change: &&PgChange| change.members.iter().all(is_known);
        let changes: Vec<PgChange> = changes.iter().filter(is_possible).cloned().collect();
        let changed = self.pgs.begin(kv, index, at, cause, &changes);
        if changed {
            let tables = (&self.pgs, &self.stores);
            self.repairs
                .begun(kv, at, (cause, &changes), waited, tables);
        }
        changed
    }

    /// Members are complete, and what they copied counts (once, with the entry that changes it).
    fn filled(&mut self, store: StoreId, done: &[FillCount]) -> Result<bool, StateError> {
        let mut changed = false;
        for count in done {
            let member = [(count.pg, count.epoch, store)];
            if self.pgs.filled(&mut self.kv, self.applied.index, &member) {
                self.repairs
                    .counted(&mut self.kv, &self.pgs, store, count)?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

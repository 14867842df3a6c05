//! Stores that come back: what they say that they did, and groups that they want filled anew.
use super::leading::{Leading, Task};
use super::machine::Master;
use crate::master::command::Command;
use crate::types::{Epoch, PgId, PgInfo, PgPhase, StoreId};
use crate::wire::master::Heartbeat;
use crate::wire::repair::RejoinReport;

impl Master {
    /// A store has caught up, or wants groups to be filled anew.
    pub(super) fn note_return(&mut self, hb: &Heartbeat) {
        let noted = |r: &RejoinReport| self.state.rejoin_noted(hb.store, r).unwrap_or(true);
        if let Some(report) = hb.repair.rejoin.filter(|r| !noted(r)) {
            let store = hb.store;
            self.propose_task(Task::Rejoined(store), Command::Rejoined { store, report });
        }
        let is_busy = |l: &Leading| l.busy.contains(&Task::Refill);
        if hb.repair.renew.is_empty() || self.leading.as_deref().is_none_or(is_busy) {
            return;
        }
        let members = self.renewable(hb);
        if !members.is_empty() {
            self.propose_task(Task::Refill, Command::Refill { members });
        }
    }

    /// Groups of a store that wants them filled anew, a few at a time, and only those that have other
    /// members, all complete and up: the only copy stays.
    fn renewable(&self, hb: &Heartbeat) -> Vec<(PgId, Epoch, StoreId)> {
        let pgs = &self.state.map().pgs;
        let filling = |info: &&PgInfo| info.filling.contains(&hb.store);
        let under_way = pgs.iter().filter(filling).count();
        let room = self.config.rebalance_pgs_max.saturating_sub(under_way);
        let n = usize::from(self.state.map().quorum.n);
        let is_up = |s: &StoreId| {
            self.leading
                .as_deref()
                .is_some_and(|l| l.stores.heard.contains_key(s) && !l.stores.down.contains_key(s))
        };
        let is_ready = |(pg, epoch): &&(PgId, Epoch)| {
            pgs.get(usize::from(pg.0)).is_some_and(|info| {
                info.epoch == *epoch
                    && info.phase == PgPhase::Active
                    && info.members.len() == n
                    && n > 1
                    && info.members.contains(&hb.store)
                    && info.members.iter().all(is_up)
            })
        };
        let ready = hb.repair.renew.iter().filter(is_ready).take(room);
        ready.map(|(pg, epoch)| (*pg, *epoch, hb.store)).collect()
    }
}

//! What a change of the cluster has not done yet: checked until nothing is left.
use super::failover_watch::{State, Watch};
use super::settings::{node_id, store_id};
use super::world::World;
use dfs_core::master::command::ChangeCause;
use dfs_core::types::{PgId, StoreId, pg_of};

impl World {
    /// Why the change is not over; empty when it is.
    pub(super) fn what_is_left(&self, watch: &Watch) -> String {
        // Clients write all the time, so some copy is always on its way: that all are there is
        // looked at when they rest.
        let trouble = self.disorder_of_groups();
        if !trouble.is_empty() {
            return trouble;
        }
        let Some(state) = self.leader_state() else {
            return "nobody leads".into();
        };
        if !watch.is_reached(state) {
            return "the change is not done".into();
        }
        if let Some(stray) = self.stray(state) {
            return stray;
        }
        // Exactly one receipt for each group that was moved. A move that was overtaken by the failure of its
        // target may have one of its own if it was made again, and none if it was not.
        let told = self.receipted(watch).saturating_sub(watch.told_before) as usize;
        let moved = watch
            .moved
            .keys()
            .filter(|(c, _)| Some(*c) == watch.cause());
        let (parted, whole): (Vec<PgId>, Vec<PgId>) = moved
            .map(|(_, pg)| *pg)
            .partition(|pg| watch.parted.contains(pg));
        let all = parted.len() + whole.len();
        if (whole.len()..=all + watch.repeated).contains(&told) {
            String::new()
        } else {
            format!("receipts tell of {told} groups, {all} were moved")
        }
    }

    /// Groups that receipts of the change's cause tell of.
    pub(super) fn receipted(&self, watch: &Watch) -> u32 {
        let word = match watch.cause() {
            None => return 0,
            Some(ChangeCause::Failed(_)) => "failed",
            Some(ChangeCause::Drain(_)) => "drained",
            Some(_) => "got its share",
        };
        let cause = format!("node {:08x} {word}", node_id(watch.subject).0 >> 96);
        let records = self
            .leader_state()
            .and_then(|state| state.repair_records().ok());
        let mine = records.into_iter().flatten().filter(|r| r.cause == cause);
        mine.map(|r| r.pgs).sum()
    }

    /// An object on a store that is no member of its group.
    pub(super) fn stray(&self, state: &State) -> Option<String> {
        let groups: Vec<_> = state.pgs().map(|(_, s)| s).collect();
        for node in &self.nodes {
            let Some(daemon) = node.daemon.as_ref() else {
                continue;
            };
            let me: StoreId = store_id(node.index, 0);
            let listed = daemon
                .store
                .list_objects(None, usize::MAX >> 1)
                .unwrap_or_default();
            for object in listed {
                let Some(header) = object.header else {
                    continue;
                };
                let pg = pg_of(header.ino, header.chunk, self.pgs());
                let group = groups.get(usize::from(pg.0))?;
                if !group.info.members.contains(&me) && !group.info.prior.contains(&me) {
                    return Some(format!(
                        "node {} holds object {} of group {}, which is not its own",
                        node.index, object.id, pg.0
                    ));
                }
            }
        }
        None
    }

    pub(super) fn pgs(&self) -> u16 {
        u16::try_from(self.leader_state().map_or(1, |s| s.map().pgs.len())).unwrap_or(1)
    }
}

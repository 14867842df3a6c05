//! Invariant: once a group serves at an epoch, fewer than R of the members of any earlier epoch still
//! answer a reader who asks under that one.
//!
//! Otherwise a reader with an old map could be told that an old revision is the newest. The stores
//! are asked as readers ask them, over the path that requests take, at the moments at which the
//! leader has applied a new map, and now and then.
use super::world::World;
use dfs_core::types::{ChunkNo, Epoch, Ino, LogIndex, PgId, PgPhase, StoreId, pg_of};
use dfs_core::wire::replica::StampRequest;
use std::collections::BTreeMap;

/// Earlier epochs of a group that are asked about.
const EPOCHS: usize = 3;

/// Epochs that served, and by whom.
#[derive(Debug, Default)]
pub(super) struct Fences {
    seen: LogIndex,
    served: BTreeMap<PgId, BTreeMap<Epoch, Vec<StoreId>>>,
}

impl World {
    /// Looks when the leader's map is a new one.
    pub(super) fn watch_fences(&mut self) {
        let state = self.leader().and_then(|leader| self.state_of(leader));
        if state.is_none_or(|state| state.map().version <= self.fences.seen) {
            return;
        }
        self.check_fences();
    }

    pub(super) fn check_fences(&mut self) {
        let Some(state) = self.leader().and_then(|leader| self.state_of(leader)) else {
            return;
        };
        let (version, r) = (state.map().version, usize::from(state.map().quorum.r));
        let pgs = u16::try_from(state.map().pgs.len()).expect("few groups");
        let serves = |phase| phase != PgPhase::Fencing;
        let groups = state.pgs().filter(|(_, group)| serves(group.info.phase));
        let groups: Vec<_> = groups
            .map(|(pg, group)| (pg, group.info.epoch, group.info.members.clone()))
            .collect();
        self.fences.seen = self.fences.seen.max(version);
        for (pg, epoch, members) in groups {
            let served = self.fences.served.entry(pg).or_default();
            served.insert(epoch, members);
            let earlier: Vec<_> = served
                .range(..epoch)
                .rev()
                .take(EPOCHS)
                .map(|(epoch, members)| (*epoch, members.clone()))
                .collect();
            for (old, members) in earlier {
                let answer = self.who_answers((pg, pgs), old, &members);
                if answer.len() >= r {
                    self.fx.fail(format!(
                        "group {} serves at epoch {epoch}, and stores {answer:?} answer for its epoch {old}",
                        pg.0
                    ));
                }
            }
        }
    }

    /// Nodes whose stores, being members, answer a stamp under that epoch.
    fn who_answers(
        &mut self,
        (pg, pgs): (PgId, u16),
        epoch: Epoch,
        members: &[StoreId],
    ) -> Vec<usize> {
        let at_home = |ino: &Ino| pg_of(*ino, ChunkNo::HOME, pgs) == pg;
        let ino = (2..).map(Ino).find(at_home).expect("each group is a home");
        let wanted = StampRequest { ino, pg, epoch };
        let asked = self.nodes.iter_mut();
        asked
            .filter(|node| members.contains(&node.store()))
            .filter_map(|node| {
                node.answers_stamp(wanted, &mut self.fx)
                    .then_some(node.index)
            })
            .collect()
    }
}

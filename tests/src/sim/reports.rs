//! Invariant: what a store has reported as fenced it never takes back; after a restart its first
//! report names each group at that epoch or a later one.
use dfs_core::types::{Epoch, PgId, StoreId};
use dfs_core::wire::master::Heartbeat;
use std::collections::{BTreeMap, BTreeSet};

/// What stores have reported.
#[derive(Debug, Default)]
pub(super) struct Reports {
    fenced: BTreeMap<(StoreId, PgId), Epoch>,
    /// Runs of nodes that have reported.
    runs: BTreeSet<(StoreId, u64)>,
}

impl Reports {
    /// A store says this, in this run of its node.
    pub fn said(&mut self, hb: &Heartbeat, run: u64) -> Result<(), String> {
        let store = hb.store;
        let told: BTreeMap<PgId, Epoch> = hb.fenced.iter().copied().collect();
        let is_first = self.runs.insert((store, run));
        let known = self
            .fenced
            .range((store, PgId(0))..=(store, PgId(u16::MAX)));
        for (&(_, pg), &before) in known {
            let now = told.get(&pg).copied();
            if now.map_or(is_first, |now| now < before) {
                return Err(format!(
                    "store {store} had fenced epochs before {before} of group {}, and reports {now:?}",
                    pg.0
                ));
            }
        }
        for (pg, epoch) in told {
            self.fenced.insert((store, pg), epoch);
        }
        Ok(())
    }
}

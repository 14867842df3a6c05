//! Invariants of what only goes on, looked at while the run goes on:
//! 1. all voters that have applied the log up to an index have the same state (rolling hash);
//! 2. epochs of groups, the map's version and, in each run of a node, the applied index never go back;
//! 3. sessions, the delete queue and calls under way are bounded.
use super::node::Node;
use dfs_core::types::{Epoch, LogIndex, PgId};
use std::collections::BTreeMap;

/// Indices whose hash is remembered.
const HASHES: usize = 4096;
/// Sessions at most: those that are lost end after a while.
const SESSIONS_MAX: usize = 64;
/// Objects to be deleted at most.
const DELETES_MAX: u64 = 4000;
/// Calls of a node at most.
const CALLS_MAX: usize = 400;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    hashes: BTreeMap<LogIndex, (u32, usize)>,
    applied: BTreeMap<(usize, u64, u64), LogIndex>,
    /// Epochs, as of this index.
    epochs: (LogIndex, BTreeMap<PgId, Epoch>),
}

impl Progress {
    /// Looks at a node.
    pub fn look(&mut self, node: &Node) -> Result<(), String> {
        let Some(daemon) = &node.daemon else {
            return Ok(());
        };
        let index = node.index;
        if daemon.calls.len() > CALLS_MAX {
            let calls = daemon.calls.len();
            return Err(format!("node {index} has {calls} calls under way"));
        }
        let Some(voter) = &daemon.voter else {
            return Ok(());
        };
        let state = voter.master.state();
        let applied = state.applied();
        let (hash, first) = *self
            .hashes
            .entry(applied.index)
            .or_insert((applied.hash, index));
        if hash != applied.hash {
            return Err(format!(
                "voters differ at {}: node {first} had hash {hash}, node {index} has {}",
                applied.index, applied.hash
            ));
        }
        if self.hashes.len() > HASHES {
            self.hashes.pop_first();
        }
        let run = (index, node.run, voter.id.0);
        let before = self.applied.insert(run, applied.index);
        if before.is_some_and(|before| before > applied.index) {
            return Err(format!("node {index} went back to {}", applied.index));
        }
        let sessions = state.sessions().count();
        let deletes = state.delete_queue_len().map_err(|e| e.to_string())?;
        if sessions > SESSIONS_MAX || deletes > DELETES_MAX {
            return Err(format!(
                "node {index} knows {sessions} sessions and {deletes} objects to be deleted"
            ));
        }
        Ok(())
    }

    /// Looks at what the leader has applied.
    pub fn look_at_leader(&mut self, node: &Node) -> Result<(), String> {
        let voter = node.daemon.as_ref().and_then(|d| d.voter.as_ref());
        let Some(voter) = voter else { return Ok(()) };
        let state = voter.master.state();
        let (seen, epochs) = &mut self.epochs;
        // A new leader may not have applied yet all that the old one had.
        if state.applied().index < *seen {
            return Ok(());
        }
        *seen = state.applied().index;
        for (pg, group) in state.pgs() {
            let now = group.info.epoch;
            let before = epochs.insert(pg, now).unwrap_or(now);
            if before > now {
                return Err(format!(
                    "group {} went from epoch {before} back to {now}",
                    pg.0
                ));
            }
        }
        Ok(())
    }
}

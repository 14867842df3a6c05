//! The end of a run: what all nodes hold, compared with what they must hold.
use super::daemon::Daemon;
use super::node::Node;
use super::trace::Trace;
use super::voters::audit_voters;
use dfs_core::master::state::MasterState;
use dfs_core::master::state::PgState;
use dfs_core::master::state::namespace;
use dfs_core::store::{LazyKv, ObjectStore};
use dfs_core::types::{ObjectId, ObjectSum, PgId, StoreId};
use dfs_core::wire::master::PgRow;

type State = MasterState<LazyKv>;

fn daemon_of(nodes: &[Node], store: StoreId) -> Option<&Daemon> {
    let node = nodes.iter().find(|node| node.store() == store)?;
    node.daemon.as_deref()
}

fn state_of(node: &Node) -> Option<&State> {
    Some(node.daemon.as_ref()?.voter.as_ref()?.master.state())
}

/// What stores lack of what they shall hold; empty when nothing.
pub(super) fn disorder_of_stores(nodes: &[Node], state: &State, absent: Option<usize>) -> String {
    let present = |node: &&Node| node.run > 0 && Some(node.index) != absent;
    for node in nodes.iter().filter(present) {
        let Some(daemon) = node.daemon.as_ref() else {
            return format!("node {} is down", node.index);
        };
        if let Some(cause) = daemon.replica.failure() {
            return format!("the store of node {} has failed: {cause}", node.index);
        }
    }
    match missing(nodes, state) {
        Ok(()) => String::new(),
        Err(what) => what,
    }
}

/// The first object that a member of its group does not hold as it should.
fn missing(nodes: &[Node], state: &State) -> Result<(), String> {
    for (pg, group) in state.pgs() {
        for row in rows(state, pg)? {
            for (id, sum) in &row.objects {
                // One that is being filled counts for nothing yet: groups are moved at any time.
                for member in group.complete() {
                    let Some(daemon) = daemon_of(nodes, member) else {
                        return Err(format!("store {member} is down"));
                    };
                    holds(&daemon.store, *id, *sum)
                        .map_err(|e| format!("store {member}, group {}: {e}", pg.0))?;
                }
            }
        }
    }
    Ok(())
}

/// Complete members of its group hold this many copies of each object at least.
pub(super) fn have_copies(nodes: &[Node], state: &State, copies: usize) -> bool {
    let is_copied = |pg: PgId, group: &PgState| {
        let members: Vec<&Daemon> = group
            .complete()
            .filter_map(|store| daemon_of(nodes, store))
            .collect();
        let objects = |row: &PgRow| {
            row.objects.iter().all(|(id, sum)| {
                let held = members
                    .iter()
                    .filter(|d| holds(&d.store, *id, *sum).is_ok());
                held.count() >= copies
            })
        };
        rows(state, pg).is_ok_and(|rows| rows.iter().all(objects))
    };
    state.pgs().all(|(pg, group)| is_copied(pg, group))
}

fn rows(state: &State, pg: PgId) -> Result<Vec<PgRow>, String> {
    let listing = state.pg_listing(pg, None, usize::MAX >> 1);
    listing.map(|(rows, _)| rows).map_err(|e| e.to_string())
}

pub(super) fn holds(store: &ObjectStore, id: ObjectId, sum: ObjectSum) -> Result<(), String> {
    let plan = store
        .plan_read(id, 0, u32::MAX)
        .map_err(|e| format!("object {id}: {e}"))?;
    let read = plan.run().map_err(|e| format!("object {id}: {e}"))?;
    if read.sum == sum {
        Ok(())
    } else {
        Err(format!("object {id} has other bytes"))
    }
}

/// Checks everything; gives the number of placement epochs.
pub(super) fn audit(nodes: &[Node], leader: usize, trace: &mut Trace) -> Result<u64, String> {
    let state = state_of(&nodes[leader]).ok_or("the leader has no state")?;
    missing(nodes, state)?;
    let faults = namespace::check(state.kv(), state.map()).map_err(|e| e.to_string())?;
    if !faults.is_empty() {
        return Err(format!("the namespace's audit: {}", faults.join("; ")));
    }
    audit_voters(nodes, leader, trace)?;
    let applied = state.applied();
    trace.mix(applied.index.0);
    trace.mix(u64::from(applied.hash));
    let count = state.map().pgs.len() as u64;
    Ok(state
        .map()
        .pgs
        .iter()
        .map(|pg| pg.epoch.0)
        .sum::<u64>()
        .saturating_sub(count))
}

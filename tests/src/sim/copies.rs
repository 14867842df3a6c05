//! Invariant: acknowledged means that at least W stores hold durable, verified copies of each object of
//! the put. Looked at in the very moment in which a put is acknowledged: each store, up or down, is
//! opened as it would be if the power of all were cut then and nothing unsynced were left. A store whose
//! disk has failed or is damaged counts.
use super::audit::holds;
use super::node::Node;
use dfs_core::types::{ObjectId, ObjectSum};

/// Checks an acknowledged put's objects.
pub(super) fn check_copies(
    nodes: &[Node],
    objects: &[(ObjectId, ObjectSum)],
    w: usize,
) -> Result<(), String> {
    if objects.is_empty() {
        return Ok(());
    }
    let has_failed = |node: &Node| {
        let daemon = node.daemon.as_ref();
        daemon.is_some_and(|daemon| daemon.replica.failure().is_some())
    };
    let stores: Vec<_> = nodes
        .iter()
        .map(|node| node.store_after_power_cut().filter(|_| !has_failed(node)))
        .collect();
    for (id, sum) in objects {
        let may_hold = |store: &&Option<_>| match store {
            Some(store) => holds(store, *id, *sum).is_ok(),
            None => true,
        };
        let copies = stores.iter().filter(may_hold).count();
        if copies < w {
            return Err(format!(
                "a put is acknowledged and {copies} stores hold its object {id} for good"
            ));
        }
    }
    Ok(())
}

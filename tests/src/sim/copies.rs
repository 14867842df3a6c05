//! Invariant: acknowledged means that at least W stores hold verified copies of each object of the
//! put. Looked at in the very moment in which a put is acknowledged; a store that is down counts,
//! since it holds what it held, and so does a failed one.
use super::audit::holds;
use super::node::Node;
use dfs_core::types::{ObjectId, ObjectSum};

/// Checks an acknowledged put's objects.
pub(super) fn check_copies(
    nodes: &[Node],
    objects: &[(ObjectId, ObjectSum)],
    w: usize,
) -> Result<(), String> {
    for (id, sum) in objects {
        let may_hold = |node: &&Node| match &node.daemon {
            Some(daemon) => {
                daemon.replica.failure().is_some() || holds(&daemon.store, *id, *sum).is_ok()
            }
            None => true,
        };
        let copies = nodes.iter().filter(may_hold).count();
        if copies < w {
            return Err(format!(
                "a put is acknowledged and {copies} stores hold its object {id}"
            ));
        }
    }
    Ok(())
}

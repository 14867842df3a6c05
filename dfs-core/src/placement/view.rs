//! What the planner knows of a store, and how many PG copies each should hold.
use crate::types::{NodeId, PgMap, StoreId};
use std::collections::{BTreeMap, BTreeSet};

/// What a store may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreRole {
    /// May receive new copies.
    Receives,
    /// Serves what it has and receives nothing (away for less than the grace period, or wiping).
    Keeps,
    /// Full: receives nothing, and gives some away while others have room.
    Sheds,
    /// Its copies are to be moved away: failed, or being drained.
    Leaves,
    /// Slow, or with little room left: receives only what has no other place.
    Spare,
}

/// One store as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreView {
    /// The store.
    pub store: StoreId,
    /// Its node: never two copies on one.
    pub node: NodeId,
    /// Failure-domain label; empty means the node is its own.
    pub zone: String,
    /// Device, for shared free space.
    pub device: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes of objects held.
    pub used_bytes: u64,
    /// What it may be used for.
    pub role: StoreRole,
    /// Bytes per second that it serves, lately.
    pub load: u64,
    /// It lacks objects for want of room: its groups have a copy less than the map says.
    pub starved: bool,
}

impl StoreView {
    /// The failure domain: the label, or the node.
    #[must_use]
    pub fn domain(&self) -> Domain<'_> {
        if self.zone.is_empty() {
            Domain::Node(self.node)
        } else {
            Domain::Zone(&self.zone)
        }
    }
}

/// What fails together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain<'a> {
    /// One machine.
    Node(NodeId),
    /// A labelled zone.
    Zone(&'a str),
}

/// Copies of PGs each store holds now.
#[must_use]
pub fn held(map: &PgMap) -> BTreeMap<StoreId, u32> {
    let mut held = BTreeMap::new();
    for store in map.pgs.iter().flat_map(|pg| &pg.members) {
        *held.entry(*store).or_insert(0) += 1;
    }
    held
}

/// Copies each store should hold, by capacity: a node holds at most one copy of each PG.
///
/// Water-filling: shares in proportion to capacity, what exceeds a node's cap goes to the others.
/// Stores that leave get none. The sum is `pgs * n`, or all caps if there are fewer than `n` nodes.
#[must_use]
pub fn fair_shares(stores: &[StoreView], pgs: usize, n: u8) -> BTreeMap<StoreId, f64> {
    let staying: Vec<&StoreView> = stores
        .iter()
        .filter(|s| s.role != StoreRole::Leaves)
        .collect();
    let mut nodes: BTreeMap<NodeId, f64> = BTreeMap::new();
    for store in &staying {
        *nodes.entry(store.node).or_insert(0.0) += capacity(store, stores);
    }
    let by_node = fill_water(&nodes, pgs as f64, pgs as f64 * f64::from(n));
    staying
        .iter()
        .map(|s| {
            let part = capacity(s, stores) / nodes[&s.node];
            (s.store, by_node[&s.node] * part)
        })
        .collect()
}

/// Part of its capacity that a full store shall keep.
const SHED_TO: f64 = 0.9;

/// Bytes a store could hold: its part of what all stores on its device use and could still write.
/// Who uses more of the device now is not entitled to more.
fn capacity(store: &StoreView, all: &[StoreView]) -> f64 {
    let on_device = || all.iter().filter(|other| other.device == store.device);
    let used: u64 = on_device().map(|other| other.used_bytes).sum();
    let part = (used + store.free_bytes) / on_device().count().max(1) as u64;
    let keeps = match store.role {
        StoreRole::Sheds => SHED_TO,
        _ => 1.0,
    };
    part.max(1) as f64 * keeps
}

/// Part of what a store could hold that is still free.
#[must_use]
pub fn room(store: &StoreView, all: &[StoreView]) -> f64 {
    let on_device = all.iter().filter(|other| other.device == store.device);
    let used: u64 = on_device.map(|other| other.used_bytes).sum();
    store.free_bytes as f64 / (used + store.free_bytes).max(1) as f64
}

fn fill_water(weights: &BTreeMap<NodeId, f64>, cap: f64, total: f64) -> BTreeMap<NodeId, f64> {
    let mut shares = BTreeMap::new();
    let mut capped: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        let left = total - cap * capped.len() as f64;
        let free = || weights.iter().filter(|(node, _)| !capped.contains(node));
        let sum: f64 = free().map(|(_, w)| w).sum();
        let over: Vec<NodeId> = free()
            .filter(|(_, w)| left * **w / sum > cap)
            .map(|(node, _)| *node)
            .collect();
        if over.is_empty() {
            shares.extend(free().map(|(node, w)| (*node, left * w / sum)));
            shares.extend(capped.iter().map(|node| (*node, cap)));
            return shares;
        }
        capped.extend(over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(id: u64, free: u64) -> StoreView {
        StoreView {
            store: StoreId(u128::from(id)),
            node: NodeId(u128::from(id)),
            zone: String::new(),
            device: 1,
            free_bytes: free,
            used_bytes: 0,
            role: StoreRole::Receives,
            load: 0,
            starved: false,
        }
    }

    #[test]
    fn shares_follow_capacity_up_to_one_copy_per_node() {
        let stores: Vec<_> = [100, 100, 100, 1000]
            .iter()
            .zip(1..)
            .map(|(f, i)| store(i, *f))
            .collect();
        let shares = fair_shares(&stores, 256, 3);
        assert!((shares[&StoreId(4)] - 256.0).abs() < 0.01);
        assert!((shares[&StoreId(1)] - 512.0 / 3.0).abs() < 0.01);
    }

    #[test]
    fn a_leaving_store_has_no_share_and_too_few_nodes_hold_one_copy_each() {
        let mut stores: Vec<_> = (1..=3).map(|i| store(i, 100)).collect();
        stores[0].role = StoreRole::Leaves;
        let shares = fair_shares(&stores, 256, 3);
        assert_eq!(shares.len(), 2);
        assert!(shares.values().all(|s| (s - 256.0).abs() < 0.01));
        assert!(fair_shares(&[], 256, 3).is_empty());
    }
}

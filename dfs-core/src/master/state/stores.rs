//! The registry of stores and of Raft ids.
use super::{StateError, keys};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{Incarnation, NodeId, RaftId, StoreId, Time};
use crate::wire::master::StatFsInfo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// One store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow {
    /// Its uuid.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// Last run seen.
    pub incarnation: Incarnation,
    /// TCP address.
    pub addr: SocketAddr,
    /// Failure domain; may be empty.
    pub zone: String,
    /// Device, unique over machines: stores on one share its free space.
    pub device: u64,
    /// Device size.
    pub total: u64,
    /// Free bytes.
    pub free: u64,
    /// Bytes of objects.
    pub used: u64,
    /// Down since (Unix time).
    pub down_since: Option<Time>,
    /// Being emptied.
    pub draining: bool,
}

/// Stores and Raft ids, cached from their tables.
#[derive(Debug, Default)]
pub struct Stores {
    stores: BTreeMap<StoreId, StoreRow>,
    voters: BTreeMap<RaftId, (NodeId, SocketAddr)>,
    removed: BTreeSet<StoreId>,
}

impl Stores {
    /// Loads the tables.
    pub fn load(kv: &impl KvRead) -> Result<Self, StateError> {
        let mut this = Self::default();
        let prefix = [keys::STORE];
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
            let row: StoreRow = keys::decode("store", &key, &value)?;
            this.stores.insert(row.store, row);
        }
        let prefix = [keys::VOTER];
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
            let id = key
                .get(1..9)
                .and_then(|b| b.try_into().ok())
                .unwrap_or([0; 8]);
            let row = keys::decode("voter", &key, &value)?;
            this.voters.insert(RaftId(u64::from_be_bytes(id)), row);
        }
        let prefix = keys::repair(keys::REPAIR_REMOVED, &[]);
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
            let store = keys::decode("removed store", &key, &value)?;
            this.removed.insert(store);
        }
        Ok(this)
    }

    /// All stores.
    pub fn all(&self) -> &BTreeMap<StoreId, StoreRow> {
        &self.stores
    }

    /// Raft ids in use.
    pub fn voters(&self) -> &BTreeMap<RaftId, (NodeId, SocketAddr)> {
        &self.voters
    }

    /// Registers a store or updates what changes from run to run. An older incarnation than the
    /// one known changes nothing.
    pub fn seen(&mut self, kv: &mut impl Kv, new: StoreRow) {
        let row = match self.stores.get(&new.store) {
            Some(old) if old.incarnation > new.incarnation => return,
            Some(old) => StoreRow {
                total: old.total,
                free: old.free,
                used: old.used,
                down_since: None,
                draining: old.draining,
                ..new
            },
            None => new,
        };
        self.put(kv, row);
    }

    fn put(&mut self, kv: &mut impl Kv, row: StoreRow) {
        keys::put(kv, keys::store(row.store), &row);
        self.stores.insert(row.store, row);
    }

    /// Changes a known store's row. False if it is not known.
    pub fn update(
        &mut self,
        kv: &mut impl Kv,
        store: StoreId,
        change: impl FnOnce(&mut StoreRow),
    ) -> bool {
        let Some(mut row) = self.stores.get(&store).cloned() else {
            return false;
        };
        change(&mut row);
        self.put(kv, row);
        true
    }

    /// The store was removed for good.
    pub fn is_removed(&self, store: StoreId) -> bool {
        self.removed.contains(&store)
    }

    /// Takes a store out for good.
    pub fn remove(&mut self, kv: &mut impl Kv, store: StoreId) {
        kv.delete(&keys::store(store));
        self.stores.remove(&store);
        let key = keys::repair(keys::REPAIR_REMOVED, &[&store.0.to_be_bytes()]);
        keys::put(kv, key, &store);
        self.removed.insert(store);
    }

    /// Gives a node a Raft id. Ids are never reused: one that is in use is left alone.
    pub fn assign(&mut self, kv: &mut impl Kv, id: RaftId, node: NodeId, addr: SocketAddr) -> bool {
        if id.0 == 0 || self.voters.contains_key(&id) {
            return false;
        }
        keys::put(kv, keys::voter(id), &(node, addr));
        self.voters.insert(id, (node, addr));
        true
    }

    /// Takes a Raft id out for good.
    pub fn retire(&mut self, kv: &mut impl Kv, id: RaftId) {
        kv.delete(&keys::voter(id));
        self.voters.remove(&id);
    }

    /// Updates the address of a node's Raft ids (it came back on another one).
    pub fn moved(&mut self, kv: &mut impl Kv, node: NodeId, addr: SocketAddr) {
        for (id, row) in &mut self.voters {
            if row.0 == node && row.1 != addr {
                row.1 = addr;
                keys::put(kv, keys::voter(*id), row);
            }
        }
    }

    /// Capacity and free bytes at `n` copies. Stores on one device share its space.
    pub fn space(&self, n: u8) -> StatFsInfo {
        let mut devices: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for row in self
            .stores
            .values()
            .filter(|r| r.down_since.is_none() && !r.draining)
        {
            let entry = devices.entry(row.device).or_insert((row.total, row.free));
            entry.1 = entry.1.min(row.free);
        }
        let copies = u64::from(n.max(1));
        // What stores say of themselves may be anything.
        let sum = |f: fn(&(u64, u64)) -> u64| {
            let bytes = devices.values().map(f);
            bytes.fold(0, u64::saturating_add) / copies
        };
        StatFsInfo {
            total_bytes: sum(|d| d.0),
            free_bytes: sum(|d| d.1),
            inodes: 0,
            live_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;

    fn row(store: u128, incarnation: u64) -> StoreRow {
        StoreRow {
            store: StoreId(store),
            node: NodeId(store),
            incarnation: Incarnation(incarnation),
            addr: "127.0.0.1:1".parse().unwrap(),
            zone: String::new(),
            device: 1,
            total: 900,
            free: 300,
            used: 0,
            down_since: None,
            draining: false,
        }
    }

    #[test]
    fn an_older_run_of_a_store_changes_nothing() {
        let (mut stores, mut kv) = (Stores::default(), MemKv::default());
        stores.seen(&mut kv, row(1, 5));
        stores.seen(
            &mut kv,
            StoreRow {
                zone: "old".into(),
                ..row(1, 4)
            },
        );
        assert_eq!(Stores::load(&kv).unwrap().all()[&StoreId(1)].zone, "");
    }

    #[test]
    fn stores_on_one_device_share_its_space() {
        let (mut stores, mut kv) = (Stores::default(), MemKv::default());
        for id in 1..=5 {
            stores.seen(&mut kv, row(id, 1));
        }
        let space = stores.space(3);
        assert_eq!((space.total_bytes, space.free_bytes), (300, 100));
    }

    #[test]
    fn regression_impossible_sizes_of_devices_do_not_stop_a_voter() {
        let (mut stores, mut kv) = (Stores::default(), MemKv::default());
        for id in 1..=2 {
            let (total, device) = (u64::MAX, id as u64);
            stores.seen(
                &mut kv,
                StoreRow {
                    total,
                    device,
                    ..row(id, 1)
                },
            );
        }
        assert_eq!(stores.space(1).total_bytes, u64::MAX);
    }

    #[test]
    fn a_raft_id_is_never_given_twice() {
        let (mut stores, mut kv) = (Stores::default(), MemKv::default());
        let addr = "127.0.0.1:1".parse().unwrap();
        assert!(stores.assign(&mut kv, RaftId(3), NodeId(1), addr));
        assert!(!stores.assign(&mut kv, RaftId(3), NodeId(2), addr));
    }
}

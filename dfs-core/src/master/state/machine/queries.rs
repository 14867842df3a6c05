//! What can be read of the state, without changing it.
use super::{AppliedRow, ClusterRow, MasterState, broken};
use crate::master::state::ctx::StateError;
use crate::master::state::keys;
use crate::master::state::locks::Locks;
use crate::master::state::namespace;
use crate::master::state::notes::{self, StoreNote};
use crate::master::state::pgs::PgState;
use crate::master::state::repairs::Repairs;
use crate::master::state::sessions::{SessionRow, Sessions};
use crate::master::state::stores::StoreRow;
use crate::store::{Kv, prefix_end};
use crate::types::{
    ChunkNo, ClientId, Ino, LogIndex, NodeId, OpId, PgId, PgMap, RaftId, StoreId, Time,
};
use crate::wire::master::{PgRow, QueryAnswer, RepairReceipt, StatFsInfo};
use crate::wire::repair::{RejoinReport, RepairRecord};
use crate::wire::{Query, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

impl<K: Kv> MasterState<K> {
    /// The tables.
    pub fn kv(&self) -> &K {
        &self.kv
    }

    /// The tables, for flushing. Changing them outside `apply` breaks invariant 1.
    pub fn kv_mut(&mut self) -> &mut K {
        &mut self.kv
    }

    /// How far the log has been applied.
    pub fn applied(&self) -> AppliedRow {
        self.applied
    }

    /// The cluster, once bootstrapped.
    pub fn cluster(&self) -> Option<&ClusterRow> {
        self.cluster.as_ref()
    }

    /// Live sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (ClientId, &SessionRow)> {
        self.sessions.iter()
    }

    /// One live session.
    pub fn session(&self, client: ClientId) -> Option<&SessionRow> {
        self.sessions.get(client)
    }

    /// `Some(true)` if applied, `Some(false)` if refused for good, `None` if undecided or no longer
    /// known.
    ///
    /// # Errors
    /// A damaged table.
    pub fn was_decided(&self, op: OpId) -> Result<Option<bool>, StateError> {
        Ok(Sessions::result(&self.kv, op)?.map(|row| row.result.is_ok()))
    }

    /// Placement groups as clients see them.
    pub fn map(&self) -> &PgMap {
        self.pgs.map()
    }

    /// Placement groups with what only the master needs.
    pub fn pgs(&self) -> impl Iterator<Item = (PgId, &PgState)> {
        self.pgs.iter()
    }

    /// Stores.
    pub fn stores(&self) -> &BTreeMap<StoreId, StoreRow> {
        self.stores.all()
    }

    /// Raft ids in use.
    pub fn raft_nodes(&self) -> &BTreeMap<RaftId, (NodeId, SocketAddr)> {
        self.stores.voters()
    }

    /// Locks on files.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Repair is paused.
    pub fn repair_paused(&self) -> bool {
        self.repair_paused
    }

    /// See [`notes::after`].
    ///
    /// # Errors
    /// A damaged table.
    pub fn notes_after(
        &self,
        cursor: LogIndex,
        wanted: &dyn Fn(PgId) -> bool,
        max: usize,
    ) -> Result<(Vec<StoreNote>, LogIndex), StateError> {
        notes::after(&self.kv, cursor, self.applied.index, wanted, max)
    }

    /// Notes at or below this index were dropped: a store whose cursor is below must be filled again.
    ///
    /// # Errors
    /// A damaged table.
    pub fn notes_trimmed(&self) -> Result<LogIndex, StateError> {
        notes::trimmed(&self.kv)
    }

    /// Entries in the delete queue.
    ///
    /// # Errors
    /// A damaged table.
    pub fn delete_queue_len(&self) -> Result<u64, StateError> {
        notes::queue_len(&self.kv)
    }

    /// An entry queued before `before` waits in the delete queue.
    ///
    /// # Errors
    /// A damaged table.
    pub fn deletes_due(&self, before: Time) -> Result<bool, StateError> {
        notes::deletes_due(&self.kv, before)
    }

    /// Repairs under way, pauses and boosts.
    pub fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    /// The store was removed for good.
    pub fn is_removed(&self, store: StoreId) -> bool {
        self.stores.is_removed(store)
    }

    /// A group in which the store still counts.
    pub fn counts_in(&self, store: StoreId) -> Option<PgId> {
        self.pgs.counts_in(store)
    }

    /// The store is a source of the group that left it before it was filled: it has only a part.
    pub fn is_partial(&self, pg: PgId, store: StoreId) -> bool {
        self.pgs.is_partial(pg, store)
    }

    /// The return that this report tells of is noted.
    ///
    /// # Errors
    /// A damaged table.
    pub fn rejoin_noted(&self, store: StoreId, report: &RejoinReport) -> Result<bool, StateError> {
        Repairs::rejoin_noted(&self.kv, store, report)
    }

    /// Records of finished repairs, oldest first.
    ///
    /// # Errors
    /// A damaged table.
    pub fn repair_records(&self) -> Result<Vec<RepairRecord>, StateError> {
        let of_old = |r: RepairReceipt| RepairRecord {
            cause: r.cause,
            began: r.began,
            took_ms: r.took_ms,
            objects: r.files,
            bytes: r.bytes,
            pgs: r.pgs,
            lowest_copies: r.lowest_copies,
            ..RepairRecord::default()
        };
        let mut all: Vec<_> = self.receipts()?.into_iter().map(of_old).collect();
        all.extend(Repairs::records(&self.kv)?);
        Ok(all)
    }

    /// Receipts that older programs wrote, oldest first.
    ///
    /// # Errors
    /// A damaged table.
    pub fn receipts(&self) -> Result<Vec<RepairReceipt>, StateError> {
        let all = self
            .kv
            .scan(&[keys::RECEIPT], &prefix_end(&[keys::RECEIPT]), usize::MAX)?;
        all.iter()
            .map(|(k, v)| keys::decode("receipt", k, v))
            .collect()
    }

    /// Totals for statfs: what can be written at N copies.
    ///
    /// # Errors
    /// A damaged table.
    pub fn statfs(&self) -> Result<StatFsInfo, StateError> {
        let live = namespace::live_totals(&self.kv)?;
        let space = self.stores.space(self.pgs.map().quorum.n);
        Ok(StatFsInfo {
            inodes: live.inodes,
            live_bytes: live.bytes,
            ..space
        })
    }

    /// Answers a query as of the applied index.
    ///
    /// # Errors
    /// What the client is told.
    pub fn query(&self, query: &Query) -> Result<QueryAnswer, WireError> {
        match query {
            Query::PgMap => Ok(QueryAnswer::PgMap(self.pgs.map().clone())),
            Query::StatFs => self.statfs().map(QueryAnswer::StatFs).map_err(broken),
            Query::LockConflict { client, body } => {
                let conflict = self.locks.conflict(*client, body);
                Ok(QueryAnswer::Conflict(conflict))
            }
            query => namespace::query(&self.kv, self.pgs.map(), query),
        }
    }

    /// What a member of `pg` must hold, in order after `after`; true at the end.
    ///
    /// # Errors
    /// A damaged table.
    pub fn pg_listing(
        &self,
        pg: PgId,
        after: Option<(Ino, ChunkNo)>,
        limit: usize,
    ) -> Result<(Vec<PgRow>, bool), StateError> {
        namespace::pg_rows(&self.kv, self.pgs.map(), pg, after, limit)
    }

    /// Inodes with bytes in any of `pgs`: inode, one path, size; true at the end.
    ///
    /// # Errors
    /// A damaged table.
    #[allow(clippy::type_complexity)]
    pub fn files_of(
        &self,
        pgs: &BTreeSet<PgId>,
        after: Ino,
        limit: usize,
    ) -> Result<(Vec<(Ino, Vec<u8>, u64)>, bool), StateError> {
        namespace::inos_of_pgs(&self.kv, pgs, after, limit)
    }

    /// Inodes without links or pins, after `after`.
    ///
    /// # Errors
    /// A damaged table.
    pub fn orphans(&self, after: Ino, limit: usize) -> Result<Vec<Ino>, StateError> {
        namespace::orphans(&self.kv, after, limit)
    }

    /// Bytes of the names deleted first, in that order.
    ///
    /// # Errors
    /// A damaged table.
    pub fn deleted_bytes(&self, limit: usize) -> Result<Vec<u64>, StateError> {
        namespace::deleted_bytes(&self.kv, limit)
    }

    /// Old versions in the next `rows` rows after `after`.
    ///
    /// # Errors
    /// A damaged table.
    pub fn old_versions(
        &self,
        after: Option<&[u8]>,
        rows: usize,
    ) -> Result<namespace::AgedPage, StateError> {
        namespace::old_versions(&self.kv, after, rows)
    }

    /// True iff deleted history is older than `before` or more than `keep_names` names.
    ///
    /// # Errors
    /// A damaged table.
    pub fn history_due(&self, before: Time, keep_names: u64) -> Result<bool, StateError> {
        let oldest = namespace::oldest_deleted(&self.kv)?;
        let names = namespace::live_totals(&self.kv)?.deleted_names;
        Ok(oldest.is_some_and(|at| at < before) || names > keep_names)
    }
}

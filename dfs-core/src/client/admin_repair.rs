//! Orders and questions of people about repair and about nodes that go.
use super::core::Client;
use super::error::{ClientError, Result};
use crate::types::{Ino, NodeId, PgId, PgMap, StoreId};
use crate::wire::repair::RepairRecord;
use crate::wire::{MasterRequest, MasterResponse, Query, QueryAnswer};
use std::time::Duration;

impl Client {
    async fn order(&self, make: impl Fn() -> MasterRequest + Send + Sync) -> Result<()> {
        let within = self.config.deadline_meta;
        self.master_call(|_| make(), within).await.map(drop)
    }

    /// Pauses or resumes repair.
    ///
    /// # Errors
    /// Those of [`master_call`](Self::master_call).
    pub async fn repair_control(&self, paused: bool) -> Result<()> {
        self.order(|| MasterRequest::RepairControl { paused }).await
    }

    /// Repairs as fast as can be for so long; zero ends it.
    ///
    /// # Errors
    /// Those of [`master_call`](Self::master_call).
    pub async fn repair_boost(&self, lasts: Duration) -> Result<()> {
        self.order(|| MasterRequest::Boost { lasts }).await
    }

    /// Records of finished repairs, newest last.
    ///
    /// # Errors
    /// Those of [`master_call`](Self::master_call).
    pub async fn repair_log(&self) -> Result<Vec<RepairRecord>> {
        let within = self.config.deadline_meta;
        let answer = self.master_call(|_| MasterRequest::RepairRecords, within);
        match answer.await? {
            MasterResponse::Records(records) => Ok(records),
            _ => Err(ClientError::Mismatch { asked: "records" }),
        }
    }

    /// Empties a node, or no longer. It goes on in the background.
    ///
    /// # Errors
    /// `NotFound`, and those of [`master_call`](Self::master_call).
    pub async fn drain(&self, node: NodeId, draining: bool) -> Result<()> {
        self.order(|| MasterRequest::Drain { node, draining }).await
    }

    /// Forgets a node for good.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` with what to do while it is needed; and those of
    /// [`master_call`](Self::master_call).
    pub async fn remove_node(&self, node: NodeId) -> Result<()> {
        self.order(|| MasterRequest::Remove { node }).await
    }

    /// Forgets one store for good; its node may live on with another one.
    ///
    /// # Errors
    /// As [`remove_node`](Self::remove_node).
    pub async fn remove_store(&self, store: StoreId) -> Result<()> {
        self.order(|| MasterRequest::RemoveStore { store }).await
    }

    /// All placement groups as of now, whatever is cached.
    ///
    /// # Errors
    /// Those of [`query`](Self::query).
    pub async fn pg_map_now(&self) -> Result<PgMap> {
        match self.query(Query::PgMap, false).await? {
            QueryAnswer::PgMap(map) => Ok(map),
            _ => Err(ClientError::Mismatch { asked: "groups" }),
        }
    }

    /// Inodes, paths and sizes with bytes in any of `pgs`, after `after`, and whether these are the
    /// last.
    ///
    /// # Errors
    /// Those of [`master_call`](Self::master_call).
    pub async fn files_in(
        &self,
        pgs: &[PgId],
        after: Ino,
        limit: u32,
    ) -> Result<(Vec<(Ino, Vec<u8>, u64)>, bool)> {
        let make = |_| MasterRequest::FilesIn {
            pgs: pgs.to_vec(),
            after,
            limit,
        };
        match self.master_call(make, self.config.deadline_meta).await? {
            MasterResponse::Files(files, end) => Ok((files, end)),
            _ => Err(ClientError::Mismatch { asked: "files" }),
        }
    }
}

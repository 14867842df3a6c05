//! Opening a store in a directory of a real machine, in the order that makes each step safe.
//!
//! 1. lock the directory, so that nobody else changes it;
//! 2. read who it belongs to, or make it a new store if it is empty;
//! 3. open the tables, then the journal over them.
use super::object_store::{ObjectStore, StoreOptions};
use super::redb_kv::RedbBase;
use super::store_error::StoreError;
use super::store_meta::StoreMeta;
use super::store_writer::StoreWriter;
use super::{DirLock, FileDisk, lock_dir};
use crate::types::{ClusterId, StoreId};
use std::path::Path;
use std::sync::Arc;

/// A store that is open for use.
#[derive(Debug)]
pub struct StoreDir {
    /// Whose it is.
    pub meta: StoreMeta,
    /// True if the directory was empty and was made a store by this open.
    pub is_new: bool,
    /// For the machine's thread.
    pub store: ObjectStore,
    /// For the storage thread.
    pub writer: StoreWriter,
    /// Keep it as long as the store is used.
    pub lock: DirLock,
}

impl StoreDir {
    /// Opens `root` as a store of `cluster`; an empty directory becomes store `fresh`.
    ///
    /// # Errors
    /// [`StoreError::Lock`], [`StoreError::Meta`]: the directory was not changed. Those of
    /// [`ObjectStore::open`].
    pub fn open(
        root: &Path,
        cluster: ClusterId,
        fresh: StoreId,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let lock = lock_dir(root)?;
        let disk = Arc::new(FileDisk::open(root)?);
        let (meta, is_new) = StoreMeta::open_or_create(disk.as_ref(), cluster, fresh)?;
        let base = RedbBase::open(disk.as_ref(), "tables.redb", options.cache_bytes)?;
        let (store, writer) = ObjectStore::open(disk, Arc::new(base), &meta, options)?;
        Ok(Self {
            meta,
            is_new,
            store,
            writer,
            lock,
        })
    }
}

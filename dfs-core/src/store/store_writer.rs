//! The durable half of an object store: turns batches into synced bytes, on the storage thread.
//!
//! Steps of a [`commit`](StoreWriter::commit) of any number of batches:
//! 1. write every file of every batch, then sync each file once and each directory once; a batch
//!    whose files find no room loses its objects and table changes
//!    ([`take_roomless`](super::ObjectStore::take_roomless)), as what is behind it (deletes, above all) must not wait;
//! 2. append one journal record per batch, of what is left of it, then sync the journal once;
//! 3. only now say that they are committed;
//! 4. remove files that the batches deleted, and trim the journal to what the tables cover.
//!
//! Invariants:
//! 1. a journal record names no file that is not durable;
//! 2. a file is removed only after the batch that deleted it is durable;
//! 3. after a failed write or sync every later commit is refused, until the store is opened again.
use super::lost_files::Remains;
use super::object_format::FILE_HEADER_BYTES;
use super::store_error::StoreError;
use super::{Disk, DiskError, DiskFile, Journal};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What the halves of a store tell each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    committed: AtomicU64,
    flushed: AtomicU64,
    removed: AtomicU64,
    syncs: AtomicU64,
    /// Batches whose files found no room.
    roomless: Mutex<BTreeSet<u64>>,
    failure: Mutex<Option<String>>,
}

impl Progress {
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    pub fn set_committed(&self, seq: u64) {
        self.committed.store(seq, Ordering::Release);
    }

    pub fn set_flushed(&self, seq: u64) {
        self.flushed.store(seq, Ordering::Release);
    }

    /// Files that batches up to this one deleted are gone, as far as they can be removed.
    pub fn removed(&self) -> u64 {
        self.removed.load(Ordering::Acquire)
    }

    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn roomless(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        let roomless = self.roomless.lock();
        roomless.expect("no holder of this lock panics")
    }

    pub fn is_roomless(&self, seq: u64) -> bool {
        self.roomless().contains(&seq)
    }

    pub fn has_roomless(&self) -> bool {
        !self.roomless().is_empty()
    }

    pub fn take_roomless(&self, seq: u64) -> bool {
        self.roomless().remove(&seq)
    }

    pub fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.expect("no holder of this lock panics").clone()
    }

    /// Keeps the first failure.
    pub fn fail(&self, cause: &dyn std::error::Error) {
        let failure = self.failure.lock();
        let mut failure = failure.expect("no holder of this lock panics");
        failure.get_or_insert_with(|| cause.to_string());
    }

    pub fn check(&self) -> Result<(), StoreError> {
        match self.failure() {
            Some(cause) => Err(StoreError::Failed { cause }),
            None => Ok(()),
        }
    }
}

/// A file to be made.
#[derive(Debug)]
pub(super) struct FileWrite {
    pub path: String,
    pub header: Vec<u8>,
    pub bytes: Bytes,
}

/// A batch that is visible in memory and waits to be made durable.
#[derive(Debug)]
#[must_use = "not durable until it is committed"]
pub struct PendingBatch {
    pub(super) seq: u64,
    pub(super) record: Vec<u8>,
    pub(super) files: Vec<FileWrite>,
    pub(super) unlinks: Vec<String>,
    /// What is journalled and removed instead, if its files find no room.
    pub(super) remains: Remains,
}

impl PendingBatch {
    /// Number of the batch: 1 more than that of the batch before it.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Bytes that committing it will write, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let files = self.files.iter().map(|f| FILE_HEADER_BYTES + f.bytes.len());
        self.record.len() + files.sum::<usize>()
    }
}

/// Makes batches durable. See the [module docs](self).
#[derive(Debug)]
pub struct StoreWriter {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: Journal,
    pub(super) progress: Arc<Progress>,
}

impl StoreWriter {
    /// Makes the batches durable, all with one journal sync. They must come in the order in which
    /// [`ObjectStore::apply`](super::ObjectStore::apply) handed them out, without gaps.
    ///
    /// # Errors
    /// I/O: none of them may be acknowledged, and the store has failed; [`StoreError::Failed`].
    ///
    /// # Panics
    /// When a batch is out of order.
    pub fn commit(&mut self, batches: &[PendingBatch]) -> Result<(), StoreError> {
        self.progress.check()?;
        let done = self.write(batches);
        if let Err(e) = &done {
            self.progress.fail(e);
        }
        done
    }

    fn write(&mut self, batches: &[PendingBatch]) -> Result<(), StoreError> {
        let Some(last) = batches.last() else {
            return Ok(());
        };
        self.write_files(batches)?;
        // Taken by the other half as soon as they are committed.
        let roomless = self.progress.roomless().clone();
        let is_lost = |batch: &PendingBatch| roomless.contains(&batch.seq);
        for batch in batches {
            let record = match is_lost(batch) {
                true => &batch.remains.record,
                false => &batch.record,
            };
            let seq = self.journal.append(record)?;
            assert_eq!(seq, batch.seq, "batches are committed in order");
        }
        self.journal.sync()?;
        self.progress.syncs.fetch_add(1, Ordering::Relaxed);
        self.progress.set_committed(last.seq);
        let unlinks = batches.iter().flat_map(|batch| match is_lost(batch) {
            true => &batch.remains.unlinks,
            false => &batch.unlinks,
        });
        for path in unlinks {
            // What cannot be removed now is an orphan, which the sweep removes later.
            match self.disk.remove(path) {
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                Err(e) => tracing::warn!(path, error = %e, "cannot remove a deleted object"),
            }
        }
        self.progress.removed.store(last.seq, Ordering::Release);
        self.trim()
    }

    fn trim(&mut self) -> Result<(), StoreError> {
        let flushed = self.progress.flushed.load(Ordering::Acquire);
        Ok(self.journal.trim_before(flushed + 1)?)
    }

    fn write_files(&self, batches: &[PendingBatch]) -> Result<(), StoreError> {
        let mut written = Vec::new();
        let mut dirs = BTreeSet::new();
        let mut with_files = Vec::new();
        for batch in batches.iter().filter(|batch| !batch.files.is_empty()) {
            let files: Result<Vec<_>, _> = batch.files.iter().map(|f| self.write_file(f)).collect();
            match files {
                Ok(files) => {
                    written.extend(files);
                    let paths = batch.files.iter().map(|file| file.path.as_str());
                    dirs.extend(paths.filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir)));
                    with_files.push(batch);
                }
                Err(DiskError::NoSpace { path }) => self.lose_files(batch, &path),
                Err(e) => return Err(e.into()),
            }
        }
        let dirs: Vec<_> = dirs.into_iter().collect();
        if !written.is_empty() {
            match self.disk.sync_many(&written, &dirs) {
                Ok(()) => {}
                // Where blocks are given late. Which of them have none is not known.
                Err(DiskError::NoSpace { path }) => {
                    for batch in with_files {
                        self.lose_files(batch, &path);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        let syncs = (written.len() + dirs.len()) as u64;
        self.progress.syncs.fetch_add(syncs, Ordering::Relaxed);
        Ok(())
    }

    fn write_file(&self, file: &FileWrite) -> Result<Box<dyn DiskFile>, DiskError> {
        let open = self.disk.open(&file.path, true)?;
        let mut page = file.header.clone();
        page.resize(FILE_HEADER_BYTES, 0);
        open.write_at(0, &page)?;
        open.write_at(FILE_HEADER_BYTES as u64, &file.bytes)?;
        let len = (FILE_HEADER_BYTES + file.bytes.len()) as u64;
        if open.len()? != len {
            // Left over from a batch that a crash took.
            open.set_len(len)?;
        }
        Ok(open)
    }

    fn lose_files(&self, batch: &PendingBatch, path: &str) {
        tracing::warn!(path, "the device is full: objects that came are not kept");
        for file in &batch.files {
            match self.disk.remove(&file.path) {
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                // The sweep finds it.
                Err(error) => tracing::warn!(%error, "cannot remove part of an object"),
            }
        }
        self.progress.roomless().insert(batch.seq);
    }

    /// To be called when nothing waits: notes on disk what is durable, so that damage of the
    /// journal's last record is found too, and trims it. Usually one small write at most, no sync.
    ///
    /// # Errors
    /// I/O: the store has failed.
    pub fn idle(&mut self) -> Result<(), StoreError> {
        self.progress.check()?;
        let marked = self.journal.mark().map_err(StoreError::from);
        let done = marked.and_then(|()| self.trim());
        if let Err(e) = &done {
            self.progress.fail(e);
        }
        done
    }

    /// Number of the last durable batch.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.progress.committed()
    }

    /// Segments of the journal that are still needed.
    #[must_use]
    pub fn journal_segments(&self) -> usize {
        self.journal.segments()
    }
}

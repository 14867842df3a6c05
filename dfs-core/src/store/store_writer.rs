//! The durable half of an object store: turns batches into synced bytes, on the storage thread.
//!
//! Steps of a [`commit`](StoreWriter::commit) of any number of batches:
//! 1. write every file of every batch, then sync each file once and each directory once;
//! 2. append one journal record per batch, then sync the journal once;
//! 3. only now say that they are committed;
//! 4. remove files that the batches deleted, and trim the journal to what the tables cover.
//!
//! Invariants:
//! 1. a journal record names no file that is not durable;
//! 2. a file is removed only after the batch that deleted it is durable;
//! 3. after a failed write or sync every later commit is refused, until the store is opened again.
use super::object_format::FILE_HEADER_BYTES;
use super::store_error::StoreError;
use super::{Disk, DiskError, Journal};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the halves of a store tell each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    committed: AtomicU64,
    flushed: AtomicU64,
    syncs: AtomicU64,
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

    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
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
        for batch in batches {
            let seq = self.journal.append(&batch.record)?;
            assert_eq!(seq, batch.seq, "batches are committed in order");
        }
        self.journal.sync()?;
        self.progress.syncs.fetch_add(1, Ordering::Relaxed);
        self.progress.set_committed(last.seq);
        for path in batches.iter().flat_map(|batch| &batch.unlinks) {
            // What cannot be removed now is an orphan, which the sweep removes later.
            match self.disk.remove(path) {
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                Err(e) => tracing::warn!(path, error = %e, "cannot remove a deleted object"),
            }
        }
        self.trim()
    }

    fn trim(&mut self) -> Result<(), StoreError> {
        let flushed = self.progress.flushed.load(Ordering::Acquire);
        Ok(self.journal.trim_before(flushed + 1)?)
    }

    fn write_files(&self, batches: &[PendingBatch]) -> Result<(), StoreError> {
        let mut written = Vec::new();
        let mut dirs = BTreeSet::new();
        for file in batches.iter().flat_map(|batch| &batch.files) {
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
            written.push(open);
            dirs.extend(file.path.rsplit_once('/').map(|(dir, _)| dir));
        }
        let dirs: Vec<_> = dirs.into_iter().collect();
        if !written.is_empty() {
            self.disk.sync_many(&written, &dirs)?;
        }
        let syncs = (written.len() + dirs.len()) as u64;
        self.progress.syncs.fetch_add(syncs, Ordering::Relaxed);
        Ok(())
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

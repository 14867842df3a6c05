//! What a replica's data directory holds: tables and immutable objects, in memory at once and on
//! disk in groups.
//!
//! ```text
//!            machine thread                      storage thread
//!  Batch ──> ObjectStore::apply ──PendingBatch──> StoreWriter::commit ──> files, journal
//!              │ visible at once                      │ durable, acks may go
//!              └─ begin_flush ──FlushJob::run──> tables ── finish_flush ──> journal is trimmed
//! ```
//! This half answers reads and never waits for a sync; the other one is
//! [`StoreWriter`]. Objects above [`SMALL_OBJECT_MAX`] bytes have a file each,
//! smaller ones live in the tables, and both carry a header that says who they are.
//!
//! Steps of a start: the tables as last flushed, then every journal record after what they cover.
//!
//! Invariants:
//! 1. after a crash the state is that of all batches up to some number, none of them in part, and
//!    that number is at least that of the last committed batch;
//! 2. a flush covers only committed batches, and says so in the same transaction;
//! 3. bytes are verified against the stored sums before they are returned, always;
//! 4. an object never changes: a file is written by one batch only, and read only after.
use super::base::Base;
use super::lazy_kv::{FlushDone, FlushJob, LazyKv};
use super::lost_files::{LostFiles, Remains};
use super::object_format::{
    KEY_COUNTERS, ObjectHeader, ObjectRow, Place, STORE_KEYS_FROM, StoreCounters, TABLE_BYTES,
    TABLE_OBJECT, decode_ops, encode_ops, key_object, object_key, object_path,
};
use super::quarantine::{self, Changes, Quarantine, Rest};
use super::store_error::{OTHER_STORE, StoreError};
use super::store_meta::StoreMeta;
use super::store_writer::{FileWrite, PendingBatch, Progress, StoreWriter};
use super::{Disk, DiskError, Journal, JournalOptions, KvError, KvOp, KvPair, KvRead};
use crate::types::{ObjectId, SMALL_OBJECT_MAX};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Unflushed table changes, in bytes of memory, above which a flush begins.
    pub flush_bytes: usize,
    /// Bytes of a journal segment; the journal keeps about twice `flush_bytes` plus two of them.
    pub segment_bytes: u64,
    /// Share of the space kept free of new objects, in thousandths, so that deletes and the
    /// journal go on.
    pub reserve_permille: u64,
    /// The same in bytes, at most: what deletes and the journal need does not grow with the device.
    pub reserve_bytes_max: u64,
    /// Space to use at most, in bytes, on a device that may be larger.
    pub capacity_bytes: Option<u64>,
    /// Memory for pages of the tables, in bytes.
    pub cache_bytes: usize,
    /// Told what is damaged in the tables' file.
    pub table_counts: Arc<super::TableCounts>,
    /// Nobody else has what is in the store: damaged it is refused, and not set aside.
    pub is_only_copy: bool,
}

impl Default for StoreOptions {
    /// 16 MiB, 8 MiB, 5 % but at most 4 GiB, no limit, 16 MiB.
    fn default() -> Self {
        Self {
            flush_bytes: 16 << 20,
            segment_bytes: 8 << 20,
            reserve_permille: 50,
            reserve_bytes_max: 4 << 30,
            capacity_bytes: None,
            cache_bytes: super::redb_kv::CACHE_BYTES_DEFAULT,
            table_counts: Arc::default(),
            is_only_copy: false,
        }
    }
}

/// An object to be stored. The caller has verified that the bytes match the header's sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectWrite {
    /// Who it is.
    pub header: ObjectHeader,
    /// `header.len` bytes.
    pub bytes: Bytes,
}

/// Changes that happen together or not at all, in this order: rests, deletes,
/// objects, ops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Objects that are deleted and rest before they go; in none of the other lists.
    pub rests: Vec<Rest>,
    /// Objects to forget, also those that rest; absent ones are no error.
    pub deletes: Vec<ObjectId>,
    /// Objects that rest since then, whose time is over.
    pub expires: Vec<(u64, ObjectId)>,
    /// Objects of the batch that was last said to have found no room
    /// ([`take_roomless`](ObjectStore::take_roomless)): what was there before them is there again.
    pub restores: Vec<ObjectId>,
    /// Objects to store; one that is already there with the same sum is left as it is.
    pub objects: Vec<ObjectWrite>,
    /// Table changes; keys begin with a byte below [`STORE_KEYS_FROM`].
    pub ops: Vec<KvOp>,
}

/// A flush that waits until its batches are committed, or runs.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    layers: usize,
    covers: u64,
}

/// The in-memory half of a store. See the [module docs](self).
#[derive(Debug)]
pub struct ObjectStore {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) kv: LazyKv,
    pub(super) options: StoreOptions,
    pub(super) counters: StoreCounters,
    /// Batches so far.
    applied: u64,
    /// Bytes of journal records that no flush covers yet.
    journal_bytes: usize,
    /// Bytes of objects whose files may not be there yet, with their batch.
    pub(super) in_flight: BTreeMap<ObjectId, (u64, Bytes)>,
    sealed: Option<Sealed>,
    /// Stores on this device.
    pub(super) sharing: u16,
    pub(super) progress: Arc<Progress>,
    pub(super) lost: LostFiles,
    pub(super) quarantine: Quarantine,
}

impl ObjectStore {
    /// Opens the store of `meta` on `disk`: tables from `base`, then the journal.
    ///
    /// # Errors
    /// [`StoreError::Journal`] with rot, [`StoreError::Disagree`]: what was durable is damaged or
    /// gone, and the directory must not be used as this store again; I/O.
    pub fn open(
        disk: Arc<dyn Disk>,
        base: Arc<dyn Base>,
        meta: &StoreMeta,
        options: StoreOptions,
    ) -> Result<(Self, StoreWriter), StoreError> {
        let kv = LazyKv::open(base)?;
        let counters = Self::read_counters(&kv, meta)?;
        let quarantine = Quarantine::open(&kv)?;
        let mut store = Self {
            disk: Arc::clone(&disk),
            kv,
            counters,
            applied: counters.covered,
            journal_bytes: 0,
            in_flight: BTreeMap::new(),
            sealed: None,
            sharing: 1,
            progress: Arc::default(),
            lost: LostFiles::default(),
            quarantine,
            options,
        };
        let salt = meta.store.0 as u64 ^ (meta.store.0 >> 64) as u64;
        let journal_options = JournalOptions {
            segment_bytes: store.options.segment_bytes,
            covered: counters.covered,
            ..JournalOptions::new("journal", salt)
        };
        let mut replayed = Ok(());
        let journal = Journal::open(Arc::clone(&disk), journal_options, &mut |seq, record| {
            if replayed.is_ok() {
                replayed = store.replay(seq, record);
            }
        })?;
        replayed?;
        if journal.next_seq() != store.applied + 1 {
            let (tables, journal) = (store.applied, journal.next_seq() - 1);
            let what = format!("tables cover batch {tables}, the journal ends at {journal}");
            return Err(StoreError::Disagree { what });
        }
        store.progress.set_committed(store.applied);
        store.progress.set_flushed(counters.covered);
        let progress = Arc::clone(&store.progress);
        let writer = StoreWriter {
            disk,
            journal,
            progress,
        };
        Ok((store, writer))
    }

    /// True if nothing was ever stored here, or all of it is gone: the tables were never written and
    /// there is no journal (an open makes one).
    ///
    /// # Errors
    /// I/O.
    pub fn is_blank(disk: &dyn Disk, base: &dyn Base) -> Result<bool, StoreError> {
        let has_journal = match disk.list("journal") {
            Ok(names) => !names.is_empty(),
            Err(DiskError::NotFound { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(!has_journal && base.view()?.get(KEY_COUNTERS)?.is_none())
    }

    fn read_counters(kv: &LazyKv, meta: &StoreMeta) -> Result<StoreCounters, StoreError> {
        let disagree = |what: &str| StoreError::Disagree { what: what.into() };
        let Some(row) = kv.get(KEY_COUNTERS)? else {
            return Ok(StoreCounters {
                store: meta.store,
                covered: 0,
                used_bytes: 0,
                objects: 0,
            });
        };
        let counters: StoreCounters =
            postcard::from_bytes(&row).map_err(|_| disagree("counters are unreadable"))?;
        if counters.store != meta.store {
            return Err(disagree(OTHER_STORE));
        }
        Ok(counters)
    }

    fn replay(&mut self, seq: u64, record: &[u8]) -> Result<(), StoreError> {
        if seq <= self.applied {
            return Ok(());
        }
        if seq != self.applied + 1 {
            let what = format!("tables cover batch {}, next is {seq}", self.applied);
            return Err(StoreError::Disagree { what });
        }
        let ops = decode_ops(record).ok_or_else(|| StoreError::Disagree {
            what: format!("record {seq} is of another format"),
        })?;
        self.apply_ops(ops)?;
        self.applied = seq;
        self.journal_bytes += record.len();
        Ok(())
    }

    /// Makes changes visible, keeping the counters right.
    pub(super) fn apply_ops(&mut self, ops: Vec<KvOp>) -> Result<(), StoreError> {
        for op in &ops {
            let (key, new) = match op {
                KvOp::Put(key, row) => (key, Some(row)),
                KvOp::Delete(key) => (key, None),
            };
            if !quarantine::is_counted(key) {
                if new.is_some() {
                    self.quarantine.written(key);
                }
                continue;
            }
            if key.first() != Some(&TABLE_OBJECT) {
                self.count_resting(key, new.map(Vec::as_slice))?;
                self.kv.apply([op.clone()]);
                continue;
            }
            if let Some(old) = key_object(key)
                .map(|id| self.row(id))
                .transpose()?
                .flatten()
            {
                let counters = &mut self.counters;
                counters.used_bytes -= u64::from(old.header.len).min(counters.used_bytes);
                counters.objects -= 1.min(counters.objects);
            }
            if let Some(new) = new.and_then(|row| ObjectRow::decode(row)) {
                self.counters.used_bytes += u64::from(new.header.len);
                self.counters.objects += 1;
            }
            // One at a time: an object deleted and stored again in one batch counts once.
            self.kv.apply([op.clone()]);
        }
        let is_own = |op: &KvOp| {
            let (KvOp::Put(key, _) | KvOp::Delete(key)) = op;
            quarantine::is_counted(key)
        };
        self.kv.apply(ops.into_iter().filter(|op| !is_own(op)));
        Ok(())
    }

    /// Makes a batch visible to reads and returns what must be committed to make it durable.
    ///
    /// Batches must be committed in the order of the calls.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for an object whose header does not fit, or whose id is taken by
    /// other bytes; [`StoreError::Failed`]; reading the tables. State unchanged.
    ///
    /// # Panics
    /// When an op touches the store's own keys.
    pub fn apply(&mut self, batch: Batch) -> Result<PendingBatch, StoreError> {
        self.progress.check()?;
        self.forget_committed();
        let is_foreign = |op: &KvOp| {
            let (KvOp::Put(key, _) | KvOp::Delete(key)) = op;
            key.first().is_some_and(|table| *table < STORE_KEYS_FROM)
        };
        assert!(batch.ops.iter().all(is_foreign), "the store's own keys");
        let seq = self.applied + 1;
        let mut changes = self.leaving(&batch)?;
        let (mut files, mut held) = (Vec::new(), Vec::new());
        for object in &batch.objects {
            if self.is_needed(object, &batch.deletes)? {
                let id = object.header.id;
                if !batch.deletes.contains(&id) {
                    self.forget_resting(id, &mut changes)?;
                }
                Self::store_object(object, seq, &mut changes.ops, &mut files);
                held.push((id, object.bytes.clone()));
            }
        }
        self.going(seq, &changes);
        let Changes {
            mut ops, unlinks, ..
        } = changes;
        ops.extend(self.restoring(&batch.restores));
        let remains = if files.is_empty() {
            Remains::default()
        } else {
            let stored = batch.objects.iter().map(|o| o.header.id).collect();
            self.remains_of(seq, (&ops, &unlinks), &stored)?
        };
        ops.extend(batch.ops);
        let record = encode_ops(&ops);
        if let Err(e) = self.apply_ops(ops) {
            // The tables cannot be read: part of the batch may be visible, so nothing more is.
            self.progress.fail(&e);
            return Err(e);
        }
        self.applied = seq;
        self.journal_bytes += record.len();
        for id in &batch.deletes {
            self.in_flight.remove(id);
        }
        for (id, bytes) in held {
            if bytes.len() > SMALL_OBJECT_MAX as usize {
                self.in_flight.insert(id, (seq, bytes));
            }
        }
        Ok(PendingBatch {
            seq,
            record,
            files,
            unlinks,
            remains,
        })
    }

    /// Forgets one object: a batch of one delete.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply).
    pub fn delete_object(&mut self, id: ObjectId) -> Result<PendingBatch, StoreError> {
        self.apply(Batch {
            deletes: vec![id],
            ..Batch::default()
        })
    }

    /// Drops bytes that can be read from their files now.
    fn forget_committed(&mut self) {
        let committed = self.progress.committed();
        self.in_flight.retain(|_, (seq, _)| *seq > committed);
        self.forget_images(committed);
    }

    /// False if the object is there already and stays.
    fn is_needed(&self, object: &ObjectWrite, deletes: &[ObjectId]) -> Result<bool, StoreError> {
        let header = &object.header;
        let id = header.id;
        let refused = |why| Err(StoreError::Refused { id, why });
        if !header.is_plausible() || header.len as usize != object.bytes.len() {
            return refused("header and bytes do not fit together");
        }
        if deletes.contains(&id) {
            return Ok(true);
        }
        match self.row(id)? {
            Some(row) if row.header.sum() != header.sum() => refused("its id has other bytes"),
            row => Ok(row.is_none()),
        }
    }

    fn store_object(
        object: &ObjectWrite,
        seq: u64,
        ops: &mut Vec<KvOp>,
        files: &mut Vec<FileWrite>,
    ) {
        let header = object.header.clone();
        let id = header.id;
        let place = if header.len > SMALL_OBJECT_MAX {
            files.push(FileWrite {
                path: object_path(id, seq),
                header: header.encode(),
                bytes: object.bytes.clone(),
            });
            Place::File(seq)
        } else {
            let bytes = object.bytes.to_vec();
            ops.push(KvOp::Put(object_key(TABLE_BYTES, id), bytes));
            Place::Table
        };
        let row = ObjectRow { place, header }.encode();
        ops.push(KvOp::Put(object_key(TABLE_OBJECT, id), row));
    }

    /// The job of a flush is under way.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.kv.is_flushing()
    }

    /// A flush, if one is due and may run: more than `flush_bytes` are unflushed (or `force`), none
    /// is under way, all it covers is committed, and nothing is to be taken back. Ask again after commits. Run the job on
    /// another thread, then call [`finish_flush`](Self::finish_flush).
    ///
    /// # Panics
    /// Never: the counters are always encodable.
    pub fn begin_flush(&mut self, force: bool) -> Option<FlushJob> {
        self.forget_committed();
        if self.is_flushing() {
            return None;
        }
        if self.sealed.is_none() {
            // Keys that are written again and again fill the journal without filling memory.
            let unflushed = self.kv.unflushed_bytes().max(self.journal_bytes / 2);
            if self.counters.covered == self.applied
                || (!force && unflushed < self.options.flush_bytes)
            {
                return None;
            }
            self.counters.covered = self.applied;
            self.journal_bytes = 0;
            let row = postcard::to_allocvec(&self.counters).expect("plain numbers");
            let resting = self.quarantine.totals_row();
            self.kv
                .apply([KvOp::Put(KEY_COUNTERS.to_vec(), row), resting]);
            self.sealed = Some(Sealed {
                layers: self.kv.seal(),
                covers: self.applied,
            });
        }
        let sealed = self.sealed?;
        if self.progress.committed() < sealed.covers || self.is_taking_back() {
            return None;
        }
        self.kv.freeze_oldest(sealed.layers)
    }

    /// Takes note of a flush; the journal is trimmed at the next commit.
    ///
    /// # Errors
    /// The job's own: the store has failed.
    pub fn finish_flush(&mut self, done: Result<FlushDone, KvError>) -> Result<(), StoreError> {
        match done {
            Ok(done) => {
                self.kv.finish(done);
                if let Some(sealed) = self.sealed.take() {
                    self.progress.set_flushed(sealed.covers);
                }
                Ok(())
            }
            Err(e) => {
                self.kv.abandon_flush();
                self.progress.fail(&e);
                Err(e.into())
            }
        }
    }

    /// Number of the last batch made visible.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Number of the last durable batch.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.progress.committed()
    }

    /// Why the store commits nothing, if it has failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.progress.failure()
    }

    /// Syncs of files, directories and the journal by commits so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.progress.syncs()
    }
}

impl KvRead for ObjectStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.kv.scan(from, to, limit)
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.kv.scan_back(from, to, limit)
    }
}

#[cfg(test)]
#[path = "object_store_tests.rs"]
mod tests;

//! Objects that were deleted and rest for a while before their bytes go.
//!
//! ```text
//!  held --rest(reason)--> resting --its time is over, or room is needed--> gone
//!    ^                       |
//!    └── stored again <──────┘  (written anew; what rested goes)
//! ```
//! A resting object is in no list and answers no read: its row is moved to a table of its own, with the
//! reason, and its bytes stay where they are (a file, or a row of the tables). A second table has them
//! by age. When they go is the caller's matter; it says since when they rest, in a clock of its own.
//!
//! Room: what rests counts as free, because it goes before a writer is refused ([`ObjectStore::space`]),
//! and [`ObjectStore::admit`] knows better: it counts what is there now. Bytes in the tables are not counted:
//! tables keep the space that their rows leave.
//!
//! Invariants:
//! 1. an object is held or rests, never both;
//! 2. only what is durable rests: an object whose files are still on their way is deleted at once;
//! 3. what rested when a batch that finds no room stored it again rests again (see
//!    [`lost_files`](super::lost_files)).
use super::object_format::{
    FILE_HEADER_BYTES, ObjectRow, Place, TABLE_BYTES, TABLE_OBJECT, key_object, object_key,
    object_path,
};
use super::object_store::{Batch, ObjectStore};
use super::store_error::StoreError;
use super::{DiskSpace, KvError, KvOp, KvPair, KvRead, prefix_end};
use crate::types::{Epoch, LogIndex, ObjectId, PgId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `f3 id ->` [`RestRow`].
const TABLE_RESTING: u8 = 0xf3;
/// `f4 since id ->` nothing.
const TABLE_AGES: u8 = 0xf4;
/// What rests, as of the tables' last flush.
pub(super) const KEY_RESTING: &[u8] = &[0xf5];
/// Objects rest only while this part of the store's part of the device is free.
const FREE_PART: u64 = 4;
/// Those in the tables take this part at most: tables grow and never shrink.
const TABLES_PART: u64 = 16;
/// Objects taken up at a time.
const PAGE: usize = 1024;

/// Why an object was deleted: each is a committed fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestReason {
    /// Nothing refers to it any more: the note of this log index.
    Deleted(LogIndex),
    /// Its operation was aborted, which the master decided.
    Aborted,
    /// Its group is elsewhere since this epoch, and complete there.
    Moved(PgId, Epoch),
    /// The leader said twice, the second time as of this log index, that its operation is decided and
    /// nothing refers to it.
    Unreferenced(LogIndex),
}

/// An object to be deleted, which shall rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The object; one that is not held is no error.
    pub id: ObjectId,
    /// Since when, in milliseconds of the caller's clock.
    pub since_ms: u64,
    /// Why.
    pub reason: RestReason,
}

/// An object that rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resting {
    /// The object.
    pub id: ObjectId,
    /// Since when.
    pub since_ms: u64,
    /// Why; `None` if that cannot be read.
    pub reason: Option<RestReason>,
    /// Bytes that its end frees, about.
    pub cost_bytes: u64,
}

/// How much rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestingTotals {
    /// Objects.
    pub objects: u64,
    /// Their bytes (headers and tables not counted).
    pub bytes: u64,
    /// Those that have a file.
    pub files: u64,
    /// The bytes of these.
    pub file_bytes: u64,
}

impl RestingTotals {
    fn add(&mut self, row: &ObjectRow, sign: i64) {
        let len = u64::from(row.header.len);
        let is_file = row.place != Place::Table;
        let count = |total: &mut u64, n: u64| {
            *total = if sign < 0 {
                total.saturating_sub(n)
            } else {
                *total + n
            };
        };
        count(&mut self.objects, 1);
        count(&mut self.bytes, len);
        if is_file {
            count(&mut self.files, 1);
            count(&mut self.file_bytes, len);
        }
    }

    /// Bytes of the device that come free when all of it goes.
    fn file_cost(&self) -> u64 {
        self.file_bytes + self.files * FILE_HEADER_BYTES as u64
    }

    /// Bytes that it takes in the tables.
    fn table_cost(&self) -> u64 {
        let objects = self.objects.saturating_sub(self.files);
        objects * ObjectStore::cost_of(0) + 2 * self.bytes.saturating_sub(self.file_bytes)
    }
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    pub totals: RestingTotals,
    /// Bytes of files that rested, by the batch that removes them.
    going: BTreeMap<u64, u64>,
}

impl Quarantine {
    /// As the tables have it.
    pub fn open(kv: &impl KvRead) -> Result<Self, KvError> {
        let row = kv.get(KEY_RESTING)?;
        let totals = row.and_then(|row| postcard::from_bytes(&row).ok());
        Ok(Self {
            totals: totals.unwrap_or_default(),
            ..Self::default()
        })
    }

    /// For a flush.
    pub fn totals_row(&self) -> KvOp {
        let row = postcard::to_allocvec(&self.totals).expect("plain numbers");
        KvOp::Put(KEY_RESTING.to_vec(), row)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct RestRow {
    since_ms: u64,
    reason: RestReason,
    /// The row of the object when it was held.
    row: Vec<u8>,
}

impl RestRow {
    fn decode(bytes: &[u8]) -> Option<(Self, ObjectRow)> {
        let rest: Self = postcard::from_bytes(bytes).ok()?;
        let row = ObjectRow::decode(&rest.row)?;
        Some((rest, row))
    }
}

fn age_key(since_ms: u64, id: ObjectId) -> Vec<u8> {
    let mut key = vec![TABLE_AGES];
    key.extend(since_ms.to_be_bytes());
    key.extend(&object_key(TABLE_RESTING, id)[1..]);
    key
}

fn parse_age(key: &[u8]) -> Option<(u64, ObjectId)> {
    let (since, id) = key.strip_prefix(&[TABLE_AGES])?.split_first_chunk::<8>()?;
    let mut of = vec![TABLE_RESTING];
    of.extend(id);
    Some((u64::from_be_bytes(*since), key_object(&of)?))
}

/// The object that a row of the store is about.
pub(super) fn owner(key: &[u8]) -> Option<ObjectId> {
    match parse_age(key) {
        Some((_, id)) => Some(id),
        None => key_object(key),
    }
}

/// True for rows that the counters follow.
pub(super) fn is_counted(key: &[u8]) -> bool {
    matches!(key.first(), Some(&TABLE_OBJECT | &TABLE_RESTING))
}

/// Changes of the store's rows, and the files that go.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub ops: Vec<KvOp>,
    pub unlinks: Vec<String>,
    /// Bytes of files that rested.
    going: u64,
}

impl ObjectStore {
    fn resting_row(&self, id: ObjectId) -> Result<Option<(RestRow, ObjectRow)>, StoreError> {
        match self.kv.get(&object_key(TABLE_RESTING, id)) {
            Ok(row) => Ok(row.and_then(|row| RestRow::decode(&row))),
            Err(KvError::Damaged { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Changes for what rests and what goes.
    pub(super) fn leaving(&self, batch: &Batch) -> Result<Changes, StoreError> {
        let mut changes = Changes::default();
        let mut other = BTreeSet::new();
        if !batch.rests.is_empty() {
            other.extend(batch.objects.iter().map(|object| object.header.id));
            other.extend(&batch.deletes);
        }
        for rest in &batch.rests {
            assert!(!other.contains(&rest.id), "it rests, goes or is stored");
            self.rest(rest, &mut changes)?;
        }
        for id in &batch.deletes {
            self.forget(*id, &mut changes)?;
        }
        for (since_ms, id) in &batch.expires {
            self.expire(*since_ms, *id, &mut changes)?;
        }
        Ok(changes)
    }

    /// The object is deleted and rests.
    fn rest(&self, rest: &Rest, changes: &mut Changes) -> Result<(), StoreError> {
        let id = rest.id;
        let row = match self.checked_row(id) {
            Ok(None) => return Ok(()),
            Ok(Some(row)) if !self.lost.is_under_way(id) => row,
            Ok(Some(_)) | Err(StoreError::Corrupt { .. }) => return self.forget(id, changes),
            Err(e) => return Err(e),
        };
        let resting = RestRow {
            since_ms: rest.since_ms,
            reason: rest.reason,
            row: row.encode(),
        };
        let resting = postcard::to_allocvec(&resting).expect("a row is plain data");
        changes.ops.extend([
            KvOp::Delete(object_key(TABLE_OBJECT, id)),
            KvOp::Put(object_key(TABLE_RESTING, id), resting),
            KvOp::Put(age_key(rest.since_ms, id), Vec::new()),
        ]);
        Ok(())
    }

    /// The object goes, whether it is held or rests.
    fn forget(&self, id: ObjectId, changes: &mut Changes) -> Result<(), StoreError> {
        let held = [TABLE_OBJECT, TABLE_BYTES].map(|table| object_key(table, id));
        match self.checked_row(id) {
            Ok(None) => {}
            Ok(Some(row)) => changes.remove(&row, held),
            Err(StoreError::Corrupt { .. }) => changes.ops.extend(held.map(KvOp::Delete)),
            Err(e) => return Err(e),
        }
        self.forget_resting(id, changes)
    }

    /// What rests since then goes. One that rests since another time stays: only its old age goes.
    fn expire(&self, since_ms: u64, id: ObjectId, to: &mut Changes) -> Result<(), StoreError> {
        match self.resting_row(id)? {
            Some((rest, _)) if rest.since_ms == since_ms => return self.forget_resting(id, to),
            Some(_) => {}
            // Damaged: its file is an orphan, which the sweep removes.
            None => to.ops.push(KvOp::Delete(object_key(TABLE_RESTING, id))),
        }
        to.ops.push(KvOp::Delete(age_key(since_ms, id)));
        Ok(())
    }

    /// What rests under that name goes.
    pub(super) fn forget_resting(
        &self,
        id: ObjectId,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        if self.quarantine.totals.objects == 0 {
            return Ok(()); // as for nearly every object that is stored
        }
        let Some((rest, row)) = self.resting_row(id)? else {
            return Ok(());
        };
        let rested = [object_key(TABLE_RESTING, id), age_key(rest.since_ms, id)];
        changes.remove(&row, rested);
        match row.place {
            Place::Table if self.is_in_tables(id) => {} // they are of the one that is held
            Place::Table => changes.ops.push(KvOp::Delete(object_key(TABLE_BYTES, id))),
            Place::File(_) => changes.going += ObjectStore::cost_of(row.header.len),
        }
        Ok(())
    }

    /// True if it is held, and its bytes are in the tables.
    fn is_in_tables(&self, id: ObjectId) -> bool {
        let row = self.checked_row(id).ok().flatten();
        row.is_some_and(|row| row.place == Place::Table)
    }

    /// Keeps the counts right; before the change is made.
    pub(super) fn count_resting(
        &mut self,
        key: &[u8],
        new: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let old = key_object(key).map(|id| self.resting_row(id)).transpose()?;
        if let Some((_, old)) = old.flatten() {
            self.quarantine.totals.add(&old, -1);
        }
        if let Some((_, new)) = new.and_then(RestRow::decode) {
            self.quarantine.totals.add(&new, 1);
        }
        Ok(())
    }

    /// These bytes of files that rested go with that batch.
    pub(super) fn going(&mut self, seq: u64, changes: &Changes) {
        let removed = self.progress.removed();
        self.quarantine.going.retain(|seq, _| *seq > removed);
        if changes.going > 0 {
            self.quarantine.going.insert(seq, changes.going);
        }
    }

    /// What rests.
    #[must_use]
    pub fn resting(&self) -> RestingTotals {
        self.quarantine.totals
    }

    /// The list of what rests is empty, whatever was counted (over damaged rows).
    pub fn nothing_rests(&mut self) {
        self.quarantine.totals = RestingTotals::default();
    }

    /// True while bytes rest, or their files are being removed: room that will be there.
    #[must_use]
    pub fn has_resting(&self) -> bool {
        self.quarantine.totals.objects > 0 || self.going_bytes() > 0
    }

    fn going_bytes(&self) -> u64 {
        let removed = self.progress.removed();
        let going = self.quarantine.going.range(removed + 1..);
        going.map(|(_, bytes)| bytes).sum()
    }

    /// Objects that rest, those deleted first first.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn oldest_resting(&self, limit: usize) -> Result<Vec<Resting>, StoreError> {
        let rows = self
            .kv
            .scan(&[TABLE_AGES], &prefix_end(&[TABLE_AGES]), limit)?;
        let mut found = Vec::with_capacity(rows.len());
        for (since_ms, id) in rows.iter().filter_map(|(key, _)| parse_age(key)) {
            let row = self.resting_row(id)?;
            found.push(Resting {
                id,
                since_ms,
                reason: row.as_ref().map(|(rest, _)| rest.reason),
                cost_bytes: row.map_or(0, |(_, row)| Self::cost_of(row.header.len)),
            });
        }
        Ok(found)
    }

    /// Since when the object rests that was deleted last; 0 if none does.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn newest_rest_ms(&self) -> Result<u64, StoreError> {
        let last = self
            .kv
            .scan_back(&[TABLE_AGES], &prefix_end(&[TABLE_AGES]), 1)?;
        let last = last.first().and_then(|(key, _)| parse_age(key));
        Ok(last.map_or(0, |(since_ms, _)| since_ms))
    }

    /// Bytes that rest and have to go now, since too little of this store's part of the device is free,
    /// or the tables grow.
    #[must_use]
    pub fn resting_excess(&self) -> u64 {
        let totals = self.quarantine.totals;
        let part = self.part_bytes();
        if totals.objects == 0 || part == 0 {
            return 0;
        }
        let coming = self.free_part().unwrap_or(u64::MAX);
        let coming = coming.saturating_add(self.going_bytes());
        let tables = totals.table_cost().saturating_sub(part / TABLES_PART);
        (part / FREE_PART).saturating_sub(coming).max(tables)
    }

    /// `space`, of what is there now, with what rests counted as free. Stores on one device are each
    /// given their part of its free bytes: so that what rests here counts whole, it is told for all.
    pub(super) fn with_resting(&self, mut space: DiskSpace) -> DiskSpace {
        if self.disk.is_out_of_room() {
            return space; // nothing can be promised now
        }
        let files = self
            .quarantine
            .totals
            .file_cost()
            .saturating_add(self.going_bytes());
        let files = files.saturating_mul(u64::from(self.sharing));
        space.free_bytes = space
            .free_bytes
            .saturating_add(files)
            .min(space.total_bytes);
        space
    }

    /// In memory only, and to be read only: what rests for such a reason is held again. Returns how many
    /// objects that are.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn take_up_resting(
        &mut self,
        is_wanted: impl Fn(RestReason) -> bool,
    ) -> Result<u64, StoreError> {
        let (mut from, to) = (vec![TABLE_RESTING], prefix_end(&[TABLE_RESTING]));
        let mut taken = 0;
        loop {
            let rows: Vec<KvPair> = self.kv.scan(&from, &to, PAGE)?;
            let Some((last, _)) = rows.last() else {
                return Ok(taken);
            };
            from.clone_from(last);
            from.push(0);
            for (key, row) in &rows {
                let found = key_object(key).zip(RestRow::decode(row));
                let Some((id, (rest, _))) = found.filter(|(_, (rest, _))| is_wanted(rest.reason))
                else {
                    continue;
                };
                taken += 1;
                self.apply_ops(vec![
                    KvOp::Delete(key.clone()),
                    KvOp::Put(object_key(TABLE_OBJECT, id), rest.row),
                ])?;
            }
        }
    }
}

impl Changes {
    /// Rows of an object go, and its file.
    fn remove(&mut self, row: &ObjectRow, keys: [Vec<u8>; 2]) {
        if let Place::File(generation) = row.place {
            self.unlinks.push(object_path(row.header.id, generation));
        }
        self.ops.extend(keys.map(KvOp::Delete));
    }
}

/// True if this file is that of an object that rests.
pub(super) fn is_file_of(rows: &impl KvRead, id: ObjectId, generation: u64) -> bool {
    let row = rows.get(&object_key(TABLE_RESTING, id)).ok().flatten();
    let row = row.and_then(|row| RestRow::decode(&row));
    row.is_some_and(|(_, row)| row.place == Place::File(generation))
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;

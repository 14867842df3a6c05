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
//! Room: what rests is told apart from what is free now ([`ObjectStore::coming_bytes`]): it goes before a
//! writer is refused, and until then [`ObjectStore::admit`] does not count it. Bytes in the tables never
//! count: tables keep the space that their rows leave.
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
use super::{KvError, KvOp, KvRead};
use crate::types::{Epoch, LogIndex, ObjectId, PgId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `f3 id ->` [`RestRow`].
pub(super) const TABLE_RESTING: u8 = 0xf3;
/// `f4 since id ->` nothing.
pub(super) const TABLE_AGES: u8 = 0xf4;
/// What rests, as of the tables' last flush.
pub(super) const KEY_RESTING: &[u8] = &[0xf5];
/// Objects rest only while this part of the store's part of the device is free above the reserve.
const FREE_PART: u64 = 4;
/// Those in the tables take this part at most: tables grow and never shrink.
const TABLES_PART: u64 = 16;

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
    pub(super) fn add(&mut self, row: &ObjectRow, sign: i64) {
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
    /// A damaged row was met that `totals` may count: they are to be counted anew.
    pub is_doubtful: bool,
    /// No row by age is below this one: rows that went leave traces, which would be walked over.
    pub oldest: Vec<u8>,
    /// Bytes of files that rested, by the batch that removes them.
    going: BTreeMap<u64, u64>,
}

impl Quarantine {
    /// As the tables have it.
    pub fn open(kv: &impl KvRead) -> Result<Self, KvError> {
        let row = match kv.get(KEY_RESTING) {
            Ok(None) => return Ok(Self::default()),
            Ok(Some(row)) => row,
            Err(KvError::Damaged { .. }) => Vec::new(),
            Err(e) => return Err(e),
        };
        let totals = postcard::from_bytes(&row).ok();
        Ok(Self {
            is_doubtful: totals.is_none(),
            totals: totals.unwrap_or_default(),
            ..Self::default()
        })
    }

    /// For a flush.
    pub fn totals_row(&self) -> KvOp {
        let row = match self.is_doubtful {
            true => Vec::new(),
            false => postcard::to_allocvec(&self.totals).expect("plain numbers"),
        };
        KvOp::Put(KEY_RESTING.to_vec(), row)
    }

    /// A row is written, maybe one by age.
    pub fn written(&mut self, key: &[u8]) {
        if is_age(key) && key < self.oldest.as_slice() {
            self.oldest = key.to_vec();
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RestRow {
    since_ms: u64,
    pub reason: RestReason,
    /// The row of the object when it was held.
    pub row: Vec<u8>,
}

impl RestRow {
    pub fn decode(bytes: &[u8]) -> Option<(Self, ObjectRow)> {
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

pub(super) fn parse_age(key: &[u8]) -> Option<(u64, ObjectId)> {
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

/// True for rows by age.
pub(super) fn is_age(key: &[u8]) -> bool {
    key.first() == Some(&TABLE_AGES)
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
    pub(super) fn resting_row(
        &self,
        id: ObjectId,
    ) -> Result<Option<(RestRow, ObjectRow)>, StoreError> {
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
        self.forget_replaced(id, changes);
        self.forget_resting(id, changes)
    }

    /// What was there before batches under way that store the object goes as well: if they find no room,
    /// it is what is on disk.
    fn forget_replaced(&self, id: ObjectId, changes: &mut Changes) {
        for (key, value) in self.lost.replaced_rows(id) {
            let row = match key.first() {
                Some(&TABLE_OBJECT) => ObjectRow::decode(value),
                Some(&TABLE_RESTING) => RestRow::decode(value).map(|(_, row)| row),
                _ => None,
            };
            if let Some(Place::File(generation)) = row.map(|row| row.place) {
                changes.unlinks.push(object_path(id, generation));
            }
            changes.ops.push(KvOp::Delete(key.to_vec()));
        }
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
        if self.quarantine.totals.objects == 0 && !self.quarantine.is_doubtful {
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
        let old = match self.kv.get(key) {
            Ok(old) => old,
            Err(KvError::Damaged { .. }) => Some(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        match old.map(|old| RestRow::decode(&old)) {
            None => {}
            Some(Some((_, old))) => self.quarantine.totals.add(&old, -1),
            Some(None) => self.quarantine.is_doubtful = true,
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

    /// True while bytes rest, or their files are being removed: room that will be there.
    #[must_use]
    pub fn has_resting(&self) -> bool {
        let quarantine = &self.quarantine;
        quarantine.totals.objects > 0 || quarantine.is_doubtful || self.going_bytes() > 0
    }

    fn going_bytes(&self) -> u64 {
        let removed = self.progress.removed();
        let going = self.quarantine.going.range(removed + 1..);
        going.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that rest and have to go now, since less than a quarter of this store's part of the device
    /// is free above the reserve, or the tables grow.
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

    /// Bytes of the device that come free when all of it goes; none can be promised while nothing
    /// finds room.
    #[must_use]
    pub fn coming_bytes(&self) -> u64 {
        if self.disk.is_out_of_room() {
            return 0;
        }
        let files = self.quarantine.totals.file_cost();
        files.saturating_add(self.going_bytes())
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

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;

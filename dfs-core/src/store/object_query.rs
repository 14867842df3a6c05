//! What an [`ObjectStore`] answers: objects, listings, checks, space.
//!
//! Nothing here changes the store, but [`sweep`](ObjectStore::sweep), which removes files that no
//! row names.
use super::kv::parse_hex;
use super::object_format::{
    FAN_OUT, FILE_HEADER_BYTES, ObjectHeader, ObjectRow, Place, TABLE_BYTES, TABLE_OBJECT,
    key_object, object_dir, object_key, object_path, parse_file_name,
};
use super::object_read::{ObjectRead, ReadPlan, Source};
use super::object_store::ObjectStore;
use super::quarantine_query::is_file_of;
use super::store_error::StoreError;
use super::{DiskError, DiskSpace, KvError, KvPair, KvRead, prefix_end};
use crate::types::{ObjectId, SMALL_OBJECT_MAX};
use bytes::Bytes;

/// Bytes of the tables' rows of an object, besides its own, about.
const ROW_BYTES: u64 = 512;

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object.
    pub id: ObjectId,
    /// Its header; `None` when its row is damaged.
    pub header: Option<ObjectHeader>,
}

impl ObjectStore {
    /// The row of an object; a damaged one counts as absent (its file becomes an orphan).
    pub(super) fn row(&self, id: ObjectId) -> Result<Option<ObjectRow>, StoreError> {
        match self.checked_row(id) {
            Err(StoreError::Corrupt { .. }) => Ok(None),
            other => other,
        }
    }

    pub(super) fn checked_row(&self, id: ObjectId) -> Result<Option<ObjectRow>, StoreError> {
        let damaged = || StoreError::Corrupt {
            id,
            place: "tables".to_owned(),
        };
        match self.kv.get(&object_key(TABLE_OBJECT, id)) {
            Ok(None) => Ok(None),
            Ok(Some(row)) => ObjectRow::decode(&row).map(Some).ok_or_else(damaged),
            Err(KvError::Damaged { .. }) => Err(damaged()),
            Err(e) => Err(e.into()),
        }
    }

    /// Plans a read of `len` bytes at `offset`, widened to whole blocks. The plan does the I/O, on
    /// whatever thread runs it; a delete in between does not disturb it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Corrupt`] when the row is damaged or its file gone.
    pub fn plan_read(&self, id: ObjectId, offset: u32, len: u32) -> Result<ReadPlan, StoreError> {
        let row = self.checked_row(id)?.ok_or(StoreError::NotFound { id })?;
        let source = match (row.place, self.in_flight.get(&id)) {
            (Place::File(_), Some((_, bytes))) => Source::Memory(bytes.clone()),
            (Place::File(generation), None) => {
                let path = object_path(id, generation);
                match self.disk.open(&path, false) {
                    Ok(file) => Source::File { file, path },
                    Err(DiskError::NotFound { path: place }) => {
                        return Err(StoreError::Corrupt { id, place });
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            (Place::Table, _) => match self.kv.get(&object_key(TABLE_BYTES, id)) {
                Ok(bytes) => Source::Memory(bytes.unwrap_or_default().into()),
                Err(KvError::Damaged { .. }) => Source::Memory(Bytes::new()),
                Err(e) => return Err(e.into()),
            },
        };
        Ok(ReadPlan::new(row.header, source, offset, len))
    }

    /// Reads and verifies whole blocks around `len` bytes at `offset`.
    ///
    /// # Errors
    /// Those of [`plan_read`](Self::plan_read) and [`ReadPlan::run`].
    pub fn read_object(
        &self,
        id: ObjectId,
        offset: u32,
        len: u32,
    ) -> Result<ObjectRead, StoreError> {
        self.plan_read(id, offset, len)?.run()
    }

    /// What is known of an object besides its bytes; `None` if it is not here.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its row is damaged.
    pub fn object_header(&self, id: ObjectId) -> Result<Option<ObjectHeader>, StoreError> {
        Ok(self.checked_row(id)?.map(|row| row.header))
    }

    /// True if the object is here with a readable row.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn has_object(&self, id: ObjectId) -> Result<bool, StoreError> {
        Ok(self.row(id)?.is_some())
    }

    /// Objects after `after` in the order of their ids, at most `limit`. May return fewer in the
    /// middle of the list; only an empty answer ends it.
    ///
    /// # Errors
    /// Reading the tables; a damaged row is listed without its header.
    pub fn list_objects(
        &self,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let mut from = after.map_or(vec![TABLE_OBJECT], |id| object_key(TABLE_OBJECT, id));
        if after.is_some() {
            from.push(0);
        }
        let to = prefix_end(&[TABLE_OBJECT]);
        let listed = |(key, row): KvPair| {
            Some(Listed {
                id: key_object(&key)?,
                header: ObjectRow::decode(&row).map(|row| row.header),
            })
        };
        match self.kv.scan(&from, &to, limit) {
            Ok(rows) => Ok(rows.into_iter().filter_map(listed).collect()),
            Err(KvError::Damaged { key }) => {
                let Some(bad) = parse_hex(&key) else {
                    return Err(KvError::Damaged { key }.into());
                };
                let before = self.kv.scan(&from, &bad, limit)?;
                let mut found: Vec<_> = before.into_iter().filter_map(listed).collect();
                if found.len() < limit {
                    let id = key_object(&bad);
                    found.extend(id.map(|id| Listed { id, header: None }));
                }
                Ok(found)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Reads all of an object and its header: false if anything does not match.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; I/O.
    pub fn scrub(&self, id: ObjectId) -> Result<bool, StoreError> {
        let checked = self
            .plan_read(id, 0, u32::MAX)
            .and_then(|plan| plan.scrub(None));
        match checked {
            Ok(_) => Ok(true),
            Err(StoreError::Corrupt { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes files of directory `dir` (`0..FAN_OUT`) that no row names: what a crash left of
    /// uncommitted batches and of deletes. Returns how many.
    ///
    /// # Errors
    /// I/O.
    pub fn sweep(&self, dir: u64) -> Result<usize, StoreError> {
        let dir = object_dir(dir % FAN_OUT);
        let mut removed = 0;
        for name in self.disk.list(&dir)? {
            let Some((id, generation)) = parse_file_name(&name) else {
                continue;
            };
            // A damaged row may be the only trace of a good file: keep that for repair.
            let keep = match self.checked_row(id) {
                Ok(row) => {
                    row.is_some_and(|row| row.place == Place::File(generation))
                        || is_file_of(&self.kv, id, generation)
                }
                Err(StoreError::Corrupt { .. }) => true,
                Err(e) => return Err(e),
            };
            if !keep {
                match self.disk.remove(&format!("{dir}/{name}")) {
                    Ok(()) => removed += 1,
                    Err(DiskError::NotFound { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(removed)
    }

    /// Bytes of the objects held (headers and tables not counted).
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.counters.used_bytes
    }

    /// Objects held.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.counters.objects
    }

    /// Space of the device, or of the configured part of it, as it is now: what is on its way counts as
    /// used, and so does what rests.
    ///
    /// # Errors
    /// I/O.
    pub fn space(&self) -> Result<DiskSpace, StoreError> {
        let mut space = self.disk.space()?;
        let in_flight: u64 = self.in_flight.values().map(|(_, b)| b.len() as u64).sum();
        space.free_bytes = space.free_bytes.saturating_sub(in_flight);
        if let Some(capacity) = self.options.capacity_bytes {
            let used = self.counters.used_bytes + self.resting().bytes;
            space.free_bytes = space.free_bytes.min(capacity.saturating_sub(used));
            space.total_bytes = space.total_bytes.min(capacity);
        }
        Ok(space)
    }

    /// How long the disk takes for an operation, smoothed; zero while that is not known.
    #[must_use]
    pub fn disk_latency(&self) -> std::time::Duration {
        self.disk.latency()
    }

    /// True while not even the journal finds room: nothing that waits for it can be promised now.
    #[must_use]
    pub fn is_out_of_room(&self) -> bool {
        self.disk.is_out_of_room()
    }

    /// Part of the free bytes that no object may use.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.space().map_or(0, |space| self.reserve_of(space))
    }

    fn reserve_of(&self, space: DiskSpace) -> u64 {
        let share = space.total_bytes / 1000 * self.options.reserve_permille;
        share.min(self.options.reserve_bytes_max)
    }

    /// This many stores, itself included, write to the device: each may count on its part of the
    /// room only, as all may be asked at once.
    pub fn share_device(&mut self, stores: u16) {
        self.sharing = stores.max(1);
    }

    /// Bytes of the device that are this store's part, if it shares it.
    #[must_use]
    pub fn part_bytes(&self) -> u64 {
        let total = self.space().map_or(0, |space| space.total_bytes);
        total / u64::from(self.sharing)
    }

    /// Bytes of the device that an object of `len` bytes takes, about.
    #[must_use]
    pub fn cost_of(len: u32) -> u64 {
        let len = u64::from(len);
        match len > u64::from(SMALL_OBJECT_MAX) {
            true => FILE_HEADER_BYTES as u64 + len,
            // In the tables, which are kept twice.
            false => 2 * (len + ROW_BYTES),
        }
    }

    /// Says whether `bytes` more may be stored now without touching the reserve. What rests takes room
    /// until it is gone.
    ///
    /// # Errors
    /// [`StoreError::Full`]; I/O.
    pub fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let free_bytes = self.free_part()?;
        if bytes > free_bytes {
            return Err(StoreError::Full {
                needed_bytes: bytes,
                free_bytes,
            });
        }
        Ok(())
    }

    /// True if `bytes` more could be stored once all that rests here is gone, and only then.
    #[must_use]
    pub fn would_admit(&self, bytes: u64) -> bool {
        let promised = self.part_with(self.coming_bytes()).unwrap_or(0);
        self.has_resting() && bytes <= promised && bytes > self.free_part().unwrap_or(u64::MAX)
    }

    /// Bytes above the reserve that are free now, or the store's part of them.
    pub(super) fn free_part(&self) -> Result<u64, StoreError> {
        self.part_with(0)
    }

    /// The same with so many more bytes of the device free.
    fn part_with(&self, more: u64) -> Result<u64, StoreError> {
        let space = self.space()?;
        let free_bytes = space
            .free_bytes
            .saturating_add(more)
            .min(space.total_bytes)
            .saturating_sub(self.reserve_of(space));
        Ok(free_bytes / u64::from(self.sharing))
    }
}

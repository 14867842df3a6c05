//! What the rows of an open table file take, and what is free in it for new ones.
//!
//! A [`TableGauge`] belongs to one open file. Whoever accounts for space finds the gauges of a node in
//! its [`TableCounts`](super::TableCounts). The engine counts by walking its trees, in a transaction
//! that changes nothing and in which no flush runs, so a caller spaces its calls.
//!
//! Invariant: no gauge keeps an engine alive. Closing the file waits for a count under way and takes the
//! engine out of the gauge first, so the file is never open twice.
use super::redb_kv::{TABLE, engine};
use super::{KvError, TableFault};
use redb::{Database, ReadableTableMetadata};
use std::sync::{Arc, Mutex, PoisonError};

/// Pages that the engine needs whatever the rows are: the header of the file and of its region.
const HEADER_PAGES: u64 = 2;
const PAGE: u64 = 4096;

/// Bytes of one table file; its copy takes the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableUse {
    /// Of pages that rows are in, and of what the engine needs to find them.
    pub used_bytes: u64,
    /// Of pages that the engine has handed out: besides the used ones those that the next
    /// transactions will free.
    pub allocated_bytes: u64,
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct TableGauge {
    path: String,
    database: Mutex<Option<Arc<Database>>>,
    fault: Arc<TableFault>,
}

impl TableGauge {
    pub(super) fn new(path: &str, database: &Arc<Database>, fault: &Arc<TableFault>) -> Self {
        Self {
            path: path.to_owned(),
            database: Mutex::new(Some(Arc::clone(database))),
            fault: Arc::clone(fault),
        }
    }

    /// The file, as it was opened.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Counts; `None` once the file is closed.
    ///
    /// # Errors
    /// [`KvError`]: the tables cannot be read.
    pub fn measure(&self) -> Result<Option<TableUse>, KvError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            return Ok(None);
        };
        self.fault.guard(|| count(database)).map(Some)
    }

    pub(super) fn close(&self) {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        *database = None;
    }
}

fn count(database: &Database) -> Result<TableUse, KvError> {
    let transaction = database.begin_write().map_err(engine)?;
    let all = transaction.stats().map_err(engine)?;
    let rows = {
        let table = transaction.open_table(TABLE).map_err(engine)?;
        table.stats().map_err(engine)?
    };
    transaction.abort().map_err(engine)?;
    // The engine's own trees are in its metadata, and their unused parts are too few to count.
    let used = all.stored_bytes() + all.metadata_bytes() + rows.fragmented_bytes();
    Ok(TableUse {
        used_bytes: used + HEADER_PAGES * PAGE,
        allocated_bytes: all.allocated_pages() * all.page_size() as u64,
    })
}

#[cfg(test)]
mod tests {
    use crate::store::{Base, RedbBase, SimDisk, TableCounts};
    use std::sync::Arc;

    const ROWS: u32 = 400;
    const VALUE: usize = 3000;

    fn write(base: &RedbBase, rows: impl Iterator<Item = u32>, value: Option<&[u8]>) {
        let keys: Vec<_> = rows.map(u32::to_be_bytes).collect();
        let mut changes = keys.iter().map(|key| (key.as_slice(), value));
        base.write(&mut changes).unwrap();
    }

    #[test]
    fn rows_are_used_bytes_and_what_they_leave_is_not() {
        let disk = SimDisk::new();
        let counts = Arc::<TableCounts>::default();
        let base = RedbBase::open_counted(&disk, "t", 1 << 20, Arc::clone(&counts)).unwrap();
        let gauges = counts.gauges();
        assert_eq!(gauges.len(), 1);
        assert_eq!(gauges[0].path(), "t");
        let measure = || gauges[0].measure().unwrap().unwrap();
        let empty = measure();
        let bytes = u64::from(ROWS) * VALUE as u64;
        write(&base, 0..ROWS, Some(&[7; VALUE]));
        let full = measure();
        let grown = full.used_bytes - empty.used_bytes;
        // One row to a page of 4096 bytes.
        assert!(
            (bytes..bytes * 3 / 2).contains(&grown),
            "{grown} of {bytes}"
        );
        assert!(full.used_bytes <= full.allocated_bytes + 8192, "{full:?}");
        write(&base, 0..ROWS, None);
        let left = measure();
        assert!(
            left.used_bytes < empty.used_bytes + 65536,
            "{left:?} {empty:?}"
        );
        drop(base);
        assert_eq!(gauges[0].measure(), Ok(None), "the engine is gone");
        assert!(counts.gauges().is_empty() || counts.gauges()[0].measure() == Ok(None));
    }
}

//! Has the table engine read or check one file, without changing it: what it would repair after a crash
//! it repairs in memory.
use super::page_sums::PAGE;
use super::redb_kv::{CORRUPTED, engine, to_io};
use super::{DiskFile, KvError, TableFault};
use redb::{Builder, Database, StorageBackend};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pages that were written, and the length.
#[derive(Debug, Default)]
struct Changes {
    pages: BTreeMap<u64, Vec<u8>>,
    /// Bytes of the file beyond this are gone.
    kept: u64,
    len: u64,
}

/// A file as `redb` wants it, with its changes in memory.
#[derive(Debug)]
struct MemoryBackend {
    file: Box<dyn DiskFile>,
    changes: Mutex<Changes>,
}

impl MemoryBackend {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, changes: &Changes, page: u64) -> io::Result<Vec<u8>> {
        if let Some(changed) = changes.pages.get(&page) {
            return Ok(changed.clone());
        }
        let at = page * PAGE as u64;
        let mut bytes = vec![0; PAGE];
        let there = changes.kept.saturating_sub(at).min(PAGE as u64);
        let there = usize::try_from(there).unwrap_or(PAGE);
        self.file
            .read_into(at, &mut bytes[..there])
            .map_err(to_io)?;
        Ok(bytes)
    }
}

/// The pieces of a range, page by page: page, where in it, and where in the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let skip = usize::try_from(at % PAGE as u64).unwrap_or_default();
        let step = (PAGE - skip).min(len - done);
        done += step;
        (step > 0).then(|| (at / PAGE as u64, skip, done - step..done))
    })
}

impl StorageBackend for MemoryBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset.saturating_add(out.len() as u64) > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, skip, range) in pieces(offset, out.len()) {
            let bytes = self.page(&changes, page)?;
            let end = skip + range.len();
            out[range].copy_from_slice(&bytes[skip..end]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes();
        changes.len = len;
        changes.kept = changes.kept.min(len);
        changes.pages.retain(|page, _| page * (PAGE as u64) < len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        for (page, skip, range) in pieces(offset, bytes.len()) {
            let mut whole = self.page(&changes, page)?;
            whole[skip..skip + range.len()].copy_from_slice(&bytes[range]);
            changes.pages.insert(page, whole);
        }
        changes.len = changes.len.max(offset + bytes.len() as u64);
        Ok(())
    }
}

/// Opens a file with the engine; changes stay in memory.
///
/// # Errors
/// It is no database, or damaged where all depends on it.
pub(super) fn open(file: Box<dyn DiskFile>) -> Result<Database, KvError> {
    let len = file.len()?;
    if len < PAGE as u64 {
        let cause = format!("{CORRUPTED}: the file is cut short");
        return Err(KvError::Engine { cause });
    }
    let changes = Mutex::new(Changes {
        kept: len,
        len,
        ..Changes::default()
    });
    let backend = MemoryBackend { file, changes };
    TableFault::default().guard(|| Builder::new().create_with_backend(backend).map_err(engine))
}

/// Reads all of a table file by the engine's own checksums.
///
/// # Errors
/// It is not whole, or cannot be read.
pub(super) fn check(file: Box<dyn DiskFile>) -> Result<(), KvError> {
    let mut database = open(file)?;
    let mut run = || database.check_integrity().map_err(engine);
    TableFault::default().guard(&mut run).map(drop)
}

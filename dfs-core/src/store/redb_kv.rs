//! Tables in one `redb` file on a [`Disk`], every value under a checksum of ours.
//!
//! `redb` sees the disk through [`DiskBackend`], so the same code runs on a real file and on a
//! simulated disk that tears writes. One table holds everything; a stored value is
//! `[crc32c(key, value) u32 little-endian][value]`, checked on every read, since `redb` verifies
//! its own page checksums only when it repairs.
//!
//! Steps:
//! 1. a new file is made under a temporary name, committed once, then renamed and the name synced:
//!    a file under the final name is a whole database;
//! 2. each write is one transaction with `Durability::Immediate` and quick repair (two-phase
//!    commit with the allocator state saved), so a kill at any point costs no scan at the reopen.
use super::base::{Base, BaseView, Change};
use super::{Disk, DiskError, DiskFile, KvError, KvPair, KvRead};
use crate::types::crc32c;
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};
use std::io;
use std::sync::Arc;

/// Cache of a table file unless configured: several daemons share a machine.
pub const CACHE_BYTES_DEFAULT: usize = 16 << 20;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("kv");

/// Durable tables in a `redb` file. See the [module docs](self).
#[derive(Debug)]
pub struct RedbBase {
    database: Database,
}

/// A [`DiskFile`] as `redb` wants it.
#[derive(Debug)]
struct DiskBackend(Box<dyn DiskFile>);

fn to_io(e: DiskError) -> io::Error {
    let kind = match &e {
        DiskError::NotFound { .. } => io::ErrorKind::NotFound,
        DiskError::NoSpace { .. } => io::ErrorKind::StorageFull,
        DiskError::Io { .. } => io::ErrorKind::Other,
    };
    io::Error::new(kind, e)
}

/// Our error for the engine's, with the disk's own error found again inside.
fn engine(e: impl Into<redb::Error>) -> KvError {
    let e = e.into();
    if let redb::Error::Io(io) = &e {
        let inner = io
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<DiskError>());
        if let Some(disk) = inner {
            return KvError::Disk(disk.clone());
        }
    }
    KvError::Engine {
        cause: e.to_string(),
    }
}

impl StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len().map_err(to_io)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let n = self.0.read_into(offset, out).map_err(to_io)?;
        if n < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(to_io)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().map_err(to_io)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes).map_err(to_io)
    }
}

impl RedbBase {
    /// Opens the file at `path` of `disk`, repairing it after a crash, or makes it.
    ///
    /// `cache_bytes` bounds the memory the engine uses for pages ([`CACHE_BYTES_DEFAULT`]).
    ///
    /// # Errors
    /// [`KvError::Engine`] when the file is no database or is damaged beyond repair; I/O.
    pub fn open(disk: &dyn Disk, path: &str, cache_bytes: usize) -> Result<Self, KvError> {
        let file = match disk.open(path, false) {
            Ok(file) => file,
            Err(DiskError::NotFound { .. }) => return Self::create(disk, path, cache_bytes),
            Err(e) => return Err(e.into()),
        };
        Self::build(file, cache_bytes)
    }

    fn build(file: Box<dyn DiskFile>, cache_bytes: usize) -> Result<Self, KvError> {
        let built = Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(DiskBackend(file));
        let database = built.map_err(engine)?;
        Ok(Self { database })
    }

    fn create(disk: &dyn Disk, path: &str, cache_bytes: usize) -> Result<Self, KvError> {
        let fresh = format!("{path}.new");
        let file = disk.open(&fresh, true)?;
        // Left over from a crash in this very place: start again.
        file.set_len(0)?;
        let base = Self::build(file, cache_bytes)?;
        base.write(&mut std::iter::empty())?;
        disk.rename(&fresh, path)?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        disk.sync_dir(dir)?;
        Ok(base)
    }
}

impl Base for RedbBase {
    fn view(&self) -> Result<Arc<dyn BaseView>, KvError> {
        let transaction = self.database.begin_read().map_err(engine)?;
        let table = transaction.open_table(TABLE).map_err(engine)?;
        Ok(Arc::new(RedbView(table)))
    }

    fn write(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<(), KvError> {
        let mut transaction = self.database.begin_write().map_err(engine)?;
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(TABLE).map_err(engine)?;
            let mut framed = Vec::new();
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        framed.clear();
                        framed.extend(checksum(key, value).to_le_bytes());
                        framed.extend(value);
                        table.insert(key, framed.as_slice()).map_err(engine)?;
                    }
                    None => {
                        table.remove(key).map_err(engine)?;
                    }
                }
            }
        }
        transaction.commit().map_err(engine)
    }
}

/// Covers the key too, so that a value under a wrong key is seen.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c(key).rotate_left(1) ^ crc32c(value)
}

/// A read transaction's table: unaffected by later writes.
struct RedbView(ReadOnlyTable<&'static [u8], &'static [u8]>);

fn checked(key: &[u8], framed: &[u8]) -> Result<Vec<u8>, KvError> {
    if let Some((crc, value)) = framed.split_first_chunk::<4>()
        && u32::from_le_bytes(*crc) == checksum(key, value)
    {
        return Ok(value.to_vec());
    }
    let key = key.iter().map(|b| format!("{b:02x}")).collect();
    Err(KvError::Damaged { key })
}

type RedbRow<'a> = Result<
    (
        redb::AccessGuard<'a, &'static [u8]>,
        redb::AccessGuard<'a, &'static [u8]>,
    ),
    redb::StorageError,
>;

fn collect<'a>(rows: impl Iterator<Item = RedbRow<'a>>) -> Result<Vec<KvPair>, KvError> {
    rows.map(|row| {
        let (key, framed) = row.map_err(engine)?;
        let key = key.value().to_vec();
        let value = checked(&key, framed.value())?;
        Ok((key, value))
    })
    .collect()
}

impl KvRead for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let found = self.0.get(key).map_err(engine)?;
        found.map(|framed| checked(key, framed.value())).transpose()
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.0.range::<&[u8]>(from..to).map_err(engine)?;
        collect(range.take(limit))
    }

    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.0.range::<&[u8]>(from..to).map_err(engine)?;
        collect(range.rev().take(limit))
    }
}

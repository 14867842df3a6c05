//! Tables in one `redb` file on a [`Disk`], every value under a checksum of ours.
//!
//! `redb` sees the disk through a backend of its own, so the same code runs on a real file and on a
//! simulated disk that tears writes. One table holds everything; a stored value is
//! `[crc32c(key, value) u32 little-endian][value]`, checked on every read, since `redb` verifies
//! its own page checksums only when it repairs. And it trusts its inner pages: a damaged one could
//! hide rows. So the file lies on a [`MirrorFile`]: the engine sees verified pages only.
//!
//! Steps:
//! 1. a new file is made under a temporary name, committed once, then renamed and the name synced:
//!    a file under the final name is a whole database;
//! 2. each write is one transaction with `Durability::Immediate` and quick repair (two-phase
//!    commit with the allocator state saved), so a kill at any point costs no scan at the reopen.
use super::base::{Base, BaseView, Change};
use super::kv::scan_readable;
use super::mirror::{MirrorCheck, MirrorFile};
use super::mirror_open::{Opened, Side};
use super::raw_check;
use super::{
    Disk, DiskError, DiskFile, KvError, KvPair, KvRead, TableCounts, TableFault, TableGauge,
};
use crate::types::crc32c;
use bytes::Bytes;
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};
use std::io;
use std::sync::Arc;

/// How the engine's words for damage begin.
pub(super) const CORRUPTED: &str = "DB corrupted";

/// Cache of a table file unless configured: several daemons share a machine.
pub const CACHE_BYTES_DEFAULT: usize = 16 << 20;

pub(super) const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("kv");

/// Durable tables in a `redb` file. See the [module docs](self).
#[derive(Debug)]
pub struct RedbBase {
    database: Arc<Database>,
    fault: Arc<TableFault>,
    mirror: Arc<MirrorFile>,
    gauge: Arc<TableGauge>,
}

/// A [`MirrorFile`] as `redb` wants it.
#[derive(Debug)]
struct MirrorBackend(Arc<MirrorFile>);

pub(super) fn to_io(e: DiskError) -> io::Error {
    let kind = match &e {
        DiskError::NotFound { .. } => io::ErrorKind::NotFound,
        DiskError::NoSpace { .. } => io::ErrorKind::StorageFull,
        DiskError::Io { .. } => io::ErrorKind::Other,
    };
    io::Error::new(kind, e)
}

/// Our error for the engine's, with the disk's own error found again inside.
pub(super) fn engine(e: impl Into<redb::Error>) -> KvError {
    let e = e.into();
    if let redb::Error::Io(io) = &e {
        let inner = io
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<DiskError>());
        if let Some(disk) = inner {
            return KvError::Disk(disk.clone());
        }
        if matches!(
            io.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ) {
            // Its own words for a file that is none of its own, or ends too early.
            let cause = format!("{CORRUPTED}: {io}");
            return KvError::Engine { cause };
        }
    }
    KvError::Engine {
        cause: e.to_string(),
    }
}

impl StorageBackend for MirrorBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len().map_err(to_io)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let n = self.0.read(offset, out).map_err(to_io)?;
        if n < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(to_io)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync().map_err(to_io)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes).map_err(to_io)
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
        Self::open_counted(disk, path, cache_bytes, Arc::default())
    }

    /// As [`open`](Self::open); `counts` is told what was damaged and made good.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_counted(
        disk: &dyn Disk,
        path: &str,
        cache_bytes: usize,
        counts: Arc<TableCounts>,
    ) -> Result<Self, KvError> {
        let mirror = match MirrorFile::open(disk, path, Arc::clone(&counts))? {
            Opened::Nothing => return Self::create(disk, path, cache_bytes, counts),
            Opened::Ready(mirror) => mirror,
            Opened::Doubtful {
                mirror,
                sides,
                has_sums,
            } => {
                Self::decide((disk, path), &mirror, &sides, has_sums)?;
                mirror
            }
        };
        Self::build(mirror, cache_bytes)
    }

    /// Finds the side that is whole by the engine's own checksums, and makes the others of it.
    fn decide(
        (disk, path): (&dyn Disk, &str),
        mirror: &MirrorFile,
        sides: &[Side],
        has_sums: bool,
    ) -> Result<(), KvError> {
        let mut failed = None;
        for side in sides {
            match raw_check::check(mirror.side(disk, *side)?) {
                Ok(()) => {
                    mirror.rebuild(*side)?;
                    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                    disk.sync_dir(dir)?;
                    tracing::info!(?side, "made the second copy of a table file");
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(?side, %error, "this side of a table file is not whole");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if !has_sums => Err(error),
            _ => Ok(mirror.trust(disk)?),
        }
    }

    fn build(mirror: MirrorFile, cache_bytes: usize) -> Result<Self, KvError> {
        let mirror = Arc::new(mirror);
        let fault = Arc::<TableFault>::default();
        let database = fault.guard(|| {
            let mut builder = Builder::new();
            let builder = builder.set_cache_size(cache_bytes);
            let built = builder.create_with_backend(MirrorBackend(Arc::clone(&mirror)));
            built.map(Arc::new).map_err(engine)
        })?;
        let gauge = Arc::new(TableGauge::new(&mirror.path, &database, &fault));
        mirror.counts.watch(&gauge);
        Ok(Self {
            database,
            fault,
            mirror,
            gauge,
        })
    }

    fn create(
        disk: &dyn Disk,
        path: &str,
        cache_bytes: usize,
        counts: Arc<TableCounts>,
    ) -> Result<Self, KvError> {
        let fresh = format!("{path}.new");
        // What a crash in this very place left over is emptied.
        let mirror = MirrorFile::create(disk, path, &fresh, counts)?;
        let base = Self::build(mirror, cache_bytes)?;
        base.write(&mut std::iter::empty())?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        // The names of copy and sums, before the file that needs them.
        disk.sync_dir(dir)?;
        disk.rename(&fresh, path)?;
        disk.sync_dir(dir)?;
        base.mirror.begin()?;
        Ok(base)
    }

    /// Removes a table file that nobody has open.
    ///
    /// # Errors
    /// I/O; none is no error.
    pub fn remove(disk: &dyn Disk, path: &str) -> Result<(), DiskError> {
        match disk.remove(path) {
            Ok(()) | Err(DiskError::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        // Before what the file needs, and durably so.
        disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
        MirrorFile::remove_rest(disk, path)
    }

    /// Reads pages from the disk again and makes good what is damaged ([`MirrorFile::check`]).
    ///
    /// # Errors
    /// A page that is lost; I/O.
    pub fn check(&self, first: u64, pages: usize) -> Result<MirrorCheck, KvError> {
        Ok(self.mirror.check(first, pages)?)
    }

    /// Looks at what is no page ([`MirrorFile::check_header`]).
    ///
    /// # Errors
    /// I/O.
    pub fn check_header(&self) -> Result<(), KvError> {
        Ok(self.mirror.check_header()?)
    }
}

impl Base for RedbBase {
    fn view(&self) -> Result<Arc<dyn BaseView>, KvError> {
        self.fault.guard(|| {
            let transaction = self.database.begin_read().map_err(engine)?;
            let table = transaction.open_table(TABLE).map(Table).map_err(engine)?;
            let fault = Arc::clone(&self.fault);
            Ok(Arc::new(RedbView { table, fault }) as Arc<dyn BaseView>)
        })
    }

    fn write(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<(), KvError> {
        self.fault.guard(|| self.write_all(changes))
    }
}

impl Drop for RedbBase {
    /// An engine that panicked is not asked to close its file.
    fn drop(&mut self) {
        self.gauge.close();
        if self.fault.cause().is_some() {
            std::mem::forget(Arc::clone(&self.database));
        }
    }
}

impl RedbBase {
    fn write_all(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<(), KvError> {
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

    /// Why the tables are past use; `None` while they are good.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.cause()
    }

    /// Reads every row from the disk and not from memory, so that a damaged page that any of them needs
    /// becomes a fault. Writes wait meanwhile.
    ///
    /// # Errors
    /// [`KvError`]; a single damaged value is none.
    pub fn read_all(&self) -> Result<(), KvError> {
        self.fault.guard(|| {
            // While this one is open nothing changes on the disk.
            let transaction = self.database.begin_write().map_err(engine)?;
            let pages = MirrorPages(Arc::clone(&self.mirror));
            let done = raw_check::open(Box::new(pages))
                .and_then(LooseView::new)
                .and_then(|view| read_rows(&view));
            transaction.abort().map_err(engine)?;
            done
        })
    }
}

fn read_rows(view: &dyn KvRead) -> Result<(), KvError> {
    const ROWS: usize = 1024;
    let (mut from, to) = (Vec::new(), [0xff; 64]);
    loop {
        let (rows, bad) = scan_readable(view, &from, &to, ROWS)?;
        from = match (bad, rows.last()) {
            (Some(bad), _) => bad,
            (None, Some((last, _))) => last.clone(),
            (None, None) => return Ok(()),
        };
        from.push(0);
    }
}

/// A [`MirrorFile`] for a second engine that only reads it.
#[derive(Debug)]
struct MirrorPages(Arc<MirrorFile>);

impl DiskFile for MirrorPages {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let mut out = vec![0; len];
        let there = self.0.read(offset, &mut out)?;
        out.truncate(there);
        Ok(out.into())
    }
    fn forget_cached(&self, _: u64, _: u64) {}
    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), DiskError> {
        Ok(()) // Never called: that engine's changes stay in its own backend.
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn len(&self) -> Result<u64, DiskError> {
        self.0.len()
    }
    fn set_len(&self, _: u64) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Covers the key too, so that a value under a wrong key is seen.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c(key).rotate_left(1) ^ crc32c(value)
}

/// A read transaction's table.
struct Table(ReadOnlyTable<&'static [u8], &'static [u8]>);

/// A state of the tables: unaffected by later writes.
struct RedbView {
    table: Table,
    fault: Arc<TableFault>,
}

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

impl KvRead for Table {
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

impl KvRead for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.fault.guard(|| self.table.get(key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.fault.guard(|| self.table.scan(from, to, limit))
    }

    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.fault.guard(|| self.table.scan_back(from, to, limit))
    }
}

/// Tables that are read as far as they go: one failure does not end their use.
pub(super) struct LooseView {
    table: Table,
    /// Outlives its table.
    _database: Database,
}

impl LooseView {
    /// The rows of a database.
    pub fn new(database: Database) -> Result<Self, KvError> {
        let table = TableFault::default().guard(|| {
            let transaction = database.begin_read().map_err(engine)?;
            transaction.open_table(TABLE).map(Table).map_err(engine)
        })?;
        Ok(Self {
            table,
            _database: database,
        })
    }
}

impl KvRead for LooseView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        TableFault::default().guard(|| self.table.get(key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        TableFault::default().guard(|| self.table.scan(from, to, limit))
    }

    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        TableFault::default().guard(|| self.table.scan_back(from, to, limit))
    }
}

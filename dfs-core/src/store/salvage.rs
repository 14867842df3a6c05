//! Reads what is left of a store that cannot be opened any more, without changing it.
//!
//! Steps, on a disk that keeps changes in memory ([`CowDisk`](super::CowDisk)):
//! 1. the rows of the tables: pages that no two places agree on are taken as they are, since every
//!    row has a checksum of its own; where the engine cannot go on, it goes on from the other end, and
//!    in ever smaller ranges;
//! 2. the records of the journal, up to where they end;
//! 3. object files whose rows are lost: their headers say who they are.
//!
//! The result answers like any store. What is deleted but still there may show, as what rests does if the
//! row is lost that tells it apart: hiding a file that lives would be worse, and whoever asks knows what
//! was valid last.
use super::base::{Base, MemBase};
use super::mirror::MirrorFile;
use super::mirror_open::{Opened, Side};
use super::object_format::{
    FAN_OUT, FILE_HEADER_BYTES, KEY_COUNTERS, ObjectHeader, ObjectRow, Place, TABLE_OBJECT,
    decode_ops, object_dir, object_key, parse_file_name,
};
use super::object_store::{ObjectStore, StoreOptions};
use super::page_sums::PAGE;
use super::quarantine::KEY_RESTING;
use super::quarantine_query::is_file_of;
use super::raw_check;
use super::redb_kv::LooseView;
use super::store_error::StoreError;
use super::store_meta::StoreMeta;
use super::{Disk, DiskError, DiskFile, Journal, JournalOptions, KvOp, KvRead, MemKv};
use bytes::Bytes;
use std::sync::Arc;

const TABLES: &str = "tables.redb";
/// Rows read at a time.
const ROWS: usize = 256;

/// Pages as good as they can be had.
#[derive(Debug)]
struct BestPages {
    mirror: MirrorFile,
    /// Where the sums do not count.
    file: Box<dyn DiskFile>,
    copy: Option<Box<dyn DiskFile>>,
    has_sums: bool,
}

impl DiskFile for BestPages {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let mut out = vec![0; len];
        for (at, piece) in (offset..).step_by(PAGE).zip(out.chunks_mut(PAGE)) {
            let is_read = (self.has_sums && self.mirror.read(at, piece).is_ok())
                || self.file.read_into(at, piece).is_ok();
            if let (false, Some(copy)) = (is_read, &self.copy) {
                let _ = copy.read_into(at, piece);
            }
        }
        Ok(out.into())
    }
    fn forget_cached(&self, _: u64, _: u64) {}
    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), DiskError> {
        Ok(()) // Nobody writes here: the engine's changes stay in its own backend.
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }
    fn set_len(&self, _: u64) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Opens what is left of a store; says in words what could not be read.
///
/// # Errors
/// Not even an empty store can be made of it: I/O.
pub fn salvage(
    disk: &Arc<dyn Disk>,
    meta: &StoreMeta,
) -> Result<(ObjectStore, Vec<String>), StoreError> {
    let (mut rows, mut troubles) = (MemKv::default(), Vec::new());
    read_tables(disk.as_ref(), &mut rows, &mut troubles);
    rows.0.remove(KEY_COUNTERS);
    rows.0.remove(KEY_RESTING);
    read_journal(disk, meta, &mut rows, &mut troubles)?;
    read_files(disk.as_ref(), &mut rows, &mut troubles);
    let base = MemBase::new();
    let changes = rows.0.iter();
    base.write(&mut changes.map(|(key, value)| (key.as_slice(), Some(value.as_slice()))))?;
    let (store, _) = ObjectStore::open(
        Arc::clone(disk),
        Arc::new(base),
        meta,
        StoreOptions::default(),
    )?;
    Ok((store, troubles))
}

fn best_pages(disk: &dyn Disk) -> Result<Option<BestPages>, DiskError> {
    let (mirror, has_sums) = match MirrorFile::open(disk, TABLES, Arc::default())? {
        Opened::Nothing => return Ok(None),
        Opened::Ready(mirror) => (mirror, true),
        Opened::Doubtful { mirror, sides, .. } if sides.first() == Some(&Side::Copy) => {
            // The better one is to be the file.
            mirror.rebuild(Side::Copy)?;
            (mirror, true)
        }
        Opened::Doubtful { mirror, .. } => (mirror, false),
    };
    Ok(Some(BestPages {
        file: mirror.side(disk, Side::File)?,
        copy: mirror.side(disk, Side::Copy).ok(),
        mirror,
        has_sums,
    }))
}

fn read_tables(disk: &dyn Disk, rows: &mut MemKv, troubles: &mut Vec<String>) {
    let pages = match best_pages(disk) {
        Ok(Some(pages)) => pages,
        Ok(None) => return troubles.push("the tables are gone".to_owned()),
        Err(error) => return troubles.push(format!("the tables cannot be read: {error}")),
    };
    let view = raw_check::open(Box::new(pages)).and_then(LooseView::new);
    let view = match view {
        Ok(view) => view,
        Err(error) => return troubles.push(format!("the tables cannot be read: {error}")),
    };
    let mut lost = 0;
    read_range(&view, (&[], &[0xff; 64]), 0, rows, &mut lost);
    if lost > 0 {
        troubles.push(format!("rows of the tables are lost in {lost} places"));
    }
}

/// Reads a range from its beginning, then from its end; and what fails, by its first bytes.
fn read_range(
    view: &dyn KvRead,
    (from, to): (&[u8], &[u8]),
    depth: usize,
    rows: &mut MemKv,
    lost: &mut u64,
) {
    if forward(view, from, to, rows, lost) {
        return;
    }
    if depth < 2 {
        for byte in 0..=u8::MAX {
            let mut begin = from.to_vec();
            begin.push(byte);
            let mut end = begin.clone();
            end.extend([0xff; 64]);
            read_range(view, (&begin, &end), depth + 1, rows, lost);
        }
        return;
    }
    *lost += 1;
    let mut to = to.to_vec();
    while let Ok(found) = view.scan_back(from, &to, ROWS) {
        let Some((first, _)) = found.last() else {
            break;
        };
        to.clone_from(first);
        rows.0.extend(found);
    }
}

/// False if it could not be read to the end. A damaged value is passed over.
fn forward(view: &dyn KvRead, from: &[u8], to: &[u8], rows: &mut MemKv, lost: &mut u64) -> bool {
    let mut from = from.to_vec();
    loop {
        let last = match super::kv::scan_readable(view, &from, to, ROWS) {
            Ok((found, bad)) => {
                let last = bad.or_else(|| found.last().map(|(key, _)| key.clone()));
                *lost += u64::from(found.last().map(|(key, _)| key) != last.as_ref());
                rows.0.extend(found);
                last
            }
            Err(_) => return false,
        };
        let Some(last) = last else { return true };
        from = last;
        from.push(0);
    }
}

/// Applies the records that are readable, and leaves the disk without a journal.
fn read_journal(
    disk: &Arc<dyn Disk>,
    meta: &StoreMeta,
    rows: &mut MemKv,
    troubles: &mut Vec<String>,
) -> Result<(), StoreError> {
    let salt = meta.store.0 as u64 ^ (meta.store.0 >> 64) as u64;
    let options = JournalOptions::new("journal", salt);
    let mut apply = |_, record: &[u8]| {
        for op in decode_ops(record).unwrap_or_default() {
            match op {
                KvOp::Put(key, value) => rows.0.insert(key, value),
                KvOp::Delete(key) => rows.0.remove(&key),
            };
        }
    };
    if let Err(error) = Journal::open(Arc::clone(disk), options, &mut apply) {
        troubles.push(format!("the journal could be read in part only: {error}"));
    }
    for name in disk.list("journal")? {
        disk.remove(&format!("journal/{name}"))?;
    }
    Ok(())
}

fn read_files(disk: &dyn Disk, rows: &mut MemKv, troubles: &mut Vec<String>) {
    let mut found = 0;
    for dir in (0..FAN_OUT).map(object_dir) {
        let names = disk.list(&dir).unwrap_or_else(|error| {
            troubles.push(format!("{dir} cannot be read: {error}"));
            Vec::new()
        });
        for name in names {
            let Some((id, generation)) = parse_file_name(&name) else {
                continue;
            };
            let key = object_key(TABLE_OBJECT, id);
            if rows.0.contains_key(&key) || is_file_of(rows, id, generation) {
                continue;
            }
            let page = disk.open(&format!("{dir}/{name}"), false);
            let page = page.and_then(|file| file.read_at(0, FILE_HEADER_BYTES));
            let header = page.ok().and_then(|page| ObjectHeader::decode(&page));
            let Some(header) = header.filter(|header| header.id == id) else {
                troubles.push(format!("{dir}/{name}: its header is damaged"));
                continue;
            };
            let place = Place::File(generation);
            rows.0.insert(key, ObjectRow { place, header }.encode());
            found += 1;
        }
    }
    if found > 0 {
        troubles.push(format!(
            "{found} object files without a row in the tables were taken by their headers; deleted \
             ones that rested may be among them"
        ));
    }
}

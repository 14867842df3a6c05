//! Rows of extents, their indexes, and what they refer to.
use super::super::keys;
use super::super::read;
use super::super::records::{Inode, NameHistory, VersionRec};
use super::super::rows;
use super::sums::{Counted, Sums};
use super::{Findings, find_inode, has};
use crate::store::KvRead;
use crate::types::{CHUNK_SIZE, ChunkNo, Extent, Ino, PgId, VersionNo, pg_of};
use crate::wire::audit::FaultKind as K;
use std::collections::{BTreeMap, BTreeSet};

/// The file whose rows are being looked at.
#[derive(Debug)]
struct File {
    ino: Ino,
    inode: Inode,
    /// Sizes of the kept versions.
    kept: BTreeMap<VersionNo, u64>,
    allocated: u64,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    /// `None` too when it cannot be read, and `ino` tells whose rows are skipped.
    file: Option<File>,
    ino: Option<Ino>,
    chunk: ChunkNo,
    /// Rows of the chunk, oldest first.
    rows: Vec<(VersionNo, Vec<Extent>)>,
}

impl Contents {
    pub fn row(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value: &[u8]) {
        let at = (
            keys::u64_at(key, 1),
            keys::u32_at(key, 9),
            keys::u64_at(key, 13),
        );
        let (Some(ino), Some(chunk), Some(no)) = at else {
            return found.add(K::UnreadableRow, Ino(0), format!("row {}", super::hex(key)));
        };
        let (ino, chunk, no) = (Ino(ino), ChunkNo(chunk), VersionNo(no));
        if self.ino != Some(ino) {
            self.file_end(found);
            self.begin_file(kv, found, ino);
        }
        if self.chunk != chunk {
            self.chunk_end(found);
            self.chunk = chunk;
        }
        let what = || format!("inode {ino}, {chunk:?}, version {no}: not in the index of rows");
        let is_listed = has(kv, &keys::row_index(ino, no, chunk));
        found.expect(is_listed, K::RowIndex, ino, what);
        if let Some(extents) = found.decode(key, value) {
            self.rows.push((no, extents));
        }
    }

    fn begin_file(&mut self, kv: &dyn KvRead, found: &mut Findings, ino: Ino) {
        (self.ino, self.chunk, self.file) = (Some(ino), ChunkNo(0), None);
        let inode = match find_inode(kv, ino) {
            Ok(Some(inode)) => inode,
            Ok(None) => {
                let what = format!("rows of inode {ino}, which is gone");
                return found.add(K::StrayRow, ino, what);
            }
            Err(_) => return,
        };
        let Ok(recs) = read::versions(kv, ino) else {
            return;
        };
        let size = |rec: &VersionRec| match rec.no == inode.version {
            true => inode.size,
            false => rec.size,
        };
        let kept = recs.iter().map(|rec| (rec.no, size(rec))).collect();
        self.file = Some(File {
            ino,
            inode,
            kept,
            allocated: 0,
        });
    }

    fn chunk_end(&mut self, found: &mut Findings) {
        let (chunk, all) = (self.chunk, std::mem::take(&mut self.rows));
        let Some(file) = &mut self.file else { return };
        let ino = file.ino;
        let mut was_content = false;
        for (i, (no, extents)) in all.iter().enumerate() {
            let next = all.get(i + 1).map_or(VersionNo(u64::MAX), |row| row.0);
            let sizes = || file.kept.range(*no..next).map(|(_, size)| *size);
            let at = || format!("inode {ino}, {chunk:?}, version {no}");
            let is_read = sizes().next().is_some();
            found.expect(is_read, K::StrayRow, ino, || {
                format!("{}: nobody reads it", at())
            });
            let is_needed = was_content || !extents.is_empty();
            found.expect(is_needed, K::StrayRow, ino, || {
                format!("{}: a hole on a hole", at())
            });
            was_content = !extents.is_empty();
            let ends = |e: &Extent| u64::from(e.start) + u64::from(e.len);
            let ordered = extents
                .windows(2)
                .all(|w| ends(&w[0]) <= u64::from(w[1].start));
            let end = extents.last().map_or(0, ends);
            let fits = end <= CHUNK_SIZE && extents.iter().all(|e| e.len > 0);
            found.expect(ordered && fits, K::ExtentOrder, ino, at);
            let size = sizes().min().unwrap_or(u64::MAX);
            let within = extents.is_empty() || chunk.start().saturating_add(end) <= size;
            let what = || format!("{}: {end} bytes of a file of {size}", at());
            found.expect(within, K::ExtentBeyondSize, ino, what);
        }
        let newest = all.iter().rfind(|(no, _)| *no <= file.inode.version);
        file.allocated += newest.map_or(0, |(_, extents)| read::covered(extents));
    }

    fn file_end(&mut self, found: &mut Findings) {
        self.chunk_end(found);
        let Some(file) = self.file.take() else { return };
        let (ino, counted, is) = (file.ino, file.inode.allocated, file.allocated);
        let what = || format!("inode {ino}: {counted} bytes counted, {is} found");
        found.expect(counted == is, K::AllocatedBytes, ino, what);
    }

    pub fn row_index(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8]) {
        let at = (
            keys::u64_at(key, 1),
            keys::u64_at(key, 9),
            keys::u32_at(key, 17),
        );
        let (Some(ino), Some(no), Some(chunk)) = at else {
            return;
        };
        let (ino, no, chunk) = (Ino(ino), VersionNo(no), ChunkNo(chunk));
        let what = || format!("inode {ino}, {chunk:?}, version {no}: listed, and no row");
        found.expect(has(kv, &keys::row(ino, chunk, no)), K::RowIndex, ino, what);
    }

    /// The last groups.
    pub fn end(&mut self, _: &dyn KvRead, found: &mut Findings) {
        self.file_end(found);
    }

    /// Adds what a row says, on whichever side, to the sums. A row that cannot be decoded was
    /// reported.
    pub fn add(&mut self, _: &Findings, sums: &mut Sums, pgs: u16, key: &[u8], value: &[u8]) {
        let count = || postcard::from_bytes::<u64>(value).unwrap_or(0);
        match key.first() {
            Some(b'b') => {
                let (Some(ino), Ok(inode)) = (keys::u64_at(key, 1), postcard::from_bytes(value))
                else {
                    return;
                };
                let (ino, inode): (Ino, Inode) = (Ino(ino), inode);
                if inode.revision.0 > 0 {
                    let home = pg_of(ino, ChunkNo::HOME, pgs);
                    let key = keys::pg_index(home, ino, ChunkNo::HOME);
                    sums.counted(Counted::Group, &key, 1);
                }
            }
            Some(b'e') => Self::add_row(sums, key, value),
            Some(b'f') => sums.stored(Counted::Object, key, count()),
            Some(b'g') => sums.stored(Counted::Group, key, count()),
            Some(b'i') => {
                let rec: NameHistory = postcard::from_bytes(value).unwrap_or_default();
                for pin in rec.pins {
                    sums.counted(Counted::Pin, &pin_key(pin.ino, pin.version), 1);
                }
            }
            Some(b'k') => {
                let (Some(ino), Ok(rec)) = (keys::u64_at(key, 1), postcard::from_bytes(value))
                else {
                    return;
                };
                let rec: VersionRec = rec;
                let key = pin_key(Ino(ino), rec.no);
                sums.stored(Counted::Pin, &key, u64::from(rec.pins));
            }
            _ => {}
        }
    }

    fn add_row(sums: &mut Sums, key: &[u8], value: &[u8]) {
        let at = (keys::u64_at(key, 1), keys::u32_at(key, 9));
        let (Some(ino), Some(chunk)) = at else { return };
        let Ok(extents) = postcard::from_bytes::<Vec<Extent>>(value) else {
            return;
        };
        let refs = rows::objects_of(&extents);
        for object in refs.keys() {
            sums.counted(Counted::Object, &keys::object(*object), 1);
        }
        let pgs: BTreeSet<PgId> = refs.into_values().collect();
        for pg in pgs {
            let key = keys::pg_index(pg, Ino(ino), ChunkNo(chunk));
            sums.counted(Counted::Group, &key, 1);
        }
    }
}

fn pin_key(ino: Ino, no: VersionNo) -> Vec<u8> {
    [ino.0.to_be_bytes(), no.0.to_be_bytes()].concat()
}

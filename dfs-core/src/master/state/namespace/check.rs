//! The audit: recomputes everything that is kept twice and compares. For tests and for people with
//! a broken disk; it reads all tables.
//!
//! 1. Tree: entries, cookies and links agree; link and entry counts; each live directory hangs under
//!    the root; nothing names what is not there.
//! 2. History: pins exist and are counted, numbers rise, at most [`KEPT`] per name, the index of
//!    deleted names and the counts of records per directory are exact; tombstones are known above.
//! 3. Versions: only those that something keeps; the newest exists.
//! 4. Contents: extents ascending, within chunk and size; no row that no version reads; `allocated`.
//! 5. References: objects, PG index, row index, orphans and totals are exact.
use super::KEPT;
use super::keys;
use super::read;
use super::records::{Dentry, Inode, NameHistory, VersionRec};
use super::rows;
use crate::master::state::StateError;
use crate::store::KvRead;
use crate::types::{
    CHUNK_SIZE, ChunkNo, Extent, FileKind, Ino, Name, PgId, PgMap, VersionNo, pg_of,
};
use std::collections::{BTreeMap, BTreeSet};

type Rows = BTreeMap<ChunkNo, BTreeMap<VersionNo, Vec<Extent>>>;
type Place = (Ino, Name);

/// Everything the tables say, decoded.
#[derive(Default)]
struct Audit {
    inodes: BTreeMap<Ino, Inode>,
    entries: BTreeMap<Place, Dentry>,
    histories: BTreeMap<Place, NameHistory>,
    versions: BTreeMap<Ino, BTreeMap<VersionNo, VersionRec>>,
    rows: BTreeMap<Ino, Rows>,
    faults: Vec<String>,
}

macro_rules! expect {
    ($audit:expr, $holds:expr, $($what:tt)*) => {
        if !$holds {
            $audit.faults.push(format!($($what)*));
        }
    };
}

/// Audits all tables of the namespace; answers what is wrong, nothing when all is well.
///
/// # Errors
/// [`StateError`] when a value cannot be read at all.
pub fn check(kv: &dyn KvRead, map: &PgMap) -> Result<Vec<String>, StateError> {
    let mut audit = Audit::load(kv)?;
    audit.check_entries(kv)?;
    audit.check_tree();
    audit.check_histories(kv)?;
    audit.check_pins();
    audit.check_versions();
    audit.check_rows();
    audit.check_references(kv, map)?;
    audit.check_totals(kv)?;
    Ok(audit.faults)
}

fn ino_at(key: &[u8], at: usize) -> Result<Ino, StateError> {
    let ino = keys::u64_at(key, at);
    ino.map(Ino).ok_or_else(|| read::broken("number", key))
}

fn name_at(key: &[u8], at: usize) -> Result<Name, StateError> {
    keys::name_at(key, at).ok_or_else(|| read::broken("name", key))
}

impl Audit {
    fn load(kv: &dyn KvRead) -> Result<Self, StateError> {
        let mut audit = Self::default();
        for (k, v) in read::all(kv, keys::INODES)? {
            let inode = read::decode("inode", &k, &v)?;
            audit.inodes.insert(ino_at(&k, 1)?, inode);
        }
        for (k, v) in read::all(kv, keys::DENTRIES)? {
            let place = (ino_at(&k, 1)?, name_at(&k, 9)?);
            audit.entries.insert(place, read::decode("dentry", &k, &v)?);
        }
        for (k, v) in read::all(kv, keys::HISTORIES)? {
            let place = (ino_at(&k, 1)?, name_at(&k, 9)?);
            let rec = read::decode("history", &k, &v)?;
            audit.histories.insert(place, rec);
        }
        for (k, v) in read::all(kv, keys::VERSIONS)? {
            let rec: VersionRec = read::decode("version", &k, &v)?;
            expect!(
                audit,
                ino_at(&k, 9)?.0 == rec.no.0,
                "version under another number"
            );
            let of = audit.versions.entry(ino_at(&k, 1)?).or_default();
            of.insert(rec.no, rec);
        }
        for (k, v) in read::all(kv, keys::ROWS)? {
            let chunk = keys::u32_at(&k, 9).ok_or_else(|| read::broken("row", &k))?;
            let version = VersionNo(ino_at(&k, 13)?.0);
            let chunks = audit.rows.entry(ino_at(&k, 1)?).or_default();
            let of = chunks.entry(ChunkNo(chunk)).or_default();
            of.insert(version, read::decode("row", &k, &v)?);
        }
        Ok(audit)
    }

    /// Entries, cookies and links say the same.
    fn check_entries(&mut self, kv: &dyn KvRead) -> Result<(), StateError> {
        let mut cookies = BTreeMap::new();
        for (k, v) in read::all(kv, keys::COOKIES)? {
            let (name, ino, kind) = read::decode("cookie", &k, &v)?;
            let cookie = ino_at(&k, 9)?.0;
            let entry = Dentry { ino, kind, cookie };
            cookies.insert((ino_at(&k, 1)?, name), entry);
        }
        expect!(self, cookies == self.entries, "cookies and entries differ");
        let mut links = BTreeSet::new();
        for (k, _) in read::all(kv, keys::LINKS)? {
            links.insert((ino_at(&k, 1)?, ino_at(&k, 9)?, name_at(&k, 17)?));
        }
        let reverse = |((dir, name), d): (&Place, &Dentry)| (d.ino, *dir, name.clone());
        let expected: BTreeSet<_> = self.entries.iter().map(reverse).collect();
        expect!(self, links == expected, "links and entries differ");
        Ok(())
    }

    fn check_tree(&mut self) {
        let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
        let (mut subdirs, mut counts) = (BTreeMap::new(), BTreeMap::new());
        for ((dir, name), entry) in &self.entries {
            *links.entry(entry.ino).or_default() += 1;
            *counts.entry(*dir).or_insert(0u64) += 1;
            let Some(inode) = self.inodes.get(&entry.ino) else {
                self.faults.push(format!("{dir}/{name}: no inode"));
                continue;
            };
            expect!(self, inode.kind == entry.kind, "{dir}/{name}: another kind");
            if entry.kind == FileKind::Dir {
                *subdirs.entry(*dir).or_insert(0u32) += 1;
                let parent = inode.dir.as_ref().map(|p| p.parent);
                expect!(self, parent == Some(*dir), "{dir}/{name}: another parent");
            }
        }
        for (ino, inode) in &self.inodes {
            let named = links.get(ino).copied().unwrap_or(0);
            let Some(part) = &inode.dir else {
                expect!(
                    self,
                    inode.kind != FileKind::Dir,
                    "{ino}: directory without its part"
                );
                expect!(
                    self,
                    inode.nlink == named,
                    "{ino}: nlink {} of {named}",
                    inode.nlink
                );
                continue;
            };
            let is_live = named == 1 || *ino == Ino::ROOT;
            let nlink = if is_live {
                2 + subdirs.get(ino).unwrap_or(&0)
            } else {
                0
            };
            expect!(
                self,
                inode.nlink == nlink,
                "{ino}: nlink {} of {nlink}",
                inode.nlink
            );
            let entries = counts.get(ino).copied().unwrap_or(0);
            expect!(
                self,
                part.entries == entries,
                "{ino}: {} entries",
                part.entries
            );
            expect!(
                self,
                is_live || entries == 0,
                "{ino}: entries in a removed directory"
            );
            let mut above = part.parent;
            let mut left = self.inodes.len();
            while is_live && above != Ino::ROOT && left > 0 {
                left -= 1;
                let parent = self.inodes.get(&above).and_then(|i| i.dir.as_ref());
                above = parent.map_or(Ino::ROOT, |p| p.parent);
            }
            expect!(self, left > 0, "{ino}: does not hang under the root");
        }
        for dir in counts.keys() {
            let is_dir = self.inodes.get(dir).is_some_and(|i| i.dir.is_some());
            expect!(self, is_dir, "{dir}: entries without a directory");
        }
    }

    /// Counts, index and order of history records.
    fn check_histories(&mut self, kv: &dyn KvRead) -> Result<(), StateError> {
        let mut counts: BTreeMap<Ino, u64> = BTreeMap::new();
        let mut deleted = BTreeSet::new();
        let mut tombstones = BTreeSet::new();
        for ((dir, name), rec) in &self.histories {
            *counts.entry(*dir).or_default() += 1;
            expect!(self, !rec.is_empty(), "{dir}/{name}: empty history");
            tombstones.extend(
                rec.dirs
                    .iter()
                    .map(|(ino, at)| (*ino, *dir, name.clone(), *at)),
            );
            let entry = self.entries.get(&(*dir, name.clone()));
            let live = entry.filter(|d| d.kind == FileKind::File).map(|d| d.ino);
            let is_deleted = live.is_none() && !rec.pins.is_empty();
            expect!(
                self,
                is_deleted == rec.deleted.is_some(),
                "{dir}/{name}: deleted flag"
            );
            deleted.extend(rec.deleted.map(|at| keys::deleted(at, *dir, name)));
            let mut shown: Vec<u64> = rec.pins.iter().map(|p| p.display).collect();
            if let Some(ino) = live {
                let own = rec.pins.iter().any(|p| p.ino == ino);
                expect!(self, !own, "{dir}/{name}: pins what it is");
                let recs = self.versions.get(&ino);
                let numbers = recs
                    .into_iter()
                    .flat_map(BTreeMap::keys)
                    .filter(|v| v.0 > 0);
                let window: Vec<_> = numbers.rev().take(KEPT).collect();
                let base = self.inodes.get(&ino).map_or(0, |i| i.display_base);
                shown.extend(window.iter().rev().map(|v| base + v.0));
            }
            let is_rising = shown.windows(2).all(|w| w[0] < w[1]);
            expect!(self, is_rising, "{dir}/{name}: numbers {shown:?}");
            expect!(
                self,
                shown.len() <= KEPT,
                "{dir}/{name}: shows {}",
                shown.len()
            );
        }
        let index: BTreeSet<_> = read::all(kv, keys::DELETED)?
            .into_iter()
            .map(|p| p.0)
            .collect();
        expect!(self, index == deleted, "index of deleted names");
        let names = read::meta(kv)?.deleted_names;
        expect!(
            self,
            names == index.len() as u64,
            "{names} deleted names counted"
        );
        for (ino, inode) in &self.inodes {
            let Some(part) = &inode.dir else { continue };
            let count = counts.remove(ino).unwrap_or(0);
            expect!(
                self,
                part.histories == count,
                "{ino}: {} histories",
                part.histories
            );
            if let Some(removed) = &part.removed {
                let place = (*ino, part.parent, removed.name.clone(), removed.at);
                expect!(self, tombstones.remove(&place), "{ino}: unknown above");
                expect!(self, inode.nlink == 0 && count > 0, "{ino}: no tombstone");
            }
        }
        expect!(
            self,
            counts.is_empty(),
            "histories without a directory {counts:?}"
        );
        expect!(self, tombstones.is_empty(), "no tombstones {tombstones:?}");
        Ok(())
    }

    /// Pins are counted on versions and inodes.
    fn check_pins(&mut self) {
        let mut pins: BTreeMap<(Ino, VersionNo), u32> = BTreeMap::new();
        for pin in self.histories.values().flat_map(|rec| &rec.pins) {
            *pins.entry((pin.ino, pin.version)).or_default() += 1;
        }
        let mut totals: BTreeMap<Ino, u32> = BTreeMap::new();
        for ((ino, no), count) in &pins {
            *totals.entry(*ino).or_default() += count;
            let known = self.versions.get(ino).is_some_and(|v| v.contains_key(no));
            expect!(self, known, "{ino}: version {no} is pinned and gone");
        }
        for (ino, recs) in &self.versions {
            for rec in recs.values() {
                let count = pins.get(&(*ino, rec.no)).copied().unwrap_or(0);
                expect!(self, rec.pins == count, "{ino}: version {} pins", rec.no);
                let newest = self.inodes.get(ino).filter(|i| i.version == rec.no);
                let is_frozen = rec.pins == 0 || newest.is_none_or(|i| i.open.is_none());
                expect!(self, is_frozen, "{ino}: pinned version {} is open", rec.no);
            }
        }
        for (ino, inode) in &self.inodes {
            let total = totals.get(ino).copied().unwrap_or(0);
            expect!(
                self,
                inode.pins == total,
                "{ino}: {} pins of {total}",
                inode.pins
            );
        }
    }

    fn check_versions(&mut self) {
        for (ino, recs) in &self.versions {
            let Some(inode) = self.inodes.get(ino) else {
                self.faults
                    .push(format!("{ino}: versions without an inode"));
                continue;
            };
            let newest = inode.version.0 == 0 || recs.contains_key(&inode.version);
            expect!(self, newest, "{ino}: no newest version");
            let window = if inode.nlink > 0 { KEPT } else { 1 };
            for (rank, rec) in recs.values().rev().enumerate() {
                let is_kept = rec.pins > 0 || rec.no.0 > 0 && rank < window;
                expect!(self, is_kept, "{ino}: nothing keeps version {}", rec.no);
                expect!(
                    self,
                    rec.no <= inode.version,
                    "{ino}: version {} to come",
                    rec.no
                );
            }
        }
        for (ino, inode) in &self.inodes {
            let has_any = inode.version.0 == 0 || self.versions.contains_key(ino);
            expect!(self, has_any, "{ino}: no versions");
        }
    }

    fn check_rows(&mut self) {
        for (ino, chunks) in &self.rows {
            let Some(inode) = self.inodes.get(ino) else {
                self.faults.push(format!("{ino}: rows without an inode"));
                continue;
            };
            let none = BTreeMap::new();
            let kept = self.versions.get(ino).unwrap_or(&none);
            let mut allocated = 0;
            for (chunk, rows) in chunks {
                let numbers: Vec<VersionNo> = rows.keys().copied().collect();
                let mut was_content = false;
                for (i, (no, extents)) in rows.iter().enumerate() {
                    let next = numbers.get(i + 1).map_or(VersionNo(u64::MAX), |n| *n);
                    let mut readers = kept.range(*no..next).map(|(_, rec)| rec);
                    let reader = readers.next();
                    expect!(self, reader.is_some(), "{ino}: nobody reads {chunk:?} {no}");
                    expect!(
                        self,
                        was_content || !extents.is_empty(),
                        "{ino}: hole at {chunk:?}"
                    );
                    was_content = !extents.is_empty();
                    let sizes = kept.range(*no..next).map(|(_, rec)| match rec.no {
                        n if n == inode.version => inode.size,
                        _ => rec.size,
                    });
                    let size = sizes.min().unwrap_or(0);
                    let ends = |e: &Extent| e.start + e.len;
                    let ordered = extents.windows(2).all(|w| ends(&w[0]) <= w[1].start);
                    let end = extents.last().map_or(0, ends);
                    let fits = u64::from(end) <= CHUNK_SIZE && extents.iter().all(|e| e.len > 0);
                    expect!(self, ordered && fits, "{ino}: {chunk:?} {no} is no row");
                    let within = extents.is_empty() || chunk.start() + u64::from(end) <= size;
                    expect!(self, within, "{ino}: {chunk:?} {no} beyond {size}");
                }
                let newest = rows.range(..=inode.version).next_back();
                allocated += newest.map_or(0, |(_, extents)| read::covered(extents));
            }
            expect!(
                self,
                inode.allocated == allocated,
                "{ino}: allocated {allocated}"
            );
        }
        for (ino, inode) in &self.inodes {
            let is_right = inode.allocated == 0 || self.rows.contains_key(ino);
            expect!(self, is_right, "{ino}: allocated without rows");
        }
    }

    fn check_references(&mut self, kv: &dyn KvRead, map: &PgMap) -> Result<(), StateError> {
        let pgs = u16::try_from(map.pgs.len()).unwrap_or(u16::MAX);
        let mut objects: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut index: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut row_index = BTreeSet::new();
        for (ino, inode) in &self.inodes {
            if inode.revision.0 > 0 {
                let home = pg_of(*ino, ChunkNo::HOME, pgs);
                index.insert(keys::pg_index(home, *ino, ChunkNo::HOME), 1);
            }
        }
        for (ino, chunks) in &self.rows {
            for (chunk, rows) in chunks {
                for (no, extents) in rows {
                    row_index.insert(keys::row_index(*ino, *no, *chunk));
                    let refs = rows::objects_of(extents);
                    for object in refs.keys() {
                        *objects.entry(keys::object(*object)).or_default() += 1;
                    }
                    let pgs: BTreeSet<PgId> = refs.into_values().collect();
                    for pg in pgs {
                        *index.entry(keys::pg_index(pg, *ino, *chunk)).or_default() += 1;
                    }
                }
            }
        }
        for (what, prefix, expected) in [
            ("objects", keys::REFS, objects),
            ("PG index", keys::PG_INDEX, index),
        ] {
            let mut stored = BTreeMap::new();
            for (k, v) in read::all(kv, prefix)? {
                let count: u64 = read::decode(what, &k, &v)?;
                stored.insert(k, count);
            }
            expect!(self, stored == expected, "{what}: counts differ");
        }
        let stored: BTreeSet<_> = read::all(kv, keys::ROW_INDEX)?
            .into_iter()
            .map(|p| p.0)
            .collect();
        expect!(self, stored == row_index, "row index differs");
        Ok(())
    }

    fn check_totals(&mut self, kv: &dyn KvRead) -> Result<(), StateError> {
        let meta = read::meta(kv)?;
        let live = || self.inodes.values().filter(|i| i.nlink > 0);
        let (inodes, bytes) = (
            live().count() as u64,
            live().map(|i| i.allocated).sum::<u64>(),
        );
        expect!(
            self,
            meta.inodes == inodes,
            "{} inodes of {inodes}",
            meta.inodes
        );
        expect!(self, meta.bytes == bytes, "{} bytes of {bytes}", meta.bytes);
        let newest = self.inodes.keys().next_back().map_or(0, |i| i.0);
        expect!(self, meta.next_ino > newest, "inode numbers would repeat");
        let orphans = self.inodes.iter().filter(|(_, i)| i.is_orphan());
        let expected: BTreeSet<_> = orphans.map(|(ino, _)| keys::orphan(*ino)).collect();
        let stored: BTreeSet<_> = read::all(kv, keys::ORPHANS)?
            .into_iter()
            .map(|p| p.0)
            .collect();
        expect!(self, stored == expected, "orphans differ");
        let mut xattrs: BTreeMap<Ino, (u32, u64)> = BTreeMap::new();
        for (k, v) in read::all(kv, keys::XATTRS)? {
            let of = xattrs.entry(ino_at(&k, 2)?).or_default();
            *of = (of.0 + 1, of.1 + (k.len() - 10 + v.len()) as u64);
        }
        for (ino, inode) in &self.inodes {
            let found = xattrs.remove(ino).unwrap_or_default();
            let counted = (inode.xattrs, inode.xattr_bytes);
            expect!(
                self,
                found == counted,
                "{ino}: attributes {counted:?} of {found:?}"
            );
        }
        expect!(self, xattrs.is_empty(), "attributes without an inode");
        Ok(())
    }
}

//! Space that a data directory takes: allocated blocks, as `du` counts them.
//!
//! 1. A walk puts every file and directory into the part that its name says ([`Part`]).
//! 2. The engine says how much of each table file it needs; the rest of the file's blocks is free.
//!    Counting costs a walk over the tables, so it is done again only when ten times what it took has
//!    passed since.
//! 3. One walk at a time: who asks meanwhile, or for as long as the walk took after it, gets what it
//!    found.
use dfs_core::store::{TableCounts, TableGauge, TableUse};
use dfs_core::wire::node::DiskUse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a block as `stat` counts them.
const BLOCK: u64 = 512;
/// Bytes before an object's in a file.
const OBJECT_HEADER: u64 = dfs_core::store::object_format::FILE_HEADER_BYTES as u64;
/// A table is not counted again for this many times as long as counting took.
const REST: u32 = 10;
const STORE_TABLES: &str = "tables.redb";
const VOTER_TABLES: &str = "master.redb";
/// Stores and voters that were set aside are named so, and a number.
const SET_ASIDE: [&str; 2] = ["store.damaged-", "voter.damaged-"];

/// What a file or directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Object,
    StoreTables,
    Journal,
    VoterTables,
    VoterLog,
    Ballast,
    SetAside,
    Other,
}

impl Part {
    /// Of a path below the data directory, by its first names.
    fn of(path: &Path, is_dir: bool) -> Self {
        let mut names = path.iter().filter_map(OsStr::to_str);
        let (first, second) = (names.next().unwrap_or(""), names.next().unwrap_or(""));
        match (first, second) {
            _ if SET_ASIDE.iter().any(|p| first.starts_with(p)) => Self::SetAside,
            ("store", "objects") if !is_dir => Self::Object,
            ("store", "journal") => Self::Journal,
            ("store", name) if name.starts_with(STORE_TABLES) => Self::StoreTables,
            ("raft", _) => Self::VoterLog,
            (super::ballast::FILE, "") => Self::Ballast,
            (name, "") if name.starts_with(VOTER_TABLES) => Self::VoterTables,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Instant,
    took: Duration,
    used: TableUse,
}

/// Measures the data directory of a running daemon. See the [module docs](self).
#[derive(Debug)]
pub struct DiskGauge {
    data_dir: PathBuf,
    counts: Arc<TableCounts>,
    counted: Mutex<BTreeMap<String, Counted>>,
    walked: Mutex<Option<Walked>>,
}

#[derive(Debug, Clone, Copy)]
struct Walked {
    ended: Instant,
    took: Duration,
    found: DiskUse,
}

impl DiskGauge {
    /// Of the daemon whose table files share `counts`.
    #[must_use]
    pub fn new(data_dir: &Path, counts: Arc<TableCounts>) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            counts,
            counted: Mutex::default(),
            walked: Mutex::default(),
        }
    }

    /// Measures it. Takes a while.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn measure(&self) -> io::Result<DiskUse> {
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = walked.filter(|w| w.ended.elapsed() < w.took) {
            return Ok(last.found);
        }
        let began = Instant::now();
        let found = self.walk()?;
        *walked = Some(Walked {
            ended: Instant::now(),
            took: began.elapsed(),
            found,
        });
        Ok(found)
    }

    fn walk(&self) -> io::Result<DiskUse> {
        let used = |name: &str| self.table_use(name).map(|used| used.used_bytes);
        let tables = [STORE_TABLES, VOTER_TABLES].map(used);
        let mut found = Found::default();
        found.add(&self.data_dir, Path::new(""))?;
        let [store, voter] = tables;
        found.sum.tables.free = found.store_tables.free(store);
        found.sum.voter_tables.free = found.voter_tables.free(voter);
        Ok(found.sum)
    }

    /// `None` if the file is not open, or cannot be read.
    fn table_use(&self, name: &str) -> Option<TableUse> {
        let is_it = |gauge: &Arc<TableGauge>| gauge.path() == name;
        let gauge = self.counts.gauges().into_iter().rfind(is_it)?;
        // One at a time: who asks meanwhile gets the same answer.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |c: &&Counted| c.at.elapsed() < c.took * REST;
        if let Some(counted) = counted.get(name).filter(fresh) {
            return Some(counted.used);
        }
        let at = Instant::now();
        let used = match gauge.measure() {
            Ok(used) => used?,
            Err(error) => {
                tracing::warn!(name, %error, "the space in a table file cannot be counted");
                return None;
            }
        };
        let took = at.elapsed();
        let now = Instant::now();
        let one = Counted {
            at: now,
            took,
            used,
        };
        counted.insert(name.to_owned(), one);
        Some(used)
    }
}

/// Blocks of a table file and of its copy: what is free is free in each.
#[derive(Debug, Default)]
struct TableBlocks(Vec<u64>);

impl TableBlocks {
    fn free(&self, used: Option<u64>) -> u64 {
        let of_one = |blocks: &u64| used.map_or(0, |used| blocks.saturating_sub(used));
        self.0.iter().map(of_one).sum()
    }

    fn add(&mut self, path: &Path, blocks: u64) {
        let name = path.to_string_lossy();
        if name.ends_with(".redb") || name.ends_with(".redb.copy") {
            self.0.push(blocks);
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    sum: DiskUse,
    store_tables: TableBlocks,
    voter_tables: TableBlocks,
}

impl Found {
    /// Counts `root`/`path` with all below it; what vanishes meanwhile counts nothing.
    fn add(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let at = root.join(path);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", at.display()));
        let about = match fs::symlink_metadata(&at) {
            Ok(about) => about,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(named(e)),
        };
        let blocks = about.blocks() * BLOCK;
        self.sum.total += blocks;
        match Part::of(path, about.is_dir()) {
            Part::Object => {
                let bytes = about.len().saturating_sub(OBJECT_HEADER);
                self.sum.objects += bytes;
                self.sum.padding += blocks.saturating_sub(bytes);
            }
            Part::StoreTables => {
                self.sum.tables.total += blocks;
                self.store_tables.add(path, blocks);
            }
            Part::VoterTables => {
                self.sum.voter_tables.total += blocks;
                self.voter_tables.add(path, blocks);
            }
            Part::Journal => self.sum.journal += blocks,
            Part::VoterLog => self.sum.voter_log += blocks,
            Part::Ballast => self.sum.ballast += blocks,
            Part::SetAside => self.sum.set_aside += blocks,
            Part::Other => self.sum.other += blocks,
        }
        if about.is_dir() {
            match fs::read_dir(&at) {
                Ok(entries) => {
                    for entry in entries {
                        let name = entry.map_err(named)?.file_name();
                        self.add(root, &path.join(name))?;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(named(e)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::store::{Base, FileDisk, RedbBase, TableTotals};
    use std::process::Command;

    fn file(dir: &Path, path: &str, len: usize) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("made");
        fs::write(path, vec![7u8; len]).expect("written");
    }

    fn du(dir: &Path) -> u64 {
        let output = Command::new("du").args(["-s", "-B1"]).arg(dir).output();
        let text = String::from_utf8(output.expect("du runs").stdout).expect("text");
        let word = text.split_whitespace().next().expect("a number");
        word.parse().expect("a number")
    }

    fn parts(u: &DiskUse) -> [u64; 9] {
        [
            u.objects,
            u.padding,
            u.tables.total,
            u.journal,
            u.voter_tables.total,
            u.voter_log,
            u.ballast,
            u.other,
            u.set_aside,
        ]
    }

    #[test]
    fn every_file_is_in_the_part_that_its_name_says_and_all_parts_are_what_du_says() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path();
        file(dir, "store/objects/00/a", 4096 + 5000);
        file(dir, "store/journal/1.seg", 20_000);
        file(dir, "store/journal/2.spare", 4096);
        file(dir, "store/tables.redb", 8192);
        file(dir, "store/tables.redb.copy", 8192);
        file(dir, "store/tables.redb.sums", 100);
        file(dir, "store/store.meta", 10);
        file(dir, "store.damaged-1/objects/00/b", 9000);
        file(dir, "voter.damaged-2/raft/c", 9000);
        file(dir, "master.redb", 100);
        file(dir, "master.redb.sums", 100);
        file(dir, "raft/1", 100);
        file(dir, "raft.member", 1);
        file(dir, "ballast", 30_000);
        file(dir, "node/identity", 100);
        let counts = Arc::<TableCounts>::default();
        let used = DiskGauge::new(dir, counts).measure().expect("measured");
        assert_eq!((used.objects, used.padding), (5000, 3 * 4096 - 5000));
        assert_eq!((used.tables.total, used.tables.free), (5 * 4096, 0));
        assert_eq!(used.voter_tables.total, 2 * 4096);
        assert_eq!(used.ballast, 8 * 4096);
        assert!(
            used.set_aside >= 24_576 && used.journal >= 24_576,
            "{used:?}"
        );
        assert!(used.voter_log >= 4096 && used.other >= 3 * 4096, "{used:?}");
        assert_eq!(parts(&used).iter().sum::<u64>(), used.total);
        assert_eq!(used.total, du(dir));
    }

    #[test]
    fn pages_that_rows_left_are_free_in_the_file_and_in_its_copy() {
        let place = tempfile::tempdir().expect("a directory");
        let store = place.path().join("store");
        fs::create_dir(&store).expect("made");
        let disk = FileDisk::open(&store).expect("a disk");
        let counts = Arc::<TableCounts>::default();
        let base = RedbBase::open_counted(&disk, STORE_TABLES, 1 << 20, Arc::clone(&counts));
        let base = base.expect("tables");
        assert_eq!(counts.totals(), TableTotals::default());
        let measure = || {
            let gauge = DiskGauge::new(place.path(), Arc::clone(&counts));
            gauge.measure().expect("measured").tables
        };
        let keys: Vec<_> = (0..1000u32).map(u32::to_be_bytes).collect();
        let write = |value: Option<&[u8]>| {
            let mut changes = keys.iter().map(|key| (key.as_slice(), value));
            base.write(&mut changes).expect("written");
        };
        write(Some(&[7; 3000]));
        let full = measure();
        write(None);
        let left = measure();
        let freed = left.free.saturating_sub(full.free);
        assert!(freed >= 2 * 3_000_000, "{full:?} {left:?}");
        assert!(left.total - left.free < 1 << 20, "{left:?}");
    }
}

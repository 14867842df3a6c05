//! What data directories hold, read without changing them.
//!
//! A directory is opened as its daemon would open it, on a [`CowDisk`]: the journal is replayed and
//! the tables recover in memory. While it is held no daemon can start on it.
//!
//! Invariant: bytes leave here only after they matched the sums of their header, and the identity
//! that whoever asks expects.
use super::snapshot::{MANIFEST_PART, NamespaceManifest, decode_part};
use crate::replica::tables::{CleanRow, keys};
use crate::store::{
    CowDisk, DirLock, Disk, DiskError, KvError, KvRead, LockError, MemKv, MetaError, ObjectStore,
    RedbBase, RestReason, StoreDir, StoreError, StoreMeta, StoreOptions, prefix_end, salvage,
    share_dir,
};
use crate::types::{
    ChunkNo, ClusterId, Ino, ObjectAbout, ObjectId, ObjectSum, OpId, Revision, StoreId,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows read at a time.
const PAGE: usize = 1024;

/// Why a directory cannot be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// It is no data directory.
    #[error("{dir} holds no store (no store.meta, and no store/store.meta)")]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// A daemon runs on it.
    #[error("stop the daemon first: {0}")]
    InUse(#[from] LockError),
    /// Its identity cannot be read.
    #[error("{dir}: {cause}")]
    Meta {
        /// The directory.
        dir: PathBuf,
        /// Why.
        cause: MetaError,
    },
    /// It belongs to another cluster than the first one.
    #[error("{dir} belongs to cluster {found}, the directories before to {expected}")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// Theirs.
        expected: ClusterId,
    },
    /// The same store again.
    #[error("{dir} is given twice")]
    Twice {
        /// The directory.
        dir: PathBuf,
    },
    /// Its tables or journal are damaged.
    #[error("{dir}: {cause}")]
    Store {
        /// The directory.
        dir: PathBuf,
        /// Why.
        cause: Box<StoreError>,
    },
}

/// One data directory.
#[derive(Debug)]
pub struct Directory {
    /// As it was named.
    pub path: PathBuf,
    /// Who it is.
    pub meta: StoreMeta,
    /// What of it could not be read, in words.
    pub troubles: Vec<String>,
    store: ObjectStore,
    _lock: Option<DirLock>,
}

impl Directory {
    /// Opens a daemon's data directory, or the `store` directory in it.
    ///
    /// # Errors
    /// [`InventoryError`].
    pub fn open(path: &Path) -> Result<Self, InventoryError> {
        let dir = path.to_owned();
        let within = path.join("store");
        let root = if within.is_dir() { &within } else { path };
        let disk_failed = |e: DiskError| InventoryError::Meta {
            dir: dir.clone(),
            cause: e.into(),
        };
        let disk: Arc<dyn Disk> = Arc::new(CowDisk::open(root).map_err(disk_failed)?);
        let meta = StoreMeta::read(disk.as_ref()).map_err(|cause| InventoryError::Meta {
            dir: dir.clone(),
            cause,
        })?;
        let meta = meta.ok_or_else(|| InventoryError::NoStore { dir: dir.clone() })?;
        let lock = share_dir(root)?;
        let options = StoreOptions::default();
        let opened = StoreDir::check_tables(disk.as_ref()).and_then(|()| {
            let base = RedbBase::open(disk.as_ref(), "tables.redb", options.cache_bytes)?;
            base.read_all()?;
            ObjectStore::open(disk, Arc::new(base), &meta, options)
        });
        let failed = |cause| InventoryError::Store {
            dir: dir.clone(),
            cause: Box::new(cause),
        };
        let (store, troubles) = match opened {
            Ok((store, _)) => (store, Vec::new()),
            Err(damage) => {
                // On a disk that knows nothing of what the attempt wrote.
                let disk = CowDisk::open(root).map_err(disk_failed)?;
                let disk = Arc::new(disk) as Arc<dyn Disk>;
                let (store, mut troubles) = salvage(&disk, &meta).map_err(failed)?;
                troubles.insert(0, format!("damaged, and read as far as it goes: {damage}"));
                (store, troubles)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            meta,
            troubles,
            store,
            _lock: lock,
        })
    }
}

/// How an object is found in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Held,
    /// It rests because its group went elsewhere.
    Moved,
    /// It rests because nothing refers to it.
    Deleted,
}

/// An object that some directory holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its identity.
    pub sum: ObjectSum,
    /// The inode it was written for.
    pub ino: Ino,
    /// The chunk.
    pub chunk: ChunkNo,
    /// What its header says of the file.
    pub about: Option<Box<ObjectAbout>>,
    /// It was deleted, and rests in every directory that has it.
    pub is_deleted: bool,
    /// It rests in some directory because its group went elsewhere, where it may live on.
    pub was_moved: bool,
    /// It rests in some directory because nothing refers to it, as the master committed.
    pub was_dropped: bool,
    /// Directories, by number.
    dirs: Vec<usize>,
}

/// What all directories hold together.
#[derive(Debug, Default)]
pub struct Inventory {
    dirs: Vec<Directory>,
    objects: BTreeMap<ObjectId, Held>,
    by_ino: BTreeMap<Ino, Vec<ObjectId>>,
    stamps: BTreeMap<Ino, (Revision, OpId)>,
    marked: BTreeSet<OpId>,
    aborted: BTreeSet<OpId>,
    with_quarantined: bool,
    /// What could not be read, in words.
    pub troubles: Vec<String>,
}

impl Inventory {
    /// An empty one, which takes what was deleted and still rests along.
    #[must_use]
    pub fn with_quarantined() -> Self {
        Self {
            with_quarantined: true,
            ..Self::default()
        }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// [`InventoryError`]; nothing was added.
    pub fn add(&mut self, mut dir: Directory) -> Result<(), InventoryError> {
        if let Some(first) = self.dirs.first()
            && first.meta.cluster != dir.meta.cluster
        {
            return Err(InventoryError::OtherCluster {
                dir: dir.path,
                found: dir.meta.cluster,
                expected: first.meta.cluster,
            });
        }
        if self.dirs.iter().any(|d| d.meta.store == dir.meta.store) {
            return Err(InventoryError::Twice { dir: dir.path });
        }
        let number = self.dirs.len();
        let shown = dir.path.display();
        let troubles = dir.troubles.iter().map(|words| format!("{shown}: {words}"));
        self.troubles.extend(troubles);
        if let Err(error) = self.read_objects(number, &dir, Found::Held) {
            self.trouble(&dir, "its list of objects", &error);
        }
        // What was aborted or is unreferenced was never part of a file, as far as anybody knows.
        let kinds: &[_] = match self.with_quarantined {
            true => &[Found::Moved, Found::Deleted],
            false => &[],
        };
        for &kind in kinds {
            let is_wanted = |reason| match reason {
                RestReason::Moved(..) => kind == Found::Moved,
                RestReason::Deleted(_) => kind == Found::Deleted,
                RestReason::Aborted | RestReason::Unreferenced(_) => false,
            };
            let taken = dir.store.take_up_resting(is_wanted);
            if let Err(error) = taken.and_then(|_| self.read_objects(number, &dir, kind)) {
                self.trouble(&dir, "its quarantine", &error);
            }
        }
        if let Err(error) = self.read_rows(&dir) {
            self.trouble(&dir, "its stamps and marks", &error);
        }
        self.dirs.push(dir);
        Ok(())
    }

    fn trouble(&mut self, dir: &Directory, what: &str, error: &dyn std::fmt::Display) {
        let words = format!(
            "{}: {what} could be read in part only: {error}",
            dir.path.display()
        );
        self.troubles.push(words);
    }

    /// Takes what the directory lists and is not known of it yet.
    fn read_objects(
        &mut self,
        number: usize,
        dir: &Directory,
        kind: Found,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = dir.store.list_objects(after, PAGE)?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for listed in page {
                let known = self.objects.get(&listed.id);
                if known.is_some_and(|held| held.dirs.contains(&number)) {
                    continue;
                }
                let Some(header) = listed.header else {
                    if kind != Found::Held {
                        continue; // said already
                    }
                    let words = format!(
                        "{}: the row of object {} is damaged",
                        dir.path.display(),
                        listed.id
                    );
                    self.troubles.push(words);
                    continue;
                };
                let held = self.objects.entry(listed.id).or_insert_with(|| {
                    self.by_ino.entry(header.ino).or_default().push(header.id);
                    Held {
                        sum: header.sum(),
                        ino: header.ino,
                        chunk: header.chunk,
                        about: None,
                        is_deleted: true,
                        was_moved: false,
                        was_dropped: false,
                        dirs: Vec::new(),
                    }
                });
                held.is_deleted &= kind != Found::Held;
                held.was_moved |= kind == Found::Moved;
                held.was_dropped |= kind == Found::Deleted;
                held.dirs.push(number);
                // A copy that an older program made may lack what another has.
                held.about = held.about.take().or(header.about);
            }
        }
    }

    fn read_rows(&mut self, dir: &Directory) -> Result<(), KvError> {
        each(&dir.store, &keys::table(b's'), |key, value| {
            let ino = key.get(4..12).and_then(|b| b.try_into().ok());
            let row: Option<CleanRow> = postcard::from_bytes(value).ok();
            if let (Some(ino), Some(row)) = (ino.map(u64::from_be_bytes), row) {
                let stamp = self.stamps.entry(Ino(ino)).or_default();
                *stamp = (*stamp).max((row.revision, row.op));
            }
        })?;
        each(&dir.store, &keys::table(b'm'), |key, _| {
            self.marked
                .extend(keys::parse_mark(key).map(|(_, _, op)| op));
        })?;
        each(&dir.store, &keys::table(b'a'), |_, value| {
            self.aborted
                .extend(postcard::from_bytes::<OpId>(value).ok());
        })
    }

    /// The directories.
    #[must_use]
    pub fn dirs(&self) -> &[Directory] {
        &self.dirs
    }

    /// Objects held, each counted once.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// An object.
    #[must_use]
    pub fn held(&self, id: ObjectId) -> Option<&Held> {
        self.objects.get(&id)
    }

    /// Inodes that objects were written for, ascending; none of the snapshots'.
    pub fn inos(&self) -> impl Iterator<Item = Ino> {
        self.by_ino
            .keys()
            .copied()
            .filter(|ino| *ino != Ino::NAMESPACE)
    }

    /// Objects of an inode.
    #[must_use]
    pub fn of_ino(&self, ino: Ino) -> &[ObjectId] {
        self.by_ino.get(&ino).map_or(&[], Vec::as_slice)
    }

    /// All that is there of an inode was deleted and rests.
    #[must_use]
    pub fn is_deleted(&self, ino: Ino) -> bool {
        let held = |id: &ObjectId| self.objects.get(id).is_some_and(|held| !held.is_deleted);
        !self.of_ino(ino).iter().any(held)
    }

    /// The newest commit of an inode that any directory was told of.
    #[must_use]
    pub fn stamp(&self, ino: Ino) -> Option<(Revision, OpId)> {
        self.stamps.get(&ino).copied()
    }

    /// Some store had not heard whether this put was committed.
    #[must_use]
    pub fn is_undecided(&self, op: OpId) -> bool {
        self.marked.contains(&op)
    }

    /// This put was decided not to be.
    #[must_use]
    pub fn is_aborted(&self, op: OpId) -> bool {
        self.aborted.contains(&op)
    }

    /// Verified bytes of an object with this identity, from the first directory that has them.
    #[must_use]
    pub fn bytes(&self, id: ObjectId, sum: ObjectSum, (from, len): (u32, u32)) -> Option<Bytes> {
        let held = self.objects.get(&id)?;
        held.dirs.iter().find_map(|dir| {
            let read = self.dirs[*dir].store.read_object(id, from, len).ok()?;
            let start = from.checked_sub(read.offset)? as usize;
            let end = start.checked_add(len as usize)?;
            (read.sum == sum && end <= read.bytes.len()).then(|| read.bytes.slice(start..end))
        })
    }

    /// All of an object as a directory has it, verified against its own header.
    fn whole(&self, id: ObjectId, dir: usize) -> Option<Bytes> {
        let read = self.dirs[dir].store.read_object(id, 0, u32::MAX).ok()?;
        Some(read.bytes)
    }

    /// The newest snapshot that is whole, its parts taken from wherever they are good. What is newer
    /// and not whole is named in the troubles.
    pub fn snapshot(&mut self) -> Option<(NamespaceManifest, MemKv)> {
        let from = ObjectId::of_namespace(0, 0);
        let to = ObjectId::of_namespace(u64::MAX, u32::MAX);
        let manifests = self.objects.range(from..=to);
        let manifests = manifests.filter(|(id, _)| id.index == MANIFEST_PART);
        let found: Vec<_> = manifests
            .map(|(id, held)| (*id, held.dirs.clone()))
            .collect();
        for (id, dirs) in found.into_iter().rev() {
            let manifests = dirs.iter().filter_map(|dir| self.whole(id, *dir));
            let mut manifests = manifests.filter_map(|bytes| NamespaceManifest::decode(&bytes));
            let found = manifests.find_map(|manifest| {
                let rows = self.rows_of(&manifest)?;
                Some((manifest, rows))
            });
            drop(manifests);
            if found.is_some() {
                return found;
            }
            let words = format!(
                "the snapshot of log index {} is not whole: an older one is used",
                id.op.seq
            );
            self.troubles.push(words);
        }
        None
    }

    fn rows_of(&self, manifest: &NamespaceManifest) -> Option<MemKv> {
        let mut kv = MemKv::default();
        for (part, sum) in (0u32..).zip(&manifest.parts) {
            let id = ObjectId::of_namespace(manifest.index.0, part);
            let bytes = self.bytes(id, *sum, (0, sum.len))?;
            kv.0.extend(decode_part(&bytes)?);
        }
        (kv.0.len() as u64 == manifest.rows).then_some(kv)
    }

    /// Stores, for people.
    #[must_use]
    pub fn stores(&self) -> Vec<(PathBuf, StoreId, u64)> {
        let of = |d: &Directory| (d.path.clone(), d.meta.store, d.store.objects());
        self.dirs.iter().map(of).collect()
    }
}

/// Calls `f` for every row of a prefix.
fn each(kv: &dyn KvRead, prefix: &[u8], mut f: impl FnMut(&[u8], &[u8])) -> Result<(), KvError> {
    let (mut from, to) = (prefix.to_vec(), prefix_end(prefix));
    loop {
        let rows = kv.scan(&from, &to, PAGE)?;
        rows.iter().for_each(|(key, value)| f(key, value));
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        from.clone_from(last);
        from.push(0);
    }
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;

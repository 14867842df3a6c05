//! Opening a store in a directory of a real machine, in the order that makes each step safe.
//!
//! A directory whose durable content is damaged beyond what heals in place is set aside, whole and
//! under another name, and an empty store of a new identity begins in its place: to the cluster it
//! is a wiped store, which counts for nothing until it is filled, so no lost mark, stamp or epoch can
//! be taken for one that never was. Nothing is deleted.
//!
//! Where nobody else has what is in the store, it is refused instead, and stays as it is. Damage met while
//! a store is in use is noted in it ([`StoreDir::condemn`]), so the next open sets it aside.
//!
//! 1. lock the directory, so that nobody else changes it;
//! 2. read who it belongs to, or make it a new store if it is empty;
//! 3. open the tables; if they are gone, and what is made after them is not, that is damage; if they were never written and there is no journal, somebody emptied the
//!    directory and left `store.meta`: what this store acknowledged is gone, so it is a new store;
//! 4. open the journal over the tables.
use super::base::Base;
use super::file_disk::{set_aside, were_set_aside};
use super::object_store::{ObjectStore, StoreOptions};
use super::redb_kv::RedbBase;
use super::store_error::StoreError;
use super::store_meta::StoreMeta;
use super::store_writer::StoreWriter;
use super::{DirLock, Disk, DiskError, FileDisk, MirrorFile, lock_dir};
use crate::types::{ClusterId, StoreId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TABLES: &str = "tables.redb";
/// Says in a store's directory that it is damaged: it is not opened again.
const CONDEMNED: &str = "condemned.txt";

/// True if a store has files that are made after its tables.
fn has_lived(disk: &dyn Disk) -> Result<bool, DiskError> {
    Ok(!disk.list("journal")?.is_empty() || !disk.list("objects")?.is_empty())
}

fn condemned(disk: &dyn Disk) -> Result<Option<String>, DiskError> {
    let file = match disk.open(CONDEMNED, false) {
        Ok(file) => file,
        Err(DiskError::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let bytes = file.read_at(0, 4096)?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// A store that is open for use.
#[derive(Debug)]
pub struct StoreDir {
    /// Where it is.
    pub root: PathBuf,
    /// Whose it is.
    pub meta: StoreMeta,
    /// Directories that were set aside because of damage, and why; empty if none was.
    pub set_aside: String,
    /// True if the directory was empty (but for its meta file) and was made a store by this open.
    pub is_new: bool,
    /// For the machine's thread.
    pub store: ObjectStore,
    /// The file of the tables, to be verified beside the store.
    pub tables: Arc<RedbBase>,
    /// For the storage thread.
    pub writer: StoreWriter,
    /// Keep it as long as the store is used.
    pub lock: DirLock,
}

impl StoreDir {
    /// Notes that the store of a directory is damaged, so that the next open sets it aside. The store
    /// may still be open.
    ///
    /// # Errors
    /// I/O: the next open may meet the damage itself, or not.
    pub fn condemn(root: &Path, why: &str) -> Result<(), DiskError> {
        let disk = FileDisk::open(root)?;
        let file = disk.open(CONDEMNED, true)?;
        file.write_at(0, format!("{why}\n").as_bytes())?;
        file.sync_data()?;
        disk.sync_dir("")
    }

    /// Opens `root` as a store of `cluster`; an empty directory becomes store `fresh`.
    ///
    /// # Errors
    /// [`StoreError::Lock`], [`StoreError::Meta`]: the directory was not changed. Those of
    /// [`ObjectStore::open`].
    pub fn open(
        root: &Path,
        cluster: ClusterId,
        fresh: StoreId,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        Self::open_on(root, cluster, fresh, options, |disk| disk)
    }

    /// As [`open`](Self::open), on what `wrap` makes of the directory's disk.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_on(
        root: &Path,
        cluster: ClusterId,
        fresh: StoreId,
        options: StoreOptions,
        wrap: impl Fn(Arc<dyn Disk>) -> Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        match Self::open_once(root, cluster, fresh, options.clone(), &wrap) {
            Err(damage) if damage.is_damage() && options.is_only_copy => {
                let damage = damage.to_string();
                Err(StoreError::OnlyCopy { damage })
            }
            Err(damage) if damage.is_damage() => {
                let kept = set_aside(root, &damage.to_string())?;
                tracing::error!(
                    %damage,
                    kept = %kept.display(),
                    "store set aside: this node begins an empty one, which the others fill; when \
                     `dfs-tools status` says HEALTHY, the directory kept may be deleted"
                );
                Self::open_once(root, cluster, fresh, options, &wrap)
            }
            opened => opened,
        }
    }

    /// Tells a store that lost its tables from one that never had any.
    ///
    /// # Errors
    /// They are gone, and what is made after them is there.
    pub fn check_tables(disk: &dyn Disk) -> Result<(), StoreError> {
        if MirrorFile::exists(disk, TABLES)? || !has_lived(disk)? {
            return Ok(());
        }
        let what = "journal or objects are there, the tables are gone".to_owned();
        Err(StoreError::Disagree { what })
    }

    fn open_once(
        root: &Path,
        cluster: ClusterId,
        fresh: StoreId,
        options: StoreOptions,
        wrap: &impl Fn(Arc<dyn Disk>) -> Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        let lock = lock_dir(root)?;
        let disk = wrap(Arc::new(FileDisk::open(root)?));
        let (mut meta, mut is_new) = StoreMeta::open_or_create(disk.as_ref(), cluster, fresh)?;
        let counts = Arc::clone(&options.table_counts);
        let (path, cache) = (TABLES, options.cache_bytes);
        if let Some(why) = condemned(disk.as_ref())? {
            return Err(StoreError::Condemned { why });
        }
        if !is_new {
            Self::check_tables(disk.as_ref())?;
        }
        let tables = RedbBase::open_counted(disk.as_ref(), path, cache, counts)?;
        let tables = Arc::new(tables);
        let base = Arc::clone(&tables) as Arc<dyn Base>;
        if !is_new && ObjectStore::is_blank(disk.as_ref(), base.as_ref())? {
            tracing::warn!(store = %meta.store, "the store was emptied: it begins as a new one");
            meta = StoreMeta::renew(disk.as_ref(), cluster, fresh)?;
            is_new = true;
        }
        let (store, writer) = ObjectStore::open(disk, base, &meta, options)?;
        let aside = were_set_aside(root).into_iter();
        let aside: Vec<_> = aside.map(|(name, why)| format!("{name}: {why}")).collect();
        Ok(Self {
            root: root.to_owned(),
            set_aside: aside.join("; "),
            meta,
            is_new,
            store,
            tables,
            writer,
            lock,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_store_that_was_emptied_but_for_its_meta_file_is_a_new_store() {
        let dir = tempfile::tempdir().unwrap();
        let open = |fresh| {
            let (cluster, options) = (ClusterId(1), StoreOptions::default());
            let opened = StoreDir::open(dir.path(), cluster, StoreId(fresh), options).unwrap();
            (opened.meta.store, opened.is_new)
        };
        assert_eq!(open(4), (StoreId(4), true));
        assert_eq!(
            open(5),
            (StoreId(4), false),
            "it holds nothing yet, and lost nothing"
        );
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else if path.file_name().unwrap() != "store.meta" {
                std::fs::remove_file(path).unwrap();
            }
        }
        assert_eq!(open(6), (StoreId(6), true));
        assert_eq!(open(7), (StoreId(6), false));
    }

    #[test]
    fn regression_a_store_whose_tables_are_gone_is_set_aside_and_not_begun_empty() {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("store");
        let open = |fresh| {
            let (cluster, options) = (ClusterId(1), StoreOptions::default());
            StoreDir::open(&root, cluster, StoreId(fresh), options).unwrap()
        };
        assert_eq!(open(4).meta.store, StoreId(4));
        for name in ["tables.redb", "tables.redb.copy", "tables.redb.sums"] {
            std::fs::remove_file(root.join(name)).unwrap();
        }
        let again = open(5);
        assert_eq!((again.meta.store, again.is_new), (StoreId(5), true));
        assert!(
            again.set_aside.contains("the tables are gone"),
            "{}",
            again.set_aside
        );
    }

    #[test]
    fn regression_a_store_condemned_in_use_is_set_aside_unless_it_is_the_only_copy() {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("store");
        let open = |fresh, is_only_copy| {
            let options = StoreOptions {
                is_only_copy,
                ..StoreOptions::default()
            };
            StoreDir::open(&root, ClusterId(1), StoreId(fresh), options)
        };
        drop(open(4, true).unwrap());
        StoreDir::condemn(&root, "page 7 is lost").unwrap();
        let refused = open(5, true).unwrap_err().to_string();
        for part in ["page 7 is lost", "dfs-tools rescue", "only copy"] {
            assert!(refused.contains(part), "{refused}");
        }
        let names = std::fs::read_dir(above.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is moved");
        let again = open(5, false).unwrap();
        assert_eq!(again.meta.store, StoreId(5));
        assert!(
            again.set_aside.contains("page 7 is lost"),
            "{}",
            again.set_aside
        );
    }
}

//! Who a data directory belongs to: the file `store.meta`, written once, read at every start.
//!
//! It is text, so that a person can read it: FORMAT.
//! ```text
//! dfs-store 2
//! cluster <32 hexadecimal digits>
//! store <32 hexadecimal digits>
//! crc32c <8 hexadecimal digits, of all lines before>
//! ```
//! Version 2 says that the table files carry generations ([`MirrorFile`](super::MirrorFile)): a program
//! that knows none would write the file alone and leave its copy stale, so it must refuse. A directory
//! of version 1 is made one of version 2 before anything else in it is touched.
//!
//! It is the first file made in an empty directory, so a directory that has other files of ours and
//! no `store.meta` has lost it, and is refused rather than taken for a new store.
use super::{Disk, DiskError};
use crate::types::{ClusterId, StoreId, crc32c};
use std::fmt::Write;

/// The file's name.
pub const META_FILE: &str = "store.meta";
/// Version of the directory's format that this code writes.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version that it reads.
const FORMAT_OLDEST: u32 = 1;

const FRESH_FILE: &str = "store.meta.new";
/// What a store that was in use has besides its meta file.
const OWN_NAMES: [&str; 3] = ["journal", "objects", "tables.redb"];

/// Identity of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreMeta {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its own uuid: a wiped directory gets a new one.
    pub store: StoreId,
}

/// Why a data directory is refused. Nothing in it was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// It holds data of another cluster.
    #[error("this data directory belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// What the file says.
        found: ClusterId,
        /// What was asked for.
        expected: ClusterId,
    },
    /// It was written by a newer program.
    #[error("this data directory has format {found}; this program reads format {FORMAT_VERSION}")]
    OtherFormat {
        /// What the file says.
        found: u32,
    },
    /// The file is not readable as what it should be.
    #[error("store.meta is damaged")]
    Damaged,
    /// There is data but no meta file.
    #[error(
        "the data directory has {found} but no store.meta: restore it or use another directory"
    )]
    Missing {
        /// One of the files found.
        found: &'static str,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl StoreMeta {
    /// The meta file of a directory, if it has one.
    ///
    /// # Errors
    /// [`MetaError`] except `OtherCluster` and `Missing`.
    pub fn read(disk: &dyn Disk) -> Result<Option<Self>, MetaError> {
        let file = match disk.open(META_FILE, false) {
            Ok(file) => file,
            Err(DiskError::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let bytes = file.read_at(0, 4096)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| MetaError::Damaged)?;
        Self::parse(text).map(Some)
    }

    /// Reads the meta file, or makes it in an empty directory with the uuid `fresh`. The flag is
    /// true when it was made; it is durable then.
    ///
    /// # Errors
    /// [`MetaError`].
    pub fn open_or_create(
        disk: &dyn Disk,
        cluster: ClusterId,
        fresh: StoreId,
    ) -> Result<(Self, bool), MetaError> {
        if let Some(meta) = Self::read(disk)? {
            if meta.cluster != cluster {
                return Err(MetaError::OtherCluster {
                    found: meta.cluster,
                    expected: cluster,
                });
            }
            // Whatever version it was of.
            let bytes = disk.open(META_FILE, false)?.read_at(0, 4096)?;
            if bytes != meta.encode().as_bytes() {
                meta.write(disk)?;
                tracing::info!("this data directory is of format {FORMAT_VERSION} from here on");
            }
            return Ok((meta, false));
        }
        let names = disk.list("")?;
        let own = OWN_NAMES
            .into_iter()
            .find(|own| names.iter().any(|n| n == own));
        if let Some(found) = own {
            return Err(MetaError::Missing { found });
        }
        Ok((Self::renew(disk, cluster, fresh)?, true))
    }

    /// Makes the directory the new store `fresh`, whatever it was; durable when it returns.
    ///
    /// # Errors
    /// [`MetaError::Disk`]; then it is the one or the other.
    pub fn renew(disk: &dyn Disk, cluster: ClusterId, fresh: StoreId) -> Result<Self, MetaError> {
        let meta = Self {
            cluster,
            store: fresh,
        };
        meta.write(disk)?;
        Ok(meta)
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), MetaError> {
        let file = disk.open(FRESH_FILE, true)?;
        file.set_len(0)?;
        file.write_at(0, self.encode().as_bytes())?;
        file.sync_data()?;
        disk.rename(FRESH_FILE, META_FILE)?;
        disk.sync_dir("")?;
        Ok(())
    }

    fn encode(&self) -> String {
        let (cluster, store) = (self.cluster, self.store);
        let mut text = format!("dfs-store {FORMAT_VERSION}\ncluster {cluster}\nstore {store}\n");
        let crc = crc32c(text.as_bytes());
        writeln!(text, "crc32c {crc:08x}").expect("a string takes everything");
        text
    }

    fn parse(text: &str) -> Result<Self, MetaError> {
        let (covered, crc) = text.rsplit_once("crc32c ").ok_or(MetaError::Damaged)?;
        let crc = u32::from_str_radix(crc.trim_end(), 16).map_err(|_| MetaError::Damaged)?;
        if crc != crc32c(covered.as_bytes()) {
            return Err(MetaError::Damaged);
        }
        let field = |name: &str| {
            let mut lines = covered.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.ok_or(MetaError::Damaged)
        };
        let format = field("dfs-store")?
            .parse()
            .map_err(|_| MetaError::Damaged)?;
        if !(FORMAT_OLDEST..=FORMAT_VERSION).contains(&format) {
            return Err(MetaError::OtherFormat { found: format });
        }
        Ok(Self {
            cluster: field("cluster")?.parse().map_err(|_| MetaError::Damaged)?,
            store: field("store")?.parse().map_err(|_| MetaError::Damaged)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SimDisk;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const A: ClusterId = ClusterId(10);

    #[test]
    fn a_fresh_directory_gets_an_identity_that_a_crash_keeps() {
        let disk = SimDisk::new();
        let made = StoreMeta::open_or_create(&disk, A, StoreId(1)).unwrap();
        assert!(made.1);
        disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
        let again = StoreMeta::open_or_create(&disk, A, StoreId(2)).unwrap();
        assert_eq!(again, (made.0, false));
    }

    #[test]
    fn a_directory_of_another_cluster_is_refused() {
        let disk = SimDisk::new();
        StoreMeta::open_or_create(&disk, A, StoreId(1)).unwrap();
        let refused = StoreMeta::open_or_create(&disk, ClusterId(11), StoreId(2)).unwrap_err();
        assert!(matches!(refused, MetaError::OtherCluster { found: A, .. }));
    }

    #[test]
    fn damage_and_loss_of_the_file_are_told_from_an_empty_directory() {
        let disk = SimDisk::new();
        StoreMeta::open_or_create(&disk, A, StoreId(1)).unwrap();
        disk.open("tables.redb", true).unwrap();
        disk.flip_bit(META_FILE, 25);
        let refused = StoreMeta::open_or_create(&disk, A, StoreId(2));
        assert_eq!(refused, Err(MetaError::Damaged));
        disk.remove(META_FILE).unwrap();
        let refused = StoreMeta::open_or_create(&disk, A, StoreId(2));
        let found = "tables.redb";
        assert_eq!(refused, Err(MetaError::Missing { found }));
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let text = "dfs-store 3\n";
        let text = format!("{text}crc32c {:08x}\n", crc32c(text.as_bytes()));
        let refused = StoreMeta::parse(&text);
        assert_eq!(refused, Err(MetaError::OtherFormat { found: 3 }));
    }

    #[test]
    fn regression_a_directory_that_is_opened_is_refused_by_older_programs_from_then_on() {
        let disk = SimDisk::new();
        let (meta, _) = StoreMeta::open_or_create(&disk, A, StoreId(1)).unwrap();
        let old = meta.encode().replace("dfs-store 2", "dfs-store 1");
        let (covered, _) = old.rsplit_once("crc32c ").unwrap();
        let old = format!("{covered}crc32c {:08x}\n", crc32c(covered.as_bytes()));
        disk.open(META_FILE, false)
            .unwrap()
            .write_at(0, old.as_bytes())
            .unwrap();
        assert_eq!(
            StoreMeta::read(&disk),
            Ok(Some(meta)),
            "a reader changes nothing"
        );
        let again = StoreMeta::open_or_create(&disk, A, StoreId(2)).unwrap();
        assert_eq!(again, (meta, false));
        disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
        let bytes = disk
            .open(META_FILE, false)
            .unwrap()
            .read_at(0, 4096)
            .unwrap();
        assert!(bytes.starts_with(b"dfs-store 2\n"));
    }
}

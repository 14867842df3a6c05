//! Why an object store says no.
use super::store_meta::MetaError;
use super::{DiskError, JournalError, KvError, LockError};
use crate::types::ObjectId;

/// What [`StoreError::Disagree`] says of tables of another store.
pub(super) const OTHER_STORE: &str = "the tables belong to another store";

impl StoreError {
    /// True if what was durable here is damaged or gone: the directory can be this store no longer.
    /// False for what a person can put right, like a directory that was mixed up with another.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Journal(JournalError::Rot { .. })
            | Self::Meta(MetaError::Damaged)
            | Self::Condemned { .. } => true,
            Self::Disagree { what } => what != OTHER_STORE,
            Self::Kv(error) => error.is_damage(),
            Self::Disk(error) => error.is_damage(),
            _ => false,
        }
    }
}

/// A failed operation of an object store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Admitting the bytes would eat into the reserve. State unchanged.
    #[error("store is full: {needed_bytes} bytes wanted, {free_bytes} free above the reserve")]
    Full {
        /// Bytes asked for.
        needed_bytes: u64,
        /// Bytes that would have been admitted.
        free_bytes: u64,
    },
    /// Stored bytes do not match their checksums. They are not returned.
    #[error("object {id} is damaged in {place}")]
    Corrupt {
        /// The object.
        id: ObjectId,
        /// Its file, or `tables`.
        place: String,
    },
    /// No such object.
    #[error("object {id} is not here")]
    NotFound {
        /// The object.
        id: ObjectId,
    },
    /// The id is taken by other bytes, or the header does not fit the bytes. State unchanged.
    #[error("object {id} is refused: {why}")]
    Refused {
        /// The object.
        id: ObjectId,
        /// What does not fit.
        why: &'static str,
    },
    /// An earlier write or sync failed; nothing is committed until the store is opened again.
    #[error("store has failed and commits nothing: {cause}")]
    Failed {
        /// The first failure.
        cause: String,
    },
    /// Journal and tables do not belong together: something durable is missing.
    #[error("journal and tables disagree: {what}")]
    Disagree {
        /// How.
        what: String,
    },
    /// Damage was met while the store was in use, and it was given up.
    #[error("damage met while the store was in use: {why}")]
    Condemned {
        /// What was met.
        why: String,
    },
    /// The store is damaged, and nobody else has what is in it. Nothing was changed.
    #[error(
        "this store is damaged ({damage}) and holds the only copy of its files (cluster.copies = 1), so no \
         empty one is begun in its place. Get out what can be read with `dfs-tools rescue --out DIR \
         DATA_DIR`; to begin anew, move the store directory away and start again"
    )]
    OnlyCopy {
        /// What is damaged.
        damage: String,
    },
    /// The directory is in use, or cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory's identity.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The tables.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

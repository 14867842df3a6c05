//! Why an object store says no.
use super::store_meta::MetaError;
use super::{DiskError, JournalError, KvError, LockError};
use crate::types::ObjectId;

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

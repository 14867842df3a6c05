//! Storage: the disk and table traits, their file and simulated implementations, and what a
//! replica's data directory holds.
pub mod base;
pub mod disk;
pub mod file_disk;
pub mod journal;
pub mod kv;
pub mod lazy_kv;
pub mod object_format;
pub mod object_query;
pub mod object_read;
pub mod object_store;
pub mod overlay;
pub mod redb_kv;
pub mod segment;
pub mod sim_disk;
pub mod store_dir;
pub mod store_error;
pub mod store_meta;
pub mod store_writer;

pub use base::{Base, BaseView, MemBase};
pub use disk::{Disk, DiskError, DiskFile, DiskSpace};
pub use file_disk::{DirLock, FileDisk, LockError, lock_dir};
pub use journal::{Journal, JournalError, JournalOptions};
pub use kv::{Kv, KvError, KvOp, KvPair, KvRead, MemKv, prefix_end};
pub use lazy_kv::{FlushDone, FlushJob, LazyKv};
pub use object_format::{FAN_OUT, ObjectHeader, STORE_KEYS_FROM};
pub use object_query::Listed;
pub use object_read::{ObjectRead, ReadPlan};
pub use object_store::{Batch, ObjectStore, ObjectWrite, StoreOptions};
pub use overlay::OverlayKv;
pub use redb_kv::RedbBase;
pub use sim_disk::SimDisk;
pub use store_dir::StoreDir;
pub use store_error::StoreError;
pub use store_meta::{MetaError, StoreMeta};
pub use store_writer::{PendingBatch, StoreWriter};

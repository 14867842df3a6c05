//! Storage: the disk and table traits, their file and simulated implementations.
pub mod base;
pub mod disk;
pub mod file_disk;
pub mod journal;
pub mod kv;
pub mod lazy_kv;
pub mod overlay;
pub mod redb_kv;
pub mod segment;
pub mod sim_disk;

pub use base::{Base, BaseView, MemBase};
pub use disk::{Disk, DiskError, DiskFile, DiskSpace};
pub use file_disk::{DirLock, FileDisk, LockError, lock_dir};
pub use journal::{Journal, JournalError, JournalOptions};
pub use kv::{Kv, KvError, KvOp, KvPair, KvRead, MemKv, prefix_end};
pub use lazy_kv::{FlushDone, FlushJob, LazyKv};
pub use overlay::OverlayKv;
pub use redb_kv::RedbBase;
pub use sim_disk::SimDisk;

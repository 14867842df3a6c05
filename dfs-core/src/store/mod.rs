//! Storage: the disk and table traits, their file and simulated implementations.
pub mod disk;
pub mod file_disk;
pub mod kv;
pub mod sim_disk;

pub use disk::{Disk, DiskError, DiskFile, DiskSpace};
pub use file_disk::{DirLock, FileDisk, LockError, lock_dir};
pub use kv::{Kv, KvError, KvOp, KvPair, KvRead, MemKv, prefix_end};
pub use sim_disk::SimDisk;

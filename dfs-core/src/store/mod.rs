//! Storage: the disk and table traits, their file and simulated implementations.
pub mod disk;
pub mod kv;

pub use disk::{Disk, DiskError, DiskFile, DiskSpace};
pub use kv::{Kv, KvError, KvOp, KvPair, KvRead, MemKv, prefix_end};

//! Files on top of puts and gets: open handles, write buffer, caches, read-ahead.
//!
//! [`FileLayer`] is what a mount or tool opens files through. It buffers writes of files that nobody
//! else has open (DESIGN.md section 4, concurrency), cuts them into puts, shows a program its own
//! writes, and reads verified blocks through a cache.
//!
//! # Rules
//! 1. Close-to-open: an open sees what others committed before it. The master is asked, unless the
//!    session has the file open alone and was told of no change.
//! 2. A flush returns when every put begun before is decided; an error stays with its handle.
//! 3. Flights of one inode commit in the order of the writes.
//! 4. A recalled file is committed and sealed before the recall is acknowledged.
//! 5. With the session or the lease, what was buffered under it is dropped, and said to be.
//! 6. A lock is given up after what was written under it is committed; see `locking`.
mod about;
mod access;
mod backend;
mod blocks;
mod budget;
mod compact;
mod config;
mod dirty;
mod error;
mod get_task;
mod inode;
mod later;
mod layer;
mod layout;
mod locking;
mod open_file;
mod over_client;
mod plan;
mod put_task;
mod read;
mod register;
mod stream;
mod write;
mod writeback;

pub use backend::{Backend, BoxFuture, OpHandle, Opened};
pub use config::FileConfig;
pub use error::{FileError, FileResult};
pub use layer::{FileLayer, FileStats};
pub use locking::GiveUp;
pub use open_file::{OpenFile, OpenMode};
pub use stream::{FileReader, FileWriter};

#[cfg(test)]
mod behind_tests;
#[cfg(test)]
mod compact_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod lock_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;

//! The deterministic state of the master, applied alike on every voter.
//!
//! [`machine`] dispatches log entries; [`namespace`] has inodes, names, versions and extents;
//! [`locks`], [`sessions`], [`pgs`], [`stores`] and [`notes`] have the rest.
pub mod ctx;
pub mod keys;
pub mod locks;
pub mod machine;
pub mod namespace;
pub mod notes;
pub mod pgs;
pub mod sessions;
pub mod stores;

pub use ctx::{Applied, ApplyCtx, ApplyError, Effects, StateError, WatchEvent};
pub use machine::{AppliedRow, ClusterRow, MasterState};
pub use pgs::PgState;
pub use sessions::SessionRow;
pub use stores::StoreRow;

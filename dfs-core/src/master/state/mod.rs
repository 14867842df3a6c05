//! The deterministic state of the master, applied alike on every voter.
//!
//! [`machine`] dispatches log entries; [`namespace`] has inodes, names, versions and extents;
//! [`locks`], [`sessions`], [`pgs`], [`repairs`], [`stores`] and [`notes`] have the rest, [`leaps`] how
//! far log time can be trusted; [`audit`] checks
//! it all.
pub mod audit;
pub mod ctx;
pub mod keys;
pub mod leaps;
pub mod locks;
pub mod machine;
pub mod namespace;
pub mod notes;
pub mod pgs;
pub mod repairs;
pub mod sessions;
pub mod stores;
mod waiting;

pub use audit::StateAudit;
pub use ctx::{Applied, ApplyCtx, ApplyError, Effects, StateError, WatchEvent};
pub use leaps::Leaps;
pub use machine::{AppliedRow, ClusterRow, MasterState};
pub use pgs::PgState;
pub use sessions::SessionRow;
pub use stores::StoreRow;

//! What a store says of its scrub.
use crate::store::TableTotals;
use crate::types::{StoreId, Time};
use serde::{Deserialize, Serialize};

/// How the scrub of a store is: every object and table page re-read and verified.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// The store.
    pub store: StoreId,
    /// A pass is under way.
    pub is_running: bool,
    /// It was asked for and goes quickly.
    pub is_asked: bool,
    /// Passes ended since the store was made.
    pub passes: u64,
    /// Passes asked for since the daemon started.
    pub asked: u64,
    /// Placement groups that this pass has done and that there are.
    pub groups: (u16, u16),
    /// Objects and bytes that this pass has verified.
    pub pass_checked: (u64, u64),
    /// Bytes of objects held.
    pub used_bytes: u64,
    /// Each byte is verified within this time, in seconds.
    pub period_secs: u64,
    /// Bytes per second of this pass at most.
    pub rate: u64,
    /// When the pass under way, or else the last one, began (Unix time).
    pub began: Option<Time>,
    /// When a pass last ended (Unix time).
    pub last_ended: Option<Time>,
    /// Objects and bytes verified since the store was made.
    pub checked: (u64, u64),
    /// Objects found damaged since the store was made, by the scrub or by a reader.
    pub damaged: u64,
    /// Objects found missing.
    pub missing: u64,
    /// Objects of these written again from a verified copy.
    pub repaired: u64,
    /// Objects that wait for a verified copy now.
    pub waiting: u64,
    /// Of these, objects that no source could give so far.
    pub unrepaired: u64,
    /// The node's table files.
    pub tables: TableTotals,
    /// What was wrong with a directory that was set aside when the store opened; empty if none was.
    pub set_aside: String,
}

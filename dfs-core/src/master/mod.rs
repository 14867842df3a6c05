//! The master: one state machine behind one Raft group, and the leader's service over it.
//!
//! * [`command`] what the log holds;
//! * `state/` the deterministic state: namespace, versions, extents, sessions, placement, notes;
//! * `leader/` the leader's soft state: interests, opens, leases, repair planning, voters.
pub mod command;
pub mod leader;
pub mod state;

pub use command::{ChangeCause, Command, LogEntry, PgChange};

//! The Raft group: one order of commands for all masters.
//!
//! [`RaftNode`] wraps the `raft` crate (TiKV's) as a machine: events in, actions out, no clock, no
//! I/O, seeded randomness. [`RaftLog`] is the durable log that the driver writes on its behalf.
//! Nothing outside this module sees a type of the crate, and the crate's parser never sees a byte
//! from the network or the disk: [`RaftMessage`] and [`LogRecord`] are ours, bounded and validated.
//!
//! What the driver does, for each batch of [`RaftAction`]s, in order:
//! 1. [`RaftAction::Send`]: at once; losing a message is allowed, delaying it needlessly is not.
//! 2. [`RaftAction::Persist`]: append to the [`RaftLog`] (several may share one call and thereby one
//!    fdatasync), then feed [`RaftEvent::Persisted`] with the last token. A failed append is the end
//!    of this voter's run (fail-stop).
//! 3. [`RaftAction::Apply`]: apply in order, report with [`RaftEvent::Applied`].
//!
//! Source: Ongaro, *Consensus: Bridging Theory and Practice* (2014): sections 3, 4.3 (joint
//! consensus), 6.4 (ReadIndex), 9.6 (pre-vote), 10.2.1 (parallel write of the leader's log).
pub mod config;
mod convert;
pub mod event;
pub mod lease;
mod log;
mod mem_log;
pub mod message;
pub mod node;
mod reads;
mod ready;
mod snapshots;
mod start;
pub mod types;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod member_tests;
#[cfg(test)]
mod node_tests;
#[cfg(any(test, feature = "planted"))]
#[cfg_attr(not(test), allow(dead_code))] // what only its tests count
pub mod sim;
#[cfg(test)]
mod test_group;

pub use config::{RaftConfig, RaftConfigError};
pub use event::{DropReason, RaftAction, RaftError, RaftEvent, StateAt};
pub use log::{LogConfig, LogError, LogId, RaftLog, RecoveredLog};
pub use message::{MessageError, RaftBody, RaftMessage};
pub use node::RaftNode;
pub use types::{
    CommittedEntry, ConfChange, ConfError, ConfState, ConfStep, EntryKind, HardState, LogEntry,
    LogRecord, LogWrite, SnapshotMeta,
};

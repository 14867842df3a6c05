//! The leader's service over the state machine: soft state, requests, placement, voters.
//!
//! [`Master`] is the whole master of one voter: Raft member, state and, while it leads, the soft
//! state of its term. One batch of events goes through these steps:
//! 1. requests become proposals, reads or soft-state changes; Raft messages are decoded;
//! 2. the Raft machine takes all of them together, so that they share one write and one message;
//! 3. committed entries are applied in order, each followed at once by the invalidations it causes;
//! 4. replies whose conditions now hold leave.
//!
//! | file | what |
//! |---|---|
//! | `coherence` (over `seats`), `opens` | who caches what, who has what open |
//! | `requests`, `reads`, `applied` | a request's way in, to the state, and out |
//! | `locks` (over `lock_waits`) | locks granted, and who waits for one |
//! | `sessions`, `stores`, `notes` | liveness, heartbeats, leases, news |
//! | `repair`, `voters`, `maintenance` | what the leader proposes by itself |
//! | `namespace` | pages for the stores' snapshots of the namespace |
//! | `snapshot` | flushing, compaction, serving and installing the state |
//! | `retire`, `returning` | nodes and stores that go, and that come back |
//! | `status`, `audits` | for people |
//!
//! Invariants:
//! 1. an answer from the state leaves only after a ReadIndex round that began after the question, or under a
//!    lease of the leader that was good after it;
//! 2. a mutation's answer leaves only when it is applied here and no other session may still use
//!    what it made stale (see `coherence`), and no other answer tells of it sooner (see `unsettled`);
//! 3. a store gets a serving lease only while it knows every epoch that was begun, and a group is
//!    activated only when N-R+1 of the members that served know the new epoch or have no lease.
mod applied;
mod audits;
mod clock;
mod coherence;
mod config;
mod copies;
mod event;
mod leading;
mod lock_waits;
mod locks;
mod machine;
mod maintenance;
mod namespace;
mod notes;
mod opens;
mod placing;
mod reads;
mod repair;
mod requests;
mod retire;
mod returning;
mod seats;
mod sessions;
mod snapshot;
mod space;
mod status;
mod stores;
mod unsettled;
mod voter_watch;
mod voters;

#[cfg(test)]
mod tests;

pub use config::{Bootstrap, MasterConfig, MasterConfigError};
pub use event::{MasterAction, MasterEvent};
pub use machine::{Master, MasterError};
pub use namespace::NamespaceAt;

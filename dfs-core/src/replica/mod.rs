//! One store's side of put, get and repair: stamps, marks, fences, filling, healing.
//!
//! It decides nothing about the order of puts: it makes bytes and marks durable, answers what it
//! was told, and refuses whoever speaks of another configuration. The parts:
//! * [`machine`] the machine and how its batches become durable;
//! * [`prepare`], [`stamps`], [`read`] what clients ask;
//! * [`heartbeat`], [`lease`], [`notes`] what the master tells;
//! * [`groups`], [`fill`], [`wants`], [`fetch`], [`purge`] how replicas come, heal and go;
//! * `quarantine` where what was deleted rests before it goes;
//! * [`scrub`], [`scrub_job`] reading everything again, in the background;
//! * [`inventory`] what a check of the whole cluster asks;
//! * [`reconcile`] what was kept and nobody refers to;
//! * [`tables`] the machine's rows in the [`ObjectStore`](crate::store::ObjectStore).
mod catch_up;
pub mod config;
pub mod event;
pub mod fetch;
pub mod fill;
mod fill_check;
mod fill_count;
pub mod groups;
pub mod heartbeat;
pub mod inventory;
pub mod lease;
mod load;
pub mod machine;
pub mod maintenance;
pub mod marks;
pub mod namespace;
mod notes;
mod pace;
pub mod prepare;
pub mod purge;
mod quarantine;
pub mod read;
pub mod recent;
pub mod reconcile;
mod rejoin;
mod room;
pub mod scrub;
pub mod scrub_job;
pub mod stamps;
pub mod tables;
#[cfg(test)]
mod tests;
mod voting;
mod wants;

pub use config::ReplicaConfig;
pub use event::{ReadJob, ReplicaAction, ReplicaEvent};
pub use machine::Replica;
pub use namespace::NamespaceWork;
pub use voting::VotingNow;

//! One store's side of put, get and repair: stamps, marks, fences, filling, healing.
//!
//! It decides nothing about the order of puts: it makes bytes and marks durable, answers what it
//! was told, and refuses whoever speaks of another configuration. The parts:
//! * [`machine`] the machine and how its batches become durable;
//! * [`prepare`], [`stamps`], [`read`] what clients ask;
//! * [`heartbeat`], [`lease`], [`notes`] what the master tells;
//! * [`groups`], [`fill`], [`fetch`], [`purge`] how replicas come, heal and go;
//! * [`tables`] the machine's rows in the [`ObjectStore`](crate::store::ObjectStore).
pub mod config;
pub mod event;
pub mod fetch;
pub mod fill;
pub mod groups;
pub mod heartbeat;
pub mod lease;
pub mod machine;
pub mod maintenance;
pub mod marks;
pub mod notes;
pub mod prepare;
pub mod purge;
pub mod read;
pub mod recent;
pub mod stamps;
pub mod tables;
#[cfg(test)]
mod tests;

pub use config::ReplicaConfig;
pub use event::{ReadJob, ReplicaAction, ReplicaEvent};
pub use machine::Replica;

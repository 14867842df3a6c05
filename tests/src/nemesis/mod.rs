//! The nemesis: real daemons and mounts under faults, and the judgement of what programs saw of them.
//!
//! A [`Lab`] is five daemons and two mounts, each in a network namespace of its own, each daemon's
//! data on an ext4 image of its own. A [`Schedule`](schedule) draws rounds of [`Fault`]s from a seed.
//! A campaign ([`campaign::run`]) plays them while the [`workloads`] record what programs were
//! answered, heals everything, and judges: the histories, the health, the check of all that is
//! stored. Anything that a correct cluster may not show is an anomaly, and names the seed.
pub mod agent;
pub mod campaign;
pub mod cli;
pub mod client;
pub mod disk;
pub mod fault;
pub mod flips;
pub mod lab;
pub mod net;
pub mod node;
pub mod schedule;
pub mod workloads;

pub use fault::Fault;
pub use lab::Lab;

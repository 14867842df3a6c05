//! Drivers: they own the sockets, clocks and threads, and run the machines.
pub mod ballast;
pub mod calls;
pub mod disk_use;
pub mod gossip;
pub mod leader_book;
pub mod master;
pub mod namespace;
pub mod node_service;
pub(crate) mod queue;
pub mod replica;
mod table_scrub;
pub mod test_clock;
mod watched_disk;
pub use watched_disk::WatchedDisk;

//! Types, wire format and sans-I/O state machines of DFS.
//!
//! Layers, imports go down only:
//! `types <- wire <- store traits <- {membership, consensus, placement, master, replica} <- client`.
//! `net` (feature `net`) holds everything that touches sockets, clocks or threads.
pub mod client;
pub mod consensus;
pub mod master;
pub mod membership;
#[cfg(feature = "net")]
pub mod net;
pub mod placement;
#[cfg(feature = "planted")]
pub mod planted;
pub mod replica;
pub mod rescue;
pub mod store;
pub mod types;
pub mod wire;

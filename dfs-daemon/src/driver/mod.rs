//! Drivers: they own the sockets, clocks and threads, and run the machines.
pub mod calls;
pub mod gossip;
pub mod leader_book;
pub mod master;
pub mod node_service;
pub(crate) mod queue;
pub mod replica;

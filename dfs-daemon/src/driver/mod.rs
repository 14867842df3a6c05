//! Drivers: they own the sockets, clocks and threads, and run the machines.
pub mod gossip;
pub mod replica;

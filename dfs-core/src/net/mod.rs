//! Everything that touches sockets and clocks: authenticated, multiplexed TCP connections and their
//! server, and the UDP socket of membership.
//!
//! Layers: `handshake` (who may speak) below `link` (frames in both directions) below `conn` (calls),
//! `server` (accept, hand requests to a [`Handler`]) and `pool` (one live connection per address).
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // A driver: it owns clocks, and no order matters here.

pub mod auth;
pub mod clock;
pub mod conn;
pub mod handshake;
mod link;
pub mod pool;
pub mod server;
pub mod traffic;
pub mod udp;

pub use auth::ClusterKey;
pub use conn::{Conn, ConnOptions, PushHandler};
pub use handshake::Credentials;
pub use pool::{Pool, PoolConfig};
pub use server::{Handler, Server, ServerConfig, ServerHandle};

#[cfg(test)]
mod tests;

//! The client library: machines of put and get, the file layer, sessions and caches.
pub mod get;
pub mod latency;
pub mod put;

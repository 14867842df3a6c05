//! The client library: machines of put and get, the file layer, sessions and caches.
pub mod put;

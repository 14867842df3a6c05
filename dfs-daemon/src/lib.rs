//! One node of a DFS cluster: drivers that run the machines of `dfs-core` on threads and sockets.
mod bootstrap;
pub mod cli;
pub mod config;
pub mod dev;
pub mod discover;
pub mod driver;
pub mod embedded;
pub mod memory;
pub mod open_files;
pub mod router;
pub mod run;
mod serve;

pub use serve::serve;

//! The DFS daemon as a library.
pub mod driver;

//! Harness and scenarios: real processes under [`proc`], the deterministic simulator under [`sim`].
pub mod proc;
pub mod sim;

//! Harness and scenarios: real processes under [`proc`], the deterministic simulator under [`sim`].
pub mod proc;
#[allow(clippy::all)] // Style findings of its first version are still to be worked off.
pub mod sim;

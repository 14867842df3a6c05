//! Harness and scenarios: real processes under [`proc`], what looks inside them or stands between
//! them under [`inside`], the deterministic simulator under [`sim`].
pub mod inside;
pub mod proc;
pub mod sim;

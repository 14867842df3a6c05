//! Harness and scenarios: real processes under [`proc`], what looks inside them or stands between
//! them under [`inside`], the deterministic simulator under [`sim`], any bytes to all decoders under
//! [`fuzz`], histories and their checkers under [`history`], faults of real clusters and what programs
//! do meanwhile under [`nemesis`].
pub mod fuzz;
pub mod history;
pub mod inside;
pub mod nemesis;
pub mod proc;
pub mod sim;

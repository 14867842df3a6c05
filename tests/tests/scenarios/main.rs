//! Scenarios with real processes, one module each: `cargo test -p dfs-tests --test scenarios -- repair::`.
//!
//! One program, because each further one would be linked with everything again.
#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod bad_input;
mod balance;
mod behind;
mod coherence;
mod cpython;
mod detection;
mod flips;
mod fsck;
mod fsx;
mod full;
mod full_device;
mod gone;
mod growth;
mod kills;
mod large_file;
mod leaving;
mod lending;
mod locks;
mod losses;
mod membership;
mod nemesis;
mod pages;
mod pjdfstest;
mod posix;
mod power;
mod programs;
mod quorum;
mod rejoin;
mod repair;
mod rescue;
mod scrub;
mod sharing;
mod space;
mod tables;
mod tree;
mod trips;
mod versions;
mod workloads;

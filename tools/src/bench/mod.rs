//! A short workload on any directory, so that filesystems, and versions of one, can be compared.
//!
//! It decides what is measured, for how long, and how runs are compared; it knows nothing of a
//! cluster. Names and meanings of the rows are those of the long workload that DFS is measured by.
//!
//! Steps of a run:
//! 1. [`saved`] reads the run to compare with, and the file to save to is begun: what cannot work
//!    fails before anything is measured.
//! 2. [`place`] checks the directory and its room, and makes `.dfs-bench-PID` in it.
//! 3. [`runner`] goes through the groups of [`rows`] that are selected. Each works in a directory
//!    of its own there, goes no further than [`sizes`] says, and hands over a row when it has it.
//! 4. The directory is removed, also after an error or a signal ([`stop`]).
//!
//! Invariants:
//! 1. Nothing outside of `.dfs-bench-PID` is read, written or removed.
//! 2. Every phase ends after a count or a time ([`phase::Limit`]), whichever comes first, and does
//!    at least one operation. Only a single operation, or the flush at the end, may take longer.
//! 3. What a program must wait for before its bytes are safe is part of the time: streams and
//!    random writes end with fsync, small files and trees with syncfs.
//! 4. Offsets and sizes depend on the seed only.
//!
//! A failure that only close(2) tells is not seen, because the standard library drops it; sizes are
//! checked by what reads the files afterwards.
pub mod error;
pub mod meta;
pub mod phase;
pub mod place;
pub mod print;
pub mod random;
pub mod rng;
pub mod rows;
pub mod runner;
pub mod saved;
pub mod sizes;
pub mod small;
pub mod stop;
pub mod stream;
pub mod tree;

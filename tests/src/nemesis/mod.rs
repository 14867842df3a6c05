//! Real processes under faults: what programs do meanwhile, and what must be true of it.
pub mod workloads;

//! Writing a rescued tree and the report about it.
pub mod report;
pub mod write;

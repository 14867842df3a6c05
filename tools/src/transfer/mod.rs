//! Bytes in and out of the cluster, as streams of bounded memory.
pub mod batch;
pub mod local;
pub mod source;
pub mod upload;

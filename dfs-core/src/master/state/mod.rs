//! The deterministic state of the master, applied alike on every voter.
pub mod ctx;

pub use ctx::{Applied, ApplyCtx, ApplyError, Effects, StateError, WatchEvent};

//! Histories of what programs did, and checkers that do not trust the system under test.
//!
//! | file | what |
//! |---|---|
//! | `record` | operations with times and outcomes, written by several threads, and their file |
//! | `search` | is there an order that explains all answers? For any sequential model |
//! | `witness` | the same where versions are known, in linear time |
//! | `zones` | the same for registers whose values are unique, without versions and without a search |
//! | `register`, `log`, `existence`, `counter` | models, and what makes their searches short |
//! | `namespace` | a directory tree as POSIX has it, as a model |
//! | `volatile` | what a mount may show of its own writes before they are acknowledged |
//! | `judge` | all checkers on all keys |
//! | `generate` | good and bad histories, to check the checkers |
pub mod counter;
#[cfg(test)]
mod cross_tests;
pub mod existence;
#[cfg(test)]
mod generate;
pub mod judge;
pub mod log;
pub mod namespace;
pub mod record;
pub mod register;
pub mod search;
pub mod volatile;
pub mod witness;
pub mod zones;

pub use judge::Figures;
pub use record::{Begun, Clock, Outcome, Record, Recorder, Title, Who};

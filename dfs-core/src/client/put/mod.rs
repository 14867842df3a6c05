//! One put: PREPARE at W of N, then COMMIT; or ABANDON, decided before anything is reported.
//!
//! Decides when a put may be committed and what its caller hears. It does not hold the bytes (the
//! driver attaches them by object index), nor order the puts of an inode (the file layer does).
//!
//! ```text
//!              W acks of one epoch for every object and the mark
//!   Preparing -----------------------------------------------> Committing --> Done(Ok)
//!     ^   |                                                     |  |   ^ |
//!     |   | deadline, no space                   WrongEpoch     |  |   | | no answer: again, same X
//!     |   |                                      <--------------+  |   +-+
//!     +---|---------------------------------------(newer map)      | refused, or deadline
//!         v                                                        v
//!      Abandoning ------------------------------------------------>+
//!         | decided, and no commit was ever left unanswered
//!         +--> Done(Err)
//!         | decided, but a commit was left unanswered
//!         +--> Settling: the same commit once more; its answer is X's fate --> Done(either)
//!
//!   any but Preparing -- nobody decided X in the last quarter of the deadline --> Done(SessionLost)
//! ```
//!
//! # Steps (DESIGN.md section 4, PUT 2 to 9)
//! 1. Every object goes to all N members of its chunk's PG, the mark to all N of the home PG; what
//!    one store gets travels in as few messages as fit [`PutConfig::message_max`].
//! 2. An ack counts for the epoch its message named. A newer epoch of a PG voids the acks of its
//!    objects; members that acked before are asked again without bytes.
//! 3. At W acks for every object and for the mark: [`PutAction::Commit`]. Nobody waits for the rest.
//! 4. Refused with `WrongEpoch`: newer map, PREPARE again, same X. Refused with `StaleLease`: the same
//!    commit under another lease, if [`PutSpec::renews`]. Any other refusal: ABANDON.
//! 5. A lost answer is asked again with the same X for as long as the session lives.
//! 6. No master decides X by the deadline: the session is given up, which fences X as surely, and the
//!    caller hears that the outcome is unknown (or, if no commit was sent, that there is none).
//!
//! # Invariants
//! 1. A commit names, for every object and the mark, at least W distinct members that acked under
//!    the one epoch it names.
//! 2. `Finish(Err)` comes after X was decided not to be applied, or with the session lost.
//! 3. `Finish` is emitted exactly once, and nothing is sent after it but drops of what was abandoned.
//!
//! # Failures assumed
//! Messages are lost, late, repeated and reordered; members stop, restart, lie about nothing.
mod machine;
#[cfg(test)]
mod tests;
mod types;
mod unit;

pub use machine::PutMachine;
pub use types::{PutAction, PutChange, PutConfig, PutDone, PutError, PutEvent, PutObject, PutSpec};

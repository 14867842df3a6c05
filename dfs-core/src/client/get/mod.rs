//! One get: verified bytes from the best member, while R stamps say whether the layout is current.
//!
//! Decides which stores are asked, when another one is asked as well, and when the master must be
//! asked (RESOLVE). It does not map file ranges to objects nor cache anything: the driver hands in
//! [`Piece`]s of objects and, after a RESOLVE, those of the newer layout.
//!
//! # Steps (DESIGN.md section 4, GET 2 to 4)
//! 1. Every piece is asked of its best member, all in parallel; stamps of R members of the home PG
//!    at the map's epoch go with them (a data member's own stamp counts when it is one). One round
//!    of stamps covers all pieces.
//! 2. R clean stamps whose newest equals the layout's (revision, op): the layout is current. A mark
//!    of the session that made the layout's revision, not above that op, is decided already
//!    (commits of a session to an inode apply in sequence order) and does not count as dirty.
//! 3. Dirty, unknown, newer, other op, too few stamps, stamps all older, or a layout of no put at
//!    all (stores say the same of an inode that is gone): RESOLVE. Its answer is
//!    linearizable, so no further stamps are read.
//!    R members must have answered nevertheless (a refusal is an answer): with fewer left the file is
//!    out of quorum, and the get fails at its deadline.
//! 4. No answer within p95 (at least [`GetConfig::hedge_min`]), an error, or bytes that fail
//!    verification: the next member; bad bytes are reported for repair. All members lack it:
//!    RESOLVE, at most [`GetConfig::resolves_max`] times.
//!
//! # Invariants
//! 1. Bytes are returned only if the list of block sums matches the extent's [`ObjectSum`] and each
//!    block its sum: no store is trusted.
//! 2. `Finish(Ok)` implies that R stamps or a RESOLVE, begun after the get, found the layout current
//!    (unless [`GetSpec::stamps`] is false).
//! 3. `Finish` is emitted exactly once.
//!
//! [`ObjectSum`]: crate::types::ObjectSum
mod fetch;
mod freshness;
mod machine;
#[cfg(test)]
mod tests;
mod types;

pub use machine::GetMachine;
pub use types::{
    GetAction, GetConfig, GetDone, GetError, GetEvent, GetSpec, Piece, ReadAnswer, Resolved,
};

//! What an apply function may see and what it leaves behind.
use crate::store::{Kv, KvError};
use crate::types::{
    ClientId, Epoch, FileKind, Ino, LogIndex, Name, OpId, PgId, PgMap, StoreId, Time,
};
use crate::wire::master::{Note, Touched};
use crate::wire::{MutationOk, WireError};

/// The tables are broken: the voter must stop applying. (A refused mutation is no such error.)
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Reading the tables failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A value cannot be decoded.
    #[error("table {table}: value of {key} cannot be decoded")]
    Decode {
        /// Which table.
        table: &'static str,
        /// The key, in hexadecimal.
        key: String,
    },
    /// An entry does not follow the applied index.
    #[error("entry {got} does not follow applied index {applied}")]
    Gap {
        /// Applied so far.
        applied: LogIndex,
        /// Offered.
        got: LogIndex,
    },
}

/// Why an apply function did not change the namespace: refused (a result for the client, the state
/// is unchanged), or broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Refused; nothing was changed.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// The voter must stop.
    #[error(transparent)]
    Broken(#[from] StateError),
}

impl From<KvError> for ApplyError {
    fn from(e: KvError) -> Self {
        Self::Broken(StateError::Kv(e))
    }
}

impl From<crate::wire::ErrorCode> for ApplyError {
    fn from(code: crate::wire::ErrorCode) -> Self {
        Self::Refused(code.into())
    }
}

/// An added or removed name, for watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// Added (true) or removed.
    pub added: bool,
    /// Directory.
    pub parent: Ino,
    /// Name in it.
    pub name: Name,
    /// Kind.
    pub kind: FileKind,
}

/// What applying one entry leaves behind besides table changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Notes for the members of a PG; the caller stores them under the entry's index.
    pub notes: Vec<(PgId, Note)>,
    /// Inodes that changed, for invalidations.
    pub touched: Vec<Touched>,
    /// For watchers.
    pub watch: Vec<WatchEvent>,
    /// Objects that nothing refers to any more: the caller queues them for deletion.
    pub garbage: Vec<(PgId, crate::types::ObjectId)>,
}

/// Context of one apply.
pub struct ApplyCtx<'a> {
    /// The tables. The namespace owns key prefixes `b'a'..=b'm'`.
    pub kv: &'a mut dyn Kv,
    /// Log time.
    pub at: Time,
    /// The entry's index.
    pub index: LogIndex,
    /// The mutation's op-id.
    pub op: OpId,
    /// Placement groups as of now.
    pub map: &'a PgMap,
    /// Stores that are down as far as this state knows.
    pub is_down: &'a dyn Fn(&StoreId) -> bool,
    /// Left behind.
    pub effects: Effects,
}

impl ApplyCtx<'_> {
    /// See [`acks_are_good`].
    #[must_use]
    pub fn acks_are_good(&self, pg: PgId, epoch: Epoch, acks: &[StoreId]) -> bool {
        acks_are_good(self.map, pg, epoch, acks)
    }
}

/// True iff `epoch` is the PG's current one, it serves (not Fencing), and `acks` are at least W
/// distinct members of it.
#[must_use]
pub fn acks_are_good(map: &PgMap, pg: PgId, epoch: Epoch, acks: &[StoreId]) -> bool {
    let Some(info) = map.pgs.get(usize::from(pg.0)) else {
        return false;
    };
    let members: std::collections::BTreeSet<_> =
        acks.iter().filter(|s| info.members.contains(s)).collect();
    info.epoch == epoch
        && info.phase != crate::types::PgPhase::Fencing
        && members.len() == acks.len()
        && members.len() >= usize::from(map.quorum.w)
}

/// What one applied entry did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The answer to a mutation (`None` for other commands).
    pub result: Option<(OpId, Result<MutationOk, WireError>)>,
    /// Inodes that changed. A repeated op reports the same inodes again, so that a new leader
    /// invalidates what the old one may not have.
    pub touched: Vec<Touched>,
    /// For watchers.
    pub watch: Vec<WatchEvent>,
    /// The PG map changed.
    pub map_changed: bool,
    /// New notes are waiting for stores.
    pub notes_added: bool,
    /// This session ended.
    pub ended: Option<ClientId>,
    /// Locks on these files were given up: who waits for one may go on.
    pub unlocked: Vec<Ino>,
    /// Refused, for a command other than a mutation.
    pub refused: Option<WireError>,
}

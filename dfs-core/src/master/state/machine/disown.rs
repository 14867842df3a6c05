//! Ops that shall never be applied.
use super::MasterState;
use crate::master::state::ctx::{Effects, StateError};
use crate::master::state::namespace;
use crate::master::state::sessions::Sessions;
use crate::store::Kv;
use crate::types::{ChunkNo, Ino, OpId, pg_of};
use crate::wire::master::Note;
use crate::wire::{ErrorCode, MutationOk, WireError};

impl<K: Kv> MasterState<K> {
    /// Disowns `target`. If it was applied before, answers what it had been answered.
    pub(super) fn abandon(
        &mut self,
        op: OpId,
        target: OpId,
        effects: &mut Effects,
    ) -> Result<Result<MutationOk, WireError>, StateError> {
        if op.client != target.client {
            let detail = "an op can be disowned only by its own session";
            return Ok(Err(WireError::new(ErrorCode::Invalid, detail)));
        }
        if let Some(row) = Sessions::result(&self.kv, target)? {
            // Answered as a repeated op is: when nobody caches any more what it made stale.
            effects.touched.extend(row.touched.iter().copied());
            return Ok(row.result);
        }
        if self.sessions.abort(&mut self.kv, target)? {
            self.note_aborted(Ino(0), target, effects);
        }
        Ok(Ok(MutationOk::Done))
    }

    /// Aborts ops that will never be applied, and tells the stores. An op whose objects are in use
    /// was applied: its mark is only late.
    pub(super) fn abort(
        &mut self,
        ops: &[(Ino, OpId)],
        effects: &mut Effects,
    ) -> Result<(), StateError> {
        for &(ino, op) in ops {
            let decided = Sessions::result(&self.kv, op)?.is_some_and(|row| row.result.is_ok());
            if decided || namespace::op_is_referenced(&self.kv, op)? {
                continue;
            }
            let live = self
                .sessions
                .get(op.client)
                .is_some_and(|row| op.seq >= row.low);
            if live {
                self.sessions.abort(&mut self.kv, op)?;
            }
            self.note_aborted(ino, op, effects);
        }
        Ok(())
    }

    /// Tells all stores that the op is never applied. The inode is 0 where it is not known: then
    /// marks stay until a store reports them.
    pub(super) fn note_aborted(&self, ino: Ino, op: OpId, effects: &mut Effects) {
        let count = self.pgs.map().pgs.len();
        let home = pg_of(ino, ChunkNo::HOME, u16::try_from(count).unwrap_or(1));
        effects.notes.push((home, Note::Aborted { ino, op }));
    }
}

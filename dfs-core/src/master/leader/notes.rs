//! Which notes a store is told: those after its cursor, and what became of its old marks.
use super::leading::Task;
use super::machine::Master;
use super::reads::broken;
use crate::master::command::Command;
use crate::master::state::sessions::Sessions;
use crate::types::{ChunkNo, Epoch, LogIndex, OpId, PgId, PgPhase, Revision, StoreId, pg_of};
use crate::wire::master::{Heartbeat, Note, QueryAnswer};
use crate::wire::{MutationOk, Query, WireError};
use std::collections::BTreeSet;

/// Notes in one answer, about.
const NOTES_MAX: usize = 2048;
/// Bytes of notes in one answer, about: an answer must fit a frame's header.
const NOTES_BYTES_MAX: usize = 1 << 20;

impl Master {
    /// Notes after the store's cursor, and the index up to which they are complete.
    #[allow(clippy::type_complexity)]
    pub(super) fn notes_for(
        &mut self,
        hb: &Heartbeat,
    ) -> Result<(Vec<(LogIndex, PgId, Note)>, LogIndex), WireError> {
        let store = hb.store;
        let leading = self.leading.as_deref();
        let cursor = leading.map_or(hb.cursor, |l| l.stores.cursor(hb));
        if cursor < self.state.notes_trimmed().map_err(broken)? {
            let stale = self.complete_replicas(store);
            if !stale.is_empty() {
                // It missed notes: no more of them until its replicas count as unfilled.
                self.propose_task(Task::Refill, Command::Refill { members: stale });
                return Ok((Vec::new(), cursor));
            }
        }
        let concerned: BTreeSet<PgId> = self
            .state
            .pgs()
            .filter(|(_, s)| s.info.members.contains(&store) || s.info.prior.contains(&store))
            .map(|(pg, _)| pg)
            .collect();
        let wanted = |pg: PgId| concerned.contains(&pg);
        let (mut notes, upto) = self
            .state
            .notes_after(cursor, &wanted, NOTES_MAX)
            .map_err(broken)?;
        let upto = cut_to_size(&mut notes, upto);
        let again = self.notes_for_marks(hb);
        if !again.is_empty() && upto <= cursor {
            // A store takes only what is newer than its cursor: let the log move on.
            let upto = self.state.notes_trimmed().map_err(broken)?;
            self.propose_task(Task::Nudge, Command::TrimNotes { upto });
        } else if upto == self.state.applied().index {
            // They are true as of what is applied here, so not if notes had to be left out.
            notes.extend(again.into_iter().map(|(pg, note)| (upto, pg, note)));
        }
        Ok((notes, upto))
    }

    /// Replicas of a store that count as complete beside another complete one.
    fn complete_replicas(&self, store: StoreId) -> Vec<(PgId, Epoch, StoreId)> {
        let stale = self.state.pgs().filter(|(_, s)| {
            s.info.phase != PgPhase::Fencing
                && s.complete().any(|m| m == store)
                && s.complete().count() > 1
        });
        stale.map(|(pg, s)| (pg, s.info.epoch, store)).collect()
    }

    /// What became of ops whose marks are old although they are decided: a member that was slow
    /// got the bytes after the note.
    fn notes_for_marks(&self, hb: &Heartbeat) -> Vec<(PgId, Note)> {
        let count = u16::try_from(self.state.map().pgs.len()).unwrap_or(1);
        let mut notes = Vec::new();
        for &(ino, op) in hb.old_marks.iter().take(1000) {
            let home = pg_of(ino, ChunkNo::HOME, count);
            let result = Sessions::result(self.state.kv(), op).ok().flatten();
            let low = self
                .state
                .session(op.client)
                .map_or(u64::MAX, |row| row.low);
            match result.map(|row| row.result) {
                Some(Ok(MutationOk::Committed { revision, .. })) => {
                    notes.push((home, Note::Committed { ino, revision, op }));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => notes.push((home, Note::Aborted { ino, op })),
                // Finished long ago: if its bytes are in use it was applied. The revision is not
                // kept; 0 clears the mark and moves no stamp, the newest commit goes before it.
                None if op.seq < low && self.is_referenced(op) => {
                    let (version, first, count) = (None, ChunkNo::HOME, 0);
                    let newest = self.state.query(&Query::Layout {
                        ino,
                        version,
                        first,
                        count,
                    });
                    if let Ok(QueryAnswer::Layout(newest)) = newest {
                        let (revision, of) = (newest.revision, newest.op);
                        notes.push((
                            home,
                            Note::Committed {
                                ino,
                                revision,
                                op: of,
                            },
                        ));
                    }
                    let revision = Revision(0);
                    notes.push((home, Note::Committed { ino, revision, op }));
                }
                None => {}
            }
        }
        notes
    }

    pub(super) fn is_referenced(&self, op: OpId) -> bool {
        crate::master::state::namespace::op_is_referenced(self.state.kv(), op).unwrap_or(false)
    }
}

/// Drops notes from the end, whole entries, until they fit; returns up to where they are complete.
fn cut_to_size(notes: &mut Vec<(LogIndex, PgId, Note)>, upto: LogIndex) -> LogIndex {
    let mut bytes = 0;
    let mut first_out = None;
    for (index, _, note) in notes.iter() {
        bytes += match note {
            Note::Hold { objects, .. } => 64 + 64 * objects.len(),
            Note::Delete { objects } => 16 + 48 * objects.len(),
            Note::Committed { .. } | Note::Aborted { .. } | Note::Forget { .. } => 64,
        };
        // The first entry always goes: the store must get on.
        if bytes > NOTES_BYTES_MAX && Some(*index) != notes.first().map(|(first, ..)| *first) {
            first_out = Some(*index);
            break;
        }
    }
    let Some(first_out) = first_out else {
        return upto;
    };
    notes.retain(|(index, ..)| *index < first_out);
    LogIndex(first_out.0 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ObjectId;

    #[test]
    fn notes_are_cut_between_entries_and_never_to_nothing() {
        let delete = |index: u64, objects: usize| {
            (
                LogIndex(index),
                PgId(0),
                Note::Delete {
                    objects: vec![ObjectId::default(); objects],
                },
            )
        };
        let mut notes = vec![delete(5, 10), delete(5, 10), delete(6, 10)];
        assert_eq!(cut_to_size(&mut notes, LogIndex(9)), LogIndex(9));
        assert_eq!(notes.len(), 3);
        let mut notes = vec![
            delete(5, 10),
            delete(6, 15_000),
            delete(6, 15_000),
            delete(7, 1),
        ];
        assert_eq!(cut_to_size(&mut notes, LogIndex(9)), LogIndex(5));
        assert_eq!(notes.len(), 1);
        let mut notes = vec![delete(5, 15_000), delete(5, 15_000), delete(7, 1)];
        assert_eq!(cut_to_size(&mut notes, LogIndex(9)), LogIndex(6));
        assert_eq!(notes.len(), 2);
    }
}

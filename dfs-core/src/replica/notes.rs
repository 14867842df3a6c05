//! Notes: what the master tells of commits, aborts and deletions, in log order.
//!
//! Steps: notes at or below the cursor are skipped; the others are applied in order into one batch
//! together with the new cursor; the cursor is reported once the batch is durable. A note of a
//! group this store has nothing to do with is skipped.
//!
//! Invariants:
//! 1. a cursor on disk means that the effects of all notes up to it are on disk too; an object that
//!    was named and is not held is on disk as *missing*;
//! 2. a stamp's revision never falls.
use super::groups::Role;
use super::machine::{After, Cx, Replica};
use super::tables::{CleanRow, MissingRow, ObjectRow, TableError, Tx, keys};
use super::wants::Why;
use crate::store::RestReason;
use crate::types::{ChunkNo, Ino, LogIndex, ObjectId, ObjectSum, OpId, PgId, Revision};
use crate::wire::master::Note;
use std::time::Duration;

impl Replica {
    /// Applies notes; all with index <= `upto` are contained that are above the cursor sent.
    pub(super) fn apply_notes(
        &mut self,
        cx: &mut Cx<'_>,
        notes: Vec<(LogIndex, PgId, Note)>,
        upto: LogIndex,
    ) -> Result<(), TableError> {
        if upto <= self.cursor {
            return Ok(()); // an answer that was overtaken
        }
        let mut tx = self.tables.begin();
        for (index, pg, note) in notes {
            if index > self.cursor && index <= upto {
                self.apply_note(cx, &mut tx, (index, pg), note)?;
            }
        }
        self.cursor = upto;
        self.tables.put(&mut tx, keys::cursor(), &upto);
        self.persist(cx, tx, vec![After::Cursor(upto)]);
        Ok(())
    }

    fn apply_note(
        &mut self,
        cx: &mut Cx<'_>,
        tx: &mut Tx,
        (index, pg): (LogIndex, PgId),
        note: Note,
    ) -> Result<(), TableError> {
        // Its objects may be in any group.
        if let Note::Aborted { ino, op } = note {
            return self.drop_op(cx, tx, (pg, ino), op);
        }
        let is_member = match self.groups.role(pg) {
            Some(Role::Member { .. }) => true,
            Some(Role::Prior) => false,
            Some(Role::Gone) | None => return Ok(()),
        };
        match note {
            Note::Committed { ino, revision, op } => {
                self.note_committed(cx, tx, (index, pg), (ino, revision, op))
            }
            Note::Hold {
                ino,
                chunk,
                objects,
            } if is_member => objects
                .into_iter()
                .try_for_each(|object| self.note_hold(cx, tx, index, (pg, ino, chunk), object)),
            Note::Hold { .. } => Ok(()),
            Note::Aborted { .. } => Ok(()),
            Note::Delete { objects } => {
                for id in objects {
                    self.delete_object(cx, tx, id, RestReason::Deleted(index))?;
                }
                Ok(())
            }
            Note::Forget { ino } => {
                self.tables.delete(tx, keys::stamp(pg, ino));
                for op in self.marks.of(pg, ino) {
                    self.drop_mark(tx, (pg, ino), op);
                }
                Ok(())
            }
        }
    }

    fn note_committed(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        (index, pg): (LogIndex, PgId),
        (ino, revision, op): (Ino, Revision, OpId),
    ) -> Result<(), TableError> {
        self.install_stamp(cx, tx, (pg, ino), (revision, op))?;
        self.drop_mark(tx, (pg, ino), op);
        self.settled.insert(op);
        if let Some(fill) = self.fills.get_mut(&pg) {
            fill.told(index, ino);
        }
        Ok(())
    }

    /// Raises the stamp to this commit, if it is newer.
    pub(super) fn install_stamp(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        (pg, ino): (PgId, Ino),
        (revision, op): (Revision, OpId),
    ) -> Result<(), TableError> {
        let key = keys::stamp(pg, ino);
        let known: Option<CleanRow> = self.tables.get(cx.store, &key)?;
        if known.is_none_or(|row| revision > row.revision) {
            self.tables.put(tx, key, &CleanRow { revision, op });
        }
        Ok(())
    }

    fn note_hold(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        index: LogIndex,
        (pg, ino, chunk): (PgId, Ino, ChunkNo),
        (id, sum): (ObjectId, ObjectSum),
    ) -> Result<(), TableError> {
        self.settled.insert(id.op);
        let object = ObjectRow {
            pg,
            ino,
            chunk,
            sum,
        };
        let row = self.tables.object(cx.store, id)?;
        // On its way to the disk, it may find no room there.
        let is_durable = !self.writing.contains_key(&id);
        if is_durable && row.is_some_and(|row| row.sum == sum) {
            return Ok(());
        }
        let row = MissingRow {
            object,
            since: index,
        };
        self.tables.put(tx, keys::object(b'x', id), &row);
        // What was missed while this store was away is not on its way any more.
        let delay = if self.rejoin.is_behind() {
            Duration::ZERO
        } else {
            self.config.heal_delay
        };
        let soonest = cx.now + delay;
        self.wants.want(id, object, Why::Note(index), soonest);
        Ok(())
    }

    /// The op will never be applied: its mark and objects go, and it is remembered.
    pub(super) fn drop_op(
        &mut self,
        cx: &mut Cx<'_>,
        tx: &mut Tx,
        (pg, ino): (PgId, Ino),
        op: OpId,
    ) -> Result<(), TableError> {
        self.drop_mark(tx, (pg, ino), op);
        let (age, forgotten) = self.aborted.insert(op);
        if let Some(age) = age {
            self.tables.put(tx, keys::aborted(age), &op);
        }
        for age in forgotten {
            self.tables.delete(tx, keys::aborted(age));
        }
        let rows = self
            .tables
            .scan(cx.store, &keys::objects_of(op), None, usize::MAX)?;
        for id in rows.iter().filter_map(|(key, _)| keys::parse_object(key)) {
            self.delete_object(cx, tx, id, RestReason::Aborted)?;
        }
        Ok(())
    }

    pub(super) fn drop_mark(&mut self, tx: &mut Tx, (pg, ino): (PgId, Ino), op: OpId) {
        if self.marks.remove(pg, ino, op) {
            self.tables.delete(tx, keys::mark(pg, ino, op));
        }
    }

    /// Deletes an object if it is held (it rests), and no longer wants it.
    pub(super) fn delete_object(
        &mut self,
        cx: &mut Cx<'_>,
        tx: &mut Tx,
        id: ObjectId,
        reason: RestReason,
    ) -> Result<(), TableError> {
        self.unwant(cx, tx, id);
        self.scrub.deleted(id);
        if self.tables.object(cx.store, id)?.is_some() {
            self.rest_object(cx, tx, id, reason);
        }
        Ok(())
    }
}

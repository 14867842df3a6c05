//! What becomes of batches when the device is full all the same: somebody else wrote to it.
//!
//! * The files of a batch found no room, so nothing of it is on disk: what was there before its objects
//!   is there again, whoever sent them is refused, and what must be held is fetched later.
//! * Not even the journal finds room: nothing is lost, but it takes until somebody makes room, so
//!   those that wait for an ack are refused. A refusal promises nothing, whatever becomes durable; if
//!   the batch finds no room in the end, its marks are made durable anew like those of the others.
//!
//! Invariant: an object that must be held is durably *missing* until the batch that stores it is
//! durable with its files: a note or listing that names an object on its way to the disk wants it all
//! the same, and it is no longer wanted when it has [arrived](Replica::arrived), not before.
use super::event::{ReplicaAction, refuse};
use super::fetch::PAUSE_IDLE;
use super::machine::{After, Cx, Replica, Wait};
use super::tables::{MissingRow, ObjectRow, TableError, Tx, keys};
use crate::types::ObjectId;
use std::time::Duration;

/// What is wrong, for people.
const FULL: &str = "the device is full";
/// A batch waits for room if it takes longer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Replica {
    /// Objects are durable: those that were wanted while they were on their way no longer are.
    pub(super) fn arrived(
        &mut self,
        cx: &mut Cx<'_>,
        objects: &[ObjectId],
    ) -> Result<(), TableError> {
        let mut here = Vec::new();
        for id in objects {
            if !self.wants.is_wanted(*id) || self.writing.contains_key(id) {
                continue;
            }
            let key = keys::object(b'x', *id);
            let is_fetched = self.wants.is_writing(*id);
            let is_missing = self.tables.get::<MissingRow>(cx.store, &key)?.is_some();
            if is_missing || !is_fetched {
                here.push((*id, key, is_fetched));
            }
        }
        if here.is_empty() {
            return Ok(());
        }
        let mut tx = self.tables.begin();
        for (id, key, is_fetched) in here {
            if is_fetched {
                self.tables.delete(&mut tx, key); // a note named it meanwhile
            } else if self.tables.object(cx.store, id)?.is_some() {
                self.unwant(cx, &mut tx, id);
            }
        }
        self.persist(cx, tx, Vec::new());
        Ok(())
    }

    /// The batch is durable but for its objects and table changes.
    pub(super) fn without_room(
        &mut self,
        cx: &mut Cx<'_>,
        objects: &[ObjectId],
        after: Vec<After>,
    ) -> Result<(), TableError> {
        let mut tx = self.tables.begin();
        let mut rest = Vec::new();
        let error = self.no_room(cx, 1, FULL);
        for id in objects {
            // Sent again meanwhile, it is written anew, under another name.
            if !self.writing.contains_key(id) {
                self.take_back(cx, &mut tx, *id)?;
            }
        }
        for after in after {
            match after {
                After::Ack(wait) => {
                    self.mark_again(cx, &mut tx, &wait);
                    cx.out.push(refuse(wait.to, error.clone()));
                }
                After::Refused(wait) => self.mark_again(cx, &mut tx, &wait),
                After::Namespace(token) => {
                    let result = Err(error.to_string());
                    cx.out.push(ReplicaAction::NamespaceDone { token, result });
                }
                After::Fetched(_) => {}
                other => rest.push(other),
            }
        }
        self.persist(cx, tx, Vec::new());
        rest.into_iter().try_for_each(|after| self.after(cx, after))
    }

    fn take_back(&mut self, cx: &Cx<'_>, tx: &mut Tx, id: ObjectId) -> Result<(), TableError> {
        if id.is_namespace() {
            tx.restore(id);
            return Ok(());
        }
        let Some(row) = self.tables.object(cx.store, id)? else {
            return Ok(());
        };
        match cx.store.replaced(id) {
            Some(old) => {
                let old = ObjectRow {
                    pg: row.pg,
                    ino: old.ino,
                    chunk: old.chunk,
                    sum: old.sum(),
                };
                self.tables.put(tx, keys::object(b'o', id), &old);
            }
            None => self.tables.delete(tx, keys::object(b'o', id)),
        }
        tx.restore(id);
        if let Some(since) = self.wants.starve_again(id, cx.now + PAUSE_IDLE) {
            self.uncount_fetched(cx, tx, &row)?;
            if let Some(since) = since {
                let wanted = MissingRow { object: row, since };
                self.tables.put(tx, keys::object(b'x', id), &wanted);
            }
        }
        Ok(())
    }

    /// Refuses those whose batches wait for room.
    pub(super) fn pump_waits(&mut self, cx: &mut Cx<'_>) {
        if !cx.store.is_out_of_room() {
            return;
        }
        let now = cx.now;
        let is_late = |wait: &Wait| now.since(wait.since) >= PATIENCE;
        if !self.waits.values().any(is_late) {
            return;
        }
        let error = self.no_room(cx, 1, FULL);
        let out = &mut *cx.out;
        for wait in self.waits.values_mut().filter(|wait| is_late(wait)) {
            let refused = |after| match after {
                After::Ack(ack) => {
                    out.push(refuse(ack.to, error.clone()));
                    After::Refused(ack)
                }
                other => other,
            };
            wait.after = std::mem::take(&mut wait.after)
                .into_iter()
                .map(refused)
                .collect();
        }
    }
}

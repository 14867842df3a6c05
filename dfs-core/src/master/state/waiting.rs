//! The objects of the delete queue, by name: what a store asks about is looked up, not looked for.
//!
//! Read once from the table, when somebody asks; kept with it from then on.
use super::notes::{self};
use super::{StateError, keys};
use crate::store::{KvRead, prefix_end};
use crate::types::{ObjectId, PgId};
use crate::wire::master::Note;
use std::collections::BTreeSet;

/// A queue that is longer is not kept here: all that may be in it counts as waiting.
const QUEUE_MAX: u64 = 100_000;

/// See the [module docs](self).
#[derive(Debug, Default)]
pub struct Waiting {
    objects: Option<BTreeSet<ObjectId>>,
    /// Rows that were read so far.
    pub(super) rows_read: u64,
}

impl Waiting {
    /// These were queued.
    pub fn queued(&mut self, garbage: &[(PgId, ObjectId)]) {
        if let Some(objects) = &mut self.objects {
            objects.extend(garbage.iter().map(|(_, id)| *id));
        }
    }

    /// These notes were made of queued objects.
    pub fn released(&mut self, notes: &[(PgId, Note)]) {
        let Some(objects) = &mut self.objects else {
            return;
        };
        for (_, note) in notes {
            if let Note::Delete { objects: gone } = note {
                gone.iter().for_each(|id| {
                    objects.remove(id);
                });
            }
        }
    }

    /// Objects in the queue; `None` if it is too long.
    ///
    /// # Errors
    /// A damaged table.
    pub fn all(&mut self, kv: &impl KvRead) -> Result<Option<&BTreeSet<ObjectId>>, StateError> {
        if notes::queue_len(kv)? > QUEUE_MAX {
            self.objects = None;
            return Ok(None);
        }
        if self.objects.is_none() {
            let prefix = [keys::DELETE];
            let mut objects = BTreeSet::new();
            for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
                let (_, object): (PgId, ObjectId) = keys::decode("delete", &key, &value)?;
                objects.insert(object);
                self.rows_read += 1;
            }
            self.objects = Some(objects);
        }
        Ok(self.objects.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;
    use crate::types::{ClientId, LogIndex, OpId, Time};

    fn object(seq: u64) -> ObjectId {
        let op = OpId {
            client: ClientId(1),
            seq,
        };
        ObjectId { op, index: 0 }
    }

    #[test]
    fn regression_a_long_queue_is_read_once_and_not_for_every_question() {
        let (mut kv, mut waiting) = (MemKv::default(), Waiting::default());
        let all: Vec<_> = (0..100_000).map(|i| (PgId(0), object(i))).collect();
        notes::queue_deletes(&mut kv, Time(10), LogIndex(1), &all).unwrap();
        for i in 0..1_000 {
            let more = [(PgId(0), object(200_000 + i))];
            let before = Time(11);
            let gone = notes::release_deletes(&mut kv, before, 10).unwrap();
            waiting.released(&gone);
            notes::queue_deletes(&mut kv, Time(20), LogIndex(2 + i), &more).unwrap();
            waiting.queued(&more);
            let queue = waiting.all(&kv).unwrap().unwrap();
            assert_eq!(queue.len() as u64, notes::queue_len(&kv).unwrap());
            assert!(queue.contains(&more[0].1) && !queue.contains(&object(0)));
        }
        assert!(waiting.rows_read <= 100_000, "{}", waiting.rows_read);
    }

    #[test]
    fn a_queue_that_is_too_long_is_not_read_at_all() {
        let (mut kv, mut waiting) = (MemKv::default(), Waiting::default());
        let all: Vec<_> = (0..=QUEUE_MAX).map(|i| (PgId(0), object(i))).collect();
        notes::queue_deletes(&mut kv, Time(10), LogIndex(1), &all).unwrap();
        assert_eq!(waiting.all(&kv).unwrap(), None);
        assert_eq!(waiting.rows_read, 0);
    }
}

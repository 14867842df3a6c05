//! Batches whose files find no room on the device: as if they had never been, on disk and in memory.
//!
//! Steps:
//! 1. while a batch with files is under way, what was there before its objects is remembered;
//! 2. if the files find no room, the [writer](super::StoreWriter) journals the batch without its objects and
//!    table changes (its deletes of other objects stay), and removes no file that it replaced;
//! 3. the machine [takes it back](ObjectStore::take_roomless) in memory with the next batch, which puts
//!    back what was there ([`Batch::restores`](super::Batch::restores)).
//!
//! Invariants:
//! 1. no row that names a file which found no room is ever on disk: neither by the journal nor by a
//!    flush, which waits until the batch of step 3 is durable;
//! 2. what an object that found no room should have replaced is still there, and is read again.
use super::object_format::{ObjectRow, TABLE_OBJECT, encode_ops, parse_file_name};
use super::quarantine::{is_age, owner};
use super::{KvError, KvOp, KvRead, ObjectHeader, ObjectStore};
use crate::types::ObjectId;
use std::collections::{BTreeMap, BTreeSet};

/// Changes that bring back what was there before.
type Images = BTreeMap<ObjectId, Vec<KvOp>>;

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct LostFiles {
    /// By batch with files that is under way.
    images: BTreeMap<u64, Images>,
    /// Of the batch that was last said to have found no room.
    restorable: Images,
    /// No flush before this batch is durable.
    until: u64,
}

/// What is left of a batch without its objects.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub record: Vec<u8>,
    pub unlinks: Vec<String>,
}

impl LostFiles {
    /// Rows that are there again if batches under way that store this object find no room.
    pub fn replaced_rows(&self, id: ObjectId) -> impl Iterator<Item = (&[u8], &[u8])> {
        let images = self
            .images
            .values()
            .filter_map(move |images| images.get(&id));
        images.flatten().filter_map(|image| match image {
            KvOp::Put(key, value) => Some((key.as_slice(), value.as_slice())),
            KvOp::Delete(_) => None,
        })
    }

    /// True if the object is in a batch whose files are not known to be there.
    pub fn is_under_way(&self, id: ObjectId) -> bool {
        self.images.values().any(|images| images.contains_key(&id))
    }
}

impl ObjectStore {
    /// Step 1: what a batch is without the objects it stores, given the store's own changes. Before
    /// they are made.
    pub(super) fn remains_of(
        &mut self,
        seq: u64,
        (ops, unlinks): (&[KvOp], &[String]),
        stored: &BTreeSet<ObjectId>,
    ) -> Result<Remains, KvError> {
        let mut images = Images::new();
        let mut rest = Vec::new();
        let mut seen = BTreeSet::new();
        for op in ops {
            let (KvOp::Put(key, _) | KvOp::Delete(key)) = op;
            let Some(id) = owner(key).filter(|id| stored.contains(id)) else {
                rest.push(op.clone());
                continue;
            };
            if !seen.insert(key) {
                continue;
            }
            let is_row = key.first() == Some(&TABLE_OBJECT);
            let old = match self.kv.get(key) {
                // Rows by age say all there is to say in their keys.
                Err(KvError::Damaged { .. }) => is_age(key).then(Vec::new),
                other => other?,
            };
            let old = old.filter(|old| !is_row || ObjectRow::decode(old).is_some());
            let image = match old {
                Some(old) => KvOp::Put(key.clone(), old),
                None => KvOp::Delete(key.clone()),
            };
            images.entry(id).or_default().push(image);
        }
        self.lost.images.insert(seq, images);
        let is_other = |path: &&String| {
            let name = path.rsplit('/').next().and_then(parse_file_name);
            name.is_none_or(|(id, _)| !stored.contains(&id))
        };
        Ok(Remains {
            record: encode_ops(&rest),
            unlinks: unlinks.iter().filter(is_other).cloned().collect(),
        })
    }

    /// Forgets what was before batches that are durable with their files.
    pub(super) fn forget_images(&mut self, committed: u64) {
        let progress = &self.progress;
        let images = &mut self.lost.images;
        images.retain(|seq, _| *seq > committed || progress.is_roomless(*seq));
    }

    /// True if this committed batch found no room for its files, so that nothing of it is on disk but
    /// its deletes of other objects. Nobody may be told of it, and the next batch must take its
    /// changes back: its objects by [`restores`](super::Batch::restores). Said once.
    #[must_use]
    pub fn take_roomless(&mut self, seq: u64) -> bool {
        if !self.progress.take_roomless(seq) {
            return false;
        }
        self.lost.restorable = self.lost.images.remove(&seq).unwrap_or_default();
        self.lost.until = self.applied() + 1;
        true
    }

    /// Who the object is that comes back when this one is restored, if there is one.
    #[must_use]
    pub fn replaced(&self, id: ObjectId) -> Option<ObjectHeader> {
        let images = self.lost.restorable.get(&id)?;
        images.iter().find_map(|image| match image {
            KvOp::Put(key, row) if key.first() == Some(&TABLE_OBJECT) => {
                ObjectRow::decode(row).map(|row| row.header)
            }
            _ => None,
        })
    }

    /// Changes that restore these objects.
    pub(super) fn restoring(&self, ids: &[ObjectId]) -> Vec<KvOp> {
        let images = ids.iter().filter_map(|id| self.lost.restorable.get(id));
        images.flatten().cloned().collect()
    }

    /// In memory are rows of files that are not there (invariant 1).
    pub fn is_taking_back(&self) -> bool {
        self.progress.has_roomless() || self.progress.committed() < self.lost.until
    }
}

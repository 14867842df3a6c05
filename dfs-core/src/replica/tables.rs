//! The machine's tables: keys, rows, and the batch that is being put together.
//!
//! | key (after the prefix) | row |
//! |---|---|
//! | `c` | [`LogIndex`]: notes up to here have been applied |
//! | `e` pg | epoch: durably adopted, older ones are fenced |
//! | `s` pg ino | [`CleanRow`]: newest commit told |
//! | `m` pg ino op | mark: op is in flight (empty value) |
//! | `o` object | [`ObjectRow`]: an object held |
//! | `x` object | [`MissingRow`]: an object that must be held and is not yet |
//! | `f` pg ino | [`FillRow`]: what was copied to fill the group |
//! | `a` counter | [`OpId`] that will never be applied |
//! | `v` | [`ScrubRow`](super::scrub::ScrubRow): where the scrub is and what it found |
//! | `g` | complete groups of which notes were missed |
//!
//! What is written to a batch is visible at once: first through [`Tables`], after the batch was
//! applied through the store. Reading ahead of durability is safe: what a crash takes back is only
//! knowledge that the master has (notes) or that was never acknowledged (marks, objects).
use crate::store::overlay::{Direction, MemTable, merged_get, merged_scan};
use crate::store::{Batch, KvError, KvOp, KvPair, ObjectStore, ObjectWrite, Rest, prefix_end};
use crate::types::LogIndex;
use crate::types::{ChunkNo, ClientId, Epoch, Ino, ObjectId, ObjectSum, OpId, PgId, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// First byte of every key of the machine.
pub const TABLES: u8 = b'r';

/// Newest commit of an inode that this store was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CleanRow {
    /// Its revision.
    pub revision: Revision,
    /// Its op.
    pub op: OpId,
}

/// Where an object belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    /// The placement group.
    pub pg: PgId,
    /// The inode it was written for.
    pub ino: Ino,
    /// The chunk it was cut from.
    pub chunk: ChunkNo,
    /// Its identity.
    pub sum: ObjectSum,
}

/// An object to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRow {
    /// Where it belongs and what it is.
    pub object: ObjectRow,
    /// The note that asked for it; 0 for an object that was found damaged.
    pub since: LogIndex,
}

/// What was copied of a file to fill its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FillRow {
    /// At this epoch; another one begins anew.
    pub epoch: Epoch,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The file has bytes in other groups too.
    pub is_wide: bool,
}

/// Keys of the tables, and back.
pub mod keys {
    use super::{ClientId, Ino, ObjectId, OpId, PgId, TABLES};

    fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = Vec::with_capacity(2 + parts.iter().map(|p| p.len()).sum::<usize>());
        key.extend([TABLES, table]);
        parts.iter().for_each(|p| key.extend_from_slice(p));
        key
    }
    /// The cursor.
    #[must_use]
    pub fn cursor() -> Vec<u8> {
        key(b'c', &[])
    }
    /// The scrub.
    #[must_use]
    pub fn scrub() -> Vec<u8> {
        key(b'v', &[])
    }
    /// Groups of which notes were missed.
    #[must_use]
    pub fn gaps() -> Vec<u8> {
        key(b'g', &[])
    }
    /// All rows of a table.
    #[must_use]
    pub fn table(table: u8) -> Vec<u8> {
        key(table, &[])
    }
    /// The adopted epoch of a group.
    #[must_use]
    pub fn epoch(pg: PgId) -> Vec<u8> {
        key(b'e', &[&pg.0.to_be_bytes()])
    }
    /// All stamps (`s`), marks (`m`) or fill rows (`f`) of a group.
    #[must_use]
    pub fn of_pg(table: u8, pg: PgId) -> Vec<u8> {
        key(table, &[&pg.0.to_be_bytes()])
    }
    /// An inode's stamp.
    #[must_use]
    pub fn stamp(pg: PgId, ino: Ino) -> Vec<u8> {
        key(b's', &[&pg.0.to_be_bytes(), &ino.0.to_be_bytes()])
    }
    /// What was copied of a file to fill its group.
    #[must_use]
    pub fn fill(pg: PgId, ino: Ino) -> Vec<u8> {
        key(b'f', &[&pg.0.to_be_bytes(), &ino.0.to_be_bytes()])
    }
    /// Group and inode of an `f` key.
    #[must_use]
    pub fn parse_fill(key: &[u8]) -> Option<(PgId, Ino)> {
        let ino = u64::from_be_bytes(key.get(4..12)?.try_into().ok()?);
        Some((parse_pg(key)?, Ino(ino)))
    }
    /// A mark.
    #[must_use]
    pub fn mark(pg: PgId, ino: Ino, op: OpId) -> Vec<u8> {
        let (client, seq) = (op.client.0.to_be_bytes(), op.seq.to_be_bytes());
        key(
            b'm',
            &[&pg.0.to_be_bytes(), &ino.0.to_be_bytes(), &client, &seq],
        )
    }
    /// All objects of an op.
    #[must_use]
    pub fn objects_of(op: OpId) -> Vec<u8> {
        key(b'o', &[&op.client.0.to_be_bytes(), &op.seq.to_be_bytes()])
    }
    /// An object held (`o`) or missing (`x`).
    #[must_use]
    pub fn object(table: u8, id: ObjectId) -> Vec<u8> {
        let (client, seq) = (id.op.client.0.to_be_bytes(), id.op.seq.to_be_bytes());
        key(table, &[&client, &seq, &id.index.to_be_bytes()])
    }
    /// One remembered abort.
    #[must_use]
    pub fn aborted(counter: u64) -> Vec<u8> {
        key(b'a', &[&counter.to_be_bytes()])
    }

    fn op_at(key: &[u8]) -> Option<OpId> {
        let client = ClientId(u128::from_be_bytes(key.get(..16)?.try_into().ok()?));
        let seq = u64::from_be_bytes(key.get(16..24)?.try_into().ok()?);
        Some(OpId { client, seq })
    }
    /// The object of an `o` or `x` key.
    #[must_use]
    pub fn parse_object(key: &[u8]) -> Option<ObjectId> {
        let key = key.get(2..)?;
        let index = u32::from_be_bytes(key.get(24..28)?.try_into().ok()?);
        Some(ObjectId {
            op: op_at(key)?,
            index,
        })
    }
    /// Group, inode and op of an `m` key.
    #[must_use]
    pub fn parse_mark(key: &[u8]) -> Option<(PgId, Ino, OpId)> {
        let pg = PgId(u16::from_be_bytes(key.get(2..4)?.try_into().ok()?));
        let ino = Ino(u64::from_be_bytes(key.get(4..12)?.try_into().ok()?));
        Some((pg, ino, op_at(key.get(12..)?)?))
    }
    /// The inode of an `s` key.
    #[must_use]
    pub fn parse_stamp(key: &[u8]) -> Option<Ino> {
        Some(Ino(u64::from_be_bytes(key.get(4..12)?.try_into().ok()?)))
    }
    /// The group of an `e` key.
    #[must_use]
    pub fn parse_pg(key: &[u8]) -> Option<PgId> {
        Some(PgId(u16::from_be_bytes(key.get(2..4)?.try_into().ok()?)))
    }
    /// The counter of an `a` key.
    #[must_use]
    pub fn parse_counter(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.get(2..10)?.try_into().ok()?))
    }
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The table cannot be read.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The row is none of ours.
    #[error("row of key {key} cannot be decoded")]
    Decode {
        /// The key, in hexadecimal.
        key: String,
    },
}

/// A batch that is being put together; there is one at a time.
#[derive(Debug)]
pub struct Tx {
    /// Names the batch.
    pub token: u64,
    objects: Vec<ObjectWrite>,
    rests: Vec<Rest>,
    expires: Vec<(u64, ObjectId)>,
    deletes: Vec<ObjectId>,
    restores: Vec<ObjectId>,
}

impl Tx {
    /// Bytes of the objects in it.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.bytes.len() as u64).sum()
    }

    /// Writes an object that has no row: no master knows it.
    pub fn put_unlisted(&mut self, object: ObjectWrite) {
        self.deletes.push(object.header.id);
        self.objects.push(object);
    }

    /// Removes such an object.
    pub fn delete_unlisted(&mut self, id: ObjectId) {
        self.deletes.push(id);
    }

    /// The object, which rests since then, goes.
    pub fn expire(&mut self, since_ms: u64, id: ObjectId) {
        self.expires.push((since_ms, id));
    }

    /// How many go so.
    #[must_use]
    pub fn expires(&self) -> usize {
        self.expires.len()
    }

    /// Brings back what was there before an object that found no room.
    pub fn restore(&mut self, id: ObjectId) {
        self.restores.push(id);
    }

    /// Objects that are written.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.objects.iter().map(|o| o.header.id)
    }
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub struct Tables {
    /// Rows of the batch that is being put together.
    changes: MemTable,
    token_last: u64,
}

impl Tables {
    /// Begins a batch.
    ///
    /// # Panics
    /// When the one before was not finished.
    pub fn begin(&mut self) -> Tx {
        assert!(self.changes.is_empty(), "one batch at a time");
        self.token_last += 1;
        Tx {
            token: self.token_last,
            objects: Vec::new(),
            rests: Vec::new(),
            expires: Vec::new(),
            deletes: Vec::new(),
            restores: Vec::new(),
        }
    }

    /// The batch, to be applied now.
    pub fn finish(&mut self, tx: Tx) -> Batch {
        let op = |(key, row)| match row {
            Some(row) => KvOp::Put(key, row),
            None => KvOp::Delete(key),
        };
        let ops = std::mem::take(&mut self.changes)
            .into_iter()
            .map(op)
            .collect();
        Batch {
            rests: tx.rests,
            expires: tx.expires,
            deletes: tx.deletes,
            restores: tx.restores,
            objects: tx.objects,
            ops,
        }
    }

    /// Sets a row.
    pub fn put(&mut self, _: &mut Tx, key: Vec<u8>, row: &impl Serialize) {
        self.changes.insert(key, Some(encode(row)));
    }

    /// Removes a row.
    pub fn delete(&mut self, _: &mut Tx, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Writes an object and its row; what the store has under that name is replaced.
    pub fn put_object(&mut self, tx: &mut Tx, object: ObjectWrite, row: &ObjectRow) {
        let id = object.header.id;
        self.put(tx, keys::object(b'o', id), row);
        tx.deletes.push(id);
        tx.objects.push(object);
    }

    /// Removes an object and its row.
    pub fn delete_object(&mut self, tx: &mut Tx, id: ObjectId) {
        self.delete(tx, keys::object(b'o', id));
        tx.deletes.push(id);
    }

    /// Removes an object's row; the object rests.
    pub fn rest_object(&mut self, tx: &mut Tx, rest: Rest) {
        self.delete(tx, keys::object(b'o', rest.id));
        tx.rests.push(rest);
    }

    /// A row.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn get<T: DeserializeOwned>(
        &self,
        store: &ObjectStore,
        key: &[u8],
    ) -> Result<Option<T>, TableError> {
        match merged_get(&[&self.changes], store, key)? {
            Some(value) => decode(key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// Pairs of a prefix with keys greater than `after` (if given), ascending, at most `limit`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn scan(
        &self,
        store: &ObjectStore,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KvPair>, TableError> {
        let mut from = after.unwrap_or(prefix).to_vec();
        if after.is_some() {
            from.push(0);
        }
        let to = prefix_end(prefix);
        Ok(merged_scan(
            &[&self.changes],
            store,
            (&from, &to),
            limit,
            Direction::Forward,
        )?)
    }

    /// The row of an object held.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn object(
        &self,
        store: &ObjectStore,
        id: ObjectId,
    ) -> Result<Option<ObjectRow>, TableError> {
        self.get(store, &keys::object(b'o', id))
    }
}

/// A row as it is stored.
///
/// # Panics
/// Never for rows of tables: they are plain data.
#[must_use]
pub fn encode(row: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(row).expect("rows are plain data")
}

/// Decodes a row.
///
/// # Errors
/// [`TableError::Decode`].
pub fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, TableError> {
    postcard::from_bytes(value).map_err(|_| bad_key(key))
}

/// The error for a key or row that is none of ours.
#[must_use]
pub fn bad_key(key: &[u8]) -> TableError {
    TableError::Decode {
        key: key.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_round_trip() {
        let op = OpId {
            client: ClientId(u128::MAX - 5),
            seq: 77,
        };
        let id = ObjectId { op, index: 3 };
        assert_eq!(keys::parse_object(&keys::object(b'o', id)), Some(id));
        assert!(keys::object(b'o', id).starts_with(&keys::objects_of(op)));
        let mark = keys::mark(PgId(300), Ino(9), op);
        assert_eq!(keys::parse_mark(&mark), Some((PgId(300), Ino(9), op)));
        assert_eq!(keys::parse_mark(b"rm"), None);
    }
}

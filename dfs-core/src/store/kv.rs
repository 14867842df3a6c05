//! Ordered key-value tables: what the state machines keep their state in.
//!
//! Keys are bytes compared lexicographically; the first byte is the table. Values carry a checksum
//! below this interface, so a damaged one is an error and never a wrong answer.
use super::DiskError;

/// A failed table operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A stored value does not match its checksum.
    #[error("table value of key {key} is damaged (checksum mismatch)")]
    Damaged {
        /// The key, in hexadecimal.
        key: String,
    },
    /// The disk below failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The table engine failed.
    #[error("table engine: {cause}")]
    Engine {
        /// Its words.
        cause: String,
    },
}

impl KvError {
    /// True if what was durable is damaged; false for what may pass or a person can put right.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Disk(disk) => disk.is_damage(),
            Self::Engine { cause } => cause.starts_with(super::redb_kv::CORRUPTED),
        }
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum KvOp {
    /// Sets `key` to `value`.
    Put(Vec<u8>, Vec<u8>),
    /// Removes `key`; no error if absent.
    Delete(Vec<u8>),
}

/// A `(key, value)` pair.
pub type KvPair = (Vec<u8>, Vec<u8>);

/// Reading.
pub trait KvRead {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`KvError`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Pairs with `from <= key < to` in ascending order, at most `limit`.
    ///
    /// # Errors
    /// [`KvError`].
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError>;
    /// The last `limit` pairs with `from <= key < to`, in descending order.
    ///
    /// # Errors
    /// [`KvError`].
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError>;
}

/// Writing. Changes are visible to reads at once; durability is the implementation's matter.
pub trait Kv: KvRead {
    /// Sets `key` to `value`.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);
    /// Removes `key`.
    fn delete(&mut self, key: &[u8]);
}

/// The smallest key greater than every key with this prefix (`to` of a prefix scan).
/// Empty prefix or all-0xff: `[0xff; 64]`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0xff; 64]
}

/// Readable pairs, and the key of an unreadable one behind them.
pub type Readable = (Vec<KvPair>, Option<Vec<u8>>);

/// Pairs with `from <= key < to`, at most `limit`, and the key of a damaged one behind them if that
/// ended the scan.
///
/// # Errors
/// The tables cannot be read for another reason than a damaged value.
pub fn scan_readable(
    kv: &dyn KvRead,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Readable, KvError> {
    match kv.scan(from, to, limit) {
        Ok(pairs) => Ok((pairs, None)),
        Err(KvError::Damaged { key }) => {
            let bad = parse_hex(&key).filter(|bad| bad.as_slice() >= from);
            let bad = bad.ok_or(KvError::Damaged { key })?;
            let before = kv.scan(from, &bad, limit)?;
            let is_next = before.len() < limit;
            Ok((before, is_next.then_some(bad)))
        }
        Err(e) => Err(e),
    }
}

pub(super) fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    pairs.map(byte).collect()
}

/// A plain map: the oracle in tests, and the base of the simulator's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemKv(pub std::collections::BTreeMap<Vec<u8>, Vec<u8>>);

impl KvRead for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(key).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.0.range(from.to_vec()..to.to_vec());
        Ok(range
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.0.range(from.to_vec()..to.to_vec()).rev();
        Ok(range
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

impl Kv for MemKv {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.insert(key, value);
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

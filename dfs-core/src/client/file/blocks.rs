//! Verified blocks of objects, kept for reading again. Objects are immutable, so a block is valid
//! for ever; which objects make up a file is the layout's business.
use crate::types::ObjectId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A block of an object.
pub(super) type BlockKey = (ObjectId, u32);

#[derive(Debug, Default)]
struct Inner {
    blocks: BTreeMap<BlockKey, (Bytes, u64)>,
    /// Least recently used first.
    by_use: BTreeMap<u64, BlockKey>,
    clock: u64,
    bytes: u64,
}

/// Least-recently-used cache of blocks, bounded in bytes.
#[derive(Debug)]
pub(super) struct BlockCache {
    inner: Mutex<Inner>,
    bytes_max: u64,
}

impl BlockCache {
    pub fn new(bytes_max: u64) -> Self {
        Self {
            inner: Mutex::default(),
            bytes_max,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &BlockKey) -> Option<Bytes> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let (bytes, used) = inner.blocks.get_mut(key)?;
        inner.clock += 1;
        inner.by_use.remove(used);
        inner.by_use.insert(inner.clock, *key);
        *used = inner.clock;
        Some(bytes.clone())
    }

    pub fn contains(&self, key: &BlockKey) -> bool {
        self.inner().blocks.contains_key(key)
    }

    pub fn insert(&self, key: BlockKey, bytes: Bytes) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        if bytes.len() as u64 > self.bytes_max || inner.blocks.contains_key(&key) {
            return;
        }
        inner.clock += 1;
        inner.bytes += bytes.len() as u64;
        inner.by_use.insert(inner.clock, key);
        inner.blocks.insert(key, (bytes, inner.clock));
        while inner.bytes > self.bytes_max {
            let Some((_, old)) = inner.by_use.pop_first() else {
                break;
            };
            if let Some((bytes, _)) = inner.blocks.remove(&old) {
                inner.bytes -= bytes.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_used_last_within_its_bound() {
        let cache = BlockCache::new(30);
        let key = |i| (ObjectId::default(), i);
        for i in 0..3 {
            cache.insert(key(i), Bytes::from(vec![i as u8; 10]));
        }
        assert!(cache.get(&key(0)).is_some());
        cache.insert(key(3), Bytes::from(vec![3; 10]));
        assert!(cache.contains(&key(0)) && !cache.contains(&key(1)));
        cache.insert(key(9), Bytes::from(vec![9; 31]));
        assert!(!cache.contains(&key(9)) && cache.contains(&key(3)));
    }
}

//! Reading through layers of changes: the newest layer that knows a key decides.
//!
//! A [`MemTable`] says per key "this value" or "removed"; [`merged_get`] and [`merged_scan`] read
//! a stack of them over a [`KvRead`]. [`OverlayKv`] is one such layer that remembers what was
//! changed, for callers that compute a batch before they apply it.
//!
//! Invariant: a merged read equals the read of one table to which all layers had been applied,
//! oldest first.
use super::{Kv, KvError, KvOp, KvPair, KvRead};
use std::collections::{BTreeMap, VecDeque, btree_map};
use std::iter::Peekable;

/// Changes by key: a value, or `None` for a removal.
pub type MemTable = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Which end of a range a scan begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending from the lower bound.
    Forward,
    /// Descending from the upper bound.
    Back,
}

/// Pairs read from the base at a time, at least and at most: removals in the layers hide some.
const PAGE_PAIRS: std::ops::RangeInclusive<usize> = 8..=256;

/// The value of `key`; `layers` are newest first.
///
/// # Errors
/// Those of `base`.
pub fn merged_get(
    layers: &[&MemTable],
    base: &dyn KvRead,
    key: &[u8],
) -> Result<Option<Vec<u8>>, KvError> {
    match layers.iter().find_map(|layer| layer.get(key)) {
        Some(decided) => Ok(decided.clone()),
        None => base.get(key),
    }
}

/// Pairs with `from <= key < to` in the given direction, at most `limit`; `layers` newest first.
///
/// # Errors
/// Those of `base`.
pub fn merged_scan(
    layers: &[&MemTable],
    base: &dyn KvRead,
    (from, to): (&[u8], &[u8]),
    limit: usize,
    direction: Direction,
) -> Result<Vec<KvPair>, KvError> {
    if from >= to || limit == 0 {
        return Ok(Vec::new());
    }
    let mut cursors: Vec<_> = layers
        .iter()
        .map(|layer| LayerCursor::new(layer, from, to, direction))
        .collect();
    let mut pager = Pager::new(base, from, to, direction);
    let mut found = Vec::new();
    while found.len() < limit {
        let wanted = limit - found.len();
        let mut next: Option<&[u8]> = pager.peek(wanted)?;
        for cursor in &mut cursors {
            let Some(key) = cursor.peek() else { continue };
            let is_nearer = next.is_none_or(|best| match direction {
                Direction::Forward => key < best,
                Direction::Back => key > best,
            });
            if is_nearer {
                next = Some(key);
            }
        }
        let Some(key) = next.map(<[u8]>::to_vec) else {
            break;
        };
        // Every source that stands at the key moves on; the newest one decides.
        let below = pager.take(&key);
        let decided: Vec<_> = cursors.iter_mut().map(|c| c.take(&key)).collect();
        let value = match decided.into_iter().flatten().next() {
            Some(changed) => changed.clone(),
            None => below,
        };
        if let Some(value) = value {
            found.push((key, value));
        }
    }
    Ok(found)
}

type LayerRange<'a> = btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>;

/// A place in one layer's range.
enum LayerCursor<'a> {
    Forward(Peekable<LayerRange<'a>>),
    Back(Peekable<std::iter::Rev<LayerRange<'a>>>),
}

impl<'a> LayerCursor<'a> {
    fn new(layer: &'a MemTable, from: &[u8], to: &[u8], direction: Direction) -> Self {
        let range = layer.range(from.to_vec()..to.to_vec());
        match direction {
            Direction::Forward => Self::Forward(range.peekable()),
            Direction::Back => Self::Back(range.rev().peekable()),
        }
    }

    fn peek(&mut self) -> Option<&'a [u8]> {
        let head = match self {
            Self::Forward(range) => range.peek(),
            Self::Back(range) => range.peek(),
        };
        head.map(|(key, _)| key.as_slice())
    }

    /// Moves past `key` if it stands there, and says what this layer decides for it.
    fn take(&mut self, key: &[u8]) -> Option<&'a Option<Vec<u8>>> {
        if self.peek() != Some(key) {
            return None;
        }
        let head = match self {
            Self::Forward(range) => range.next(),
            Self::Back(range) => range.next(),
        };
        head.map(|(_, value)| value)
    }
}

/// The base's range, read page by page.
struct Pager<'a> {
    base: &'a dyn KvRead,
    from: Vec<u8>,
    to: Vec<u8>,
    direction: Direction,
    page: VecDeque<KvPair>,
    is_done: bool,
}

impl<'a> Pager<'a> {
    fn new(base: &'a dyn KvRead, from: &[u8], to: &[u8], direction: Direction) -> Self {
        Self {
            base,
            from: from.to_vec(),
            to: to.to_vec(),
            direction,
            page: VecDeque::new(),
            is_done: false,
        }
    }

    fn peek(&mut self, wanted: usize) -> Result<Option<&[u8]>, KvError> {
        if self.page.is_empty() && !self.is_done {
            let limit = wanted.clamp(*PAGE_PAIRS.start(), *PAGE_PAIRS.end());
            let page = match self.direction {
                Direction::Forward => self.base.scan(&self.from, &self.to, limit)?,
                Direction::Back => self.base.scan_back(&self.from, &self.to, limit)?,
            };
            self.is_done = page.len() < limit;
            if let Some((last, _)) = page.last() {
                match self.direction {
                    Direction::Forward => {
                        self.from.clone_from(last);
                        self.from.push(0);
                    }
                    Direction::Back => self.to.clone_from(last),
                }
            }
            self.page = page.into();
        }
        Ok(self.page.front().map(|(key, _)| key.as_slice()))
    }

    fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        if self.page.front().is_none_or(|(head, _)| head != key) {
            return None;
        }
        self.page.pop_front().map(|(_, value)| value)
    }
}

/// Changes on top of a table that stays as it is: compute with it, then take the changes.
pub struct OverlayKv<'a> {
    base: &'a dyn KvRead,
    changes: MemTable,
}

impl<'a> OverlayKv<'a> {
    /// No changes yet.
    #[must_use]
    pub fn new(base: &'a dyn KvRead) -> Self {
        Self {
            base,
            changes: MemTable::new(),
        }
    }

    /// True if nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, one per key, in key order.
    #[must_use]
    pub fn into_ops(self) -> Vec<KvOp> {
        let op = |(key, value)| match value {
            Some(value) => KvOp::Put(key, value),
            None => KvOp::Delete(key),
        };
        self.changes.into_iter().map(op).collect()
    }
}

impl KvRead for OverlayKv<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        merged_get(&[&self.changes], self.base, key)
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        let layers = [&self.changes];
        merged_scan(&layers, self.base, (from, to), limit, Direction::Forward)
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        let layers = [&self.changes];
        merged_scan(&layers, self.base, (from, to), limit, Direction::Back)
    }
}

impl Kv for OverlayKv<'_> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }
    fn delete(&mut self, key: &[u8]) {
        self.changes.insert(key.to_vec(), None);
    }
}

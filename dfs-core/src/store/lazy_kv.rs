//! Tables whose changes are visible at once and reach the disk later, together.
//!
//! ```text
//!  put, delete -> active ─seal─> layers (immutable, shared) ─flush─> base (durable)
//!  get, scan   <- active, then layers newest first, then the base's view
//! ```
//!
//! For state that a log in front of it can replay: a Raft log, a store's journal. Steps of a flush:
//! 1. [`freeze`](LazyKv::freeze) seals the active part and hands out a [`FlushJob`]; cheap;
//! 2. [`FlushJob::run`], on any thread, writes it in ONE durable transaction. What says how far the
//!    log is covered is an ordinary key among the changes, so it cannot disagree with them;
//! 3. [`finish`](LazyKv::finish) drops the written layers and reads from the new base state.
//!
//! Invariants:
//! 1. one flush at a time; a layer is dropped only after it is in the base;
//! 2. reads give the same answer before, during and after a flush;
//! 3. a [`snapshot`](LazyKv::snapshot) never changes: layers are immutable and the view is pinned.
use super::base::{Base, BaseView};
use super::overlay::{Direction, MemTable, merged_get, merged_scan};
use super::{Kv, KvError, KvOp, KvPair, KvRead};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes an entry is counted with beyond its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// An immutable part of what is not flushed.
#[derive(Debug, Clone)]
struct Layer {
    changes: Arc<MemTable>,
    size_bytes: usize,
}

/// Tables with lazy durability. See the [module docs](self).
pub struct LazyKv {
    base: Arc<dyn Base>,
    view: Arc<dyn BaseView>,
    active: MemTable,
    active_bytes: usize,
    /// Oldest first.
    layers: Vec<Layer>,
    /// How many of the layers a running flush covers.
    flushing: usize,
}

/// Layers on their way into the base.
pub struct FlushJob {
    base: Arc<dyn Base>,
    layers: Vec<Layer>,
}

/// Proof that a [`FlushJob`] is durable.
pub struct FlushDone {
    view: Arc<dyn BaseView>,
    layers: usize,
}

impl LazyKv {
    /// Tables over what `base` holds.
    ///
    /// # Errors
    /// [`KvError`] of the base.
    pub fn open(base: Arc<dyn Base>) -> Result<Self, KvError> {
        let view = base.view()?;
        Ok(Self {
            base,
            view,
            active: MemTable::new(),
            active_bytes: 0,
            layers: Vec::new(),
            flushing: 0,
        })
    }

    /// Applies the changes in order.
    pub fn apply(&mut self, ops: impl IntoIterator<Item = KvOp>) {
        for op in ops {
            match op {
                KvOp::Put(key, value) => self.change(key, Some(value)),
                KvOp::Delete(key) => self.remove(&key),
            }
        }
    }

    /// Removes a key. What nothing below the active part has leaves no trace: rows that live for a moment
    /// would otherwise be walked over by every scan until the next flush.
    fn remove(&mut self, key: &[u8]) {
        let sealed: Vec<_> = self.sealed().collect();
        let below = merged_get(&sealed, self.view.as_ref(), key);
        // An error will be met again by whoever reads.
        if !matches!(below, Ok(None)) {
            return self.change(key.to_vec(), None);
        }
        if let Some(old) = self.active.remove(key) {
            let len = key.len() + ENTRY_OVERHEAD_BYTES + old.map_or(0, |old| old.len());
            self.active_bytes -= len;
        }
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let value_len = value.as_ref().map_or(0, Vec::len);
        let key_len = key.len();
        self.active_bytes += value_len;
        match self.active.insert(key, value) {
            Some(old) => self.active_bytes -= old.map_or(0, |old| old.len()),
            None => self.active_bytes += key_len + ENTRY_OVERHEAD_BYTES,
        }
    }

    /// Ends the active layer; returns how many layers there are. Their count only falls at a
    /// [`finish`](Self::finish).
    pub fn seal(&mut self) -> usize {
        if !self.active.is_empty() {
            self.layers.push(Layer {
                changes: Arc::new(std::mem::take(&mut self.active)),
                size_bytes: std::mem::take(&mut self.active_bytes),
            });
        }
        self.layers.len()
    }

    /// Everything unflushed as a job; `None` if there is nothing, or a flush is under way.
    pub fn freeze(&mut self) -> Option<FlushJob> {
        let layers = self.seal();
        self.freeze_oldest(layers)
    }

    /// The oldest `layers` layers as a job; `None` if there are none, or a flush is under way.
    pub fn freeze_oldest(&mut self, layers: usize) -> Option<FlushJob> {
        let layers = layers.min(self.layers.len());
        if layers == 0 || self.flushing > 0 {
            return None;
        }
        self.flushing = layers;
        Some(FlushJob {
            base: Arc::clone(&self.base),
            layers: self.layers[..layers].to_vec(),
        })
    }

    /// Takes note of a durable flush.
    ///
    /// # Panics
    /// When `done` is not of the flush under way.
    pub fn finish(&mut self, done: FlushDone) {
        assert_eq!(done.layers, self.flushing, "one flush at a time");
        self.layers.drain(..done.layers);
        self.flushing = 0;
        self.view = done.view;
    }

    /// Gives up the flush under way after [`FlushJob::run`] failed; its changes stay unflushed.
    pub fn abandon_flush(&mut self) {
        self.flushing = 0;
    }

    /// True from [`freeze`](Self::freeze) to [`finish`](Self::finish).
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.flushing > 0
    }

    /// The tables as they are now, whatever happens later.
    #[must_use]
    pub fn snapshot(&mut self) -> Box<dyn KvRead + Send + Sync> {
        self.seal();
        Box::new(Snapshot {
            layers: self.layers.clone(),
            view: Arc::clone(&self.view),
        })
    }

    /// Bytes of memory that unflushed changes take, about.
    #[must_use]
    pub fn unflushed_bytes(&self) -> usize {
        let sealed: usize = self.layers.iter().map(|l| l.size_bytes).sum();
        sealed + self.active_bytes
    }

    /// Number of unflushed changes (a key counts once per layer).
    #[must_use]
    pub fn unflushed_len(&self) -> usize {
        let sealed: usize = self.layers.iter().map(|l| l.changes.len()).sum();
        sealed + self.active.len()
    }

    fn stack(&self) -> Vec<&MemTable> {
        std::iter::once(&self.active).chain(self.sealed()).collect()
    }

    /// Newest first.
    fn sealed(&self) -> impl Iterator<Item = &MemTable> {
        self.layers.iter().rev().map(|l| l.changes.as_ref())
    }
}

impl KvRead for LazyKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        merged_get(&self.stack(), self.view.as_ref(), key)
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        let (stack, range) = (self.stack(), (from, to));
        merged_scan(&stack, self.view.as_ref(), range, limit, Direction::Forward)
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        let (stack, range) = (self.stack(), (from, to));
        merged_scan(&stack, self.view.as_ref(), range, limit, Direction::Back)
    }
}

impl Kv for LazyKv {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value));
    }
    fn delete(&mut self, key: &[u8]) {
        self.remove(key);
    }
}

impl FlushJob {
    /// Writes everything in one durable transaction. Takes a while: not for a machine's thread.
    ///
    /// # Errors
    /// [`KvError`]; then call [`LazyKv::abandon_flush`]. After a reopen all or nothing is there.
    pub fn run(self) -> Result<FlushDone, KvError> {
        let mut changes: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for layer in &self.layers {
            let layer = layer.changes.iter();
            changes.extend(layer.map(|(key, value)| (key.as_slice(), value.as_deref())));
        }
        self.base.write(&mut changes.into_iter())?;
        Ok(FlushDone {
            view: self.base.view()?,
            layers: self.layers.len(),
        })
    }
}

/// A state of the tables that never changes.
struct Snapshot {
    layers: Vec<Layer>,
    view: Arc<dyn BaseView>,
}

impl Snapshot {
    fn stack(&self) -> Vec<&MemTable> {
        let layers = self.layers.iter().rev();
        layers.map(|l| l.changes.as_ref()).collect()
    }
}

impl KvRead for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        merged_get(&self.stack(), self.view.as_ref(), key)
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        let (stack, range) = (self.stack(), (from, to));
        merged_scan(&stack, self.view.as_ref(), range, limit, Direction::Forward)
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        let (stack, range) = (self.stack(), (from, to));
        merged_scan(&stack, self.view.as_ref(), range, limit, Direction::Back)
    }
}

impl fmt::Debug for LazyKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyKv")
            .field("unflushed_len", &self.unflushed_len())
            .field("unflushed_bytes", &self.unflushed_bytes())
            .field("flushing", &self.flushing)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FlushJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlushJob({} layers)", self.layers.len())
    }
}

impl fmt::Debug for FlushDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlushDone({} layers)", self.layers)
    }
}

#[cfg(test)]
#[path = "lazy_kv_tests.rs"]
mod tests;

//! What a [`LazyKv`](super::LazyKv) lies on: tables that change in durable, atomic steps.
//!
//! [`RedbBase`](super::RedbBase) keeps them in a file; [`MemBase`] in memory, for the simulator,
//! where it stands for the part of a node that a crash leaves alone.
use super::{KvError, KvPair, KvRead, MemKv};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

/// One key's change: a value, or `None` for a removal.
pub type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// A state of the tables that later writes do not affect.
pub trait BaseView: KvRead + Send + Sync {}
impl<T: KvRead + Send + Sync> BaseView for T {}

/// Durable tables.
pub trait Base: Send + Sync + Debug {
    /// The tables as the last [`write`](Self::write) left them.
    ///
    /// # Errors
    /// [`KvError`] of the engine.
    fn view(&self) -> Result<Arc<dyn BaseView>, KvError>;
    /// Applies all changes (keys ascending, each once) or none; durable when it returns.
    ///
    /// # Errors
    /// [`KvError`]; then either all or none of it is there after a reopen.
    fn write(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<(), KvError>;
}

/// Tables in memory; clones are handles of the same ones, which outlive a simulated crash.
#[derive(Debug, Clone, Default)]
pub struct MemBase(Arc<Mutex<Arc<MemKv>>>);

impl MemBase {
    /// Empty tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Other tables that hold what these hold now.
    #[must_use]
    pub fn fork(&self) -> Self {
        let tables = self.0.lock().expect("no holder of this lock panics");
        Self(Arc::new(Mutex::new(Arc::clone(&tables))))
    }
}

impl Base for MemBase {
    fn view(&self) -> Result<Arc<dyn BaseView>, KvError> {
        let tables = self.0.lock().expect("no holder of this lock panics");
        Ok(Arc::new(MemView(Arc::clone(&tables))))
    }

    fn write(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<(), KvError> {
        let mut tables = self.0.lock().expect("no holder of this lock panics");
        let tables = Arc::make_mut(&mut tables);
        for (key, value) in changes {
            match value {
                Some(value) => tables.0.insert(key.to_vec(), value.to_vec()),
                None => tables.0.remove(key),
            };
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MemView(Arc<MemKv>);

impl KvRead for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.0.scan(from, to, limit)
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.0.scan_back(from, to, limit)
    }
}

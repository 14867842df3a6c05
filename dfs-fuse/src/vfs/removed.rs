//! What was removed through this mount while the kernel still knows it.
//!
//! The master keeps a removed file for as long as a session has it open, but the kernel tells nobody of a
//! shell that stands in a directory, or of a fifo, a device or an O_PATH descriptor. Their attributes are
//! answered from here until the kernel forgets the node.
use dfs_core::types::{Attr, Ino};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nodes remembered at most; beyond that the oldest number goes.
const REMOVED_MAX: usize = 10_000;

/// See the [module docs](self).
#[derive(Default)]
pub(crate) struct Removed(Mutex<BTreeMap<Ino, Attr>>);

impl Removed {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ino, Attr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last name of a node with these attributes may have gone.
    pub fn remember(&self, attr: Attr) {
        let mut removed = self.lock();
        if removed.len() >= REMOVED_MAX {
            removed.pop_first();
        }
        removed.insert(attr.ino, Attr { nlink: 0, ..attr });
    }

    /// The attributes of a node that is nowhere else any more.
    pub fn get(&self, ino: Ino) -> Option<Attr> {
        self.lock().get(&ino).cloned()
    }

    /// The kernel forgets the node.
    pub fn forget(&self, ino: Ino) {
        self.lock().remove(&ino);
    }
}

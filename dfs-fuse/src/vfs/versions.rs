//! `.versions`: a directory's history as a read-only tree.
//!
//! ```text
//! DIR/.versions/            resolved by lookup in every directory, absent from readdir of DIR
//! DIR/.versions/NAME/       names that have history, deleted ones too
//! DIR/.versions/NAME/7      one version, newest = current content
//! ```
//! Node numbers have the top bit set: `.versions` of directory D is `TOP | D`; what lies below gets a
//! number from a table, freed when the kernel forgets it, so that one directory never has two node
//! numbers and two never share one.
use dfs_core::types::{Ino, Name, VersionInfo, VersionNo};
use std::collections::HashMap;
use std::sync::Mutex;

/// Set in the number of every synthetic node.
pub const TOP: u64 = 1 << 63;
/// Set as well for nodes with a number from the table.
const TABLE: u64 = 1 << 62;

/// The hidden directory's name.
pub const VERSIONS: &[u8] = b".versions";

/// A synthetic node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionNode {
    /// `DIR/.versions`.
    Root(Ino),
    /// `DIR/.versions/NAME`.
    Name(Ino, Name),
    /// `DIR/.versions/NAME/7`.
    File(Ino, Name, Box<VersionInfo>),
}

type Key = (Ino, Name, VersionNo);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    by_id: HashMap<u64, (VersionNode, Key, u64)>,
    by_key: HashMap<Key, u64>,
}

/// Node numbers of synthetic nodes.
#[derive(Debug, Default)]
pub struct VersionNodes(Mutex<Table>);

/// True for the number of a synthetic node.
#[must_use]
pub fn is_synthetic(node: u64) -> bool {
    node & TOP != 0
}

impl VersionNodes {
    /// Number of a directory's `.versions`.
    #[must_use]
    pub fn root(dir: Ino) -> u64 {
        TOP | dir.0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What a synthetic number stands for; `None` if it was forgotten.
    #[must_use]
    pub fn get(&self, node: u64) -> Option<VersionNode> {
        if node & TABLE == 0 {
            return Some(VersionNode::Root(Ino(node & !TOP)));
        }
        self.lock().by_id.get(&node).map(|(n, _, _)| n.clone())
    }

    /// The number of a node below `.versions`, counting one more lookup of it.
    pub fn intern(&self, node: VersionNode) -> u64 {
        let key = match &node {
            VersionNode::Root(dir) => return Self::root(*dir),
            VersionNode::Name(dir, name) => (*dir, name.clone(), VersionNo(0)),
            VersionNode::File(dir, name, info) => (*dir, name.clone(), info.version),
        };
        let mut table = self.lock();
        if let Some(&id) = table.by_key.get(&key) {
            if let Some(entry) = table.by_id.get_mut(&id) {
                entry.0 = node;
                entry.2 += 1;
            }
            return id;
        }
        table.next += 1;
        let id = TOP | TABLE | table.next;
        table.by_key.insert(key.clone(), id);
        table.by_id.insert(id, (node, key, 1));
        id
    }

    /// The kernel dropped `count` lookups of a node.
    pub fn forget(&self, node: u64, count: u64) {
        let mut table = self.lock();
        let Some(entry) = table.by_id.get_mut(&node) else {
            return;
        };
        entry.2 = entry.2.saturating_sub(count);
        if entry.2 == 0
            && let Some((_, key, _)) = table.by_id.remove(&node)
        {
            table.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_number_until_it_is_forgotten() {
        let nodes = VersionNodes::default();
        let node = || VersionNode::Name(Ino(5), Name::new("a").unwrap());
        let id = nodes.intern(node());
        assert!(is_synthetic(id));
        assert_eq!(nodes.intern(node()), id);
        assert_eq!(nodes.get(id), Some(node()));
        nodes.forget(id, 1);
        assert_eq!(nodes.get(id), Some(node()));
        nodes.forget(id, 1);
        assert_eq!(nodes.get(id), None);
        assert_eq!(
            nodes.get(VersionNodes::root(Ino(9))),
            Some(VersionNode::Root(Ino(9)))
        );
    }
}

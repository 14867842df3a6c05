//! The reference: a tree of maps and files of cells, with nothing kept twice.
use super::world::ROOT;
use crate::types::{FileKind, Ino, OpId};
use crate::wire::ErrorCode;
use crate::wire::mutation::RenameMode;
use std::collections::BTreeMap;

/// Bytes of one cell: every offset and length of the random runs is a multiple.
pub(super) const CELL: u64 = 512 * 1024;

/// One cell of a file: the op that wrote it and which cell of its bytes; `None` in a hole.
pub(super) type Cell = Option<(OpId, u64)>;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub kind: FileKind,
    pub cells: Vec<Cell>,
    pub names: BTreeMap<String, Ino>,
    /// Of a directory.
    pub parent: Ino,
    /// Of a removed directory.
    pub removed: Option<String>,
}

impl Node {
    pub fn new(kind: FileKind, parent: Ino) -> Self {
        Self {
            kind,
            cells: Vec::new(),
            names: BTreeMap::new(),
            parent,
            removed: None,
        }
    }

    pub fn write(&mut self, op: OpId, offset: u64, cells: u64) {
        let end = (offset + cells) as usize;
        if self.cells.len() < end {
            self.cells.resize(end, None);
        }
        for i in 0..cells {
            self.cells[(offset + i) as usize] = Some((op, i));
        }
    }
}

pub(super) struct Model {
    /// Every inode there ever was.
    pub nodes: BTreeMap<Ino, Node>,
}

impl Model {
    pub fn new() -> Self {
        let root = Node::new(FileKind::Dir, ROOT);
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
        }
    }

    pub fn get(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.nodes[&dir].names.get(name).copied()
    }

    pub fn kind(&self, ino: Ino) -> FileKind {
        self.nodes[&ino].kind
    }

    pub fn is_live_dir(&self, dir: Ino) -> bool {
        self.nodes[&dir].removed.is_none()
    }

    pub fn links(&self, ino: Ino) -> usize {
        let dirs = self.nodes.values();
        dirs.flat_map(|n| n.names.values())
            .filter(|i| **i == ino)
            .count()
    }

    fn dir_mut(&mut self, dir: Ino) -> &mut Node {
        self.nodes.get_mut(&dir).unwrap()
    }

    pub fn add(&mut self, dir: Ino, name: &str, ino: Ino) {
        self.dir_mut(dir).names.insert(name.to_string(), ino);
        let node = self.dir_mut(ino);
        if node.kind == FileKind::Dir {
            node.parent = dir;
        }
    }

    pub fn may_create(&self, dir: Ino, name: &str) -> Result<(), ErrorCode> {
        if !self.is_live_dir(dir) {
            return Err(ErrorCode::NotFound);
        }
        self.get(dir, name)
            .map_or(Ok(()), |_| Err(ErrorCode::Exists))
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, name: &str) -> Result<(), ErrorCode> {
        if self.kind(ino) == FileKind::Dir {
            return Err(ErrorCode::NotPermitted);
        }
        self.may_create(dir, name)?;
        if self.links(ino) == 0 {
            return Err(ErrorCode::NotFound);
        }
        self.add(dir, name, ino);
        Ok(())
    }

    fn entry(&self, dir: Ino, name: &str) -> Result<Ino, ErrorCode> {
        if !self.is_live_dir(dir) {
            return Err(ErrorCode::NotFound);
        }
        self.get(dir, name).ok_or(ErrorCode::NotFound)
    }

    pub fn unlink(&mut self, dir: Ino, name: &str) -> Result<(), ErrorCode> {
        let ino = self.entry(dir, name)?;
        if self.kind(ino) == FileKind::Dir {
            return Err(ErrorCode::IsDir);
        }
        self.dir_mut(dir).names.remove(name);
        Ok(())
    }

    pub fn rmdir(&mut self, dir: Ino, name: &str) -> Result<(), ErrorCode> {
        let ino = self.entry(dir, name)?;
        if self.kind(ino) != FileKind::Dir {
            return Err(ErrorCode::NotDir);
        }
        if !self.nodes[&ino].names.is_empty() {
            return Err(ErrorCode::NotEmpty);
        }
        self.dir_mut(dir).names.remove(name);
        self.dir_mut(ino).removed = Some(name.to_string());
        Ok(())
    }

    fn is_below(&self, mut at: Ino, top: Ino) -> bool {
        loop {
            if at == top {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = self.nodes[&at].parent;
        }
    }

    pub fn rename(
        &mut self,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> Result<(), ErrorCode> {
        if !self.is_live_dir(to.0) {
            return Err(ErrorCode::NotFound);
        }
        let moved = self.entry(from.0, from.1)?;
        let target = self.get(to.0, to.1);
        let is_dir = |ino: Ino| self.kind(ino) == FileKind::Dir;
        match (target, mode) {
            (None, RenameMode::Exchange) => return Err(ErrorCode::NotFound),
            (Some(_), RenameMode::NoReplace) => return Err(ErrorCode::Exists),
            _ => {}
        }
        if target == Some(moved) {
            return Ok(());
        }
        if is_dir(moved) && self.is_below(to.0, moved) {
            return Err(ErrorCode::Invalid);
        }
        match (target, mode) {
            (Some(t), RenameMode::Replace) if is_dir(moved) && !is_dir(t) => {
                return Err(ErrorCode::NotDir);
            }
            (Some(t), RenameMode::Replace) if !is_dir(moved) && is_dir(t) => {
                return Err(ErrorCode::IsDir);
            }
            _ => {}
        }
        if let Some(target) = target {
            let is_full = !self.nodes[&target].names.is_empty();
            if mode == RenameMode::Exchange {
                if is_dir(target) && self.is_below(from.0, target) {
                    return Err(ErrorCode::Invalid);
                }
                self.add(from.0, from.1, target);
                self.add(to.0, to.1, moved);
                return Ok(());
            }
            if is_dir(target) && is_full {
                return Err(ErrorCode::NotEmpty);
            }
            if is_dir(target) {
                self.dir_mut(target).removed = Some(to.1.to_string());
            }
        }
        self.dir_mut(from.0).names.remove(from.1);
        self.add(to.0, to.1, moved);
        Ok(())
    }

    /// What an undelete that succeeded with `ino` must have done.
    pub fn undelete(&mut self, dir: Ino, name: &str, ino: Ino) {
        let mut at = dir;
        while let Some(removed) = self.dir_mut(at).removed.take() {
            let above = self.nodes[&at].parent;
            assert_eq!(self.get(above, &removed), None);
            self.add(above, &removed, at);
            at = above;
        }
        self.dir_mut(ino).removed = None;
        assert_eq!(self.get(dir, name), None, "undelete over a live name");
        self.add(dir, name, ino);
    }
}

//! Compares the namespace with the model: tree, contents of every kept version, listings of PGs.
use super::model::{CELL, Cell};
use super::random::Run;
use super::world::PGS;
use crate::master::state::namespace::{self, keys, read};
use crate::store::{KvRead, prefix_end};
use crate::types::{ChunkNo, Extent, FileKind, Ino, ObjectId, PgId, VersionNo};
use crate::wire::{Query, QueryAnswer};
use std::collections::{BTreeMap, BTreeSet};

impl Run {
    pub fn compare(&self) {
        self.w.audit();
        for (ino, node) in &self.model.nodes {
            let Some(inode) = read::inode(&self.w.kv, *ino).unwrap() else {
                assert_eq!(self.model.links(*ino), 0, "{ino} is linked and gone");
                continue;
            };
            assert_eq!(inode.kind, node.kind);
            if node.kind == FileKind::Dir {
                assert_eq!(self.listing(*ino), node.names, "directory {ino}");
            } else {
                assert_eq!(inode.nlink as usize, self.model.links(*ino), "{ino}");
            }
            if node.kind == FileKind::File {
                assert_eq!(self.cells(*ino, None), node.cells, "content of {ino}");
            }
        }
        for (ino, no) in self.kept_versions() {
            assert_eq!(
                self.cells(ino, Some(no)),
                self.version(ino, no),
                "{ino} at {no}"
            );
        }
        self.compare_listing();
    }

    fn listing(&self, ino: Ino) -> BTreeMap<String, Ino> {
        let (mut found, mut after) = (BTreeMap::new(), 0);
        loop {
            let q = Query::ReadDir {
                ino,
                after,
                limit: 2,
                with_attrs: true,
            };
            let QueryAnswer::Entries(entries, is_end) = self.w.query(&q).unwrap() else {
                panic!("no entries")
            };
            for e in entries {
                assert!(e.cookie > after && e.cookie >= 3);
                after = e.cookie;
                found.insert(e.name.to_string(), e.ino);
            }
            if is_end {
                return found;
            }
        }
    }

    fn cells(&self, ino: Ino, version: Option<VersionNo>) -> Vec<Cell> {
        let layout = self.w.try_layout(ino, version).unwrap();
        let mut cells = vec![None; (layout.size / CELL) as usize];
        for chunk in layout.chunks {
            for e in chunk.extents {
                let first = (chunk.chunk.start() + u64::from(e.start)) / CELL;
                for (i, cell) in (0u64..).zip(self.cells_of(&e)) {
                    cells[(first + i) as usize] = cell;
                }
            }
        }
        cells
    }

    /// The cells that an extent shows.
    pub(super) fn cells_of(&self, e: &Extent) -> Vec<Cell> {
        let (first, count) = (u64::from(e.object_offset) / CELL, u64::from(e.len) / CELL);
        if let Some(cells) = self.compacted.get(&e.object) {
            return cells[first as usize..(first + count) as usize].to_vec();
        }
        let origin = self.origins[&e.object] / CELL + first;
        let cell = |i| Some((e.object.op, origin + i));
        (0..count).map(cell).collect()
    }

    /// The rows of all PGs are the objects that are kept, each in its own PG.
    fn compare_listing(&self) {
        let mut listed = BTreeMap::new();
        for pg in 0..PGS {
            let mut after: Option<(Ino, ChunkNo)> = None;
            loop {
                let answer = namespace::pg_rows(&self.w.kv, &self.w.map, PgId(pg), after, 3);
                let (rows, is_end) = answer.unwrap();
                for row in rows {
                    after = Some((row.ino, row.chunk));
                    assert!(row.clean.is_some() || !row.objects.is_empty());
                    let objects = row.objects.iter();
                    listed.extend(objects.map(|(object, sum)| ((*object, pg), sum.len)));
                }
                if is_end {
                    break;
                }
            }
        }
        let end = prefix_end(keys::REFS);
        let kept = self.w.kv.scan(keys::REFS, &end, usize::MAX).unwrap().len();
        assert_eq!(listed.len(), kept, "each object is listed in one PG");
        self.compare_space(&listed);
    }

    /// The bytes of every kept object are counted once: as live if the newest content of a name shows
    /// any of it.
    fn compare_space(&self, listed: &BTreeMap<(ObjectId, u16), u32>) {
        let is_named = |ino: &&Ino| self.model.links(**ino) > 0;
        let mut shown = BTreeSet::new();
        for ino in self.model.nodes.keys().filter(is_named) {
            if self.model.nodes[ino].kind == FileKind::File {
                let chunks = self.w.try_layout(*ino, None).unwrap().chunks;
                let extents = chunks.iter().flat_map(|chunk| &chunk.extents);
                shown.extend(extents.map(|e| e.object));
            }
        }
        let mut expected: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for ((object, pg), len) in listed {
            let sum = expected.entry(*pg).or_default();
            match shown.contains(object) {
                true => sum.0 += u64::from(*len),
                false => sum.1 += u64::from(*len),
            }
        }
        let counted = self.w.space(3);
        let counted: BTreeMap<_, _> = counted
            .iter()
            .map(|(pg, bytes)| (pg.0, (bytes.live, bytes.version)))
            .collect();
        assert_eq!(counted, expected);
    }
}

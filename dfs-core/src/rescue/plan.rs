//! What tree there was: names, attributes and where each byte is.
//!
//! Steps: 1. the tree of the snapshot, if there is one; 2. for each of its files what was put later,
//! in the order of `(base revision, op)`; 3. files that are newer than the snapshot (all of them,
//! without one), under the path that their newest put tells, or in `lost+found`.
//!
//! Rules:
//! 1. a put is newer than the snapshot iff the snapshot does not know it, it was not aborted, and it
//!    follows the snapshot's revision of the file (or a store says that it is the file's newest);
//! 2. a put that some store had not heard the end of counts, and the file says so: its writer may
//!    have been told that it is safe;
//! 3. an inode number below the snapshot's next one that the snapshot does not have was removed
//!    before: what is left of it is no file. Where all that is left of a file rests in quarantine
//!    (and is asked for), it was deleted: it goes below `quarantined`, in nobody's way. What rests of
//!    a file that lives is not laid over it;
//! 4. of two files with one path the one that was made later has it.
//!
//! Not told by any object, and so as of the snapshot: names that were changed or removed, sizes cut
//! or grown without a write, attributes, empty files, links, directories.
use super::content::{Content, Piece};
use super::inventory::Inventory;
use crate::master::state::namespace::export::{self, NodeRecord};
use crate::store::KvRead;
use crate::types::{
    FileKind, Ino, ObjectId, OpId, PathHint, PutAbout, PutKind, Revision, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

/// Where files go that were deleted, if such are wanted; in it, they are where they were.
pub const QUARANTINED: &[u8] = b"quarantined";
/// Where files go of which no path is known.
pub const LOST_AND_FOUND: &[u8] = b"lost+found";

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Dir,
    /// A file with this content and size.
    File(Content, u64),
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    HardLink(Vec<u8>),
    /// A pipe, socket or device.
    Special(FileKind, u64),
}

/// One name of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From the root, without a slash in front; empty for the root itself.
    pub path: Vec<u8>,
    /// The inode; `None` for a directory that only paths of files in it tell of.
    pub ino: Option<Ino>,
    /// What.
    pub what: What,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content change time.
    pub mtime: Option<Timestamp>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is not certain of it, for people.
    pub doubts: Vec<String>,
}

/// The tree, parents before what is in them.
#[derive(Debug, Default)]
pub struct Plan {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Inodes with history but without a name: not rebuilt.
    pub removed: u64,
    /// What could not be placed or read, in words.
    pub troubles: Vec<String>,
}

struct Put {
    op: OpId,
    about: PutAbout,
    pieces: Vec<Piece>,
    is_guess: bool,
}

struct Planner<'a> {
    inventory: &'a Inventory,
    kv: &'a dyn KvRead,
    next_ino: Ino,
    by_path: BTreeMap<Vec<u8>, Entry>,
    first_names: BTreeMap<Ino, Vec<u8>>,
    removed: u64,
    troubles: Vec<String>,
}

/// Puts the tree together; `kv` has the snapshot's rows, or nothing.
#[must_use]
pub fn plan(inventory: &Inventory, kv: &dyn KvRead) -> Plan {
    let mut planner = Planner {
        inventory,
        kv,
        next_ino: export::next_ino(kv).unwrap_or_default(),
        by_path: BTreeMap::new(),
        first_names: BTreeMap::new(),
        removed: 0,
        troubles: Vec::new(),
    };
    planner.add_tree();
    planner.add_newer_files();
    planner.add_missing_parents();
    Plan {
        entries: planner.by_path.into_values().collect(),
        removed: planner.removed,
        troubles: planner.troubles,
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        b"" => name.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

impl Planner<'_> {
    /// Step 1 and 2.
    fn add_tree(&mut self) {
        let mut dirs = vec![(Ino::ROOT, Vec::new())];
        let mut seen = BTreeSet::from([Ino::ROOT]);
        if let Ok(Some(root)) = export::node(self.kv, Ino::ROOT) {
            self.add_node(Vec::new(), Ino::ROOT, root);
        }
        while let Some((dir, path)) = dirs.pop() {
            let names = match export::names(self.kv, dir) {
                Ok(names) => names,
                Err(error) => {
                    let words = format!("{}: its names cannot be read: {error}", shown(&path));
                    self.troubles.push(words);
                    continue;
                }
            };
            for (name, ino) in names {
                let path = join(&path, name.as_bytes());
                match export::node(self.kv, ino) {
                    Ok(Some(node)) => {
                        if node.attr.kind == FileKind::Dir && seen.insert(ino) {
                            dirs.push((ino, path.clone()));
                        }
                        self.add_node(path, ino, node);
                    }
                    other => {
                        let why = other.err().map(|e| e.to_string()).unwrap_or_default();
                        let words = format!("{}: inode {ino} cannot be read {why}", shown(&path));
                        self.troubles.push(words);
                    }
                }
            }
        }
    }

    fn add_node(&mut self, path: Vec<u8>, ino: Ino, node: NodeRecord) {
        let attr = node.attr;
        let mut entry = Entry {
            path: path.clone(),
            ino: Some(ino),
            what: What::Dir,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            mtime: Some(attr.mtime),
            xattrs: node.xattrs,
            doubts: Vec::new(),
        };
        if attr.kind != FileKind::Dir {
            if let Some(first) = self.first_names.get(&ino) {
                entry.what = What::HardLink(first.clone());
                self.by_path.insert(path, entry);
                return;
            }
            self.first_names.insert(ino, path.clone());
        }
        entry.what = match attr.kind {
            FileKind::Dir => What::Dir,
            FileKind::Symlink => What::Symlink(node.target),
            FileKind::File => What::File(Content::default(), attr.size),
            other => What::Special(other, attr.rdev),
        };
        if attr.kind == FileKind::File {
            self.fill(&mut entry, ino, Some(attr.revision));
        }
        self.by_path.insert(path, entry);
    }

    /// The content of a file: as of the snapshot, and what came later.
    fn fill(&mut self, entry: &mut Entry, ino: Ino, known: Option<Revision>) {
        let What::File(content, size) = &mut entry.what else {
            return;
        };
        match export::content(self.kv, ino) {
            Ok(chunks) => {
                for (chunk, extent) in chunks
                    .iter()
                    .flat_map(|(c, list)| list.iter().map(|e| (*c, e)))
                {
                    content.lay(Piece {
                        offset: chunk.start() + u64::from(extent.start),
                        len: u64::from(extent.len),
                        object: extent.object,
                        from: u64::from(extent.object_offset),
                        sum: extent.sum,
                    });
                }
            }
            Err(error) => entry
                .doubts
                .push(format!("its extents cannot be read: {error}")),
        }
        let in_snapshot = export::objects(self.kv, ino).unwrap_or_default();
        let puts = self.newer_puts(ino, known, &in_snapshot);
        let mut newer_end = 0;
        for put in &puts {
            if put.about.kind == PutKind::Replace {
                content.clear(0, u64::MAX);
                newer_end = 0;
            }
            for piece in &put.pieces {
                newer_end = newer_end.max(piece.offset + piece.len);
                content.lay(*piece);
            }
            *size = (*size).max(newer_end);
            let follows = known.is_none_or(|known| put.about.base >= known);
            match put.about.size {
                Some(told) if told >= newer_end && follows => *size = told,
                Some(told) if told < newer_end => {
                    entry
                        .doubts
                        .push("its size is a guess: puts disagree".to_owned());
                }
                _ => {}
            }
            content.clear(*size, u64::MAX);
            entry.mtime = put.about.mtime.or(entry.mtime);
        }
        entry.doubts.extend(self.doubts(ino, known, &puts));
    }

    fn doubts(&self, ino: Ino, known: Option<Revision>, puts: &[Put]) -> Vec<String> {
        let mut doubts = Vec::new();
        let undecided = puts
            .iter()
            .filter(|put| self.inventory.is_undecided(put.op));
        let undecided = undecided.count();
        if undecided > 0 {
            doubts.push(format!(
                "its last {undecided} puts may not have been committed"
            ));
        }
        if puts.iter().any(|put| put.is_guess) {
            doubts.push("where some of its bytes belong is a guess".to_owned());
        }
        let pieces = || puts.iter().flat_map(|put| &put.pieces);
        let was_deleted = |object| self.inventory.held(object).is_some_and(|h| h.is_deleted);
        if !self.inventory.is_deleted(ino) && pieces().any(|piece| was_deleted(piece.object)) {
            doubts.push("part of it was left behind by a move, and may have gone since".to_owned());
        }
        if let Some((revision, op)) = self.inventory.stamp(ino)
            && revision > known.unwrap_or_default()
            && !puts.iter().any(|put| put.op == op)
        {
            doubts.push(format!(
                "its newest change (revision {}, {op}) left no object here: cut, grown, or missing",
                revision.0
            ));
        }
        if let (Some(hint), Some(name)) = (newest_path(puts), self.first_names.get(&ino))
            && hint.is_whole()
            && hint.0[1..] != name[..]
        {
            doubts.push(format!(
                "it may have been renamed to {}",
                shown(&hint.0[1..])
            ));
        }
        doubts
    }

    /// Rule 1, in order.
    fn newer_puts(
        &self,
        ino: Ino,
        known: Option<Revision>,
        in_snapshot: &BTreeSet<ObjectId>,
    ) -> Vec<Put> {
        let stamp = self.inventory.stamp(ino);
        let newest = stamp.filter(|(revision, _)| Some(*revision) > known);
        let is_deleted = self.inventory.is_deleted(ino);
        let mut puts: BTreeMap<OpId, Put> = BTreeMap::new();
        for id in self.inventory.of_ino(ino) {
            let Some(held) = self.inventory.held(*id) else {
                continue;
            };
            let base = held.about.as_ref().map(|about| about.put.base);
            let follows = known.is_none_or(|known| base.is_some_and(|base| base >= known));
            let is_newest = newest.is_some_and(|(_, op)| op == id.op);
            let is_old = in_snapshot.contains(id) || self.inventory.is_aborted(id.op);
            // What was deleted of a file that lives is no part of it any more, wherever a copy was left
            // behind before; what its group took along elsewhere may be.
            let was_dropped = held.was_dropped || !held.was_moved;
            let is_dropped = held.is_deleted && was_dropped && !is_deleted;
            if is_old || is_dropped || !(follows || is_newest) {
                continue;
            }
            let about = held.about.as_deref();
            let put = puts.entry(id.op).or_insert_with(|| Put {
                op: id.op,
                about: about.map(|about| about.put.clone()).unwrap_or_default(),
                pieces: Vec::new(),
                is_guess: false,
            });
            let kind = put.about.kind;
            put.is_guess |= about.is_none() || kind == PutKind::Append;
            put.pieces.push(Piece {
                offset: held.chunk.start() + u64::from(about.map_or(0, |about| about.start)),
                len: u64::from(held.sum.len),
                object: *id,
                from: 0,
                sum: held.sum,
            });
        }
        let mut puts: Vec<Put> = puts.into_values().collect();
        // A compaction has the bytes of its base: what was written after that lies over it.
        puts.sort_by_key(|put| {
            (
                put.about.base,
                put.about.kind != PutKind::Compact,
                put.op.seq,
            )
        });
        puts
    }

    /// Step 3.
    fn add_newer_files(&mut self) {
        let known: BTreeSet<Ino> = match export::all_inos(self.kv) {
            Ok(inos) => inos.into_iter().collect(),
            Err(error) => {
                let words = format!("some inodes of the snapshot cannot be read: {error}");
                self.troubles.push(words);
                BTreeSet::new()
            }
        };
        let nameless = |ino: &&Ino| {
            !self.first_names.contains_key(ino)
                && export::node(self.kv, **ino)
                    .is_ok_and(|node| node.is_some_and(|n| n.attr.kind == FileKind::File))
        };
        self.removed = known.iter().filter(nameless).count() as u64;
        let reserved = export::reserved_inos(self.kv).unwrap_or_default();
        let is_reserved = |ino: &Ino| reserved.iter().any(|lot| lot.contains(ino));
        let is_new = |ino: &Ino| *ino >= self.next_ino || is_reserved(ino);
        let fresh = self.inventory.inos();
        let fresh: Vec<Ino> = fresh
            .filter(|ino| !known.contains(ino))
            .filter(|ino| is_new(ino) || self.inventory.is_deleted(*ino))
            .collect();
        for ino in fresh {
            self.add_newer_file(ino);
        }
    }

    fn add_newer_file(&mut self, ino: Ino) {
        let puts = self.newer_puts(ino, None, &BTreeSet::new());
        let Some(last) = puts.last() else {
            return; // of aborted puts only
        };
        let about = last.about.clone();
        let path = match newest_path(&puts) {
            Some(hint) if hint.is_whole() => hint.0[1..].to_vec(),
            Some(hint) => join(LOST_AND_FOUND, &hint.0),
            None => join(LOST_AND_FOUND, format!("ino-{ino}").as_bytes()),
        };
        let path = match self.inventory.is_deleted(ino) {
            true => join(QUARANTINED, &path),
            false => path,
        };
        let mut entry = Entry {
            path: Vec::new(),
            ino: Some(ino),
            what: What::File(Content::default(), 0),
            mode: if about.mode == 0 { 0o600 } else { about.mode },
            uid: about.uid,
            gid: about.gid,
            mtime: about.mtime,
            xattrs: Vec::new(),
            doubts: Vec::new(),
        };
        self.fill(&mut entry, ino, None);
        let path = self.make_way(path, ino);
        entry.path.clone_from(&path);
        self.by_path.insert(path, entry);
    }

    /// Rule 4: moves away what stands at `path`; gives the path to be used.
    fn make_way(&mut self, path: Vec<u8>, ino: Ino) -> Vec<u8> {
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let is_sound = !parts.iter().any(|p| matches!(*p, b"" | b"." | b".."));
        let is_below_file = (1..parts.len()).any(|n| {
            let parent = parts[..n].join(&b'/');
            let above = self.by_path.get(&parent);
            above.is_some_and(|entry| entry.what != What::Dir)
        });
        let stands = self.by_path.get(&path);
        if !is_sound || is_below_file || stands.is_some_and(|entry| entry.what == What::Dir) {
            let lost = join(LOST_AND_FOUND, format!("ino-{ino}").as_bytes());
            self.troubles.push(format!(
                "{}: something else is in the way; inode {ino} is at {}",
                shown(&path),
                shown(&lost)
            ));
            return lost;
        }
        if let Some(mut old) = self.by_path.remove(&path) {
            let number = old.ino.unwrap_or_default();
            let mut moved = path.clone();
            moved.extend(format!(".rescued-ino-{number}").into_bytes());
            old.path.clone_from(&moved);
            old.doubts.push(format!(
                "{} is a newer file now: this one was renamed or removed",
                shown(&path)
            ));
            for entry in self.by_path.values_mut() {
                if matches!(&entry.what, What::HardLink(first) if *first == path) {
                    entry.what = What::HardLink(moved.clone());
                }
            }
            self.by_path.insert(moved, old);
        }
        path
    }

    fn add_missing_parents(&mut self) {
        let mut missing = BTreeSet::from([Vec::new()]);
        for path in self.by_path.keys() {
            let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
            missing.extend(slashes.map(|(at, _)| path[..at].to_vec()));
        }
        for path in missing {
            self.by_path.entry(path.clone()).or_insert_with(|| Entry {
                path,
                ino: None,
                what: What::Dir,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: None,
                xattrs: Vec::new(),
                doubts: Vec::new(),
            });
        }
    }
}

fn newest_path(puts: &[Put]) -> Option<&PathHint> {
    puts.iter().rev().find_map(|put| put.about.path.as_ref())
}

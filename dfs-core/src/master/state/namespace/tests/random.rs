//! Random operations against the model: tree, error codes, contents of every kept version, exact
//! garbage. The seed decides everything; a failure names it.
use super::model::{CELL, Cell, Model, Node};
use super::world::{World, name, puts};
use crate::master::state::namespace::{self, keys, read};
use crate::types::{
    Attr, ChunkNo, ClientId, Extent, FileKind, Ino, ObjectId, OpId, Time, VersionNo,
};
use crate::wire::mutation::{PurgeScope, RenameMode};
use crate::wire::{Change, ErrorCode, Mutation, MutationOk, WriteToken};
use rand::Rng;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(super) struct Run {
    rng: ChaCha8Rng,
    pub w: World,
    pub model: Model,
    /// Contents of versions as they were after their last commit.
    versions: BTreeMap<(Ino, VersionNo), Vec<Cell>>,
    /// Where an object's first byte is in its op, in bytes.
    pub origins: BTreeMap<ObjectId, u64>,
    /// What is in objects that took the place of others.
    pub compacted: BTreeMap<ObjectId, Vec<Cell>>,
    /// Rows as they were at some time.
    rows: Vec<(Ino, ChunkNo, Vec<Extent>)>,
    tokens: BTreeMap<(u128, Ino), WriteToken>,
    done: BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut w = World::new();
        w.audits = false;
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            w,
            model: Model::new(),
            versions: BTreeMap::new(),
            origins: BTreeMap::new(),
            compacted: BTreeMap::new(),
            rows: Vec::new(),
            tokens: BTreeMap::new(),
            done: BTreeMap::new(),
        }
    }

    fn name(&mut self) -> &'static str {
        NAMES.choose(&mut self.rng).unwrap()
    }

    /// Inodes that the state still knows.
    fn known(&self, wanted: impl Fn(&Node) -> bool) -> Vec<Ino> {
        let known = |ino: &Ino| read::inode(&self.w.kv, *ino).unwrap().is_some();
        let nodes = self.model.nodes.iter().filter(|(_, n)| wanted(n));
        nodes.map(|(ino, _)| *ino).filter(known).collect()
    }

    fn dir(&mut self) -> Ino {
        let live_only = self.rng.random_bool(0.9);
        let dirs = self.known(|n| n.kind == FileKind::Dir && !(live_only && n.removed.is_some()));
        *dirs.choose(&mut self.rng).unwrap()
    }

    /// A place to change: mostly one that has an entry of the wanted kind.
    fn place(&mut self, wanted: impl Fn(FileKind) -> bool) -> (Ino, &'static str) {
        let mut there = Vec::new();
        for (dir, node) in &self.model.nodes {
            for (text, ino) in &node.names {
                let known = NAMES.iter().find(|n| *n == text).copied();
                there.extend(
                    known
                        .filter(|_| wanted(self.model.kind(*ino)))
                        .map(|n| (*dir, n)),
                );
            }
        }
        let any = (self.dir(), self.name());
        let mostly = self.rng.random_bool(0.8);
        let place = there.choose(&mut self.rng).copied();
        place.filter(|_| mostly).unwrap_or(any)
    }

    /// A place to undelete: mostly one that has a history.
    fn remembered(&mut self) -> (Ino, &'static str) {
        let mut there = Vec::new();
        for (key, _) in read::all(&self.w.kv, keys::HISTORIES).unwrap() {
            let (dir, text) = (keys::u64_at(&key, 1), keys::name_at(&key, 9).unwrap());
            let known = NAMES.iter().find(|n| **n == text.to_string());
            there.extend(known.map(|n| (Ino(dir.unwrap()), *n)));
        }
        let any = (self.dir(), self.name());
        let mostly = self.rng.random_bool(0.8);
        let place = there.choose(&mut self.rng).copied();
        place.filter(|_| mostly).unwrap_or(any)
    }

    fn file(&mut self) -> Option<Ino> {
        let files = self.known(|n| n.kind == FileKind::File);
        files.choose(&mut self.rng).copied()
    }

    fn count(&mut self, what: &'static str, done: bool) {
        *self.done.entry(what).or_default() += u64::from(done);
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..12 => self.create(),
            12..16 => self.link(),
            16..26 => self.unlink(),
            26..30 => self.rmdir(),
            30..46 => self.rename(),
            46..74 => self.change(),
            74..78 => self.compact(),
            78..86 => self.seal(),
            86..92 => self.undelete(),
            92..96 => self.upkeep(),
            96 => self.purge(),
            97 => {
                let Some(ino) = self.file() else { return };
                let raise = |ctx: &mut crate::master::state::ApplyCtx<'_>| {
                    namespace::raise_lease(ctx, ino).map(|_| ())
                };
                self.w.run(OpId::default(), raise).unwrap();
            }
            _ => {
                let client = self.rng.random_range(1..4);
                self.tokens.retain(|(c, _), _| *c != client);
                let client = ClientId(client);
                let ended = self
                    .w
                    .run(OpId::default(), |ctx| namespace::end_session(ctx, client));
                ended.unwrap();
            }
        }
    }

    fn create(&mut self) {
        let (dir, text) = (self.dir(), self.name());
        let kinds = [
            FileKind::File,
            FileKind::File,
            FileKind::Dir,
            FileKind::Symlink,
        ];
        let kind = *kinds.choose(&mut self.rng).unwrap();
        let expected = self.model.may_create(dir, text);
        let done = self.w.create(dir, text, kind);
        assert_eq!(done.as_ref().err(), expected.as_ref().err());
        if let Ok(attr) = done {
            let fresh = self.model.nodes.insert(attr.ino, Node::new(kind, dir));
            assert!(fresh.is_none(), "inode number used twice");
            self.model.add(dir, text, attr.ino);
        }
    }

    fn link(&mut self) {
        let (dir, text) = (self.dir(), self.name());
        let inos = self.known(|n| n.removed.is_none());
        let ino = *inos.choose(&mut self.rng).unwrap();
        let expected = self.model.link(ino, dir, text);
        let done = self.w.link(ino, dir, text);
        assert_eq!(done.map(|_| ()), expected);
    }

    fn unlink(&mut self) {
        let (dir, text) = self.place(|kind| kind != FileKind::Dir);
        let purge = self.rng.random_bool(0.1);
        let expected = self.model.unlink(dir, text);
        let body = Mutation::Unlink {
            parent: dir,
            name: name(text),
            purge,
        };
        let done = self.w.apply(&body);
        self.count("unlink", done.is_ok());
        assert_eq!(done.map(|_| ()), expected);
    }

    fn rmdir(&mut self) {
        let (dir, text) = self.place(|kind| kind == FileKind::Dir);
        let expected = self.model.rmdir(dir, text);
        let done = self.w.rmdir(dir, text);
        self.count("rmdir", done.is_ok());
        assert_eq!(done.map(|_| ()), expected);
    }

    fn rename(&mut self) {
        let from = self.place(|_| true);
        let to = match self.rng.random_bool(0.5) {
            true => self.place(|_| true),
            false => (self.dir(), self.name()),
        };
        let modes = [
            RenameMode::Replace,
            RenameMode::Replace,
            RenameMode::NoReplace,
            RenameMode::Exchange,
        ];
        let mode = *modes.choose(&mut self.rng).unwrap();
        let expected = self.model.rename(from, to, mode);
        let done = self.w.rename_as(from, to, mode);
        self.count("rename", done.is_ok());
        assert_eq!(done.map(|_| ()), expected);
    }

    fn change(&mut self) {
        let Some(ino) = self.file() else { return };
        let client = self.rng.random_range(1..4u128);
        let keeps = self.rng.random_bool(0.7);
        let token = match self.tokens.get(&(client, ino)) {
            Some(token) if keeps => *token,
            _ => self.w.token(client),
        };
        self.tokens.insert((client, ino), token);
        let op = self.w.next_op(client);
        let Some((change, cells)) = self.any_change(ino, op) else {
            return;
        };
        let mut origin = 0;
        for put in namespace::content::puts(&change) {
            self.origins.insert(put.object, origin);
            origin += u64::from(put.len);
        }
        let commit = self.w.commit_of(ino, token, change);
        let before = self.w.attr(ino);
        match self.w.commit(op, commit).unwrap() {
            MutationOk::Committed { attr, revision, .. } => {
                assert_eq!(revision, before.revision.next());
                assert_eq!(attr.size, cells.len() as u64 * CELL);
            }
            other => panic!("{other:?}"),
        }
        self.count("change", true);
        let newest = read::known_inode(&self.w.kv, ino).unwrap().version;
        self.versions.insert((ino, newest), cells.clone());
        self.model.nodes.get_mut(&ino).unwrap().cells = cells;
    }

    /// A random change, and what it makes of the file.
    fn any_change(&mut self, ino: Ino, op: OpId) -> Option<(Change, Vec<Cell>)> {
        let mut node = self.model.nodes[&ino].clone();
        let eof = node.cells.len() as u64;
        let (offset, len) = (
            self.rng.random_range(0..20u64),
            self.rng.random_range(1..12u64),
        );
        let all_puts = |at: u64| puts(op, at * CELL, (len * CELL) as u32);
        let change = match self.rng.random_range(0..12) {
            0..5 => {
                node.write(op, offset, len);
                let puts = all_puts(offset);
                Change::Write { puts }
            }
            5..7 if eof < 40 => {
                let expected = if offset < 10 { eof } else { offset };
                node.write(op, eof, len);
                let (at, puts) = (expected * CELL, all_puts(expected));
                Change::Append { at, puts }
            }
            7 | 8 => {
                let size = if offset < 5 { 0 } else { offset };
                node.cells.resize(size as usize, None);
                Change::Truncate { size: size * CELL }
            }
            9 => {
                let hole = node.cells.iter_mut().skip(offset as usize);
                hole.take(len as usize).for_each(|c| *c = None);
                let (offset, len) = (offset * CELL, len * CELL);
                Change::Punch { offset, len }
            }
            10 => {
                node.cells.resize(eof.max(offset) as usize, None);
                let size = offset * CELL;
                Change::Extend { size }
            }
            11 => {
                node.cells.clear();
                node.write(op, offset, len);
                let size = offset + len + 1;
                node.cells.resize(size as usize, None);
                let (puts, size) = (all_puts(offset), size * CELL);
                Change::Replace { puts, size }
            }
            _ => {
                let (from, inode_version) = self.kept_versions().choose(&mut self.rng).copied()?;
                node.cells = self.version(from, inode_version);
                Change::Restore {
                    from,
                    inode_version,
                }
            }
        };
        Some((change, node.cells))
    }

    /// Compacts part of a chunk as it was at this time or an earlier one.
    fn compact(&mut self) {
        let Some(ino) = self.file() else { return };
        let newest = read::known_inode(&self.w.kv, ino).unwrap().version;
        let rows = read::rows_at(&self.w.kv, ino, newest, ChunkNo(0), ChunkNo(9)).unwrap();
        self.rows
            .extend(rows.into_iter().map(|(chunk, row)| (ino, chunk, row)));
        self.rows.retain(|(_, _, row)| !row.is_empty());
        let back = self.rng.random_range(1..4);
        let Some(at) = self.rows.len().checked_sub(back) else {
            return;
        };
        let (ino, chunk, mut was) = self.rows[at].clone();
        if read::inode(&self.w.kv, ino).unwrap().is_none() {
            return;
        }
        was.drain(..self.rng.random_range(0..was.len()));
        let (start, last) = (was[0].start, was[was.len() - 1].clone());
        let len = last.start + last.len - start;
        let op = self.w.next_op(self.rng.random_range(1..4));
        let put = Box::new(puts(op, chunk.start() + u64::from(start), len).remove(0));
        let mut cells = vec![None; (u64::from(len) / CELL) as usize];
        for e in &was {
            let at = (u64::from(e.start - start) / CELL) as usize;
            let shown = self.cells_of(e);
            cells[at..at + shown.len()].clone_from_slice(&shown);
        }
        self.compacted.insert(put.object, cells);
        let token = self.w.token(1);
        let mut commit = self.w.commit_of(ino, token, Change::Compact { put, was });
        commit.mtime = None;
        let before = self.w.attr(ino);
        match self.w.commit(op, commit).unwrap() {
            MutationOk::Committed { attr, revision, .. } => {
                assert_eq!(revision, before.revision.next());
                let (revision, version) = (attr.revision, attr.version);
                assert_eq!(attr, Attr { revision, ..before });
                assert_eq!(version, before.version);
            }
            other => panic!("{other:?}"),
        }
        let now = read::rows_at(&self.w.kv, ino, newest, chunk, chunk).unwrap();
        let has = |(_, row): &(_, Vec<Extent>)| row.iter().any(|e| e.object.op == op);
        self.count("compact", now.iter().any(has));
    }

    pub fn kept_versions(&self) -> Vec<(Ino, VersionNo)> {
        let pairs = read::all(&self.w.kv, keys::VERSIONS).unwrap();
        let parse = |k: &[u8]| {
            let number = |at| keys::u64_at(k, at).unwrap();
            (Ino(number(1)), VersionNo(number(9)))
        };
        pairs.iter().map(|(k, _)| parse(k)).collect()
    }

    pub fn version(&self, ino: Ino, no: VersionNo) -> Vec<Cell> {
        self.versions.get(&(ino, no)).cloned().unwrap_or_default()
    }

    fn seal(&mut self) {
        if self.rng.random_bool(0.2) {
            let Some(ino) = self.file() else { return };
            let sealed = self
                .w
                .run(OpId::default(), |ctx| namespace::seal_all(ctx, &[ino]));
            return sealed.unwrap();
        }
        let held: Vec<_> = self.tokens.keys().copied().collect();
        let Some(key) = held.choose(&mut self.rng) else {
            return;
        };
        let token = self.tokens.remove(key).unwrap();
        self.w.seal(key.1, token);
    }

    fn undelete(&mut self) {
        let (dir, text) = self.remembered();
        let is_live = self.model.get(dir, text).is_some();
        match self.w.undelete(dir, text) {
            Ok(ino) => {
                self.model.undelete(dir, text, ino);
                self.count("undelete", true);
            }
            Err(ErrorCode::Exists) => assert!(is_live || !self.model.is_live_dir(dir)),
            Err(code) => {
                assert_eq!((code, is_live), (ErrorCode::NotFound, false));
                let known = self.w.history(dir, text);
                assert!(known.is_empty(), "{known:?} cannot be undeleted");
            }
        }
    }

    fn upkeep(&mut self) {
        if self.rng.random_bool(0.5) {
            self.w.reap_orphans();
            return;
        }
        let before = Time(self.w.at.0.saturating_sub(200_000_000_000));
        let keep = self.rng.random_range(0..12);
        let trim = |ctx: &mut crate::master::state::ApplyCtx<'_>| {
            namespace::trim_history(ctx, before, keep, 3)
        };
        let dropped = self.w.run(OpId::default(), trim).unwrap();
        assert!(dropped <= 3);
        self.count("trim", dropped > 0);
    }

    fn purge(&mut self) {
        let (parent, text) = self.remembered();
        let scope = match self.rng.random_bool(0.2) {
            true => PurgeScope::AllDeleted,
            false => PurgeScope::Name {
                parent,
                name: name(text),
            },
        };
        let purged = self.w.apply(&Mutation::Purge(scope));
        assert!(
            matches!(purged, Ok(_) | Err(ErrorCode::NotFound)),
            "{purged:?}"
        );
    }
}

fn run(seed: u64, batches: usize) -> BTreeMap<&'static str, u64> {
    let mut run = Run::new(seed);
    for _ in 0..batches {
        for _ in 0..20 {
            run.step();
        }
        run.compare();
    }
    let w = &mut run.w;
    let all = Mutation::Purge(PurgeScope::AllDeleted);
    w.apply(&all).unwrap();
    while w.reap_orphans() > 0 {}
    run.compare();
    assert!(read::all(&run.w.kv, keys::DELETED).unwrap().is_empty());
    run.done
}

#[test]
fn random_operations_agree_with_the_model() {
    let chosen = std::env::var("DFS_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = chosen.map_or(0..12, |seed| seed..seed + 1);
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed, 60));
        match outcome {
            Ok(counts) => {
                for (what, n) in counts {
                    *done.entry(what).or_default() += n;
                }
            }
            Err(cause) => {
                eprintln!("repeat with DFS_SEED={seed}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    if chosen.is_some() {
        return;
    }
    let enough = [
        "change", "compact", "rename", "unlink", "rmdir", "undelete", "trim",
    ];
    assert!(enough.iter().all(|what| done[what] >= 20), "{done:?}");
}

#[test]
fn the_same_operations_give_the_same_tables() {
    let tables = |seed| {
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step();
        }
        run.w.kv
    };
    assert_eq!(tables(7), tables(7));
}

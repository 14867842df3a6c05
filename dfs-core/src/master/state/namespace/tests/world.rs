//! A namespace in memory with short words for what tests do to it. Every change is audited.
use crate::master::state::namespace::{self, check};
use crate::master::state::{ApplyCtx, ApplyError, Effects};
use crate::store::{KvRead, MemKv};
use crate::types::{
    Attr, CHUNK_SIZE, ChunkNo, ClientId, Epoch, Extent, FileKind, Ino, LogIndex, Name, ObjectId,
    ObjectSum, OpId, PgId, PgInfo, PgMap, PgPhase, QuorumSizes, SetTime, StoreId, Time,
    VersionInfo, VersionNo,
};
use crate::wire::master::{GroupBytes, Layout};
use crate::wire::mutation::{NewNode, RenameMode};
use crate::wire::{
    Change, Commit, ErrorCode, Mutation, MutationOk, PutExtent, Query, QueryAnswer, WriteToken,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const PGS: u16 = 16;
pub(super) const ROOT: Ino = Ino::ROOT;

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) struct World {
    pub kv: MemKv,
    pub map: PgMap,
    pub at: Time,
    pub index: u64,
    seqs: BTreeMap<u128, u64>,
    tokens: u64,
    pub last: Effects,
    /// Objects that were put and are neither garbage nor refused.
    pub objects: BTreeSet<ObjectId>,
    /// Audit after every change (off in long random runs, which audit per batch).
    pub audits: bool,
    /// Stores that are down.
    pub down: BTreeSet<StoreId>,
}

impl World {
    pub fn new() -> Self {
        let info = PgInfo {
            epoch: Epoch(1),
            members: vec![StoreId(1), StoreId(2), StoreId(3)],
            filling: Vec::new(),
            prior: Vec::new(),
            phase: PgPhase::Active,
        };
        let map = PgMap {
            version: LogIndex(1),
            quorum: QuorumSizes::DEFAULT,
            pgs: vec![info; usize::from(PGS)],
        };
        let mut kv = MemKv::default();
        let at = Time(1_000_000_000_000);
        namespace::format(&mut kv, at).unwrap();
        Self {
            kv,
            map,
            at,
            index: 1,
            seqs: BTreeMap::new(),
            tokens: 0,
            last: Effects::default(),
            objects: BTreeSet::new(),
            audits: true,
            down: BTreeSet::new(),
        }
    }

    pub fn next_op(&mut self, client: u128) -> OpId {
        let seq = self.seqs.entry(client).or_default();
        *seq += 1;
        OpId {
            client: ClientId(client),
            seq: *seq,
        }
    }

    /// Runs something that may change tables, a second later than the one before.
    pub fn run<T>(&mut self, op: OpId, f: impl FnOnce(&mut ApplyCtx<'_>) -> T) -> T {
        self.at = Time(self.at.0 + 1_000_000_000);
        self.index += 1;
        let down = &self.down;
        let is_down = |store: &StoreId| down.contains(store);
        let mut ctx = ApplyCtx {
            kv: &mut self.kv,
            at: self.at,
            index: LogIndex(self.index),
            op,
            map: &self.map,
            is_down: &is_down,
            effects: Effects::default(),
        };
        let out = f(&mut ctx);
        self.last = ctx.effects;
        for (_, object) in &self.last.garbage {
            assert!(self.objects.remove(object), "{object} is garbage twice");
        }
        if self.audits {
            self.audit();
        }
        out
    }

    pub fn audit(&self) {
        let faults = check(&self.kv, &self.map).unwrap();
        assert!(faults.is_empty(), "{faults:#?}");
        let kept = self.kv.scan(b"f", b"g", usize::MAX).unwrap().len();
        assert_eq!(
            kept,
            self.objects.len(),
            "an object is neither referenced nor garbage"
        );
    }

    pub fn try_apply(&mut self, op: OpId, body: &Mutation) -> Result<MutationOk, ErrorCode> {
        let before = self.kv.clone();
        match self.run(op, |ctx| namespace::apply(ctx, body)) {
            Ok(done) => Ok(done),
            Err(ApplyError::Refused(e)) => {
                assert_eq!(self.kv, before, "a refusal changed the tables");
                assert_eq!(self.last, Effects::default(), "a refusal left effects");
                Err(e.code)
            }
            Err(ApplyError::Broken(e)) => panic!("{e}"),
        }
    }

    pub fn apply(&mut self, body: &Mutation) -> Result<MutationOk, ErrorCode> {
        let op = self.next_op(1);
        self.try_apply(op, body)
    }

    pub fn create(&mut self, parent: Ino, text: &str, kind: FileKind) -> Result<Attr, ErrorCode> {
        let node = node(kind);
        let body = Mutation::Create {
            parent,
            name: name(text),
            node,
            exclusive: true,
        };
        match self.apply(&body)? {
            MutationOk::Entry { attr, created } => {
                assert!(created);
                Ok(attr)
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn file(&mut self, parent: Ino, text: &str) -> Ino {
        self.create(parent, text, FileKind::File).unwrap().ino
    }

    pub fn dir(&mut self, parent: Ino, text: &str) -> Ino {
        self.create(parent, text, FileKind::Dir).unwrap().ino
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, text: &str) -> Result<MutationOk, ErrorCode> {
        self.apply(&Mutation::Link {
            ino,
            parent,
            name: name(text),
        })
    }

    pub fn unlink(&mut self, parent: Ino, text: &str) -> Result<MutationOk, ErrorCode> {
        self.apply(&Mutation::Unlink {
            parent,
            name: name(text),
            purge: false,
        })
    }

    pub fn rmdir(&mut self, parent: Ino, text: &str) -> Result<MutationOk, ErrorCode> {
        self.apply(&Mutation::Rmdir {
            parent,
            name: name(text),
        })
    }

    pub fn undelete(&mut self, parent: Ino, text: &str) -> Result<Ino, ErrorCode> {
        let body = Mutation::Undelete {
            parent,
            name: name(text),
        };
        match self.apply(&body)? {
            MutationOk::Entry { attr, .. } => Ok(attr.ino),
            other => panic!("{other:?}"),
        }
    }

    pub fn rename_as(
        &mut self,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> Result<MutationOk, ErrorCode> {
        self.apply(&Mutation::Rename {
            from_parent: from.0,
            from_name: name(from.1),
            to_parent: to.0,
            to_name: name(to.1),
            mode,
        })
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str)) -> Result<MutationOk, ErrorCode> {
        self.rename_as(from, to, RenameMode::Replace)
    }

    /// A writing period that nobody had before.
    pub fn token(&mut self, client: u128) -> WriteToken {
        self.tokens += 1;
        WriteToken {
            client: ClientId(client),
            seq: self.tokens,
        }
    }

    /// A put as a client makes it when everything is current.
    pub fn commit_of(&self, ino: Ino, token: WriteToken, change: Change) -> Commit {
        let lease = self.attr(ino).lease;
        Commit {
            ino,
            lease,
            token,
            home_epoch: Epoch(1),
            mark_acks: vec![StoreId(1), StoreId(2)],
            change,
            mtime: Some(SetTime::Now),
            kill_suid: false,
            base: None,
        }
    }

    pub fn commit(&mut self, op: OpId, commit: Commit) -> Result<MutationOk, ErrorCode> {
        self.commit_as(op, Mutation::Commit(commit))
    }

    pub fn commit_last(&mut self, op: OpId, commit: Commit) -> Result<MutationOk, ErrorCode> {
        self.commit_as(op, Mutation::CommitLast(Box::new(commit)))
    }

    fn commit_as(&mut self, op: OpId, body: Mutation) -> Result<MutationOk, ErrorCode> {
        let change = &body.commit().unwrap().change;
        let puts = super::super::content::puts(change).to_vec();
        self.objects.extend(puts.iter().map(|p| p.object));
        let audits = std::mem::replace(&mut self.audits, false);
        let done = self.try_apply(op, &body);
        if done.is_err() {
            for put in &puts {
                self.objects.remove(&put.object);
            }
        }
        self.audits = audits;
        if audits {
            self.audit();
        }
        done
    }

    pub fn change(
        &mut self,
        ino: Ino,
        token: WriteToken,
        change: impl FnOnce(OpId) -> Change,
    ) -> Result<MutationOk, ErrorCode> {
        let op = self.next_op(token.client.0);
        let commit = self.commit_of(ino, token, change(op));
        self.commit(op, commit)
    }

    /// Writes `len` bytes at `offset` within a period; answers the op.
    pub fn write(&mut self, ino: Ino, token: WriteToken, offset: u64, len: u32) -> OpId {
        let op = self.next_op(token.client.0);
        let puts = puts(op, offset, len);
        let commit = self.commit_of(ino, token, Change::Write { puts });
        self.commit(op, commit).unwrap();
        op
    }

    pub fn seal(&mut self, ino: Ino, token: WriteToken) {
        self.apply(&Mutation::Seal { ino, token }).unwrap();
    }

    /// Opens, writes the first ten bytes and closes; answers the op.
    pub fn save(&mut self, ino: Ino) -> OpId {
        let token = self.token(1);
        let op = self.write(ino, token, 0, 10);
        self.seal(ino, token);
        op
    }

    pub fn query(&self, q: &Query) -> Result<QueryAnswer, ErrorCode> {
        namespace::query(&self.kv, &self.map, q).map_err(|e| e.code)
    }

    /// Bytes of all groups, asked for in pages of `limit` rows.
    pub fn space(&self, limit: usize) -> BTreeMap<PgId, GroupBytes> {
        let (mut all, mut shared, mut after) = (BTreeMap::new(), Vec::new(), None);
        loop {
            let page = namespace::group_space(&self.kv, after, limit).unwrap();
            for bytes in page.groups {
                let sum: &mut GroupBytes = all.entry(bytes.pg).or_default();
                sum.pg = bytes.pg;
                sum.live += bytes.live;
                sum.version += bytes.version;
            }
            shared.extend(page.shared);
            after = page.next;
            if after.is_none() {
                GroupBytes::add_shared(&mut all, shared);
                return all;
            }
        }
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        match self.query(&Query::GetAttr { ino }).unwrap() {
            QueryAnswer::Attr(attr) => attr,
            other => panic!("{other:?}"),
        }
    }

    pub fn lookup(&self, parent: Ino, text: &str) -> Result<Ino, ErrorCode> {
        let name = name(text);
        match self.query(&Query::Lookup { parent, name })? {
            QueryAnswer::Attr(attr) => Ok(attr.ino),
            other => panic!("{other:?}"),
        }
    }

    pub fn try_layout(&self, ino: Ino, version: Option<VersionNo>) -> Result<Layout, ErrorCode> {
        let (first, count) = (ChunkNo(0), 64);
        let q = Query::Layout {
            ino,
            version,
            first,
            count,
        };
        match self.query(&q)? {
            QueryAnswer::Layout(layout) => Ok(layout),
            other => panic!("{other:?}"),
        }
    }

    /// Extents of a version as `(first byte, bytes, op sequence, offset in object)`.
    pub fn content(&self, ino: Ino, version: Option<VersionNo>) -> Vec<(u64, u32, u64, u32)> {
        let layout = self.try_layout(ino, version).unwrap();
        let shape = |chunk: ChunkNo, e: &Extent| {
            let start = chunk.start() + u64::from(e.start);
            (start, e.len, e.object.op.seq, e.object_offset)
        };
        let chunks = layout.chunks.iter();
        chunks
            .flat_map(|c| c.extents.iter().map(move |e| shape(c.chunk, e)))
            .collect()
    }

    /// History, newest first; empty when there is none.
    pub fn history(&self, parent: Ino, text: &str) -> Vec<VersionInfo> {
        let name = name(text);
        match self.query(&Query::History { parent, name }) {
            Ok(QueryAnswer::History(found)) => found,
            Err(ErrorCode::NotFound) => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    /// Display numbers of a name's history, newest first.
    pub fn numbers(&self, parent: Ino, text: &str) -> Vec<u64> {
        let found = self.history(parent, text);
        found.iter().map(|v| v.version.0).collect()
    }

    /// Sequences of the ops whose objects a name's versions begin with, newest first (0: empty).
    pub fn writers(&self, parent: Ino, text: &str) -> Vec<u64> {
        let found = self.history(parent, text);
        let first = |v: &VersionInfo| {
            let content = self.content(v.ino, Some(v.inode_version));
            content.first().map_or(0, |e| e.2)
        };
        found.iter().map(first).collect()
    }

    pub fn reap_orphans(&mut self) -> usize {
        let orphans = namespace::orphans(&self.kv, Ino(0), usize::MAX).unwrap();
        for ino in &orphans {
            assert!(
                self.run(OpId::default(), |ctx| namespace::reap(ctx, *ino))
                    .unwrap()
            );
        }
        orphans.len()
    }
}

pub(super) fn node(kind: FileKind) -> NewNode {
    let target: &[u8] = match kind {
        FileKind::Symlink => b"target",
        _ => b"",
    };
    NewNode {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: target.to_vec(),
    }
}

/// The prepared ranges of `len` bytes at `offset`, cut at chunks.
pub(super) fn puts(op: OpId, offset: u64, len: u32) -> Vec<PutExtent> {
    let mut puts = Vec::new();
    let (mut at, end) = (offset, offset + u64::from(len));
    while at < end {
        let chunk = ChunkNo::of(at);
        let stop = end.min(chunk.start() + CHUNK_SIZE);
        let len = (stop - at) as u32;
        let index = puts.len() as u32;
        puts.push(PutExtent {
            chunk,
            start: (at - chunk.start()) as u32,
            len,
            object: ObjectId { op, index },
            sum: ObjectSum { len, crc: 7 },
            epoch: Epoch(1),
            acks: vec![StoreId(1), StoreId(3)],
        });
        at = stop;
    }
    puts
}

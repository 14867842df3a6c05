//! The fake's master and stores.
use super::mount::FakeMount;

use crate::client::file::layout::{Applied, LayoutCache};
use crate::types::layout::CROWDED_EXTENTS;
use crate::types::{
    Attr, BlockSums, ChunkNo, ClientId, Extent, FileKind, Ino, LeaseSeq, ObjectId, ObjectSum, OpId,
    PgMap, Revision, SetTime, StoreId, Timestamp, VersionNo,
};
use crate::wire::{
    Change, Commit, ErrorCode, MutationOk, PutExtent, ReplicaRequest, ReplicaResponse, Stamp,
    WireError, WriteToken,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;

#[derive(Default)]
pub(in crate::client::file) struct Store {
    pub objects: BTreeMap<ObjectId, Bytes>,
    pub marks: BTreeMap<Ino, BTreeSet<OpId>>,
    pub clean: BTreeMap<Ino, (Revision, OpId)>,
    /// Calls to it are never answered.
    pub down: bool,
    pub full: bool,
    pub calls: u64,
}

#[derive(Clone)]
pub(in crate::client::file) struct File {
    pub layout: LayoutCache,
    pub lease: LeaseSeq,
    pub mtime: Timestamp,
    pub opens: BTreeMap<ClientId, bool>,
    pub interest: BTreeSet<ClientId>,
    /// Sizes of sealed versions, and who sealed them.
    pub sealed: Vec<(WriteToken, u64)>,
    pub versions: BTreeMap<VersionNo, LayoutCache>,
}

#[derive(Default)]
pub(in crate::client::file) struct Master {
    pub files: BTreeMap<Ino, File>,
    pub decided: BTreeMap<OpId, Result<MutationOk, WireError>>,
    pub stores: BTreeMap<StoreId, Store>,
    pub(super) mounts: BTreeMap<ClientId, Weak<FakeMount>>,
    pub queries: u64,
    pub opens: u64,
    /// It notes opens, and refuses them.
    pub refuses_opens: bool,
    /// The next open finds that the session is lost, and succeeds in the next.
    pub loses_session_at_open: bool,
    pub commits: u64,
    /// Asked for by a word of its own.
    pub seals: u64,
    pub compactions: u64,
    /// Access times that it was told, each time.
    pub accessed: Vec<Vec<(Ino, Timestamp)>>,
    /// Who has locked which file, whole.
    pub locked: BTreeMap<Ino, (ClientId, u64)>,
    pub unlocks: u64,
    /// So many unlocks are not heard of.
    pub lost_unlocks: u64,
    /// The answer to an unlock takes that long.
    pub unlock_delay: std::time::Duration,
    /// Commits before the last unlock.
    pub commits_at_unlock: Option<u64>,
    /// Every commit is refused so.
    pub refuse: Option<ErrorCode>,
    /// Notes reach the stores (else marks stay).
    pub notes: bool,
}

impl Master {
    /// A writing period has ended.
    pub(super) fn seal(&mut self, ino: Ino, token: WriteToken) {
        let size = self.attr(ino).size;
        let Some(file) = self.files.get_mut(&ino) else {
            return;
        };
        file.sealed.push((token, size));
        let version = VersionNo(file.sealed.len() as u64);
        file.versions.insert(version, file.layout.clone());
    }

    pub(super) fn attr(&self, ino: Ino) -> Attr {
        let file = &self.files[&ino];
        Attr {
            ino,
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            rdev: 0,
            size: file.layout.size,
            allocated: 0,
            atime: Timestamp::default(),
            mtime: file.mtime,
            ctime: file.mtime,
            crtime: Timestamp::default(),
            revision: file.layout.revision,
            version: VersionNo(file.sealed.len() as u64 + 1),
            lease: file.lease,
            has_xattrs: false,
        }
    }

    pub(super) fn commit(
        &mut self,
        op: OpId,
        map: &PgMap,
        commit: &Commit,
    ) -> Result<MutationOk, WireError> {
        let ino = commit.ino;
        if let Some(code) = self.refuse {
            return Err(code.into());
        }
        let w = usize::from(map.quorum.w);
        let file = self.files.get(&ino).ok_or(ErrorCode::Stale)?;
        assert!(commit.mark_acks.len() >= w);
        for id in &commit.mark_acks {
            let marks = self.stores[id].marks.get(&ino);
            assert!(
                marks.is_some_and(|m| m.contains(&op)),
                "the mark is durable"
            );
        }
        let is_compact = matches!(commit.change, Change::Compact { .. });
        if commit.lease != file.lease && !is_compact {
            return Err(ErrorCode::StaleLease.into());
        }
        let (mut applied, mut offset) = (Applied::default(), 0);
        let eof = file.layout.size;
        match &commit.change {
            Change::Write { puts } => applied.extents = self.extents(op, map, ino, puts, 0),
            Change::Append { at, puts } => {
                assert!(eof >= *at, "a mount's idea of the end is never beyond it");
                applied.extents = self.extents(op, map, ino, puts, eof - at);
                offset = eof;
            }
            Change::Replace { puts, size } => {
                applied.holes.push((0, u64::MAX));
                applied.extents = self.extents(op, map, ino, puts, 0);
                applied.size = Some(*size);
            }
            Change::Truncate { size } => {
                applied.holes.push((*size, u64::MAX));
                applied.size = Some(*size);
            }
            Change::Punch { offset, len } => applied.holes.push((*offset, offset + len)),
            Change::Extend { size } => applied.end = *size,
            Change::Restore { .. } => return Err(ErrorCode::NotSupported.into()),
            Change::Compact { put, was } => return Ok(self.compact(op, map, ino, put, was)),
        }
        for (chunk, e) in &applied.extents {
            applied.end = applied.end.max(chunk.start() + u64::from(e.start + e.len));
        }
        if let Some((chunk, e)) = applied.extents.first().filter(|_| offset == 0) {
            offset = chunk.start() + u64::from(e.start);
        }
        let file = self.files.get_mut(&ino).unwrap();
        let revision = file.layout.revision.next();
        let touched = applied.extents.last().map(|(chunk, _)| *chunk);
        let crowd =
            |layout: &LayoutCache| touched.map(|c| layout.of_chunk(c).len() / CROWDED_EXTENTS);
        let before = crowd(&file.layout);
        assert!(file.layout.apply(revision, op, &applied));
        let crowded = touched.filter(|_| crowd(&file.layout) > before);
        if let Some(SetTime::At(t)) = commit.mtime {
            file.mtime = t;
        }
        self.commits += 1;
        if self.notes {
            for store in self.stores.values_mut().filter(|s| !s.down) {
                store.clean.insert(ino, (revision, op));
                store.marks.entry(ino).or_default().remove(&op);
            }
        }
        Ok(MutationOk::Committed {
            attr: self.attr(ino),
            revision,
            offset,
            crowded,
        })
    }

    fn compact(
        &mut self,
        op: OpId,
        map: &PgMap,
        ino: Ino,
        put: &PutExtent,
        was: &[Extent],
    ) -> MutationOk {
        let (_, whole) = self
            .extents(op, map, ino, std::slice::from_ref(put), 0)
            .remove(0);
        let file = self.files.get_mut(&ino).unwrap();
        for e in file.layout.of_chunk_mut(put.chunk) {
            if was.contains(e) {
                let (start, len) = (e.start, e.len);
                *e = Extent {
                    start,
                    len,
                    object_offset: start - put.start,
                    ..whole.clone()
                };
            }
        }
        file.layout.of_chunk_mut(put.chunk).dedup_by(|b, a| {
            let joins = a.object == b.object && a.start + a.len == b.start;
            a.len += if joins { b.len } else { 0 };
            joins
        });
        file.layout.revision = file.layout.revision.next();
        file.layout.op = op;
        self.compactions += 1;
        MutationOk::Committed {
            attr: self.attr(ino),
            revision: self.files[&ino].layout.revision,
            offset: 0,
            crowded: None,
        }
    }

    fn extents(
        &self,
        op: OpId,
        map: &PgMap,
        ino: Ino,
        puts: &[PutExtent],
        shift: u64,
    ) -> Vec<(ChunkNo, Extent)> {
        let mut out = Vec::new();
        for put in puts {
            assert!(put.acks.len() >= usize::from(map.quorum.w) && put.object.op == op);
            for id in &put.acks {
                let bytes = &self.stores[id].objects[&put.object];
                let sum = BlockSums::of(bytes).object_sum(bytes.len() as u32);
                assert_eq!(sum, put.sum, "acked objects are durable");
            }
            let (pg, _) = map.of_chunk(ino, put.chunk);
            let mut at = put.chunk.start() + u64::from(put.start) + shift;
            let mut object_offset = 0;
            while object_offset < put.len {
                let chunk = ChunkNo::of(at);
                let start = (at - chunk.start()) as u32;
                let len = (put.len - object_offset).min((4 << 20) - start);
                let (object, sum) = (put.object, put.sum);
                out.push((
                    chunk,
                    Extent {
                        start,
                        len,
                        pg,
                        object,
                        object_offset,
                        sum,
                    },
                ));
                at += u64::from(len);
                object_offset += len;
            }
        }
        out
    }

    pub(super) fn replica(
        &mut self,
        to: StoreId,
        request: ReplicaRequest,
        payload: Bytes,
    ) -> Result<(ReplicaResponse, Bytes), WireError> {
        let store = self.stores.get_mut(&to).unwrap();
        store.calls += 1;
        match request {
            ReplicaRequest::Prepare {
                op,
                ino,
                mark,
                objects,
                ..
            } => {
                if store.full && !objects.is_empty() {
                    return Err(ErrorCode::NoSpace.into());
                }
                let mut at = 0;
                for object in objects {
                    if !object.has_bytes {
                        if !store.objects.contains_key(&object.id) {
                            return Err(ErrorCode::NotFound.into());
                        }
                        continue;
                    }
                    let bytes = payload.slice(at..at + object.len as usize);
                    at += object.len as usize;
                    assert!(object.sums.verify_blocks(0, &bytes));
                    store.objects.insert(object.id, bytes);
                }
                assert_eq!(at, payload.len());
                if mark.is_some() {
                    store.marks.entry(ino).or_default().insert(op);
                }
                Ok((ReplicaResponse::Prepared { store: to }, Bytes::new()))
            }
            ReplicaRequest::Read {
                object,
                offset,
                len,
                stamp,
            } => {
                let bytes = store
                    .objects
                    .get(&object)
                    .ok_or(ErrorCode::NotFound)?
                    .clone();
                let block = 65_536u32;
                let from = offset / block * block;
                let to = (offset + len).div_ceil(block).saturating_mul(block);
                let to = to.min(bytes.len() as u32);
                let sums = BlockSums::of(&bytes);
                let answer = ReplicaResponse::Read {
                    offset: from,
                    sum: ObjectSum::default(),
                    sums,
                    stamp: stamp.map(|s| Ok(store.stamp(s.ino))),
                };
                Ok((answer, bytes.slice(from as usize..to as usize)))
            }
            ReplicaRequest::Stamp(s) => {
                Ok((ReplicaResponse::Stamp(store.stamp(s.ino)), Bytes::new()))
            }
            ReplicaRequest::Drop { ops, ino } => {
                let marks = store.marks.entry(ino).or_default();
                marks.retain(|op| !ops.contains(op));
                Ok((ReplicaResponse::Dropped, Bytes::new()))
            }
            ReplicaRequest::Check { .. }
            | ReplicaRequest::Fetch { .. }
            | ReplicaRequest::Scrub { .. }
            | ReplicaRequest::Usage
            | ReplicaRequest::Look { .. }
            | ReplicaRequest::Held { .. }
            | ReplicaRequest::Stamps { .. } => Err(ErrorCode::NotSupported.into()),
        }
    }
}

impl Store {
    fn stamp(&self, ino: Ino) -> Stamp {
        let marks = self.marks.get(&ino).cloned().unwrap_or_default();
        let clean = self.clean.get(&ino).copied().unwrap_or_default();
        Stamp::Known {
            clean,
            dirty: marks.into_iter().collect(),
        }
    }
}

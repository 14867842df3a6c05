//! The extents of a file's committed content, as far as they were asked for, at one revision.
use crate::client::get::Piece;
use crate::types::layout::CHUNK_SIZE;
use crate::types::{BLOCK_SIZE, ChunkNo, Extent, ObjectId, OpId, Revision};
use crate::wire::master::Layout;
use std::collections::BTreeMap;

/// Chunks asked of the master at once.
pub(super) const CHUNKS_PER_QUERY: u32 = 64;
/// Blocks of one read request: 1 MiB, so that a window is spread over members.
const PIECE_BLOCKS: u32 = 16;

/// Extents by chunk at one revision. A chunk that is absent was not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayoutCache {
    pub revision: Revision,
    pub op: OpId,
    pub size: u64,
    chunks: BTreeMap<ChunkNo, Vec<Extent>>,
    /// Chunks, first to last, that hold nothing although they are absent: a file may have billions.
    hole: Option<(u32, u32)>,
}

/// Part of a file, and the object range that holds it (`None`: a hole).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub from: u64,
    pub to: u64,
    /// The extent, and the offset within its object of byte `from`.
    pub source: Option<(Extent, u32)>,
}

impl LayoutCache {
    /// From an answer about chunks `first..first + count`.
    pub fn new(layout: Layout, first: ChunkNo, count: u32) -> Self {
        let mut chunks = BTreeMap::new();
        for no in first.0..first.0.saturating_add(count) {
            chunks.insert(ChunkNo(no), Vec::new());
        }
        for chunk in layout.chunks {
            chunks.insert(chunk.chunk, chunk.extents);
        }
        let behind = first.0.saturating_add(count);
        let upto = layout
            .next
            .map_or(u32::MAX, |next| next.0.saturating_sub(1));
        let hole = (count > 0 && behind <= upto).then_some((behind, upto));
        let Layout {
            revision, op, size, ..
        } = layout;
        Self {
            revision,
            op,
            size,
            chunks,
            hole,
        }
    }

    /// From the layout that an open answers: the first chunks, as many as it names, and all of a
    /// file of one chunk.
    pub fn of_open(layout: Layout) -> Self {
        let count = u32::from(layout.size <= CHUNK_SIZE);
        Self::new(layout, ChunkNo::HOME, count)
    }

    /// Adds what another answer tells; another revision replaces everything.
    pub fn absorb(&mut self, other: Self) {
        if other.revision == self.revision && other.op == self.op {
            self.chunks.extend(other.chunks);
            self.hole = other.hole.or(self.hole);
        } else {
            *self = other;
        }
    }

    /// Extents of a chunk; none if it is not known.
    pub fn of_chunk(&self, chunk: ChunkNo) -> &[Extent] {
        self.chunks.get(&chunk).map_or(&[], Vec::as_slice)
    }

    #[cfg(test)]
    pub fn of_chunk_mut(&mut self, chunk: ChunkNo) -> &mut Vec<Extent> {
        self.chunks.entry(chunk).or_default()
    }

    /// The first chunk within `from..to` (and the file) that is not known.
    pub fn unknown(&self, from: u64, to: u64) -> Option<ChunkNo> {
        let to = to.min(self.size);
        if from >= to {
            return None;
        }
        let (mut no, last) = (ChunkNo::of(from).0, ChunkNo::of(to - 1).0);
        while no <= last {
            match self.hole {
                Some((a, b)) if (a..=b).contains(&no) => no = b,
                _ if self.chunks.contains_key(&ChunkNo(no)) => {}
                _ => return Some(ChunkNo(no)),
            }
            no = no.checked_add(1)?;
        }
        None
    }

    /// Maps `from..to`, which must be known, to objects and holes, ascending and without gaps.
    pub fn map(&self, from: u64, to: u64) -> Vec<Mapped> {
        let mut out = Vec::new();
        let mut at = from;
        let hole_to = |at: &mut u64, end: u64, out: &mut Vec<Mapped>| {
            if *at < end {
                out.push(Mapped {
                    from: *at,
                    to: end,
                    source: None,
                });
                *at = end;
            }
        };
        if from < to {
            let (first, last) = (ChunkNo::of(from), ChunkNo::of(to - 1));
            for (chunk, extents) in self.chunks.range(first..=last) {
                for e in extents {
                    let start = chunk.start() + u64::from(e.start);
                    let (a, b) = (start.max(from), (start + u64::from(e.len)).min(to));
                    let b = b.min(self.size);
                    if a >= b {
                        continue;
                    }
                    hole_to(&mut at, a, &mut out);
                    let skip = u32::try_from(a - start).unwrap_or(0);
                    let source = Some((e.clone(), e.object_offset + skip));
                    out.push(Mapped {
                        from: a,
                        to: b,
                        source,
                    });
                    at = b;
                }
            }
        }
        hole_to(&mut at, to, &mut out);
        out
    }

    /// The blocks of `from..to` for which `missing` says so, as pieces of at most 1 MiB.
    pub fn pieces(
        &self,
        from: u64,
        to: u64,
        mut missing: impl FnMut(ObjectId, u32) -> bool,
    ) -> Vec<Piece> {
        let mut out: Vec<Piece> = Vec::new();
        for mapped in self.map(from, to) {
            let Some((e, offset)) = mapped.source else {
                continue;
            };
            let len = u32::try_from(mapped.to - mapped.from).unwrap_or(0);
            for block in blocks(offset, len) {
                if !missing(e.object, block) {
                    continue;
                }
                let joins = |p: &&mut Piece| {
                    p.object == e.object
                        && p.first_block + p.blocks == block
                        && block % PIECE_BLOCKS != 0
                };
                match out.last_mut().filter(joins) {
                    Some(piece) => piece.blocks += 1,
                    None => out.push(Piece {
                        object: e.object,
                        pg: e.pg,
                        sum: e.sum,
                        first_block: block,
                        blocks: 1,
                    }),
                }
            }
        }
        // Two extents may lie in one block of one object.
        out.dedup_by(|b, a| a == b);
        out
    }

    /// Applies a commit of our own that made `revision` of `self.revision + 1`: the new extents,
    /// and what became holes. `false`: it does not fit, so the layout must be asked for again.
    pub fn apply(&mut self, revision: Revision, op: OpId, change: &Applied) -> bool {
        if revision != self.revision.next() {
            return false;
        }
        self.revision = revision;
        self.op = op;
        self.hole = None;
        for &(from, to) in &change.holes {
            self.cut_out(from, to);
        }
        for (chunk, extent) in &change.extents {
            let start = chunk.start() + u64::from(extent.start);
            self.cut_out(start, start + u64::from(extent.len));
            let known = self.chunks.contains_key(chunk) || chunk.start() >= self.size;
            if known {
                let list = self.chunks.entry(*chunk).or_default();
                let at = list.partition_point(|e| e.start < extent.start);
                list.insert(at, extent.clone());
            }
        }
        // Chunks between the old end and the new one are holes, or were put in above. Those far behind the
        // old end are asked for when they are needed: a file may have billions that hold nothing.
        let (old, new) = (self.size, change.size.unwrap_or(self.size.max(change.end)));
        if new > old {
            let first = old.div_ceil(CHUNK_SIZE);
            let last = ((new - 1) / CHUNK_SIZE).min(first + u64::from(CHUNKS_PER_QUERY));
            for no in first..=last {
                if let Ok(no) = u32::try_from(no) {
                    self.chunks.entry(ChunkNo(no)).or_default();
                }
            }
        }
        self.size = new;
        true
    }

    fn cut_out(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (first, last) = (ChunkNo::of(from), ChunkNo::of(to - 1));
        for (chunk, list) in self.chunks.range_mut(first..=last) {
            let cut = |at: u64| u32::try_from(at.saturating_sub(chunk.start()).min(CHUNK_SIZE));
            let (a, b) = (cut(from).unwrap_or(0), cut(to).unwrap_or(0));
            let mut kept = Vec::with_capacity(list.len() + 1);
            for e in list.drain(..) {
                let end = e.start + e.len;
                if e.start < a {
                    let len = e.len.min(a - e.start);
                    kept.push(Extent { len, ..e.clone() });
                }
                if end > b {
                    let start = e.start.max(b);
                    let object_offset = e.object_offset + (start - e.start);
                    kept.push(Extent {
                        start,
                        len: end - start,
                        object_offset,
                        ..e.clone()
                    });
                }
            }
            *list = kept;
        }
    }
}

/// What a commit of ours did.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied {
    /// Ranges that read as zeros before the extents are put in.
    pub holes: Vec<(u64, u64)>,
    /// New extents.
    pub extents: Vec<(ChunkNo, Extent)>,
    /// Absolute new size; `None`: grows to `end` if that is larger.
    pub size: Option<u64>,
    /// End of the last extent, or least size.
    pub end: u64,
}

/// Blocks that hold bytes `offset..offset + len` of an object.
pub(super) fn blocks(offset: u32, len: u32) -> std::ops::Range<u32> {
    let block = BLOCK_SIZE as u32;
    offset / block..offset.saturating_add(len).div_ceil(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ObjectSum, PgId};
    use rand::{Rng, SeedableRng};

    fn extent(start: u32, len: u32, index: u32) -> Extent {
        let object = ObjectId {
            index,
            ..ObjectId::default()
        };
        let sum = ObjectSum { len, crc: 0 };
        Extent {
            start,
            len,
            pg: PgId(0),
            object,
            object_offset: 0,
            sum,
        }
    }

    fn empty() -> LayoutCache {
        let layout = Layout {
            revision: Revision(0),
            op: OpId::default(),
            size: 0,
            chunks: vec![],
            next: None,
        };
        LayoutCache::new(layout, ChunkNo(0), 1)
    }

    #[test]
    fn own_commits_applied_locally_map_as_one_array_would() {
        for seed in 0..60u64 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let base = CHUNK_SIZE - 200;
            let mut layout = empty();
            // (object, offset in object) per byte; the file's first `base` bytes stay a hole.
            let mut model: Vec<Option<(u32, u32)>> = vec![None; 400];
            let mut size = 0u64;
            for n in 1..40u32 {
                let from = rng.random_range(0..400u64);
                let to = (from + rng.random_range(1..120u64)).min(400);
                let mut change = Applied::default();
                match rng.random_range(0..5) {
                    0 => {
                        size = base + from;
                        change = Applied {
                            holes: vec![(size, u64::MAX)],
                            size: Some(size),
                            ..change
                        };
                        model[from as usize..].fill(None);
                    }
                    1 => {
                        change.holes.push((base + from, base + to));
                        model[from as usize..to as usize].fill(None);
                    }
                    _ => {
                        let cut = to.min(200).max(from);
                        for (a, b, i) in [(from, cut, 0), (cut, to, 1)] {
                            if a >= b {
                                continue;
                            }
                            let chunk = ChunkNo::of(base + a);
                            let start = (base + a - chunk.start()) as u32;
                            let e = extent(start, (b - a) as u32, n * 2 + i);
                            change.extents.push((chunk, e));
                            for x in a..b {
                                model[x as usize] = Some((n * 2 + i, (x - a) as u32));
                            }
                        }
                        change.end = base + to;
                        size = size.max(base + to);
                    }
                }
                assert!(layout.apply(layout.revision.next(), OpId::default(), &change));
                assert_eq!(
                    (layout.size, layout.unknown(0, u64::MAX)),
                    (size, None),
                    "{seed}"
                );
                let mut at = base;
                for m in layout.map(base, base + 400) {
                    assert!(m.from == at && m.to > m.from, "seed {seed}");
                    for x in m.from..m.to {
                        let want = model[(x - base) as usize];
                        let got = m
                            .source
                            .as_ref()
                            .map(|(e, off)| (e.object.index, off + (x - m.from) as u32));
                        assert_eq!(got, want, "seed {seed} n {n} at {}", x - base);
                    }
                    at = m.to;
                }
                assert_eq!(at, base + 400);
            }
        }
    }

    #[test]
    fn regression_a_file_that_grows_to_its_greatest_size_is_known_near_its_old_end_only() {
        let mut layout = empty();
        let far = crate::types::layout::FILE_SIZE_MAX - CHUNK_SIZE;
        let change = Applied {
            extents: vec![(ChunkNo::of(far), extent(0, 100, 1))],
            end: far + 100,
            ..Applied::default()
        };
        assert!(layout.apply(Revision(1), OpId::default(), &change));
        assert!(layout.chunks.len() <= CHUNKS_PER_QUERY as usize + 2);
        assert_eq!(layout.unknown(0, 10 * CHUNK_SIZE), None);
        assert_eq!(layout.unknown(far, u64::MAX), None, "what was written");
        let asked = layout.unknown(0, u64::MAX).map(ChunkNo::start);
        assert_eq!(asked, Some((u64::from(CHUNKS_PER_QUERY) + 1) * CHUNK_SIZE));
        // What is then put into a chunk that was not asked for is left to the master.
        let change = Applied {
            extents: vec![(ChunkNo(1000), extent(0, 100, 2))],
            ..Applied::default()
        };
        assert!(layout.apply(Revision(2), OpId::default(), &change));
        assert!(
            layout
                .unknown(1000 * CHUNK_SIZE, 1001 * CHUNK_SIZE)
                .is_some()
        );
    }

    #[test]
    fn regression_what_holds_nothing_up_to_the_next_chunk_is_not_asked_for() {
        let answer = |next| Layout {
            revision: Revision(1),
            op: OpId::default(),
            size: crate::types::layout::FILE_SIZE_MAX,
            chunks: vec![],
            next,
        };
        let far = ChunkNo(3_000_000_000);
        let mut layout = LayoutCache::new(answer(Some(far)), ChunkNo(10), 64);
        assert_eq!(layout.unknown(0, 1), Some(ChunkNo(0)));
        assert_eq!(layout.unknown(ChunkNo(10).start(), u64::MAX), Some(far));
        let end = layout.size;
        layout.absorb(LayoutCache::new(answer(None), far, 64));
        assert_eq!(layout.unknown(far.start(), end), None);
        let hole = layout.map(far.start(), end);
        assert_eq!((hole.len(), hole[0].to), (1, end));
        // What this mount puts there is not taken for nothing.
        let put = ChunkNo(far.0 + 1_000);
        let change = Applied {
            extents: vec![(put, extent(0, 100, 1))],
            end: put.start() + 100,
            ..Applied::default()
        };
        assert!(layout.apply(Revision(2), OpId::default(), &change));
        assert_eq!(layout.unknown(put.start(), put.start() + 1), Some(put));
    }

    #[test]
    fn a_commit_that_skips_a_revision_does_not_fit() {
        let mut layout = empty();
        assert!(!layout.apply(Revision(2), OpId::default(), &Applied::default()));
    }

    #[test]
    fn pieces_are_whole_blocks_of_at_most_a_mebibyte_and_leave_out_what_is_cached() {
        let mut layout = empty();
        let change = Applied {
            extents: vec![(ChunkNo(0), extent(0, CHUNK_SIZE as u32, 1))],
            end: CHUNK_SIZE,
            ..Applied::default()
        };
        layout.apply(Revision(1), OpId::default(), &change);
        let all = layout.pieces(0, CHUNK_SIZE, |_, _| true);
        assert_eq!(all.iter().map(|p| p.blocks).collect::<Vec<_>>(), [16; 4]);
        let some = layout.pieces(70_000, 70_001, |_, _| true);
        assert_eq!((some.len(), some[0].first_block, some[0].blocks), (1, 1, 1));
        let rest = layout.pieces(0, 5 * 65_536, |_, b| b != 2);
        assert_eq!(
            rest.iter()
                .map(|p| (p.first_block, p.blocks))
                .collect::<Vec<_>>(),
            [(0, 2), (3, 2)]
        );
    }
}

//! From a byte range to slices of verified blocks.
//!
//! 1. A current layout for the range: the one known, while the master vouches for it; else asked.
//!    One that came with a lock is as good as one asked for in this read: no stamps are needed.
//! 2. Local changes are painted over it; what they cover is not fetched.
//! 3. Blocks come from the cache, from a fetch that is under way, or from one of our own.
//! 4. A fetch that finds the layout outdated brings the newer one, and the read starts over with it.
use super::blocks::BlockKey;
use super::error::{FileError, FileResult};
use super::get_task::{GetTask, Resolver};
use super::inode::{Inode, State};
use super::layer::FileLayer;
use super::layout::{CHUNKS_PER_QUERY, LayoutCache, blocks};
use super::plan::{Plan, Source, zeros};
use super::put_task::blocks_of;
use crate::client::get::{GetError, GetSpec, Piece, Resolved};
use crate::types::{BLOCK_SIZE, ChunkNo};
use crate::wire::{ErrorCode, WireError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Blocks gathered for one read; the cache may drop them meanwhile.
pub(super) type Blocks = BTreeMap<BlockKey, Bytes>;

/// Layouts that may change under one read before it gives up.
const ROUNDS_MAX: u32 = 16;

/// Times that a read waits for blocks others are fetching before it fetches them itself.
const SHARED_ROUNDS: u32 = 4;

/// What a read can do with what is known.
enum Step {
    /// The chunks from here on must be asked for.
    Ask(ChunkNo),
    /// The plan, and the layout for its base spans.
    Go(Plan, Option<Arc<LayoutCache>>),
}

impl FileLayer {
    /// Reads up to `len` bytes at `from`; fewer only at the end of the file.
    pub(super) async fn read(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        from: u64,
        len: u64,
    ) -> FileResult<Vec<Bytes>> {
        let mut asked: Option<Arc<LayoutCache>> = None;
        let mut got = Blocks::new();
        for _ in 0..ROUNDS_MAX {
            let step = self.step(&inode.state(), inode, asked.as_ref(), from, len);
            let (plan, layout) = match step {
                Step::Ask(first) => {
                    asked = Some(self.ask_layout(inode, first, asked.take()).await?);
                    continue;
                }
                Step::Go(plan, layout) => (plan, layout),
            };
            let (Some((a, b)), Some(layout)) = (plan.base_range(), layout) else {
                return Ok(assemble(&plan, None, &got).expect("no committed content is wanted"));
            };
            let is_current = asked.is_some() || inode.state().is_locked();
            match self
                .gather(inode, &layout, a, b, is_current, &mut got)
                .await?
            {
                Some(newer) => asked = Some(newer),
                None => {
                    if let Some(out) = assemble(&plan, Some(&layout), &got) {
                        return Ok(out);
                    }
                }
            }
        }
        let last = "the file changes faster than it can be read".to_string();
        Err(GetError::Unavailable { last }.into())
    }

    /// As [`read`](Self::read), but only from memory: `None` if anything must be asked.
    pub(super) fn read_cached(&self, inode: &Inode, from: u64, len: u64) -> Option<Vec<Bytes>> {
        let (plan, layout) = match self.step(&inode.state(), inode, None, from, len) {
            Step::Ask(_) => return None,
            Step::Go(plan, layout) => (plan, layout),
        };
        let mut got = Blocks::new();
        if let (Some((a, b)), Some(layout)) = (plan.base_range(), &layout)
            && !self.take_cached(layout, a, b, &mut got).is_empty()
        {
            return None;
        }
        assemble(&plan, layout.as_deref(), &got)
    }

    fn step(
        &self,
        state: &State,
        inode: &Inode,
        asked: Option<&Arc<LayoutCache>>,
        from: u64,
        len: u64,
    ) -> Step {
        let vouched = inode.version.is_some() || self.backend.caches_valid();
        let layout = base(state, vouched, asked);
        let pending = state.is_pending();
        let size = match layout {
            _ if pending => state.size,
            Some(layout) => layout.size,
            None => return Step::Ask(ChunkNo::of(from)),
        };
        let to = from.saturating_add(len).min(size);
        if from >= to {
            return Step::Go(Plan { spans: Vec::new() }, None);
        }
        let plan = if pending {
            state.plan(from, to)
        } else {
            Plan::new(from, to)
        };
        let Some((a, b)) = plan.base_range() else {
            return Step::Go(plan, None);
        };
        match layout {
            None => Step::Ask(ChunkNo::of(a)),
            Some(layout) => match layout.unknown(a, b) {
                Some(chunk) => Step::Ask(chunk),
                None => Step::Go(plan, Some(Arc::clone(layout))),
            },
        }
    }

    /// Asks the master for the layout from `first` on, and keeps it if nothing changed meanwhile.
    pub(super) async fn ask_layout(
        &self,
        inode: &Inode,
        first: ChunkNo,
        asked: Option<Arc<LayoutCache>>,
    ) -> FileResult<Arc<LayoutCache>> {
        let invalidations = inode.state().invalidations;
        let count = CHUNKS_PER_QUERY;
        let answer = self
            .backend
            .layout(inode.ino, inode.version, first, count)
            .await?;
        let layout = LayoutCache::new(answer, first, count);
        inode.state().learn_layout(&layout, invalidations);
        Ok(match asked {
            Some(mut before) => {
                Arc::make_mut(&mut before).absorb(layout);
                before
            }
            None => Arc::new(layout),
        })
    }

    /// Blocks of `a..b` that are in the cache go to `got`; the others are returned.
    fn take_cached(&self, layout: &LayoutCache, a: u64, b: u64, got: &mut Blocks) -> Vec<Piece> {
        layout.pieces(a, b, |object, block| {
            let key = (object, block);
            if got.contains_key(&key) {
                return false;
            }
            match self.blocks.get(&key) {
                Some(bytes) => {
                    got.insert(key, bytes);
                    false
                }
                None => true,
            }
        })
    }

    /// Brings the blocks of `a..b` into `got`. A layout is returned if it turned out to be newer
    /// than `layout`: then `got` has what the newer one wants.
    pub(super) async fn gather(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        layout: &Arc<LayoutCache>,
        a: u64,
        b: u64,
        is_current: bool,
        got: &mut Blocks,
    ) -> FileResult<Option<Arc<LayoutCache>>> {
        for round in 0..SHARED_ROUNDS + 1 {
            let had = got.len();
            let missing = self.take_cached(layout, a, b, got);
            self.stats
                .blocks_hit
                .fetch_add((got.len() - had) as u64, Ordering::Relaxed);
            if missing.is_empty() {
                return Ok(None);
            }
            let (mine, theirs, claim) = self.claim(missing, round < SHARED_ROUNDS);
            if !mine.is_empty() {
                let newer = self
                    .fetch(inode, layout, mine, (a, b), is_current, got)
                    .await;
                drop(claim);
                if let Some(newer) = newer? {
                    return Ok(Some(newer));
                }
            }
            for mut other in theirs {
                // An error means that its fetch has ended: what we are waiting for.
                let _ = other.changed().await;
            }
        }
        Ok(None)
    }

    /// Sorts pieces into those to fetch here, and those that others are fetching.
    fn claim(
        &self,
        missing: Vec<Piece>,
        share: bool,
    ) -> (Vec<Piece>, Vec<watch::Receiver<()>>, Claim<'_>) {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, receiver) = watch::channel(());
        let (mut mine, mut theirs, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for piece in missing {
            let mut run: Option<Piece> = None;
            for block in piece.first_block..piece.first_block + piece.blocks {
                let key = (piece.object, block);
                if let (Some(other), true) = (fetching.get(&key), share) {
                    theirs.push(other.clone());
                    mine.extend(run.take());
                    continue;
                }
                fetching.entry(key).or_insert_with(|| {
                    keys.push(key);
                    receiver.clone()
                });
                match &mut run {
                    Some(run) => run.blocks += 1,
                    None => {
                        run = Some(Piece {
                            first_block: block,
                            blocks: 1,
                            ..piece
                        })
                    }
                }
            }
            mine.extend(run);
        }
        let claim = Claim {
            fetching: &self.fetching,
            keys,
            _sender: sender,
        };
        (mine, theirs, claim)
    }

    async fn fetch(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        layout: &Arc<LayoutCache>,
        pieces: Vec<Piece>,
        (a, b): (u64, u64),
        is_current: bool,
        got: &mut Blocks,
    ) -> FileResult<Option<Arc<LayoutCache>>> {
        self.pg_map().await?;
        let newer = Arc::new(Mutex::new(None));
        let spec = GetSpec {
            ino: inode.ino,
            revision: layout.revision,
            op: layout.op,
            stamps: inode.version.is_none() && !is_current,
            pieces,
        };
        let task = GetTask {
            backend: Arc::clone(&self.backend),
            config: self.config.get.clone(),
            spec,
            latencies: Arc::clone(&self.latencies),
            resolver: self.resolver(inode, a, b, Arc::clone(&newer)),
        };
        let done = task.run().await?;
        let count: u64 = done.pieces.iter().map(|p| u64::from(p.0.blocks)).sum();
        self.stats.gets.fetch_add(1, Ordering::Relaxed);
        self.stats.blocks_missed.fetch_add(count, Ordering::Relaxed);
        self.stats
            .stamp_reads
            .fetch_add(u64::from(done.stamp_reads), Ordering::Relaxed);
        self.stats
            .resolves
            .fetch_add(u64::from(done.resolved), Ordering::Relaxed);
        for (piece, bytes) in &done.pieces {
            for (key, block) in blocks_of(piece, bytes) {
                self.blocks.insert(key, block.clone());
                got.insert(key, block);
            }
        }
        let newer = newer.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(newer.filter(|_| done.resolved))
    }

    fn resolver(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        a: u64,
        b: u64,
        newer: Arc<Mutex<Option<Arc<LayoutCache>>>>,
    ) -> Resolver {
        let (layer, inode) = (Arc::clone(self), Arc::clone(inode));
        Arc::new(move || {
            let (layer, inode, newer) =
                (Arc::clone(&layer), Arc::clone(&inode), Arc::clone(&newer));
            Box::pin(async move {
                let mut layout: Option<Arc<LayoutCache>> = None;
                let mut next = Some(ChunkNo::of(a));
                while let Some(first) = next {
                    let answer = layer.ask_layout(&inode, first, layout.take()).await;
                    let answer = answer.map_err(|e| match e {
                        FileError::Refused(e) => e,
                        other => WireError::new(ErrorCode::Internal, other.to_string()),
                    })?;
                    next = answer.unknown(a, b);
                    layout = Some(answer);
                }
                let layout = layout.expect("asked at least once");
                let cached = |object, block| layer.blocks.contains(&(object, block));
                let resolved = Resolved {
                    revision: layout.revision,
                    op: layout.op,
                    pieces: layout.pieces(a, b, |object, block| !cached(object, block)),
                };
                *newer.lock().unwrap_or_else(PoisonError::into_inner) = Some(layout);
                Ok(resolved)
            })
        })
    }

    /// Fetches `from..to` into the cache, if the layout says there is something to fetch.
    pub(super) fn prefetch(self: &Arc<Self>, inode: &Arc<Inode>, from: u64, to: u64) {
        let (layer, inode) = (Arc::clone(self), Arc::clone(inode));
        self.runtime.spawn(async move {
            // An error here is found again, and reported, by the read that wants the bytes.
            if let Err(error) = layer.read(&inode, from, to - from).await {
                tracing::debug!(ino = %inode.ino, %error, "read-ahead failed");
            }
        });
    }
}

/// The layout that local changes are painted over: the newer of the one known, if the master vouches for
/// it, and the one that was asked for in this very read. That lacks what a put of this mount has stored
/// since, which is not painted any more.
fn base<'a>(
    state: &'a State,
    vouched: bool,
    asked: Option<&'a Arc<LayoutCache>>,
) -> Option<&'a Arc<LayoutCache>> {
    let stored = state.attr.as_ref().map(|attr| attr.revision);
    let known = state.layout.as_ref().filter(|_| vouched);
    let asked = asked.filter(|a| stored.is_none_or(|stored| a.revision >= stored));
    match (known, asked) {
        (Some(k), Some(a)) if k.revision > a.revision => Some(k),
        (_, Some(a)) => Some(a),
        (k, None) => k,
    }
}

/// Blocks that this task fetches; when dropped, others look again.
struct Claim<'a> {
    fetching: &'a Mutex<BTreeMap<BlockKey, watch::Receiver<()>>>,
    keys: Vec<BlockKey>,
    _sender: watch::Sender<()>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            fetching.remove(key);
        }
    }
}

/// The bytes of a plan; `None` if a block is not there.
pub(super) fn assemble(
    plan: &Plan,
    layout: Option<&LayoutCache>,
    got: &Blocks,
) -> Option<Vec<Bytes>> {
    let mut out = Vec::new();
    for span in &plan.spans {
        match &span.source {
            Source::Zero => zeros(span.to - span.from, &mut out),
            Source::Local(bytes) => out.push(bytes.clone()),
            Source::Base => {
                for mapped in layout?.map(span.from, span.to) {
                    let len = mapped.to - mapped.from;
                    let Some((extent, offset)) = mapped.source else {
                        zeros(len, &mut out);
                        continue;
                    };
                    let end = offset + u32::try_from(len).ok()?;
                    for block in blocks(offset, end - offset) {
                        let bytes = got.get(&(extent.object, block))?;
                        let start = block * BLOCK_SIZE as u32;
                        let a = offset.max(start) - start;
                        let b = (end - start).min(bytes.len() as u32);
                        if a >= b {
                            return None; // Shorter than its extent says.
                        }
                        out.push(bytes.slice(a as usize..b as usize));
                    }
                }
            }
        }
    }
    let want = plan.spans.iter().map(|s| s.to - s.from).sum::<u64>();
    let have = out.iter().map(|b| b.len() as u64).sum::<u64>();
    (want == have).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::attr;
    use crate::types::{Attr, OpId, Revision};
    use crate::wire::master::Layout;

    #[test]
    fn regression_what_was_asked_before_a_put_was_decided_is_not_read_from() {
        let layout = |revision| {
            let layout = Layout {
                revision: Revision(revision),
                op: OpId::default(),
                size: revision * 100,
                chunks: Vec::new(),
                next: None,
            };
            Arc::new(LayoutCache::of_open(layout))
        };
        let (old, new) = (layout(4), layout(5));
        let mut state = State::default();
        assert!(base(&state, true, Some(&old)).is_some());
        // The put is decided while the read waits, and the masters are lost of sight.
        let stored = Attr {
            revision: Revision(5),
            ..attr(5)
        };
        state.learn_attr(&stored);
        let found = |state: &State, vouched, asked| base(state, vouched, asked).map(|l| l.revision);
        assert_eq!(found(&state, true, Some(&old)), None);
        assert_eq!(found(&state, true, Some(&new)), Some(Revision(5)));
        state.layout = Some(Arc::clone(&new));
        assert_eq!(found(&state, false, Some(&old)), None);
        assert_eq!(found(&state, true, Some(&old)), Some(Revision(5)));
        assert_eq!(found(&state, true, None), Some(Revision(5)));
    }
}

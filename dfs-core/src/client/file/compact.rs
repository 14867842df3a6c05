//! Chunks in many small pieces become one object again.
//!
//! The master keeps a row per chunk with all its extents and writes it anew at every put, so a log
//! that grows by a line and an fsync would cost more with every line. Steps, when a put hears that it
//! took a chunk past another [`CROWDED_EXTENTS`]:
//!
//! 1. Ask for the chunk's layout. Large extents at either end stay as they are.
//! 2. Read what lies between by that layout, and put it as one object under COMPACT.
//! 3. The master swaps only extents that are still as they were read, and moves no time and no version.
//!
//! So nothing stands still meanwhile, no lease is needed, nobody waits for it, and what fails is left to the
//! next put that is told.
use super::error::FileResult;
use super::inode::{Inode, State};
use super::layer::FileLayer;
use super::layout::LayoutCache;
use super::plan::Plan;
use super::put_task::{PutTask, Renew, Turn, blocks_of, whole};
use super::read::{Blocks, assemble};
use super::writeback::objects_of;
use crate::client::put::{PutChange, PutSpec};
use crate::types::layout::CROWDED_EXTENTS;
use crate::types::{BLOCK_SIZE, ChunkNo, Extent, LeaseSeq, ObjectId};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;

/// A chunk that cannot be read by then stays as it is.
const READ_MAX: Duration = Duration::from_secs(5);

/// Layouts that may change under the reading before it is given up.
const ROUNDS_MAX: u32 = 4;

/// What step 2 read.
struct Crowd {
    was: Arc<[Extent]>,
    /// Offset in the file of the first byte.
    from: u64,
    bytes: Bytes,
}

impl FileLayer {
    /// Compacts a chunk in the background.
    pub(super) fn compact(self: &Arc<Self>, inode: &Arc<Inode>, chunk: ChunkNo) {
        let (layer, inode) = (Arc::clone(self), Arc::clone(inode));
        self.runtime.spawn(async move {
            let Ok(_permit) = layer.compacting.acquire().await else {
                return; // Never closed.
            };
            let done = async {
                let read = tokio::time::timeout(READ_MAX, layer.crowd(&inode, chunk));
                match read.await {
                    Ok(Ok(Some(crowd))) => layer.put_crowd(&inode, crowd).await,
                    Ok(Err(error)) => Err(error),
                    Ok(Ok(None)) | Err(_) => Ok(()),
                }
            };
            if let Err(error) = done.await {
                tracing::debug!(ino = %inode.ino, ?chunk, %error, "not compacted");
            }
        });
    }

    /// Steps 1 and 2; `None` if there is nothing to compact (any more).
    async fn crowd(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        chunk: ChunkNo,
    ) -> FileResult<Option<Crowd>> {
        let mut layout = self.ask_layout(inode, chunk, None).await?;
        let mut got = Blocks::new();
        for _ in 0..ROUNDS_MAX {
            let was = small_ones(layout.of_chunk(chunk));
            let (Some(first), Some(last)) = (was.first(), was.last()) else {
                return Ok(None);
            };
            if gains(&was) < CROWDED_EXTENTS / 2 {
                return Ok(None);
            }
            let from = chunk.start() + u64::from(first.start);
            let to = chunk.start() + u64::from(last.start) + u64::from(last.len);
            let newer = self.gather(inode, &layout, from, to, true, &mut got);
            if let Some(newer) = newer.await? {
                layout = newer;
                continue;
            }
            if let Some(bytes) = joined(&layout, from, to, &got) {
                let was = was.into();
                return Ok(Some(Crowd { was, from, bytes }));
            }
        }
        Ok(None)
    }

    async fn put_crowd(self: &Arc<Self>, inode: &Arc<Inode>, crowd: Crowd) -> FileResult<()> {
        let (objects, bytes) = objects_of(&[(crowd.from, crowd.bytes.clone())]);
        let map = self.pg_map().await?;
        let (chunk, sum) = (objects[0].chunk, objects[0].sum);
        // What this session put before under lower op-ids is decided first: a layout's op says that.
        let change = PutChange::Compact { was: crowd.was };
        let (op, upto, about) = {
            let state = inode.state();
            let about = self.about(inode.ino, &state, &change);
            (self.backend.begin_op(), state.next_flight, about)
        };
        let spec = PutSpec {
            op: op.op(),
            ino: inode.ino,
            lease: LeaseSeq::default(),
            token: self.next_token(),
            change,
            mtime: None,
            renews: false,
            kill_suid: false,
            base: None,
            objects,
            about,
            more: false,
        };
        let waiting = Arc::clone(inode);
        let before = move |s: &State| s.flights.iter().all(|f| f.seq >= upto);
        let turn: Turn =
            Box::new(move || Box::pin(async move { waiting.wait_until(before).await }));
        let renew: Renew = Box::new(|| Box::pin(async { None }));
        let task = PutTask {
            ends: None,
            leisure: None,
            backend: Arc::clone(&self.backend),
            config: self.config.put.clone(),
            spec,
            bytes,
            sessions: self.sessions.subscribe(),
            turn,
            renew,
            feed: None,
            stored: None,
        };
        let done = task.run().await?;
        let object = ObjectId {
            op: op.op(),
            index: 0,
        };
        let whole = whole(object, map.of_chunk(inode.ino, chunk).0, sum);
        for (key, block) in blocks_of(&whole, &crowd.bytes) {
            self.blocks.insert(key, block);
        }
        let mut state = inode.state();
        // The kernel's pages have the same bytes.
        state.learn_own(done.revision);
        if state
            .layout
            .as_ref()
            .is_some_and(|l| l.revision < done.revision)
        {
            state.invalidate();
        }
        state.learn_attr(&done.attr);
        Ok(())
    }
}

/// Without the extents at either end that are large enough.
fn small_ones(extents: &[Extent]) -> Vec<Extent> {
    let is_small = |e: &Extent| (e.len as usize) < BLOCK_SIZE;
    let first = extents.iter().position(is_small);
    let last = extents.iter().rposition(is_small);
    match (first, last) {
        (Some(first), Some(last)) => extents[first..=last].to_vec(),
        _ => Vec::new(),
    }
}

/// By how many extents a row becomes shorter when these lie in one object: holes stay.
fn gains(extents: &[Extent]) -> usize {
    let joins = |pair: &&[Extent]| pair[0].start + pair[0].len == pair[1].start;
    extents.windows(2).filter(joins).count()
}

/// The bytes of `from..to`; `None` if a block is not there.
fn joined(layout: &LayoutCache, from: u64, to: u64, got: &Blocks) -> Option<Bytes> {
    let pieces = assemble(&Plan::new(from, to), Some(layout), got)?;
    let mut bytes = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|p| bytes.extend_from_slice(p));
    Some(bytes.freeze())
}

//! Chunks in many small pieces are written whole.
//!
//! The master keeps a row per chunk with all its extents and writes it anew at every put, so a log
//! that grows by a line and an fsync would cost more with every line. Steps, for a buffered write to
//! a chunk that has more than [`FileConfig::extents_max`](super::FileConfig) extents: wait for the
//! puts before; read the chunk as the program sees it; put all of it as one object.
//!
//! Only while nobody else may write the file: what is read and written again cannot change in
//! between, and a lease lost meanwhile refuses the put.
use super::inode::{Cut, Inode};
use super::layer::FileLayer;
use crate::client::put::PutChange;
use crate::types::ChunkNo;
use crate::types::layout::CHUNK_SIZE;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A chunk that cannot be read by then is written in part.
const READ_MAX: Duration = Duration::from_secs(5);

impl FileLayer {
    /// Puts whole chunks in the place of parts of chunks that have too many extents.
    pub(super) async fn widen(self: &Arc<Self>, inode: &Arc<Inode>, cut: &mut Cut) {
        let chunks = self.fragmented(inode, cut);
        if chunks.is_empty() {
            return;
        }
        let seq = cut.flight.seq;
        inode
            .wait_until(|s| s.flights.front().is_none_or(|f| f.seq >= seq))
            .await;
        for chunk in chunks {
            let read = tokio::time::timeout(READ_MAX, self.whole(inode, cut, chunk));
            if let Ok(Some(bytes)) = read.await {
                cut.ranges.retain(|(at, _)| ChunkNo::of(*at) != chunk);
                cut.ranges.push((chunk.start(), bytes));
            }
        }
        cut.ranges.sort_unstable_by_key(|(at, _)| *at);
    }

    fn fragmented(&self, inode: &Inode, cut: &Cut) -> BTreeSet<ChunkNo> {
        let state = inode.state();
        let Some(layout) = state.layout.as_ref() else {
            return BTreeSet::new();
        };
        if !cut.latch || cut.change != PutChange::Write || !state.may_buffer() {
            return BTreeSet::new();
        }
        let too_many = |chunk: &ChunkNo| layout.extents(*chunk) > self.config.extents_max;
        let touched = cut.ranges.iter().map(|(at, _)| ChunkNo::of(*at));
        touched.filter(too_many).collect()
    }

    /// The chunk's bytes; `None` if they cannot be had, or the file is about to be cut.
    async fn whole(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cut: &Cut,
        chunk: ChunkNo,
    ) -> Option<Bytes> {
        let (from, limit) = (chunk.start(), chunk.start() + CHUNK_SIZE);
        let ends = cut
            .ranges
            .iter()
            .filter(|(at, _)| ChunkNo::of(*at) == chunk);
        let end = ends.map(|(at, bytes)| at + bytes.len() as u64).max()?;
        let committed = {
            let state = inode.state();
            if state.replace.is_some() {
                return None;
            }
            state.layout.as_ref()?.size
        };
        let to = end.max(committed.min(limit));
        if to > limit {
            return None; // A range goes on into the next chunk.
        }
        let pieces = self.read(inode, from, to - from).await.ok()?;
        let mut bytes = BytesMut::with_capacity(usize::try_from(to - from).ok()?);
        pieces.iter().for_each(|p| bytes.extend_from_slice(p));
        (bytes.len() as u64 == to - from).then(|| bytes.freeze())
    }
}

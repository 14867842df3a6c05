//! Bytes written and not yet put: merged ranges per chunk, copied in once.
use crate::types::layout::CHUNK_SIZE;
use crate::types::{ChunkNo, Time};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Bytes of the first allocation for a range; it grows fourfold, to a chunk at most.
const FIRST_ALLOC: usize = 64 * 1024;
/// A range that reached its chunk's end is put at once if it is at least this long.
const COMPLETE_MIN: usize = 1 << 20;

/// Dirty ranges of one chunk by start; they neither overlap nor touch.
type Ranges = BTreeMap<u32, BytesMut>;

/// Dirty bytes of one file.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    chunks: BTreeMap<ChunkNo, Ranges>,
    bytes: u64,
    /// When the oldest of them was written.
    since: Option<Time>,
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn since(&self) -> Option<Time> {
        self.since
    }

    /// Buffers `data`; returns the bytes by which the buffer grew.
    pub fn write(&mut self, now: Time, mut offset: u64, mut data: &[u8]) -> u64 {
        let before = self.bytes;
        while !data.is_empty() {
            let chunk = ChunkNo::of(offset);
            let start = offset - chunk.start();
            let room = usize::try_from(CHUNK_SIZE - start).unwrap_or(usize::MAX);
            let (now_data, rest) = data.split_at(data.len().min(room));
            let ranges = self.chunks.entry(chunk).or_default();
            self.bytes += write_range(ranges, u32::try_from(start).unwrap_or(0), now_data);
            offset += now_data.len() as u64;
            data = rest;
        }
        self.since.get_or_insert(now);
        self.bytes - before
    }

    /// True once a stream of writes has reached the end of this chunk.
    pub fn is_complete(&self, chunk: ChunkNo) -> bool {
        let Some(ranges) = self.chunks.get(&chunk) else {
            return false;
        };
        let last = ranges.last_key_value();
        ranges.len() == 1
            && last.is_some_and(|(start, b)| {
                *start as u64 + b.len() as u64 == CHUNK_SIZE && b.len() >= COMPLETE_MIN
            })
    }

    /// Takes the ranges of one chunk, or of all, ascending by file offset.
    pub fn cut(&mut self, only: Option<ChunkNo>) -> Vec<(u64, Bytes)> {
        let taken = match only {
            Some(chunk) => self.chunks.remove_entry(&chunk).into_iter().collect(),
            None => std::mem::take(&mut self.chunks),
        };
        let mut out = Vec::new();
        for (chunk, ranges) in taken {
            for (start, bytes) in ranges {
                self.bytes -= bytes.len() as u64;
                out.push((chunk.start() + u64::from(start), bytes.freeze()));
            }
        }
        if self.chunks.is_empty() {
            self.since = None;
        }
        out
    }

    /// Calls `with` for each dirty part of `from..to`: file offset and bytes.
    pub fn overlay(&self, from: u64, to: u64, mut with: impl FnMut(u64, &[u8])) {
        let (first, last) = (ChunkNo::of(from), ChunkNo::of(to.saturating_sub(1)));
        if from >= to {
            return;
        }
        for (chunk, ranges) in self.chunks.range(first..=last) {
            for (start, bytes) in ranges {
                let at = chunk.start() + u64::from(*start);
                let (a, b) = (from.max(at), to.min(at + bytes.len() as u64));
                if a < b {
                    with(a, &bytes[(a - at) as usize..(b - at) as usize]);
                }
            }
        }
    }
}

/// Merges `data` at `start` into the ranges; returns the bytes by which they grew.
fn write_range(ranges: &mut Ranges, start: u32, data: &[u8]) -> u64 {
    let touching = ranges.range(..=start).next_back();
    let touching = touching.filter(|(k, b)| **k as usize + b.len() >= start as usize);
    let base = touching.map_or(start, |(k, _)| *k);
    let mut buf = ranges.remove(&base).unwrap_or_default();
    let mut grown = 0usize;
    let at = (start - base) as usize;
    let over = data.len().min(buf.len() - at);
    buf[at..at + over].copy_from_slice(&data[..over]);
    if over < data.len() {
        let limit = CHUNK_SIZE as usize - base as usize;
        reserve(&mut buf, data.len() - over, limit);
        buf.extend_from_slice(&data[over..]);
        grown += data.len() - over;
    }
    // What follows and now overlaps or touches becomes part of this range.
    while let Some((&next, _)) = ranges.range(base..).next() {
        let end = base as usize + buf.len();
        if next as usize > end {
            break;
        }
        let other = ranges.remove(&next).unwrap_or_default();
        let covered = (end - next as usize).min(other.len());
        grown -= covered;
        buf.extend_from_slice(&other[covered..]);
    }
    ranges.insert(base, buf);
    grown as u64
}

fn reserve(buf: &mut BytesMut, more: usize, limit: usize) {
    let need = buf.len() + more;
    if need > buf.capacity() {
        let target = need
            .max(FIRST_ALLOC.min(limit))
            .max((buf.capacity() * 4).min(limit));
        buf.reserve(target - buf.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn random_writes_read_back_as_one_array_would() {
        for seed in 0..40u64 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let base = CHUNK_SIZE - 300;
            let (mut dirty, mut model) = (Dirty::default(), vec![None; 600]);
            let mut held = 0;
            for n in 0..60u8 {
                let at = rng.random_range(0..600usize);
                let len = rng.random_range(1..=(600 - at).min(90));
                held += dirty.write(Time(5), base + at as u64, &vec![n; len]);
                model[at..at + len].fill(Some(n));
            }
            let mut seen = vec![None; 600];
            dirty.overlay(base, base + 600, |at, bytes| {
                for (i, b) in bytes.iter().enumerate() {
                    seen[(at - base) as usize + i] = Some(*b);
                }
            });
            assert_eq!(seen, model, "seed {seed}");
            let cut = dirty.cut(None);
            assert_eq!(
                held,
                cut.iter().map(|c| c.1.len() as u64).sum::<u64>(),
                "seed {seed}"
            );
            let apart = cut.windows(2).all(|w| {
                let end = w[0].0 + w[0].1.len() as u64;
                end < w[1].0 || (end == w[1].0 && end == CHUNK_SIZE)
            });
            assert!(
                apart && dirty.is_empty() && dirty.since().is_none(),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn a_stream_completes_its_chunk_and_a_small_write_at_the_end_does_not() {
        let mut dirty = Dirty::default();
        let piece = vec![1u8; 1 << 20];
        for i in 0..4u64 {
            assert!(!dirty.is_complete(ChunkNo(0)));
            dirty.write(Time(1), i << 20, &piece);
        }
        assert!(dirty.is_complete(ChunkNo(0)));
        assert_eq!(dirty.cut(Some(ChunkNo(0))).len(), 1);
        dirty.write(Time(1), CHUNK_SIZE * 2 - 100, &[1; 100]);
        assert!(!dirty.is_complete(ChunkNo(1)));
    }
}

//! How a file's bytes map to chunks, objects and placement groups. Part of the format.
use super::{Epoch, Ino, LogIndex, ObjectId, ObjectSum, PgId, QuorumSizes, StoreId};
use serde::{Deserialize, Serialize};

/// Bytes of a chunk; chunks are aligned to it. No object is longer.
pub const CHUNK_SIZE: u64 = 4 << 20;

/// Objects up to this many bytes live in the store's table, larger ones in files.
pub const SMALL_OBJECT_MAX: u32 = 64 * 1024;

/// The master keeps a chunk's extents in one row and writes it anew at every put: whenever a put takes
/// it past a multiple of this many, the mount that did it is told to compact the chunk.
pub const CROWDED_EXTENTS: usize = 512;

/// Index of a chunk within its file: `offset / CHUNK_SIZE`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct ChunkNo(pub u32);

impl ChunkNo {
    /// The home chunk, whose PG keeps the inode's stamps.
    pub const HOME: Self = Self(0);

    /// The chunk that holds the byte at `offset`.
    #[must_use]
    pub fn of(offset: u64) -> Self {
        Self(u32::try_from(offset / CHUNK_SIZE).unwrap_or(u32::MAX))
    }

    /// Offset of the chunk's first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        u64::from(self.0) * CHUNK_SIZE
    }
}

/// Largest file size: every chunk number fits a `u32`.
pub const FILE_SIZE_MAX: u64 = (u32::MAX as u64) * CHUNK_SIZE;

/// The placement group of a chunk. Fixed for ever: FORMAT.
///
/// splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over inode and chunk, modulo `pgs`.
#[must_use]
pub fn pg_of(ino: Ino, chunk: ChunkNo, pgs: u16) -> PgId {
    let mut z = ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(chunk.0) << 1 | 1);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    PgId((z % u64::from(pgs.max(1))) as u16)
}

/// A byte range of a chunk that lives in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte, relative to the chunk's start.
    pub start: u32,
    /// Bytes; `start + len <= CHUNK_SIZE`, never 0.
    pub len: u32,
    /// The placement group whose members hold the object.
    pub pg: PgId,
    /// The object.
    pub object: ObjectId,
    /// Where the range begins within the object.
    pub object_offset: u32,
    /// Identity of the whole object's bytes.
    pub sum: ObjectSum,
}

/// State of a placement group's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PgPhase {
    /// Serves. All members complete.
    Active,
    /// A new epoch was begun; old members are being fenced, nothing serves.
    Fencing,
    /// Serves; some members are still being filled.
    Copying,
}

/// One placement group as clients and stores know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgInfo {
    /// Configuration number.
    pub epoch: Epoch,
    /// Members, at most N, distinct stores.
    pub members: Vec<StoreId>,
    /// The members that are not yet filled (a subset of `members`).
    pub filling: Vec<StoreId>,
    /// Members of earlier epochs that still hold data, a read-only source until CLEAN.
    pub prior: Vec<StoreId>,
    /// Phase.
    pub phase: PgPhase,
}

/// All placement groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgMap {
    /// Log index of the last change; a larger one is newer.
    pub version: LogIndex,
    /// Quorum sizes of the cluster.
    pub quorum: QuorumSizes,
    /// Index = [`PgId`]; length is the cluster's `pgs`.
    pub pgs: Vec<PgInfo>,
}

impl PgMap {
    /// The PG of a chunk, and its number.
    #[must_use]
    pub fn of_chunk(&self, ino: Ino, chunk: ChunkNo) -> (PgId, Option<&PgInfo>) {
        let pg = pg_of(
            ino,
            chunk,
            u16::try_from(self.pgs.len()).unwrap_or(u16::MAX),
        );
        (pg, self.pgs.get(usize::from(pg.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placement_hash_is_fixed_and_even() {
        let mut count = vec![0u32; 256];
        for ino in 1..=25_600 {
            count[usize::from(pg_of(Ino(ino), ChunkNo(0), 256).0)] += 1;
        }
        assert!(count.iter().all(|&c| (50..160).contains(&c)), "{count:?}");
        assert_ne!(
            pg_of(Ino(5), ChunkNo(0), 256),
            pg_of(Ino(5), ChunkNo(1), 256)
        );
    }
}

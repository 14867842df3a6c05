//! What may be true of the files: every put, what became of it, and what every get returned.
//!
//! Checked at once: a get returns a revision at least as new as any acknowledged or returned before
//! it began; the bytes are those that the named put wrote; a revision has one put, a put one
//! revision; what was reported as not applied is never seen. At the end, when all is known, contents are
//! checked ([`super::contents`]).
use super::leases::Leases;
use super::linear::History;
use super::reading::Readings;
use bytes::Bytes;
use dfs_core::types::{ChunkNo, Ino, ObjectId, OpId, Revision};
use std::collections::BTreeMap;

/// Bytes of a slot: puts write whole slots.
pub(super) const SLOT: u32 = 1024;
/// Slots of a chunk that are used.
pub(super) const SLOTS: u32 = 72;
/// Chunks that are used.
pub(super) const CHUNKS: u32 = 2;

/// A range of slots that one object fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub chunk: ChunkNo,
    pub first: u32,
    pub count: u32,
}

impl Range {
    fn end(&self) -> u64 {
        self.chunk.start() + u64::from((self.first + self.count) * SLOT)
    }
}

/// What a put does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Write(Vec<Range>),
    Replace(Vec<Range>),
    Truncate(u64),
}

impl Shape {
    pub fn ranges(&self) -> &[Range] {
        match self {
            Self::Write(ranges) | Self::Replace(ranges) => ranges,
            Self::Truncate(_) => &[],
        }
    }

    /// Where the content ends that it writes.
    pub fn end(&self) -> u64 {
        self.ranges().iter().map(Range::end).max().unwrap_or(0)
    }
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    Applied(Revision),
    /// It was not applied and never will be.
    Never,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Put {
    pub ino: Ino,
    pub shape: Shape,
    pub fate: Fate,
}

/// Which object fills a slot, and where in it the slot begins.
pub(super) type Content = BTreeMap<(ChunkNo, u32), (ObjectId, u32)>;

/// What a get returned.
#[derive(Debug)]
pub(super) struct Seen {
    pub ino: Ino,
    pub revision: Revision,
    pub size: u64,
    pub content: Content,
}

#[derive(Debug, Default)]
pub(super) struct File {
    floor: Revision,
    /// The puts that are known to have made revisions.
    pub made: BTreeMap<Revision, OpId>,
}

/// How much a run did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Puts acknowledged.
    pub puts: u64,
    /// Puts reported as not applied.
    pub puts_failed: u64,
    /// Puts of unknown outcome.
    pub puts_unknown: u64,
    /// Gets that returned bytes.
    pub gets: u64,
    /// Of those, proved by stamps without asking the master.
    pub by_stamps: u64,
    /// Gets that failed.
    pub gets_failed: u64,
    /// Namespace operations.
    pub names: u64,
    /// Of those, lookups answered from a client's cache.
    pub cached: u64,
    /// Of those, of unknown outcome.
    pub names_unknown: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Partitions and cuts.
    pub cuts: u64,
    /// Changes of the leader.
    pub leaders: u64,
    /// Sessions that expired.
    pub sessions_lost: u64,
    /// Placement epochs begun after creation.
    pub epochs: u64,
    /// Histories too long for a verdict.
    pub undecided: u64,
    /// Stores wiped.
    pub wipes: u64,
    /// Objects of which a byte rotted.
    pub rotten: u64,
    /// Clients that died.
    pub deaths: u64,
    /// Directories moved.
    pub moves: u64,
    /// Versions that files had at the end.
    pub versions: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.puts += other.puts;
        self.puts_failed += other.puts_failed;
        self.puts_unknown += other.puts_unknown;
        self.gets += other.gets;
        self.by_stamps += other.by_stamps;
        self.gets_failed += other.gets_failed;
        self.names += other.names;
        self.cached += other.cached;
        self.names_unknown += other.names_unknown;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.leaders += other.leaders;
        self.sessions_lost += other.sessions_lost;
        self.epochs += other.epochs;
        self.undecided += other.undecided;
        self.wipes += other.wipes;
        self.rotten += other.rotten;
        self.deaths += other.deaths;
        self.moves += other.moves;
        self.versions += other.versions;
    }
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub names: History,
    pub leases: Leases,
    pub counts: Counts,
    /// Directories made for the run.
    pub dirs: Vec<Ino>,
    /// Directories that move into one another.
    pub moving: Vec<Ino>,
    /// Space was short, so old versions may be gone.
    pub may_forget: bool,
    /// Files that were created, newest last.
    pub created: Vec<Ino>,
    /// The workload goes on.
    pub is_busy: bool,
    /// Faults are over; little is done until all is well.
    pub is_calm: bool,
    /// Since when everything must work, if it must.
    pub must_work: bool,
    /// What is read at the end.
    pub readings: Readings,
    /// Puts of a file that lost their lease one after the other.
    pub stale_leases: BTreeMap<Ino, u32>,
    pub puts: BTreeMap<OpId, Put>,
    pub revisions: BTreeMap<Ino, File>,
    pub seen: Vec<Seen>,
}

/// Bytes of an object: nobody else's, and cheap.
pub(super) fn bytes_of(object: ObjectId, len: u32) -> Bytes {
    let key = (object.op.client.0 >> 64) as u64 ^ object.op.client.0 as u64;
    let mut word = key ^ object.op.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = word.wrapping_add(u64::from(object.index) << 56 | 0x5bd1);
    let mut bytes = Vec::with_capacity(len as usize);
    while bytes.len() < len as usize {
        word = word
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(word ^ word >> 29).to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes.into()
}

impl Oracle {
    pub fn put_begins(&mut self, op: OpId, ino: Ino, shape: Shape) {
        self.puts.insert(
            op,
            Put {
                ino,
                shape,
                fate: Fate::Open,
            },
        );
    }

    /// The newest revision that anybody was told of.
    pub fn floor(&self, ino: Ino) -> Revision {
        self.revisions
            .get(&ino)
            .map_or(Revision(0), |file| file.floor)
    }

    pub fn put_ends(&mut self, op: OpId, floor: Revision, fate: Fate) -> Result<(), String> {
        match fate {
            Fate::Applied(_) => self.counts.puts += 1,
            Fate::Never => self.counts.puts_failed += 1,
            Fate::Unknown | Fate::Open => self.counts.puts_unknown += 1,
        }
        let put = self.puts.get_mut(&op).expect("begun before");
        let ino = put.ino;
        let was_seen = matches!(put.fate, Fate::Applied(_));
        if fate == Fate::Never && was_seen {
            return Err(format!(
                "put {op} of inode {ino} was read, but reported as not applied"
            ));
        }
        if !was_seen {
            put.fate = fate;
        }
        match fate {
            Fate::Applied(revision) if revision <= floor => Err(format!(
                "put {op} of inode {ino} got revision {revision}, but {floor} was known before"
            )),
            Fate::Applied(revision) => self.made(ino, revision, op),
            _ => Ok(()),
        }
    }

    /// `op` made this revision of the inode.
    fn made(&mut self, ino: Ino, revision: Revision, op: OpId) -> Result<(), String> {
        if revision.0 == 0 {
            return Ok(());
        }
        let file = self.revisions.entry(ino).or_default();
        file.floor = file.floor.max(revision);
        let first = *file.made.entry(revision).or_insert(op);
        if first != op {
            return Err(format!(
                "revision {revision} of inode {ino}: made by {first} and by {op}"
            ));
        }
        let Some(put) = self.puts.get_mut(&op) else {
            return Err(format!(
                "inode {ino}: revision {revision} was made by unheard-of {op}"
            ));
        };
        match put.fate {
            Fate::Applied(known) if known != revision => Err(format!(
                "put {op} of inode {ino} made revisions {known} and {revision}"
            )),
            Fate::Never => Err(format!(
                "put {op} of inode {ino} was reported as not applied"
            )),
            _ => {
                put.fate = Fate::Applied(revision);
                Ok(())
            }
        }
    }

    /// A get returned this. `floor` is what was known when it began.
    pub fn got(
        &mut self,
        (ino, floor): (Ino, Revision),
        (revision, op, size): (Revision, OpId, u64),
        content: Content,
    ) -> Result<(), String> {
        self.counts.gets += 1;
        if revision < floor {
            return Err(format!(
                "stale read of inode {ino}: revision {revision}, but {floor} was known before"
            ));
        }
        self.made(ino, revision, op)?;
        self.seen.push(Seen {
            ino,
            revision,
            size,
            content,
        });
        Ok(())
    }

    /// The inode and chunk that an object was written for.
    pub fn place_of(&self, object: ObjectId) -> Option<(Ino, ChunkNo)> {
        let put = self.puts.get(&object.op)?;
        let range = put.shape.ranges().get(object.index as usize)?;
        Some((put.ino, range.chunk))
    }

    /// Files that a run should read back at the end, with the newest revision known.
    pub fn files(&self) -> impl Iterator<Item = Ino> {
        self.revisions.keys().copied()
    }
}

//! Clients and peers to a replica store.
use super::scrub::ScrubStatus;
use crate::types::{
    BlockSums, ChunkNo, Epoch, Ino, LogIndex, ObjectAbout, ObjectId, ObjectSum, OpId, PgId,
    PutAbout, Revision, StoreId,
};
use serde::{Deserialize, Serialize};

/// What a replica knows of an inode's content. "Unknown" is a variant of its own: a reader treats
/// it like dirty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Stamp {
    /// Not told yet (a member that is being filled).
    #[default]
    Unknown,
    /// The newest committed put it was told of, and the puts it has marks for.
    Known {
        /// Revision and op-id of the newest commit told; `(0, default)` if none.
        clean: (Revision, OpId),
        /// In-flight marks, ascending.
        dirty: Vec<OpId>,
    },
}

/// "Op X on inode I is in flight", for the inode's home PG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRequest {
    /// The home PG.
    pub pg: PgId,
    /// The epoch the client believes in.
    pub epoch: Epoch,
}

/// One object of a PREPARE; its bytes are in the payload, in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareObject {
    /// Its name.
    pub id: ObjectId,
    /// The chunk it was cut from.
    pub chunk: ChunkNo,
    /// The chunk's PG.
    pub pg: PgId,
    /// The epoch the client believes in.
    pub epoch: Epoch,
    /// Bytes.
    pub len: u32,
    /// One CRC per block.
    pub sums: BlockSums,
    /// False when only asking whether the member already holds it (a PREPARE repeated under a new
    /// epoch): no bytes in the payload; a member without the object answers `NotFound`.
    pub has_bytes: bool,
}

/// What a client says of its put: kept with the objects, for the day when no master is left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrepareAbout {
    /// The put.
    pub put: PutAbout,
    /// First byte of each object relative to its chunk, in the order of the list.
    pub starts: Vec<u32>,
}

/// A stamp wanted along with a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampRequest {
    /// The inode.
    pub ino: Ino,
    /// Its home PG.
    pub pg: PgId,
    /// The epoch the client believes in.
    pub epoch: Epoch,
}

/// A request to a replica store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaRequest {
    /// Makes objects and mark durable, together, then acks. Idempotent by op-id.
    Prepare {
        /// X.
        op: OpId,
        /// The inode.
        ino: Ino,
        /// Present when this store is asked to keep the mark.
        mark: Option<MarkRequest>,
        /// May be empty (a truncate leaves only a mark).
        objects: Vec<PrepareObject>,
        /// For the objects' headers.
        about: Option<Box<PrepareAbout>>,
    },
    /// Bytes of an object, verified by the store before it sends them, in whole blocks.
    Read {
        /// The object.
        object: ObjectId,
        /// First byte wanted; rounded down to a block by the store.
        offset: u32,
        /// Bytes wanted; the end is rounded up to a block or the object's end.
        len: u32,
        /// The reader's inode stamp, if this store shall answer it too.
        stamp: Option<StampRequest>,
    },
    /// Only a stamp.
    Stamp(StampRequest),
    /// The client has abandoned these ops (decided at the master): marks and objects may go.
    Drop {
        /// Abandoned op-ids.
        ops: Vec<OpId>,
        /// Of this inode.
        ino: Ino,
    },
    /// Verifies objects on disk: for `where` and for repair.
    Check {
        /// At most 4096.
        objects: Vec<ObjectId>,
    },
    /// Space and counts of this store.
    Usage,
    /// All bytes of an object with what its header says: for another store's copy.
    Fetch {
        /// The object.
        object: ObjectId,
    },
    /// How the scrub is; with `start`, a quick pass over everything begins first.
    Scrub {
        /// Begin a pass now.
        start: bool,
    },
    /// What is known of these objects, without reading their bytes.
    Look {
        /// At most 4096.
        objects: Vec<ObjectId>,
    },
    /// All objects held or listed, in the order of their ids.
    Held {
        /// Objects after this one.
        after: Option<ObjectId>,
        /// At most.
        limit: u32,
    },
    /// Stamps of a group, and all its marks.
    Stamps {
        /// The group.
        pg: PgId,
        /// Inodes after this one.
        after: Option<Ino>,
        /// Stamps at most.
        limit: u32,
    },
}

/// What a store knows of an object without reading its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldObject {
    /// The object.
    pub id: ObjectId,
    /// It is on its list: group, inode, chunk and identity.
    pub row: Option<(PgId, Ino, ChunkNo, ObjectSum)>,
    /// Its bytes are there, with this header: inode, chunk and identity.
    pub header: Option<(Ino, ChunkNo, ObjectSum)>,
    /// Its batch is not durable yet.
    pub is_new: bool,
}

/// Stamps and marks of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StampPage {
    /// Newest commit told, by inode, ascending.
    pub stamps: Vec<(Ino, Revision, OpId)>,
    /// Marks, the same in every page.
    pub marks: Vec<(Ino, OpId)>,
    /// Notes up to here have been applied.
    pub cursor: LogIndex,
    /// No stamps are behind these.
    pub is_last: bool,
}

/// One object as [`ReplicaRequest::Check`] found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckState {
    /// Present, all blocks match.
    Good(ObjectSum),
    /// Present, damaged.
    Damaged,
    /// Not held.
    Missing,
}

/// An answer of a replica store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaResponse {
    /// Durable on this store, under a serving lease and the epochs asked.
    Prepared {
        /// Who acks.
        store: StoreId,
    },
    /// Payload: whole blocks starting at `offset`.
    Read {
        /// Block-aligned offset of the payload's first byte.
        offset: u32,
        /// Identity of the whole object, as the store knows it.
        sum: ObjectSum,
        /// All block sums of the object.
        sums: BlockSums,
        /// As asked; `Err` in words when the stamp was refused (wrong epoch, no lease).
        stamp: Option<Result<Stamp, super::WireError>>,
    },
    /// A stamp.
    Stamp(Stamp),
    /// Done.
    Dropped,
    /// In the order asked.
    Checked(Vec<CheckState>),
    /// Space and counts.
    Usage(StoreUsage),
    /// Payload: all bytes of the object, verified.
    Fetched {
        /// All block sums of the object.
        sums: BlockSums,
        /// What its header says of the file.
        about: Option<Box<ObjectAbout>>,
    },
    /// How the scrub is.
    Scrub(Box<ScrubStatus>),
    /// To `Look`, in the order asked, and `Held`; true if none are behind these.
    Held(Vec<HeldObject>, bool),
    /// To `Stamps`.
    Stamps(StampPage),
}

/// Space and counts of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreUsage {
    /// Its uuid.
    pub store: StoreId,
    /// Device size in bytes.
    pub total_bytes: u64,
    /// Bytes that may still be written to it now.
    pub free_bytes: u64,
    /// Bytes of objects held.
    pub used_bytes: u64,
    /// Objects held.
    pub objects: u64,
    /// Bytes of deleted objects that rest; they are neither among those free now nor among those used.
    pub quarantine_bytes: u64,
    /// How many objects those are.
    pub quarantine_objects: u64,
    /// Marks in flight.
    pub marks: u64,
    /// Stamp reads answered since start.
    pub stamp_reads: u64,
    /// Object reads answered since start.
    pub object_reads: u64,
    /// Prepares acknowledged since start.
    pub prepares: u64,
    /// fdatasyncs done since start.
    pub syncs: u64,
    /// It saw an I/O error and acknowledges nothing.
    pub failed: bool,
    /// What the bytes of objects are for.
    pub held: HeldBytes,
}

/// Bytes of the objects that a store holds, as its rows say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeldBytes {
    /// Of objects on its list, by group, ascending.
    pub groups: Vec<(PgId, u64)>,
    /// Of these, what lies in the tables and not in files.
    pub in_tables: u64,
    /// Of snapshots of the namespace.
    pub namespace: u64,
    /// Of these, what lies in the tables.
    pub namespace_in_tables: u64,
    /// Of deleted objects that rest, which are on no list: what lies in the tables.
    pub quarantine_in_tables: u64,
    /// Nothing has changed since `groups` was counted.
    pub is_current: bool,
}

//! Vocabulary shared by every layer: identities, counters, time, names, attributes, layout.
pub mod about;
pub mod attr;
pub mod checksum;
pub mod counters;
pub mod ids;
pub mod layout;
pub mod lock;
pub mod name;
pub mod quorum;
pub mod time;

pub use about::{ObjectAbout, PathHint, PutAbout, PutKind};
pub use attr::{Attr, FileKind, SetTime, Timestamp, VersionInfo, without_suid};
pub use checksum::{BLOCK_SIZE, BlockSums, ObjectSum, crc32c};
pub use counters::{Epoch, Incarnation, LeaseSeq, LogIndex, Revision, Term, VersionNo};
pub use ids::{ClientId, ClusterId, Ino, NodeId, ObjectId, OpId, PgId, RaftId, StoreId};
pub use layout::{CHUNK_SIZE, ChunkNo, Extent, PgInfo, PgMap, PgPhase, SMALL_OBJECT_MAX, pg_of};
pub use lock::{HeldLock, Lock, LockHolder, LockRequest, LockSpace};
pub use name::{Name, NameError};
pub use quorum::{QuorumError, QuorumSizes};
pub use time::Time;

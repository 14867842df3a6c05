//! Mutations: what a client asks the master to change, each under an op-id.
use crate::types::{
    Attr, ChunkNo, ClientId, Epoch, Extent, FileKind, Ino, LeaseSeq, LockRequest, LockSpace, Name,
    ObjectId, ObjectSum, OpId, Revision, SetTime, StoreId, Timestamp, VersionNo,
};
use serde::{Deserialize, Serialize};

/// Access times told in one mutation, at most.
pub const ACCESSED_MAX: usize = 1024;
/// Inode numbers set aside in one mutation, at most.
pub const RESERVE_MAX: u32 = 4096;

/// One period of writing by one mount: from the first change after an open until the last writable
/// handle is released. Commits with one token belong to one version.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct WriteToken {
    /// The writing session.
    pub client: ClientId,
    /// Counts from 1 within the session.
    pub seq: u64,
}

/// What to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Kind.
    pub kind: FileKind,
    /// Permission bits (umask already applied).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group (the parent's is used instead when the parent is setgid).
    pub gid: u32,
    /// Device number, else 0.
    pub rdev: u64,
    /// Target of a symlink, else empty; at most 4095 bytes.
    pub target: Vec<u8>,
}

impl NewNode {
    /// Mode and group of what is made in a directory of this mode and group.
    #[must_use]
    pub fn inherited(&self, dir_mode: u32, dir_gid: u32) -> (u32, u32) {
        const SETGID: u32 = 0o2000;
        let mode = match self.kind {
            FileKind::Symlink => 0o777,
            FileKind::Dir => self.mode | (dir_mode & SETGID),
            _ => self.mode,
        };
        let is_setgid = dir_mode & SETGID != 0;
        (mode, if is_setgid { dir_gid } else { self.gid })
    }
}

/// How `Rename` treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it atomically.
    Replace,
    /// Fail with `Exists`.
    NoReplace,
    /// Swap the two names.
    Exchange,
}

/// How `SetXattr` treats an existing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// Fail with `Exists` if it is there.
    Create,
    /// Fail with `NoData` if it is not.
    Replace,
}

/// What `Purge` drops for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PurgeScope {
    /// Old versions and deleted history of one name.
    Name {
        /// Directory (may be a removed one).
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// All deleted history of the cluster (live files keep their versions).
    AllDeleted,
}

/// A change of the namespace or of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutation {
    /// Makes a name. Not exclusive and it exists as a file: answers the existing one.
    Create {
        /// Directory.
        parent: Ino,
        /// New name.
        name: Name,
        /// What.
        node: NewNode,
        /// O_EXCL: an existing name is an error.
        exclusive: bool,
    },
    /// Another name for a non-directory.
    Link {
        /// The inode.
        ino: Ino,
        /// Directory.
        parent: Ino,
        /// New name.
        name: Name,
    },
    /// Removes a name that is no directory.
    Unlink {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Name,
        /// Drop its history at once instead of keeping it for undelete.
        purge: bool,
    },
    /// Removes an empty directory (deleted history does not count).
    Rmdir {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// rename(2).
    Rename {
        /// Old directory.
        from_parent: Ino,
        /// Old name.
        from_name: Name,
        /// New directory.
        to_parent: Ino,
        /// New name.
        to_name: Name,
        /// What happens to an existing target.
        mode: RenameMode,
    },
    /// chmod, chown, utimens. Never changes size.
    SetAttr {
        /// The inode.
        ino: Ino,
        /// New permission bits.
        mode: Option<u32>,
        /// New owner.
        uid: Option<u32>,
        /// New group.
        gid: Option<u32>,
        /// New access time.
        atime: Option<SetTime>,
        /// New content time.
        mtime: Option<SetTime>,
    },
    /// Sets an extended attribute.
    SetXattr {
        /// The inode.
        ino: Ino,
        /// Full name, e.g. `user.x`, at most 255 bytes.
        key: Vec<u8>,
        /// At most 64 KiB.
        value: Vec<u8>,
        /// Create or replace.
        mode: XattrMode,
    },
    /// Removes an extended attribute; `NoData` if absent.
    RemoveXattr {
        /// The inode.
        ino: Ino,
        /// Full name.
        key: Vec<u8>,
    },
    /// The second half of a put.
    Commit(Commit),
    /// Disowns an earlier op of this session: unless already applied, it never will be.
    Abandon {
        /// The disowned op.
        op: OpId,
    },
    /// The mount's last writable handle on the inode was released: cut the version.
    Seal {
        /// The inode.
        ino: Ino,
        /// Of the writing period that ended.
        token: WriteToken,
    },
    /// Brings back a deleted name with its history, under a (re-created) directory.
    Undelete {
        /// Directory, live or removed (a removed one is brought back too).
        parent: Ino,
        /// Deleted name.
        name: Name,
    },
    /// Drops history for good.
    Purge(PurgeScope),
    /// These were read: moves access times where [`Attr::is_accessed_at`] says so. Nobody is told,
    /// and what is gone is left out.
    Accessed {
        /// Inodes and when, at most [`ACCESSED_MAX`].
        times: Vec<(Ino, Timestamp)>,
    },
    /// Locks a range for an owner of this session, in place of what the owner has there. `Locked`
    /// if another owner excludes it: then nothing is decided, and the op may come again.
    Lock(LockRequest),
    /// An owner of this session gives up what it has locked in a range.
    Unlock {
        /// The file.
        ino: Ino,
        /// Which kind.
        space: LockSpace,
        /// Whose.
        owner: u64,
        /// First byte.
        first: u64,
        /// Last byte, inclusive.
        last: u64,
    },
    /// Sets inode numbers aside for [`CreateAs`](Self::CreateAs); answered with `Reserved`.
    Reserve {
        /// How many, at most [`RESERVE_MAX`].
        count: u32,
    },
    /// [`Create`](Self::Create), exclusive, under a number that this session has reserved and not used yet.
    CreateAs {
        /// The number.
        ino: Ino,
        /// Directory.
        parent: Ino,
        /// New name.
        name: Name,
        /// What.
        node: NewNode,
        /// Its times.
        at: Timestamp,
    },
    /// [`Commit`](Self::Commit) and [`Seal`](Self::Seal): the writing period had ended when it was sent.
    CommitLast(Box<Commit>),
}

impl Mutation {
    /// The second half of a put.
    #[must_use]
    pub fn commit(&self) -> Option<&Commit> {
        match self {
            Self::Commit(commit) => Some(commit),
            Self::CommitLast(commit) => Some(commit),
            _ => None,
        }
    }
}

/// COMMIT(X, inode, lease, epochs, extent delta, size, mtime, acks).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The inode.
    pub ino: Ino,
    /// The write-lease sequence the client was given at open.
    pub lease: LeaseSeq,
    /// The writing period this belongs to (cuts versions).
    pub token: WriteToken,
    /// Epoch of the home PG under which the mark was acked.
    pub home_epoch: Epoch,
    /// Members of the home PG that hold the mark durably.
    pub mark_acks: Vec<StoreId>,
    /// What changes.
    pub change: Change,
    /// New mtime; `None` keeps it (fallocate).
    pub mtime: Option<SetTime>,
    /// Clear suid and sgid as write(2) by an ordinary user does.
    pub kill_suid: bool,
    /// Apply only if the inode is at this revision (conditional put).
    pub base: Option<Revision>,
}

/// A content change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Byte ranges; `size = max(size, end of the last)`.
    Write {
        /// Ascending, not overlapping.
        puts: Vec<PutExtent>,
    },
    /// `puts` were cut as if EOF were at `at`; if EOF moved, the master shifts them to the true
    /// EOF, splitting over chunks as needed. The answer says where they landed.
    Append {
        /// The EOF the client expected.
        at: u64,
        /// Contiguous from `at`.
        puts: Vec<PutExtent>,
    },
    /// ftruncate: absolute size; bytes beyond are dropped, a gap reads as zeros.
    Truncate {
        /// New size.
        size: u64,
    },
    /// A hole; size unchanged.
    Punch {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// fallocate: size = max(size, this). No bytes change.
    Extend {
        /// New least size.
        size: u64,
    },
    /// The whole content is replaced by these ranges.
    Replace {
        /// Ascending, not overlapping.
        puts: Vec<PutExtent>,
        /// New size.
        size: u64,
    },
    /// The content of an older version becomes the current one (objects are shared, not copied).
    Restore {
        /// Inode that holds the old version (itself, or a replaced one in the same name's history).
        from: Ino,
        /// Internal version of that inode.
        inode_version: VersionNo,
    },
    /// The same bytes in fewer extents: `put`, one object, takes the place of what is still left of
    /// `was`, parts of extents included. Content, times and versions stay.
    Compact {
        /// Where its bytes begin, and the object; holes within it are zeros there and stay holes.
        put: Box<PutExtent>,
        /// Ascending extents of that chunk whose bytes the object has, none outside of it.
        was: Vec<Extent>,
    },
}

/// One prepared range of a put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutExtent {
    /// The chunk.
    pub chunk: ChunkNo,
    /// First byte, relative to the chunk.
    pub start: u32,
    /// Bytes; the whole object.
    pub len: u32,
    /// The object.
    pub object: ObjectId,
    /// Its identity.
    pub sum: ObjectSum,
    /// Epoch of the chunk's PG under which it was acked.
    pub epoch: Epoch,
    /// Members that hold it durably.
    pub acks: Vec<StoreId>,
}

/// The answer to an applied mutation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MutationOk {
    /// Done; nothing to tell.
    Done,
    /// A name and its inode.
    Entry {
        /// The inode's attributes now.
        attr: Attr,
        /// False when a non-exclusive create found it.
        created: bool,
    },
    /// Attributes after the change (setattr, xattrs, link, commit).
    Attr(Attr),
    /// A commit was applied.
    Committed {
        /// Attributes now; `attr.revision` is this commit's or a later one's.
        attr: Attr,
        /// This commit's revision.
        revision: Revision,
        /// First byte written (the true EOF of an append).
        offset: u64,
        /// A chunk that it took past a multiple of [`CROWDED_EXTENTS`](crate::types::layout::CROWDED_EXTENTS).
        crowded: Option<ChunkNo>,
    },
    /// A name was removed or replaced; `orphan` is the inode if its last link went and a session
    /// may still have it open.
    Removed {
        /// What the name named: its author may have thought otherwise.
        ino: Ino,
        /// See above.
        orphan: Option<Ino>,
    },
    /// The lock is held.
    Locked,
    /// A rename was done.
    Renamed {
        /// What the old name named, and the new one does now: its author may have thought otherwise.
        moved: Ino,
        /// What the new name named before, if anything.
        met: Option<Ino>,
        /// As in [`Removed`](Self::Removed), of what it replaced.
        orphan: Option<Ino>,
    },
    /// As many numbers as were asked for, from this one on: no inode has them or ever had.
    Reserved {
        /// The lowest.
        first: Ino,
    },
}

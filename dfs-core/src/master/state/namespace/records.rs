//! What the namespace tables hold. FORMAT: values are postcard.
use crate::types::{
    Attr, FileKind, Ino, LeaseSeq, Name, OpId, Revision, Time, Timestamp, VersionNo,
};
use crate::wire::WriteToken;
use serde::{Deserialize, Serialize};

/// Counters of the whole namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The next inode number; never reused.
    pub next_ino: u64,
    /// Inodes with at least one link.
    pub inodes: u64,
    /// Bytes their newest contents cover.
    pub bytes: u64,
    /// Names in the index of deleted history.
    pub deleted_names: u64,
}

/// A version that still takes changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct OpenVersion {
    /// Writing periods that take part; at most one per client.
    pub tokens: Vec<WriteToken>,
    /// Begun by a truncate: the next writer continues it, whoever that is.
    pub unclaimed: bool,
}

/// When and as what a directory was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    /// Its name in its parent.
    pub name: Name,
    /// When.
    pub at: Time,
}

/// What only directories have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirPart {
    /// Where it is, or was when it was removed. The root's parent is the root.
    pub parent: Ino,
    /// Live entries.
    pub entries: u64,
    /// The next cookie; never reused.
    pub next_cookie: u64,
    /// Names in it that have a history record.
    pub histories: u64,
    /// A tombstone: removed, but there is something in it to undelete.
    pub removed: Option<Removed>,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inode {
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u64,
    /// Bytes of a file; 0 for others.
    pub size: u64,
    /// Bytes that the newest content's extents cover.
    pub allocated: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub crtime: Timestamp,
    /// Committed puts.
    pub revision: Revision,
    /// The op that made `revision`.
    pub op: OpId,
    /// Newest internal version, 0 before the first content.
    pub version: VersionNo,
    /// Added to an internal version for display.
    pub display_base: u64,
    /// `None`: the newest version is sealed; the next change begins another.
    pub open: Option<OpenVersion>,
    pub lease: LeaseSeq,
    /// Pins of names' histories on versions of this inode.
    pub pins: u32,
    pub xattrs: u32,
    pub xattr_bytes: u64,
    /// Of a symlink.
    pub target: Vec<u8>,
    pub dir: Option<DirPart>,
}

impl Inode {
    /// A fresh inode without links.
    pub(super) fn new(kind: FileKind, mode: u32, uid: u32, gid: u32, now: Timestamp) -> Self {
        Self {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            nlink: 0,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            revision: Revision(0),
            op: OpId::default(),
            version: VersionNo(0),
            display_base: 0,
            open: None,
            lease: LeaseSeq::FIRST,
            pins: 0,
            xattrs: 0,
            xattr_bytes: 0,
            target: Vec::new(),
            dir: None,
        }
    }

    /// Nothing names it and nothing remembers it: only open handles may still use it.
    pub(super) fn is_orphan(&self) -> bool {
        let is_tombstone = self.dir.as_ref().is_some_and(|d| d.removed.is_some());
        self.nlink == 0 && self.pins == 0 && !is_tombstone
    }

    /// The display number of an internal version.
    pub(super) fn display(&self, version: VersionNo) -> u64 {
        self.display_base + version.0
    }

    /// As `stat` shows it.
    pub(super) fn attr(&self, ino: Ino) -> Attr {
        let size = match self.kind {
            FileKind::Dir => self.dir.as_ref().map_or(0, |d| d.entries * 64),
            FileKind::Symlink => self.target.len() as u64,
            _ => self.size,
        };
        let shown = if self.version.0 == 0 {
            0
        } else {
            self.display(self.version)
        };
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            rdev: self.rdev,
            size,
            allocated: self.allocated,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.crtime,
            revision: self.revision,
            version: VersionNo(shown),
            lease: self.lease,
            has_xattrs: self.xattrs > 0,
        }
    }
}

/// One kept version of an inode.
///
/// Of the newest version only `no` and `pins` count: the rest is in the inode, and is copied here
/// when the next version begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VersionRec {
    /// Internal number.
    pub no: VersionNo,
    /// Names' histories that hold it.
    pub pins: u32,
    pub revision: Revision,
    pub op: OpId,
    pub size: u64,
    pub mtime: Timestamp,
    pub mode: u32,
}

impl VersionRec {
    /// The newest version of `inode`, as it is now.
    pub(super) fn newest(inode: &Inode, pins: u32) -> Self {
        Self {
            no: inode.version,
            pins,
            revision: inode.revision,
            op: inode.op,
            size: inode.size,
            mtime: inode.mtime,
            mode: inode.mode,
        }
    }

    /// With the inode's fields if it is the newest.
    pub(super) fn seen_in(self, inode: &Inode) -> Self {
        if self.no == inode.version {
            Self::newest(inode, self.pins)
        } else {
            self
        }
    }
}

/// A directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dentry {
    pub ino: Ino,
    pub kind: FileKind,
    pub cookie: u64,
}

/// A version of an inode that a name remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pin {
    pub ino: Ino,
    /// Internal version; 0 for a file that was never written.
    pub version: VersionNo,
    /// The number shown under this name.
    pub display: u64,
}

/// What a name used to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct NameHistory {
    /// Oldest first; display numbers rise.
    pub pins: Vec<Pin>,
    /// When the name stopped being a file; set iff there are pins and it is none now.
    pub deleted: Option<Time>,
    /// Removed directories of this name that hold something to undelete, oldest first.
    pub dirs: Vec<(Ino, Time)>,
}

impl NameHistory {
    pub(super) fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.dirs.is_empty()
    }
}

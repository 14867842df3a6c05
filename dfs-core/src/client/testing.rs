//! What tests of the client share.
use crate::types::{Attr, FileKind, Ino, LeaseSeq, Revision, Timestamp, VersionNo};

/// Attributes of a small file.
pub(crate) fn attr(ino: u64) -> Attr {
    Attr {
        ino: Ino(ino),
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        crtime: Timestamp::default(),
        revision: Revision(0),
        version: VersionNo(0),
        lease: LeaseSeq(0),
        has_xattrs: false,
    }
}

//! Attributes of an inode and of a version.
use super::{Ino, LeaseSeq, Revision, VersionNo};
use serde::{Deserialize, Serialize};

/// Seconds and nanoseconds since the Unix epoch, as `struct timespec`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// `0..1_000_000_000`, added to `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// From log time (nanoseconds since the Unix epoch).
    #[must_use]
    pub fn from_log_time(t: super::Time) -> Self {
        let secs = i64::try_from(t.0 / 1_000_000_000).unwrap_or(i64::MAX);
        let nanos = u32::try_from(t.0 % 1_000_000_000).unwrap_or(0);
        Self { secs, nanos }
    }
}

/// A time in a setattr: the caller's, or the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The time of the log entry that applies it.
    Now,
    /// This time.
    At(Timestamp),
}

/// The mode after a change that takes special rights away: suid always, sgid only where it means
/// execution rights (with group execute; else it marks mandatory locking and stays).
#[must_use]
pub fn without_suid(mode: u32) -> u32 {
    const SUID: u32 = 0o4000;
    const SGID: u32 = 0o2000;
    const GROUP_EXEC: u32 = 0o010;
    let sgid = if mode & GROUP_EXEC != 0 { SGID } else { 0 };
    mode & !(SUID | sgid)
}

/// What kind of object an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Block device.
    BlockDev,
    /// Character device.
    CharDev,
}

/// Attributes of an inode, as `stat` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits incl. suid, sgid and sticky: `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; 0 for an orphan that is still open.
    pub nlink: u32,
    /// Device number of a device node, else 0.
    pub rdev: u64,
    /// Bytes; for a directory the number of entries times a nominal 64.
    pub size: u64,
    /// Bytes that extents of the newest content cover.
    pub allocated: u64,
    /// Access time.
    pub atime: Timestamp,
    /// Content change time.
    pub mtime: Timestamp,
    /// Attribute change time.
    pub ctime: Timestamp,
    /// Creation time.
    pub crtime: Timestamp,
    /// Committed puts so far.
    pub revision: Revision,
    /// The newest version's display number (0 for a file that was never written).
    pub version: VersionNo,
    /// Current write-lease sequence.
    pub lease: LeaseSeq,
    /// Has extended attributes.
    pub has_xattrs: bool,
}

/// An access time that is older than this moves with every read, in seconds.
const ACCESS_AGE: i64 = 24 * 3600;

impl Attr {
    /// A read at `time` moves the access time: the first one after a change, and one a day
    /// (`relatime` of mount(8)). A read from before the last change does not.
    #[must_use]
    pub fn is_accessed_at(&self, time: Timestamp) -> bool {
        let age = time.secs.saturating_sub(self.atime.secs);
        time > self.ctime
            && (self.atime <= self.mtime || self.atime <= self.ctime || age >= ACCESS_AGE)
    }
}

/// One entry of a name's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Display number, rising with time within the name.
    pub version: VersionNo,
    /// The inode that holds the content.
    pub ino: Ino,
    /// Internal version of that inode, as in extent rows and `Layout` queries.
    pub inode_version: VersionNo,
    /// The revision it pins.
    pub revision: Revision,
    /// Bytes.
    pub size: u64,
    /// Content time of that version.
    pub mtime: Timestamp,
    /// Permission bits: the version's & the current inode's & 0444.
    pub mode: u32,
    /// Current owner.
    pub uid: u32,
    /// Current group.
    pub gid: u32,
    /// True for the newest version of a live name: its content is the file's current content.
    pub is_current: bool,
    /// When the name was removed, for a deleted name.
    pub deleted_at: Option<Timestamp>,
}

//! Our types to fuser's and back.
use dfs_core::types::{Attr, FileKind, SetTime, Timestamp};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A timestamp as fuser wants it. Times that do not fit become the epoch.
pub(super) fn system_time(t: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(t.nanos));
    let whole = Duration::from_secs(t.secs.unsigned_abs());
    let base = if t.secs >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|b| b.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

/// A time of setattr.
pub(super) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        // By the clock of what this mount writes, or a file that is touched after it may be older.
        TimeOrNow::Now => SetTime::At(timestamp(SystemTime::now())),
        TimeOrNow::SpecificTime(t) => SetTime::At(timestamp(t)),
    }
}

/// A time as fuser gives it. Before 1970 it subtracts the fraction that the kernel meant to be
/// added to the whole (negative) seconds; both parts come through unharmed, so they are put together
/// again here. (`system_time_from_time` of fuser 0.18.)
pub(super) fn timestamp(t: SystemTime) -> Timestamp {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => Timestamp {
            secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            nanos: d.subsec_nanos(),
        },
        Err(e) => {
            let d = e.duration();
            Timestamp {
                secs: -i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
                nanos: d.subsec_nanos(),
            }
        }
    }
}

/// Kind.
pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::BlockDev => FileType::BlockDevice,
        FileKind::CharDev => FileType::CharDevice,
    }
}

/// Kind of a mode with S_IFMT bits, for mknod.
pub(super) fn kind_of(mode: u32) -> Option<FileKind> {
    Some(match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => FileKind::File,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFBLK => FileKind::BlockDev,
        libc::S_IFCHR => FileKind::CharDev,
        _ => return None,
    })
}

/// Attributes.
pub(super) fn file_attr(a: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(a.ino.0),
        size: a.size,
        blocks: a.allocated.div_ceil(512),
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: system_time(a.crtime),
        kind: file_type(a.kind),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

/// What readdirplus needs of an entry whose attributes are not told. The kernel lists the name, finds
/// the size impossible, and takes nothing else from it (`fuse_direntplus_link`, Linux 5.5 and later).
pub(super) fn bare_attr(node: u64, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(node),
        size: u64::MAX,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser makes of the kernel's seconds and nanoseconds.
    fn from_fuser(secs: i64, nanos: u32) -> SystemTime {
        let whole = Duration::new(secs.unsigned_abs(), nanos);
        if secs >= 0 {
            UNIX_EPOCH + whole
        } else {
            UNIX_EPOCH - whole
        }
    }

    /// A fraction before 1970 came back a second off.
    #[test]
    fn regression_times_survive_both_ways_before_and_after_1970() {
        for (secs, nanos) in [
            (0, 0),
            (1, 5),
            (1_700_000_000, 999_999_999),
            (-1, 0),
            (-7, 250),
        ] {
            let t = Timestamp { secs, nanos };
            assert_eq!(timestamp(from_fuser(secs, nanos)), t);
            let told = system_time(t);
            let since = Duration::new(100 + 1_700_000_000, 0);
            let epoch = UNIX_EPOCH - since;
            let expected = (i128::from(secs) + 1_700_000_100) * 1_000_000_000 + i128::from(nanos);
            let told = told.duration_since(epoch).unwrap().as_nanos();
            assert_eq!(i128::try_from(told).unwrap(), expected);
        }
    }

    #[test]
    fn mknod_knows_every_kind_it_can_make() {
        assert_eq!(kind_of(libc::S_IFIFO | 0o644), Some(FileKind::Fifo));
        assert_eq!(kind_of(0o644), Some(FileKind::File));
        assert_eq!(kind_of(libc::S_IFDIR), None);
    }
}

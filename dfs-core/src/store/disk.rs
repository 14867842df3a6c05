//! The disk as the storage code sees it: a flat namespace of files with explicit durability.
//!
//! Paths are relative, `/`-separated, lower-case ASCII. What a crash may take away:
//! 1. bytes written since the last [`DiskFile::sync_data`] of that file (any subset, torn at 512 B);
//! 2. names created, renamed or removed since the last [`Disk::sync_dir`] of their directory.
//!
//! The file implementation keeps both promises with `fdatasync`; the simulated one breaks them at
//! a crash as allowed above and nowhere else.
use bytes::Bytes;

/// How a full device is called, also where an error is passed on in words.
pub const NO_SPACE: &str = "no space left on device";

/// A failed disk operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No such file. State unchanged.
    #[error("{path}: no such file")]
    NotFound {
        /// Relative path.
        path: String,
    },
    /// The device is full. Some bytes may have been written; none are promised.
    #[error("{path}: {NO_SPACE}")]
    NoSpace {
        /// Relative path.
        path: String,
    },
    /// Anything else. After a failed write or sync the caller must stop acknowledging (fail-stop).
    #[error("{path}: {what}: {cause}")]
    Io {
        /// Relative path.
        path: String,
        /// The operation.
        what: &'static str,
        /// The operating system's words.
        cause: String,
    },
}

impl DiskError {
    /// True if bytes were read that are not those written, and no copy of them is good.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Io { what, .. } if *what == super::mirror::VERIFY)
    }

    /// True if the process or the system lacked something for the operation (EINTR, EAGAIN, ENOMEM,
    /// ENFILE, EMFILE): it says nothing of the file.
    #[must_use]
    pub fn is_want(&self) -> bool {
        const WANTS: [i32; 5] = [4, 11, 12, 23, 24];
        let is_of = |cause: &str| {
            let ends = |code: &i32| cause.ends_with(&format!("(os error {code})"));
            WANTS.iter().any(ends)
        };
        matches!(self, Self::Io { cause, .. } if is_of(cause))
    }
}

/// Bytes of the device below a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct DiskSpace {
    /// Size of the filesystem.
    pub total_bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
}

/// A directory tree with explicit durability. See the [module docs](self).
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens `path` for reading and writing; with `create` makes it (and its parents) if missing.
    ///
    /// # Errors
    /// [`DiskError::NotFound`] without `create`; otherwise I/O. State unchanged.
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError>;
    /// Renames over an existing file, atomically with respect to crashes once the directory is synced.
    ///
    /// # Errors
    /// I/O; state unchanged.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Removes a file. A missing one is an error ([`DiskError::NotFound`]).
    ///
    /// # Errors
    /// I/O; state unchanged.
    fn remove(&self, path: &str) -> Result<(), DiskError>;
    /// Names of the files and directories directly below `dir`, sorted; empty if it is missing.
    ///
    /// # Errors
    /// I/O.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;
    /// Makes the names below `dir` durable (creating `dir` itself if missing).
    ///
    /// # Errors
    /// I/O; then nothing may be acknowledged that depends on the names.
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;
    /// Makes the content of all `files` and the names below all `dirs` durable, in any order.
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`] and [`sync_dir`](Self::sync_dir); some may be durable.
    fn sync_many(&self, files: &[Box<dyn DiskFile>], dirs: &[&str]) -> Result<(), DiskError> {
        files.iter().try_for_each(|file| file.sync_data())?;
        dirs.iter().try_for_each(|dir| self.sync_dir(dir))
    }
    /// Space of the device.
    ///
    /// # Errors
    /// I/O.
    fn space(&self) -> Result<DiskSpace, DiskError>;
    /// True while even what must never fail finds no room: nothing can be promised now.
    fn is_out_of_room(&self) -> bool {
        false
    }
    /// How long an operation takes, smoothed; zero while that is not known. Not a promise.
    fn latency(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Reads up to `len` bytes at `offset`; fewer at end of file.
    ///
    /// # Errors
    /// I/O.
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError>;
    /// Reads into `out` at `offset`; returns the bytes read, fewer at end of file.
    ///
    /// # Errors
    /// I/O.
    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        let bytes = self.read_at(offset, out.len())?;
        out[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
    /// Lets the system forget what it keeps of a range in memory, so that the next read comes from
    /// the device. A hint: what is not written out yet stays.
    fn forget_cached(&self, offset: u64, len: u64);
    /// Writes all of `bytes` at `offset`, extending the file as needed. Not durable yet.
    ///
    /// # Errors
    /// I/O or no space; the range's content is then unknown.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Makes all earlier writes and the length durable (fdatasync).
    ///
    /// # Errors
    /// I/O; the earlier writes are then lost for good, whatever a later sync says.
    fn sync_data(&self) -> Result<(), DiskError>;
    /// Makes this file and others durable, in any order.
    ///
    /// # Errors
    /// As [`sync_data`](Self::sync_data); some may be durable.
    fn sync_with(&self, others: &[&dyn DiskFile]) -> Result<(), DiskError> {
        others.iter().try_for_each(|file| file.sync_data())?;
        self.sync_data()
    }
    /// Length in bytes.
    ///
    /// # Errors
    /// I/O.
    fn len(&self) -> Result<u64, DiskError>;
    /// True if empty.
    ///
    /// # Errors
    /// I/O.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
    /// Truncates or extends with zeros.
    ///
    /// # Errors
    /// I/O.
    fn set_len(&self, len: u64) -> Result<(), DiskError>;
    /// Takes the blocks of an empty file's first `len` bytes, which read as zeros.
    ///
    /// # Errors
    /// I/O or no space; part of them may be taken.
    fn allocate(&self, len: u64) -> Result<(), DiskError> {
        write_zeros(self, len)
    }
}

/// Writes `len` zeros to the begin of a file.
pub(super) fn write_zeros<F: DiskFile + ?Sized>(file: &F, len: u64) -> Result<(), DiskError> {
    let zeros = [0; 64 << 10];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(zeros.len() as u64);
        let step = usize::try_from(step).expect("at most the block of zeros");
        file.write_at(at, &zeros[..step])?;
        at += step as u64;
    }
    Ok(())
}

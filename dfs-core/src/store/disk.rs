//! The disk as the storage code sees it: a flat namespace of files with explicit durability.
//!
//! Paths are relative, `/`-separated, lower-case ASCII. What a crash may take away:
//! 1. bytes written since the last [`DiskFile::sync_data`] of that file (any subset, torn at 512 B);
//! 2. names created, renamed or removed since the last [`Disk::sync_dir`] of their directory.
//!
//! The file implementation keeps both promises with `fdatasync`; the simulated one breaks them at
//! a crash as allowed above and nowhere else.
use bytes::Bytes;

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
    #[error("{path}: no space left on device")]
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
}

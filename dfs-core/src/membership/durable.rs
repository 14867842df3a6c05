//! Small text files that a crash leaves either old or new.
//!
//! 1. Write `PATH.new`, sync it. 2. Rename it over `PATH`. 3. Sync the directory.
//!
//! The last line is `crc32c XXXXXXXX` over the lines before it, so rot is told from content.
use crate::store::{Disk, DiskError};
use crate::types::crc32c;

/// Longest file that is read, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// Why a file could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    /// The disk failed. After a failed write nothing that depends on it may be sent.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Checksum or syntax.
    #[error("{path}: damaged ({what})")]
    Damaged {
        /// Relative path.
        path: String,
        /// What does not fit.
        what: &'static str,
    },
}

/// Replaces `path` with `body` (lines ending in newline), durably.
///
/// # Errors
/// [`DurableError::Disk`]; the old content or the new one remains, never a mixture.
pub fn write(disk: &dyn Disk, path: &str, body: &str) -> Result<(), DurableError> {
    let temp = format!("{path}.new");
    let text = format!("{body}crc32c {:08x}\n", crc32c(body.as_bytes()));
    let file = disk.open(&temp, true)?;
    file.set_len(0)?;
    file.write_at(0, text.as_bytes())?;
    file.sync_data()?;
    drop(file);
    disk.rename(&temp, path)?;
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    disk.sync_dir(dir)?;
    Ok(())
}

/// The body of `path`, or `None` if there is no such file.
///
/// # Errors
/// [`DurableError::Damaged`] if the checksum does not match; [`DurableError::Disk`].
pub fn read(disk: &dyn Disk, path: &str) -> Result<Option<String>, DurableError> {
    let damaged = |what| DurableError::Damaged {
        path: path.to_owned(),
        what,
    };
    let file = match disk.open(path, false) {
        Err(DiskError::NotFound { .. }) => return Ok(None),
        other => other?,
    };
    let len = file.len()?;
    if len > LEN_MAX {
        return Err(damaged("too long"));
    }
    let bytes = file.read_at(0, usize::try_from(len).unwrap_or(0))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("not text"))?;
    let at = text
        .rfind("crc32c ")
        .ok_or_else(|| damaged("no checksum"))?;
    let (body, tail) = text.split_at(at);
    if tail.trim_end() != format!("crc32c {:08x}", crc32c(body.as_bytes())) {
        return Err(damaged("checksum mismatch"));
    }
    Ok(Some(body.to_owned()))
}

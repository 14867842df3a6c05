//! Local files that appear whole or not at all: written under another name, renamed at the end.
use anyhow::{Context, bail};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A local file being written. Dropped before [`finish`](Self::finish), nothing is left of it.
pub struct LocalFile {
    file: File,
    dest: PathBuf,
    /// What is there until the end; `None` when written in place (a device or pipe).
    part: Option<PathBuf>,
}

impl LocalFile {
    /// Begins.
    ///
    /// # Errors
    /// The directory cannot be written, or a directory is in the way.
    pub fn create(dest: &Path) -> anyhow::Result<Self> {
        let what = || format!("writing {}", dest.display());
        let found = std::fs::metadata(dest);
        if let Ok(found) = &found {
            let kind = found.file_type();
            if kind.is_dir() {
                bail!("{}: it is a directory", what());
            }
            if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
            {
                let file = File::options().write(true).open(dest).with_context(what)?;
                return Ok(Self {
                    file,
                    dest: dest.to_owned(),
                    part: None,
                });
            }
        }
        // Through a symlink, so that the link stays.
        let dest = match found {
            Ok(_) => std::fs::canonicalize(dest).with_context(what)?,
            Err(_) => dest.to_owned(),
        };
        let part = part_name(&dest).with_context(what)?;
        let mut options = File::options();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .with_context(what)?;
        Ok(Self {
            file,
            dest,
            part: Some(part),
        })
    }

    /// Writes more.
    ///
    /// # Errors
    /// The disk is full, and the like.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("writing {}", self.dest.display()))
    }

    /// Puts it in its place, with these permission bits.
    ///
    /// # Errors
    /// It cannot be renamed; nothing is left then.
    pub fn finish(mut self, mode: u32) -> anyhow::Result<()> {
        let what = || format!("writing {}", self.dest.display());
        let Some(part) = &self.part else {
            return Ok(());
        };
        let mode = mode & 0o777 & !umask();
        self.file
            .set_permissions(std::fs::Permissions::from_mode(mode))
            .with_context(what)?;
        std::fs::rename(part, &self.dest).with_context(what)?;
        self.part = None;
        Ok(())
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // It failed already; there is nobody to tell that this does too.
            let _ = std::fs::remove_file(part);
        }
    }
}

/// A name beside `dest` that nobody else uses.
fn part_name(dest: &Path) -> io::Result<PathBuf> {
    let name = dest
        .file_name()
        .ok_or_else(|| io::Error::other("it has no file name"))?;
    // Names are limited to 255 bytes.
    let bytes = name.as_encoded_bytes();
    let kept = &bytes[..bytes.len().min(200)];
    use std::os::unix::ffi::OsStringExt;
    let mut part = OsString::from(".");
    part.push(OsString::from_vec(kept.to_vec()));
    part.push(format!(".part{}", std::process::id()));
    Ok(dest.with_file_name(part))
}

/// The process's umask, without changing it.
#[must_use]
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
    line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok())
        .unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect()
    }

    #[test]
    fn a_file_appears_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let mut file = LocalFile::create(&dest).unwrap();
        file.write(b"half").unwrap();
        assert!(!dest.exists());
        drop(file);
        assert!(names(dir.path()).is_empty());
        let mut file = LocalFile::create(&dest).unwrap();
        file.write(b"whole").unwrap();
        file.finish(0o640).unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn what_was_there_stays_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        std::fs::write(&dest, "old").unwrap();
        let mut file = LocalFile::create(&dest).unwrap();
        file.write(b"new").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&dest).unwrap(), b"old");
    }

    #[test]
    fn a_symlink_stays_and_a_device_is_written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut file = LocalFile::create(&link).unwrap();
        file.write(b"new").unwrap();
        file.finish(0o644).unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());
        let mut null = LocalFile::create(Path::new("/dev/null")).unwrap();
        null.write(b"x").unwrap();
        null.finish(0o644).unwrap();
        assert!(LocalFile::create(dir.path()).is_err());
    }
}

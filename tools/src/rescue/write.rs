//! Writes the tree: directories first, then files, further names of files, and last, from the bottom
//! up, what changes when something is made below: modes and times of directories.
//!
//! Invariants: only verified bytes are written; where bytes are missing the file has a hole, and
//! `NAME.incomplete` beside it says which; nothing outside of the new directory is touched, whatever
//! the names are.
use super::report::{Doubtful, Incomplete, Missing, Report};
use anyhow::Context;
use dfs_core::rescue::{Content, Entry, Inventory, Piece, What};
use dfs_core::types::{FileKind, Name, Timestamp};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const STEP: u64 = 1 << 20;

/// See the [module docs](self).
pub struct TreeWriter<'a> {
    out: &'a Path,
    inventory: &'a Inventory,
    report: &'a mut Report,
    /// Written when all names of the tree are there: those come first.
    notes: Vec<(PathBuf, String)>,
}

impl<'a> TreeWriter<'a> {
    /// Into `out`, which is empty.
    #[must_use]
    pub fn new(out: &'a Path, inventory: &'a Inventory, report: &'a mut Report) -> Self {
        Self {
            out,
            inventory,
            report,
            notes: Vec::new(),
        }
    }

    /// Writes all entries; parents come before what is in them.
    ///
    /// # Errors
    /// The new directory is full or cannot be written. A single name that cannot be made is in the
    /// report instead.
    pub fn write(mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        for entry in &entries {
            if !matches!(entry.what, What::HardLink(_)) {
                self.attempt(entry)?;
            }
        }
        for entry in &entries {
            if matches!(entry.what, What::HardLink(_)) {
                self.attempt(entry)?;
            }
        }
        for (path, note) in std::mem::take(&mut self.notes) {
            // A file of that name keeps it; the report has it all in any case.
            if let Ok(beside) = File::options().write(true).create_new(true).open(path) {
                beside.write_all_at(note.as_bytes(), 0)?;
            }
        }
        for entry in entries.iter().rev().filter(|e| e.what == What::Dir) {
            if let Some(path) = self.place(&entry.path)
                && let Err(error) = attributes(&path, entry)
            {
                self.trouble(entry, &error);
            }
        }
        Ok(())
    }

    /// Where it goes; `None` for a path that would lead elsewhere.
    fn place(&self, path: &[u8]) -> Option<PathBuf> {
        if path.is_empty() {
            return Some(self.out.to_owned());
        }
        let mut place = self.out.to_owned();
        for part in path.split(|b| *b == b'/') {
            let name = Name::new(part).ok()?;
            place.push(OsStr::from_bytes(name.as_bytes()));
        }
        // Entries are made by us, parents first: only a link of ours could lead elsewhere.
        let parent = place.parent()?;
        parent.symlink_metadata().ok()?.is_dir().then_some(place)
    }

    fn attempt(&mut self, entry: &Entry) -> anyhow::Result<()> {
        if !entry.doubts.is_empty() {
            self.report.doubtful.push(Doubtful {
                path: Report::shown(&entry.path),
                doubts: entry.doubts.clone(),
            });
        }
        let Some(path) = self.place(&entry.path) else {
            let error = io::Error::other("its path cannot be made");
            self.trouble(entry, &error);
            return Ok(());
        };
        match self.make(&path, entry) {
            Ok(()) => {
                self.report.names += 1;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                Err(e).with_context(|| format!("writing {}", path.display()))
            }
            Err(e) => {
                self.trouble(entry, &e);
                Ok(())
            }
        }
    }

    fn trouble(&mut self, entry: &Entry, error: &dyn std::fmt::Display) {
        let words = format!("{}: {error}", Report::shown(&entry.path));
        self.report.troubles.push(words);
    }

    fn make(&mut self, path: &Path, entry: &Entry) -> io::Result<()> {
        match &entry.what {
            What::Dir => {
                if !entry.path.is_empty() {
                    std::fs::create_dir(path)?;
                    self.report.directories += 1;
                }
                return Ok(()); // attributes at the end
            }
            What::HardLink(first) => {
                let first = self.place(first);
                let first = first.ok_or_else(|| io::Error::other("its first name is not there"))?;
                std::fs::hard_link(first, path)?;
                self.report.others += 1;
                return Ok(());
            }
            What::File(content, size) => self.file(path, entry, content, *size)?,
            What::Symlink(target) => {
                std::os::unix::fs::symlink(OsStr::from_bytes(target), path)?;
                self.report.others += 1;
            }
            What::Special(kind, device) => {
                let kind = match kind {
                    FileKind::Fifo => FileType::Fifo,
                    FileKind::Socket => FileType::Socket,
                    FileKind::BlockDev => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), *device)?;
                self.report.others += 1;
            }
        }
        attributes(path, entry)
    }

    fn file(&mut self, path: &Path, entry: &Entry, content: &Content, size: u64) -> io::Result<()> {
        let file = File::options().write(true).create_new(true).open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len(size)?;
        let mut missing: Vec<Missing> = Vec::new();
        for piece in content.pieces() {
            self.piece(&file, piece, &mut missing)?;
        }
        self.report.files += 1;
        if missing.is_empty() {
            return Ok(());
        }
        let mut note =
            String::from("Missing bytes of this file; there are zeros in their place.\n");
        for m in &missing {
            let words = writeln!(
                note,
                "{} to {} (object {})",
                m.offset,
                m.offset + m.len,
                m.object
            );
            words.map_err(io::Error::other)?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".incomplete");
        self.notes.push((name.into(), note));
        self.report.incomplete.push(Incomplete {
            path: Report::shown(&entry.path),
            missing,
        });
        Ok(())
    }

    fn piece(&mut self, file: &File, piece: &Piece, missing: &mut Vec<Missing>) -> io::Result<()> {
        let mut done = 0;
        while done < piece.len {
            // In steps that end where the object's checked blocks do.
            let from = piece.from + done;
            let step = (STEP - from % STEP).min(piece.len - done);
            let range = u32::try_from(from).ok().zip(u32::try_from(step).ok());
            let bytes =
                range.and_then(|range| self.inventory.bytes(piece.object, piece.sum, range));
            let offset = piece.offset + done;
            match bytes {
                Some(bytes) => {
                    file.write_all_at(&bytes, offset)?;
                    self.report.bytes += bytes.len() as u64;
                }
                None => match missing.last_mut() {
                    Some(last)
                        if last.offset + last.len == offset
                            && last.object == piece.object.to_string() =>
                    {
                        last.len += step;
                    }
                    _ => missing.push(Missing {
                        offset,
                        len: step,
                        object: piece.object.to_string(),
                    }),
                },
            }
            done += step;
        }
        Ok(())
    }
}

/// Owner, mode, extended attributes and times, in the order in which one does not undo another.
fn attributes(path: &Path, entry: &Entry) -> io::Result<()> {
    if entry.ino.is_none() {
        return Ok(());
    }
    let is_link = matches!(entry.what, What::Symlink(_));
    let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    // Only root may give files away: who rescues as somebody else owns what is rescued.
    if rustix::process::geteuid().is_root() {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, path, Some(owner.0), Some(owner.1), flags)?;
    }
    for (name, value) in &entry.xattrs {
        rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty())?;
    }
    if !is_link {
        std::fs::set_permissions(path, Permissions::from_mode(entry.mode))?;
    }
    if let Some(mtime) = entry.mtime {
        let time = timespec(mtime);
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.secs,
        tv_nsec: i64::from(time.nanos),
    }
}

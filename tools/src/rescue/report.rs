//! What a rescue found, could not read, and is not sure of: as JSON, and as the file `RESCUE-REPORT`.
use crate::format::escape;
use anyhow::Context;
use dfs_core::rescue::{Inventory, NamespaceManifest};
use serde::Serialize;
use std::fmt::Write;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// The report's name in the new tree, unless a file has it.
pub const REPORT_FILE: &str = "RESCUE-REPORT";

/// The snapshot that names were taken from.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotUsed {
    /// The log up to which it is complete.
    pub index: u64,
    /// When.
    pub taken_at_ms: u64,
    /// Rows.
    pub rows: u64,
}

/// A directory that was read.
#[derive(Debug, Clone, Serialize)]
pub struct DirRead {
    /// As it was named.
    pub path: String,
    /// Its store.
    pub store: String,
    /// Objects in it.
    pub objects: u64,
}

/// Bytes of a file that no directory has.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The object that held them.
    pub object: String,
}

/// A file with holes where bytes are missing.
#[derive(Debug, Clone, Serialize)]
pub struct Incomplete {
    /// In the new tree.
    pub path: String,
    /// What is missing.
    pub missing: Vec<Missing>,
}

/// A name that is there, with what is not certain of it.
#[derive(Debug, Clone, Serialize)]
pub struct Doubtful {
    /// In the new tree.
    pub path: String,
    /// In words.
    pub doubts: Vec<String>,
}

/// See the [module docs](self).
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The snapshot used, if any.
    pub snapshot: Option<SnapshotUsed>,
    /// Directories read.
    pub read: Vec<DirRead>,
    /// Directories that could not be read, in words.
    pub unread: Vec<String>,
    /// Names written.
    #[serde(skip)]
    pub names: usize,
    /// Files written.
    pub files: u64,
    /// Directories written.
    pub directories: u64,
    /// Links and special files written.
    pub others: u64,
    /// Verified bytes written.
    pub bytes: u64,
    /// Removed files with history: not rebuilt.
    pub removed: u64,
    /// Files that miss bytes.
    pub incomplete: Vec<Incomplete>,
    /// What is not certain.
    pub doubtful: Vec<Doubtful>,
    /// What could not be placed, read or written, in words.
    pub troubles: Vec<String>,
}

impl Report {
    /// Of what was read; nothing is written yet.
    #[must_use]
    pub fn new(inventory: &Inventory, manifest: Option<&NamespaceManifest>) -> Self {
        let dir =
            |(path, store, objects): (std::path::PathBuf, dfs_core::types::StoreId, u64)| DirRead {
                path: path.display().to_string(),
                store: store.to_string(),
                objects,
            };
        Self {
            snapshot: manifest.map(|m| SnapshotUsed {
                index: m.index.0,
                taken_at_ms: m.taken_at.0 / 1_000_000,
                rows: m.rows,
            }),
            read: inventory.stores().into_iter().map(dir).collect(),
            ..Self::default()
        }
    }

    /// Nothing is known to be missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.incomplete.is_empty() && self.unread.is_empty() && self.troubles.is_empty()
    }

    /// Writes it for people into the new tree.
    ///
    /// # Errors
    /// I/O.
    pub fn write(&self, out: &Path) -> anyhow::Result<()> {
        let text = self.text().context("a string takes everything")?;
        let mut path = out.join(REPORT_FILE);
        for n in 1.. {
            // The tree may hold that name, and what it names may be a link that leads elsewhere.
            let made = File::options().write(true).create_new(true).open(&path);
            match made {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
                    return written.with_context(|| path.display().to_string());
                }
            }
            path = out.join(format!("{REPORT_FILE}.{n}"));
        }
        Ok(())
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        match &self.snapshot {
            Some(s) => writeln!(
                out,
                "names: snapshot of log index {}, {} rows",
                s.index, s.rows
            )?,
            None => writeln!(out, "names: no snapshot, only what the objects tell")?,
        }
        for dir in &self.read {
            writeln!(
                out,
                "read: {} store {} objects {}",
                dir.path, dir.store, dir.objects
            )?;
        }
        for words in &self.unread {
            writeln!(out, "not read: {words}")?;
        }
        let (files, dirs, others) = (self.files, self.directories, self.others);
        writeln!(
            out,
            "written: {files} files, {} bytes, {dirs} directories, {others} others",
            self.bytes
        )?;
        writeln!(
            out,
            "not rebuilt: {} removed files with history",
            self.removed
        )?;
        for words in &self.troubles {
            writeln!(out, "trouble: {words}")?;
        }
        for file in &self.incomplete {
            writeln!(out, "incomplete: {}", file.path)?;
            for m in &file.missing {
                writeln!(
                    out,
                    "  missing: bytes {} to {} (object {})",
                    m.offset,
                    m.offset + m.len,
                    m.object
                )?;
            }
        }
        for file in &self.doubtful {
            writeln!(out, "doubtful: {}: {}", file.path, file.doubts.join("; "))?;
        }
        Ok(out)
    }

    /// As names are shown.
    #[must_use]
    pub fn shown(path: &[u8]) -> String {
        format!("/{}", escape(path))
    }
}

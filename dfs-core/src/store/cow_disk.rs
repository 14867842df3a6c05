//! A directory that is read and never changed: what is written to it stays in memory.
//!
//! For looking into a data directory without touching it. Journal and tables recover as they always
//! do, which takes writing; here that costs the memory of the pages written, and nothing else.
use super::disk::{Disk, DiskError, DiskFile, DiskSpace};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;

#[derive(Debug)]
struct Content {
    /// The file as it is on disk, and how much of it still counts.
    below: Option<(File, u64)>,
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// Files that were changed, by path; `None`: removed.
type Changed = BTreeMap<String, Option<Arc<Mutex<Content>>>>;

/// See the [module docs](self).
#[derive(Debug)]
pub struct CowDisk {
    root: PathBuf,
    changed: Arc<Mutex<Changed>>,
}

#[derive(Debug)]
struct CowFile {
    path: String,
    content: Arc<Mutex<Content>>,
    changed: Arc<Mutex<Changed>>,
}

fn failed(path: &str, what: &'static str, e: &io::Error) -> DiskError {
    let path = path.to_owned();
    match e.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { path },
        _ => DiskError::Io {
            path,
            what,
            cause: e.to_string(),
        },
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CowDisk {
    /// Over a directory that exists.
    ///
    /// # Errors
    /// It is no directory.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let shown = root.display().to_string();
        fs::read_dir(root).map_err(|e| failed(&shown, "read directory", &e))?;
        Ok(Self {
            root: root.to_owned(),
            changed: Arc::default(),
        })
    }

    fn below(&self, path: &str) -> Result<Content, DiskError> {
        let open = || {
            let file = File::open(self.root.join(path))?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        let (file, len) = open().map_err(|e| failed(path, "open", &e))?;
        Ok(Content {
            below: Some((file, len)),
            len,
            pages: BTreeMap::new(),
        })
    }

    fn content(&self, path: &str) -> Result<Arc<Mutex<Content>>, DiskError> {
        match locked(&self.changed).get(path) {
            Some(Some(content)) => Ok(Arc::clone(content)),
            Some(None) => Err(DiskError::NotFound {
                path: path.to_owned(),
            }),
            None => Ok(Arc::new(Mutex::new(self.below(path)?))),
        }
    }
}

impl Disk for CowDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        let content = match self.content(path) {
            Err(DiskError::NotFound { .. }) if create => {
                let empty = Arc::new(Mutex::new(Content {
                    below: None,
                    len: 0,
                    pages: BTreeMap::new(),
                }));
                locked(&self.changed).insert(path.to_owned(), Some(Arc::clone(&empty)));
                empty
            }
            other => other?,
        };
        Ok(Box::new(CowFile {
            path: path.to_owned(),
            content,
            changed: Arc::clone(&self.changed),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let content = self.content(from)?;
        let mut changed = locked(&self.changed);
        changed.insert(from.to_owned(), None);
        changed.insert(to.to_owned(), Some(content));
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.content(path)?;
        locked(&self.changed).insert(path.to_owned(), None);
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let mut names = BTreeSet::new();
        match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(|e| failed(dir, "read directory", &e))?;
                    names.extend(entry.file_name().into_string().ok());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(dir, "read directory", &e)),
        }
        for (path, content) in locked(&self.changed).iter() {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            if parent == dir {
                match content {
                    Some(_) => names.insert(name.to_owned()),
                    None => names.remove(name),
                };
            }
        }
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, _dir: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        Ok(DiskSpace {
            total_bytes: u64::MAX,
            free_bytes: u64::MAX,
        })
    }
}

impl Content {
    fn read(&self, path: &str, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        let end = self.len.min(offset.saturating_add(out.len() as u64));
        let mut at = offset;
        while at < end {
            let page = at / PAGE;
            let upto = end.min((page + 1) * PAGE);
            let into = &mut out[(at - offset) as usize..(upto - offset) as usize];
            let from = (at % PAGE) as usize;
            match self.pages.get(&page) {
                Some(bytes) => into.copy_from_slice(&bytes[from..from + into.len()]),
                None => self.read_below(path, at, into)?,
            }
            at = upto;
        }
        Ok(usize::try_from(end.saturating_sub(offset)).unwrap_or(0))
    }

    /// Zeros where the file below has nothing.
    fn read_below(&self, path: &str, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        into.fill(0);
        let Some((file, len)) = &self.below else {
            return Ok(());
        };
        let there = len.saturating_sub(offset).min(into.len() as u64) as usize;
        file.read_exact_at(&mut into[..there], offset)
            .map_err(|e| failed(path, "read", &e))
    }

    fn write(&mut self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let step = (PAGE as usize - from).min(bytes.len() - done);
            if !self.pages.contains_key(&page) {
                let mut fresh = vec![0; PAGE as usize].into_boxed_slice();
                self.read_below(path, page * PAGE, &mut fresh)?;
                self.pages.insert(page, fresh);
            }
            let held = self.pages.get_mut(&page).expect("put there above");
            held[from..from + step].copy_from_slice(&bytes[done..done + step]);
            done += step;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            if let Some((_, below)) = &mut self.below {
                *below = (*below).min(len);
            }
            self.pages.retain(|page, _| page * PAGE < len);
            if let Some(last) = self.pages.get_mut(&(len / PAGE)) {
                last[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
    }
}

impl CowFile {
    /// From now on every handle sees what is written.
    fn note_change(&self) {
        let mut changed = locked(&self.changed);
        changed
            .entry(self.path.clone())
            .or_insert_with(|| Some(Arc::clone(&self.content)));
    }
}

impl DiskFile for CowFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let content = locked(&self.content);
        let there = content.len.saturating_sub(offset).min(len as u64);
        let mut out = vec![0; usize::try_from(there).unwrap_or(usize::MAX)];
        content.read(&self.path, offset, &mut out)?;
        Ok(out.into())
    }

    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        locked(&self.content).read(&self.path, offset, out)
    }

    fn forget_cached(&self, _offset: u64, _len: u64) {}

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.note_change();
        locked(&self.content).write(&self.path, offset, bytes)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(locked(&self.content).len)
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.note_change();
        locked(&self.content).set_len(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_seen_and_the_directory_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let old = vec![7u8; 10_000];
        fs::write(dir.path().join("a"), &old).unwrap();
        fs::write(dir.path().join("b"), b"b").unwrap();
        let disk = CowDisk::open(dir.path()).unwrap();
        let file = disk.open("a", false).unwrap();
        file.write_at(4090, b"0123456789").unwrap();
        file.write_at(12_000, b"x").unwrap();
        let mut new = old.clone();
        new[4090..4100].copy_from_slice(b"0123456789");
        new.resize(12_000, 0);
        new.push(b'x');
        let again = disk.open("a", false).unwrap();
        assert_eq!(again.read_at(0, 1 << 20).unwrap(), new);
        again.set_len(4095).unwrap();
        file.set_len(9000).unwrap();
        new.truncate(4095);
        new.resize(9000, 0);
        assert_eq!(file.read_at(0, 1 << 20).unwrap(), new);
        disk.open("dir/c", true).unwrap().write_at(0, b"c").unwrap();
        disk.rename("b", "d").unwrap();
        disk.remove("a").unwrap();
        assert_eq!(disk.list("").unwrap(), ["d"]);
        assert_eq!(disk.list("dir").unwrap(), ["c"]);
        assert!(disk.open("b", false).is_err() && disk.open("a", false).is_err());
        assert_eq!(disk.open("d", false).unwrap().read_at(0, 9).unwrap(), "b");
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), old);
        let names = fs::read_dir(dir.path()).unwrap();
        assert_eq!(names.count(), 2);
    }
}

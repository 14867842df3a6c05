//! The disk of a real machine: the one module that names `std::fs`.
//!
//! A [`FileDisk`] is a directory; every path is relative to it. Reads and writes are positional, so
//! one open file serves many threads. Durability is `fdatasync` for content and `fsync` of the
//! directory for names. A directory that had to be made is synced into its parent at once: only
//! names inside it wait for [`Disk::sync_dir`].
//!
//! Invariants:
//! 1. no path leaves the root: empty components, `.` and `..` are refused;
//! 2. [`lock_dir`] holds an exclusive `flock` for as long as its guard lives, so two daemons cannot
//!    share a directory; the kernel drops it with the process, so a crash leaves nothing to clean.
use super::{Disk, DiskError, DiskFile, DiskSpace};
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A directory of the machine's filesystem. See the [module docs](self).
#[derive(Debug, Clone)]
pub struct FileDisk {
    root: PathBuf,
}

/// An open file of a [`FileDisk`].
#[derive(Debug)]
struct OsFile {
    path: String,
    file: File,
}

/// Exclusive use of a directory, given up when dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Why a directory cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{dir} is in use by another daemon (pid {pid})")]
    InUse {
        /// The directory.
        dir: String,
        /// What the holder wrote into the lock file, or `unknown`.
        pid: String,
    },
    /// The lock file cannot be made or read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Syncs that run side by side.
const SYNC_THREADS: usize = 8;

/// Says in a directory why it was set aside.
const ASIDE_FILE: &str = "damage.txt";

/// Name of the lock file that [`lock_dir`] keeps in the directory.
pub const LOCK_FILE: &str = "lock";

fn error(path: &str, what: &'static str, e: &io::Error) -> DiskError {
    let path = path.to_owned();
    match e.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace { path },
        _ => DiskError::Io {
            path,
            what,
            cause: e.to_string(),
        },
    }
}

/// Directories that [`set_aside`] made of `dir`, by name, with what was written in them.
pub fn were_set_aside(dir: &Path) -> Vec<(String, String)> {
    let Some(name) = dir.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let prefix = format!("{name}.damaged-");
    let entries = dir.parent().and_then(|above| fs::read_dir(above).ok());
    let one = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let why = fs::read_to_string(entry.path().join(ASIDE_FILE)).unwrap_or_default();
        name.starts_with(&prefix)
            .then(|| (name, why.trim().to_owned()))
    };
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(one)
        .collect();
    found.sort();
    found
}

/// Gives a directory another name beside it, `NAME.damaged-N`, and leaves it as it is but for a
/// file that says why. Returns the new name.
///
/// # Errors
/// [`LockError::InUse`]; I/O. The directory is where it was.
pub fn set_aside(dir: &Path, why: &str) -> Result<PathBuf, LockError> {
    let _lock = lock_dir(dir)?;
    let shown = dir.display().to_string();
    let failed = |e: &io::Error| LockError::from(error(&shown, "set aside", e));
    fs::write(dir.join(ASIDE_FILE), format!("{why}\n")).map_err(|e| failed(&e))?;
    let fresh = (1..).map(|n: u32| {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".damaged-{n}"));
        PathBuf::from(name)
    });
    let mut fresh = fresh.filter(|path| !path.exists());
    let to = fresh.next().expect("the numbers do not end");
    fs::rename(dir, &to).map_err(|e| failed(&e))?;
    let above = dir.parent().filter(|p| !p.as_os_str().is_empty());
    sync_path(above.unwrap_or(Path::new(".")), &shown)?;
    Ok(to)
}

/// Takes the exclusive lock of `dir` (created if missing).
///
/// # Errors
/// [`LockError::InUse`] when another process holds it; I/O. State unchanged.
pub fn lock_dir(dir: &Path) -> Result<DirLock, LockError> {
    let shown = dir.display().to_string();
    fs::create_dir_all(dir).map_err(|e| error(&shown, "create directory", &e))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let opened = options.open(dir.join(LOCK_FILE));
    let mut file = opened.map_err(|e| error(&shown, "open lock file", &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
            let mut pid = String::new();
            let readable = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let pid = if readable { pid.trim() } else { "unknown" }.to_owned();
            return Err(LockError::InUse { dir: shown, pid });
        }
        Err(e) => return Err(error(&shown, "lock", &e.into()).into()),
    }
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    match noted.map_err(|e| error(&shown, "write lock file", &e)) {
        // Who holds it is a courtesy: a full device must not keep a daemon from starting.
        Ok(()) | Err(DiskError::NoSpace { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(DirLock { _file: file })
}

/// Keeps daemons off `dir` without changing it; `None` if it has no lock file, as no daemon ran there.
///
/// # Errors
/// [`LockError::InUse`] when a daemon holds it; I/O.
pub fn share_dir(dir: &Path) -> Result<Option<DirLock>, LockError> {
    let path = dir.join(LOCK_FILE);
    let shown = dir.display().to_string();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(&shown, "open lock file", &e).into()),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(DirLock { _file: file })),
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
            let mut pid = String::new();
            let readable = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let pid = if readable { pid.trim() } else { "unknown" }.to_owned();
            Err(LockError::InUse { dir: shown, pid })
        }
        Err(e) => Err(error(&shown, "lock", &e.into()).into()),
    }
}

impl FileDisk {
    /// Uses `root` (created if missing, with its parents).
    ///
    /// # Errors
    /// I/O.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let shown = root.display().to_string();
        fs::create_dir_all(root).map_err(|e| error(&shown, "create directory", &e))?;
        let parent = root.parent().filter(|p| !p.as_os_str().is_empty());
        let synced = File::open(parent.unwrap_or(Path::new("."))).and_then(|d| d.sync_all());
        // The parent may belong to somebody else; a directory that was there needs no sync.
        match synced {
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                return Err(error(&shown, "sync parent directory", &e));
            }
            _ => {}
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn resolve(&self, path: &str) -> Result<PathBuf, DiskError> {
        let plain = |c: &str| !c.is_empty() && c != "." && c != "..";
        if !path.split('/').all(plain) {
            return Err(DiskError::Io {
                path: path.to_owned(),
                what: "resolve",
                cause: "not a relative path below the root".to_owned(),
            });
        }
        Ok(self.root.join(path))
    }

    fn dir(&self, dir: &str) -> Result<PathBuf, DiskError> {
        if dir.is_empty() {
            return Ok(self.root.clone());
        }
        self.resolve(dir)
    }

    /// Makes `dir` and its missing ancestors, each durable in its parent.
    fn make_dir(&self, dir: &Path, shown: &str) -> Result<(), DiskError> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(&self.root);
        if dir != self.root {
            self.make_dir(parent, shown)?;
        }
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(error(shown, "create directory", &e))
            }
            _ => sync_path(parent, shown),
        }
    }
}

fn sync_path(dir: &Path, shown: &str) -> Result<(), DiskError> {
    let synced = File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(|e| error(shown, "sync directory", &e))
}

impl Disk for FileDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        let full = self.resolve(path)?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(create)
            .truncate(false);
        let mut opened = options.open(&full);
        if create && matches!(&opened, Err(e) if e.kind() == io::ErrorKind::NotFound) {
            self.make_dir(full.parent().unwrap_or(&self.root), path)?;
            opened = options.open(&full);
        }
        let file = opened.map_err(|e| error(path, "open", &e))?;
        Ok(Box::new(OsFile {
            path: path.to_owned(),
            file,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let (source, target) = (self.resolve(from)?, self.resolve(to)?);
        fs::rename(source, target).map_err(|e| error(from, "rename", &e))
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        fs::remove_file(self.resolve(path)?).map_err(|e| error(path, "remove", &e))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let entries = match fs::read_dir(self.dir(dir)?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| error(dir, "list", &e))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| error(dir, "list", &e))?;
            // Names of ours are ASCII: anything else was put there by somebody else.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        let full = self.dir(dir)?;
        self.make_dir(&full, dir)?;
        sync_path(&full, dir)
    }

    /// Side by side: the device answers several flushes about as fast as one.
    fn sync_many(&self, files: &[Box<dyn DiskFile>], dirs: &[&str]) -> Result<(), DiskError> {
        let tasks = files.len() + dirs.len();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                match (files.get(at), dirs.get(at.wrapping_sub(files.len()))) {
                    (Some(file), _) => file.sync_data()?,
                    (None, Some(dir)) => self.sync_dir(dir)?,
                    (None, None) => return Ok(()),
                }
            }
        };
        std::thread::scope(|scope| {
            // A thread that cannot be made is not needed: the others take its share.
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let helpers = tasks.saturating_sub(1).min(SYNC_THREADS - 1);
            let helpers: Vec<_> = (0..helpers).filter_map(spawn).collect();
            let own = work();
            let joined = helpers.into_iter().map(|helper| {
                let failed = || io::Error::other("a sync thread panicked");
                let done = helper.join();
                done.unwrap_or_else(|_| Err(error("", "sync", &failed())))
            });
            joined.fold(own, Result::and)
        })
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        let stat = rustix::fs::statvfs(&self.root);
        let stat = stat.map_err(|e| error("", "statvfs", &e.into()))?;
        Ok(DiskSpace {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let mut buffer = vec![0; len];
        let n = self.read_into(offset, &mut buffer)?;
        buffer.truncate(n);
        Ok(buffer.into())
    }

    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < out.len() {
            match self
                .file
                .read_at(&mut out[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(error(&self.path, "read", &e)),
            }
        }
        Ok(filled)
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        // Where it is not supported, what is cached is read.
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::DontNeed);
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|e| error(&self.path, "write", &e))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let synced = self.file.sync_data();
        synced.map_err(|e| error(&self.path, "fdatasync", &e))
    }

    /// Side by side: one flush of the device often serves all.
    fn sync_with(&self, others: &[&dyn DiskFile]) -> Result<(), DiskError> {
        std::thread::scope(|scope| {
            let mut helpers = Vec::new();
            for file in others.iter().copied() {
                let builder = std::thread::Builder::new();
                let helper = builder.spawn_scoped(scope, move || file.sync_data());
                helpers.push((file, helper.ok()));
            }
            let mut done = self.sync_data();
            for (file, helper) in helpers {
                // What no thread did is done here.
                let joined = helper.and_then(|helper| helper.join().ok());
                done = done.and(joined.unwrap_or_else(|| file.sync_data()));
            }
            done
        })
    }

    fn len(&self) -> Result<u64, DiskError> {
        let meta = self.file.metadata();
        Ok(meta.map_err(|e| error(&self.path, "stat", &e))?.len())
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let cut = self.file.set_len(len);
        cut.map_err(|e| error(&self.path, "truncate", &e))
    }

    fn allocate(&self, len: u64) -> Result<(), DiskError> {
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&self.file, flags, 0, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => super::disk::write_zeros(self, len),
            Err(e) => Err(error(&self.path, "fallocate", &e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_wrote_and_lists_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(&dir.path().join("a/b")).unwrap();
        let file = disk.open("x/y/z", true).unwrap();
        file.write_at(5, b"hello").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("x/y").unwrap();
        assert_eq!(file.read_at(0, 99).unwrap(), &b"\0\0\0\0\0hello"[..]);
        assert_eq!(file.len().unwrap(), 10);
        assert_eq!(disk.list("x").unwrap(), ["y"]);
        disk.rename("x/y/z", "x/w").unwrap();
        assert_eq!(disk.list("x").unwrap(), ["w", "y"]);
        disk.remove("x/w").unwrap();
        let missing = DiskError::NotFound { path: "x/w".into() };
        assert_eq!(disk.remove("x/w").unwrap_err(), missing);
        assert_eq!(disk.open("x/w", false).unwrap_err(), missing);
        assert!(disk.list("nowhere").unwrap().is_empty());
        disk.sync_dir("made/here").unwrap();
        assert_eq!(disk.list("made").unwrap(), ["here"]);
        assert!(disk.space().unwrap().total_bytes > 0);
        let open = |n| disk.open(&format!("many/{n}"), true).unwrap();
        let files: Vec<_> = (0..20).map(open).collect();
        disk.sync_many(&files, &["many", "x"]).unwrap();
        disk.sync_many(&[], &[]).unwrap();
    }

    #[test]
    fn refuses_paths_that_leave_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path()).unwrap();
        for path in ["", "/etc/passwd", "a/../../b", "a//b", "."] {
            assert!(matches!(disk.open(path, true), Err(DiskError::Io { .. })));
        }
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_dir(dir.path()).unwrap();
        let pid = std::process::id().to_string();
        let refused = lock_dir(dir.path()).unwrap_err();
        assert!(matches!(&refused, LockError::InUse { pid: p, .. } if *p == pid));
        assert!(refused.to_string().contains("in use by another daemon"));
        drop(held);
        lock_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_full_device_is_told_from_other_errors() {
        // /dev/full answers every write with ENOSPC.
        let disk = FileDisk::open(Path::new("/dev")).unwrap();
        let file = disk.open("full", false).unwrap();
        let full = file.write_at(0, b"x").unwrap_err();
        assert_eq!(
            full,
            DiskError::NoSpace {
                path: "full".into()
            }
        );
    }
}

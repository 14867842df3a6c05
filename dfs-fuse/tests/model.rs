//! The filesystem without the kernel beside a real directory: the same random operations, the same
//! answers. `DFS_SEED` repeats one run; the seed is printed.
#![allow(clippy::unwrap_used)]
use bytes::Bytes;
use dfs_core::client::{CacheListener, Client, ClientConfig, FileLayer};
use dfs_core::types::{Attr, FileKind, Ino};
use dfs_daemon::embedded::Embedded;
use dfs_fuse::vfs::file::Place;
use dfs_fuse::vfs::lookup::SetAttr;
use dfs_fuse::vfs::pages::{KernelPages, Pages};
use dfs_fuse::vfs::{Caller, Errno, Vfs, VfsResult};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{AtFlags, CWD, RenameFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROOT_USER: Caller = Caller { uid: 0, gid: 0 };
/// Operations of one run.
const OPS: u32 = 1500;
/// Names that operations draw from: few, so that they meet.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A file open on both sides.
struct Open {
    handle: u64,
    local: File,
}

struct Both {
    vfs: Arc<Vfs>,
    local: PathBuf,
    open: Vec<Open>,
    rng: ChaCha8Rng,
}

type Path2 = Vec<&'static str>;

fn errno_of<T>(result: io::Result<T>) -> Result<T, i32> {
    result.map_err(|e| e.raw_os_error().unwrap())
}

fn errno<T>(result: VfsResult<T>) -> Result<T, i32> {
    result.map_err(|Errno(n)| n)
}

fn os<T>(result: rustix::io::Result<T>) -> Result<T, i32> {
    result.map_err(rustix::io::Errno::raw_os_error)
}

impl Both {
    /// A path of one to three names; short ones more often.
    fn path(&mut self) -> Path2 {
        let len = *[1, 1, 1, 2, 2, 3].get(self.rng.random_range(0..6)).unwrap();
        (0..len)
            .map(|_| NAMES[self.rng.random_range(0..NAMES.len())])
            .collect()
    }

    fn local(&self, path: &[&str]) -> PathBuf {
        path.iter().fold(self.local.clone(), |p, n| p.join(n))
    }

    /// The node of a directory's path, as the kernel would walk it.
    async fn dir(&self, path: &[&str]) -> Result<u64, i32> {
        let mut at = Ino::ROOT.0;
        for name in path {
            let attr = errno(self.vfs.lookup(at, name.as_bytes()).await)?;
            match attr.kind {
                FileKind::Dir => at = attr.ino.0,
                FileKind::Symlink => return Err(libc::ELOOP),
                _ => return Err(libc::ENOTDIR),
            }
        }
        Ok(at)
    }

    async fn parent<'a>(&self, path: &[&'a str]) -> Result<(u64, &'a str), i32> {
        let (name, dirs) = path.split_last().unwrap();
        Ok((self.dir(dirs).await?, *name))
    }

    async fn attr(&self, path: &[&str]) -> Result<Attr, i32> {
        let (dir, name) = self.parent(path).await?;
        errno(self.vfs.lookup(dir, name.as_bytes()).await)
    }

    async fn make(&self, path: &[&str], kind: FileKind, target: &[u8]) -> Result<(), i32> {
        let (dir, name) = self.parent(path).await?;
        let made = self.vfs.make(
            dir,
            name.as_bytes(),
            kind,
            0o755,
            0,
            target.to_vec(),
            ROOT_USER,
        );
        errno(made.await).map(drop)
    }

    /// A symlink on the way makes the local side follow it, which the walk above does not: such
    /// paths are left out.
    fn crosses_symlink(&self, path: &[&str]) -> bool {
        (1..path.len()).any(|n| self.local(&path[..n]).is_symlink())
    }

    async fn step(&mut self, i: u32) {
        let path = self.path();
        let other = self.path();
        if self.crosses_symlink(&path) || self.crosses_symlink(&other) {
            return;
        }
        let (here, there) = (self.local(&path), self.local(&other));
        let kind = self.rng.random_range(0..20);
        let (ours, theirs): (Result<(), i32>, Result<(), i32>) = match kind {
            0..=2 => self.create(&path).await,
            3..=4 => (
                self.make(&path, FileKind::Dir, b"").await,
                errno_of(std::fs::create_dir(&here)),
            ),
            5 => {
                let target = here.file_name().unwrap().as_bytes().to_vec();
                let link = std::os::unix::fs::symlink(here.file_name().unwrap(), &here);
                (
                    self.make(&path, FileKind::Symlink, &target).await,
                    errno_of(link),
                )
            }
            6 => (
                self.unlink(&path).await,
                errno_of(std::fs::remove_file(&here)),
            ),
            7 => (
                self.rmdir(&path).await,
                errno_of(std::fs::remove_dir(&here)),
            ),
            8..=10 => {
                let flags = [
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                ][self.rng.random_range(0..4)];
                let moved = rustix::fs::renameat_with(CWD, &here, CWD, &there, flags);
                (self.rename(&path, &other, flags.bits()).await, os(moved))
            }
            11 => {
                let linked = rustix::fs::linkat(CWD, &here, CWD, &there, AtFlags::empty());
                (self.link(&path, &other).await, os(linked))
            }
            12 => self.chmod(&path, i & 0o7777).await,
            13 => self.close(),
            14..=15 => self.truncate().await,
            16..=18 => self.write(i).await,
            _ => self.read().await,
        };
        assert_eq!(ours, theirs, "step {i}, kind {kind}: {path:?}, {other:?}");
    }

    async fn create(&mut self, path: &[&str]) -> (Result<(), i32>, Result<(), i32>) {
        let mut options = File::options();
        let local = errno_of(
            options
                .read(true)
                .write(true)
                .create_new(true)
                .open(self.local(path)),
        );
        let ours = match self.parent(path).await {
            Ok((dir, name)) => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                errno(
                    self.vfs
                        .create(dir, name.as_bytes(), 0o644, flags, ROOT_USER)
                        .await,
                )
            }
            Err(e) => Err(e),
        };
        match (ours, local) {
            (Ok((_, opened)), Ok(local)) => {
                self.open.push(Open {
                    handle: opened.handle,
                    local,
                });
                (Ok(()), Ok(()))
            }
            (ours, local) => (ours.map(drop), local.map(drop)),
        }
    }

    async fn unlink(&self, path: &[&str]) -> Result<(), i32> {
        let (dir, name) = self.parent(path).await?;
        errno(self.vfs.unlink(dir, name.as_bytes()).await)
    }

    async fn rmdir(&self, path: &[&str]) -> Result<(), i32> {
        let (dir, name) = self.parent(path).await?;
        errno(self.vfs.rmdir(dir, name.as_bytes()).await)
    }

    async fn rename(&self, from: &[&str], to: &[&str], flags: u32) -> Result<(), i32> {
        let (a, b) = (self.parent(from).await?, self.parent(to).await?);
        // The kernel looks both names up first, and refuses a move onto an ancestor by itself.
        self.attr(from).await?;
        if flags != libc::RENAME_NOREPLACE && from.len() > to.len() && from.starts_with(to) {
            let exchange = flags == libc::RENAME_EXCHANGE;
            return Err(if exchange {
                libc::EINVAL
            } else {
                libc::ENOTEMPTY
            });
        }
        errno(
            self.vfs
                .rename(a.0, a.1.as_bytes(), b.0, b.1.as_bytes(), flags)
                .await,
        )
    }

    async fn link(&self, from: &[&str], to: &[&str]) -> Result<(), i32> {
        let attr = self.attr(from).await?;
        let (dir, name) = self.parent(to).await?;
        // The kernel finds an existing target before it looks at what is linked.
        if self.attr(to).await.is_ok() {
            return Err(libc::EEXIST);
        }
        errno(self.vfs.link(attr.ino.0, dir, name.as_bytes()).await).map(drop)
    }

    async fn chmod(&self, path: &[&str], mode: u32) -> (Result<(), i32>, Result<(), i32>) {
        let here = self.local(path);
        if here.is_symlink() {
            return (Ok(()), Ok(()));
        }
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        let ours = match self.attr(path).await {
            Ok(attr) => errno(self.vfs.setattr(attr.ino.0, None, true, set).await).map(drop),
            Err(e) => Err(e),
        };
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        (ours, errno_of(std::fs::set_permissions(here, permissions)))
    }

    fn close(&mut self) -> (Result<(), i32>, Result<(), i32>) {
        if !self.open.is_empty() {
            let i = self.rng.random_range(0..self.open.len());
            self.vfs.release(self.open.swap_remove(i).handle);
        }
        (Ok(()), Ok(()))
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.open.is_empty()).then(|| self.rng.random_range(0..self.open.len()))
    }

    async fn truncate(&mut self) -> (Result<(), i32>, Result<(), i32>) {
        let Some(i) = self.pick() else {
            return (Ok(()), Ok(()));
        };
        let size = self.rng.random_range(0..300_000);
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let open = &self.open[i];
        let ino = open_ino(&self.vfs, open);
        let ours = errno(self.vfs.setattr(ino, Some(open.handle), true, set).await).map(drop);
        (ours, errno_of(open.local.set_len(size)))
    }

    async fn write(&mut self, i: u32) -> (Result<(), i32>, Result<(), i32>) {
        let Some(n) = self.pick() else {
            return (Ok(()), Ok(()));
        };
        let (at, len) = (
            self.rng.random_range(0..250_000),
            self.rng.random_range(1..80_000),
        );
        let bytes = vec![(i % 251) as u8; len];
        let open = &self.open[n];
        let place = Place {
            offset: at,
            append: false,
            kill_suid: false,
            sync: false,
            direct: false,
        };
        let ours = match self.vfs.write_buffered(open.handle, place, &bytes) {
            Some(done) => errno(done),
            None => errno(self.vfs.write(open.handle, place, &bytes).await),
        };
        (ours, errno_of(open.local.write_all_at(&bytes, at)))
    }

    async fn read(&mut self) -> (Result<(), i32>, Result<(), i32>) {
        let Some(n) = self.pick() else {
            return (Ok(()), Ok(()));
        };
        let open = &self.open[n];
        let ours = self
            .vfs
            .read(open.handle, 0, 1 << 20)
            .await
            .unwrap()
            .concat();
        let mut theirs = vec![0; usize::try_from(open.local.metadata().unwrap().len()).unwrap()];
        open.local.read_exact_at(&mut theirs, 0).unwrap();
        assert!(ours == theirs, "content of handle {}", open.handle);
        (Ok(()), Ok(()))
    }

    /// Both trees, whole.
    async fn compare(&self) {
        let mut ours = BTreeMap::new();
        let mut rest = vec![(String::new(), Ino::ROOT.0)];
        while let Some((path, node)) = rest.pop() {
            let handle = self.vfs.opendir(node).unwrap();
            let mut listed = Vec::new();
            let add = |e: &dfs_fuse::vfs::handles::Listed| {
                listed.push((String::from_utf8(e.name.clone()).unwrap(), e.node));
                false
            };
            self.vfs.readdir(handle, 2, false, add).await.unwrap();
            self.vfs.release(handle);
            for (name, node) in listed {
                let below = format!("{path}/{name}");
                let attr = self.vfs.getattr(node).await.unwrap();
                let size = if attr.kind == FileKind::Dir {
                    0
                } else {
                    attr.size
                };
                ours.insert(below.clone(), (attr.kind, attr.mode, attr.nlink, size));
                if attr.kind == FileKind::Dir {
                    rest.push((below, node));
                }
            }
        }
        let mut theirs = BTreeMap::new();
        walk(&self.local, "", &mut theirs);
        assert_eq!(ours, theirs);
    }
}

fn open_ino(vfs: &Vfs, open: &Open) -> u64 {
    vfs.handle_ino(open.handle).unwrap().0
}

fn walk(dir: &Path, path: &str, all: &mut BTreeMap<String, (FileKind, u32, u32, u64)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let below = format!("{path}/{}", entry.file_name().to_str().unwrap());
        let kind = match meta.file_type() {
            t if t.is_dir() => FileKind::Dir,
            t if t.is_symlink() => FileKind::Symlink,
            t if t.is_fifo() => FileKind::Fifo,
            _ => FileKind::File,
        };
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let nlink = u32::try_from(meta.nlink()).unwrap();
        all.insert(below.clone(), (kind, meta.mode() & 0o7777, nlink, size));
        if meta.is_dir() {
            walk(&entry.path(), &below, all);
        }
    }
}

/// Has no pages.
struct NoKernel;

impl KernelPages for NoKernel {
    fn drop_pages(&self, _: Ino) {}

    fn fill(&self, _: Ino, _: u64, _: &[Bytes]) {}
}

#[test]
fn random_operations_answer_as_a_real_directory_does() {
    let seed = std::env::var("DFS_SEED").map_or(20_261, |s| s.parse().unwrap());
    println!("DFS_SEED={seed}");
    let place = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let cluster = Embedded::start(runtime.handle(), &place.path().join("dev"), 1).unwrap();
    let local = place.path().join("local");
    std::fs::create_dir(&local).unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    runtime.block_on(async {
        let config = ClientConfig::new(cluster.addrs().to_vec(), cluster.key().clone());
        let client = Client::connect(config).await.unwrap();
        let (files, pages) = (FileLayer::new(&client), Arc::new(Pages::default()));
        client.set_listener(pages.clone() as Arc<dyn CacheListener>);
        let notified = pages.clone();
        // No kernel has any pages to drop.
        let notify = std::thread::spawn(move || notified.run(&NoKernel));
        let mut both = Both {
            vfs: Arc::new(Vfs::new(client.clone(), files, pages.clone())),
            local,
            open: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        for i in 0..OPS {
            both.step(i).await;
            if i % 250 == 249 {
                both.compare().await;
            }
        }
        both.vfs.flush_all().await;
        both.compare().await;
        client.shutdown().await;
        pages.stop();
        notify.join().unwrap();
    });
    cluster.stop();
}

//! One open handle: what programs do with files.
use super::backend::Opened;
use super::error::{FileError, FileResult};
use super::inode::{Inode, Registered, State};
use super::layer::FileLayer;
use super::locking::LockKey;
use crate::types::{Attr, BLOCK_SIZE, ChunkNo, Ino, Revision, VersionNo};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenMode {
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
    /// O_APPEND.
    pub append: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// What O_TRUNC cuts loses suid and sgid, as when an ordinary user writes.
    pub kill_suid: bool,
}

impl OpenMode {
    /// Only reading.
    pub const READ: Self = Self {
        read: true,
        write: false,
        append: false,
        truncate: false,
        kill_suid: false,
    };
    /// Reading and writing.
    pub const WRITE: Self = Self {
        read: true,
        write: true,
        append: false,
        truncate: false,
        kill_suid: false,
    };
}

/// Sequential reading, as seen by one handle.
#[derive(Debug, Default)]
struct Ahead {
    /// Where the last read ended.
    next: u64,
    /// Fetched or being fetched up to here.
    fetched: u64,
    window: u64,
}

#[derive(Debug, Default)]
struct Handle {
    errors_seen: u64,
    /// The first error heard of: from then on the handle reports nothing else.
    failed: Option<FileError>,
    ahead: Ahead,
}

/// See [`OpenFile::rest_of_block`].
#[derive(Debug)]
pub struct RestOfBlock {
    /// Of the content.
    pub revision: Revision,
    /// Where it begins.
    pub from: u64,
    /// Whole pages.
    pub bytes: Vec<Bytes>,
}

/// First read-ahead window; doubles while reading goes on in sequence.
const AHEAD_MIN: u64 = 512 * 1024;

/// An open file. Dropping it releases it.
#[derive(Debug)]
pub struct OpenFile {
    pub(super) layer: Arc<FileLayer>,
    pub(super) inode: Arc<Inode>,
    mode: OpenMode,
    handle: Mutex<Handle>,
    /// Whose locks were taken through it; its lock is taken last.
    lock_owners: Mutex<BTreeSet<LockKey>>,
    released: AtomicBool,
    /// Counted in the inode's `closed`; changed under its lock.
    closed: AtomicBool,
}

impl FileLayer {
    /// Opens a file; what other sessions closed or synced before is seen. With `truncate` the
    /// content is empty from now on.
    ///
    /// # Errors
    /// What the master says (`NotFound`, `Stale`, ...); nothing is open then.
    pub async fn open(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> FileResult<Arc<OpenFile>> {
        let inode = self.enter(ino, mode).await;
        let file = self.handle(inode, mode);
        let local = self.is_open_locally(&file.inode.state(), mode.write);
        if !local {
            self.register(&file.inode, mode.write).await?;
            // What was lost before it was open concerns other handles.
            let errors = file.inode.state().errors;
            file.handle().errors_seen = errors;
        }
        if mode.truncate && mode.write {
            file.truncate(0, mode.kill_suid).await?;
        }
        Ok(file)
    }

    /// As [`open`](Self::open), of a file that this mount has just made and the master opened with the same
    /// request. `has_met` says, from when it was asked for on, whether another session may have opened or
    /// changed it since: then the master is asked again.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_made(
        self: &Arc<Self>,
        made: Opened,
        mode: OpenMode,
        has_met: impl FnOnce() -> bool,
    ) -> FileResult<Arc<OpenFile>> {
        let inode = self.enter(made.attr.ino, mode).await;
        let file = self.handle(inode, mode);
        let (recalls, invalidations) = {
            let mut state = file.inode.state();
            state.asked_for = true;
            (state.recalls, state.invalidations)
        };
        // Whoever comes from now on finds the inode.
        let is_alone = !has_met() && {
            let mut state = file.inode.state();
            let unmet = (state.recalls, state.invalidations) == (recalls, invalidations);
            let is_new = unmet && state.registered.is_none();
            if is_new {
                state.registered = Some(Registered {
                    write: mode.write,
                    lease: made.lease,
                    shared: made.shared,
                });
                state.learn_opened(&made.attr, made.layout, invalidations);
            }
            is_new
        };
        if !is_alone {
            self.register(&file.inode, mode.write).await?;
        }
        Ok(file)
    }

    /// Opens without asking anybody, if that is possible (never with `truncate`).
    #[must_use]
    pub fn try_open(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> Option<Arc<OpenFile>> {
        let known = self.find(ino)?;
        if mode.truncate || !self.is_open_locally(&known.state(), mode.write) {
            return None;
        }
        let file = self.handle(self.try_enter(ino, mode)?, mode);
        let local = self.is_open_locally(&file.inode.state(), mode.write);
        local.then_some(file)
    }

    /// Opens an immutable version for reading: `inode_version` of `ino`, `size` bytes.
    #[must_use]
    pub fn open_version(
        self: &Arc<Self>,
        ino: Ino,
        inode_version: VersionNo,
        size: u64,
    ) -> Arc<OpenFile> {
        let inode = Self::version_inode(ino, inode_version);
        inode.state().size = size;
        self.handle(inode, OpenMode::READ)
    }

    fn handle(self: &Arc<Self>, inode: Arc<Inode>, mode: OpenMode) -> Arc<OpenFile> {
        let handle = Handle {
            errors_seen: inode.state().errors,
            ..Handle::default()
        };
        Arc::new(OpenFile {
            layer: Arc::clone(self),
            inode,
            mode,
            handle: Mutex::new(handle),
            lock_owners: Mutex::default(),
            released: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }
}

impl OpenFile {
    pub(super) fn lock_owners(&self) -> MutexGuard<'_, BTreeSet<LockKey>> {
        let owners = self.lock_owners.lock();
        owners.unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inode.
    #[must_use]
    pub fn ino(&self) -> Ino {
        self.inode.ino
    }

    /// It is an immutable version of the inode.
    #[must_use]
    pub fn is_version(&self) -> bool {
        self.inode.version.is_some()
    }

    /// How it was opened.
    #[must_use]
    pub fn mode(&self) -> OpenMode {
        self.mode
    }

    /// Others have it open: writes go through, and the kernel should not cache its pages.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.inode.version.is_none() && self.inode.state().is_shared()
    }

    /// Size that this mount's programs see.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inode.state().size
    }

    /// Attributes as last committed or told, with local changes applied; `None` for a version.
    #[must_use]
    pub fn attr(&self) -> Option<Attr> {
        let mut attr = self.inode.state().attr.clone()?;
        self.layer.overlay(&mut attr);
        Some(attr)
    }

    /// Reads up to `len` bytes at `offset` as slices of cached blocks; fewer only at the end.
    ///
    /// # Errors
    /// [`FileError::Get`]: no verified bytes could be had; never are others returned.
    pub async fn read(&self, offset: u64, len: usize) -> FileResult<Vec<Bytes>> {
        self.check_locks(self.layer.backend.client())?;
        let out = self.layer.read(&self.inode, offset, len as u64).await?;
        self.read_ahead(offset, &out);
        Ok(out)
    }

    /// As [`read`](Self::read), if memory has it all.
    #[must_use]
    pub fn try_read_cached(&self, offset: u64, len: usize) -> Option<Vec<Bytes>> {
        self.check_locks(self.layer.backend.client()).ok()?;
        let out = self.layer.read_cached(&self.inode, offset, len as u64)?;
        self.read_ahead(offset, &out);
        Some(out)
    }

    /// After a read at `offset` that did not go on where the one before ended: all whole pages of the block
    /// around it, and where they begin, if memory has them and nothing of this mount's own is in them.
    #[must_use]
    pub fn rest_of_block(&self, offset: u64) -> Option<RestOfBlock> {
        const PAGE: u64 = 4096;
        if self.handle().ahead.window > 0 {
            return None;
        }
        let block = BLOCK_SIZE as u64;
        let from = offset / block * block;
        let known = || {
            let state = self.inode.state();
            let layout = state.layout.as_ref().filter(|_| !state.is_pending())?;
            Some((layout.revision, layout.size))
        };
        let (revision, size) = known()?;
        let to = (from + block).min(size / PAGE * PAGE);
        if from >= to {
            return None;
        }
        let out = self.layer.read_cached(&self.inode, from, to - from)?;
        let len: u64 = out.iter().map(|b| b.len() as u64).sum();
        (len == to - from && known() == Some((revision, size))).then_some(RestOfBlock {
            revision,
            from,
            bytes: out,
        })
    }

    fn read_ahead(&self, offset: u64, out: &[Bytes]) {
        let end = offset + out.iter().map(|b| b.len() as u64).sum::<u64>();
        let max = self.layer.config.read_ahead_max;
        let size = self.inode.state().size;
        let mut handle = self.handle();
        let ahead = &mut handle.ahead;
        let sequential = offset == ahead.next && end > offset;
        ahead.next = end;
        if !sequential {
            *ahead = Ahead {
                next: end,
                ..Ahead::default()
            };
            return;
        }
        ahead.window = (ahead.window * 2).clamp(AHEAD_MIN, max.max(AHEAD_MIN));
        let from = ahead.fetched.max(end);
        let to = (end + ahead.window).min(size);
        // The next window is asked for when half of this one has been read.
        if max > 0 && from < to && (to - from >= ahead.window / 2 || to == size) {
            ahead.fetched = to;
            drop(handle);
            self.layer.prefetch(&self.inode, from, to);
        }
    }

    /// The next data (`hole` false) or hole (true) at or after `offset`; the end counts as a hole.
    ///
    /// # Errors
    /// [`FileError::BeyondEnd`] past the last one, and errors of the flush this begins with.
    async fn seek(&self, offset: u64, hole: bool) -> FileResult<u64> {
        self.layer.drain(&self.inode).await;
        let mut layout = self
            .layer
            .ask_layout(&self.inode, ChunkNo::of(offset), None)
            .await?;
        if offset >= layout.size {
            return Err(FileError::BeyondEnd);
        }
        let mut at = offset;
        loop {
            let size = layout.size;
            let end = match layout.unknown(at, size) {
                Some(chunk) if chunk.start() <= at => {
                    layout = self
                        .layer
                        .ask_layout(&self.inode, chunk, Some(layout))
                        .await?;
                    continue;
                }
                Some(chunk) => chunk.start(),
                None => size,
            };
            let found = layout
                .map(at, end)
                .into_iter()
                .find(|m| m.source.is_none() == hole);
            match found {
                Some(mapped) => return Ok(mapped.from),
                None if end >= size && hole => return Ok(size),
                None if end >= size => return Err(FileError::BeyondEnd),
                None => at = end,
            }
        }
    }

    /// SEEK_DATA.
    ///
    /// # Errors
    /// [`FileError::BeyondEnd`] if there is none.
    pub async fn seek_data(&self, offset: u64) -> FileResult<u64> {
        self.seek(offset, false).await
    }

    /// SEEK_HOLE.
    ///
    /// # Errors
    /// [`FileError::BeyondEnd`] if `offset` is at or past the end.
    pub async fn seek_hole(&self, offset: u64) -> FileResult<u64> {
        self.seek(offset, true).await
    }

    /// This mount has the file open for writing.
    #[must_use]
    pub fn is_written_here(&self) -> bool {
        self.inode.state().writers > 0
    }

    /// Nothing to flush and no error to report: [`flush`](Self::flush) would return at once.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let state = self.inode.state();
        let handle = self.handle();
        !state.is_pending() && state.errors == handle.errors_seen && handle.failed.is_none()
    }

    /// Nothing written through this handle has failed in the background.
    ///
    /// # Errors
    /// The first error that has; it stays for as long as the handle does, since what was written
    /// is lost for good.
    pub(super) fn check_failed(&self) -> FileResult<()> {
        self.check_locks(self.layer.backend.client())?;
        let state = self.inode.state();
        let mut handle = self.handle();
        if state.errors > handle.errors_seen {
            handle.errors_seen = state.errors;
            if handle.failed.is_none() {
                handle.failed.clone_from(&state.last_error);
            }
        }
        handle.failed.clone().map_or(Ok(()), Err)
    }

    /// One descriptor was closed, perhaps the last one: as [`fsync`](Self::fsync), or, with
    /// [`FileConfig::behind`](super::FileConfig), without waiting for what it put. If nothing is written
    /// through the handle afterwards, the next open for writing begins a version, even if the
    /// [`release`](Self::release) comes after it.
    ///
    /// # Errors
    /// As [`fsync`](Self::fsync).
    pub async fn flush(&self) -> FileResult<()> {
        if self.mode.write {
            let mut state = self.inode.state();
            state.closed += u32::from(!self.closed.swap(true, Ordering::AcqRel));
        }
        let config = &self.layer.config;
        // A lock goes with the close, and not before what was written under it is committed.
        if !config.behind || self.inode.state().locks.are_held() {
            return self.fsync().await;
        }
        if !self.is_clean() && !self.layer.follow(&self.inode) {
            self.layer.cut_all(&self.inode);
            if !self.layer.budget.may_put(config.behind_puts_max) {
                let _hurry = config.leisure.hurry();
                let budget = &self.layer.budget;
                budget.wait_for_puts(config.behind_puts_max).await;
            }
        }
        self.check_failed()
    }

    /// The handle is in use, or gone: no longer one that was closed.
    pub(super) fn reopen(&self, state: &mut State) {
        state.closed -= u32::from(self.closed.swap(false, Ordering::AcqRel));
    }

    /// Commits what is buffered for the file: a committed put is durable at W stores and a majority
    /// of voters.
    ///
    /// # Errors
    /// A background write failed since the handle was opened: the first such error, from then on at
    /// every call. Or one failed behind a close, and nobody has heard of it: that error, once.
    pub async fn fsync(&self) -> FileResult<()> {
        if !self.is_clean() {
            self.layer.drain(&self.inode).await;
        }
        self.layer.later_made(&self.inode).await;
        // Who hears of it as its own failure has heard of it.
        let unheard = match self.mode.write {
            true => self.layer.take_unheard(self.inode.ino),
            false => Ok(()),
        };
        self.check_failed().and(unheard)
    }

    /// Closes the handle; seals and releases follow in the background. Also done on drop.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) && self.inode.version.is_none() {
            self.unlock_all();
            self.layer.leave(self);
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.release();
    }
}

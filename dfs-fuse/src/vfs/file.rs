//! Content of files: open, read, write, sync, holes.
use super::handles::Handle;
use super::pages::Fill;
use super::status::StatusNode;
use super::versions::VersionNode;
use super::{Caller, Errno, Node, Vfs, VfsResult, new_name};
use bytes::Bytes;
use dfs_core::client::{FileError, OpenFile, OpenMode};
use dfs_core::types::{Attr, BLOCK_SIZE, FileKind, Ino, Revision};
use dfs_core::wire::mutation::NewNode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An opened handle and how the kernel shall treat it.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Number of the handle.
    pub handle: u64,
    /// The pages the kernel has may be used.
    pub keep_pages: bool,
    /// Every read and write shall come to us.
    pub direct: bool,
}

pub(super) fn revision_of(file: &OpenFile) -> Revision {
    file.attr().map_or(Revision(0), |attr| attr.revision)
}

fn mode_of(flags: i32, uid: u32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    let truncate = flags & libc::O_TRUNC != 0;
    OpenMode {
        read: access != libc::O_WRONLY,
        // O_TRUNC cuts whatever the access mode.
        write: access != libc::O_RDONLY || truncate,
        append: flags & libc::O_APPEND != 0,
        truncate,
        kill_suid: uid != 0,
    }
}

/// Time that a seek for data waits at most until the kernel has written its pages.
const SEEK_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where a write goes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// First byte.
    pub offset: u64,
    /// At the end of the file instead, wherever that is.
    pub append: bool,
    /// Clear suid and sgid.
    pub kill_suid: bool,
    /// On stable storage before the answer (O_DSYNC).
    pub sync: bool,
    /// Past the kernel's pages (O_DIRECT): of an asynchronous one the kernel does not ask for a sync itself.
    pub direct: bool,
}

/// It is certain that this caller may: the owner with the rights of the owner. Not even of root is it
/// known what it may (capabilities, `fs.protected_regular`).
fn may_open(attr: &Attr, uid: u32, mode: OpenMode) -> bool {
    let wanted =
        if mode.read { libc::S_IRUSR } else { 0 } | if mode.write { libc::S_IWUSR } else { 0 };
    uid == attr.uid && attr.mode & wanted == wanted
}

/// What a call that has made or cut a file may fail with: with ESTALE the kernel would do the whole call
/// again, to another file if others have removed the first in between.
pub(super) fn made_and_gone(error: Errno) -> Errno {
    match error.0 {
        libc::ESTALE | libc::ENOENT => Errno(libc::EIO),
        _ => error,
    }
}

/// A handle that is released on drop.
struct Held<'a>(&'a Vfs, Option<u64>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.1.take() {
            self.0.release(handle);
        }
    }
}

impl Vfs {
    /// open(2) of an existing node.
    ///
    /// # Errors
    /// EROFS below `.versions` for writing, and the like.
    pub async fn open(&self, node: u64, flags: i32, uid: u32) -> VfsResult<Opened> {
        let mode = mode_of(flags, uid);
        match self.node(node)? {
            Node::Real(ino) => self.open_inode(ino, mode, flags).await,
            Node::Version(_) | Node::Status(_) if mode.write => Err(Errno(libc::EROFS)),
            Node::Status(StatusNode::File) => Ok(Opened {
                handle: self.open_status(),
                keep_pages: false,
                // Its size is not known before it is written.
                direct: true,
            }),
            Node::Version(VersionNode::File(_, _, info)) => {
                let file = self
                    .files
                    .open_version(info.ino, info.inode_version, info.size);
                let handle = self.handles.add(Handle::File {
                    file,
                    append: false,
                    unread: None,
                    kept: false,
                    filled: false,
                });
                Ok(Opened {
                    handle,
                    keep_pages: !info.is_current,
                    direct: false,
                })
            }
            Node::Version(_) | Node::Status(_) => Err(Errno(libc::EISDIR)),
        }
    }

    async fn open_inode(&self, ino: Ino, mode: OpenMode, flags: i32) -> VfsResult<Opened> {
        // Before it is cut.
        let _writing = match mode.write {
            true => Some(self.writing(ino).await?),
            false => None,
        };
        let file = self.files.open(ino, mode).await?;
        self.opened(file, mode, flags).await
    }

    /// The handle on a file that is open, for the kernel.
    async fn opened(&self, file: Arc<OpenFile>, mode: OpenMode, flags: i32) -> VfsResult<Opened> {
        let (ino, append) = (file.ino(), mode.append);
        let revision = revision_of(&file);
        self.follow(ino);
        if self.pages.handles(ino) > 0 && !mode.truncate {
            // The kernel would drop the pages too, but not before others can see the new size. An empty
            // file shows none, and what has been cut must not end in an error.
            self.wait_for_pages(ino, revision).await?;
            self.settled(ino).await;
        }
        self.pages.opening(ino).await;
        // Nothing waits between the count and the handle that ends it.
        if mode.write {
            self.writing(ino).await?.keep();
        }
        let keep_pages = self.pages.open(ino, revision);
        let past_pages = !mode.write && (file.is_shared() || self.pages.is_appended(ino));
        if append {
            self.pages.open_appender(ino);
        }
        let handle = self.handles.add(Handle::File {
            file,
            append,
            unread: (mode.read && self.moves_atime && flags & libc::O_NOATIME == 0)
                .then(|| AtomicBool::new(true)),
            kept: keep_pages && !mode.write && !past_pages,
            filled: !mode.write && !past_pages,
        });
        // The kernel places appends by the size it remembers, which another mount may have changed.
        Ok(Opened {
            handle,
            keep_pages,
            direct: append || past_pages,
        })
    }

    /// open(2) with O_CREAT of a name that was not there.
    ///
    /// # Errors
    /// EEXIST with O_EXCL, EPERM for `.versions`, and the like. EIO also if it was made, and removed by
    /// others before it was open here (which takes a mount that stands still for long).
    pub async fn create(
        &self,
        parent: u64,
        bytes: &[u8],
        mode: u32,
        flags: i32,
        caller: Caller,
    ) -> VfsResult<(Attr, Opened)> {
        let dir = self.writable(parent)?;
        let name = new_name(dir, bytes)?;
        let Caller { uid, gid } = caller;
        let kind = FileKind::File;
        let node = NewNode {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            rdev: 0,
            target: Vec::new(),
        };
        let exclusive = flags & libc::O_EXCL != 0;
        let mode = mode_of(flags, uid);
        let made = self
            .client
            .create_open(dir, &name, node, exclusive, mode.write)
            .await?;
        let attr = made.attr;
        if made.created {
            self.changed(&[dir]);
            let truncate = false;
            let mode = OpenMode { truncate, ..mode };
            let opened = match made.opened {
                Some((opened, moment)) => {
                    let has_met = || self.client.has_met(moment, attr.ino);
                    let file = self.files.open_made(opened.into(), mode, has_met).await;
                    self.opened(file.map_err(|e| made_and_gone(e.into()))?, mode, flags)
                        .await
                }
                None => self.open_inode(attr.ino, mode, flags).await,
            };
            return Ok((attr, opened.map_err(made_and_gone)?));
        }
        // Somebody else made it since the kernel looked, which has not checked permissions then.
        match attr.kind {
            FileKind::Dir => return Err(Errno(libc::EISDIR)),
            FileKind::File if may_open(&attr, uid, mode) => {}
            // The kernel looks again.
            _ => return Err(Errno(libc::ESTALE)),
        }
        let opened = self.open(attr.ino.0, flags, uid).await?;
        // The kernel does not learn of the handle if the rest fails, or is given up.
        let mut held = Held(self, Some(opened.handle));
        let attr = self.shown(self.client.getattr(attr.ino).await?).await?;
        held.1 = None;
        Ok((attr, opened))
    }

    /// read(2): pieces that follow one another; fewer bytes than asked only at end of file.
    ///
    /// # Errors
    /// EIO when no copy can be verified.
    pub async fn read(&self, handle: u64, offset: u64, len: usize) -> VfsResult<Vec<Bytes>> {
        let opened = self.handles.get(handle)?;
        let file = match &*opened {
            Handle::Text(text) => {
                let begin = usize::try_from(offset).map_or(text.len(), |o| o.min(text.len()));
                return Ok(vec![text.slice(begin..text.len().min(begin + len))]);
            }
            Handle::File { file, unread, .. } => {
                self.note_read(file, unread.as_ref());
                file
            }
            Handle::Dir { .. } => return Err(Errno(libc::EBADF)),
        };
        if let Some(error) = self.late.recent(handle) {
            return Err(error);
        }
        let began = Instant::now();
        let read = file.read(offset, len).await.map_err(Errno::from);
        read.inspect_err(|error| self.late.note(handle, began, *error))
    }

    /// read(2) without waiting, if everything asked for is in memory.
    #[must_use]
    pub fn read_cached(&self, handle: u64, offset: u64, len: usize) -> Option<Vec<Bytes>> {
        let opened = self.handles.get(handle).ok()?;
        let Handle::File { file, unread, .. } = &*opened else {
            return None;
        };
        let read = file.try_read_cached(offset, len)?;
        self.note_read(file, unread.as_ref());
        Some(read)
    }

    /// After a read was answered: gives the kernel the rest of the block that it lies in, if that is in
    /// memory and it may have it. Of a file that would take much of this machine's memory only what it
    /// asks for.
    pub fn fill_pages(&self, handle: u64, offset: u64, len: usize) {
        let Ok(opened) = self.handles.get(handle) else {
            return;
        };
        let Handle::File {
            file, filled: true, ..
        } = &*opened
        else {
            return;
        };
        let ino = file.ino();
        if len >= BLOCK_SIZE || file.size() > self.filled_max {
            return;
        }
        let Some(moment) = self.pages.moment(ino) else {
            return;
        };
        let rest = file.rest_of_block(offset);
        let rest = rest.filter(|rest| rest.revision == moment.revision);
        // Still open, it was when the moment came: what was known of its content was known in time.
        if let (Some(rest), Ok(_)) = (rest, self.handles.get(handle)) {
            let (offset, bytes) = (rest.from, rest.bytes);
            self.pages.fill(Fill {
                ino,
                moment,
                offset,
                bytes,
            });
        }
    }

    fn note_read(&self, file: &OpenFile, unread: Option<&AtomicBool>) {
        if let Some(unread) = unread {
            unread.store(false, Ordering::Relaxed);
            // The handle has not heard of a chmod.
            let attr = self.client.cached_attr(file.ino()).or_else(|| file.attr());
            if attr.is_some_and(|attr| self.files.accessed(&attr)) {
                // A read from its pages tells the kernel nothing of access times.
                self.changed(&[file.ino()]);
            }
        }
    }

    /// write(2) without waiting, if the buffer has room; `None` otherwise, nothing was taken.
    #[must_use]
    pub fn write_buffered(&self, handle: u64, place: Place, bytes: &[u8]) -> Option<VfsResult<()>> {
        let (file, direct) = self.handles.file(handle).ok()?;
        if place.append || (place.sync && (direct || place.direct)) {
            return None;
        }
        let done = file.try_write(place.offset, bytes, place.kill_suid)?;
        Some(match done {
            Ok(()) => Ok(()),
            refused => self.kept_or_dropped(&file, refused),
        })
    }

    /// write(2).
    ///
    /// # Errors
    /// ENOSPC, EFBIG, the handle's earlier error, and the like.
    pub async fn write(&self, handle: u64, place: Place, bytes: &[u8]) -> VfsResult<()> {
        let (file, direct) = self.handles.file(handle)?;
        let kill_suid = place.kill_suid;
        let done = async {
            if place.append && direct {
                let done = file.append(bytes, kill_suid);
                self.pages.appending(file.ino(), done).await?;
            } else if place.append {
                // O_APPEND was set after the open: the kernel has the bytes in pages where it took the end
                // to be, and keeps those locked until this is answered.
                file.append(bytes, kill_suid).await?;
                self.pages.drop_pages(file.ino());
            } else {
                file.write(place.offset, bytes, kill_suid).await?;
            }
            match place.sync && (direct || place.direct) {
                true => file.fsync().await,
                false => Ok(()),
            }
        };
        let done = done.await;
        self.kept_or_dropped(&file, done)
    }

    /// Bytes that could not be stored are not left in the kernel's pages, as if they had been.
    fn kept_or_dropped(&self, file: &OpenFile, done: Result<(), FileError>) -> VfsResult<()> {
        self.follow(file.ino());
        if done.is_err() && !file.is_version() {
            self.pages.drop_pages(file.ino());
        }
        Ok(done?)
    }

    /// close(2) of one descriptor: what was written is on stable storage afterwards.
    ///
    /// # Errors
    /// What went wrong since the handle last heard of it.
    pub async fn flush(&self, handle: u64) -> VfsResult<()> {
        let opened = self.handles.get(handle)?;
        let file = match &*opened {
            Handle::Text(_) => return Ok(()),
            Handle::Dir { .. } => return Err(Errno(libc::EBADF)),
            Handle::File {
                file, unread, kept, ..
            } => {
                let unread = unread.as_ref().filter(|u| u.load(Ordering::Relaxed));
                if *kept && file.size() > 0 {
                    // Opened to be read, and no read came: the kernel had the pages.
                    self.note_read(file, unread);
                }
                file
            }
        };
        let done = file.flush().await;
        self.kept_or_dropped(file, done)
    }

    /// fsync(2).
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn fsync(&self, handle: u64) -> VfsResult<()> {
        let (file, _) = self.handles.file(handle)?;
        let done = file.fsync().await;
        let settled = self.client.settle(file.ino()).await;
        self.kept_or_dropped(&file, done)?;
        Ok(settled?)
    }

    /// fsync(2) of a directory: its names are on stable storage.
    ///
    /// # Errors
    /// A change in it failed that nobody waited for; told once.
    pub async fn fsync_dir(&self, node: u64) -> VfsResult<()> {
        match self.node(node)? {
            Node::Real(ino) => Ok(self.client.settle(ino).await?),
            Node::Version(_) | Node::Status(_) => Ok(()),
        }
    }

    /// The inode that a handle has open.
    ///
    /// # Errors
    /// EBADF.
    pub fn handle_ino(&self, handle: u64) -> VfsResult<Ino> {
        Ok(self.handles.file(handle)?.0.ino())
    }

    /// The last descriptor is closed and all mappings are gone.
    pub fn release(&self, id: u64) {
        let Some(handle) = self.handles.remove(id) else {
            return;
        };
        self.late.forget(id);
        if let Handle::File { file, append, .. } = &*handle {
            match append {
                _ if file.is_version() => {}
                true => self.pages.close_appender(file.ino()),
                false => self.pages.close(file.ino()),
            }
            if file.mode().write && !file.is_version() {
                self.pages.end_writing(file.ino());
            }
            file.release();
        }
    }

    /// fallocate(2): allocation (a promise of size only), KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE.
    ///
    /// # Errors
    /// EOPNOTSUPP for other modes; EROFS below `.versions`.
    pub async fn fallocate(
        &self,
        node: u64,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> VfsResult<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        let ino = self.writable(node)?;
        let (file, _) = self.handles.file(handle)?;
        let end = offset.checked_add(len).ok_or(Errno(libc::EFBIG))?;
        if mode & !(KEEP | PUNCH | ZERO) != 0 || mode & (PUNCH | ZERO) == PUNCH | ZERO {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        if mode & (PUNCH | ZERO) != 0 {
            file.punch(offset, len).await?;
        }
        let extended = match mode & KEEP == 0 && mode & PUNCH == 0 {
            true => file.extend(end).await,
            false => Ok(()),
        };
        // Also after half of it.
        self.pages.drop_pages(ino);
        Ok(extended?)
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    ///
    /// # Errors
    /// ENXIO past the end or when there is no more data.
    pub async fn seek(&self, handle: u64, offset: u64, data: bool) -> VfsResult<u64> {
        let (file, _) = self.handles.file(handle)?;
        if file.is_written_here() {
            // What was stored through a mapping is in the kernel's pages only.
            let dropped = self.pages.drop_now(file.ino());
            if tokio::time::timeout(SEEK_WAIT_MAX, dropped).await.is_err() {
                self.pages.drop_pages(file.ino());
                // Nobody knows where the data is. To call a hole data is allowed; the other way, a copy
                // would lose it.
                return match offset < file.size() {
                    true if data => Ok(offset),
                    true => Ok(file.size()),
                    false => Err(Errno(libc::ENXIO)),
                };
            }
        }
        Ok(if data {
            file.seek_data(offset).await?
        } else {
            file.seek_hole(offset).await?
        })
    }

    /// Puts everything that is buffered, for unmounting.
    pub async fn flush_all(&self) {
        self.files.drain_all().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_call_that_has_made_a_file_is_not_done_again() {
        for again in [libc::ESTALE, libc::ENOENT] {
            assert_eq!(made_and_gone(Errno(again)), Errno(libc::EIO));
        }
        assert_eq!(made_and_gone(Errno(libc::ENOSPC)), Errno(libc::ENOSPC));
    }
}

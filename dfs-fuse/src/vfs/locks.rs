//! Locks of programs: fcntl(2) byte ranges, open-file-description locks, flock(2).
//!
//! The master decides; this mount's programs meet those of other mounts there, and each other. A
//! program that gets a lock sees what earlier holders wrote: the kernel's pages of the file are
//! dropped before it is told, unless they are of the very revision. Files of `.versions` and `.dfs`
//! cannot be written: a shared lock on one needs no master, and an exclusive one is refused.
use super::waiting::interrupted;
use super::{Errno, Node, Vfs, VfsResult};
use dfs_core::client::{FileError, GiveUp};
use dfs_core::types::{HeldLock, Lock, LockSpace};
use dfs_core::wire::ErrorCode;

/// Whose lock: the kind, and the kernel's name of the owner.
pub type Owner = (LockSpace, u64);

/// What a program wants of a range.
#[derive(Debug, Clone, Copy)]
pub enum LockWish {
    /// Lock it, if nobody excludes that.
    Try(Lock),
    /// Lock it; the thread of this number waits until it is free or a signal comes.
    Wait(Lock, u32),
    /// Unlock it, first to last byte.
    Unlock(u64, u64),
}

impl Vfs {
    /// F_GETLK: what keeps `owner` from having `lock`.
    ///
    /// # Errors
    /// EIO and the like.
    pub async fn getlk(
        &self,
        node: u64,
        handle: u64,
        owner: Owner,
        lock: Lock,
    ) -> VfsResult<Option<HeldLock>> {
        if !matches!(self.node(node)?, Node::Real(_)) {
            return Ok(None);
        }
        let (file, _) = self.handles.file(handle)?;
        Ok(file.lock_conflict(owner, lock).await?)
    }

    /// F_SETLK, F_SETLKW, flock(2).
    ///
    /// # Errors
    /// EAGAIN: somebody else has it. EINTR: a signal came. EIO: the locks of this handle were lost
    /// with the session, the kernel does not drop old pages (the range is then unlocked), or the mount
    /// ends. ENOLCK: too many.
    pub async fn setlk(
        &self,
        node: u64,
        handle: u64,
        owner: Owner,
        wish: LockWish,
    ) -> VfsResult<()> {
        if !matches!(self.node(node)?, Node::Real(_)) {
            let exclusive = match wish {
                LockWish::Try(lock) | LockWish::Wait(lock, _) => lock.exclusive,
                LockWish::Unlock(..) => false,
            };
            return if exclusive {
                Err(Errno(libc::EROFS))
            } else {
                Ok(())
            };
        }
        let (file, _) = self.handles.file(handle)?;
        let (lock, give_up) = match wish {
            LockWish::Unlock(first, last) => {
                let done = file.unlock(owner, (first, last)).await;
                self.follow(file.ino());
                return Ok(done?);
            }
            LockWish::Try(lock) => (lock, None),
            LockWish::Wait(lock, thread) => {
                let give_up: GiveUp = Box::pin(interrupted(thread, self.waits.ended()));
                (lock, Some(give_up))
            }
        };
        match file.lock(owner, lock, give_up).await {
            Ok(Some(revision)) => {
                self.follow(file.ino());
                if let Err(error) = self.wait_for_pages(file.ino(), revision).await {
                    // The kernel takes it for not granted.
                    file.unlock(owner, (lock.first, lock.last)).await?;
                    return Err(error);
                }
                self.settled(file.ino()).await;
                Ok(())
            }
            Ok(None) if self.waits.have_ended() => Err(Errno(libc::EIO)),
            Ok(None) => Err(Errno(libc::EINTR)),
            Err(FileError::Refused(e)) if e.code == ErrorCode::Locked => Err(Errno(libc::EAGAIN)),
            Err(e) => Err(e.into()),
        }
    }

    /// close(2) of one descriptor: as [`Self::flush`], and the byte-range locks of `owner` on the
    /// file go.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(&self, handle: u64, owner: u64) -> VfsResult<()> {
        let flushed = self.flush(handle).await;
        let Ok((file, _)) = self.handles.file(handle) else {
            return flushed; // A text: nobody locks it.
        };
        let unlocked = file.unlock_owner(owner).await;
        flushed?;
        Ok(unlocked?)
    }

    /// The mount ends: nobody waits for locks any more.
    pub fn end_waits(&self) {
        self.waits.end();
    }
}

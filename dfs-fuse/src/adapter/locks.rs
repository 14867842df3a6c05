//! Lock requests: from the kernel's words to [`Vfs`](crate::vfs::Vfs) calls. One that waits has no deadline, and
//! occupies no thread.
use super::lk_flags::{Kind, kind_of_lock};
use super::ops::empty;
use super::{Adapter, err};
use crate::vfs::locks::{LockWish, Owner};
use crate::vfs::{Errno, VfsResult};
use dfs_core::types::{HeldLock, Lock, LockSpace};
use fuser::{FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock, Request};
use tracing::Instrument;

/// A range and what is wanted of it, as the kernel says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub start: u64,
    pub end: u64,
    pub typ: i32,
    pub pid: u32,
}

impl Wanted {
    fn lock(&self) -> Option<Lock> {
        let exclusive = match self.typ {
            libc::F_RDLCK => false,
            libc::F_WRLCK => true,
            _ => return None,
        };
        Some(Lock {
            first: self.start,
            last: self.end.min(Lock::LAST_MAX),
            exclusive,
            pid: self.pid,
        })
    }
}

impl Adapter {
    pub(super) fn get_lock(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        wanted: Wanted,
        reply: ReplyLock,
    ) {
        let Some(lock) = wanted.lock() else {
            return reply.error(err(Errno(libc::EINVAL)));
        };
        let (vfs, owner) = (self.vfs.clone(), (LockSpace::Posix, owner.0));
        self.run(
            "getlk",
            async move { vfs.getlk(ino.0, fh.0, owner, lock).await },
            move |found: VfsResult<Option<HeldLock>>| match found {
                Ok(Some(HeldLock { lock, .. })) => {
                    let typ = if lock.exclusive {
                        libc::F_WRLCK
                    } else {
                        libc::F_RDLCK
                    };
                    reply.locked(lock.first, lock.last, typ, lock.pid);
                }
                Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
                Err(e) => reply.error(err(e)),
            },
        );
    }

    pub(super) fn set_lock(
        &self,
        req: &Request,
        (ino, fh, owner): (INodeNo, FileHandle, LockOwner),
        wanted: Wanted,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let owner: Owner = match kind_of_lock(req) {
            Some(Kind::Range) => (LockSpace::Posix, owner.0),
            // The kernel's name is the open file's address, which another one may have had before.
            Some(Kind::WholeFile) => (LockSpace::Flock, fh.0),
            // Taken for the other kind it could wait for itself.
            None => return reply.error(err(Errno(libc::EOPNOTSUPP))),
        };
        let wish = match wanted.lock() {
            Some(lock) if wait => LockWish::Wait(lock, req.pid()),
            Some(lock) => LockWish::Try(lock),
            None if wanted.typ == libc::F_UNLCK => {
                LockWish::Unlock(wanted.start, wanted.end.min(Lock::LAST_MAX))
            }
            None => return reply.error(err(Errno(libc::EINVAL))),
        };
        let vfs = self.vfs.clone();
        let work = async move { vfs.setlk(ino.0, fh.0, owner, wish).await };
        if let LockWish::Wait(..) = wish {
            let span = tracing::error_span!("fuse", op = "setlkw");
            let waiting = async move { empty(reply, work.await) };
            self.runtime.spawn(waiting.instrument(span));
            return;
        }
        self.run("setlk", work, move |done| empty(reply, done));
    }
}

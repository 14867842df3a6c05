//! The only code that sees fuser's types: requests in, [`Vfs`] calls, replies out.
//!
//! A request is answered on the session thread that read it when the answer is in memory (a cached
//! attribute, a buffered write). What must wait runs to completion on the same thread while at
//! least two other threads are free, and otherwise on the runtime with the reply moved there, so
//! that operations stuck on dead nodes never use up the threads. A panic in a handler answers EIO
//! and leaves the thread alive. Every operation has its deadline below; should one of them fail to
//! keep it, it is given up here with EIO, so that no program ever hangs. (Waiting for a lock is no
//! such operation: it ends with the lock or a signal.)
mod convert;
mod lk_flags;
mod locks;
mod ops;

use crate::vfs::pages::KernelPages;
use crate::vfs::{Caller, Errno, Vfs, VfsResult};
use bytes::Bytes;
use dfs_core::types::Ino;
use fuser::{INodeNo, InitFlags, KernelConfig, Notifier, Request};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tracing::Instrument;

/// Threads that read requests.
pub const SESSION_THREADS: usize = 12;
/// Of those, how many may wait at once.
const WAITING_MAX: usize = SESSION_THREADS - 2;
/// Largest WRITE the kernel may send.
const WRITE_MAX: u32 = 1 << 20;
/// What the kernel does not keep without asking again: the client library answers from its cache.
const TTL: Duration = Duration::ZERO;

/// Beyond twice the deadline, for operations of several steps.
const GRACE: Duration = Duration::from_secs(10);

/// The filesystem as fuser sees it.
pub struct Adapter {
    vfs: Arc<Vfs>,
    runtime: tokio::runtime::Handle,
    waiting: Arc<AtomicUsize>,
    /// An operation that takes longer has lost its way.
    limit: Duration,
}

impl Adapter {
    /// Serves `vfs`, whose operations keep `deadline`; what must wait runs on `runtime`.
    #[must_use]
    pub fn new(vfs: Arc<Vfs>, runtime: tokio::runtime::Handle, deadline: Duration) -> Self {
        Self {
            limit: deadline * 2 + GRACE,
            vfs,
            runtime,
            waiting: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Runs what may wait, for a while, and answers.
    fn run<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = VfsResult<T>> + Send + 'static,
        answer: impl FnOnce(VfsResult<T>) + Send + 'static,
    ) {
        let limit = self.limit;
        let work = async move {
            let done = tokio::time::timeout(limit, work).await;
            answer(done.unwrap_or_else(|_| {
                tracing::error!(target: "fuse", op, "no end after {limit:?}: given up with EIO");
                Err(Errno(libc::EIO))
            }));
        }
        .instrument(tracing::error_span!("fuse", op));
        let slot = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < WAITING_MAX).then_some(n + 1)
            });
        if slot.is_err() {
            self.runtime.spawn(work);
            return;
        }
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(work)));
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if done.is_err() {
            tracing::error!(target: "fuse", "a request handler panicked; the request gets EIO");
        }
    }
}

/// The kernel's pages, reached by notifications. Only for the notify threads.
pub struct Notified(pub Notifier);

impl KernelPages for Notified {
    fn drop_pages(&self, ino: Ino) {
        if let Err(e) = self.0.inval_inode(INodeNo(ino.0), 0, 0) {
            tracing::debug!(target: "fuse", "inval_inode {ino}: {e}");
        }
    }

    fn fill(&self, ino: Ino, offset: u64, bytes: &[Bytes]) {
        let done = match bytes {
            [one] => self.0.store(INodeNo(ino.0), offset, one),
            many => self.0.store(INodeNo(ino.0), offset, &many.concat()),
        };
        if let Err(e) = done {
            tracing::debug!(target: "fuse", "store {ino}: {e}");
        }
    }
}

/// Tells the kernel that it does not know an inode's attributes any more. Waits for no page and no directory.
pub fn forget_attr(notifier: &Notifier, ino: Ino) {
    if let Err(e) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
        tracing::debug!(target: "fuse", "inval_inode {ino}: {e}");
    }
}

fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
    }
}

fn err(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.0)
}

/// Asks for what this kernel offers of what we want; `add_capabilities` is all or nothing.
fn configure(init: &Request, config: &mut KernelConfig) {
    let locks = if lk_flags::is_readable(init) {
        InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS
    } else {
        tracing::error!(target: "fuse", "lock requests cannot be read: locks hold on this mount only");
        InitFlags::empty()
    };
    let wanted = InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | locks;
    let offered = config.capabilities() & wanted;
    if config.add_capabilities(offered).is_err() {
        tracing::warn!(target: "fuse", "the kernel refused capabilities that it had offered");
    }
    let _ = config.set_max_write(WRITE_MAX);
    let _ = config.set_max_readahead(128 * 1024);
    let _ = config.set_max_background(64);
}

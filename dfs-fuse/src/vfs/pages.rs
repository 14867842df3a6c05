//! Which files' pages the kernel may keep, and the thread that tells it to drop them.
//!
//! A notification can block on a page that a READ holds, or on a directory's lock, so it is never
//! sent from a request handler or a runtime worker: only from the one thread that
//! [`Pages::run`] is given. Invariants:
//! 1. `kept` has an inode only while no other client changed its content since its pages were read;
//! 2. the queue is bounded: when it overflows, everything is dropped instead.
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use dfs_core::client::{Ack, CacheListener};
use dfs_core::types::{Ino, Revision};
use dfs_core::wire::master::Touched;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

/// Inodes remembered at most.
const KEPT_MAX: usize = 100_000;
/// Notifications waiting at most.
const QUEUE_MAX: usize = 10_000;

/// An inode whose pages are to be dropped, and who waits for that.
type Notice = (Ino, Option<oneshot::Sender<()>>);

/// See the [module docs](self).
pub struct Pages {
    kept: Mutex<HashMap<Ino, Revision>>,
    queue: (Sender<Notice>, Receiver<Notice>),
    drop_all: AtomicBool,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            kept: Mutex::new(HashMap::new()),
            queue: bounded(QUEUE_MAX),
            drop_all: AtomicBool::new(false),
        }
    }
}

impl Pages {
    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Ino, Revision>> {
        self.kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An open at `revision`: true iff the pages the kernel has are of that revision. From now on
    /// they are.
    pub fn open(&self, ino: Ino, revision: Revision) -> bool {
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(ino, revision) == Some(revision)
    }

    /// This mount's own put moved the content from `from` to `to`; the kernel's pages follow.
    pub fn advance(&self, ino: Ino, from: Revision, to: Revision) {
        if let Some(revision) = self.kept().get_mut(&ino)
            && *revision == from
        {
            *revision = to;
        }
    }

    /// Drops what the kernel has of an inode, soon.
    pub fn drop_pages(&self, ino: Ino) {
        self.kept().remove(&ino);
        if self.queue.0.try_send((ino, None)).is_err() {
            self.drop_all.store(true, Ordering::Release);
        }
    }

    /// Returns when the kernel has no pages of the inode but of `revision`. Whoever calls this must
    /// not keep the kernel from dropping them: no page and no directory may be locked meanwhile.
    pub async fn drop_before(&self, ino: Ino, revision: Revision) {
        if self.kept().get(&ino) == Some(&revision) {
            return;
        }
        let (done, dropped) = oneshot::channel();
        let mut notice = (ino, Some(done));
        while let Err(TrySendError::Full(back)) = self.queue.0.try_send(notice) {
            notice = back;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The sender is dropped when it is done, or with the notify thread at the mount's end.
        let _ = dropped.await;
        // Not before: an open meanwhile must not find the old ones good. What is read from now on may
        // be of a later revision, which an open then finds out.
        self.open(ino, revision);
    }

    /// Tells the kernel through `invalidate` until `stop` is set. For a thread of its own.
    pub fn run(&self, stop: &AtomicBool, invalidate: impl Fn(Ino)) {
        while !stop.load(Ordering::Acquire) {
            if self.drop_all.swap(false, Ordering::AcqRel) {
                let all: Vec<Ino> = self.kept().drain().map(|(ino, _)| ino).collect();
                all.into_iter().for_each(&invalidate);
            }
            let wait = std::time::Duration::from_millis(100);
            if let Ok((ino, waiting)) = self.queue.1.recv_timeout(wait) {
                invalidate(ino);
                drop(waiting);
            }
        }
    }
}

impl CacheListener for Pages {
    fn invalidated(&self, touched: &[Touched], ack: Ack) {
        for t in touched.iter().filter(|t| t.content) {
            self.drop_pages(t.ino);
        }
        // Pages of handles that are open already follow within moments; a new open asks the
        // master. Waiting here for the kernel could wait for a write of this mount, and so for the
        // other mount's own notification.
        drop(ack);
    }

    fn all_invalidated(&self) {
        self.drop_all.store(true, Ordering::Release);
    }

    fn session_lost(&self) {
        self.drop_all.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn pages_are_kept_only_at_the_revision_they_were_read_at() {
        let pages = Pages::default();
        let (ino, r) = (Ino(7), Revision);
        assert!(!pages.open(ino, r(1)));
        assert!(pages.open(ino, r(1)));
        pages.advance(ino, r(1), r(2));
        assert!(pages.open(ino, r(2)));
        assert!(!pages.open(ino, r(4)), "somebody else wrote in between");
        pages.drop_pages(ino);
        assert!(!pages.open(ino, r(4)));
    }

    #[tokio::test]
    async fn a_lock_waits_until_the_kernel_has_dropped_what_is_old_and_only_that() {
        let pages = Arc::new(Pages::default());
        let (ino, r) = (Ino(7), Revision);
        pages.open(ino, r(3));
        pages.drop_before(ino, r(3)).await;
        let dropping = Arc::clone(&pages);
        let dropped = tokio::spawn(async move { dropping.drop_before(ino, r(4)).await });
        let (running, stop) = (Arc::clone(&pages), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&stop));
        let telling = Arc::clone(&told);
        let notify = std::thread::spawn(move || {
            running.run(&stopped, |ino| telling.lock().unwrap().push(ino));
        });
        dropped.await.unwrap();
        assert_eq!(*told.lock().unwrap(), vec![ino]);
        assert!(pages.open(ino, r(4)));
        stop.store(true, Ordering::Release);
        notify.join().unwrap();
    }

    #[test]
    fn everything_dropped_reaches_the_kernel() {
        let pages = Arc::new(Pages::default());
        for i in 0..100 {
            pages.open(Ino(i), Revision(1));
        }
        pages.all_invalidated();
        let (stop, told) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        pages.run(&stop, |ino| {
            let mut told = told.lock().unwrap();
            told.push(ino);
            stop.store(told.len() == 100, Ordering::Release);
        });
        assert_eq!(told.lock().unwrap().len(), 100);
    }
}

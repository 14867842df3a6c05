//! Which files' pages the kernel may keep, and the threads that tell it to drop them.
//!
//! 1. An open tells whether the pages that the kernel has are of the revision that is opened; if not,
//!    the kernel drops them at the open.
//! 2. While a file is open, attributes of another revision reach the kernel only after it has dropped
//!    the pages: a size beyond the old one would show the rest of the old last page, which is zeros.
//!    Until then whoever asked waits ([`Pages::drop_before`]).
//! 3. This mount's own puts change no page: the kernel has written the same into them
//!    ([`Pages::advance`]). Appends are not written into them ([`Pages::appending`]).
//! 4. What another mount changed is dropped soon ([`Pages::drop_pages`]), for mappings.
//! 5. Who opens a file to read it while a handle of this mount appends to it reads past the pages
//!    ([`Pages::is_appended`]): the kernel takes the end of its own append, placed by an old size, for
//!    newer than the attributes that were asked for before, and would end a read there. So does who
//!    opens a file to read it that another mount has open to write: the kernel forgets an answer with
//!    attributes when it is told of a change before the answer has come.
//!
//! A notification can block on a page that a READ or a WRITE holds, so it is never sent from a
//! request handler or a runtime worker, only by the threads that [`Pages::run`] is given: several,
//! since one of them may have to wait for a read that waits for a dead store, but never two for one
//! inode. Invariants:
//! 1. an inode's revision is known here only while no other client's change has reached the kernel
//!    since its pages were read;
//! 2. the queue is bounded: when it overflows, everything is dropped instead.
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use dfs_core::client::{Ack, CacheListener};
use dfs_core::types::{Ino, Revision};
use dfs_core::wire::master::Touched;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Inodes remembered at most, besides those that are open.
const KNOWN_MAX: usize = 100_000;
/// Threads for [`Pages::run`]: so many files may have a page that a read holds.
pub const NOTIFY_THREADS: usize = 8;
/// Notifications waiting at most.
const QUEUE_MAX: usize = 10_000;

/// Time that an append waits at most until others' pages are gone: a page may be locked by a read that
/// waits for a store.
const APPEND_WAIT_MAX: Duration = Duration::from_secs(2);

/// What a notify thread is to do.
enum Notice {
    /// Drop the pages of an inode; then the sender is dropped, for whom waits for that.
    Drop(Ino, Option<oneshot::Sender<()>>),
    /// Look whether everything is to be dropped, or the end has come.
    Look,
}

/// What is known of an inode's pages.
#[derive(Debug, Default)]
struct Known {
    /// What they were read at; `None`: unknown, they are to be dropped.
    revision: Option<Revision>,
    /// Handles of it.
    handles: u32,
    /// Handles of it that append.
    appenders: u32,
    /// Appends under way, which the pages do not follow.
    appends: u32,
}

/// An append under way; it ends on drop, also when it is given up.
struct Appending<'a>(&'a Pages, Ino);

impl<'a> Appending<'a> {
    fn begin(pages: &'a Pages, ino: Ino) -> Self {
        if let Some(entry) = pages.known().get_mut(&ino) {
            entry.appends += 1;
        }
        Self(pages, ino)
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.0.known().get_mut(&self.1) {
            entry.appends = entry.appends.saturating_sub(1);
        }
    }
}

/// Who waits for the next time that the kernel is told of an inode; `None`: nobody asked for one.
type Again = Option<Vec<oneshot::Sender<()>>>;

/// See the [module docs](self).
pub struct Pages {
    known: Mutex<HashMap<Ino, Known>>,
    queue: (Sender<Notice>, Receiver<Notice>),
    /// Inodes that the kernel is being told of.
    telling: Mutex<HashMap<Ino, Again>>,
    drop_all: AtomicBool,
    /// Inodes of which the kernel is to be told by whichever thread comes first.
    rest: Mutex<Vec<Ino>>,
    stopped: AtomicBool,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            queue: bounded(QUEUE_MAX),
            telling: Mutex::default(),
            drop_all: AtomicBool::new(false),
            rest: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }
}

impl Pages {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Ino, Known>> {
        self.known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An open at `revision`: true iff the pages the kernel has are of that revision. From now on
    /// they are.
    pub fn open(&self, ino: Ino, revision: Revision) -> bool {
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            // The next open of one that goes drops its pages.
            known.retain(|_, k| k.handles > 0);
        }
        let entry = known.entry(ino).or_default();
        entry.handles += 1;
        entry.revision.replace(revision) == Some(revision)
    }

    /// A handle is released.
    pub fn close(&self, ino: Ino) {
        if let Some(entry) = self.known().get_mut(&ino) {
            entry.handles = entry.handles.saturating_sub(1);
        }
    }

    /// A handle that was just opened appends.
    pub fn open_appender(&self, ino: Ino) {
        if let Some(entry) = self.known().get_mut(&ino) {
            entry.appenders += 1;
        }
    }

    /// A handle that appends is released.
    pub fn close_appender(&self, ino: Ino) {
        if let Some(entry) = self.known().get_mut(&ino) {
            entry.appenders = entry.appenders.saturating_sub(1);
        }
        self.close(ino);
    }

    /// Some handle of this mount appends to the inode.
    pub fn is_appended(&self, ino: Ino) -> bool {
        self.known().get(&ino).is_some_and(|k| k.appenders > 0)
    }

    /// This mount's own puts, and nobody else's, moved the content through `revisions`; the kernel's
    /// pages follow.
    pub fn advance(&self, ino: Ino, revisions: &RangeInclusive<Revision>) {
        if let Some(entry) = self.known().get_mut(&ino)
            && entry.revision.is_some_and(|r| revisions.contains(&r))
        {
            entry.revision = Some(*revisions.end());
        }
    }

    /// Attributes at `revision` may be shown: no page that a program can see is of an older one.
    pub fn may_show(&self, ino: Ino, revision: Revision) -> bool {
        self.known().get(&ino).is_none_or(|k| {
            k.handles == 0 || (k.appends == 0 && k.revision.is_some_and(|r| r >= revision))
        })
    }

    /// Handles of the inode.
    pub fn handles(&self, ino: Ino) -> u32 {
        self.known().get(&ino).map_or(0, |k| k.handles)
    }

    /// Appends to an open inode by `work`, and drops the pages of others who have it open before it
    /// returns: the kernel shows the new size then.
    pub async fn appending<T>(&self, ino: Ino, work: impl Future<Output = T>) -> T {
        let _under_way = Appending::begin(self, ino);
        let done = work.await;
        if self.handles(ino) > 1 {
            let dropped = tokio::time::timeout(APPEND_WAIT_MAX, self.drop_now(ino));
            if dropped.await.is_err() {
                // What is appended is appended: no reason for an error.
                self.drop_pages(ino);
            }
        }
        done
    }

    /// Drops what the kernel has of an inode, soon: at the next open, if it is not open.
    pub fn drop_pages(&self, ino: Ino) {
        let mut known = self.known();
        match known.get_mut(&ino) {
            Some(entry) if entry.handles > 0 => entry.revision = None,
            _ => {
                known.remove(&ino);
                return;
            }
        }
        drop(known);
        if self.queue.0.try_send(Notice::Drop(ino, None)).is_err() {
            self.drop_all();
        }
    }

    fn drop_all(&self) {
        self.drop_all.store(true, Ordering::Release);
        // A full queue is looked at without it.
        let _ = self.queue.0.try_send(Notice::Look);
    }

    /// Returns when the kernel has no pages of the inode but of `revision`. Whoever calls this must
    /// not keep the kernel from dropping them: no page may be locked, and no truncate under way.
    pub async fn drop_before(&self, ino: Ino, revision: Revision) {
        if !self.may_show(ino, revision) {
            self.drop_now(ino).await;
            // Not before: an open meanwhile must not find the old ones good. What is read from now
            // on may be of a later revision, which the next open or attributes find out.
            if let Some(entry) = self.known().get_mut(&ino) {
                entry.revision = Some(revision);
            }
        }
    }

    /// Returns when the kernel has dropped the pages that it had of the inode.
    pub async fn drop_now(&self, ino: Ino) {
        let (done, dropped) = oneshot::channel();
        let mut notice = Notice::Drop(ino, Some(done));
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        while let Err(TrySendError::Full(back)) = self.queue.0.try_send(notice) {
            notice = back;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The sender is dropped when it is done, or with the notify threads at the mount's end.
        let _ = dropped.await;
    }

    /// Ends the notify threads.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _ = self.queue.0.try_send(Notice::Look);
    }

    /// Tells the kernel through `invalidate` until [`stop`](Self::stop). For threads of its own.
    pub fn run(&self, invalidate: impl Fn(Ino)) {
        while let Ok(notice) = self.queue.1.recv() {
            if self.stopped.load(Ordering::Acquire) {
                // Whoever waits for one of these stops waiting. The last is for the next thread.
                while self.queue.1.try_recv().is_ok() {}
                let _ = self.queue.0.try_send(Notice::Look);
                return;
            }
            if self.drop_all.swap(false, Ordering::AcqRel) {
                *self.rest() = self.all_open();
                for _ in 1..NOTIFY_THREADS {
                    // A thread that this does not wake is at work, and looks when it is done.
                    let _ = self.queue.0.try_send(Notice::Look);
                }
            }
            if let Notice::Drop(ino, waiting) = notice {
                self.tell(ino, waiting, &invalidate);
            }
            while let Some(ino) = self.next_of_rest() {
                self.tell(ino, None, &invalidate);
            }
        }
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Vec<Ino>> {
        let rest = self.rest.lock();
        rest.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next_of_rest(&self) -> Option<Ino> {
        self.rest().pop()
    }

    /// Tells the kernel to drop an inode's pages, or leaves that to the thread that is at it: one
    /// inode whose page is locked keeps one thread.
    fn tell(&self, ino: Ino, waiting: Option<oneshot::Sender<()>>, invalidate: &impl Fn(Ino)) {
        let telling = || {
            let telling = self.telling.lock();
            telling.unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        {
            let mut telling = telling();
            if let Some(again) = telling.get_mut(&ino) {
                again.get_or_insert_default().extend(waiting);
                return;
            }
            telling.insert(ino, None);
        }
        let mut waiting = Vec::from_iter(waiting);
        loop {
            invalidate(ino);
            drop(waiting);
            let mut telling = telling();
            match telling.get_mut(&ino).and_then(Option::take) {
                // Pages may have been read since it began.
                Some(next) => waiting = next,
                None => {
                    telling.remove(&ino);
                    return;
                }
            }
        }
    }

    /// Forgets all pages; returns the inodes that are open.
    fn all_open(&self) -> Vec<Ino> {
        let mut known = self.known();
        known.retain(|_, k| k.handles > 0);
        known.values_mut().for_each(|k| k.revision = None);
        known.keys().copied().collect()
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
        self.drop_all();
    }

    fn session_lost(&self) {
        self.drop_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Notify threads that write down what they tell the kernel.
    struct Kernel {
        pages: Arc<Pages>,
        told: Arc<Mutex<Vec<Ino>>>,
        threads: Vec<std::thread::JoinHandle<()>>,
    }

    impl Kernel {
        fn new(pages: &Arc<Pages>) -> Self {
            let told = Arc::new(Mutex::new(Vec::new()));
            let one = || {
                let (pages, told) = (Arc::clone(pages), Arc::clone(&told));
                std::thread::spawn(move || pages.run(|ino| told.lock().unwrap().push(ino)))
            };
            let threads = vec![one(), one()];
            let pages = Arc::clone(pages);
            Self {
                pages,
                told,
                threads,
            }
        }

        fn told(self) -> Vec<Ino> {
            self.pages.stop();
            self.threads.into_iter().for_each(|t| t.join().unwrap());
            let mut told = self.told.lock().unwrap().clone();
            told.sort_unstable();
            told
        }
    }

    const INO: Ino = Ino(7);

    fn r(n: u64) -> Revision {
        Revision(n)
    }

    #[test]
    fn pages_are_kept_only_at_the_revision_they_were_read_at() {
        let pages = Pages::default();
        assert!(!pages.open(INO, r(1)));
        assert!(pages.open(INO, r(1)));
        pages.advance(INO, &(r(1)..=r(2)));
        assert!(pages.open(INO, r(2)));
        pages.advance(INO, &(r(3)..=r(4)));
        assert!(!pages.open(INO, r(4)), "somebody else wrote in between");
        pages.drop_pages(INO);
        assert!(!pages.open(INO, r(4)));
    }

    #[tokio::test]
    async fn what_is_old_is_dropped_before_its_wait_ends_and_nothing_else_is() {
        let pages = Arc::new(Pages::default());
        let kernel = Kernel::new(&pages);
        pages.open(INO, r(3));
        pages.drop_before(INO, r(3)).await;
        assert!(kernel.told.lock().unwrap().is_empty());
        pages.drop_before(INO, r(4)).await;
        assert_eq!(*kernel.told.lock().unwrap(), [INO]);
        assert!(pages.open(INO, r(4)));
        assert_eq!(kernel.told(), [INO]);
    }

    #[tokio::test]
    async fn attributes_wait_for_pages_only_of_files_that_are_open() {
        let pages = Arc::new(Pages::default());
        assert!(pages.may_show(INO, r(9)));
        pages.open(INO, r(3));
        assert!(pages.may_show(INO, r(3)) && !pages.may_show(INO, r(4)));
        assert!(
            pages.may_show(INO, r(2)),
            "an answer overtaken by a newer one"
        );
        pages.drop_pages(INO);
        assert!(!pages.may_show(INO, r(3)));
        pages.close(INO);
        assert!(pages.may_show(INO, r(4)));
    }

    #[test]
    fn an_inode_is_appended_to_while_a_handle_that_appends_is_open() {
        let pages = Pages::default();
        pages.open(INO, r(3));
        assert!(!pages.is_appended(INO));
        pages.open(INO, r(3));
        pages.open_appender(INO);
        pages.close(INO);
        assert!(pages.is_appended(INO) && pages.handles(INO) == 1);
        pages.close_appender(INO);
        assert!(!pages.is_appended(INO) && pages.handles(INO) == 0);
    }

    #[tokio::test]
    async fn an_append_is_not_shown_to_another_reader_before_its_pages_are_gone() {
        let pages = Arc::new(Pages::default());
        let kernel = Kernel::new(&pages);
        pages.open(INO, r(3));
        pages.appending(INO, async {}).await;
        assert!(kernel.told.lock().unwrap().is_empty(), "nobody else has it");
        pages.open(INO, r(3));
        let shows = pages.appending(INO, async { pages.may_show(INO, r(3)) });
        assert!(!shows.await);
        assert!(pages.may_show(INO, r(3)));
        assert_eq!(kernel.told(), [INO]);
    }

    #[test]
    fn everything_open_that_is_dropped_reaches_the_kernel() {
        let pages = Arc::new(Pages::default());
        for i in 0..100 {
            pages.open(Ino(i), r(1));
        }
        pages.close(Ino(0));
        pages.all_invalidated();
        let kernel = Kernel::new(&pages);
        while pages.drop_all.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        assert_eq!(kernel.told(), (1..100).map(Ino).collect::<Vec<_>>());
        assert!(!pages.open(Ino(0), r(1)) && !pages.open(Ino(1), r(1)));
    }

    /// One file with a stuck page kept every thread: no other file that had changed could be shown.
    #[tokio::test]
    async fn regression_an_inode_whose_pages_are_stuck_keeps_one_thread() {
        let pages = Arc::new(Pages::default());
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let stuck = Arc::new(Mutex::new(stuck));
        let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let one = || {
            let (pages, stuck, told) = (Arc::clone(&pages), Arc::clone(&stuck), Arc::clone(&told));
            std::thread::spawn(move || {
                pages.run(|ino| {
                    if ino == INO {
                        told.fetch_add(1, Ordering::AcqRel);
                        stuck.lock().unwrap().recv().unwrap();
                    }
                });
            })
        };
        let threads = [one(), one()];
        let other = Ino(8);
        for ino in [INO, other] {
            pages.open(ino, r(1));
        }
        let mut waits: Vec<_> = (0..5).map(|_| Box::pin(pages.drop_now(INO))).collect();
        for wait in &mut waits {
            assert!(futures_poll_once(wait.as_mut()).await.is_none());
        }
        let dropped = tokio::time::timeout(Duration::from_secs(10), pages.drop_now(other));
        dropped.await.expect("the other file is not held up");
        // The first pass is over, and one more for all who came during it.
        for _ in 0..2 {
            release.send(()).unwrap();
        }
        for wait in waits {
            wait.await;
        }
        assert_eq!(told.load(Ordering::Acquire), 2);
        pages.stop();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// The thread that was to drop everything waited for the first file whose page was stuck.
    #[test]
    fn regression_everything_but_a_stuck_inode_is_dropped() {
        let pages = Arc::new(Pages::default());
        for i in 0..100 {
            pages.open(Ino(i), r(1));
        }
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let stuck = Arc::new(Mutex::new(stuck));
        let told = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
        let one = || {
            let (pages, stuck, told) = (Arc::clone(&pages), Arc::clone(&stuck), Arc::clone(&told));
            std::thread::spawn(move || {
                pages.run(|ino| {
                    if ino.0 % 50 == 7 {
                        stuck.lock().unwrap().recv().unwrap();
                    }
                    told.lock().unwrap().insert(ino);
                });
            })
        };
        let threads = [one(), one(), one()];
        pages.session_lost();
        let begun = std::time::Instant::now();
        while told.lock().unwrap().len() < 98 {
            assert!(begun.elapsed() < Duration::from_secs(10), "the others wait");
            std::thread::yield_now();
        }
        (0..2).for_each(|_| release.send(()).unwrap());
        pages.stop();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(told.lock().unwrap().len(), 100);
    }

    async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(cx) {
                std::task::Poll::Ready(done) => Some(done),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn nobody_waits_for_threads_that_have_ended() {
        let pages = Arc::new(Pages::default());
        let kernel = Kernel::new(&pages);
        pages.open(INO, r(1));
        assert!(kernel.told().is_empty());
        pages.drop_before(INO, r(2)).await;
    }
}

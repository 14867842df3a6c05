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
//! The kernel discards attributes that it has asked for if it is notified before they come, and goes on
//! with the size that it knew. So no notification is sent twice for one change: each wish to have pages
//! dropped has a number, and a notification fulfils all wishes made before it began. Once the last one is
//! fulfilled, what pages there are is as new as any change heard of, and attributes of whatever revision
//! may be shown; an open and a lock wait for that ([`Pages::settled`]).
//!
//! A notification can block on a page that a READ or a WRITE holds, so it is never sent from a
//! request handler or a runtime worker, only by the threads that [`Pages::run`] is given: several,
//! since one of them may have to wait for a read that waits for a dead store, but never two for one
//! inode. The same threads give the kernel pages that it did not ask for ([`fill`]). Invariants:
//! 1. an inode's revision is known here only while no other client's change has reached the kernel
//!    since its pages were read;
//! 2. the queue is bounded: when it overflows, everything is dropped instead.
mod fill;

use fill::FILLS_MAX;
pub use fill::{Fill, Moment, Writing};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use dfs_core::client::{Ack, CacheListener};
use dfs_core::types::{Ino, Revision};
use dfs_core::wire::master::Touched;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
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

/// The kernel's pages. Called on the notify threads, never twice at once for one inode; may block.
pub trait KernelPages {
    /// Drops an inode's pages.
    fn drop_pages(&self, ino: Ino);
    /// Adds pages from `offset` on.
    fn fill(&self, ino: Ino, offset: u64, bytes: &[Bytes]);
}

/// What a notify thread is to do.
enum Notice {
    /// Drop the pages of an inode.
    Drop(Ino, Wish),
    /// Add pages to an inode's.
    Fill(Fill),
    /// Look whether everything is to be dropped, or the end has come.
    Look,
}

/// That the pages of an inode, as they are now, are gone.
struct Wish {
    /// Later ones have larger numbers.
    number: u64,
    /// Dropped when it is fulfilled, for whom waits for that.
    _waiting: Option<oneshot::Sender<()>>,
}

/// What is known of an inode's pages.
#[derive(Debug, Default)]
struct Known {
    /// They are of this revision or a later one; `None`: what there was is to be dropped, or was.
    revision: Option<Revision>,
    /// Numbers of the last wish, and of the last that is fulfilled.
    wished: u64,
    fulfilled: u64,
    /// Handles of it.
    handles: u32,
    /// Handles of it that append.
    appenders: u32,
    /// Appends under way, which the pages do not follow.
    appends: u32,
    /// Handles that write, and cuts under way.
    writers: u32,
    /// Number of what made bytes that were read before unfit for pages.
    change: u64,
    changed_at: Option<Instant>,
    /// Pages are being added.
    filling: bool,
}

impl Known {
    fn is_settled(&self) -> bool {
        self.fulfilled >= self.wished
    }

    /// The pages are of this revision from now on; answers of which they were.
    fn at(&mut self, revision: Revision) -> Option<Revision> {
        let before = self.revision.replace(revision);
        if before.is_none() && self.changed_at.is_some() {
            // What the kernel knows of the size is about to change.
            self.change();
        } else if before != Some(revision) {
            self.mark();
        }
        before
    }

    fn is_used(&self) -> bool {
        self.handles > 0 || self.writers > 0 || self.filling
    }
}

/// What the kernel is to be told of one inode: the wishes first.
#[derive(Default)]
struct Work {
    wishes: Vec<Wish>,
    fills: Vec<Fill>,
}

impl Work {
    fn add(&mut self, fill: Fill) {
        if self.fills.len() < FILLS_MAX {
            self.fills.push(fill);
        }
    }

    fn is_empty(&self) -> bool {
        self.wishes.is_empty() && self.fills.is_empty()
    }
}

/// An append under way; it ends on drop, also when it is given up.
struct Appending<'a>(&'a Pages, Ino);

impl<'a> Appending<'a> {
    fn begin(pages: &'a Pages, ino: Ino) -> Self {
        if let Some(entry) = pages.known().get_mut(&ino) {
            entry.appends += 1;
            entry.change();
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

/// See the [module docs](self).
pub struct Pages {
    known: Mutex<HashMap<Ino, Known>>,
    queue: (Sender<Notice>, Receiver<Notice>),
    /// Number of the last wish.
    wishes: AtomicU64,
    /// Inodes that the kernel is being told of, and what came meanwhile.
    telling: Mutex<HashMap<Ino, Work>>,
    /// Threads that add pages.
    fillers: AtomicUsize,
    drop_all: AtomicBool,
    /// Inodes of which the kernel is to be told by whichever thread comes first.
    rest: Mutex<Vec<(Ino, Wish)>>,
    stopped: AtomicBool,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            queue: bounded(QUEUE_MAX),
            wishes: AtomicU64::new(0),
            telling: Mutex::default(),
            fillers: AtomicUsize::new(0),
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
            known.retain(|_, k| k.is_used());
        }
        let entry = known.entry(ino).or_default();
        if entry.handles == 0 {
            entry.mark();
        }
        entry.handles += 1;
        entry.at(revision) == Some(revision)
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
            entry.change();
        }
    }

    /// Attributes at `revision` may be shown: no page that a program can see is of an older one.
    pub fn may_show(&self, ino: Ino, revision: Revision) -> bool {
        let mut known = self.known();
        let Some(entry) = known.get_mut(&ino).filter(|k| k.handles > 0) else {
            return true;
        };
        if entry.appends > 0 || (entry.revision.is_none() && !entry.is_settled()) {
            return false;
        }
        // Whoever reads hears of a change before it hears what the change has made.
        let known = entry.revision;
        if known.is_none() {
            entry.at(revision);
        }
        known.unwrap_or(revision) >= revision
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
        let Some(entry) = known.get_mut(&ino) else {
            return;
        };
        entry.revision = None;
        entry.change();
        if entry.handles == 0 {
            if entry.is_settled() && !entry.is_used() {
                known.remove(&ino);
            }
            return;
        }
        let wish = self.wish(Some(entry), None);
        drop(known);
        if self.queue.0.try_send(Notice::Drop(ino, wish)).is_err() {
            self.drop_all();
        }
    }

    /// A new wish, noted in what is known of the inode (whose lock is held, so that numbers rise there).
    fn wish(&self, entry: Option<&mut Known>, waiting: Option<oneshot::Sender<()>>) -> Wish {
        let number = self.wishes.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(entry) = entry {
            entry.wished = number;
            entry.change();
        }
        Wish {
            number,
            _waiting: waiting,
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
        if self.may_show(ino, revision) {
            return;
        }
        let number = {
            let mut known = self.known();
            match known.get_mut(&ino) {
                Some(entry) if entry.revision.is_none() && !entry.is_settled() => entry.wished,
                entry => self.wish(entry, None).number,
            }
        };
        self.fulfilled(ino, number).await;
        // Not before: an open meanwhile must not find the old ones good. What is read from now on may be
        // of a later revision, which the next open or attributes find out.
        if let Some(entry) = self.known().get_mut(&ino)
            && entry.wished <= number
        {
            entry.at(entry.revision.map_or(revision, |known| known.max(revision)));
        }
    }

    /// Returns when the kernel has dropped the pages that it had of the inode.
    pub async fn drop_now(&self, ino: Ino) {
        let number = {
            let mut known = self.known();
            self.wish(known.get_mut(&ino), None).number
        };
        self.fulfilled(ino, number).await;
    }

    /// Returns when the kernel has been told of all that is known now: it does not discard what it asks
    /// for next.
    pub async fn settled(&self, ino: Ino) {
        let pending = self
            .known()
            .get(&ino)
            .filter(|k| !k.is_settled())
            .map(|k| k.wished);
        if let Some(number) = pending {
            self.fulfilled(ino, number).await;
        }
    }

    /// Returns when the wish of this number is fulfilled.
    async fn fulfilled(&self, ino: Ino, number: u64) {
        let (done, dropped) = oneshot::channel();
        let wish = Wish {
            number,
            _waiting: Some(done),
        };
        let mut notice = Notice::Drop(ino, wish);
        while let Err(TrySendError::Full(back)) = self.queue.0.try_send(notice) {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            notice = back;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Looked at only now: before, the threads could end without having seen it.
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        // The sender is dropped when it is done, or with the notify threads at the mount's end.
        let _ = dropped.await;
    }

    /// Ends the notify threads.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _ = self.queue.0.try_send(Notice::Look);
    }

    /// Tells the kernel until [`stop`](Self::stop). For threads of its own.
    pub fn run(&self, kernel: &impl KernelPages) {
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
            match notice {
                Notice::Drop(ino, wish) => self.tell(ino, |work| work.wishes.push(wish), kernel),
                Notice::Fill(fill) => self.tell(fill.ino, |work| work.add(fill), kernel),
                Notice::Look => {}
            }
            while let Some((ino, wish)) = self.next_of_rest() {
                self.tell(ino, |work| work.wishes.push(wish), kernel);
            }
        }
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Vec<(Ino, Wish)>> {
        let rest = self.rest.lock();
        rest.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next_of_rest(&self) -> Option<(Ino, Wish)> {
        self.rest().pop()
    }

    /// Tells the kernel of an inode's pages, or leaves that to the thread that is at it: one
    /// inode whose page is locked keeps one thread.
    fn tell(&self, ino: Ino, add: impl FnOnce(&mut Work), kernel: &impl KernelPages) {
        let telling = || {
            let telling = self.telling.lock();
            telling.unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        {
            let mut telling = telling();
            if let Some(meanwhile) = telling.get_mut(&ino) {
                add(meanwhile);
                return;
            }
            telling.insert(ino, Work::default());
        }
        let mut work = Work::default();
        add(&mut work);
        loop {
            let Work { wishes, fills } = work;
            if wishes.iter().any(|wish| !self.is_fulfilled(ino, wish)) {
                let all = self.wishes.load(Ordering::Acquire);
                kernel.drop_pages(ino);
                if let Some(entry) = self.known().get_mut(&ino) {
                    entry.fulfilled = entry.fulfilled.max(all);
                }
            }
            drop(wishes);
            fills.iter().for_each(|fill| self.fill_now(fill, kernel));
            let mut telling = telling();
            match telling.get_mut(&ino).map(std::mem::take) {
                Some(next) if !next.is_empty() => work = next,
                _ => {
                    telling.remove(&ino);
                    return;
                }
            }
        }
    }

    fn is_fulfilled(&self, ino: Ino, wish: &Wish) -> bool {
        let known = self.known();
        let entry = known.get(&ino);
        entry.is_some_and(|k| k.fulfilled >= wish.number)
    }

    /// Forgets all pages; returns the inodes that are open.
    fn all_open(&self) -> Vec<(Ino, Wish)> {
        let mut known = self.known();
        known.retain(|_, k| k.is_used());
        let forget = |(ino, entry): (&Ino, &mut Known)| {
            entry.revision = None;
            (*ino, self.wish(Some(entry), None))
        };
        known.iter_mut().map(forget).collect()
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

    fn change_lost(&self, what: &str) {
        super::failures::note(libc::EIO, format!("done behind, and lost: {what}"));
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;

//! Pages that the kernel did not ask for: the rest of a block of which it has read a part.
//!
//! A block is fetched and verified as a whole, 64 KiB, also for a random read of 4 KiB. What lies beside
//! those is given to the kernel, and the next reads there do not reach us at all.
//!
//! 1. Before the bytes are looked up, [`Pages::moment`] says whether pages may be added, and when that was.
//! 2. [`Pages::fill`] hands them to the notify threads, which add them if nothing has changed since then.
//!
//! Such pages are not asked for by anybody, so the kernel does not keep them apart from changes as it does
//! with what it reads (a page is locked while it is read). Invariants:
//! 1. pages are added on the thread that has the inode to itself: what is to be dropped is dropped before,
//!    and no wish is fulfilled while pages are being added;
//! 2. nothing is added while this mount may change the content: while a handle writes, or the file is being
//!    cut. Whoever begins that waits until what is being added is there ([`Pages::writing`]);
//! 3. nothing is added within [`QUIET`] after a change, nor before the kernel has asked for the attributes
//!    after it, nor beyond the size: adding more than it knew makes the kernel discard attributes that it is
//!    asking for, and it would go on with an end of file that is neither;
//! 4. a fill that blocks (on a page that a READ holds) keeps one thread, and [`FILLERS_MAX`] at most are at it:
//!    the others go on dropping pages.
use super::{HashMap, KernelPages, Known, Notice, Pages};
use bytes::Bytes;
use dfs_core::types::{Ino, Revision};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After a change no pages are added for so long.
const QUIET: Duration = Duration::from_secs(2);
/// Notices that may wait when one to add pages comes; beyond that it is dropped.
const WAITING_MAX: usize = 256;
/// Fills of one inode that wait for the one that is under way.
pub(super) const FILLS_MAX: usize = 32;
/// Threads that add pages at once.
const FILLERS_MAX: usize = 3;
/// Number of the last change of anything: of one inode none is the same as another, whatever is forgotten.
static CHANGES: AtomicU64 = AtomicU64::new(0);
/// How often a writer looks whether pages are still being added.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// When bytes were looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    change: u64,
    /// Of the content that the kernel's pages are of.
    pub revision: Revision,
}

/// Pages to add.
#[derive(Debug)]
pub struct Fill {
    /// To the pages of this inode.
    pub ino: Ino,
    /// When they were looked up.
    pub moment: Moment,
    /// Multiple of the page size.
    pub offset: u64,
    /// Whole pages.
    pub bytes: Vec<Bytes>,
}

/// The content of an inode may change through this mount. Ends on drop.
pub struct Writing<'a> {
    pages: &'a Pages,
    ino: Ino,
    is_kept: bool,
}

impl Writing<'_> {
    /// It goes on until [`Pages::end_writing`].
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.pages.end_writing(self.ino);
        }
    }
}

impl Known {
    /// What was looked up before is not for pages any more.
    pub(super) fn change(&mut self) {
        self.mark();
        self.changed_at = Some(Instant::now());
    }

    /// The same, where no content has changed.
    pub(super) fn mark(&mut self) {
        self.change = CHANGES.fetch_add(1, Ordering::Relaxed) + 1;
    }

    fn moment(&self) -> Option<Moment> {
        let is_still = self.handles > 0 && self.writers == 0 && self.appenders == 0;
        let is_quiet = self.changed_at.is_none_or(|at| at.elapsed() >= QUIET);
        let revision = self.revision?;
        (is_still && is_quiet && self.appends == 0 && self.is_settled()).then_some(Moment {
            change: self.change,
            revision,
        })
    }
}

impl Pages {
    /// Now, if bytes that are looked up from now on may be added to an inode's pages.
    pub fn moment(&self, ino: Ino) -> Option<Moment> {
        self.known().get(&ino)?.moment()
    }

    /// Adds pages soon, if nothing has changed since they were looked up. They may be dropped instead.
    pub fn fill(&self, fill: Fill) {
        if self.queue.0.len() < WAITING_MAX {
            // Full: they are not needed.
            let _ = self.queue.0.try_send(Notice::Fill(fill));
        }
    }

    /// This mount is about to change the content. Returns when no pages are being added, and none are from
    /// then on.
    pub async fn writing(&self, ino: Ino) -> Writing<'_> {
        {
            let mut known = self.known();
            let entry = known.entry(ino).or_default();
            entry.writers += 1;
            entry.change();
        }
        let writing = Writing {
            pages: self,
            ino,
            is_kept: false,
        };
        self.filled(ino).await;
        writing
    }

    /// Returns when no pages are being added.
    async fn filled(&self, ino: Ino) {
        while self.known().get(&ino).is_some_and(|k| k.filling) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Before an [`open`](Self::open): pages that come from a handle that is gone are there. While another
    /// handle is open they are dropped after they have come.
    pub async fn opening(&self, ino: Ino) {
        if self.handles(ino) == 0 {
            self.filled(ino).await;
        }
    }

    /// Ends what was [kept](Writing::keep).
    pub fn end_writing(&self, ino: Ino) {
        let mut known = self.known();
        if let Some(entry) = known.get_mut(&ino) {
            entry.writers = entry.writers.saturating_sub(1);
            entry.change();
            forget_unused(&mut known, ino);
        }
    }

    pub(super) fn fill_now(&self, fill: &Fill, kernel: &impl KernelPages) {
        {
            let mut known = self.known();
            // Under the lock: no two see the last place.
            if self.fillers.load(Ordering::Acquire) >= FILLERS_MAX {
                return;
            }
            let entry = known.get_mut(&fill.ino);
            let Some(entry) = entry.filter(|k| k.moment() == Some(fill.moment)) else {
                return;
            };
            entry.filling = true;
            self.fillers.fetch_add(1, Ordering::AcqRel);
        }
        kernel.fill(fill.ino, fill.offset, &fill.bytes);
        let mut known = self.known();
        self.fillers.fetch_sub(1, Ordering::AcqRel);
        if let Some(entry) = known.get_mut(&fill.ino) {
            entry.filling = false;
            forget_unused(&mut known, fill.ino);
        }
    }
}

/// Of an inode that was only cut, without a handle, nothing is known.
fn forget_unused(known: &mut HashMap<Ino, Known>, ino: Ino) {
    let is_empty = |k: &Known| !k.is_used() && k.is_settled() && k.revision.is_none();
    if known.get(&ino).is_some_and(is_empty) {
        known.remove(&ino);
    }
}

#[cfg(test)]
#[path = "fill_tests.rs"]
mod tests;

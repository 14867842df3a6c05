//! A file whose pages are kept twice, with a checksum of each in a third place, so that a damaged
//! page is never used and is made good at once: what table files lie on.
//!
//! ```text
//!  tables.redb         the pages, as the engine wrote them; a generation in the first
//!  tables.redb.copy    the same again
//!  tables.redb.sums    512 bytes of header, then the sum of each page
//! ```
//! The three are witnesses of a page's content, and two that agree decide; a place that cannot be
//! read is no witness, and is written again like a damaged one:
//! 1. the page in the file and its sum agree: that is the page (every read checks this);
//! 2. the copy and the sum agree: the page in the file is damaged, and written again;
//! 3. page and copy are the same: the sum is damaged, and written again;
//! 4. no two agree: the page is *lost*, an error and never bytes. Not so the first page, which is
//!    the only one written in place and checks itself: between two syncs a power cut may take any
//!    of its writes, so then the one of the later generation decides.
//!
//! Invariants:
//! 1. bytes that no second witness confirms are never returned, the first page excepted;
//! 2. a sync makes all three durable before it returns, so what an engine that writes aside (and
//!    only then points there) refers to agrees in all three after any crash;
//! 3. a page that nobody synced may disagree after a crash: nothing refers to it.
//!
//! How a file is opened, and what is done when one of the three is gone, cut short or of another
//! time, is told in `mirror_open`; the bytes of sums and generation in `page_sums`.
use super::page_sums::{PAGE, PageSums, generation, set_generation, sum};
use super::{DiskError, DiskFile, TableCounts};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

/// The operation that meets a lost page.
pub(super) const VERIFY: &str = "verify";

/// What verifying some pages found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MirrorCheck {
    /// Bytes read, of all three places.
    pub bytes: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// A file in three places. See the [module docs](self).
#[derive(Debug)]
pub struct MirrorFile {
    pub(super) path: String,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) copy: Box<dyn DiskFile>,
    pub(super) sums_file: Arc<dyn DiskFile>,
    /// Held for writing by whoever changes a page in any place.
    pub(super) sums: RwLock<PageSums>,
    pub(super) counts: Arc<TableCounts>,
    /// What the first page gets with its next write.
    pub(super) generation: AtomicU64,
    /// The first page was written since the last sync.
    pub(super) is_stamped: AtomicBool,
    /// Something was written since the last sync.
    pub(super) is_dirty: AtomicBool,
}

pub(super) fn page_at(file: &dyn DiskFile, page: usize) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; PAGE];
    file.read_into((page * PAGE) as u64, &mut bytes)?;
    Ok(bytes)
}

/// Where a page is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    Page,
    Copy,
    Sum,
    /// The first page's copy and sum.
    Rest,
    /// The first page and its sum.
    First,
}

/// Two places that do not agree with a first page's sum: the later generation counts.
fn later(own: Option<&[u8]>, copy: Option<&[u8]>) -> Option<Bad> {
    let of = |page: Option<&[u8]>| page.and_then(generation);
    match (own, copy) {
        (None, None) => None,
        (None, Some(_)) => of(copy).map(|_| Bad::First),
        (Some(_), _) if of(copy) > of(own) => Some(Bad::First),
        (Some(_), _) => Some(Bad::Rest),
    }
}

impl MirrorFile {
    pub(super) fn sums_mut(&self) -> RwLockWriteGuard<'_, PageSums> {
        self.sums.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pages(&self) -> Result<usize, DiskError> {
        let len = usize::try_from(self.file.len()?).unwrap_or(usize::MAX);
        Ok(len.div_ceil(PAGE))
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// I/O.
    pub fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    /// True if empty.
    ///
    /// # Errors
    /// I/O.
    pub fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Reads into `out`; returns the bytes read, fewer at the end of the file.
    ///
    /// # Errors
    /// I/O; a page that is lost.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let (first, skip) = (at / PAGE, at % PAGE);
        let mut pages = vec![0; (skip + out.len()).next_multiple_of(PAGE)];
        let len = usize::try_from(self.file.len()?).unwrap_or(usize::MAX);
        let bad: Vec<_> = {
            let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
            // One unreadable sector fails the whole read: each page is then read by itself.
            let is_read = self
                .file
                .read_into((first * PAGE) as u64, &mut pages)
                .is_ok();
            let pages = pages.chunks(PAGE).zip(first..);
            let bad = pages.filter(|(bytes, page)| !is_read || sum(bytes) != sums.get(*page));
            bad.map(|(_, page)| page).collect()
        };
        for page in bad {
            let good = self.settle(page)?;
            pages[(page - first) * PAGE..][..PAGE].copy_from_slice(&good);
        }
        let there = out.len().min(len.saturating_sub(at));
        out[..there].copy_from_slice(&pages[skip..skip + there]);
        Ok(there)
    }

    /// Finds out what a page is, makes the places agree, and returns it.
    pub(super) fn settle(&self, page: usize) -> Result<Vec<u8>, DiskError> {
        let mut sums = self.sums_mut();
        let (own, copy) = (page_at(&*self.file, page), page_at(&*self.copy, page));
        let known = sums.get(page);
        let fits = |read: &Result<Vec<u8>, _>| read.as_ref().is_ok_and(|page| sum(page) == known);
        let (own, copy, fit) = (own.as_ref(), copy.as_ref(), (fits(&own), fits(&copy)));
        let decided = match (fit, own, copy) {
            ((true, true), Ok(own), _) => return Ok(own.clone()), // made good meanwhile
            ((true, _), ..) => Some(Bad::Copy),
            ((_, true), ..) => Some(Bad::Page),
            (_, Ok(own), Ok(copy)) if own == copy => Some(Bad::Sum),
            _ if page == 0 => {
                let bytes = |read: Result<&Vec<u8>, _>| read.ok().cloned();
                let (own, copy) = (bytes(own), bytes(copy));
                later(own.as_deref(), copy.as_deref())
            }
            _ => None,
        };
        let good = match (decided, own, copy) {
            (Some(Bad::Page | Bad::First), _, Ok(copy)) => copy,
            (Some(Bad::Copy | Bad::Sum | Bad::Rest), Ok(own), _) => own,
            (_, Err(failed), Err(_)) if sums.header_is_gone() => return Err(failed.clone()),
            _ => return Err(self.lost(page)),
        };
        let bad = decided.unwrap_or(Bad::Sum);
        match self.make_good(&mut sums, page, bad, good) {
            Ok(()) => {
                self.counts.add_repaired();
                tracing::warn!(path = self.path, page, ?bad, "damaged table page made good");
            }
            // The bytes are right all the same; the next read comes here again.
            Err(error) => {
                tracing::error!(path = self.path, page, ?bad, %error, "damaged table page stays");
            }
        }
        Ok(good.clone())
    }

    fn lost(&self, page: usize) -> DiskError {
        self.counts.add_lost();
        let path = self.path.clone();
        tracing::error!(path, page, "table page is lost: no two places agree on it");
        DiskError::Io {
            path,
            what: VERIFY,
            cause: format!("page {page} is damaged in more than one place"),
        }
    }

    fn make_good(
        &self,
        sums: &mut PageSums,
        page: usize,
        bad: Bad,
        good: &[u8],
    ) -> Result<(), DiskError> {
        self.is_dirty.store(true, Ordering::Release);
        let at = (page * PAGE) as u64;
        let whole = usize::try_from(self.file.len()?.saturating_sub(at)).unwrap_or(PAGE);
        let part = &good[..whole.min(PAGE)];
        if matches!(bad, Bad::Page | Bad::First) {
            self.file.write_at(at, part)?;
        }
        if matches!(bad, Bad::Copy | Bad::Rest) {
            self.copy.write_at(at, part)?;
        }
        if matches!(bad, Bad::Sum | Bad::Rest | Bad::First) {
            sums.put(page, &[sum(good)])?;
        }
        Ok(())
    }

    /// Writes to all places.
    ///
    /// # Errors
    /// I/O.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let (first, skip) = (at / PAGE, at % PAGE);
        let mut whole = vec![0; (skip + bytes.len()).next_multiple_of(PAGE)];
        if skip > 0 || whole.len() != bytes.len() {
            // Only the first page is written in part; what surrounds it is verified, too.
            self.read((first * PAGE) as u64, &mut whole)?;
        }
        whole[skip..skip + bytes.len()].copy_from_slice(bytes);
        let mut sums = self.sums_mut();
        self.is_dirty.store(true, Ordering::Release);
        let is_stamped = first == 0 && self.file.len()? >= PAGE as u64;
        let (at, bytes) = match is_stamped {
            true => {
                set_generation(&mut whole, self.generation.load(Ordering::Acquire));
                self.is_stamped.store(true, Ordering::Release);
                (0, whole.as_slice())
            }
            false => (offset, bytes),
        };
        self.file.write_at(at, bytes)?;
        self.copy.write_at(at, bytes)?;
        let new: Vec<u32> = whole.chunks(PAGE).map(sum).collect();
        sums.put(first, &new)
    }

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// I/O.
    pub fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let mut sums = self.sums_mut();
        self.is_dirty.store(true, Ordering::Release);
        self.file.set_len(len)?;
        self.copy.set_len(len)?;
        sums.set_len(len)?;
        if !len.is_multiple_of(PAGE as u64) {
            let last = sums.pages() - 1;
            let sum = sum(&page_at(&*self.file, last)?);
            sums.put(last, &[sum])?;
        }
        Ok(())
    }

    /// Makes all places durable, in any order.
    ///
    /// # Errors
    /// I/O.
    pub fn sync(&self) -> Result<(), DiskError> {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let is_stamped = self.is_stamped.swap(false, Ordering::AcqRel);
        // Side by side, and with no lock held: reads go on.
        let synced = self.file.sync_with(&[&*self.copy, &*self.sums_file]);
        if synced.is_err() {
            self.is_dirty.store(true, Ordering::Release);
        } else if is_stamped {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        synced
    }

    /// Reads `pages` pages from page `first` on from the disk, in all three places, and makes good
    /// what one of them has damaged.
    ///
    /// # Errors
    /// I/O; a page that is lost (the others of the call may not have been looked at).
    pub fn check(&self, first: u64, pages: usize) -> Result<MirrorCheck, DiskError> {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let all = self.pages()?;
        let pages = pages.min(all.saturating_sub(first));
        let (at, len) = ((first * PAGE) as u64, pages * PAGE);
        if pages == 0 {
            return Ok(MirrorCheck::default());
        }
        self.file.forget_cached(at, len as u64);
        self.copy.forget_cached(at, len as u64);
        let mut bad = Vec::new();
        {
            let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
            let (mut own, mut copy) = (vec![0; len], vec![0; len]);
            let is_read = self.file.read_into(at, &mut own).is_ok()
                && self.copy.read_into(at, &mut copy).is_ok();
            let stored = sums.stored(first, pages);
            for i in 0..pages {
                let known = sums.get(first + i);
                let fits = |bytes: &[u8]| sum(&bytes[i * PAGE..(i + 1) * PAGE]) == known;
                let told = stored.as_ref().map(|stored| &stored[4 * i..4 * i + 4]);
                let is_told = told == Some(known.to_le_bytes().as_slice());
                if !(is_read && fits(&own) && fits(&copy) && is_told) {
                    bad.push((first + i, is_told));
                }
            }
        }
        let mut is_rewritten = None;
        for (page, is_told) in bad {
            if !is_told {
                // What is in memory was verified when it was read or written.
                let sums = self.sums_mut();
                let block = PageSums::block(page).start;
                if is_rewritten != Some(block) {
                    is_rewritten = Some(block);
                    self.is_dirty.store(true, Ordering::Release);
                    sums.rewrite(page)?;
                    self.counts.add_repaired();
                    tracing::warn!(path = self.path, page, "damaged page sum made good");
                }
            }
            self.settle(page)?;
        }
        let bytes = (2 * len + 4 * pages) as u64;
        self.counts.add_checked(bytes);
        let next = first + pages;
        Ok(MirrorCheck {
            bytes,
            next: (next < all).then_some(next as u64),
        })
    }

    /// Looks at what is no page: the header of the sums.
    ///
    /// # Errors
    /// I/O.
    pub fn check_header(&self) -> Result<(), DiskError> {
        let sums = self.sums_mut();
        if sums.check_header()? {
            self.is_dirty.store(true, Ordering::Release);
            self.counts.add_repaired();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;

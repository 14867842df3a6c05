//! Making and opening a [`MirrorFile`], whatever became of its three places meanwhile.
//!
//! Steps of making one: copy and sums under their names, the file under another one; the engine fills
//! it; it is renamed; the sums' header says last that they count.
//!
//! Steps of opening:
//! 1. there is no file, and nothing that says that there ever was one: it is to be made; if the sums
//!    say that there was, and the copy is gone too, it is *damaged*;
//! 2. file and copy are more than one generation apart: one of them was restored, or written by a
//!    program that keeps no copies; so it is in doubt, as is a file whose sums do not count. The caller
//!    has the engine check the side that [`Opened::Doubtful`] names first, and makes the others of it;
//! 3. the lengths differ: the one that the sums' header tells is right, else the longer one (a crash
//!    may take a length that nobody synced, and keep it in one place);
//! 4. pages that a missing or shorter place lacks are written again, the two first pages are made one, and
//!    all is synced, before anything is done with the file.
use super::mirror::{MirrorFile, VERIFY, page_at};
use super::page_sums::{PAGE, PageSums, SumsHeader, generation, sum};
use super::{Disk, DiskError, DiskFile, TableCounts};
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// Pages copied at a time.
const BATCH: usize = 64;

/// One of the two places that hold the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The file itself.
    File,
    /// Its copy.
    Copy,
}

/// What opening a file found.
#[derive(Debug)]
pub enum Opened {
    /// No such file: it is to be made.
    Nothing,
    /// Two of three witnesses decide.
    Ready(MirrorFile),
    /// The first of these sides that the engine finds whole is the file
    /// ([`rebuild`](MirrorFile::rebuild)). If none is, but the sums are known,
    /// [`trust`](MirrorFile::trust) them.
    Doubtful {
        /// The file.
        mirror: MirrorFile,
        /// Best first.
        sides: Vec<Side>,
        /// The sums may be trusted if no side is whole.
        has_sums: bool,
    },
}

pub(super) fn copy_path(path: &str) -> String {
    format!("{path}.copy")
}

pub(super) fn sums_path(path: &str) -> String {
    format!("{path}.sums")
}

/// A file that may be missing; one too short to hold anything counts as that.
fn existing(disk: &dyn Disk, path: &str) -> Result<bool, DiskError> {
    match disk.open(path, false) {
        Ok(file) => Ok(file.len()? >= PAGE as u64),
        Err(DiskError::NotFound { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

fn header(disk: &dyn Disk, path: &str) -> Result<SumsHeader, DiskError> {
    match disk.open(&sums_path(path), false) {
        Ok(file) => Ok(PageSums::new(file.into()).header()),
        Err(DiskError::NotFound { .. }) => Ok(SumsHeader::Unborn),
        Err(e) => Err(e),
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// A file of `had` bytes has this page whole.
fn has_page(had: u64, page: usize) -> bool {
    had >= ((page + 1) * PAGE) as u64
}

impl MirrorFile {
    /// True if there is anything to open at `path`: a file, or a copy that counts.
    ///
    /// # Errors
    /// I/O.
    pub fn exists(disk: &dyn Disk, path: &str) -> Result<bool, DiskError> {
        let is_born = || Ok::<_, DiskError>(header(disk, path)? != SumsHeader::Unborn);
        Ok(existing(disk, path)? || (existing(disk, &copy_path(path))? && is_born()?))
    }

    /// Removes copy and sums of a file that is gone.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_rest(disk: &dyn Disk, path: &str) -> Result<(), DiskError> {
        for path in [sums_path(path), copy_path(path)] {
            match disk.remove(&path) {
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn of(path: &str, parts: [Box<dyn DiskFile>; 3], counts: Arc<TableCounts>) -> Self {
        let [file, copy, sums] = parts;
        let sums_file = Arc::<dyn DiskFile>::from(sums);
        Self {
            path: path.to_owned(),
            file,
            copy,
            sums: RwLock::new(PageSums::new(Arc::clone(&sums_file))),
            sums_file,
            counts,
            generation: AtomicU64::new(1),
            is_stamped: AtomicBool::new(false),
            is_dirty: AtomicBool::new(true),
        }
    }

    /// An empty file that shall be called `path` once the caller has renamed `fresh` to it and
    /// [begun](Self::begin) it: copy and sums have their final names from the beginning.
    ///
    /// # Errors
    /// I/O.
    pub fn create(
        disk: &dyn Disk,
        path: &str,
        fresh: &str,
        counts: Arc<TableCounts>,
    ) -> Result<Self, DiskError> {
        let open = |path: &str| {
            let file = disk.open(path, true)?;
            file.set_len(0)?;
            Ok::<_, DiskError>(file)
        };
        // The sums first: what they said counts no longer.
        let sums = open(&sums_path(path))?;
        sums.sync_data()?;
        let parts = [open(fresh)?, open(&copy_path(path))?, sums];
        let this = Self::of(path, parts, counts);
        this.sync()?;
        Ok(this)
    }

    /// From here on copy and sums count.
    ///
    /// # Errors
    /// I/O.
    pub fn begin(&self) -> Result<(), DiskError> {
        let len = self.file.len()?;
        let mut sums = self.sums_mut();
        sums.begin(len)?;
        sums.file().sync_data()
    }

    /// Opens a file: see the [module docs](self).
    ///
    /// # Errors
    /// I/O; damage, if all is gone that the sums speak of.
    pub fn open(
        disk: &dyn Disk,
        path: &str,
        counts: Arc<TableCounts>,
    ) -> Result<Opened, DiskError> {
        let (own, copy) = (existing(disk, path)?, existing(disk, &copy_path(path))?);
        let header = header(disk, path)?;
        if !own && header == SumsHeader::Unborn {
            return Ok(Opened::Nothing);
        }
        if !own && !copy {
            return Err(DiskError::Io {
                path: path.to_owned(),
                what: VERIFY,
                cause: "the file and its copy are gone".to_owned(),
            });
        }
        let parts = [
            disk.open(path, true)?,
            disk.open(&copy_path(path), true)?,
            disk.open(&sums_path(path), true)?,
        ];
        let this = Self::of(path, parts, counts);
        let [of_own, of_copy] = this.generations();
        let later = of_own.max(of_copy).unwrap_or_default();
        this.generation.store(later + 1, Ordering::Release);
        let apart = match (of_own, of_copy) {
            (Some(own), Some(copy)) => own.abs_diff(copy),
            _ => 0,
        };
        let is_known = matches!(header, SumsHeader::Known(_) | SumsHeader::Damaged);
        if is_known && apart <= 1 {
            this.align(disk, header, (own, copy))?;
            return Ok(Opened::Ready(this));
        }
        // Its name and its length, while the sums still tell that there was a file.
        for (file, is_there, other) in [
            (&this.file, own, &this.copy),
            (&this.copy, copy, &this.file),
        ] {
            if !is_there {
                file.set_len(other.len()?)?;
                file.sync_data()?;
                disk.sync_dir(dir_of(path))?;
            }
        }
        let mut sides = Vec::new();
        sides.extend(own.then_some((Reverse(of_own), Side::File)));
        sides.extend(copy.then_some((Reverse(of_copy), Side::Copy)));
        sides.sort_by_key(|(generation, _)| *generation);
        // An older one is no substitute for a newer one that is damaged.
        sides.truncate(if apart > 1 { 1 } else { 2 });
        tracing::warn!(
            path,
            ?sides,
            ?header,
            "a table file and its copy are to be checked"
        );
        Ok(Opened::Doubtful {
            mirror: this,
            sides: sides.into_iter().map(|(_, side)| side).collect(),
            has_sums: header == SumsHeader::First,
        })
    }

    /// Steps 3 and 4 of opening.
    fn align(
        &self,
        disk: &dyn Disk,
        header: SumsHeader,
        (own, copy): (bool, bool),
    ) -> Result<(), DiskError> {
        let lens = [self.file.len()?, self.copy.len()?];
        let len = match header {
            SumsHeader::Known(len) if lens.contains(&len) => len,
            _ => lens[0].max(lens[1]),
        };
        let len = if lens[0] == lens[1] { lens[0] } else { len };
        for (file, had) in [(&self.file, lens[0]), (&self.copy, lens[1])] {
            if had != len {
                file.set_len(len)?;
            }
        }
        let mut sums = self.sums_mut();
        let pages = usize::try_from(len).unwrap_or(usize::MAX).div_ceil(PAGE);
        for unreadable in sums.load(pages) {
            let first = unreadable.start;
            let found: Vec<u32> = unreadable.map(|page| self.found_sum(page, lens)).collect();
            sums.put(first, &found)?;
            if found.iter().all(|sum| *sum == 0) {
                continue; // never written: what was, has a sum
            }
            self.counts.add_repaired();
            tracing::warn!(
                path = self.path,
                first,
                "page sums that cannot be read made good"
            );
        }
        if header == SumsHeader::Damaged {
            self.counts.add_repaired();
        }
        sums.begin(len)?;
        let shorter = lens[0].min(lens[1]);
        if shorter < len {
            let first = usize::try_from(shorter).unwrap_or(usize::MAX) / PAGE;
            let made = self.fill(&sums, first..pages, lens)?;
            if made > 0 {
                let path = &self.path;
                tracing::warn!(path, lens = ?lens, made, "a table file was cut short or missing: filled from the other");
            }
        }
        drop(sums);
        if !(own && copy) {
            // Their names.
            disk.sync_dir(dir_of(&self.path))?;
        }
        let [of_own, of_copy] = self.generations();
        if of_own != of_copy {
            // Else a second crash during the first sync leaves them two apart.
            self.settle(0)?;
            return self.sync();
        }
        match lens[0] == lens[1] && matches!(header, SumsHeader::Known(_)) {
            true => Ok(()),
            false => self.sync(),
        }
    }

    /// The generations that file and copy say they are of.
    fn generations(&self) -> [Option<u64>; 2] {
        [&self.file, &self.copy].map(|file| {
            let page = page_at(&**file, 0).ok();
            page.as_deref().and_then(generation)
        })
    }

    /// The sum of a page whose own sum is gone. A place that had fewer bytes (`lens`: file and copy) is no
    /// witness.
    fn found_sum(&self, page: usize, lens: [u64; 2]) -> u32 {
        let read = |file: &dyn DiskFile, had| has_page(had, page).then(|| page_at(file, page));
        match (read(&*self.file, lens[0]), read(&*self.copy, lens[1])) {
            (Some(Ok(one)), None) | (None, Some(Ok(one))) => sum(&one),
            (Some(Ok(own)), Some(Ok(copy))) if own == copy => sum(&own),
            // One that fits neither: no two agree.
            (Some(Ok(own)), Some(Ok(copy))) => {
                let taken = [sum(&own), sum(&copy)];
                (1..).find(|sum| !taken.contains(sum)).unwrap_or_default()
            }
            _ => u32::MAX,
        }
    }

    /// Writes pages that one place has and the other lacks; returns how many. `lens`: what file and copy
    /// had; what lies beyond is zeros that nobody wrote.
    fn fill(&self, sums: &PageSums, pages: Range<usize>, lens: [u64; 2]) -> Result<u64, DiskError> {
        let mut made = 0;
        for page in pages {
            let known = sums.get(page);
            let good = |file: &dyn DiskFile, had| {
                let read = has_page(had, page).then(|| page_at(file, page).ok());
                read.flatten().filter(|bytes| sum(bytes) == known)
            };
            let (to, bytes) = match (good(&*self.file, lens[0]), good(&*self.copy, lens[1])) {
                (None, Some(bytes)) => (&self.file, bytes),
                (Some(bytes), None) => (&self.copy, bytes),
                // What no two agree on was never synced, or is met when it is read.
                _ => continue,
            };
            to.write_at((page * PAGE) as u64, &bytes)?;
            self.counts.add_repaired();
            made += 1;
        }
        Ok(made)
    }

    /// One place as it is, for the engine to check it.
    ///
    /// # Errors
    /// I/O.
    pub fn side(&self, disk: &dyn Disk, side: Side) -> Result<Box<dyn DiskFile>, DiskError> {
        match side {
            Side::File => disk.open(&self.path, false),
            Side::Copy => disk.open(&copy_path(&self.path), false),
        }
    }

    /// Makes the other side and the sums from this one as it is. The caller has verified it.
    ///
    /// # Errors
    /// I/O: it is to be done again at the next open.
    pub fn rebuild(&self, side: Side) -> Result<(), DiskError> {
        let (from, to) = match side {
            Side::File => (&self.file, &self.copy),
            Side::Copy => (&self.copy, &self.file),
        };
        let mut sums = self.sums_mut();
        sums.clear()?;
        sums.file().sync_data()?;
        let len = from.len()?;
        to.set_len(len)?;
        let pages = usize::try_from(len).unwrap_or(usize::MAX).div_ceil(PAGE);
        for first in (0..pages).step_by(BATCH) {
            let at = (first * PAGE) as u64;
            let count = BATCH.min(pages - first);
            let bytes = from.read_at(at, count * PAGE).or_else(|_| {
                // The engine has read every page that counts: what cannot be read is none of those.
                let page = |page| {
                    let read = page_at(&**from, page).or_else(|_| page_at(&**to, page));
                    read.unwrap_or_else(|_| vec![0; PAGE])
                };
                let mut bytes = (first..first + count).flat_map(page).collect::<Vec<u8>>();
                bytes.truncate(usize::try_from(len - at).unwrap_or(usize::MAX));
                from.write_at(at, &bytes).map(|()| bytes.into())
            })?;
            if to.read_at(at, bytes.len()).ok().as_ref() != Some(&bytes) {
                to.write_at(at, &bytes)?;
            }
            let new: Vec<u32> = bytes.chunks(PAGE).map(sum).collect();
            sums.put(first, &new)?;
        }
        from.sync_data()?;
        to.sync_data()?;
        sums.file().sync_data()?;
        // Last: until it is there, the others do not count.
        sums.begin(len)?;
        sums.file().sync_data()
    }

    /// Takes sums that an older program wrote, after neither side was found whole by itself.
    ///
    /// # Errors
    /// I/O.
    pub fn trust(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        self.align(disk, SumsHeader::First, (true, true))
    }
}

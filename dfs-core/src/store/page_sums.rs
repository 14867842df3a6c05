//! The checksums of a [`MirrorFile`](super::MirrorFile)'s pages, and the generation in its first page: FORMAT.
//!
//! ```text
//!  sums file   "DFS page sums 2\n" | length of the file u64 | crc32c of these | zeros to 512 | sums
//!  sum         crc32c of the page, XOR that of a page of zeros
//!  first page  496: generation u64 | "gen1" | crc32c of the 508 bytes before
//! ```
//! A header of zeros says that file, copy and sums are being made: the sums do not count yet. One that
//! is anything else and not whole is damaged, which is no reason to doubt the sums. The generation
//! stands in the sector that the engine writes in place, behind what the engine uses of it, so it is
//! torn with it or not at all. It rises with each sync that made this page durable, and an open makes the
//! two the same before it rises, so no crashes leave two copies more than one apart: what is further apart is
//! of different times.
use super::{DiskError, DiskFile};
use crate::types::crc32c;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes before the sums.
pub(super) const SUMS_HEADER: usize = 512;
const MAGIC: &[u8; 16] = b"DFS page sums 2\n";
/// Of a program that knew no generations.
const MAGIC_FIRST: &[u8; 16] = b"DFS page sums 1\n";
/// crc32c of a page of zeros.
const ZERO_SUM: u32 = 0x98f9_4189;
const GENERATION_AT: usize = 496;
const GENERATION_MAGIC: &[u8; 4] = b"gen1";

/// Checksum of a page, 0 for one of zeros; shorter pages count as padded with zeros.
pub(super) fn sum(page: &[u8]) -> u32 {
    if page.len() == PAGE {
        return crc32c(page) ^ ZERO_SUM;
    }
    let mut whole = page.to_vec();
    whole.resize(PAGE, 0);
    crc32c(&whole) ^ ZERO_SUM
}

/// The generation that a first page says it is of; `None` if its first sector is not whole.
pub(super) fn generation(page: &[u8]) -> Option<u64> {
    let sector = page.get(..SUMS_HEADER)?;
    let (covered, crc) = sector.split_last_chunk::<4>()?;
    let is_whole = covered.ends_with(GENERATION_MAGIC) && crc32c(covered).to_le_bytes() == *crc;
    let field = sector[GENERATION_AT..GENERATION_AT + 8].try_into().ok()?;
    is_whole.then(|| u64::from_le_bytes(field))
}

/// Writes a generation into a first page.
pub(super) fn set_generation(page: &mut [u8], generation: u64) {
    page[GENERATION_AT..GENERATION_AT + 8].copy_from_slice(&generation.to_le_bytes());
    page[GENERATION_AT + 8..SUMS_HEADER - 4].copy_from_slice(GENERATION_MAGIC);
    let crc = crc32c(&page[..SUMS_HEADER - 4]);
    page[SUMS_HEADER - 4..SUMS_HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// What the header of a sums file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SumsHeader {
    /// The file is being made, or there are no sums.
    Unborn,
    /// Of a program that knew no generations.
    First,
    /// Whole; bytes of the file when its length was last set.
    Known(u64),
    /// Not readable.
    Damaged,
}

impl SumsHeader {
    fn decode(bytes: &[u8]) -> Self {
        let is_first = bytes.starts_with(MAGIC_FIRST);
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Unborn;
        }
        if is_first && bytes[MAGIC_FIRST.len()..].iter().all(|byte| *byte == 0) {
            return Self::First;
        }
        match bytes.get(16..24).and_then(|len| len.try_into().ok()) {
            Some(len) if bytes == Self::encode(u64::from_le_bytes(len)) => {
                Self::Known(u64::from_le_bytes(len))
            }
            _ => Self::Damaged,
        }
    }

    fn encode(len: u64) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(len.to_le_bytes());
        out.extend(crc32c(&out).to_le_bytes());
        out.resize(SUMS_HEADER, 0);
        out
    }
}

fn offset(page: usize) -> u64 {
    (SUMS_HEADER + 4 * page) as u64
}

/// The sums in memory, and the file that they lie in.
#[derive(Debug)]
pub(super) struct PageSums {
    file: Arc<dyn DiskFile>,
    sums: Vec<u32>,
    /// What the header says; `None` until it is [begun](Self::begin).
    len: Option<u64>,
}

impl PageSums {
    pub fn new(file: Arc<dyn DiskFile>) -> Self {
        Self {
            file,
            sums: Vec::new(),
            len: None,
        }
    }

    pub fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    pub fn header(&self) -> SumsHeader {
        match self.file.read_at(0, SUMS_HEADER) {
            Ok(bytes) => SumsHeader::decode(&bytes),
            Err(_) => SumsHeader::Damaged,
        }
    }

    /// The sum of a page; 0 beyond the end.
    pub fn get(&self, page: usize) -> u32 {
        self.sums.get(page).copied().unwrap_or_default()
    }

    pub fn pages(&self) -> usize {
        self.sums.len()
    }

    /// Reads the sums of `pages` pages; returns the ranges that cannot be read or lie beyond the file's end.
    pub fn load(&mut self, pages: usize) -> Vec<std::ops::Range<usize>> {
        let decode = |bytes: &[u8]| {
            let one = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            bytes.chunks_exact(4).map(one).collect::<Vec<_>>()
        };
        self.sums = vec![0; pages];
        if let Ok(bytes) = self.file.read_at(offset(0), 4 * pages) {
            let found = decode(&bytes);
            self.sums[..found.len()].copy_from_slice(&found);
            return Vec::from_iter((found.len() < pages).then_some(found.len()..pages));
        }
        let mut unreadable = Vec::new();
        let mut at = 0;
        while at < pages {
            let range = Self::block(at).start..Self::block(at).end.min(pages);
            match self.file.read_at(offset(range.start), 4 * range.len()) {
                Ok(bytes) => {
                    let found = decode(&bytes);
                    self.sums[range.start..][..found.len()].copy_from_slice(&found);
                    let missing = range.start + found.len()..range.end;
                    unreadable.extend((!missing.is_empty()).then_some(missing));
                }
                Err(_) => unreadable.push(range.clone()),
            }
            at = range.end;
        }
        unreadable
    }

    /// Pages whose sums lie in the same page of the sums file.
    pub fn block(page: usize) -> std::ops::Range<usize> {
        let block = (SUMS_HEADER + 4 * page) / PAGE;
        let first = |block: usize| (block * PAGE).saturating_sub(SUMS_HEADER) / 4;
        first(block)..first(block + 1)
    }

    /// Sets sums, in memory and in the file.
    pub fn put(&mut self, first: usize, new: &[u32]) -> Result<(), DiskError> {
        if self.sums.len() < first + new.len() {
            self.sums.resize(first + new.len(), 0);
        }
        self.sums[first..first + new.len()].copy_from_slice(new);
        let encoded: Vec<u8> = new.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let written = self.file.write_at(offset(first), &encoded);
        // What lies around it may be unreadable: whole pages can be written even so.
        written.or_else(|_| {
            let mut at = first;
            while at < first + new.len() {
                self.rewrite(at)?;
                at = Self::block(at).end;
            }
            Ok(())
        })
    }

    /// Writes the whole page of the sums file that holds a page's sum.
    pub fn rewrite(&self, page: usize) -> Result<(), DiskError> {
        let range = Self::block(page);
        let mut bytes = Vec::with_capacity(PAGE);
        if range.start == 0 {
            bytes = self.len.map_or(vec![0; SUMS_HEADER], SumsHeader::encode);
        }
        let at = offset(range.start) - bytes.len() as u64;
        let end = range.end.min(self.sums.len());
        bytes.extend(
            self.sums[range.start..end]
                .iter()
                .flat_map(|sum| sum.to_le_bytes()),
        );
        self.file.write_at(at, &bytes)
    }

    /// Forgets all: until [`begin`](Self::begin) the sums do not count.
    pub fn clear(&mut self) -> Result<(), DiskError> {
        (self.len, self.sums) = (None, Vec::new());
        self.file.set_len(0)
    }

    /// From here on the sums count.
    pub fn begin(&mut self, len: u64) -> Result<(), DiskError> {
        self.len = Some(len);
        let header = SumsHeader::encode(len);
        let written = self.file.write_at(0, &header);
        written.or_else(|_| self.rewrite(0))
    }

    /// The file's length is another one.
    pub fn set_len(&mut self, len: u64) -> Result<(), DiskError> {
        let pages = usize::try_from(len).unwrap_or(usize::MAX).div_ceil(PAGE);
        if pages < self.sums.len() {
            self.file.set_len(offset(pages))?;
        }
        self.sums.resize(pages, 0);
        if self.len.is_some() && self.len != Some(len) {
            self.begin(len)?;
        }
        Ok(())
    }

    /// What the file says of some pages, from the device; `None` where it cannot be read.
    pub fn stored(&self, first: usize, pages: usize) -> Option<Vec<u8>> {
        let (at, len) = (offset(first) & !4095, 4096 + 4 * pages as u64);
        self.file.forget_cached(at, len);
        let mut stored = vec![0; 4 * pages];
        self.file.read_into(offset(first), &mut stored).ok()?;
        Some(stored)
    }

    /// True if not even the header can be read: then it is not pages that are bad, but the device.
    pub fn header_is_gone(&self) -> bool {
        self.file.forget_cached(0, SUMS_HEADER as u64);
        self.file.read_at(0, SUMS_HEADER).is_err()
    }

    /// Reads the header from the device again; true if it had to be written.
    pub fn check_header(&self) -> Result<bool, DiskError> {
        let Some(len) = self.len else {
            return Ok(false);
        };
        self.file.forget_cached(0, SUMS_HEADER as u64);
        let is_good = self.header() == SumsHeader::Known(len);
        if !is_good {
            self.rewrite(0)?;
        }
        Ok(!is_good)
    }
}

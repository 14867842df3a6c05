//! Reading an object: whole blocks, verified before anybody sees them.
use super::DiskFile;
use super::object_format::{FILE_HEADER_BYTES, ObjectHeader};
use super::store_error::StoreError;
use crate::types::{BLOCK_SIZE, BlockSums, ObjectAbout, ObjectSum};
use bytes::Bytes;

/// Verified bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRead {
    /// Sums of all blocks of the object.
    pub sums: BlockSums,
    /// Identity of the whole object.
    pub sum: ObjectSum,
    /// Offset of the first byte, a multiple of the block size.
    pub offset: u32,
    /// Whole blocks; empty when the range lies beyond the end.
    pub bytes: Bytes,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// All of them.
    Memory(Bytes),
    /// In an object file.
    File {
        /// Open, so that a delete does not take it away.
        file: Box<dyn DiskFile>,
        /// Its path.
        path: String,
    },
}

/// A read that is ready to run, on any thread.
#[derive(Debug)]
pub struct ReadPlan {
    header: ObjectHeader,
    source: Source,
    start: usize,
    end: usize,
}

impl ReadPlan {
    pub(super) fn new(header: ObjectHeader, source: Source, offset: u32, len: u32) -> Self {
        let size = header.len as usize;
        let start = (offset as usize).min(size);
        let end = (offset as usize).saturating_add(len as usize).min(size);
        let start = start / BLOCK_SIZE * BLOCK_SIZE;
        let is_empty = len == 0 || offset >= header.len;
        let end = end.next_multiple_of(BLOCK_SIZE).min(size);
        Self {
            header,
            source,
            start,
            end: if is_empty { start } else { end },
        }
    }

    /// Bytes it will read.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.end - self.start
    }

    /// What the object's header says of its file.
    #[must_use]
    pub fn about(&self) -> Option<Box<ObjectAbout>> {
        self.header.about.clone()
    }

    /// True if running it reads a file.
    #[must_use]
    pub fn waits_for_disk(&self) -> bool {
        matches!(self.source, Source::File { .. })
    }

    /// Reads and verifies.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the bytes do not match their sums or are cut short; I/O.
    pub fn run(self) -> Result<ObjectRead, StoreError> {
        let bytes = self.fetch()?;
        let is_whole = bytes.len() == self.len_bytes();
        let first_block = self.start / BLOCK_SIZE;
        if !is_whole || !self.header.sums.verify_blocks(first_block, &bytes) {
            return Err(self.corrupt());
        }
        Ok(ObjectRead {
            sum: self.header.sum(),
            sums: self.header.sums,
            offset: u32::try_from(self.start).expect("below the object's length"),
            bytes,
        })
    }

    fn fetch(&self) -> Result<Bytes, StoreError> {
        match &self.source {
            Source::Memory(bytes) => {
                let held = bytes.len();
                Ok(bytes.slice(self.start.min(held)..self.end.min(held)))
            }
            Source::File { file, .. } => {
                let at = (FILE_HEADER_BYTES + self.start) as u64;
                Ok(file.read_at(at, self.len_bytes())?)
            }
        }
    }

    /// Reads all of the object from the disk again and verifies it: the bytes, of a file also the
    /// header page with its padding and the length, and the identity against `expected`, if given.
    /// Returns the bytes read.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when anything does not match; I/O.
    pub fn scrub(self, expected: Option<ObjectSum>) -> Result<u64, StoreError> {
        if expected.is_some_and(|sum| sum != self.header.sum()) {
            return Err(self.corrupt());
        }
        if let Source::File { file, .. } = &self.source {
            let len = (FILE_HEADER_BYTES + self.header.len as usize) as u64;
            file.forget_cached(0, len);
            let page = file.read_at(0, FILE_HEADER_BYTES)?;
            let is_own = ObjectHeader::decode(&page).is_some_and(|own| own == self.header);
            let used = ObjectHeader::encoded_len(&page).unwrap_or(0);
            let is_padded = page.iter().skip(used).all(|byte| *byte == 0);
            if file.len()? != len || !is_own || !is_padded {
                return Err(self.corrupt());
            }
        }
        self.run().map(|read| read.bytes.len() as u64)
    }

    fn corrupt(&self) -> StoreError {
        let place = match &self.source {
            Source::Memory(_) => "tables".to_owned(),
            Source::File { path, .. } => path.clone(),
        };
        StoreError::Corrupt {
            id: self.header.id,
            place,
        }
    }
}

//! The bytes of a journal segment: FORMAT.
//!
//! ```text
//! 0    magic "DFSJRNL1" | segment u64 | first seq u64 | salt u64 | crc32c u32 | zeros to 512
//! 512  record, record, ... each at a multiple of 8
//! record = magic u32 | len u32 | seq u64 | durable u64 | payload crc u32 | header crc u32 | payload
//! ```
//! All little-endian. `len` has its top bit set in a *mark*, which has no payload and takes no seq.
//! `durable` says that every record with a smaller seq was durable when this one was written: that
//! is what tells rot from a torn tail. The header's crc also covers the journal's salt, the segment
//! and the offset, so neither the old bytes of a recycled file nor a payload that quotes a journal
//! can look like a record of this place.
use crate::types::crc32c;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: u64 = 512;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
const ALIGN: usize = 8;
/// Longest payload.
pub const PAYLOAD_MAX: usize = 1 << 30;

const SEGMENT_MAGIC: &[u8; 8] = b"DFSJRNL1";
const RECORD_MAGIC: u32 = 0xd5f5_10c4;
const MARK_BIT: u32 = 1 << 31;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the segment, never reused within a journal.
    pub segment: u64,
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// Identity of the journal.
    pub salt: u64,
}

/// What a record's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its number; of a mark, the number of the record after it.
    pub seq: u64,
    /// Every record below this was durable when this one was written.
    pub durable: u64,
    /// Bytes of payload.
    pub len: usize,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
    /// True for a mark.
    pub is_mark: bool,
}

/// Bytes that a record with `len` bytes of payload takes.
#[must_use]
pub fn record_bytes(len: usize) -> usize {
    (RECORD_HEADER_BYTES + len).next_multiple_of(ALIGN)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..at + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(field)
}

impl SegmentHeader {
    /// The first sector of the segment.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = SEGMENT_MAGIC.to_vec();
        for field in [self.segment, self.first_seq, self.salt] {
            out.extend(field.to_le_bytes());
        }
        out.extend(crc32c(&out).to_le_bytes());
        out.resize(512, 0);
        out
    }

    /// Reads it back; `None` unless it is whole and of this segment and journal.
    #[must_use]
    pub fn decode(bytes: &[u8], segment: u64, salt: u64) -> Option<Self> {
        let is_whole = bytes.len() >= 512
            && bytes.starts_with(SEGMENT_MAGIC)
            && crc32c(&bytes[..32]) == u32_at(bytes, 32);
        let header = is_whole.then(|| Self {
            segment: u64_at(bytes, 8),
            first_seq: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
        })?;
        (header.segment == segment && header.salt == salt).then_some(header)
    }

    /// CRC of the first 28 bytes of a record header at `offset` of this segment.
    fn place_crc(&self, offset: u64, fields: &[u8]) -> u32 {
        let mut covered = [0; 52];
        covered[..8].copy_from_slice(&self.salt.to_le_bytes());
        covered[8..16].copy_from_slice(&self.segment.to_le_bytes());
        covered[16..24].copy_from_slice(&offset.to_le_bytes());
        covered[24..].copy_from_slice(fields);
        crc32c(&covered)
    }

    /// Appends a record, or with no payload a mark, that will stand at `offset`.
    pub fn encode_record(
        &self,
        out: &mut Vec<u8>,
        offset: u64,
        (seq, durable): (u64, u64),
        payload: Option<&[u8]>,
    ) {
        let start = out.len();
        let bytes = payload.unwrap_or(&[]);
        let len = u32::try_from(bytes.len()).expect("checked against PAYLOAD_MAX");
        let len = if payload.is_none() { MARK_BIT } else { len };
        out.extend(RECORD_MAGIC.to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend(seq.to_le_bytes());
        out.extend(durable.to_le_bytes());
        out.extend(crc32c(bytes).to_le_bytes());
        let crc = self.place_crc(offset, &out[start..]);
        out.extend(crc.to_le_bytes());
        out.extend(bytes);
        out.resize(start + record_bytes(bytes.len()), 0);
    }

    /// The record header at `offset` of the segment's `content`, if a whole one stands there.
    #[must_use]
    pub fn record_at(&self, content: &[u8], offset: usize) -> Option<RecordHeader> {
        let bytes = content.get(offset..offset + RECORD_HEADER_BYTES)?;
        if u32_at(bytes, 0) != RECORD_MAGIC
            || self.place_crc(offset as u64, &bytes[..28]) != u32_at(bytes, 28)
        {
            return None;
        }
        let len = u32_at(bytes, 4);
        Some(RecordHeader {
            seq: u64_at(bytes, 8),
            durable: u64_at(bytes, 16),
            len: (len & !MARK_BIT) as usize,
            payload_crc: u32_at(bytes, 24),
            is_mark: len & MARK_BIT != 0,
        })
    }

    /// The payload of the record at `offset`, if it is whole.
    #[must_use]
    pub fn payload<'a>(
        &self,
        content: &'a [u8],
        offset: usize,
        record: &RecordHeader,
    ) -> Option<&'a [u8]> {
        let start = offset + RECORD_HEADER_BYTES;
        let payload = content.get(start..start.checked_add(record.len)?)?;
        (crc32c(payload) == record.payload_crc).then_some(payload)
    }

    /// The highest record number that anything whole after `offset` speaks of.
    #[must_use]
    pub fn highest_after(&self, content: &[u8], offset: usize) -> u64 {
        let places = (offset.next_multiple_of(ALIGN)..content.len()).step_by(ALIGN);
        let later = places.filter_map(|at| self.record_at(content, at));
        let highest = later.map(|r| {
            let own = r.seq.saturating_sub(u64::from(r.is_mark));
            own.max(r.durable.saturating_sub(1))
        });
        highest.max().unwrap_or(0)
    }

    /// True if a record after `offset` proves that record `seq` was durable once.
    #[must_use]
    pub fn proves_durable(&self, content: &[u8], offset: usize, seq: u64) -> bool {
        let places = (offset.next_multiple_of(ALIGN)..content.len()).step_by(ALIGN);
        let mut later = places.filter_map(|at| self.record_at(content, at));
        later.any(|record| record.durable > seq)
    }
}

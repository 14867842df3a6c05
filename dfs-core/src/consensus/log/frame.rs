//! One append batch as bytes.
//!
//! ```text
//! magic u32 | payload len u32 | seq u64 | ordinal u64 | payload crc u32 | header crc u32 | payload
//! ```
//! The header's CRC also covers the offset in the segment. Frames start at multiples of 8.
use crate::consensus::types::{LogRecord, MEMBERS_MAX};
use crate::types::crc32c;

const MAGIC: u32 = 0x7252_4644;
const ALIGN: usize = 8;
/// Bytes before the payload.
pub(super) const HEADER_LEN: usize = 32;
/// Room for the state that the first frame of a segment repeats.
pub(super) const CARRY_LEN_MAX: u64 = 3 * META_LEN_MAX;
/// Encoded members: four lists of varints of at most ten bytes, and change.
const META_LEN_MAX: u64 = 4 * 10 * MEMBERS_MAX as u64 + 64;

/// Bound of a record's encoded length.
pub(super) fn record_len_max(record: &LogRecord) -> u64 {
    match record {
        LogRecord::Entry(entry) => entry.data.len() as u64 + 40,
        LogRecord::HardState(_) => 40,
        LogRecord::Base(_) | LogRecord::Reset(_) | LogRecord::Installing(_) => META_LEN_MAX,
    }
}

/// Bound of the length of a frame of these records.
pub(super) fn encoded_len_max(records: &[&LogRecord]) -> u64 {
    let records: u64 = records.iter().map(|record| record_len_max(record)).sum();
    records + (HEADER_LEN + ALIGN) as u64
}

fn header_crc(header: &[u8], offset: u64) -> u32 {
    let mut covered = [0; HEADER_LEN + 4];
    covered[..28].copy_from_slice(&header[..28]);
    covered[28..].copy_from_slice(&offset.to_le_bytes());
    crc32c(&covered)
}

/// The bytes of a frame that stands at `offset` of segment `seq`, padded with zeros.
pub(super) fn encode<'a>(
    seq: u64,
    ordinal: u64,
    offset: u64,
    records: impl IntoIterator<Item = &'a LogRecord>,
) -> Vec<u8> {
    let mut out = vec![0; HEADER_LEN];
    for record in records {
        out = postcard::to_extend(record, out).expect("plain enums always encode");
    }
    let len = u32::try_from(out.len() - HEADER_LEN).expect("batches are split below 4 GiB");
    let payload_crc = crc32c(&out[HEADER_LEN..]);
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&len.to_le_bytes());
    out[8..16].copy_from_slice(&seq.to_le_bytes());
    out[16..24].copy_from_slice(&ordinal.to_le_bytes());
    out[24..28].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = header_crc(&out, offset);
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    out
}

/// A frame found in a segment.
pub(super) struct Found<'a> {
    pub(super) ordinal: u64,
    pub(super) payload: &'a [u8],
    /// Offset after the padding.
    pub(super) end: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The frame at `offset` of a segment's content, if it is whole and of this segment.
pub(super) fn read(content: &[u8], offset: u64, seq: u64) -> Option<Found<'_>> {
    let start = usize::try_from(offset).ok()?;
    let header = content.get(start..start.checked_add(HEADER_LEN)?)?;
    if u32_at(header, 0) != MAGIC
        || u64_at(header, 8) != seq
        || u32_at(header, 28) != header_crc(header, offset)
    {
        return None;
    }
    let len = usize::try_from(u32_at(header, 4)).ok()?;
    let from = start + HEADER_LEN;
    let payload = content.get(from..from.checked_add(len)?)?;
    if crc32c(payload) != u32_at(header, 24) {
        return None;
    }
    Some(Found {
        ordinal: u64_at(header, 16),
        payload,
        end: (from + len).next_multiple_of(ALIGN) as u64,
    })
}

/// Offset of a whole frame of this segment after `offset` with an ordinal above `ordinal`.
pub(super) fn find_later(content: &[u8], offset: u64, seq: u64, ordinal: u64) -> Option<u64> {
    let mut at = offset + ALIGN as u64;
    while at + (HEADER_LEN as u64) <= content.len() as u64 {
        if read(content, at, seq).is_some_and(|found| found.ordinal > ordinal) {
            return Some(at);
        }
        at += ALIGN as u64;
    }
    None
}

/// The records of a payload; `None` if it does not decode (then the writer was broken).
pub(super) fn records(mut payload: &[u8]) -> Option<Vec<LogRecord>> {
    let mut out = Vec::new();
    while !payload.is_empty() {
        let (record, rest) = postcard::take_from_bytes(payload).ok()?;
        out.push(record);
        payload = rest;
    }
    Some(out)
}

/// True if `header` was meant as a frame of this segment, whole or not.
pub(super) fn claims(header: &[u8], seq: u64) -> bool {
    header.len() >= 16 && u32_at(header, 0) == MAGIC && u64_at(header, 8) == seq
}

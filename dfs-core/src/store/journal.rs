//! An append-only, segmented journal over a [`Disk`]: what was synced is replayed after any crash.
//!
//! Steps of an append: records gather in memory; [`sync`](Journal::sync) writes them with one write
//! and makes them durable with one `fdatasync`, however many there are. Segments are written full
//! of zeros when they are made and recycled when they are trimmed, so an append changes no
//! metadata. Each start begins a new segment; a segment that is full is synced before the next one
//! is made.
//!
//! Steps of a replay, segment by segment:
//! 1. records are read until one is not whole (wrong header, wrong place, wrong checksum);
//! 2. in a segment that has a successor, that must be where the successor begins, else it is *rot*;
//! 3. in the last one it is a *torn tail*, dropped, unless a record after it says that it had been
//!    durable: then it is *rot* ([`JournalError::Rot`]) and nothing may be built on this journal.
//!    A crash may keep a later record of one unsynced group and drop an earlier one, so a valid
//!    record behind a bad one proves nothing by itself.
//!
//! Rot in the very last durable record looks like a torn tail. [`mark`](Journal::mark), called when
//! the journal is idle, closes that gap: it says on disk what is durable.
//!
//! A segment whose header is unreadable gets it again from its first record.
//!
//! Rot among records that the tables cover ([`JournalOptions::covered`]) is no loss: it is passed over.
//!
//! Invariants:
//! 1. sequence numbers have no gaps, within and across segments;
//! 2. what `sync` returned `Ok` for is replayed, in order, or the open fails with rot;
//! 3. after a failed write or sync nothing is appended any more (fail-stop);
//! 4. only the oldest segment is ever removed, and durably so before the next one.
//!
//! Sources: Pillai et al. (OSDI 2014) on torn appends; Alagappan et al., *Protocol-Aware Recovery
//! for Consensus-Based Storage* (FAST 2018), section 3.3, on telling a crash from corruption.
use super::segment::{PAYLOAD_MAX, SEGMENT_HEADER_BYTES, SegmentHeader, record_bytes};
use super::segment_files::{Found, JournalOptions, Segment, find_segments, make_segment};
use super::{Disk, DiskError, DiskFile};
use std::collections::VecDeque;
use std::sync::Arc;

/// A failed journal operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Something that was durable is damaged.
    #[error("journal {path} is damaged at byte {offset}, record {seq}: {why}")]
    Rot {
        /// The segment's file.
        path: String,
        /// Where.
        offset: u64,
        /// The record that should be there.
        seq: u64,
        /// How it was noticed.
        why: &'static str,
    },
    /// A record longer than the format allows. Nothing was appended.
    #[error("journal record of {len} bytes is too long")]
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// An earlier write or sync failed; nothing can be appended until it is opened again.
    #[error("journal failed earlier and takes no more records")]
    Failed,
    /// The disk below failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Bytes gathered before they are written out ahead of their sync.
const BUFFER_MAX: usize = 1 << 20;

/// An open journal. See the [module docs](self).
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    /// Oldest first; the last is the one appended to.
    segments: VecDeque<Segment>,
    spares: Vec<String>,
    header: SegmentHeader,
    file: Box<dyn DiskFile>,
    /// Where the buffer goes.
    offset: u64,
    buffer: Vec<u8>,
    next_seq: u64,
    /// Every record below this is durable.
    durable: u64,
    /// What the last record or mark on disk says of it.
    told_durable: u64,
    failed: bool,
}

/// A segment's replay: records below `next_seq` were whole, `offset` is behind the last of them.
struct Replayed {
    next_seq: u64,
    offset: usize,
}

impl Journal {
    /// Opens or makes the journal and hands every record to `replay`, oldest first.
    ///
    /// A new journal's first record gets the number 1.
    ///
    /// # Errors
    /// [`JournalError::Rot`]; I/O. Records may have been handed to `replay` by then.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        replay: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Self, JournalError> {
        let Found {
            segments: mut found,
            mut spares,
        } = find_segments(disk.as_ref(), &options)?;
        let has_dropped = Self::drop_headless(disk.as_ref(), &options, &mut found)?;
        let mut segments = VecDeque::new();
        let mut next_seq = found.first().map_or(1, |(header, _)| header.first_seq);
        for (at, (header, segment)) in found.iter().enumerate() {
            let successor = found.get(at + 1).map(|(next, _)| next.first_seq);
            let file = disk.open(&segment.path, false)?;
            let content = file.read_at(0, usize::try_from(file.len()?).unwrap_or(usize::MAX))?;
            let mut done = Self::replay_segment(header, &content, next_seq, replay);
            if let Err(rot) = Self::check_end(header, segment, &content, &done, successor) {
                // Nothing is lost with records that are kept elsewhere too.
                let last = match successor {
                    Some(first) => first.saturating_sub(1),
                    None => header.highest_after(&content, done.offset),
                };
                let is_needed = last > options.covered || done.next_seq > options.covered;
                if is_needed || (successor.is_none() && header.first_seq == 0) {
                    return Err(rot);
                }
                tracing::warn!(%rot, "the tables hold all of the damaged part: it is not needed");
                done.next_seq = successor.unwrap_or(options.covered + 1);
            }
            if successor.is_none() {
                // What a kill or a failed sync left in the page cache is replayed, so it must not
                // go later. After a failed sync the pages pass for clean: only a new write of
                // them reaches the disk.
                let end = done.offset.min(content.len());
                file.write_at(0, &content[..end])?;
                file.sync_data()?;
            }
            next_seq = done.next_seq;
            segments.push_back(segment.clone());
        }
        if has_dropped {
            next_seq = next_seq.max(options.covered + 1);
        }
        let segment = found.last().map_or(1, |(header, _)| header.segment + 1);
        // Made anew at every start: the tail that was dropped stays behind in the old segment.
        let header = SegmentHeader {
            segment,
            first_seq: next_seq,
            salt: options.salt,
        };
        let size_bytes = options.segment_bytes;
        let (file, last) = make_segment(disk.as_ref(), &options, &mut spares, header, size_bytes)?;
        segments.push_back(last);
        Ok(Self {
            disk,
            options,
            segments,
            spares,
            header,
            file,
            offset: SEGMENT_HEADER_BYTES,
            buffer: Vec::new(),
            next_seq,
            durable: next_seq,
            told_durable: next_seq,
            failed: false,
        })
    }

    /// Removes last segments without a header: one whose header never became durable has no record;
    /// one that lost it may have some, which must all be kept elsewhere. True if there was such a one.
    fn drop_headless(
        disk: &dyn Disk,
        options: &JournalOptions,
        found: &mut Vec<(SegmentHeader, Segment)>,
    ) -> Result<bool, JournalError> {
        let mut has_lost = false;
        while let Some((header, segment)) = found.last() {
            if header.first_seq != 0 {
                break;
            }
            let file = disk.open(&segment.path, false)?;
            let len = usize::try_from(segment.size_bytes).unwrap_or(usize::MAX);
            let last = header.highest_after(&file.read_at(0, len)?, 0);
            if last > options.covered {
                return Err(rot(segment, 0, 0, "its header is damaged"));
            }
            if last > 0 {
                has_lost = true;
                let (path, covered) = (&segment.path, options.covered);
                tracing::warn!(
                    path,
                    last,
                    covered,
                    "dropped a journal segment without header: the tables hold all of it"
                );
            }
            disk.remove(&segment.path)?;
            disk.sync_dir(&options.dir)?;
            found.pop();
        }
        Ok(has_lost)
    }

    fn replay_segment(
        header: &SegmentHeader,
        content: &[u8],
        mut next_seq: u64,
        replay: &mut dyn FnMut(u64, &[u8]),
    ) -> Replayed {
        let mut offset = usize::try_from(SEGMENT_HEADER_BYTES).expect("512");
        while let Some(record) = header.record_at(content, offset)
            && record.seq == next_seq
            && let Some(payload) = header.payload(content, offset, &record)
        {
            if !record.is_mark {
                replay(next_seq, payload);
                next_seq += 1;
            }
            offset += record_bytes(record.len);
        }
        Replayed { next_seq, offset }
    }

    /// Steps 2 and 3 of a replay.
    fn check_end(
        header: &SegmentHeader,
        segment: &Segment,
        content: &[u8],
        done: &Replayed,
        successor: Option<u64>,
    ) -> Result<(), JournalError> {
        let damaged = |why| Err(rot(segment, done.offset as u64, done.next_seq, why));
        if header.first_seq == 0 {
            return damaged("its header is damaged");
        }
        match successor {
            Some(first) if first != done.next_seq => damaged("records are missing before the next"),
            None if header.proves_durable(content, done.offset, done.next_seq) => {
                damaged("a later record says that this one was durable")
            }
            _ => Ok(()),
        }
    }

    /// Adds a record; returns its number. Durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// I/O (then the journal has failed), [`JournalError::Failed`], [`JournalError::TooLong`].
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        if payload.len() > PAYLOAD_MAX {
            return Err(JournalError::TooLong { len: payload.len() });
        }
        self.check()?;
        self.make_room(record_bytes(payload.len()) as u64)?;
        let seq = self.next_seq;
        self.put(Some(payload));
        self.next_seq += 1;
        if self.buffer.len() >= BUFFER_MAX {
            self.write_out()?;
        }
        Ok(seq)
    }

    fn put(&mut self, payload: Option<&[u8]>) {
        let at = self.offset + self.buffer.len() as u64;
        let numbers = (self.next_seq, self.durable);
        let buffer = &mut self.buffer;
        self.header.encode_record(buffer, at, numbers, payload);
        self.told_durable = self.durable;
    }

    fn check(&self) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed);
        }
        Ok(())
    }

    /// Runs a step that touches the disk; its failure is final.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.check()?;
        let done = step(self);
        self.failed = done.is_err();
        done
    }

    fn size_bytes(&self) -> u64 {
        self.segments.back().map_or(0, |last| last.size_bytes)
    }

    fn make_room(&mut self, record_len: u64) -> Result<(), JournalError> {
        let end = self.offset + self.buffer.len() as u64 + record_len;
        if end <= self.size_bytes() {
            return Ok(());
        }
        let needed = SEGMENT_HEADER_BYTES + record_len;
        self.rotate_to(needed.max(self.options.segment_bytes))
    }

    fn write_out(&mut self) -> Result<(), JournalError> {
        self.guarded(|journal| {
            if !journal.buffer.is_empty() {
                journal.file.write_at(journal.offset, &journal.buffer)?;
                journal.offset += journal.buffer.len() as u64;
                journal.buffer.clear();
            }
            Ok(())
        })
    }

    /// Makes every record so far durable.
    ///
    /// # Errors
    /// I/O: the journal has failed, and what was not durable may or may not be there after a
    /// reopen.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.write_out()?;
        if self.durable < self.next_seq {
            self.guarded(|journal| Ok(journal.file.sync_data()?))?;
            self.durable = self.next_seq;
        }
        Ok(())
    }

    /// Notes on disk what is durable, unless that is known there. Costs one write, no sync; call
    /// it when there is nothing else to do.
    ///
    /// # Errors
    /// I/O: the journal has failed.
    pub fn mark(&mut self) -> Result<(), JournalError> {
        self.check()?;
        let end = self.offset + (self.buffer.len() + record_bytes(0)) as u64;
        if self.told_durable == self.durable || end > self.size_bytes() {
            return Ok(());
        }
        self.put(None);
        self.write_out()
    }

    /// Makes everything durable and begins a new segment.
    ///
    /// # Errors
    /// I/O: the journal has failed.
    pub fn rotate(&mut self) -> Result<(), JournalError> {
        self.rotate_to(self.options.segment_bytes)
    }

    fn rotate_to(&mut self, size_bytes: u64) -> Result<(), JournalError> {
        self.sync()?;
        self.guarded(|journal| {
            let header = SegmentHeader {
                segment: journal.header.segment + 1,
                first_seq: journal.next_seq,
                salt: journal.options.salt,
            };
            let disk = journal.disk.as_ref();
            let (options, spares) = (&journal.options, &mut journal.spares);
            let (file, segment) = make_segment(disk, options, spares, header, size_bytes)?;
            journal.file = file;
            journal.header = header;
            journal.segments.push_back(segment);
            journal.offset = SEGMENT_HEADER_BYTES;
            // The segment's own header says that all before it is durable.
            journal.told_durable = journal.durable;
            Ok(())
        })
    }

    /// Gives up segments whose records are all below `seq`; the one appended to stays.
    ///
    /// # Errors
    /// I/O: the journal has failed.
    pub fn trim_before(&mut self, seq: u64) -> Result<(), JournalError> {
        while self
            .segments
            .get(1)
            .is_some_and(|next| next.first_seq <= seq)
        {
            let oldest = self.segments.front().expect("there are two").clone();
            self.guarded(|journal| {
                let is_spare = oldest.size_bytes == journal.options.segment_bytes
                    && journal.spares.len() < journal.options.spares_max;
                if is_spare {
                    let spare = format!("{}.spare", oldest.path.trim_end_matches(".seg"));
                    journal.disk.rename(&oldest.path, &spare)?;
                    journal.spares.push(spare);
                } else {
                    journal.disk.remove(&oldest.path)?;
                }
                // One at a time: a crash must not leave a gap between segments.
                Ok(journal.disk.sync_dir(&journal.options.dir)?)
            })?;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Number the next record will get.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Number of the oldest record still kept (or of the next one, if none is).
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.segments
            .front()
            .map_or(self.next_seq, |oldest| oldest.first_seq)
    }

    /// Segments kept, the one appended to included.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

fn rot(segment: &Segment, offset: u64, seq: u64, why: &'static str) -> JournalError {
    JournalError::Rot {
        path: segment.path.clone(),
        offset,
        seq,
        why,
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;

//! The durable Raft log: a directory of segments, appended to and synced in frames.
//!
//! Format (version 1, little-endian). A directory holds `seg-<seq as 16 hex digits>` with ascending
//! `seq` without gaps, and `spare-<n>`: preallocated files of which no content counts.
//! * A segment starts with a header of 4 KiB ([`segment`]): who owns the log, `seq`, and the ordinal
//!   of its first frame. Its blocks are written with zeros, or are those of a recycled segment, and
//!   synced before it gets its name, so an append's fdatasync changes no metadata.
//! * A frame ([`frame`]) is one append batch: a header with length, `seq`, ordinal and CRC-32C, then
//!   [`LogRecord`]s (postcard), 8-byte aligned. The first frame of a segment repeats base and hard
//!   state, so older segments can be dropped whole.
//!
//! Steps of [`RaftLog::append`]: one frame, one write, one fdatasync. Only then the next frame.
//!
//! Invariants:
//! 1. frame k + 1 is written only after frame k was synced. So at recovery a bad frame with nothing
//!    after it is a torn tail that nobody was told about, and is dropped; a bad frame with a later
//!    frame, segment or ordinal after it is rot ([`LogError::Rot`]);
//! 2. bytes of a recycled segment never look valid: `seq` and offset are under the header's CRC;
//! 3. a segment is dropped only when the base that covers it is durable in a later frame;
//! 4. after a failed write or sync nothing is appended any more ([`LogError::Failed`]).
//!
//! Rot of the very last frame looks like a torn tail in the segment. It would undo what this member
//! acknowledged or voted, and the only other copy of an entry may be lost with another member. So the
//! newest durable ordinal is kept a second time ([`acked`]): a frame that it names and that is not
//! there is rot. Not told apart: rot in the seconds before the system has written that file out, in a
//! process that was killed or a machine that lost its power; the log says when it drops a tail.
//!
//! Source: Pillai et al. (OSDI 2014) on what a crash leaves; Alagappan et al., *Protocol-Aware
//! Recovery for Consensus-Based Storage* (FAST 2018) on torn tail versus rot.
mod acked;
mod frame;
mod recover;
mod segment;

use super::types::{HardState, LogRecord, LogWrite, SnapshotMeta};
use crate::store::{Disk, DiskError};
use crate::types::{ClusterId, RaftId};
use acked::Acked;
use segment::{Active, Sealed};
use std::collections::VecDeque;
use std::sync::Arc;

pub use recover::RecoveredLog;

/// Version of the format that this program writes.
pub const FORMAT_VERSION: u32 = 1;

/// Whose log it is; stored in every segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub raft: RaftId,
}

/// Settings of a [`RaftLog`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Size of a segment; 16 KiB or more. A larger frame gets a segment of its own.
    pub segment_bytes: u64,
    /// Dropped segments kept for recycling.
    pub spares_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            spares_max: 2,
        }
    }
}

/// Why the log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk failed. After a failed append the log refuses everything.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory holds no log. State unchanged.
    #[error("{dir}: no raft log")]
    Missing {
        /// The directory.
        dir: String,
    },
    /// The directory holds a log already. State unchanged.
    #[error("{dir}: a raft log exists")]
    Exists {
        /// The directory.
        dir: String,
    },
    /// It belongs to another member or cluster. State unchanged.
    #[error("{path}: belongs to {found:?}")]
    Foreign {
        /// The segment.
        path: String,
        /// Its owner.
        found: LogId,
    },
    /// A newer program wrote it. State unchanged.
    #[error("{path}: format version {found}, this program knows {FORMAT_VERSION}")]
    Version {
        /// The segment.
        path: String,
        /// Its version.
        found: u32,
    },
    /// Damaged before its end: this voter cannot keep its promises and counts as wiped.
    #[error("{path}: damaged at byte {offset}: {why}")]
    Rot {
        /// The segment.
        path: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An earlier append failed (fail-stop). Nothing was written.
    #[error("an earlier append failed; restart to recover")]
    Failed,
}

/// The durable log of one member. See the [module docs](self).
#[derive(Debug)]
pub struct RaftLog {
    disk: Arc<dyn Disk>,
    dir: String,
    id: LogId,
    config: LogConfig,
    sealed: VecDeque<Sealed>,
    active: Active,
    ordinal_next: u64,
    acked: Acked,
    /// Names of spare files, all `config.segment_bytes` long.
    spares: Vec<String>,
    hard: HardState,
    base: SnapshotMeta,
    installing: Option<SnapshotMeta>,
    is_failed: bool,
}

impl RaftLog {
    /// Makes a new log that starts after `base`, durably.
    ///
    /// # Errors
    /// [`LogError::Exists`] if there is one; disk errors, after which none exists.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &str,
        id: LogId,
        config: LogConfig,
        base: &SnapshotMeta,
    ) -> Result<(Self, RecoveredLog), LogError> {
        let names = disk.list(dir)?;
        if names.iter().any(|name| segment::parse_name(name).is_some()) {
            return Err(LogError::Exists { dir: dir.into() });
        }
        let hard = HardState {
            term: base.term,
            vote: None,
            commit: base.index,
        };
        let records = [LogRecord::Base(base.clone()), LogRecord::HardState(hard)];
        let first = frame::encode(0, 1, segment::HEADER_LEN, &records);
        let header = segment::Header {
            id,
            seq: 0,
            ordinal_first: 1,
        };
        let len = config
            .segment_bytes
            .max(segment::HEADER_LEN + first.len() as u64);
        let spare = segment::create_spare(&*disk, dir, &names, len)?;
        let file = disk.open(&spare, false)?;
        file.write_at(0, &header.encode())?;
        file.write_at(segment::HEADER_LEN, &first)?;
        file.sync_data()?;
        disk.rename(&spare, &segment::path(dir, 0))?;
        disk.sync_dir(dir)?;
        Self::open(disk, dir, id, config)
    }

    /// Forgets a log: removes every file below `dir`. For a member that was retired or wiped.
    ///
    /// # Errors
    /// Disk errors; some files may remain, and the log then no longer opens or opens as before.
    pub fn destroy(disk: &dyn Disk, dir: &str) -> Result<(), LogError> {
        // Oldest first: what remains after a crash still knows the newest vote.
        for name in disk.list(dir)? {
            disk.remove(&format!("{dir}/{name}"))?;
            disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// Makes the writes durable, in order, with one fdatasync (unless a segment ends meanwhile or
    /// they exceed one). A write that carries a new base then drops the segments below it.
    ///
    /// # Errors
    /// [`LogError::Disk`] or [`LogError::Failed`]: nothing of it may be acknowledged; some of it may
    /// be found at recovery. The log then refuses everything until it is opened again.
    pub fn append(&mut self, writes: &[LogWrite]) -> Result<(), LogError> {
        if self.is_failed {
            return Err(LogError::Failed);
        }
        let records: Vec<&LogRecord> = writes.iter().flat_map(|write| &write.records).collect();
        let result = self.append_records(&records);
        self.is_failed = result.is_err();
        result
    }

    fn append_records(&mut self, records: &[&LogRecord]) -> Result<(), LogError> {
        // What fits a fresh segment after the state that its first frame repeats.
        let taken = segment::HEADER_LEN + frame::CARRY_LEN_MAX + frame::HEADER_LEN as u64 + 8;
        let room = self.config.segment_bytes.saturating_sub(taken);
        let (mut from, mut len_bytes, mut drops) = (0, 0u64, false);
        for (at, record) in records.iter().enumerate() {
            let record_bytes = frame::record_len_max(record);
            if at > from && len_bytes + record_bytes > room {
                self.append_frame(&records[from..at])?;
                (from, len_bytes) = (at, 0);
            }
            len_bytes += record_bytes;
            drops |= matches!(record, LogRecord::Base(_) | LogRecord::Reset(_));
        }
        if from < records.len() {
            self.append_frame(&records[from..])?;
        }
        match drops {
            true => self.drop_segments(),
            false => Ok(()),
        }
    }

    fn append_frame(&mut self, records: &[&LogRecord]) -> Result<(), LogError> {
        let mut bytes = self.encode_frame(records);
        if self.active.offset + bytes.len() as u64 > self.active.len {
            self.rotate(frame::encoded_len_max(records) + frame::CARRY_LEN_MAX)?;
            bytes = self.encode_frame(records);
        }
        let active = &mut self.active;
        active.file.write_at(active.offset, &bytes)?;
        active.file.sync_data()?;
        active.offset += bytes.len() as u64;
        active.has_frames = true;
        self.acked.note(self.ordinal_next);
        self.ordinal_next += 1;
        for record in records {
            self.note(record);
        }
        Ok(())
    }

    /// The frame as it would stand at the present end; the first of a segment carries the state.
    fn encode_frame(&self, records: &[&LogRecord]) -> Vec<u8> {
        let (seq, ordinal, offset) = (self.active.seq, self.ordinal_next, self.active.offset);
        if self.active.has_frames {
            return frame::encode(seq, ordinal, offset, records.iter().copied());
        }
        let installing = self.installing.clone().map(LogRecord::Installing);
        let mut carry = vec![
            LogRecord::Base(self.base.clone()),
            LogRecord::HardState(self.hard),
        ];
        carry.extend(installing);
        let all = carry.iter().chain(records.iter().copied());
        frame::encode(seq, ordinal, offset, all)
    }

    fn note(&mut self, record: &LogRecord) {
        match record {
            LogRecord::Entry(entry) => {
                self.active.index_max = self.active.index_max.max(entry.index.0);
            }
            LogRecord::HardState(hard) => self.hard = *hard,
            LogRecord::Base(meta) => self.base = meta.clone(),
            LogRecord::Reset(meta) => {
                self.base = meta.clone();
                self.installing = None;
            }
            LogRecord::Installing(meta) => self.installing = Some(meta.clone()),
        }
    }

    /// Seals the active segment (all of it is synced) and opens the next one.
    fn rotate(&mut self, frame_bytes: u64) -> Result<(), LogError> {
        let len = self
            .config
            .segment_bytes
            .max(segment::HEADER_LEN + frame_bytes);
        let spare = match self.spares.pop() {
            Some(spare) if len == self.config.segment_bytes => spare,
            unfit => {
                self.spares.extend(unfit);
                segment::create_spare(&*self.disk, &self.dir, &self.spare_names(), len)?
            }
        };
        let header = segment::Header {
            id: self.id,
            seq: self.active.seq + 1,
            ordinal_first: self.ordinal_next,
        };
        let file = self.disk.open(&spare, false)?;
        file.write_at(0, &header.encode())?;
        file.sync_data()?;
        self.disk
            .rename(&spare, &segment::path(&self.dir, header.seq))?;
        self.disk.sync_dir(&self.dir)?;
        let next = Active {
            file,
            seq: header.seq,
            len,
            offset: segment::HEADER_LEN,
            index_max: 0,
            has_frames: false,
        };
        let full = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(full.into_sealed());
        Ok(())
    }

    fn drop_segments(&mut self) -> Result<(), LogError> {
        let mut dropped = false;
        while let Some(oldest) = self.sealed.front()
            && oldest.index_max <= self.base.index.0
        {
            let path = segment::path(&self.dir, oldest.seq);
            if oldest.len == self.config.segment_bytes && self.spares.len() < self.config.spares_max
            {
                let spare = segment::free_spare_path(&self.dir, &self.spare_names());
                self.disk.rename(&path, &spare)?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&path)?;
            }
            self.sealed.pop_front();
            dropped = true;
        }
        // A recycled file must not keep its old name over a crash.
        match dropped {
            true => Ok(self.disk.sync_dir(&self.dir)?),
            false => Ok(()),
        }
    }

    fn spare_names(&self) -> Vec<String> {
        let prefix = format!("{}/", self.dir);
        let names = self.spares.iter().filter_map(|p| p.strip_prefix(&prefix));
        names.map(str::to_owned).collect()
    }

    /// True if the next change of segment would have to write a new file first.
    #[must_use]
    pub fn needs_spare(&self) -> bool {
        self.spares.is_empty() && !self.is_failed
    }

    /// Writes a spare segment, so that a later append need not. For moments without a queue.
    ///
    /// # Errors
    /// Disk errors; the log remains usable.
    pub fn prepare_spare(&mut self) -> Result<(), LogError> {
        if self.needs_spare() {
            let len = self.config.segment_bytes;
            let spare = segment::create_spare(&*self.disk, &self.dir, &[], len)?;
            self.spares.push(spare);
        }
        Ok(())
    }

    /// For a clean stop: rot of the last frame will be noticed whatever happens from here on.
    pub fn settle(&mut self) {
        self.acked.sync();
    }

    /// Where the log starts, durably.
    #[must_use]
    pub fn base(&self) -> &SnapshotMeta {
        &self.base
    }

    /// Segments in use, the active one included.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.sealed.len() + 1
    }
}

#[cfg(test)]
mod tests;

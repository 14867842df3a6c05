//! Opening a log: which frames count, and what they add up to.
//!
//! Steps:
//! 1. take the segments from the newest back to the first gap (older ones were being dropped);
//! 2. read frames in order of ordinals until the end, a torn tail, or rot (invariant 1 of
//!    [`super`]);
//! 3. replay the records;
//! 4. a durable frame that is not there ([`super::acked`]) is rot as well;
//! 5. write the last frame again and sync: after a crash of the process alone, or a failed sync, it
//!    may stand in the page cache only.
use super::acked::Acked;
use super::segment::{self, Active, Header, Sealed};
use super::{LogConfig, LogError, LogId, RaftLog, frame};
use crate::consensus::types::{
    BOOTSTRAP_INDEX, COUNTER_MAX, HardState, LogEntry, LogRecord, SnapshotMeta,
};
use crate::store::Disk;
use crate::types::Term;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a log held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Where it starts.
    pub base: SnapshotMeta,
    /// The entries after the base, contiguous.
    pub entries: Vec<LogEntry>,
    /// The newest hard state.
    pub hard: HardState,
    /// A snapshot whose installation began and was not recorded as finished.
    pub installing: Option<SnapshotMeta>,
    /// Bytes of a batch that was never acknowledged were dropped.
    pub dropped_torn_tail: bool,
}

impl RecoveredLog {
    /// No message was ever answered from it: a member's first answer to a leader is a later term's.
    pub(in crate::consensus) fn is_blank(&self) -> bool {
        let is_new = self.entries.is_empty() && self.installing.is_none();
        is_new
            && self.base.index <= BOOTSTRAP_INDEX
            && self.hard.term <= self.base.term.max(Term(1))
    }
}

#[derive(Default)]
struct Replay {
    base: SnapshotMeta,
    /// Contiguous; may start above `base` while segments that a later base covers are missing.
    entries: Vec<LogEntry>,
    hard: HardState,
    installing: Option<SnapshotMeta>,
}

impl Replay {
    fn apply(&mut self, record: LogRecord) -> Result<(), &'static str> {
        check_range(&record)?;
        match record {
            LogRecord::Entry(entry) => return self.append(entry),
            LogRecord::HardState(hard) => self.hard = hard,
            LogRecord::Installing(meta) => self.installing = Some(meta),
            LogRecord::Reset(meta) => {
                self.entries.clear();
                self.installing = None;
                self.base = meta;
            }
            LogRecord::Base(meta) => {
                if meta.index < self.base.index {
                    return Err("the base goes back");
                }
                let below = self.entries.iter().take_while(|e| e.index <= meta.index);
                let below = below.count();
                self.entries.drain(..below);
                self.base = meta;
            }
        }
        Ok(())
    }

    fn append(&mut self, entry: LogEntry) -> Result<(), &'static str> {
        if entry.index <= self.base.index {
            return Err("an entry lies below the base");
        }
        match (self.entries.first(), self.entries.last()) {
            (Some(first), _) if entry.index < first.index => self.entries.clear(),
            (Some(first), Some(last)) if entry.index <= last.index.next() => {
                let keep = usize::try_from(entry.index.0 - first.index.0);
                self.entries.truncate(keep.expect("entries fit memory"));
            }
            (Some(_), _) => return Err("entries are missing"),
            (None, _) => {}
        }
        self.entries.push(entry);
        Ok(())
    }

    fn check(&self) -> Result<(), &'static str> {
        match self.entries.first() {
            Some(first) if first.index != self.base.index.next() => Err("entries are missing"),
            _ => Ok(()),
        }
    }
}

/// No number of a sound log is larger, and small sums of them overflow nothing.
fn check_range(record: &LogRecord) -> Result<(), &'static str> {
    let fits = |numbers: &[u64]| numbers.iter().all(|n| *n <= COUNTER_MAX);
    let is_sound = match record {
        LogRecord::Entry(entry) => fits(&[entry.index.0, entry.term.0]),
        LogRecord::HardState(hard) => {
            let vote = hard.vote.map_or(0, |id| id.0);
            fits(&[hard.term.0, hard.commit.0, vote])
        }
        LogRecord::Base(meta) | LogRecord::Reset(meta) | LogRecord::Installing(meta) => {
            let members = meta.conf.members();
            fits(&[meta.index.0, meta.term.0]) && members.iter().all(|id| fits(&[id.0]))
        }
    };
    if is_sound {
        Ok(())
    } else {
        Err("a number is out of range")
    }
}

/// What reading all segments has come to.
struct Reader {
    id: LogId,
    replay: Replay,
    sealed: VecDeque<Sealed>,
    /// Of the next frame; `None` before the first segment.
    ordinal_next: Option<u64>,
    /// Last frame of the newest segment: offset and bytes.
    last_frame: Option<(u64, Vec<u8>)>,
    dropped_torn_tail: bool,
}

impl Reader {
    /// Reads one segment; returns where its frames end and its highest entry.
    fn segment(
        &mut self,
        path: &str,
        seq: u64,
        content: &[u8],
        is_newest: bool,
    ) -> Result<(u64, u64), LogError> {
        let rot = |offset, why| LogError::Rot {
            path: path.to_owned(),
            offset,
            why,
        };
        let header = Header::decode(content, path, self.id)?;
        let mut ordinal = self.ordinal_next.unwrap_or(header.ordinal_first);
        if header.seq != seq || header.ordinal_first != ordinal {
            return Err(rot(0, "frames before this segment are missing"));
        }
        let (mut offset, mut index_max) = (segment::HEADER_LEN, 0);
        self.last_frame = None;
        while let Some(found) = frame::read(content, offset, seq) {
            if found.ordinal != ordinal {
                return Err(rot(offset, "a frame is out of order"));
            }
            let records = frame::records(found.payload);
            for record in records.ok_or_else(|| rot(offset, "records do not decode"))? {
                if let LogRecord::Entry(entry) = &record {
                    index_max = index_max.max(entry.index.0);
                }
                self.replay.apply(record).map_err(|why| rot(offset, why))?;
            }
            if is_newest {
                let bytes = usize::try_from(offset)
                    .ok()
                    .zip(usize::try_from(found.end).ok());
                let bytes = bytes.and_then(|(from, to)| content.get(from..to));
                self.last_frame = bytes.map(|bytes| (offset, bytes.to_vec()));
            }
            let next = ordinal.checked_add(1);
            ordinal = next.ok_or_else(|| rot(offset, "no frame could follow"))?;
            offset = found.end;
        }
        if is_newest {
            if frame::find_later(content, offset, seq, ordinal).is_some() {
                return Err(rot(offset, "a frame is damaged and later ones are whole"));
            }
            let tail = usize::try_from(offset)
                .ok()
                .and_then(|at| content.get(at..));
            let head = tail.map(|tail| &tail[..tail.len().min(frame::HEADER_LEN)]);
            self.dropped_torn_tail = head.is_some_and(|head| frame::claims(head, seq));
        }
        self.ordinal_next = Some(ordinal);
        Ok((offset, index_max))
    }
}

impl Reader {
    /// Step 4, and a word about a tail that is dropped.
    fn check_end(&self, disk: &dyn Disk, dir: &str, end: u64) -> Result<Acked, &'static str> {
        let (acked, newest) = Acked::open(disk, dir, self.id);
        if newest >= self.ordinal_next {
            return Err("its last frames were durable and are gone");
        }
        if self.dropped_torn_tail {
            tracing::warn!(
                dir,
                offset = end,
                "dropped the end of the raft log: a write that was cut short, and not acknowledged"
            );
        }
        Ok(acked)
    }
}

impl RaftLog {
    /// Opens an existing log and returns what it holds, all of it durable.
    ///
    /// # Errors
    /// [`LogError::Missing`]; [`LogError::Rot`], [`LogError::Foreign`], [`LogError::Version`]; disk
    /// errors. The log on disk is unchanged.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        id: LogId,
        config: LogConfig,
    ) -> Result<(Self, RecoveredLog), LogError> {
        let names = disk.list(dir)?;
        let mut seqs: Vec<u64> = names
            .iter()
            .filter_map(|n| segment::parse_name(n))
            .collect();
        seqs.sort_unstable();
        let run = seqs
            .windows(2)
            .rposition(|pair| pair[0].checked_add(1) != Some(pair[1]));
        let (stale, seqs) = seqs.split_at(run.map_or(0, |at| at + 1));
        let Some(&newest) = seqs.last() else {
            return Err(LogError::Missing { dir: dir.into() });
        };
        let mut reader = Reader {
            id,
            replay: Replay::default(),
            sealed: VecDeque::new(),
            ordinal_next: None,
            last_frame: None,
            dropped_torn_tail: false,
        };
        let mut active = None;
        for &seq in seqs {
            let path = segment::path(dir, seq);
            let file = disk.open(&path, false)?;
            let len = file.len()?;
            let content = file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX))?;
            let (offset, index_max) = reader.segment(&path, seq, &content, seq == newest)?;
            let has_frames = offset > segment::HEADER_LEN;
            let this = Active {
                file,
                seq,
                len,
                offset,
                index_max,
                has_frames,
            };
            reader
                .sealed
                .extend(active.replace(this).map(Active::into_sealed));
        }
        let active = active.expect("there is a newest segment");
        let rot = |why| LogError::Rot {
            path: segment::path(dir, newest),
            offset: active.offset,
            why,
        };
        reader.replay.check().map_err(rot)?;
        let ordinal_next = reader.ordinal_next.expect("there is a newest segment");
        let mut acked = reader.check_end(&*disk, dir, active.offset).map_err(rot)?;
        if let Some((offset, bytes)) = &reader.last_frame {
            active.file.write_at(*offset, bytes)?;
        }
        active.file.sync_data()?;
        acked.note(ordinal_next - 1);
        let spares = tidy(&*disk, dir, &names, stale, &config)?;
        let replay = reader.replay;
        let recovered = RecoveredLog {
            base: replay.base.clone(),
            entries: replay.entries,
            hard: replay.hard,
            installing: replay.installing.clone(),
            dropped_torn_tail: reader.dropped_torn_tail,
        };
        let log = Self {
            disk,
            dir: dir.to_owned(),
            id,
            config,
            sealed: reader.sealed,
            active,
            ordinal_next,
            acked,
            spares,
            hard: replay.hard,
            base: replay.base,
            installing: replay.installing,
            is_failed: false,
        };
        Ok((log, recovered))
    }
}

/// Removes leftovers and returns the spares worth keeping.
fn tidy(
    disk: &dyn Disk,
    dir: &str,
    names: &[String],
    stale: &[u64],
    config: &LogConfig,
) -> Result<Vec<String>, LogError> {
    for &seq in stale {
        disk.remove(&segment::path(dir, seq))?;
    }
    let mut spares = Vec::new();
    for name in names.iter().filter(|name| segment::is_spare_name(name)) {
        let path = format!("{dir}/{name}");
        let len = disk.open(&path, false)?.len()?;
        if len == config.segment_bytes && spares.len() < config.spares_max {
            spares.push(path);
        } else {
            disk.remove(&path)?;
        }
    }
    disk.sync_dir(dir)?;
    Ok(spares)
}

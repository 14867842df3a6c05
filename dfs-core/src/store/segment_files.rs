//! A journal's files: segments in order, and spares waiting to be segments again.
use super::segment::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::{Disk, DiskError, DiskFile};

/// How a journal is laid out.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Its directory, relative to the disk's root.
    pub dir: String,
    /// Bytes of a segment, at least 4096. A longer record gets a segment of its own.
    pub segment_bytes: u64,
    /// Identity of the journal: records of another one are never taken for its own.
    pub salt: u64,
    /// Trimmed segments kept for reuse.
    pub spares_max: usize,
    /// Records up to this number are kept elsewhere: damage of these is no loss.
    pub covered: u64,
}

impl JournalOptions {
    /// 8 MiB segments, two spares.
    #[must_use]
    pub fn new(dir: &str, salt: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            segment_bytes: 8 << 20,
            salt,
            spares_max: 2,
            covered: 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub path: String,
    pub first_seq: u64,
    pub size_bytes: u64,
}

/// What a journal's directory holds.
pub(super) struct Found {
    /// By number; `first_seq` is 0 where the header is unreadable.
    pub segments: Vec<(SegmentHeader, Segment)>,
    /// Paths of files to make segments of.
    pub spares: Vec<String>,
}

/// Lists segments and spares; removes spares that are not wanted.
pub(super) fn find_segments(disk: &dyn Disk, options: &JournalOptions) -> Result<Found, DiskError> {
    let (mut found, mut spares) = (Vec::new(), Vec::new());
    for name in disk.list(&options.dir)? {
        let path = format!("{}/{name}", options.dir);
        if name.ends_with(".spare") {
            let len = disk.open(&path, false)?.len()?;
            if len == options.segment_bytes && spares.len() < options.spares_max {
                spares.push(path);
            } else {
                disk.remove(&path)?;
            }
            continue;
        }
        let number = name.strip_suffix(".seg");
        let Some(segment) = number.and_then(|n| u64::from_str_radix(n, 16).ok()) else {
            continue;
        };
        let file = disk.open(&path, false)?;
        let sector = file.read_at(0, 512)?;
        let header = match SegmentHeader::decode(&sector, segment, options.salt) {
            Some(header) => header,
            None => derived(&*file, &path, segment, options.salt)?,
        };
        let size_bytes = file.len()?;
        found.push((
            header,
            Segment {
                path,
                first_seq: header.first_seq,
                size_bytes,
            },
        ));
    }
    found.sort_by_key(|(header, _)| header.segment);
    Ok(Found {
        segments: found,
        spares,
    })
}

/// The header of a segment whose own is unreadable: its first record tells the one thing that is not
/// known anyway, and it is written again. Else the header says that its first record is 0.
fn derived(
    file: &dyn DiskFile,
    path: &str,
    segment: u64,
    salt: u64,
) -> Result<SegmentHeader, DiskError> {
    let unknown = SegmentHeader {
        segment,
        first_seq: 0,
        salt,
    };
    let at = usize::try_from(SEGMENT_HEADER_BYTES).unwrap_or_default();
    let start = file.read_at(0, at + RECORD_HEADER_BYTES)?;
    let Some(record) = unknown.record_at(&start, at) else {
        return Ok(unknown);
    };
    let header = SegmentHeader {
        first_seq: record.seq,
        ..unknown
    };
    file.write_at(0, &header.encode())?;
    file.sync_data()?;
    tracing::warn!(
        path,
        first = record.seq,
        "damaged header of a journal segment made good"
    );
    Ok(header)
}

/// Makes a segment, from a spare if one fits; its header and name are durable when it returns.
pub(super) fn make_segment(
    disk: &dyn Disk,
    options: &JournalOptions,
    spares: &mut Vec<String>,
    header: SegmentHeader,
    size_bytes: u64,
) -> Result<(Box<dyn DiskFile>, Segment), DiskError> {
    const ZEROS: &[u8] = &[0; 256 << 10];
    let path = format!("{}/{:016x}.seg", options.dir, header.segment);
    let spare = if size_bytes == options.segment_bytes {
        spares.pop()
    } else {
        None
    };
    let file = if let Some(spare) = spare {
        disk.rename(&spare, &path)?;
        disk.open(&path, false)?
    } else {
        let file = disk.open(&path, true)?;
        let mut done = 0;
        while done < size_bytes {
            let step = (size_bytes - done).min(ZEROS.len() as u64);
            let step = usize::try_from(step).expect("at most the block of zeros");
            file.write_at(done, &ZEROS[..step])?;
            done += step as u64;
        }
        file
    };
    file.write_at(0, &header.encode())?;
    file.sync_data()?;
    disk.sync_dir(&options.dir)?;
    let first_seq = header.first_seq;
    let segment = Segment {
        path,
        first_seq,
        size_bytes,
    };
    Ok((file, segment))
}

//! Files of the log: names, headers, preallocation.
use super::{FORMAT_VERSION, LogError, LogId};
use crate::consensus::types::COUNTER_MAX;
use crate::store::{Disk, DiskFile};
use crate::types::{ClusterId, RaftId, crc32c};

/// Bytes before the first frame.
pub(super) const HEADER_LEN: u64 = 4096;
const MAGIC: &[u8; 8] = b"DFSRAFT\0";
/// Bytes of the header that count: magic, version, cluster, member, seq, first ordinal, CRC.
const HEADER_USED: usize = 8 + 4 + 16 + 8 + 8 + 8 + 4;
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) seq: u64,
    /// Of the file; all of it is allocated.
    pub(super) len: u64,
    /// Where the next frame goes.
    pub(super) offset: u64,
    /// Highest entry it holds, 0 if none.
    pub(super) index_max: u64,
    pub(super) has_frames: bool,
}

impl Active {
    pub(super) fn into_sealed(self) -> Sealed {
        Sealed {
            seq: self.seq,
            len: self.len,
            index_max: self.index_max,
        }
    }
}

/// A full segment.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) seq: u64,
    pub(super) len: u64,
    pub(super) index_max: u64,
}

/// What stands at the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: LogId,
    pub(super) seq: u64,
    pub(super) ordinal_first: u64,
}

pub(super) fn path(dir: &str, seq: u64) -> String {
    format!("{dir}/seg-{seq:016x}")
}

/// The sequence number of a segment's file name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("seg-")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

pub(super) fn is_spare_name(name: &str) -> bool {
    name.starts_with("spare-")
}

/// A spare's path that is not among `names`.
pub(super) fn free_spare_path(dir: &str, names: &[String]) -> String {
    let free = (0..=names.len())
        .map(|n| format!("spare-{n}"))
        .find(|name| !names.contains(name))
        .expect("one more candidate than names");
    format!("{dir}/{free}")
}

/// Writes a file of `len` zeros, durably allocated; not yet under a durable name.
pub(super) fn create_spare(
    disk: &dyn Disk,
    dir: &str,
    names: &[String],
    len: u64,
) -> Result<String, LogError> {
    let path = free_spare_path(dir, names);
    let file = disk.open(&path, true)?;
    let mut at = 0;
    while at < len {
        let step = (len - at).min(ZEROS.len() as u64);
        let step = usize::try_from(step).expect("at most the buffer");
        file.write_at(at, &ZEROS[..step])?;
        at += step as u64;
    }
    file.set_len(len)?;
    file.sync_data()?;
    Ok(path)
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(HEADER_LEN).expect("small"));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.id.cluster.0.to_le_bytes());
        out.extend_from_slice(&self.id.raft.0.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.ordinal_first.to_le_bytes());
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.resize(usize::try_from(HEADER_LEN).expect("small"), 0);
        out
    }

    /// Reads and checks a segment's header.
    pub(super) fn decode(content: &[u8], path: &str, id: LogId) -> Result<Self, LogError> {
        let rot = |why| LogError::Rot {
            path: path.to_owned(),
            offset: 0,
            why,
        };
        let bytes = content.get(..HEADER_USED).ok_or_else(|| rot("no header"))?;
        let (head, crc) = bytes.split_at(HEADER_USED - 4);
        if &head[..8] != MAGIC || crc != crc32c(head).to_le_bytes() {
            return Err(rot("header"));
        }
        let version = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        if version != FORMAT_VERSION {
            return Err(LogError::Version {
                path: path.to_owned(),
                found: version,
            });
        }
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
        let cluster = u128::from_le_bytes(head[12..28].try_into().expect("sixteen bytes"));
        let found = LogId {
            cluster: ClusterId(cluster),
            raft: RaftId(u64_at(28)),
        };
        if found != id {
            return Err(LogError::Foreign {
                path: path.to_owned(),
                found,
            });
        }
        let (seq, ordinal_first) = (u64_at(36), u64_at(44));
        if seq > COUNTER_MAX || !(1..=COUNTER_MAX).contains(&ordinal_first) {
            return Err(rot("a number is out of range"));
        }
        Ok(Self {
            id,
            seq,
            ordinal_first,
        })
    }
}

//! The ordinal of the newest durable frame, kept a second time.
//!
//! ```text
//! raft/acked: magic u32 | member u64 | ordinal u64 | crc u32      (of the bytes before)
//! ```
//! Rot of the very last frame looks like a torn tail, and nothing in the segment tells them apart. So
//! after frame k is synced, k is written here, in place and without a sync of its own: the system
//! writes it out within seconds, and a clean stop syncs it. It is never ahead of the frames: if it is
//! found so, a frame that was durable is gone. It may be behind, torn or missing: then it says nothing.
use super::LogId;
use crate::store::{Disk, DiskError, DiskFile};
use crate::types::{RaftId, crc32c};

const NAME: &str = "acked";
const MAGIC: u32 = 0x4b43_4144;
const LEN: usize = 24;

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Acked {
    member: RaftId,
    /// `None` after a failure: the log does without.
    file: Option<Box<dyn DiskFile>>,
}

impl Acked {
    /// Opens or makes the file, and tells the ordinal in it.
    pub(super) fn open(disk: &dyn Disk, dir: &str, id: LogId) -> (Self, Option<u64>) {
        let read = || -> Result<_, DiskError> {
            let file = disk.open(&format!("{dir}/{NAME}"), true)?;
            let bytes = file.read_at(0, LEN)?;
            Ok((file, bytes))
        };
        match read() {
            Ok((file, bytes)) => {
                let (member, file) = (id.raft, Some(file));
                (Self { member, file }, decode(&bytes, member))
            }
            Err(e) => {
                tracing::warn!("rot of the last frame of the raft log would not be noticed: {e}");
                let (member, file) = (id.raft, None);
                (Self { member, file }, None)
            }
        }
    }

    /// Frames up to this one are durable.
    pub(super) fn note(&mut self, ordinal: u64) {
        let bytes = encode(self.member, ordinal);
        let done = self.file.as_ref().map(|file| file.write_at(0, &bytes));
        self.give_up_on(done);
    }

    /// Makes durable what was noted.
    pub(super) fn sync(&mut self) {
        let done = self.file.as_ref().map(|file| file.sync_data());
        self.give_up_on(done);
    }

    fn give_up_on(&mut self, done: Option<Result<(), DiskError>>) {
        if let Some(Err(e)) = done {
            tracing::warn!("rot of the last frame of the raft log would not be noticed: {e}");
            self.file = None;
        }
    }
}

fn encode(member: RaftId, ordinal: u64) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..12].copy_from_slice(&member.0.to_le_bytes());
    out[12..20].copy_from_slice(&ordinal.to_le_bytes());
    let crc = crc32c(&out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], member: RaftId) -> Option<u64> {
    let ordinal = u64::from_le_bytes(bytes.get(12..20)?.try_into().ok()?);
    (bytes == encode(member, ordinal)).then_some(ordinal)
}

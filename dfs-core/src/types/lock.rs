//! Locks that programs take on files: what is locked, how, and by whom.
use super::{ClientId, Ino};
use serde::{Deserialize, Serialize};

/// The two kinds of locks know nothing of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockSpace {
    /// Byte ranges: fcntl(2), owned by a process or (OFD) by an open file.
    Posix,
    /// Whole files: flock(2), owned by an open file.
    Flock,
}

/// Who holds a lock: an owner within a session.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct LockHolder {
    /// The session; its end releases the lock.
    pub client: ClientId,
    /// The kernel's name of the owner, unique within the session.
    pub owner: u64,
}

/// A locked range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// First byte.
    pub first: u64,
    /// Last byte, inclusive; [`Lock::LAST_MAX`] is the end of any file.
    pub last: u64,
    /// Against everybody else, not only against exclusive locks.
    pub exclusive: bool,
    /// The process, as its own machine numbers it; only for people.
    pub pid: u32,
}

impl Lock {
    /// The end of any file, as the kernel counts.
    pub const LAST_MAX: u64 = i64::MAX as u64;

    /// True iff the two have a byte in common.
    #[must_use]
    pub fn meets(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }

    /// True iff two owners cannot have both at once.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive) && self.meets(other.first, other.last)
    }
}

/// A lock and who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// Who.
    pub holder: LockHolder,
    /// What.
    pub lock: Lock,
}

/// What a program asks to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// The file.
    pub ino: Ino,
    /// Which kind.
    pub space: LockSpace,
    /// For whom, within the asking session.
    pub owner: u64,
    /// What; for [`LockSpace::Flock`] always the whole file.
    pub lock: Lock,
}

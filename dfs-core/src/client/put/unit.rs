//! What is acked together: all objects of one chunk, or the mark; and who has acked it.
use crate::types::{ChunkNo, Epoch, PgId, PgInfo, PgPhase, StoreId, Time};
use crate::wire::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a unit stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// The mark at the home PG.
    Mark,
    /// Objects (by index, ascending) of this chunk.
    Chunk(ChunkNo, Vec<u32>),
}

/// Where a unit stands at one member of the PG's current epoch.
///
/// ```text
///   Idle --sent--> Sent --ack--> Acked
///    ^              |  \--no space--> Full
///    +---failure----+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    /// Nothing is under way; to be asked at this time.
    Idle(Time),
    /// Asked by the message with this token.
    Sent(u64),
    /// Durable there, under the unit's epoch.
    Acked,
    /// It has no space for it.
    Full,
}

/// One unit of a put. See the [module docs](self).
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub content: Content,
    pub bytes: u32,
    pub pg: PgId,
    pub epoch: Epoch,
    /// The PG serves (is not being fenced).
    pub serving: bool,
    pub members: BTreeMap<StoreId, Member>,
    /// Stores that acked under any epoch: they hold the bytes.
    pub held: BTreeSet<StoreId>,
    /// Members that said last that they have no room: for good, or not yet.
    roomless: BTreeMap<StoreId, ErrorCode>,
    /// Failures in a row per store, for the pause before the next try.
    failures: BTreeMap<StoreId, u32>,
}

impl Unit {
    pub fn new(content: Content, pg: PgId) -> Self {
        Self {
            content,
            bytes: 0,
            pg,
            epoch: Epoch::default(),
            serving: false,
            members: BTreeMap::new(),
            held: BTreeSet::new(),
            roomless: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Adopts the PG's configuration if it is newer. Acks of the older epoch stop counting.
    /// Returns true if the epoch changed.
    pub fn adopt(&mut self, info: &PgInfo, now: Time) -> bool {
        if info.epoch < self.epoch || (info.epoch == self.epoch && !self.members.is_empty()) {
            if info.epoch == self.epoch {
                self.serving = info.phase != PgPhase::Fencing;
            }
            return false;
        }
        self.epoch = info.epoch;
        self.serving = info.phase != PgPhase::Fencing;
        self.members = info
            .members
            .iter()
            .map(|&m| (m, Member::Idle(now)))
            .collect();
        self.failures.clear();
        self.roomless.clear();
        true
    }

    /// Members that acked under the current epoch, ascending.
    pub fn acks(&self) -> Vec<StoreId> {
        let acked = |(id, m): (&StoreId, &Member)| (*m == Member::Acked).then_some(*id);
        self.members.iter().filter_map(acked).collect()
    }

    /// True once `w` members acked.
    pub fn is_stored(&self, w: usize) -> bool {
        self.acks().len() >= w
    }

    /// True when so many members are full that `w` acks are out of reach.
    pub fn is_hopeless(&self, w: usize) -> bool {
        let full = self
            .members
            .values()
            .filter(|m| **m == Member::Full)
            .count();
        full > 0 && self.members.len() - full < w
    }

    /// True if it would be stored, had all members room that said they have none.
    pub fn lacks_room(&self, w: usize) -> bool {
        let acked = self.acks().len();
        acked < w && acked + self.roomless.len() >= w
    }

    /// True if a member says that room is being made.
    pub fn may_get_room(&self) -> bool {
        self.roomless
            .values()
            .any(|code| *code == ErrorCode::Freeing)
    }

    /// Records an ack that answers a message sent under `epoch`.
    pub fn ack(&mut self, from: StoreId, epoch: Epoch) {
        self.held.insert(from);
        self.failures.remove(&from);
        self.roomless.remove(&from);
        if epoch == self.epoch
            && let Some(m) = self.members.get_mut(&from)
        {
            *m = Member::Acked;
        }
    }

    /// Records a failure that answers message `token`; late answers change nothing.
    pub fn fail(&mut self, from: StoreId, token: u64, code: ErrorCode, now: Time, pause: &Pause) {
        let Some(m) = self.members.get_mut(&from) else {
            return;
        };
        if *m != Member::Sent(token) {
            return;
        }
        if code == ErrorCode::NotFound {
            // Asked without bytes, and it does not hold them after all.
            self.held.remove(&from);
        }
        match code {
            ErrorCode::NoSpace | ErrorCode::Freeing => {
                self.roomless.insert(from, code);
            }
            // It was not heard: what it said of its room stands.
            ErrorCode::Unavailable | ErrorCode::TimedOut | ErrorCode::UnknownOutcome => {}
            _ => {
                self.roomless.remove(&from);
            }
        }
        let count = self.failures.entry(from).or_default();
        *m = match code {
            ErrorCode::NoSpace => Member::Full,
            ErrorCode::NotFound | ErrorCode::DamagedInTransit if *count < 3 => Member::Idle(now),
            _ => Member::Idle(now + pause.after(*count)),
        };
        *count += 1;
    }

    /// True if this member shall be sent the unit now.
    pub fn wants(&self, to: StoreId, w: usize, now: Time) -> bool {
        let due = matches!(self.members.get(&to), Some(Member::Idle(at)) if *at <= now);
        // The first round goes to everybody; afterwards nobody is asked again without need.
        let first = !self.failures.contains_key(&to);
        self.serving && due && (first || !self.is_stored(w))
    }

    /// When the next member is to be asked, if any.
    pub fn next_try(&self, w: usize) -> Option<Time> {
        if !self.serving || self.is_stored(w) {
            return None;
        }
        let at = |m: &Member| {
            if let Member::Idle(at) = m {
                Some(*at)
            } else {
                None
            }
        };
        self.members.values().filter_map(at).min()
    }
}

/// Pauses between tries: doubling, bounded.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    pub min: Duration,
    pub max: Duration,
}

impl Pause {
    /// The pause after `failures` earlier failures.
    pub fn after(&self, failures: u32) -> Duration {
        self.min.saturating_mul(1 << failures.min(16)).min(self.max)
    }
}

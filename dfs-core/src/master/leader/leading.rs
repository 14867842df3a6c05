//! What a leader keeps for its term, and what it waits for.
use super::clock::LogClock;
use super::coherence::{Coherence, CoherenceConfig, Moment, WaitId};
use super::config::MasterConfig;
use super::lock_waits::LockWaits;
use super::opens::Opens;
use super::repair::Repairs;
use super::sessions::Liveness;
use super::space::SpaceWatch;
use super::stores::StoreTable;
use super::voters::VoterPlan;
use crate::types::ChunkNo;
use crate::types::{
    ClientId, Ino, LockRequest, LogIndex, ObjectId, OpId, PgId, StoreId, Term, Time,
};
use crate::wire::master::{Heartbeat, MasterResponse};
use crate::wire::rpc::{ConnId, ReplyTo};
use crate::wire::{ErrorCode, Query, WireError};
use std::collections::{BTreeMap, BTreeSet};

/// A proposal in flight.
#[derive(Debug)]
pub(super) enum Pending {
    /// A client's mutation.
    Mutate(MutateAsked),
    /// A client's lock.
    Lock(LockAsked),
    /// A session begins.
    OpenSession { to: ReplyTo, client: ClientId },
    /// Answered with `Done`.
    Control { to: ReplyTo },
    /// The lease of an inode is raised over the heads of writers that are not heard of.
    RaiseLease {
        ino: Ino,
        /// Who waits for it.
        opens: Vec<OpenAsked>,
        /// Who did not answer a recall.
        silent: Vec<ClientId>,
    },
    /// Something the leader does by itself; one of each kind at a time.
    Task(Task),
    /// What sessions have queued that did not answer comes too late from here on.
    Bar {
        clients: Vec<ClientId>,
        /// What waited for them, and who did not answer a recall.
        waits: Vec<(WaitId, Vec<ClientId>)>,
    },
}

/// What the leader proposes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    Bootstrap,
    BeginEpoch,
    Activate,
    Filled,
    Refill,
    Abort,
    Nudge,
    Seal,
    Reap,
    ReleaseDeletes,
    TrimNotes,
    TrimHistory,
    StoreSpace,
    Seen(StoreId),
    Down(StoreId),
    Rejoined(StoreId),
    End(ClientId),
    Voters,
    FreeSpace,
    Leap,
}

/// A mutation on its way to its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct MutateAsked {
    pub to: ReplyTo,
    /// When it was asked for.
    pub at: Moment,
    /// Open what it makes; `Some(true)` for writing.
    pub open: Option<bool>,
}

/// An open on its way to its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenAsked {
    pub to: ReplyTo,
    pub client: ClientId,
    pub ino: Ino,
    pub write: bool,
    pub interest: bool,
    /// When it was found who else has it open, a session that had not said so could have been one.
    pub in_doubt: bool,
}

/// A lock on its way to its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockAsked {
    /// `None`: it is in the queue, which knows.
    pub to: Option<ReplyTo>,
    pub op: OpId,
    pub low: u64,
    pub ask: LockRequest,
    /// Number under which it may wait.
    pub waiter: Option<u64>,
}

/// A read that waits for a round.
#[derive(Debug)]
pub(super) struct Read {
    pub to: ReplyTo,
    pub arrived: Time,
    pub what: ReadKind,
}

/// What is read.
#[derive(Debug)]
pub(super) enum ReadKind {
    Query {
        client: Option<ClientId>,
        interest: bool,
        body: Query,
    },
    Open(OpenAsked),
    /// Excluded, as it seems, and may not wait.
    TryLock(LockAsked),
    KeepAlive {
        client: ClientId,
    },
    Heartbeat(Box<Heartbeat>),
    PgListing {
        pg: PgId,
        after: Option<(Ino, ChunkNo)>,
        limit: u32,
    },
    Status,
    FilesOf {
        store: StoreId,
        after: Ino,
        limit: u32,
    },
    RepairLog,
    ObjectFates(Vec<ObjectId>),
    RepairRecords,
    FilesIn {
        pgs: Vec<PgId>,
        after: Ino,
        limit: u32,
    },
    GroupSpace(Option<(PgId, Ino, ChunkNo)>),
}

/// What is done when a wait is over.
#[derive(Debug)]
pub(super) enum Held {
    /// A mutation's answer.
    Reply {
        to: ReplyTo,
        body: Box<MasterResponse>,
    },
    /// An answer that changes nothing, or the refusal of a change.
    Answer {
        to: ReplyTo,
        answer: Box<Result<MasterResponse, WireError>>,
    },
    /// An open that waits for writers to flush.
    Recalled(OpenAsked),
    /// An open that waits until the opens of all sessions are known.
    Unknown(OpenAsked),
    /// A question from outside, while a session may have queued what would change its answer.
    Look(Read),
}

/// Soft state of one term.
#[derive(Debug)]
pub(super) struct Leading {
    pub term: Term,
    pub elected_at: Time,
    pub clock: LogClock,
    pub coherence: Coherence,
    pub opens: Opens,
    pub lock_waits: LockWaits,
    pub liveness: Liveness,
    pub stores: StoreTable,
    pub repairs: Repairs,
    pub space: SpaceWatch,
    pub voters: VoterPlan,
    pub pending: BTreeMap<u64, Pending>,
    pub busy: BTreeSet<Task>,
    /// For the next round.
    pub reads: Vec<Read>,
    /// Somebody waits for the next round. Heartbeats alone do not: a tick begins theirs, so that
    /// those of all stores share it.
    pub round_due: bool,
    /// By round.
    pub rounds: BTreeMap<u64, Vec<Read>>,
    /// Confirmed, and waiting until this is applied.
    pub confirmed: Vec<(LogIndex, Vec<Read>)>,
    /// Reads in all three.
    pub reads_count: usize,
    pub held: BTreeMap<WaitId, Held>,
    /// Of these, [`Held::Answer`].
    pub held_answers: usize,
    pub watchers: BTreeMap<ConnId, Ino>,
    /// Inodes whose writers ended, to be sealed.
    pub unsealed: BTreeSet<Ino>,
    /// Where the scan for orphans continues.
    pub orphans_after: Ino,
    pub orphans_seen: u64,
    pub ticked_at: Time,
    pub stepped_at: Time,
    pub maintained_at: Time,
}

impl Leading {
    pub fn new(
        config: &MasterConfig,
        term: Term,
        now: Time,
        clock: LogClock,
        sessions: &[ClientId],
        map_version: LogIndex,
    ) -> Self {
        let coherence = CoherenceConfig {
            caches_valid: config.caches_valid,
            caches_margin: config.with_margin(config.caches_valid),
            recall_timeout: config.recall_timeout,
            recall_timeout_alive: config.recall_timeout_alive,
            interests_max: config.interests_max,
        };
        Self {
            term,
            elected_at: now,
            clock,
            coherence: Coherence::new(coherence, term, now, sessions.iter().copied()),
            opens: Opens::default(),
            lock_waits: LockWaits::default(),
            liveness: Liveness::new(now, sessions.iter().copied()),
            stores: StoreTable::new(now, map_version),
            repairs: Repairs::default(),
            space: SpaceWatch::default(),
            voters: VoterPlan::new(now),
            pending: BTreeMap::new(),
            busy: BTreeSet::new(),
            reads: Vec::new(),
            round_due: false,
            rounds: BTreeMap::new(),
            confirmed: Vec::new(),
            reads_count: 0,
            held: BTreeMap::new(),
            held_answers: 0,
            watchers: BTreeMap::new(),
            unsealed: BTreeSet::new(),
            orphans_after: Ino(0),
            orphans_seen: 0,
            ticked_at: now,
            stepped_at: now,
            maintained_at: now,
        }
    }
}

impl Leading {
    /// The lease of `ino` is being raised: who waits for it, and over whom.
    pub fn raise_of(&mut self, ino: Ino) -> Option<(&mut Vec<OpenAsked>, &mut Vec<ClientId>)> {
        let mut all = self.pending.values_mut();
        all.find_map(|pending| match pending {
            Pending::RaiseLease {
                ino: of,
                opens,
                silent,
            } if *of == ino => Some((opens, silent)),
            _ => None,
        })
    }
}

impl Pending {
    /// True iff it bars this session.
    pub fn bars(&self, client: ClientId) -> bool {
        matches!(self, Self::Bar { clients, .. } if clients.contains(&client))
    }

    /// Whom to answer.
    pub fn reply_to(&self) -> Vec<ReplyTo> {
        match self {
            Self::Mutate(MutateAsked { to, .. })
            | Self::OpenSession { to, .. }
            | Self::Control { to } => vec![*to],
            Self::Lock(asked) => asked.to.into_iter().collect(),
            Self::RaiseLease { opens, .. } => opens.iter().map(|asked| asked.to).collect(),
            // Whoever waits is held elsewhere.
            Self::Task(_) | Self::Bar { .. } => Vec::new(),
        }
    }
}

impl Held {
    /// What to say when the lead is lost. A change that was applied here is known to the next
    /// leader; asked again it invalidates again.
    pub fn refused(&self, not_leader: &WireError) -> (ReplyTo, WireError) {
        match self {
            Self::Reply { to, .. } => (*to, ErrorCode::UnknownOutcome.into()),
            Self::Answer { to, answer } => match **answer {
                // The lock is taken, whoever hears of it.
                Ok(MasterResponse::Locked { .. }) => (*to, ErrorCode::UnknownOutcome.into()),
                _ => (*to, not_leader.clone()),
            },
            Self::Recalled(asked) | Self::Unknown(asked) => (asked.to, not_leader.clone()),
            Self::Look(read) => (read.to, not_leader.clone()),
        }
    }
}

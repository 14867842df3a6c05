//! The vocabulary of the machine: events in, actions out, and why something is refused.
use super::config::RaftConfigError;
use super::message::{MessageError, RaftMessage};
use super::types::{CommittedEntry, ConfChange, ConfError, LogWrite, SnapshotMeta};
use crate::types::{LogIndex, RaftId, Term};
use bytes::Bytes;

/// What happened, as seen by the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaftEvent {
    /// One [`super::RaftConfig::tick`] has passed.
    Tick,
    /// A decoded message; `from` is known from the connection.
    Message {
        /// The sender.
        from: RaftId,
        /// What it says; not yet validated.
        message: RaftMessage,
    },
    /// Put a command into the log.
    Propose {
        /// Chosen by the driver, unique while the proposal is open.
        token: u64,
        /// The command; not empty.
        data: Bytes,
    },
    /// Change the members. One change at a time.
    ProposeConf {
        /// As in [`RaftEvent::Propose`].
        token: u64,
        /// What to change.
        change: ConfChange,
    },
    /// Which index must be applied before a read that came in now may be answered?
    ReadIndex {
        /// Chosen by the driver, unique while the read is open.
        token: u64,
    },
    /// The write with this token, and all before it, are durable.
    Persisted {
        /// Of the [`RaftAction::Persist`].
        token: u64,
    },
    /// The state machine has applied up to here.
    Applied {
        /// Last applied entry.
        index: LogIndex,
    },
    /// The driver can serve the state at this index or newer to a member that lags.
    SnapshotAvailable {
        /// Applied index of the state.
        index: LogIndex,
    },
    /// The state tables were replaced, durably; answers [`RaftAction::InstallSnapshot`].
    SnapshotInstalled {
        /// What they hold now; the index is at least the announced one.
        meta: SnapshotMeta,
    },
    /// The installation failed and the old state is intact. The leader will announce again.
    SnapshotFailed,
    /// The state up to here is durable and can be served: forget older entries, but for the
    /// configured tail.
    Compact {
        /// Durable applied index.
        upto: LogIndex,
    },
    /// Start an election now (bootstrap).
    Campaign,
    /// Hand leadership over.
    TransferLeader {
        /// A voter.
        to: RaftId,
    },
    /// A message to this peer was lost.
    Unreachable {
        /// The peer.
        peer: RaftId,
    },
}

/// What the driver must do, in order. See the steps in [`super`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaftAction {
    /// Send; losing it is allowed.
    Send {
        /// Whom to.
        to: RaftId,
        /// What.
        message: RaftMessage,
    },
    /// Append to the [`RaftLog`](super::RaftLog), then report [`RaftEvent::Persisted`].
    Persist {
        /// Ascending.
        token: u64,
        /// Records, durable together.
        write: LogWrite,
    },
    /// Apply; never empty.
    Apply {
        /// In order, continuing the last ones.
        entries: Vec<CommittedEntry>,
    },
    /// The proposal is in this leader's log; not committed.
    Proposed {
        /// Of the proposal.
        token: u64,
        /// Where it stands.
        index: LogIndex,
        /// The leader's term.
        term: Term,
    },
    /// The proposal did not enter the log and never will.
    ProposalDropped {
        /// Of the proposal.
        token: u64,
        /// Why.
        reason: DropReason,
    },
    /// The proposal's fate is unknown: leadership was lost. Retry under the same op-id.
    ProposalUnknown {
        /// Of the proposal.
        token: u64,
    },
    /// The read may be answered from a state that has applied `index`.
    ReadReady {
        /// Of the read.
        token: u64,
        /// Wait until this is applied.
        index: LogIndex,
    },
    /// This member does not lead (any more); ask the leader.
    ReadDropped {
        /// Of the read.
        token: u64,
        /// Who leads, if known.
        leader: Option<RaftId>,
    },
    /// This member leads. Its state is current once a read has come back ready.
    BecameLeader {
        /// Its term.
        term: Term,
    },
    /// This member no longer leads. Open proposals and reads end with the actions that follow.
    LostLeadership,
    /// Whom this member takes for the leader has changed.
    LeaderChanged {
        /// `None` while unknown.
        leader: Option<RaftId>,
        /// The present term.
        term: Term,
    },
    /// A member lags behind the log, and no fitting state was declared:
    /// feed [`RaftEvent::SnapshotAvailable`].
    NeedSnapshot {
        /// Who lags.
        peer: RaftId,
    },
    /// Pull the state (at this index or newer) from `from` and replace the tables, durably with its
    /// meta; then report `SnapshotInstalled` or `SnapshotFailed`.
    InstallSnapshot {
        /// The announced snapshot.
        meta: SnapshotMeta,
        /// Who announced it.
        from: RaftId,
    },
    /// A message was dropped; changes nothing.
    Rejected {
        /// The sender.
        from: RaftId,
        /// Why.
        reason: MessageError,
    },
}

/// Why a proposal did not enter the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// This member does not lead.
    #[error("not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<RaftId>,
    },
    /// Leadership is being handed over; try again soon.
    #[error("leadership is being handed over")]
    Transferring,
    /// Too many bytes are proposed and not committed; try again soon.
    #[error("too much is waiting to be committed")]
    Backpressure,
    /// Longer than [`super::RaftConfig::entry_bytes_max`], or empty.
    #[error("a command of {len_bytes} bytes")]
    Length {
        /// Of the command.
        len_bytes: usize,
    },
    /// The membership change does not fit.
    #[error(transparent)]
    Conf(#[from] ConfError),
}

/// Why the machine cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaftError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] RaftConfigError),
    /// The state has applied more than the log holds: the log lost its end. A wiped voter.
    #[error("the state has applied {applied}, the log ends at {last}")]
    AppliedBeyondLog {
        /// Of the state.
        applied: LogIndex,
        /// Last entry of the log.
        last: LogIndex,
    },
    /// The state is older than where the log starts: the tables were lost. A wiped voter.
    #[error("the state has applied {applied}, the log starts after {base}")]
    StateBehindLog {
        /// Of the state.
        applied: LogIndex,
        /// Where the log starts.
        base: LogIndex,
    },
    /// The log contradicts itself. A wiped voter.
    #[error("the log is inconsistent: {why}")]
    Inconsistent {
        /// What is wrong.
        why: String,
    },
}

/// What the state tables say about themselves at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateAt {
    /// Applied index, stored in the same transaction as what it applied.
    pub applied: LogIndex,
    /// Meta of the last snapshot that was installed, stored in the same transaction as its state.
    pub installed: Option<SnapshotMeta>,
}

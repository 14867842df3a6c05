//! Members that lag behind the log, and compaction.
//!
//! Steps of an installation:
//! 1. the leader finds that the entries a follower needs are gone and announces a snapshot by its
//!    meta; it repeats that every `snapshot_retry_ticks` until the follower has caught up;
//! 2. the follower records that an installation begins (`Installing`, durable): from now on its
//!    state may run ahead of its log without meaning that the log lost its end;
//! 3. [`RaftAction::InstallSnapshot`]: the driver pulls the state and replaces its tables. No entry
//!    is handed out meanwhile;
//! 4. the log starts over after the snapshot (`Reset`, durable), the leader is told.
//!
//! A stop between 3 and 4 is finished at the next start ([`RaftNode::new`]).
use super::convert;
use super::event::RaftAction;
use super::message::{MessageError, RaftBody, RaftMessage};
use super::node::RaftNode;
use super::types::{LogRecord, SnapshotMeta};
use crate::types::{LogIndex, RaftId};
use bytes::Bytes;
use raft::{ProgressState, SnapshotStatus, StateRole};

/// Where an installation stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Install {
    /// None.
    #[default]
    Idle,
    /// Its beginning is being recorded.
    Recording {
        /// As announced.
        meta: SnapshotMeta,
        /// By whom.
        from: RaftId,
    },
    /// The driver is at it.
    Running {
        /// As announced.
        meta: SnapshotMeta,
    },
}

impl RaftNode {
    pub(super) fn on_snapshot_announced(
        &mut self,
        from: RaftId,
        message: &RaftMessage,
        meta: SnapshotMeta,
    ) -> Result<(), MessageError> {
        if !meta.conf.contains(self.config.id) {
            return Err(MessageError::Field {
                field: "snapshot.conf",
            });
        }
        let log = &self.raw.raft.raft_log;
        let (index, term) = (meta.index.0, meta.term.0);
        if message.term.0 < self.raw.raft.term
            || index < log.committed
            || log.match_term(index, term)
        {
            // Too late, or not needed: the crate answers.
            return self.step_raft(from, message);
        }
        // The crate would restore at once; it only learns that this leader lives.
        let alive = RaftMessage {
            to: message.to,
            term: message.term,
            body: RaftBody::Heartbeat {
                commit: LogIndex(0),
                mark: Bytes::new(),
            },
        };
        self.step_raft(from, &alive)?;
        if self.install == Install::Idle && self.emitted < index {
            self.outbox.record(LogRecord::Installing(meta.clone()));
            self.outbox.hold_install();
            self.install = Install::Recording { meta, from };
        }
        Ok(())
    }

    /// The beginning is on record: let the driver work.
    pub(super) fn begin_install(&mut self, out: &mut Vec<RaftAction>) {
        if let Install::Recording { meta, from } = self.install.clone() {
            self.install = Install::Running { meta: meta.clone() };
            out.push(RaftAction::InstallSnapshot { meta, from });
        }
    }

    pub(super) fn on_install_failed(&mut self, out: &mut Vec<RaftAction>) {
        if matches!(self.install, Install::Running { .. }) {
            self.install = Install::Idle;
            let parked = self.outbox.take_parked();
            self.emit(parked, out);
        }
    }

    pub(super) fn on_installed(&mut self, meta: SnapshotMeta, out: &mut Vec<RaftAction>) {
        let Install::Running { meta: announced } = &self.install else {
            return;
        };
        let is_sound = meta.validate().is_ok()
            && meta.conf.contains(self.config.id)
            && meta.index >= announced.index;
        assert!(is_sound, "the driver installed {meta:?} for {announced:?}");
        let index = meta.index.0;
        self.install = Install::Idle;
        self.applied = index;
        let mut parked = self.outbox.take_parked();
        parked.retain(|entry| entry.index > meta.index);
        self.emitted = parked.last().map_or(index, |last| last.index.0);
        let raft = &mut self.raw.raft;
        // The state may come from a leader that this member has not heard of yet.
        if raft.term < meta.term.0 {
            raft.become_follower(meta.term.0, raft::INVALID_ID);
        }
        // A leader of an older term may have pulled what a newer one committed.
        let contradicts = !raft.raft_log.match_term(index, meta.term.0);
        if raft.state != StateRole::Follower
            && (raft.state != StateRole::Leader
                || (contradicts && index >= raft.raft_log.committed))
        {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
        if raft.state == StateRole::Leader {
            // It holds the entry; it will commit it, and hand out what comes after it.
        } else if raft.restore(convert::snapshot_to_raft(&meta)) {
            self.tell_leader(index);
        } else {
            let committed = raft.raft_log.committed;
            self.tell_leader(committed);
        }
        self.emit(parked, out);
    }

    /// Answers the announcement; waits like any reply until the log is durable.
    fn tell_leader(&mut self, index: u64) {
        let raft = &mut self.raw.raft;
        if raft.leader_id == raft::INVALID_ID {
            return;
        }
        let mut reply = raft::eraftpb::Message {
            to: raft.leader_id,
            from: raft.id,
            term: raft.term,
            index,
            commit: raft.raft_log.committed,
            ..Default::default()
        };
        reply.msg_type = raft::eraftpb::MessageType::MsgAppendResponse;
        raft.msgs.push(reply);
    }

    /// Announces again to followers that have not caught up.
    pub(super) fn retry_snapshots(&mut self) {
        if !self.is_leader() {
            return;
        }
        let all = self.raw.raft.prs().iter();
        let lagging = all.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let mut lagging: Vec<u64> = lagging.map(|(id, _)| *id).collect();
        lagging.sort_unstable();
        for id in lagging {
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    pub(super) fn on_compact(&mut self, upto: LogIndex) {
        let upto = upto.0.min(self.applied);
        self.raw.mut_store().declare(upto);
        // The crate may not have replayed up to here after an installation at a leader.
        let upto = upto.min(self.raw.raft.raft_log.applied);
        let target = upto.saturating_sub(self.config.keep_entries);
        if let Some(base) = self.raw.mut_store().compact(target) {
            self.outbox.record(LogRecord::Base(base));
            self.outbox.hold();
        }
    }
}

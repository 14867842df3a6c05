//! Settings of the Raft machine.
use crate::types::RaftId;
use std::time::Duration;

/// Settings of a [`RaftNode`](super::RaftNode).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftConfig {
    /// This member's id; never 0, never reused after a loss of the log.
    pub id: RaftId,
    /// How often the driver feeds `Tick`. Ticks that come faster than half of it are ignored, so
    /// that a process that was stalled does not catch up on all of them at once.
    pub tick: Duration,
    /// Ticks between heartbeats of the leader; at least 1.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before an election, before the random part; more than
    /// `heartbeat_ticks`. Also the interval in which a leader must hear a majority.
    pub election_ticks: usize,
    /// The random part: 0 to this many ticks (exclusive) are added; at least 1.
    pub election_spread_ticks: usize,
    /// How long a member that heard its leader helps nobody else to the lead. Not more than
    /// `election_ticks` take, or an election waits for it.
    pub promise: Duration,
    /// Bytes of commands in one append message (one larger entry travels alone).
    pub append_bytes_max: usize,
    /// Bytes of one command.
    pub entry_bytes_max: usize,
    /// Append messages under way to one follower before the leader waits for it.
    pub inflight_max: usize,
    /// Bytes of commands proposed and not committed before proposals are refused.
    pub uncommitted_bytes_max: usize,
    /// Entries that compaction leaves below the compacted index for slow followers.
    pub keep_entries: u64,
    /// Ticks before the leader announces a snapshot again to a follower that has not caught up,
    /// and before a follower tries again after a failed installation.
    pub snapshot_retry_ticks: usize,
    /// A fault planted by a test.
    #[cfg(any(test, feature = "planted"))]
    pub(crate) test_bug: Option<TestBug>,
}

/// Faults that the simulation must catch.
#[cfg(any(test, feature = "planted"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestBug {
    /// Releases messages before what they depend on is durable.
    AckBeforeSync,
    /// Answers reads at the leader without asking a majority.
    ReadWithoutQuorum,
}

/// A setting out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("raft.{field}: {why}")]
pub struct RaftConfigError {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub why: &'static str,
}

impl RaftConfig {
    /// The defaults: a dead leader is replaced within 0.5 to 1 s.
    #[must_use]
    pub fn new(id: RaftId) -> Self {
        Self {
            id,
            tick: Duration::from_millis(50),
            heartbeat_ticks: 2,
            election_ticks: 10,
            election_spread_ticks: 10,
            promise: Duration::from_millis(400),
            append_bytes_max: 1 << 20,
            entry_bytes_max: 2 << 20,
            inflight_max: 256,
            uncommitted_bytes_max: 64 << 20,
            keep_entries: 4096,
            snapshot_retry_ticks: 20,
            #[cfg(any(test, feature = "planted"))]
            test_bug: None,
        }
    }

    /// Checks ranges and relations.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), RaftConfigError> {
        let checks = [
            (self.id.0 != 0, "id", "must not be 0"),
            (!self.tick.is_zero(), "tick", "must not be 0"),
            (
                self.heartbeat_ticks >= 1,
                "heartbeat_ticks",
                "must be at least 1",
            ),
            (
                self.election_ticks > self.heartbeat_ticks,
                "election_ticks",
                "must exceed heartbeat_ticks",
            ),
            (
                self.election_spread_ticks >= 1,
                "election_spread_ticks",
                "must be at least 1",
            ),
            (
                self.append_bytes_max >= 1,
                "append_bytes_max",
                "must be at least 1",
            ),
            (
                self.append_bytes_max.max(self.entry_bytes_max)
                    <= super::message::ENTRIES_BYTES_MAX,
                "entry_bytes_max",
                "entries and appends must fit a message",
            ),
            (self.inflight_max >= 1, "inflight_max", "must be at least 1"),
            (
                self.uncommitted_bytes_max >= self.append_bytes_max.max(self.entry_bytes_max),
                "uncommitted_bytes_max",
                "must hold at least one entry and one append",
            ),
            (
                self.snapshot_retry_ticks > self.heartbeat_ticks,
                "snapshot_retry_ticks",
                "must exceed heartbeat_ticks",
            ),
        ];
        match checks.into_iter().find(|(ok, ..)| !ok) {
            Some((_, field, why)) => Err(RaftConfigError { field, why }),
            None => Ok(()),
        }
    }

    /// The crate's form, for a log that starts after `base`.
    pub(super) fn to_raft(&self, base: u64) -> raft::Config {
        raft::Config {
            id: self.id.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied: base,
            max_size_per_msg: self.append_bytes_max as u64,
            max_inflight_msgs: self.inflight_max,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: self.election_ticks,
            max_election_tick: self.election_ticks + self.election_spread_ticks,
            read_only_option: raft::ReadOnlyOption::Safe,
            // The next append or heartbeat tells it: a follower answers nobody from its state.
            skip_bcast_commit: true,
            batch_append: true,
            priority: 0,
            max_uncommitted_size: self.uncommitted_bytes_max as u64,
            max_committed_size_per_ready: 8 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_relations_are_checked() {
        let config = RaftConfig::new(RaftId(1));
        config.validate().unwrap();
        let refused = |change: fn(&mut RaftConfig)| {
            let mut config = RaftConfig::new(RaftId(1));
            change(&mut config);
            config.validate().unwrap_err().field
        };
        assert_eq!(refused(|c| c.id = RaftId(0)), "id");
        assert_eq!(refused(|c| c.election_ticks = 2), "election_ticks");
        assert_eq!(refused(|c| c.entry_bytes_max = 9 << 20), "entry_bytes_max");
    }
}

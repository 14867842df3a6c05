//! What the log holds and what membership is: plain values, shared by log, machine and wire.
use crate::types::{LogIndex, RaftId, Term};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Index (and term) of the state every bootstrapped voter starts from.
pub const BOOTSTRAP_INDEX: LogIndex = LogIndex(1);
/// Most members (voters and learners together) of a group.
pub const MEMBERS_MAX: usize = 32;
/// Bound of any index or term: what is larger is damage, and arithmetic never overflows below it.
pub(super) const COUNTER_MAX: u64 = 1 << 62;

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A command of the state machine; empty for the no-op of a new leader.
    Command,
    /// A [`ConfChange`] (postcard); empty means [`ConfChange::LeaveJoint`].
    Conf,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Position, counts from 1.
    pub index: LogIndex,
    /// Term of the leader that made it.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// The command or change.
    pub data: Bytes,
}

/// What a voter promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    /// Newest term it has seen.
    pub term: Term,
    /// Whom it voted for in `term`.
    pub vote: Option<RaftId>,
    /// Committed as far as it knows; may be stale on disk.
    pub commit: LogIndex,
}

/// The members at one point of the log. Lists are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfState {
    /// Voters (the incoming ones while joint).
    pub voters: Vec<RaftId>,
    /// Members that receive the log and do not vote.
    pub learners: Vec<RaftId>,
    /// Not empty while joint: the former voters, whose majority is needed too.
    pub voters_outgoing: Vec<RaftId>,
    /// Become learners when the joint state is left.
    pub learners_next: Vec<RaftId>,
    /// Whether the leader leaves the joint state by itself.
    pub auto_leave: bool,
}

/// Why a [`ConfState`] or [`ConfChange`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// Zero, repeated, unsorted or too many ids, or one id in two roles.
    #[error("members are malformed: {why}")]
    Malformed {
        /// What is wrong.
        why: &'static str,
    },
    /// The change does not fit the present members.
    #[error("{member:?}: {why}")]
    Misfit {
        /// The member it is about.
        member: RaftId,
        /// What is wrong.
        why: &'static str,
    },
    /// Another change is under way (in the log but not applied, or joint).
    #[error("another membership change is under way")]
    Busy,
}

impl ConfState {
    /// A group of these voters.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = RaftId>) -> Self {
        let voters: BTreeSet<RaftId> = voters.into_iter().collect();
        Self {
            voters: voters.into_iter().collect(),
            ..Self::default()
        }
    }

    /// True while two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// True if `id` votes now (in either half while joint).
    #[must_use]
    pub fn is_voter(&self, id: RaftId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// True if `id` votes or learns.
    #[must_use]
    pub fn contains(&self, id: RaftId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Every member, sorted.
    #[must_use]
    pub fn members(&self) -> BTreeSet<RaftId> {
        let all = [&self.voters, &self.learners, &self.voters_outgoing];
        all.into_iter().flatten().copied().collect()
    }

    /// Checks form: ids valid, sorted and unique, roles disjoint, at least one voter.
    ///
    /// # Errors
    /// [`ConfError::Malformed`].
    pub fn validate(&self) -> Result<(), ConfError> {
        let bad = |why| Err(ConfError::Malformed { why });
        let lists = [
            &self.voters,
            &self.learners,
            &self.voters_outgoing,
            &self.learners_next,
        ];
        for list in lists {
            if list.len() > MEMBERS_MAX {
                return bad("too many members");
            }
            if !list.windows(2).all(|pair| pair[0] < pair[1]) {
                return bad("ids are not sorted and unique");
            }
            if list.iter().any(|id| id.0 == 0 || id.0 > COUNTER_MAX) {
                return bad("an id is out of range");
            }
        }
        if self.voters.is_empty() {
            return bad("no voter");
        }
        if self.learners.iter().any(|id| self.is_voter(*id)) {
            return bad("a learner votes");
        }
        let staged = |id: &RaftId| self.voters_outgoing.contains(id) && !self.voters.contains(id);
        if !self.learners_next.iter().all(staged) {
            return bad("a staged learner is not an outgoing voter");
        }
        if self.auto_leave && !self.is_joint() {
            return bad("leaves a joint state it is not in");
        }
        Ok(())
    }
}

/// One step of a membership change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfStep {
    /// A new member that receives the log without a vote.
    AddLearner(RaftId),
    /// A learner becomes a voter (a new id too, though it should learn first).
    Promote(RaftId),
    /// A member leaves.
    Remove(RaftId),
}

impl ConfStep {
    /// The member it is about.
    #[must_use]
    pub fn member(self) -> RaftId {
        match self {
            Self::AddLearner(id) | Self::Promote(id) | Self::Remove(id) => id,
        }
    }
}

/// A membership change, as proposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfChange {
    /// One step, in force when applied.
    One(ConfStep),
    /// Several steps at once by joint consensus; the leader leaves the joint state by itself.
    Joint(Vec<ConfStep>),
    /// Leaves the joint state. The leader proposes it by itself.
    LeaveJoint,
}

impl ConfChange {
    /// The steps, none for [`ConfChange::LeaveJoint`].
    #[must_use]
    pub fn steps(&self) -> &[ConfStep] {
        match self {
            Self::One(step) => std::slice::from_ref(step),
            Self::Joint(steps) => steps,
            Self::LeaveJoint => &[],
        }
    }

    /// Bytes for an entry of kind [`EntryKind::Conf`].
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::LeaveJoint => Bytes::new(),
            change => postcard::to_stdvec(change)
                .expect("plain enums always encode")
                .into(),
        }
    }

    /// The inverse of [`ConfChange::encode`].
    ///
    /// # Errors
    /// [`ConfError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfError> {
        let bad = |why| ConfError::Malformed { why };
        if bytes.is_empty() {
            return Ok(Self::LeaveJoint);
        }
        if bytes.len() > MEMBERS_MAX * 16 {
            return Err(bad("a change is too long"));
        }
        let (change, rest): (Self, &[u8]) =
            postcard::take_from_bytes(bytes).map_err(|_| bad("a change does not decode"))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow a change"));
        }
        change.check_form()?;
        Ok(change)
    }

    fn check_form(&self) -> Result<(), ConfError> {
        let bad = |why| Err(ConfError::Malformed { why });
        if let Self::Joint(steps) = self
            && (steps.is_empty() || steps.len() > MEMBERS_MAX)
        {
            return bad("a joint change has no step or too many");
        }
        let members: BTreeSet<RaftId> = self.steps().iter().map(|step| step.member()).collect();
        if members.len() != self.steps().len() {
            return bad("a member is changed twice");
        }
        if members.iter().any(|id| id.0 == 0 || id.0 > COUNTER_MAX) {
            return bad("an id is out of range");
        }
        Ok(())
    }

    /// Checks that the change may be proposed on top of `conf`.
    ///
    /// # Errors
    /// Any [`ConfError`].
    pub fn check(&self, conf: &ConfState) -> Result<(), ConfError> {
        self.check_form()?;
        if conf.is_joint() != matches!(self, Self::LeaveJoint) {
            return Err(ConfError::Busy);
        }
        let mut voters: BTreeSet<RaftId> = conf.voters.iter().copied().collect();
        for step in self.steps() {
            let member = step.member();
            let misfit = |why| Err(ConfError::Misfit { member, why });
            match step {
                ConfStep::AddLearner(id) if conf.contains(*id) => return misfit("is a member"),
                ConfStep::Promote(id) if conf.is_voter(*id) => return misfit("votes already"),
                ConfStep::Remove(id) if !conf.contains(*id) => return misfit("is not a member"),
                ConfStep::AddLearner(_) => {}
                ConfStep::Promote(id) => {
                    voters.insert(*id);
                }
                ConfStep::Remove(id) => {
                    voters.remove(id);
                }
            }
        }
        if voters.is_empty() {
            return Err(ConfError::Malformed {
                why: "removes the last voter",
            });
        }
        if conf.members().len() + self.steps().len() > MEMBERS_MAX {
            return Err(ConfError::Malformed {
                why: "too many members",
            });
        }
        Ok(())
    }
}

/// Where a snapshot stands: the state after applying `index`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Last entry that the state includes.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Members after it; no voter only for the empty log of a new learner.
    pub conf: ConfState,
}

impl SnapshotMeta {
    /// What the first voters start from. All of them must be given the same list.
    #[must_use]
    pub fn bootstrap(voters: impl IntoIterator<Item = RaftId>) -> Self {
        Self {
            index: BOOTSTRAP_INDEX,
            term: Term(1),
            conf: ConfState::of_voters(voters),
        }
    }

    /// What a member starts from that joins an existing group: nothing.
    #[must_use]
    pub fn blank() -> Self {
        Self::default()
    }

    /// Checks form; `blank` is refused.
    ///
    /// # Errors
    /// [`ConfError::Malformed`].
    pub fn validate(&self) -> Result<(), ConfError> {
        let range = 1..=COUNTER_MAX;
        if !range.contains(&self.index.0) || !range.contains(&self.term.0) {
            return Err(ConfError::Malformed {
                why: "a snapshot's index or term is out of range",
            });
        }
        self.conf.validate()
    }
}

/// One record of the durable log. Replaying them in order gives the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogRecord {
    /// Appends; what was at this index or after is overwritten.
    Entry(LogEntry),
    /// Replaces the hard state.
    HardState(HardState),
    /// Compaction: the log now starts after this entry of it; later entries stay.
    Base(SnapshotMeta),
    /// A snapshot was installed: the log is empty and starts after this.
    Reset(SnapshotMeta),
    /// A snapshot is about to be installed: the state tables may run ahead of the log.
    Installing(SnapshotMeta),
}

/// Records to make durable together, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogWrite {
    /// In the order of effect.
    pub records: Vec<LogRecord>,
}

/// A committed entry on its way to the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Position; each apply continues where the last one ended.
    pub index: LogIndex,
    /// Term of the leader that made it.
    pub term: Term,
    /// The command; empty for a no-op or a membership change. An empty one changes no state but
    /// must still move the applied index.
    pub data: Bytes,
    /// Members after this entry, if it changed them.
    pub conf_state: Option<ConfState>,
    /// The proposal that made it, if it was ours and we led all the while.
    pub token: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[u64]) -> Vec<RaftId> {
        list.iter().copied().map(RaftId).collect()
    }

    #[test]
    fn conf_states_with_overlapping_roles_are_refused() {
        let mut conf = ConfState::of_voters(ids(&[3, 1, 2]));
        assert_eq!(conf.voters, ids(&[1, 2, 3]));
        conf.validate().unwrap();
        conf.learners = ids(&[2]);
        assert!(conf.validate().is_err());
        conf.learners = ids(&[5, 4]);
        assert!(conf.validate().is_err());
        conf.learners = vec![];
        conf.auto_leave = true;
        assert!(conf.validate().is_err());
        conf.voters_outgoing = ids(&[1, 4]);
        conf.learners_next = ids(&[4]);
        conf.validate().unwrap();
        conf.learners_next = ids(&[1]);
        assert!(conf.validate().is_err());
    }

    /// First ids were drawn from above the range, so that no cluster began.
    #[test]
    fn regression_every_first_voter_and_those_after_it_have_ids_in_range() {
        for group in [0, 1, RaftId::GROUPS - 1] {
            let first = RaftId::first(group);
            let second = first.assigned_after(7);
            let later = second.assigned_after((1 << 40) - 2);
            assert!(first < second && second < later);
            ConfState::of_voters(vec![first, second, later])
                .validate()
                .unwrap();
            assert_ne!(RaftId::first(group + 1).0 >> 40, first.0 >> 40);
        }
        assert_eq!(RaftId(1).assigned_after(12), RaftId(13));
    }

    #[test]
    fn changes_are_checked_against_the_members() {
        let conf = ConfState::of_voters(ids(&[1, 2]));
        let ok = |change: ConfChange| change.check(&conf).is_ok();
        let id = RaftId;
        assert!(ok(ConfChange::One(ConfStep::AddLearner(id(3)))));
        assert!(!ok(ConfChange::One(ConfStep::AddLearner(id(2)))));
        assert!(!ok(ConfChange::One(ConfStep::Remove(id(3)))));
        assert!(!ok(ConfChange::LeaveJoint));
        let remove = |n| ConfStep::Remove(id(n));
        assert!(!ok(ConfChange::Joint(vec![remove(1), remove(2)])));
        assert!(!ok(ConfChange::Joint(vec![remove(1), remove(1)])));
        let replace = ConfChange::Joint(vec![remove(1), ConfStep::Promote(id(3))]);
        assert!(ok(replace.clone()));
        assert_eq!(ConfChange::decode(&replace.encode()).unwrap(), replace);
        assert!(ConfChange::decode(&[9, 9, 9]).is_err());
    }
}

//! Failover in the middle of a job: which job, at which step the leader is lost, and how.
//!
//! Instead of chaos a run has one change of the cluster. When the named step is *seen* in the
//! leader's own state, the leader is killed or cut off from everybody for some seconds, and whoever
//! leads next has to finish. Clients work all the time.
use std::fmt;
use std::time::Duration;

/// What changes in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A node dies for long: its groups get other members.
    Repair,
    /// A node comes back before its groups were given away, and catches up.
    RejoinInTime,
    /// A node comes back after its groups were given away: it is emptied and gets a new share.
    RejoinLate,
    /// A node is drained.
    Drain,
    /// A node with an empty store joins and gets its share.
    Rebalance,
}

/// A step of a change, as seen by the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The node is known to be down.
    Away,
    /// The new run of the node is committed.
    Returned,
    /// It has got some of what it missed.
    CatchingUp,
    /// BEGIN is proposed, not committed.
    Proposed,
    /// BEGIN is committed; nobody has let go yet, or not enough.
    Begun,
    /// ACTIVATE is proposed.
    Activating,
    /// ACTIVATE is committed, nothing is copied yet.
    Activated,
    /// Something is copied.
    Copying,
    /// Some member is reported as filled, which is not committed.
    Filling,
    /// Some groups are clean, others are not.
    SomeFilled,
    /// Half of the groups are clean, or more, and the others nearly.
    LastFilling,
    /// All groups are clean, and there is no receipt.
    Clean,
    /// A store that has nothing to do with a group any more still holds some of it.
    Emptying,
}

/// How the leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Killed, and started again later.
    Kill,
    /// Cut off from all others, for a while.
    CutOff,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Repair,
        Self::RejoinInTime,
        Self::RejoinLate,
        Self::Drain,
        Self::Rebalance,
    ];

    /// The steps it goes through, in order.
    #[must_use]
    pub fn steps(self) -> &'static [Step] {
        const MOVING: [Step; 10] = [
            Step::Proposed,
            Step::Begun,
            Step::Activating,
            Step::Activated,
            Step::Copying,
            Step::Filling,
            Step::SomeFilled,
            Step::LastFilling,
            Step::Clean,
            Step::Emptying,
        ];
        match self {
            Self::Repair => &[
                Step::Away,
                Step::Proposed,
                Step::Begun,
                Step::Activating,
                Step::Activated,
                Step::Copying,
                Step::Filling,
                Step::SomeFilled,
                Step::LastFilling,
                Step::Clean,
            ],
            Self::RejoinInTime => &[Step::Away, Step::Returned, Step::CatchingUp],
            Self::RejoinLate => &[
                Step::Returned,
                Step::Emptying,
                Step::Proposed,
                Step::Begun,
                Step::Activated,
                Step::Copying,
                Step::SomeFilled,
                Step::Clean,
            ],
            Self::Drain | Self::Rebalance => &MOVING,
        }
    }
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failover {
    /// What changes.
    pub change: Change,
    /// When the leader is lost.
    pub step: Step,
    /// How.
    pub loss: Loss,
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?} of {:?}", self.loss, self.step, self.change)
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct FailoverReport {
    /// The step was seen, and the leader lost in it.
    pub is_hit: bool,
    /// Objects that stores got from each other during the change.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Of those objects, got again by a later run of a store that had lost them unsynced.
    pub again: u64,
    /// From the leader's loss until all groups were in order.
    pub took: Duration,
}

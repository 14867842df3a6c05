//! The member list: what this node believes of every member, and the log of what changed.
//!
//! ```text
//!            joined                suspected
//!   (none) ─────────▶ Alive ◀──────────────────▶ Suspect
//!                      │ ▲      recovered            │
//!            left      │ │ joined (higher            │ failed, left
//!                      ▼ │         incarnation)      ▼
//!                     Left ◀────────────────────── Down
//!                           (it had said goodbye)
//! ```
//! Invariants: 1. a member's incarnation never falls; 2. a change of state is exactly one notice;
//! 3. Down and Left are left only by a higher incarnation.
use super::identity::{NodeIdentity, Zone};
use crate::types::{Incarnation, NodeId, StoreId, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;

/// What this node believes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody got no answer; it may still object. Counts as alive for everything.
    Suspect,
    /// It was declared dead. A hint: it may merely be cut off.
    Down,
    /// It said goodbye.
    Left,
}

impl MemberState {
    /// True for Alive and Suspect.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        })
    }
}

/// One row of the member list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Stable id.
    pub id: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
    /// Where it takes datagrams.
    pub gossip: SocketAddr,
    /// Where it takes connections.
    pub tcp: SocketAddr,
    /// Its data directory.
    pub store: StoreId,
    /// Its failure domain.
    pub zone: Zone,
    /// What is believed of it.
    pub state: MemberState,
    /// Since when, on the driver's clock.
    pub since: Time,
    /// True for the node that made this list.
    pub is_self: bool,
}

impl Member {
    pub(super) fn new(id: &NodeIdentity, state: MemberState, since: Time, is_self: bool) -> Self {
        Self {
            id: id.id,
            incarnation: id.incarnation,
            gossip: id.gossip,
            tcp: id.tcp,
            store: id.store,
            zone: id.zone.clone(),
            state,
            since,
            is_self,
        }
    }
}

/// What happened to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// New in the list, or back with a higher incarnation after Down or Left.
    Joined,
    /// The same node in a new run, before anybody missed the old one.
    Restarted {
        /// The run before.
        previous: Incarnation,
    },
    /// Somebody got no answer from it.
    Suspected,
    /// It objected to the suspicion in time.
    Recovered,
    /// Declared dead.
    Failed,
    /// Said goodbye.
    Left,
    /// About this node itself: the cluster had declared it dead, it is back under the incarnation
    /// of the notice.
    Renewed {
        /// The incarnation that was declared dead.
        previous: Incarnation,
    },
}

impl MemberChange {
    /// Lower-case word, as logs and commands show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Restarted { .. } => "restarted",
            Self::Suspected => "suspected",
            Self::Recovered => "recovered",
            Self::Failed => "failed",
            Self::Left => "left",
            Self::Renewed { .. } => "renewed",
        }
    }
}

/// One change of the member list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNotice {
    /// When this node learned of it, on the driver's clock.
    pub at: Time,
    /// The member.
    pub node: NodeId,
    /// The run it is about.
    pub incarnation: Incarnation,
    /// What happened.
    pub what: MemberChange,
}

/// The list and its log.
#[derive(Debug)]
pub struct MemberList {
    rows: BTreeMap<NodeId, Member>,
    log: VecDeque<MemberNotice>,
    log_max: usize,
    gone_max: usize,
    revision: u64,
}

impl MemberList {
    pub(super) fn new(log_max: usize, gone_max: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            log: VecDeque::new(),
            log_max,
            gone_max,
            revision: 0,
        }
    }

    /// Sets what is believed of a member; the notice says what changed, if anything did.
    /// News of the death of a node that was never listed makes a row but no notice.
    pub(super) fn set(
        &mut self,
        now: Time,
        id: &NodeIdentity,
        state: MemberState,
    ) -> Option<MemberNotice> {
        use MemberState::{Alive, Down, Left, Suspect};
        let old = self.rows.get(&id.id);
        let what = match (old.map(|m| (m.incarnation, m.state)), state) {
            (Some((inc, _)), _) if inc > id.incarnation => return None,
            (Some((inc, st)), _) if (inc, st) == (id.incarnation, state) => return None,
            (None, Alive | Suspect) => Some(MemberChange::Joined),
            (None, Down | Left) => None,
            (Some((inc, st)), Alive | Suspect) if inc < id.incarnation => Some(if st.is_active() {
                MemberChange::Restarted { previous: inc }
            } else {
                MemberChange::Joined
            }),
            // A dead run stays dead; only Down may still turn out to have been a goodbye.
            (Some((_, Down | Left)), Alive | Suspect | Down) => return None,
            (Some((_, Left)), Left) => return None,
            (Some(_), Alive) => Some(MemberChange::Recovered),
            (Some(_), Suspect) => Some(MemberChange::Suspected),
            (Some(_), Down) => Some(MemberChange::Failed),
            (Some(_), Left) => Some(MemberChange::Left),
        };
        self.insert(Member::new(id, state, now, false));
        let notice = MemberNotice {
            at: now,
            node: id.id,
            incarnation: id.incarnation,
            what: what?,
        };
        self.record(notice);
        Some(notice)
    }

    /// Adds a notice to the log.
    pub(super) fn record(&mut self, notice: MemberNotice) {
        if self.log.len() >= self.log_max {
            self.log.pop_front();
        }
        self.log.push_back(notice);
    }

    /// Drops a member that is remembered no longer.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.revision += 1;
        self.rows.remove(&id);
    }

    /// Takes out the oldest Down or Left row if there are more than are kept.
    pub(super) fn take_excess(&mut self) -> Option<Member> {
        let gone = |m: &&Member| !m.state.is_active() && !m.is_self;
        if self.rows.values().filter(gone).count() <= self.gone_max {
            return None;
        }
        let oldest = self.rows.values().filter(gone).min_by_key(|m| m.since);
        let id = oldest.map(|m| m.id)?;
        self.revision += 1;
        self.rows.remove(&id)
    }

    /// Sets the row of this node itself; no notice.
    pub(super) fn set_self(&mut self, now: Time, id: &NodeIdentity, state: MemberState) {
        self.insert(Member::new(id, state, now, true));
    }

    fn insert(&mut self, row: Member) {
        self.revision += 1;
        self.rows.insert(row.id, row);
    }

    /// Rises with every change of a row.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The row of `id`.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.rows.get(&id)
    }

    /// All rows in the order of ids, this node included.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.rows.values()
    }

    /// The log, oldest first.
    pub fn log(&self) -> impl Iterator<Item = &MemberNotice> {
        self.log.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u128, incarnation: u64) -> NodeIdentity {
        NodeIdentity {
            id: NodeId(id),
            incarnation: Incarnation(incarnation),
            gossip: "127.0.0.1:1".parse().unwrap(),
            tcp: "127.0.0.1:2".parse().unwrap(),
            store: StoreId(id),
            zone: Zone::default(),
        }
    }

    #[test]
    fn each_change_is_one_notice_and_a_dead_run_stays_dead() {
        use MemberState::{Alive, Down, Left, Suspect};
        let mut list = MemberList::new(100, 10);
        let mut set = |inc, state| {
            let n = list.set(Time(1), &node(1, inc), state);
            n.map(|n| n.what.name())
        };
        assert_eq!(set(5, Alive), Some("joined"));
        assert_eq!(set(5, Alive), None);
        assert_eq!(set(5, Suspect), Some("suspected"));
        assert_eq!(set(5, Alive), Some("recovered"));
        assert_eq!(set(6, Alive), Some("restarted"));
        assert_eq!(set(5, Down), None, "news of an older run");
        assert_eq!(set(6, Down), Some("failed"));
        assert_eq!(set(6, Alive), None);
        assert_eq!(set(6, Left), Some("left"), "it had said goodbye");
        assert_eq!(set(6, Down), None);
        assert_eq!(set(7, Alive), Some("joined"));
        assert_eq!(list.log().count(), 7);
    }

    #[test]
    fn gone_members_and_the_log_are_bounded() {
        let mut list = MemberList::new(5, 3);
        for id in 0..10 {
            list.set(Time(id), &node(u128::from(id), 1), MemberState::Alive);
            list.set(Time(id), &node(u128::from(id), 1), MemberState::Left);
            list.take_excess();
        }
        let left: Vec<u128> = list.iter().map(|m| m.id.0).collect();
        assert_eq!(left, [7, 8, 9], "the newest stay");
        assert_eq!(list.log().count(), 5);
    }
}

//! Placement groups: epochs, members and phases.
//!
//! ```text
//!            BEGIN                    ACTIVATE (N-R+1 old members fenced)
//!  Active ----------> Fencing --------------------------> Copying ----> Active
//!     ^                  | nothing to fence or fill           all members filled (CLEAN)
//!     +------------------+
//! ```
//! Invariants:
//! 1. a PG's epoch rises by one with each BEGIN and never goes back;
//! 2. members are distinct, at most N; `filling` is a subset of them;
//! 3. a store is *complete* only while it stays a member without a gap: moved away and back it is
//!    filled again;
//! 4. prior members stay a read-only source until every member is filled; it is known which of them
//!    left before they were filled themselves.
use super::{StateError, keys};
use crate::master::command::{ChangeCause, PgChange};
use crate::store::{Kv, KvRead};
use crate::types::{Epoch, LogIndex, PgId, PgInfo, PgMap, PgPhase, QuorumSizes, StoreId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A placement group's row: what clients see, and what only the master needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgState {
    /// As clients and stores see it.
    pub info: PgInfo,
    /// Members of the last epoch that served: those to fence.
    pub serving: Vec<StoreId>,
    /// Why it was last changed.
    pub cause: ChangeCause,
    /// When that change began (log time).
    pub began: Time,
}

impl PgState {
    fn empty() -> Self {
        let info = PgInfo {
            epoch: Epoch(0),
            members: Vec::new(),
            filling: Vec::new(),
            prior: Vec::new(),
            phase: PgPhase::Active,
        };
        Self {
            info,
            serving: Vec::new(),
            cause: ChangeCause::Create,
            began: Time::ZERO,
        }
    }

    /// Members that hold everything.
    pub fn complete(&self) -> impl Iterator<Item = StoreId> {
        self.info
            .members
            .iter()
            .copied()
            .filter(|s| !self.info.filling.contains(s))
    }
}

/// All placement groups, cached from their table.
#[derive(Debug)]
pub struct Pgs {
    states: Vec<PgState>,
    map: PgMap,
    /// Prior members that hold only a part.
    partial: BTreeSet<(PgId, StoreId)>,
}

impl Pgs {
    /// No groups yet: before bootstrap.
    pub fn none() -> Self {
        let map = PgMap {
            version: LogIndex(0),
            quorum: QuorumSizes::DEFAULT,
            pgs: Vec::new(),
        };
        Self {
            states: Vec::new(),
            map,
            partial: BTreeSet::new(),
        }
    }

    /// Writes `count` empty groups.
    pub fn format(kv: &mut impl Kv, quorum: QuorumSizes, count: u16, index: LogIndex) -> Self {
        let states = vec![PgState::empty(); usize::from(count)];
        for (i, state) in states.iter().enumerate() {
            keys::put(kv, keys::pg(PgId(i as u16)), state);
        }
        let pgs = states.iter().map(|s| s.info.clone()).collect();
        let map = PgMap {
            version: index,
            quorum,
            pgs,
        };
        keys::put(kv, b"vmap".to_vec(), &(map.version, map.quorum));
        Self {
            states,
            map,
            partial: BTreeSet::new(),
        }
    }

    /// Loads the table.
    pub fn load(kv: &impl KvRead) -> Result<Self, StateError> {
        let Some((version, quorum)) = keys::get(kv, "map", b"vmap")? else {
            return Ok(Self::none());
        };
        let mut states = Vec::new();
        while let Some(state) =
            keys::get::<PgState, _>(kv, "pg", &keys::pg(PgId(states.len() as u16)))?
        {
            states.push(state);
        }
        let pgs = states.iter().map(|s| s.info.clone()).collect();
        Ok(Self {
            states,
            map: PgMap {
                version,
                quorum,
                pgs,
            },
            partial: keys::get(kv, "partial", keys::PARTIAL)?.unwrap_or_default(),
        })
    }

    /// As clients and stores see them.
    pub fn map(&self) -> &PgMap {
        &self.map
    }

    /// One group.
    pub fn get(&self, pg: PgId) -> Option<&PgState> {
        self.states.get(usize::from(pg.0))
    }

    /// All groups in order.
    pub fn iter(&self) -> impl Iterator<Item = (PgId, &PgState)> {
        self.states
            .iter()
            .enumerate()
            .map(|(i, s)| (PgId(i as u16), s))
    }

    /// A group in which the store counts: as member, as former member that still serves, or as a
    /// source.
    pub fn counts_in(&self, store: StoreId) -> Option<PgId> {
        let counts = |(_, s): &(PgId, &PgState)| {
            s.info.members.contains(&store)
                || s.info.prior.contains(&store)
                || (s.info.phase == PgPhase::Fencing && s.serving.contains(&store))
        };
        self.iter().find(counts).map(|(pg, _)| pg)
    }

    /// The store is a source of the group, and left it before it was filled.
    pub fn is_partial(&self, pg: PgId, store: StoreId) -> bool {
        self.partial.contains(&(pg, store))
    }

    /// A member that is being filled and becomes a prior one has only a part, until it is let go.
    fn note_partial(&mut self, kv: &mut impl Kv, pg: PgId, new: &PgInfo) {
        let filling = &self.states[usize::from(pg.0)].info.filling;
        let mut partial = self.partial.clone();
        partial.extend(filling.iter().map(|store| (pg, *store)));
        partial.retain(|(of, store)| *of != pg || new.prior.contains(store));
        if partial == self.partial {
            return;
        }
        self.partial = partial;
        if self.partial.is_empty() {
            kv.delete(keys::PARTIAL);
        } else {
            keys::put(kv, keys::PARTIAL.to_vec(), &self.partial);
        }
    }

    fn update(&mut self, kv: &mut impl Kv, index: LogIndex, pg: PgId, state: PgState) {
        let at = usize::from(pg.0);
        check(&state, self.map.quorum);
        self.note_partial(kv, pg, &state.info);
        keys::put(kv, keys::pg(pg), &state);
        self.map.pgs[at] = state.info.clone();
        self.states[at] = state;
        self.map.version = index;
        keys::put(kv, b"vmap".to_vec(), &(self.map.version, self.map.quorum));
    }

    /// BEGIN. A change whose `from` is not the current epoch, or whose members are not fit (none of
    /// them complete, where there are several), is skipped. True if any group changed.
    pub fn begin(
        &mut self,
        kv: &mut impl Kv,
        index: LogIndex,
        at: Time,
        cause: ChangeCause,
        changes: &[PgChange],
    ) -> bool {
        let mut changed = false;
        for change in changes {
            let Some(old) = self.get(change.pg).cloned() else {
                continue;
            };
            let distinct: BTreeSet<_> = change.members.iter().collect();
            let fit = !change.members.is_empty()
                && distinct.len() == change.members.len()
                && distinct.len() <= usize::from(self.map.quorum.n);
            if old.info.epoch != change.from || !fit {
                continue;
            }
            let complete: Vec<_> = old.complete().collect();
            let first = old.serving.is_empty();
            let keeps = |s: &StoreId| first || complete.contains(s);
            // It was planned while more of them counted as complete.
            if self.map.quorum.n > 1 && !change.members.iter().any(keeps) {
                continue;
            }
            let filling: Vec<_> = change
                .members
                .iter()
                .copied()
                .filter(|s| !keeps(s))
                .collect();
            let mut prior: BTreeSet<_> = old.info.prior.iter().copied().collect();
            prior.extend(&old.info.members);
            prior.retain(|s| !change.members.contains(s));
            let info = PgInfo {
                epoch: old.info.epoch.next(),
                members: change.members.clone(),
                filling,
                prior: prior.into_iter().collect(),
                phase: if first {
                    PgPhase::Active
                } else {
                    PgPhase::Fencing
                },
            };
            let serving = if first {
                change.members.clone()
            } else {
                old.serving
            };
            self.update(
                kv,
                index,
                change.pg,
                PgState {
                    info,
                    serving,
                    cause,
                    began: at,
                },
            );
            changed = true;
        }
        changed
    }

    /// ACTIVATE. Ignored for a group that is not Fencing at this epoch.
    pub fn activate(&mut self, kv: &mut impl Kv, index: LogIndex, pgs: &[(PgId, Epoch)]) -> bool {
        let mut changed = false;
        for &(pg, epoch) in pgs {
            let Some(old) = self.get(pg) else { continue };
            if old.info.epoch != epoch || old.info.phase != PgPhase::Fencing {
                continue;
            }
            let mut state = old.clone();
            state.serving.clone_from(&state.info.members);
            settle(&mut state);
            self.update(kv, index, pg, state);
            changed = true;
        }
        changed
    }

    /// A member holds everything. When the last one does, the group is CLEAN: prior members are
    /// let go.
    pub fn filled(
        &mut self,
        kv: &mut impl Kv,
        index: LogIndex,
        done: &[(PgId, Epoch, StoreId)],
    ) -> bool {
        let mut changed = false;
        for &(pg, epoch, store) in done {
            let Some(old) = self.get(pg) else { continue };
            let known = old.info.filling.contains(&store) && old.info.phase == PgPhase::Copying;
            if old.info.epoch != epoch || !known {
                continue;
            }
            let mut state = old.clone();
            state.info.filling.retain(|s| *s != store);
            settle(&mut state);
            self.update(kv, index, pg, state);
            changed = true;
        }
        changed
    }

    /// A member must be filled again; never the last complete one.
    pub fn refill(
        &mut self,
        kv: &mut impl Kv,
        index: LogIndex,
        members: &[(PgId, Epoch, StoreId)],
    ) -> bool {
        let mut changed = false;
        for &(pg, epoch, store) in members {
            let Some(old) = self.get(pg) else { continue };
            let complete = old.complete().collect::<Vec<_>>();
            if old.info.epoch != epoch || !complete.contains(&store) || complete.len() < 2 {
                continue;
            }
            let mut state = old.clone();
            state.info.filling.push(store);
            if state.info.phase == PgPhase::Active {
                state.info.phase = PgPhase::Copying;
            }
            self.update(kv, index, pg, state);
            changed = true;
        }
        changed
    }
}

fn settle(state: &mut PgState) {
    if state.info.filling.is_empty() {
        state.info.phase = PgPhase::Active;
        state.info.prior.clear();
    } else {
        state.info.phase = PgPhase::Copying;
    }
}

fn check(state: &PgState, quorum: QuorumSizes) {
    let info = &state.info;
    let distinct: BTreeSet<_> = info.members.iter().collect();
    assert!(
        distinct.len() == info.members.len(),
        "invariant 2: {state:?}"
    );
    assert!(
        distinct.len() <= usize::from(quorum.n),
        "invariant 2: {state:?}"
    );
    assert!(
        info.filling.iter().all(|s| info.members.contains(s)),
        "invariant 2: {state:?}"
    );
    assert!(
        !info.prior.iter().any(|s| info.members.contains(s)),
        "invariant 4: {state:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;

    const P: PgId = PgId(0);

    fn s(ids: &[u128]) -> Vec<StoreId> {
        ids.iter().copied().map(StoreId).collect()
    }

    fn change(from: u64, members: &[u128]) -> PgChange {
        PgChange {
            pg: P,
            from: Epoch(from),
            members: s(members),
        }
    }

    fn begun(members: &[u128]) -> (Pgs, MemKv) {
        let mut kv = MemKv::default();
        let mut pgs = Pgs::format(&mut kv, QuorumSizes::DEFAULT, 1, LogIndex(1));
        let first = [change(0, members)];
        assert!(pgs.begin(&mut kv, LogIndex(2), Time(1), ChangeCause::Create, &first));
        (pgs, kv)
    }

    #[test]
    fn first_members_serve_at_once() {
        let (pgs, kv) = begun(&[1, 2, 3]);
        let info = &pgs.get(P).unwrap().info;
        assert_eq!(
            (info.phase, info.epoch, info.filling.len()),
            (PgPhase::Active, Epoch(1), 0)
        );
        assert_eq!(Pgs::load(&kv).unwrap().map(), pgs.map());
    }

    #[test]
    fn a_replacement_is_fenced_then_filled_then_clean() {
        let (mut pgs, mut kv) = begun(&[1, 2, 3]);
        let cause = ChangeCause::Failed(StoreId(3));
        assert!(pgs.begin(
            &mut kv,
            LogIndex(3),
            Time(2),
            cause,
            &[change(1, &[1, 2, 4])]
        ));
        let state = pgs.get(P).unwrap();
        assert_eq!(state.info.phase, PgPhase::Fencing);
        assert_eq!(
            (state.info.filling.clone(), state.info.prior.clone()),
            (s(&[4]), s(&[3]))
        );
        assert_eq!(state.serving, s(&[1, 2, 3]));
        let filled = [(P, Epoch(2), StoreId(4))];
        assert!(
            !pgs.filled(&mut kv, LogIndex(4), &filled),
            "not before activation"
        );
        assert!(pgs.activate(&mut kv, LogIndex(4), &[(P, Epoch(2))]));
        assert_eq!(pgs.get(P).unwrap().info.phase, PgPhase::Copying);
        assert!(pgs.filled(&mut kv, LogIndex(5), &filled));
        let info = &pgs.get(P).unwrap().info;
        assert_eq!((info.phase, info.prior.len()), (PgPhase::Active, 0));
    }

    #[test]
    fn who_leaves_before_it_is_filled_is_a_partial_source_until_it_is_let_go() {
        let (mut pgs, mut kv) = begun(&[1, 2, 3]);
        let cause = ChangeCause::Failed(StoreId(3));
        pgs.begin(
            &mut kv,
            LogIndex(3),
            Time(2),
            cause,
            &[change(1, &[1, 2, 4])],
        );
        let partial = |pgs: &Pgs| {
            let stores = s(&[1, 2, 3, 4, 5]).into_iter();
            stores.filter(|m| pgs.is_partial(P, *m)).collect::<Vec<_>>()
        };
        assert_eq!(partial(&pgs), [], "3 had all");
        let cause = ChangeCause::Failed(StoreId(4));
        pgs.begin(
            &mut kv,
            LogIndex(4),
            Time(3),
            cause,
            &[change(2, &[1, 2, 5])],
        );
        assert_eq!(pgs.get(P).unwrap().info.prior, s(&[3, 4]));
        assert_eq!(partial(&pgs), s(&[4]));
        assert_eq!(partial(&Pgs::load(&kv).unwrap()), s(&[4]));
        // It comes back, and is filled, as a member is.
        let back = [change(3, &[1, 2, 4])];
        pgs.begin(&mut kv, LogIndex(5), Time(4), cause, &back);
        assert_eq!(partial(&pgs), s(&[5]));
        assert!(pgs.activate(&mut kv, LogIndex(6), &[(P, Epoch(4))]));
        assert_eq!(partial(&pgs), s(&[5]));
        assert!(pgs.filled(&mut kv, LogIndex(7), &[(P, Epoch(4), StoreId(4))]));
        assert_eq!(partial(&pgs), []);
        assert_eq!(kv.get(keys::PARTIAL).unwrap(), None);
    }

    #[test]
    fn a_stale_change_is_skipped() {
        let (mut pgs, mut kv) = begun(&[1, 2, 3]);
        let cause = ChangeCause::Drain(StoreId(1));
        assert!(!pgs.begin(
            &mut kv,
            LogIndex(3),
            Time(2),
            cause,
            &[change(0, &[2, 3, 4])]
        ));
        assert!(!pgs.activate(&mut kv, LogIndex(3), &[(P, Epoch(1))]));
    }

    #[test]
    fn a_member_that_left_and_came_back_is_filled_again() {
        let (mut pgs, mut kv) = begun(&[1, 2, 3]);
        let cause = ChangeCause::Failed(StoreId(3));
        pgs.begin(
            &mut kv,
            LogIndex(3),
            Time(2),
            cause,
            &[change(1, &[1, 2, 4])],
        );
        // A second change while fencing: those to fence are still the members that served.
        pgs.begin(
            &mut kv,
            LogIndex(4),
            Time(3),
            cause,
            &[change(2, &[1, 2, 3])],
        );
        let state = pgs.get(P).unwrap();
        assert_eq!(
            (state.serving.clone(), state.info.filling.clone()),
            (s(&[1, 2, 3]), s(&[3]))
        );
    }

    #[test]
    fn regression_a_change_that_a_refill_overtook_leaves_no_group_without_a_complete_member() {
        let (mut pgs, mut kv) = begun(&[1, 2, 3]);
        let stale = [(P, Epoch(1), StoreId(1)), (P, Epoch(1), StoreId(2))];
        assert!(pgs.refill(&mut kv, LogIndex(3), &stale));
        let cause = ChangeCause::Failed(StoreId(3));
        let planned = [change(1, &[1, 2, 4])];
        assert!(!pgs.begin(&mut kv, LogIndex(4), Time(2), cause, &planned));
        let planned = [change(1, &[1, 3, 4])];
        assert!(pgs.begin(&mut kv, LogIndex(5), Time(2), cause, &planned));
    }

    #[test]
    fn the_last_complete_member_is_never_refilled() {
        let (mut pgs, mut kv) = begun(&[1, 2]);
        assert!(pgs.refill(&mut kv, LogIndex(3), &[(P, Epoch(1), StoreId(1))]));
        assert!(!pgs.refill(&mut kv, LogIndex(4), &[(P, Epoch(1), StoreId(2))]));
    }
}

//! The next member of one placement group.
use super::view::{Domain, StoreRole, StoreView};
use super::weigh::Weights;
use crate::types::{PgId, StoreId};
use std::collections::BTreeMap;

/// Copies within which two stores count as equally far below their share; then the hash decides,
/// so that PGs of one store have many different partners and nobody is herded.
const TIE: f64 = 2.0;

/// Running count of copies against fair shares.
#[derive(Debug, Clone)]
pub struct Balance<'a> {
    stores: &'a [StoreView],
    shares: BTreeMap<StoreId, f64>,
    held: BTreeMap<StoreId, f64>,
    weights: &'a Weights,
}

impl<'a> Balance<'a> {
    /// Starts from what is held.
    #[must_use]
    pub fn new(
        stores: &'a [StoreView],
        shares: BTreeMap<StoreId, f64>,
        held: BTreeMap<StoreId, f64>,
        weights: &'a Weights,
    ) -> Self {
        Self {
            stores,
            shares,
            held,
            weights,
        }
    }

    /// Weight a store is below its share (negative above it).
    #[must_use]
    pub fn deficit(&self, store: StoreId) -> f64 {
        let share = self.shares.get(&store).copied().unwrap_or(0.0);
        share - self.held.get(&store).copied().unwrap_or(0.0)
    }

    /// A store's fair share.
    #[must_use]
    pub fn share(&self, store: StoreId) -> f64 {
        self.shares.get(&store).copied().unwrap_or(0.0)
    }

    /// Counts a copy in.
    pub fn add(&mut self, store: StoreId, pg: PgId) {
        *self.held.entry(store).or_insert(0.0) += self.weights.of(pg);
    }

    /// Counts a copy out.
    pub fn remove(&mut self, store: StoreId, pg: PgId) {
        if let Some(held) = self.held.get_mut(&store) {
            *held = (*held - self.weights.of(pg)).max(0.0);
        }
    }

    /// What a copy of a group weighs.
    #[must_use]
    pub fn weight(&self, pg: PgId) -> f64 {
        self.weights.of(pg)
    }

    /// All stores.
    #[must_use]
    pub fn stores(&self) -> &'a [StoreView] {
        self.stores
    }

    /// A known store.
    #[must_use]
    pub fn view(&self, store: StoreId) -> Option<&'a StoreView> {
        self.stores.iter().find(|s| s.store == store)
    }

    /// Copies in a failure domain among `members`.
    #[must_use]
    pub fn crowd(&self, domain: Domain<'_>, members: &[StoreId]) -> usize {
        let same = |m: &&StoreId| self.view(**m).is_some_and(|v| v.domain() == domain);
        members.iter().filter(same).count()
    }

    /// True if `store` may join `members`: it receives, is not there, and its node has no copy.
    #[must_use]
    pub fn fits(&self, store: &StoreView, members: &[StoreId]) -> bool {
        store.role == StoreRole::Receives && self.has_place(store, members)
    }

    fn has_place(&self, store: &StoreView, members: &[StoreId]) -> bool {
        let on_node = |m: &StoreId| self.view(*m).is_some_and(|v| v.node == store.node);
        !members.contains(&store.store) && !members.iter().any(on_node)
    }

    /// The best store to join `members` of `pg`: least crowded domain first, then those
    /// furthest below their share, about; of the two of them that the rendezvous hash ranks first,
    /// the one that serves less. A spare store only if no other fits: a copy on a slow disk is better
    /// than none. `None` if no store fits.
    #[must_use]
    pub fn choose(&self, pg: PgId, members: &[StoreId]) -> Option<StoreId> {
        let best = self.choose_willing(pg, members);
        best.or_else(|| self.choose_of(StoreRole::Spare, pg, members))
    }

    /// As [`choose`](Self::choose), but never a spare store: for moves that need not be.
    #[must_use]
    pub fn choose_willing(&self, pg: PgId, members: &[StoreId]) -> Option<StoreId> {
        self.choose_of(StoreRole::Receives, pg, members)
    }

    /// As [`choose`](Self::choose), and a full store rather than none: for the first members, which
    /// hold nothing yet.
    #[must_use]
    pub fn choose_first(&self, pg: PgId, members: &[StoreId]) -> Option<StoreId> {
        let best = self.choose(pg, members);
        best.or_else(|| self.choose_of(StoreRole::Sheds, pg, members))
    }

    fn choose_of(&self, role: StoreRole, pg: PgId, members: &[StoreId]) -> Option<StoreId> {
        let fitting: Vec<&StoreView> = self
            .stores
            .iter()
            .filter(|s| s.role == role && self.has_place(s, members))
            .collect();
        let least = fitting
            .iter()
            .map(|s| self.crowd(s.domain(), members))
            .min()?;
        let spread: Vec<&StoreView> = fitting
            .into_iter()
            .filter(|s| self.crowd(s.domain(), members) == least)
            .collect();
        let best = spread
            .iter()
            .map(|s| self.deficit(s.store))
            .fold(f64::MIN, f64::max);
        let mut equal: Vec<&StoreView> = spread
            .into_iter()
            .filter(|s| self.deficit(s.store) >= best - TIE)
            .collect();
        equal.sort_by_key(|s| std::cmp::Reverse((rendezvous(pg, s.store), s.store)));
        match equal[..] {
            [] => None,
            [first, second, ..] if second.load < first.load / 2 => Some(second.store),
            [first, ..] => Some(first.store),
        }
    }
}

/// Highest-random-weight hash (Thaler, Ravishankar 1998): the same pair always weighs the same.
pub(super) fn rendezvous(pg: PgId, store: StoreId) -> u64 {
    let folded = (store.0 >> 64) as u64 ^ store.0 as u64;
    let mut z = folded ^ (u64::from(pg.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

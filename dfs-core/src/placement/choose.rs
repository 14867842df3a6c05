//! The next member of one placement group.
use super::view::{Domain, StoreRole, StoreView};
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
    held: BTreeMap<StoreId, u32>,
}

impl<'a> Balance<'a> {
    /// Starts from what is held.
    #[must_use]
    pub fn new(
        stores: &'a [StoreView],
        shares: BTreeMap<StoreId, f64>,
        held: BTreeMap<StoreId, u32>,
    ) -> Self {
        Self {
            stores,
            shares,
            held,
        }
    }

    /// Copies a store is below its share (negative above it).
    #[must_use]
    pub fn deficit(&self, store: StoreId) -> f64 {
        let share = self.shares.get(&store).copied().unwrap_or(0.0);
        share - f64::from(self.held.get(&store).copied().unwrap_or(0))
    }

    /// A store's fair share.
    #[must_use]
    pub fn share(&self, store: StoreId) -> f64 {
        self.shares.get(&store).copied().unwrap_or(0.0)
    }

    /// Counts a copy in.
    pub fn add(&mut self, store: StoreId) {
        *self.held.entry(store).or_insert(0) += 1;
    }

    /// Counts a copy out.
    pub fn remove(&mut self, store: StoreId) {
        if let Some(count) = self.held.get_mut(&store) {
            *count = count.saturating_sub(1);
        }
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
        let on_node = |m: &StoreId| self.view(*m).is_some_and(|v| v.node == store.node);
        store.role == StoreRole::Receives
            && !members.contains(&store.store)
            && !members.iter().any(on_node)
    }

    /// The best store to join `members` of `pg`: least crowded domain first, then furthest below
    /// its share, then by rendezvous hash. `None` if no store fits.
    #[must_use]
    pub fn choose(&self, pg: PgId, members: &[StoreId]) -> Option<StoreId> {
        let fitting: Vec<&StoreView> = self
            .stores
            .iter()
            .filter(|s| self.fits(s, members))
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
        spread
            .into_iter()
            .filter(|s| self.deficit(s.store) >= best - TIE)
            .max_by_key(|s| (rendezvous(pg, s.store), s.store))
            .map(|s| s.store)
    }
}

/// Highest-random-weight hash (Thaler, Ravishankar 1998): the same pair always weighs the same.
fn rendezvous(pg: PgId, store: StoreId) -> u64 {
    let folded = (store.0 >> 64) as u64 ^ store.0 as u64;
    let mut z = folded ^ (u64::from(pg.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

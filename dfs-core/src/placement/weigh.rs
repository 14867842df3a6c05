//! What a copy of each group weighs: its bytes, in units of the mean group.
//!
//! Groups that hold nothing weigh a little, so that those that will be filled tomorrow
//! are spread as well. All weights together are as many as there are groups: without any bytes, or
//! with few, each copy counts one.
use crate::types::{PgId, PgMap, StoreId};
use std::collections::BTreeMap;

/// Part of the mean that a group weighs besides its bytes, and bytes at least: a few small files are
/// no reason to move anything.
const BASE: f64 = 0.03;
const BASE_BYTES: f64 = 65_536.0;

/// With less than this in all groups together, nothing is moved for its bytes: the next file may
/// well be larger.
const EVEN_BELOW: u64 = 4 << 20;

/// A weight per group, in order. See the [module docs](self).
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    weights: Vec<f64>,
    bytes: Vec<u64>,
}

impl Weights {
    /// All the same.
    #[must_use]
    pub fn even(pgs: usize) -> Self {
        Self {
            weights: vec![1.0; pgs],
            bytes: Vec::new(),
        }
    }

    /// By bytes of each group, one copy.
    #[must_use]
    pub fn of_bytes(bytes: &[u64]) -> Self {
        let sum: u64 = bytes.iter().sum();
        if sum < EVEN_BELOW {
            return Self {
                bytes: bytes.to_vec(),
                ..Self::even(bytes.len())
            };
        }
        let mean = sum as f64 / bytes.len() as f64;
        let base = (mean * BASE).max(BASE_BYTES);
        let weight = |b: &u64| (*b as f64 + base) / (mean + base);
        Self {
            weights: bytes.iter().map(weight).collect(),
            bytes: bytes.to_vec(),
        }
    }

    /// Bytes of one copy of it, as far as known.
    #[must_use]
    pub fn bytes(&self, pg: PgId) -> u64 {
        self.bytes.get(usize::from(pg.0)).copied().unwrap_or(0)
    }

    /// Of one group.
    #[must_use]
    pub fn of(&self, pg: PgId) -> f64 {
        let weight = self.weights.get(usize::from(pg.0));
        weight.copied().unwrap_or(1.0)
    }

    /// What the copies of each store weigh now.
    #[must_use]
    pub fn held(&self, map: &PgMap) -> BTreeMap<StoreId, f64> {
        let mut held = BTreeMap::new();
        for (info, weight) in map.pgs.iter().zip(&self.weights) {
            for store in &info.members {
                *held.entry(*store).or_insert(0.0) += weight;
            }
        }
        held
    }
}

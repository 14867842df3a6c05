//! Sums of two tables that must hold the same counts in different orders.
//!
//! Each count is added, mixed with its key, to one of many buckets, on one side or the other. Buckets
//! that differ in the end are named in a second pass, which keeps only their keys.
use super::super::keys;
use super::{Findings, hex};
use crate::types::{Ino, VersionNo};
use crate::wire::audit::FaultKind;
use std::collections::{BTreeMap, BTreeSet};

const BUCKETS: usize = 4096;

/// What is counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counted {
    /// Rows that refer to an object.
    Object = 0,
    /// Rows of an inode's chunk that refer to a group.
    Group = 1,
    /// Histories that hold a version.
    Pin = 2,
}

const ALL: [Counted; 3] = [Counted::Object, Counted::Group, Counted::Pin];

#[derive(Debug)]
pub(super) struct Sums {
    /// What is stored minus what is counted, per bucket.
    buckets: Vec<[u64; BUCKETS]>,
    naming: Option<Naming>,
}

#[derive(Debug, Default)]
struct Naming {
    buckets: BTreeSet<(Counted, usize)>,
    differ: BTreeMap<(Counted, Vec<u8>), (u64, u64)>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            buckets: vec![[0; BUCKETS]; ALL.len()],
            naming: None,
        }
    }
}

/// FNV-1a with a final mix: not against an adversary, only against coincidence.
fn mix(key: &[u8]) -> u64 {
    let fnv = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    let mut z = key.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) | 1
}

impl Sums {
    /// The table says so.
    pub fn stored(&mut self, what: Counted, key: &[u8], count: u64) {
        self.add(what, key, count, true);
    }

    /// Counted by hand.
    pub fn counted(&mut self, what: Counted, key: &[u8], count: u64) {
        self.add(what, key, count, false);
    }

    fn add(&mut self, what: Counted, key: &[u8], count: u64, is_stored: bool) {
        let mixed = mix(key);
        let bucket = (mixed >> 32) as usize % BUCKETS;
        if let Some(naming) = &mut self.naming {
            if naming.buckets.contains(&(what, bucket)) {
                let of = naming.differ.entry((what, key.to_vec())).or_default();
                match is_stored {
                    true => of.0 += count,
                    false => of.1 += count,
                }
            }
            return;
        }
        let sum = &mut self.buckets[what as usize][bucket];
        let change = mixed.wrapping_mul(count);
        *sum = match is_stored {
            true => sum.wrapping_add(change),
            false => sum.wrapping_sub(change),
        };
    }

    /// True if something differs: everything must be added once more.
    pub fn begin_naming(&mut self) -> bool {
        let differ = |what: Counted| {
            let buckets = self.buckets[what as usize].iter().enumerate();
            buckets.filter_map(move |(at, sum)| (*sum != 0).then_some((what, at)))
        };
        let buckets: BTreeSet<_> = ALL.into_iter().flat_map(differ).collect();
        if buckets.is_empty() {
            return false;
        }
        self.naming = Some(Naming {
            buckets,
            differ: BTreeMap::new(),
        });
        true
    }

    /// Names what differs.
    pub fn name(&mut self, found: &mut Findings) {
        let differ = self.naming.take().unwrap_or_default().differ;
        for ((what, key), (stored, counted)) in differ {
            if stored == counted {
                continue;
            }
            let words = format!("{stored} counted, {counted} found");
            let ino_at = |at| Ino(keys::u64_at(&key, at).unwrap_or(0));
            match what {
                Counted::Object => {
                    let what = format!("object {}: {words}", hex(key.get(1..).unwrap_or(&[])));
                    found.add(FaultKind::ObjectReferences, Ino(0), what);
                }
                Counted::Group => {
                    let ino = ino_at(3);
                    let chunk = keys::u32_at(&key, 11).unwrap_or(0);
                    let pg = key
                        .get(1..3)
                        .map_or(0, |b| u16::from(b[0]) << 8 | u16::from(b[1]));
                    let what = format!("group {pg}, inode {ino}, chunk {chunk}: {words}");
                    found.add(FaultKind::GroupIndex, ino, what);
                }
                Counted::Pin => {
                    let no = VersionNo(keys::u64_at(&key, 8).unwrap_or(0));
                    let what = format!("inode {}, version {no}: {words}", ino_at(0));
                    found.add(FaultKind::PinCount, ino_at(0), what);
                }
            }
        }
    }
}

//! Placement groups as this store knows them, and its fences.
//!
//! ```text
//!                 a newer epoch in the map            Persisted
//!  serves epoch e ────────────────────────> refuses e ─────────> adopted e' (reported as fenced)
//! ```
//! Steps: the map arrives with a heartbeat answer; from that moment the older epoch is refused; the
//! newer one is made durable; it is reported; only then may it be served.
//!
//! Invariants:
//! 1. the durable epoch of a group never falls, over restarts too;
//! 2. a group is served only at its durable epoch, which is also the one of the map.
use crate::types::{Epoch, LogIndex, PgId, PgInfo, PgMap, PgPhase, StoreId};
use crate::wire::{ErrorCode, WireError};
use std::collections::{BTreeMap, BTreeSet};

/// What this store is to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A member; while it is filled it does not know everything.
    Member {
        /// Still being filled.
        filling: bool,
    },
    /// A member of an earlier epoch: a read-only source.
    Prior,
    /// Neither: what it holds are strays.
    Gone,
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct Groups {
    me: StoreId,
    version: LogIndex,
    infos: Vec<PgInfo>,
    durable: BTreeMap<PgId, Epoch>,
    adopting: BTreeMap<PgId, Epoch>,
    /// Adopted since the last answered heartbeat.
    unreported: BTreeSet<PgId>,
    /// The map changed since adoptions were last taken.
    is_new: bool,
}

impl Groups {
    /// Nothing known yet.
    #[must_use]
    pub fn new(me: StoreId) -> Self {
        Self {
            me,
            version: LogIndex(0),
            infos: Vec::new(),
            durable: BTreeMap::new(),
            adopting: BTreeMap::new(),
            unreported: BTreeSet::new(),
            is_new: false,
        }
    }

    /// An epoch found on disk.
    pub fn restore(&mut self, pg: PgId, epoch: Epoch) {
        self.durable.insert(pg, epoch);
    }

    /// Version of the map; 0 before the first.
    #[must_use]
    pub fn version(&self) -> LogIndex {
        self.version
    }

    /// Number of groups; `None` before the first map.
    #[must_use]
    pub fn count(&self) -> Option<u16> {
        u16::try_from(self.infos.len()).ok().filter(|n| *n > 0)
    }

    /// Takes a map. False if it is not newer, or malformed. A group whose epoch is older than what
    /// is known here (a deposed master's map, after a restart) keeps what is known, or is unknown.
    pub fn learn(&mut self, map: PgMap) -> bool {
        let fits = self.infos.is_empty() || self.infos.len() == map.pgs.len();
        let count_fits = u16::try_from(map.pgs.len()).is_ok_and(|n| n > 0);
        if map.version <= self.version || !fits || !count_fits {
            return false;
        }
        self.version = map.version;
        self.is_new = true;
        for (i, info) in map.pgs.into_iter().enumerate() {
            let pg = PgId(i as u16);
            match self.infos.get_mut(i) {
                Some(known) if info.epoch >= known.epoch => *known = info,
                Some(_) => {}
                None if self.durable.get(&pg).is_some_and(|d| *d > info.epoch) => {
                    self.infos.push(unknown());
                }
                None => self.infos.push(info),
            }
        }
        true
    }

    /// All groups of the map.
    pub fn iter(&self) -> impl Iterator<Item = (PgId, &PgInfo)> {
        self.infos
            .iter()
            .enumerate()
            .map(|(i, info)| (PgId(i as u16), info))
    }

    /// One group of the map.
    #[must_use]
    pub fn info(&self, pg: PgId) -> Option<&PgInfo> {
        self.infos.get(usize::from(pg.0))
    }

    /// What this store is to a group; `None` if the group is not known (no map yet).
    #[must_use]
    pub fn role(&self, pg: PgId) -> Option<Role> {
        let info = self.info(pg)?;
        if self.durable.get(&pg).is_some_and(|d| *d > info.epoch) {
            return None;
        }
        if info.members.contains(&self.me) {
            let filling = info.filling.contains(&self.me);
            return Some(Role::Member { filling });
        }
        Some(if info.prior.contains(&self.me) {
            Role::Prior
        } else {
            Role::Gone
        })
    }

    /// True if this store ever adopted an epoch of the group.
    #[must_use]
    pub fn was_here(&self, pg: PgId) -> bool {
        self.durable.contains_key(&pg)
    }

    /// True if the map's epoch of the group is durable here.
    #[must_use]
    pub fn is_adopted(&self, pg: PgId) -> bool {
        let durable = self.durable.get(&pg).copied();
        self.info(pg)
            .is_some_and(|info| Some(info.epoch) == durable)
    }

    /// Epochs to be made durable now; they are under way from then on.
    pub fn take_adoptions(&mut self) -> Vec<(PgId, Epoch)> {
        let mut epochs = Vec::new();
        if !std::mem::take(&mut self.is_new) {
            return epochs;
        }
        for (pg, info) in self.iter() {
            let durable = self.durable.get(&pg).copied();
            let concerns = durable.is_some()
                || info.members.contains(&self.me)
                || info.prior.contains(&self.me);
            let known = durable
                .max(self.adopting.get(&pg).copied())
                .unwrap_or_default();
            if concerns && info.epoch > known {
                epochs.push((pg, info.epoch));
            }
        }
        self.adopting.extend(epochs.iter().copied());
        epochs
    }

    /// These epochs are durable.
    pub fn adopted(&mut self, epochs: &[(PgId, Epoch)]) {
        for &(pg, epoch) in epochs {
            if self.adopting.get(&pg) == Some(&epoch) {
                self.adopting.remove(&pg);
            }
            let durable = self.durable.entry(pg).or_default();
            *durable = (*durable).max(epoch);
            self.unreported.insert(pg);
        }
    }

    /// Fences to report: the new ones and all groups that are being fenced; with `all`, every one.
    #[must_use]
    pub fn fenced(&self, all: bool) -> Vec<(PgId, Epoch)> {
        let is_wanted = |pg: PgId| {
            let fencing = self.info(pg).is_some_and(|i| i.phase == PgPhase::Fencing);
            all || fencing || self.unreported.contains(&pg)
        };
        let durable = self.durable.iter().map(|(pg, epoch)| (*pg, *epoch));
        durable.filter(|(pg, _)| is_wanted(*pg)).collect()
    }

    /// The master answered a heartbeat with these fences.
    pub fn reported(&mut self, fenced: &[(PgId, Epoch)]) {
        for (pg, epoch) in fenced {
            if self.durable.get(pg) == Some(epoch) {
                self.unreported.remove(pg);
            }
        }
    }

    /// Checks that the group may be served at `epoch` here (invariant 2). The lease is the
    /// caller's matter.
    ///
    /// # Errors
    /// `NoServingLease` before the first map, `Invalid` for a group that does not exist, otherwise
    /// `WrongEpoch` with what is known here.
    pub fn serves(&self, pg: PgId, epoch: Epoch) -> Result<&PgInfo, WireError> {
        if self.infos.is_empty() {
            return Err(WireError::new(
                ErrorCode::NoServingLease,
                "the store knows no map yet",
            ));
        }
        let Some(info) = self.info(pg) else {
            let detail = format!("placement group {} does not exist", pg.0);
            return Err(WireError::new(ErrorCode::Invalid, detail));
        };
        let durable = self.durable.get(&pg).copied().unwrap_or_default();
        let wrong = |why: &str| {
            let known = info.epoch.max(durable);
            let detail = format!(
                "placement group {}: epoch {known} here, asked {epoch}: {why}",
                pg.0
            );
            Err(WireError::new(ErrorCode::WrongEpoch, detail))
        };
        if info.epoch != epoch || durable > epoch {
            return wrong("another epoch");
        }
        if durable != epoch {
            return wrong("the epoch is not adopted yet");
        }
        if info.phase == PgPhase::Fencing {
            return wrong("its members are being fenced");
        }
        if !info.members.contains(&self.me) {
            return wrong("this store is no member");
        }
        Ok(info)
    }

    /// Stores to copy from: complete members first, then prior members, then members being filled.
    #[must_use]
    pub fn sources(&self, pg: PgId) -> Vec<StoreId> {
        let Some(info) = self.info(pg) else {
            return Vec::new();
        };
        let complete = info.members.iter().filter(|s| !info.filling.contains(s));
        let all = complete.chain(&info.prior).chain(&info.filling);
        all.copied().filter(|s| *s != self.me).collect()
    }

    /// Members that hold everything.
    #[must_use]
    pub fn complete_members(&self, pg: PgId) -> usize {
        self.info(pg)
            .map_or(0, |i| i.members.len().saturating_sub(i.filling.len()))
    }
}

/// A group of which only an outdated configuration is known.
fn unknown() -> PgInfo {
    PgInfo {
        epoch: Epoch(0),
        members: Vec::new(),
        filling: Vec::new(),
        prior: Vec::new(),
        phase: PgPhase::Fencing,
    }
}

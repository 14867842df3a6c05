//! What a complete member lacks: objects it was told of and has not got, and groups of which it
//! missed news.
//!
//! Notes that no store needs any more are trimmed, and those of a store that is away too long. Its
//! cursor then lies before the trimmed index, and what happened between is lost to it. Steps:
//! 1. the master says up to where notes are trimmed; whoever is behind that starts all filling
//!    anew, for what was listed before may have been followed by news that are gone;
//! 2. groups in which this store counts as complete, and those that it is a source of, are noted down
//!    durably, before the cursor passes the gap;
//! 3. each of the first is gone through as if it were filled ([`fill`](super::fill)), stamps unknown
//!    meanwhile; a source is listed nothing, and stays noted down until it is let go;
//! 4. the group is struck off when a whole pass found nothing missing.
//!
//! Until then, and while anything noted is missing for some seconds, the heartbeats say so: a copy
//! that lacks something is no full copy. That holds for the source of a group that moved as well, and
//! from the first heartbeat on, which goes out before the groups are known.
use super::fill::Fill;
use super::groups::Role;
use super::machine::{Cx, Replica};
use super::tables::{TableError, keys};
use crate::types::{LogIndex, PgId, Time};
use crate::wire::master::StoreLacks;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is missing for less than this is not reported: a copy may just be late.
const LATE: Duration = Duration::from_secs(3);
/// Between two counts of what is missing.
const COUNT_EVERY: Duration = Duration::from_millis(400);
/// Groups named in a heartbeat at most; the total counts all.
const GROUPS_MAX: usize = 4096;

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// Complete groups of which news were missed.
    gaps: BTreeSet<PgId>,
    /// As on disk.
    stored: BTreeSet<PgId>,
    /// Notes up to here may have been missed, and what follows from that was done.
    missed: LogIndex,
    counted_at: Option<Time>,
    lacks: BTreeMap<PgId, u32>,
}

impl CatchUp {
    /// Groups found on disk.
    pub fn new(gaps: BTreeSet<PgId>) -> Self {
        Self {
            stored: gaps.clone(),
            gaps,
            ..Self::default()
        }
    }

    /// News of the group were missed.
    pub fn is_open(&self, pg: PgId) -> bool {
        self.gaps.contains(&pg)
    }

    /// A listing teaches nothing if it is older.
    pub fn missed(&self) -> LogIndex {
        self.missed
    }

    /// For the heartbeat.
    pub fn lacks(&self) -> StoreLacks {
        let named = self.lacks.iter().take(GROUPS_MAX);
        StoreLacks {
            groups: named.map(|(pg, n)| (*pg, *n)).collect(),
            total: self.lacks.values().map(|n| u64::from(*n)).sum(),
        }
    }
}

/// What this store holds of such a group counts as all of it, unless it says otherwise.
fn should_be_whole(role: Option<Role>) -> bool {
    matches!(role, Some(Role::Member { filling: false } | Role::Prior))
}

impl Replica {
    /// The master has no notes up to `trimmed` any more.
    pub(super) fn notes_trimmed(
        &mut self,
        cx: &mut Cx<'_>,
        trimmed: LogIndex,
    ) -> Result<(), TableError> {
        if self.cursor >= trimmed || trimmed <= self.catch_up.missed || self.failure.is_some() {
            return Ok(());
        }
        self.catch_up.missed = trimmed;
        let groups = self.groups.iter().map(|(pg, _)| pg);
        self.catch_up.gaps = groups
            .filter(|pg| should_be_whole(self.groups.role(*pg)))
            .collect();
        let groups = self.catch_up.gaps.len();
        if groups > 0 {
            tracing::info!(%trimmed, cursor = %self.cursor, groups, "notes were missed");
        }
        for pg in std::mem::take(&mut self.fills).keys() {
            self.fill_checks.forget(*pg);
        }
        self.fills_changed(cx);
        self.store_gaps(cx);
        // What was deleted in the gap can be had from nobody; what is needed, the listings name again.
        // Of what is damaged and held, the strays are found by themselves.
        let mut gone = self.wants.noted(trimmed);
        for id in self.wants.damaged_ids() {
            if self.tables.object(cx.store, id)?.is_none() {
                gone.push(id);
            }
        }
        let mut tx = self.tables.begin();
        for id in gone {
            let pg = self.wants.get(id).map(|want| want.row.pg);
            // A source is listed nothing.
            if pg.and_then(|pg| self.groups.role(pg)) != Some(Role::Prior) {
                self.unwant(cx, &mut tx, id);
            }
        }
        self.persist(cx, tx, Vec::new());
        Ok(())
    }

    /// Strikes off groups that were gone through, and those that are not this store's any more.
    pub(super) fn pump_catch_up(&mut self, cx: &mut Cx<'_>) {
        if self.catch_up.gaps.is_empty() && self.catch_up.stored.is_empty() {
            return;
        }
        let (groups, fills) = (&self.groups, &mut self.fills);
        if groups.count().is_some() {
            self.catch_up.gaps.retain(|pg| {
                let is_done = fills.get(pg).is_some_and(|f| f.is_check && f.is_done());
                if is_done {
                    fills.remove(pg);
                }
                !is_done && should_be_whole(groups.role(*pg))
            });
        }
        self.store_gaps(cx);
    }

    fn store_gaps(&mut self, cx: &mut Cx<'_>) {
        if self.catch_up.gaps == self.catch_up.stored {
            return;
        }
        self.catch_up.stored.clone_from(&self.catch_up.gaps);
        let mut tx = self.tables.begin();
        let gaps = &self.catch_up.gaps;
        self.tables.put(&mut tx, keys::gaps(), gaps);
        self.persist(cx, tx, Vec::new());
    }

    /// A group in which it counts as complete is gone through again.
    pub(super) fn new_fill(&self, pg: PgId, now: Time) -> Option<Fill> {
        let epoch = self.groups.info(pg)?.epoch;
        let is_check = match self.groups.role(pg)? {
            Role::Member { filling: true } => false,
            Role::Member { filling: false } if self.catch_up.is_open(pg) => true,
            _ => return None,
        };
        let since = self.groups.version().max(self.catch_up.missed());
        Some(Fill::new(epoch, since, now, is_check))
    }

    /// Other groups concern it: the next heartbeat counts anew.
    pub(super) fn recount_lacks(&mut self) {
        self.catch_up.counted_at = None;
    }

    pub(super) fn count_lacks(&mut self, now: Time) {
        let is_due = self
            .catch_up
            .counted_at
            .is_none_or(|at| now >= at + COUNT_EVERY);
        if !is_due && self.wants.len() > 0 {
            return;
        }
        self.catch_up.counted_at = Some(now);
        self.catch_up.lacks = self.wants.lacking(now - LATE);
        // What fills a group may take its time; and this may be told together with its end.
        let groups = &self.groups;
        let counts = |pg: &PgId| match groups.role(*pg) {
            None | Some(Role::Member { filling: false } | Role::Prior) => true,
            Some(Role::Member { filling: true } | Role::Gone) => false,
        };
        self.catch_up.lacks.retain(|pg, _| counts(pg));
        for pg in &self.catch_up.gaps {
            self.catch_up.lacks.entry(*pg).or_insert(1);
        }
    }
}

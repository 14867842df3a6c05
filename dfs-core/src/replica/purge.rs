//! Strays: what this store holds of groups it has nothing to do with any more.
//!
//! A run takes all such groups, walks the objects once in pages, deletes the strays (they
//! rest, see [`quarantine`](super::quarantine), and are no replicas any more), then their stamps, marks and
//! missing rows, and reports the groups as emptied. One page is under way at a
//! time. A group that is given back to this store meanwhile drops out of the run: filling looks
//! after it.
//!
//! Invariant: only a group whose newest epoch is durable here, and whose configuration names this
//! store neither as member nor as prior member, is emptied.
use super::groups::Role;
use super::machine::{After, Cx, Replica};
use super::tables::{self, MissingRow, ObjectRow, TableError, keys};
use crate::store::RestReason;
use crate::types::{Epoch, PgId};
use std::collections::BTreeSet;

/// Rows looked at per page.
const PAGE: usize = 512;
/// Pages without a stray that are passed over at a time.
const EMPTY_PAGES_MAX: u32 = 16;

#[derive(Debug)]
struct Run {
    pgs: BTreeSet<PgId>,
    /// Object key to go on after; `None` at the start.
    after: Option<Vec<u8>>,
    is_walked: bool,
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Purge {
    wanted: BTreeSet<PgId>,
    run: Option<Run>,
    is_busy: bool,
    /// The last batch of these is under way.
    rows_under_way: BTreeSet<PgId>,
    emptied: BTreeSet<PgId>,
    /// Emptied in this run of the daemon, and not this store's since: not walked again, whatever
    /// epochs others begin there.
    done: BTreeSet<PgId>,
    /// Walks begun.
    pub(super) walks: u64,
}

impl Purge {
    /// Groups still to be emptied.
    pub fn left(&self) -> u32 {
        let run = self.run.as_ref().map_or(0, |run| run.pgs.len());
        let all = self.wanted.len() + run + self.rows_under_way.len();
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Emptied and not yet reported.
    pub fn emptied(&self) -> Vec<PgId> {
        self.emptied.iter().copied().collect()
    }

    pub fn reported(&mut self, pgs: &[PgId]) {
        pgs.iter().for_each(|pg| {
            self.emptied.remove(pg);
        });
    }

    /// The group is this store's again.
    fn forget(&mut self, pg: PgId) {
        self.wanted.remove(&pg);
        self.emptied.remove(&pg);
        self.rows_under_way.remove(&pg);
        if let Some(run) = &mut self.run {
            run.pgs.remove(&pg);
        }
    }

    fn is_running(&self, pg: PgId) -> bool {
        let is_walked = self.run.as_ref().is_some_and(|run| run.pgs.contains(&pg));
        is_walked || self.rows_under_way.contains(&pg)
    }
}

impl Replica {
    /// These epochs are durable now.
    pub(super) fn strays_changed(&mut self, pgs: impl Iterator<Item = PgId>) {
        for pg in pgs {
            if self.groups.role(pg) != Some(Role::Gone) {
                self.purge.done.remove(&pg);
            }
            if !self.is_stray(pg) {
                self.purge.forget(pg);
            } else if !self.purge.done.contains(&pg) && !self.purge.is_running(pg) {
                self.purge.wanted.insert(pg);
            }
        }
    }

    /// A batch of the run is durable.
    pub(super) fn purge_done(&mut self, cx: &Cx<'_>) {
        self.purge.is_busy = false;
        for pg in std::mem::take(&mut self.purge.rows_under_way) {
            if self.is_stray(pg) {
                self.purge.done.insert(pg);
                self.purge.emptied.insert(pg);
                self.heartbeats.ask(cx.now, &self.config);
            }
        }
    }

    fn is_stray(&self, pg: PgId) -> bool {
        self.groups.role(pg) == Some(Role::Gone)
            && self.groups.was_here(pg)
            && self.groups.is_adopted(pg)
    }

    pub(super) fn pump_purge(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        if self.purge.is_busy {
            return Ok(());
        }
        if self.purge.run.is_none() && !self.purge.wanted.is_empty() {
            let pgs = std::mem::take(&mut self.purge.wanted);
            self.purge.walks += 1;
            self.purge.run = Some(Run {
                pgs,
                after: None,
                is_walked: false,
            });
        }
        let Some(mut run) = self.purge.run.take() else {
            return Ok(());
        };
        run.pgs.retain(|pg| self.is_stray(*pg));
        if run.pgs.is_empty() {
            return Ok(());
        }
        if run.is_walked {
            self.purge_rows(cx, &run.pgs)?;
            self.purge.rows_under_way = run.pgs;
            return Ok(());
        }
        self.purge_page(cx, &mut run)?;
        self.purge.run = Some(run);
        Ok(())
    }

    fn purge_page(&mut self, cx: &mut Cx<'_>, run: &mut Run) -> Result<(), TableError> {
        let mut tx = self.tables.begin();
        let (mut pages, mut strays) = (0, 0);
        while strays == 0 && pages < EMPTY_PAGES_MAX && !run.is_walked {
            let after = run.after.as_deref();
            let rows = self
                .tables
                .scan(cx.store, &keys::table(b'o'), after, PAGE)?;
            run.is_walked = rows.len() < PAGE;
            for (key, value) in &rows {
                let row: ObjectRow = tables::decode(key, value)?;
                if run.pgs.contains(&row.pg) {
                    let id = keys::parse_object(key).ok_or_else(|| tables::bad_key(key))?;
                    let epoch = self.groups.info(row.pg).map_or(Epoch(0), |info| info.epoch);
                    let reason = RestReason::Moved(row.pg, epoch);
                    self.delete_object(cx, &mut tx, id, reason)?;
                    self.rejoin.wiped(row.pg);
                    strays += 1;
                }
            }
            run.after = rows.last().map(|(key, _)| key.clone()).or(run.after.take());
            pages += 1;
        }
        self.purge.is_busy = true;
        self.persist(cx, tx, vec![After::Purged]);
        Ok(())
    }

    /// Stamps, marks and missing rows of the groups.
    fn purge_rows(&mut self, cx: &mut Cx<'_>, pgs: &BTreeSet<PgId>) -> Result<(), TableError> {
        let mut tx = self.tables.begin();
        for &pg in pgs {
            for (ino, op) in self.marks.of_pg(pg) {
                self.drop_mark(&mut tx, (pg, ino), op);
            }
            let prefix = keys::of_pg(b's', pg);
            for (key, _) in self.tables.scan(cx.store, &prefix, None, usize::MAX)? {
                self.tables.delete(&mut tx, key);
            }
        }
        for (key, value) in self
            .tables
            .scan(cx.store, &keys::table(b'x'), None, usize::MAX)?
        {
            let row: MissingRow = tables::decode(&key, &value)?;
            if pgs.contains(&row.object.pg) {
                let id = keys::parse_object(&key).ok_or_else(|| tables::bad_key(&key))?;
                self.unwant(cx, &mut tx, id);
                self.tables.delete(&mut tx, key);
            }
        }
        self.purge.is_busy = true;
        self.persist(cx, tx, vec![After::Purged]);
        Ok(())
    }
}

//! What is copied to fill a group, counted durably.
//!
//! Steps: the batch that stores a fetched object also raises the row of its file; when the group is
//! filled the rows are summed up and reported with it; when the group is no longer filled (the
//! master has counted it, or has other plans) they go.
//!
//! Invariant: a row says what of that file this store has durably copied at that epoch, whatever
//! crashed in between.
use super::groups::Role;
use super::machine::{Cx, Replica};
use super::tables::{self, FillRow, ObjectRow, TableError, Tx, keys};
use crate::types::{ChunkNo, Epoch, Ino, PgId};
use crate::wire::repair::FillCount;
use std::collections::BTreeSet;

/// Groups reported as filled in one heartbeat.
const REPORTED_MAX: usize = 32;
/// Inodes in one heartbeat, about; what is beyond is reported with the next.
const WIDE_MAX: usize = 20_000;

impl Replica {
    /// An object is stored with this batch.
    pub(super) fn count_fetched(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        row: &ObjectRow,
    ) -> Result<(), TableError> {
        let Some(fill) = self.fills.get(&row.pg) else {
            return Ok(());
        };
        let (epoch, is_wide) = (fill.epoch, fill.is_wide(row.ino));
        let key = keys::fill(row.pg, row.ino);
        let known: Option<FillRow> = self.tables.get(cx.store, &key)?;
        let mut count = known.filter(|r| r.epoch == epoch).unwrap_or_default();
        count.epoch = epoch;
        count.objects += 1;
        count.bytes += u64::from(row.sum.len);
        count.is_wide |= is_wide || row.chunk != ChunkNo::HOME;
        self.tables.put(tx, key, &count);
        self.counted.insert(row.pg);
        Ok(())
    }

    /// An object that was counted is not kept.
    pub(super) fn uncount_fetched(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        row: &ObjectRow,
    ) -> Result<(), TableError> {
        let key = keys::fill(row.pg, row.ino);
        let known: Option<FillRow> = self.tables.get(cx.store, &key)?;
        let epoch = self.fills.get(&row.pg).map(|fill| fill.epoch);
        if let Some(mut count) = known.filter(|r| Some(r.epoch) == epoch) {
            count.objects = count.objects.saturating_sub(1);
            count.bytes = count.bytes.saturating_sub(u64::from(row.sum.len));
            self.tables.put(tx, key, &count);
        }
        Ok(())
    }

    /// All that was copied for a group.
    pub(super) fn count_of(
        &self,
        cx: &Cx<'_>,
        pg: PgId,
        epoch: Epoch,
    ) -> Result<FillCount, TableError> {
        let mut sum = FillCount {
            pg,
            epoch,
            ..FillCount::default()
        };
        let prefix = keys::of_pg(b'f', pg);
        for (key, value) in self.tables.scan(cx.store, &prefix, None, usize::MAX)? {
            let (_, ino) = keys::parse_fill(&key).ok_or_else(|| tables::bad_key(&key))?;
            let row: FillRow = tables::decode(&key, &value)?;
            if row.epoch != epoch {
                continue;
            }
            sum.objects += row.objects;
            sum.bytes += row.bytes;
            // What no heartbeat could carry is counted by number.
            if row.is_wide && sum.wide.len() < WIDE_MAX {
                sum.wide.push(ino);
            } else {
                sum.files += 1;
            }
        }
        Ok(sum)
    }

    /// Groups that are filled, as long as the master calls them filling, with their counts.
    pub(super) fn filled(&self) -> Vec<FillCount> {
        let mut wide = 0;
        let done = self.fills.values().filter_map(|f| f.done_count());
        let fits = |count: &&FillCount| {
            let is_first = wide == 0;
            wide += count.wide.len();
            is_first || wide <= WIDE_MAX
        };
        done.take(REPORTED_MAX).take_while(fits).cloned().collect()
    }

    /// Drops the rows of groups that are no longer filled.
    pub(super) fn pump_counts(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        let is_filling = |pg: &PgId| {
            self.fills.contains_key(pg)
                || matches!(
                    self.groups.role(*pg),
                    None | Some(Role::Member { filling: true })
                )
        };
        let stale: BTreeSet<PgId> = self
            .counted
            .iter()
            .copied()
            .filter(|p| !is_filling(p))
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut tx = self.tables.begin();
        for pg in stale {
            self.counted.remove(&pg);
            let prefix = keys::of_pg(b'f', pg);
            for (key, _) in self.tables.scan(cx.store, &prefix, None, usize::MAX)? {
                self.tables.delete(&mut tx, key);
            }
        }
        self.persist(cx, tx, Vec::new());
        Ok(())
    }
}

/// Files with bytes in several groups, as far as a listing's page named them.
#[derive(Debug, Default)]
pub(super) struct WideFiles(BTreeSet<Ino>);

impl WideFiles {
    /// A row of a page.
    pub fn note(&mut self, ino: Ino, is_wide: bool) {
        if is_wide {
            self.0.insert(ino);
        }
    }

    pub fn contains(&self, ino: Ino) -> bool {
        self.0.contains(&ino)
    }
}

//! What an [`ObjectStore`] answers about objects that rest, and where damage is met in their rows.
//!
//! A damaged row by age still names its object, which goes in its turn. A damaged row of an object
//! counts as gone: its file is an orphan then, and what rests is counted anew.
use super::kv::{parse_hex, scan_readable};
use super::object_format::{ObjectRow, Place, TABLE_OBJECT, key_object, object_key};
use super::object_store::ObjectStore;
use super::quarantine::{
    RestReason, RestRow, Resting, RestingTotals, TABLE_AGES, TABLE_RESTING, parse_age,
};
use super::store_error::StoreError;
use super::{KvError, KvOp, KvRead, prefix_end};
use crate::types::ObjectId;

/// Rows read at a time.
const PAGE: usize = 1024;

impl ObjectStore {
    /// Objects that rest, those deleted first first.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn oldest_resting(&mut self, limit: usize) -> Result<Vec<Resting>, StoreError> {
        if self.quarantine.is_doubtful {
            self.count_anew()?;
        }
        let keys = self.oldest_ages(limit)?;
        if keys.is_empty() {
            (self.quarantine.totals, self.quarantine.is_doubtful) = Default::default();
        } else if self.quarantine.totals.objects == 0 {
            self.count_anew()?; // rows came that were not counted, of an older program
        }
        let oldest = keys.first().cloned();
        self.quarantine.oldest = oldest.unwrap_or_else(|| prefix_end(&[TABLE_AGES]));
        let mut found = Vec::with_capacity(keys.len());
        for (since_ms, id) in keys.iter().filter_map(|key| parse_age(key)) {
            let row = self.resting_row(id)?;
            found.push(Resting {
                id,
                since_ms,
                reason: row.as_ref().map(|(rest, _)| rest.reason),
                cost_bytes: row.map_or(0, |(_, row)| Self::cost_of(row.header.len)),
            });
        }
        Ok(found)
    }

    /// Keys of the first rows by age.
    fn oldest_ages(&self, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut from = self.quarantine.oldest.clone().max(vec![TABLE_AGES]);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < limit {
            let to = prefix_end(&[TABLE_AGES]);
            let (rows, bad) = scan_readable(&self.kv, &from, &to, limit - keys.len())?;
            keys.extend(rows.into_iter().map(|(key, _)| key));
            let Some(bad) = bad else { break };
            from.clone_from(&bad);
            from.push(0);
            // One that has gone is met until the next flush.
            if self.kv.get(&bad) != Ok(None) {
                keys.push(bad);
            }
        }
        Ok(keys)
    }

    /// Since when the object rests that was deleted last; 0 if none does.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn newest_rest_ms(&self) -> Result<u64, StoreError> {
        let (mut from, to) = (vec![TABLE_AGES], prefix_end(&[TABLE_AGES]));
        let mut bad = None;
        let last = loop {
            match self.kv.scan_back(&from, &to, 1) {
                Ok(rows) => break rows.into_iter().next().map(|(key, _)| key).or(bad),
                Err(KvError::Damaged { key }) => {
                    // There may be others behind it.
                    let found = parse_hex(&key).filter(|found| *found >= from);
                    let found = found.ok_or(KvError::Damaged { key })?;
                    from.clone_from(&found);
                    from.push(0);
                    bad = Some(found);
                }
                Err(e) => return Err(e.into()),
            }
        };
        let last = last.and_then(|key| parse_age(&key));
        Ok(last.map_or(0, |(since_ms, _)| since_ms))
    }

    fn count_anew(&mut self) -> Result<(), StoreError> {
        let mut totals = RestingTotals::default();
        self.each_resting(|_, _, row| {
            totals.add(row, 1);
        })?;
        (self.quarantine.totals, self.quarantine.is_doubtful) = (totals, false);
        Ok(())
    }

    /// Calls `f` for every readable row of what rests.
    fn each_resting(
        &self,
        mut f: impl FnMut(ObjectId, &RestRow, &ObjectRow),
    ) -> Result<(), StoreError> {
        let (mut from, to) = (vec![TABLE_RESTING], prefix_end(&[TABLE_RESTING]));
        loop {
            let (rows, bad) = scan_readable(&self.kv, &from, &to, PAGE)?;
            for (key, row) in &rows {
                if let (Some(id), Some((rest, row))) = (key_object(key), RestRow::decode(row)) {
                    f(id, &rest, &row);
                }
            }
            let Some(last) = bad.or_else(|| rows.last().map(|(key, _)| key.clone())) else {
                return Ok(());
            };
            from = last;
            from.push(0);
        }
    }

    /// In memory only, and to be read only: what rests for such a reason is held again. Returns how many
    /// objects that are.
    ///
    /// # Errors
    /// Reading the tables.
    pub fn take_up_resting(
        &mut self,
        is_wanted: impl Fn(RestReason) -> bool,
    ) -> Result<u64, StoreError> {
        let mut wanted = Vec::new();
        self.each_resting(|id, rest, _| {
            if is_wanted(rest.reason) {
                wanted.push((id, rest.row.clone()));
            }
        })?;
        let taken = wanted.len() as u64;
        for (id, row) in wanted {
            self.apply_ops(vec![
                KvOp::Delete(object_key(TABLE_RESTING, id)),
                KvOp::Put(object_key(TABLE_OBJECT, id), row),
            ])?;
        }
        Ok(taken)
    }
}

/// True if this file is that of an object that rests.
pub(super) fn is_file_of(rows: &impl KvRead, id: ObjectId, generation: u64) -> bool {
    let row = rows.get(&object_key(TABLE_RESTING, id)).ok().flatten();
    let row = row.and_then(|row| RestRow::decode(&row));
    row.is_some_and(|(_, row)| row.place == Place::File(generation))
}

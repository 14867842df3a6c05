//! What must hold, seen from outside.
use crate::consensus::{CommittedEntry, MessageError};
use crate::types::crc32c;
use std::collections::BTreeMap;

/// Everything that was promised so far.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// What was applied at each index, by whoever came first.
    chosen: BTreeMap<u64, (u64, u32)>,
    /// Who led each term.
    leaders: BTreeMap<u64, u64>,
    /// Acknowledged writes: op to index.
    acked: BTreeMap<u64, u64>,
    /// Highest index of an acknowledged or observed write, by key.
    seen: BTreeMap<u8, u64>,
}

impl Checker {
    /// Every member applies the same sequence.
    pub(super) fn applied(&mut self, node: u64, entry: &CommittedEntry) -> Result<(), String> {
        let value = (entry.term.0, crc32c(&entry.data));
        let first = *self.chosen.entry(entry.index.0).or_insert(value);
        if first != value {
            let index = entry.index;
            return Err(format!(
                "member {node} applied {value:?} at {index}, another {first:?}"
            ));
        }
        Ok(())
    }

    /// One leader per term.
    pub(super) fn leads(&mut self, node: u64, term: u64) -> Result<(), String> {
        let first = *self.leaders.entry(term).or_insert(node);
        match first == node {
            true => Ok(()),
            false => Err(format!("{first} and {node} both lead term {term}")),
        }
    }

    pub(super) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A client was told that its write took effect at `index`.
    pub(super) fn acked(&mut self, key: u8, op: u64, index: u64) {
        self.acked.insert(op, index);
        let seen = self.seen.entry(key).or_default();
        *seen = (*seen).max(index);
    }

    /// What a read that begins now must at least see.
    pub(super) fn floor(&self, key: u8) -> u64 {
        self.seen.get(&key).copied().unwrap_or(0)
    }

    /// A client read `index` and had to see at least `floor`.
    pub(super) fn read(&mut self, key: u8, index: u64, floor: u64) -> Result<(), String> {
        if index < floor {
            return Err(format!("a stale read of {key}: {index}, expected {floor}"));
        }
        let seen = self.seen.entry(key).or_default();
        *seen = (*seen).max(index);
        Ok(())
    }

    /// Acknowledged writes are where they were promised to be.
    pub(super) fn finish(
        &self,
        applied: u64,
        op_at: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), String> {
        for (&op, &index) in &self.acked {
            if index > applied || op_at(index) != Some(op) {
                return Err(format!("acknowledged write {op} at {index} is lost"));
            }
        }
        Ok(())
    }

    /// Members of one honest group never send what must be refused as damage.
    pub(super) fn refused(&self, reason: &MessageError) -> Result<(), String> {
        match reason {
            MessageError::NotMember { .. }
            | MessageError::NotLeader
            | MessageError::Refused { .. } => Ok(()),
            MessageError::Field {
                field: "snapshot.conf",
            } => Ok(()),
            other => Err(format!("an honest message was refused: {other}")),
        }
    }
}

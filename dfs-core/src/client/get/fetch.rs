//! One piece on its way: candidates, answers, verification.
use super::types::{Piece, ReadAnswer};
use crate::types::{BLOCK_SIZE, StoreId, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What a store said that has no good bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bad {
    /// It does not hold the object.
    Missing,
    /// Its copy fails verification.
    Damaged,
    /// It did not answer, or not now.
    Failed,
}

/// What to make of the answers so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Bytes are there, or an answer is awaited.
    Going,
    /// A candidate may be asked at once.
    AskNext,
    /// All failed, some only for now.
    Again,
    /// No candidate holds the object.
    AllMissing,
    /// Copies exist, and all fail verification.
    AllDamaged,
}

/// One piece on its way.
#[derive(Debug)]
pub(super) struct Fetch {
    pub piece: Piece,
    candidates: Vec<StoreId>,
    next: usize,
    pub waiting: BTreeSet<u64>,
    bad: BTreeMap<StoreId, Bad>,
    pub bytes: Option<Bytes>,
    /// When the next candidate is asked although an answer is awaited.
    pub hedge_at: Option<Time>,
    /// When all are asked again.
    pub again_at: Option<Time>,
    /// Rounds that ended with every copy damaged.
    pub damaged_rounds: u32,
}

impl Fetch {
    pub fn new(piece: Piece, candidates: Vec<StoreId>) -> Self {
        Self {
            piece,
            candidates,
            next: 0,
            waiting: BTreeSet::new(),
            bad: BTreeMap::new(),
            bytes: None,
            hedge_at: None,
            again_at: None,
            damaged_rounds: 0,
        }
    }

    /// A new round over these candidates.
    pub fn restart(&mut self, candidates: Vec<StoreId>) {
        self.candidates = candidates;
        self.next = 0;
        self.bad.clear();
        self.again_at = None;
        self.hedge_at = None;
    }

    /// The next candidate to ask.
    pub fn take_next(&mut self) -> Option<StoreId> {
        let to = self.candidates.get(self.next).copied();
        self.next += usize::from(to.is_some());
        to
    }

    pub fn has_next(&self) -> bool {
        self.next < self.candidates.len()
    }

    pub fn fail(&mut self, from: StoreId, bad: Bad) {
        self.bad.insert(from, bad);
    }

    pub fn damaged(&self) -> usize {
        self.bad.values().filter(|b| **b == Bad::Damaged).count()
    }

    pub fn standing(&self) -> Standing {
        if self.bytes.is_some() || self.again_at.is_some() || !self.waiting.is_empty() {
            return Standing::Going;
        }
        if self.has_next() {
            return Standing::AskNext;
        }
        if self.candidates.is_empty() || self.bad.values().any(|b| *b == Bad::Failed) {
            Standing::Again
        } else if self.damaged() > 0 {
            Standing::AllDamaged
        } else {
            Standing::AllMissing
        }
    }

    /// Takes the wanted bytes out of an answer; `None` if anything fails verification.
    pub fn verify(piece: &Piece, answer: &ReadAnswer, payload: &Bytes) -> Option<Bytes> {
        let (offset, len) = (piece.offset(), piece.len());
        let blocks = (piece.sum.len as usize).div_ceil(BLOCK_SIZE);
        let listed =
            answer.sums.0.len() == blocks && answer.sums.object_sum(piece.sum.len) == piece.sum;
        let aligned = answer.offset.is_multiple_of(BLOCK_SIZE as u32) && answer.offset <= offset;
        if !listed || !aligned {
            return None;
        }
        let from = (offset - answer.offset) as usize;
        let end = from.checked_add(len as usize)?;
        let bytes = (end <= payload.len()).then(|| payload.slice(from..end))?;
        let good = answer
            .sums
            .verify_blocks(piece.first_block as usize, &bytes);
        good.then_some(bytes)
    }
}

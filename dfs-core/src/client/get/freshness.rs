//! Whether R stamps prove a layout current.
use crate::types::{OpId, Revision, StoreId};
use crate::wire::Stamp;
use std::collections::{BTreeMap, BTreeSet};

/// What the stamps say so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// R clean stamps, the newest is the layout's.
    Current,
    /// More stamps are needed.
    Open,
    /// Only the master can tell.
    AskMaster,
}

/// Collects the stamps of one get.
#[derive(Debug)]
pub(super) struct Freshness {
    revision: Revision,
    op: OpId,
    r: usize,
    known: BTreeMap<StoreId, (Revision, OpId)>,
    /// Members asked whose answer has not come.
    pub waiting: BTreeSet<StoreId>,
    must_ask: bool,
}

impl Freshness {
    pub fn new(revision: Revision, op: OpId, r: usize) -> Self {
        let (known, waiting) = (BTreeMap::new(), BTreeSet::new());
        Self {
            revision,
            op,
            r,
            known,
            waiting,
            // A store that never heard of the inode says what one says that has forgotten it.
            must_ask: revision == Revision(0),
        }
    }

    /// Records the stamp of a member.
    pub fn add(&mut self, from: StoreId, stamp: &Stamp) {
        self.waiting.remove(&from);
        let Stamp::Known { clean, dirty } = stamp else {
            self.must_ask = true;
            return;
        };
        let decided = |x: &OpId| x.client == self.op.client && x.seq <= self.op.seq;
        let newer = clean.0 > self.revision || (clean.0 == self.revision && clean.1 != self.op);
        self.must_ask |= newer || !dirty.iter().all(decided);
        // The mark of the layout's own op: this member has been told of our revision.
        let ours = (self.revision, self.op);
        let told = if dirty.contains(&self.op) {
            ours.max(*clean)
        } else {
            *clean
        };
        self.known.insert(from, told);
    }

    /// Records that a member gave no stamp.
    pub fn fail(&mut self, from: StoreId) {
        self.waiting.remove(&from);
    }

    /// Members whose stamp is there or on its way.
    pub fn expected(&self) -> usize {
        self.known.len() + self.waiting.len()
    }

    /// See [`Verdict`].
    pub fn verdict(&self) -> Verdict {
        if self.must_ask {
            return Verdict::AskMaster;
        }
        if self.known.len() < self.r {
            return Verdict::Open;
        }
        // All older although our revision is committed: no quorum intersection, so do not guess.
        match self.known.values().max() {
            Some(max) if *max == (self.revision, self.op) => Verdict::Current,
            _ => Verdict::AskMaster,
        }
    }
}

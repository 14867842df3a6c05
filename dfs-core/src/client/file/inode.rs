//! What this mount knows and holds of one open file.
//!
//! # Invariants (checked where they could break)
//! 1. `flights` are in op order; only the first may be at the master with its commit.
//! 2. What a program reads is: committed content, then flights in order, then dirty bytes.
//! 3. `layout`, when present, was current at some moment since the last invalidation, with this
//!    mount's own commits applied.
//! 4. Bytes counted in the budget = dirty bytes + bytes of flights.
use super::dirty::Dirty;
use super::error::FileError;
use super::later::Later;
use super::layout::LayoutCache;
use super::locking::LockUses;
use super::plan::Plan;
use crate::client::put::{PutChange, PutDone};
use crate::types::{Attr, Ino, LeaseSeq, LogIndex, PutAbout, Revision, Time, Timestamp, VersionNo};
use crate::wire::WriteToken;
use crate::wire::master::Layout;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// How the session has the inode registered at the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registered {
    pub write: bool,
    pub lease: LeaseSeq,
    /// Write through: others have it open.
    pub shared: bool,
}

/// What a put does to what programs see, before it is committed.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Bytes(u64, Bytes),
    Zeros(u64, u64),
}

/// How a flight ended, for those who wait for it.
pub(super) type Outcome = Arc<OnceLock<Result<PutDone, FileError>>>;

/// A put under way.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub seq: u64,
    pub effects: Arc<Vec<Effect>>,
    pub bytes: u64,
    /// Sets an absolute size.
    pub sizes: bool,
    pub kill_suid: bool,
    pub outcome: Outcome,
}

/// A put cut from the dirty state, ready to be run.
#[derive(Debug)]
pub(super) struct Cut {
    pub flight: Flight,
    /// Its commit ends its writing period; decided when that is sent first.
    pub ends: Arc<OnceLock<bool>>,
    pub change: PutChange,
    pub ranges: Vec<(u64, Bytes)>,
    pub mtime: Option<Timestamp>,
    pub kill_suid: bool,
    pub token: WriteToken,
    /// An error is latched for the handles (else somebody waits for the outcome).
    pub latch: bool,
    /// Under which it was written.
    pub lease: Option<LeaseSeq>,
    /// For the objects' headers.
    pub about: PutAbout,
}

/// The mutable part of an [`Inode`].
#[derive(Debug, Default)]
pub(super) struct State {
    pub handles: u32,
    pub writers: u32,
    /// Of the writers, those that a close has flushed and that have changed nothing since: their
    /// release may be on its way.
    pub closed: u32,
    pub registered: Option<Registered>,
    /// The master was asked to note this session among those that have it open, and may have: it does so
    /// before it says whether it may be.
    pub asked_for: bool,
    /// Attributes as last committed or queried.
    pub attr: Option<Attr>,
    pub layout: Option<Arc<LayoutCache>>,
    /// Counts invalidations: an answer asked before one is not kept.
    pub invalidations: u64,
    /// Of those, the ones that have no place in the log, and the place of the last other one.
    pub unplaced: u64,
    pub invalidated_at: LogIndex,
    /// Of the last lock's answer, if nothing was invalidated since: the layout is current.
    pub locked_at: Option<u64>,
    /// Size that programs see.
    pub size: u64,
    /// Time of the newest local change that is not committed.
    pub mtime: Option<Timestamp>,
    pub kill_suid: bool,
    /// A change of attributes that waits for puts.
    pub later: Option<Later>,
    /// Dirty bytes were closed while a put was on its way, and follow it (`behind`).
    pub follows: bool,
    /// The committed content is cut to nothing before the dirty bytes apply (O_TRUNC).
    pub replace: Option<Time>,
    pub dirty: Dirty,
    pub flights: VecDeque<Flight>,
    pub next_flight: u64,
    /// The revisions that the last puts of this mount, one after the other, moved the content
    /// through: nobody else changed it from the first to the last.
    pub own: Option<RangeInclusive<Revision>>,
    /// The current writing period.
    pub token: Option<WriteToken>,
    /// Periods under which something was committed and not sealed.
    pub used_tokens: BTreeSet<WriteToken>,
    /// Periods that ended and whose version is to be cut.
    pub seals: Vec<WriteToken>,
    /// A task is cutting versions.
    pub sealing: bool,
    /// Recalls so far: an open asked before one may be shared by now.
    pub recalls: u64,
    /// Errors of background writes so far, and the last one.
    pub errors: u64,
    pub last_error: Option<FileError>,
    /// Owners of locks on it, or of requests for one.
    pub locks: LockUses,
    /// When the last handle went.
    pub idle_since: Option<Time>,
}

impl State {
    /// There are local changes that are not committed.
    pub fn is_pending(&self) -> bool {
        self.replace.is_some() || !self.dirty.is_empty() || !self.flights.is_empty()
    }

    /// Bytes written that are not committed.
    pub fn pending_bytes(&self) -> u64 {
        self.dirty.bytes() + self.flights.iter().map(|f| f.bytes).sum::<u64>()
    }

    /// What is not committed clears suid and sgid.
    pub fn kills_suid(&self) -> bool {
        self.kill_suid || self.flights.iter().any(|f| f.kill_suid)
    }

    /// A writing period is over, all of it is decided, and nobody cuts its version yet.
    pub fn has_ended(&self) -> bool {
        !self.seals.is_empty() && !self.sealing && !self.is_pending()
    }

    /// What was closed waits for a put, and so may what is written to it in the next period.
    pub fn is_followed(&self) -> bool {
        self.follows && !self.flights.is_empty()
    }

    /// For all that is known every writer has closed it.
    pub fn is_left(&self) -> bool {
        self.writers > 0 && self.closed == self.writers
    }

    /// There are local changes of which no put was made yet.
    pub fn is_dirty(&self) -> bool {
        self.replace.is_some() || !self.dirty.is_empty()
    }

    /// When the oldest local change without a put was made.
    pub fn dirty_since(&self) -> Option<Time> {
        [self.replace, self.dirty.since()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Writes may wait here: the session has the file open for writing, and nobody else has.
    pub fn may_buffer(&self) -> bool {
        self.registered.is_some_and(|r| r.write && !r.shared)
    }

    pub fn is_shared(&self) -> bool {
        self.registered.is_none_or(|r| r.shared)
    }

    /// Takes attributes that are newer than what is known.
    pub fn learn_attr(&mut self, attr: &Attr) {
        let newer = self
            .attr
            .as_ref()
            .is_none_or(|old| attr.revision >= old.revision);
        if newer {
            let sizes = self.replace.is_some() || self.flights.iter().any(|f| f.sizes);
            if !self.is_pending() {
                self.size = attr.size;
            } else if !sizes {
                self.size = self.size.max(attr.size);
            }
            self.attr = Some(attr.clone());
        }
    }

    /// Drops what is known of the committed content.
    pub fn invalidate(&mut self) {
        self.invalidations += 1;
        self.layout = None;
    }

    /// As [`invalidate`](Self::invalidate), for a change at `as_of`; zero: for another reason.
    pub fn invalidate_at(&mut self, as_of: LogIndex) {
        self.invalidate();
        self.unplaced += u64::from(as_of == LogIndex(0));
        self.invalidated_at = self.invalidated_at.max(as_of);
    }

    /// What came with a lock, as of a place in the log, is still true: nothing was invalidated that
    /// it does not contain. It was asked for when `unplaced` was this.
    pub fn is_current(&self, attr: &Attr, as_of: LogIndex, unplaced: u64) -> bool {
        let newest = self.attr.as_ref().map_or(attr.revision, |a| a.revision);
        unplaced == self.unplaced && as_of >= self.invalidated_at && attr.revision >= newest
    }

    /// A lock is held, and what is known came with it.
    pub fn is_locked(&self) -> bool {
        self.locked_at == Some(self.invalidations)
    }

    /// Takes a layout that was asked for when `invalidations` was this.
    pub fn learn_layout(&mut self, layout: &LayoutCache, invalidations: u64) {
        if invalidations != self.invalidations {
            return;
        }
        match &mut self.layout {
            Some(known) if known.revision > layout.revision => return,
            Some(known) => Arc::make_mut(known).absorb(layout.clone()),
            None => self.layout = Some(Arc::new(layout.clone())),
        }
        if !self.is_pending() {
            self.size = layout.size;
        }
    }

    /// Takes what an open was answered that was asked for when `invalidations` was this.
    ///
    /// A put of this mount may have been decided after the answer was given, and been heard of before it
    /// came. What is known is newer then, and stays: an older size would let the next append overwrite
    /// what that put has appended.
    pub fn learn_opened(&mut self, attr: &Attr, layout: Option<Layout>, invalidations: u64) {
        if self.invalidations == invalidations {
            let outdated = |l: &Arc<LayoutCache>| l.revision < attr.revision;
            if self.layout.as_ref().is_some_and(outdated) && !self.is_pending() {
                self.layout = None;
            }
            if let Some(layout) = layout {
                self.learn_layout(&LayoutCache::of_open(layout), invalidations);
            }
        }
        self.learn_attr(attr);
    }

    /// Where each byte of `from..to` comes from.
    pub fn plan(&self, from: u64, to: u64) -> Plan {
        let mut plan = Plan::new(from, to);
        for effect in self.flights.iter().flat_map(|f| f.effects.iter()) {
            match effect {
                Effect::Bytes(at, bytes) => plan.local(*at, bytes),
                Effect::Zeros(a, b) => plan.zero(*a, *b),
            }
        }
        if self.replace.is_some() {
            plan.zero(0, u64::MAX);
        }
        self.dirty.overlay(from, to, |at, bytes| {
            plan.local(at, &Bytes::copy_from_slice(bytes))
        });
        plan
    }

    /// A put of this mount made `revision`.
    pub fn learn_own(&mut self, revision: Revision) {
        let before = Revision(revision.0.saturating_sub(1));
        let (first, last) = match self.own.take() {
            Some(own) if *own.end() == before => (*own.start(), revision),
            // Two were decided together and are heard of in the other order.
            Some(own) if *own.start() == revision => (before, *own.end()),
            _ => (before, revision),
        };
        self.own = Some(first..=last);
    }

    /// A flight that is committed now is the last one of its writing period, which has ended.
    pub fn is_last(&self, flight: u64, token: &WriteToken) -> bool {
        let is_alone = self.flights.iter().all(|f| f.seq <= flight);
        is_alone && !self.is_dirty() && self.seals.contains(token)
    }

    /// A commit has ended this writing period and those before it.
    pub fn sealed(&mut self, token: &WriteToken) {
        let is_over = |t: &WriteToken| t.client == token.client && t <= token;
        self.used_tokens.retain(|t| !is_over(t));
        self.seals.retain(|t| !is_over(t));
    }

    /// Remembers an error for every handle that is open now.
    pub fn latch(&mut self, error: FileError) {
        self.errors += 1;
        self.last_error = Some(error);
    }

    /// Drops buffered bytes; returns how many.
    pub fn drop_dirty(&mut self) -> u64 {
        self.replace = None;
        let dropped = self.dirty.cut(None).iter().map(|r| r.1.len() as u64).sum();
        if self.flights.is_empty() {
            self.settle();
        }
        dropped
    }

    /// Nothing is pending: programs see what is committed.
    pub fn settle(&mut self) {
        if !self.is_pending() {
            self.mtime = None;
            self.size = match (&self.layout, &self.attr) {
                (Some(layout), _) => layout.size,
                (None, Some(attr)) => attr.size,
                (None, None) => self.size,
            };
        }
    }
}

/// One open file. See the [module docs](self).
#[derive(Debug)]
pub(super) struct Inode {
    pub ino: Ino,
    /// Set for an immutable version.
    pub version: Option<VersionNo>,
    state: Mutex<State>,
    /// A flight ended, or the registration changed.
    pub changed: Notify,
    /// One open at the master at a time.
    pub gate: tokio::sync::Mutex<()>,
    /// One task cuts versions at a time.
    pub seal_gate: tokio::sync::Mutex<()>,
}

impl Inode {
    pub fn new(ino: Ino, version: Option<VersionNo>) -> Self {
        Self {
            ino,
            version,
            state: Mutex::default(),
            changed: Notify::new(),
            gate: tokio::sync::Mutex::new(()),
            seal_gate: tokio::sync::Mutex::new(()),
        }
    }

    /// The state; never held across an await, and taken before no other lock but the block cache's and that
    /// of failures nobody has heard of.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` says so; it is asked again whenever a flight ends.
    pub async fn wait_until(&self, mut done: impl FnMut(&State) -> bool) {
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if done(&self.state()) {
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::attr;
    use crate::types::{OpId, Revision};

    #[test]
    fn what_came_with_a_lock_is_current_unless_something_later_was_heard_of() {
        let mut state = State::default();
        let at = |revision| Attr {
            revision: Revision(revision),
            ..attr(5)
        };
        let unplaced = state.unplaced;
        state.invalidate_at(LogIndex(7));
        assert!(!state.is_current(&at(3), LogIndex(6), unplaced));
        assert!(state.is_current(&at(3), LogIndex(7), unplaced));
        state.learn_attr(&at(4));
        let own = state.is_current(&at(3), LogIndex(9), unplaced);
        assert!(!own, "a commit of this mount came later");
        assert!(state.is_current(&at(4), LogIndex(9), unplaced));
        state.invalidate_at(LogIndex(0));
        let dropped = state.is_current(&at(4), LogIndex(9), unplaced);
        assert!(!dropped, "the interest may have ended after the answer");
        assert!(state.is_current(&at(4), LogIndex(9), state.unplaced));
    }

    #[test]
    fn regression_an_open_answered_before_an_append_landed_does_not_take_back_its_size() {
        let mut state = State::default();
        let mut opened = |revision, size| {
            let revision = Revision(revision);
            let layout = Layout {
                revision,
                op: OpId::default(),
                size,
                chunks: Vec::new(),
                next: None,
            };
            let attr = Attr {
                revision,
                size,
                ..attr(5)
            };
            state.learn_opened(&attr, Some(layout), 0);
            state.size
        };
        assert_eq!(opened(3, 100), 100);
        assert_eq!(opened(4, 150), 150);
        assert_eq!(opened(3, 100), 150, "the next append would go to 100");
    }
}

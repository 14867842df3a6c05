//! Changes of names and attributes that programs do not wait for (`behind`).
//!
//! While this session is the only one ([`lending`](super::lending)) and its cache knows all that a change
//! depends on, the answer is known here. Steps:
//! 1. the change is *foreseen*: checked against the cache, which then shows it ([`foresee`]);
//! 2. it is queued under an op-id, with the op-id of the one queued before it;
//! 3. a task sends what is queued, many at a time ([`leisure`](super::leisure)) and in order; the master applies each only after the one
//!    before it, so that neither a lost connection nor an election reorders them;
//! 4. an answer replaces what was foreseen, unless a later change of the same inode is queued.
//!
//! Invariants:
//! 1. whatever else this client asks the master is sent when all that was queued before it is decided
//!    ([`Client::wait_behind`]): it sees it, and comes after it. An open, or a question for a file's extents,
//!    changes nothing that is queued and depends only on what concerns the file ([`Client::wait_behind_of`]);
//! 2. what cannot be foreseen is not queued: the program waits as without `behind`;
//! 3. before another session sees anything, everything queued is decided: the acknowledgement that this
//!    session is not the only one any more waits for it, and nothing is queued after that;
//! 4. a change that fails, or is not decided by its deadline, is logged, told to the mount and kept for the
//!    next fsync of what it concerns; all that was queued behind one that is given up is given up too, and
//!    the cache is dropped.
mod foresee;
mod sender;
#[cfg(test)]
mod tests;

use super::cache::Token;
use super::core::Client;
use super::error::{ClientError, Result};
use super::leisure::Leisure;
use super::session::OpTicket;
use crate::net::conn::deadline_in;
use crate::types::{Ino, LogIndex, OpId};
use crate::wire::Mutation;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, watch};

/// Changes queued at most; beyond that a program waits.
const QUEUED_MAX: usize = 4096;
/// Failures kept until somebody asks.
const FAILED_MAX: usize = 4 * QUEUED_MAX;
/// Inode numbers are asked for in such lots, and when less than one is left: the answer comes behind what is
/// queued, which may take as many.
pub(super) const NUMBERS: u32 = 4096;

/// A change on its way.
struct Queued {
    ticket: OpTicket,
    /// Sequence of the op before.
    after: u64,
    /// When this session was told last that it is the only one.
    sole_at: LogIndex,
    body: Mutation,
    /// Open the file that it makes; true for writing.
    open: Option<bool>,
    /// What it concerns.
    inos: Vec<Ino>,
    token: Token,
    is_decided: bool,
}

#[derive(Default)]
struct State {
    /// Those from the first undecided one on.
    queue: VecDeque<Queued>,
    /// So many at its front were sent, or are decided.
    sent: usize,
    /// Position of the first in the queue; all before it are decided.
    begin: u64,
    /// Op before the next one.
    last: Option<OpId>,
    /// Lots of inode numbers.
    numbers: VecDeque<Range<u64>>,
    is_reserving: bool,
    /// What nobody has heard of yet, by what it concerns.
    failed: BTreeMap<Ino, ClientError>,
}

impl State {
    fn end(&self) -> u64 {
        self.begin + self.queue.len() as u64
    }

    /// Inode numbers left.
    fn left(&self) -> u64 {
        self.numbers.iter().map(|lot| lot.end - lot.start).sum()
    }

    fn next_number(&mut self) -> Option<Ino> {
        while let Some(lot) = self.numbers.front_mut() {
            if let Some(number) = lot.next() {
                return Some(Ino(number));
            }
            self.numbers.pop_front();
        }
        None
    }

    fn at(&mut self, position: u64) -> Option<&mut Queued> {
        let index = usize::try_from(position.checked_sub(self.begin)?).ok()?;
        self.queue.get_mut(index)
    }

    fn note_failure(&mut self, inos: &[Ino], error: &ClientError) {
        for ino in inos {
            if self.failed.len() >= FAILED_MAX {
                self.failed.pop_first();
            }
            self.failed.insert(*ino, error.clone());
        }
    }
}

/// See the [module docs](self).
pub(super) struct Behind {
    state: Mutex<State>,
    kick: Arc<Notify>,
    /// All positions below are decided.
    decided: watch::Sender<u64>,
    /// Changes that will be queued, or made, when puts are decided.
    later: watch::Sender<usize>,
    /// When what nobody waits for is sent.
    pub(super) leisure: Arc<Leisure>,
}

/// A change that comes later, until this is dropped.
pub(super) struct Later {
    /// When this session was told last, before it was made, that it is the only one.
    pub(super) sole_at: LogIndex,
    count: watch::Sender<usize>,
}

impl Drop for Later {
    fn drop(&mut self) {
        self.count.send_modify(|n| *n -= 1);
    }
}

/// All that is outstanding at a moment.
#[derive(Debug)]
pub(super) struct Outstanding {
    leisure: Arc<Leisure>,
    end: u64,
    decided: watch::Receiver<u64>,
    later: watch::Receiver<usize>,
}

impl Outstanding {
    /// Returns when it is decided.
    pub(super) async fn over(mut self) {
        let _hurry = self.leisure.hurry();
        // Whoever decides it may be gone; then nothing more comes of it.
        let _ = self.later.wait_for(|n| *n == 0).await;
        let end = self.end;
        let _ = self.decided.wait_for(|at| *at >= end).await;
    }
}

impl Behind {
    pub(super) fn new(is_used: bool) -> Self {
        let leisure = match is_used {
            true => Leisure::ticking(),
            false => Leisure::default(),
        };
        Self {
            leisure: Arc::new(leisure),
            state: Mutex::default(),
            kick: Arc::default(),
            decided: watch::Sender::new(0),
            later: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must be over before another session sees anything. Nothing is added from now on.
    pub(super) fn outstanding(&self) -> Option<Outstanding> {
        let (state, later) = (self.state(), self.later.subscribe());
        let is_any = !state.queue.is_empty() || *later.borrow() > 0;
        is_any.then(|| Outstanding {
            leisure: Arc::clone(&self.leisure),
            end: state.end(),
            decided: self.decided.subscribe(),
            later,
        })
    }

    /// Where the queue ends now, and how to hear that all before it is decided; `None` if it is.
    fn end(&self) -> Option<(u64, watch::Receiver<u64>)> {
        let state = self.state();
        let end = state.end();
        (!state.queue.is_empty()).then(|| (end, self.decided.subscribe()))
    }

    /// The same of what concerns an inode.
    fn end_of(&self, ino: Ino) -> Option<(u64, watch::Receiver<u64>)> {
        let state = self.state();
        let last = state.queue.iter().rposition(|q| q.inos.contains(&ino))?;
        let end = state.begin + last as u64 + 1;
        Some((end, self.decided.subscribe()))
    }
}

impl Client {
    /// Waits until all that was queued before is decided, at most until `deadline`.
    ///
    /// # Errors
    /// `TimedOut`; nothing was asked.
    pub(super) async fn wait_behind(&self, deadline: Instant) -> Result<()> {
        let end = self.behind.end();
        let _hurry = end.is_some().then(|| self.behind.leisure.hurry());
        Self::wait_decided(end, deadline).await
    }

    /// The same for what no program waits for either.
    ///
    /// # Errors
    /// As [`wait_behind`](Self::wait_behind).
    pub(super) async fn follow_behind(&self, deadline: Instant) -> Result<()> {
        Self::wait_decided(self.behind.end(), deadline).await
    }

    /// Waits until all that was queued before and concerns `ino` is decided, at most until `deadline`.
    ///
    /// # Errors
    /// As [`wait_behind`](Self::wait_behind).
    pub(super) async fn wait_behind_of(&self, ino: Ino, deadline: Instant) -> Result<()> {
        let end = self.behind.end_of(ino);
        let _hurry = end.is_some().then(|| self.behind.leisure.hurry());
        Self::wait_decided(end, deadline).await
    }

    async fn wait_decided(
        outstanding: Option<(u64, watch::Receiver<u64>)>,
        deadline: Instant,
    ) -> Result<()> {
        let Some((end, mut decided)) = outstanding else {
            return Ok(());
        };
        let after = deadline.saturating_duration_since(Instant::now());
        let waiting = decided.wait_for(|at| *at >= end);
        match tokio::time::timeout(after, waiting).await {
            // It ends with this client only.
            Ok(_) => Ok(()),
            Err(_) => Err(ClientError::TimedOut {
                after,
                last: crate::wire::WireError::new(
                    crate::wire::ErrorCode::Unavailable,
                    "changes made before are not acknowledged yet",
                ),
            }),
        }
    }

    /// A change may be made later; it counts as queued until what this gives is dropped.
    pub(super) fn hold_later(&self) -> Option<Later> {
        if !self.config.behind {
            return None;
        }
        self.behind.later.send_modify(|n| *n += 1);
        let later = Later {
            sole_at: self.sole_at(),
            count: self.behind.later.clone(),
        };
        // Looked at only now: whoever ends it counts after that.
        self.lends().then_some(later)
    }

    /// When what nobody waits for is done.
    #[must_use]
    pub fn leisure(&self) -> Arc<Leisure> {
        Arc::clone(&self.behind.leisure)
    }

    /// Everything done so far is on stable storage, as far as it concerns `ino`.
    ///
    /// # Errors
    /// `TimedOut`; or, once, what became of a change of this inode, or in this directory, that nobody
    /// waited for.
    pub async fn settle(&self, ino: Ino) -> Result<()> {
        if !self.config.behind {
            return Ok(());
        }
        self.wait_behind(deadline_in(self.config.deadline_meta))
            .await?;
        match self.behind.state().failed.remove(&ino) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// A change that nobody waited for failed: whoever syncs this inode is told.
    pub(super) fn note_failed(&self, ino: Ino, error: &ClientError) {
        self.behind.state().note_failure(&[ino], error);
        self.tell_lost(&format!("a change of inode {ino}: {error}"));
    }

    /// Changes that are not acknowledged yet.
    #[must_use]
    pub fn queued_changes(&self) -> usize {
        self.behind.state().queue.len()
    }

    /// Changes queued since this client was made.
    #[must_use]
    pub fn ever_queued(&self) -> u64 {
        self.behind.state().end()
    }
}

//! The client's session: op-ids, open inodes, and how long its promises hold.
//!
//! A session is named by a fresh uuid. When the master says that it has expired, everything under
//! it is lost and a new one begins under a new uuid; op-ids of the old one are refused for ever.
use super::cache::Token;
use crate::types::{ClientId, Ino, OpId, Term, Time};
use crate::wire::master::OpenInode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct State {
    client: ClientId,
    /// The master knows it.
    opened: bool,
    next_seq: u64,
    unfinished: BTreeSet<u64>,
    opens: BTreeMap<Ino, OpenInode>,
    clean_term: Term,
}

impl State {
    fn fresh() -> Self {
        Self {
            client: ClientId(rand::random()),
            opened: false,
            next_seq: 1,
            unfinished: BTreeSet::new(),
            opens: BTreeMap::new(),
            clean_term: Term(0),
        }
    }

    fn low(&self) -> u64 {
        self.unfinished.first().copied().unwrap_or(self.next_seq)
    }
}

/// See the [module docs](self).
#[derive(Debug, Clone)]
pub(super) struct Session {
    state: Arc<Mutex<State>>,
}

/// An op-id in use: the session's lowest unfinished sequence stays at or below it until this is
/// dropped. Drop it when the op's outcome is known, or was reported as unknown.
#[derive(Debug)]
pub struct OpTicket {
    op: OpId,
    session: Session,
}

impl OpTicket {
    /// The op-id.
    #[must_use]
    pub fn op(&self) -> OpId {
        self.op
    }
}

impl Drop for OpTicket {
    fn drop(&mut self) {
        let mut state = self.session.state();
        if state.client == self.op.client {
            state.unfinished.remove(&self.op.seq);
        }
    }
}

/// What a keep-alive says.
pub(super) struct KeepAliveInput {
    pub(super) client: ClientId,
    pub(super) low: u64,
    pub(super) clean_term: Term,
    pub(super) opened: bool,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State::fresh())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client(&self) -> ClientId {
        self.state().client
    }

    pub(super) fn begin_op(&self) -> OpTicket {
        let mut state = self.state();
        let seq = state.next_seq;
        state.next_seq += 1;
        state.unfinished.insert(seq);
        OpTicket {
            op: OpId {
                client: state.client,
                seq,
            },
            session: self.clone(),
        }
    }

    /// The lowest unfinished sequence to send with `op` (at most its own).
    pub(super) fn low_for(&self, op: OpId) -> u64 {
        let state = self.state();
        if state.client == op.client {
            state.low().min(op.seq)
        } else {
            // A session that was given up lives on at the master, and others of its ops may still be
            // asked about: none of their results may be dropped.
            0
        }
    }

    pub(super) fn keep_alive(&self) -> KeepAliveInput {
        let state = self.state();
        KeepAliveInput {
            client: state.client,
            low: state.low(),
            clean_term: state.clean_term,
            opened: state.opened,
        }
    }

    pub(super) fn set_opened(&self, client: ClientId) {
        let mut state = self.state();
        if state.client == client {
            state.opened = true;
        }
    }

    /// Runs `then` iff `client` is still the session; it cannot be lost meanwhile.
    pub(super) fn if_current(&self, client: ClientId, then: impl FnOnce()) {
        let state = self.state();
        if state.client == client {
            then();
        }
    }

    /// All caches were dropped since the first contact with this term's leader. Gives the opens.
    pub(super) fn set_clean(&self, term: Term) -> Vec<OpenInode> {
        let mut state = self.state();
        state.clean_term = term;
        state.opens.values().copied().collect()
    }

    /// Notes an open before it is asked for, so that a new leader hears of it in any case. Gives
    /// what was there before.
    pub(super) fn note_open(&self, ino: Ino, write: bool) -> Option<OpenInode> {
        let mut state = self.state();
        let before = state.opens.get(&ino).copied();
        let write = write || before.is_some_and(|o| o.write);
        state.opens.insert(ino, OpenInode { ino, write });
        before
    }

    /// The open was refused: back to what was there before.
    pub(super) fn undo_open(&self, client: ClientId, ino: Ino, before: Option<OpenInode>) {
        let mut state = self.state();
        if state.client != client {
            return;
        }
        match before {
            Some(open) => state.opens.insert(ino, open),
            None => state.opens.remove(&ino),
        };
    }

    pub(super) fn note_release(&self, inos: &[Ino]) {
        let mut state = self.state();
        for ino in inos {
            state.opens.remove(ino);
        }
    }

    /// `client` has expired. True if it was the current session, which is now a fresh one.
    pub(super) fn lose(&self, client: ClientId) -> bool {
        let mut state = self.state();
        let current = state.client == client;
        if current {
            *state = State::fresh();
        }
        current
    }
}

/// Until when something promised by the master holds (boot time); zero before the first promise.
#[derive(Debug, Default)]
pub(super) struct Until(std::sync::atomic::AtomicU64);

impl Until {
    pub(super) fn set(&self, at: Time) {
        self.0.store(at.0, std::sync::atomic::Ordering::Release);
    }

    pub(super) fn get(&self) -> Time {
        Time(self.0.load(std::sync::atomic::Ordering::Acquire))
    }
}

/// A moment in the history of invalidations, to ask later whether an answer may still be cached.
#[derive(Debug, Clone, Copy)]
pub struct CacheToken(pub(super) Token);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_follows_the_oldest_unfinished_op() {
        let session = Session::new();
        let (a, b, c) = (session.begin_op(), session.begin_op(), session.begin_op());
        assert_eq!((a.op().seq, c.op().seq), (1, 3));
        drop(b);
        assert_eq!(session.keep_alive().low, 1);
        drop(a);
        assert_eq!(session.keep_alive().low, 3);
        assert_eq!(session.low_for(c.op()), 3);
        drop(c);
        assert_eq!(session.keep_alive().low, 4);
    }

    #[test]
    fn a_lost_session_is_never_used_again() {
        let session = Session::new();
        let ticket = session.begin_op();
        session.note_open(Ino(4), true);
        let old = session.client();
        assert!(session.lose(old) && !session.lose(old));
        assert_ne!(session.client(), old);
        assert!(session.set_clean(Term(3)).is_empty());
        let fresh = session.begin_op();
        assert_eq!(fresh.op().seq, 1);
        drop(ticket);
        assert_eq!(session.keep_alive().low, 1);
    }

    #[test]
    fn regression_ops_of_a_session_given_up_let_the_master_forget_nothing() {
        let session = Session::new();
        let (a, b) = (session.begin_op(), session.begin_op());
        assert!(session.lose(session.client()));
        assert_eq!((session.low_for(a.op()), session.low_for(b.op())), (0, 0));
    }

    #[test]
    fn opens_are_told_with_their_strongest_mode() {
        let session = Session::new();
        session.note_open(Ino(4), false);
        let before = session.note_open(Ino(4), true);
        assert!(session.set_clean(Term(1))[0].write);
        session.undo_open(session.client(), Ino(4), before);
        assert!(!session.set_clean(Term(1))[0].write);
        session.note_release(&[Ino(4)]);
        assert!(session.set_clean(Term(1)).is_empty());
    }
}

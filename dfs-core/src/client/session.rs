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
    /// As the master has answered.
    opens: BTreeMap<Ino, OpenInode>,
    /// How often a leader was told of them.
    declared: u64,
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
            declared: 0,
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

/// When an open was asked for.
pub(super) struct OpenTicket {
    client: ClientId,
    declared: u64,
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

    /// What a new leader is told of.
    pub(super) fn declare(&self) -> Vec<OpenInode> {
        let mut state = self.state();
        state.declared += 1;
        state.opens.values().copied().collect()
    }

    /// The leader of this term has been told of the opens, and all caches were dropped before.
    pub(super) fn set_clean(&self, client: ClientId, term: Term) {
        let mut state = self.state();
        if state.client == client {
            state.clean_term = term;
        }
    }

    /// An open is about to be asked for.
    pub(super) fn begin_open(&self) -> OpenTicket {
        let state = self.state();
        let (client, declared) = (state.client, state.declared);
        OpenTicket { client, declared }
    }

    /// The open was answered: leaders are told of it from now on. False if one was told meanwhile of what is
    /// open, without it: then the answer may be of a leader before that, and is worth nothing.
    pub(super) fn note_open(&self, ticket: &OpenTicket, ino: Ino, write: bool) -> bool {
        let mut state = self.state();
        if (state.client, state.declared) != (ticket.client, ticket.declared) {
            return false;
        }
        let noted = OpenInode { ino, write: false };
        state.opens.entry(ino).or_insert(noted).write |= write;
        true
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
        let open = session.begin_open();
        assert!(session.note_open(&open, Ino(4), true));
        let old = session.client();
        assert!(session.lose(old) && !session.lose(old));
        assert_ne!(session.client(), old);
        assert!(!session.note_open(&open, Ino(4), true));
        session.set_clean(old, Term(3));
        assert_eq!(session.keep_alive().clean_term, Term(0));
        assert!(session.declare().is_empty());
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
        let open = |write| session.note_open(&session.begin_open(), Ino(4), write);
        assert!(open(false));
        assert!(!session.declare()[0].write);
        assert!(open(true) && open(false));
        assert!(session.declare()[0].write);
        session.note_release(&[Ino(4)]);
        assert!(session.declare().is_empty());
    }

    #[test]
    fn regression_an_open_that_a_new_leader_was_not_told_of_is_asked_for_again() {
        let session = Session::new();
        let open = session.begin_open();
        // It may yet be answered by the former leader, and may not.
        assert!(session.declare().is_empty());
        assert!(!session.note_open(&open, Ino(4), true));
        assert!(session.note_open(&session.begin_open(), Ino(4), true));
    }
}

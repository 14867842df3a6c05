//! What coherence keeps of one session, of one push, of one wait.
use crate::types::{ClientId, Ino, Time};
use crate::wire::Push;
use crate::wire::master::Touched;
use crate::wire::rpc::ConnId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something that waits for acks; the leader keeps what is to be done then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaitId(pub u64);

/// A moment in the order in which interests are registered, and the connection that a change came by then.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    pub stamp: u64,
    pub at: Time,
    /// `None`: by one that its author is not bound to.
    pub conn: Option<ConnId>,
    /// Its author listens for the answer at least so long.
    pub listens: Duration,
}

/// A wait that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub wait: WaitId,
    /// Who did not answer a recall in time.
    pub lapsed: Vec<ClientId>,
    /// Who may have queued changes as the only session, and was not heard of.
    pub barred: Vec<ClientId>,
}

/// Durations that coherence needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoherenceConfig {
    pub caches_valid: Duration,
    pub caches_margin: Duration,
    pub recall_timeout: Duration,
    pub recall_timeout_alive: Duration,
    pub interests_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Cached; position in the session's order of use.
    Live(u64),
    /// Push `seq` asks to drop it.
    Leaving(u64),
}

#[derive(Debug)]
pub(super) struct Outstanding {
    pub push: Push,
    pub sent_at: Time,
    /// For a recall: when it lapses at the latest. An invalidation lapses with the session's grant.
    pub recall_until: Option<Time>,
    pub lapsed: bool,
    pub waits: Vec<WaitId>,
    /// All that the changes touched which wait for it, be it cached there or not.
    pub concerns: BTreeSet<Ino>,
}

/// Why something is not waited for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// It is done.
    Done,
    /// The session did not answer a recall.
    Recall(ClientId),
    /// The session was the only one as far as it knew, or may have been.
    Sole(ClientId),
    /// Its grant ran out.
    Lapsed,
}

impl Outstanding {
    /// Why nothing waits any more for this push, which lapsed.
    pub fn over(&self, client: ClientId) -> Over {
        match self.recall_until {
            Some(_) => Over::Recall(client),
            None if self.is_sole() => Over::Sole(client),
            None => Over::Lapsed,
        }
    }

    /// It asks the session to be the only one no longer.
    pub fn is_sole(&self) -> bool {
        let names_it = |touched: &[Touched]| touched.iter().any(|t| t.ino == Ino::SOLE);
        matches!(&self.push, Push::Invalidate { touched, .. } if names_it(touched))
    }

    /// Nothing waits for it any more, in a session whose grant lasts `until` and that was `heard` of.
    pub fn lapses(&self, until: Time, heard: Time, now: Time, config: &CoherenceConfig) -> bool {
        let Some(at_the_latest) = self.recall_until else {
            // One that lives may have many changes to send before it answers.
            let is_busy = self.is_sole()
                && now.since(heard) < config.caches_margin
                && now.since(self.sent_at) < config.recall_timeout_alive;
            return now >= until && !is_busy;
        };
        let silent = now >= until && now.since(self.sent_at) >= config.recall_timeout;
        silent || now >= at_the_latest
    }
}

#[derive(Debug, Default)]
pub(super) struct Seat {
    pub conn: Option<ConnId>,
    /// Its caches and opens are known here.
    pub clean: bool,
    /// It has changes queued, of a time when it was the only session.
    pub queued: bool,
    /// When a keep-alive or a change of it came last.
    pub heard: Time,
    /// No cache is used after this.
    pub granted_until: Time,
    pub outstanding: BTreeMap<u64, Outstanding>,
    pub inos: BTreeMap<Ino, Interest>,
    /// Live interests by last use, oldest first.
    pub order: BTreeMap<u64, Ino>,
}

impl Seat {
    /// A recall of `ino` that it has not answered, and may yet.
    pub fn recalling(&self, ino: Ino) -> Option<u64> {
        let is_it = |o: &Outstanding| matches!(o.push, Push::Recall { ino: of, .. } if of == ino);
        let mut recalls = self.outstanding.iter();
        recalls
            .find(|(_, o)| is_it(o) && !o.lapsed)
            .map(|(seq, _)| *seq)
    }
}

#[derive(Debug)]
pub(super) struct Wait {
    pub left: usize,
    pub lapsed: Vec<ClientId>,
    pub barred: Vec<ClientId>,
}

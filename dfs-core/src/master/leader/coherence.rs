//! Who caches what, and whom a change must wait for. Soft state of one term.
//!
//! A session that reads with interest may keep what it read until it is told otherwise, and while
//! its grant lasts (2 s after each answered keep-alive; here a tenth longer, for clocks that are
//! slower). A change of an inode is acknowledged to its author only when every other interested session
//! has acknowledged the invalidation or its grant has run out. Steps of a change: look up interests;
//! push `Invalidate` to each; the change [waits](WaitId) for the acks, and for those of what it builds
//! on; an ack, a lapse, or the session's end counts it down.
//!
//! Invariants:
//! 1. an interest ends only by the ack that names it, or with its session: a second change of the
//!    same inode waits for the same ack;
//! 2. a grant is not extended while an invalidation is unacknowledged for more than half a grant, so
//!    no change waits longer than one and a half and that tenth; it lapses only when the grant has run
//!    out. A recall lapses after 2 s, or after 5 s if the grant has not run out: a writer that lives may have
//!    to wait for a third session's cache before its flush is acknowledged;
//! 3. a push that was not acknowledged is sent again when the session binds another connection;
//! 4. a session that may have changes queued, as the only one, and is not waited for any more is barred by an
//!    entry of the log before anybody is let in; one that goes on sending them has 5 s to acknowledge that it
//!    is not the only one;
//! 5. until every session has said that the leader knows its caches (`clean_term`), or all grants
//!    of the former leader have run out, changes wait: their interests are not known here.
//!
//! Source: leases as in Gray and Cheriton, SOSP 1989; the recall by ack or expiry is theirs.
use super::event::MasterAction;
pub(super) use super::seats::{CoherenceConfig, Moment, Settled, WaitId};
use super::seats::{Interest, Outstanding, Over, Seat, Wait};
use super::unsettled::{Depends, Unacked};
use crate::types::{ClientId, Ino, LogIndex, Term, Time};
use crate::wire::Push;
use crate::wire::master::Touched;
use crate::wire::rpc::ConnId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An author listens for its answer at least so long (the client sends no change with less time left).
const AUTHOR_WAITS: Duration = Duration::from_millis(100);

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Coherence {
    config: CoherenceConfig,
    term: Term,
    elected_at: Time,
    seats: BTreeMap<ClientId, Seat>,
    interested: BTreeMap<Ino, BTreeSet<ClientId>>,
    /// By inode, what is outstanding and has not lapsed.
    unacked: Unacked,
    waits: BTreeMap<WaitId, Wait>,
    /// Waits for the sessions of the former leader.
    for_election: Vec<WaitId>,
    settled: Vec<Settled>,
    /// Sessions that may have changes queued, of a time when they were the only one, and are not waited for:
    /// not heard of since the election, or since they were asked. Nobody is let in before they are barred.
    unbarred: BTreeSet<ClientId>,
    counter: u64,
}

impl Coherence {
    /// At an election: sessions that live, none of them known yet.
    pub fn new(
        config: CoherenceConfig,
        term: Term,
        now: Time,
        sessions: impl IntoIterator<Item = ClientId>,
    ) -> Self {
        let seats: BTreeMap<ClientId, Seat> = sessions
            .into_iter()
            .map(|client| (client, Seat::default()))
            .collect();
        let unbarred = seats.keys().copied().collect();
        Self {
            config,
            term,
            elected_at: now,
            seats,
            interested: BTreeMap::new(),
            unacked: Unacked::default(),
            waits: BTreeMap::new(),
            for_election: Vec::new(),
            settled: Vec::new(),
            unbarred,
            // No ack of what was pushed in another term names a push of this one.
            counter: term.0 << 40,
        }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// When grants of the former leader have run out.
    fn election_over(&self) -> Time {
        self.elected_at + self.config.caches_margin
    }

    /// True if the caches and opens of every session but `client` are known, or cannot matter.
    pub fn knows_all_but(&self, client: Option<ClientId>, now: Time) -> bool {
        let known = |(id, seat): (&ClientId, &Seat)| seat.clean || Some(*id) == client;
        now >= self.election_over() || self.seats.iter().all(known)
    }

    /// True if a session other than `client` has not said what it has open.
    pub fn is_silent_any_but(&self, client: ClientId) -> bool {
        let is_silent = |(id, seat): (&ClientId, &Seat)| !seat.clean && *id != client;
        self.seats.iter().any(is_silent)
    }

    /// True if every session has said what it has open.
    pub fn knows_all(&self) -> bool {
        self.seats.values().all(|seat| seat.clean)
    }

    /// A session began here: it caches nothing yet.
    pub fn opened(&mut self, client: ClientId, conn: ConnId) {
        self.seats.entry(client).or_insert_with(|| Seat {
            conn: Some(conn),
            clean: true,
            ..Seat::default()
        });
    }

    /// A session that the former leader opened: what it caches is not known here.
    pub fn found(&mut self, client: ClientId) {
        self.seats.entry(client).or_default();
        self.unbarred.insert(client);
    }

    /// What these have queued is refused from now on.
    pub fn barred(&mut self, clients: &[ClientId]) {
        self.unbarred.retain(|client| !clients.contains(client));
    }

    /// It may have changes queued that are to be refused before anybody is let in.
    pub fn is_unbarred(&self, client: ClientId) -> bool {
        self.unbarred.contains(&client)
    }

    /// A session says that it has changes queued.
    pub fn queued(&mut self, client: ClientId) {
        if let Some(seat) = self.seats.get_mut(&client) {
            seat.queued = true;
        }
    }

    /// A keep-alive arrived: binds the connection, and takes note of a session that is known now.
    pub fn keep_alive(
        &mut self,
        client: ClientId,
        conn: ConnId,
        clean_term: Term,
        now: Time,
        out: &mut Vec<MasterAction>,
    ) {
        let over = self.election_over();
        let Some(seat) = self.seats.get_mut(&client) else {
            return;
        };
        if seat.conn != Some(conn) {
            seat.conn = Some(conn);
            for outstanding in seat.outstanding.values() {
                out.push(MasterAction::Push {
                    conn,
                    push: outstanding.push.clone(),
                });
            }
        }
        seat.heard = now;
        if clean_term == self.term && !seat.clean {
            seat.clean = true;
            let queued = std::mem::take(&mut seat.queued);
            self.unbarred.remove(&client);
            if queued {
                self.drain_first(client, now, out);
            }
            if now < over && self.knows_all() {
                self.settle_election();
            }
        }
    }

    /// What the answer to a keep-alive that arrived at `arrived` grants, counted from its sending.
    /// The caller knows that it led at a moment since then.
    pub fn grant(&mut self, client: ClientId, arrived: Time, now: Time) -> Duration {
        let valid = self.config.caches_valid;
        let Some(seat) = self.seats.get_mut(&client) else {
            return Duration::ZERO;
        };
        let is_late = |o: &Outstanding| {
            matches!(o.push, Push::Invalidate { .. }) && now.since(o.sent_at) > valid / 2
        };
        if !seat.clean || seat.outstanding.values().any(is_late) {
            return Duration::ZERO;
        }
        // Its clock may be slower than this one.
        seat.granted_until = seat.granted_until.max(arrived + self.config.caches_margin);
        valid
    }

    /// The session has read `ino` and may keep what it read.
    pub fn register(&mut self, client: ClientId, ino: Ino, out: &mut Vec<MasterAction>, now: Time) {
        let stamp = self.next();
        let Some(seat) = self.seats.get_mut(&client) else {
            return;
        };
        if let Some(Interest::Live(old)) = seat.inos.insert(ino, Interest::Live(stamp)) {
            seat.order.remove(&old);
        }
        seat.order.insert(stamp, ino);
        self.interested.entry(ino).or_default().insert(client);
        if seat.order.len() > self.config.interests_max {
            let oldest: Vec<Ino> = seat
                .order
                .values()
                .take(self.config.interests_max / 100)
                .copied()
                .collect();
            let touched = oldest.into_iter().map(whole).collect();
            self.invalidate(client, touched, LogIndex(0), now, out);
        }
    }

    /// When a change of `author` was asked for that arrives now. Requests travel on the connection that
    /// the session is bound to; one that comes by another was sent long ago, and its author may have given
    /// it up.
    pub fn asked(&mut self, author: ClientId, conn: ConnId, at: Time) -> Moment {
        if !self.is_bound(author, conn) {
            return Moment::default();
        }
        if let Some(seat) = self.seats.get_mut(&author) {
            seat.heard = at;
        }
        // An interest that is registered later is of a later moment.
        let (stamp, conn) = (self.next(), Some(conn));
        Moment {
            stamp,
            at,
            conn,
            listens: AUTHOR_WAITS,
        }
    }

    /// The session's requests travel by this connection now. What comes by another was sent long ago.
    pub fn is_bound(&self, client: ClientId, conn: ConnId) -> bool {
        let seat = self.seats.get(&client);
        seat.is_some_and(|seat| seat.conn == Some(conn))
    }

    /// The same, and it has said what it has open.
    pub fn is_declared(&self, client: ClientId, conn: ConnId) -> bool {
        let seat = self.seats.get(&client);
        seat.is_some_and(|seat| seat.conn == Some(conn) && seat.clean)
    }

    /// The session is bound to a later connection than this.
    pub fn has_left(&self, client: ClientId, conn: ConnId) -> bool {
        let seat = self.seats.get(&client);
        seat.and_then(|seat| seat.conn)
            .is_some_and(|now| now > conn)
    }

    /// The session has yet to answer a recall of `ino`.
    pub fn is_recalled(&self, client: ClientId, ino: Ino) -> bool {
        let seat = self.seats.get(&client);
        seat.is_some_and(|seat| seat.recalling(ino).is_some())
    }

    /// A change touched these inodes. `None`: nobody to wait for. Its author, and when the change was
    /// asked for: until it is answered the author keeps nothing that it read before. One that was kept
    /// waiting may have given up and read the old state since: it is told, and not waited for. That it could
    /// be done tells of what it met, too.
    pub fn touch(
        &mut self,
        author: Option<(ClientId, Moment)>,
        touched: &[Touched],
        met: &Depends,
        as_of: LogIndex,
        now: Time,
        out: &mut Vec<MasterAction>,
    ) -> Option<WaitId> {
        let mut fresh: BTreeMap<ClientId, Vec<Touched>> = BTreeMap::new();
        let mut pending: BTreeSet<(ClientId, u64)> = BTreeSet::new();
        for touched in touched {
            for client in self.interested.get(&touched.ino).into_iter().flatten() {
                let asked_at = author.filter(|(author, _)| author == client);
                let seat = self.seats.get(client);
                let asked_at = asked_at.map(|(_, asked)| {
                    let is_late = now.since(asked.at) >= asked.listens;
                    let has_left = seat.and_then(|seat| seat.conn) != asked.conn;
                    match is_late || has_left {
                        true => asked.stamp,
                        false => u64::MAX,
                    }
                });
                let interest = seat.and_then(|seat| seat.inos.get(&touched.ino));
                match (interest, asked_at) {
                    (Some(Interest::Live(stamp)), Some(at)) if *stamp < at => {}
                    (Some(Interest::Live(_)), _) => {
                        fresh.entry(*client).or_default().push(*touched);
                    }
                    (Some(Interest::Leaving(seq)), None) => {
                        pending.insert((*client, *seq));
                    }
                    (Some(Interest::Leaving(_)), Some(_)) | (None, _) => {}
                }
            }
        }
        let author = author.map(|(author, _)| author);
        // What this change builds on is told of by its success too.
        let on = Depends::On(touched.iter().map(|t| t.ino).collect());
        pending.extend(self.unacked.of(None, &on));
        pending.extend(self.unacked.of(None, met));
        for (client, touched) in fresh {
            let seq = self.invalidate(client, touched, as_of, now, out);
            pending.insert((client, seq));
        }
        self.note_unacked(&pending, touched);
        // The author waits for none of its own, but others do for what it has been told late.
        pending.retain(|(client, _)| Some(*client) != author);
        let election = !touched.is_empty() && !self.knows_all_but(author, now);
        let wait = self.wait_for(pending, election);
        match touched.iter().any(|t| t.ino == Ino::SOLE) {
            true => self.wait_for_bar(wait, now),
            false => wait,
        }
    }

    /// Whoever is let in waits until those are barred that may have changes queued and are not heard of.
    fn wait_for_bar(&mut self, wait: Option<WaitId>, now: Time) -> Option<WaitId> {
        let is_over = now >= self.election_over();
        let is_clean = |client: &&ClientId| self.seats.get(client).is_some_and(|seat| seat.clean);
        // The others have until the election is over.
        let due = self.unbarred.iter().filter(|id| is_over || is_clean(id));
        let barred: Vec<ClientId> = due.copied().collect();
        if barred.is_empty() {
            return wait;
        }
        if let Some(of_wait) = wait.and_then(|id| self.waits.get_mut(&id)) {
            of_wait.barred.extend(barred);
            return wait;
        }
        let wait = WaitId(self.next());
        self.settled.push(Settled {
            wait,
            lapsed: Vec::new(),
            barred,
        });
        Some(wait)
    }

    /// A change is settled as a whole, and not before what it builds on: where a rename, or a removal of
    /// the directory that it has emptied, shows that the old name is gone, nobody may miss the new one.
    fn note_unacked(&mut self, pending: &BTreeSet<(ClientId, u64)>, touched: &[Touched]) {
        for (client, seq) in pending {
            let seat = self.seats.get_mut(client);
            let outstanding = seat.and_then(|seat| seat.outstanding.get_mut(seq));
            if let Some(o) = outstanding.filter(|o| !o.lapsed) {
                let inos = touched.iter().map(|t| t.ino);
                o.concerns.extend(inos.clone());
                self.unacked.add(*client, *seq, inos);
            }
        }
    }

    /// Nobody has yet to acknowledge an invalidation.
    pub fn is_all_told(&self) -> bool {
        self.unacked.is_empty()
    }

    /// Pushes one invalidation; the interests leave with its ack.
    fn invalidate(
        &mut self,
        client: ClientId,
        touched: Vec<Touched>,
        as_of: LogIndex,
        now: Time,
        out: &mut Vec<MasterAction>,
    ) -> u64 {
        let seq = self.next();
        if let Some(seat) = self.seats.get_mut(&client) {
            for t in &touched {
                if let Some(Interest::Live(at)) = seat.inos.insert(t.ino, Interest::Leaving(seq)) {
                    seat.order.remove(&at);
                }
            }
        }
        self.push(
            client,
            seq,
            Push::Invalidate {
                seq,
                as_of,
                touched,
            },
            None,
            now,
            out,
        );
        seq
    }

    /// Asks `writers` to flush `ino` because somebody opens it; not again one that was asked and has not
    /// answered: an open that is repeated does not begin its wait anew. `None`: nobody to wait for.
    pub fn recall(
        &mut self,
        ino: Ino,
        writers: &[ClientId],
        now: Time,
        out: &mut Vec<MasterAction>,
    ) -> Option<WaitId> {
        let until = now + self.config.recall_timeout_alive;
        let mut pending = BTreeSet::new();
        for client in writers {
            let seat = self.seats.get(client);
            if let Some(seq) = seat.and_then(|seat| seat.recalling(ino)) {
                pending.insert((*client, seq));
                continue;
            }
            let seq = self.next();
            self.push(
                *client,
                seq,
                Push::Recall {
                    seq,
                    ino,
                    shared: true,
                },
                Some(until),
                now,
                out,
            );
            pending.insert((*client, seq));
        }
        self.wait_for(pending, false)
    }

    /// A wait for the sessions of the former leader; `None` if they are known.
    pub fn wait_for_election(&mut self, client: ClientId, now: Time) -> Option<WaitId> {
        let unknown = !self.knows_all_but(Some(client), now);
        self.wait_for(BTreeSet::new(), unknown)
    }

    /// A wait for what an answer depends on, as its asker may see it. `None`: it is settled.
    pub fn wait_settled(
        &mut self,
        asker: Option<ClientId>,
        on: &Depends,
        now: Time,
    ) -> Option<WaitId> {
        let pending = self.unacked.of(asker, on);
        let election = *on != Depends::Nothing && !self.knows_all_but(asker, now);
        if pending.is_empty() && !election {
            return None;
        }
        self.wait_for(pending, election)
    }

    fn push(
        &mut self,
        client: ClientId,
        seq: u64,
        push: Push,
        recall_until: Option<Time>,
        now: Time,
        out: &mut Vec<MasterAction>,
    ) {
        let Some(seat) = self.seats.get_mut(&client) else {
            return;
        };
        if let Some(conn) = seat.conn {
            out.push(MasterAction::Push {
                conn,
                push: push.clone(),
            });
        }
        let outstanding = Outstanding {
            push,
            sent_at: now,
            recall_until,
            lapsed: false,
            waits: Vec::new(),
            concerns: BTreeSet::new(),
        };
        seat.outstanding.insert(seq, outstanding);
    }

    fn wait_for(&mut self, pending: BTreeSet<(ClientId, u64)>, election: bool) -> Option<WaitId> {
        let wait = WaitId(self.next());
        let mut left = usize::from(election);
        for (client, seq) in pending {
            let seat = self.seats.get_mut(&client);
            let Some(o) = seat.and_then(|seat| seat.outstanding.get_mut(&seq)) else {
                continue;
            };
            if !o.lapsed {
                o.waits.push(wait);
                left += 1;
            }
        }
        if left == 0 {
            return None;
        }
        if election {
            self.for_election.push(wait);
        }
        self.waits.insert(
            wait,
            Wait {
                left,
                lapsed: Vec::new(),
                barred: Vec::new(),
            },
        );
        Some(wait)
    }

    /// The session did what push `seq` asked.
    pub fn ack(&mut self, client: ClientId, seq: u64) {
        let Some(seat) = self.seats.get_mut(&client) else {
            return;
        };
        let Some(outstanding) = seat.outstanding.remove(&seq) else {
            return;
        };
        if outstanding.is_sole() {
            // It has nothing queued any more.
            self.unbarred.remove(&client);
        }
        if let Push::Invalidate { touched, .. } = &outstanding.push {
            self.unacked
                .remove(client, seq, outstanding.concerns.iter().copied());
            for t in touched {
                if seat.inos.get(&t.ino) == Some(&Interest::Leaving(seq)) {
                    seat.inos.remove(&t.ino);
                    forget(&mut self.interested, t.ino, client);
                }
            }
        }
        self.count_down(&outstanding.waits, Over::Done);
    }

    fn count_down(&mut self, waits: &[WaitId], over: Over) {
        for id in waits {
            let Some(wait) = self.waits.get_mut(id) else {
                continue;
            };
            wait.left -= 1;
            match over {
                Over::Done | Over::Lapsed => {}
                Over::Recall(client) => wait.lapsed.push(client),
                Over::Sole(client) => wait.barred.push(client),
            }
            if wait.left == 0 {
                self.settled.push(Settled {
                    wait: *id,
                    lapsed: std::mem::take(&mut wait.lapsed),
                    barred: std::mem::take(&mut wait.barred),
                });
                self.waits.remove(id);
            }
        }
    }

    /// Nobody waits any more for the sessions of the former leader. Those that were not heard of may have
    /// changes queued.
    fn settle_election(&mut self) {
        let waits = std::mem::take(&mut self.for_election);
        let silent = self.seats.iter().filter(|(_, seat)| !seat.clean);
        let silent: Vec<ClientId> = silent.map(|(id, _)| *id).collect();
        for wait in &waits {
            if let Some(wait) = self.waits.get_mut(wait) {
                wait.barred.extend(&silent);
            }
        }
        self.count_down(&waits, Over::Done);
    }

    /// Who waits for the sessions of the former leader waits for what this one has queued, too: it may have
    /// been the only one.
    fn drain_first(&mut self, client: ClientId, now: Time, out: &mut Vec<MasterAction>) {
        // Whoever comes from now on waits as well.
        self.register(client, Ino::SOLE, out, now);
        if self.for_election.is_empty() {
            return;
        }
        let seq = self.invalidate(client, vec![whole(Ino::SOLE)], LogIndex(0), now, out);
        let waits = self.for_election.clone();
        for wait in &waits {
            if let Some(wait) = self.waits.get_mut(wait) {
                wait.left += 1;
            }
        }
        let seat = self.seats.get_mut(&client);
        if let Some(outstanding) = seat.and_then(|seat| seat.outstanding.get_mut(&seq)) {
            outstanding.waits = waits;
        }
    }

    /// A connection is gone; its session may come back on another one.
    pub fn conn_closed(&mut self, conn: ConnId) {
        for seat in self
            .seats
            .values_mut()
            .filter(|seat| seat.conn == Some(conn))
        {
            seat.conn = None;
        }
    }

    /// A session ended: it closed (and uses no cache), or it expired (and must not).
    pub fn ended(&mut self, client: ClientId) {
        let Some(seat) = self.seats.remove(&client) else {
            return;
        };
        self.unbarred.remove(&client);
        for ino in seat.inos.keys() {
            forget(&mut self.interested, *ino, client);
        }
        for (seq, outstanding) in &seat.outstanding {
            self.unacked
                .remove(client, *seq, outstanding.concerns.iter().copied());
            self.count_down(&outstanding.waits, Over::Done);
        }
        if self.knows_all() {
            self.settle_election();
        }
    }

    /// Lets go of what waits for sessions whose time has run out.
    pub fn tick(&mut self, now: Time) {
        if !self.for_election.is_empty() && now >= self.election_over() {
            self.settle_election();
        }
        let mut lapsed = Vec::new();
        for (client, seat) in &mut self.seats {
            let (until, heard) = (seat.granted_until, seat.heard);
            for (seq, o) in &mut seat.outstanding {
                if !o.lapsed && o.lapses(until, heard, now, &self.config) {
                    o.lapsed = true;
                    if o.is_sole() {
                        self.unbarred.insert(*client);
                    }
                    self.unacked
                        .remove(*client, *seq, o.concerns.iter().copied());
                    lapsed.push((std::mem::take(&mut o.waits), o.over(*client)));
                }
            }
            // A recall has no second chance: the lease is raised instead.
            seat.outstanding
                .retain(|_, o| !(o.lapsed && o.recall_until.is_some()));
        }
        for (waits, over) in lapsed {
            self.count_down(&waits, over);
        }
    }

    /// Waits that are over since the last call.
    pub fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }
}

/// All that there is of an inode.
pub(super) fn whole(ino: Ino) -> Touched {
    Touched {
        ino,
        attrs: true,
        content: true,
        entries: true,
    }
}

fn forget(interested: &mut BTreeMap<Ino, BTreeSet<ClientId>>, ino: Ino, client: ClientId) {
    if let Some(of_ino) = interested.get_mut(&ino) {
        of_ino.remove(&client);
        if of_ino.is_empty() {
            interested.remove(&ino);
        }
    }
}

#[cfg(test)]
#[path = "coherence_tests.rs"]
mod tests;

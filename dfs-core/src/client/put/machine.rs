//! The state machine of one put.
mod decide;
mod send;

use super::types::{PutAction, PutChange, PutConfig, PutError, PutEvent, PutObject, PutSpec};
use super::unit::{Content, Member, Pause, Unit};
use crate::types::{ChunkNo, Epoch, LogIndex, OpId, PgMap, StoreId, Time};
use crate::wire::{Change, Commit, ErrorCode, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Leases that one put asks for at most.
const RENEWALS_MAX: u32 = 5;

/// A put waits for room to be made for so many deadlines at most.
const ROOM_DEADLINES: u32 = 2;

/// Diagram in the [module docs](super).
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Preparing,
    /// One commit is unanswered.
    Committing,
    /// The commit is to be sent again at this time.
    CommitAgain(Time),
    /// The commit was refused; another lease is asked for.
    Renewing,
    /// X is being disowned; `Some` while waiting to ask again.
    Abandoning(PutError, Option<Time>),
    /// Disowned, but an unanswered commit may have come first; `Some` while waiting to ask again.
    Settling(PutError, Option<Time>),
    Done,
}

/// A PREPARE under way: to whom, and which units under which epochs.
#[derive(Debug)]
struct Message {
    to: StoreId,
    units: Vec<(usize, Epoch)>,
}

/// The state machine of one put. See the [module docs](super).
#[derive(Debug)]
pub struct PutMachine {
    config: PutConfig,
    spec: PutSpec,
    map: Arc<PgMap>,
    /// Unit 0 is the mark.
    units: Vec<Unit>,
    by_chunk: BTreeMap<ChunkNo, usize>,
    stored_told: BTreeSet<u32>,
    messages: BTreeMap<u64, Message>,
    contacted: BTreeSet<StoreId>,
    next_token: u64,
    state: State,
    expires_at: Time,
    /// Until then it goes on if only room is wanting and some is being made.
    room_until: Time,
    /// A map was asked for and has not come.
    refreshing: bool,
    /// When to ask for a map (again).
    refresh_at: Option<Time>,
    /// A commit was refused with `WrongEpoch`: only a map beyond this version can help.
    refused_at: Option<LogIndex>,
    /// Some commit may have been applied without our hearing of it.
    commit_unknown: bool,
    commit: Option<Commit>,
    tries: u32,
    renewals: u32,
    last_error: String,
}

impl PutMachine {
    /// Starts a put at `now` under `map`, appending the first actions to `out`.
    pub fn start(
        now: Time,
        config: PutConfig,
        mut spec: PutSpec,
        map: Arc<PgMap>,
        out: &mut Vec<PutAction>,
    ) -> Self {
        let objects = std::mem::take(&mut spec.objects);
        let (home, _) = map.of_chunk(spec.ino, ChunkNo::HOME);
        let mut put = Self {
            expires_at: now + config.deadline * 3 / 4,
            room_until: now + config.deadline * ROOM_DEADLINES,
            config,
            spec,
            map,
            units: vec![Unit::new(Content::Mark, home)],
            by_chunk: BTreeMap::new(),
            stored_told: BTreeSet::new(),
            messages: BTreeMap::new(),
            contacted: BTreeSet::new(),
            next_token: 1,
            state: State::Preparing,
            refreshing: false,
            refresh_at: None,
            refused_at: None,
            commit_unknown: false,
            commit: None,
            tries: 0,
            renewals: 0,
            last_error: String::new(),
        };
        for object in objects {
            put.add_object(object);
        }
        put.adopt_map(now);
        put.advance(now, out);
        put
    }

    /// X.
    #[must_use]
    pub fn op(&self) -> OpId {
        self.spec.op
    }

    /// Stores known to hold object `index`, for fetching bytes that were let go.
    #[must_use]
    pub fn holders(&self, index: u32) -> Vec<StoreId> {
        let holds =
            |u: &&Unit| matches!(&u.content, Content::Chunk(_, list) if list.contains(&index));
        let unit = self.units.iter().find(holds);
        unit.map(|u| u.held.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Applies one event at `now`, appending the resulting actions to `out`.
    pub fn handle(&mut self, now: Time, event: PutEvent, out: &mut Vec<PutAction>) {
        if self.state == State::Done {
            return; // Late answers of the slowest members.
        }
        match event {
            PutEvent::Prepared { token, result } => self.on_prepared(now, token, result, out),
            PutEvent::Map(map) => self.on_map(now, map),
            PutEvent::Committed(result) => self.on_committed(now, result, out),
            PutEvent::Abandoned(result) => self.on_abandoned(now, result, out),
            PutEvent::Renewed(lease) => self.on_renewed(lease, out),
            PutEvent::Object(object) => {
                assert!(self.spec.more, "objects are added before Complete only");
                self.add_object(object);
                self.adopt_map(now);
                self.begin_anew(now);
            }
            PutEvent::Complete { size } => {
                self.spec.more = false;
                if let PutChange::Replace { size: s } = &mut self.spec.change {
                    *s = size;
                }
                self.begin_anew(now);
            }
            PutEvent::Cancel if self.state == State::Preparing => {
                self.abandon(PutError::Cancelled, out);
            }
            PutEvent::SessionLost => {
                let unknown = self.commit_unknown || self.state == State::Committing;
                self.finish(Err(PutError::SessionLost { unknown }), out);
            }
            PutEvent::Cancel | PutEvent::Tick => {}
        }
        self.advance(now, out);
        self.check_invariants();
    }

    /// The deadline counts from now.
    fn begin_anew(&mut self, now: Time) {
        self.expires_at = now + self.config.deadline * 3 / 4;
        self.room_until = now + self.config.deadline * ROOM_DEADLINES;
    }

    /// Time that a commit sent now may take before X is disowned.
    #[must_use]
    pub fn commit_within(&self, now: Time) -> Duration {
        self.expires_at.since(now).max(self.config.deadline / 8)
    }

    /// Nobody has decided X by then.
    fn lost_at(&self) -> Time {
        self.expires_at + self.config.deadline / 4
    }

    fn w(&self) -> usize {
        usize::from(self.map.quorum.w)
    }

    fn add_object(&mut self, object: PutObject) {
        let index = u32::try_from(self.spec.objects.len()).unwrap_or(u32::MAX);
        let (pg, _) = self.map.of_chunk(self.spec.ino, object.chunk);
        // A chunk whose unit was sent already gets a second unit, so that acks stay per message.
        let open = self
            .by_chunk
            .get(&object.chunk)
            .copied()
            .filter(|&u| !self.was_sent(u));
        let at = open.unwrap_or_else(|| {
            self.units
                .push(Unit::new(Content::Chunk(object.chunk, Vec::new()), pg));
            self.units.len() - 1
        });
        self.by_chunk.insert(object.chunk, at);
        let unit = &mut self.units[at];
        unit.bytes = unit.bytes.saturating_add(object.sum.len);
        if let Content::Chunk(_, list) = &mut unit.content {
            list.push(index);
        }
        self.spec.objects.push(object);
    }

    fn was_sent(&self, unit: usize) -> bool {
        let idle = |m: &Member| matches!(m, Member::Idle(_));
        let u = &self.units[unit];
        !u.held.is_empty() || u.members.values().any(|m| !idle(m))
    }

    /// Applies the map to every unit.
    fn adopt_map(&mut self, now: Time) {
        for unit in &mut self.units {
            if let Some(info) = self.map.pgs.get(usize::from(unit.pg.0)) {
                unit.adopt(info, now);
            }
        }
    }

    fn on_map(&mut self, now: Time, map: Arc<PgMap>) {
        self.refreshing = false;
        if map.version > self.map.version && map.pgs.len() == self.map.pgs.len() {
            self.map = map;
            if self.refused_at.is_some_and(|v| self.map.version > v) {
                self.refused_at = None;
            }
        }
        // An unanswered commit carries the acks of the old epochs: it is decided first.
        if self.state == State::Preparing {
            self.adopt_map(now);
        }
    }

    fn on_prepared(
        &mut self,
        now: Time,
        token: u64,
        result: Result<StoreId, WireError>,
        out: &mut Vec<PutAction>,
    ) {
        let Some(message) = self.messages.remove(&token) else {
            return;
        };
        let to = message.to;
        let result = match result {
            Ok(store) if store != to => Err(WireError::new(
                ErrorCode::BadRequest,
                "another store answered",
            )),
            other => other,
        };
        let pause = Pause {
            min: self.config.retry_min,
            max: self.config.retry_max,
        };
        let mut behind = false;
        for (at, epoch) in message.units {
            let unit = &mut self.units[at];
            match &result {
                Ok(_) => unit.ack(to, epoch),
                Err(e) => {
                    behind |= e.code == ErrorCode::WrongEpoch && epoch == unit.epoch;
                    unit.fail(to, token, e.code, now, &pause);
                }
            }
        }
        if let Err(e) = result {
            self.last_error = e.to_string();
            if e.code == ErrorCode::OpAborted && self.state == State::Preparing {
                // The master decided so before; asking it to disown X again tells for certain.
                self.abandon(PutError::Aborted(e), out);
            } else if behind {
                self.refresh_at = Some(now);
            } else if !matches!(e.code, ErrorCode::NoSpace | ErrorCode::NotFound) {
                // A member that does not answer may have been replaced meanwhile.
                self.refresh_at.get_or_insert(now + self.config.retry_max);
            }
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = Pause {
            min: self.config.retry_min,
            max: self.config.retry_max,
        };
        self.tries += 1;
        pause.after(self.tries - 1)
    }

    fn not_reached(&self) -> PutError {
        let w = self.w();
        let worst = self
            .units
            .iter()
            .min_by_key(|u| u.acks().len())
            .expect("the mark is a unit");
        PutError::QuorumNotReached {
            needed: w,
            members: worst.members.len(),
            acked: worst.acks().len(),
            last: self.last_error.clone(),
        }
    }

    /// What follows from the state at `now`.
    fn advance(&mut self, now: Time, out: &mut Vec<PutAction>) {
        let is_undecided = !matches!(self.state, State::Preparing | State::Done);
        if is_undecided && now >= self.lost_at() {
            if matches!(self.spec.change, PutChange::Compact { .. }) {
                // Harmless whenever it is applied: no reason to fence it.
                return self.finish(Err(PutError::Cancelled), out);
            }
            let unknown = self.commit_unknown || self.state == State::Committing;
            out.push(PutAction::DropSession);
            return self.finish(Err(PutError::SessionLost { unknown }), out);
        }
        match self.state.clone() {
            State::Preparing => self.advance_preparing(now, out),
            State::Renewing if now >= self.expires_at => self.abandon(PutError::StaleLease, out),
            State::CommitAgain(at) if now >= at => {
                if let Some(commit) = self.commit.clone() {
                    out.push(PutAction::Commit(commit));
                }
                self.state = State::Committing;
            }
            State::Abandoning(why, Some(at)) if now >= at => {
                out.push(PutAction::Abandon);
                self.state = State::Abandoning(why, None);
            }
            State::Settling(why, Some(at)) if now >= at => self.settle(why, out),
            _ => {}
        }
        if let Some(at) = self.next_timer() {
            out.push(PutAction::SetTimer { at });
        }
    }

    fn advance_preparing(&mut self, now: Time, out: &mut Vec<PutAction>) {
        let w = self.w();
        if self.units.iter().any(|u| u.is_hopeless(w)) {
            return self.abandon(PutError::NoSpace { needed: w }, out);
        }
        self.tell_stored(w, out);
        let stored = self.units.iter().all(|u| u.serving && u.is_stored(w));
        if stored && !self.spec.more && self.refused_at.is_none() {
            let commit = self.make_commit();
            self.commit = Some(commit.clone());
            self.state = State::Committing;
            out.push(PutAction::Commit(commit));
            return;
        }
        if now >= self.expires_at && !(stored && self.spec.more) {
            let lacks_room = self.units.iter().any(|u| u.lacks_room(w));
            if lacks_room && now < self.room_until && self.units.iter().any(Unit::may_get_room) {
                // History goes before a writer is refused, and that takes its time.
                self.expires_at = (now + self.config.deadline / 4).min(self.room_until);
            } else {
                let why = match lacks_room {
                    true => PutError::NoSpace { needed: w },
                    false => self.not_reached(),
                };
                return self.abandon(why, out);
            }
        }
        self.send(now, out);
        if self.units.iter().any(|u| !u.serving) || self.refused_at.is_some() {
            self.refresh_at.get_or_insert(now + self.config.retry_min);
        }
        if !self.refreshing && self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.refreshing = true;
            out.push(PutAction::RefreshMap {
                newer_than: self.map.version,
            });
        }
    }

    fn next_timer(&self) -> Option<Time> {
        match &self.state {
            State::Preparing => {
                let w = self.w();
                let retry = self.units.iter().filter_map(|u| u.next_try(w)).min();
                let refresh = self.refresh_at.filter(|_| !self.refreshing);
                let idle = self.spec.more && self.units.iter().all(|u| u.is_stored(w));
                let end = (!idle).then_some(self.expires_at);
                [retry, refresh, end].into_iter().flatten().min()
            }
            State::Renewing => Some(self.expires_at),
            State::CommitAgain(at) => Some((*at).min(self.lost_at())),
            State::Abandoning(_, at) | State::Settling(_, at) => {
                Some(at.unwrap_or(self.lost_at()).min(self.lost_at()))
            }
            State::Committing => Some(self.lost_at()),
            State::Done => None,
        }
    }

    /// Panics if an invariant of the [module docs](super) does not hold.
    fn check_invariants(&self) {
        if self.state == State::Committing {
            let w = self.w();
            let commit = self
                .commit
                .as_ref()
                .expect("invariant 1: a commit was made");
            assert!(commit.mark_acks.len() >= w, "invariant 1: {commit:?}");
            if let Change::Write { puts }
            | Change::Append { puts, .. }
            | Change::Replace { puts, .. } = &commit.change
            {
                assert!(
                    puts.iter().all(|p| p.acks.len() >= w),
                    "invariant 1: {commit:?}"
                );
                assert!(
                    puts.len() == self.spec.objects.len(),
                    "invariant 1: all objects"
                );
            }
        }
    }
}

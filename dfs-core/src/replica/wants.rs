//! The objects that are wanted from peers, and which is due next.
//!
//! Three lines wait: objects of groups at their last copy; what notes named and what was found damaged;
//! and what fills a group. Each goes before the ones behind it, so that nothing waits behind copies that
//! [make way](super::pace) for programs. But now and then it is the turn of those behind, for there may
//! be very many that nobody has.
//!
//! Invariants:
//! 1. an object is wanted once, whatever the reasons;
//! 2. while it is due it stands in the line of its group or reason, and otherwise in none.
use super::pace::{Bucket, Pace};
use super::tables::{MissingRow, ObjectRow};
use crate::types::{LogIndex, ObjectId, PgId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// While something is in the way of what is due, it is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Every so often, the last line or the middle one goes first, in turn.
const TURN_EVERY: u64 = 4;
/// What fills groups is asked for in turns of so many objects beside programs: small ones share a write.
const TURN_OBJECTS: usize = 4;
/// A turn that has so many bytes takes no more objects.
const TURN_BYTES: u64 = 256 << 10;

/// Why an object is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A note named it; it is on disk as missing.
    Note(LogIndex),
    /// Its bytes on disk are damaged; it is on disk as missing.
    Damaged,
    /// A listing named it.
    Fill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Due(Time),
    Asked,
    Writing,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub row: ObjectRow,
    pub why: Why,
    pub tries: u32,
    pub step: Step,
    /// From when on it is missing.
    since: Time,
    /// When a source was asked for it last.
    pub asked: Time,
}

/// Objects by the time from which on they may be asked for.
type Line = BTreeSet<(Time, ObjectId)>;

/// Objects wanted and fetches under way.
#[derive(Debug, Default)]
pub(super) struct Wants {
    wants: BTreeMap<ObjectId, Want>,
    last_copies: BTreeSet<PgId>,
    /// Of groups at their last copy.
    last: Line,
    /// Of others: named by notes, or damaged.
    urgent: Line,
    filling: Line,
    /// Sources asked so far.
    starts: u64,
    busy: usize,
    /// Those under way that fill a group.
    filling_now: usize,
    /// Objects and bytes asked for since none of these was under way.
    turn: (usize, u64),
    pub bucket: Bucket,
    pub pace: Pace,
    /// Wanted, and there was no room for them when they were due.
    starved: BTreeSet<ObjectId>,
    /// No object is asked for before: there is no room.
    roomless_until: Time,
    /// What was due last time to fill a group made way for programs.
    pub makes_way: bool,
}

impl Wants {
    pub fn set_rate(&mut self, bytes_per_second: u64) {
        self.bucket.rate = bytes_per_second;
    }

    /// A row of the missing table, after a restart.
    pub fn want_missing(&mut self, id: ObjectId, row: MissingRow, now: Time) {
        let why = if row.since == LogIndex(0) {
            Why::Damaged
        } else {
            Why::Note(row.since)
        };
        self.want(id, row.object, why, now);
        if let Some(want) = self.wants.get_mut(&id) {
            want.since = Time::ZERO;
        }
    }

    /// Wants an object from `soonest` on. A want that is there stays as it is, except that a
    /// listing's becomes a note's (which is on disk).
    pub fn want(&mut self, id: ObjectId, row: ObjectRow, why: Why, soonest: Time) {
        if let Some(want) = self.wants.get(&id).copied() {
            if want.why == Why::Fill && why != Why::Fill {
                self.leave(id, &want);
                self.put(id, Want { why, ..want });
            }
            return;
        }
        let want = Want {
            row,
            why,
            tries: 0,
            step: Step::Due(soonest),
            since: soonest,
            asked: soonest,
        };
        self.put(id, want);
    }

    /// Sets a want, and its place in a line.
    fn put(&mut self, id: ObjectId, want: Want) {
        match want.step {
            Step::Due(at) => {
                self.line(&want).insert((at, id));
            }
            Step::Asked | Step::Writing => {
                self.busy += usize::from(want.step == Step::Asked);
                self.filling_now += usize::from(want.why == Why::Fill);
            }
        }
        self.wants.insert(id, want);
    }

    /// Undoes [`put`](Self::put) but for the want itself.
    fn leave(&mut self, id: ObjectId, want: &Want) {
        match want.step {
            Step::Due(at) => {
                self.line(want).remove(&(at, id));
            }
            Step::Asked | Step::Writing => {
                self.busy -= usize::from(want.step == Step::Asked);
                self.filling_now -= usize::from(want.why == Why::Fill);
            }
        }
    }

    fn line(&mut self, want: &Want) -> &mut Line {
        match want.why {
            _ if self.last_copies.contains(&want.row.pg) => &mut self.last,
            Why::Note(_) | Why::Damaged => &mut self.urgent,
            Why::Fill => &mut self.filling,
        }
    }

    /// These groups are at their last copy.
    pub fn set_last_copies(&mut self, groups: BTreeSet<PgId>) {
        if groups == self.last_copies {
            return;
        }
        self.last_copies = groups;
        for line in [&mut self.last, &mut self.urgent, &mut self.filling] {
            line.clear();
        }
        (self.busy, self.filling_now) = (0, 0);
        for (id, want) in std::mem::take(&mut self.wants) {
            self.put(id, want);
        }
    }

    pub fn get(&self, id: ObjectId) -> Option<&Want> {
        self.wants.get(&id)
    }

    /// It is on its way here.
    pub fn is_wanted(&self, id: ObjectId) -> bool {
        self.wants.contains_key(&id)
    }

    /// It was fetched, and is on its way to the disk.
    pub fn is_writing(&self, id: ObjectId) -> bool {
        let want = self.wants.get(&id);
        want.is_some_and(|want| want.step == Step::Writing)
    }

    /// Damaged objects of which `is_such` says yes to group and tries.
    pub fn damaged(&self, is_such: impl Fn((PgId, u32)) -> bool) -> u64 {
        let damaged = self.wants.values().filter(|w| w.why == Why::Damaged);
        damaged.filter(|w| is_such((w.row.pg, w.tries))).count() as u64
    }

    /// It is wanted because its bytes here are damaged.
    pub fn is_damaged(&self, id: ObjectId) -> bool {
        self.wants.get(&id).is_some_and(|w| w.why == Why::Damaged)
    }

    /// Objects wanted because their bytes here are damaged, or were found missing.
    pub fn damaged_ids(&self) -> Vec<ObjectId> {
        let wants = self.wants.iter().filter(|(_, w)| w.why == Why::Damaged);
        wants.map(|(id, _)| *id).collect()
    }

    /// Objects wanted because notes up to `upto` named them.
    pub fn noted(&self, upto: LogIndex) -> Vec<ObjectId> {
        let is_such = |w: &Want| matches!(w.why, Why::Note(index) if index <= upto);
        let wants = self.wants.iter().filter(|(_, w)| is_such(w));
        wants.map(|(id, _)| *id).collect()
    }

    /// Objects of a group that notes up to `upto` named are all here.
    pub fn is_caught_up(&self, pg: PgId, upto: LogIndex) -> bool {
        let waits = |why| match why {
            Why::Note(index) => index <= upto,
            Why::Damaged | Why::Fill => true,
        };
        !self.wants.values().any(|w| w.row.pg == pg && waits(w.why))
    }

    /// Nothing waits that a note up to `upto` named.
    pub fn is_healed(&self, upto: LogIndex) -> bool {
        let waits = |why| matches!(why, Why::Note(index) if index <= upto);
        !self.wants.values().any(|w| waits(w.why))
    }

    /// Objects for which there is no room.
    pub fn starved(&self) -> u64 {
        self.starved.len() as u64
    }

    /// Objects by group that are missing since `before` or longer.
    pub fn lacking(&self, before: Time) -> BTreeMap<PgId, u32> {
        let mut lacking = BTreeMap::new();
        for want in self.wants.values().filter(|w| w.since <= before) {
            *lacking.entry(want.row.pg).or_default() += 1;
        }
        lacking
    }

    pub fn len(&self) -> usize {
        self.wants.len()
    }

    /// Asked for, and on their way here.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// As much is asked for, or on its way to the disk, to fill groups as may be beside programs.
    pub fn is_turn_over(&self) -> bool {
        let (objects, bytes) = self.turn;
        self.filling_now > 0 && (objects >= TURN_OBJECTS || bytes >= TURN_BYTES)
    }

    /// A source is asked for it.
    pub fn asked(&mut self, id: ObjectId, now: Time) {
        if self.filling_now == 0 {
            self.turn = (0, 0);
        }
        self.step(id, Step::Asked);
        let want = self.wants.get_mut(&id).expect("the caller holds it");
        want.asked = now;
        let len = want.row.sum.len;
        if want.why == Why::Fill {
            self.turn = (self.turn.0 + 1, self.turn.1 + u64::from(len));
        }
        self.bucket.take(len);
        self.starts += 1;
    }

    /// It could not be had once more.
    pub fn failed(&mut self, id: ObjectId) -> Option<Want> {
        let want = self.wants.get_mut(&id)?;
        want.tries += 1;
        Some(*want)
    }

    pub fn step(&mut self, id: ObjectId, step: Step) {
        let want = *self.wants.get(&id).expect("the caller holds it");
        self.leave(id, &want);
        self.put(id, Want { step, ..want });
    }

    pub fn remove(&mut self, id: ObjectId) -> Option<Want> {
        let want = self.wants.remove(&id)?;
        self.leave(id, &want);
        self.starved.remove(&id);
        Some(want)
    }

    /// There is no room for it; the others wait too, as there may be very many.
    pub fn starve(&mut self, id: ObjectId, until: Time) {
        self.starved.insert(id);
        self.await_room(id, until);
    }

    /// What was fetched found no room and is due again at `until`; with the note that named it, if
    /// it is on disk that it is missing. `None` if it was not fetched.
    pub fn starve_again(&mut self, id: ObjectId, until: Time) -> Option<Option<LogIndex>> {
        let why = self.wants.get(&id).filter(|w| w.step == Step::Writing)?.why;
        self.starve(id, until);
        Some(match why {
            Why::Note(index) => Some(index),
            Why::Damaged => Some(LogIndex(0)),
            Why::Fill => None,
        })
    }

    /// Nothing is asked for before `until`, when there may be room.
    pub fn await_room(&mut self, id: ObjectId, until: Time) {
        self.roomless_until = until;
        self.step(id, Step::Due(until));
    }

    /// There is room for it.
    pub fn finds_room(&mut self, id: ObjectId) {
        self.starved.remove(&id);
    }

    /// The next that may be asked for. With `makes_way` nothing that fills a group, unless it is at its
    /// last copy.
    pub fn due(&mut self, now: Time, makes_way: bool) -> Option<(ObjectId, Want)> {
        self.makes_way = false;
        if now < self.roomless_until || !self.bucket.is_open() {
            return None;
        }
        let is_due = |line: &Line| line.first().filter(|(due, _)| *due <= now).copied();
        let filling = is_due(&self.filling);
        self.makes_way = makes_way && filling.is_some();
        let filling = filling.filter(|_| !makes_way);
        let (last, urgent) = (is_due(&self.last), is_due(&self.urgent));
        let turn = self.starts / TURN_EVERY;
        let lines = match self.starts % TURN_EVERY {
            0 if turn % 2 == 1 => [filling, urgent, last],
            0 if turn > 0 => [urgent, filling, last],
            _ => [last, urgent, filling],
        };
        let (_, id) = lines.into_iter().flatten().next()?;
        Some((id, self.wants[&id]))
    }

    pub fn next_wake(&self, now: Time, busy_max: usize) -> Option<Time> {
        if self.busy >= busy_max {
            return None;
        }
        // While the rate limit is closed, or copies make way, look again soon.
        let soon = now + LOOK_AGAIN;
        let limited = (!self.bucket.is_open()).then_some(soon);
        let rest = || self.pace.rests_until(now).map_or(soon, |end| end.min(soon));
        let resting = self.makes_way.then(rest);
        let wake = |line: &Line, wait: Option<Time>| {
            let (due, _) = line.first()?;
            Some((*due).max(self.roomless_until).max(wait.unwrap_or(*due)))
        };
        let last = wake(&self.last, limited);
        let urgent = wake(&self.urgent, limited);
        let filling = wake(&self.filling, limited.or(resting));
        [last, urgent, filling].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ChunkNo, ClientId, Ino, ObjectSum, OpId};

    fn id(seq: u64) -> ObjectId {
        let client = ClientId(1);
        let op = OpId { client, seq };
        ObjectId { op, index: 0 }
    }

    fn want(wants: &mut Wants, seq: u64, len: u32, why: Why) {
        let (pg, ino, chunk) = (PgId(1), Ino(5), ChunkNo::HOME);
        let sum = ObjectSum { len, crc: 0 };
        let row = ObjectRow {
            pg,
            ino,
            chunk,
            sum,
        };
        wants.want(id(seq), row, why, Time(0));
    }

    #[test]
    fn a_turn_has_a_few_small_objects_or_one_that_is_large() {
        let mut wants = Wants::default();
        for seq in 1..=8 {
            want(&mut wants, seq, 4096, Why::Fill);
        }
        for seq in 1..=4 {
            assert!(!wants.is_turn_over());
            wants.asked(id(seq), Time(1));
        }
        assert!(wants.is_turn_over());
        for seq in 1..=3 {
            wants.step(id(seq), Step::Writing);
            wants.remove(id(seq));
        }
        assert!(wants.is_turn_over(), "the next begins when all are here");
        // A note names it too: nothing waits for that.
        want(&mut wants, 4, 4096, Why::Note(LogIndex(3)));
        assert!(!wants.is_turn_over());
        want(&mut wants, 9, 4 << 20, Why::Fill);
        wants.asked(id(9), Time(1));
        assert!(wants.is_turn_over());
        wants.remove(id(4));
        wants.remove(id(9));
        assert_eq!((wants.busy(), wants.filling_now), (0, 0));
    }
}

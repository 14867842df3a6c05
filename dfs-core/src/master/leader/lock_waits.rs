//! Who waits for which lock: soft state of one term, in the order of asking.
//!
//! A waiter is a number that a session chose; it keeps its place while it goes on asking, under
//! whatever op. What it asked last is what is proposed for it. Every question is answered once.
use crate::types::{ClientId, Ino, LockHolder, LockRequest, OpId, Time};
use crate::wire::rpc::ReplyTo;
use std::collections::BTreeMap;
use std::time::Duration;

/// One that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    /// Its number.
    pub number: u64,
    /// As asked last.
    pub op: OpId,
    pub low: u64,
    pub ask: LockRequest,
    /// Whom to answer; `None` once it was.
    pub to: Option<ReplyTo>,
    pub asked_at: Time,
    /// Its lock is in the log and not decided.
    pub proposed: bool,
    /// It disowned what it asked; it may come back under another op.
    pub given_up: bool,
}

impl Waiter {
    /// For whom.
    pub fn holder(&self) -> LockHolder {
        LockHolder {
            client: self.op.client,
            owner: self.ask.owner,
        }
    }
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct LockWaits {
    by_ino: BTreeMap<Ino, Vec<Waiter>>,
    count: u64,
}

impl LockWaits {
    /// How many wait.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Those that wait for `ino`, in the order of asking.
    pub fn of_mut(&mut self, ino: Ino) -> &mut [Waiter] {
        self.by_ino.get_mut(&ino).map_or(&mut [], Vec::as_mut_slice)
    }

    /// One of them.
    pub fn find(&mut self, ino: Ino, client: ClientId, number: u64) -> Option<&mut Waiter> {
        let mut all = self.of_mut(ino).iter_mut();
        all.find(|w| w.op.client == client && w.number == number)
    }

    /// One more, behind all others.
    pub fn add(&mut self, waiter: Waiter) {
        self.by_ino.entry(waiter.ask.ino).or_default().push(waiter);
        self.count += 1;
    }

    /// Takes one out.
    pub fn remove(&mut self, ino: Ino, client: ClientId, number: u64) -> Option<Waiter> {
        let all = self.by_ino.get_mut(&ino)?;
        let at = all
            .iter()
            .position(|w| w.op.client == client && w.number == number)?;
        let waiter = all.remove(at);
        if all.is_empty() {
            self.by_ino.remove(&ino);
        }
        self.count -= 1;
        Some(waiter)
    }

    /// Its session disowns `op`: nothing is proposed for it until it asks again. Whom to tell.
    pub fn give_up(&mut self, op: OpId) -> Option<ReplyTo> {
        let mut all = self.by_ino.values_mut().flatten();
        let waiter = all.find(|w| w.op == op)?;
        waiter.given_up = true;
        waiter.to.take()
    }

    /// Takes out those of a session that ended.
    pub fn ended(&mut self, client: ClientId) -> Vec<Waiter> {
        self.take(|w| w.op.client == client)
    }

    /// Takes out those that have not asked for `longer_than`: nobody is there any more.
    pub fn forgotten(&mut self, now: Time, longer_than: Duration) -> Vec<Waiter> {
        self.take(|w| !w.proposed && now.since(w.asked_at) > longer_than)
    }

    /// This process was stalled: nobody was silent because of that.
    pub fn forgive(&mut self, stalled: Duration) {
        for waiter in self.by_ino.values_mut().flatten() {
            waiter.asked_at = waiter.asked_at + stalled;
        }
    }

    /// Everybody, at the end of the term.
    pub fn into_all(self) -> impl Iterator<Item = Waiter> {
        self.by_ino.into_values().flatten()
    }

    fn take(&mut self, mut which: impl FnMut(&Waiter) -> bool) -> Vec<Waiter> {
        let mut taken = Vec::new();
        self.by_ino.retain(|_, all| {
            all.retain(|w| {
                let goes = which(w);
                if goes {
                    taken.push(w.clone());
                }
                !goes
            });
            !all.is_empty()
        });
        self.count -= taken.len() as u64;
        taken
    }
}

//! Locks on their way in, and waiting.
//!
//! 1. A lock that nothing excludes, as far as is applied here, is proposed.
//! 2. One that is excluded and may wait goes into the queue of its file. One that may not is
//!    refused, once a round has confirmed that this node still leads.
//! 3. With an unlock, the locks that it sets free are proposed in the same breath, in the order of
//!    asking: they share its write. Whatever else gives a lock up wakes the queue when it is applied.
//! 4. Applied, a lock is held, or found excluded after all: then it goes on waiting.
//!
//! A newcomer that nothing excludes does not wait behind those that wait: an owner that asks for more
//! could otherwise wait for one that waits for it. A circle of owners that wait for each other is not
//! looked for.
use super::event::MasterAction;
use super::leading::{LockAsked, Pending, ReadKind};
use super::lock_waits::Waiter;
use super::machine::{Master, refusal};
use super::requests::no_session;
use super::unsettled::Depends;
use crate::master::command::Command;
use crate::master::state::locks::FileLocks;
use crate::types::{CHUNK_SIZE, ChunkNo, ClientId, Ino, LockHolder, LockRequest, LockSpace, OpId};
use crate::wire::master::{Layout, MasterResponse, QueryAnswer};
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, Mutation, MutationOk, Query, WireError};

/// Extents that the answer to a lock brings along at most.
const EXTENTS_MAX: usize = 64;

impl Master {
    pub(super) fn on_lock(
        &mut self,
        to: ReplyTo,
        (op, low): (OpId, u64),
        ask: LockRequest,
        waiter: Option<u64>,
        out: &mut Vec<MasterAction>,
    ) {
        if !self.has_session(op.client) {
            out.push(refusal(to, no_session(op.client)));
            return;
        }
        if self.is_busy() {
            let detail = "too many changes are in flight";
            out.push(refusal(to, WireError::new(ErrorCode::Busy, detail)));
            return;
        }
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let known = waiter.and_then(|n| leading.lock_waits.find(ask.ino, op.client, n));
        let is_known = known.is_some();
        if let Some(known) = known {
            if let Some(old) = known.to.replace(to) {
                out.push(refusal(old, ErrorCode::Locked.into()));
            }
            (known.op, known.low, known.ask) = (op, low, ask);
            (known.asked_at, known.given_up) = (now, false);
            if known.proposed {
                return; // What is decided of it is its answer.
            }
        }
        let asked = LockAsked {
            to: Some(to),
            op,
            low,
            ask,
            waiter,
        };
        let locks = self.state.locks();
        let excluded =
            locks.conflict(op.client, &ask).is_some() && !locks.is_conversion(op.client, &ask);
        match waiter {
            Some(_) if excluded && !is_known => self.wait_for_lock(asked, out),
            Some(_) if excluded => {}
            None if excluded => self.read(to, ReadKind::TryLock(asked), out),
            _ => self.propose_lock(asked),
        }
    }

    /// A round has confirmed that this node leads: what is applied here decides.
    pub(super) fn lock_confirmed(&mut self, asked: LockAsked, out: &mut Vec<MasterAction>) {
        match self.state.locks().conflict(asked.op.client, &asked.ask) {
            Some(held) => {
                let pid = held.lock.pid;
                let detail = format!("process {pid} of another owner has it locked");
                let error = WireError::new(ErrorCode::Locked, detail);
                out.extend(asked.to.map(|to| refusal(to, error)));
            }
            None => self.propose_lock(asked),
        }
    }

    fn propose_lock(&mut self, mut asked: LockAsked) {
        let LockAsked { op, low, ask, .. } = asked;
        if let (Some(number), Some(leading)) = (asked.waiter, self.leading.as_deref_mut())
            && let Some(known) = leading.lock_waits.find(ask.ino, op.client, number)
        {
            known.proposed = true;
            asked.to = None;
        }
        let body = Mutation::Lock(ask);
        self.propose(Command::Mutate { op, low, body }, Pending::Lock(asked));
    }

    fn wait_for_lock(&mut self, asked: LockAsked, out: &mut Vec<MasterAction>) {
        let (now, max) = (self.now, self.config.lock_waits_max);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let LockAsked {
            to, op, low, ask, ..
        } = asked;
        let Some(number) = asked.waiter.filter(|_| leading.lock_waits.count() < max) else {
            let error = WireError::new(ErrorCode::Locked, "too many wait for locks");
            out.extend(to.map(|to| refusal(to, error)));
            return;
        };
        leading.lock_waits.add(Waiter {
            number,
            op,
            low,
            ask,
            to,
            asked_at: now,
            proposed: false,
            given_up: false,
        });
    }

    /// A lock that was proposed is decided.
    pub(super) fn lock_decided(
        &mut self,
        asked: LockAsked,
        result: Result<MutationOk, WireError>,
        out: &mut Vec<MasterAction>,
    ) {
        let (ino, client) = (asked.ask.ino, asked.op.client);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let waits = &mut leading.lock_waits;
        let known = asked.waiter.and_then(|n| waits.find(ino, client, n));
        match (result, known, asked.waiter) {
            (Err(error), Some(known), _) if error.code == ErrorCode::Locked => {
                known.proposed = false;
            }
            (Err(error), None, Some(_))
                if error.code == ErrorCode::Locked && asked.to.is_some() =>
            {
                self.wait_for_lock(asked, out);
            }
            // It has come back under another op meanwhile.
            (Err(_), Some(known), _) if known.op != asked.op => {
                known.proposed = false;
                self.wake_locks(ino, None);
            }
            (result, _, number) => {
                let known = number.and_then(|n| waits.remove(ino, client, n));
                let to = known.map_or(asked.to, |known| known.to);
                let answer = result.and_then(|_| self.answer_locked(client, ino, out));
                if let Some(to) = to {
                    let on = Depends::On(vec![ino]);
                    self.answer_settled(to, Some(client), &on, answer, out);
                }
            }
        }
    }

    /// A proposal did not get into the log.
    pub(super) fn lock_not_decided(
        &mut self,
        asked: &LockAsked,
        error: WireError,
        out: &mut Vec<MasterAction>,
    ) {
        let client = asked.op.client;
        let waits = self.leading.as_deref_mut().map(|l| &mut l.lock_waits);
        let number = asked.waiter.zip(waits);
        if let Some(known) = number.and_then(|(n, waits)| waits.find(asked.ask.ino, client, n)) {
            known.proposed = false; // It asks again.
        }
        out.extend(asked.to.map(|to| refusal(to, error)));
    }

    /// What the holder of a lock must know of the file; registers its interest.
    fn answer_locked(
        &mut self,
        client: ClientId,
        ino: Ino,
        out: &mut Vec<MasterAction>,
    ) -> Result<MasterResponse, WireError> {
        let QueryAnswer::Attr(attr) = self.state.query(&Query::GetAttr { ino })? else {
            return Err(ErrorCode::Internal.into());
        };
        let layout = match self.state.query(&Query::Layout {
            ino,
            version: None,
            first: ChunkNo::HOME,
            count: 1,
        }) {
            Ok(QueryAnswer::Layout(layout)) if is_small(&layout) => Some(layout),
            _ => None,
        };
        let now = self.now;
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.coherence.register(client, ino, out, now);
        }
        let as_of = self.state.applied().index;
        Ok(MasterResponse::Locked {
            attr,
            as_of,
            layout,
        })
    }

    /// Something is on its way that concerns those who wait for locks.
    pub(super) fn foresee_locks(
        &mut self,
        client: ClientId,
        body: &Mutation,
        out: &mut Vec<MasterAction>,
    ) {
        match body {
            Mutation::Abandon { op } => {
                let waits = self.leading.as_deref_mut().map(|l| &mut l.lock_waits);
                if let Some(to) = waits.and_then(|waits| waits.give_up(*op)) {
                    out.push(refusal(to, ErrorCode::OpAborted.into()));
                }
            }
            Mutation::Unlock {
                ino,
                space,
                owner,
                first,
                last,
            } => {
                let owner = *owner;
                let freed = (*space, LockHolder { client, owner }, (*first, *last));
                self.wake_locks(*ino, Some(freed));
            }
            _ => {}
        }
    }

    /// Proposes the locks on `ino` that nothing excludes, or will once `freed` is given up.
    pub(super) fn wake_locks(
        &mut self,
        ino: Ino,
        freed: Option<(LockSpace, LockHolder, (u64, u64))>,
    ) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let waiters = leading.lock_waits.of_mut(ino);
        if waiters.iter().all(|w| w.proposed || w.given_up) {
            return;
        }
        let mut held: FileLocks = self.state.locks().file(ino).cloned().unwrap_or_default();
        if let Some((space, holder, (first, last))) = freed {
            held.of_mut(space).clear(holder, first, last);
        }
        let mut free = Vec::new();
        for waiter in waiters.iter_mut().filter(|w| !w.given_up) {
            let ranges = held.of_mut(waiter.ask.space);
            let holder = waiter.holder();
            if ranges.conflict(holder, &waiter.ask.lock).is_some() {
                continue;
            }
            ranges.set(holder, waiter.ask.lock);
            if !waiter.proposed {
                free.push(LockAsked {
                    to: None,
                    op: waiter.op,
                    low: waiter.low,
                    ask: waiter.ask,
                    waiter: Some(waiter.number),
                });
            }
        }
        for asked in free {
            self.propose_lock(asked);
        }
    }

    /// Waiters that do not ask any more lose their place.
    pub(super) fn forget_lock_waits(&mut self, out: &mut Vec<MasterAction>) {
        let (now, max) = (self.now, self.config.lock_wait_forget);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        for waiter in leading.lock_waits.forgotten(now, max) {
            if let Some(to) = waiter.to {
                out.push(refusal(to, ErrorCode::Locked.into()));
            }
        }
    }

    /// A session ended: it waits for nothing any more.
    pub(super) fn end_lock_waits(&mut self, client: ClientId, out: &mut Vec<MasterAction>) {
        let waits = self.leading.as_deref_mut().map(|l| &mut l.lock_waits);
        for waiter in waits.map(|w| w.ended(client)).unwrap_or_default() {
            if let Some(to) = waiter.to {
                out.push(refusal(to, no_session(client)));
            }
        }
    }
}

fn is_small(layout: &Layout) -> bool {
    let extents: usize = layout.chunks.iter().map(|c| c.extents.len()).sum();
    layout.size <= CHUNK_SIZE && extents <= EXTENTS_MAX
}

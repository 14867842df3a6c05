//! Whom a get asks: data with stamps attached, bare stamps, hedges.
use super::{Currency, GetMachine, Sent};
use crate::client::get::freshness::Verdict;
use crate::client::get::types::GetAction;
use crate::types::{StoreId, Time};
use crate::wire::ReplicaRequest;
use crate::wire::replica::StampRequest;

impl GetMachine {
    /// Asks the next candidate of a fetch, with a stamp where that saves a message.
    pub(super) fn ask(&mut self, now: Time, id: u32, out: &mut Vec<GetAction>) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        let Some(to) = fetch.take_next() else {
            fetch.hedge_at = None;
            return;
        };
        let piece = fetch.piece;
        let token = self.next_token;
        self.next_token += 1;
        fetch.waiting.insert(token);
        let wait = self
            .latencies
            .hedge_after(to, piece.len(), self.config.hedge_min);
        fetch.hedge_at = fetch.has_next().then_some(now + wait);
        let stamp = self.stamp_for(to);
        let sent = Sent {
            to,
            at: now,
            fetch: Some(id),
            bytes: piece.len(),
            stamp: stamp.is_some(),
        };
        self.sent.insert(token, sent);
        let (object, offset, len) = (piece.object, piece.offset(), piece.len());
        let request = ReplicaRequest::Read {
            object,
            offset,
            len,
            stamp,
        };
        out.push(GetAction::Read { token, to, request });
    }

    /// The stamp request to send along to `to`, if its stamp is still of use.
    fn stamp_for(&mut self, to: StoreId) -> Option<StampRequest> {
        let r = usize::from(self.map.quorum.r);
        let (request, info) = self.home()?;
        let member = info.members.contains(&to) && !info.filling.contains(&to);
        let Currency::Stamps(fresh) = &mut self.currency else {
            return None;
        };
        if !member || fresh.expected() >= r || !self.stamps_asked.insert(to) {
            return None;
        }
        fresh.waiting.insert(to);
        Some(request)
    }

    pub(super) fn advance_currency(&mut self, now: Time, out: &mut Vec<GetAction>) {
        match &self.currency {
            Currency::Proven => {}
            Currency::Resolving(Some(at)) if *at <= now => {
                self.currency = Currency::Resolving(None);
                out.push(GetAction::Resolve);
            }
            Currency::Resolving(_) => {}
            Currency::Stamps(fresh) => match fresh.verdict() {
                Verdict::Current => self.currency = Currency::Proven,
                Verdict::AskMaster => self.resolve(out),
                Verdict::Open => self.ask_stamps(now, out),
            },
        }
    }

    /// Keeps R stamps under way; one more when they are late; the master when members run out.
    fn ask_stamps(&mut self, now: Time, out: &mut Vec<GetAction>) {
        let r = usize::from(self.map.quorum.r);
        let Some((request, members)) = self.home().map(|(q, info)| {
            let (full, filling) = self.split_members(now, info, self.spec.ino.0, 0);
            (q, full.into_iter().chain(filling).collect::<Vec<_>>())
        }) else {
            self.refresh_map(out);
            return self.resolve(out);
        };
        let late = self.stamp_hedge_at.is_some_and(|at| at <= now);
        let Currency::Stamps(fresh) = &mut self.currency else {
            return;
        };
        let mut want = r.saturating_sub(fresh.expected()) + usize::from(late);
        let mut wait = self.config.hedge_min;
        for to in members {
            if want == 0 {
                break;
            }
            if !self.stamps_asked.insert(to) {
                continue;
            }
            want -= 1;
            fresh.waiting.insert(to);
            wait = wait.max(self.latencies.hedge_after(to, 0, self.config.hedge_min));
            let token = self.next_token;
            self.next_token += 1;
            let sent = Sent {
                to,
                at: now,
                fetch: None,
                bytes: 0,
                stamp: true,
            };
            self.sent.insert(token, sent);
            let request = ReplicaRequest::Stamp(request);
            out.push(GetAction::Stamp { token, to, request });
        }
        if want > 0 {
            return self.resolve(out);
        }
        if late || self.stamp_hedge_at.is_none() {
            self.stamp_hedge_at = Some(now + wait);
        }
    }
}

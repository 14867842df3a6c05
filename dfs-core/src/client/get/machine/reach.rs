//! R members of the home group must have answered before a get ends well, whatever the master says.
//!
//! A RESOLVE proves a layout current, but a file of which fewer than R members are left shall fail
//! in time, not look healthy until the last copy is gone. An answer may be a refusal (another
//! epoch, no lease): the member is there. Members that gave none are asked again until the deadline.
use super::{GetMachine, Sent};
use crate::client::get::types::GetAction;
use crate::types::{Revision, StoreId, Time};
use crate::wire::{ErrorCode, ReplicaRequest, WireError};
use std::collections::BTreeSet;

/// Who has answered.
#[derive(Debug, Default)]
pub(super) struct Reach {
    answered: BTreeSet<StoreId>,
    last_error: String,
    /// When members that did not answer are asked again.
    pub again_at: Option<Time>,
}

impl GetMachine {
    /// A member was asked for its stamp, and this came of it.
    pub(super) fn note_reached(&mut self, from: StoreId, error: Option<&WireError>) {
        use ErrorCode as C;
        let is_silent =
            |e: &WireError| matches!(e.code, C::Unavailable | C::TimedOut | C::UnknownOutcome);
        match error.filter(|e| is_silent(e)) {
            Some(e) => self.reach.last_error = e.to_string(),
            None => {
                self.reach.answered.insert(from);
            }
        }
    }

    /// True when R members have answered, or the get asks none.
    pub(super) fn is_reached(&self) -> bool {
        // A layout of no put is never proved by stamps, so none are asked.
        let asks = self.spec.stamps && self.spec.revision > Revision(0);
        !asks || self.reach.answered.len() >= usize::from(self.map.quorum.r)
    }

    /// Asks members until R have answered, once the stamps themselves are of no more use.
    pub(super) fn advance_reach(&mut self, now: Time, out: &mut Vec<GetAction>) {
        use super::Currency;
        if self.done || self.is_reached() || matches!(self.currency, Currency::Stamps(_)) {
            self.reach.again_at = None;
            return;
        }
        if self.reach.again_at.is_some_and(|at| at > now) {
            return;
        }
        let waiting: BTreeSet<StoreId> = self
            .sent
            .values()
            .filter(|s| s.stamp)
            .map(|s| s.to)
            .collect();
        let r = usize::from(self.map.quorum.r);
        let is_first = self.reach.again_at.is_none();
        self.reach.again_at = Some(now + self.config.retry);
        if is_first && self.reach.answered.len() + waiting.len() >= r {
            return; // those under way may do
        }
        let members = self
            .home()
            .map(|(request, info)| (request, info.members.clone()));
        match members {
            Some((request, members)) => {
                for to in members {
                    if waiting.contains(&to) || self.reach.answered.contains(&to) {
                        continue;
                    }
                    let token = self.next_token;
                    self.next_token += 1;
                    self.stamps_asked.insert(to);
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
            }
            None => self.refresh_map(out),
        }
    }

    /// What kept the get from its end.
    pub(super) fn why_late(&self) -> String {
        if self.is_reached() {
            return self.last_error.clone();
        }
        let (n, r) = (self.reach.answered.len(), self.map.quorum.r);
        let last = &self.reach.last_error;
        format!("needs answers of R={r} nodes that hold the file, {n} came: {last}")
    }
}

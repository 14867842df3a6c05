//! Heartbeats: what a store reports, and the lease, map and notes that come back.
//!
//! One is sent every interval, at once after an epoch was adopted or many notes came, and soon after
//! a poke and after a hint that the map is old. What was reported and not answered is reported
//! again; after a failure (maybe another master now) everything is.
//!
//! An answer is taken in this order: addresses, lease, map (it fences), notes.
use super::config::ReplicaConfig;
use super::machine::{CallKind, Cx, Replica};
use super::tables::TableError;
use crate::types::{Epoch, PgId, Term, Time};
use crate::wire::master::{Heartbeat, HeartbeatOk, MasterResponse};
use crate::wire::repair::StoreRepair;
use crate::wire::rpc::{CallResult, CallTarget};
use crate::wire::{ErrorCode, MasterRequest, Request, Response};
use std::collections::BTreeMap;
use std::time::Duration;

/// Notes in an answer from which on more are expected behind.
const NOTES_MANY: usize = 256;
/// Heartbeats under way at most (some lost, their calls not timed out yet).
const UNANSWERED_MAX: usize = 16;
/// Wait after a heartbeat that failed.
const RETRY: Duration = Duration::from_millis(100);
/// Wait after the cluster refused this store.
const REFUSED_RETRY: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Sent {
    at: Time,
    fenced: Vec<(PgId, Epoch)>,
    emptied: Vec<PgId>,
    groups: Option<Vec<(PgId, u64)>>,
    is_full: bool,
}

/// When heartbeats go out, and those under way.
#[derive(Debug)]
pub(super) struct Heartbeats {
    due: Time,
    sent_last: Option<Time>,
    sent: BTreeMap<u64, Sent>,
    /// The next one reports all epochs, and what groups hold.
    is_full_wanted: bool,
    /// In which the master led that answered last.
    term: Option<Term>,
}

impl Heartbeats {
    pub fn new(now: Time) -> Self {
        Self {
            due: now,
            sent_last: None,
            sent: BTreeMap::new(),
            is_full_wanted: true,
            term: None,
        }
    }

    /// The master of this term answered. Another one than last time, which a request may reach by
    /// itself, was told only what that request said.
    fn answered(&mut self, term: Term, now: Time) {
        let last = self.term.replace(term);
        if last.is_some_and(|last| last != term) {
            self.is_full_wanted = true;
            self.due = self.due.min(now + RETRY);
        }
    }

    /// One shall go out soon.
    pub fn ask(&mut self, now: Time, config: &ReplicaConfig) {
        let soonest = self
            .sent_last
            .map_or(now, |t| now.max(t + config.heartbeat_spacing));
        self.due = self.due.min(soonest);
    }

    /// One shall go out at once.
    pub fn now(&mut self, now: Time) {
        self.due = self.due.min(now);
    }

    fn is_waiting(&self, now: Time, config: &ReplicaConfig) -> bool {
        let newest = self.sent.last_key_value();
        newest.is_some_and(|(_, s)| now < s.at + config.heartbeat_timeout)
            || self.sent.len() >= UNANSWERED_MAX
    }

    pub fn next_wake(&self, now: Time, config: &ReplicaConfig) -> Time {
        match self.sent.last_key_value() {
            _ if self.sent.len() >= UNANSWERED_MAX => now + config.heartbeat_timeout,
            Some((_, sent)) => self.due.max(sent.at + config.heartbeat_timeout),
            None => self.due,
        }
    }
}

impl Replica {
    pub(super) fn pump_heartbeat(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.heartbeats.due || self.heartbeats.is_waiting(cx.now, &self.config) {
            return;
        }
        let is_full = std::mem::take(&mut self.heartbeats.is_full_wanted);
        self.count_lacks(cx.now);
        let heartbeat = self.heartbeat(cx, is_full);
        let sent = Sent {
            at: cx.now,
            fenced: heartbeat.fenced.clone(),
            emptied: heartbeat.emptied.clone(),
            groups: heartbeat.load.groups.clone(),
            is_full,
        };
        let request = Request::Master(MasterRequest::Heartbeat(heartbeat));
        let token = self.call(cx, CallKind::Heartbeat, CallTarget::Leader, request);
        self.heartbeats.sent.insert(token, sent);
        self.heartbeats.sent_last = Some(cx.now);
        self.heartbeats.due = cx.now + self.config.heartbeat_interval;
    }

    fn heartbeat(&self, cx: &Cx<'_>, is_full: bool) -> Heartbeat {
        let space = cx.store.space().unwrap_or_default();
        let limit = cx.now - self.config.old_mark_age;
        let counts = self.filled();
        Heartbeat {
            store: self.config.store,
            node: self.config.node,
            incarnation: self.config.incarnation,
            addr: self.config.addr,
            zone: self.config.zone.clone(),
            sent_at: cx.now,
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            used_bytes: cx.store.used_bytes(),
            device: self.config.device,
            cursor: self.cursor_durable,
            map_version: self.groups.version(),
            fenced: self.groups.fenced(is_full),
            filled: counts.iter().map(|c| (c.pg, c.epoch)).collect(),
            emptied: self.purge.emptied(),
            old_marks: self.marks.older_than(limit, self.config.old_marks_max),
            repaired_bytes: self.counts.repaired_bytes,
            repaired_files: self.counts.repaired_files,
            failed: self.failure.is_some(),
            load: Box::new(self.load_report(cx, is_full)),
            repair: Box::new(StoreRepair {
                counts,
                rejoin: self.rejoin.report(),
                renew: self.rejoin.renew(&self.groups),
                wiping: self.wiping(),
            }),
            lacks: Box::new(self.catch_up.lacks()),
        }
    }

    pub(super) fn on_heartbeat_done(
        &mut self,
        cx: &mut Cx<'_>,
        token: u64,
        result: CallResult,
    ) -> Result<(), TableError> {
        let sent = self
            .heartbeats
            .sent
            .remove(&token)
            .expect("one per heartbeat call");
        match result {
            Ok((Response::Master(MasterResponse::Heartbeat(ok)), _)) => {
                self.on_heartbeat_ok(cx, &sent, *ok)
            }
            Ok((other, _)) => {
                tracing::warn!(
                    ?other,
                    "the master answered a heartbeat with something else"
                );
                self.heartbeat_lost(cx, &sent);
                Ok(())
            }
            Err(error) if error.code == ErrorCode::WrongCluster => {
                if !std::mem::replace(&mut self.is_refused, true) {
                    tracing::error!(%error, "the cluster does not take this store");
                }
                self.heartbeat_lost(cx, &sent);
                self.heartbeats.due = cx.now + REFUSED_RETRY;
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, "no heartbeat answer");
                self.heartbeat_lost(cx, &sent);
                Ok(())
            }
        }
    }

    fn heartbeat_lost(&mut self, cx: &Cx<'_>, sent: &Sent) {
        self.heartbeats.is_full_wanted |= sent.is_full;
        // Another master may lead now, which was told nothing yet.
        self.heartbeats.is_full_wanted = true;
        self.heartbeats.due = self.heartbeats.due.min(cx.now + RETRY);
    }

    fn on_heartbeat_ok(
        &mut self,
        cx: &mut Cx<'_>,
        sent: &Sent,
        ok: HeartbeatOk,
    ) -> Result<(), TableError> {
        if ok.sent_at != sent.at {
            tracing::warn!("a heartbeat answer echoes another time: ignored");
            self.heartbeat_lost(cx, sent);
            return Ok(());
        }
        self.groups.reported(&sent.fenced);
        self.purge.reported(&sent.emptied);
        self.load.told(sent.at, &sent.groups, ok.space);
        cx.store.share_device(ok.space.sharing);
        self.stores = ok.stores.into_iter().collect();
        self.is_paused = ok.repair_paused;
        self.wants.set_rate(ok.repair_rate);
        self.orders.clone_from(&ok.repair);
        self.rejoin.noted(ok.repair.is_rejoin_noted);
        if let Some(length) = ok.lease {
            self.lease.grant(sent.at, length);
        }
        if let Some(map) = ok.map.filter(|_| self.failure.is_none())
            && self.groups.learn(map)
        {
            self.groups_changed(cx);
        }
        self.note_last_copies();
        let upto = ok.notes_upto;
        if self.heartbeats.due == sent.at + self.config.heartbeat_interval {
            // Counted from the answer: stores that were answered together stay together.
            self.heartbeats.due = cx.now + self.config.heartbeat_interval;
        }
        self.heartbeats.answered(ok.term, cx.now);
        let many = ok.notes.len();
        self.notes_trimmed(cx, ok.trimmed)?;
        let is_held = self.listing_waits();
        if self.failure.is_none() && !is_held {
            self.apply_notes(cx, ok.notes, ok.notes_upto)?;
        }
        // Few notes do not mean that they are the last: an answer has a size too.
        let is_told_all = ok.is_told_all && self.cursor >= upto;
        if is_told_all && !is_held && self.groups.count().is_some() {
            self.rejoin.told_all(self.cursor);
        }
        if many >= NOTES_MANY {
            self.heartbeats.now(cx.now);
        }
        Ok(())
    }
}

//! The state machine of one get.
mod answers;
mod ask;
mod reach;

use self::reach::Reach;
use super::fetch::{Fetch, Standing};
use super::freshness::Freshness;
use super::types::{GetAction, GetConfig, GetDone, GetError, GetEvent, GetSpec, Piece};
use crate::client::latency::Latencies;
use crate::types::{ChunkNo, PgInfo, PgMap, PgPhase, StoreId, Time};
use crate::wire::replica::StampRequest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How the layout stands.
#[derive(Debug)]
enum Currency {
    /// Stamps are being collected.
    Stamps(Freshness),
    /// The master was asked; `Some` while waiting to ask again.
    Resolving(Option<Time>),
    /// Found current.
    Proven,
}

/// A request under way.
#[derive(Debug)]
struct Sent {
    to: StoreId,
    at: Time,
    /// The fetch it serves; `None` for a bare stamp.
    fetch: Option<u32>,
    bytes: u32,
    stamp: bool,
}

/// The state machine of one get. See the [module docs](super).
#[derive(Debug)]
pub struct GetMachine {
    config: GetConfig,
    spec: GetSpec,
    map: Arc<PgMap>,
    latencies: Arc<Latencies>,
    currency: Currency,
    stamp_hedge_at: Option<Time>,
    stamps_asked: BTreeSet<StoreId>,
    fetches: BTreeMap<u32, Fetch>,
    /// Fetches in the order of the pieces.
    order: Vec<u32>,
    next_fetch: u32,
    sent: BTreeMap<u64, Sent>,
    next_token: u64,
    expires_at: Time,
    missing_resolves: u32,
    resolved: bool,
    refreshing: bool,
    last_error: String,
    reach: Reach,
    done: bool,
}

impl GetMachine {
    /// Starts a get at `now`, appending the first actions to `out`.
    pub fn start(
        now: Time,
        config: GetConfig,
        spec: GetSpec,
        map: Arc<PgMap>,
        latencies: Arc<Latencies>,
        out: &mut Vec<GetAction>,
    ) -> Self {
        let r = usize::from(map.quorum.r);
        let currency = if spec.stamps {
            Currency::Stamps(Freshness::new(spec.revision, spec.op, r))
        } else {
            Currency::Proven
        };
        let mut get = Self {
            expires_at: now + config.deadline,
            config,
            spec,
            map,
            latencies,
            currency,
            stamp_hedge_at: None,
            stamps_asked: BTreeSet::new(),
            fetches: BTreeMap::new(),
            order: Vec::new(),
            next_fetch: 0,
            sent: BTreeMap::new(),
            next_token: 1,
            missing_resolves: 0,
            resolved: false,
            refreshing: false,
            last_error: String::new(),
            reach: Reach::default(),
            done: false,
        };
        let pieces = std::mem::take(&mut get.spec.pieces);
        get.set_pieces(now, pieces);
        get.advance(now, out);
        get
    }

    /// Applies one event at `now`, appending the resulting actions to `out`.
    pub fn handle(&mut self, now: Time, event: GetEvent, out: &mut Vec<GetAction>) {
        if self.done {
            return; // Late answers of slower members.
        }
        match event {
            GetEvent::Read { token, result } => self.on_read(now, token, result, out),
            GetEvent::Stamp { token, result } => self.on_bare_stamp(now, token, result, out),
            GetEvent::Resolved(result) => self.on_resolved(now, result, out),
            GetEvent::Map(map) => {
                self.refreshing = false;
                if map.version > self.map.version && map.pgs.len() == self.map.pgs.len() {
                    self.map = map;
                }
            }
            GetEvent::Tick => {}
        }
        self.advance(now, out);
    }

    fn set_pieces(&mut self, now: Time, pieces: Vec<Piece>) {
        let mut old = std::mem::take(&mut self.fetches);
        self.order.clear();
        for piece in pieces.into_iter().filter(|p| !p.is_empty()) {
            // Objects are immutable: what was fetched of the same piece stays good.
            let same = old
                .iter()
                .find(|(_, f)| f.piece == piece)
                .map(|(id, _)| *id);
            let (id, mut fetch) = match same.and_then(|id| old.remove_entry(&id)) {
                Some(entry) => entry,
                None => {
                    self.next_fetch += 1;
                    (
                        self.next_fetch,
                        Fetch::new(piece, self.candidates(now, &piece)),
                    )
                }
            };
            if fetch.bytes.is_none() && fetch.waiting.is_empty() && !fetch.has_next() {
                fetch.restart(self.candidates(now, &piece));
            }
            self.order.push(id);
            self.fetches.insert(id, fetch);
        }
    }

    /// Who may hold a piece, best first: complete members, members being filled, prior members.
    fn candidates(&self, now: Time, piece: &Piece) -> Vec<StoreId> {
        let Some(info) = self.map.pgs.get(usize::from(piece.pg.0)) else {
            return Vec::new();
        };
        let spread = piece.object.op.seq ^ u64::from(piece.object.index ^ (piece.first_block / 16));
        let (mut list, filling) = self.split_members(now, info, spread, piece.len());
        list.extend(filling);
        let prior: Vec<StoreId> = info
            .prior
            .iter()
            .copied()
            .filter(|s| !list.contains(s))
            .collect();
        list.extend(self.latencies.order_for(now, &prior, spread, piece.len()));
        list
    }

    fn split_members(
        &self,
        now: Time,
        info: &PgInfo,
        spread: u64,
        bytes: u32,
    ) -> (Vec<StoreId>, Vec<StoreId>) {
        let (filling, full): (Vec<StoreId>, Vec<StoreId>) =
            info.members.iter().partition(|m| info.filling.contains(m));
        (
            self.latencies.order_for(now, &full, spread, bytes),
            self.latencies.order_for(now, &filling, spread, bytes),
        )
    }

    fn home(&self) -> Option<(StampRequest, &PgInfo)> {
        let (pg, info) = self.map.of_chunk(self.spec.ino, ChunkNo::HOME);
        let info = info.filter(|i| i.phase != PgPhase::Fencing)?;
        Some((
            StampRequest {
                ino: self.spec.ino,
                pg,
                epoch: info.epoch,
            },
            info,
        ))
    }

    fn resolve(&mut self, out: &mut Vec<GetAction>) {
        if !matches!(self.currency, Currency::Resolving(_)) {
            self.currency = Currency::Resolving(None);
            out.push(GetAction::Resolve);
        }
    }

    fn refresh_map(&mut self, out: &mut Vec<GetAction>) {
        if !self.refreshing {
            self.refreshing = true;
            out.push(GetAction::RefreshMap {
                newer_than: self.map.version,
            });
        }
    }

    fn finish(&mut self, result: Result<GetDone, GetError>, out: &mut Vec<GetAction>) {
        if !self.done {
            self.done = true;
            out.push(GetAction::Finish(result));
        }
    }

    /// What follows from the state at `now`.
    fn advance(&mut self, now: Time, out: &mut Vec<GetAction>) {
        self.advance_fetches(now, out);
        self.advance_currency(now, out);
        self.advance_reach(now, out);
        if self.done {
            return;
        }
        let proven = matches!(self.currency, Currency::Proven);
        let fetched = self.fetches.values().all(|f| f.bytes.is_some());
        if proven && fetched && self.is_reached() {
            let done = self.collect();
            return self.finish(Ok(done), out);
        }
        if now >= self.expires_at {
            let last = self.why_late();
            return self.finish(Err(GetError::Unavailable { last }), out);
        }
        out.push(GetAction::SetTimer {
            at: self.next_timer(),
        });
    }

    fn collect(&self) -> GetDone {
        let piece = |id: &u32| {
            let f = self.fetches.get(id)?;
            Some((f.piece, f.bytes.clone()?))
        };
        GetDone {
            revision: self.spec.revision,
            op: self.spec.op,
            pieces: self.order.iter().filter_map(piece).collect(),
            stamp_reads: u32::try_from(self.stamps_asked.len()).unwrap_or(u32::MAX),
            resolved: self.resolved,
        }
    }

    fn advance_fetches(&mut self, now: Time, out: &mut Vec<GetAction>) {
        let ids = self.order.clone();
        for id in ids {
            let Some(fetch) = self.fetches.get_mut(&id) else {
                continue;
            };
            if fetch.again_at.is_some_and(|at| at <= now) {
                let piece = fetch.piece;
                let candidates = self.candidates(now, &piece);
                if let Some(fetch) = self.fetches.get_mut(&id) {
                    fetch.restart(candidates);
                }
            }
            let Some(fetch) = self.fetches.get_mut(&id) else {
                continue;
            };
            let hedge = fetch.bytes.is_none() && fetch.hedge_at.is_some_and(|at| at <= now);
            match fetch.standing() {
                Standing::AskNext => self.ask(now, id, out),
                Standing::Going if hedge => {
                    // Until it answers, the silent store is asked last by other gets.
                    let silent = fetch.waiting.last().and_then(|t| self.sent.get(t));
                    if let Some(Sent { to, bytes, .. }) = silent {
                        let (store, bytes) = (*to, *bytes);
                        out.push(GetAction::Observe {
                            store,
                            bytes,
                            took: None,
                        });
                    }
                    self.ask(now, id, out);
                }
                Standing::Going => {}
                Standing::Again => {
                    fetch.again_at = Some(now + self.config.retry);
                    self.refresh_map(out);
                }
                Standing::AllDamaged => {
                    // Once more, in case the damage happened on the way.
                    fetch.damaged_rounds += 1;
                    if fetch.damaged_rounds > 1 {
                        let (object, damaged) = (fetch.piece.object, fetch.damaged());
                        return self.finish(Err(GetError::Corrupt { object, damaged }), out);
                    }
                    fetch.again_at = Some(now + self.config.retry);
                    self.refresh_map(out);
                }
                Standing::AllMissing => {
                    let object = fetch.piece.object;
                    fetch.again_at = Some(now + self.config.retry);
                    if matches!(self.currency, Currency::Resolving(_)) {
                        continue;
                    }
                    if self.missing_resolves >= self.config.resolves_max {
                        return self.finish(Err(GetError::Missing { object }), out);
                    }
                    self.missing_resolves += 1;
                    self.refresh_map(out);
                    self.resolve(out);
                }
            }
        }
    }

    fn next_timer(&self) -> Time {
        let fetches = self.fetches.values().filter(|f| f.bytes.is_none());
        let fetch = fetches.filter_map(|f| f.again_at.or(f.hedge_at)).min();
        let currency = match &self.currency {
            Currency::Stamps(_) => self.stamp_hedge_at,
            Currency::Resolving(at) => *at,
            Currency::Proven => None,
        };
        [fetch, currency, self.reach.again_at]
            .into_iter()
            .flatten()
            .min()
            .map_or(self.expires_at, |at| at.min(self.expires_at))
    }
}

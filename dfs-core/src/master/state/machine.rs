//! The master's state: tables and what is cached of them, changed only by [`MasterState::apply`].
//!
//! Steps of one apply: check that the entry follows; advance log time (never back); dispatch; store
//! the notes and the garbage it left; write the applied row. Everything an entry changes, the
//! applied index included, is in the tables before `apply` returns, so a lazy flush of the tables is
//! always a state at one index. Invariants:
//! 1. equal logs give equal tables on every voter;
//! 2. the rolling hash of the applied row covers every entry from the first.
mod disown;
mod locking;
mod queries;

use super::ctx::{Applied, ApplyCtx, ApplyError, Effects, StateError};
use super::keys;
use super::locks::Locks;
use super::namespace;
use super::notes::{self};
use super::pgs::Pgs;
use super::sessions::{Decision, ResultRow, Sessions};
use super::stores::{StoreRow, Stores};
use crate::master::command::{Command, LogEntry};
use crate::store::{Kv, prefix_end};
use crate::types::{ClusterId, LogIndex, OpId, QuorumSizes, Term, Time, crc32c};
use crate::wire::{ErrorCode, Mutation, WireError};
use serde::{Deserialize, Serialize};

/// Receipts kept.
const RECEIPTS_MAX: usize = 200;
/// Notes dropped in one entry at most.
const TRIM_MAX: usize = 20_000;

/// The cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Chosen at bootstrap.
    pub cluster: ClusterId,
    /// Copies and quorums.
    pub quorum: QuorumSizes,
    /// Voters wanted.
    pub voters: u8,
}

/// How far the log has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppliedRow {
    /// Index of the last entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Log time.
    pub at: Time,
    /// Rolling hash over all entries.
    pub hash: u32,
}

/// The state machine. See the [module docs](self).
#[derive(Debug)]
pub struct MasterState<K> {
    kv: K,
    applied: AppliedRow,
    cluster: Option<ClusterRow>,
    sessions: Sessions,
    pgs: Pgs,
    stores: Stores,
    locks: Locks,
    repair_paused: bool,
}

impl<K: Kv> MasterState<K> {
    /// Opens the state over its tables (empty ones are a state before the first entry).
    ///
    /// # Errors
    /// A damaged table.
    pub fn open(kv: K) -> Result<Self, StateError> {
        Ok(Self {
            applied: keys::get(&kv, "applied", keys::APPLIED)?.unwrap_or_default(),
            cluster: keys::get(&kv, "cluster", keys::CLUSTER)?,
            sessions: Sessions::load(&kv)?,
            pgs: Pgs::load(&kv)?,
            stores: Stores::load(&kv)?,
            locks: Locks::load(&kv)?,
            repair_paused: keys::get(&kv, "paused", keys::PAUSED)?.unwrap_or(false),
            kv,
        })
    }

    /// Reads everything again that is cached: the tables were replaced.
    ///
    /// # Errors
    /// A damaged table.
    pub fn reload(&mut self) -> Result<(), StateError> {
        self.applied = keys::get(&self.kv, "applied", keys::APPLIED)?.unwrap_or_default();
        self.cluster = keys::get(&self.kv, "cluster", keys::CLUSTER)?;
        self.sessions = Sessions::load(&self.kv)?;
        self.pgs = Pgs::load(&self.kv)?;
        self.stores = Stores::load(&self.kv)?;
        self.locks = Locks::load(&self.kv)?;
        self.repair_paused = keys::get(&self.kv, "paused", keys::PAUSED)?.unwrap_or(false);
        Ok(())
    }

    /// Applies one entry.
    ///
    /// # Errors
    /// [`StateError`]: the voter must stop; the tables may hold a part of the entry.
    pub fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        entry: &LogEntry,
    ) -> Result<Applied, StateError> {
        self.advance(index, term, entry.at, || {
            postcard::to_stdvec(entry)
                .map(|bytes| crc32c(&bytes))
                .unwrap_or(0)
        })?;
        let mut effects = Effects::default();
        let mut applied = self.dispatch(&entry.command, &mut effects)?;
        applied.notes_added = !effects.notes.is_empty();
        notes::add(&mut self.kv, index, 0, &effects.notes);
        notes::queue_deletes(&mut self.kv, self.applied.at, index, &effects.garbage)?;
        applied.touched.append(&mut effects.touched);
        applied.watch.append(&mut effects.watch);
        Ok(applied)
    }

    /// Applies an entry without a command (a leader's no-op, a change of voters).
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_empty(&mut self, index: LogIndex, term: Term) -> Result<(), StateError> {
        self.advance(index, term, self.applied.at, || 0)
    }

    fn advance(
        &mut self,
        index: LogIndex,
        term: Term,
        at: Time,
        crc: impl FnOnce() -> u32,
    ) -> Result<(), StateError> {
        if index != self.applied.index.next() {
            return Err(StateError::Gap {
                applied: self.applied.index,
                got: index,
            });
        }
        let mut mix = self.applied.hash.to_le_bytes().to_vec();
        mix.extend(index.0.to_le_bytes());
        mix.extend(crc().to_le_bytes());
        let at = self.applied.at.max(at);
        self.applied = AppliedRow {
            index,
            term,
            at,
            hash: crc32c(&mix),
        };
        keys::put(&mut self.kv, keys::APPLIED.to_vec(), &self.applied);
        Ok(())
    }

    fn dispatch(
        &mut self,
        command: &Command,
        effects: &mut Effects,
    ) -> Result<Applied, StateError> {
        match command {
            Command::Mutate { op, low, body } => self.mutate(*op, *low, body, effects),
            Command::Bootstrap {
                cluster,
                quorum,
                pgs,
                voters,
            } => self.bootstrap(*cluster, *quorum, *pgs, *voters),
            Command::OpenSession { .. }
            | Command::EndSession { .. }
            | Command::Abort { .. }
            | Command::RaiseLease { .. }
            | Command::Reap { .. }
            | Command::SealAll { .. }
            | Command::TrimHistory { .. } => self.dispatch_sessions(command, effects),
            Command::ReleaseDeletes { before, max } => {
                effects.notes = notes::release_deletes(&mut self.kv, *before, *max as usize)?;
                Ok(Applied::default())
            }
            Command::TrimNotes { upto } => {
                notes::trim(&mut self.kv, (*upto).min(self.applied.index), TRIM_MAX)?;
                Ok(Applied::default())
            }
            Command::StoreSeen { .. }
            | Command::StoreSpace { .. }
            | Command::StoreDown { .. }
            | Command::StoreDrain { .. }
            | Command::VoterAssigned { .. }
            | Command::VoterRetired { .. } => Ok(self.dispatch_stores(command)),
            Command::BeginEpoch { .. }
            | Command::Activate { .. }
            | Command::Filled { .. }
            | Command::Emptied { .. }
            | Command::Refill { .. }
            | Command::RepairControl { .. }
            | Command::Receipt(_) => self.dispatch_repair(command),
        }
    }

    fn bootstrap(
        &mut self,
        cluster: ClusterId,
        quorum: QuorumSizes,
        pgs: u16,
        voters: u8,
    ) -> Result<Applied, StateError> {
        if self.cluster.is_some() {
            return Ok(refused(
                ErrorCode::Exists,
                "the cluster is bootstrapped already",
            ));
        }
        if let Err(e) = quorum.validate() {
            return Ok(refused(ErrorCode::Invalid, e.to_string()));
        }
        if pgs == 0 || !matches!(voters, 1 | 3 | 5) {
            return Ok(refused(
                ErrorCode::Invalid,
                "pgs must be above 0, voters 1, 3 or 5",
            ));
        }
        let row = ClusterRow {
            cluster,
            quorum,
            voters,
        };
        keys::put(&mut self.kv, keys::CLUSTER.to_vec(), &row);
        self.cluster = Some(row);
        self.pgs = Pgs::format(&mut self.kv, quorum, pgs, self.applied.index);
        namespace::format(&mut self.kv, self.applied.at)?;
        Ok(Applied {
            map_changed: true,
            ..Applied::default()
        })
    }

    fn mutate(
        &mut self,
        op: OpId,
        low: u64,
        body: &Mutation,
        effects: &mut Effects,
    ) -> Result<Applied, StateError> {
        let mut unlocked = Vec::new();
        let (result, touched) = match self.sessions.begin(&mut self.kv, op, low)? {
            Decision::Decided(row) => (row.result, row.touched),
            Decision::Refused(e) => (Err(e), Vec::new()),
            Decision::Open => {
                let result = match body {
                    Mutation::Abandon { op: target } => self.abandon(op, *target)?,
                    Mutation::Lock(_) | Mutation::Unlock { .. } => {
                        self.change_locks(op.client, body, &mut unlocked)?
                    }
                    body => self.with_namespace(op, effects, |ctx| namespace::apply(ctx, body))?,
                };
                let row = ResultRow {
                    result,
                    touched: effects.touched.clone(),
                };
                Sessions::decide(&mut self.kv, op, &row);
                (row.result, Vec::new())
            }
        };
        Ok(Applied {
            result: Some((op, result)),
            touched,
            unlocked,
            ..Applied::default()
        })
    }

    /// Runs a namespace function; refused means that nothing changed.
    fn with_namespace<T>(
        &mut self,
        op: OpId,
        effects: &mut Effects,
        run: impl FnOnce(&mut ApplyCtx<'_>) -> Result<T, ApplyError>,
    ) -> Result<Result<T, WireError>, StateError> {
        let mut ctx = ApplyCtx {
            kv: &mut self.kv,
            at: self.applied.at,
            index: self.applied.index,
            op,
            map: self.pgs.map(),
            effects: std::mem::take(effects),
        };
        match run(&mut ctx) {
            Ok(done) => {
                *effects = ctx.effects;
                Ok(Ok(done))
            }
            Err(ApplyError::Refused(e)) => Ok(Err(e)),
            Err(ApplyError::Broken(e)) => Err(e),
        }
    }

    fn dispatch_sessions(
        &mut self,
        command: &Command,
        effects: &mut Effects,
    ) -> Result<Applied, StateError> {
        let nobody = OpId::default();
        match command {
            Command::OpenSession { client, label } => {
                let at = self.applied.at;
                let opened = self.sessions.open(&mut self.kv, *client, label, at)?;
                Ok(Applied {
                    refused: opened.err(),
                    ..Applied::default()
                })
            }
            Command::EndSession { client, expired: _ } => {
                let ended = self.sessions.end(&mut self.kv, *client)?.then_some(*client);
                let mut unlocked = Vec::new();
                if ended.is_some() {
                    let files = self.locks.end_session(&mut self.kv, *client);
                    unlocked.extend(files);
                    let _ = self.with_namespace(nobody, effects, |ctx| {
                        Ok(namespace::end_session(ctx, *client)?)
                    })?;
                }
                Ok(Applied {
                    ended,
                    unlocked,
                    ..Applied::default()
                })
            }
            Command::Abort { ops } => {
                self.abort(ops, effects)?;
                Ok(Applied::default())
            }
            Command::RaiseLease { ino } => {
                self.run(effects, |ctx| namespace::raise_lease(ctx, *ino).map(|_| ()))
            }
            Command::Reap { inos } => {
                let mut gone = Vec::new();
                let done = self.run(effects, |ctx| {
                    for ino in inos {
                        if namespace::reap(ctx, *ino)? {
                            gone.push(*ino);
                        }
                    }
                    Ok(())
                });
                for ino in gone {
                    self.locks.drop_file(&mut self.kv, ino);
                }
                done
            }
            Command::SealAll { inos } => {
                self.run(effects, |ctx| Ok(namespace::seal_all(ctx, inos)?))
            }
            Command::TrimHistory {
                before,
                keep_names,
                max,
            } => self.run(effects, |ctx| {
                Ok(namespace::trim_history(ctx, *before, *keep_names, *max).map(|_| ())?)
            }),
            _ => Ok(Applied::default()),
        }
    }

    fn run(
        &mut self,
        effects: &mut Effects,
        run: impl FnOnce(&mut ApplyCtx<'_>) -> Result<(), ApplyError>,
    ) -> Result<Applied, StateError> {
        let done = self.with_namespace(OpId::default(), effects, run)?;
        Ok(Applied {
            refused: done.err(),
            ..Applied::default()
        })
    }

    fn dispatch_stores(&mut self, command: &Command) -> Applied {
        let kv = &mut self.kv;
        match command {
            Command::StoreSeen {
                store,
                node,
                incarnation,
                addr,
                zone,
                device,
            } => {
                self.stores.moved(kv, *node, *addr);
                let row = StoreRow {
                    store: *store,
                    node: *node,
                    incarnation: *incarnation,
                    addr: *addr,
                    zone: zone.clone(),
                    device: *device,
                    total: 0,
                    free: 0,
                    used: 0,
                    down_since: None,
                    draining: false,
                };
                self.stores.seen(kv, row);
            }
            Command::StoreSpace { space } => {
                for &(store, total, free, used) in space {
                    self.stores.update(kv, store, |r| {
                        (r.total, r.free, r.used) = (total, free, used)
                    });
                }
            }
            Command::StoreDown { store, since } => {
                self.stores.update(kv, *store, |r| r.down_since = *since);
            }
            Command::StoreDrain { store, draining } => {
                self.stores.update(kv, *store, |r| r.draining = *draining);
            }
            Command::VoterAssigned {
                node,
                raft_id,
                addr,
            } => {
                let given = self.stores.assign(kv, *raft_id, *node, *addr);
                let in_use = || WireError::new(ErrorCode::Exists, "this Raft id is in use");
                return Applied {
                    refused: (!given).then(in_use),
                    ..Applied::default()
                };
            }
            Command::VoterRetired { raft_id } => self.stores.retire(kv, *raft_id),
            _ => {}
        }
        Applied::default()
    }

    fn dispatch_repair(&mut self, command: &Command) -> Result<Applied, StateError> {
        let (kv, index, at) = (&mut self.kv, self.applied.index, self.applied.at);
        let map_changed = match command {
            Command::BeginEpoch { cause, changes } => {
                self.pgs.begin(kv, index, at, *cause, changes)
            }
            Command::Activate { pgs } => self.pgs.activate(kv, index, pgs),
            Command::Filled { done } => self.pgs.filled(kv, index, done),
            Command::Refill { members } => self.pgs.refill(kv, index, members),
            Command::RepairControl { paused } => {
                keys::put(kv, keys::PAUSED.to_vec(), paused);
                self.repair_paused = *paused;
                false
            }
            Command::Receipt(receipt) => {
                keys::put(kv, keys::receipt(index), receipt);
                let all = kv.scan(&[keys::RECEIPT], &prefix_end(&[keys::RECEIPT]), usize::MAX)?;
                for (key, _) in all.iter().take(all.len().saturating_sub(RECEIPTS_MAX)) {
                    kv.delete(key);
                }
                false
            }
            // Prior members are let go when a group is CLEAN; that they emptied is only news.
            _ => false,
        };
        Ok(Applied {
            map_changed,
            ..Applied::default()
        })
    }
}

fn refused(code: ErrorCode, detail: impl Into<String>) -> Applied {
    Applied {
        refused: Some(WireError::new(code, detail)),
        ..Applied::default()
    }
}

fn broken(e: StateError) -> WireError {
    WireError::new(ErrorCode::Internal, e.to_string())
}

#[cfg(test)]
mod tests;

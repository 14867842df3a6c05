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
mod repairing;

use super::ctx::{Applied, ApplyCtx, ApplyError, Effects, StateError};
use super::keys;
use super::leaps::Leaps;
use super::locks::Locks;
use super::namespace;
use super::notes::{self};
use super::pgs::Pgs;
use super::repairs::Repairs;
use super::sessions::{Decision, ResultRow, Sessions};
use super::stores::Stores;
use super::waiting::Waiting;
use crate::master::command::{Command, LogEntry};
use crate::store::Kv;
use crate::types::{ClusterId, LogIndex, OpId, QuorumSizes, Term, Time, crc32c};
use crate::wire::{ErrorClass, ErrorCode, Mutation, WireError};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    repairs: Repairs,
    repair_paused: bool,
    leaps: Leaps,
    waiting: Waiting,
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
            repairs: Repairs::load(&kv)?,
            repair_paused: keys::get(&kv, "paused", keys::PAUSED)?.unwrap_or(false),
            leaps: Leaps::load(&kv)?,
            waiting: Waiting::default(),
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
        self.repairs = Repairs::load(&self.kv)?;
        self.repair_paused = keys::get(&self.kv, "paused", keys::PAUSED)?.unwrap_or(false);
        self.leaps = Leaps::load(&self.kv)?;
        self.waiting = Waiting::default();
        Ok(())
    }

    /// What is cached otherwise than a state that is opened over the same tables would cache it; empty
    /// unless an apply changed one and not the other.
    ///
    /// # Errors
    /// A damaged table.
    pub fn stale_caches(&self) -> Result<Vec<&'static str>, StateError> {
        let kv = &self.kv;
        let applied: AppliedRow = keys::get(kv, "applied", keys::APPLIED)?.unwrap_or_default();
        let cluster: Option<ClusterRow> = keys::get(kv, "cluster", keys::CLUSTER)?;
        let is_paused = keys::get(kv, "paused", keys::PAUSED)?.unwrap_or(false);
        let differ = |a: &dyn fmt::Debug, b: &dyn fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let parts = [
            ("applied", differ(&self.applied, &applied)),
            ("cluster", differ(&self.cluster, &cluster)),
            ("sessions", differ(&self.sessions, &Sessions::load(kv)?)),
            ("groups", differ(&self.pgs, &Pgs::load(kv)?)),
            ("stores", differ(&self.stores, &Stores::load(kv)?)),
            ("locks", differ(&self.locks, &Locks::load(kv)?)),
            ("repairs", differ(&self.repairs, &Repairs::load(kv)?)),
            ("paused", differ(&self.repair_paused, &is_paused)),
            ("leaps", differ(&self.leaps, &Leaps::load(kv)?)),
        ];
        let stale = parts.into_iter().filter(|(_, differs)| *differs);
        Ok(stale.map(|(what, _)| what).collect())
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
        self.waiting.queued(&effects.garbage);
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
            Command::MutateAfter {
                op,
                low,
                after,
                sole_at,
                body,
            } => match self.is_early(*op, (*low, *after), *sole_at)? {
                Some(error) => Ok(Applied {
                    result: Some((*op, Err(error))),
                    ..Applied::default()
                }),
                None => self.mutate(*op, *low, body, effects),
            },
            Command::Bar { clients } => {
                let at = self.applied.index;
                self.sessions.bar(&mut self.kv, clients, at);
                Ok(Applied::default())
            }
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
            | Command::TrimHistory { .. }
            | Command::FreeSpace { .. } => self.dispatch_sessions(command, effects),
            Command::ReleaseDeletes { before, max } => {
                effects.notes = notes::release_deletes(&mut self.kv, *before, *max as usize)?;
                self.waiting.released(&effects.notes);
                Ok(Applied::default())
            }
            Command::TrimNotes { upto } => {
                notes::trim(&mut self.kv, (*upto).min(self.applied.index), TRIM_MAX)?;
                Ok(Applied::default())
            }
            Command::ClockLeapt { gap } => {
                self.leaps.add(&mut self.kv, self.applied.at, *gap);
                Ok(Applied::default())
            }
            Command::StoreSeen { .. }
            | Command::StoreSpace { .. }
            | Command::StoreDown { .. }
            | Command::StoreDrain { .. }
            | Command::StoreRemoved { .. }
            | Command::VoterAssigned { .. }
            | Command::VoterRetired { .. } => self.dispatch_stores(command),
            Command::BeginEpoch { .. }
            | Command::Activate { .. }
            | Command::Filled { .. }
            | Command::Emptied { .. }
            | Command::Refill { .. }
            | Command::RepairControl { .. }
            | Command::Receipt(_)
            | Command::BeginRepair { .. }
            | Command::FilledCounted { .. }
            | Command::RepairBoost { .. }
            | Command::Rejoined { .. } => self.dispatch_repair(command),
        }
    }

    /// Leaps of log time.
    pub fn leaps(&self) -> &Leaps {
        &self.leaps
    }

    /// Which objects wait for deletion, and the tables.
    pub(super) fn waiting(&mut self) -> (&mut Waiting, &K) {
        (&mut self.waiting, &self.kv)
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

    /// Why a change that builds on the one before is not applied now, or ever: they are applied in the order
    /// in which they were made, whatever becomes of connections and leaders in between, and only while nobody
    /// else could see what they have not yet done.
    fn is_early(
        &self,
        op: OpId,
        (low, after): (u64, u64),
        sole_at: LogIndex,
    ) -> Result<Option<WireError>, StateError> {
        if self.sessions.get(op.client).is_none() {
            return Ok(None); // Refused as such.
        }
        let is_decided = |op| self.sessions.is_decided(&self.kv, op);
        if self.sessions.is_barred(op.client, sole_at) && !is_decided(op)? {
            let detail = "others were let in before this was heard of";
            return Ok(Some(WireError::new(ErrorCode::OpAborted, detail)));
        }
        let before = OpId { seq: after, ..op };
        // The first sequence is 1; the session itself says that all below `low` are finished.
        if after >= low.max(1) && !is_decided(before)? {
            let detail = format!("op {before} comes first");
            return Ok(Some(WireError::new(ErrorCode::NotReady, detail)));
        }
        Ok(None)
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
                    Mutation::Abandon { op: target } => self.abandon(op, *target, effects)?,
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
                if let (Some(commit), Err(e)) = (body.commit(), &row.result)
                    && e.code.class() == ErrorClass::Permanent
                {
                    self.note_aborted(commit.ino, op, effects);
                }
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
        let rows = self.stores.all();
        let is_down =
            |store: &crate::types::StoreId| rows.get(store).is_none_or(|r| r.down_since.is_some());
        let mut ctx = ApplyCtx {
            kv: &mut self.kv,
            at: self.applied.at,
            index: self.applied.index,
            op,
            map: self.pgs.map(),
            is_down: &is_down,
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
            Command::FreeSpace { names, versions } => self.run(effects, |ctx| {
                Ok(namespace::free_space(ctx, *names, versions)?)
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

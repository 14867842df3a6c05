//! The master's state: tables and what is cached of them, changed only by [`MasterState::apply`].
//!
//! Steps of one apply: check that the entry follows; advance log time (never back); dispatch; store
//! the notes and the garbage it left; write the applied row. Everything an entry changes, the
//! applied index included, is in the tables before `apply` returns, so a lazy flush of the tables is
//! always a state at one index. Invariants:
//! 1. equal logs give equal tables on every voter;
//! 2. the rolling hash of the applied row covers every entry from the first.
use super::ctx::{Applied, ApplyCtx, ApplyError, Effects, StateError};
use super::keys;
use super::namespace;
use super::notes::{self, StoreNote};
use super::pgs::{PgState, Pgs};
use super::sessions::{Decision, ResultRow, SessionRow, Sessions};
use super::stores::{StoreRow, Stores};
use crate::master::command::{Command, LogEntry};
use crate::store::{Kv, prefix_end};
use crate::types::{
    ChunkNo, ClientId, ClusterId, Ino, LogIndex, NodeId, OpId, PgId, PgMap, QuorumSizes, RaftId,
    StoreId, Term, Time, crc32c,
};
use crate::wire::master::{Note, PgRow, QueryAnswer, RepairReceipt, StatFsInfo};
use crate::wire::{ErrorCode, Mutation, MutationOk, Query, WireError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

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
        let (result, touched) = match self.sessions.begin(&mut self.kv, op, low)? {
            Decision::Decided(row) => (row.result, row.touched),
            Decision::Refused(e) => (Err(e), Vec::new()),
            Decision::Open => {
                let result = match body {
                    Mutation::Abandon { op: target } => self.abandon(op, *target)?,
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
            ..Applied::default()
        })
    }

    /// Disowns `target`. If it was applied before, answers what it had been answered.
    fn abandon(
        &mut self,
        op: OpId,
        target: OpId,
    ) -> Result<Result<MutationOk, WireError>, StateError> {
        if op.client != target.client {
            let detail = "an op can be disowned only by its own session";
            return Ok(Err(WireError::new(ErrorCode::Invalid, detail)));
        }
        if let Some(row) = Sessions::result(&self.kv, target)? {
            return Ok(row.result);
        }
        self.sessions.abort(&mut self.kv, target)?;
        Ok(Ok(MutationOk::Done))
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
                if ended.is_some() {
                    let _ = self.with_namespace(nobody, effects, |ctx| {
                        Ok(namespace::end_session(ctx, *client)?)
                    })?;
                }
                Ok(Applied {
                    ended,
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
            Command::Reap { inos } => self.run(effects, |ctx| {
                inos.iter()
                    .try_for_each(|ino| Ok(namespace::reap(ctx, *ino).map(|_| ())?))
            }),
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

    /// Aborts ops that will never be applied, and tells the stores. An op whose objects are in use
    /// was applied: its mark is only late.
    fn abort(&mut self, ops: &[(Ino, OpId)], effects: &mut Effects) -> Result<(), StateError> {
        for &(ino, op) in ops {
            let decided = Sessions::result(&self.kv, op)?.is_some_and(|row| row.result.is_ok());
            if decided || namespace::op_is_referenced(&self.kv, op)? {
                continue;
            }
            let live = self
                .sessions
                .get(op.client)
                .is_some_and(|row| op.seq >= row.low);
            if live {
                self.sessions.abort(&mut self.kv, op)?;
            }
            let count = self.pgs.map().pgs.len();
            let home = crate::types::pg_of(ino, ChunkNo::HOME, u16::try_from(count).unwrap_or(1));
            effects.notes.push((home, Note::Aborted { ino, op }));
        }
        Ok(())
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

    /// The tables.
    pub fn kv(&self) -> &K {
        &self.kv
    }

    /// The tables, for flushing. Changing them outside `apply` breaks invariant 1.
    pub fn kv_mut(&mut self) -> &mut K {
        &mut self.kv
    }

    /// How far the log has been applied.
    pub fn applied(&self) -> AppliedRow {
        self.applied
    }

    /// The cluster, once bootstrapped.
    pub fn cluster(&self) -> Option<&ClusterRow> {
        self.cluster.as_ref()
    }

    /// Live sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (ClientId, &SessionRow)> {
        self.sessions.iter()
    }

    /// One live session.
    pub fn session(&self, client: ClientId) -> Option<&SessionRow> {
        self.sessions.get(client)
    }

    /// `Some(true)` if applied, `Some(false)` if refused for good, `None` if undecided or no longer
    /// known.
    ///
    /// # Errors
    /// A damaged table.
    pub fn was_decided(&self, op: OpId) -> Result<Option<bool>, StateError> {
        Ok(Sessions::result(&self.kv, op)?.map(|row| row.result.is_ok()))
    }

    /// Placement groups as clients see them.
    pub fn map(&self) -> &PgMap {
        self.pgs.map()
    }

    /// Placement groups with what only the master needs.
    pub fn pgs(&self) -> impl Iterator<Item = (PgId, &PgState)> {
        self.pgs.iter()
    }

    /// Stores.
    pub fn stores(&self) -> &BTreeMap<StoreId, StoreRow> {
        self.stores.all()
    }

    /// Raft ids in use.
    pub fn raft_nodes(&self) -> &BTreeMap<RaftId, (NodeId, SocketAddr)> {
        self.stores.voters()
    }

    /// Repair is paused.
    pub fn repair_paused(&self) -> bool {
        self.repair_paused
    }

    /// See [`notes::after`].
    ///
    /// # Errors
    /// A damaged table.
    pub fn notes_after(
        &self,
        cursor: LogIndex,
        wanted: &dyn Fn(PgId) -> bool,
        max: usize,
    ) -> Result<(Vec<StoreNote>, LogIndex), StateError> {
        notes::after(&self.kv, cursor, self.applied.index, wanted, max)
    }

    /// Notes at or below this index were dropped: a store whose cursor is below must be filled again.
    ///
    /// # Errors
    /// A damaged table.
    pub fn notes_trimmed(&self) -> Result<LogIndex, StateError> {
        notes::trimmed(&self.kv)
    }

    /// Entries in the delete queue.
    ///
    /// # Errors
    /// A damaged table.
    pub fn delete_queue_len(&self) -> Result<u64, StateError> {
        notes::queue_len(&self.kv)
    }

    /// An entry queued before `before` waits in the delete queue.
    ///
    /// # Errors
    /// A damaged table.
    pub fn deletes_due(&self, before: Time) -> Result<bool, StateError> {
        notes::deletes_due(&self.kv, before)
    }

    /// Receipts, oldest first.
    ///
    /// # Errors
    /// A damaged table.
    pub fn receipts(&self) -> Result<Vec<RepairReceipt>, StateError> {
        let all = self
            .kv
            .scan(&[keys::RECEIPT], &prefix_end(&[keys::RECEIPT]), usize::MAX)?;
        all.iter()
            .map(|(k, v)| keys::decode("receipt", k, v))
            .collect()
    }

    /// Totals for statfs: what can be written at N copies.
    ///
    /// # Errors
    /// A damaged table.
    pub fn statfs(&self) -> Result<StatFsInfo, StateError> {
        let live = namespace::live_totals(&self.kv)?;
        let space = self.stores.space(self.pgs.map().quorum.n);
        Ok(StatFsInfo {
            inodes: live.inodes,
            live_bytes: live.bytes,
            ..space
        })
    }

    /// Answers a query as of the applied index.
    ///
    /// # Errors
    /// What the client is told.
    pub fn query(&self, query: &Query) -> Result<QueryAnswer, WireError> {
        match query {
            Query::PgMap => Ok(QueryAnswer::PgMap(self.pgs.map().clone())),
            Query::StatFs => self.statfs().map(QueryAnswer::StatFs).map_err(broken),
            query => namespace::query(&self.kv, self.pgs.map(), query),
        }
    }

    /// What a member of `pg` must hold, in order after `after`; true at the end.
    ///
    /// # Errors
    /// A damaged table.
    pub fn pg_listing(
        &self,
        pg: PgId,
        after: Option<(Ino, ChunkNo)>,
        limit: usize,
    ) -> Result<(Vec<PgRow>, bool), StateError> {
        namespace::pg_rows(&self.kv, self.pgs.map(), pg, after, limit)
    }

    /// Inodes with bytes in any of `pgs`: inode, one path, size; true at the end.
    ///
    /// # Errors
    /// A damaged table.
    #[allow(clippy::type_complexity)]
    pub fn files_of(
        &self,
        pgs: &BTreeSet<PgId>,
        after: Ino,
        limit: usize,
    ) -> Result<(Vec<(Ino, Vec<u8>, u64)>, bool), StateError> {
        namespace::inos_of_pgs(&self.kv, pgs, after, limit)
    }

    /// Inodes without links or pins, after `after`.
    ///
    /// # Errors
    /// A damaged table.
    pub fn orphans(&self, after: Ino, limit: usize) -> Result<Vec<Ino>, StateError> {
        namespace::orphans(&self.kv, after, limit)
    }

    /// True iff deleted history is older than `before` or more than `keep_names` names.
    ///
    /// # Errors
    /// A damaged table.
    pub fn history_due(&self, before: Time, keep_names: u64) -> Result<bool, StateError> {
        let oldest = namespace::oldest_deleted(&self.kv)?;
        let names = namespace::live_totals(&self.kv)?.deleted_names;
        Ok(oldest.is_some_and(|at| at < before) || names > keep_names)
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
mod tests {
    use super::*;
    use crate::store::MemKv;
    use crate::types::{FileKind, Name};
    use crate::wire::mutation::NewNode;

    const C: ClientId = ClientId(9);

    struct Fixture {
        state: MasterState<MemKv>,
        index: u64,
    }

    impl Fixture {
        fn new() -> Self {
            let state = MasterState::open(MemKv::default()).unwrap();
            let mut this = Self { state, index: 0 };
            let quorum = QuorumSizes::DEFAULT;
            this.apply(Command::Bootstrap {
                cluster: ClusterId(1),
                quorum,
                pgs: 4,
                voters: 3,
            });
            this.apply(Command::OpenSession {
                client: C,
                label: "test".into(),
            });
            this
        }

        fn apply(&mut self, command: Command) -> Applied {
            self.index += 1;
            let entry = LogEntry {
                at: Time(self.index * 1000),
                command,
            };
            self.state
                .apply(LogIndex(self.index), Term(1), &entry)
                .unwrap()
        }

        fn create(&mut self, seq: u64, name: &str) -> Result<MutationOk, WireError> {
            let body = Mutation::Create {
                parent: Ino::ROOT,
                name: Name::new(name).unwrap(),
                node: NewNode {
                    kind: FileKind::File,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    rdev: 0,
                    target: Vec::new(),
                },
                exclusive: true,
            };
            let op = OpId { client: C, seq };
            let applied = self.apply(Command::Mutate { op, low: 1, body });
            applied.result.unwrap().1
        }
    }

    #[test]
    fn a_repeated_mutation_answers_the_same_and_changes_nothing() {
        let mut f = Fixture::new();
        let first = f.create(1, "a").unwrap();
        assert_eq!(f.create(1, "a").unwrap(), first);
        assert_eq!(f.create(2, "a").unwrap_err().code, ErrorCode::Exists);
        assert_eq!(
            f.create(2, "b").unwrap_err().code,
            ErrorCode::Exists,
            "op 2 is decided"
        );
    }

    #[test]
    fn an_abandoned_op_is_never_applied() {
        let mut f = Fixture::new();
        let target = OpId { client: C, seq: 5 };
        let body = Mutation::Abandon { op: target };
        let op = OpId { client: C, seq: 6 };
        let applied = f.apply(Command::Mutate { op, low: 1, body });
        assert_eq!(applied.result.unwrap().1, Ok(MutationOk::Done));
        assert_eq!(f.create(5, "late").unwrap_err().code, ErrorCode::OpAborted);
    }

    #[test]
    fn equal_logs_give_equal_tables_after_a_reopen_too() {
        let (mut a, mut b) = (Fixture::new(), Fixture::new());
        for i in 1..20 {
            a.create(i, &format!("f{i}")).unwrap();
            b.create(i, &format!("f{i}")).unwrap();
            b.state = MasterState::open(b.state.kv().clone()).unwrap();
        }
        assert_eq!(a.state.kv(), b.state.kv());
        assert_eq!(a.state.applied(), b.state.applied());
    }

    #[test]
    fn an_entry_that_does_not_follow_is_refused() {
        let mut f = Fixture::new();
        let entry = LogEntry {
            at: Time(1),
            command: Command::RepairControl { paused: true },
        };
        let gap = f.state.apply(LogIndex(9), Term(1), &entry);
        assert!(matches!(gap, Err(StateError::Gap { .. })));
    }

    #[test]
    fn log_time_never_runs_back() {
        let mut f = Fixture::new();
        let at = f.state.applied().at;
        f.index += 1;
        let entry = LogEntry {
            at: Time(1),
            command: Command::RepairControl { paused: true },
        };
        f.state.apply(LogIndex(f.index), Term(1), &entry).unwrap();
        assert_eq!(f.state.applied().at, at);
        assert!(f.state.repair_paused());
    }
}

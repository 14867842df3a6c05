//! Stores as the leader hears them: heartbeats, serving leases, fences, news.
//!
//! A heartbeat is taken in at once (what it reports) and answered after a round (what it is
//! promised). A lease is given only to a store that knows every epoch that was begun: it has the
//! map of the last BEGIN or a newer one, and has durably adopted every epoch that is being fenced.
//! So after a BEGIN no member that served the old epoch gets another lease before it has let go.
use super::copies::{Lacks, Progress};
use super::event::MasterAction;
use super::leading::{Pending, ReadKind, Task};
use super::machine::{Master, refusal};
use super::placing::SlowWatch;
use super::reads::broken;
use crate::master::command::Command;
use crate::types::{
    Epoch, Incarnation, Ino, LogIndex, NodeId, OpId, PgId, PgPhase, StoreId, Term, Time,
};
use crate::wire::master::{Heartbeat, HeartbeatOk, MasterResponse, StoreLoad};
use crate::wire::repair::{FillCount, RepairOrders};
use crate::wire::rpc::{ConnId, ReplyTo};
use crate::wire::{ErrorCode, Push, WireError};
use std::collections::BTreeMap;
use std::time::Duration;

/// A store's speed of repair is measured over at least so long.
const SPEED_OVER: Duration = Duration::from_secs(1);

/// One store as the leader hears it.
#[derive(Debug, Clone)]
pub(super) struct StoreSoft {
    pub conn: ConnId,
    pub node: NodeId,
    pub heard_at: Time,
    /// When it was last given a lease.
    pub granted_at: Option<Time>,
    pub cursor: LogIndex,
    pub map_version: LogIndex,
    /// Epochs it has durably adopted.
    pub adopted: BTreeMap<PgId, Epoch>,
    pub total: u64,
    pub free: u64,
    pub used: u64,
    pub failed: bool,
    pub load: StoreLoad,
    /// Bytes per second read lately.
    pub read_rate: u64,
    /// Replicas it still has to wipe.
    pub wiping: u32,
    /// Bytes per second it copies for repair.
    pub speed: u64,
    /// Bytes copied, when that was last looked at for the speed.
    measured: (Time, u64),
    /// What it should hold and does not.
    pub lacks: Lacks,
    pub incarnation: Incarnation,
    poked_at: Time,
}

/// All stores heard in this term.
#[derive(Debug)]
pub(super) struct StoreTable {
    pub heard: BTreeMap<StoreId, StoreSoft>,
    /// Since when a store is down here (boot clock).
    pub down: BTreeMap<StoreId, Time>,
    /// Log index of the last BEGIN (or of the map at the election).
    pub last_begin: LogIndex,
    /// Log index of the last REFILL (or of the map at the election).
    pub last_refill: LogIndex,
    /// How far the log was applied lately.
    pub progress: Progress,
    /// When a store was first seen by the cluster.
    pub fresh_at: Time,
    /// Stores have a new map to be told.
    pub news: bool,
    /// Stores have notes to be told.
    pub notes: bool,
    /// Their disks are much slower than the others'.
    pub slow: SlowWatch,
    space_at: Time,
    elected_at: Time,
    /// From when on a store that was not heard counts as silent.
    unheard_since: Time,
}

impl StoreTable {
    pub fn new(now: Time, map_version: LogIndex) -> Self {
        Self {
            heard: BTreeMap::new(),
            down: BTreeMap::new(),
            last_begin: map_version,
            last_refill: map_version,
            progress: Progress::default(),
            fresh_at: now,
            news: true,
            notes: false,
            slow: SlowWatch::default(),
            space_at: Time::ZERO,
            elected_at: now,
            unheard_since: now,
        }
    }

    /// Bytes per second that all together copy for repair.
    pub fn speed(&self) -> u64 {
        let live = self
            .heard
            .iter()
            .filter(|(s, _)| !self.down.contains_key(s));
        live.map(|(_, soft)| soft.speed).sum()
    }

    /// Last sign of life, the election at the earliest.
    pub fn heard_at(&self, store: StoreId) -> Time {
        let heard = self.heard.get(&store);
        heard.map_or(self.unheard_since, |soft| soft.heard_at)
    }

    /// This process was stalled: nobody was silent because of that. Leases run on.
    pub fn forgive(&mut self, stalled: Duration) {
        self.heard
            .values_mut()
            .for_each(|soft| soft.heard_at = soft.heard_at + stalled);
        self.unheard_since = self.unheard_since + stalled;
        self.progress.forget();
    }

    /// A lease it has was given at this time at the latest, by this leader or the one before.
    pub fn leased_at(&self, store: StoreId) -> Time {
        let granted = self.heard.get(&store).and_then(|soft| soft.granted_at);
        granted.map_or(self.elected_at, |at| at.max(self.elected_at))
    }

    /// Notes up to here were told to this run of the store.
    pub fn cursor(&self, hb: &Heartbeat) -> LogIndex {
        let heard = self.heard.get(&hb.store);
        let same = heard.filter(|soft| soft.incarnation == hb.incarnation);
        hb.cursor.max(same.map_or(LogIndex(0), |soft| soft.cursor))
    }

    /// Each store was heard, is down, or had the time to be heard.
    pub fn are_known<'a>(
        &self,
        mut all: impl Iterator<Item = &'a StoreId>,
        now: Time,
        timeout: Duration,
    ) -> bool {
        now.since(self.elected_at) > timeout
            || all.all(|s| self.heard.contains_key(s) || self.down.contains_key(s))
    }

    /// True if it has durably let go of epochs before `epoch`.
    pub fn has_adopted(&self, store: StoreId, pg: PgId, epoch: Epoch) -> bool {
        let adopted = self
            .heard
            .get(&store)
            .and_then(|soft| soft.adopted.get(&pg));
        adopted.is_some_and(|adopted| *adopted >= epoch)
    }

    pub fn conn_closed(&mut self, conn: ConnId) {
        for soft in self.heard.values_mut().filter(|soft| soft.conn == conn) {
            soft.conn = ConnId(u64::MAX);
        }
    }

    /// Takes a heartbeat in.
    fn note(&mut self, hb: &Heartbeat, conn: ConnId, now: Time) {
        let copied = hb.repaired_bytes;
        let known = self.heard.entry(hb.store).or_insert_with(|| StoreSoft {
            conn,
            node: hb.node,
            heard_at: now,
            granted_at: None,
            cursor: LogIndex(0),
            map_version: LogIndex(0),
            adopted: BTreeMap::new(),
            total: 0,
            free: 0,
            used: 0,
            failed: false,
            load: StoreLoad::default(),
            read_rate: 0,
            wiping: 0,
            speed: 0,
            measured: (now, copied),
            lacks: Lacks::default(),
            incarnation: hb.incarnation,
            poked_at: now,
        });
        // Counters restart with the store.
        let gained = |new: u64, old: u64| new.checked_sub(old).unwrap_or(new);
        let since = now.since(known.measured.0);
        if since >= SPEED_OVER {
            let gained = gained(copied, known.measured.1);
            let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            known.speed = gained.saturating_mul(1000) / millis.max(1);
            known.measured = (now, copied);
        }
        known.wiping = hb.repair.wiping;
        (known.conn, known.node) = (conn, hb.node);
        // Within a run it never falls: an older one was overtaken.
        let told = (known.incarnation == hb.incarnation).then_some(known.cursor);
        known.cursor = hb.cursor.max(told.unwrap_or_default());
        known.incarnation = hb.incarnation;
        known.lacks = Lacks::new(&hb.lacks);
        known.map_version = hb.map_version;
        known.failed = hb.failed;
        (known.total, known.free, known.used) = (hb.total_bytes, hb.free_bytes, hb.used_bytes);
        let ms = u64::try_from(now.since(known.heard_at).as_millis()).unwrap_or(u64::MAX);
        let read = gained(hb.load.read_bytes, known.load.read_bytes);
        if let Some(rate) = read.saturating_mul(1000).checked_div(ms) {
            // Over some ten heartbeats.
            known.read_rate = known.read_rate - known.read_rate / 10 + rate / 10;
        }
        known.heard_at = now;
        let groups = known.load.groups.take();
        known.load = (*hb.load).clone();
        known.load.groups = hb.load.groups.clone().or(groups);
        for (pg, epoch) in &hb.fenced {
            let adopted = known.adopted.entry(*pg).or_default();
            *adopted = (*adopted).max(*epoch);
        }
    }
}

impl Master {
    pub(super) fn on_heartbeat(&mut self, to: ReplyTo, hb: Heartbeat, out: &mut Vec<MasterAction>) {
        let now = self.now;
        if self.state.is_removed(hb.store) {
            let detail = format!(
                "store {} of node {} was removed from the cluster for good; to use this machine \
                 again, delete the data directory and start it as a new node",
                hb.store, hb.node
            );
            out.push(refusal(to, WireError::new(ErrorCode::WrongCluster, detail)));
            return;
        }
        let row = self.state.stores().get(&hb.store);
        // A delayed one of an earlier run says nothing about this one.
        if row.is_some_and(|row| row.incarnation > hb.incarnation) {
            return self.read(to, ReadKind::Heartbeat(Box::new(hb)), out);
        }
        let same = row.is_some_and(|row| {
            (row.incarnation, row.addr, row.node, row.device, &row.zone)
                == (hb.incarnation, hb.addr, hb.node, hb.device, &hb.zone)
        });
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.stores.note(&hb, to.conn, now);
        if row.is_none() {
            leading.stores.fresh_at = now;
        }
        if !same {
            let command = Command::StoreSeen {
                store: hb.store,
                node: hb.node,
                incarnation: hb.incarnation,
                addr: hb.addr,
                zone: hb.zone.clone(),
                device: hb.device,
            };
            self.propose_task(Task::Seen(hb.store), command);
            // What the node had before is gone with this run, and no status may say otherwise.
            self.watch_down();
        }
        // One that does not know yet that it is to be filled again speaks of the time before.
        let is_current = |l: &super::leading::Leading| hb.map_version >= l.stores.last_refill;
        if self.leading.as_deref().is_some_and(is_current) {
            self.note_filled(&hb);
        }
        self.note_return(&hb);
        self.note_old_marks(&hb);
        self.activate_fenced();
        self.read(to, ReadKind::Heartbeat(Box::new(hb)), out);
    }

    /// One that was not told yet what is trimmed does not count: called complete, it would seem to
    /// have missed news and be filled once more.
    fn note_filled(&mut self, hb: &Heartbeat) {
        if self.state.notes_trimmed().is_ok_and(|at| hb.cursor < at) {
            return;
        }
        let pgs = &self.state.map().pgs;
        let is_news = |(pg, epoch): &&(PgId, Epoch)| {
            pgs.get(usize::from(pg.0)).is_some_and(|info| {
                info.epoch == *epoch
                    && info.phase == PgPhase::Copying
                    && info.filling.contains(&hb.store)
            })
        };
        let counted = |&(pg, epoch): &(PgId, Epoch)| {
            let mut counts = hb.repair.counts.iter();
            let count = counts.find(|c| (c.pg, c.epoch) == (pg, epoch));
            let uncounted = FillCount {
                pg,
                epoch,
                ..FillCount::default()
            };
            count.cloned().unwrap_or(uncounted)
        };
        let done: Vec<_> = hb.filled.iter().filter(is_news).map(counted).collect();
        if !done.is_empty() {
            let store = hb.store;
            self.propose_task(Task::Filled, Command::FilledCounted { store, done });
        }
    }

    /// Aborts ops whose marks are old and whose sessions are gone or have disowned them.
    fn note_old_marks(&mut self, hb: &Heartbeat) {
        let abandoned = |op: &OpId| {
            let low = self
                .leading
                .as_ref()
                .map_or(0, |l| l.liveness.low(op.client));
            let session = self.state.session(op.client);
            session.is_none_or(|row| op.seq < row.low.max(low))
        };
        let undecided = |op: &OpId| matches!(self.state.was_decided(*op), Ok(None));
        let ops: Vec<(Ino, OpId)> = hb
            .old_marks
            .iter()
            .filter(|(_, op)| abandoned(op) && undecided(op) && !self.is_referenced(*op))
            .take(1000)
            .copied()
            .collect();
        if !ops.is_empty() {
            self.propose_task(Task::Abort, Command::Abort { ops });
        }
    }

    pub(super) fn answer_heartbeat(&mut self, hb: &Heartbeat) -> Result<MasterResponse, WireError> {
        let lease = self.may_serve(hb).then_some(self.config.serving_lease);
        let now = self.now;
        let is_boosted = self.is_boosted();
        let rejoin = hb.repair.rejoin.as_ref();
        let noted = rejoin
            .map(|r| self.state.rejoin_noted(hb.store, r))
            .transpose();
        let is_rejoin_noted = noted.map_err(broken)?.unwrap_or(false);
        let (notes, notes_upto) = self.notes_for(hb)?;
        let map = self.state.map();
        let map = (map.version > hb.map_version).then(|| map.clone());
        if let Some(leading) = self.leading.as_deref_mut()
            && let Some(soft) = leading.stores.heard.get_mut(&hb.store)
            && lease.is_some()
        {
            soft.granted_at = Some(now);
        }
        Ok(MasterResponse::Heartbeat(Box::new(HeartbeatOk {
            sent_at: hb.sent_at,
            // Of a higher one this node may have heard already, which it does not lead.
            term: self.leading.as_ref().map_or(Term(0), |l| l.term),
            lease,
            map,
            notes,
            notes_upto,
            stores: self.store_addrs(),
            repair_paused: self.state.repair_paused(),
            space: self.space_advice(hb.store).map_err(broken)?,
            repair_rate: if is_boosted {
                0
            } else {
                self.config.repair_rate
            },
            repair: RepairOrders {
                is_boosted,
                is_rejoin_noted,
                last_copies: self.last_copies(hb.store),
            },
            trimmed: self.state.notes_trimmed().map_err(broken)?,
            is_told_all: notes_upto >= self.state.applied().index,
        })))
    }

    /// Repair shall go as fast as can be.
    pub(super) fn is_boosted(&self) -> bool {
        self.state.repairs().boost() > self.log_now()
    }

    /// True if the store knows every epoch that was begun.
    fn may_serve(&self, hb: &Heartbeat) -> bool {
        let Some(leading) = self.leading.as_deref() else {
            return false;
        };
        let is_this_run = self
            .state
            .stores()
            .get(&hb.store)
            .is_some_and(|row| row.incarnation == hb.incarnation);
        let fenced = self.state.pgs().all(|(pg, state)| {
            let concerned = state.info.phase == PgPhase::Fencing
                && (state.serving.contains(&hb.store) || state.info.members.contains(&hb.store));
            !concerned || leading.stores.has_adopted(hb.store, pg, state.info.epoch)
        });
        is_this_run && !hb.failed && hb.map_version >= leading.stores.last_begin && fenced
    }

    /// Tells connected stores that there is news, now and then.
    pub(super) fn poke_stores(&mut self, out: &mut Vec<MasterAction>) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let every = match (leading.stores.news, leading.stores.notes) {
            (true, _) => self.config.poke_every,
            (false, true) => self.config.poke_notes_every,
            (false, false) => return,
        };
        // All at once, so that their heartbeats share a round.
        let poked_at = leading.stores.heard.values().map(|soft| soft.poked_at);
        if poked_at.max().is_some_and(|at| now.since(at) < every) {
            return;
        }
        (leading.stores.news, leading.stores.notes) = (false, false);
        for soft in leading.stores.heard.values_mut() {
            soft.poked_at = now;
            out.push(MasterAction::Push {
                conn: soft.conn,
                push: Push::Poke,
            });
        }
    }

    /// Proposes what changed about space and about who is down.
    pub(super) fn watch_stores(&mut self) {
        self.watch_down();
        let (now, every) = (self.now, self.config.space_every);
        let applied = self.state.applied().index;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.stores.progress.sample(now, applied);
        let rows = self.state.stores();
        let differs = |(store, soft): &(&StoreId, &StoreSoft)| {
            rows.get(store).is_some_and(|row| {
                let step = (soft.total / 200).max(1 << 20);
                row.total != soft.total
                    || row.free.abs_diff(soft.free) > step
                    || row.used.abs_diff(soft.used) > step
            })
        };
        let is_unknown = |s: &StoreId| rows.get(s).is_some_and(|r| r.total == 0);
        let due = now.since(leading.stores.space_at) >= every;
        let space: Vec<_> = leading
            .stores
            .heard
            .iter()
            .filter(|entry| differs(entry) && (due || is_unknown(entry.0)))
            .map(|(store, soft)| (*store, soft.total, soft.free, soft.used))
            .collect();
        if !space.is_empty() {
            leading.stores.space_at = now;
            self.propose_task(Task::StoreSpace, Command::StoreSpace { space });
        }
    }

    fn watch_down(&mut self) {
        let now = self.now;
        let log_now = self.log_now();
        let rows = self.state.stores().values();
        let downs = rows.filter_map(|row| Some((row.store, self.surely_since(row.down_since?))));
        let down_for: BTreeMap<StoreId, Duration> = downs.collect();
        let mut changes = Vec::new();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        // This node's own store is heard without a network: if not even that one is, it is this
        // process or its disk that is slow, and nobody else is accused for their silence alone. Rows
        // of stores that this node had before stay silent for ever.
        let rows = self.state.stores().values();
        let own = rows.filter(|row| row.node == self.config.node);
        let last = own.map(|row| leading.stores.heard_at(row.store)).max();
        let is_deaf = last.is_some_and(|at| now.since(at) > self.config.heartbeat_timeout / 2);
        for row in self.state.stores().values() {
            let silent = now.since(leading.stores.heard_at(row.store));
            let is_silent = silent > self.config.heartbeat_timeout
                && (!is_deaf || row.node == self.config.node);
            let failed = leading
                .stores
                .heard
                .get(&row.store)
                .is_some_and(|s| s.failed);
            let suspected = super::repair::is_down_by_gossip(&self.members, row.node);
            let is_heard = leading.stores.heard.contains_key(&row.store);
            let is_down = failed
                || is_silent
                || leading.stores.is_replaced(row)
                || (suspected && silent > self.config.heartbeat_timeout / 3);
            let known = leading.stores.down.contains_key(&row.store);
            if is_down && !known {
                let before = down_for.get(&row.store).copied().unwrap_or_default();
                leading.stores.down.insert(row.store, now - before);
                tracing::warn!(store = %row.store, node = %row.node, "store is down");
            } else if !is_down && known {
                leading.stores.down.remove(&row.store);
                tracing::info!(store = %row.store, node = %row.node, "store is back");
            }
            if is_down != row.down_since.is_some() && (is_down || is_heard) {
                changes.push((row.store, is_down.then_some(log_now)));
            }
        }
        for (store, since) in changes {
            self.propose(
                Command::StoreDown { store, since },
                Pending::Task(Task::Down(store)),
            );
        }
    }
}

//! One machine of the cluster: what survives a crash, and the daemon that runs on it.
//!
//! A crash loses what the disk may lose ([`SimDisk::crash`]) and everything in memory; the tables'
//! bases ([`MemBase`]) stand for transactions that are durable or not there. A start goes through
//! the real recovery: log, tables, journal.
use super::bugs::Bug;
use super::clock::Clock;
use super::daemon::Daemon;
use super::fabric::{Ev, Fabric};
use super::gossip::{Gossip, Remembered, seal_of};
use super::network::{End, Packet};
use super::planted::{Planted, tamper_with_rows};
use super::settings::{Plan, addr_of, node_id, store_id};
use dfs_core::consensus::{HardState, RaftLog, SnapshotMeta};
use dfs_core::membership::TimerToken;
use dfs_core::net::auth::DatagramSeal;
use dfs_core::replica::VotingNow;
use dfs_core::store::{Disk, DiskError, MemBase, ObjectStore, SimDisk, StoreMeta};
use dfs_core::types::{NodeId, RaftId, StoreId};
use dfs_core::wire::master::Voting;
use dfs_core::wire::node::MemberState;
use dfs_core::wire::rpc::ConnId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Timers of a node's run, and work that is done.
#[derive(Debug, Clone)]
pub(super) enum NodeTimer {
    /// Of the master.
    Tick,
    /// Of the replica; its number, as newer ones replace older ones.
    Wake(u64),
    /// The Raft log's sync is over.
    LogSynced,
    /// The store's commit is over.
    StoreSynced,
    /// The master's tables are flushed.
    MasterFlushed,
    /// The store's tables are flushed.
    StoreFlushed,
    /// An attempt of a call has had its time.
    CallTimeout(u64),
    /// A call to the leader is tried again.
    CallAgain(u64),
    /// Gossip says so, wrongly.
    Member(NodeId, MemberState),
    /// Of the membership.
    Gossip(TimerToken),
    /// The voter is told of the members.
    Members,
}

/// Copies the files whose paths begin so, durably.
fn copy_files(from: &SimDisk, to: &SimDisk, prefix: &str) -> Result<(), DiskError> {
    for path in from.paths(prefix) {
        let file = from.open(&path, false)?;
        let len = usize::try_from(file.len()?).expect("a simulated file fits memory");
        let copy = to.open(&path, true)?;
        copy.write_at(0, &file.read_at(0, len)?)?;
        copy.sync_data()?;
        to.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
    }
    Ok(())
}

/// See the [module docs](self).
pub(super) struct Node {
    pub index: usize,
    pub clock: Clock,
    /// Counts starts.
    pub run: u64,
    pub disk: SimDisk,
    pub daemon: Option<Box<Daemon>>,
    /// Counts pauses; an end of an earlier one is void.
    pub pauses: u64,
    pub is_paused: bool,
    /// What came while it was paused.
    inbox: Vec<Ev>,
    /// Factor of the disk's latency.
    pub disk_slow: u32,
    pub plan: Arc<Plan>,
    /// The Raft id it runs under, durable.
    raft_id: Option<RaftId>,
    /// What its heartbeats say of that.
    voting: Arc<VotingNow>,
    /// Tables of each Raft id it had.
    master_bases: BTreeMap<RaftId, MemBase>,
    store_base: MemBase,
    meta: StoreMeta,
    /// Stores it had before.
    wipes: u64,
    pub gossip: Option<Gossip>,
    pub remembered: Remembered,
    pub seal: DatagramSeal,
    had_sync_failure: bool,
    pub planted: Planted,
    /// A stamp that was asked for as a probe was told.
    pub probed: bool,
}

impl Node {
    pub fn new(index: usize, plan: Arc<Plan>, fx: &mut Fabric) -> Self {
        let disk = SimDisk::new();
        let meta = StoreMeta::open_or_create(&disk, plan.cluster, store_id(index, 0));
        let (meta, _) = meta.expect("an empty disk takes a store");
        let seal = seal_of(&plan);
        Self {
            index,
            clock: Clock::draw(&mut fx.rng),
            run: 0,
            disk,
            daemon: None,
            pauses: 0,
            is_paused: false,
            inbox: Vec::new(),
            disk_slow: 1,
            plan,
            raft_id: None,
            voting: Arc::default(),
            master_bases: BTreeMap::new(),
            store_base: MemBase::new(),
            meta,
            wipes: 0,
            gossip: None,
            remembered: Remembered::default(),
            seal,
            had_sync_failure: false,
            planted: Planted::default(),
            probed: false,
        }
    }

    pub fn end(&self) -> End {
        Self::end_of(self.index)
    }

    pub fn end_of(index: usize) -> End {
        End::Node(index)
    }

    /// The store that it has now.
    pub fn store(&self) -> StoreId {
        self.meta.store
    }

    /// Empties its store while it is down, and with `all` the rest of its disk.
    pub fn wipe(&mut self, all: bool) {
        assert!(self.daemon.is_none(), "it is down");
        self.had_sync_failure = false;
        self.disk.spare_next_sync();
        let disk = SimDisk::new();
        // It stays who it is: without its name it would be another node.
        copy_files(&self.disk, &disk, "node/").expect("no failure is planned");
        if !all {
            copy_files(&self.disk, &disk, "raft-").expect("no failure is planned");
        }
        self.disk = disk;
        if all {
            self.raft_id = None;
            self.master_bases.clear();
            self.voting.set(Voting::No);
        }
        if !self.plan.has(Bug::WipedStoreKeepsItsId) {
            self.wipes += 1;
        }
        self.store_base = MemBase::new();
        let fresh = store_id(self.index, self.wipes);
        let meta = StoreMeta::open_or_create(&self.disk, self.plan.cluster, fresh);
        (self.meta, _) = meta.expect("an empty disk takes a store");
    }

    /// Makes the log of a Raft member on this disk.
    pub fn found_voter(&mut self, id: RaftId, base: &SnapshotMeta) -> Result<(), String> {
        let disk = Arc::new(self.disk.clone());
        let dir = format!("raft-{}", id.0);
        RaftLog::create(
            disk,
            &dir,
            self.plan.log_id(id),
            self.plan.log_config(),
            base,
        )
        .map_err(|e| e.to_string())?;
        self.raft_id = Some(id);
        self.planted.promise = HardState {
            term: base.term,
            ..HardState::default()
        };
        self.master_bases.insert(id, MemBase::new());
        Ok(())
    }

    /// Starts the daemon.
    pub fn start(&mut self, fx: &mut Fabric) {
        if self.daemon.is_some() {
            return;
        }
        // The ballast that a daemon gives up then is not simulated.
        self.disk.set_capacity(None);
        self.run += 1;
        self.is_paused = false;
        self.inbox.clear();
        fx.trace.say(
            fx.now,
            format_args!("node {} starts, run {}", self.index, self.run),
        );
        match self.boot(fx) {
            Ok(daemon) => {
                self.daemon = Some(Box::new(daemon));
                self.start_gossip(fx);
                // Every start syncs: a failure that was still to come has come.
                self.had_sync_failure = false;
                self.kick(fx);
            }
            // The disk failed during the start: whoever watches the daemon starts it again.
            Err(e) if self.had_sync_failure => {
                self.gossip = None;
                fx.trace.say(
                    fx.now,
                    format_args!("node {} does not start: {e}", self.index),
                );
                self.had_sync_failure = false;
                let event = Ev::Fault(super::faults::Fault::Start(self.index));
                fx.after(Duration::from_millis(200), event);
            }
            Err(e) => fx.fail(format!("node {} cannot start: {e}", self.index)),
        }
    }

    fn boot(&mut self, fx: &mut Fabric) -> Result<Daemon, String> {
        self.boot_gossip(fx)?;
        let base = Arc::new(self.store_base.clone());
        let disk = Arc::new(self.disk.clone());
        let opened = ObjectStore::open(disk, base, &self.meta, self.plan.store_options());
        let (mut store, mut writer) = opened.map_err(|e| format!("store: {e}"))?;
        tamper_with_rows(&self.plan, &mut store, &mut writer)?;
        let mut config = {
            let store = self.meta.store;
            self.plan
                .replica_config(self.index, store, self.incarnation())
        };
        config.voting = self.voting.clone();
        let mut daemon = Daemon::new(config, self.clock.local(fx.now), store, writer)?;
        if let Some(id) = self.raft_id {
            let base = self.master_bases[&id].clone();
            let seed = fx.id() ^ self.plan.seed << 20;
            let id = (id, node_id(self.index), addr_of(self.index));
            daemon.start_master(&self.plan, id, &self.disk, base, seed)?;
        }
        self.voting.set(self.raft_id.map_or(Voting::No, Voting::As));
        Ok(daemon)
    }

    /// The store as it would open if the power went now and nothing unsynced were left. A disk with
    /// damage may not give one.
    pub fn store_after_power_cut(&self) -> Option<ObjectStore> {
        let disk = Arc::new(self.disk.durable());
        let base = Arc::new(self.store_base.fork());
        let opened = ObjectStore::open(disk, base, &self.meta, self.plan.store_options());
        opened.ok().map(|(store, _)| store)
    }

    /// A node becomes a member of the group while it runs.
    pub fn become_voter(&mut self, id: RaftId, fx: &mut Fabric) -> Result<(), String> {
        if self.raft_id == Some(id) {
            return Ok(());
        }
        if let Some(old) = self.raft_id {
            return Err(format!("it is member {} already", old.0));
        }
        self.found_voter(id, &SnapshotMeta::blank())?;
        let base = self.master_bases[&id].clone();
        let seed = fx.id() ^ self.plan.seed << 20;
        let ids = (id, node_id(self.index), addr_of(self.index));
        let Some(daemon) = self.daemon.as_mut() else {
            return Err("it is down".into());
        };
        daemon.start_master(&self.plan, ids, &self.disk, base, seed)?;
        self.voting.set(Voting::As(id));
        let event = Ev::Node {
            node: self.index,
            run: self.run,
            timer: NodeTimer::Tick,
        };
        fx.after(Duration::from_millis(1), event);
        Ok(())
    }

    /// It is no member any more: log and tables go.
    pub fn retire_voter(&mut self, id: RaftId, fx: &Fabric) {
        if self.raft_id != Some(id) {
            return;
        }
        self.raft_id = None;
        self.voting.set(Voting::No);
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.stop_master();
        }
        let done = RaftLog::destroy(&self.disk, &format!("raft-{}", id.0));
        // What a failing disk leaves behind is under an id that is never used again.
        if let Err(e) = done {
            fx.trace
                .say(fx.now, format_args!("node {}: {e}", self.index));
        }
        self.master_bases.remove(&id);
    }

    fn kick(&mut self, fx: &mut Fabric) {
        let (node, run) = (self.index, self.run);
        for timer in [NodeTimer::Tick, NodeTimer::Wake(0)] {
            let pause = fx.ms(0, 20);
            fx.after(pause, Ev::Node { node, run, timer });
        }
    }

    /// The power goes (or only the process, when `kills`).
    pub fn crash(&mut self, kills: bool, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.take() else {
            return;
        };
        fx.trace.say(
            fx.now,
            format_args!("node {} stops, kill {kills}", self.index),
        );
        self.is_paused = false;
        self.inbox.clear();
        self.gossip = None;
        if kills {
            daemon.killed(&self.disk, fx);
            self.disk.kill();
        } else {
            daemon.lost_power(&self.disk, fx);
            self.disk.crash(&mut fx.rng);
        }
    }

    /// Its next sync fails; the daemon must then stop acknowledging, and is started again later.
    pub fn fail_sync(&mut self) {
        self.disk.fail_next_sync();
        self.had_sync_failure = true;
    }

    /// A failure that a test caused may stop this node.
    pub fn may_fail(&self) -> bool {
        self.had_sync_failure
    }

    pub fn pause(&mut self) -> u64 {
        self.is_paused = self.daemon.is_some();
        self.pauses += 1;
        self.pauses
    }

    /// It runs on, with everything that came meanwhile.
    pub fn resume(&mut self, fx: &mut Fabric) {
        if std::mem::take(&mut self.is_paused) {
            // The socket is drained before timers fire.
            let is_datagram = |event: &Ev| matches!(event, Ev::Datagram(_));
            let inbox = std::mem::take(&mut self.inbox);
            let (datagrams, rest): (Vec<Ev>, Vec<Ev>) = inbox.into_iter().partition(is_datagram);
            for event in datagrams.into_iter().chain(rest) {
                fx.at(fx.now, event);
            }
        }
    }

    /// Handles an event that is meant for it.
    pub fn handle(&mut self, event: Ev, fx: &mut Fabric) {
        if self.is_paused {
            self.inbox.push(event);
            return;
        }
        match event {
            Ev::Deliver { conn, packet, .. } => self.deliver(conn, *packet, fx),
            Ev::Datagram(datagram) if self.daemon.is_some() => self.on_datagram(&datagram, fx),
            Ev::Node { run, timer, .. } if run == self.run && self.daemon.is_some() => {
                self.on_timer(timer, fx);
            }
            _ => {}
        }
    }

    /// Is the packet of a connection that this run has? Marks a new one as accepted.
    fn accepts(&self, conn: ConnId, fx: &mut Fabric) -> bool {
        let (run, me) = (self.run, self.end());
        let is_up = self.daemon.is_some();
        let Some(state) = fx.conn(conn) else {
            return conn == ConnId(0) && is_up;
        };
        if state.callee == self.index && state.caller != me {
            let own = *state.callee_run.get_or_insert(run) == run;
            return own && is_up;
        }
        is_up && (state.caller != me || state.caller_run == run)
    }

    fn deliver(&mut self, conn: ConnId, packet: Packet, fx: &mut Fabric) {
        if !self.accepts(conn, fx) {
            // A host that is up refuses; one that is gone is silent.
            if !matches!(packet, Packet::Closed) && conn != ConnId(0) && fx.chance(0.7) {
                fx.close(conn, self.end());
            }
            return;
        }
        match packet {
            Packet::Request { id, body, payload } => self.on_request(conn, id, body, payload, fx),
            Packet::Reply { id, body, payload } => self.on_reply(id, body, payload, fx),
            Packet::Push(push) => self.on_push(&push, fx),
            Packet::Cast(request) => self.on_cast(request, fx),
            Packet::Closed => self.on_closed(conn, fx),
        }
    }
}

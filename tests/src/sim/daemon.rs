//! The daemon of one run: the machines, their storage threads, the calls they have under way.
//!
//! It does what the real drivers do and decides nothing: a storage thread takes everything that
//! waits into one commit, reports in order, and stops for good at the first failure.
use super::fabric::Fabric;
use super::settings::Plan;
use dfs_core::consensus::{LogWrite, RaftLog};
use dfs_core::master::leader::Master;
use dfs_core::replica::{Replica, ReplicaConfig};
use dfs_core::store::{
    Disk, FlushJob, LazyKv, MemBase, ObjectStore, PendingBatch, SimDisk, StoreWriter,
};
use dfs_core::types::{NodeId, PgMap, RaftId, Time};
use dfs_core::wire::node::LeaderHint;
use dfs_core::wire::rpc::{Call, ConnId};
use rand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which machine made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Master,
    Replica,
}

/// A call under way.
#[derive(Debug)]
pub(super) struct OutCall {
    pub caller: Caller,
    pub call: Call,
    /// Attempts so far.
    pub tries: u32,
    /// No attempt begins after this.
    pub until: Time,
    /// The connection of the present attempt.
    pub conn: Option<ConnId>,
}

/// A Raft member.
pub(super) struct Voter {
    pub id: RaftId,
    pub master: Master,
    pub log: RaftLog,
    /// For the next sync.
    pub queue: Vec<(u64, LogWrite)>,
    /// Of the sync under way.
    pub syncing: Vec<(u64, LogWrite)>,
    pub flush: Option<FlushJob>,
}

/// See the [module docs](self).
pub(super) struct Daemon {
    pub voter: Option<Box<Voter>>,
    pub replica: Replica,
    pub store: ObjectStore,
    pub writer: StoreWriter,
    pub queue: Vec<(u64, PendingBatch)>,
    pub syncing: Vec<(u64, PendingBatch)>,
    pub flush: Option<FlushJob>,
    /// Newest wake-up of the replica.
    pub wake: u64,
    pub wake_at: Time,
    pub calls: BTreeMap<u64, OutCall>,
    /// Connections it opened, by node and order.
    pub conns: BTreeMap<(usize, bool), ConnId>,
    pub hint: LeaderHint,
    /// What its voter said last.
    pub hint_of_voter: LeaderHint,
    /// The last map that passed through, for planted bugs.
    pub map: Option<PgMap>,
    /// It is kept from the replica until then.
    pub map_until: Time,
}

impl Daemon {
    pub fn new(
        config: ReplicaConfig,
        now: Time,
        store: ObjectStore,
        writer: StoreWriter,
    ) -> Result<Self, String> {
        let replica = Replica::recover(config, now, &store).map_err(|e| format!("replica: {e}"))?;
        Ok(Self {
            voter: None,
            replica,
            store,
            writer,
            queue: Vec::new(),
            syncing: Vec::new(),
            flush: None,
            wake: 0,
            wake_at: Time(u64::MAX),
            calls: BTreeMap::new(),
            conns: BTreeMap::new(),
            hint: LeaderHint::default(),
            hint_of_voter: LeaderHint::default(),
            map: None,
            map_until: Time(0),
        })
    }

    /// Where the leader is, for who asks.
    pub fn hint(&self) -> LeaderHint {
        let of_voter = &self.hint_of_voter;
        match self.hint.leader {
            None if of_voter.term >= self.hint.term && self.voter.is_some() => of_voter.clone(),
            _ => self.hint.clone(),
        }
    }

    /// Opens log and tables of a member and runs it.
    pub fn start_master(
        &mut self,
        plan: &Plan,
        (id, node, addr): (RaftId, NodeId, SocketAddr),
        disk: &SimDisk,
        base: MemBase,
        seed: u64,
    ) -> Result<(), String> {
        let dir = format!("raft-{}", id.0);
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (log, found) = RaftLog::open(disk, &dir, plan.log_id(id), plan.log_config())
            .map_err(|e| format!("raft log: {e}"))?;
        let kv = LazyKv::open(Arc::new(base)).map_err(|e| format!("tables: {e}"))?;
        let (config, raft) = (plan.master_config(node, id, addr), plan.raft_config(id));
        let master = Master::new(config, raft, found, kv, Some(plan.bootstrap()), seed)
            .map_err(|e| format!("master: {e}"))?;
        let (queue, syncing) = (Vec::new(), Vec::new());
        self.voter = Some(Box::new(Voter {
            id,
            master,
            log,
            queue,
            syncing,
            flush: None,
        }));
        Ok(())
    }

    pub fn stop_master(&mut self) {
        self.voter = None;
    }

    pub fn leads(&self) -> bool {
        self.voter
            .as_ref()
            .is_some_and(|voter| voter.master.leads())
    }

    /// The process dies; what its threads had begun may have happened.
    pub fn killed(mut self, disk: &SimDisk, fx: &mut Fabric) {
        if fx.chance(0.5) {
            // Between a write and its sync, too: the bytes stay, for the next run to make durable.
            disk.fail_syncs_after(fx.rng.random_range(0..4));
            self.finish_some(fx);
        }
    }

    /// The power goes while its threads are at work.
    pub fn lost_power(mut self, disk: &SimDisk, fx: &mut Fabric) {
        if fx.chance(0.7) {
            disk.fail_syncs_after(fx.rng.random_range(0..4));
            self.finish_some(fx);
        }
    }

    /// The storage threads go on for a while; nobody hears of it.
    fn finish_some(&mut self, fx: &mut Fabric) {
        let batches = std::mem::take(&mut self.syncing).into_iter();
        let batches: Vec<PendingBatch> = batches.map(|(_, batch)| batch).collect();
        // Failing is what may happen now.
        let _ = self.writer.commit(&batches);
        if let Some(job) = self.flush.take().filter(|_| fx.chance(0.5)) {
            let _ = job.run();
        }
        if let Some(voter) = &mut self.voter {
            let writes = std::mem::take(&mut voter.syncing).into_iter();
            let writes: Vec<LogWrite> = writes.map(|(_, write)| write).collect();
            let _ = voter.log.append(&writes);
            if let Some(job) = voter.flush.take().filter(|_| fx.chance(0.5)) {
                let _ = job.run();
            }
        }
    }
}

//! A node's storage threads: each takes everything that waits into one commit, and reports in order.
use super::bugs::Bug;
use super::fabric::{Ev, Fabric};
use super::faults::Fault;
use super::node::{Node, NodeTimer};
use super::planted::NO_TOKEN;
use dfs_core::consensus::LogWrite;
use dfs_core::master::leader::MasterEvent;
use dfs_core::replica::ReplicaEvent;
use dfs_core::store::PendingBatch;
use std::time::Duration;

impl Node {
    fn sync_pause(&self, fx: &mut Fabric) -> Duration {
        let pause = if fx.chance(0.02) {
            fx.ms(20, 300)
        } else {
            fx.ms(1, 6)
        };
        pause * self.disk_slow
    }

    /// The disk is as fast as others again: what is under way takes no longer than there either.
    pub(super) fn disk_well(&mut self, fx: &mut Fabric) {
        self.disk_slow = 1;
        let Some(daemon) = self.daemon.as_ref() else {
            return;
        };
        let voter = daemon.voter.as_ref();
        let is_log_busy = voter.is_some_and(|voter| !voter.syncing.is_empty());
        let is_store_busy = !daemon.syncing.is_empty();
        if is_log_busy {
            let pause = self.sync_pause(fx);
            self.later(pause, NodeTimer::LogSynced, fx);
        }
        if is_store_busy {
            let pause = self.sync_pause(fx);
            self.later(pause, NodeTimer::StoreSynced, fx);
        }
    }

    pub(super) fn sync_log(&mut self, fx: &mut Fabric) {
        let pause = self.sync_pause(fx);
        let Some(voter) = self.daemon.as_mut().and_then(|d| d.voter.as_mut()) else {
            return;
        };
        if voter.syncing.is_empty() && !voter.queue.is_empty() {
            voter.syncing = std::mem::take(&mut voter.queue);
            self.later(pause, NodeTimer::LogSynced, fx);
        }
    }

    pub(super) fn log_synced(&mut self, fx: &mut Fabric) {
        let Some(voter) = self.daemon.as_mut().and_then(|d| d.voter.as_mut()) else {
            return;
        };
        let (tokens, writes): (Vec<u64>, Vec<LogWrite>) =
            std::mem::take(&mut voter.syncing).into_iter().unzip();
        if writes.is_empty() {
            return; // it ended before: the disk got well
        }
        if let Err(e) = voter.log.append(&writes) {
            fx.trace
                .say(fx.now, format_args!("node {}: log: {e}", self.index));
            if self.may_fail() {
                self.crash(true, fx);
                let event = Ev::Fault(Fault::Start(self.index));
                return fx.after(Duration::from_millis(300), event);
            }
            return fx.fail(format!("node {}: raft log: {e}", self.index));
        }
        if !self.plan.has(Bug::VoterAcksBeforeSync)
            && let Some(token) = tokens.last()
        {
            self.master(MasterEvent::Persisted { token: *token }, fx);
        }
        self.sync_log(fx);
    }

    pub(super) fn sync_store(&mut self, fx: &mut Fabric) {
        let pause = self.sync_pause(fx);
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        if daemon.syncing.is_empty() && !daemon.queue.is_empty() {
            daemon.syncing = std::mem::take(&mut daemon.queue);
            self.later(pause, NodeTimer::StoreSynced, fx);
        }
    }

    pub(super) fn store_synced(&mut self, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        let (tokens, batches): (Vec<u64>, Vec<PendingBatch>) =
            std::mem::take(&mut daemon.syncing).into_iter().unzip();
        if batches.is_empty() {
            return;
        }
        let done = daemon.writer.commit(&batches).map_err(|e| e.to_string());
        if let Err(e) = &done
            && !self.may_fail()
        {
            return fx.fail(format!("node {}: store: {e}", self.index));
        }
        for token in tokens {
            if token != NO_TOKEN && !self.plan.has(Bug::StoreAcksBeforeSync) {
                self.replica(
                    ReplicaEvent::Persisted {
                        token,
                        result: done.clone(),
                    },
                    fx,
                );
            }
        }
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        if daemon.queue.is_empty()
            && let Err(e) = daemon.writer.idle()
            && !self.may_fail()
        {
            fx.fail(format!("node {}: idle store: {e}", self.index));
        }
        self.flush_store(fx);
        self.sync_store(fx);
    }

    pub(super) fn flush_store(&mut self, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        if daemon.flush.is_none()
            && let Some(job) = daemon.store.begin_flush(false)
        {
            daemon.flush = Some(job);
            let pause = fx.ms(1, 60);
            self.later(pause, NodeTimer::StoreFlushed, fx);
        }
    }
}

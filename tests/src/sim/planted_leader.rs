//! Planted bugs of leaders: what they hear and say is tampered with.
use super::bugs::Bug;
use super::fabric::Fabric;
use super::node::Node;
use super::planted::NOBODY;
use super::settings::addr_of;
use dfs_core::consensus::{RaftBody, RaftMessage};
use dfs_core::master::leader::MasterEvent;
use dfs_core::types::{Ino, LeaseSeq, LogIndex, PgPhase, RaftId};
use dfs_core::wire::master::{Heartbeat, QueryAnswer};
use dfs_core::wire::rpc::{ConnId, ReplyTo};
use dfs_core::wire::{MasterRequest, Mutation, Push, Query};

/// Added to the number of an op that is decided once more.
const ANEW: u64 = 1 << 32;

impl Node {
    fn leads(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.leads())
    }

    /// A request, before the master sees it.
    pub(super) fn tamper_as_leader(
        &mut self,
        from: ReplyTo,
        body: &mut MasterRequest,
        fx: &mut Fabric,
    ) {
        if !self.leads() {
            return;
        }
        match (self.plan.bug, body) {
            (Some(Bug::LeaderForgetsResults), MasterRequest::Mutate { op, body, .. }) => {
                let is_of_names = matches!(
                    body,
                    Mutation::Create { .. } | Mutation::Unlink { .. } | Mutation::Rename { .. }
                );
                if is_of_names && !fx.decided.insert(*op) {
                    op.seq += ANEW;
                }
            }
            (
                Some(Bug::LeaderIgnoresLeases),
                MasterRequest::Mutate {
                    body: Mutation::Commit(commit),
                    ..
                },
            ) => {
                if let Some(lease) = self.lease_of(commit.ino) {
                    commit.lease = lease;
                }
            }
            (Some(Bug::LeaderFencesOneTooFew), MasterRequest::Heartbeat(hb)) => {
                self.planted.heartbeats.insert(hb.store, hb.clone());
                if let Some(forged) = self.forged_fence(hb) {
                    let body = MasterRequest::Heartbeat(forged);
                    self.master(MasterEvent::Request { from: NOBODY, body }, fx);
                }
            }
            (
                Some(Bug::LeaderSkipsInvalidations),
                MasterRequest::KeepAlive { client, .. } | MasterRequest::OpenSession { client, .. },
            ) => {
                self.planted.sessions.insert(from.conn, *client);
            }
            _ => {}
        }
    }

    /// The present write lease of an inode.
    fn lease_of(&self, ino: Ino) -> Option<LeaseSeq> {
        let voter = self.daemon.as_ref()?.voter.as_ref()?;
        match voter.master.state().query(&Query::GetAttr { ino }) {
            Ok(QueryAnswer::Attr(attr)) => Some(attr.lease),
            _ => None,
        }
    }

    /// A member has let go of a group: another one says so too, though it did not.
    fn forged_fence(&mut self, hb: &Heartbeat) -> Option<Heartbeat> {
        let voter = self.daemon.as_ref()?.voter.as_ref()?;
        let is_fencing =
            |group: &dfs_core::master::state::PgState| group.info.phase == PgPhase::Fencing;
        let groups = voter.master.state().pgs();
        for (pg, group) in groups.filter(|(_, group)| is_fencing(group)) {
            let fence = (pg, group.info.epoch);
            let is_its = group.serving.contains(&hb.store) && hb.fenced.contains(&fence);
            if !is_its || self.planted.forged.contains(&fence) {
                continue;
            }
            let others = group.serving.iter().filter(|store| **store != hb.store);
            let mut said = others.filter_map(|store| self.planted.heartbeats.get(store));
            if let Some(other) = said.find(|other| !other.fenced.contains(&fence)) {
                let mut forged = other.clone();
                forged.fenced.push(fence);
                self.planted.forged.insert(fence);
                return Some(forged);
            }
        }
        None
    }

    /// A push that has been sent.
    pub(super) fn tamper_with_push(&mut self, conn: ConnId, push: &Push, fx: &mut Fabric) {
        if !self.plan.has(Bug::LeaderSkipsInvalidations) {
            return;
        }
        if let Push::Invalidate { seq, .. } = push
            && let Some(client) = self.planted.sessions.get(&conn).copied()
        {
            let from = ReplyTo { conn, id: 0 };
            let body = MasterRequest::PushAck { client, seq: *seq };
            self.master(MasterEvent::Request { from, body }, fx);
        }
    }

    /// A Raft message that has been sent.
    pub(super) fn tamper_with_raft(&mut self, me: RaftId, message: &RaftMessage, fx: &mut Fabric) {
        if !self.plan.has(Bug::LeaderReadsAlone) {
            return;
        }
        if let RaftBody::Heartbeat { mark, .. } = &message.body
            && !mark.is_empty()
        {
            let body = RaftBody::HeartbeatReply {
                commit: LogIndex(0),
                mark: mark.clone(),
            };
            let (from, term) = (message.to, message.term);
            let message = RaftMessage { to: me, term, body }.encode();
            let addr = addr_of(self.index);
            self.master(
                MasterEvent::Raft {
                    from,
                    addr,
                    message,
                },
                fx,
            );
        }
    }
}

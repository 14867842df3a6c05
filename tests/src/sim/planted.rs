//! Planted bugs of stores: what they say to the master and hear from it is tampered with.
use super::fabric::Fabric;
use super::node::Node;
use super::settings::Bug;
use dfs_core::types::LogIndex;
use dfs_core::wire::MasterRequest;
use dfs_core::wire::Request;
use dfs_core::wire::master::HeartbeatOk;
use std::time::Duration;

/// How late a store lets go of what it said it had let go of.
const LATE: Duration = Duration::from_secs(2);

impl Node {
    /// An answer to a heartbeat, before the replica sees it.
    pub(super) fn tamper_with_answer(&mut self, ok: &mut HeartbeatOk, fx: &Fabric) {
        if self.plan.has(Bug::StoreIgnoresLease) && ok.lease.is_some() {
            ok.lease = Some(Duration::from_secs(1000));
        }
        let is_late = self.plan.has(Bug::StoreFencesLate);
        let Some(daemon) = self.daemon.as_mut().filter(|_| is_late) else {
            return;
        };
        let Some(map) = &ok.map else { return };
        let known = daemon.map.as_ref();
        if known.is_none_or(|known| known.pgs.iter().any(|pg| pg.members.is_empty())) {
            daemon.map = Some(map.clone());
            return;
        }
        if known.is_some_and(|known| known.version < map.version) {
            daemon.map = Some(map.clone());
            daemon.map_until = fx.now + LATE;
        }
        if fx.now < daemon.map_until {
            ok.map = None;
        }
    }

    /// A call, before it leaves.
    pub(super) fn tamper_with_call(&mut self, request: &mut Request, fx: &Fabric) {
        let is_late = self.plan.has(Bug::StoreFencesLate);
        let Some(daemon) = self.daemon.as_ref().filter(|_| is_late) else {
            return;
        };
        if let Request::Master(MasterRequest::Heartbeat(hb)) = request
            && let Some(map) = daemon.map.as_ref().filter(|_| fx.now < daemon.map_until)
        {
            hb.map_version = hb.map_version.max(LogIndex(map.version.0));
            let pgs = map.pgs.iter().zip(0u16..);
            let told = pgs.map(|(info, pg)| (dfs_core::types::PgId(pg), info.epoch));
            hb.fenced = told.collect();
        }
    }
}

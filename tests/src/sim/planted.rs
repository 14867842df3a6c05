//! Planted bugs of stores and voters: what they say and hear is tampered with.
use super::bugs::Bug;
use super::fabric::Fabric;
use super::node::Node;
use super::settings::Plan;
use bytes::Bytes;
use dfs_core::consensus::{HardState, LogRecord, LogWrite};
use dfs_core::replica::ReplicaEvent;
use dfs_core::replica::tables::keys;
use dfs_core::store::{Batch, KvOp, ObjectStore, StoreWriter};
use dfs_core::types::{ClientId, Epoch, LogIndex, ObjectId, PgId, PgMap, StoreId, Time};
use dfs_core::wire::master::{Heartbeat, HeartbeatOk};
use dfs_core::wire::replica::StampRequest;
use dfs_core::wire::rpc::{ConnId, ReplyTo};
use dfs_core::wire::{MasterRequest, ReplicaRequest, ReplicaResponse, Request, Response, Stamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How late a store lets go of what it said it had let go of.
const LATE: Duration = Duration::from_secs(2);
/// Objects that are older go.
const OLD: Duration = Duration::from_secs(4);
/// Of a batch that no machine waits for.
pub(super) const NO_TOKEN: u64 = u64::MAX;
/// Nobody hears what is said there.
pub(super) const NOBODY: ReplyTo = ReplyTo {
    conn: ConnId(0),
    id: 0,
};

/// What planted bugs of a node remember.
#[derive(Debug, Default)]
pub(super) struct Planted {
    /// The last map that came.
    map: Option<PgMap>,
    /// Objects and when they came.
    objects: VecDeque<(Time, ObjectId)>,
    /// What is written down instead of terms and votes.
    pub promise: HardState,
    /// Last heartbeats that came.
    pub heartbeats: BTreeMap<StoreId, Heartbeat>,
    /// Fences that were made up.
    pub forged: BTreeSet<(PgId, Epoch)>,
    /// Sessions of connections.
    pub sessions: BTreeMap<ConnId, ClientId>,
}

/// The rows of a store are there, but for what a planted bug loses.
pub(super) fn tamper_with_rows(
    plan: &Plan,
    store: &mut ObjectStore,
    writer: &mut StoreWriter,
) -> Result<(), String> {
    if !plan.has(Bug::StoreForgetsEpochs) {
        return Ok(());
    }
    let epochs = (0..plan.pgs).map(|pg| KvOp::Delete(keys::epoch(PgId(pg))));
    let ops = epochs.collect();
    let batch = store.apply(Batch {
        ops,
        ..Batch::default()
    });
    let batch = batch.map_err(|e| e.to_string())?;
    writer.commit(&[batch]).map_err(|e| e.to_string())
}

impl Node {
    /// An answer to a heartbeat, before the replica sees it.
    pub(super) fn tamper_with_answer(&mut self, ok: &mut HeartbeatOk, fx: &mut Fabric) {
        match self.plan.bug {
            Some(Bug::StoreIgnoresLease) if ok.lease.is_some() => {
                ok.lease = Some(Duration::from_secs(1000));
            }
            Some(Bug::StoreSkipsNotes) if fx.chance(0.3) => ok.notes.clear(),
            Some(Bug::StoreSkipsEpochs) => {
                if let Some(map) = &ok.map {
                    self.planted.map = Some(map.clone());
                }
            }
            Some(Bug::StoreFencesLate) => self.keep_map_back(ok, fx),
            _ => {}
        }
    }

    fn keep_map_back(&mut self, ok: &mut HeartbeatOk, fx: &Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
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
    pub(super) fn tamper_with_call(&mut self, request: &mut Request, fx: &mut Fabric) {
        let Request::Master(MasterRequest::Heartbeat(hb)) = request else {
            return;
        };
        match self.plan.bug {
            Some(Bug::StoreFencesLate) => self.report_early(hb, fx),
            Some(Bug::StoreDeletesByAge) => self.delete_old(fx),
            Some(Bug::StoreSkipsAborts) => {
                for (ino, op) in hb.old_marks.clone() {
                    let body = ReplicaRequest::Drop { ops: vec![op], ino };
                    self.replica(
                        ReplicaEvent::Request {
                            from: NOBODY,
                            body,
                            payload: Bytes::new(),
                        },
                        fx,
                    );
                }
            }
            _ => {}
        }
    }

    fn report_early(&self, hb: &mut Heartbeat, fx: &Fabric) {
        let Some(daemon) = self.daemon.as_ref() else {
            return;
        };
        if let Some(map) = daemon.map.as_ref().filter(|_| fx.now < daemon.map_until) {
            hb.map_version = hb.map_version.max(LogIndex(map.version.0));
            let pgs = map.pgs.iter().zip(0u16..);
            let told = pgs.map(|(info, pg)| (PgId(pg), info.epoch));
            hb.fenced = told.collect();
        }
    }

    fn delete_old(&mut self, fx: &mut Fabric) {
        let Some(daemon) = self.daemon.as_mut() else {
            return;
        };
        while let Some((_, id)) = self.planted.objects.front().copied()
            && self
                .planted
                .objects
                .front()
                .is_some_and(|(at, _)| fx.now > *at + OLD)
        {
            self.planted.objects.pop_front();
            if let Ok(batch) = daemon.store.delete_object(id) {
                daemon.queue.push((NO_TOKEN, batch));
            }
        }
        self.sync_store(fx);
    }

    /// A request, before a machine sees it.
    pub(super) fn tamper_with_request(
        &mut self,
        from: ReplyTo,
        body: &mut Request,
        fx: &mut Fabric,
    ) {
        match (self.plan.bug, body) {
            (Some(Bug::StoreSkipsEpochs), Request::Replica(body)) => self.make_current(body),
            (
                Some(Bug::StoreDeletesByAge),
                Request::Replica(ReplicaRequest::Prepare { objects, .. }),
            ) => {
                let came = objects.iter().map(|object| (fx.now, object.id));
                self.planted.objects.extend(came);
            }
            (Some(_), Request::Master(body)) => self.tamper_as_leader(from, body, fx),
            _ => {}
        }
    }

    /// The request is as if it asked for the epochs that are known here.
    fn make_current(&self, body: &mut ReplicaRequest) {
        let Some(map) = &self.planted.map else { return };
        let current = |pg: PgId, epoch: &mut Epoch| {
            if let Some(info) = map.pgs.get(usize::from(pg.0)) {
                *epoch = info.epoch;
            }
        };
        match body {
            ReplicaRequest::Prepare { mark, objects, .. } => {
                if let Some(mark) = mark {
                    current(mark.pg, &mut mark.epoch);
                }
                for object in objects {
                    current(object.pg, &mut object.epoch);
                }
            }
            ReplicaRequest::Stamp(stamp)
            | ReplicaRequest::Read {
                stamp: Some(stamp), ..
            } => current(stamp.pg, &mut stamp.epoch),
            _ => {}
        }
    }

    /// An answer, before it leaves.
    pub(super) fn tamper_with_reply(&self, body: &mut Result<Response, dfs_core::wire::WireError>) {
        if !self.plan.has(Bug::StoreHidesMarks) {
            return;
        }
        if let Ok(Response::Replica(
            ReplicaResponse::Stamp(stamp)
            | ReplicaResponse::Read {
                stamp: Some(Ok(stamp)),
                ..
            },
        )) = body
            && let Stamp::Known { dirty, .. } = stamp
        {
            dirty.clear();
        }
    }

    /// Records of the Raft log, before they are queued. A log whose entries are newer than its term
    /// would be noticed at the next start, so the term follows the entries.
    pub(super) fn tamper_with_log(&mut self, write: &mut LogWrite) {
        if !self.plan.has(Bug::VoterForgetsVotes) {
            return;
        }
        let known = &mut self.planted.promise;
        let (mut term, mut is_told) = (known.term, true);
        for record in &write.records {
            match record {
                LogRecord::Entry(entry) => term = term.max(entry.term),
                LogRecord::Base(meta) | LogRecord::Reset(meta) | LogRecord::Installing(meta) => {
                    term = term.max(meta.term);
                }
                LogRecord::HardState(state) => known.commit = state.commit,
            }
            is_told = matches!(record, LogRecord::HardState(_));
        }
        is_told |= term == known.term;
        known.term = term;
        for record in &mut write.records {
            if let LogRecord::HardState(state) = record {
                (state.vote, state.term) = (None, state.term.min(term));
            }
        }
        if !is_told {
            write.records.push(LogRecord::HardState(*known));
        }
    }

    /// Would the store tell a reader the stamp now? Asked as readers ask.
    pub(super) fn answers_stamp(&mut self, wanted: StampRequest, fx: &mut Fabric) -> bool {
        if self.is_paused {
            return false;
        }
        let from = super::node_work::PROBE;
        let mut body = Request::Replica(ReplicaRequest::Stamp(wanted));
        self.tamper_with_request(from, &mut body, fx);
        let Request::Replica(body) = body else {
            return false;
        };
        self.probed = false;
        let payload = Bytes::new();
        self.replica(
            ReplicaEvent::Request {
                from,
                body,
                payload,
            },
            fx,
        );
        self.probed
    }
}

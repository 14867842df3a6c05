//! Configuration changes, dropped ops and counts.
use super::event::answer;
use super::machine::{After, Cx, Replica};
use super::tables::keys;
use crate::types::{ChunkNo, Epoch, Ino, OpId, PgId, pg_of};
use crate::wire::replica::StoreUsage;
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, ReplicaResponse, WireError};
use std::sync::atomic::Ordering;

/// Ops of one `Drop` at most.
const DROP_MAX: usize = 4096;

impl Replica {
    /// A newer map was learned.
    pub(super) fn groups_changed(&mut self, cx: &mut Cx<'_>) {
        self.fills_changed(cx);
        self.recount_lacks();
        self.reconcile.soon(cx.now + self.config.reconcile_after);
        let pgs: Vec<_> = self.groups.iter().map(|(pg, _)| pg).collect();
        self.strays_changed(pgs.into_iter());
        self.rejoin.map_changed(&self.groups);
    }

    /// Makes newer epochs durable; from the moment the map was learned the older ones are refused.
    pub(super) fn pump_adoption(&mut self, cx: &mut Cx<'_>) {
        let epochs = self.groups.take_adoptions();
        if epochs.is_empty() {
            return;
        }
        let mut tx = self.tables.begin();
        for (pg, epoch) in &epochs {
            self.tables.put(&mut tx, keys::epoch(*pg), epoch);
        }
        self.persist(cx, tx, vec![After::Adopted(epochs)]);
    }

    /// The fence stands: says so at once.
    pub(super) fn adopted(&mut self, cx: &Cx<'_>, epochs: &[(PgId, Epoch)]) {
        self.groups.adopted(epochs);
        self.strays_changed(epochs.iter().map(|(pg, _)| *pg));
        self.heartbeats.now(cx.now);
    }

    /// The client says these ops are abandoned, which the master decided. Only what has a live
    /// mark and is not known as committed goes; the rest waits for the master's own note.
    pub(super) fn on_drop(
        &mut self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        ops: &[OpId],
        ino: Ino,
    ) -> Result<(), WireError> {
        self.check_alive()?;
        if ops.len() > DROP_MAX {
            let detail = format!("{} ops in one drop", ops.len());
            return Err(WireError::new(ErrorCode::BadRequest, detail));
        }
        let pg = self
            .groups
            .count()
            .map(|pgs| pg_of(ino, ChunkNo::HOME, pgs));
        let is_live = |op: &OpId| {
            pg.is_some_and(|pg| self.marks.get(pg, ino, *op).is_some())
                && !self.settled.contains(*op)
        };
        let live: Vec<_> = ops.iter().copied().filter(is_live).collect();
        let Some(pg) = pg.filter(|_| !live.is_empty()) else {
            self.dropped(cx, to);
            return Ok(());
        };
        let mut tx = self.tables.begin();
        for op in live {
            if let Err(error) = self.drop_op(cx, &mut tx, (pg, ino), op) {
                // A half-built batch cannot be taken back: the tables are unreadable.
                self.fail_stop(cx, &error.to_string());
                return Err(Self::broken(&error));
            }
        }
        self.persist(cx, tx, vec![After::Dropped(to)]);
        Ok(())
    }

    pub(super) fn dropped(&self, cx: &mut Cx<'_>, to: ReplyTo) {
        cx.out.push(answer(to, ReplicaResponse::Dropped));
    }

    pub(super) fn on_usage(&self, cx: &mut Cx<'_>, to: ReplyTo) {
        let usage = self.usage(cx);
        cx.out.push(answer(to, ReplicaResponse::Usage(usage)));
    }

    fn usage(&self, cx: &Cx<'_>) -> StoreUsage {
        let space = cx.store.space().unwrap_or_default();
        StoreUsage {
            store: self.config.store,
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            used_bytes: cx.store.used_bytes(),
            objects: cx.store.objects(),
            quarantine_bytes: cx.store.resting().bytes,
            quarantine_objects: cx.store.resting().objects,
            marks: self.marks.len() as u64,
            stamp_reads: self.counts.stamp_reads,
            object_reads: self.object_reads.load(Ordering::Relaxed),
            prepares: self.counts.prepares,
            syncs: cx.store.syncs(),
            failed: self.failure.is_some(),
            held: self.held_bytes(cx),
        }
    }

    /// Objects that should be here and are not (or damaged).
    #[must_use]
    pub fn missing(&self) -> usize {
        self.wants.len()
    }
}

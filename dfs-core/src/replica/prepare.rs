//! PREPARE: objects and mark become durable together, then the ack.
//!
//! Steps: 1. bytes against their sums; 2. lease, epochs, membership; 3. not known as aborted;
//! 4. room; 5. one batch; 6. when it is durable all of 2 and 3 again, and that everything is still
//! held; 7. the ack.
//!
//! Invariants:
//! 1. nothing of a request that fails steps 1 to 4 is stored;
//! 2. an ack means: durable here, under this store's lease and the epochs asked, at this moment;
//! 3. asked again it writes nothing twice: it joins the batch under way, or is acked at once.
use super::event::{answer, store_name};
use super::machine::{After, Cx, Replica};
use super::marks::Mark;
use super::tables::{ObjectRow, TableError, Tx, keys};
use crate::store::{ObjectHeader, ObjectStore, ObjectWrite};
use crate::types::{
    BLOCK_SIZE, CHUNK_SIZE, ChunkNo, Epoch, Ino, ObjectAbout, ObjectId, ObjectSum, OpId, PgId,
    StoreId, pg_of,
};
use crate::wire::replica::{MarkRequest, PrepareAbout, PrepareObject};
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, ReplicaResponse, WireError};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Objects of one PREPARE at most.
pub const PREPARE_OBJECTS_MAX: usize = 4096;

/// A PREPARE that waits for its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AckWait {
    pub to: ReplyTo,
    op: OpId,
    ino: Ino,
    mark: Option<PgId>,
    pgs: BTreeSet<(PgId, Epoch)>,
    objects: Vec<ObjectId>,
}

/// What is to be written for a PREPARE, and the batch it has to wait for besides.
#[derive(Debug, Default)]
struct Plan {
    puts: Vec<(ObjectWrite, ObjectRow)>,
    mark: Option<PgId>,
    joins: u64,
}

fn bad(detail: String) -> WireError {
    WireError::new(ErrorCode::BadRequest, detail)
}

/// Checks lengths, names and sums of the objects and cuts the payload: one piece per object,
/// `None` for one that was only asked for.
///
/// # Errors
/// `BadRequest` for a malformed request, `DamagedInTransit` naming inode, object, block and hop.
pub fn cut_payload(
    me: StoreId,
    (op, ino): (OpId, Ino),
    objects: &[PrepareObject],
    payload: &Bytes,
) -> Result<Vec<Option<Bytes>>, WireError> {
    if objects.len() > PREPARE_OBJECTS_MAX {
        return Err(bad(format!("{} objects in one prepare", objects.len())));
    }
    let mut names = BTreeSet::new();
    for object in objects {
        let blocks = (object.len as usize).div_ceil(BLOCK_SIZE);
        let fits = object.len > 0 && u64::from(object.len) <= CHUNK_SIZE;
        if !fits || object.sums.0.len() != blocks {
            let detail = format!(
                "object {} of {} bytes with {} block sums",
                object.id,
                object.len,
                object.sums.0.len()
            );
            return Err(bad(detail));
        }
        if object.id.op != op || !names.insert(object.id) {
            return Err(bad(format!(
                "object {} does not belong to {op} once",
                object.id
            )));
        }
    }
    let with_bytes = objects.iter().filter(|o| o.has_bytes);
    let total: usize = with_bytes.map(|o| o.len as usize).sum();
    if total != payload.len() {
        return Err(bad(format!(
            "payload of {} bytes, {total} announced",
            payload.len()
        )));
    }
    let mut at = 0;
    let mut pieces = Vec::with_capacity(objects.len());
    for object in objects {
        if !object.has_bytes {
            pieces.push(None);
            continue;
        }
        let piece = payload.slice(at..at + object.len as usize);
        at += object.len as usize;
        if !object.sums.verify_blocks(0, &piece) {
            return Err(damaged(me, ino, object));
        }
        pieces.push(Some(piece));
    }
    Ok(pieces)
}

fn damaged(me: StoreId, ino: Ino, object: &PrepareObject) -> WireError {
    let detail = format!(
        "bytes damaged in transit: inode {ino}, chunk {}, object {}, hop client -> {}; nothing stored",
        object.chunk.0,
        object.id,
        store_name(me),
    );
    WireError::new(ErrorCode::DamagedInTransit, detail)
}

/// What the header of the `at`th object of a PREPARE says of the file.
fn about_object(about: &PrepareAbout, at: usize) -> Box<ObjectAbout> {
    Box::new(ObjectAbout {
        start: about.starts.get(at).copied().unwrap_or_default(),
        put: about.put.clone(),
    })
}

impl Replica {
    pub(super) fn on_prepare(
        &mut self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        (op, ino, mark): (OpId, Ino, Option<MarkRequest>),
        (objects, about): (&[PrepareObject], Option<Box<PrepareAbout>>),
        payload: &Bytes,
    ) -> Result<(), WireError> {
        let pieces = cut_payload(self.config.store, (op, ino), objects, payload)
            .inspect_err(|error| tracing::warn!(%error, "refused"))?;
        self.check_groups(ino, mark, objects)?;
        let wait = AckWait {
            to,
            op,
            ino,
            mark: mark.map(|m| m.pg),
            pgs: objects
                .iter()
                .map(|o| (o.pg, o.epoch))
                .chain(mark.map(|m| (m.pg, m.epoch)))
                .collect(),
            objects: objects.iter().map(|o| o.id).collect(),
        };
        self.may_acknowledge(cx, &wait)?;
        let plan = self.plan(cx, &wait, objects.iter().zip(pieces), about.as_deref())?;
        self.admit(cx, &plan)?;
        if !plan.puts.is_empty() || plan.mark.is_some() {
            self.write(cx, plan, wait);
        } else if plan.joins > self.token_durable {
            let batch = self
                .waits
                .get_mut(&plan.joins)
                .expect("not durable, so it is waited for");
            batch.after.push(After::Ack(wait));
        } else {
            self.acknowledge(cx, wait).map_err(|e| Self::broken(&e))?;
        }
        Ok(())
    }

    /// Every object and the mark name the group that the placement hash gives.
    fn check_groups(
        &self,
        ino: Ino,
        mark: Option<MarkRequest>,
        objects: &[PrepareObject],
    ) -> Result<(), WireError> {
        let Some(pgs) = self.groups.count() else {
            return Ok(()); // refused below for want of a lease
        };
        let home = mark.map(|m| (ChunkNo::HOME, m.pg));
        let wrong = objects.iter().map(|o| (o.chunk, o.pg)).chain(home);
        match wrong
            .into_iter()
            .find(|(chunk, pg)| pg_of(ino, *chunk, pgs) != *pg)
        {
            Some((chunk, pg)) => {
                let detail = format!("inode {ino} chunk {} is not in group {}", chunk.0, pg.0);
                Err(bad(detail))
            }
            None => Ok(()),
        }
    }

    /// Step 2 and 3. State first, then the lease.
    fn may_acknowledge(&mut self, cx: &Cx<'_>, wait: &AckWait) -> Result<(), WireError> {
        self.check_alive()?;
        if self.aborted.contains(wait.op) {
            let detail = format!("op {} was aborted", wait.op);
            return Err(WireError::new(ErrorCode::OpAborted, detail));
        }
        for (pg, epoch) in &wait.pgs {
            self.check_serves(cx, *pg, *epoch)?;
        }
        self.check_lease(cx)
    }

    pub(super) fn check_alive(&self) -> Result<(), WireError> {
        match &self.failure {
            Some(cause) => {
                let detail = format!("{} failed: {cause}", store_name(self.config.store));
                Err(WireError::new(ErrorCode::StoreFailed, detail))
            }
            None => Ok(()),
        }
    }

    /// The group is served here at that epoch. A caller that knows a newer one hints at news.
    pub(super) fn check_serves(
        &mut self,
        cx: &Cx<'_>,
        pg: PgId,
        epoch: Epoch,
    ) -> Result<(), WireError> {
        let Err(error) = self.groups.serves(pg, epoch) else {
            return Ok(());
        };
        if self.groups.info(pg).is_some_and(|info| epoch >= info.epoch) {
            self.heartbeats.ask(cx.now, &self.config);
        }
        Err(error)
    }

    pub(super) fn check_lease(&self, cx: &Cx<'_>) -> Result<(), WireError> {
        if self.lease.holds(cx.now) {
            return Ok(());
        }
        let detail = format!("{} has no serving lease now", store_name(self.config.store));
        Err(WireError::new(ErrorCode::NoServingLease, detail))
    }

    /// What is not there yet.
    fn plan<'a>(
        &self,
        cx: &Cx<'_>,
        wait: &AckWait,
        objects: impl Iterator<Item = (&'a PrepareObject, Option<Bytes>)>,
        about: Option<&PrepareAbout>,
    ) -> Result<Plan, WireError> {
        let ino = wait.ino;
        let mut plan = Plan::default();
        for (at, (object, bytes)) in objects.enumerate() {
            let sum = object.sums.object_sum(object.len);
            let row = ObjectRow {
                pg: object.pg,
                ino,
                chunk: object.chunk,
                sum,
            };
            if self.holds(cx, object.id, sum)? {
                let joins = self.writing.get(&object.id).copied().unwrap_or_default();
                plan.joins = plan.joins.max(joins);
            } else if let Some(bytes) = bytes {
                let header = ObjectHeader {
                    id: object.id,
                    ino,
                    chunk: object.chunk,
                    len: object.len,
                    sums: object.sums.clone(),
                    about: about.map(|about| about_object(about, at)),
                };
                let put = ObjectWrite { header, bytes };
                plan.puts.push((put, row));
            } else {
                let detail = format!("object {} is not held here", object.id);
                return Err(WireError::new(ErrorCode::NotFound, detail));
            }
        }
        if let Some(pg) = wait.mark.filter(|_| !self.settled.contains(wait.op)) {
            match self.marks.get(pg, ino, wait.op) {
                Some(mark) => plan.joins = plan.joins.max(mark.token),
                None => plan.mark = Some(pg),
            }
        }
        Ok(plan)
    }

    /// True if the object is held with these bytes, or is being written.
    fn holds(&self, cx: &Cx<'_>, id: ObjectId, sum: ObjectSum) -> Result<bool, WireError> {
        let row = self
            .tables
            .object(cx.store, id)
            .map_err(|e| Self::broken(&e))?;
        match row {
            Some(row) if row.sum != sum => {
                Err(bad(format!("object {id} exists here with other bytes")))
            }
            Some(_) => Ok(self.writing.contains_key(&id) || !self.wants.is_damaged(id)),
            None => Ok(false),
        }
    }

    fn admit(&mut self, cx: &Cx<'_>, plan: &Plan) -> Result<(), WireError> {
        let bytes: u64 = plan
            .puts
            .iter()
            .map(|(put, _)| put.bytes.len() as u64)
            .sum();
        if bytes > 0 {
            let costs = plan.puts.iter();
            let costs = costs.map(|(put, _)| ObjectStore::cost_of(put.header.len));
            self.admit_bytes(cx, costs.sum())?;
        }
        if self.waiting_bytes > 0 && self.waiting_bytes + bytes > self.config.waiting_bytes_max {
            return Err(WireError::new(
                ErrorCode::Busy,
                "too many bytes wait for the disk",
            ));
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Cx<'_>, plan: Plan, wait: AckWait) {
        let mut tx = self.tables.begin();
        for (put, row) in plan.puts {
            self.tables.put_object(&mut tx, put, &row);
        }
        if let Some(pg) = plan.mark {
            self.tables
                .put(&mut tx, keys::mark(pg, wait.ino, wait.op), &());
            let mark = Mark {
                since: cx.now,
                token: tx.token,
            };
            self.marks.insert(pg, wait.ino, wait.op, mark);
        }
        self.persist(cx, tx, vec![After::Ack(wait)]);
    }

    /// The batch found no room: its mark, if it is still to be kept, goes with the next one.
    pub(super) fn mark_again(&mut self, cx: &Cx<'_>, tx: &mut Tx, wait: &AckWait) {
        let lost = self.token_durable;
        let mark = |pg| self.marks.get(pg, wait.ino, wait.op);
        if let Some(pg) = wait.mark
            && mark(pg).is_some_and(|mark| mark.token == lost)
        {
            self.tables.put(tx, keys::mark(pg, wait.ino, wait.op), &());
            let mark = Mark {
                since: cx.now,
                token: tx.token,
            };
            self.marks.insert(pg, wait.ino, wait.op, mark);
        }
    }

    /// Steps 6 and 7.
    pub(super) fn acknowledge(&mut self, cx: &mut Cx<'_>, wait: AckWait) -> Result<(), TableError> {
        if let Err(error) = self.may_acknowledge(cx, &wait) {
            cx.out.push(super::event::refuse(wait.to, error));
            return Ok(());
        }
        let mut held = wait.mark.is_none_or(|pg| {
            let mark = self.marks.get(pg, wait.ino, wait.op);
            self.settled.contains(wait.op) || mark.is_some_and(|m| m.token <= self.token_durable)
        });
        for id in &wait.objects {
            held &= self.tables.object(cx.store, *id)?.is_some() && !self.writing.contains_key(id);
        }
        cx.out.push(if held {
            self.counts.prepares += 1;
            answer(
                wait.to,
                ReplicaResponse::Prepared {
                    store: self.config.store,
                },
            )
        } else {
            // A deletion overtook it.
            let detail = format!("op {} was not kept; prepare it again", wait.op);
            super::event::refuse(wait.to, WireError::new(ErrorCode::Busy, detail))
        });
        Ok(())
    }
}

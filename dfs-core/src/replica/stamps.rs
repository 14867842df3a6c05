//! Stamps and reads: what this store knows of an inode, and the bytes it holds.
//!
//! Rules of a stamp: the group is served here at the epoch asked; a member that is being filled and
//! was not told of the inode in this configuration answers *unknown*; on a complete member an
//! absent row means "nothing committed". State first, then the lease, then the answer.
//!
//! Why a complete member that missed a note still answers: a commit needs W marks of one epoch, and
//! W + R > N, so one of any R members has the mark or the note.
//! Reads of objects ignore epochs and leases: objects are immutable.
use super::event::{ReadJob, ReplicaAction, answer};
use super::groups::Role;
use super::machine::{Cx, Replica};
use super::read::CHECK_MAX;
use super::tables::{CleanRow, keys};
use crate::types::{ChunkNo, ObjectId, pg_of};
use crate::wire::replica::StampRequest;
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, ReplicaResponse, Stamp, WireError};

impl Replica {
    pub(super) fn on_stamp(
        &mut self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        wanted: StampRequest,
    ) -> Result<(), WireError> {
        let stamp = self.stamp(cx, wanted)?;
        cx.out.push(answer(to, ReplicaResponse::Stamp(stamp)));
        Ok(())
    }

    pub(super) fn on_read(
        &mut self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        (object, offset, len): (ObjectId, u32, u32),
        stamp: Option<StampRequest>,
    ) {
        let stamp = stamp.map(|wanted| self.stamp(cx, wanted));
        self.counts.read_bytes += u64::from(len);
        let job = ReadJob::Read {
            to,
            object,
            offset,
            len,
            stamp,
        };
        cx.out.push(ReplicaAction::Read(job));
    }

    pub(super) fn on_check(
        &mut self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        objects: Vec<ObjectId>,
    ) -> Result<(), WireError> {
        if objects.len() > CHECK_MAX {
            let detail = format!("{} objects in one check", objects.len());
            return Err(WireError::new(ErrorCode::BadRequest, detail));
        }
        cx.out
            .push(ReplicaAction::Read(ReadJob::Check { to, objects }));
        Ok(())
    }

    fn stamp(&mut self, cx: &Cx<'_>, wanted: StampRequest) -> Result<Stamp, WireError> {
        let StampRequest { ino, pg, epoch } = wanted;
        self.check_alive()?;
        if self
            .groups
            .count()
            .is_some_and(|pgs| pg_of(ino, ChunkNo::HOME, pgs) != pg)
        {
            let detail = format!("inode {ino} is not at home in group {}", pg.0);
            return Err(WireError::new(ErrorCode::BadRequest, detail));
        }
        self.check_serves(cx, pg, epoch)?;
        let is_told = match self.groups.role(pg) {
            Some(Role::Member { filling: false }) if !self.catch_up.is_open(pg) => true,
            Some(Role::Member { .. }) => self
                .fills
                .get(&pg)
                .is_some_and(|f| f.epoch == epoch && f.knows(ino)),
            Some(Role::Prior | Role::Gone) | None => false,
        };
        // A damaged row is no reason to fail the store: the reader asks the master instead.
        let row = self.tables.get::<CleanRow>(cx.store, &keys::stamp(pg, ino));
        let stamp = match (is_told, row) {
            (true, Ok(row)) => {
                let clean = row.unwrap_or_default();
                let dirty = self.marks.of(pg, ino);
                Stamp::Known {
                    clean: (clean.revision, clean.op),
                    dirty,
                }
            }
            _ => Stamp::Unknown,
        };
        self.check_lease(cx)?;
        self.counts.stamp_reads += 1;
        Ok(stamp)
    }
}

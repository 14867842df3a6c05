//! What a put sends: PREPAREs packed by store, and the commit.
use super::{Message, PutMachine};
use crate::client::put::types::{PutAction, PutChange};
use crate::client::put::unit::{Content, Member};
use crate::types::{ObjectId, StoreId, Time};
use crate::wire::replica::{MarkRequest, PrepareAbout, PrepareObject};
use crate::wire::{Change, Commit, PutExtent, ReplicaRequest};
use std::collections::BTreeSet;

impl PutMachine {
    pub(super) fn tell_stored(&mut self, w: usize, out: &mut Vec<PutAction>) {
        for unit in self.units.iter().filter(|u| u.is_stored(w)) {
            let Content::Chunk(_, list) = &unit.content else {
                continue;
            };
            for &index in list {
                if self.stored_told.insert(index) {
                    out.push(PutAction::Stored { index });
                }
            }
        }
    }

    /// Sends every unit that is due to every member it is due at, packed by store.
    pub(super) fn send(&mut self, now: Time, out: &mut Vec<PutAction>) {
        let w = self.w();
        let stores: BTreeSet<StoreId> = self
            .units
            .iter()
            .flat_map(|u| u.members.keys().copied())
            .collect();
        for to in stores {
            let mut batch = Vec::new();
            let mut bytes = 0u32;
            for at in 0..self.units.len() {
                let unit = &self.units[at];
                if !unit.wants(to, w, now) {
                    continue;
                }
                let size = if unit.held.contains(&to) {
                    0
                } else {
                    unit.bytes
                };
                if bytes > 0 && bytes.saturating_add(size) > self.config.message_max {
                    let full = std::mem::take(&mut batch);
                    self.send_batch(to, full, out);
                    bytes = 0;
                }
                batch.push(at);
                bytes = bytes.saturating_add(size);
            }
            if !batch.is_empty() {
                self.send_batch(to, batch, out);
            }
        }
    }

    fn send_batch(&mut self, to: StoreId, batch: Vec<usize>, out: &mut Vec<PutAction>) {
        let token = self.next_token;
        self.next_token += 1;
        let (mut mark, mut objects, mut bytes_of) = (None, Vec::new(), Vec::new());
        let mut starts = Vec::new();
        let mut units = Vec::new();
        for at in batch {
            let unit = &mut self.units[at];
            units.push((at, unit.epoch));
            unit.members.insert(to, Member::Sent(token));
            let has_bytes = !unit.held.contains(&to);
            let Content::Chunk(chunk, list) = &unit.content else {
                mark = Some(MarkRequest {
                    pg: unit.pg,
                    epoch: unit.epoch,
                });
                continue;
            };
            for &index in list {
                let object = &self.spec.objects[index as usize];
                if has_bytes {
                    bytes_of.push(index);
                }
                starts.push(object.start);
                objects.push(PrepareObject {
                    id: ObjectId {
                        op: self.spec.op,
                        index,
                    },
                    chunk: *chunk,
                    pg: unit.pg,
                    epoch: unit.epoch,
                    len: object.sum.len,
                    sums: object.sums.clone(),
                    has_bytes,
                });
            }
        }
        self.contacted.insert(to);
        self.messages.insert(token, Message { to, units });
        let (op, ino) = (self.spec.op, self.spec.ino);
        let put = self.spec.about.clone();
        let about = (!bytes_of.is_empty()).then(|| Box::new(PrepareAbout { put, starts }));
        let request = ReplicaRequest::Prepare {
            op,
            ino,
            mark,
            objects,
            about,
        };
        out.push(PutAction::Prepare {
            token,
            to,
            request,
            bytes_of,
        });
    }

    pub(super) fn make_commit(&self) -> Commit {
        let mut puts = Vec::with_capacity(self.spec.objects.len());
        for unit in &self.units {
            let Content::Chunk(chunk, list) = &unit.content else {
                continue;
            };
            for &index in list {
                let object = &self.spec.objects[index as usize];
                puts.push(PutExtent {
                    chunk: *chunk,
                    start: object.start,
                    len: object.sum.len,
                    object: ObjectId {
                        op: self.spec.op,
                        index,
                    },
                    sum: object.sum,
                    epoch: unit.epoch,
                    acks: unit.acks(),
                });
            }
        }
        puts.sort_by_key(|p| (p.chunk, p.start));
        let change = match self.spec.change.clone() {
            PutChange::Write => Change::Write { puts },
            PutChange::Append { at } => Change::Append { at, puts },
            PutChange::Truncate { size } => Change::Truncate { size },
            PutChange::Punch { offset, len } => Change::Punch { offset, len },
            PutChange::Extend { size } => Change::Extend { size },
            PutChange::Replace { size } => Change::Replace { puts, size },
            PutChange::Restore {
                from,
                inode_version,
            } => Change::Restore {
                from,
                inode_version,
            },
            PutChange::Compact { was } => {
                assert!(puts.len() == 1, "a compaction has one object");
                let (put, was) = (Box::new(puts.remove(0)), was.to_vec());
                Change::Compact { put, was }
            }
        };
        Commit {
            ino: self.spec.ino,
            lease: self.spec.lease,
            token: self.spec.token,
            home_epoch: self.units[0].epoch,
            mark_acks: self.units[0].acks(),
            change,
            mtime: self.spec.mtime,
            kill_suid: self.spec.kill_suid,
            base: self.spec.base,
        }
    }
}

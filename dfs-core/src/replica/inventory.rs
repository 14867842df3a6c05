//! What this store holds and knows, page by page, for a check of the whole cluster.
//!
//! Nothing here reads an object's bytes. Two lists are merged: the machine's own (group, inode, chunk)
//! and the store's (headers of what is there), because a check wants to see where they differ.
use super::event::answer;
use super::machine::{Cx, Replica};
use super::read::CHECK_MAX;
use super::tables::{CleanRow, ObjectRow, TableError, keys};
use crate::store::kv::scan_readable;
use crate::store::{StoreError, prefix_end};
use crate::types::{Ino, ObjectId, PgId};
use crate::wire::replica::{HeldObject, StampPage};
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, ReplicaRequest, ReplicaResponse, WireError};
use std::collections::BTreeSet;

/// Objects of one page at most.
const HELD_MAX: usize = 1024;
/// Stamps of one page at most.
const STAMPS_MAX: usize = 16_384;

impl Replica {
    /// Requests that only look; the machine has taken the others.
    pub(super) fn on_inventory(
        &self,
        cx: &mut Cx<'_>,
        from: ReplyTo,
        body: ReplicaRequest,
    ) -> Result<(), WireError> {
        match body {
            ReplicaRequest::Look { objects } => self.on_look(cx, from, &objects),
            ReplicaRequest::Held { after, limit } => self.on_held(cx, from, after, limit),
            ReplicaRequest::Stamps { pg, after, limit } => {
                self.on_stamps(cx, from, pg, (after, limit))
            }
            _ => Err(ErrorCode::BadRequest.into()),
        }
    }

    fn on_look(&self, cx: &mut Cx<'_>, to: ReplyTo, objects: &[ObjectId]) -> Result<(), WireError> {
        if objects.len() > CHECK_MAX {
            let detail = format!("{} objects in one look", objects.len());
            return Err(WireError::new(ErrorCode::BadRequest, detail));
        }
        let held = objects.iter().map(|id| self.held(cx, *id));
        let held: Result<_, _> = held.collect();
        let held = held.map_err(|e| Self::broken(&e))?;
        cx.out.push(answer(to, ReplicaResponse::Held(held, true)));
        Ok(())
    }

    fn on_held(
        &self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        after: Option<ObjectId>,
        limit: u32,
    ) -> Result<(), WireError> {
        let limit = (limit as usize).clamp(1, HELD_MAX);
        let page = self.page(cx, after, limit);
        let (held, is_last) = page.map_err(|e| Self::broken(&e))?;
        cx.out
            .push(answer(to, ReplicaResponse::Held(held, is_last)));
        Ok(())
    }

    /// Objects after `after` that either list names, ascending; true if none are behind. Snapshots of
    /// the namespace are this store's own matter.
    pub(super) fn page(
        &self,
        cx: &Cx<'_>,
        mut after: Option<ObjectId>,
        limit: usize,
    ) -> Result<(Vec<HeldObject>, bool), TableError> {
        loop {
            let (mut ids, upto) = self.ids(cx, after, limit)?;
            ids.retain(|id| !id.is_namespace());
            if ids.is_empty() && upto.is_some() {
                after = upto;
                continue;
            }
            let held = ids.into_iter().map(|id| self.held(cx, id));
            return Ok((held.collect::<Result<_, _>>()?, upto.is_none()));
        }
    }

    /// Ids after `after` in either list, and how far they go; `None` for the end.
    fn ids(
        &self,
        cx: &Cx<'_>,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<(BTreeSet<ObjectId>, Option<ObjectId>), TableError> {
        let listed = cx.store.list_objects(after, limit).map_err(of_store)?;
        let prefix = keys::table(b'o');
        let mut from = after.map_or(prefix.clone(), |id| keys::object(b'o', id));
        if after.is_some() {
            from.push(0);
        }
        let (rows, damaged) = scan_readable(&*cx.store, &from, &prefix_end(&prefix), limit)?;
        let is_all = rows.len() < limit && damaged.is_none();
        let named = rows.iter().map(|(key, _)| key).chain(&damaged);
        let named: Vec<_> = named.filter_map(|key| keys::parse_object(key)).collect();
        // Of a list that goes on, only what is up to its end is known.
        let ends = [
            listed.last().map(|l| l.id),
            named.last().copied().filter(|_| !is_all),
        ];
        let upto = ends.into_iter().flatten().min();
        let mut ids: BTreeSet<_> = named.into_iter().collect();
        ids.extend(listed.iter().map(|l| l.id));
        ids.retain(|id| upto.is_none_or(|upto| *id <= upto));
        Ok((ids, upto))
    }

    fn held(&self, cx: &Cx<'_>, id: ObjectId) -> Result<HeldObject, TableError> {
        // An unreadable row is none.
        let row: Option<ObjectRow> = self.tables.object(cx.store, id).unwrap_or_default();
        let header = match cx.store.object_header(id) {
            Ok(header) => header.filter(|_| cx.store.plan_read(id, 0, 0).is_ok()),
            Err(StoreError::Corrupt { .. } | StoreError::NotFound { .. }) => None,
            Err(e) => return Err(of_store(e)),
        };
        Ok(HeldObject {
            id,
            row: row.map(|r| (r.pg, r.ino, r.chunk, r.sum)),
            header: header.map(|h| (h.ino, h.chunk, h.sum())),
            is_new: self.writing.contains_key(&id),
        })
    }

    fn on_stamps(
        &self,
        cx: &mut Cx<'_>,
        to: ReplyTo,
        pg: PgId,
        (after, limit): (Option<Ino>, u32),
    ) -> Result<(), WireError> {
        let limit = (limit as usize).clamp(1, STAMPS_MAX);
        let page = self.stamp_page(cx, pg, after, limit);
        let page = page.map_err(|e| Self::broken(&e))?;
        cx.out.push(answer(to, ReplicaResponse::Stamps(page)));
        Ok(())
    }

    fn stamp_page(
        &self,
        cx: &Cx<'_>,
        pg: PgId,
        after: Option<Ino>,
        limit: usize,
    ) -> Result<StampPage, TableError> {
        let prefix = keys::of_pg(b's', pg);
        let after = after.map(|ino| keys::stamp(pg, ino));
        let rows = self
            .tables
            .scan(cx.store, &prefix, after.as_deref(), limit)?;
        let mut stamps = Vec::with_capacity(rows.len());
        for (key, value) in &rows {
            let row: CleanRow = super::tables::decode(key, value)?;
            let ino = keys::parse_stamp(key).ok_or_else(|| super::tables::bad_key(key))?;
            stamps.push((ino, row.revision, row.op));
        }
        Ok(StampPage {
            is_last: rows.len() < limit,
            stamps,
            marks: self.marks.of_pg(pg),
            cursor: self.cursor_durable,
        })
    }
}

fn of_store(error: StoreError) -> TableError {
    let cause = error.to_string();
    TableError::Kv(crate::store::KvError::Engine { cause })
}

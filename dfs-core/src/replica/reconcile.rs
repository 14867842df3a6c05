//! Objects that nothing refers to: what this store kept and was never told to delete.
//!
//! A member that was away may have missed the notes that delete objects, and a PREPARE may come after
//! its operation was decided. Steps, all through the store again and again: 1. ask the leader, page by
//! page, what it knows of the objects held; those of a decided operation that nothing refers to are
//! suspects; 2. when the whole list is through and every note up to the newest answer is applied here,
//! ask of the suspects once more; 3. delete those that the second answer names too.
//!
//! Invariants:
//! 1. an object is deleted only if the committed state says, twice, that its operation is decided and
//!    that no kept version refers to it: such an object can never be referred to again
//!    ([`ObjectFate::Garbage`]);
//! 2. never one whose batch is under way.
use super::machine::{After, CallKind, Cx, Replica};
use super::tables::TableError;
use crate::store::RestReason;
use crate::types::{LogIndex, ObjectId, Time};
use crate::wire::audit::ObjectFate;
use crate::wire::master::MasterResponse;
use crate::wire::rpc::{CallResult, CallTarget};
use crate::wire::{MasterRequest, Request, Response};
use std::collections::BTreeSet;
use std::time::Duration;

/// Objects of one question.
const PAGE: usize = 256;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait after an error, and before the second look.
const AGAIN: Duration = Duration::from_secs(5);
/// Suspects of one pass; the rest waits for the next.
const SUSPECTS_MAX: usize = 100_000;

/// Where the search is.
#[derive(Debug)]
pub(super) struct Reconcile {
    due: Time,
    asked: Option<(u64, Vec<ObjectId>)>,
    after: Option<ObjectId>,
    suspects: BTreeSet<ObjectId>,
    /// The newest answer that named one.
    as_of: LogIndex,
    is_second: bool,
}

impl Reconcile {
    pub fn new(due: Time) -> Self {
        Self {
            due,
            asked: None,
            after: None,
            suspects: BTreeSet::new(),
            as_of: LogIndex(0),
            is_second: false,
        }
    }

    /// A pass shall begin by then; one that is under way goes on.
    pub fn soon(&mut self, at: Time) {
        if self.asked.is_none() && self.after.is_none() && !self.is_second {
            self.due = self.due.min(at);
        }
    }

    pub fn next_wake(&self) -> Option<Time> {
        self.asked.is_none().then_some(self.due)
    }
}

impl Replica {
    pub(super) fn pump_reconcile(&mut self, cx: &mut Cx<'_>) -> Result<(), TableError> {
        let search = &self.reconcile;
        if search.asked.is_some() || search.due > cx.now || self.groups.count().is_none() {
            return Ok(());
        }
        if search.is_second && self.cursor_durable < search.as_of {
            self.reconcile.due = cx.now + AGAIN;
            return Ok(());
        }
        let objects: Vec<_> = if search.is_second {
            search.suspects.iter().take(PAGE).copied().collect()
        } else {
            let (page, is_last) = self.page(cx, search.after, PAGE)?;
            let after = page.last().map(|held| held.id);
            self.reconcile.after = after.filter(|_| !is_last);
            let old = page.iter().filter(|held| !held.is_new);
            old.map(|held| held.id).collect()
        };
        if objects.is_empty() {
            self.reconcile_page_done(cx);
            return Ok(());
        }
        let request = MasterRequest::ObjectFates {
            objects: objects.clone(),
        };
        let (kind, to) = (CallKind::Fates, CallTarget::Leader);
        let token = self.call(cx, kind, to, Request::Master(request));
        self.reconcile.asked = Some((token, objects));
        Ok(())
    }

    pub(super) fn on_fates(
        &mut self,
        cx: &mut Cx<'_>,
        token: u64,
        result: CallResult,
    ) -> Result<(), TableError> {
        let asked = self.reconcile.asked.take_if(|(t, _)| *t == token);
        let Some((_, objects)) = asked else {
            return Ok(());
        };
        let (fates, as_of) = match result {
            Ok((Response::Master(MasterResponse::ObjectFates(fates, as_of)), _))
                if fates.len() == objects.len() =>
            {
                (fates, as_of)
            }
            _ => {
                // From the beginning: the list that was begun may be stale by the time of an answer.
                self.reconcile = Reconcile::new(cx.now + AGAIN);
                return Ok(());
            }
        };
        let garbage = objects.iter().zip(&fates);
        let garbage = garbage.filter(|(_, fate)| **fate == ObjectFate::Garbage);
        let garbage: Vec<_> = garbage.map(|(id, _)| *id).collect();
        if self.reconcile.is_second {
            for id in &objects {
                self.reconcile.suspects.remove(id);
            }
            self.delete_garbage(cx, &garbage)?;
        } else if !garbage.is_empty() {
            let search = &mut self.reconcile;
            search.as_of = search.as_of.max(as_of);
            let room = SUSPECTS_MAX.saturating_sub(search.suspects.len());
            search.suspects.extend(garbage.into_iter().take(room));
        }
        self.reconcile_page_done(cx);
        Ok(())
    }

    /// Goes on with the list, the second look, or the next pass.
    fn reconcile_page_done(&mut self, cx: &Cx<'_>) {
        let search = &mut self.reconcile;
        let is_listing = !search.is_second && search.after.is_some();
        if is_listing || (search.is_second && !search.suspects.is_empty()) {
            search.due = cx.now + PAUSE;
        } else if !search.suspects.is_empty() {
            search.is_second = true;
            search.due = cx.now + AGAIN;
        } else {
            *search = Reconcile::new(cx.now + self.config.reconcile_every);
        }
    }

    fn delete_garbage(&mut self, cx: &mut Cx<'_>, garbage: &[ObjectId]) -> Result<(), TableError> {
        let idle = |id: &&ObjectId| !self.writing.contains_key(id);
        let garbage: Vec<_> = garbage.iter().filter(idle).copied().collect();
        if garbage.is_empty() || self.failure.is_some() {
            return Ok(());
        }
        let (count, as_of) = (garbage.len(), self.reconcile.as_of);
        tracing::info!(count, "objects that nothing refers to are deleted");
        let mut tx = self.tables.begin();
        for id in garbage {
            self.unwant(cx, &mut tx, id);
            self.rest_object(cx, &mut tx, id, RestReason::Unreferenced(as_of));
        }
        self.persist(cx, tx, Vec::<After>::new());
        Ok(())
    }
}

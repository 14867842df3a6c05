//! Audits of this voter's tables, and what it knows of objects: for `fsck` and for stores that look
//! for what nothing refers to.
//!
//! An audit pins the tables as they are and looks at a slice of them per request, so that nothing
//! waits for it. Any voter answers; one audit at a time, and one that nobody continues is let go.
use super::event::MasterAction;
use super::machine::{Master, refusal, reply};
use super::reads::broken;
use crate::master::state::StateAudit;
use crate::master::state::namespace::group_space;
use crate::store::KvRead;
use crate::types::{ChunkNo, Ino, LogIndex, ObjectId, PgId, Time};
use crate::wire::audit::AuditPage;
use crate::wire::master::MasterResponse;
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, WireError};
use std::time::Duration;

/// Rows per slice.
const SLICE: usize = 500;
/// An audit that was not continued for this long makes room for another.
const IDLE: Duration = Duration::from_secs(20);
/// Rows whose bytes are added up for one question.
const SPACE_ROWS: usize = 1000;
/// Objects of one question at most.
const FATES_MAX: usize = 4096;

struct Running {
    run: u64,
    tables: Box<dyn KvRead + Send + Sync>,
    audit: StateAudit,
    as_of: LogIndex,
    used_at: Time,
}

/// The audit under way, if there is one.
#[derive(Default)]
pub(super) struct Audits {
    running: Option<Running>,
    last: u64,
}

impl Audits {
    /// Lets the pinned tables go that nobody asks for any more.
    pub fn forget_idle(&mut self, now: Time) {
        let is_idle = |r: &mut Running| now.since(r.used_at) > IDLE;
        drop(self.running.take_if(is_idle));
    }
}

impl Master {
    pub(super) fn on_audit(&mut self, to: ReplyTo, run: u64, out: &mut Vec<MasterAction>) {
        out.push(match self.audit_slice(run) {
            Ok(page) => reply(to, MasterResponse::Audit(page)),
            Err(error) => refusal(to, error),
        });
    }

    fn audit_slice(&mut self, run: u64) -> Result<AuditPage, WireError> {
        let now = self.now;
        self.audits.forget_idle(now);
        if run == 0 {
            if self.audits.running.is_some() {
                let detail = "another audit is under way on this voter";
                return Err(WireError::new(ErrorCode::Busy, detail));
            }
            self.audits.last += 1;
            let map = self.state.map();
            let pgs = u16::try_from(map.pgs.len()).unwrap_or(u16::MAX);
            self.audits.running = Some(Running {
                run: self.audits.last,
                audit: StateAudit::new(pgs, map.quorum),
                as_of: self.state.applied().index,
                tables: self.state.kv_mut().snapshot(),
                used_at: now,
            });
        }
        let wanted = |r: &&mut Running| run == 0 || r.run == run;
        let Some(running) = self.audits.running.as_mut().filter(wanted) else {
            let detail = format!("audit {run} is over or was let go; begin another");
            return Err(WireError::new(ErrorCode::NotFound, detail));
        };
        running.used_at = now;
        let step = running.audit.step(running.tables.as_ref(), SLICE);
        let page = AuditPage {
            run: running.run,
            as_of: running.as_of,
            rows: running.audit.rows(),
            faults: running.audit.take_faults(),
            is_last: running.audit.is_done(),
            digest: running.audit.digest(),
        };
        if step.is_err() || page.is_last {
            self.audits.running = None;
        }
        step.map_err(|e| broken(e.into()))?;
        Ok(page)
    }

    pub(super) fn answer_fates(
        &mut self,
        objects: &[ObjectId],
    ) -> Result<MasterResponse, WireError> {
        if objects.len() > FATES_MAX {
            let detail = format!("{} objects in one question", objects.len());
            return Err(WireError::new(ErrorCode::BadRequest, detail));
        }
        let fates = self.state.object_fates(objects).map_err(broken)?;
        let as_of = self.state.applied().index;
        Ok(MasterResponse::ObjectFates(fates, as_of))
    }

    pub(super) fn answer_space(
        &self,
        after: Option<(PgId, Ino, ChunkNo)>,
    ) -> Result<MasterResponse, WireError> {
        let space = group_space(self.state.kv(), after, SPACE_ROWS).map_err(broken)?;
        Ok(MasterResponse::GroupSpace {
            groups: space.groups,
            shared: space.shared,
            next: space.next,
        })
    }
}

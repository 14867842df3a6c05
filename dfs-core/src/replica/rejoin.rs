//! A store that comes back with data: what it catches up with, what it wipes, and saying so.
//!
//! ```text
//!  Behind ──all notes told──> Healing ──objects here, strays wiped──> Done (report until noted)
//! ```
//! What changed while it was away comes as notes; only the objects those name are copied. Replicas
//! that were given to other stores meanwhile are strays, and `purge` wipes them.
//! With `rejoin_wipe` the groups it is a complete member of are filled anew besides, as the master
//! allows it: each object is replaced by a peer's copy, and never goes before that is durable. What has
//! no other copy stays as it is.
use super::config::ReplicaConfig;
use super::groups::{Groups, Role};
use super::machine::{Cx, Replica};
use super::tables::ObjectRow;
use crate::types::{Epoch, Ino, LogIndex, PgId, Time};
use crate::wire::repair::RejoinReport;
use std::collections::BTreeSet;

/// Groups named at a time that shall be filled anew.
const RENEW_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Notes are still to come.
    Behind,
    /// What notes up to this index named is being fetched.
    Healing(LogIndex),
    Done,
}

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Rejoin {
    step: Step,
    began: Time,
    files: BTreeSet<Ino>,
    wiped: BTreeSet<PgId>,
    report: RejoinReport,
    is_noted: bool,
    /// `None` until the first map.
    renew: Option<BTreeSet<PgId>>,
}

impl Rejoin {
    pub fn new(config: &ReplicaConfig, now: Time, has_data: bool) -> Self {
        Self {
            step: if has_data { Step::Behind } else { Step::Done },
            began: now,
            files: BTreeSet::new(),
            wiped: BTreeSet::new(),
            report: RejoinReport {
                incarnation: config.incarnation,
                ..RejoinReport::default()
            },
            is_noted: false,
            renew: (!has_data || !config.rejoin_wipe).then(BTreeSet::new),
        }
    }

    /// Notes of the time away are still to come.
    pub fn is_behind(&self) -> bool {
        self.step == Step::Behind
    }

    /// All notes up to here were told.
    pub fn told_all(&mut self, upto: LogIndex) {
        if self.step == Step::Behind {
            self.step = Step::Healing(upto);
        }
    }

    /// An object that a note named is here.
    pub fn caught_up(&mut self, index: LogIndex, row: &ObjectRow) {
        let is_old = match self.step {
            Step::Behind => true,
            Step::Healing(upto) => index <= upto,
            Step::Done => false,
        };
        if is_old {
            self.files.insert(row.ino);
            self.report.caught_objects += 1;
            self.report.caught_bytes += u64::from(row.sum.len);
        }
    }

    /// A stray of the group is deleted.
    pub fn wiped(&mut self, pg: PgId) {
        if self.step != Step::Done {
            self.wiped.insert(pg);
            self.report.wiped_objects += 1;
        }
    }

    /// What there is to say, until the master has noted it.
    pub fn report(&self) -> Option<RejoinReport> {
        let r = &self.report;
        let is_news = r.caught_objects > 0 || r.wiped_groups > 0;
        (self.step == Step::Done && !self.is_noted && is_news).then_some(*r)
    }

    pub fn noted(&mut self, is_noted: bool) {
        self.is_noted |= is_noted;
    }

    /// The first map says what there is to be filled anew; later ones, what is.
    pub fn map_changed(&mut self, groups: &Groups) {
        let is_member = |pg: PgId| matches!(groups.role(pg), Some(Role::Member { .. }));
        match &mut self.renew {
            None => {
                let all = groups.iter().filter(|(pg, _)| is_member(*pg));
                let (all, only): (Vec<_>, Vec<_>) =
                    all.partition(|(_, info)| info.members.len() > 1);
                if !only.is_empty() {
                    tracing::warn!(
                        groups = only.len(),
                        "this node holds the only copy of these groups: they are kept, not wiped"
                    );
                }
                self.renew = Some(all.into_iter().map(|(pg, _)| pg).collect());
            }
            Some(renew) => renew.retain(|pg| is_member(*pg)),
        }
    }

    /// The group is to be filled anew.
    pub fn is_renewing(&self, pg: PgId) -> bool {
        self.renew.as_ref().is_some_and(|all| all.contains(&pg))
    }

    /// The group was filled anew.
    pub fn renewed(&mut self, pg: PgId) {
        if let Some(renew) = &mut self.renew {
            renew.remove(&pg);
        }
    }

    /// Groups that the master shall call filling.
    pub fn renew(&self, groups: &Groups) -> Vec<(PgId, Epoch)> {
        if self.step != Step::Done {
            return Vec::new();
        }
        let whole = |pg: &PgId| groups.role(*pg) == Some(Role::Member { filling: false });
        let all = self.renew.iter().flatten().copied().filter(whole);
        let known = all.filter_map(|pg| groups.info(pg).map(|info| (pg, info.epoch)));
        known.take(RENEW_MAX).collect()
    }
}

impl Replica {
    /// Replicas still to be wiped. At least one until the map of after the return has said what there
    /// is to be wiped: until then the master must not take it for an empty store that wants a share.
    pub(super) fn wiping(&self) -> u32 {
        let is_unknown = |(pg, _)| {
            let is_gone = self.groups.role(pg) == Some(Role::Gone);
            is_gone && self.groups.was_here(pg) && !self.groups.is_adopted(pg)
        };
        let is_open = match self.rejoin.step {
            Step::Behind => true,
            Step::Healing(_) => self.groups.iter().any(is_unknown),
            Step::Done => false,
        };
        self.purge.left().max(u32::from(is_open))
    }

    pub(super) fn pump_rejoin(&mut self, cx: &Cx<'_>) {
        let Step::Healing(upto) = self.rejoin.step else {
            return;
        };
        // A replica that is still a source elsewhere is wiped later: there is more to tell then.
        let is_settled = |(pg, _)| match self.groups.role(pg) {
            Some(Role::Prior) | None => false,
            Some(_) => !self.groups.was_here(pg) || self.groups.is_adopted(pg),
        };
        if self.cursor_durable < upto
            || !self.wants.is_healed(upto)
            || self.purge.left() > 0
            || !self.groups.iter().all(is_settled)
        {
            return;
        }
        let took = cx.now.since(self.rejoin.began).as_millis();
        let report = &mut self.rejoin.report;
        report.caught_files = self.rejoin.files.len() as u64;
        report.wiped_groups = u32::try_from(self.rejoin.wiped.len()).unwrap_or(u32::MAX);
        report.took_ms = u64::try_from(took).unwrap_or(u64::MAX);
        tracing::info!(
            replicas = report.wiped_groups,
            objects = report.wiped_objects,
            "wiped what was re-replicated while this node was away"
        );
        tracing::info!(
            files = report.caught_files,
            bytes = report.caught_bytes,
            ms = report.took_ms,
            "caught up with what changed while this node was away"
        );
        self.rejoin.step = Step::Done;
        self.rejoin.files.clear();
        self.rejoin.wiped.clear();
        self.heartbeats.ask(cx.now, &self.config);
    }
}

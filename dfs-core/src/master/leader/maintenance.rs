//! What the leader does by itself, tick by tick.
use super::event::MasterAction;
use super::leading::Task;
use super::machine::Master;
use crate::master::command::Command;
use crate::types::{Ino, LogIndex};
use crate::wire::rpc::CallResult;
use std::time::Duration;

/// Between steps of repair and voters.
const STEP_EVERY: Duration = Duration::from_millis(100);
/// Ticks that are further apart than this mean that this process did not run.
const STALL: Duration = Duration::from_millis(500);
/// Between rounds of maintenance.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);
/// Entries released, reaped or sealed at once.
const BATCH: u32 = 2000;
/// Notes that must have been told to everybody before they are trimmed.
const TRIM_LEAST: u64 = 2000;

impl Master {
    pub(super) fn on_tick(&mut self, out: &mut Vec<MasterAction>) {
        let now = self.now;
        self.retry_install(out);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let stalled = now.since(leading.ticked_at);
        leading.ticked_at = now;
        if stalled > STALL {
            // What was sent to us meanwhile is still to be read: nobody was silent.
            tracing::warn!(ms = stalled.as_millis(), "this process was stalled");
            leading.liveness.forgive(stalled);
            leading.stores.forgive(stalled);
            leading.lock_waits.forgive(stalled);
            leading.voters.watch.forgive();
        }
        leading.coherence.tick(now);
        leading.round_due = true;
        let step = now.since(leading.stepped_at) >= STEP_EVERY;
        let maintain = now.since(leading.maintained_at) >= MAINTAIN_EVERY;
        self.release_waits(out);
        self.poke_stores(out);
        if step {
            if let Some(leading) = self.leading.as_deref_mut() {
                leading.stepped_at = now;
            }
            self.expire_sessions();
            self.forget_lock_waits(out);
            self.watch_stores();
            self.activate_fenced();
            self.watch_slow();
            self.plan_repair();
            if let Err(e) = self.free_space() {
                tracing::error!(error = %e, "space cannot be freed: the master's tables are damaged");
            }
            self.plan_voters(out);
            self.seal_unsealed();
        }
        if maintain {
            if let Some(leading) = self.leading.as_deref_mut() {
                leading.maintained_at = now;
            }
            self.maintain();
        }
    }

    fn seal_unsealed(&mut self) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if leading.unsealed.is_empty() || leading.busy.contains(&Task::Seal) {
            return;
        }
        let all = std::mem::take(&mut leading.unsealed);
        let mut all = all.into_iter();
        let inos: Vec<Ino> = all.by_ref().take(BATCH as usize).collect();
        leading.unsealed = all.collect();
        self.propose_task(Task::Seal, Command::SealAll { inos });
    }

    fn maintain(&mut self) {
        self.note_leap();
        if self.state.cluster().is_none() {
            return;
        }
        let before = self.expires_before(self.delete_grace_now());
        if self.state.deletes_due(before).unwrap_or(false) {
            let command = Command::ReleaseDeletes { before, max: BATCH };
            self.propose_task(Task::ReleaseDeletes, command);
        }
        let (before, keep_names) = (
            self.expires_before(self.config.history_keep),
            self.config.history_names_max,
        );
        if self.state.history_due(before, keep_names).unwrap_or(false) {
            let command = Command::TrimHistory {
                before,
                keep_names,
                max: BATCH,
            };
            self.propose_task(Task::TrimHistory, command);
        }
        self.trim_notes();
        self.reap_orphans();
    }

    /// Drops notes that every store that matters was told. One that is away holds them back up to
    /// a bound; beyond, it is filled again when it returns. Nothing is dropped before all groups
    /// have members: until then no store seems to matter, and each would find that it missed news.
    fn trim_notes(&mut self) {
        if self.state.map().pgs.iter().any(|pg| pg.members.is_empty()) {
            return;
        }
        let Ok(trimmed) = self.state.notes_trimmed() else {
            return;
        };
        let applied = self.state.applied().index;
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        let concerned = |store| {
            let has = |state: &crate::master::state::PgState| {
                state.info.members.contains(&store) || state.info.prior.contains(&store)
            };
            self.state.pgs().any(|(_, state)| has(state))
        };
        let mut upto = applied;
        for store in self
            .state
            .stores()
            .keys()
            .filter(|store| concerned(**store))
        {
            let is_down = leading.stores.down.contains_key(store);
            let cursor = leading.stores.heard.get(store).map(|soft| soft.cursor);
            let told = cursor.unwrap_or(trimmed);
            let too_far = is_down && applied.0.saturating_sub(told.0) > self.config.notes_max;
            if !too_far {
                upto = upto.min(told);
            }
        }
        if upto.0 >= trimmed.0 + TRIM_LEAST || (upto == applied && upto > trimmed.next()) {
            let upto = LogIndex(upto.0);
            self.propose_task(Task::TrimNotes, Command::TrimNotes { upto });
        }
    }

    /// Orphans that no session has open, once every session has said what it has open.
    fn reap_orphans(&mut self) {
        let (now, full) = (self.now, self.config.session_valid);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let is_all_known = leading.coherence.knows_all();
        if is_all_known {
            leading.opens.all_known();
        }
        let known = is_all_known || now.since(leading.elected_at) >= full;
        if !known || leading.busy.contains(&Task::Reap) {
            return;
        }
        let Ok(orphans) = self.state.orphans(leading.orphans_after, BATCH as usize) else {
            return;
        };
        if leading.orphans_after == Ino(0) {
            leading.orphans_seen = 0;
        }
        leading.orphans_after = match orphans.last() {
            Some(last) if orphans.len() == BATCH as usize => *last,
            _ => Ino(0),
        };
        let (open, inos): (Vec<Ino>, Vec<Ino>) = orphans
            .into_iter()
            .partition(|ino| leading.opens.is_open(*ino));
        leading.orphans_seen += open.len() as u64;
        if !inos.is_empty() {
            self.propose_task(Task::Reap, Command::Reap { inos });
        }
    }

    pub(super) fn on_call_done(
        &mut self,
        token: u64,
        result: CallResult,
        out: &mut Vec<MasterAction>,
    ) {
        if !self.voter_answered(token, &result) {
            self.page_arrived(token, result, out);
        }
    }
}

//! What log and state tables say when a member starts, and whether they fit.
use super::convert;
use super::event::{RaftError, StateAt};
use super::log::RecoveredLog;
use super::mem_log::MemLog;
use super::types::{BOOTSTRAP_INDEX, SnapshotMeta};
use crate::types::LogIndex;

/// The log in memory, the applied index, and the snapshot to adopt if the process stopped between
/// replacing the state tables and recording it.
pub(super) fn recover(
    log: RecoveredLog,
    state: &StateAt,
) -> Result<(MemLog, u64, Option<SnapshotMeta>), RaftError> {
    let inconsistent = |why: &str| RaftError::Inconsistent { why: why.into() };
    let (base, hard) = (log.base.clone(), log.hard);
    if base != SnapshotMeta::blank() {
        base.validate()
            .map_err(|e| RaftError::Inconsistent { why: e.to_string() })?;
    }
    let entries: Vec<_> = log.entries.iter().map(convert::entry_to_raft).collect();
    let mem = MemLog::new(base.clone(), entries, convert::hard_to_raft(&hard));
    let last = mem.last();
    if mem.term_at(last).is_some_and(|term| term > hard.term.0) {
        return Err(inconsistent("an entry is newer than the term"));
    }
    let applied = state.applied;
    if let Some(meta) = &state.installed
        && meta.index > base.index
        && mem.term_at(meta.index.0) != Some(meta.term.0)
    {
        let began = log
            .installing
            .is_some_and(|began| began.index <= meta.index);
        if !began || applied != meta.index {
            let last = LogIndex(last);
            return Err(RaftError::AppliedBeyondLog { applied, last });
        }
        meta.validate()
            .map_err(|e| RaftError::Inconsistent { why: e.to_string() })?;
        let mut hard = hard;
        hard.commit = meta.index;
        if hard.term < meta.term {
            (hard.term, hard.vote) = (meta.term, None);
        }
        let mem = MemLog::new(meta.clone(), Vec::new(), convert::hard_to_raft(&hard));
        return Ok((mem, applied.0, Some(meta.clone())));
    }
    if applied.0 > last {
        let last = LogIndex(last);
        return Err(RaftError::AppliedBeyondLog { applied, last });
    }
    if hard.commit.0 > last {
        return Err(inconsistent("the commit index lies beyond the log"));
    }
    // A state that has applied nothing is what a bootstrapped log starts from.
    let is_fresh = base.index <= BOOTSTRAP_INDEX;
    if applied < base.index && !is_fresh {
        let base = base.index;
        return Err(RaftError::StateBehindLog { applied, base });
    }
    Ok((mem, applied.0.max(base.index.0), None))
}

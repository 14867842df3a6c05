//! Directories that move into one another, and the invariant that they stay a tree: from each of
//! them one comes to the root by going up, whoever moves what at the same time.
use super::answers::is_fair;
use super::asks::{AskError, Purpose, What};
use super::client::{Client, Cx};
use super::jobs::{Job, META};
use dfs_core::master::state::MasterState;
use dfs_core::store::LazyKv;
use dfs_core::types::{Ino, Name, OpId};
use dfs_core::wire::master::{MasterResponse, QueryAnswer};
use dfs_core::wire::mutation::RenameMode;
use dfs_core::wire::{ErrorClass, ErrorCode, Mutation, Query};

/// Directories that move.
pub(super) const MOVING: usize = 4;

/// A directory is on its way into another one.
pub(super) struct TreeJob {
    which: usize,
    into: Ino,
    op: Option<OpId>,
    must_work: bool,
}

/// The name of a directory that moves.
pub(super) fn name_of_moving(which: usize) -> Name {
    Name::new(format!("t{which}")).expect("a plain name")
}

impl Client {
    /// Moves a directory into another one, or back to the root: first it asks where it is.
    pub(super) fn begin_move(&mut self, worker: usize, cx: &mut Cx<'_>) {
        let dirs = &cx.oracle.moving;
        let which = cx.fx.pick(dirs.len());
        let into = dirs[(which + 1 + cx.fx.pick(dirs.len() - 1)) % dirs.len()];
        let ino = dirs[which];
        let job = TreeJob {
            which,
            into: if cx.fx.chance(0.25) { Ino::ROOT } else { into },
            op: None,
            must_work: cx.oracle.must_work,
        };
        self.begin_job(worker, Job::Tree(job));
        let owner = self.owner(worker, Purpose::Whole);
        let body = Query::Parent { ino };
        let interest = false;
        self.ask(owner, What::Query { body, interest }, META, cx);
    }

    pub(super) fn move_answered(
        &mut self,
        worker: usize,
        mut job: TreeJob,
        result: Result<MasterResponse, AskError>,
        cx: &mut Cx<'_>,
    ) {
        match result {
            Ok(MasterResponse::Answer {
                body: QueryAnswer::Attr(parent),
                ..
            }) => {
                let op = self.begin_op();
                let name = name_of_moving(job.which);
                let body = Mutation::Rename {
                    from_parent: parent.ino,
                    from_name: name.clone(),
                    to_parent: job.into,
                    to_name: name,
                    mode: RenameMode::NoReplace,
                };
                job.op = Some(op);
                self.jobs[worker] = Job::Tree(job);
                let owner = self.owner(worker, Purpose::Whole);
                return self.ask(owner, What::Mutate(op, body), META, cx);
            }
            Ok(MasterResponse::Mutated(_)) => cx.oracle.counts.moves += 1,
            Ok(other) => cx.fx.fail(format!("a move was answered with {other:?}")),
            Err(e) => {
                // It is elsewhere by now, there already, or above where it was to go.
                let code = e.last.code;
                let is_fair =
                    is_fair(code) || matches!(code, ErrorCode::Exists | ErrorCode::Invalid);
                if !is_fair && (job.must_work || code.class() == ErrorClass::Permanent) {
                    cx.fx.fail(format!("a move failed: {}", e.last));
                }
            }
        }
        if let Some(op) = job.op {
            self.finish_op(op);
        }
        self.end_job(worker, cx);
    }
}

/// Each directory that moves hangs from the root.
pub(super) fn check_tree(state: &MasterState<LazyKv>, dirs: &[Ino]) -> Result<(), String> {
    for dir in dirs {
        let (mut at, mut steps) = (*dir, 0);
        while at != Ino::ROOT {
            if steps > dirs.len() {
                return Err(format!("directory {dir} does not hang from the root"));
            }
            steps += 1;
            match state.query(&Query::Parent { ino: at }) {
                Ok(QueryAnswer::Attr(parent)) => at = parent.ino,
                other => return Err(format!("directory {at} has no parent: {other:?}")),
            }
        }
    }
    Ok(())
}

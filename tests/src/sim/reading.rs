//! What clients read at the end of a run, when nothing is wrong.
//!
//! Every client, at the same time as the others:
//! 1. lists every directory;
//! 2. reads every file that a listing showed or that somebody put bytes in, with what it knows;
//! 3. reads them again, without the layouts that it knew.
//!
//! Invariants: a listing's files can be read; and whatever else the histories demand.
use super::workload::Task;
use dfs_core::types::Ino;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct Readings {
    stage: u8,
    todo: BTreeMap<usize, VecDeque<Task>>,
    listed: BTreeSet<Ino>,
}

/// What a stage begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    KnowingWhatIsKnown,
    KnowingNoLayouts,
    /// Everything was read.
    Over,
}

impl Readings {
    /// The end has come.
    pub fn has_begun(&self) -> bool {
        self.stage > 0
    }

    /// Begins the next stage for so many clients; `written` are files with bytes.
    pub fn next_stage(
        &mut self,
        clients: usize,
        dirs: usize,
        written: impl Iterator<Item = Ino>,
    ) -> Stage {
        self.stage += 1;
        let tasks: Vec<Task> = match self.stage {
            1 => (0..dirs).map(Task::List).collect(),
            2 | 3 => {
                let files: BTreeSet<Ino> = written.chain(self.listed.iter().copied()).collect();
                files.into_iter().map(Task::Get).collect()
            }
            _ => return Stage::Over,
        };
        for client in 0..clients {
            self.todo.insert(client, tasks.iter().cloned().collect());
        }
        match self.stage {
            3 => Stage::KnowingNoLayouts,
            _ => Stage::KnowingWhatIsKnown,
        }
    }

    /// The next task of a client.
    pub fn pop(&mut self, client: usize) -> Option<Task> {
        self.todo.get_mut(&client)?.pop_front()
    }

    /// All tasks of the stage were taken up.
    pub fn is_empty(&self) -> bool {
        self.todo.values().all(VecDeque::is_empty)
    }

    /// A listing showed this file.
    pub fn lists(&mut self, ino: Ino) {
        if self.has_begun() {
            self.listed.insert(ino);
        }
    }

    /// The file must be there.
    pub fn is_listed(&self, ino: Ino) -> bool {
        self.listed.contains(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_lists_and_then_reads_all_that_is_there_twice() {
        let mut readings = Readings::default();
        let written = || [Ino(5)].into_iter();
        readings.lists(Ino(4));
        assert_eq!(
            readings.next_stage(2, 1, written()),
            Stage::KnowingWhatIsKnown
        );
        assert!(matches!(readings.pop(1), Some(Task::List(0))));
        assert!(readings.pop(1).is_none() && !readings.is_empty());
        readings.pop(0);
        readings.lists(Ino(7));
        for stage in [Stage::KnowingWhatIsKnown, Stage::KnowingNoLayouts] {
            assert!(readings.is_empty());
            assert_eq!(readings.next_stage(2, 1, written()), stage);
            for client in 0..2 {
                let files: Vec<Task> = std::iter::from_fn(|| readings.pop(client)).collect();
                assert!(matches!(files[..], [Task::Get(Ino(5)), Task::Get(Ino(7))]));
            }
        }
        assert_eq!(readings.next_stage(2, 1, written()), Stage::Over);
    }
}

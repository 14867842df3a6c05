//! A small directory tree as POSIX and Linux have it, as a sequential model.
//!
//! Files and directories, exclusive creation, `unlink`, `mkdir`, `rmdir`, `rename` with `RENAME_NOREPLACE`
//! and `RENAME_EXCHANGE`, `link`, `stat` and listings, with the errors that Linux gives, in its order:
//! 1. parents are looked up, the old name's first: a missing one is ENOENT, a file in the way ENOTDIR;
//! 2. of a rename: the old name (ENOENT), NOREPLACE and the new one (EEXIST), EXCHANGE and no new one
//!    (ENOENT), a directory into itself (EINVAL), onto its own ancestor (ENOTEMPTY, EXCHANGE: EINVAL), both
//!    the same inode (nothing happens), onto another kind (EISDIR, ENOTDIR), onto a full one (ENOTEMPTY).
//!
//! Every file and directory is made with a mark of its own, which `stat` tells.
//!
//! **Races.** The kernel looks up the two names of a rename one after the other before it asks the
//! filesystem, and may answer from what it saw then. So an operation with two names that overlaps a
//! change from another mount ([`TreeCall::raced`]) may answer what was true of each name at some moment:
//! * EEXIST, EISDIR, ENOTDIR, ENOTEMPTY by the new name alone;
//! * 0 without doing anything, if it saw the same inode under both names, because another one had just
//!   moved it there: what the old name names by then is all the same.
use super::record::{Outcome, Record};
use super::search::{Call, Model};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names from the root down, each one number. The empty path is the root.
pub type TreePath = Vec<u8>;
/// Tells files and directories apart.
pub type Mark = u16;

/// How a rename treats its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// As `rename`.
    Replace,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
}

/// What is asked of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeOp {
    /// A file, `O_CREAT | O_EXCL`.
    Create(TreePath, Mark),
    /// A directory.
    Mkdir(TreePath, Mark),
    /// `unlink`.
    Unlink(TreePath),
    /// `rmdir`.
    Rmdir(TreePath),
    /// `renameat2`.
    Rename(TreePath, TreePath, RenameMode),
    /// `link`.
    Link(TreePath, TreePath),
    /// `lstat`.
    Look(TreePath),
    /// All names of a directory.
    List(TreePath),
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeAnswer {
    /// Done.
    Done,
    /// Refused, with this errno.
    Refused(i32),
    /// This is there.
    Found {
        /// Its mark.
        mark: Mark,
        /// A directory.
        is_dir: bool,
    },
    /// These names, ascending.
    Names(Vec<u8>),
}

/// A record of a tree.
pub type TreeRecord = Record<TreeOp, TreeAnswer>;

/// An operation, and whether it has two names and another mount changed something at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeCall {
    /// What was asked.
    pub op: TreeOp,
    /// See the [module docs](self).
    pub raced: bool,
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A file; names with the same mark are links to it.
    File(Mark),
    /// A directory.
    Dir(Mark, BTreeMap<u8, Node>),
}

/// The sequential tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// What is there at first.
    pub initial: Node,
}

type Answered<T> = Result<T, Errno>;

impl Node {
    /// An empty directory.
    #[must_use]
    pub fn empty() -> Self {
        Self::Dir(0, BTreeMap::new())
    }

    fn is_dir(&self) -> bool {
        matches!(self, Self::Dir(..))
    }

    fn is_full(&self) -> bool {
        matches!(self, Self::Dir(_, names) if !names.is_empty())
    }

    fn names(&mut self) -> Answered<&mut BTreeMap<u8, Self>> {
        match self {
            Self::Dir(_, names) => Ok(names),
            Self::File(_) => Err(Errno::NOTDIR),
        }
    }

    /// The directory at a path.
    fn dir(&mut self, path: &[u8]) -> Answered<&mut BTreeMap<u8, Self>> {
        let mut node = self;
        for name in path {
            node = node.names()?.get_mut(name).ok_or(Errno::NOENT)?;
        }
        node.names()
    }

    fn get(&mut self, path: &[u8]) -> Answered<&mut Self> {
        match path.split_last() {
            None => Ok(self),
            Some((name, parent)) => self.dir(parent)?.get_mut(name).ok_or(Errno::NOENT),
        }
    }

    /// What is at a path whose parents are there.
    fn find(&mut self, path: &[u8]) -> Option<Self> {
        self.get(path).ok().cloned()
    }
}

fn split(path: &[u8]) -> Answered<(u8, &[u8])> {
    path.split_last().map(|(n, p)| (*n, p)).ok_or(Errno::BUSY)
}

/// Does `op` to `root`.
fn apply(root: &mut Node, op: &TreeOp) -> Answered<TreeAnswer> {
    match op {
        TreeOp::Create(path, mark) => insert(root, path, Node::File(*mark)),
        TreeOp::Mkdir(path, mark) => insert(root, path, Node::Dir(*mark, BTreeMap::new())),
        TreeOp::Unlink(path) => {
            let (name, parent) = split(path)?;
            let names = root.dir(parent)?;
            match names.get(&name).ok_or(Errno::NOENT)?.is_dir() {
                true => Err(Errno::ISDIR),
                false => {
                    names.remove(&name);
                    Ok(TreeAnswer::Done)
                }
            }
        }
        TreeOp::Rmdir(path) => {
            let (name, parent) = split(path)?;
            let names = root.dir(parent)?;
            match names.get(&name).ok_or(Errno::NOENT)? {
                Node::File(_) => Err(Errno::NOTDIR),
                node if node.is_full() => Err(Errno::NOTEMPTY),
                _ => {
                    names.remove(&name);
                    Ok(TreeAnswer::Done)
                }
            }
        }
        TreeOp::Rename(from, to, mode) => rename(root, from, to, *mode),
        TreeOp::Link(from, to) => {
            let node = root.get(from)?.clone();
            let (name, parent) = split(to)?;
            let names = root.dir(parent)?;
            if names.contains_key(&name) {
                return Err(Errno::EXIST);
            }
            if node.is_dir() {
                return Err(Errno::PERM);
            }
            names.insert(name, node);
            Ok(TreeAnswer::Done)
        }
        TreeOp::Look(path) => {
            let node = root.get(path)?;
            let is_dir = node.is_dir();
            let (Node::File(mark) | Node::Dir(mark, _)) = *node;
            Ok(TreeAnswer::Found { mark, is_dir })
        }
        TreeOp::List(path) => {
            let names = root.dir(path)?.keys().copied().collect();
            Ok(TreeAnswer::Names(names))
        }
    }
}

fn insert(root: &mut Node, path: &[u8], node: Node) -> Answered<TreeAnswer> {
    let Ok((name, parent)) = split(path) else {
        return Err(Errno::EXIST);
    };
    let names = root.dir(parent)?;
    if names.contains_key(&name) {
        return Err(Errno::EXIST);
    }
    names.insert(name, node);
    Ok(TreeAnswer::Done)
}

fn rename(root: &mut Node, from: &[u8], to: &[u8], mode: RenameMode) -> Answered<TreeAnswer> {
    let ((old_name, old_parent), (new_name, new_parent)) = (split(from)?, split(to)?);
    root.dir(old_parent)?;
    root.dir(new_parent)?;
    let old = root.find(from).ok_or(Errno::NOENT)?;
    let new = root.find(to);
    match (mode, &new) {
        (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
        (RenameMode::Exchange, None) => return Err(Errno::NOENT),
        _ => {}
    }
    let is_within =
        |inner: &[u8], outer: &[u8]| inner.len() > outer.len() && inner.starts_with(outer);
    if is_within(to, from) {
        return Err(Errno::INVAL);
    }
    if is_within(from, to) {
        return Err(match mode {
            RenameMode::Exchange => Errno::INVAL,
            _ => Errno::NOTEMPTY,
        });
    }
    // Links to one file, or one name twice.
    if from == to || (new.as_ref() == Some(&old) && !old.is_dir()) {
        return Ok(TreeAnswer::Done);
    }
    if let Some(new) = &new
        && mode == RenameMode::Replace
    {
        match (old.is_dir(), new.is_dir()) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if new.is_full() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
    }
    root.dir(old_parent)?.remove(&old_name);
    root.dir(new_parent)?.insert(new_name, old);
    if let Some(new) = new
        && mode == RenameMode::Exchange
    {
        root.dir(old_parent)?.insert(old_name, new);
    }
    Ok(TreeAnswer::Done)
}

/// A raced rename may answer so, without doing anything.
fn may_answer(root: &mut Node, op: &TreeOp, answer: &TreeAnswer) -> bool {
    let TreeOp::Rename(_, to, mode) = op else {
        return false;
    };
    let Some(new) = root.find(to) else {
        return false;
    };
    match answer {
        TreeAnswer::Done => *mode != RenameMode::NoReplace,
        TreeAnswer::Refused(errno) => {
            let errno = Errno::from_raw_os_error(*errno);
            match mode {
                RenameMode::NoReplace => errno == Errno::EXIST,
                RenameMode::Exchange => false,
                RenameMode::Replace => {
                    (errno == Errno::ISDIR && new.is_dir())
                        || (errno == Errno::NOTDIR && !new.is_dir())
                        || (errno == Errno::NOTEMPTY && new.is_full())
                }
            }
        }
        _ => false,
    }
}

impl Tree {
    /// Does `op`, and says what it answers.
    pub fn perform(root: &mut Node, op: &TreeOp) -> TreeAnswer {
        apply(root, op).unwrap_or_else(|e| TreeAnswer::Refused(e.raw_os_error()))
    }
}

impl Model for Tree {
    type Op = TreeCall;
    type Answer = TreeAnswer;
    type State = Node;

    fn initial(&self) -> Node {
        self.initial.clone()
    }

    fn step(&self, state: &Node, call: &TreeCall, answer: Option<&TreeAnswer>) -> Option<Node> {
        let mut next = state.clone();
        let says = Self::perform(&mut next, &call.op);
        let Some(answer) = answer else {
            return Some(next);
        };
        if *answer == says {
            return Some(next);
        }
        let mut same = state.clone();
        (call.raced && may_answer(&mut same, &call.op, answer)).then_some(same)
    }

    fn step_otherwise(&self, state: &Node, call: &TreeCall, answer: &TreeAnswer) -> Option<Node> {
        (call.raced && may_answer(&mut state.clone(), &call.op, answer)).then(|| state.clone())
    }

    /// A rename that has done nothing here may do something elsewhere.
    fn is_harmless(&self, before: &Node, call: &TreeCall, after: &Node) -> bool {
        before == after && !matches!(call.op, TreeOp::Rename(..))
    }
}

/// The operations on one tree, for a search.
pub fn calls(records: &[TreeRecord]) -> Vec<Call<TreeCall, TreeAnswer>> {
    let has_two = |r: &TreeRecord| matches!(r.op, TreeOp::Rename(..) | TreeOp::Link(..));
    // What is of unknown outcome may run for ever.
    let overlap = |a: &TreeRecord, b: &TreeRecord| {
        let (a_end, b_end) = (a.done().unwrap_or(u64::MAX), b.done().unwrap_or(u64::MAX));
        a.call <= b_end && b.call <= a_end
    };
    let is_question = |op: &TreeOp| matches!(op, TreeOp::Look(_) | TreeOp::List(_));
    let races = |a: &TreeRecord| {
        let changes = |b: &TreeRecord| !is_question(&b.op);
        let other = |b: &&TreeRecord| b.who.mount != a.who.mount && changes(b) && overlap(a, b);
        has_two(a) && records.iter().any(|b| other(&b))
    };
    let call = |record: &TreeRecord| {
        let is_lost = record.outcome == Outcome::Fail
            || (is_question(&record.op) && record.answer().is_none());
        (!is_lost).then(|| Call {
            op: TreeCall {
                op: record.op.clone(),
                raced: races(record),
            },
            call: record.call,
            ret: record.done(),
            answer: record.answer().cloned(),
        })
    };
    records.iter().filter_map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::super::judge;
    use super::super::record::Who;
    use super::*;

    fn record(mount: u32, op: TreeOp, answer: TreeAnswer, (call, ret): (u64, u64)) -> TreeRecord {
        Record {
            who: Who { client: 0, mount },
            key: 0,
            op,
            call,
            ret: Some(ret),
            outcome: Outcome::Ok(answer),
        }
    }

    fn create(name: u8, at: u64) -> TreeRecord {
        let op = TreeOp::Create(vec![name], name.into());
        record(0, op, TreeAnswer::Done, (at, at + 1))
    }

    fn rename(mount: u32, (from, to): (u8, u8), times: (u64, u64)) -> TreeRecord {
        let op = TreeOp::Rename(vec![from], vec![to], RenameMode::Replace);
        record(mount, op, TreeAnswer::Done, times)
    }

    fn look(name: u8, mark: Option<Mark>, at: u64) -> TreeRecord {
        let is_dir = false;
        let answer = match mark {
            Some(mark) => TreeAnswer::Found { mark, is_dir },
            None => TreeAnswer::Refused(Errno::NOENT.raw_os_error()),
        };
        record(1, TreeOp::Look(vec![name]), answer, (at, at + 1))
    }

    #[test]
    fn a_raced_rename_may_do_nothing_or_its_work_and_a_lone_one_does_its_work() {
        let moved = [
            create(1, 0),
            rename(0, (1, 2), (10, 20)),
            rename(1, (1, 2), (11, 21)),
        ];
        assert!(
            judge::trees(&moved).is_ok(),
            "both saw one inode under both names"
        );
        let exchanging = |record: &TreeRecord| {
            let mut record = record.clone();
            if let TreeOp::Rename(_, _, mode) = &mut record.op {
                *mode = RenameMode::Exchange;
            }
            record
        };
        let [made, first, second] = &moved;
        let itself = [made.clone(), first.clone(), exchanging(second)];
        assert!(judge::trees(&itself).is_ok(), "exchanged with itself");
        let two = [
            create(1, 0),
            create(2, 2),
            exchanging(first),
            second.clone(),
        ];
        let after = [
            two.as_slice(),
            &[look(1, Some(2), 30), look(2, Some(1), 32)],
        ]
        .concat();
        assert!(judge::trees(&after).is_ok(), "the old name names the other");
        let alone = [
            create(1, 0),
            rename(0, (1, 2), (10, 20)),
            rename(1, (1, 2), (21, 22)),
        ];
        assert!(judge::trees(&alone).is_err());
        let later = [
            create(2, 0),
            create(3, 2),
            rename(0, (1, 2), (10, 50)),
            rename(1, (3, 1), (12, 20)),
            look(2, Some(3), 60),
            look(1, None, 62),
        ];
        assert!(
            judge::trees(&later).is_ok(),
            "not at the first moment that it could"
        );
        let lost = [
            create(1, 0),
            rename(0, (1, 2), (10, 20)),
            look(1, Some(1), 30),
        ];
        assert!(judge::trees(&lost).is_err());
    }

    #[test]
    fn an_unknown_change_of_names_happens_late_once_or_never() {
        let mut rmdir = record(0, TreeOp::Unlink(vec![1]), TreeAnswer::Done, (10, 20));
        rmdir.outcome = Outcome::Unknown;
        let late = [
            create(1, 0),
            rmdir.clone(),
            look(1, Some(1), 30),
            look(1, None, 40),
        ];
        assert!(judge::trees(&late).is_ok());
        let twice = [
            create(1, 0),
            rmdir,
            look(1, None, 30),
            create(1, 40),
            look(1, None, 50),
        ];
        assert!(judge::trees(&twice).is_err());
    }
}

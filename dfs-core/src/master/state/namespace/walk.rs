//! Paths: resolving one with its symlinks, and finding those of an inode.
use super::query;
use super::read::{self, QueryError};
use crate::master::state::StateError;
use crate::store::KvRead;
use crate::types::{FileKind, Ino, Name};
use crate::wire::{ErrorCode, WireError};
use std::collections::{BTreeSet, VecDeque};

/// Symlinks that one walk follows.
const LINKS_FOLLOWED_MAX: u32 = 40;
/// Components still to go: what nested symlinks may add up to.
const COMPONENTS_MAX: usize = 4096;

enum Step {
    Up,
    Down(Name),
}

/// Resolves `path` from `start`.
pub(super) fn walk(
    kv: &dyn KvRead,
    start: Ino,
    path: &[Name],
    follow_last: bool,
) -> Result<Ino, QueryError> {
    let mut at = start;
    let mut steps: VecDeque<Step> = path.iter().cloned().map(Step::Down).collect();
    let mut followed = 0;
    while let Some(step) = steps.pop_front() {
        let name = match step {
            Step::Up => {
                at = query::directory(kv, at)?.1;
                continue;
            }
            Step::Down(name) => name,
        };
        let next = query::lookup(kv, at, &name)?;
        let inode = query::inode(kv, next)?;
        let is_last = steps.is_empty();
        if inode.kind != FileKind::Symlink || is_last && !follow_last {
            if inode.kind != FileKind::Dir && !is_last {
                return Err(ErrorCode::NotDir.into());
            }
            at = next;
            continue;
        }
        followed += 1;
        if followed > LINKS_FOLLOWED_MAX {
            return Err(WireError::new(ErrorCode::Invalid, "too many links").into());
        }
        if inode.target.first() == Some(&b'/') {
            at = Ino::ROOT;
        }
        prepend(&mut steps, &inode.target)?;
    }
    query::inode(kv, at)?;
    Ok(at)
}

/// Puts a symlink's components before what is left to do.
fn prepend(steps: &mut VecDeque<Step>, target: &[u8]) -> Result<(), QueryError> {
    for part in target.rsplit(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => steps.push_front(Step::Up),
            name => {
                let name = Name::new(name).map_err(|_| ErrorCode::NameTooLong)?;
                steps.push_front(Step::Down(name));
            }
        }
    }
    if steps.len() > COMPONENTS_MAX {
        return Err(ErrorCode::NameTooLong.into());
    }
    Ok(())
}

/// Paths of an inode from the root, at most `limit`; none for what has no name.
pub(super) fn paths(kv: &dyn KvRead, ino: Ino, limit: usize) -> Result<Vec<Vec<u8>>, StateError> {
    if ino == Ino::ROOT {
        return Ok(vec![b"/".to_vec()]);
    }
    let mut found = Vec::new();
    for (dir, name) in read::links(kv, ino, limit)? {
        let mut parts = vec![name];
        let mut at = dir;
        // Damaged tables may hold a circle.
        let mut seen = BTreeSet::new();
        while at != Ino::ROOT && seen.insert(at) {
            let Some((above, name)) = read::links(kv, at, 1)?.pop() else {
                break;
            };
            parts.push(name);
            at = above;
        }
        let mut path = Vec::new();
        for name in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        found.push(path);
    }
    Ok(found)
}

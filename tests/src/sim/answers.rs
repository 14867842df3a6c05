//! Namespace operations as the master is asked for them, and its answers as a history takes them.
use super::linear::{Key, Mode, NAMES, NameAnswer, NameOp, dir_of};
use dfs_core::types::{FileKind, Ino, Name};
use dfs_core::wire::master::QueryAnswer;
use dfs_core::wire::mutation::{NewNode, RenameMode};
use dfs_core::wire::{ErrorCode, Mutation, MutationOk, Query};

/// Refusals that are right though nothing is wrong: somebody removed what was asked for, or the
/// session ended while something was wrong.
pub(super) fn is_fair(code: ErrorCode) -> bool {
    use ErrorCode::{NotFound, SessionExpired, Stale};
    matches!(code, NotFound | Stale | SessionExpired)
}

pub(super) fn name_of(key: usize) -> Name {
    Name::new(format!("n{}", key % NAMES)).expect("a plain name")
}

fn key_of(dir: usize, name: &Name) -> Option<usize> {
    let numbers = dir * NAMES..(dir + 1) * NAMES;
    numbers.into_iter().find(|key| name_of(*key) == *name)
}

pub(super) fn create(parent: Ino, name: Name, kind: FileKind, exclusive: bool) -> Mutation {
    let node = NewNode {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Vec::new(),
    };
    Mutation::Create {
        parent,
        name,
        node,
        exclusive,
    }
}

pub(super) fn keys_of(op: NameOp) -> Vec<usize> {
    match op {
        NameOp::Create { key, .. } | NameOp::Unlink { key } | NameOp::Lookup { key } => vec![key],
        NameOp::Rename { from, to, .. } => vec![from, to],
        NameOp::List { .. } => Vec::new(),
    }
}

pub(super) fn mutation(op: NameOp, dirs: &[Ino]) -> Option<Mutation> {
    let parent = |key| dirs[dir_of(key)];
    Some(match op {
        NameOp::Create { key, exclusive } => {
            create(parent(key), name_of(key), FileKind::File, exclusive)
        }
        NameOp::Unlink { key } => Mutation::Unlink {
            parent: parent(key),
            name: name_of(key),
            purge: false,
        },
        NameOp::Rename { from, to, mode } => Mutation::Rename {
            from_parent: parent(from),
            from_name: name_of(from),
            to_parent: parent(to),
            to_name: name_of(to),
            mode: match mode {
                Mode::Replace => RenameMode::Replace,
                Mode::NoReplace => RenameMode::NoReplace,
                Mode::Exchange => RenameMode::Exchange,
            },
        },
        NameOp::Lookup { .. } | NameOp::List { .. } => return None,
    })
}

pub(super) fn query(op: NameOp, dirs: &[Ino]) -> Query {
    match op {
        NameOp::List { dir } => Query::ReadDir {
            ino: dirs[dir],
            after: 0,
            limit: 100,
            with_attrs: false,
        },
        NameOp::Create { key, .. } | NameOp::Unlink { key } | NameOp::Lookup { key } => {
            Query::Lookup {
                parent: dirs[dir_of(key)],
                name: name_of(key),
            }
        }
        NameOp::Rename { from, .. } => Query::Lookup {
            parent: dirs[dir_of(from)],
            name: name_of(from),
        },
    }
}

pub(super) fn mutated(op: NameOp, ok: &MutationOk) -> Result<NameAnswer, String> {
    match (op, ok) {
        (NameOp::Create { .. }, MutationOk::Entry { attr, created }) => Ok(match created {
            true => NameAnswer::Created(attr.ino),
            false => NameAnswer::Found(attr.ino),
        }),
        (NameOp::Unlink { .. }, MutationOk::Removed { .. })
        | (NameOp::Rename { .. }, MutationOk::Renamed { .. }) => Ok(NameAnswer::Done),
        (_, other) => Err(format!("it was answered with {other:?}")),
    }
}

pub(super) fn answered(op: NameOp, body: &QueryAnswer) -> Result<NameAnswer, String> {
    match (op, body) {
        (NameOp::Lookup { .. }, QueryAnswer::Attr(attr)) => Ok(NameAnswer::Found(attr.ino)),
        (NameOp::List { dir }, QueryAnswer::Entries(entries, true)) => {
            let mut found: Vec<(Key, Ino)> = Vec::new();
            for entry in entries {
                let key = key_of(dir, &entry.name);
                let key = key.ok_or_else(|| format!("nobody made {:?}", entry.name))?;
                if found.iter().any(|(other, _)| *other == key) {
                    return Err(format!("{:?} is listed twice", entry.name));
                }
                found.push((key, entry.ino));
            }
            Ok(NameAnswer::Listed(found))
        }
        (_, other) => Err(format!("it was answered with {other:?}")),
    }
}

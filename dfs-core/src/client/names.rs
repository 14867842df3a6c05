//! Operations on names: lookup, directories, create, link, remove, rename.
use super::cache::{Key, Learned};
use super::core::Client;
use super::error::{ClientError, Result};
use super::files::{OpenMoment, Opened};
use crate::types::{Attr, FileKind, Ino, Name, NameError, PathHint};
use crate::wire::master::{DirEntry, Layout, Mutated};
use crate::wire::mutation::{NewNode, RenameMode};
use crate::wire::{ErrorCode, Mutation, MutationOk, Query, QueryAnswer, WireError};

const NOT_AN_ATTR: ClientError = ClientError::Mismatch {
    asked: "attributes",
};

/// The answer to [`Client::create_open`].
#[derive(Debug)]
pub struct Made {
    /// Attributes as this mount shows them.
    pub attr: Attr,
    /// It was not there before.
    pub created: bool,
    /// It is open too, unless [`Client::has_met`] says otherwise.
    pub opened: Option<(Opened, OpenMoment)>,
}

impl Client {
    /// Where an inode is, as far as this client saw it: a hint, which may be outdated.
    #[must_use]
    pub fn path_hint(&self, ino: Ino) -> Option<PathHint> {
        self.cache.hints.path(ino)
    }

    /// What the cache knows of a name: `None` nothing, `Some(None)` that it does not exist.
    #[must_use]
    pub fn cached_lookup(&self, parent: Ino, name: &Name) -> Option<Option<Attr>> {
        if !self.may_cache() {
            return None;
        }
        let hit = self.cache.lookup(parent, name)?;
        Some(hit.map(|attr| self.shown(attr)))
    }

    /// The inode that a name stands for.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, and those of [`query`](Self::query).
    pub async fn lookup(&self, parent: Ino, name: &Name) -> Result<Attr> {
        if let Some(hit) = self.cached_lookup(parent, name) {
            return hit.ok_or_else(|| ErrorCode::NotFound.into());
        }
        let token = self.cache.token();
        let ask = Query::Lookup {
            parent,
            name: name.clone(),
        };
        let answer = self.query(ask, true).await;
        let attr = match answer {
            Ok(QueryAnswer::Attr(attr)) => Some(attr),
            Ok(_) => return Err(NOT_AN_ATTR),
            Err(e) if e.code() == ErrorCode::NotFound => None,
            Err(e) => return Err(e),
        };
        let learned = Learned {
            attr: attr.as_ref(),
            name: Some((parent, name, attr.as_ref().map(|a| a.ino))),
            names_interest: true,
            ..Learned::default()
        };
        self.cache.learn(token, learned);
        attr.map(|attr| self.shown(attr))
            .ok_or_else(|| ErrorCode::NotFound.into())
    }

    /// Resolves a path from the root, following symlinks (the last component only if asked). `.` and
    /// empty components are skipped, `..` is resolved lexically.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NameTooLong`, `Invalid` (too many symlinks), and those of
    /// [`query`](Self::query).
    pub async fn walk(&self, path: &[u8], follow_last: bool) -> Result<Attr> {
        let path = split_path(path)?;
        if path.is_empty() {
            return self.getattr(Ino::ROOT).await;
        }
        let ask = Query::Walk {
            start: Ino::ROOT,
            path: path.clone(),
            follow_last,
        };
        match self.query(ask, false).await? {
            QueryAnswer::Attr(attr) => {
                self.cache.hints.note_path(&path, attr.ino);
                Ok(self.shown(attr))
            }
            _ => Err(NOT_AN_ATTR),
        }
    }

    /// The directory that holds a directory (the root holds itself).
    ///
    /// # Errors
    /// `NotDir`, `Stale`, and those of [`query`](Self::query).
    pub async fn parent(&self, ino: Ino) -> Result<Attr> {
        let token = self.cache.token();
        match self.query(Query::Parent { ino }, true).await? {
            QueryAnswer::Attr(attr) => Ok(self.learn_attr(token, attr)),
            _ => Err(NOT_AN_ATTR),
        }
    }

    /// Entries of a directory with cookies greater than `after` (0: from the start), and whether
    /// these are the last.
    ///
    /// # Errors
    /// `NotDir`, `NotFound`, and those of [`query`](Self::query).
    pub async fn readdir(
        &self,
        ino: Ino,
        after: u64,
        limit: u32,
        with_attrs: bool,
    ) -> Result<(Vec<DirEntry>, bool)> {
        let token = self.cache.token();
        let ask = Query::ReadDir {
            ino,
            after,
            limit,
            with_attrs,
        };
        let QueryAnswer::Entries(mut entries, end) = self.query(ask, with_attrs).await? else {
            return Err(ClientError::Mismatch { asked: "entries" });
        };
        for entry in entries.iter_mut().filter(|e| e.attr.is_some()) {
            let learned = Learned {
                attr: entry.attr.as_ref(),
                name: Some((ino, &entry.name, Some(entry.ino))),
                names_interest: true,
                ..Learned::default()
            };
            self.cache.learn(token, learned);
            entry.attr = entry.attr.take().map(|attr| self.shown(attr));
        }
        Ok((entries, end))
    }

    /// Makes a name; with false when it was there already and `exclusive` was not asked.
    ///
    /// # Errors
    /// `Exists`, `NotDir`, `NoSpace`, ..., and those of [`mutate`](Self::mutate).
    pub async fn create(
        &self,
        parent: Ino,
        name: &Name,
        node: NewNode,
        exclusive: bool,
    ) -> Result<(Attr, bool)> {
        let made = self.make(parent, name, node, exclusive, None).await?;
        Ok((made.attr, made.created))
    }

    /// As [`create`](Self::create), and opens a file that is made by the same request (`open`: for writing),
    /// where the master can.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn create_open(
        &self,
        parent: Ino,
        name: &Name,
        node: NewNode,
        exclusive: bool,
        open: bool,
    ) -> Result<Made> {
        self.make(parent, name, node, exclusive, Some(open)).await
    }

    async fn make(
        &self,
        parent: Ino,
        name: &Name,
        node: NewNode,
        exclusive: bool,
        open: Option<bool>,
    ) -> Result<Made> {
        if let Some(made) = self.make_behind(parent, name, &node, open) {
            return Ok(made);
        }
        let body = Mutation::Create {
            parent,
            name: name.clone(),
            node,
            exclusive,
        };
        let keys = vec![Key::Name(parent, name.clone()), Key::Node(parent)];
        let (ticket, moment) = (self.session.begin_open(), self.moment());
        let change = self.cache.begin(keys);
        let done = self.change(body, open).await;
        let Ok(Mutated {
            ok: MutationOk::Entry { attr, created },
            others,
            opened,
        }) = &done
        else {
            self.changed_unseen(change, &done);
            return Err(done.err().unwrap_or(NOT_AN_ATTR));
        };
        let is_new_dir = *created && attr.kind == FileKind::Dir;
        let learned = Learned {
            attr: Some(attr),
            others,
            name: Some((parent, name, Some(attr.ino))),
            made_dir: is_new_dir.then_some(attr.ino),
            ..Learned::default()
        };
        change.end(learned);
        let write = open.unwrap_or(false);
        let is_open = |_: &&Layout| self.session.note_open(&ticket, attr.ino, write);
        let opened = opened.as_ref().filter(is_open).map(|layout| Opened {
            attr: attr.clone(),
            lease: attr.lease,
            shared: false,
            layout: Some(layout.clone()),
        });
        Ok(Made {
            attr: self.shown(attr.clone()),
            created: *created,
            opened: opened.map(|opened| (opened, moment)),
        })
    }

    /// Another name for a file.
    ///
    /// # Errors
    /// `Exists`, `NotPermitted` (a directory), `TooManyLinks`, and those of
    /// [`mutate`](Self::mutate).
    pub async fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Attr> {
        let body = Mutation::Link {
            ino,
            parent,
            name: name.clone(),
        };
        let change = self.cache.begin(vec![
            Key::Name(parent, name.clone()),
            Key::Node(parent),
            Key::Node(ino),
        ]);
        let done = self.change(body, None).await;
        let Ok(Mutated {
            ok: MutationOk::Entry { attr, .. } | MutationOk::Attr(attr),
            others,
            ..
        }) = &done
        else {
            self.changed_unseen(change, &done);
            return Err(done.err().unwrap_or(NOT_AN_ATTR));
        };
        let learned = Learned {
            attr: Some(attr),
            others,
            name: Some((parent, name, Some(ino))),
            ..Learned::default()
        };
        change.end(learned);
        Ok(self.shown(attr.clone()))
    }

    /// Removes a name; gives the inode if this was its last one. With `purge` no history is kept.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, and those of [`mutate`](Self::mutate).
    pub async fn unlink(&self, parent: Ino, name: &Name, purge: bool) -> Result<Option<Ino>> {
        if !purge && let Some(orphan) = self.unlink_behind(parent, name) {
            return Ok(orphan);
        }
        let body = Mutation::Unlink {
            parent,
            name: name.clone(),
            purge,
        };
        self.remove(parent, name, body).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`, `Busy` (the root), and those of [`mutate`](Self::mutate).
    pub async fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        if self.rmdir_behind(parent, name).is_some() {
            return Ok(());
        }
        let body = Mutation::Rmdir {
            parent,
            name: name.clone(),
        };
        self.remove(parent, name, body).await.map(drop)
    }

    async fn remove(&self, parent: Ino, name: &Name, body: Mutation) -> Result<Option<Ino>> {
        let mut keys = vec![Key::Name(parent, name.clone()), Key::Node(parent)];
        let believed = self.cache.name(parent, name).flatten();
        keys.push(believed.map_or(Key::Nodes, Key::Node));
        let change = self.cache.begin(keys);
        let done = self.change(body, None).await;
        // This answer may come before the word of an earlier change by somebody else.
        let others = match &done {
            Ok(Mutated {
                ok: MutationOk::Removed { ino, .. },
                others,
                ..
            }) if Some(*ino) == believed => others,
            _ => {
                self.changed_unseen(change, &done);
                return removed(done);
            }
        };
        let learned = Learned {
            others,
            gone: Some((parent, name)),
            ..Learned::default()
        };
        change.end(learned);
        removed(done)
    }

    /// rename(2); gives the inode that lost its last name, if any.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotEmpty`, `IsDir`, `NotDir`, `Invalid` (into itself), and those of
    /// [`mutate`](Self::mutate).
    pub async fn rename(
        &self,
        from_parent: Ino,
        from_name: &Name,
        to_parent: Ino,
        to_name: &Name,
        mode: RenameMode,
    ) -> Result<Option<Ino>> {
        let (from, to) = ((from_parent, from_name), (to_parent, to_name));
        if let Some(orphan) = self.rename_behind(from, to, mode) {
            return Ok(orphan);
        }
        let body = Mutation::Rename {
            from_parent,
            from_name: from_name.clone(),
            to_parent,
            to_name: to_name.clone(),
            mode,
        };
        let mut keys = vec![
            Key::Name(from_parent, from_name.clone()),
            Key::Name(to_parent, to_name.clone()),
            Key::Node(from_parent),
            Key::Node(to_parent),
        ];
        let believed = self.cache.name(from_parent, from_name).flatten();
        let believed_there = self.cache.name(to_parent, to_name);
        keys.push(believed.map_or(Key::Nodes, Key::Node));
        match believed_there {
            Some(there) => keys.extend(there.map(Key::Node)),
            None => keys.push(Key::Nodes),
        }
        let change = self.cache.begin(keys);
        let done = self.change(body, None).await;
        // This answer may come before the word of an earlier change by somebody else, which tells that the
        // names named something else than was believed here.
        let (moved, met) = match done.as_ref().map(|done| &done.ok) {
            Ok(MutationOk::Renamed { moved, met, .. }) => (Some(*moved), Some(*met)),
            _ => (None, None),
        };
        if let Some(ino) = moved {
            self.cache.hints.note(to_parent, to_name, ino);
        }
        if moved.is_none() || moved != believed || met != believed_there {
            self.changed_unseen(change, &done);
            return removed(done);
        }
        let same = (from_parent, from_name) == (to_parent, to_name);
        let moved = moved.filter(|_| mode != RenameMode::Exchange && !same);
        // Two names of one file both stay.
        let is_gone = moved.is_some() && met != Some(moved);
        let learned = Learned {
            others: done.as_ref().map_or(&[], |done| done.others.as_slice()),
            name: moved.map(|ino| (to_parent, to_name, Some(ino))),
            gone: is_gone.then_some((from_parent, from_name)),
            ..Learned::default()
        };
        change.end(learned);
        removed(done)
    }

    /// Ends a change that failed, or that changed an inode we cannot name: what might be outdated is
    /// dropped.
    pub(super) fn changed_unseen<T>(&self, change: super::cache::Change<'_>, done: &Result<T>) {
        change.end(Learned::default());
        match done {
            Ok(_) => self.cache.drop_nodes(),
            // It may still happen, and nobody would tell us.
            Err(ClientError::Unknown { .. }) => self.cache.drop_all(),
            Err(_) => {}
        }
    }
}

fn removed(done: Result<Mutated>) -> Result<Option<Ino>> {
    match done?.ok {
        MutationOk::Removed { orphan, .. } | MutationOk::Renamed { orphan, .. } => Ok(orphan),
        MutationOk::Done => Ok(None),
        _ => Err(ClientError::Mismatch { asked: "remove" }),
    }
}

/// Components of a path, `.` and `..` resolved lexically.
///
/// # Errors
/// A component is no file name.
pub fn split_path(path: &[u8]) -> Result<Vec<Name>> {
    let mut names: Vec<Name> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            _ => names.push(Name::new(part).map_err(|e| {
                let code = match e {
                    NameError::TooLong => ErrorCode::NameTooLong,
                    NameError::Invalid => ErrorCode::Invalid,
                };
                WireError::new(code, e.to_string())
            })?),
        }
    }
    Ok(names)
}

/// A node to create with neither device number nor target.
#[must_use]
pub fn new_node(kind: FileKind, mode: u32, uid: u32, gid: u32) -> NewNode {
    NewNode {
        kind,
        mode,
        uid,
        gid,
        rdev: 0,
        target: Vec::new(),
    }
}

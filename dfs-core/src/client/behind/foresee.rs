//! What a change will do, as far as the cache knows: the rules of the master's state machine, for the cases
//! in which nothing is in doubt.
use super::super::attrs::SetAttrArgs;
use super::super::cache::{Key, Learned};
use super::super::core::Client;
use super::super::files::{OpenMoment, Opened};
use super::super::names::Made;
use super::{QUEUED_MAX, Queued, State};
use crate::net::clock::realtime;
use crate::types::{Attr, FileKind, Ino, LeaseSeq, Name, OpId, Revision, Timestamp, VersionNo};
use crate::wire::Mutation;
use crate::wire::master::Layout;
use crate::wire::mutation::{NewNode, RenameMode};

/// What one entry adds to a directory's size.
const ENTRY_SIZE: u64 = 64;

/// A change and what it does.
struct Change {
    body: Mutation,
    open: Option<bool>,
    inos: Vec<Ino>,
    keys: Vec<Key>,
}

fn now() -> Timestamp {
    Timestamp::from_log_time(realtime())
}

/// A directory after an entry was added or removed.
fn dir_changed(dir: &Attr, entries: i64, subdirs: i32) -> Attr {
    let now = now().max(dir.ctime);
    Attr {
        size: dir.size.saturating_add_signed(entries * ENTRY_SIZE as i64),
        nlink: dir.nlink.saturating_add_signed(subdirs),
        mtime: now,
        ctime: now,
        ..dir.clone()
    }
}

/// An inode that lost a name.
fn unlinked(attr: &Attr) -> Attr {
    Attr {
        nlink: attr.nlink.saturating_sub(1),
        ctime: now().max(attr.ctime),
        ..attr.clone()
    }
}

fn new_attr(ino: Ino, dir: &Attr, node: &NewNode) -> Attr {
    let now = now();
    let is_dir = node.kind == FileKind::Dir;
    let (mode, gid) = node.inherited(dir.mode, dir.gid);
    Attr {
        ino,
        kind: node.kind,
        mode: mode & 0o7777,
        uid: node.uid,
        gid,
        nlink: if is_dir { 2 } else { 1 },
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        revision: Revision(0),
        version: VersionNo(0),
        lease: LeaseSeq::FIRST,
        has_xattrs: false,
    }
}

impl Client {
    /// Queues a change that was foreseen. The state's lock is held from the look at the cache until here.
    fn queue(&self, state: &mut State, change: Change, learned: Learned<'_>) {
        let token = self.cache.foresee(&change.keys, learned);
        let ticket = self.begin_op();
        let op = ticket.op();
        let follows = |last: &OpId| last.client == op.client;
        let after = state.last.filter(follows).map_or(0, |last| last.seq);
        let sole_at = self.sole_at();
        state.last = Some(op);
        state.queue.push_back(Queued {
            ticket,
            after,
            sole_at,
            body: change.body,
            open: change.open,
            inos: change.inos,
            token,
            is_decided: false,
        });
        self.behind.kick.notify_one();
    }

    /// Changes may be queued now.
    fn may_queue(&self, state: &State) -> bool {
        state.queue.len() < QUEUED_MAX && self.lends()
    }

    /// Makes a file or directory under a name that is known to be absent.
    pub(in super::super) fn make_behind(
        &self,
        parent: Ino,
        name: &Name,
        node: &NewNode,
        open: Option<bool>,
    ) -> Option<Made> {
        let state = &mut *self.behind_state()?;
        let dir = self.cache.attr(parent).filter(is_live_dir)?;
        let is_plain = matches!(node.kind, FileKind::File | FileKind::Dir);
        if self.cache.name(parent, name) != Some(None) || !is_plain {
            return None;
        }
        let moment: OpenMoment = self.moment();
        let Some(ino) = state.next_number() else {
            self.behind.kick.notify_one();
            return None;
        };
        let attr = new_attr(ino, &dir, node);
        let is_dir = node.kind == FileKind::Dir;
        let dir = dir_changed(&dir, 1, i32::from(is_dir));
        let change = Change {
            body: Mutation::CreateAs {
                ino,
                parent,
                name: name.clone(),
                node: node.clone(),
                at: attr.crtime,
            },
            open,
            inos: vec![parent, ino],
            keys: vec![Key::Name(parent, name.clone()), Key::Node(parent)],
        };
        let learned = Learned {
            attr: Some(&attr),
            others: &[dir],
            name: Some((parent, name, Some(ino))),
            made_dir: is_dir.then_some(ino),
            ..Learned::default()
        };
        self.queue(state, change, learned);
        let opened = open.map(|_| Opened {
            attr: attr.clone(),
            lease: attr.lease,
            shared: false,
            layout: Some(empty_layout()),
        });
        Some(Made {
            attr: self.shown(attr),
            created: true,
            opened: opened.map(|opened| (opened, moment)),
        })
    }

    /// Removes a file's name; tells if it was the last.
    pub(in super::super) fn unlink_behind(&self, parent: Ino, name: &Name) -> Option<Option<Ino>> {
        let state = &mut *self.behind_state()?;
        let dir = self.cache.attr(parent).filter(is_live_dir)?;
        let found = self.cache.known(parent, name)?;
        if found.kind == FileKind::Dir {
            return None;
        }
        let left = unlinked(&found);
        let orphan = (left.nlink == 0).then_some(found.ino);
        let change = Change {
            body: Mutation::Unlink {
                parent,
                name: name.clone(),
                purge: false,
            },
            open: None,
            inos: vec![parent, found.ino],
            keys: removal_keys(parent, name, found.ino),
        };
        let learned = Learned {
            others: &[dir_changed(&dir, -1, 0), left],
            gone: Some((parent, name)),
            ..Learned::default()
        };
        self.queue(state, change, learned);
        Some(orphan)
    }

    /// Removes a directory that is known to be empty.
    pub(in super::super) fn rmdir_behind(&self, parent: Ino, name: &Name) -> Option<()> {
        let state = &mut *self.behind_state()?;
        let dir = self.cache.attr(parent).filter(is_live_dir)?;
        let found = self.cache.known(parent, name)?;
        if found.kind != FileKind::Dir || !self.cache.is_empty_dir(found.ino) {
            return None;
        }
        let gone = Attr {
            nlink: 0,
            ..unlinked(&found)
        };
        let change = Change {
            body: Mutation::Rmdir {
                parent,
                name: name.clone(),
            },
            open: None,
            inos: vec![parent, found.ino],
            keys: removal_keys(parent, name, found.ino),
        };
        let learned = Learned {
            others: &[dir_changed(&dir, -1, -1), gone],
            gone: Some((parent, name)),
            ..Learned::default()
        };
        self.queue(state, change, learned);
        Some(())
    }

    /// Renames a file, or a directory within its directory to a name that is absent.
    pub(in super::super) fn rename_behind(
        &self,
        (from_parent, from_name): (Ino, &Name),
        (to_parent, to_name): (Ino, &Name),
        mode: RenameMode,
    ) -> Option<Option<Ino>> {
        let state = &mut *self.behind_state()?;
        let from_dir = self.cache.attr(from_parent).filter(is_live_dir)?;
        let to_dir = self.cache.attr(to_parent).filter(is_live_dir)?;
        let moved = self.cache.known(from_parent, from_name)?;
        let met = match self.cache.name(to_parent, to_name)? {
            Some(_) => Some(self.cache.known(to_parent, to_name)?),
            None => None,
        };
        let is_same_dir = from_parent == to_parent;
        let is_dir = moved.kind == FileKind::Dir;
        let is_simple = match &met {
            None => !is_dir || is_same_dir,
            Some(met) => {
                mode == RenameMode::Replace
                    && !is_dir
                    && met.kind != FileKind::Dir
                    && met.ino != moved.ino
            }
        };
        if mode == RenameMode::Exchange || !is_simple {
            return None;
        }
        let lost = i64::from(met.is_some());
        let mut others = match is_same_dir {
            true => vec![dir_changed(&to_dir, -lost, 0)],
            false => vec![
                dir_changed(&from_dir, -1, 0),
                dir_changed(&to_dir, 1 - lost, 0),
            ],
        };
        let left = met.as_ref().map(unlinked);
        let orphan = left.as_ref().filter(|left| left.nlink == 0);
        let orphan = orphan.map(|left| left.ino);
        others.extend(left);
        let moved_attr = Attr {
            ctime: now().max(moved.ctime),
            ..moved.clone()
        };
        let mut keys = removal_keys(from_parent, from_name, moved.ino);
        keys.extend([Key::Name(to_parent, to_name.clone()), Key::Node(to_parent)]);
        keys.extend(met.as_ref().map(|met| Key::Node(met.ino)));
        let mut inos = vec![from_parent, to_parent, moved.ino];
        inos.extend(met.map(|met| met.ino));
        let change = Change {
            body: Mutation::Rename {
                from_parent,
                from_name: from_name.clone(),
                to_parent,
                to_name: to_name.clone(),
                mode,
            },
            open: None,
            inos,
            keys,
        };
        let learned = Learned {
            attr: Some(&moved_attr),
            others: &others,
            name: Some((to_parent, to_name, Some(moved.ino))),
            gone: Some((from_parent, from_name)),
            ..Learned::default()
        };
        self.queue(state, change, learned);
        Some(orphan)
    }

    /// chmod, chown, utimens.
    pub(in super::super) fn setattr_behind(&self, ino: Ino, args: SetAttrArgs) -> Option<Attr> {
        let state = &mut *self.behind_state()?;
        let mut attr = self.cache.attr(ino).filter(|attr| attr.nlink > 0)?;
        let now = now();
        let args = args.at(now);
        args.apply(&mut attr, now);
        let change = Change {
            body: args.body(ino),
            open: None,
            inos: vec![ino],
            keys: vec![Key::Node(ino)],
        };
        let learned = Learned {
            attr: Some(&attr),
            ..Learned::default()
        };
        self.queue(state, change, learned);
        Some(self.shown(attr))
    }

    /// The queue, if a change may be queued now.
    fn behind_state(&self) -> Option<std::sync::MutexGuard<'_, State>> {
        if !self.config.behind {
            return None;
        }
        let state = self.behind.state();
        self.may_queue(&state).then_some(state)
    }
}

fn is_live_dir(attr: &Attr) -> bool {
    attr.kind == FileKind::Dir && attr.nlink > 0
}

fn removal_keys(parent: Ino, name: &Name, ino: Ino) -> Vec<Key> {
    vec![
        Key::Name(parent, name.clone()),
        Key::Node(parent),
        Key::Node(ino),
    ]
}

/// Of a file that was just made.
fn empty_layout() -> Layout {
    Layout {
        revision: Revision(0),
        op: OpId::default(),
        size: 0,
        chunks: Vec::new(),
        next: None,
    }
}

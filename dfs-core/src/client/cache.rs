//! Cached metadata: attributes, names (also absent ones), link targets, extended attributes.
//!
//! What is in here may be used while the keep-alive window is open (the core checks that), because
//! the master tells this session before it acknowledges anybody else's change. Invariants:
//! 1. An answer is cached only if nothing that it tells of was invalidated, or changed by this
//!    client itself, between the sending of the request and the caching: each request takes a
//!    [`Token`] before it is sent, each invalidation stamps what it touches with a newer number.
//! 2. A change by this client stamps what it changes at its begin and at its end; its own answer is
//!    cached only if no other stamp came between. Between the two nothing is answered from here of what
//!    it changes: other sessions may have seen the change already.
//! 3. Names are cached only in directories in which a query has registered interest, or that this
//!    client made.
//! 4. All names of a *whole* directory are known: a name that is not cached is absent. A directory
//!    that this client made is whole until one of its names is dropped.
//!
//! Two parts, hot and cold: what is used moves to hot; when hot is half of the limit, cold is
//! dropped and hot becomes cold. That approximates least-recently-used at the cost of a map.
use super::path_hints::PathHints;
use crate::types::{Attr, Ino, Name, Timestamp};
use crate::wire::master::Touched;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stamps remembered; beyond, all answers in flight count as outdated once.
const STAMPS_MAX: usize = 65_536;

/// When a request was sent, in terms of invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

/// Names and values of extended attributes.
pub type XattrList = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

/// What a change affects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Attributes, link target and extended attributes.
    Node(Ino),
    /// All names in a directory.
    Names(Ino),
    /// One name.
    Name(Ino, Name),
    /// Nodes that cannot be named yet: any.
    Nodes,
}

#[derive(Default)]
struct Node {
    attr: Option<Attr>,
    target: Option<Arc<[u8]>>,
    xattrs: Option<XattrList>,
}

#[derive(Default)]
struct Part {
    nodes: HashMap<Ino, Node>,
    dirs: HashMap<Ino, HashMap<Name, Option<Ino>>>,
    len: usize,
}

impl Part {
    fn drop_node(&mut self, ino: Ino) {
        self.len -= usize::from(self.nodes.remove(&ino).is_some());
    }

    fn drop_dir(&mut self, dir: Ino) {
        if let Some(names) = self.dirs.remove(&dir) {
            self.len -= names.len() + 1;
        }
    }

    fn drop_name(&mut self, dir: Ino, name: &Name) {
        if let Some(names) = self.dirs.get_mut(&dir) {
            self.len -= usize::from(names.remove(name).is_some());
        }
    }

    fn node(&mut self, ino: Ino) -> &mut Node {
        match self.nodes.entry(ino) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => {
                self.len += 1;
                e.insert(Node::default())
            }
        }
    }

    fn dir(&mut self, dir: Ino) -> &mut HashMap<Name, Option<Ino>> {
        match self.dirs.entry(dir) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => {
                self.len += 1;
                e.insert(HashMap::new())
            }
        }
    }

    fn add_name(&mut self, dir: Ino, name: Name, ino: Option<Ino>) {
        if self.dir(dir).insert(name, ino).is_none() {
            self.len += 1;
        }
    }
}

#[derive(Default)]
struct Inner {
    now: u64,
    floor: u64,
    stamps: HashMap<Key, u64>,
    /// What changes of this client under way are changing, and how many.
    changing: HashMap<Key, u32>,
    hot: Part,
    cold: Part,
    /// Directories of invariant 4.
    whole: HashSet<Ino>,
}

impl Inner {
    fn stamp(&mut self, keys: impl IntoIterator<Item = Key>) -> Token {
        self.now += 1;
        if self.stamps.len() >= STAMPS_MAX {
            self.stamps.clear();
            self.floor = self.now;
        }
        for key in keys {
            self.stamps.insert(key, self.now);
        }
        Token(self.now)
    }

    fn is_current(&self, token: Token, key: &Key) -> bool {
        token.0 >= self.floor && self.stamps.get(key).is_none_or(|&at| at <= token.0)
    }

    fn name_is_current(&self, token: Token, dir: Ino, name: &Name) -> bool {
        self.is_current(token, &Key::Names(dir))
            && self.is_current(token, &Key::Name(dir, name.clone()))
    }

    fn is_changing(&self, key: &Key) -> bool {
        self.changing.contains_key(key)
    }

    /// The node, unless it is being changed.
    fn node(&mut self, ino: Ino) -> Option<&mut Node> {
        match self.is_changing(&Key::Node(ino)) || self.is_changing(&Key::Nodes) {
            true => None,
            false => self.warm_node(ino),
        }
    }

    /// The node in the hot part, moved there if it was in the cold one.
    fn warm_node(&mut self, ino: Ino) -> Option<&mut Node> {
        if let Some(node) = self.cold.nodes.remove(&ino) {
            self.cold.len -= 1;
            *self.hot.node(ino) = node;
        }
        self.hot.nodes.get_mut(&ino)
    }

    fn name(&mut self, dir: Ino, name: &Name) -> Option<Option<Ino>> {
        let is_changing = !self.changing.is_empty()
            && (self.is_changing(&Key::Names(dir))
                || self.is_changing(&Key::Name(dir, name.clone())));
        if is_changing {
            return None;
        }
        if let Some(found) = self.hot.dirs.get(&dir).and_then(|d| d.get(name)) {
            return Some(*found);
        }
        if let Some(found) = self.cold.dirs.get_mut(&dir).and_then(|d| d.remove(name)) {
            self.cold.len -= 1;
            self.hot.add_name(dir, name.clone(), found);
            return Some(found);
        }
        self.whole.contains(&dir).then_some(None)
    }

    fn has_name(&self, dir: Ino, name: &Name) -> bool {
        [&self.hot, &self.cold]
            .iter()
            .any(|part| part.dirs.get(&dir).is_some_and(|d| d.contains_key(name)))
    }

    fn drop_node(&mut self, ino: Ino) {
        self.hot.drop_node(ino);
        self.cold.drop_node(ino);
    }

    fn drop_nodes(&mut self) {
        self.now += 1;
        self.floor = self.now;
        for part in [&mut self.hot, &mut self.cold] {
            part.len -= part.nodes.len();
            part.nodes.clear();
        }
    }

    fn drop_name(&mut self, dir: Ino, name: &Name) {
        self.hot.drop_name(dir, name);
        self.cold.drop_name(dir, name);
    }

    fn drop_dir(&mut self, dir: Ino) {
        self.hot.drop_dir(dir);
        self.cold.drop_dir(dir);
        self.whole.remove(&dir);
    }

    fn has_dir(&self, dir: Ino) -> bool {
        self.hot.dirs.contains_key(&dir) || self.cold.dirs.contains_key(&dir)
    }

    fn learn(&mut self, token: Token, learned: Learned<'_>) {
        if let Some(dir) = learned.made_dir
            && self.is_current(token, &Key::Names(dir))
        {
            self.hot.dir(dir);
            self.whole.insert(dir);
        }
        for attr in learned.attr.into_iter().chain(learned.others) {
            if self.is_current(token, &Key::Node(attr.ino)) {
                // What came with another version of the inode stays: only stamps outdate it.
                self.warm_node(attr.ino);
                self.hot.node(attr.ino).attr = Some(attr.clone());
            }
        }
        let gone = learned.gone.map(|(dir, name)| (dir, name, None));
        for (dir, name, ino) in learned.name.into_iter().chain(gone) {
            let interested = learned.names_interest || self.has_dir(dir);
            if interested && self.name_is_current(token, dir, name) {
                self.cold.drop_name(dir, name);
                self.hot.add_name(dir, name.clone(), ino);
            }
        }
        if let Some((ino, target)) = learned.target
            && self.is_current(token, &Key::Node(ino))
        {
            self.warm_node(ino);
            self.hot.node(ino).target = Some(target);
        }
        if let Some((ino, xattrs)) = learned.xattrs
            && self.is_current(token, &Key::Node(ino))
        {
            self.warm_node(ino);
            self.hot.node(ino).xattrs = Some(xattrs);
        }
    }

    /// A directory of which one of these names is not known any more is not whole.
    fn check_whole(&mut self, keys: &[Key]) {
        for (dir, name) in names_of(keys) {
            if !self.has_name(dir, name) {
                self.whole.remove(&dir);
            }
        }
    }

    fn turn(&mut self, max: usize) {
        if self.hot.len > max / 2 {
            let dropped = std::mem::replace(&mut self.cold, std::mem::take(&mut self.hot));
            for dir in dropped.dirs.keys() {
                self.whole.remove(dir);
            }
        }
    }
}

fn names_of(keys: &[Key]) -> impl Iterator<Item = (Ino, &Name)> {
    keys.iter().filter_map(|key| match key {
        Key::Name(dir, name) => Some((*dir, name)),
        _ => None,
    })
}

/// See the [module docs](self).
pub(super) struct MetaCache {
    inner: Mutex<Inner>,
    max: usize,
    pub(super) hints: PathHints,
}

/// What an answer lets us cache.
#[derive(Default)]
pub(super) struct Learned<'a> {
    pub(super) attr: Option<&'a Attr>,
    /// Of other inodes.
    pub(super) others: &'a [Attr],
    /// Directory, name, and what it names.
    pub(super) name: Option<(Ino, &'a Name, Option<Ino>)>,
    /// Directory, and a name that is not there any more.
    pub(super) gone: Option<(Ino, &'a Name)>,
    /// A directory that was just made, with an interest in it: it is empty.
    pub(super) made_dir: Option<Ino>,
    /// The answer comes with an interest in the directory.
    pub(super) names_interest: bool,
    /// The inode's symlink target.
    pub(super) target: Option<(Ino, Arc<[u8]>)>,
    /// The inode's extended attributes.
    pub(super) xattrs: Option<(Ino, XattrList)>,
}

impl MetaCache {
    pub(super) fn new(max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            max,
            hints: PathHints::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before a request is sent.
    pub(super) fn token(&self) -> Token {
        Token(self.inner().now)
    }

    /// True iff nothing about `ino` was invalidated since.
    pub(super) fn is_current(&self, token: Token, ino: Ino) -> bool {
        let inner = self.inner();
        inner.is_current(token, &Key::Node(ino)) && inner.is_current(token, &Key::Names(ino))
    }

    pub(super) fn attr(&self, ino: Ino) -> Option<Attr> {
        self.inner().node(ino)?.attr.clone()
    }

    /// The name's inode (`Some(None)`: known to be absent).
    pub(super) fn name(&self, dir: Ino, name: &Name) -> Option<Option<Ino>> {
        self.inner().name(dir, name)
    }

    /// The attributes behind a name, in one step.
    pub(super) fn lookup(&self, dir: Ino, name: &Name) -> Option<Option<Attr>> {
        let mut inner = self.inner();
        match inner.name(dir, name)? {
            None => Some(None),
            Some(ino) => inner.node(ino)?.attr.clone().map(Some),
        }
    }

    pub(super) fn target(&self, ino: Ino) -> Option<Arc<[u8]>> {
        self.inner().node(ino)?.target.clone()
    }

    pub(super) fn xattrs(&self, ino: Ino) -> Option<XattrList> {
        self.inner().node(ino)?.xattrs.clone()
    }

    fn note_place(&self, learned: &Learned<'_>) {
        if let Some((dir, name, Some(ino))) = learned.name {
            self.hints.note(dir, name, ino);
        }
    }

    /// Caches an answer to a request sent at `token`, as far as it is still current.
    pub(super) fn learn(&self, token: Token, learned: Learned<'_>) {
        self.note_place(&learned);
        let mut inner = self.inner();
        inner.turn(self.max);
        inner.learn(token, learned);
    }

    /// Access times that moved: nobody is told of them, so cached attributes take them here.
    pub(super) fn accessed(&self, times: &[(Ino, Timestamp)]) {
        let mut inner = self.inner();
        for (ino, time) in times {
            let attr = inner.warm_node(*ino).and_then(|node| node.attr.as_mut());
            if let Some(attr) = attr.filter(|attr| attr.is_accessed_at(*time)) {
                attr.atime = *time;
            }
        }
    }

    /// A change by this client begins.
    pub(super) fn begin(&self, keys: Vec<Key>) -> Change<'_> {
        let mut inner = self.inner();
        for key in &keys {
            *inner.changing.entry(key.clone()).or_default() += 1;
        }
        Change {
            cache: self,
            token: inner.stamp(keys.iter().cloned()),
            keys,
            is_shown: false,
            is_over: false,
        }
    }

    /// As [`begin`](Self::begin), of a change that programs of this mount see before it is done.
    pub(super) fn begin_shown(&self, keys: Vec<Key>) -> Change<'_> {
        Change {
            cache: self,
            token: self.inner().stamp(keys.iter().cloned()),
            keys,
            is_shown: true,
            is_over: false,
        }
    }

    /// A change by this client that is queued, and shown at once: gives the token for its answer, which is
    /// cached only if no later change has the same keys.
    pub(super) fn foresee(&self, keys: &[Key], learned: Learned<'_>) -> Token {
        self.note_place(&learned);
        let mut inner = self.inner();
        inner.turn(self.max);
        let token = inner.stamp(keys.iter().cloned());
        for (dir, name) in names_of(keys) {
            inner.drop_name(dir, name);
        }
        inner.learn(token, learned);
        inner.check_whole(keys);
        token
    }

    /// The attributes behind a name that is there, if both are known.
    pub(super) fn known(&self, dir: Ino, name: &Name) -> Option<Attr> {
        self.lookup(dir, name).flatten()
    }

    /// All names of a directory are known, and there are none.
    pub(super) fn is_empty_dir(&self, dir: Ino) -> bool {
        let inner = self.inner();
        let is_empty = |part: &Part| {
            let mut names = part.dirs.get(&dir).into_iter().flatten();
            names.all(|(_, ino)| ino.is_none())
        };
        inner.whole.contains(&dir) && is_empty(&inner.hot) && is_empty(&inner.cold)
    }

    fn end(&self, change: &Change<'_>, learned: Learned<'_>) {
        let Change { token, keys, .. } = change;
        self.note_place(&learned);
        let mut inner = self.inner();
        inner.turn(self.max);
        for key in keys.iter().filter(|_| !change.is_shown) {
            if let Entry::Occupied(mut count) = inner.changing.entry(key.clone()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        for key in keys {
            match key {
                Key::Node(ino) => inner.drop_node(*ino),
                Key::Names(dir) => inner.drop_dir(*dir),
                Key::Name(dir, name) => inner.drop_name(*dir, name),
                Key::Nodes => inner.drop_nodes(),
            }
        }
        inner.learn(*token, learned);
        inner.check_whole(keys);
        inner.stamp(keys.iter().cloned());
    }

    /// Another session changed these inodes; interest in them has ended.
    pub(super) fn invalidate(&self, touched: &[Touched]) {
        let mut inner = self.inner();
        inner.stamp(
            touched
                .iter()
                .flat_map(|t| [Key::Node(t.ino), Key::Names(t.ino)]),
        );
        for t in touched {
            inner.drop_node(t.ino);
            inner.drop_dir(t.ino);
        }
    }

    /// Attributes of all inodes are in doubt (names stay).
    pub(super) fn drop_nodes(&self) {
        self.inner().drop_nodes();
    }

    /// Nothing is known any more.
    pub(super) fn drop_all(&self) {
        let mut inner = self.inner();
        inner.now += 1;
        inner.floor = inner.now;
        inner.stamps.clear();
        inner.hot = Part::default();
        inner.cold = Part::default();
        inner.whole.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let inner = self.inner();
        inner.hot.len + inner.cold.len
    }
}

/// A change by this client, from its begin to its end. One that is dropped before may still happen: then
/// nothing is known any more.
pub(super) struct Change<'a> {
    cache: &'a MetaCache,
    token: Token,
    keys: Vec<Key>,
    is_shown: bool,
    is_over: bool,
}

impl Change<'_> {
    /// It is done: caches what its answer tells, drops the rest of what it changed.
    pub(super) fn end(mut self, learned: Learned<'_>) {
        self.is_over = true;
        self.cache.end(&self, learned);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.cache.end(self, Learned::default());
            self.cache.drop_all();
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;

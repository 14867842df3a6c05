//! The file layer of a mount: its open files, and what the master tells about them.
use super::access::AccessTimes;
use super::backend::Backend;
use super::blocks::{BlockCache, BlockKey};
use super::budget::Budget;
use super::config::FileConfig;
use super::error::{FileError, FileResult};
use super::get_task::SharedLatencies;
use super::inode::{Inode, State};
use crate::types::{Attr, Ino, LogIndex, PgMap, Revision, VersionNo, without_suid};
use crate::wire::master::Touched;
use crate::wire::{ErrorCode, WireError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Notify, watch};

/// Files that this mount has open, or had a moment ago.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub inodes: BTreeMap<Ino, Arc<Inode>>,
    /// Being released at the master: not to be opened before that is done.
    pub releasing: BTreeSet<Ino>,
}

/// Failures kept for whoever asks next.
const UNHEARD_MAX: usize = 1024;

/// Open files, their buffers and caches. See the [module docs](super).
pub struct FileLayer {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) config: FileConfig,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) budget: Budget,
    pub(super) blocks: BlockCache,
    pub(super) access: AccessTimes,
    /// Blocks being fetched; the sender's end closes when they are there or failed.
    pub(super) fetching: Mutex<BTreeMap<BlockKey, watch::Receiver<()>>>,
    pub(super) latencies: SharedLatencies,
    /// One chunk is compacted at a time: its bytes are in memory.
    pub(super) compacting: tokio::sync::Semaphore,
    /// Raised when the session is lost.
    pub(super) sessions: watch::Sender<u64>,
    table: Mutex<Table>,
    pub(super) table_changed: Notify,
    next_token: AtomicU64,
    /// Puts that failed behind a close, until somebody hears of it; the oldest are forgotten.
    unheard: Mutex<VecDeque<(Ino, FileError)>>,
    /// Told of inodes whose buffered bytes were lost.
    on_lost: OnceLock<Box<dyn Fn(Ino) + Send + Sync>>,
    /// Told of this mount's own puts.
    on_stored: OnceLock<Stored>,
    /// The writeback task has something to do.
    pub(super) kick: Arc<Notify>,
    pub(super) stats: Stats,
}

/// Is told of an inode, and the revisions that this mount's puts moved it through.
type Stored = Box<dyn Fn(Ino, &RangeInclusive<Revision>) + Send + Sync>;

/// Counts since the mount began.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub puts: AtomicU64,
    pub gets: AtomicU64,
    pub stamp_reads: AtomicU64,
    pub resolves: AtomicU64,
    pub blocks_hit: AtomicU64,
    pub blocks_missed: AtomicU64,
}

/// What [`FileLayer::stats`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStats {
    /// Puts that were committed.
    pub puts: u64,
    /// Gets that went to stores.
    pub gets: u64,
    /// Stamps that those asked for.
    pub stamp_reads: u64,
    /// Gets that had to ask the master.
    pub resolves: u64,
    /// Blocks found in the cache.
    pub blocks_hit: u64,
    /// Blocks that were fetched.
    pub blocks_missed: u64,
    /// Bytes written and not committed.
    pub dirty_bytes: u64,
    /// Files open, or open a moment ago.
    pub files: u64,
}

impl std::fmt::Debug for FileLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileLayer")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl FileLayer {
    /// A layer over `backend`, with a writeback task that ends when the layer is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn over(backend: Arc<dyn Backend>, config: FileConfig) -> Arc<Self> {
        let layer = Arc::new(Self {
            backend,
            runtime: tokio::runtime::Handle::current(),
            budget: Budget::new(config.dirty_max_bytes),
            blocks: BlockCache::new(config.data_cache_max_bytes),
            access: AccessTimes::default(),
            fetching: Mutex::default(),
            latencies: SharedLatencies::default(),
            compacting: tokio::sync::Semaphore::new(1),
            sessions: watch::Sender::new(0),
            table: Mutex::default(),
            table_changed: Notify::new(),
            next_token: AtomicU64::new(1),
            unheard: Mutex::default(),
            on_lost: OnceLock::new(),
            on_stored: OnceLock::new(),
            kick: Arc::default(),
            stats: Stats::default(),
            config,
        });
        tokio::spawn(Self::run_writeback(Arc::downgrade(&layer)));
        layer
    }

    /// `told` hears of every inode of which bytes that programs wrote were not stored: who else has a
    /// copy of them (the kernel) drops it. Called from any task: must not block. Only the first call
    /// counts.
    pub fn on_lost(&self, told: impl Fn(Ino) + Send + Sync + 'static) {
        let _ = self.on_lost.set(Box::new(told));
    }

    /// `told` hears of every put of this mount, with what [`own_puts`](Self::own_puts) says then. Called from
    /// any task: must not block. Only the first call counts.
    pub fn on_stored(&self, told: impl Fn(Ino, &RangeInclusive<Revision>) + Send + Sync + 'static) {
        let _ = self.on_stored.set(Box::new(told));
    }

    fn unheard(&self) -> MutexGuard<'_, VecDeque<(Ino, FileError)>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A put failed whose close may have returned.
    pub(super) fn failed_behind(&self, ino: Ino, error: &FileError) {
        let mut unheard = self.unheard();
        if unheard.iter().all(|(of, _)| *of != ino) {
            unheard.truncate(UNHEARD_MAX - 1);
            unheard.push_front((ino, error.clone()));
        }
    }

    /// What nobody has heard of yet: a put of this file failed behind a close.
    ///
    /// # Errors
    /// That failure, once.
    pub fn take_unheard(&self, ino: Ino) -> FileResult<()> {
        if !self.config.behind {
            return Ok(());
        }
        let mut unheard = self.unheard();
        let found = unheard.iter().position(|(of, _)| *of == ino);
        match found.and_then(|at| unheard.remove(at)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Not under an inode's lock.
    pub(super) fn lost(&self, ino: Ino) {
        if let Some(told) = self.on_lost.get() {
            told(ino);
        }
    }

    /// Not under an inode's lock.
    pub(super) fn stored(&self, ino: Ino, revisions: &RangeInclusive<Revision>) {
        if let Some(told) = self.on_stored.get() {
            told(ino, revisions);
        }
    }

    /// Taken before any inode's state, and never held with one but in `register`.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.table().inodes.get(&ino).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        self.table().inodes.values().cloned().collect()
    }

    pub(super) fn next_token(&self) -> crate::wire::WriteToken {
        let seq = self.next_token.fetch_add(1, Ordering::Relaxed);
        crate::wire::WriteToken {
            client: self.backend.client(),
            seq,
        }
    }

    /// A PG map, asked for if none is known yet.
    pub(super) async fn pg_map(&self) -> FileResult<Arc<PgMap>> {
        let map = self.backend.pg_map();
        if !map.pgs.is_empty() {
            return Ok(map);
        }
        let map = self.backend.refresh_map(map.version).await;
        if map.pgs.is_empty() {
            let e = WireError::new(ErrorCode::Unavailable, "no map of the placement groups");
            return Err(e.into());
        }
        Ok(map)
    }

    /// Counts since the mount began.
    #[must_use]
    pub fn stats(&self) -> FileStats {
        let s = &self.stats;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        FileStats {
            puts: get(&s.puts),
            gets: get(&s.gets),
            stamp_reads: get(&s.stamp_reads),
            resolves: get(&s.resolves),
            blocks_hit: get(&s.blocks_hit),
            blocks_missed: get(&s.blocks_missed),
            dirty_bytes: self.budget.used(),
            files: self.table().inodes.len() as u64,
        }
    }

    /// Shows local changes in attributes that came from the master: size and times.
    pub fn overlay(&self, attr: &mut Attr) {
        if let Some(inode) = self.find(attr.ino) {
            Self::overlay_state(&inode.state(), attr);
        }
        self.access.overlay(attr);
    }

    fn overlay_state(state: &State, attr: &mut Attr) {
        if let Some(known) = state.attr.as_ref().filter(|k| k.revision > attr.revision) {
            // A commit of ours that the caller's cache has not seen.
            attr.size = known.size;
            attr.allocated = known.allocated;
            attr.mtime = known.mtime;
            attr.ctime = attr.ctime.max(known.ctime);
            attr.revision = known.revision;
        }
        if state.is_pending() {
            attr.size = state.size;
            // None of it is a hole, wherever it will lie.
            let most = attr.size.max(attr.allocated);
            attr.allocated = (attr.allocated + state.pending_bytes()).min(most);
            if state.kills_suid() {
                attr.mode = without_suid(attr.mode);
            }
            if let Some(mtime) = state.mtime {
                attr.mtime = mtime;
                attr.ctime = attr.ctime.max(mtime);
            }
        }
        if let Some(later) = &state.later {
            later.show(attr);
        }
    }

    /// The revisions that the last puts of this mount moved an inode's content through, one after the
    /// other and with nobody else's between them.
    #[must_use]
    pub fn own_puts(&self, ino: Ino) -> Option<RangeInclusive<Revision>> {
        self.find(ino)?.state().own.clone()
    }

    /// Nobody writes the file here, and nothing of it is on its way: its attributes change only when a
    /// program changes them.
    #[must_use]
    pub fn is_quiet(&self, ino: Ino) -> bool {
        let is_quiet = |state: &State| {
            state.writers == 0
                && !state.is_pending()
                && state.flights.is_empty()
                && state.later.is_none()
                && state.seals.is_empty()
                && !state.sealing
        };
        self.find(ino).is_none_or(|inode| is_quiet(&inode.state()))
    }

    /// The content of an inode is at `revision`: what is known of an older one is not read any more.
    pub fn outdated(&self, ino: Ino, revision: Revision) {
        if let Some(inode) = self.find(ino) {
            let mut state = inode.state();
            if state.layout.as_ref().is_some_and(|l| l.revision < revision) {
                state.invalidate();
            }
        }
    }

    /// Commits what is buffered for this inode, so that a change of its attributes (times above
    /// all) comes after the writes that were made before it. Errors stay latched for the handles.
    pub async fn drain_ino(self: &Arc<Self>, ino: Ino) {
        if let Some(inode) = self.find(ino) {
            self.drain(&inode).await;
            self.later_made(&inode).await;
        }
    }

    /// Commits everything that is buffered and seals what was released: before an unmount, and for
    /// syncfs. Errors stay latched for the handles.
    pub async fn drain_all(self: &Arc<Self>) {
        let _hurry = self.config.leisure.hurry();
        let inodes = self.all();
        for inode in &inodes {
            self.cut_all(inode);
        }
        // At once: without a master each seal takes as long as its deadline.
        let mut ending = tokio::task::JoinSet::new();
        for inode in inodes {
            let layer = Arc::clone(self);
            ending.spawn(async move {
                layer.drain(&inode).await;
                layer.later_made(&inode).await;
                layer.seal_ended(&inode).await;
            });
        }
        while ending.join_next().await.is_some() {}
        self.tell_accessed().await;
    }

    /// The master asks for this inode's buffered changes: commits and seals them. Afterwards the
    /// push may be acknowledged.
    pub async fn recalled(self: &Arc<Self>, ino: Ino, shared: bool) {
        let Some(inode) = self.find(ino) else { return };
        let _hurry = self.config.leisure.hurry();
        {
            let mut state = inode.state();
            state.recalls += 1;
            if let Some(registered) = state.registered.as_mut().filter(|_| shared) {
                registered.shared = true;
            }
            if state.is_left() {
                self.end_period(&inode, &mut state);
            }
        }
        self.drain(&inode).await;
        self.later_made(&inode).await;
        self.seal_ended(&inode).await;
    }

    /// Another session changed these inodes: what is known of their content is dropped.
    pub fn invalidated(&self, touched: &[Touched], as_of: LogIndex) {
        for t in touched {
            if let Some(inode) = self.find(t.ino) {
                let mut state = inode.state();
                // Even if only attributes changed: the interest has ended with the push.
                state.invalidate_at(as_of);
                // Somebody writes it who came later: the next open asks.
                if let Some(registered) = state.registered.as_mut()
                    && t.content
                    && !registered.write
                {
                    registered.shared = true;
                }
            }
        }
    }

    /// Nothing known of committed content may be used any more.
    pub fn all_invalidated(&self) {
        for inode in self.all() {
            inode.state().invalidate_at(LogIndex(0));
        }
    }

    /// The session is lost: buffered changes are dropped, and handles hear of it.
    pub fn session_lost(&self) {
        for inode in self.all() {
            let mut state = inode.state();
            let lost = state.is_pending() || state.later.is_some();
            state.later = None;
            state.registered = None;
            state.asked_for = false;
            state.token = None;
            state.seals.clear();
            let dropped = state.drop_dirty();
            state.invalidate();
            if lost {
                state.latch(FileError::Dropped("the session expired"));
            }
            drop(state);
            self.budget.give(dropped);
            if lost {
                self.lost(inode.ino);
            }
        }
        self.sessions.send_modify(|n| *n += 1);
    }

    /// A file that is not in the table: an immutable version.
    pub(super) fn version_inode(ino: Ino, version: VersionNo) -> Arc<Inode> {
        Arc::new(Inode::new(ino, Some(version)))
    }
}

//! Opens, seals and releases of an inode at the master.
//!
//! 1. Open: the master is told, unless the session has it open in that mode already, alone, and has
//!    been told of no change since.
//! 2. The last writable handle goes: when what it wrote is committed, the version is cut (SEAL): soon,
//!    and at the latest before this is recalled or released. Those of many files are sent together,
//!    so that the master orders them in one step; nobody waits for them.
//!    The kernel sends a release when close(2) has returned and does not wait for it, so that the next
//!    open may overtake it: a period ends too when somebody opens the file for writing, or another
//!    session wants it, and every writable handle was flushed by a close and has changed nothing
//!    since. An open with O_TRUNC ends it in any case.
//! 3. The last handle goes: after a short while (it may be opened again at once) the master is told
//!    (RELEASE), also of an open that it refused or did not answer. Until it has answered, the inode is
//!    not opened again.
use super::error::{FileError, FileResult};
use super::inode::{Inode, Registered, State};
use super::layer::FileLayer;
use super::open_file::{OpenFile, OpenMode};
use crate::types::Ino;
use crate::wire::Mutation;
use std::sync::Arc;

impl FileLayer {
    /// The inode with one more handle on it.
    pub(super) async fn enter(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> Arc<Inode> {
        loop {
            let changed = self.table_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(inode) = self.try_enter(ino, mode) {
                return inode;
            }
            // Its release comes after what is queued.
            let _hurry = self.config.leisure.hurry();
            changed.await;
        }
    }

    /// As [`enter`](Self::enter); `None` while it is being released.
    pub(super) fn try_enter(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> Option<Arc<Inode>> {
        let mut table = self.table();
        if table.releasing.contains(&ino) {
            return None;
        }
        let fresh = || Arc::new(Inode::new(ino, None));
        let inode = Arc::clone(table.inodes.entry(ino).or_insert_with(fresh));
        let mut state = inode.state();
        if mode.write && (mode.truncate || (state.is_left() && !state.is_followed())) {
            self.end_period(&inode, &mut state);
        }
        state.handles += 1;
        state.writers += u32::from(mode.write);
        state.idle_since = None;
        drop(state);
        drop(table);
        self.kick.notify_one();
        Some(inode)
    }

    /// One handle less. Seals and releases follow in the background.
    pub(super) fn leave(self: &Arc<Self>, file: &OpenFile) {
        let inode = &file.inode;
        let mut state = inode.state();
        let write = file.mode().write;
        if write && state.writers == 1 && !state.is_followed() {
            self.end_period(inode, &mut state);
        }
        file.reopen(&mut state);
        state.handles -= 1;
        state.writers -= u32::from(write);
        if state.handles == 0 {
            state.idle_since = Some(self.backend.now());
        }
        drop(state);
        self.kick.notify_one();
    }

    /// What was written so far makes a version; the next change begins another one.
    pub(super) fn end_period(self: &Arc<Self>, inode: &Arc<Inode>, state: &mut State) {
        if state.is_dirty() {
            // Still under the period that ends here.
            self.cut(inode, state, None, true);
        }
        if let Some(token) = state.token.take() {
            state.seals.push(token);
        }
    }

    /// True if an open in this mode needs no word to the master.
    pub(super) fn is_open_locally(&self, state: &State, write: bool) -> bool {
        let covers = |r: Registered| (r.write || !write) && !r.shared;
        state.registered.is_some_and(covers)
            && state.layout.is_some()
            && self.backend.caches_valid()
    }

    /// Tells the master of the open, whether or not it knows.
    pub(super) async fn register(&self, inode: &Inode, write: bool) -> FileResult<Registered> {
        let _gate = inode.gate.lock().await;
        let (invalidations, recalls, writes) = {
            let mut state = inode.state();
            state.asked_for = true;
            let writes = write || state.registered.is_some_and(|r| r.write);
            (state.invalidations, state.recalls, writes)
        };
        let opened = self.backend.open(inode.ino, writes).await;
        let mut state = inode.state();
        // A session that was lost meanwhile took that with it; asked again, the master noted the next.
        state.asked_for = true;
        let opened = opened?;
        let shared = opened.shared || state.recalls != recalls;
        let registered = Registered {
            write: writes,
            lease: opened.lease,
            shared,
        };
        // What waits here was to follow what was there under the former lease. Others have written since.
        let is_shut_out = state
            .registered
            .is_some_and(|before| !before.shared && before.lease != opened.lease)
            && state.is_dirty();
        let dropped = if is_shut_out {
            state.latch(FileError::Dropped("the write lease was lost"));
            state.drop_dirty()
        } else {
            0
        };
        state.registered = Some(registered);
        state.learn_opened(&opened.attr, opened.layout, invalidations);
        drop(state);
        self.budget.give(dropped);
        if is_shut_out {
            self.lost(inode.ino);
        }
        Ok(registered)
    }

    /// This file was believed to be open, and is not at the master: tells it.
    pub fn unopened(self: &Arc<Self>, ino: Ino) {
        let Some(inode) = self.find(ino) else { return };
        let write = {
            let state = inode.state();
            state.writers > 0 || state.is_pending()
        };
        let layer = Arc::clone(self);
        self.runtime.spawn(async move {
            // The lease that it was believed to have tells whether others have written it since.
            if let Err(error) = layer.register(&inode, write).await {
                tracing::debug!(%ino, %error, "not open at the master");
                inode.state().registered = None;
            }
        });
    }

    /// The lease to commit under, asked of the master if it was lost.
    pub(super) async fn write_lease(&self, inode: &Inode) -> FileResult<Registered> {
        let known = inode.state().registered.filter(|r| r.write);
        match known {
            Some(registered) => Ok(registered),
            None => self.register(inode, true).await,
        }
    }

    /// Cuts the versions of these inodes in the background.
    pub(super) fn seal_together(self: &Arc<Self>, inodes: Vec<Arc<Inode>>) {
        for inode in inodes {
            let layer = Arc::clone(self);
            self.runtime
                .spawn(async move { layer.seal_ended(&inode).await });
        }
    }

    /// Cuts the versions of writing periods that have ended, once their puts are decided.
    pub(super) async fn seal_ended(self: &Arc<Self>, inode: &Arc<Inode>) {
        if inode.state().seals.is_empty() {
            // Another task may be at it: its seal comes first.
            drop(inode.seal_gate.lock().await);
            return;
        }
        let _gate = inode.seal_gate.lock().await;
        let tokens = {
            let mut state = inode.state();
            state.sealing = true;
            std::mem::take(&mut state.seals)
        };
        self.drain_at_leisure(inode).await;
        // The last one under which anything was committed: its first commit sealed what the others wrote.
        let last = {
            let mut state = inode.state();
            let used = tokens.into_iter().filter(|t| state.used_tokens.remove(t));
            used.last()
        };
        if let Some(token) = last {
            let body = Mutation::Seal {
                ino: inode.ino,
                token,
            };
            match self.backend.mutate(body).await {
                Ok(crate::wire::MutationOk::Attr(attr)) => inode.state().learn_attr(&attr),
                Ok(_) => {}
                // The master cuts it when no session has the file open any more.
                Err(error) => tracing::debug!(ino = %inode.ino, %error, "seal not answered"),
            }
        }
        inode.state().sealing = false;
        self.kick.notify_one();
    }

    /// Takes inodes that were left long enough ago out of the table and tells the master, which may
    /// take as long as a deadline: nobody waits for it.
    pub(super) fn release_idle(self: &Arc<Self>) {
        let now = self.backend.now();
        let mut inos = Vec::new();
        {
            let mut table = self.table();
            let idle = |inode: &Inode| {
                let s = inode.state();
                let left = s
                    .idle_since
                    .is_some_and(|at| now.since(at) >= self.config.linger);
                let done = !s.is_pending() && s.later.is_none() && s.seals.is_empty() && !s.sealing;
                left && s.handles == 0 && done && !s.locks.are_leaving()
            };
            table.inodes.retain(|ino, inode| {
                let gone = idle(inode);
                if gone && inode.state().asked_for {
                    inos.push(*ino);
                }
                !gone
            });
            table.releasing.extend(inos.iter().copied());
        }
        if inos.is_empty() {
            return;
        }
        let layer = Arc::clone(self);
        self.runtime.spawn(async move {
            layer.backend.release(inos.clone()).await;
            let mut table = layer.table();
            for ino in inos {
                table.releasing.remove(&ino);
            }
            drop(table);
            layer.table_changed.notify_waiters();
        });
    }
}

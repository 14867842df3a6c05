//! Locks through an open handle, and what they mean for what is cached and buffered.
//!
//! 1. What was written before an unlock is committed before the master hears of the unlock, and so
//!    before the next holder is told of its lock.
//! 2. The answer to a lock brings the file's state with it: what is known here is of that revision
//!    or a later one. The caller drops the kernel's pages if they are of another.
//! 3. Locks belong to the session. When it is lost they are lost, somebody else may hold them, and
//!    handles that locks were taken through do nothing any more until they are closed: reads, writes,
//!    flushes and locks answer [`FileError::LocksLost`]. A change made under a lock carries the
//!    session's id, and the master refuses those of a session that has ended.
//! 4. An owner's locks go when it closes a descriptor of the file ([`OpenFile::unlock_owner`]); what
//!    else was locked through a handle goes with it.
//! 5. The kernel names the owner of an open file's lock after an address, which the next open file
//!    may have: nothing is locked on a file while a closed handle's locks are being given up, and a
//!    handle gives up none that another has asked for since.
use super::backend::BoxFuture;
use super::error::{FileError, FileResult};
use super::inode::{Inode, State};
use super::layer::FileLayer;
use super::layout::LayoutCache;
use super::open_file::OpenFile;
use crate::client::LockGrant;
use crate::types::{ClientId, HeldLock, Lock, LockRequest, LockSpace, Revision};
use crate::wire::{ErrorCode, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Whose locks: the kind, and the kernel's name of the owner.
pub(super) type LockKey = (LockSpace, u64);

/// Pause before an unlock that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a lock that may not wait waits for those that closed handles leave.
const LEAVING_MAX: Duration = Duration::from_secs(10);

/// What an owner has to do with a file's locks.
#[derive(Debug)]
pub(super) struct LockUse {
    /// Under which its locks are.
    session: ClientId,
    /// It has some, or may have.
    held: bool,
    /// Requests under way.
    asking: u32,
    /// Requests so far.
    asked: u64,
    /// The handle that asked last (its address).
    by: usize,
}

/// Of all owners that concern an inode.
#[derive(Debug, Default)]
pub(super) struct LockUses {
    owners: BTreeMap<LockKey, LockUse>,
    /// Closed handles whose locks are being given up.
    leaving: u32,
}

impl LockUses {
    /// Some owner has something locked.
    pub fn are_held(&self) -> bool {
        !self.owners.is_empty()
    }

    /// The master is being told of locks that closed handles had.
    pub fn are_leaving(&self) -> bool {
        self.leaving > 0
    }
}

/// Resolves when whoever waits for a lock does not want it any more.
pub type GiveUp = BoxFuture<'static, ()>;

impl OpenFile {
    /// Locks a range for `owner`. Without `give_up` it does not wait. Answers the revision that the
    /// content has now, or `None` when given up.
    ///
    /// # Errors
    /// `Locked` (as [`FileError::Refused`]): somebody else has it. [`FileError::LocksLost`].
    pub async fn lock(
        &self,
        (space, owner): (LockSpace, u64),
        lock: Lock,
        mut give_up: Option<GiveUp>,
    ) -> FileResult<Option<Revision>> {
        // Taking a lock may give up one that was stronger.
        self.layer.drain(&self.inode).await;
        if !self.wait_for_leaving(give_up.as_mut()).await? {
            return Ok(None);
        }
        let ask = LockRequest {
            ino: self.ino(),
            space,
            owner,
            lock,
        };
        loop {
            let session = self.layer.backend.client();
            self.begin_lock((space, owner), session)?;
            let known = self.inode.state().unplaced;
            let backend = &self.layer.backend;
            let asked = match &mut give_up {
                Some(give_up) => backend.wait_lock(session, ask, give_up).await,
                None => backend.try_lock(session, ask).await.map(Some),
            };
            let maybe = match &asked {
                Ok(grant) => grant.is_some(),
                Err(e) => e.code == ErrorCode::UnknownOutcome,
            };
            self.end_lock((space, owner), maybe);
            match asked {
                Ok(None) => return Ok(None),
                Ok(Some(grant)) => return Ok(Some(self.learn_grant(grant, known))),
                // Another session has begun: whoever lost nothing with the old one goes on.
                Err(e) if e.code == ErrorCode::SessionExpired => {
                    self.check_locks(session)?;
                    if self.layer.backend.client() == session {
                        return Err(e.into());
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Until no closed handle has locks on the file any more; false when given up.
    async fn wait_for_leaving(&self, give_up: Option<&mut GiveUp>) -> FileResult<bool> {
        let left = self.inode.wait_until(|s| !s.locks.are_leaving());
        match give_up {
            Some(give_up) => Ok(tokio::select! {
                biased;
                () = left => true,
                () = give_up => false,
            }),
            None => match tokio::time::timeout(LEAVING_MAX, left).await {
                Ok(()) => Ok(true),
                Err(_) => {
                    let detail = "the master has not heard of an unlock before";
                    Err(WireError::new(ErrorCode::TimedOut, detail).into())
                }
            },
        }
    }

    /// Names this handle among those that ask for locks.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn begin_lock(&self, key: LockKey, session: ClientId) -> FileResult<()> {
        let mut state = self.inode.state();
        let held = state.locks.owners.get(&key);
        if held.is_some_and(|used| used.held && used.session != session) {
            return Err(FileError::LocksLost);
        }
        self.check_locks_in(&state, session)?;
        let fresh = LockUse {
            session,
            held: false,
            asking: 0,
            asked: 0,
            by: 0,
        };
        let used = state.locks.owners.entry(key).or_insert(fresh);
        used.session = session;
        used.asking += 1;
        used.asked += 1;
        used.by = self.address();
        self.lock_owners().insert(key);
        Ok(())
    }

    fn end_lock(&self, key: LockKey, maybe_held: bool) {
        let mut state = self.inode.state();
        if let Some(used) = state.locks.owners.get_mut(&key) {
            used.asking = used.asking.saturating_sub(1);
            used.held |= maybe_held;
        }
        forget_unused(&mut state, key);
    }

    /// Takes what came with a lock, if it was asked for when `unplaced` was this. (Asked and answered
    /// on other threads, a later invalidation may have come before.)
    fn learn_grant(&self, grant: LockGrant, unplaced: u64) -> Revision {
        let revision = grant.attr.revision;
        let mut state = self.inode.state();
        let current = state.is_current(&grant.attr, grant.as_of, unplaced);
        state.learn_attr(&grant.attr);
        let outdated = |l: &Arc<LayoutCache>| l.revision < revision;
        if state.layout.as_ref().is_some_and(outdated) && !state.is_pending() {
            state.layout = None;
        }
        if let (true, Some(layout)) = (current, grant.layout) {
            let now = state.invalidations;
            state.learn_layout(&LayoutCache::of_open(layout), now);
            state.locked_at = Some(now);
        }
        revision
    }

    /// Gives up what `owner` has locked in `first..=last`, after what was written is committed. A
    /// write that failed stays with the handle, which tells at the next flush.
    ///
    /// # Errors
    /// The master cannot be reached: the lock may be held still.
    pub async fn unlock(&self, key: LockKey, (first, last): (u64, u64)) -> FileResult<()> {
        self.layer.drain(&self.inode).await;
        let session = self.layer.backend.client();
        let is_held = self.inode.state().locks.owners.get(&key).map(|u| u.session) == Some(session);
        if !is_held {
            return Ok(()); // There is nothing, or it was lost with its session.
        }
        let whole = first == 0 && last >= Lock::LAST_MAX;
        self.layer
            .unlock(&self.inode, session, key, (first, last), whole)
            .await
    }

    /// `owner` closes a descriptor of the file: POSIX takes all its byte-range locks on the file.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock).
    pub async fn unlock_owner(&self, owner: u64) -> FileResult<()> {
        let key = (LockSpace::Posix, owner);
        let used = self.inode.state().locks.owners.get(&key).map(|u| u.session);
        if let Some(session) = used {
            let all = (0, Lock::LAST_MAX);
            self.layer
                .unlock(&self.inode, session, key, all, true)
                .await?;
        }
        let state = self.inode.state();
        if !state.locks.owners.contains_key(&key) {
            self.lock_owners().remove(&key);
        }
        Ok(())
    }

    /// The handle is closed: what was locked through it goes, in the background.
    pub(super) fn unlock_all(&self) {
        let mut owners = std::mem::take(&mut *self.lock_owners());
        if owners.is_empty() {
            return;
        }
        {
            let mut state = self.inode.state();
            let by = |used: &LockUse| used.by == self.address();
            owners.retain(|key| state.locks.owners.get(key).is_some_and(by));
            if owners.is_empty() {
                return;
            }
            state.locks.leaving += 1;
        }
        let (layer, inode) = (Arc::clone(&self.layer), Arc::clone(&self.inode));
        self.layer.runtime.spawn(async move {
            layer.unlock_owners(&inode, owners).await;
            inode.state().locks.leaving -= 1;
            inode.changed.notify_waiters();
        });
    }

    /// The first lock that keeps `owner` from having this one.
    ///
    /// # Errors
    /// The master cannot be reached, or [`FileError::LocksLost`].
    pub async fn lock_conflict(
        &self,
        (space, owner): LockKey,
        lock: Lock,
    ) -> FileResult<Option<HeldLock>> {
        self.check_locks(self.layer.backend.client())?;
        let ask = LockRequest {
            ino: self.ino(),
            space,
            owner,
            lock,
        };
        Ok(self.layer.backend.lock_conflict(ask).await?)
    }

    /// No lock that was taken through this handle was lost: all are of `session`.
    pub(super) fn check_locks(&self, session: ClientId) -> FileResult<()> {
        if self.lock_owners().is_empty() {
            return Ok(());
        }
        self.check_locks_in(&self.inode.state(), session)
    }

    /// As [`check_locks`](Self::check_locks), under the inode's lock.
    pub(super) fn check_locks_in(&self, state: &State, session: ClientId) -> FileResult<()> {
        let owners = self.lock_owners();
        let lost = |used: &LockUse| used.held && used.session != session;
        if owners
            .iter()
            .any(|key| state.locks.owners.get(key).is_some_and(lost))
        {
            return Err(FileError::LocksLost);
        }
        Ok(())
    }
}

impl FileLayer {
    async fn unlock(
        &self,
        inode: &Inode,
        session: ClientId,
        key: LockKey,
        range: (u64, u64),
        whole: bool,
    ) -> FileResult<()> {
        let asked = {
            let mut state = inode.state();
            state.locked_at = None;
            let used = state.locks.owners.get(&key);
            used.filter(|u| u.asking == 0).map(|u| u.asked)
        };
        let (space, owner) = key;
        let what = (inode.ino, space, owner);
        self.backend.unlock(session, what, range).await?;
        if whole {
            let mut state = inode.state();
            // A lock that was asked for meanwhile may have come after it.
            if let Some(used) = state.locks.owners.get_mut(&key)
                && asked == Some(used.asked)
            {
                used.held = false;
            }
            forget_unused(&mut state, key);
        }
        Ok(())
    }

    /// Until it is done, or the session has ended: nobody is left to be told of an error.
    async fn unlock_owners(self: &Arc<Self>, inode: &Arc<Inode>, owners: BTreeSet<LockKey>) {
        self.drain(inode).await;
        for key in owners {
            loop {
                let Some(session) = inode.state().locks.owners.get(&key).map(|u| u.session) else {
                    break;
                };
                let all = (0, Lock::LAST_MAX);
                match self.unlock(inode, session, key, all, true).await {
                    Ok(()) => break,
                    Err(error) if is_over(&error) => break,
                    Err(error) => {
                        tracing::info!(ino = %inode.ino, %error, "an unlock was not heard");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }
    }
}

/// This mount ends: the master releases what it held.
fn is_over(error: &FileError) -> bool {
    matches!(error, FileError::Refused(WireError { code, .. }) if *code == ErrorCode::NotReady)
}

fn forget_unused(state: &mut State, key: LockKey) {
    let unused = |used: &LockUse| !used.held && used.asking == 0;
    if state.locks.owners.get(&key).is_some_and(unused) {
        state.locks.owners.remove(&key);
    }
}

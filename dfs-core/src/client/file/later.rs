//! Changes of attributes that wait for puts (`behind`).
//!
//! What was written before a chmod, chown or utimens must not undo it when it is put. Steps:
//! 1. while puts of a file are on their way, such a change is noted, and shown over what is known;
//! 2. a change of the content after it takes what it undoes: the content time, and suid;
//! 3. when the puts are decided, it is made. Whoever waits for the puts waits for that too;
//! 4. only while this session is the only one; before another one sees anything, it is made.
use super::inode::Inode;
use super::layer::FileLayer;
use crate::client::SetAttrArgs;
use crate::types::{Attr, Ino, LogIndex, Timestamp, without_suid};
use std::sync::Arc;

/// A change that waits, and when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Later {
    args: SetAttrArgs,
    at: Timestamp,
    /// As of when no other session existed.
    sole_at: LogIndex,
}

impl Later {
    pub fn show(&self, attr: &mut Attr) {
        self.args.apply(attr, self.at);
    }

    /// The content was changed after it.
    pub fn overtaken(&mut self, kill_suid: bool) {
        self.args.mtime = None;
        if kill_suid {
            self.args.mode = self.args.mode.map(without_suid);
        }
    }
}

/// One change after another, of a file.
fn merged(first: SetAttrArgs, then: SetAttrArgs) -> SetAttrArgs {
    let chowned = then.uid.is_some() || then.gid.is_some();
    let mode = first
        .mode
        .map(|m| if chowned { without_suid(m) } else { m });
    SetAttrArgs {
        mode: then.mode.or(mode),
        uid: then.uid.or(first.uid),
        gid: then.gid.or(first.gid),
        atime: then.atime.or(first.atime),
        mtime: then.mtime.or(first.mtime),
    }
}

impl FileLayer {
    /// Changes attributes once what was written before is put. False if nothing waits to be put (or nothing
    /// may wait): the caller makes the change.
    #[must_use]
    pub fn set_later(self: &Arc<Self>, ino: Ino, args: SetAttrArgs) -> bool {
        let Some(inode) = self.find(ino).filter(|_| self.config.behind) else {
            return false;
        };
        let Some((held, sole_at)) = self.backend.hold_later() else {
            return false;
        };
        let at = self.backend.wall();
        let args = args.at(at);
        let is_first = {
            let mut state = inode.state();
            if !state.is_pending() && state.later.is_none() {
                return false;
            }
            let before = state.later.take();
            let args = before.map_or(args, |before| merged(before.args, args));
            let sole_at = before.map_or(sole_at, |before| before.sole_at.min(sole_at));
            state.later = Some(Later { args, at, sole_at });
            before.is_none()
        };
        if is_first {
            let layer = Arc::clone(self);
            self.runtime.spawn(async move {
                layer.make_later(&inode).await;
                drop(held);
            });
        }
        true
    }

    async fn make_later(self: &Arc<Self>, inode: &Arc<Inode>) {
        loop {
            self.drain_at_leisure(inode).await;
            let Some(later) = inode.state().later else {
                break; // The session was lost.
            };
            if let Err(error) = self
                .backend
                .set_attr(inode.ino, later.args, later.sole_at)
                .await
            {
                // Whoever syncs hears of it from there.
                tracing::debug!(ino = %inode.ino, %error, "a change of attributes failed");
            }
            let mut state = inode.state();
            if state.later == Some(later) {
                state.later = None;
                break;
            }
        }
        inode.changed.notify_waiters();
    }

    /// Waits until nothing waits to be changed.
    pub(super) async fn later_made(&self, inode: &Inode) {
        if inode.state().later.is_some() {
            let _hurry = self.config.leisure.hurry();
            inode.wait_until(|s| s.later.is_none()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SetTime;

    #[test]
    fn changes_that_wait_add_up_in_order() {
        let mode = |mode| SetAttrArgs {
            mode: Some(mode),
            ..SetAttrArgs::default()
        };
        let owner = SetAttrArgs {
            uid: Some(5),
            ..SetAttrArgs::default()
        };
        assert_eq!(merged(mode(0o4755), owner).mode, Some(0o755));
        assert_eq!(merged(owner, mode(0o4755)).mode, Some(0o4755));
        assert_eq!(merged(owner, mode(0o4755)).uid, Some(5));
        let mut later = Later {
            args: SetAttrArgs {
                mtime: Some(SetTime::Now),
                ..mode(0o4755)
            },
            at: Timestamp::default(),
            sole_at: LogIndex(1),
        };
        later.overtaken(true);
        assert_eq!((later.args.mtime, later.args.mode), (None, Some(0o755)));
    }
}

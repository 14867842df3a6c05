//! What the layers above tell the client core: the file layer and the mount plug in here.
use super::behind::Outstanding;
use crate::net::Conn;
use crate::net::clock::boottime;
use crate::types::{Attr, ClientId, Ino, LogIndex, Time};
use crate::wire::master::Touched;
use crate::wire::{MasterRequest, Request};
use std::sync::{Arc, Weak};

/// A push that wants an acknowledgement: dropping this sends it. Keep it (on another thread, if
/// need be) until what was asked is done; the change of the other session waits for it.
#[derive(Debug)]
pub struct Ack {
    conn: Weak<Conn>,
    client: ClientId,
    seq: u64,
    not_before: Time,
    /// Changes that programs were told of as done.
    behind: Option<Outstanding>,
}

impl Ack {
    pub(super) fn new(conn: Weak<Conn>, client: ClientId, seq: u64) -> Self {
        Self {
            conn,
            client,
            seq,
            not_before: Time::ZERO,
            behind: None,
        }
    }

    /// It is sent at this moment, if it is dropped earlier.
    pub(super) fn not_before(&mut self, at: Time) {
        self.not_before = self.not_before.max(at);
    }

    /// It is sent when these are over, if it is dropped earlier.
    pub(super) fn not_before_over(&mut self, behind: Option<Outstanding>) {
        self.behind = behind;
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        // To the leader that pushed it, on the same connection; if that is gone, so is the question.
        let (conn, client, seq) = (self.conn.clone(), self.client, self.seq);
        let tell = move || {
            if let Some(conn) = conn.upgrade() {
                conn.tell(Request::Master(MasterRequest::PushAck { client, seq }));
            }
        };
        let not_before = self.not_before;
        let pause = not_before.since(boottime());
        let behind = self.behind.take();
        match tokio::runtime::Handle::try_current() {
            _ if pause.is_zero() && behind.is_none() => tell(),
            Ok(runtime) => {
                runtime.spawn(async move {
                    if let Some(behind) = behind {
                        behind.over().await;
                    }
                    let pause = not_before.since(boottime());
                    tokio::time::sleep(pause).await;
                    tell();
                });
            }
            // The master's own patience runs out then.
            Err(_) => tracing::warn!("an acknowledgement was dropped outside of the runtime"),
        }
    }
}

/// Told when cached state becomes invalid (the core's own cache has dropped it already). Called on a
/// network task: must be quick and must not block.
pub trait CacheListener: Send + Sync {
    /// Another session changes these inodes. The change waits until `ack` is dropped.
    fn invalidated(&self, touched: &[Touched], ack: Ack);
    /// Nothing cached may be used any more (new leader, or keep-alives lapsed).
    fn all_invalidated(&self);
    /// The session has ended: what was buffered under it cannot be committed, handles get sticky
    /// errors. A new session is opened by itself.
    fn session_lost(&self);
    /// A change that a program was told of as done failed, or was given up.
    fn change_lost(&self, what: &str) {
        let _ = what;
    }
}

/// The file layer, as far as the core needs it. Called on a network task: must not block.
pub trait RecallHandler: Send + Sync {
    /// Another session wants to open `ino`: commit what is buffered, seal what was released, then
    /// drop `ack`. With `shared`, keep writing through from now on.
    fn recall(&self, ino: Ino, shared: bool, ack: Ack);
    /// As [`CacheListener::invalidated`], for content held by the file layer. `as_of` is the change's
    /// log index; zero if nothing has changed, but the interest has ended.
    fn invalidated(&self, touched: &[Touched], as_of: LogIndex);
    /// As [`CacheListener::all_invalidated`].
    fn all_invalidated(&self);
    /// As [`CacheListener::session_lost`].
    fn session_lost(&self);
    /// The master does not know that this file is open: it was made behind.
    fn unopened(&self, ino: Ino) {
        let _ = ino;
    }
}

/// Lets local dirty state show in attributes: size and mtime after a buffered write.
pub trait AttrOverlay: Send + Sync {
    /// Changes what the master said to what this mount's programs must see.
    fn overlay(&self, attr: &mut Attr);
}

/// What is plugged in.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) listener: Option<Arc<dyn CacheListener>>,
    pub(super) recall: Option<Arc<dyn RecallHandler>>,
    pub(super) overlay: Option<Arc<dyn AttrOverlay>>,
}

//! The client: one connection of a mount or tool to a cluster.
use super::behind::Behind;
use super::cache::MetaCache;
use super::config::ClientConfig;
use super::contact::Known;
use super::error::{ClientError, Result};
use super::files::OpenMoment;
use super::hooks::{Ack, AttrOverlay, CacheListener, Hooks, RecallHandler};
use super::lending::Lending;
use super::map::MapCell;
use super::session::{CacheToken, OpTicket, Session, Until};
use super::trips::{TripCounts, Trips};
use crate::membership::bandwidth::Bandwidth;
use crate::net::clock::{boottime, unix_ms};
use crate::net::conn::deadline_in;
use crate::net::{Conn, ConnOptions, Pool, PoolConfig};
use crate::types::{Attr, ClientId, Ino, LogIndex, Time};
use crate::wire::MasterRequest;
use crate::wire::master::Touched;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// See [`Client::contact_state`].
#[derive(Debug, Clone)]
pub struct ContactState {
    /// The leader that the session is bound to.
    pub leader: Option<std::net::SocketAddr>,
    /// Why there was none, the last time.
    pub trouble: String,
}

/// A cluster as one mount or tool sees it. All methods may be called from many tasks at once.
///
/// The parts: `contact` (leader, session, keep-alive), `calls` (requests and retries), `cache`
/// (metadata), and the operations by family in `names`, `attrs`, `files` and `admin`.
pub struct Client {
    pub(super) config: ClientConfig,
    pub(super) pool: Pool,
    pub(super) bandwidth: Arc<Bandwidth>,
    pub(super) contact: watch::Sender<Option<Arc<Conn>>>,
    pub(super) session: Session,
    pub(super) cache: MetaCache,
    pub(super) map: MapCell,
    /// Locks that are waited for at a time.
    pub(super) lock_turns: Semaphore,
    pub(super) trips: TripCounts,
    known: Mutex<Known>,
    caches_until: Until,
    lending: Lending,
    pub(super) behind: Behind,
    hooks: RwLock<Hooks>,
    /// Recalls that came so far.
    recalls: AtomicU64,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.config.label)
    }
}

impl Client {
    /// Connects to a cluster: finds the leader and opens a session, within `deadline_meta`.
    /// Without a session (see [`ClientConfig::session`]) it returns at once.
    ///
    /// # Errors
    /// A setting that cannot work, or no leader in time (the error says what was tried).
    pub async fn connect(config: ClientConfig) -> Result<Arc<Self>> {
        config.validate()?;
        let bandwidth = Arc::new(Bandwidth::new(Time(unix_ms() * 1_000_000)));
        let options = ConnOptions {
            bandwidth: Some(Arc::clone(&bandwidth)),
            ..ConnOptions::default()
        };
        let timing = PoolConfig {
            connect_timeout: config.connect_timeout,
            ..PoolConfig::default()
        };
        let client = Arc::new(Self {
            pool: Pool::new(config.credentials(), options, timing),
            bandwidth,
            contact: watch::Sender::new(None),
            session: Session::new(),
            cache: MetaCache::new(config.meta_cache_max_entries),
            map: MapCell::default(),
            lock_turns: Semaphore::new(super::locks::WAITING_MAX),
            trips: TripCounts::default(),
            known: Mutex::default(),
            caches_until: Until::default(),
            lending: Lending::default(),
            behind: Behind::new(config.behind),
            hooks: RwLock::default(),
            recalls: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            config,
        });
        tokio::spawn(Self::run_contact(Arc::downgrade(&client)));
        if client.config.behind {
            tokio::spawn(Self::run_behind(Arc::downgrade(&client)));
        }
        if client.config.session {
            let after = client.config.deadline_meta;
            if let Err(last) = client.leader(deadline_in(after)).await {
                client.stop.send_replace(true);
                return Err(ClientError::TimedOut { after, last });
            }
        }
        Ok(client)
    }

    /// Ends the session and closes all connections. Flush before: what is buffered above is lost.
    pub async fn shutdown(&self) {
        // What cannot be done by then is lost: it is told of in the log.
        let deadline = deadline_in(self.config.deadline_meta);
        if let Err(error) = self.wait_behind(deadline).await {
            tracing::error!(changes = self.queued_changes(), %error, "changes are lost");
        }
        let conn = self.contact.borrow().clone();
        let was_stopped = self.stop.send_replace(true);
        if let (false, true, Some(conn)) = (was_stopped, self.config.session, conn) {
            let client = self.session.client();
            let close = MasterRequest::CloseSession { client };
            let deadline = deadline_in(self.config.attempt_timeout);
            if let Err(error) = self.send(&conn, close, deadline).await {
                // It will expire by itself.
                tracing::debug!(%error, "session was not closed");
            }
            conn.close();
        }
        self.drop_caches();
        self.pool.close_all();
    }

    /// Whether a master is in contact, from memory.
    #[must_use]
    pub fn contact_state(&self) -> ContactState {
        ContactState {
            leader: self.contact.borrow().as_ref().map(|conn| conn.peer()),
            trouble: self.known().trouble.clone(),
        }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Bytes sent and received.
    #[must_use]
    pub fn bandwidth(&self) -> &Arc<Bandwidth> {
        &self.bandwidth
    }

    /// Requests sent to the master and to stores.
    #[must_use]
    pub fn trips(&self) -> Trips {
        self.trips.now()
    }

    /// The current session's uuid.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.session.client()
    }

    /// A fresh op-id; keep the ticket until its outcome is known or given up.
    #[must_use]
    pub fn begin_op(&self) -> OpTicket {
        self.session.begin_op()
    }

    /// Plugs in the mount's kernel caches.
    pub fn set_listener(&self, listener: Arc<dyn CacheListener>) {
        self.hooks_mut().listener = Some(listener);
    }

    /// Plugs in the file layer.
    pub fn set_recall_handler(&self, handler: Arc<dyn RecallHandler>) {
        self.hooks_mut().recall = Some(handler);
    }

    /// Plugs in local dirty state.
    pub fn set_overlay(&self, overlay: Arc<dyn AttrOverlay>) {
        self.hooks_mut().overlay = Some(overlay);
    }

    /// Unplugs everything (ends reference cycles with the layers above).
    pub fn clear_hooks(&self) {
        *self.hooks_mut() = Hooks::default();
    }

    fn hooks_mut(&self) -> std::sync::RwLockWriteGuard<'_, Hooks> {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn hooks(&self) -> std::sync::RwLockReadGuard<'_, Hooks> {
        self.hooks.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(super) fn check_usable(&self, needs_session: bool) -> Result<()> {
        if self.is_stopped() {
            return Err(ClientError::Unusable("this client was shut down"));
        }
        if needs_session && !self.config.session {
            return Err(ClientError::Unusable(
                "this client was made without a session",
            ));
        }
        Ok(())
    }

    /// How long cached state may be used from now on; zero when it may not. What the kernel caches
    /// must not be kept longer than this.
    #[must_use]
    pub fn cache_window(&self) -> Duration {
        self.caches_until.get().since(boottime())
    }

    pub(super) fn may_cache(&self) -> bool {
        boottime() < self.caches_until.get()
    }

    /// Take one before asking for something, and give it to [`is_current`](Self::is_current) to
    /// learn whether the answer may be cached further up.
    #[must_use]
    pub fn cache_token(&self) -> CacheToken {
        CacheToken(self.cache.token())
    }

    /// True iff the window is open and nothing about `ino` was invalidated since.
    #[must_use]
    pub fn is_current(&self, token: CacheToken, ino: Ino) -> bool {
        self.may_cache() && self.cache.is_current(token.0, ino)
    }

    /// Applies the local dirty state.
    pub(super) fn shown(&self, mut attr: Attr) -> Attr {
        if let Some(overlay) = &self.hooks().overlay {
            overlay.overlay(&mut attr);
        }
        attr
    }

    pub(super) fn open_window(&self, until: Time) {
        // A grant once given stands, even if the next one is shorter.
        self.caches_until.set(until.max(self.caches_until.get()));
    }

    /// The window has run out without an answer: what is cached is of no use any more.
    pub(super) fn check_lapse(&self) {
        let until = self.caches_until.get();
        if until != Time::ZERO && boottime() >= until {
            tracing::info!("no contact with the master: caches dropped");
            self.drop_caches();
        }
    }

    /// How long the kernel may answer from what it is told now, without asking. Take it just before it is
    /// told.
    #[must_use]
    pub fn lend(&self) -> Duration {
        self.lending.lend(boottime(), self.cache_window())
    }

    /// Nothing is lent any more; returns when the last loan has run out.
    pub async fn end_lending(&self) {
        let until = self.lending.end();
        tokio::time::sleep(until.since(boottime())).await;
    }

    /// The kernel may still use what it was lent, be it lent more or not.
    #[must_use]
    pub fn has_lent(&self) -> bool {
        self.lending.has_lent(boottime())
    }

    /// The kernel may answer by itself: no other session exists.
    #[must_use]
    pub fn lends(&self) -> bool {
        self.lending.is_on() && self.may_cache()
    }

    /// The master says whether this session is the only one, and as of when, in an answer to what was asked
    /// at `token`.
    pub(super) fn lend_if(&self, sole: bool, as_of: LogIndex, token: CacheToken) {
        let is_current = || sole && self.is_current(token, Ino::SOLE);
        self.lending.begin(as_of, is_current);
    }

    /// When this session was told last that it is the only one.
    pub(super) fn sole_at(&self) -> LogIndex {
        self.lending.since()
    }

    /// Gives the moment at which the kernel uses nothing more that it was told before.
    pub(super) fn drop_caches(&self) -> Time {
        self.caches_until.set(Time::ZERO);
        self.cache.drop_all();
        let lent_until = self.lending.end();
        let hooks = self.hooks();
        if let Some(recall) = &hooks.recall {
            recall.all_invalidated();
        }
        if let Some(listener) = &hooks.listener {
            listener.all_invalidated();
        }
        lent_until
    }

    pub(super) fn lose_session(&self, client: ClientId) {
        if self.session.client() != client {
            return; // The next one is not concerned.
        }
        // First the connection: nothing shall travel on it under the next uuid.
        if let Some(conn) = self.contact.borrow().as_ref() {
            conn.close();
        }
        if !self.session.lose(client) {
            return;
        }
        tracing::warn!(%client, "session expired: buffered writes of open files are lost");
        self.behind_lost(client);
        self.drop_caches();
        let hooks = self.hooks();
        if let Some(recall) = &hooks.recall {
            recall.session_lost();
        }
        if let Some(listener) = &hooks.listener {
            listener.session_lost();
        }
    }

    pub(super) fn invalidated(&self, touched: &[Touched], as_of: LogIndex, mut ack: Ack) {
        self.cache.invalidate(touched);
        if touched.iter().any(|t| t.ino == Ino::SOLE) {
            ack.not_before(self.lending.end());
            // Nothing is queued from here on.
            ack.not_before_over(self.behind.outstanding());
        }
        let hooks = self.hooks();
        if let Some(recall) = &hooks.recall {
            recall.invalidated(touched, as_of);
        }
        match &hooks.listener {
            Some(listener) => listener.invalidated(touched, ack),
            None => drop(ack),
        }
    }

    /// Taken before an open is asked for whose inode is not known yet.
    pub(super) fn moment(&self) -> OpenMoment {
        OpenMoment {
            token: self.cache_token(),
            recalls: self.recalls.load(Ordering::Acquire),
        }
    }

    /// Something was heard since that may concern `ino`: another session opened or changed it.
    #[must_use]
    pub fn has_met(&self, moment: OpenMoment, ino: Ino) -> bool {
        moment.recalls != self.recalls.load(Ordering::Acquire)
            || !self.is_current(moment.token, ino)
    }

    /// A file made behind is not open at the master.
    pub(super) fn unopened(&self, ino: Ino) {
        if let Some(recall) = &self.hooks().recall {
            recall.unopened(ino);
        }
    }

    /// A change that a program was told of as done will not be.
    pub(super) fn tell_lost(&self, what: &str) {
        if let Some(listener) = &self.hooks().listener {
            listener.change_lost(what);
        }
    }

    pub(super) fn recalled(&self, ino: Ino, shared: bool, ack: Ack) {
        // Before anybody looks for the file: who finds it later sees the count.
        self.recalls.fetch_add(1, Ordering::AcqRel);
        match &self.hooks().recall {
            Some(recall) => recall.recall(ino, shared, ack),
            // Nothing is buffered here.
            None => drop(ack),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

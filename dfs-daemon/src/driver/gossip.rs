//! Runs the membership machine on a UDP socket, on a thread of its own.
//!
//! The thread has its own current-thread runtime, so that no data work delays an answer to a probe.
//! One turn of its loop: 1. drain the socket; 2. take commands; 3. fire due timers (in this order,
//! so that a stall of this process accuses nobody); 4. publish the list; 5. sleep until the next
//! timer, datagram or command.
//!
//! A new incarnation is durable before anything is sent with it: while it cannot be written, the
//! node is silent. Known peers are written by a helper thread, since a slow disk must not delay
//! answers.
//!
//! Changes are logged under the target `membership`: `member joined`, `member failed` and so on,
//! with the node and the time.
use bytes::Bytes;
use dfs_core::membership::{
    Bandwidth, ConfigError, Member, MemberAction, MemberChange, MemberEvent, MemberNotice,
    Membership, MembershipConfig, MembershipStats, NodeIdentity, NodeIdentityFile, Peer, PeerBook,
    TimerToken, Zone,
};
use dfs_core::net::auth::{ClusterKey, DatagramSeal};
use dfs_core::net::clock::{boottime, unix_ms_of};
use dfs_core::net::udp::{SealedUdp, UdpDrops, bind_udp};
use dfs_core::store::Disk;
use dfs_core::types::{ClusterId, Incarnation, NodeId, StoreId, Time};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Notices kept for a subscriber that is behind.
const NOTICES: usize = 1024;
/// Datagrams handled before timers and commands get their turn in any case.
const DRAIN_MAX: usize = 4096;
/// Distance between attempts to write an incarnation that could not be written.
const PERSIST_RETRY: Duration = Duration::from_millis(500);
/// How long a goodbye may take.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Settings of the gossip driver.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// Where to listen for datagrams; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The address others are told; the bound one if `None` (then it must not be unspecified).
    pub advertise: Option<SocketAddr>,
    /// The address for connections that others are told.
    pub tcp: SocketAddr,
    /// This node's store.
    pub store: StoreId,
    /// This node's failure domain.
    pub zone: Zone,
    /// Timing.
    pub membership: MembershipConfig,
    /// Members to contact, besides those remembered on disk.
    pub join: Vec<SocketAddr>,
}

/// Why the driver could not start. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The socket.
    #[error("cannot listen for membership datagrams on {addr}: {cause}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The operating system's words.
        cause: std::io::Error,
    },
    /// Others could not answer.
    #[error("listening on {addr}: others need an address to answer; set the advertised address")]
    Unspecified {
        /// The address.
        addr: SocketAddr,
    },
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No thread or runtime.
    #[error("cannot start the membership thread: {0}")]
    Thread(std::io::Error),
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GossipStats {
    /// Of the machine.
    pub machine: MembershipStats,
    /// Of the socket.
    pub drops: UdpDrops,
}

#[derive(Debug)]
enum Command {
    Join(Vec<SocketAddr>),
    Leave(oneshot::Sender<()>),
    Doubt(SocketAddr),
    Stop,
}

/// What the thread publishes.
#[derive(Debug)]
struct Published {
    members: Arc<Vec<Member>>,
    identity: NodeIdentity,
    log: VecDeque<MemberNotice>,
    stats: GossipStats,
}

#[derive(Debug)]
struct Shared {
    published: Mutex<Published>,
    notices: broadcast::Sender<MemberNotice>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn published(&self) -> MutexGuard<'_, Published> {
        // Only whole values are stored, so a panic elsewhere leaves nothing half done.
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running driver. Clones share it; when the last one is dropped it stops without a goodbye.
#[derive(Debug, Clone)]
pub struct GossipHandle {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

impl GossipHandle {
    /// The member list in the order of ids, this node included. A snapshot.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.shared.published().members.clone()
    }

    /// True if `node` is listed as alive or suspect.
    #[must_use]
    pub fn is_active(&self, node: NodeId) -> bool {
        let members = self.members();
        let row = members.binary_search_by_key(&node, |m| m.id);
        row.is_ok_and(|i| members[i].state.is_active())
    }

    /// Notices from now on. A subscriber that falls 1024 behind is told so and reads the list.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<MemberNotice> {
        self.shared.notices.subscribe()
    }

    /// The last notices, oldest first. [`unix_ms_of`] turns their times into wall time.
    #[must_use]
    pub fn log(&self) -> Vec<MemberNotice> {
        self.shared.published().log.iter().copied().collect()
    }

    /// This node in its current incarnation, which rises when the cluster declared it dead
    /// ([`MemberChange::Renewed`] tells).
    #[must_use]
    pub fn identity(&self) -> NodeIdentity {
        self.shared.published().identity.clone()
    }

    /// The incarnation of [`GossipHandle::identity`].
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.published().identity.incarnation
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> GossipStats {
        self.shared.published().stats
    }

    /// Contacts these members too, now and whenever this node is alone.
    pub fn join(&self, addrs: Vec<SocketAddr>) {
        // A stopped driver joins nobody.
        let _ = self.commands.send(Command::Join(addrs));
    }

    /// A connection to this address broke or was refused: its member is looked at now.
    pub fn doubt(&self, tcp: SocketAddr) {
        // A stopped driver looks at nobody.
        let _ = self.commands.send(Command::Doubt(tcp));
    }

    /// Says goodbye to everybody and stops; others list this node as Left. Returns when the
    /// goodbye is said (some 300 ms, at most 2 s).
    pub async fn leave(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() {
            // Ends with the thread in any case.
            let _ = wait.await;
        }
        self.reap();
    }

    /// Stops without a goodbye, as a crash would.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
        self.reap();
    }

    fn reap(&self) {
        let thread = self.shared.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(target: "membership", "the membership thread panicked");
        }
    }
}

/// Starts the driver. `identity` is open, so its incarnation is durable; `disk` remembers peers.
///
/// # Errors
/// [`GossipError`]; nothing was sent.
pub fn spawn(
    cfg: GossipConfig,
    identity: NodeIdentityFile,
    key: &ClusterKey,
    cluster: ClusterId,
    disk: Arc<dyn Disk>,
    bandwidth: Arc<Bandwidth>,
) -> Result<GossipHandle, GossipError> {
    let bind_error = |cause| GossipError::Bind {
        addr: cfg.bind,
        cause,
    };
    let socket = bind_udp(cfg.bind).map_err(bind_error)?;
    let bound = socket.local_addr().map_err(bind_error)?;
    let mut gossip = cfg.advertise.unwrap_or(bound);
    if gossip.port() == 0 {
        gossip.set_port(bound.port());
    }
    if gossip.ip().is_unspecified() {
        return Err(GossipError::Unspecified { addr: gossip });
    }
    let me = NodeIdentity {
        id: identity.id(),
        incarnation: identity.incarnation(),
        gossip,
        tcp: cfg.tcp,
        store: cfg.store,
        zone: cfg.zone,
    };
    let peers = PeerBook::load(&*disk, PeerBook::PATH).unwrap_or_else(|cause| {
        tracing::warn!(target: "membership", %cause, "known peers are lost, relying on join addresses");
        PeerBook::default()
    });
    let log_max = cfg.membership.log_max;
    let machine = Membership::new(
        cfg.membership,
        me.clone(),
        peers,
        rand::random(),
        boottime(),
    )?;
    let shared = Arc::new(Shared {
        published: Mutex::new(Published {
            members: Arc::new(machine.list().iter().cloned().collect()),
            identity: me.clone(),
            log: VecDeque::new(),
            stats: GossipStats::default(),
        }),
        notices: broadcast::Sender::new(NOTICES),
        thread: Mutex::new(None),
    });
    let (commands, command_rx) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GossipError::Thread)?;
    let port = {
        let _inside = runtime.enter();
        let seal = DatagramSeal::new(key, cluster);
        SealedUdp::new(socket, seal, me.id, bandwidth).map_err(GossipError::Thread)?
    };
    let peers_writer = PeersWriter::spawn(disk).map_err(GossipError::Thread)?;
    let task = Task {
        machine,
        port,
        identity,
        shared: shared.clone(),
        log_max,
        peers_writer,
        timers: BTreeSet::new(),
        published_revision: 0,
        silent: None,
        goodbye: None,
        departed: false,
    };
    let join = cfg.join;
    let thread = std::thread::Builder::new()
        .name("membership".to_owned())
        .spawn(move || runtime.block_on(task.run(join, command_rx)))
        .map_err(GossipError::Thread)?;
    tracing::info!(
        target: "membership",
        node = %me.id, incarnation = %me.incarnation, gossip = %me.gossip, "membership started"
    );
    *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(GossipHandle { shared, commands })
}

/// What the membership thread owns.
struct Task {
    machine: Membership,
    port: SealedUdp,
    identity: NodeIdentityFile,
    shared: Arc<Shared>,
    log_max: usize,
    peers_writer: PeersWriter,
    timers: BTreeSet<(Time, TimerToken)>,
    published_revision: u64,
    /// The incarnation that could not be written yet and when to try again; meanwhile nothing is
    /// sent.
    silent: Option<(Incarnation, Time)>,
    goodbye: Option<(oneshot::Sender<()>, Time)>,
    departed: bool,
}

impl Task {
    async fn run(mut self, join: Vec<SocketAddr>, mut commands: mpsc::UnboundedReceiver<Command>) {
        self.event(MemberEvent::Start);
        if !join.is_empty() {
            self.event(MemberEvent::Join { addrs: join });
        }
        loop {
            let more = self.drain();
            loop {
                match commands.try_recv() {
                    Ok(Command::Join(addrs)) => self.event(MemberEvent::Join { addrs }),
                    Ok(Command::Doubt(tcp)) => self.event(MemberEvent::Doubt { tcp }),
                    Ok(Command::Leave(done)) => {
                        self.goodbye = Some((done, boottime() + LEAVE_MAX));
                        self.event(MemberEvent::Leave);
                    }
                    Ok(Command::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => return,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
            }
            self.fire_due();
            self.retry_persist();
            self.publish();
            let late = |(_, until): &(_, Time)| boottime() >= *until;
            if self.departed || self.goodbye.as_ref().is_some_and(late) {
                if let Some((done, _)) = self.goodbye.take() {
                    let _ = done.send(());
                }
                return;
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let sleep = self.time_to_next();
            tokio::select! {
                ready = self.port.readable() => {
                    if let Err(cause) = ready {
                        tracing::error!(target: "membership", %cause, "membership socket is gone");
                        return;
                    }
                }
                () = tokio::time::sleep(sleep) => {}
                command = commands.recv() => match command {
                    Some(Command::Join(addrs)) => self.event(MemberEvent::Join { addrs }),
                    Some(Command::Doubt(tcp)) => self.event(MemberEvent::Doubt { tcp }),
                    Some(Command::Leave(done)) => {
                        self.goodbye = Some((done, boottime() + LEAVE_MAX));
                        self.event(MemberEvent::Leave);
                    }
                    Some(Command::Stop) | None => return,
                }
            }
        }
    }

    /// Hands over what waits in the socket; true if more may wait.
    fn drain(&mut self) -> bool {
        for _ in 0..DRAIN_MAX {
            match self.port.try_recv() {
                (Some((from, bytes)), _) => self.datagram(from, bytes),
                (None, true) => {}
                (None, false) => return false,
            }
        }
        true
    }

    fn datagram(&mut self, from: SocketAddr, bytes: Bytes) {
        self.event(MemberEvent::Datagram { from, bytes });
    }

    fn fire_due(&mut self) {
        // Only what is due by now: a machine that sets a timer for "now" cannot hold the loop.
        let now = boottime();
        while let Some(&(due, token)) = self.timers.first() {
            if due > now {
                break;
            }
            self.timers.pop_first();
            self.event(MemberEvent::Timer(token));
        }
    }

    fn time_to_next(&self) -> Duration {
        let timer = self.timers.first().map(|(due, _)| *due);
        let retry = self.silent.map(|(_, at)| at);
        let leave = self.goodbye.as_ref().map(|(_, until)| *until);
        let next = [timer, retry, leave].into_iter().flatten().min();
        next.map_or(Duration::from_secs(3600), |due| due.since(boottime()))
    }

    fn event(&mut self, event: MemberEvent) {
        let now = boottime();
        let mut out = Vec::new();
        self.machine.handle(now, event, &mut out);
        for action in out {
            match action {
                MemberAction::PersistIncarnation(incarnation) => self.persist(incarnation),
                MemberAction::PersistPeers(peers) => self.peers_writer.write(peers),
                MemberAction::Send { to, bytes } => {
                    if self.silent.is_none() {
                        self.port.send(to, &bytes);
                    }
                }
                MemberAction::SetTimer { token, after } => {
                    self.timers.insert((now + after, token));
                }
                MemberAction::Notify(notice) => self.notify(notice),
                MemberAction::Departed => self.departed = true,
            }
        }
    }

    fn persist(&mut self, incarnation: Incarnation) {
        match self.identity.advance(incarnation) {
            Ok(()) => self.silent = None,
            Err(cause) => {
                tracing::error!(
                    target: "membership",
                    %cause, %incarnation, "cannot write the incarnation: this node stays silent"
                );
                self.silent = Some((incarnation, boottime() + PERSIST_RETRY));
            }
        }
    }

    fn retry_persist(&mut self) {
        if let Some((incarnation, at)) = self.silent
            && boottime() >= at
        {
            self.persist(incarnation);
        }
    }

    fn notify(&mut self, notice: MemberNotice) {
        log_notice(&notice);
        {
            let mut published = self.shared.published();
            if published.log.len() >= self.log_max {
                published.log.pop_front();
            }
            published.log.push_back(notice);
        }
        // The list is there before the news of it.
        self.publish();
        // Nobody may be listening.
        let _ = self.shared.notices.send(notice);
    }

    fn publish(&mut self) {
        let stats = GossipStats {
            machine: self.machine.stats(),
            drops: self.port.drops(),
        };
        let revision = self.machine.list().revision();
        let changed = revision != self.published_revision;
        let rows = changed.then(|| Arc::new(self.machine.list().iter().cloned().collect()));
        self.published_revision = revision;
        let mut published = self.shared.published();
        published.stats = stats;
        if let Some(rows) = rows {
            published.members = rows;
            published.identity = self.machine.identity().clone();
        }
    }
}

fn log_notice(notice: &MemberNotice) {
    let (node, incarnation) = (notice.node, notice.incarnation);
    let unix_ms = unix_ms_of(notice.at);
    macro_rules! say {
        ($level:ident, $text:literal $(, $($extra:tt)+)?) => {
            tracing::$level!(
                target: "membership", %node, %incarnation, unix_ms, $($($extra)+,)? $text
            )
        };
    }
    match notice.what {
        MemberChange::Joined => say!(info, "member joined"),
        MemberChange::Restarted { previous } => say!(info, "member restarted", %previous),
        MemberChange::Suspected => say!(info, "member suspected"),
        MemberChange::Recovered => say!(info, "member recovered"),
        MemberChange::Failed => say!(warn, "member failed"),
        MemberChange::Left => say!(info, "member left"),
        MemberChange::Renewed { previous } => {
            say!(warn, "this node was declared failed and is back", %previous);
        }
    }
}

/// Writes known peers on a thread of its own; the newest list wins.
#[derive(Debug)]
struct PeersWriter {
    lists: Option<std_mpsc::Sender<Vec<Peer>>>,
    thread: Option<JoinHandle<()>>,
}

impl PeersWriter {
    fn spawn(disk: Arc<dyn Disk>) -> std::io::Result<Self> {
        let (lists, waiting) = std_mpsc::channel::<Vec<Peer>>();
        let thread = std::thread::Builder::new()
            .name("peers".to_owned())
            .spawn(move || {
                while let Ok(list) = waiting.recv() {
                    let newest = waiting.try_iter().last().unwrap_or(list);
                    if let Err(cause) = PeerBook::store(&*disk, PeerBook::PATH, &newest) {
                        tracing::warn!(target: "membership", %cause, "known peers not written");
                    }
                }
            })?;
        Ok(Self {
            lists: Some(lists),
            thread: Some(thread),
        })
    }

    fn write(&self, peers: Vec<Peer>) {
        if let Some(lists) = &self.lists {
            // The thread lives as long as the channel.
            let _ = lists.send(peers);
        }
    }
}

impl Drop for PeersWriter {
    /// Waits until the last list is on disk.
    fn drop(&mut self) {
        self.lists = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the runtime; peers are only a convenience.
            let _ = thread.join();
        }
    }
}

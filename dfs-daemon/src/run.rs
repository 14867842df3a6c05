//! One daemon from start to stop.
//!
//! Start-up, in this order: 1. the key (made at bootstrap); 2. the store, which locks the data
//! directory and refuses another cluster's; 3. the identity, whose incarnation is durable before
//! anything is sent; 4. the TCP port; 5. membership; 6. the replica; 7. the voter, if this node is one;
//! 8. accepting connections. Stopping goes the other way: no new requests; the voter hands its lead
//! over; the replica finishes what waits for the disk.
use crate::bootstrap;
use crate::config::{Config, Rejoin};
use crate::driver::WatchedDisk;
use crate::driver::ballast::{Ballast, GuardedDisk};
use crate::driver::calls::Calls;
use crate::driver::disk_use::DiskGauge;
use crate::driver::gossip::{self, GossipConfig, GossipHandle};
use crate::driver::leader_book::LeaderBook;
use crate::driver::master::{MasterDriver, MasterSetup};
use crate::driver::namespace::NamespaceKeeper;
use crate::driver::node_service::{NodeFacts, NodeService};
use crate::driver::replica::{CallDone, Caller, ReplicaDriver, ReplicaDriverConfig, ReplicaHandle};
use crate::driver::test_clock;
use crate::router::Router;
use anyhow::{Context, bail};
use dfs_core::membership::{Bandwidth, MembershipConfig, NodeIdentityFile, Zone};
use dfs_core::net::auth::ClusterKey;
use dfs_core::net::clock::{boottime, unix_ms};
use dfs_core::net::conn::{ConnOptions, PushHandler};
use dfs_core::net::handshake::{Credentials, Purpose};
use dfs_core::net::pool::{Pool, PoolConfig};
use dfs_core::net::server::{Server, ServerConfig, ServerHandle};
use dfs_core::replica::ReplicaConfig;
use dfs_core::store::{Disk, FileDisk, StoreDir, StoreOptions, TableCounts};
use dfs_core::types::{NodeId, StoreId};
use dfs_core::wire::Push;
use dfs_core::wire::rpc::Call;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

/// Object bytes that may wait for the disk in one daemon.
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// A running daemon.
pub struct Daemon {
    server: Server,
    gossip: GossipHandle,
    replica: ReplicaDriver,
    master: MasterDriver,
    ballast: Arc<Ballast>,
    /// Keeps the ballast.
    keeper: tokio::task::JoinHandle<()>,
    /// Takes namespace snapshots.
    snapshots: Option<tokio::task::JoinHandle<()>>,
    stop: Arc<Notify>,
    addr: SocketAddr,
}

/// Hands the master's pushes to the replica, once there is one.
#[derive(Default)]
struct Pokes(OnceLock<ReplicaHandle>);

impl PushHandler for Pokes {
    fn push(&self, push: Push) {
        if let (Push::Poke, Some(replica)) = (push, self.0.get()) {
            replica.poke();
        }
    }
}

struct ReplicaCalls(Calls);

impl Caller for ReplicaCalls {
    fn call(&self, call: Call, done: CallDone) {
        self.0
            .spawn(call, move |_token, result| done.finish(result));
    }
}

impl Daemon {
    /// Starts a daemon, in the order of the module docs. Must be called on a multi-threaded runtime.
    ///
    /// # Errors
    /// What, why and what to do next; nothing is left running.
    #[allow(clippy::too_many_lines)] // One list of steps, each needing the ones before.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        if let Some(file) = &config.store.test_clock_file {
            test_clock::follow(file);
        }
        // First, so that an address that is taken leaves no trace.
        let listener = tokio::net::TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {} (TCP)", config.listen))?;
        std::fs::create_dir_all(&config.data)
            .with_context(|| format!("data directory {}", config.data.display()))?;
        let bare: Arc<dyn Disk> = Arc::new(FileDisk::open(&config.data)?);
        let capacity = config.store.capacity_bytes;
        let ballast = Ballast::open(Arc::clone(&bare), (capacity > 0).then_some(capacity))?;
        let hasty = GuardedDisk::hasty(Arc::clone(&bare), Arc::clone(&ballast));
        let hasty: Arc<dyn Disk> = Arc::new(hasty);
        let disk: Arc<dyn Disk> = Arc::new(GuardedDisk::new(bare, Arc::clone(&ballast)));
        let begins = config.bootstrap
            && bootstrap::decide(&*disk, &config.data, &config.key_file, config.key_unused)?;
        let key = load_key(config, begins)?;
        let cluster = key.cluster_id();
        let table_counts = Arc::<TableCounts>::default();
        let dir = open_store(config, &key, table_counts.clone(), &ballast)?;
        let fresh = NodeId(rand::random());
        let path = NodeIdentityFile::PATH;
        let identity = NodeIdentityFile::open(hasty.clone(), path, fresh, unix_ms())?;
        let (node, store) = (identity.id(), dir.meta.store);
        let addr = config.advertise.unwrap_or(listener.local_addr()?);
        let bandwidth = Arc::new(Bandwidth::new(boottime()));
        let incarnation = identity.incarnation();
        let gossip = gossip::spawn(
            gossip_config(config, addr, store)?,
            identity,
            &key,
            cluster,
            hasty.clone(),
            bandwidth.clone(),
        )?;

        let pokes = Arc::new(Pokes::default());
        let pool = |purpose, pushes| {
            let bandwidth = Some(bandwidth.clone());
            let options = ConnOptions {
                bandwidth,
                pushes,
                purpose,
                ..ConnOptions::default()
            };
            let credentials = Credentials {
                key: key.clone(),
                cluster: Some(cluster),
            };
            let doubting = gossip.clone();
            Pool::new(credentials, options, PoolConfig::default())
                .telling_of_trouble(Arc::new(move |addr| doubting.doubt(addr)))
        };
        let metadata = pool(
            Purpose::General,
            Some(pokes.clone() as Arc<dyn PushHandler>),
        );
        let book = LeaderBook::new(metadata.clone());
        let runtime = tokio::runtime::Handle::current();
        let calls = Calls::new(
            runtime.clone(),
            metadata,
            pool(Purpose::Repair, None),
            book.clone(),
        );
        let server = ServerHandle::new(Some(bandwidth.clone()));

        let mut machine = ReplicaConfig::new(store, node, incarnation, addr);
        machine.zone.clone_from(&config.zone);
        machine.device = device_of(&config.data)?;
        if config.store.capacity_bytes > 0 {
            // A part of the device that is its own is shared with nobody.
            machine.device ^= (node.0 as u64).rotate_left(1) | 1;
        }
        machine.waiting_bytes_max = WAITING_BYTES_MAX;
        let hours = u64::from(config.store.scrub_period_hours);
        machine.scrub_period = Duration::from_secs(hours * 3600);
        machine.table_counts = table_counts.clone();
        let voting = machine.voting.clone();
        machine.quarantine = Duration::from_millis(config.repair.quarantine_ms);
        machine.rejoin_wipe = config.repair.rejoin == Rejoin::Wipe;
        machine.set_aside.clone_from(&dir.set_aside);
        let replica = ReplicaDriver::start(
            dir,
            machine,
            &ReplicaDriverConfig::default(),
            Arc::new(server.clone()),
            Arc::new(ReplicaCalls(calls.clone())),
        )?;
        // Nobody else sets it.
        let _ = pokes.0.set(replica.handle());

        let disk_gauge = DiskGauge::new(&config.data, table_counts.clone());
        let setup = MasterSetup {
            node,
            addr,
            cluster,
            config: config.clone(),
            bootstrap: begins,
            // A voter that waited for room would go on leading without a log: it ends, another leads, and
            // it comes back when there is room.
            disk: hasty,
            table_counts,
            ballast: ballast.size(),
            voting: voting.clone(),
        };
        let master = MasterDriver::start(setup, server.clone(), calls, book.clone())?;
        let stop = Arc::new(Notify::new());
        let facts = NodeFacts {
            node,
            store,
            cluster,
            data_dir: config.data.display().to_string(),
            tcp: addr,
        };
        let ids = (cluster, store);
        let namespace = NamespaceKeeper::new(ids, book.clone(), replica.handle());
        let every = Duration::from_secs(config.store.namespace_snapshot_secs);
        let snapshots = (!every.is_zero()).then(|| runtime.spawn(namespace.clone().run(every)));
        let router = Router {
            server: server.clone(),
            node: NodeService::new(facts, gossip.clone(), bandwidth, book.clone(), voting),
            replica: replica.handle(),
            master: master.handle(),
            gossip: gossip.clone(),
            namespace,
            disk: Arc::new(disk_gauge),
            stop: stop.clone(),
            runtime: runtime.clone(),
        };
        let credentials = Credentials {
            key,
            cluster: Some(cluster),
        };
        let limits = ServerConfig::default();
        let server = Server::start(listener, &credentials, limits, server, Arc::new(router))?;
        runtime.spawn(follow_members(gossip.clone(), book, master.handle()));
        tracing::info!(%node, %store, %addr, %cluster, "daemon ready");
        Ok(Self {
            server,
            gossip,
            replica,
            master,
            keeper: runtime.spawn(Arc::clone(&ballast).keep()),
            ballast,
            snapshots,
            stop,
            addr,
        })
    }

    /// Where it takes connections.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns when somebody asked this node to leave.
    pub async fn asked_to_stop(&self) {
        self.stop.notified().await;
    }

    /// Returns when the store was met damaged beyond use: a new start sets it aside.
    pub async fn store_lost(&self) {
        self.replica.lost().notified().await;
    }

    /// Stops without leaving the cluster: it is expected back.
    pub async fn stop(self) {
        let Self {
            server,
            gossip,
            replica,
            master,
            ballast,
            keeper,
            snapshots,
            ..
        } = self;
        keeper.abort();
        if let Some(task) = snapshots {
            task.abort();
        }
        let stopped = tokio::task::spawn_blocking(move || {
            // Nothing waits for room any more.
            ballast.stop();
            master.stop();
            drop(server);
            gossip.stop();
            replica.stop();
        });
        if stopped.await.is_err() {
            tracing::error!("stopping panicked");
        }
    }
}

fn load_key(config: &Config, begins: bool) -> anyhow::Result<ClusterKey> {
    let path = &config.key_file;
    if !path.exists() {
        if !begins {
            bail!(
                "cluster key {} does not exist: copy it from a node of the cluster and name it with \
                 --key-file, or begin a new cluster with --bootstrap",
                path.display()
            );
        }
        let key = ClusterKey::generate(path)?;
        tracing::info!(
            "made the cluster key {}; other nodes need a copy of it",
            path.display()
        );
        return Ok(key);
    }
    Ok(ClusterKey::load(path)?)
}

fn open_store(
    config: &Config,
    key: &ClusterKey,
    table_counts: Arc<TableCounts>,
    ballast: &Arc<Ballast>,
) -> anyhow::Result<StoreDir> {
    let root = config.data.join("store");
    let is_empty = !root.exists();
    if is_empty && !config.bootstrap && config.join.is_empty() {
        bail!(
            "{} holds no node yet: begin a cluster with --bootstrap, or join one with --join IP:PORT",
            config.data.display()
        );
    }
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let capacity = config.store.capacity_bytes;
    let defaults = StoreOptions::default();
    let (permille, at_most) = match config.store.reserve_percent {
        Some(percent) => (u64::from(percent) * 10, u64::MAX),
        None => (defaults.reserve_permille, defaults.reserve_bytes_max),
    };
    // What is written with a full device must fit the ballast: twice a flush, as tables are kept
    // twice, and a segment of the journal.
    let part = |of| usize::try_from(ballast.size() / of).unwrap_or(usize::MAX);
    let options = StoreOptions {
        flush_bytes: defaults.flush_bytes.min(part(4)),
        segment_bytes: defaults.segment_bytes.min(ballast.size() / 8).max(64 << 10),
        reserve_permille: permille,
        reserve_bytes_max: at_most,
        capacity_bytes: (capacity > 0).then_some(capacity),
        cache_bytes: config.store.cache_mib.max(1) << 20,
        table_counts,
        is_only_copy: config.cluster.copies == 1,
    };
    let fresh = StoreId(rand::random());
    let delay = Duration::from_millis(config.store.test_slow_disk_ms);
    let watched = |disk| {
        let guarded = Arc::new(GuardedDisk::new(disk, Arc::clone(ballast)));
        Arc::new(WatchedDisk::new(guarded, delay)) as Arc<dyn Disk>
    };
    StoreDir::open_on(&root, key.cluster_id(), fresh, options, watched)
        .with_context(|| format!("store {}", root.display()))
}

fn gossip_config(config: &Config, tcp: SocketAddr, store: StoreId) -> anyhow::Result<GossipConfig> {
    let busy = config.repair.busy_host;
    Ok(GossipConfig {
        bind: config.listen,
        advertise: config.advertise_gossip.or(config.advertise),
        tcp,
        store,
        zone: Zone::new(config.zone.clone())?,
        membership: if busy {
            MembershipConfig::busy()
        } else {
            MembershipConfig::default()
        },
        join: config.join.clone(),
    })
}

/// Names the device below `path` so that no two machines name theirs alike.
fn device_of(path: &std::path::Path) -> anyhow::Result<u64> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let device = std::fs::metadata(path)?.dev();
    let mix = u64::from(dfs_core::types::crc32c(&boot)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Ok(mix ^ device)
}

/// Keeps the leader book's member list and tells the master how nodes look.
async fn follow_members(
    gossip: GossipHandle,
    book: LeaderBook,
    master: crate::driver::master::MasterHandle,
) {
    let mut notices = gossip.subscribe();
    loop {
        let members = gossip.members();
        let live = members.iter().filter(|m| m.state.is_active());
        book.set_members(live.map(|m| m.tcp).collect());
        for member in members.iter() {
            master.member(member.id, member.state);
        }
        let wait = tokio::time::timeout(Duration::from_secs(1), notices.recv()).await;
        if let Ok(Err(tokio::sync::broadcast::error::RecvError::Closed)) = wait {
            return;
        }
    }
}

//! A cluster in memory: stores that keep objects, marks and stamps, and a master that applies
//! commits at one point. Mounts talk to it through [`FakeMount`]; faults are switched by tests.
mod master;
mod mount;

use crate::client::file::backend::Backend;
use crate::client::file::layer::FileLayer;
use crate::client::file::layout::LayoutCache;
use crate::client::file::{FileConfig, OpenFile, OpenMode};
use crate::types::{
    ChunkNo, ClientId, Epoch, Ino, LeaseSeq, LogIndex, OpId, PgInfo, PgMap, PgPhase, QuorumSizes,
    Revision, StoreId, Timestamp,
};
use crate::wire::master::Layout;
use master::{File, Master, Store};
use mount::FakeMount;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub(in crate::client::file) struct Cluster {
    master: Mutex<Master>,
    map: Arc<PgMap>,
}

impl Cluster {
    pub fn new() -> Arc<Self> {
        let members: Vec<StoreId> = (1..=3).map(StoreId).collect();
        let info = PgInfo {
            epoch: Epoch(1),
            members: members.clone(),
            filling: vec![],
            prior: vec![],
            phase: PgPhase::Active,
        };
        let map = PgMap {
            version: LogIndex(1),
            quorum: QuorumSizes::DEFAULT,
            pgs: vec![info; 4],
        };
        let mut master = Master {
            notes: true,
            ..Master::default()
        };
        for id in members {
            master.stores.insert(id, Store::default());
        }
        Arc::new(Self {
            master: Mutex::new(master),
            map: Arc::new(map),
        })
    }

    pub fn master(&self) -> MutexGuard<'_, Master> {
        self.master.lock().unwrap()
    }

    pub fn create(&self, ino: u64) -> Ino {
        let layout = Layout {
            revision: Revision(0),
            op: OpId::default(),
            size: 0,
            chunks: vec![],
            next: None,
        };
        let file = File {
            layout: LayoutCache::new(layout, ChunkNo(0), 64),
            lease: LeaseSeq(1),
            mtime: Timestamp::default(),
            opens: BTreeMap::new(),
            interest: BTreeSet::new(),
            sealed: vec![],
            versions: BTreeMap::new(),
        };
        self.master().files.insert(Ino(ino), file);
        Ino(ino)
    }

    pub fn mount(self: &Arc<Self>, client: u64, config: FileConfig) -> Arc<FileLayer> {
        let mount = Arc::new(FakeMount {
            cluster: Arc::clone(self),
            client: AtomicU64::new(client),
            next_op: AtomicU64::new(1),
            start: tokio::time::Instant::now(),
            caches_valid: AtomicBool::new(true),
            layer: Mutex::default(),
        });
        self.master()
            .mounts
            .insert(ClientId(client.into()), Arc::downgrade(&mount));
        let layer = FileLayer::over(Arc::clone(&mount) as Arc<dyn Backend>, config);
        *mount.layer.lock().unwrap() = Arc::downgrade(&layer);
        layer
    }

    fn layer_of(&self, client: ClientId) -> Option<Arc<FileLayer>> {
        let mount = self.master().mounts.get(&client)?.upgrade()?;
        let held = mount.layer.lock().unwrap();
        held.upgrade()
    }

    /// The session is over; the mount goes on under another one.
    pub fn expire(&self, client: u64, fresh: u64) {
        let mount = self.begin_next_session(client, fresh);
        let layer = mount.layer.lock().unwrap().upgrade().unwrap();
        layer.session_lost();
    }

    /// The first half of that: what the mount begins now is of the other session.
    pub fn begin_next_session(&self, client: u64, fresh: u64) -> Arc<FakeMount> {
        let mut master = self.master();
        let mount = master.mounts.remove(&ClientId(client.into())).unwrap();
        for file in master.files.values_mut() {
            file.opens.remove(&ClientId(client.into()));
        }
        master.mounts.insert(ClientId(fresh.into()), mount.clone());
        drop(master);
        let mount = mount.upgrade().unwrap();
        mount.client.store(fresh, Ordering::SeqCst);
        mount
    }
}

pub(in crate::client::file) async fn open(
    layer: &Arc<FileLayer>,
    ino: Ino,
    write: bool,
) -> Arc<OpenFile> {
    let mode = if write {
        OpenMode::WRITE
    } else {
        OpenMode::READ
    };
    layer.open(ino, mode).await.unwrap()
}

pub(in crate::client::file) async fn read_all(file: &OpenFile) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let got = file.read(out.len() as u64, 300_000).await.unwrap().concat();
        if got.is_empty() {
            return out;
        }
        out.extend(got);
    }
}

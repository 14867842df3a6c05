//! What `--json` prints. Field names are those of the wire structs; ids are hexadecimal strings,
//! addresses strings, names and paths escaped strings (see [`escape`]), times of files ISO 8601
//! strings, other times milliseconds since the Unix epoch (`_ms`).
use crate::format::{escape, kind, time_iso, unix_ms};
use crate::space::NodeSpace;
use dfs_core::types::{Attr, Timestamp, VersionInfo};
use dfs_core::wire::master::{ClusterStatus, Health, StoreInfo};
use dfs_core::wire::node::{
    BandwidthInfo, ClassTraffic, MemberEventInfo, MemberInfo, MemberState, NodeIdentityInfo,
};
use dfs_core::wire::repair::RepairRecord;
use serde::Serialize;
use std::collections::BTreeMap;

fn iso(t: Timestamp) -> String {
    time_iso(t, 9)
}

/// Attributes of a file or directory.
#[derive(Debug, Serialize)]
pub struct AttrView {
    /// Path or name, if it was asked by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Inode number.
    pub ino: u64,
    /// `file`, `dir`, ...
    pub kind: &'static str,
    /// Permission bits, as a number.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Device number.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that extents cover.
    pub allocated: u64,
    /// Access time.
    pub atime: String,
    /// Content change time.
    pub mtime: String,
    /// Attribute change time.
    pub ctime: String,
    /// Creation time.
    pub crtime: String,
    /// Committed puts.
    pub revision: u64,
    /// Newest version.
    pub version: u64,
    /// Has extended attributes.
    pub has_xattrs: bool,
    /// Target of a symlink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl AttrView {
    /// Of attributes, shown under a name.
    #[must_use]
    pub fn new(name: Option<&[u8]>, a: &Attr, target: Option<&[u8]>) -> Self {
        Self {
            name: name.map(escape),
            ino: a.ino.0,
            kind: kind(a.kind),
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            nlink: a.nlink,
            rdev: a.rdev,
            size: a.size,
            allocated: a.allocated,
            atime: iso(a.atime),
            mtime: iso(a.mtime),
            ctime: iso(a.ctime),
            crtime: iso(a.crtime),
            revision: a.revision.0,
            version: a.version.0,
            has_xattrs: a.has_xattrs,
            target: target.map(escape),
        }
    }
}

/// One version of a file.
#[derive(Debug, Serialize)]
pub struct VersionView {
    /// Number.
    pub version: u64,
    /// Inode that holds the content.
    pub ino: u64,
    /// Internal version there.
    pub inode_version: u64,
    /// Revision.
    pub revision: u64,
    /// Bytes.
    pub size: u64,
    /// Content time.
    pub mtime: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// It is the current content.
    pub is_current: bool,
    /// When the name was removed.
    pub deleted_at: Option<String>,
}

impl From<&VersionInfo> for VersionView {
    fn from(v: &VersionInfo) -> Self {
        Self {
            version: v.version.0,
            ino: v.ino.0,
            inode_version: v.inode_version.0,
            revision: v.revision.0,
            size: v.size,
            mtime: iso(v.mtime),
            mode: v.mode,
            uid: v.uid,
            gid: v.gid,
            is_current: v.is_current,
            deleted_at: v.deleted_at.map(iso),
        }
    }
}

/// One member as a node sees it.
#[derive(Debug, Serialize)]
pub struct MemberView {
    /// Node id.
    pub node: String,
    /// Run.
    pub incarnation: u64,
    /// Store id.
    pub store: String,
    /// TCP address.
    pub addr: String,
    /// Gossip address.
    pub gossip: String,
    /// Failure domain.
    pub zone: String,
    /// `alive`, `suspect`, `down`, `left`.
    pub state: &'static str,
    /// Since when.
    pub since_ms: u64,
}

/// `alive`, ...
#[must_use]
pub fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Left => "left",
    }
}

impl From<&MemberInfo> for MemberView {
    fn from(m: &MemberInfo) -> Self {
        Self {
            node: m.node.to_string(),
            incarnation: m.incarnation.0,
            store: m.store.to_string(),
            addr: m.tcp.to_string(),
            gossip: m.gossip.to_string(),
            zone: m.zone.clone(),
            state: member_state(m.state),
            since_ms: unix_ms(m.since),
        }
    }
}

/// One line of the membership log.
#[derive(Debug, Serialize)]
pub struct MemberEventView {
    /// When.
    pub at_ms: u64,
    /// Whom.
    pub node: String,
    /// The run of it.
    pub incarnation: u64,
    /// What happened.
    pub what: String,
}

impl From<&MemberEventInfo> for MemberEventView {
    fn from(e: &MemberEventInfo) -> Self {
        Self {
            at_ms: unix_ms(e.at),
            node: e.node.to_string(),
            incarnation: e.incarnation.0,
            what: e.what.clone(),
        }
    }
}

/// Who a node is.
#[derive(Debug, Serialize)]
pub struct IdView {
    /// Node id.
    pub node: String,
    /// Run.
    pub incarnation: u64,
    /// Store id.
    pub store: String,
    /// Cluster id.
    pub cluster: String,
    /// TCP address.
    pub addr: String,
    /// Gossip address.
    pub gossip: String,
    /// Raft id, if it votes or learns.
    pub raft_id: Option<u64>,
    /// Process.
    pub pid: u32,
    /// Data directory.
    pub data_dir: String,
    /// Program version.
    pub version: String,
}

impl From<&NodeIdentityInfo> for IdView {
    fn from(i: &NodeIdentityInfo) -> Self {
        Self {
            node: i.node.to_string(),
            incarnation: i.incarnation.0,
            store: i.store.to_string(),
            cluster: i.cluster.to_string(),
            addr: i.tcp.to_string(),
            gossip: i.gossip.to_string(),
            raft_id: i.raft_id.map(|r| r.0),
            pid: i.pid,
            data_dir: i.data_dir.clone(),
            version: i.version.clone(),
        }
    }
}

/// One store as the master sees it.
#[derive(Debug, Serialize)]
pub struct StoreView {
    /// Store id.
    pub store: String,
    /// Node id.
    pub node: String,
    /// Run.
    pub incarnation: u64,
    /// TCP address.
    pub addr: String,
    /// Heartbeats arrive.
    pub up: bool,
    /// Down since.
    pub down_since_ms: Option<u64>,
    /// Votes.
    pub voter: bool,
    /// Leads.
    pub leader: bool,
    /// Device size.
    pub total_bytes: u64,
    /// Free.
    pub free_bytes: u64,
    /// Objects' bytes.
    pub used_bytes: u64,
    /// PGs it is a member of.
    pub pgs: u32,
    /// Of those, still being filled.
    pub filling: u32,
    /// Notes it has not been told.
    pub behind: u64,
    /// Being taken out of service.
    pub draining: bool,
    /// It saw an I/O error.
    pub failed: bool,
    /// Its disk is much slower than the others'.
    pub slow: bool,
    /// It has no room for more.
    pub full: bool,
    /// Objects it should hold and has no room for.
    pub starved: u64,
    /// Milliseconds of a disk operation, rounded up; 0 if not known.
    pub disk_ms: u64,
    /// Bytes of objects read since its start.
    pub read_bytes: u64,
    /// What takes the space of its node, if it told in time.
    pub space: Option<NodeSpace>,
}

impl From<&StoreInfo> for StoreView {
    fn from(s: &StoreInfo) -> Self {
        Self {
            store: s.store.to_string(),
            node: s.node.to_string(),
            incarnation: s.incarnation.0,
            addr: s.addr.to_string(),
            up: s.up,
            down_since_ms: s.down_since.map(unix_ms),
            voter: s.voter,
            leader: s.leader,
            total_bytes: s.total_bytes,
            free_bytes: s.free_bytes,
            used_bytes: s.used_bytes,
            pgs: s.pgs,
            filling: s.filling,
            behind: s.behind,
            draining: s.draining,
            failed: s.failed,
            slow: s.slow,
            full: s.full,
            starved: s.starved,
            disk_ms: s.disk_ms,
            read_bytes: s.read_bytes,
            space: None,
        }
    }
}

/// `HEALTHY`, ...
#[must_use]
pub fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::AtRisk => "AT-RISK",
        Health::Unavailable => "UNAVAILABLE",
    }
}

/// PGs by phase.
#[derive(Debug, Default, Serialize)]
pub struct PgCounts {
    /// Complete.
    pub active: u32,
    /// Changing hands.
    pub fencing: u32,
    /// Serving while members are filled.
    pub copying: u32,
}

/// A session.
#[derive(Debug, Serialize)]
pub struct SessionView {
    /// Its uuid.
    pub client: String,
    /// Who it is.
    pub label: String,
}

/// What is left to copy.
#[derive(Debug, Default, Serialize)]
pub struct RepairLeft {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The cluster at a glance.
#[derive(Debug, Default, Serialize)]
pub struct StatusView {
    /// `HEALTHY`, `DEGRADED`, `AT-RISK` or `UNAVAILABLE`.
    pub health: &'static str,
    /// Why not healthy.
    pub reasons: Vec<String>,
    /// Worth mentioning.
    pub notices: Vec<String>,
    /// Stores.
    pub stores: Vec<StoreView>,
    /// PGs by phase.
    pub pgs: PgCounts,
    /// Raft term.
    pub term: u64,
    /// Applied index.
    pub applied: u64,
    /// Voters wanted.
    pub voters_wanted: u8,
    /// Live sessions.
    pub sessions: Vec<SessionView>,
    /// Repair is paused.
    pub repair_paused: bool,
    /// Left to copy.
    pub repair_left: RepairLeft,
    /// Entries in the delete queue.
    pub deletes_waiting: u64,
    /// Orphans held open.
    pub orphans: u64,
    /// Ranges of files that programs have locked.
    pub locks: u64,
    /// Requests that wait for one.
    pub lock_waits: u64,
    /// Capacity at N copies.
    pub total_bytes: u64,
    /// Free at N copies.
    pub free_bytes: u64,
    /// Live bytes, one copy.
    pub live_bytes: u64,
    /// Live inodes.
    pub inodes: u64,
}

impl From<&ClusterStatus> for StatusView {
    fn from(s: &ClusterStatus) -> Self {
        let session = |(client, label): &(dfs_core::types::ClientId, String)| SessionView {
            client: client.to_string(),
            label: label.clone(),
        };
        Self {
            health: health(s.health),
            reasons: s.reasons.clone(),
            notices: s.notices.clone(),
            stores: s.stores.iter().map(StoreView::from).collect(),
            pgs: PgCounts {
                active: s.pgs.0,
                fencing: s.pgs.1,
                copying: s.pgs.2,
            },
            term: s.term.0,
            applied: s.applied.0,
            voters_wanted: s.voters_wanted,
            sessions: s.sessions.iter().map(session).collect(),
            repair_paused: s.repair_paused,
            repair_left: RepairLeft {
                files: s.repair_left.0,
                bytes: s.repair_left.1,
            },
            deletes_waiting: s.deletes_waiting,
            orphans: s.orphans,
            locks: s.locks.0,
            lock_waits: s.locks.1,
            total_bytes: s.statfs.total_bytes,
            free_bytes: s.statfs.free_bytes,
            live_bytes: s.statfs.live_bytes,
            inodes: s.statfs.inodes,
        }
    }
}

/// One finished repair.
#[derive(Debug, Serialize)]
pub struct ReceiptView {
    /// Why.
    pub cause: String,
    /// Begin.
    pub began_ms: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
    /// Distinct files of which bytes were copied.
    pub files: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// PGs changed.
    pub pgs: u32,
    /// Lowest copy count met; 255 if no group was changed.
    pub lowest_copies: u8,
    /// Objects copied.
    pub objects: u64,
    /// Milliseconds by what it waited for: `grace`, `pause`, `room`, `leases`.
    pub waited_ms: BTreeMap<&'static str, u64>,
    /// Replicas wiped by a store that came back.
    pub wiped_replicas: u32,
    /// Objects deleted thereby.
    pub wiped_objects: u64,
}

impl From<&RepairRecord> for ReceiptView {
    fn from(r: &RepairRecord) -> Self {
        Self {
            cause: r.cause.clone(),
            began_ms: unix_ms(r.began),
            took_ms: r.took_ms,
            files: r.files,
            bytes: r.bytes,
            pgs: r.pgs,
            lowest_copies: if r.pgs == 0 { u8::MAX } else { r.lowest_copies },
            objects: r.objects,
            waited_ms: r.waited.iter().map(|(k, ms)| (k.word(), *ms)).collect(),
            wiped_replicas: r.wiped_groups,
            wiped_objects: r.wiped_objects,
        }
    }
}

/// Traffic of one node by class.
#[derive(Debug, Serialize)]
pub struct BandwidthView {
    /// Node id.
    pub node: String,
    /// TCP address.
    pub addr: String,
    /// When the counters were zero.
    pub since_ms: u64,
    /// UDP membership.
    pub gossip: ClassTraffic,
    /// Object payloads of clients.
    pub data: ClassTraffic,
    /// Master traffic.
    pub metadata: ClassTraffic,
    /// Copies between stores.
    pub repair: ClassTraffic,
}

impl BandwidthView {
    /// Of one node.
    #[must_use]
    pub fn new(node: String, addr: String, b: &BandwidthInfo) -> Self {
        Self {
            node,
            addr,
            since_ms: unix_ms(b.since),
            gossip: b.gossip,
            data: b.data,
            metadata: b.metadata,
            repair: b.repair,
        }
    }
}

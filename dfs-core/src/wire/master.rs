//! Clients and stores to the master, and what the master pushes to clients.
use super::audit::{AuditPage, ObjectFate};
use super::mutation::{Mutation, MutationOk};
use super::repair::{RepairOrders, RepairRecord, StoreRepair};
use crate::types::{
    Attr, ChunkNo, ClientId, Epoch, Extent, FileKind, HeldLock, Incarnation, Ino, LeaseSeq,
    LockRequest, LogIndex, Name, NodeId, ObjectId, ObjectSum, OpId, PgId, PgMap, RaftId, Revision,
    StoreId, Term, Time, VersionInfo, VersionNo,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A request to the master. Anything but `WhoLeads`-like hints needs the leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MasterRequest {
    /// Begins a session; must precede mutations and interests. Idempotent.
    OpenSession {
        /// Fresh uuid.
        client: ClientId,
        /// For people: host, pid, mountpoint.
        label: String,
    },
    /// Every 500 ms, and first thing after (re)connecting to a leader. Binds the connection it
    /// arrives on as the one that pushes go to.
    KeepAlive {
        /// The session.
        client: ClientId,
        /// All its ops below this are finished.
        low: u64,
        /// The term of the leader since whose first contact all cached state was dropped: equal to
        /// the leader's term means "my caches and opens are known to you".
        clean_term: Term,
        /// Inodes open in this session, sent in full when `clean_term` is new, else empty.
        opens: Vec<OpenInode>,
        /// Changes are queued (see [`MutateAfter`](Self::MutateAfter)).
        queued: bool,
    },
    /// Ends a session cleanly (after flush).
    CloseSession {
        /// The session.
        client: ClientId,
    },
    /// A change. Asked again with the same op-id it gives the same answer. The session thereby has
    /// interest in the inodes whose attributes the answer carries (it may cache them); its own
    /// changes are not pushed to it.
    Mutate {
        /// Names it for ever.
        op: OpId,
        /// The session's lowest unfinished sequence (<= op.seq).
        low: u64,
        /// What.
        body: Mutation,
        /// Open the file that it makes, as [`Open`](Self::Open) would: `Some(true)` for writing.
        open: Option<bool>,
    },
    /// A linearizable read.
    Query {
        /// The asking session, if it has one.
        client: Option<ClientId>,
        /// Register the session's interest: it will be told (Push::Invalidate) before anybody else's
        /// change of these inodes is acknowledged.
        interest: bool,
        /// What.
        body: Query,
    },
    /// The session has done what push `seq` asked. Sent on the connection that the push came on;
    /// answered with `Done`, which nobody waits for.
    PushAck {
        /// The session.
        client: ClientId,
        /// Of the push.
        seq: u64,
    },
    /// Registers an open handle (soft state, re-sent to a new leader). Recalls a conflicting writer.
    Open {
        /// The session.
        client: ClientId,
        /// The inode.
        ino: Ino,
        /// May write.
        write: bool,
        /// Register interest in attributes and content too.
        interest: bool,
    },
    /// The session has no handle on these inodes any more.
    Release {
        /// The session.
        client: ClientId,
        /// Inodes.
        inos: Vec<Ino>,
    },
    /// From a store, every 500 ms and when poked.
    Heartbeat(Heartbeat),
    /// From a store that fills a PG: what it should hold.
    PgListing {
        /// The PG.
        pg: PgId,
        /// Rows after this `(ino, chunk)`.
        after: Option<(Ino, ChunkNo)>,
        /// Rows at most.
        limit: u32,
    },
    /// Health, stores, voters, repair.
    Status,
    /// Inodes and paths that a store holds (node to file).
    FilesOf {
        /// The store.
        store: StoreId,
        /// After this inode.
        after: Ino,
        /// Rows at most.
        limit: u32,
    },
    /// Pauses or resumes repair (replicated).
    RepairControl {
        /// New state.
        paused: bool,
    },
    /// Receipts of finished repairs, newest last.
    RepairLog,
    /// Streams additions and removals below a directory to this connection as `Push::Watch`.
    Watch {
        /// Subtree.
        root: Ino,
    },
    /// Takes a node out of service for good: its store is drained by epoch changes; voters move away.
    Forget {
        /// The node.
        node: NodeId,
    },
    /// [`Mutation::Lock`], answered with what a holder must know. With `waiter` the answer may take
    /// until the lock is free: the question is repeated every second or so, lest the place in the
    /// queue is lost; giving it up is an [`Mutation::Abandon`]. Registers interest in the inode.
    Lock {
        /// Names it for ever.
        op: OpId,
        /// The session's lowest unfinished sequence (<= op.seq).
        low: u64,
        /// What.
        body: LockRequest,
        /// Wait, under this number of the session's (it keeps its place under another op).
        waiter: Option<u64>,
    },
    /// The next slice of an audit of this voter's tables, as of when it was begun; any voter answers.
    Audit {
        /// Of the audit; 0 begins one.
        run: u64,
    },
    /// What is known of objects that a store holds.
    ObjectFates {
        /// At most 4096.
        objects: Vec<ObjectId>,
    },
    /// [`RepairLog`](Self::RepairLog) with all that is known.
    RepairRecords,
    /// Empties a node's stores, or no longer.
    Drain {
        /// The node.
        node: NodeId,
        /// New state.
        draining: bool,
    },
    /// Forgets a node that is down and holds nothing that counts. One that comes back is refused.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Repairs as fast as can be for this long; zero ends it.
    Boost {
        /// From now on.
        lasts: Duration,
    },
    /// Inodes and paths with bytes in any of these groups.
    FilesIn {
        /// The groups.
        pgs: Vec<PgId>,
        /// After this inode.
        after: Ino,
        /// Rows at most.
        limit: u32,
    },
    /// Bytes of the groups' objects, of newest contents and of older versions, page by page.
    GroupSpace {
        /// Rows after this group, inode and chunk.
        after: Option<(PgId, Ino, ChunkNo)>,
    },
    /// Forgets one store, which its node had before its data directory was replaced.
    RemoveStore {
        /// The store.
        store: StoreId,
    },
    /// A [`Mutate`](Self::Mutate) that is part of a sequence: applied only when op `after` of the same
    /// session is decided, and else refused with `NotReady`, without a record.
    MutateAfter {
        /// Names it for ever.
        op: OpId,
        /// The session's lowest unfinished sequence (<= op.seq).
        low: u64,
        /// Sequence of the op before; 0 for none.
        after: u64,
        /// As of what this session was told last, before the change was made, that it is the only one: refused
        /// (`OpAborted`) if another one was let in since without its acknowledgement.
        sole_at: LogIndex,
        /// Its author listens for the answer at least so long, and asks nothing else meanwhile that this
        /// could change the answer to.
        listens: Duration,
        /// What.
        body: Mutation,
        /// As in [`Mutate`](Self::Mutate).
        open: Option<bool>,
    },
}

/// An inode that a session has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenInode {
    /// The inode.
    pub ino: Ino,
    /// At least one handle may write.
    pub write: bool,
}

/// A linearizable read of the master's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Name to inode; `NotFound` registers a negative interest in the directory.
    Lookup {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// Attributes.
    GetAttr {
        /// The inode.
        ino: Ino,
    },
    /// Resolves components from `start`, following symlinks inside (the last one only if asked);
    /// at most 40 links.
    Walk {
        /// Where a relative path starts; symlinks to absolute paths restart at the root.
        start: Ino,
        /// Components; `..` is resolved by the client before (lexically).
        path: Vec<Name>,
        /// Follow a symlink in the last place.
        follow_last: bool,
    },
    /// Entries with cookie > `after`, ascending. Cookies are stable, unique per directory, >= 3.
    ReadDir {
        /// Directory.
        ino: Ino,
        /// 0 for the start.
        after: u64,
        /// Entries at most.
        limit: u32,
        /// With attributes of each.
        with_attrs: bool,
    },
    /// Parent of a directory (for `..`).
    Parent {
        /// Directory.
        ino: Ino,
    },
    /// Target of a symlink.
    ReadLink {
        /// The symlink.
        ino: Ino,
    },
    /// All extended attributes.
    Xattrs {
        /// The inode.
        ino: Ino,
    },
    /// Extents of chunks `first..first+count` at a version (`None`: current).
    Layout {
        /// The inode.
        ino: Ino,
        /// Internal version.
        version: Option<VersionNo>,
        /// First chunk.
        first: ChunkNo,
        /// Chunks, at most 64.
        count: u32,
    },
    /// The last 5 versions of a name, newest first; also of a deleted name.
    History {
        /// Directory (may be a removed one).
        parent: Ino,
        /// Name.
        name: Name,
    },
    /// Names in a directory that have history, deleted ones too, ascending.
    HistoryNames {
        /// Directory.
        dir: Ino,
        /// Names after this one.
        after: Option<Name>,
        /// Names at most.
        limit: u32,
    },
    /// A removed subdirectory by name (newest removal), for undelete inside removed directories.
    RemovedDir {
        /// Directory, live or removed.
        parent: Ino,
        /// Name it had.
        name: Name,
    },
    /// Totals for statfs.
    StatFs,
    /// All placement groups.
    PgMap,
    /// Every path of an inode (hard links), for people.
    Paths {
        /// The inode.
        ino: Ino,
    },
    /// The first lock that excludes this one.
    LockConflict {
        /// The asking session.
        client: ClientId,
        /// What it would lock.
        body: LockRequest,
    },
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// Name.
    pub name: Name,
    /// Inode.
    pub ino: Ino,
    /// Kind.
    pub kind: FileKind,
    /// Position.
    pub cookie: u64,
    /// If asked.
    pub attr: Option<Attr>,
}

/// The extents of one chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkLayout {
    /// The chunk.
    pub chunk: ChunkNo,
    /// Ascending, not overlapping; gaps read as zeros.
    pub extents: Vec<Extent>,
}

/// Extents of a part of a file at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The inode's revision and the op that made it.
    pub revision: Revision,
    /// See above.
    pub op: OpId,
    /// Size of that version.
    pub size: u64,
    /// Chunks with extents; absent ones are holes.
    pub chunks: Vec<ChunkLayout>,
    /// No chunk behind those that were asked for has extents before this one; `None`: none has.
    pub next: Option<ChunkNo>,
}

/// Totals for statfs, in bytes and inodes; what can still be written at N copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatFsInfo {
    /// Capacity at N copies.
    pub total_bytes: u64,
    /// Free at N copies (deleted history counts as free).
    pub free_bytes: u64,
    /// Live inodes.
    pub inodes: u64,
    /// Live bytes (one copy).
    pub live_bytes: u64,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum QueryAnswer {
    /// To `Lookup`, `GetAttr`, `Walk`, `RemovedDir`, `Parent`.
    Attr(Attr),
    /// To `ReadDir`: entries, and true at the end.
    Entries(Vec<DirEntry>, bool),
    /// To `ReadLink`.
    Target(Vec<u8>),
    /// To `Xattrs`.
    Xattrs(Vec<(Vec<u8>, Vec<u8>)>),
    /// To `Layout`.
    Layout(Layout),
    /// To `History`.
    History(Vec<VersionInfo>),
    /// To `HistoryNames`: name, and true if it is deleted.
    Names(Vec<(Name, bool)>),
    /// To `StatFs`.
    StatFs(StatFsInfo),
    /// To `PgMap`.
    PgMap(PgMap),
    /// To `Paths`.
    Paths(Vec<Vec<u8>>),
    /// To `LockConflict`.
    Conflict(Option<HeldLock>),
}

/// What a store tells the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The store.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Its TCP address.
    pub addr: SocketAddr,
    /// Failure-domain label; may be empty.
    pub zone: String,
    /// The store's CLOCK_BOOTTIME when it sent this; echoed. The serving lease counts from it.
    pub sent_at: Time,
    /// Device size.
    pub total_bytes: u64,
    /// Bytes that may still be written now.
    pub free_bytes: u64,
    /// Bytes of objects held.
    pub used_bytes: u64,
    /// Identifies the device, unique over machines (hash of boot id and device number), so that
    /// stores on one device share its free space.
    pub device: u64,
    /// Durable: notes up to this log index have been applied here.
    pub cursor: LogIndex,
    /// The PG map it has.
    pub map_version: LogIndex,
    /// PGs whose epoch it has durably adopted (fenced older ones), since the last heartbeat that
    /// the master answered; all PGs it is concerned with after a (re)start or a new leader.
    pub fenced: Vec<(PgId, Epoch)>,
    /// PGs it has filled completely at that epoch.
    pub filled: Vec<(PgId, Epoch)>,
    /// PGs it holds nothing of any more although it did (strays deleted).
    pub emptied: Vec<PgId>,
    /// Marks older than 5 s.
    pub old_marks: Vec<(Ino, OpId)>,
    /// Bytes copied for repair since start.
    pub repaired_bytes: u64,
    /// Files (inode, chunk rows) copied for repair since start.
    pub repaired_files: u64,
    /// It saw an I/O error and acknowledges nothing.
    pub failed: bool,
    /// Room, disk and load.
    pub load: Box<StoreLoad>,
    /// About repair.
    pub repair: Box<StoreRepair>,
    /// What it should hold and does not.
    pub lacks: Box<StoreLacks>,
}

/// The part that a node has in the master group, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Voting {
    /// Not known yet: it is starting.
    #[default]
    Unknown,
    /// None: it runs under no id.
    No,
    /// It runs under this id, as a voter or a learner.
    As(RaftId),
    /// None, since what it has on disk does not open.
    Failed,
}

/// What a store should hold for some seconds already and does not (damaged objects included).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreLacks {
    /// Groups and how many objects; of a group whose news it missed at least one. If there are very
    /// many, those with the lowest numbers.
    pub groups: Vec<(PgId, u32)>,
    /// Objects in all.
    pub total: u64,
}

/// What placement and people want to know of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreLoad {
    /// Part of the free bytes that is kept for deletes and logs: no object may use it.
    pub reserve_bytes: u64,
    /// Bytes of the device that come free when what rests here goes, as it does before a writer is
    /// refused; not yet among the free ones.
    pub coming_bytes: u64,
    /// Objects it should hold and has no room for.
    pub starved: u64,
    /// Microseconds that a disk operation takes, smoothed; 0 while none was seen lately.
    pub disk_us: u64,
    /// Bytes of objects read since start.
    pub read_bytes: u64,
    /// Bytes of objects by group, ascending; `None` if nothing changed since the master was told.
    pub groups: Option<Vec<(PgId, u64)>>,
    /// A store that was set aside because of damage lay beside this one when it started.
    pub set_aside: bool,
    /// The part that its node has in the master group.
    pub voting: Voting,
}

/// How the cluster stands with space, for its stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpaceAdvice {
    /// Space is short: what is kept for comfort only shall go.
    pub short: bool,
    /// Bytes are being freed: who has no room shall be told to try again, not that all is full.
    pub freeing: bool,
    /// Stores on the device of the one that is told, itself included; 0 if that is not known.
    pub sharing: u16,
}

/// What a store shall know of a commit, an abort or a deletion. Kept until all members were told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// To the home PG: X is committed as `revision`.
    Committed {
        /// The inode.
        ino: Ino,
        /// Of X.
        revision: Revision,
        /// X.
        op: OpId,
    },
    /// To a chunk's PG: these objects are referenced; pull what is missing.
    Hold {
        /// The inode.
        ino: Ino,
        /// The chunk.
        chunk: ChunkNo,
        /// Objects and their identity.
        objects: Vec<(ObjectId, ObjectSum)>,
    },
    /// To the home PG and the chunks' PGs (all PGs if unknown): X will never be applied.
    Aborted {
        /// The inode.
        ino: Ino,
        /// X.
        op: OpId,
    },
    /// To a chunk's PG: nothing refers to these objects any more.
    Delete {
        /// Objects.
        objects: Vec<ObjectId>,
    },
    /// To the home PG: the inode is gone; drop its stamp.
    Forget {
        /// The inode.
        ino: Ino,
    },
}

/// What the master tells a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatOk {
    /// Echo of `sent_at`.
    pub sent_at: Time,
    /// In which the answering master leads: another one was told nothing yet.
    pub term: Term,
    /// The store may serve stamps and acks until `sent_at + lease`; `None` while it has fences to do.
    pub lease: Option<Duration>,
    /// The map, if newer than the store's.
    pub map: Option<PgMap>,
    /// Notes after the store's cursor, each with its log index and PG, ascending.
    pub notes: Vec<(LogIndex, PgId, Note)>,
    /// All notes with index <= this are contained: the store's next cursor.
    pub notes_upto: LogIndex,
    /// TCP addresses of all stores, for copies between them.
    pub stores: Vec<(StoreId, SocketAddr)>,
    /// Repair is paused: fill nothing.
    pub repair_paused: bool,
    /// Bytes per second a store may copy for repair, 0 for no limit.
    pub repair_rate: u64,
    /// How the cluster stands with space.
    pub space: SpaceAdvice,
    /// About repair.
    pub repair: RepairOrders,
    /// Notes up to here are gone: a store whose cursor is before it missed some.
    pub trimmed: LogIndex,
    /// There were no notes behind `notes_upto` when this was answered.
    pub is_told_all: bool,
}

/// One row of a PG: what a member must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgRow {
    /// The inode.
    pub ino: Ino,
    /// The chunk.
    pub chunk: ChunkNo,
    /// All objects any kept version refers to.
    pub objects: Vec<(ObjectId, ObjectSum)>,
    /// For chunk 0 (home): the inode's newest commit.
    pub clean: Option<(Revision, OpId)>,
    /// The inode has other chunks too.
    pub is_wide: bool,
}

/// The answer to a [`MasterRequest::Mutate`]: what was done, and what its author would ask next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutated {
    /// The outcome, the same for a repeated op.
    pub ok: MutationOk,
    /// Attributes now of what else it changed, as far as they are few.
    pub others: Vec<Attr>,
    /// The file that it made is open, and by nobody else: its content. `None` if it was not asked for,
    /// or must be asked for in an [`Open`](MasterRequest::Open) of its own.
    pub opened: Option<Layout>,
}

impl From<MutationOk> for Mutated {
    fn from(ok: MutationOk) -> Self {
        Self {
            ok,
            others: Vec::new(),
            opened: None,
        }
    }
}

/// The answer to a [`MasterRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MasterResponse {
    /// Nothing to tell.
    Done,
    /// To `OpenSession` and `KeepAlive`.
    Session {
        /// The leader's term.
        term: Term,
        /// Caches may be used until this long after the request was sent.
        caches_valid: Duration,
        /// The session lives this long after the request was sent without another keep-alive.
        session_valid: Duration,
        /// Newest PG map version: fetch the map if yours is older.
        map_version: LogIndex,
        /// TCP addresses of all stores.
        stores: Vec<(StoreId, SocketAddr)>,
        /// No other session exists, and nobody will look before this one has acknowledged an invalidation of
        /// [`Ino::SOLE`](crate::types::Ino::SOLE).
        sole: bool,
        /// State as of this log index.
        as_of: LogIndex,
    },
    /// To `Mutate`.
    Mutated(Mutated),
    /// To `Query`.
    Answer {
        /// State as of this log index.
        as_of: LogIndex,
        /// The answer.
        body: QueryAnswer,
    },
    /// To `Open`.
    Opened {
        /// Attributes at open.
        attr: Attr,
        /// Sequence to give with commits.
        lease: LeaseSeq,
        /// Another session has it open for writing (or reading while we write): no write-behind.
        shared: bool,
        /// The current content's first chunks, so that a small file needs no second question.
        layout: Option<Layout>,
    },
    /// To `Heartbeat`.
    Heartbeat(Box<HeartbeatOk>),
    /// To `PgListing`: rows, the state's log index, and true at the end.
    PgListing(Vec<PgRow>, LogIndex, bool),
    /// To `Status`.
    Status(Box<ClusterStatus>),
    /// To `FilesOf` and `FilesIn`: inode, a path, bytes; true at the end.
    Files(Vec<(Ino, Vec<u8>, u64)>, bool),
    /// To `RepairLog`.
    Receipts(Vec<RepairReceipt>),
    /// To `Lock`: it is held, and the file is in this state.
    Locked {
        /// Attributes now.
        attr: Attr,
        /// State as of this log index.
        as_of: LogIndex,
        /// The current content's first chunk, if it is all there is and not too much.
        layout: Option<Layout>,
    },
    /// To `Audit`.
    Audit(AuditPage),
    /// To `ObjectFates`: in the order asked, as of this log index.
    ObjectFates(Vec<ObjectFate>, LogIndex),
    /// To `RepairRecords`.
    Records(Vec<RepairRecord>),
    /// To `GroupSpace`.
    GroupSpace {
        /// Ascending; a group that goes on in the next page is in both.
        groups: Vec<GroupBytes>,
        /// Objects that several rows refer to, not in `groups`; each may come again.
        shared: Vec<SharedBytes>,
        /// Where to go on; `None` at the end.
        next: Option<(PgId, Ino, ChunkNo)>,
    },
}

/// Bytes of a group's objects, one copy of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupBytes {
    /// The group.
    pub pg: PgId,
    /// Of objects that the newest content of a named file refers to.
    pub live: u64,
    /// Of objects that only older or deleted versions refer to.
    pub version: u64,
}

/// Bytes of an object that several rows refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedBytes {
    /// Its group.
    pub pg: PgId,
    /// The object.
    pub object: ObjectId,
    /// Its bytes.
    pub len: u64,
    /// The newest content of a named file refers to it here.
    pub is_live: bool,
}

impl GroupBytes {
    /// Adds what the pages of all groups say, each shared object once.
    pub fn add_shared(
        groups: &mut BTreeMap<PgId, Self>,
        shared: impl IntoIterator<Item = SharedBytes>,
    ) {
        let mut once: BTreeMap<ObjectId, SharedBytes> = BTreeMap::new();
        for one in shared {
            once.entry(one.object).or_insert(one).is_live |= one.is_live;
        }
        for one in once.values() {
            let sum = groups.entry(one.pg).or_default();
            sum.pg = one.pg;
            match one.is_live {
                true => sum.live += one.len,
                false => sum.version += one.len,
            }
        }
    }
}

/// How the cluster is, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// Every PG at N verified copies, cursors within 5 s, voters complete.
    Healthy,
    /// Some PG has fewer than N copies.
    Degraded,
    /// Some PG is at one copy.
    AtRisk,
    /// Some PG cannot take writes or reads.
    Unavailable,
}

/// One store as the master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// The store.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// Last known run.
    pub incarnation: Incarnation,
    /// TCP address.
    pub addr: SocketAddr,
    /// Heartbeats arrive.
    pub up: bool,
    /// Membership says DOWN, since (Unix time).
    pub down_since: Option<Time>,
    /// Votes.
    pub voter: bool,
    /// Leads.
    pub leader: bool,
    /// Device size.
    pub total_bytes: u64,
    /// Free, or so as soon as room is needed: what rests on the device counts.
    pub free_bytes: u64,
    /// Objects' bytes.
    pub used_bytes: u64,
    /// PGs it is a member of, or still a source for.
    pub pgs: u32,
    /// Of those, the ones of which it says that it lacks objects, and those that it left before it was
    /// filled.
    pub lacking: Vec<PgId>,
    /// Of those, still being filled.
    pub filling: u32,
    /// Notes it has not been told.
    pub behind: u64,
    /// Being taken out of service.
    pub draining: bool,
    /// It saw an I/O error.
    pub failed: bool,
    /// Its disk is much slower than the others': it gets new copies only where there is
    /// no other place.
    pub slow: bool,
    /// It has no room for more.
    pub full: bool,
    /// Objects it should hold and has no room for.
    pub starved: u64,
    /// Milliseconds that a disk operation takes there, rounded up; 0 if not known.
    pub disk_ms: u64,
    /// Replicas it still has to wipe, because they are elsewhere now.
    pub wiping: u32,
    /// Bytes of objects that it has read for others since its start.
    pub read_bytes: u64,
}

/// One finished repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReceipt {
    /// Why, e.g. `node 3f2a.. failed`.
    pub cause: String,
    /// Begin (Unix time).
    pub began: Time,
    /// Milliseconds it took.
    pub took_ms: u64,
    /// Files re-replicated (chunk rows, in the log of an older program).
    pub files: u64,
    /// Bytes re-replicated.
    pub bytes: u64,
    /// PGs changed.
    pub pgs: u32,
    /// Lowest copy count met.
    pub lowest_copies: u8,
}

impl From<&RepairRecord> for RepairReceipt {
    fn from(r: &RepairRecord) -> Self {
        Self {
            cause: r.cause.clone(),
            began: r.began,
            took_ms: r.took_ms,
            files: r.files,
            bytes: r.bytes,
            pgs: r.pgs,
            lowest_copies: r.lowest_copies,
        }
    }
}

/// The cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Overall.
    pub health: Health,
    /// Why not healthy, one sentence each.
    pub reasons: Vec<String>,
    /// Mentioned, but no reason to worry (a DOWN node whose data is elsewhere).
    pub notices: Vec<String>,
    /// Stores.
    pub stores: Vec<StoreInfo>,
    /// PGs by phase: active, fencing, copying.
    pub pgs: (u32, u32, u32),
    /// Raft term.
    pub term: Term,
    /// Applied index.
    pub applied: LogIndex,
    /// Voters wanted.
    pub voters_wanted: u8,
    /// Live sessions: label and seconds since the last keep-alive.
    pub sessions: Vec<(ClientId, String)>,
    /// Repair is paused.
    pub repair_paused: bool,
    /// Chunk rows and bytes still to copy (estimates).
    pub repair_left: (u64, u64),
    /// Entries in the delete queue.
    pub deletes_waiting: u64,
    /// Totals.
    pub statfs: StatFsInfo,
    /// Inodes that are orphans still held open.
    pub orphans: u64,
    /// Ranges locked by programs, and requests that wait for one.
    pub locks: (u64, u64),
    /// Bytes per second that all stores together copy for repair.
    pub repair_rate: u64,
    /// Repair is boosted for this long still.
    pub boosted: Duration,
}

/// What changed about an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// The inode.
    pub ino: Ino,
    /// Its attributes (always true).
    pub attrs: bool,
    /// Its content.
    pub content: bool,
    /// Its directory entries.
    pub entries: bool,
}

/// Sent by the master unasked. `Invalidate` and `Recall` want a `PushAck`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Push {
    /// Another session changes these inodes: drop what is cached, then ack. Also ends the interest.
    Invalidate {
        /// To ack.
        seq: u64,
        /// The change's log index.
        as_of: LogIndex,
        /// What.
        touched: Vec<Touched>,
    },
    /// Another session opens this inode: commit what is buffered, seal what was released, then ack;
    /// buffer no longer than needed from now on if `shared`.
    Recall {
        /// To ack.
        seq: u64,
        /// The inode.
        ino: Ino,
        /// Keep writing through while the other has it open.
        shared: bool,
    },
    /// To a store: there is news (fences, notes); send a heartbeat now.
    Poke,
    /// To a watcher.
    Watch {
        /// Added (true) or removed.
        added: bool,
        /// Path from the root.
        path: Vec<u8>,
        /// Kind.
        kind: FileKind,
        /// When (Unix time).
        at: Time,
    },
}

//! Commands of the master made from bytes: mostly such as a leader makes, now and then with values
//! that none would.
use super::source::Source;
use dfs_core::master::command::{ChangeCause, Command, OldVersion, PgChange};
use dfs_core::types::{
    CHUNK_SIZE, ChunkNo, ClientId, ClusterId, Epoch, Extent, FileKind, Incarnation, Ino, LeaseSeq,
    Lock, LockRequest, LockSpace, LogIndex, Name, NodeId, ObjectId, ObjectSum, OpId, PgId,
    QuorumSizes, RaftId, Revision, SetTime, StoreId, Time, Timestamp, VersionNo,
};
use dfs_core::wire::master::RepairReceipt;
use dfs_core::wire::mutation::{NewNode, PurgeScope, RenameMode, XattrMode};
use dfs_core::wire::repair::{FillCount, RejoinReport, WaitKind};
use dfs_core::wire::{Change, Commit, Mutation, PutExtent, WriteToken};
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes of the pieces that puts are made of.
const CELL: u32 = 64 << 10;

fn client(s: &mut Source<'_>) -> ClientId {
    ClientId(u128::from(1 + s.below(3)))
}

fn op(s: &mut Source<'_>) -> OpId {
    let client = client(s);
    let seq = s.number();
    OpId { client, seq }
}

/// Mostly one of the first.
pub fn ino(s: &mut Source<'_>) -> Ino {
    match s.below(16) {
        0 => Ino(s.number()),
        n => Ino(1 + u64::from(n) / 2),
    }
}

/// One of a few names.
pub fn name(s: &mut Source<'_>) -> Name {
    let names: [&[u8]; 8] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b".versions",
        b".dfs",
        b"\xff",
        &[b'n'; 255],
    ];
    let name = names[usize::from(s.below(8))];
    Name::new(name).expect("names of the list are names")
}

fn store(s: &mut Source<'_>) -> StoreId {
    StoreId(u128::from(1 + s.below(6)))
}

fn pg(s: &mut Source<'_>) -> PgId {
    PgId(u16::from(s.below(5)))
}

fn epoch(s: &mut Source<'_>) -> Epoch {
    Epoch(s.number())
}

fn time(s: &mut Source<'_>) -> Time {
    match s.is() {
        true => Time(s.number()),
        false => Time(s.number().saturating_mul(1_000_000_000)),
    }
}

fn stamp(s: &mut Source<'_>) -> Timestamp {
    Timestamp {
        secs: s.number() as i64,
        nanos: s.short(),
    }
}

fn set_time(s: &mut Source<'_>) -> SetTime {
    match s.is() {
        true => SetTime::Now,
        false => SetTime::At(stamp(s)),
    }
}

fn kind(s: &mut Source<'_>) -> FileKind {
    match s.below(5) {
        0 | 1 => FileKind::File,
        2 | 3 => FileKind::Dir,
        _ => FileKind::Symlink,
    }
}

fn addr(s: &mut Source<'_>) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, s.byte()], 7400))
}

/// Members that acknowledged: mostly those that the groups have.
fn acks(s: &mut Source<'_>) -> Vec<StoreId> {
    match s.below(8) {
        0 => s.some(store),
        _ => (1..=3).map(StoreId).collect(),
    }
}

/// A length or an offset: mostly of cells.
fn span(s: &mut Source<'_>) -> u64 {
    match s.below(8) {
        0 => s.number(),
        _ => u64::from(s.below(70)) * u64::from(CELL),
    }
}

fn object(s: &mut Source<'_>, op: OpId) -> ObjectId {
    let op = match s.below(8) {
        0 => self::op(s),
        _ => op,
    };
    let index = s.short();
    ObjectId { op, index }
}

fn sum(s: &mut Source<'_>, len: u32) -> ObjectSum {
    let len = match s.below(8) {
        0 => s.short(),
        _ => len,
    };
    ObjectSum { len, crc: 1 }
}

fn put(s: &mut Source<'_>, op: OpId, epoch: Epoch) -> PutExtent {
    let start = span(s) as u32;
    let len = match s.below(4) {
        0 => span(s) as u32,
        _ => CELL,
    };
    PutExtent {
        chunk: ChunkNo(s.short()),
        start,
        len,
        object: object(s, op),
        sum: sum(s, len),
        epoch,
        acks: acks(s),
    }
}

/// Puts one behind the other, as a mount cuts them.
fn row_of_puts(s: &mut Source<'_>, op: OpId, epoch: Epoch, at: u64) -> Vec<PutExtent> {
    let (mut at, mut puts) = (at, Vec::new());
    for index in 0..1 + u32::from(s.below(3)) {
        let room = CHUNK_SIZE - at % CHUNK_SIZE;
        let len = room.min(u64::from(CELL) * u64::from(1 + s.below(4)));
        let len = u32::try_from(len).unwrap_or(CELL);
        puts.push(PutExtent {
            chunk: ChunkNo::of(at),
            start: (at % CHUNK_SIZE) as u32,
            len,
            object: ObjectId { op, index },
            sum: ObjectSum { len, crc: index },
            epoch,
            acks: acks(s),
        });
        at = at.saturating_add(u64::from(len));
    }
    puts
}

fn puts(s: &mut Source<'_>, op: OpId, epoch: Epoch, at: u64) -> Vec<PutExtent> {
    match s.below(4) {
        0 => s.some(|s| put(s, op, epoch)),
        _ => row_of_puts(s, op, epoch, at),
    }
}

fn extent(s: &mut Source<'_>) -> Extent {
    let len = span(s) as u32;
    let object_op = op(s);
    Extent {
        start: span(s) as u32,
        len,
        pg: pg(s),
        object: object(s, object_op),
        object_offset: span(s) as u32,
        sum: sum(s, len),
    }
}

fn change(s: &mut Source<'_>, op: OpId, epoch: Epoch) -> Change {
    let at = span(s);
    match s.below(10) {
        0..=2 => Change::Write {
            puts: puts(s, op, epoch, at),
        },
        3 => Change::Append {
            at,
            puts: puts(s, op, epoch, at),
        },
        4 => Change::Truncate { size: at },
        5 => Change::Punch {
            offset: at,
            len: span(s),
        },
        6 => Change::Extend { size: at },
        7 => Change::Replace {
            puts: puts(s, op, epoch, at),
            size: span(s),
        },
        8 => Change::Restore {
            from: ino(s),
            inode_version: VersionNo(s.number()),
        },
        _ => Change::Compact {
            put: Box::new(put(s, op, epoch)),
            was: s.some(extent),
        },
    }
}

fn commit(s: &mut Source<'_>, op: OpId) -> Commit {
    let home_epoch = match s.below(8) {
        0 => epoch(s),
        _ => Epoch(1),
    };
    Commit {
        ino: ino(s),
        lease: LeaseSeq(match s.below(8) {
            0 => s.number(),
            _ => 1,
        }),
        token: WriteToken {
            client: op.client,
            seq: s.number(),
        },
        home_epoch,
        mark_acks: acks(s),
        change: change(s, op, home_epoch),
        mtime: s.perhaps(set_time),
        kill_suid: s.is(),
        base: match s.below(8) {
            0 => Some(Revision(s.number())),
            _ => None,
        },
    }
}

fn lock(s: &mut Source<'_>) -> LockRequest {
    let is_whole = s.is();
    LockRequest {
        ino: ino(s),
        space: match s.is() {
            true => LockSpace::Posix,
            false => LockSpace::Flock,
        },
        owner: s.number(),
        lock: Lock {
            first: if is_whole { 0 } else { s.number() },
            last: if is_whole { Lock::LAST_MAX } else { s.number() },
            exclusive: s.is(),
            pid: 1,
        },
    }
}

fn node(s: &mut Source<'_>) -> NewNode {
    let kind = kind(s);
    NewNode {
        kind,
        mode: s.short(),
        uid: s.short(),
        gid: s.short(),
        rdev: s.number(),
        target: match kind {
            FileKind::Symlink => s.few().to_vec(),
            _ => Vec::new(),
        },
    }
}

fn directory(s: &mut Source<'_>) -> Ino {
    match s.is() {
        true => Ino::ROOT,
        false => ino(s),
    }
}

/// A change of names.
fn naming(s: &mut Source<'_>) -> Mutation {
    match s.below(10) {
        0..=3 => Mutation::Create {
            parent: directory(s),
            name: name(s),
            node: node(s),
            exclusive: s.is(),
        },
        4 => Mutation::Link {
            ino: ino(s),
            parent: directory(s),
            name: name(s),
        },
        5 | 6 => Mutation::Unlink {
            parent: directory(s),
            name: name(s),
            purge: s.below(8) == 0,
        },
        7 => Mutation::Rmdir {
            parent: directory(s),
            name: name(s),
        },
        _ => Mutation::Rename {
            from_parent: directory(s),
            from_name: name(s),
            to_parent: directory(s),
            to_name: name(s),
            mode: match s.below(3) {
                0 => RenameMode::Replace,
                1 => RenameMode::NoReplace,
                _ => RenameMode::Exchange,
            },
        },
    }
}

/// A change that a client asks for under this op.
pub fn mutation(s: &mut Source<'_>, op: OpId) -> Mutation {
    match s.below(24) {
        0..=9 => naming(s),
        10 => Mutation::SetAttr {
            ino: ino(s),
            mode: s.perhaps(Source::short),
            uid: s.perhaps(Source::short),
            gid: s.perhaps(Source::short),
            atime: s.perhaps(set_time),
            mtime: s.perhaps(set_time),
        },
        11 => Mutation::SetXattr {
            ino: ino(s),
            key: s.few().to_vec(),
            value: s.few().to_vec(),
            mode: match s.below(3) {
                0 => XattrMode::Any,
                1 => XattrMode::Create,
                _ => XattrMode::Replace,
            },
        },
        12 => Mutation::RemoveXattr {
            ino: ino(s),
            key: s.few().to_vec(),
        },
        13 => Mutation::Abandon { op: self::op(s) },
        14 => Mutation::Seal {
            ino: ino(s),
            token: WriteToken {
                client: op.client,
                seq: s.number(),
            },
        },
        15 => Mutation::Undelete {
            parent: directory(s),
            name: name(s),
        },
        16 => Mutation::Purge(match s.is() {
            true => PurgeScope::AllDeleted,
            false => PurgeScope::Name {
                parent: directory(s),
                name: name(s),
            },
        }),
        17 => Mutation::Accessed {
            times: s.some(|s| (ino(s), stamp(s))),
        },
        18 => Mutation::Lock(lock(s)),
        19 => {
            let LockRequest {
                ino,
                space,
                owner,
                lock,
            } = lock(s);
            let (first, last) = (lock.first, lock.last);
            Mutation::Unlock {
                ino,
                space,
                owner,
                first,
                last,
            }
        }
        20 => Mutation::CommitLast(Box::new(commit(s, op))),
        _ => Mutation::Commit(commit(s, op)),
    }
}

fn cause(s: &mut Source<'_>) -> ChangeCause {
    match s.below(4) {
        0 => ChangeCause::Create,
        1 => ChangeCause::Failed(store(s)),
        2 => ChangeCause::Drain(store(s)),
        _ => ChangeCause::Rebalance(store(s)),
    }
}

fn pg_change(s: &mut Source<'_>) -> PgChange {
    PgChange {
        pg: pg(s),
        from: epoch(s),
        members: s.some(store),
    }
}

fn fill_count(s: &mut Source<'_>) -> FillCount {
    FillCount {
        pg: pg(s),
        epoch: epoch(s),
        objects: s.number(),
        bytes: s.number(),
        files: s.number(),
        wide: s.some(ino),
    }
}

fn waited(s: &mut Source<'_>) -> (WaitKind, u64) {
    let kinds = [
        WaitKind::Grace,
        WaitKind::Pause,
        WaitKind::Room,
        WaitKind::Lease,
    ];
    (kinds[usize::from(s.below(4))], s.number())
}

fn old_version(s: &mut Source<'_>) -> OldVersion {
    let version = VersionNo(s.number());
    match s.is() {
        true => OldVersion::Window {
            ino: ino(s),
            version,
        },
        false => OldVersion::Pin {
            dir: ino(s),
            name: name(s),
            ino: ino(s),
            version,
        },
    }
}

/// A command of the log. `next` is the sequence that the session's next operation would have.
pub fn command(s: &mut Source<'_>, next: u64) -> Command {
    match s.below(40) {
        0..=19 => {
            let is_odd = s.below(8) == 0;
            let op = OpId {
                client: client(s),
                seq: if is_odd { s.number() } else { next },
            };
            let low = if is_odd { s.number() } else { 1 };
            let body = mutation(s, op);
            Command::Mutate { op, low, body }
        }
        20..=24 => upkeep(s),
        25..=30 => of_stores(s),
        31..=38 => of_repair(s),
        _ => Command::Bootstrap {
            cluster: ClusterId(1),
            quorum: QuorumSizes {
                n: s.byte(),
                w: s.byte(),
                r: s.byte(),
            },
            pgs: u16::from(s.byte()),
            voters: s.byte(),
        },
    }
}

fn upkeep(s: &mut Source<'_>) -> Command {
    match s.below(12) {
        0 | 1 => Command::OpenSession {
            client: client(s),
            label: String::from_utf8_lossy(s.few()).into_owned(),
        },
        2 => Command::EndSession {
            client: client(s),
            expired: s.is(),
        },
        3 => Command::Abort {
            ops: s.some(|s| (ino(s), op(s))),
        },
        4 => Command::RaiseLease { ino: ino(s) },
        5 => Command::Reap { inos: s.some(ino) },
        6 => Command::SealAll { inos: s.some(ino) },
        7 => Command::TrimHistory {
            before: time(s),
            keep_names: s.number(),
            max: s.short(),
        },
        8 => Command::ReleaseDeletes {
            before: time(s),
            max: s.short(),
        },
        9 => Command::TrimNotes {
            upto: LogIndex(s.number()),
        },
        10 => Command::FreeSpace {
            names: s.short(),
            versions: s.some(old_version),
        },
        _ => Command::ClockLeapt {
            gap: Duration::from_secs(s.number()),
        },
    }
}

fn of_stores(s: &mut Source<'_>) -> Command {
    match s.below(8) {
        0 | 1 => Command::StoreSeen {
            store: store(s),
            node: NodeId(u128::from(s.byte())),
            incarnation: Incarnation(s.number()),
            addr: addr(s),
            zone: String::from_utf8_lossy(s.few()).into_owned(),
            device: s.number(),
        },
        2 => Command::StoreSpace {
            space: s.some(|s| (store(s), s.number(), s.number(), s.number())),
        },
        3 => Command::StoreDown {
            store: store(s),
            since: s.perhaps(time),
        },
        4 => Command::StoreDrain {
            store: store(s),
            draining: s.is(),
        },
        5 => Command::StoreRemoved { store: store(s) },
        6 => Command::VoterAssigned {
            node: NodeId(u128::from(s.byte())),
            raft_id: RaftId(s.number()),
            addr: addr(s),
        },
        _ => Command::VoterRetired {
            raft_id: RaftId(s.number()),
        },
    }
}

fn of_repair(s: &mut Source<'_>) -> Command {
    match s.below(12) {
        0 => Command::BeginEpoch {
            cause: cause(s),
            changes: s.some(pg_change),
        },
        1 | 2 => Command::BeginRepair {
            cause: cause(s),
            changes: s.some(pg_change),
            waited: s.some(waited),
        },
        3 | 4 => Command::Activate {
            pgs: s.some(|s| (pg(s), epoch(s))),
        },
        5 => Command::Filled {
            done: s.some(|s| (pg(s), epoch(s), store(s))),
        },
        6 => Command::FilledCounted {
            store: store(s),
            done: s.some(fill_count),
        },
        7 => Command::Emptied {
            done: s.some(|s| (pg(s), store(s))),
        },
        8 => Command::Refill {
            members: s.some(|s| (pg(s), epoch(s), store(s))),
        },
        9 => match s.is() {
            true => Command::RepairControl { paused: s.is() },
            false => Command::RepairBoost { until: time(s) },
        },
        10 => Command::Receipt(RepairReceipt {
            cause: String::from_utf8_lossy(s.few()).into_owned(),
            began: time(s),
            took_ms: s.number(),
            files: s.number(),
            bytes: s.number(),
            pgs: s.short(),
            lowest_copies: s.byte(),
        }),
        _ => Command::Rejoined {
            store: store(s),
            report: RejoinReport {
                incarnation: Incarnation(s.number()),
                wiped_groups: s.short(),
                wiped_objects: s.number(),
                caught_files: s.number(),
                caught_objects: s.number(),
                caught_bytes: s.number(),
                took_ms: s.number(),
            },
        },
    }
}

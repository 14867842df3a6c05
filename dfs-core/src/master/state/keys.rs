//! Keys of the tables that sessions, placement and notes use: prefixes `b'n'..=b'z'`.
//!
//! Numbers are big-endian, so that a scan meets them in order. FORMAT.
use super::StateError;
use crate::store::{Kv, KvRead};
use crate::types::{
    ClientId, Ino, LockHolder, LockSpace, LogIndex, OpId, PgId, RaftId, StoreId, Time,
};
use serde::{Serialize, de::DeserializeOwned};

/// Notes for stores, by log index.
pub const NOTE: u8 = b'n';
/// Sessions.
pub const SESSION: u8 = b'o';
/// Results of decided ops.
pub const RESULT: u8 = b'p';
/// Client uuids that are refused for ever.
pub const EXPIRED: u8 = b'q';
/// Ops that will never be applied.
pub const ABORTED: u8 = b'r';
/// Stores.
pub const STORE: u8 = b's';
/// Placement groups.
pub const PG: u8 = b't';
/// Objects waiting for deletion, by time.
pub const DELETE: u8 = b'u';
/// Single rows.
pub const META: u8 = b'v';
/// Repair receipts.
pub const RECEIPT: u8 = b'w';
/// Raft ids.
pub const VOTER: u8 = b'x';

/// Sessions that were barred, and when: see [`Command::Bar`](crate::master::command::Command::Bar).
pub const BARRED: &[u8] = b"vbarred";

/// Locked ranges of files, by inode, kind, session, owner and first byte.
pub const LOCK: u8 = b'y';

/// Repairs: the second byte says what (`REPAIR_..`).
pub const REPAIR: u8 = b'z';
/// Repairs under way, by cause.
pub const REPAIR_JOB: u8 = b'j';
/// Files of them with bytes in several groups, by cause and inode.
pub const REPAIR_WIDE: u8 = b'w';
/// Finished ones, by log index.
pub const REPAIR_RECORD: u8 = b'r';
/// The last run whose return was noted, by store.
pub const REPAIR_REJOIN: u8 = b'b';
/// Stores that were removed for good.
pub const REPAIR_REMOVED: u8 = b'x';
/// Begin and end of the last pause.
pub const PAUSE: &[u8] = b"vpause";
/// Until when repair is boosted.
pub const BOOST: &[u8] = b"vboost";
/// Leaps of log time.
pub const LEAPS: &[u8] = b"vleaps";

/// The applied index and what goes with it.
pub const APPLIED: &[u8] = b"vapplied";
/// The cluster's identity.
pub const CLUSTER: &[u8] = b"vcluster";
/// Notes up to here were trimmed.
pub const TRIMMED: &[u8] = b"vtrimmed";
/// Repair is paused.
pub const PAUSED: &[u8] = b"vpaused";
/// Former members of groups that left them before they were filled.
pub const PARTIAL: &[u8] = b"vpartial";
/// Length of the delete queue.
pub const DELETES: &[u8] = b"vdeletes";

/// Key of the `seq`th note of an entry.
pub fn note(index: LogIndex, seq: u32) -> Vec<u8> {
    let mut key = vec![NOTE];
    key.extend(index.0.to_be_bytes());
    key.extend(seq.to_be_bytes());
    key
}

/// Log index in a note's key.
pub fn note_index(key: &[u8]) -> LogIndex {
    let bytes = key
        .get(1..9)
        .and_then(|b| b.try_into().ok())
        .unwrap_or([0; 8]);
    LogIndex(u64::from_be_bytes(bytes))
}

/// Key of a per-client row.
pub fn client(table: u8, client: ClientId) -> Vec<u8> {
    let mut key = vec![table];
    key.extend(client.0.to_be_bytes());
    key
}

/// Key of a per-op row.
pub fn op(table: u8, op: OpId) -> Vec<u8> {
    let mut key = client(table, op.client);
    key.extend(op.seq.to_be_bytes());
    key
}

/// Key of a store's row.
pub fn store(store: StoreId) -> Vec<u8> {
    let mut key = vec![STORE];
    key.extend(store.0.to_be_bytes());
    key
}

/// Key of a placement group's row.
pub fn pg(pg: PgId) -> Vec<u8> {
    let mut key = vec![PG];
    key.extend(pg.0.to_be_bytes());
    key
}

/// Key of a delete-queue entry; with `index` and `seq` zero, the first that is not before `at`.
pub fn delete(at: Time, index: LogIndex, seq: u32) -> Vec<u8> {
    let mut key = vec![DELETE];
    key.extend(at.0.to_be_bytes());
    key.extend(index.0.to_be_bytes());
    key.extend(seq.to_be_bytes());
    key
}

/// Key of a row about repair.
pub fn repair(what: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![REPAIR, what];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// Key of a receipt.
pub fn receipt(index: LogIndex) -> Vec<u8> {
    let mut key = vec![RECEIPT];
    key.extend(index.0.to_be_bytes());
    key
}

/// Key of a Raft id's row.
pub fn voter(id: RaftId) -> Vec<u8> {
    let mut key = vec![VOTER];
    key.extend(id.0.to_be_bytes());
    key
}

/// Key of a range, by its first byte, that an owner has locked on a file.
pub fn lock(ino: Ino, space: LockSpace, holder: LockHolder, first: u64) -> Vec<u8> {
    let mut key = vec![LOCK];
    key.extend(ino.0.to_be_bytes());
    key.push(space as u8);
    key.extend(holder.client.0.to_be_bytes());
    key.extend(holder.owner.to_be_bytes());
    key.extend(first.to_be_bytes());
    key
}

/// Of which file, kind and owner a key made by [`lock`] is.
pub fn lock_of(key: &[u8]) -> Option<(Ino, LockSpace, LockHolder)> {
    let ino = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    let space = match key.get(9)? {
        0 => LockSpace::Posix,
        1 => LockSpace::Flock,
        _ => return None,
    };
    let client = u128::from_be_bytes(key.get(10..26)?.try_into().ok()?);
    let owner = u64::from_be_bytes(key.get(26..34)?.try_into().ok()?);
    let client = ClientId(client);
    Some((Ino(ino), space, LockHolder { client, owner }))
}

/// Reads and decodes a row.
pub fn get<T: DeserializeOwned, K: KvRead + ?Sized>(
    kv: &K,
    table: &'static str,
    key: &[u8],
) -> Result<Option<T>, StateError> {
    match kv.get(key)? {
        Some(value) => decode(table, key, &value).map(Some),
        None => Ok(None),
    }
}

/// Decodes a value.
pub fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: &[u8],
    value: &[u8],
) -> Result<T, StateError> {
    postcard::from_bytes(value).map_err(|_e| StateError::Decode {
        table,
        key: hex(key),
    })
}

/// Encodes and writes a row.
pub fn put<T: Serialize, K: Kv + ?Sized>(kv: &mut K, key: Vec<u8>, value: &T) {
    let value = postcard::to_stdvec(value).expect("our own types serialize into a vector");
    kv.put(key, value);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

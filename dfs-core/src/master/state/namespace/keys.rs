//! Keys of the namespace tables. FORMAT.
//!
//! | prefix | key | value |
//! |---|---|---|
//! | `a0` | | [`Meta`](super::records::Meta) |
//! | `a1` | inode | orphan (no link, no pin) |
//! | `a2` | inode, key | extended attribute |
//! | `a3` | | plain renames of the last minute |
//! | `a4` | client | inode numbers that it has reserved: first and count, newest last |
//! | `b` | inode | [`Inode`](super::records::Inode) |
//! | `c` | directory, name | [`Dentry`](super::records::Dentry) |
//! | `d` | directory, cookie | name, inode, kind |
//! | `e` | inode, chunk, version | extents |
//! | `f` | object | rows that refer to it |
//! | `g` | PG, inode, chunk | rows that refer to the PG, and 1 for a home |
//! | `h` | inode, directory, name | link (reverse of `c`) |
//! | `i` | directory, name | [`NameHistory`](super::records::NameHistory) |
//! | `j` | time, directory, name | deleted name |
//! | `k` | inode, version | [`VersionRec`](super::records::VersionRec) |
//! | `l` | client, inode | highest decided sequence |
//! | `m` | inode, version, chunk | row (reverse of `e`) |
//!
//! Numbers are big-endian, so that a scan is in order; a name is the rest of its key.
use crate::types::{ChunkNo, ClientId, Ino, Name, ObjectId, OpId, PgId, Time, VersionNo};

/// Tables that say what there is and where its bytes are; the others follow from these, or matter
/// only while masters run. In key order.
pub const NAMESPACE_TABLES: [&[u8]; 8] = [
    META, XATTRS, RESERVED, INODES, DENTRIES, ROWS, HISTORIES, VERSIONS,
];

/// The numbers that a session has reserved.
pub(super) fn reserved(client: ClientId) -> Vec<u8> {
    Key::new(RESERVED).u128(client.0).0
}

/// A key being built.
struct Key(Vec<u8>);

impl Key {
    fn new(prefix: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(prefix);
        Self(bytes)
    }
    fn u16(mut self, v: u16) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }
    fn u128(mut self, v: u128) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }
    fn bytes(mut self, v: &[u8]) -> Self {
        self.0.extend_from_slice(v);
        self
    }
}

pub(super) const META: &[u8] = b"a0";
pub(super) const ORPHANS: &[u8] = b"a1";
pub(super) const XATTRS: &[u8] = b"a2";
pub(super) const MOVES: &[u8] = b"a3";
pub(super) const RESERVED: &[u8] = b"a4";
pub(super) const INODES: &[u8] = b"b";
pub(super) const DENTRIES: &[u8] = b"c";
pub(super) const COOKIES: &[u8] = b"d";
pub(super) const ROWS: &[u8] = b"e";
pub(super) const REFS: &[u8] = b"f";
pub(super) const PG_INDEX: &[u8] = b"g";
pub(super) const LINKS: &[u8] = b"h";
pub(super) const HISTORIES: &[u8] = b"i";
pub(super) const DELETED: &[u8] = b"j";
pub(super) const VERSIONS: &[u8] = b"k";
pub(super) const DECIDED: &[u8] = b"l";
pub(super) const ROW_INDEX: &[u8] = b"m";

pub(super) fn orphan(ino: Ino) -> Vec<u8> {
    Key::new(ORPHANS).u64(ino.0).0
}
pub(super) fn xattrs_of(ino: Ino) -> Vec<u8> {
    Key::new(XATTRS).u64(ino.0).0
}
pub(super) fn xattr(ino: Ino, key: &[u8]) -> Vec<u8> {
    Key::new(XATTRS).u64(ino.0).bytes(key).0
}
pub(super) fn inode(ino: Ino) -> Vec<u8> {
    Key::new(INODES).u64(ino.0).0
}
pub(super) fn dentries_of(dir: Ino) -> Vec<u8> {
    Key::new(DENTRIES).u64(dir.0).0
}
pub(super) fn dentry(dir: Ino, name: &Name) -> Vec<u8> {
    Key::new(DENTRIES).u64(dir.0).bytes(name.as_bytes()).0
}
pub(super) fn cookies_of(dir: Ino) -> Vec<u8> {
    Key::new(COOKIES).u64(dir.0).0
}
pub(super) fn cookie(dir: Ino, cookie: u64) -> Vec<u8> {
    Key::new(COOKIES).u64(dir.0).u64(cookie).0
}
pub(super) fn rows_of(ino: Ino) -> Vec<u8> {
    Key::new(ROWS).u64(ino.0).0
}
pub(super) fn rows_of_chunk(ino: Ino, chunk: ChunkNo) -> Vec<u8> {
    Key::new(ROWS).u64(ino.0).u32(chunk.0).0
}
pub(super) fn row(ino: Ino, chunk: ChunkNo, version: VersionNo) -> Vec<u8> {
    Key::new(ROWS).u64(ino.0).u32(chunk.0).u64(version.0).0
}
pub(super) fn refs_of(op: OpId) -> Vec<u8> {
    Key::new(REFS).u128(op.client.0).u64(op.seq).0
}
pub(super) fn object(id: ObjectId) -> Vec<u8> {
    let key = Key::new(REFS).u128(id.op.client.0).u64(id.op.seq);
    key.u32(id.index).0
}
pub(super) fn pg_index_of(pg: PgId) -> Vec<u8> {
    Key::new(PG_INDEX).u16(pg.0).0
}
pub(super) fn pg_index(pg: PgId, ino: Ino, chunk: ChunkNo) -> Vec<u8> {
    Key::new(PG_INDEX).u16(pg.0).u64(ino.0).u32(chunk.0).0
}
/// Group, inode and chunk of a [`pg_index`] key.
pub(super) fn parse_pg_index(key: &[u8]) -> Option<(PgId, Ino, ChunkNo)> {
    let at = PG_INDEX.len();
    let pg: [u8; 2] = key.get(at..at + 2)?.try_into().ok()?;
    let (ino, chunk) = (u64_at(key, at + 2)?, u32_at(key, at + 10)?);
    Some((PgId(u16::from_be_bytes(pg)), Ino(ino), ChunkNo(chunk)))
}
pub(super) fn links_of(ino: Ino) -> Vec<u8> {
    Key::new(LINKS).u64(ino.0).0
}
pub(super) fn link(ino: Ino, dir: Ino, name: &Name) -> Vec<u8> {
    Key::new(LINKS)
        .u64(ino.0)
        .u64(dir.0)
        .bytes(name.as_bytes())
        .0
}
pub(super) fn histories_of(dir: Ino) -> Vec<u8> {
    Key::new(HISTORIES).u64(dir.0).0
}
pub(super) fn history(dir: Ino, name: &Name) -> Vec<u8> {
    Key::new(HISTORIES).u64(dir.0).bytes(name.as_bytes()).0
}
pub(super) fn deleted(at: Time, dir: Ino, name: &Name) -> Vec<u8> {
    let key = Key::new(DELETED).u64(at.0).u64(dir.0);
    key.bytes(name.as_bytes()).0
}
pub(super) fn versions_of(ino: Ino) -> Vec<u8> {
    Key::new(VERSIONS).u64(ino.0).0
}
pub(super) fn version(ino: Ino, version: VersionNo) -> Vec<u8> {
    Key::new(VERSIONS).u64(ino.0).u64(version.0).0
}
pub(super) fn decided_of(client: ClientId) -> Vec<u8> {
    Key::new(DECIDED).u128(client.0).0
}
pub(super) fn decided(client: ClientId, ino: Ino) -> Vec<u8> {
    Key::new(DECIDED).u128(client.0).u64(ino.0).0
}
pub(super) fn row_index(ino: Ino, version: VersionNo, chunk: ChunkNo) -> Vec<u8> {
    Key::new(ROW_INDEX).u64(ino.0).u64(version.0).u32(chunk.0).0
}

/// The `u64` at `at`; `None` if the key is too short.
pub(super) fn u64_at(key: &[u8], at: usize) -> Option<u64> {
    let bytes = key.get(at..at + 8)?;
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The `u32` at `at`; `None` if the key is too short.
pub(super) fn u32_at(key: &[u8], at: usize) -> Option<u32> {
    let bytes = key.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// The name that is the rest of the key from `at`.
pub(super) fn name_at(key: &[u8], at: usize) -> Option<Name> {
    Name::new(key.get(at..)?).ok()
}

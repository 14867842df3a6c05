//! How objects and batches look on disk: FORMAT.
//!
//! An object says who it is, so that a disk can be read without its tables:
//! ```text
//! header = magic "DFSOBJ1\n" | format u16 | body bytes u16 | crc32c u32 | body
//! body   = postcard of ObjectHeader; the crc covers format, length and body
//!          (format 1, still read: a path as text, or nothing, in place of `about`)
//! file   = header, zeros to 4096, the object's bytes
//! ```
//! Tables of a store, by the first byte of the key (those below are the replica's own):
//! ```text
//! f0 id -> place u8 | generation u64 | header       (place 0: bytes in f1, 1: bytes in a file)
//! f1 id -> the bytes of a small object
//! f2    -> what the tables cover (StoreCounters)
//! f3 id -> an object that was deleted and rests: since when, why, its row   (see `quarantine`)
//! f4 since id -> nothing: the same by age
//! f5    -> how much rests
//! ```
//! A file is named `objects/DD/CLIENT-SEQ-INDEX.GENERATION`; the generation is the number of the
//! batch that wrote it, so no file is ever written twice, and neighbours share a directory.
use super::KvOp;
use crate::types::about::PATH_HINT_MAX;
use crate::types::{
    BLOCK_SIZE, BlockSums, CHUNK_SIZE, ChunkNo, ClientId, Ino, ObjectAbout, ObjectId, ObjectSum,
    OpId, PathHint, StoreId, crc32c,
};
use serde::{Deserialize, Serialize};

/// Keys with this first byte or a higher one belong to the object store.
pub const STORE_KEYS_FROM: u8 = 0xf0;
/// Bytes before the object's in a file.
pub const FILE_HEADER_BYTES: usize = 4096;

pub(super) const TABLE_OBJECT: u8 = 0xf0;
pub(super) const TABLE_BYTES: u8 = 0xf1;
pub(super) const KEY_COUNTERS: &[u8] = &[0xf2];

const MAGIC: &[u8; 8] = b"DFSOBJ1\n";
const OBJECT_FORMAT: u16 = 2;
const PREFIX_BYTES: usize = 16;
/// Batches whose files share a directory, so that a group commit syncs one.
const BATCHES_PER_DIR: u64 = 64;
/// Directories that object files are spread over.
pub const FAN_OUT: u64 = 256;

/// What is known of an object besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHeader {
    /// Its name.
    pub id: ObjectId,
    /// The inode it was written for.
    pub ino: Ino,
    /// The chunk it was cut from.
    pub chunk: ChunkNo,
    /// Bytes, at most [`CHUNK_SIZE`].
    pub len: u32,
    /// One CRC per block.
    pub sums: BlockSums,
    /// What its writer said of the file, for whoever reads the disk without a master.
    pub about: Option<Box<ObjectAbout>>,
}

/// The body in format 1.
#[derive(Deserialize)]
struct HeaderV1 {
    id: ObjectId,
    ino: Ino,
    chunk: ChunkNo,
    len: u32,
    sums: BlockSums,
    path_hint: Option<String>,
}

impl From<HeaderV1> for ObjectHeader {
    fn from(old: HeaderV1) -> Self {
        let about = old.path_hint.map(|path| {
            let mut about = ObjectAbout::default();
            about.put.path = Some(PathHint::new(path.into_bytes()));
            Box::new(about)
        });
        Self {
            id: old.id,
            ino: old.ino,
            chunk: old.chunk,
            len: old.len,
            sums: old.sums,
            about,
        }
    }
}

impl ObjectHeader {
    /// Identity of the bytes.
    #[must_use]
    pub fn sum(&self) -> ObjectSum {
        self.sums.object_sum(self.len)
    }

    /// True if the length is allowed and has one CRC per block.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        let blocks = (self.len as usize).div_ceil(BLOCK_SIZE);
        u64::from(self.len) <= CHUNK_SIZE && self.sums.0.len() == blocks
    }

    /// The header's bytes, without padding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let path = self
            .about
            .as_ref()
            .and_then(|about| about.put.path.as_ref());
        let body = if path.is_some_and(|path| path.0.len() > PATH_HINT_MAX) {
            let mut short = self.clone();
            if let Some(about) = &mut short.about {
                about.put.path = about.put.path.take().map(|path| PathHint::new(path.0));
            }
            postcard::to_allocvec(&short)
        } else {
            postcard::to_allocvec(self)
        };
        let body = body.expect("a header of plain fields is always encodable");
        let mut covered = OBJECT_FORMAT.to_le_bytes().to_vec();
        let len = u16::try_from(body.len()).expect("sums and hint are bounded");
        covered.extend(len.to_le_bytes());
        covered.extend(body);
        let mut out = MAGIC.to_vec();
        out.extend(&covered[..4]);
        out.extend(crc32c(&covered).to_le_bytes());
        out.extend(&covered[4..]);
        out
    }

    /// Bytes of the header that `bytes` begin with, as it says itself.
    pub(super) fn encoded_len(bytes: &[u8]) -> Option<usize> {
        let body = bytes.get(10..12)?;
        Some(PREFIX_BYTES + usize::from(u16::from_le_bytes([body[0], body[1]])))
    }

    /// Reads a header from the beginning of `bytes`; `None` if it is damaged or of another format.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
        let len = u16::from_le_bytes([prefix[10], prefix[11]]);
        let body = rest.get(..usize::from(len))?;
        let mut covered = prefix[8..12].to_vec();
        covered.extend(body);
        if !prefix.starts_with(MAGIC) || prefix[12..] != crc32c(&covered).to_le_bytes() {
            return None;
        }
        let header: Self = match u16::from_le_bytes([prefix[8], prefix[9]]) {
            1 => postcard::from_bytes::<HeaderV1>(body).ok()?.into(),
            OBJECT_FORMAT => postcard::from_bytes(body).ok()?,
            _ => return None,
        };
        header.is_plausible().then_some(header)
    }
}

/// Where an object's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the table.
    Table,
    /// In the file of this generation.
    File(u64),
}

/// A row of the object table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectRow {
    pub place: Place,
    pub header: ObjectHeader,
}

impl ObjectRow {
    pub fn encode(&self) -> Vec<u8> {
        let (tag, generation) = match self.place {
            Place::Table => (0, 0),
            Place::File(generation) => (1, generation),
        };
        let mut out = vec![tag];
        out.extend(u64::to_le_bytes(generation));
        out.extend(self.header.encode());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let place = match tag {
            0 => Place::Table,
            1 => Place::File(u64::from_le_bytes(*generation)),
            _ => return None,
        };
        let header = ObjectHeader::decode(rest)?;
        Some(Self { place, header })
    }
}

/// What the durable tables cover, written with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreCounters {
    /// The store they belong to.
    pub store: StoreId,
    /// Every batch up to this one is in the tables.
    pub covered: u64,
    /// Bytes of the objects held.
    pub used_bytes: u64,
    /// Objects held.
    pub objects: u64,
}

/// A key of table `table` for an object; ordered as [`ObjectId`] is.
pub(super) fn object_key(table: u8, id: ObjectId) -> Vec<u8> {
    let mut key = vec![table];
    key.extend(id.op.client.0.to_be_bytes());
    key.extend(id.op.seq.to_be_bytes());
    key.extend(id.index.to_be_bytes());
    key
}

/// The object of a key.
pub(super) fn key_object(key: &[u8]) -> Option<ObjectId> {
    let key: &[u8; 29] = key.try_into().ok()?;
    Some(ObjectId {
        op: OpId {
            client: ClientId(u128::from_be_bytes(key[1..17].try_into().ok()?)),
            seq: u64::from_be_bytes(key[17..25].try_into().ok()?),
        },
        index: u32::from_be_bytes(key[25..].try_into().ok()?),
    })
}

pub(super) fn object_dir(dir: u64) -> String {
    format!("objects/{dir:02x}")
}

/// The file of an object and generation.
pub(super) fn object_path(id: ObjectId, generation: u64) -> String {
    let dir = object_dir(generation / BATCHES_PER_DIR % FAN_OUT);
    let ObjectId { op, index } = id;
    let (client, seq) = (op.client.0, op.seq);
    format!("{dir}/{client:032x}-{seq:016x}-{index:08x}.{generation:016x}")
}

/// Object and generation of a file name.
pub(super) fn parse_file_name(name: &str) -> Option<(ObjectId, u64)> {
    let (id, generation) = name.split_once('.')?;
    let mut parts = id.split('-');
    let client = u128::from_str_radix(parts.next()?, 16).ok()?;
    let seq = u64::from_str_radix(parts.next()?, 16).ok()?;
    let index = u32::from_str_radix(parts.next()?, 16).ok()?;
    let op = OpId {
        client: ClientId(client),
        seq,
    };
    let generation = u64::from_str_radix(generation, 16).ok()?;
    Some((ObjectId { op, index }, generation))
}

/// A batch's changes as one journal record: per op `tag u8 | key len u32 | key [| len u32 | value]`.
pub(super) fn encode_ops(ops: &[KvOp]) -> Vec<u8> {
    let field = |out: &mut Vec<u8>, bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).expect("keys and values are far below 4 GiB");
        out.extend(len.to_le_bytes());
        out.extend(bytes);
    };
    let mut out = Vec::new();
    for op in ops {
        match op {
            KvOp::Put(key, value) => {
                out.push(0);
                field(&mut out, key);
                field(&mut out, value);
            }
            KvOp::Delete(key) => {
                out.push(1);
                field(&mut out, key);
            }
        }
    }
    out
}

/// Reads [`encode_ops`] back; `None` if it is no such record.
pub(super) fn decode_ops(mut bytes: &[u8]) -> Option<Vec<KvOp>> {
    fn field(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *bytes = rest;
        Some(field.to_vec())
    }
    let mut ops = Vec::new();
    while let Some((tag, rest)) = bytes.split_first() {
        bytes = rest;
        let key = field(&mut bytes)?;
        ops.push(match tag {
            0 => KvOp::Put(key, field(&mut bytes)?),
            1 => KvOp::Delete(key),
            _ => return None,
        });
    }
    Some(ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PutAbout, PutKind, Revision, Timestamp};

    fn about() -> ObjectAbout {
        let time = Timestamp {
            secs: i64::MIN,
            nanos: 999_999_999,
        };
        ObjectAbout {
            start: u32::MAX,
            put: PutAbout {
                path: Some(PathHint(vec![0xfe; 4000])),
                kind: PutKind::Compact,
                base: Revision(u64::MAX),
                size: Some(u64::MAX),
                mtime: Some(time),
                mode: u32::MAX,
                uid: u32::MAX,
                gid: u32::MAX,
            },
        }
    }

    fn header() -> ObjectHeader {
        let op = OpId {
            client: ClientId(u128::MAX - 5),
            seq: 7,
        };
        ObjectHeader {
            id: ObjectId { op, index: 3 },
            ino: Ino(u64::MAX),
            chunk: ChunkNo(9),
            len: u32::try_from(CHUNK_SIZE).unwrap(),
            sums: BlockSums(vec![u32::MAX; 64]),
            about: Some(Box::new(about())),
        }
    }

    #[test]
    fn the_largest_header_fits_its_page_and_reads_back() {
        let header = header();
        let bytes = header.encode();
        assert!(bytes.len() <= FILE_HEADER_BYTES);
        let back = ObjectHeader::decode(&bytes).unwrap();
        assert_eq!((back.id, back.sum()), (header.id, header.sum()));
        let (was, is) = (about(), back.about.unwrap());
        assert_eq!(is.put.path.as_ref().unwrap().0.len(), 1024);
        assert_eq!((is.start, is.put.size), (was.start, was.put.size));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(ObjectHeader::decode(&damaged), None, "byte {at}");
        }
    }

    #[test]
    fn a_header_of_format_1_is_still_read() {
        let header = header();
        let mut short = header.clone();
        short.about = None;
        for path in [None, Some("dir/file".to_owned())] {
            // Nothing and no path look alike in both formats.
            let mut body = postcard::to_allocvec(&short).unwrap();
            body.pop();
            body.extend(postcard::to_allocvec(&path).unwrap());
            let mut covered = 1u16.to_le_bytes().to_vec();
            covered.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
            covered.extend(&body);
            let mut bytes = MAGIC.to_vec();
            bytes.extend(&covered[..4]);
            bytes.extend(crc32c(&covered).to_le_bytes());
            bytes.extend(&covered[4..]);
            let back = ObjectHeader::decode(&bytes).unwrap();
            assert_eq!((back.id, back.sum()), (header.id, header.sum()));
            let hint = back.about.and_then(|about| about.put.path);
            assert_eq!(hint.map(|hint| hint.0), path.map(String::into_bytes));
        }
    }

    #[test]
    fn rows_keys_names_and_records_read_back() {
        let header = header();
        let id = header.id;
        assert_eq!(key_object(&object_key(TABLE_OBJECT, id)), Some(id));
        let path = object_path(id, 64 * 300 + 5);
        let name = path.strip_prefix("objects/2c/").unwrap();
        assert_eq!(parse_file_name(name), Some((id, 64 * 300 + 5)));
        let row = ObjectRow {
            place: Place::File(8),
            header: ObjectHeader {
                about: None,
                ..header
            },
        };
        assert_eq!(ObjectRow::decode(&row.encode()), Some(row));
        let ops = vec![
            KvOp::Put(vec![1], vec![]),
            KvOp::Delete(vec![2; 300]),
            KvOp::Put(vec![], vec![3; 70_000]),
        ];
        let bytes = encode_ops(&ops);
        assert_eq!(decode_ops(&bytes), Some(ops));
        assert_eq!(decode_ops(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode_ops(&[9, 0, 0, 0, 0]), None);
    }
}

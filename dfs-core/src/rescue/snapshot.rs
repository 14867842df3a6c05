//! A namespace snapshot as objects: FORMAT.
//!
//! ```text
//! part i    = postcard of [(bytes shared with the key before u16, rest of the key, value)]
//! manifest  = postcard of NamespaceManifest, with the identity of every part
//! ```
//! Parts are numbered from 0, the manifest is [`MANIFEST_PART`], written last. Of one log index all
//! stores make the same parts, so that a part that is damaged in one directory is taken from another.
use crate::store::{KvPair, ObjectHeader, ObjectWrite};
use crate::types::{BlockSums, ChunkNo, ClusterId, Ino, LogIndex, ObjectId, ObjectSum, Time};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Number of the object that says which parts there are.
pub const MANIFEST_PART: u32 = u32::MAX;
/// Version of the parts and the manifest.
pub const NAMESPACE_FORMAT: u16 = 1;
/// A part is closed when its rows have this many bytes.
const PART_BYTES: usize = 2 << 20;

type Row = (u16, Vec<u8>, Vec<u8>);

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceManifest {
    /// [`NAMESPACE_FORMAT`].
    pub format: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// The log up to which it is complete.
    pub index: LogIndex,
    /// When (Unix time, by the master's clock).
    pub taken_at: Time,
    /// Rows of all parts.
    pub rows: u64,
    /// Identity of each part, in order.
    pub parts: Vec<ObjectSum>,
}

impl NamespaceManifest {
    /// Reads a manifest; `None` if it is none of a format that this program knows.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, _): (u16, _) = postcard::take_from_bytes(bytes).ok()?;
        (format == NAMESPACE_FORMAT)
            .then(|| postcard::from_bytes(bytes).ok())
            .flatten()
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|sum| u64::from(sum.len)).sum()
    }
}

/// Cuts rows, which come in key order, into parts.
#[derive(Debug)]
pub struct PartBuilder {
    index: LogIndex,
    rows: Vec<Row>,
    bytes: usize,
    last: Vec<u8>,
    parts: Vec<ObjectSum>,
    rows_done: u64,
}

impl PartBuilder {
    /// For a snapshot as of `index`.
    #[must_use]
    pub fn new(index: LogIndex) -> Self {
        Self {
            index,
            rows: Vec::new(),
            bytes: 0,
            last: Vec::new(),
            parts: Vec::new(),
            rows_done: 0,
        }
    }

    /// Adds rows; gives the parts that are full.
    pub fn add(&mut self, pairs: Vec<KvPair>) -> Vec<ObjectWrite> {
        let mut full = Vec::new();
        for (key, value) in pairs {
            let same = key.iter().zip(&self.last).take_while(|(a, b)| a == b);
            let shared = u16::try_from(same.count()).unwrap_or(u16::MAX);
            let rest = key[usize::from(shared)..].to_vec();
            self.bytes += rest.len() + value.len() + 8;
            self.rows.push((shared, rest, value));
            self.last = key;
            if self.bytes >= PART_BYTES {
                full.extend(self.close());
            }
        }
        full
    }

    fn close(&mut self) -> Option<ObjectWrite> {
        if self.rows.is_empty() {
            return None;
        }
        let rows = std::mem::take(&mut self.rows);
        self.rows_done += rows.len() as u64;
        self.bytes = 0;
        self.last.clear();
        let bytes = postcard::to_allocvec(&rows).expect("rows are plain data");
        let part = u32::try_from(self.parts.len()).expect("far fewer parts");
        let object = object(self.index, part, bytes);
        self.parts.push(object.header.sum());
        Some(object)
    }

    /// The last part, if there are rows left, and what the manifest shall say.
    pub fn finish(
        mut self,
        cluster: ClusterId,
        taken_at: Time,
    ) -> (Option<ObjectWrite>, NamespaceManifest) {
        let last = self.close();
        let manifest = NamespaceManifest {
            format: NAMESPACE_FORMAT,
            cluster,
            index: self.index,
            taken_at,
            rows: self.rows_done,
            parts: self.parts,
        };
        (last, manifest)
    }
}

/// The manifest as the object that is written last.
#[must_use]
pub fn manifest_object(manifest: &NamespaceManifest) -> ObjectWrite {
    let bytes = postcard::to_allocvec(manifest).expect("a manifest is plain data");
    object(manifest.index, MANIFEST_PART, bytes)
}

fn object(index: LogIndex, part: u32, bytes: Vec<u8>) -> ObjectWrite {
    let len = u32::try_from(bytes.len()).expect("rows are far below an object's limit");
    let header = ObjectHeader {
        id: ObjectId::of_namespace(index.0, part),
        ino: Ino::NAMESPACE,
        chunk: ChunkNo(part),
        len,
        sums: BlockSums::of(&bytes),
        about: None,
    };
    ObjectWrite {
        header,
        bytes: Bytes::from(bytes),
    }
}

/// Bytes of a key at most: the longest is that of a name in a directory.
const KEY_MAX: usize = 512;

/// Rows of a part, in key order; `None` if the bytes are no part. The rows have no more bytes than keys
/// of this length can have: a few bytes that claim a long common beginning are no row.
#[must_use]
pub fn decode_part(bytes: &[u8]) -> Option<Vec<KvPair>> {
    let rows: Vec<Row> = postcard::from_bytes(bytes).ok()?;
    let mut last: Vec<u8> = Vec::new();
    let mut pairs = Vec::with_capacity(rows.len());
    for (shared, rest, value) in rows {
        let mut key = last.get(..usize::from(shared))?.to_vec();
        key.extend(rest);
        if key.len() > KEY_MAX {
            return None;
        }
        last.clone_from(&key);
        pairs.push((key, value));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_being_cut_into_parts() {
        let rows: Vec<KvPair> = (0..40_000u32)
            .map(|n| ([b"b0000", &n.to_be_bytes()[..]].concat(), vec![7; 100]))
            .collect();
        let mut builder = PartBuilder::new(LogIndex(9));
        let mut parts = Vec::new();
        for page in rows.chunks(999) {
            parts.extend(builder.add(page.to_vec()));
        }
        let (last, manifest) = builder.finish(ClusterId(1), Time(3));
        parts.extend(last);
        assert!(parts.len() > 1 && manifest.parts.len() == parts.len());
        assert_eq!(manifest.rows, 40_000);
        let mut back = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(part.header.sum(), manifest.parts[at]);
            assert!(part.header.is_plausible() && part.header.id.is_namespace());
            back.extend(decode_part(&part.bytes).unwrap());
        }
        assert!(back == rows);
        let object = manifest_object(&manifest);
        assert_eq!(NamespaceManifest::decode(&object.bytes), Some(manifest));
        let mut newer = object.bytes.to_vec();
        newer[0] = 2;
        assert_eq!(NamespaceManifest::decode(&newer), None);
    }

    #[test]
    fn bytes_that_are_no_part_are_refused() {
        let rows: Vec<Row> = vec![(5, Vec::new(), Vec::new())];
        assert_eq!(decode_part(&postcard::to_allocvec(&rows).unwrap()), None);
        assert_eq!(decode_part(&[0xff; 30]), None);
    }

    #[test]
    fn regression_a_few_bytes_do_not_become_gigabytes_of_keys() {
        let long = (0, vec![7; usize::from(u16::MAX)], Vec::new());
        let same = (u16::MAX, Vec::new(), Vec::new());
        let rows: Vec<Row> = vec![long, same.clone(), same];
        assert_eq!(decode_part(&postcard::to_allocvec(&rows).unwrap()), None);
    }

    #[test]
    fn keys_that_grow_in_steps_are_refused_when_they_are_too_long() {
        // Each takes all of the one before along, and adds a little.
        let row = |n: u16| (n * 100, vec![7; 100], Vec::new());
        let few: Vec<Row> = (0..5).map(row).collect();
        let pairs = decode_part(&postcard::to_allocvec(&few).unwrap()).unwrap();
        assert_eq!(pairs.last().map(|(key, _)| key.len()), Some(500));
        let more: Vec<Row> = (0..6).map(row).collect();
        assert_eq!(decode_part(&postcard::to_allocvec(&more).unwrap()), None);
    }
}

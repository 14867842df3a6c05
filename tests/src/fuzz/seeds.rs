//! First inputs, made from real encodings: at least one of each variant that travels, and each file
//! as its writer leaves it.
use super::commands::beginning;
use super::gossip::{Pair, identity};
use super::source::joined;
use super::wire::framed;
use super::{master, store};
use dfs_core::consensus::{
    ConfChange, ConfStep, EntryKind, HardState, LogEntry as RaftEntry, LogRecord, RaftBody,
    RaftMessage, SnapshotMeta,
};
use dfs_core::master::command::{Command, LogEntry};
use dfs_core::net::ClusterKey;
use dfs_core::net::auth::DatagramSeal;
use dfs_core::rescue::PartBuilder;
use dfs_core::rescue::manifest_object;
use dfs_core::store::ObjectHeader;
use dfs_core::types::{
    BlockSums, ChunkNo, ClientId, ClusterId, Ino, LogIndex, ObjectAbout, ObjectId, OpId, PathHint,
    RaftId, Term, Time, crc32c,
};
use dfs_core::wire::{Envelope, PROTOCOL_VERSION, Push, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Bytes of an endless value.
const ENDLESS: usize = 4000;

/// Target, and an input for it.
pub type Seed = (&'static str, Vec<u8>);

/// Encodings of one value of each variant: the bytes behind it are all the same, which most types
/// take for small numbers, short lists and present options. With `inner` above 1, so many variants of
/// what the first one holds are told apart.
fn variants<T: Serialize + DeserializeOwned>(inner: u8) -> Vec<Vec<u8>> {
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let told = if inner > 1 { 2 } else { 1 };
    for fill in [1, 0] {
        for (outer, inner) in (0..64u8).flat_map(|outer| (0..inner).map(move |i| (outer, i))) {
            let begin = &[outer, inner][..told];
            let bytes = [begin, &[fill; ENDLESS]].concat();
            let Ok(value) = postcard::from_bytes::<T>(&bytes) else {
                continue;
            };
            let bytes = postcard::to_stdvec(&value).unwrap_or_default();
            if bytes.len() < ENDLESS {
                let known = bytes[..told.min(bytes.len())].to_vec();
                found.entry(known).or_insert(bytes);
            }
        }
    }
    found.into_values().collect()
}

/// A few commands in which files are made, written, renamed and removed.
#[must_use]
pub fn some_history() -> Vec<Command> {
    // Decisions of `build`, found by trying: most of what clients do.
    let mut source = super::source::Source::new(HISTORY);
    (1..=24)
        .map(|next| super::build::command(&mut source, next))
        .collect()
}

/// Bytes with small values that differ.
const HISTORY: &[u8] = &drawn::<600>(12_345, 24);

/// Bytes below `limit` by a linear congruential generator.
const fn drawn<const N: usize>(seed: u32, limit: u32) -> [u8; N] {
    let mut bytes = [0u8; N];
    let (mut at, mut state) = (0, seed);
    while at < N {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        bytes[at] = ((state >> 16) % limit) as u8;
        at += 1;
    }
    bytes
}

fn coded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data can be encoded")
}

/// All first inputs.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut out = Vec::new();
    of_wire(&mut out);
    of_gossip(&mut out);
    of_consensus(&mut out);
    of_store(&mut out);
    of_master(&mut out);
    of_config(&mut out);
    out
}

fn of_wire(out: &mut Vec<Seed>) {
    let requests = variants::<Request>(64);
    let envelopes = variants::<Envelope>(1);
    let stream: Vec<u8> = envelopes
        .iter()
        .take(6)
        .flat_map(|header| framed(header, b"xyz"))
        .collect();
    for cuts in [[0, 0, 0, 0], [1, 11, 1, 30], [12, 4, 200, 1]] {
        out.push(("frame_reader", [&cuts[..], &stream].concat()));
    }
    out.extend(envelopes.into_iter().map(|e| ("envelope", e)));
    for body in &requests {
        let request: Request = postcard::from_bytes(body).expect("just encoded");
        let id = 7;
        let envelope = Envelope::Request { id, body: request };
        out.push(("envelope", coded(&envelope)));
    }
    out.extend(requests.into_iter().map(|r| ("request", r)));
    let responses = variants::<Response>(64);
    out.extend(responses.into_iter().map(|r| ("response", r)));
    out.extend(variants::<Push>(1).into_iter().map(|p| ("push", p)));
    let version = PROTOCOL_VERSION.to_le_bytes();
    for is_client in [0, 1] {
        let hello = [
            &[is_client, 0, 3],
            &b"DFS\x01"[..],
            &version,
            &[0],
            &[5; 120],
        ];
        out.push(("handshake", hello.concat()));
    }
}

fn of_gossip(out: &mut Vec<Seed>) {
    let mut pair = Pair::new();
    for _ in 0..40 {
        pair.fire();
        pair.deliver();
    }
    pair.handle(
        1,
        dfs_core::membership::MemberEvent::Doubt {
            tcp: identity(2).tcp,
        },
    );
    pair.handle(2, dfs_core::membership::MemberEvent::Leave);
    pair.deliver();
    let mut sent = std::mem::take(&mut pair.sent);
    sent.sort_by_key(|payload| (payload.first().copied(), payload.len()));
    sent.dedup_by_key(|payload| (payload.first().copied(), payload.len()));
    let seal = DatagramSeal::new(&ClusterKey::from_bytes([7; 32]), ClusterId(3));
    for payload in sent.iter().take(12) {
        out.push(("datagram", [&[6], &joined([&payload[..]])[..]].concat()));
        let mut sealed = Vec::new();
        seal.seal(identity(1).id, payload, &mut sealed);
        out.push(("sealed_datagram", sealed));
    }
    let both = sent.iter().take(4);
    let one_by_one = both.flat_map(|p| [&[9], &joined([&p[..]])[..]].concat());
    out.push(("datagram", one_by_one.collect()));
}

fn raft_entry(index: u64, kind: EntryKind) -> RaftEntry {
    let change = ConfChange::One(ConfStep::AddLearner(RaftId(4)));
    RaftEntry {
        index: LogIndex(index),
        term: Term(1),
        kind,
        data: match kind {
            EntryKind::Command => coded(&Command::RaiseLease { ino: Ino(3) }).into(),
            EntryKind::Conf => change.encode(),
        },
    }
}

fn of_consensus(out: &mut Vec<Seed>) {
    let meta = SnapshotMeta::bootstrap((1..=3).map(RaftId));
    let hard = HardState {
        term: Term(2),
        vote: Some(RaftId(3)),
        commit: LogIndex(1),
    };
    let records = [
        LogRecord::Entry(raft_entry(2, EntryKind::Command)),
        LogRecord::Entry(raft_entry(3, EntryKind::Conf)),
        LogRecord::HardState(hard),
        LogRecord::Base(meta.clone()),
        LogRecord::Reset(meta.clone()),
        LogRecord::Installing(meta.clone()),
    ];
    let coded_records: Vec<Vec<u8>> = records.iter().map(coded).collect();
    out.extend(coded_records.iter().map(|r| ("raft_record", r.clone())));
    let joint = ConfChange::Joint(vec![
        ConfStep::Promote(RaftId(4)),
        ConfStep::Remove(RaftId(1)),
    ]);
    out.push(("raft_record", joint.encode().to_vec()));
    for record in &coded_records {
        let entry = joined([&coded_records[0][..]]);
        let forged = [&[1], &entry[..], &[3], &joined([&record[..]])];
        out.push(("raft_log", forged.concat()));
    }
    let flipped = [&[1], &joined([&coded_records[0][..]])[..], &[1, 9, 2, 3]];
    out.push(("raft_log", flipped.concat()));
    let mut bodies: Vec<RaftBody> = Vec::new();
    for body in variants::<RaftBody>(1) {
        bodies.extend(postcard::from_bytes(&body).ok());
    }
    bodies.push(RaftBody::Append {
        prev_index: LogIndex(1),
        prev_term: Term(1),
        commit: LogIndex(1),
        entries: vec![
            raft_entry(2, EntryKind::Command),
            raft_entry(3, EntryKind::Conf),
        ],
    });
    bodies.push(RaftBody::Snapshot(SnapshotMeta {
        index: LogIndex(9),
        ..meta
    }));
    let mut script = Vec::new();
    for (at, body) in bodies.into_iter().enumerate() {
        let message = RaftMessage {
            to: RaftId(1),
            term: Term(2),
            body,
        };
        let bytes = message.encode();
        script.extend([&[4 + (at % 2) as u8], &joined([&bytes[..]])[..], &[2]].concat());
        out.push(("raft_message", bytes));
    }
    out.push(("raft_node", script.clone()));
    out.push(("raft_node", [&[1, 0, 2], &script[..]].concat()));
}

/// The header of a small object.
fn header() -> ObjectHeader {
    let op = OpId {
        client: ClientId(3),
        seq: 1,
    };
    let mut about = ObjectAbout::default();
    about.put.path = Some(PathHint::new(b"/dir/file".to_vec()));
    ObjectHeader {
        id: ObjectId { op, index: 0 },
        ino: Ino(5),
        chunk: ChunkNo(0),
        len: 5,
        sums: BlockSums::of(b"hello"),
        about: Some(Box::new(about)),
    }
}

fn of_store(out: &mut Vec<Seed>) {
    let text = format!(
        "dfs-store 2\ncluster {}\nstore {}\n",
        store::META.cluster,
        store::META.store
    );
    let sum = format!("crc32c {:08x}\n", crc32c(text.as_bytes()));
    out.push(("store_meta", format!("{text}{sum}").into()));
    out.push(("store_meta", text.into()));
    let header = header();
    out.push(("object_header", header.encode()));
    out.push(("object_header", header.encode()[16..].to_vec()));
    let records = joined([&b"one"[..], &[7; 300], b""]);
    let script = [
        &[5, 4],
        &records[..5],
        &[4],
        &records[5..307],
        &[1, 0, 2, 1, 2, 9, 3],
    ];
    out.push(("journal", script.concat()));
    out.push(("journal", [&[1, 4], &records[..5], &[0, 2, 4, 1]].concat()));
    // A batch with the row and the bytes of an object, as the store writes it.
    let key = |table: u8| {
        let op = header.id.op;
        let (client, seq) = (op.client.0.to_be_bytes(), op.seq.to_be_bytes());
        let index = header.id.index.to_be_bytes();
        [&[table], &client[..], &seq, &index].concat()
    };
    let field = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).expect("small").to_le_bytes();
        [&len[..], bytes].concat()
    };
    let put = |key: &[u8], value: &[u8]| [&[0], &field(key)[..], &field(value)].concat();
    for place in [0, 1] {
        let mut row = vec![place, place, 0, 0, 0, 0, 0, 0, 0];
        row.extend(header.encode());
        let mut record = put(&key(0xf0), &row);
        record.extend(put(&key(0xf1), b"hello"));
        record.extend([&[1], &field(b"gone")[..]].concat());
        let mut file = header.encode();
        file.resize(4096, 0);
        file.extend(b"hello");
        let script = [
            &[place, 1],
            &joined([&record[..]])[..],
            &[1],
            &joined([&file[..], b"x"]),
        ];
        out.push(("store_recovery", script.concat()));
    }
    let node = identity(1).id;
    let peers = format!("dfs-peers 1\npeer {node} 127.0.0.1:1 [::1]:2\n");
    out.push(("node_files", peers.into()));
    out.push((
        "node_files",
        format!("dfs-node 1\nnode {node}\nincarnation 5\n").into(),
    ));
}

fn of_master(out: &mut Vec<Seed>) {
    for bytes in variants::<Command>(1) {
        let command = postcard::from_bytes(&bytes).expect("just encoded");
        let at = Time(1);
        out.push(("log_entry", coded(&LogEntry { at, command })));
    }
    for (at, command) in (1..).map(Time).zip(some_history()) {
        out.push(("log_entry", coded(&LogEntry { at, command })));
    }
    let rows = master::rows_of(beginning().into_iter().chain(some_history()));
    out.push(("snapshot_rows", [&[1], &coded(&rows)[..]].concat()));
    out.push(("snapshot_rows", vec![0, 3, 1, 2, 9, 20, 0, 1, 1]));
    let mut builder = PartBuilder::new(LogIndex(9));
    let mut parts = builder.add(rows);
    let (last, manifest) = builder.finish(ClusterId(1), Time(3));
    parts.extend(last);
    out.push(("manifest", manifest_object(&manifest).bytes.to_vec()));
    out.extend(parts.iter().map(|p| ("namespace_part", p.bytes.to_vec())));
    out.push(("commands", HISTORY.to_vec()));
    for (seed, limit) in (1..).zip([24, 40, 64, 120, 256, 256, 256, 256]) {
        out.push(("commands", drawn::<1200>(seed * 7919, limit).to_vec()));
    }
}

fn of_config(out: &mut Vec<Seed>) {
    let daemon = "data = \"/d\"\nlisten = \"127.0.0.1:7400\"\njoin = [\"[::1]:1\"]\nzone = \"r1\"\n\
                  [cluster]\ncopies = 3\nwrite_quorum = 2\nplacement_groups = 16\nmasters = 3\n\
                  [store]\nreserve_percent = 5\nscrub_period_hours = 24\n\
                  [repair]\ngrace_ms = 10000\nrejoin = \"wipe\"\nbusy_host = true\n";
    out.push(("daemon_config", daemon.into()));
    let client = "cluster = [\"10.0.0.1:7400\", \"a\"]\nkey_file = \"/k\"\n";
    out.push(("client_config", client.into()));
    let options = "ro,suid,timeout=5,cache=32,x-systemd.automount\ncluster=\"a:1,b:2\",dirty=9";
    out.push(("mount_options", options.into()));
    let key = ClusterKey::from_bytes(*b"0123456789abcdef0123456789abcdef");
    out.push(("cluster_key", format!("{}\n", key.to_hex()).into()));
    for path in ["/a/b/../c/./d/", "rel/\u{e9}//x", "/..", ".versions/a/7"] {
        out.push(("paths", path.into()));
    }
}

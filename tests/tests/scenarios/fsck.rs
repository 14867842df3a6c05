//! `fsck`: says nothing of a cluster that is well and busy, and names what is wrong with one that is not.
use bytes::Bytes;
use dfs_core::replica::tables::{self, CleanRow, ObjectRow, keys};
use dfs_core::store::{
    Base, Batch, FileDisk, KvOp, KvRead, ObjectHeader, ObjectWrite, RedbBase, StoreDir, StoreMeta,
    StoreOptions, prefix_end,
};
use dfs_core::types::{
    BlockSums, ClientId, FileKind, Ino, Name, ObjectId, OpId, PgId, Revision, SMALL_OBJECT_MAX,
    StoreId,
};
use dfs_tests::proc::fsck::{Report, fsck};
use dfs_tests::proc::load::Load;
use dfs_tests::proc::{Cluster, Mount, exclusive, fsck_clean, fuse_or_skip, number, sh};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Files of several sizes and versions, deleted and renamed ones, links, attributes.
fn fill(mount: &Mount, files: usize) {
    for round in 0..6 {
        for i in 0..files {
            let size = if i % 3 == 0 { 300_000 } else { 3_000 };
            let text = vec![b'a' + (round + i) as u8 % 26; size + i];
            std::fs::write(mount.join(format!("file{i}")), text).unwrap();
        }
    }
    let at = mount.join("");
    sh(&format!(
        "cd {}; mkdir -p d/e; cp file0 d/e/copy; ln file1 d/link; mv file2 d/moved; rm file3
         ln -s file1 soft; mkdir gone; echo x > gone/x; rm -r gone; setfattr -n user.a -v b file1 || true",
        at.display()
    ))
    .unwrap();
}

#[test]
fn a_busy_cluster_has_no_problems() {
    if !fuse_or_skip("fsck of a busy cluster") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    fill(&mount, 12);
    let load = Load::start(&mount.join("load"), 2, 100_000);
    let mut figures = Vec::new();
    for _ in 0..number("DFS_FSCK_ROUNDS", 1) {
        let report = fsck(&cluster, &[]).unwrap();
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
        figures.push(report.checked);
    }
    let seen = load.stop();
    assert_eq!(seen.errors, Vec::<String>::new());
    mount.unmount().unwrap();
    let report = fsck_clean(&cluster).unwrap();
    println!("figures: busy {figures:?}; quiet {}", report.checked);
    assert!(report.checked["objects"].as_u64().unwrap() > 40);
    assert_eq!(report.checked["voters"], 3);
}

/// A client that never was, and an inode that never was.
const NOBODY: ClientId = ClientId(7 << 64);
const NOWHERE: u64 = 1 << 40;

fn number_key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![table];
    parts.iter().for_each(|p| key.extend_from_slice(p));
    key
}

/// Plants rows into a voter's tables that nothing else agrees with; gives the kinds to be found.
fn plant_tables(data: &Path) -> BTreeSet<&'static str> {
    let disk = FileDisk::open(data).unwrap();
    let base = RedbBase::open(&disk, "master.redb", 1 << 20).unwrap();
    let (ino, root) = (NOWHERE.to_be_bytes(), 1u64.to_be_bytes());
    let (one, chunk) = (1u64.to_be_bytes(), 0u32.to_be_bytes());
    let nobody = NOBODY.0.to_be_bytes();
    let name = Name::new("planted").unwrap();
    let object = ObjectId {
        op: OpId {
            client: NOBODY,
            seq: 1,
        },
        index: 0,
    };
    let none: Vec<u64> = Vec::new();
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (
            number_key(b'a', &[b"1", &(NOWHERE + 7).to_be_bytes()]),
            Vec::new(),
        ),
        (
            number_key(b'a', &[b"2", &(NOWHERE + 8).to_be_bytes(), b"user.x"]),
            b"v".to_vec(),
        ),
        (number_key(b'b', &[&ino]), vec![0xff; 3]),
        (
            number_key(b'c', &[&root, b"planted"]),
            tables::encode(&(Ino(NOWHERE + 1), FileKind::File, 1u64 << 50)),
        ),
        (
            number_key(b'd', &[&root, &(1u64 << 51).to_be_bytes()]),
            tables::encode(&(name, Ino(NOWHERE + 2), FileKind::File)),
        ),
        (
            number_key(b'e', &[&(NOWHERE + 3).to_be_bytes(), &chunk, &one]),
            tables::encode(&none),
        ),
        (
            number_key(b'f', &[&nobody, &one, &chunk]),
            tables::encode(&3u64),
        ),
        (
            number_key(b'g', &[&[0, 1], &(NOWHERE + 4).to_be_bytes(), &chunk]),
            tables::encode(&2u64),
        ),
        (
            number_key(b'h', &[&(NOWHERE + 5).to_be_bytes(), &root, b"nothing"]),
            Vec::new(),
        ),
        (number_key(b'j', &[&one, &root, b"never"]), Vec::new()),
        (
            number_key(b'm', &[&(NOWHERE + 6).to_be_bytes(), &one, &chunk]),
            Vec::new(),
        ),
        (number_key(b'p', &[&nobody, &one]), vec![0xff]),
        (
            number_key(b'u', &[&[0xff; 8], &one, &chunk]),
            tables::encode(&(PgId(1), object)),
        ),
    ];
    rows.sort();
    let mut changes = rows.iter().map(|(k, v)| (k.as_slice(), Some(v.as_slice())));
    base.write(&mut changes).unwrap();
    [
        "orphan-index",
        "attribute-count",
        "unreadable-row",
        "entry-without-inode",
        "entry-count",
        "cookie-index",
        "stray-row",
        "object-references",
        "group-index",
        "link-index",
        "deleted-index",
        "totals",
        "row-index",
        "without-session",
        "delete-queue",
    ]
    .into()
}

struct Held {
    id: ObjectId,
    row: ObjectRow,
}

/// Plants damage into a store; gives the kinds to be found.
fn plant_store(data: &Path) -> BTreeSet<&'static str> {
    let root = data.join("store");
    let disk = FileDisk::open(&root).unwrap();
    let meta = StoreMeta::read(&disk).unwrap().unwrap();
    let mut dir = StoreDir::open(&root, meta.cluster, StoreId(1), StoreOptions::default()).unwrap();
    let prefix = keys::table(b'o');
    let rows = dir
        .store
        .scan(&prefix, &prefix_end(&prefix), usize::MAX)
        .unwrap();
    let held = rows.iter().map(|(key, value)| Held {
        id: keys::parse_object(key).unwrap(),
        row: tables::decode(key, value).unwrap(),
    });
    let (mut small, large): (Vec<_>, Vec<_>) =
        held.partition(|h| h.row.sum.len <= SMALL_OBJECT_MAX);
    assert!(small.len() > 8 && !large.is_empty());
    let mut batch = Batch::default();
    let put = |ops: &mut Vec<KvOp>, id: ObjectId, row: &ObjectRow| {
        ops.push(KvOp::Put(keys::object(b'o', id), tables::encode(row)));
    };
    // object-missing: neither bytes nor row.
    let missing = small.pop().unwrap();
    batch.deletes.push(missing.id);
    batch.ops.push(KvOp::Delete(keys::object(b'o', missing.id)));
    // object-unbacked: the row without bytes. object-unlisted: bytes without the row.
    batch.deletes.push(small.pop().unwrap().id);
    batch
        .ops
        .push(KvOp::Delete(keys::object(b'o', small.pop().unwrap().id)));
    // object-other-bytes: whole, and not what was committed.
    let other = small.pop().unwrap();
    let write = |id, row: &ObjectRow, text: &'static [u8]| ObjectWrite {
        header: ObjectHeader {
            id,
            ino: row.ino,
            chunk: row.chunk,
            len: text.len() as u32,
            sums: BlockSums::of(text),
            about: None,
        },
        bytes: Bytes::from_static(text),
    };
    let object = write(other.id, &other.row, b"something else");
    let row = ObjectRow {
        sum: object.header.sum(),
        ..other.row
    };
    batch.deletes.push(other.id);
    batch.objects.push(object);
    put(&mut batch.ops, other.id, &row);
    // object-misplaced: another group.
    let moved = small.pop().unwrap();
    put(
        &mut batch.ops,
        moved.id,
        &ObjectRow {
            pg: PgId(moved.row.pg.0 ^ 1),
            ..moved.row
        },
    );
    // stray-object: nothing refers to it.
    let id = ObjectId {
        op: OpId {
            client: NOBODY,
            seq: 9,
        },
        index: 0,
    };
    let object = write(id, &moved.row, b"left over");
    let row = ObjectRow {
        sum: object.header.sum(),
        ..moved.row
    };
    batch.objects.push(object);
    put(&mut batch.ops, id, &row);
    // stamp-behind, stamp-ahead, mark-decided.
    let stamps = keys::table(b's');
    let stamps = dir
        .store
        .scan(&stamps, &prefix_end(&stamps), usize::MAX)
        .unwrap();
    let old = CleanRow {
        revision: Revision(0),
        op: OpId::default(),
    };
    batch
        .ops
        .push(KvOp::Put(stamps[0].0.clone(), tables::encode(&old)));
    let new = CleanRow {
        revision: Revision(1 << 30),
        op: OpId::default(),
    };
    batch
        .ops
        .push(KvOp::Put(stamps[1].0.clone(), tables::encode(&new)));
    let op = OpId {
        client: NOBODY,
        seq: 3,
    };
    batch
        .ops
        .push(KvOp::Put(keys::mark(PgId(3), Ino(NOWHERE), op), Vec::new()));
    let pending = dir.store.apply(batch).unwrap();
    dir.writer.commit(&[pending]).unwrap();
    // object-damaged: one byte of a file.
    let files = sh(&format!(
        "find {}/objects -type f | sort | tail -1",
        root.display()
    ))
    .unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(files.trim())
        .unwrap();
    file.write_all_at(b"#", 4096 + 1000).unwrap();
    file.sync_all().unwrap();
    [
        "object-missing",
        "object-unbacked",
        "object-unlisted",
        "object-other-bytes",
        "object-misplaced",
        "stray-object",
        "stamp-behind",
        "stamp-ahead",
        "mark-decided",
        "object-damaged",
    ]
    .into()
}

fn assert_found(report: &Report, planted: &BTreeSet<&str>, addr: &str) {
    let found = report.kinds();
    let missed: Vec<_> = planted.difference(&found).collect();
    assert!(
        missed.is_empty(),
        "not found: {missed:?} in {:#?}",
        report.problems
    );
    // Of two voters that differ nobody knows which one is right.
    let mut known = report.problems.iter().filter(|p| p.kind != "voters-differ");
    let elsewhere = known.find(|p| p.addr.as_deref() != Some(addr));
    assert!(
        elsewhere.is_none(),
        "{elsewhere:?} is not where damage was planted"
    );
}

#[test]
fn each_kind_of_planted_damage_is_found_and_named() {
    if !fuse_or_skip("fsck of a damaged cluster") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    fill(&mount, 24);
    mount.unmount().unwrap();
    fsck_clean(&cluster).unwrap();
    let leader = cluster.leader().unwrap();
    let victim = leader % 3 + 1;
    let node = cluster
        .nodes()
        .unwrap()
        .into_iter()
        .find(|n| n.node == victim)
        .unwrap();
    cluster.kill(victim).unwrap();
    let report = fsck(&cluster, &["--fast", "--timeout", "2"]).unwrap();
    assert!(report.kinds().contains("node-unreachable"), "{report:?}");
    let mut planted = plant_tables(&node.data_dir);
    planted.append(&mut plant_store(&node.data_dir));
    assert!(planted.len() >= 20, "{planted:?}");
    cluster.restart(victim).unwrap();
    let report = fsck(&cluster, &[]).unwrap();
    println!(
        "figures: {} kinds planted, {:?} found",
        planted.len(),
        report.kinds()
    );
    assert_found(&report, &planted, &node.addr.to_string());
}

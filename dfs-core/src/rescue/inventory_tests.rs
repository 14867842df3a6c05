use super::*;
use crate::store::{Batch, ObjectHeader, ObjectWrite, Rest, StoreDir};
use crate::types::{BlockSums, ClientId, Epoch, LogIndex, PgId};
use std::fs;

const SMALL: u64 = 400;
const LARGE: u64 = 3;

fn id(seq: u64) -> ObjectId {
    let client = ClientId(9);
    let op = OpId { client, seq };
    ObjectId { op, index: 0 }
}

fn content(seq: u64) -> Vec<u8> {
    let len = if seq <= SMALL { 300 } else { 300_000 };
    format!("<object {seq}>")
        .bytes()
        .cycle()
        .take(len)
        .collect()
}

/// A data directory with small and large objects, and one that only its journal has.
fn filled(data: &Path) {
    let root = data.join("store");
    let options = StoreOptions::default();
    let opened = StoreDir::open(&root, ClusterId(9), StoreId(4), options).unwrap();
    let (mut store, mut writer) = (opened.store, opened.writer);
    for seq in 1..=SMALL + LARGE + 1 {
        let bytes = content(seq);
        let header = ObjectHeader {
            id: id(seq),
            ino: Ino(seq),
            chunk: ChunkNo(0),
            len: u32::try_from(bytes.len()).unwrap(),
            sums: BlockSums::of(&bytes),
            about: None,
        };
        let objects = vec![ObjectWrite {
            header,
            bytes: bytes.into(),
        }];
        let batch = Batch {
            objects,
            ..Batch::default()
        };
        let pending = store.apply(batch).unwrap();
        writer.commit(&[pending]).unwrap();
        if seq == SMALL + LARGE {
            let done = store.begin_flush(true).unwrap().run();
            store.finish_flush(done).unwrap();
        }
    }
}

/// Objects that can be read, all of them with the right bytes.
fn readable(data: &Path) -> (Vec<u64>, Vec<String>) {
    let mut inventory = Inventory::default();
    inventory.add(Directory::open(data).unwrap()).unwrap();
    let is_there = |seq: &u64| {
        let Some(held) = inventory.held(id(*seq)) else {
            return false;
        };
        let Some(bytes) = inventory.bytes(id(*seq), held.sum, (0, held.sum.len)) else {
            return false;
        };
        assert!(bytes == content(*seq), "object {seq}");
        true
    };
    let seqs = (1..=SMALL + LARGE + 1).filter(is_there).collect();
    (seqs, inventory.troubles)
}

fn all() -> Vec<u64> {
    (1..=SMALL + LARGE + 1).collect()
}

const NAMES: [&str; 3] = ["tables.redb", "tables.redb.copy", "tables.redb.sums"];

#[test]
fn a_whole_directory_is_read_as_it_is() {
    let data = tempfile::tempdir().unwrap();
    filled(data.path());
    assert_eq!(readable(data.path()), (all(), Vec::new()));
}

#[test]
fn regression_of_a_store_without_tables_the_object_files_are_read() {
    let data = tempfile::tempdir().unwrap();
    filled(data.path());
    let root = data.path().join("store");
    for name in NAMES {
        fs::remove_file(root.join(name)).unwrap();
    }
    let (seqs, troubles) = readable(data.path());
    assert!(
        troubles
            .iter()
            .any(|words| words.contains("tables are gone")),
        "{troubles:?}"
    );
    assert_eq!(seqs, all(), "the journal has them");
    fs::remove_dir_all(root.join("journal")).unwrap();
    let (seqs, troubles) = readable(data.path());
    let large: Vec<u64> = (SMALL + 1..=SMALL + LARGE + 1).collect();
    assert_eq!(seqs, large, "{troubles:?}");
}

#[test]
fn regression_pages_that_are_lost_hide_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    filled(data.path());
    let root = data.path().join("store");
    let bytes = fs::read(root.join(NAMES[0])).unwrap();
    let needle = content(150);
    let places = (0..bytes.len() - 100).filter(|at| bytes[*at..].starts_with(&needle[..100]));
    let pages: BTreeSet<usize> = places.map(|at| at / 4096).collect();
    assert!(!pages.is_empty());
    for name in &NAMES[..2] {
        let mut bytes = fs::read(root.join(name)).unwrap();
        for page in &pages {
            // Another place in each, so that no two agree.
            let at = page * 4096 + if *name == NAMES[0] { 100 } else { 200 };
            bytes[at..at + 3000].fill(0x5a);
        }
        fs::write(root.join(name), bytes).unwrap();
    }
    let before: Vec<_> = NAMES.map(|name| fs::read(root.join(name)).unwrap()).into();
    let (seqs, troubles) = readable(data.path());
    assert!(
        seqs.len() as u64 > SMALL - 60,
        "{} {troubles:?}",
        seqs.len()
    );
    assert!((SMALL + 1..=SMALL + LARGE + 1).all(|seq| seqs.contains(&seq)));
    assert!(
        troubles[0].contains("damaged, and read as far as it goes"),
        "{troubles:?}"
    );
    let after: Vec<_> = NAMES.map(|name| fs::read(root.join(name)).unwrap()).into();
    assert!(before == after, "nothing is changed");
}

/// Deletes objects of a directory, which rest for this reason.
fn rest(data: &Path, seqs: &[u64], reason: RestReason) {
    rest_in(StoreId(4), data, seqs, reason);
}

fn rest_in(store: StoreId, data: &Path, seqs: &[u64], reason: RestReason) {
    let root = data.join("store");
    let options = StoreOptions::default();
    let opened = StoreDir::open(&root, ClusterId(9), store, options).unwrap();
    let (mut store, mut writer) = (opened.store, opened.writer);
    let rests = seqs.iter().map(|seq| Rest {
        id: id(*seq),
        since_ms: *seq,
        reason,
    });
    let batch = Batch {
        rests: rests.collect(),
        ..Batch::default()
    };
    let pending = store.apply(batch).unwrap();
    writer.commit(&[pending]).unwrap();
}

#[test]
fn what_rests_is_read_only_if_that_is_wanted() {
    let data = tempfile::tempdir().unwrap();
    filled(data.path());
    let (small, large) = (1, SMALL + 1);
    let deleted = [small, large];
    rest(data.path(), &deleted, RestReason::Deleted(LogIndex(5)));
    rest(data.path(), &[2], RestReason::Aborted);
    rest(data.path(), &[4], RestReason::Unreferenced(LogIndex(6)));
    let (seqs, troubles) = readable(data.path());
    assert_eq!(troubles, Vec::<String>::new());
    assert!(![small, large, 2, 4].iter().any(|seq| seqs.contains(seq)));
    assert_eq!(seqs.len(), all().len() - 4);

    let mut inventory = Inventory::with_quarantined();
    inventory
        .add(Directory::open(data.path()).unwrap())
        .unwrap();
    for seq in deleted {
        let sum = inventory.held(id(seq)).unwrap().sum;
        let bytes = inventory.bytes(id(seq), sum, (0, sum.len)).unwrap();
        assert!(bytes == content(seq));
        assert!(inventory.is_deleted(Ino(seq)));
    }
    for seq in [2, 4] {
        assert!(inventory.held(id(seq)).is_none(), "it never was");
    }
    assert!(!inventory.is_deleted(Ino(3)));
    let plan = crate::rescue::plan(&inventory, &MemKv::default());
    let paths: Vec<_> = plan.entries.iter().map(|entry| &entry.path[..]).collect();
    assert!(paths.contains(&&b"quarantined/lost+found/ino-1"[..]));
    assert!(paths.contains(&&b"lost+found/ino-3"[..]));
    let (seqs, _) = readable(data.path());
    assert_eq!(seqs.len(), all().len() - 4, "nothing was changed");
}

/// Stores the content `seq` under another name, for one inode.
fn put(data: &Path, name: ObjectId, seq: u64, ino: Ino) {
    put_in(StoreId(4), data, name, seq, ino);
}

fn put_in(store: StoreId, data: &Path, name: ObjectId, seq: u64, ino: Ino) {
    let root = data.join("store");
    let options = StoreOptions::default();
    let opened = StoreDir::open(&root, ClusterId(9), store, options).unwrap();
    let (mut store, mut writer) = (opened.store, opened.writer);
    let bytes = content(seq);
    let header = ObjectHeader {
        id: name,
        ino,
        chunk: ChunkNo(0),
        len: u32::try_from(bytes.len()).unwrap(),
        sums: BlockSums::of(&bytes),
        about: None,
    };
    let objects = vec![ObjectWrite {
        header,
        bytes: bytes.into(),
    }];
    let batch = Batch {
        objects,
        ..Batch::default()
    };
    let pending = store.apply(batch).unwrap();
    writer.commit(&[pending]).unwrap();
}

/// The objects that a file is made of, one of which is held and one rests for such reasons, in a
/// directory each; and what is doubted.
fn rescued_beside_resting(reasons: &[RestReason]) -> (Vec<u64>, Vec<String>) {
    let data = tempfile::tempdir().unwrap();
    let (living, resting, ino) = (1, 2, Ino(9000));
    put(data.path(), id(living), SMALL + 1, ino);
    put(data.path(), id(resting), SMALL + 2, ino);
    rest(data.path(), &[resting], reasons[0]);
    let mut inventory = Inventory::with_quarantined();
    inventory
        .add(Directory::open(data.path()).unwrap())
        .unwrap();
    for reason in &reasons[1..] {
        let other = tempfile::tempdir().unwrap();
        put_in(StoreId(5), other.path(), id(resting), SMALL + 2, ino);
        rest_in(StoreId(5), other.path(), &[resting], *reason);
        let other = Directory::open(other.path()).unwrap();
        inventory.add(other).unwrap();
    }
    assert!(inventory.held(id(resting)).unwrap().is_deleted && !inventory.is_deleted(ino));
    let plan = crate::rescue::plan(&inventory, &MemKv::default());
    let entry = plan.entries.iter().find(|e| e.ino == Some(ino)).unwrap();
    let crate::rescue::What::File(file, _) = &entry.what else {
        panic!("a file");
    };
    let objects = file.pieces().map(|piece| piece.object.op.seq);
    (objects.collect(), entry.doubts.clone())
}

#[test]
fn regression_what_rests_of_a_file_that_lives_is_not_laid_over_it() {
    let reason = RestReason::Deleted(LogIndex(5));
    assert_eq!(rescued_beside_resting(&[reason]).0, [1]);
}

#[test]
fn regression_what_rests_as_its_group_moved_may_be_the_only_copy_of_a_file_that_lives() {
    let reason = RestReason::Moved(PgId(0), Epoch(3));
    let (objects, doubts) = rescued_beside_resting(&[reason]);
    assert!(objects.contains(&2), "{objects:?}");
    assert!(
        doubts.iter().any(|words| words.contains("left behind")),
        "{doubts:?}"
    );
}

#[test]
fn regression_what_was_deleted_is_no_part_of_a_file_for_a_copy_that_moved_before() {
    let deleted = RestReason::Deleted(LogIndex(5));
    let moved = RestReason::Moved(PgId(0), Epoch(3));
    for reasons in [[deleted, moved], [moved, deleted]] {
        assert_eq!(rescued_beside_resting(&reasons).0, [1], "{reasons:?}");
    }
}

#[test]
fn what_is_taken_by_its_header_is_said_to_be_maybe_deleted() {
    let data = tempfile::tempdir().unwrap();
    filled(data.path());
    let root = data.path().join("store");
    for name in NAMES {
        fs::remove_file(root.join(name)).unwrap();
    }
    fs::remove_dir_all(root.join("journal")).unwrap();
    let (_, troubles) = readable(data.path());
    let is_said = |words: &String| words.contains("deleted ones that rested may be among them");
    assert!(troubles.iter().any(is_said), "{troubles:?}");
}

#[test]
fn of_a_store_whose_tables_are_lost_in_part_what_rests_is_still_told_apart() {
    let data = tempfile::tempdir().unwrap();
    filled(data.path());
    let large = SMALL + 1;
    rest(data.path(), &[large], RestReason::Deleted(LogIndex(5)));
    let root = data.path().join("store");
    // Damage that ends the engine's use, with the journal whole.
    for name in NAMES {
        fs::remove_file(root.join(name)).unwrap();
    }
    let (seqs, _) = readable(data.path());
    assert!(!seqs.contains(&large), "{seqs:?}");
}

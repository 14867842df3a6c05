//! What a store reads from its disk.
use super::source::Source;
use dfs_core::membership::{NodeIdentityFile, PeerBook};
use dfs_core::store::store_meta::META_FILE;
use dfs_core::store::{
    Disk, Journal, JournalError, JournalOptions, MemBase, ObjectHeader, ObjectStore, SimDisk,
    StoreMeta, StoreOptions, salvage,
};
use dfs_core::types::{ClusterId, NodeId, StoreId, crc32c};
use std::sync::Arc;

/// The store whose journal it is.
pub const META: StoreMeta = StoreMeta {
    cluster: ClusterId(1),
    store: StoreId(2),
};

/// Makes a file of these bytes.
fn put_file(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let file = disk.open(path, true).expect("a simulated disk has room");
    file.write_at(0, bytes).expect("a simulated disk has room");
    file.sync_data().expect("a simulated disk syncs");
}

/// Text with a right checksum line behind it.
fn summed(text: &[u8]) -> Vec<u8> {
    let sum = format!("crc32c {:08x}\n", crc32c(text));
    [text, sum.as_bytes()].concat()
}

/// The file that says whose a directory is.
pub fn store_meta(data: &[u8]) {
    for text in [data.to_vec(), summed(data)] {
        let disk = SimDisk::new();
        put_file(&disk, META_FILE, &text);
        let Ok(Some(meta)) = StoreMeta::read(&disk) else {
            continue;
        };
        let opened = StoreMeta::open_or_create(&disk, meta.cluster, StoreId(99));
        assert_eq!(opened, Ok((meta, false)));
        assert_eq!(StoreMeta::read(&disk), Ok(Some(meta)));
    }
}

/// A header of this format and body, with a right checksum.
#[must_use]
pub fn sealed_header(format: u16, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut covered = format.to_le_bytes().to_vec();
    covered.extend(len.to_le_bytes());
    covered.extend(&body[..usize::from(len)]);
    let mut out = b"DFSOBJ1\n".to_vec();
    out.extend(&covered[..4]);
    out.extend(crc32c(&covered).to_le_bytes());
    out.extend(&covered[4..]);
    out
}

/// What an object says of itself.
pub fn object_header(data: &[u8]) {
    for bytes in [
        data.to_vec(),
        sealed_header(1, data),
        sealed_header(2, data),
    ] {
        let Some(header) = ObjectHeader::decode(&bytes) else {
            continue;
        };
        assert!(header.is_plausible());
        let again = ObjectHeader::decode(&header.encode());
        let mut again = again.expect("what was decoded is encoded readably");
        assert_eq!(again.sum(), header.sum());
        let path = |h: &ObjectHeader| h.about.as_ref()?.put.path.clone();
        if path(&header) != path(&again) {
            // The hint was longer than what is kept of it.
            again.about.clone_from(&header.about);
        }
        assert_eq!(again, header);
    }
}

fn options(salt: u64) -> JournalOptions {
    JournalOptions {
        segment_bytes: 4096,
        spares_max: 1,
        ..JournalOptions::new("journal", salt)
    }
}

fn replayed(disk: &Arc<SimDisk>) -> (Result<Journal, JournalError>, Vec<Vec<u8>>) {
    let mut records = Vec::new();
    let disk: Arc<dyn Disk> = disk.clone();
    let journal = Journal::open(disk, options(5), &mut |_, record| {
        records.push(record.to_vec());
    });
    (journal, records)
}

/// A journal directory: what was synced is replayed, what is damaged is refused or not replayed, and
/// nothing is replayed that was not appended.
pub fn journal(data: &[u8]) {
    let mut source = Source::new(data);
    let disk = Arc::new(SimDisk::new());
    let mut journal = replayed(&disk).0.expect("an empty directory opens");
    let mut appended = Vec::new();
    for _ in 0..source.below(8) {
        let done = match source.below(8) {
            0 => journal.mark(),
            1 => journal.rotate(),
            2 => journal.sync(),
            3 => journal.trim_before(u64::from(source.below(4))),
            _ => {
                appended.push(source.piece().to_vec());
                let last = appended.last().expect("just put there");
                journal.append(last).map(|_| ())
            }
        };
        done.expect("a simulated disk has room");
    }
    journal.sync().expect("a simulated disk syncs");
    drop(journal);
    let (sound, records) = replayed(&disk);
    sound.expect("a journal that nothing happened to opens");
    assert!(appended.ends_with(&records), "trimmed from the front only");
    let paths = disk.paths("journal/");
    let mut is_damaged = false;
    while !source.is_empty() {
        let path = &paths[usize::from(source.byte()) % paths.len()];
        let at = u64::from(source.byte()) << 8 | u64::from(source.byte());
        let file = disk.open(path, false).expect("the file is there");
        is_damaged = true;
        if source.below(8) == 0 {
            file.set_len(at % 4096).expect("a simulated disk cuts");
        } else {
            disk.flip_bit(path, at % 4096);
        }
    }
    let (opened, found) = replayed(&disk);
    let is_part = records.windows(found.len().max(1)).any(|w| w == found);
    assert!(found.is_empty() || is_part, "what was never appended");
    assert!(is_damaged || opened.is_ok() && found == records);
}

fn store_options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 4096,
        ..StoreOptions::default()
    }
}

/// A store whose journal has these records, whole and with right checksums, whatever they say, and
/// perhaps an object file: it is opened or refused, and what is left of it is read.
pub fn store_recovery(data: &[u8]) {
    let mut source = Source::new(data);
    // It takes long, for what is salvaged gets a journal of the usual size.
    let is_salvaged = source.below(8) == 0;
    let disk = Arc::new(SimDisk::new());
    let salt = META.store.0 as u64 ^ (META.store.0 >> 64) as u64;
    let made = Journal::open(disk.clone(), options(salt), &mut |_, _| {});
    let mut journal = made.expect("an empty directory opens");
    for _ in 0..source.below(4) {
        let record = source.piece();
        journal.append(record).expect("a simulated disk has room");
    }
    journal.sync().expect("a simulated disk syncs");
    drop(journal);
    if source.is() {
        let name = format!("objects/00/{:032x}-{:016x}-{:08x}.{:016x}", 3, 1, 0, 1);
        put_file(&disk, &name, source.piece());
        let name = format!("objects/00/{}", String::from_utf8_lossy(source.piece()));
        if !name.contains('\0') && !name.ends_with('/') {
            put_file(&disk, &name, source.rest());
        }
    }
    let base = Arc::new(MemBase::new());
    if let Ok((store, _writer)) = ObjectStore::open(disk.clone(), base, &META, store_options()) {
        look_at(&store);
    }
    let disk: Arc<dyn Disk> = disk;
    if is_salvaged && let Ok((store, _troubles)) = salvage(&disk, &META) {
        look_at(&store);
    }
}

/// Reads what the store lists, whatever comes of it.
fn look_at(store: &ObjectStore) {
    let Ok(listed) = store.list_objects(None, 64) else {
        return;
    };
    for id in listed.iter().map(|listed| listed.id) {
        let _ = store.object_header(id);
        let _ = store.plan_read(id, 0, u32::MAX).map(|plan| plan.run());
        let _ = store.scrub(id);
    }
}

/// The small text files of a node: who it is, whom it knows.
pub fn node_files(data: &[u8]) {
    for text in [data.to_vec(), summed(data)] {
        let disk = Arc::new(SimDisk::new());
        put_file(&disk, PeerBook::PATH, &text);
        if let Ok(book) = PeerBook::load(&*disk, PeerBook::PATH) {
            let stored = PeerBook::store(&*disk, PeerBook::PATH, &book.list());
            stored.expect("a simulated disk has room");
            let again = PeerBook::load(&*disk, PeerBook::PATH);
            assert_eq!(again.expect("just stored").list(), book.list());
        }
        put_file(&disk, NodeIdentityFile::PATH, &text);
        let open = || NodeIdentityFile::open(disk.clone(), NodeIdentityFile::PATH, NodeId(8), 5);
        if let Ok(first) = open() {
            let again = open().expect("what was opened opens again");
            assert_eq!(again.id(), first.id());
            let is_last = first.incarnation().0 == u64::MAX;
            assert!(again.incarnation() > first.incarnation() || is_last);
        }
    }
}

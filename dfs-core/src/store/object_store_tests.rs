use super::*;
use crate::store::{FAN_OUT, MemBase, MemKv, RedbBase, RestReason, SimDisk, StoreDir};
use crate::types::{
    BLOCK_SIZE, BlockSums, ChunkNo, ClientId, ClusterId, Ino, ObjectSum, OpId, StoreId,
};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLUSTER: ClusterId = ClusterId(1);

fn id(seq: u64) -> ObjectId {
    let client = ClientId(9);
    ObjectId {
        op: OpId { client, seq },
        index: 0,
    }
}

fn object(id: ObjectId, bytes: Vec<u8>) -> ObjectWrite {
    let header = ObjectHeader {
        id,
        ino: Ino(5),
        chunk: ChunkNo(0),
        len: u32::try_from(bytes.len()).unwrap(),
        sums: BlockSums::of(&bytes),
        about: None,
    };
    ObjectWrite {
        header,
        bytes: bytes.into(),
    }
}

fn noise(rng: &mut ChaCha8Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn options() -> StoreOptions {
    StoreOptions {
        flush_bytes: 1 << 20,
        segment_bytes: 64 << 10,
        ..StoreOptions::default()
    }
}

fn open(
    disk: &SimDisk,
    base: Option<&MemBase>,
    options: StoreOptions,
) -> Result<(ObjectStore, StoreWriter), StoreError> {
    let (meta, _) = StoreMeta::open_or_create(disk, CLUSTER, StoreId(7))?;
    let base: Arc<dyn Base> = match base {
        Some(base) => Arc::new(base.clone()),
        None => Arc::new(RedbBase::open(disk, "tables.redb", 1 << 20)?),
    };
    ObjectStore::open(Arc::new(disk.clone()), base, &meta, options)
}

fn put(store: &mut ObjectStore, objects: Vec<ObjectWrite>) -> PendingBatch {
    store
        .apply(Batch {
            objects,
            ..Batch::default()
        })
        .unwrap()
}

/// What the store should hold after some batch.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    tables: MemKv,
    objects: BTreeMap<ObjectId, Bytes>,
}

impl Model {
    fn check(&self, store: &mut ObjectStore, rng: &mut ChaCha8Rng) {
        let tables = store.scan(&[], &[STORE_KEYS_FROM], usize::MAX).unwrap();
        let expected: Vec<_> = self.tables.0.clone().into_iter().collect();
        assert_eq!(tables, expected);
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_objects(after, 3).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            listed.extend(page.into_iter().map(|listed| listed.id));
        }
        assert_eq!(listed, self.objects.keys().copied().collect::<Vec<_>>());
        let used: u64 = self.objects.values().map(|b| b.len() as u64).sum();
        assert_eq!(store.used_bytes(), used);
        assert_eq!(store.objects(), self.objects.len() as u64);
        let resting = store.oldest_resting(usize::MAX).unwrap();
        assert_eq!(store.resting().objects, resting.len() as u64);
        for rests in resting {
            assert!(rests.reason.is_some() && !self.objects.contains_key(&rests.id));
        }
        for (id, bytes) in &self.objects {
            let len = bytes.len() as u32;
            let (offset, wanted) = (rng.random_range(0..=len), rng.random_range(0..=len + 9));
            let read = store.read_object(*id, offset, wanted).unwrap();
            let start = read.offset as usize;
            assert!(start <= offset as usize && start.is_multiple_of(BLOCK_SIZE));
            let end = (offset.saturating_add(wanted)).min(len) as usize;
            assert!(end <= (start + read.bytes.len()).max(offset as usize));
            assert_eq!(read.bytes, bytes[start..start + read.bytes.len()]);
            assert_eq!(read.sum, BlockSums::of(bytes).object_sum(len));
        }
    }

    fn random_batch(&mut self, rng: &mut ChaCha8Rng) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..rng.random_range(0..3) {
            let id = id(rng.random_range(0..12));
            self.objects.remove(&id);
            batch.rests.retain(|rest| rest.id != id);
            if rng.random_bool(0.5) || batch.deletes.contains(&id) {
                batch.deletes.push(id);
                continue;
            }
            batch.rests.push(Rest {
                id,
                since_ms: rng.random_range(0..5),
                reason: RestReason::Aborted,
            });
        }
        for _ in 0..rng.random_range(0..3) {
            let id = id(rng.random_range(0..12));
            let is_taken = self.objects.contains_key(&id);
            let rests = batch.rests.iter().any(|rest| rest.id == id);
            if is_taken || rests || batch.objects.iter().any(|o| o.header.id == id) {
                continue;
            }
            let len = [0, 10, 5000, 65_536, 65_537, 150_000][rng.random_range(0..6)];
            let bytes = noise(rng, len);
            batch.objects.push(object(id, bytes.clone()));
            self.objects.insert(id, bytes.into());
        }
        for _ in 0..rng.random_range(0..4) {
            let key = vec![1, rng.random_range(0..20)];
            if rng.random_bool(0.3) {
                self.tables.0.remove(&key);
                batch.ops.push(KvOp::Delete(key));
            } else {
                let value = noise(rng, 30);
                self.tables.0.insert(key.clone(), value.clone());
                batch.ops.push(KvOp::Put(key, value));
            }
        }
        batch
    }
}

/// A store over many lives: `history[n]` is the model after batch n.
struct World {
    disk: SimDisk,
    base: Option<MemBase>,
    history: Vec<Model>,
    committed: u64,
}

impl World {
    fn live(&mut self, rng: &mut ChaCha8Rng) {
        let (mut store, mut writer) = open(&self.disk, self.base.as_ref(), options()).unwrap();
        assert!(store.applied() >= self.committed, "committed batches stay");
        self.history.truncate(store.applied() as usize + 1);
        self.committed = store.applied();
        self.history.last().unwrap().check(&mut store, rng);
        for dir in 0..FAN_OUT {
            store.sweep(dir).unwrap();
        }
        let files = self.disk.paths("objects/").len();
        let large = self.history.last().unwrap().objects.values();
        let large = large.filter(|b| b.len() > 65_536).count();
        assert_eq!(files, large + store.resting().files as usize);
        if rng.random_bool(0.5) {
            self.disk.fail_syncs_after(rng.random_range(0..60));
        }
        let (mut queue, mut job) = (Vec::new(), None);
        for _ in 0..rng.random_range(0..40) {
            match rng.random_range(0..10) {
                0..5 => {
                    let mut model = self.history.last().unwrap().clone();
                    let batch = model.random_batch(rng);
                    self.history.push(model);
                    queue.push(store.apply(batch).unwrap());
                }
                5..8 => {
                    let rest = queue.split_off(rng.random_range(0..=queue.len()));
                    if writer.commit(&queue).is_err() {
                        break;
                    }
                    queue = rest;
                    self.committed = writer.committed();
                }
                8 => job = job.or_else(|| store.begin_flush(true)),
                _ => {
                    if writer.idle().is_err() {
                        break;
                    }
                    let done = job.take().map(|job: FlushJob| job.run());
                    if done.is_some_and(|done| store.finish_flush(done).is_err()) {
                        break;
                    }
                }
            }
            self.history.last().unwrap().check(&mut store, rng);
        }
        self.disk.crash(rng);
    }
}

fn survives_crashes(seed: u64, on_redb: bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut world = World {
        disk: SimDisk::new(),
        base: (!on_redb).then(MemBase::new),
        history: vec![Model::default()],
        committed: 0,
    };
    for _ in 0..5 {
        world.live(&mut rng);
    }
}

#[test]
fn committed_batches_survive_every_crash_and_no_batch_is_seen_in_part() {
    for seed in 0..60 {
        survives_crashes(seed, false);
    }
}

#[test]
fn committed_batches_survive_every_crash_with_tables_on_the_same_disk() {
    for seed in 0..25 {
        survives_crashes(seed, true);
    }
}

#[test]
fn many_batches_share_one_journal_sync() {
    let disk = SimDisk::new();
    let (mut store, mut writer) = open(&disk, None, options()).unwrap();
    let small: Vec<_> = (0..10)
        .map(|n| put(&mut store, vec![object(id(n), vec![1; 100])]))
        .collect();
    writer.commit(&small).unwrap();
    assert_eq!(store.syncs(), 1);
    let large: Vec<_> = (10..14)
        .map(|n| put(&mut store, vec![object(id(n), vec![1; 100_000])]))
        .collect();
    writer.commit(&large).unwrap();
    assert_eq!(
        store.syncs(),
        1 + 4 + 1 + 1,
        "files, their directory, journal"
    );
}

#[test]
fn a_flipped_bit_is_found_by_reads_and_by_scrub_and_named() {
    let disk = SimDisk::new();
    let (mut store, mut writer) = open(&disk, None, options()).unwrap();
    let bytes = vec![3; 200_000];
    let batch = put(&mut store, vec![object(id(1), bytes.clone())]);
    writer.commit(&[batch]).unwrap();
    assert!(
        store.begin_flush(false).is_none(),
        "forgets what is in flight"
    );
    assert_eq!(store.scrub(id(1)), Ok(true));
    let path = disk.paths("objects/").pop().unwrap();
    disk.flip_bit(&path, 4096 + 70_000);
    let refused = store.read_object(id(1), 0, 200_000).unwrap_err();
    let corrupt = StoreError::Corrupt {
        id: id(1),
        place: path.clone(),
    };
    assert_eq!(refused, corrupt);
    let first = store.read_object(id(1), 5, 6).unwrap();
    assert_eq!(first.bytes, bytes[..BLOCK_SIZE], "other blocks are good");
    assert_eq!(store.scrub(id(1)), Ok(false));
    disk.flip_bit(&path, 4096 + 70_000);
    disk.flip_bit(&path, 20);
    assert_eq!(store.scrub(id(1)), Ok(false), "the file's own header");
    // Repair: the same object again, in place of the damaged one.
    let repair = Batch {
        deletes: vec![id(1)],
        objects: vec![object(id(1), bytes.clone())],
        ops: Vec::new(),
        ..Batch::default()
    };
    let batch = store.apply(repair).unwrap();
    writer.commit(&[batch]).unwrap();
    assert!(store.begin_flush(false).is_none());
    assert_eq!(store.scrub(id(1)), Ok(true));
    assert_eq!(disk.paths("objects/").len(), 1);
    disk.remove(&disk.paths("objects/")[0]).unwrap();
    assert_eq!(store.scrub(id(1)), Ok(false), "its file is gone");
}

#[test]
fn a_damaged_table_row_is_listed_and_hides_nothing_else() {
    let disk = SimDisk::new();
    let (mut store, mut writer) = open(&disk, None, options()).unwrap();
    let writes = (0..5).map(|n| object(id(n), vec![n as u8 + 65; 50]));
    let batch = put(&mut store, writes.collect());
    writer.commit(&[batch]).unwrap();
    let done = store.begin_flush(true).unwrap().run();
    store.finish_flush(done).unwrap();
    drop((store, writer));
    let file = disk.open("tables.redb", false).unwrap();
    let content = file.read_at(0, 64 << 20).unwrap();
    // The header of object 2, found by its sum, in every copy that the engine has of it.
    let mark = object(id(2), vec![67; 50]).header.encode();
    for at in 0..content.len() - mark.len() {
        if content[at..].starts_with(&mark) {
            // Where the second copy of the page would make it good.
            assert!(disk.flip_bit("tables.redb", at as u64 + 20));
            assert!(disk.flip_bit("tables.redb.copy", at as u64 + 20));
        }
    }
    let (mut store, _writer) = open(&disk, None, options()).unwrap();
    let mut listed = store.list_objects(None, 10).unwrap();
    listed.extend(store.list_objects(Some(id(2)), 10).unwrap());
    let known: Vec<_> = listed
        .iter()
        .map(|l| (l.id.op.seq, l.header.is_some()))
        .collect();
    let expected = [(0, true), (1, true), (2, false), (3, true), (4, true)];
    assert_eq!(known, expected);
    assert_eq!(store.scrub(id(2)), Ok(false));
    assert!(matches!(
        store.object_header(id(2)),
        Err(StoreError::Corrupt { .. })
    ));
    drop(put(&mut store, vec![object(id(2), vec![67; 50])]));
    assert_eq!(store.scrub(id(2)), Ok(true), "stored again");
}

#[test]
fn an_object_never_changes() {
    let disk = SimDisk::new();
    let (mut store, mut writer) = open(&disk, None, options()).unwrap();
    let batch = put(&mut store, vec![object(id(1), vec![1; 100_000])]);
    assert_eq!(batch.files.len(), 1);
    let again = put(&mut store, vec![object(id(1), vec![1; 100_000])]);
    assert!(again.files.is_empty() && again.record.is_empty());
    let other = Batch {
        objects: vec![object(id(1), vec![2; 100_000])],
        ..Batch::default()
    };
    assert!(matches!(
        store.apply(other),
        Err(StoreError::Refused { .. })
    ));
    let mut short = object(id(2), vec![1; 100]);
    short.bytes.truncate(50);
    let short = Batch {
        objects: vec![short],
        ..Batch::default()
    };
    assert!(matches!(
        store.apply(short),
        Err(StoreError::Refused { .. })
    ));
    writer.commit(&[batch, again]).unwrap();
    assert_eq!(store.applied(), 2);
}

#[test]
fn a_read_that_was_planned_survives_the_delete() {
    let disk = SimDisk::new();
    let (mut store, mut writer) = open(&disk, None, options()).unwrap();
    let batch = put(&mut store, vec![object(id(1), vec![1; 100_000])]);
    writer.commit(&[batch]).unwrap();
    assert!(store.begin_flush(false).is_none());
    let plan = store.plan_read(id(1), 0, 100_000).unwrap();
    let batch = store.delete_object(id(1)).unwrap();
    let gone = StoreError::NotFound { id: id(1) };
    assert_eq!(store.read_object(id(1), 0, 1), Err(gone));
    writer.commit(&[batch]).unwrap();
    assert!(disk.paths("objects/").is_empty());
    assert_eq!(plan.run().unwrap().bytes, vec![1; 100_000]);
}

#[test]
fn the_reserve_of_a_large_device_is_bounded() {
    let disk = SimDisk::new(); // 1 TiB
    let (store, _) = open(&disk, None, options()).unwrap();
    assert_eq!(store.reserve_bytes(), 4 << 30);
    let asked = StoreOptions {
        reserve_bytes_max: u64::MAX,
        ..options()
    };
    let (store, _) = open(&SimDisk::new(), None, asked).unwrap();
    assert_eq!(store.reserve_bytes(), (1 << 40) / 1000 * 50);
}

#[test]
fn the_reserve_is_refused_to_objects_but_deletes_and_log_go_on() {
    let disk = SimDisk::new();
    let capped = StoreOptions {
        capacity_bytes: Some(1_000_000),
        ..options()
    };
    let (mut store, mut writer) = open(&disk, None, capped).unwrap();
    store.admit(950_000).unwrap();
    let full = StoreError::Full {
        needed_bytes: 950_001,
        free_bytes: 950_000,
    };
    assert_eq!(store.admit(950_001), Err(full));
    let batch = put(&mut store, vec![object(id(1), vec![1; 900_000])]);
    assert!(store.admit(50_001).is_err() && store.admit(50_000).is_ok());
    writer.commit(&[batch]).unwrap();
    disk.set_full(true);
    assert!(store.admit(1).is_err());
    let batch = store.delete_object(id(1)).unwrap();
    writer.commit(&[batch]).unwrap();
    disk.set_full(false);
    store.admit(950_000).unwrap();
}

#[test]
fn regression_objects_that_find_no_room_are_lost_alone_and_deletes_behind_them_are_done() {
    let disk = SimDisk::new();
    let base = MemBase::new();
    let (mut store, mut writer) = open(&disk, Some(&base), options()).unwrap();
    let first = put(&mut store, vec![object(id(1), vec![1; 100_000])]);
    writer.commit(&[first]).unwrap();
    // Somebody else takes the rest of the device.
    disk.set_full(true);
    let second = put(&mut store, vec![object(id(2), vec![2; 100_000])]);
    let third = store.delete_object(id(1)).unwrap();
    let seqs = [second.seq(), third.seq()];
    writer.commit(&[second, third]).unwrap();
    assert_eq!(store.failure(), None);
    assert!(store.take_roomless(seqs[0]) && !store.take_roomless(seqs[1]));
    assert!(!store.take_roomless(seqs[0]), "said once");
    assert!(
        disk.paths("objects/").is_empty(),
        "nothing half-written stays"
    );
    let gone = Batch {
        restores: vec![id(2)],
        ..Batch::default()
    };
    let gone = store.apply(gone).unwrap();
    assert!(
        store.begin_flush(true).is_none(),
        "not before it is durable"
    );
    writer.commit(&[gone]).unwrap();
    assert!(store.begin_flush(true).is_some());
    disk.set_full(false);
    let again = put(&mut store, vec![object(id(2), vec![2; 100_000])]);
    writer.commit(&[again]).unwrap();
    drop((store, writer));
    let (store, _) = open(&disk, Some(&base), options()).unwrap();
    assert_eq!(
        store.read_object(id(2), 0, 100_000).unwrap().bytes,
        vec![2; 100_000]
    );
    assert_eq!((store.objects(), store.used_bytes()), (1, 100_000));
}

#[test]
fn regression_what_was_to_be_replaced_by_files_without_room_is_still_there() {
    let disk = SimDisk::new();
    let base = MemBase::new();
    let (mut store, mut writer) = open(&disk, Some(&base), options()).unwrap();
    let sizes = [100_000, 100];
    let old = |n: u64| object(id(n), vec![n as u8; sizes[n as usize]]);
    let first = put(
        &mut store,
        vec![old(0), old(1), object(id(2), vec![2; 70_000])],
    );
    writer.commit(&[first]).unwrap();
    disk.set_full(true);
    let again = Batch {
        deletes: vec![id(0), id(1), id(2)],
        objects: vec![object(id(0), vec![9; 90_000]), object(id(1), vec![9; 90])],
        ops: vec![KvOp::Put(b"key".to_vec(), b"row".to_vec())],
        ..Batch::default()
    };
    let again = store.apply(again).unwrap();
    let seq = again.seq();
    writer.commit(&[again]).unwrap();
    let check = |store: &ObjectStore| {
        for n in [0, 1] {
            let read = store.read_object(id(n), 0, u32::MAX).unwrap();
            assert_eq!(read.bytes, vec![n as u8; sizes[n as usize]]);
        }
        assert!(!store.has_object(id(2)).unwrap(), "other deletes are done");
        assert_eq!((store.objects(), store.used_bytes()), (2, 100_100));
    };
    disk.set_full(false);
    let (reopened, other) = open(&disk.clone(), Some(&base), options()).unwrap();
    check(&reopened);
    assert_eq!(reopened.get(b"key").unwrap(), None, "all of it or nothing");
    drop((reopened, other));
    assert!(store.take_roomless(seq));
    assert_eq!(store.replaced(id(0)).unwrap().len, 100_000);
    let restore = Batch {
        restores: vec![id(0), id(1)],
        ..Batch::default()
    };
    let _ = store.apply(restore).unwrap();
    check(&store);
}

#[test]
fn stores_on_one_device_may_each_use_their_part_of_its_room() {
    let disk = SimDisk::new();
    let capped = StoreOptions {
        capacity_bytes: Some(1_000_000),
        ..options()
    };
    let (mut store, _writer) = open(&disk, None, capped).unwrap();
    store.share_device(5);
    assert!(store.admit(190_000).is_ok() && store.admit(190_001).is_err());
    store.share_device(0);
    assert!(store.admit(950_000).is_ok(), "not known: alone");
}

#[test]
fn after_a_failed_sync_nothing_is_committed_until_a_reopen() {
    let disk = SimDisk::new();
    let base = MemBase::new();
    let (mut store, mut writer) = open(&disk, Some(&base), options()).unwrap();
    let batch = put(&mut store, vec![object(id(1), vec![1; 100])]);
    disk.fail_next_sync();
    assert!(matches!(
        writer.commit(&[batch]),
        Err(StoreError::Journal(_))
    ));
    assert!(matches!(writer.commit(&[]), Err(StoreError::Failed { .. })));
    assert!(matches!(
        store.apply(Batch::default()),
        Err(StoreError::Failed { .. })
    ));
    assert!(store.failure().unwrap().contains("injected"));
    disk.crash(&mut ChaCha8Rng::seed_from_u64(3));
    let (mut store, mut writer) = open(&disk, Some(&base), options()).unwrap();
    assert!(!store.has_object(id(1)).unwrap());
    let batch = put(&mut store, vec![object(id(1), vec![1; 100])]);
    writer.commit(&[batch]).unwrap();
}

#[test]
fn a_flush_waits_for_commits_and_trims_the_journal() {
    let disk = SimDisk::new();
    let (mut store, mut writer) = open(&disk, None, options()).unwrap();
    let pending: Vec<_> = (0..20)
        .map(|n| put(&mut store, vec![object(id(n), vec![n as u8; 60_000])]))
        .collect();
    assert!(store.begin_flush(false).is_none(), "nothing is committed");
    writer.commit(&pending).unwrap();
    assert!(writer.journal_segments() > 10);
    let job = store.begin_flush(false).unwrap();
    let done = job.run();
    store.finish_flush(done).unwrap();
    writer.idle().unwrap();
    assert_eq!(writer.journal_segments(), 1);
    assert!(store.begin_flush(true).is_none(), "all is flushed");
    disk.crash(&mut ChaCha8Rng::seed_from_u64(3));
    let (store, _) = open(&disk, None, options()).unwrap();
    assert_eq!((store.applied(), store.objects()), (20, 20));
    let read = store.read_object(id(7), 0, 1).unwrap();
    assert_eq!(read.bytes, vec![7; 60_000]);
}

#[test]
fn lost_tables_and_a_lost_journal_are_noticed() {
    for lost in ["tables.redb", "journal"] {
        let disk = SimDisk::new();
        let (mut store, mut writer) = open(&disk, None, options()).unwrap();
        let batch = put(&mut store, vec![object(id(1), vec![1; 60_000])]);
        let second = put(&mut store, vec![object(id(2), vec![1; 60_000])]);
        writer.commit(&[batch, second]).unwrap();
        let done = store.begin_flush(true).unwrap().run();
        store.finish_flush(done).unwrap();
        writer.idle().unwrap();
        drop((store, writer));
        for path in disk.paths(lost) {
            disk.remove(&path).unwrap();
        }
        let refused = open(&disk, None, options()).map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, StoreError::Disagree { .. }),
            "{lost}: {refused}"
        );
    }
}

#[test]
fn a_real_directory_survives_a_kill_and_knows_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let open = |cluster| StoreDir::open(dir.path(), cluster, StoreId(4), StoreOptions::default());
    let mut first = open(CLUSTER).unwrap();
    assert!(first.is_new);
    let in_use = open(CLUSTER).unwrap_err();
    assert!(in_use.to_string().contains("in use by another daemon"));
    let bytes = noise(&mut ChaCha8Rng::seed_from_u64(1), 300_000);
    let objects = vec![object(id(1), bytes.clone()), object(id(2), vec![7; 500])];
    let batch = put(&mut first.store, objects);
    first.writer.commit(&[batch]).unwrap();
    let StoreDir {
        store,
        writer,
        lock,
        ..
    } = first;
    // No destructor runs at kill -9, but the kernel gives up the lock.
    std::mem::forget((store, writer));
    drop(lock);
    let again = open(CLUSTER).unwrap();
    assert!(!again.is_new && again.meta.store == StoreId(4));
    let read = again.store.read_object(id(1), 100_000, 10).unwrap();
    assert_eq!(read.offset, 65_536);
    assert_eq!(read.bytes, bytes[65_536..131_072]);
    let sum = ObjectSum {
        len: 300_000,
        crc: BlockSums::of(&bytes).object_sum(300_000).crc,
    };
    assert_eq!(read.sum, sum);
    assert!(again.store.scrub(id(1)).unwrap() && again.store.scrub(id(2)).unwrap());
    drop(again);
    assert!(matches!(open(ClusterId(2)), Err(StoreError::Meta(_))));
}

/// A store directory with one object, stopped cleanly or as a kill leaves it.
fn directory(dir: &std::path::Path, is_flushed: bool) {
    let cluster = ClusterId(9);
    let opened = StoreDir::open(dir, cluster, StoreId(4), StoreOptions::default()).unwrap();
    let (mut store, mut writer) = (opened.store, opened.writer);
    for n in 0..3 {
        let batch = put(&mut store, vec![object(id(n), vec![n as u8; 50])]);
        writer.commit(&[batch]).unwrap();
        writer.idle().unwrap();
    }
    if is_flushed {
        let done = store.begin_flush(true).unwrap().run();
        store.finish_flush(done).unwrap();
    }
}

/// Flips a byte inside the first record of the journal.
fn damage_journal(dir: &std::path::Path) {
    let mut segments: Vec<_> = std::fs::read_dir(dir.join("journal"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    bytes[512 + 40] ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();
}

#[test]
fn damage_of_a_journal_that_the_tables_cover_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    directory(&root, true);
    damage_journal(&root);
    let again = StoreDir::open(&root, ClusterId(9), StoreId(5), StoreOptions::default()).unwrap();
    assert_eq!(
        (again.meta.store, again.set_aside.as_str()),
        (StoreId(4), "")
    );
    assert!((0..3).all(|n| again.store.scrub(id(n)).unwrap()));
}

#[test]
fn a_store_that_lost_what_was_durable_is_set_aside_and_a_new_one_begins() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    directory(&root, false);
    damage_journal(&root);
    let again = StoreDir::open(&root, ClusterId(9), StoreId(5), StoreOptions::default()).unwrap();
    assert!(again.is_new && again.meta.store == StoreId(5));
    assert_eq!(again.store.objects(), 0);
    assert!(
        again.set_aside.contains("store.damaged-1: journal"),
        "{}",
        again.set_aside
    );
    assert!(dir.path().join("store.damaged-1/tables.redb").exists());
    drop(again);
    // A directory of another cluster is a mistake, not damage.
    let other = StoreDir::open(&root, ClusterId(8), StoreId(6), StoreOptions::default());
    assert!(other.is_err_and(|e| !e.is_damage()));
    assert!(!dir.path().join("store.damaged-2").exists());
}

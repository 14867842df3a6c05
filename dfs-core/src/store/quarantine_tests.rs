use super::*;
use crate::store::base::{Base, BaseView, Change};
use crate::store::{
    FAN_OUT, KvPair, MemBase, ObjectHeader, ObjectWrite, SimDisk, StoreMeta, StoreOptions,
    StoreWriter,
};
use crate::types::{BlockSums, ChunkNo, ClientId, ClusterId, Ino, OpId, StoreId};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

const LARGE: usize = 1_000_000;
const SMALL: usize = 500;

struct Rig {
    disk: SimDisk,
    base: MemBase,
    store: ObjectStore,
    writer: StoreWriter,
}

fn id(seq: u64) -> ObjectId {
    let client = ClientId(9);
    let op = OpId { client, seq };
    ObjectId { op, index: 0 }
}

fn open(disk: &SimDisk, base: &MemBase) -> (ObjectStore, StoreWriter) {
    let (meta, _) = StoreMeta::open_or_create(disk, ClusterId(1), StoreId(7)).unwrap();
    let base = Arc::new(base.clone());
    ObjectStore::open(Arc::new(disk.clone()), base, &meta, StoreOptions::default()).unwrap()
}

impl Rig {
    fn new() -> Self {
        let (disk, base) = (SimDisk::new(), MemBase::new());
        let (store, writer) = open(&disk, &base);
        Self {
            disk,
            base,
            store,
            writer,
        }
    }

    fn crash(&mut self) {
        self.disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
        (self.store, self.writer) = open(&self.disk, &self.base);
    }

    fn flush(&mut self) {
        let done = self.store.begin_flush(true).unwrap().run();
        self.store.finish_flush(done).unwrap();
    }

    fn run(&mut self, batch: Batch) -> u64 {
        let pending = self.store.apply(batch).unwrap();
        let seq = pending.seq();
        self.writer.commit(&[pending]).unwrap();
        seq
    }

    fn put(&mut self, seq: u64, len: usize) -> u64 {
        self.run(Batch {
            objects: vec![object(seq, len)],
            ..Batch::default()
        })
    }

    fn rest(&mut self, seq: u64, since_ms: u64) {
        self.run(resting(seq, since_ms));
    }

    fn delete(&mut self, seq: u64) {
        self.run(Batch {
            deletes: vec![id(seq)],
            ..Batch::default()
        });
    }

    fn files(&self) -> usize {
        self.disk.paths("objects/").len()
    }

    fn order(&mut self) -> Vec<ObjectId> {
        let all = self.store.oldest_resting(10).unwrap();
        all.iter().map(|resting| resting.id).collect()
    }

    fn holds(&self, seq: u64) -> bool {
        self.store.read_object(id(seq), 0, u32::MAX).is_ok()
    }
}

fn object(seq: u64, len: usize) -> ObjectWrite {
    let bytes = vec![seq as u8; len];
    let header = ObjectHeader {
        id: id(seq),
        ino: Ino(5),
        chunk: ChunkNo(0),
        len: u32::try_from(len).unwrap(),
        sums: BlockSums::of(&bytes),
        about: None,
    };
    ObjectWrite {
        header,
        bytes: bytes.into(),
    }
}

fn resting(seq: u64, since_ms: u64) -> Batch {
    let reason = RestReason::Deleted(LogIndex(seq));
    let rest = Rest {
        id: id(seq),
        since_ms,
        reason,
    };
    Batch {
        rests: vec![rest],
        ..Batch::default()
    }
}

#[test]
fn what_rests_is_in_no_list_and_keeps_its_bytes() {
    let mut rig = Rig::new();
    rig.put(1, LARGE);
    rig.put(2, SMALL);
    rig.rest(1, 20);
    rig.rest(2, 10);
    rig.rest(3, 5); // not held
    for is_again in [false, true] {
        assert!(!rig.holds(1) && !rig.holds(2));
        assert_eq!(rig.store.object_header(id(1)), Ok(None));
        assert_eq!(rig.store.list_objects(None, 10).unwrap(), []);
        assert_eq!((rig.store.objects(), rig.store.used_bytes()), (0, 0));
        let totals = rig.store.resting();
        assert_eq!((totals.objects, totals.files), (2, 1));
        assert_eq!(totals.bytes, (LARGE + SMALL) as u64);
        assert_eq!(rig.order(), [id(2), id(1)], "those deleted first first");
        let oldest = rig.store.oldest_resting(1).unwrap();
        assert_eq!(oldest[0].reason, Some(RestReason::Deleted(LogIndex(2))));
        assert_eq!(rig.store.newest_rest_ms(), Ok(20));
        let swept: usize = (0..FAN_OUT).map(|dir| rig.store.sweep(dir).unwrap()).sum();
        assert_eq!((swept, rig.files()), (0, 1));
        if is_again {
            rig.flush();
        }
        rig.crash();
    }
    rig.delete(1);
    rig.delete(2);
    assert_eq!((rig.files(), rig.store.resting().objects), (0, 0));
    rig.crash();
    assert_eq!(rig.store.resting(), RestingTotals::default());
    assert_eq!(rig.order(), []);
}

#[test]
fn what_is_stored_again_does_not_rest() {
    let mut rig = Rig::new();
    for len in [LARGE, SMALL] {
        rig.put(1, len);
        rig.rest(1, 10);
        rig.put(1, len);
        assert!(rig.holds(1));
        assert_eq!(rig.store.resting(), RestingTotals::default());
        assert_eq!(rig.files(), usize::from(len == LARGE));
        assert_eq!(rig.order(), []);
        rig.crash();
        assert!(rig.holds(1) && rig.order().is_empty());
        rig.delete(1);
    }
}

#[test]
fn what_could_not_be_stored_again_for_want_of_room_rests_as_before() {
    for is_killed in [false, true] {
        let mut rig = Rig::new();
        rig.put(1, LARGE);
        rig.rest(1, 10);
        let before = rig.store.resting();
        rig.disk.set_full(true);
        let seq = rig.put(1, LARGE);
        if is_killed {
            rig.disk.set_full(false);
            rig.crash();
        } else {
            assert!(rig.store.take_roomless(seq));
            rig.run(Batch {
                restores: vec![id(1)],
                ..Batch::default()
            });
            rig.disk.set_full(false);
        }
        assert!(!rig.holds(1));
        assert_eq!((rig.store.resting(), rig.files()), (before, 1));
        assert_eq!(rig.order(), [id(1)]);
        let is_any = |_| true;
        assert_eq!(rig.store.take_up_resting(is_any), Ok(1));
        assert!(rig.holds(1), "its bytes are there");
    }
}

#[test]
fn what_is_still_on_its_way_to_the_disk_does_not_rest() {
    let mut rig = Rig::new();
    let put = Batch {
        objects: vec![object(1, LARGE)],
        ..Batch::default()
    };
    let put = rig.store.apply(put).unwrap();
    let rest = rig.store.apply(resting(1, 10)).unwrap();
    rig.disk.set_full(true);
    rig.writer.commit(&[put, rest]).unwrap();
    assert_eq!(rig.order(), [], "a row would name a file that is not there");
    assert_eq!(rig.store.resting(), RestingTotals::default());
}

#[test]
fn what_rests_is_room_to_come_until_it_is_there() {
    let mut rig = Rig::new();
    for seq in 1..=5 {
        rig.put(seq, LARGE);
    }
    rig.flush();
    rig.writer.idle().unwrap();
    let used = (1 << 40) - rig.store.space().unwrap().free_bytes;
    rig.disk.set_capacity(Some(used + 100_000));
    let free = |rig: &Rig| rig.store.space().unwrap().free_bytes;
    let promised = |rig: &Rig| free(rig) + rig.store.coming_bytes();
    assert_eq!(rig.store.resting_excess(), 0, "nothing rests");
    let before = free(&rig);
    rig.rest(1, 10);
    rig.rest(2, 20);
    assert!(free(&rig) <= before, "what is told is there now");
    assert!(rig.store.coming_bytes() > 2 * LARGE as u64);
    assert!(rig.store.admit(LARGE as u64).is_err(), "not yet");
    assert!(rig.store.would_admit(LARGE as u64));
    assert!(!rig.store.would_admit(3 * LARGE as u64), "so much never");
    assert!(
        rig.store.resting_excess() > 0,
        "less than a quarter is free"
    );
    let told = promised(&rig);
    let batch = Batch {
        deletes: vec![id(1), id(2)],
        ..Batch::default()
    };
    let pending = rig.store.apply(batch).unwrap();
    assert_eq!(promised(&rig), told, "the files are still there");
    assert!(rig.store.has_resting());
    rig.writer.commit(&[pending]).unwrap();
    assert!(free(&rig).abs_diff(told) < 20_000);
    assert!(!rig.store.has_resting() && rig.store.coming_bytes() == 0);
    assert!(rig.store.admit(LARGE as u64).is_ok());
}

#[test]
fn of_a_shared_device_no_more_is_promised_than_there_will_be() {
    let mut rig = Rig::new();
    for seq in 1..=2 {
        rig.put(seq, LARGE);
    }
    rig.flush();
    rig.writer.idle().unwrap();
    let used = (1 << 40) - rig.store.space().unwrap().free_bytes;
    rig.disk.set_capacity(Some(used + used / 19)); // the reserve is free, and nothing else
    rig.store.share_device(5);
    rig.rest(1, 10);
    rig.rest(2, 20);
    let coming = rig.store.coming_bytes();
    assert!(coming.abs_diff(2 * LARGE as u64) < 10_000, "{coming}");
    let part = 2 * LARGE as u64 / 5;
    assert!(rig.store.would_admit(part - 40_000));
    assert!(!rig.store.would_admit(part + 40_000));
    rig.delete(1);
    rig.delete(2);
    assert!(rig.store.admit(part - 40_000).is_ok());
    assert!(rig.store.admit(part + 40_000).is_err());
}

#[test]
fn many_small_objects_do_not_rest_where_tables_would_grow_by_much() {
    let mut rig = Rig::new();
    rig.disk.set_capacity(Some(100 << 20));
    for seq in 1..=60 {
        rig.put(seq, 60_000);
        rig.rest(seq, seq);
    }
    let excess = rig.store.resting_excess();
    assert!(excess > 0 && excess < 60 * 2 * 61_000, "{excess}");
    assert_eq!(rig.store.resting().files, 0);
}

#[test]
fn what_rests_is_taken_up_by_its_reason() {
    let mut rig = Rig::new();
    for seq in 1..=3 {
        rig.put(seq, LARGE);
        rig.rest(seq, seq);
    }
    let is_second = |reason| reason == RestReason::Deleted(LogIndex(2));
    assert_eq!(rig.store.take_up_resting(is_second), Ok(1));
    assert!(rig.holds(2) && !rig.holds(1) && !rig.holds(3));
    assert_eq!(rig.store.resting().objects, 2);
}

#[test]
fn only_what_rests_since_then_expires() {
    let mut rig = Rig::new();
    rig.put(1, LARGE);
    rig.put(2, LARGE);
    rig.rest(1, 10);
    let expire = |rig: &mut Rig, since_ms, seq| {
        rig.run(Batch {
            expires: vec![(since_ms, id(seq))],
            ..Batch::default()
        })
    };
    expire(&mut rig, 9, 1);
    expire(&mut rig, 10, 2);
    assert_eq!(rig.order(), [id(1)]);
    assert!(rig.holds(2), "it does not rest");
    expire(&mut rig, 10, 1);
    assert_eq!((rig.order(), rig.files()), (Vec::new(), 1));
}

#[test]
fn rows_by_age_that_went_are_not_walked_over_again() {
    let mut rig = Rig::new();
    for seq in 1..=3 {
        rig.put(seq, SMALL);
        rig.rest(seq, 10 * seq);
    }
    assert_eq!(rig.order(), [id(1), id(2), id(3)]);
    rig.delete(1);
    assert_eq!(rig.order(), [id(2), id(3)]);
    assert!(rig.store.quarantine.oldest > age_key(10, id(1)));
    // One that rests since before; and one that does again, as its batch found no room.
    rig.put(4, SMALL);
    rig.rest(4, 5);
    assert_eq!(rig.order(), [id(4), id(2), id(3)]);
    for seq in 2..=4 {
        rig.delete(seq);
    }
    assert_eq!(rig.order(), []);
    rig.put(5, LARGE);
    rig.rest(5, 1);
    assert_eq!(rig.order(), [id(5)]);
    rig.disk.set_full(true);
    let seq = rig.put(5, LARGE);
    assert_eq!(rig.order(), []);
    assert!(rig.store.take_roomless(seq));
    rig.run(Batch {
        restores: vec![id(5)],
        ..Batch::default()
    });
    assert_eq!(rig.order(), [id(5)]);
}

#[test]
fn regression_what_is_deleted_while_a_batch_that_found_no_room_stores_it_leaves_nothing() {
    for was_resting in [true, false] {
        for is_killed in [false, true] {
            let mut rig = Rig::new();
            rig.put(1, LARGE);
            let mut again = Batch {
                objects: vec![object(1, LARGE)],
                ..Batch::default()
            };
            if was_resting {
                rig.rest(1, 10);
            } else {
                again.deletes.push(id(1));
            }
            let stored = rig.store.apply(again).unwrap();
            let seq = stored.seq();
            let deleted = rig.store.delete_object(id(1)).unwrap();
            rig.disk.set_full(true);
            rig.writer.commit(&[stored, deleted]).unwrap();
            rig.disk.set_full(false);
            if is_killed {
                rig.crash();
                // A removal is not synced: what comes back belongs to nobody.
                (0..FAN_OUT).for_each(|dir| {
                    rig.store.sweep(dir).unwrap();
                });
            } else {
                assert!(rig.store.take_roomless(seq));
                rig.run(Batch::default());
            }
            assert!(!rig.holds(1));
            assert_eq!(
                (rig.order(), rig.files()),
                (Vec::new(), 0),
                "{was_resting} {is_killed}"
            );
            assert_eq!(rig.store.resting(), RestingTotals::default());
        }
    }
}

/// Tables of which some values are damaged.
#[derive(Debug)]
struct Damaged(MemBase, Vec<Vec<u8>>);

struct DamagedView(Arc<dyn BaseView>, Vec<Vec<u8>>);

impl Base for Damaged {
    fn view(&self) -> Result<Arc<dyn BaseView>, KvError> {
        Ok(Arc::new(DamagedView(self.0.view()?, self.1.clone())))
    }
    fn write(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<(), KvError> {
        self.0.write(changes)
    }
}

impl DamagedView {
    fn checked(&self, pairs: Vec<KvPair>) -> Result<Vec<KvPair>, KvError> {
        match pairs.iter().find(|(key, _)| self.1.contains(key)) {
            None => Ok(pairs),
            Some((key, _)) => Err(KvError::Damaged {
                key: key.iter().map(|b| format!("{b:02x}")).collect(),
            }),
        }
    }
}

impl KvRead for DamagedView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let pair = self.0.get(key)?.map(|value| (key.to_vec(), value));
        let pair = self.checked(pair.into_iter().collect())?;
        Ok(pair.into_iter().next().map(|(_, value)| value))
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.checked(self.0.scan(from, to, limit)?)
    }
    fn scan_back(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<KvPair>, KvError> {
        self.checked(self.0.scan_back(from, to, limit)?)
    }
}

/// Objects 1 to 3 rest, and these rows of theirs are damaged.
fn damaged(keys: Vec<Vec<u8>>) -> Rig {
    let mut rig = Rig::new();
    for seq in 1..=3 {
        rig.put(seq, LARGE);
        rig.rest(seq, 10 * seq);
    }
    rig.flush();
    let (meta, _) = StoreMeta::open_or_create(&rig.disk, ClusterId(1), StoreId(7)).unwrap();
    let base = Arc::new(Damaged(rig.base.clone(), keys));
    let disk = Arc::new(rig.disk.clone());
    let opened = ObjectStore::open(disk, base, &meta, StoreOptions::default());
    (rig.store, rig.writer) = opened.unwrap();
    rig
}

#[test]
fn regression_a_damaged_row_by_age_stops_nothing_and_goes_in_its_turn() {
    for bad in 1..=3 {
        let mut rig = damaged(vec![age_key(10 * bad, id(bad))]);
        assert_eq!(rig.store.newest_rest_ms(), Ok(30));
        let mut gone = Vec::new();
        for _ in 0..3 {
            let Some(resting) = rig.store.oldest_resting(1).unwrap().first().copied() else {
                panic!("{gone:?}");
            };
            gone.push(resting.id);
            rig.run(Batch {
                expires: vec![(resting.since_ms, resting.id)],
                ..Batch::default()
            });
        }
        assert_eq!(gone, [id(1), id(2), id(3)]);
        assert_eq!((rig.order(), rig.files()), (Vec::new(), 0));
        assert_eq!(rig.store.resting(), RestingTotals::default());
        // Stored again over a damaged one, where the files find no room.
        let mut rig = damaged(vec![age_key(10 * bad, id(bad))]);
        rig.disk.set_full(true);
        let seq = rig.put(bad, LARGE);
        assert!(rig.store.take_roomless(seq));
        rig.run(Batch {
            restores: vec![id(bad)],
            ..Batch::default()
        });
        assert_eq!(rig.order(), [id(1), id(2), id(3)]);
    }
}

#[test]
fn regression_what_rests_is_counted_anew_after_a_damaged_row() {
    let mut rig = damaged(vec![object_key(TABLE_RESTING, id(2))]);
    assert_eq!(rig.store.resting().objects, 3);
    assert_eq!(rig.order().len(), 3);
    rig.run(Batch {
        expires: vec![(20, id(2))],
        ..Batch::default()
    });
    assert_eq!(rig.order(), [id(1), id(3)]);
    let totals = rig.store.resting();
    assert_eq!((totals.objects, totals.files), (2, 2));
    assert_eq!(totals.bytes, 2 * LARGE as u64);
    // The totals themselves.
    let mut rig = damaged(vec![KEY_RESTING.to_vec()]);
    assert!(rig.store.has_resting());
    assert_eq!(rig.order().len(), 3);
    assert_eq!(rig.store.resting().objects, 3);
    // Totals that say nothing rests.
    let mut rig = damaged(vec![KEY_RESTING.to_vec()]);
    rig.store.quarantine.totals = RestingTotals::default();
    rig.store.quarantine.is_doubtful = false;
    assert_eq!(rig.order().len(), 3);
    assert_eq!(rig.store.resting().objects, 3);
    // Only what can be read is taken up.
    let mut rig = damaged(vec![object_key(TABLE_RESTING, id(2))]);
    assert_eq!(rig.store.take_up_resting(|_| true), Ok(2));
}

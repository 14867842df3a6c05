use super::*;
use crate::store::{Disk, FileDisk, MemBase, MemKv, RedbBase, SimDisk};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CACHE: usize = 1 << 20;

fn key(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let len = rng.random_range(0..3);
    (0..len).map(|_| rng.random_range(0..6)).collect()
}

fn assert_same_reads(kv: &dyn KvRead, oracle: &MemKv, rng: &mut ChaCha8Rng) {
    let (from, to, limit) = (key(rng), key(rng), rng.random_range(0..20));
    assert_eq!(kv.get(&from), oracle.get(&from));
    assert_eq!(kv.scan(&from, &to, limit), oracle.scan(&from, &to, limit));
    assert_eq!(
        kv.scan_back(&from, &to, limit),
        oracle.scan_back(&from, &to, limit)
    );
}

fn change(kv: &mut dyn Kv, oracle: &mut MemKv, rng: &mut ChaCha8Rng) {
    let at = key(rng);
    if rng.random_bool(0.4) {
        kv.delete(&at);
        oracle.delete(&at);
    } else {
        let value = vec![rng.random(); rng.random_range(0..40)];
        kv.put(at.clone(), value.clone());
        oracle.put(at, value);
    }
}

/// Random changes, flushes in flight and snapshots, every read compared with a plain map.
fn runs_like_a_plain_map(base: Arc<dyn Base>, seed: u64, steps: u32) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut kv = LazyKv::open(base).unwrap();
    let mut oracle = MemKv::default();
    let (mut job, mut done) = (None, None);
    let mut snapshot: Option<(Box<dyn KvRead + Send + Sync>, MemKv)> = None;
    for _ in 0..steps {
        match rng.random_range(0..40) {
            0 if job.is_none() && done.is_none() => job = kv.freeze(),
            1 => done = done.or_else(|| job.take().map(|job: FlushJob| job.run().unwrap())),
            2 => {
                if let Some(done) = done.take() {
                    kv.finish(done);
                }
            }
            3 => snapshot = Some((kv.snapshot(), oracle.clone())),
            _ => change(&mut kv, &mut oracle, &mut rng),
        }
        assert_same_reads(&kv, &oracle, &mut rng);
        if let Some((frozen, was)) = &snapshot {
            assert_same_reads(frozen.as_ref(), was, &mut rng);
        }
    }
    let all = kv.scan(&[], &[0xff], usize::MAX).unwrap();
    assert_eq!(all, oracle.0.into_iter().collect::<Vec<_>>());
}

#[test]
fn reads_merge_layers_and_base_like_a_plain_map() {
    for seed in 0..30 {
        runs_like_a_plain_map(Arc::new(MemBase::new()), seed, 600);
    }
}

#[test]
fn regression_rows_that_come_and_go_between_flushes_leave_nothing_to_walk_over() {
    let mut kv = LazyKv::open(Arc::new(MemBase::new())).unwrap();
    kv.put(b"kept".to_vec(), vec![1]);
    let (len, bytes) = (kv.unflushed_len(), kv.unflushed_bytes());
    for i in 0..100u8 {
        kv.put(vec![i], vec![i; 9]);
        kv.delete(&[i]);
        kv.delete(&[i]);
    }
    assert_eq!((kv.unflushed_len(), kv.unflushed_bytes()), (len, bytes));
    // What is being flushed, or was, is hidden until the next flush.
    let job = kv.freeze().unwrap();
    kv.delete(b"kept");
    assert_eq!(kv.get(b"kept"), Ok(None));
    kv.finish(job.run().unwrap());
    assert_eq!(kv.get(b"kept"), Ok(None));
    let done = kv.freeze().unwrap().run().unwrap();
    kv.finish(done);
    assert_eq!((kv.get(b"kept"), kv.unflushed_len()), (Ok(None), 0));
}

#[test]
fn reads_over_redb_are_like_a_plain_map() {
    for seed in 0..4 {
        let disk = SimDisk::new();
        let base = RedbBase::open(&disk, "tables.redb", CACHE).unwrap();
        runs_like_a_plain_map(Arc::new(base), seed, 600);
    }
}

#[test]
fn an_overlay_reads_its_changes_and_yields_them() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut base, mut oracle) = (MemKv::default(), MemKv::default());
    for _ in 0..30 {
        change(&mut base, &mut oracle, &mut rng);
    }
    let mut overlay = crate::store::OverlayKv::new(&base);
    for _ in 0..200 {
        change(&mut overlay, &mut oracle, &mut rng);
        assert_same_reads(&overlay, &oracle, &mut rng);
    }
    let ops = overlay.into_ops();
    let mut kv = LazyKv::open(Arc::new(MemBase::new())).unwrap();
    kv.apply(base.0.into_iter().map(|(k, v)| KvOp::Put(k, v)));
    kv.apply(ops);
    let all = kv.scan(&[], &[0xff], usize::MAX).unwrap();
    assert_eq!(all, oracle.0.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_flush_that_failed_keeps_its_changes() {
    let disk = SimDisk::new();
    let base = RedbBase::open(&disk, "tables.redb", CACHE).unwrap();
    let mut kv = LazyKv::open(Arc::new(base)).unwrap();
    kv.put(vec![1], vec![2]);
    let job = kv.freeze().unwrap();
    assert!(kv.freeze().is_none(), "one flush at a time");
    disk.fail_next_sync();
    assert!(matches!(job.run(), Err(KvError::Disk(_))));
    kv.abandon_flush();
    assert_eq!(kv.get(&[1]).unwrap(), Some(vec![2]));
    assert!(kv.unflushed_bytes() > 0 && kv.unflushed_len() == 1);
}

/// Flushes until the disk dies under it; after the reopen the last finished flush is there, whole.
fn survives_a_crash_during_a_flush(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let mut flushed = MemKv::default();
    for _ in 0..3 {
        let base = RedbBase::open(&disk, "t/tables.redb", CACHE).unwrap();
        let mut kv = LazyKv::open(Arc::new(base)).unwrap();
        let all = kv.scan(&[], &[0xff], usize::MAX).unwrap();
        assert_eq!(all, flushed.0.clone().into_iter().collect::<Vec<_>>());
        for _ in 0..rng.random_range(1..4) {
            for _ in 0..50 {
                change(&mut kv, &mut flushed, &mut rng);
            }
            if let Some(job) = kv.freeze() {
                kv.finish(job.run().unwrap());
            }
        }
        // A transaction that is under way when the power goes: here all of it or nothing.
        let before = flushed.clone();
        for _ in 0..50 {
            change(&mut kv, &mut flushed, &mut rng);
        }
        let job = kv.freeze();
        disk.fail_syncs_after(rng.random_range(0..5));
        if job.is_some_and(|job| job.run().is_err()) {
            let after = std::mem::replace(&mut flushed, before);
            disk.crash(&mut rng);
            drop(kv);
            let base = RedbBase::open(&disk, "t/tables.redb", CACHE).unwrap();
            let kv = LazyKv::open(Arc::new(base)).unwrap();
            let all = MemKv(
                kv.scan(&[], &[0xff], usize::MAX)
                    .unwrap()
                    .into_iter()
                    .collect(),
            );
            assert!(
                all == flushed || all == after,
                "seed {seed}: half a transaction"
            );
            flushed = all;
        }
        disk.crash(&mut rng);
    }
}

#[test]
fn a_power_cut_during_a_flush_leaves_all_of_it_or_nothing() {
    for seed in 0..30 {
        survives_a_crash_during_a_flush(seed);
    }
}

#[test]
fn a_crash_while_the_file_is_made_leaves_a_file_that_opens() {
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let disk = SimDisk::new();
        disk.fail_syncs_after(rng.random_range(0..5));
        let made = RedbBase::open(&disk, "tables.redb", CACHE);
        disk.crash(&mut rng);
        drop(made);
        RedbBase::open(&disk, "tables.redb", CACHE).unwrap();
    }
}

#[test]
fn a_real_file_opens_again_after_the_process_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(dir.path()).unwrap();
    for round in 0..3u8 {
        let base = RedbBase::open(&disk, "tables.redb", CACHE).unwrap();
        let mut kv = LazyKv::open(Arc::new(base)).unwrap();
        for k in 0..=round {
            let expected = (k < round).then(|| vec![k; 100]);
            assert_eq!(kv.get(&[k]).unwrap(), expected);
        }
        kv.put(vec![round], vec![round; 100]);
        let job = kv.freeze().unwrap();
        kv.finish(job.run().unwrap());
        // No destructor runs at kill -9.
        std::mem::forget(kv);
    }
}

#[test]
fn a_flipped_bit_in_the_file_is_an_error_and_never_a_wrong_value() {
    let disk = SimDisk::new();
    let base = RedbBase::open(&disk, "tables.redb", CACHE).unwrap();
    let mut kv = LazyKv::open(Arc::new(base)).unwrap();
    let value = b"a value that is easy to find".to_vec();
    kv.put(b"key".to_vec(), value.clone());
    let job = kv.freeze().unwrap();
    kv.finish(job.run().unwrap());
    drop(kv);
    let file = disk.open("tables.redb", false).unwrap();
    let bytes = file.read_at(0, 64 << 20).unwrap();
    let places: Vec<usize> = (0..bytes.len() - value.len())
        .filter(|&at| bytes[at..].starts_with(&value))
        .collect();
    assert!(!places.is_empty());
    // The same damage in both copies of its page, and a sum that was made after it.
    for at in places {
        assert!(disk.flip_bit("tables.redb", at as u64));
        assert!(disk.flip_bit("tables.redb.copy", at as u64));
    }
    let base = RedbBase::open(&disk, "tables.redb", CACHE).unwrap();
    let kv = LazyKv::open(Arc::new(base)).unwrap();
    let damaged = KvError::Damaged {
        key: "6b6579".to_owned(),
    };
    assert_eq!(kv.get(b"key"), Err(damaged.clone()));
    assert_eq!(kv.scan(&[], &[0xff], 10), Err(damaged));
}

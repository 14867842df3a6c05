//! The file layer over an in-memory cluster, in virtual time.
use super::fake::{Cluster, open, read_all};
use super::{FileConfig, FileError, FileLayer, FileReader, OpenFile, OpenMode};
use crate::types::{Ino, VersionNo};
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i / 251) as u8 ^ (i as u8).wrapping_mul(31) ^ salt)
        .collect()
}

pub(super) async fn put(layer: &Arc<FileLayer>, ino: Ino, at: u64, bytes: &[u8]) {
    let file = open(layer, ino, true).await;
    file.write(at, bytes, false).await.unwrap();
    file.flush().await.unwrap();
}

/// Waits (in virtual time) until `done`, a minute at most.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn what_one_mount_closed_another_reads() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let bytes = pattern(3_000_000, 1);
    put(&a, ino, 0, &bytes).await;
    assert!(read_all(&*open(&b, ino, false).await).await == bytes);
    assert_eq!(cluster.master().commits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_small_file_takes_one_round_of_prepares_and_one_commit() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, b"small").await;
    let master = cluster.master();
    assert_eq!((master.commits, master.queries), (1, 0));
    assert!(master.stores.values().all(|s| s.calls <= 1));
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_seen_before_they_are_committed() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, &[1; 100]).await;
    let file = open(&a, ino, true).await;
    file.write(50, &[2; 100], false).await.unwrap();
    let before = cluster.master().commits;
    assert_eq!(read_all(&file).await, [vec![1; 50], vec![2; 100]].concat());
    assert_eq!((file.size(), cluster.master().commits), (150, before));
    let mut attr = file.attr().unwrap();
    attr.size = 0;
    a.overlay(&mut attr);
    assert_eq!(attr.size, 150);
    file.truncate(60, false).await.unwrap();
    assert_eq!(read_all(&file).await.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn old_dirty_bytes_are_committed_without_being_asked() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    file.write(0, b"abc", false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(cluster.master().commits, 0);
    until("the write is committed", || cluster.master().commits == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_put_chunk_by_chunk_within_the_budget() {
    let cluster = Cluster::new();
    let config = FileConfig {
        dirty_max_bytes: 10 << 20,
        ..FileConfig::default()
    };
    let a = cluster.mount(1, config.clone());
    let ino = cluster.create(5);
    let bytes = pattern(30 << 20, 7);
    let file = open(&a, ino, true).await;
    for (i, piece) in bytes.chunks(128 << 10).enumerate() {
        file.write((i * (128 << 10)) as u64, piece, false)
            .await
            .unwrap();
        assert!(a.stats().dirty_bytes <= config.dirty_max_bytes);
    }
    file.fsync().await.unwrap();
    assert_eq!(a.stats().dirty_bytes, 0);
    assert!(
        (7..=12).contains(&cluster.master().commits),
        "{}",
        cluster.master().commits
    );
    let b = cluster.mount(2, FileConfig::default());
    assert!(read_all(&*open(&b, ino, false).await).await == bytes);
}

#[tokio::test(start_paused = true)]
async fn sequential_reading_is_fetched_ahead_with_few_stamps() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let bytes = pattern(24 << 20, 3);
    put(&a, ino, 0, &bytes).await;
    let file = open(&b, ino, false).await;
    assert!(read_all(&file).await == bytes);
    let stats = b.stats();
    assert_eq!(stats.blocks_missed, 24 * 16, "every block is fetched once");
    assert!(
        stats.gets <= 20 && stats.stamp_reads <= 2 * stats.gets,
        "{stats:?}"
    );
    assert!(read_all(&file).await == bytes);
    assert_eq!(b.stats().gets, stats.gets, "the second time from memory");
    assert_eq!(
        file.try_read_cached(70_000, 10).unwrap().concat(),
        bytes[70_000..70_010]
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_writer_seals_once_and_flush_never_does() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    let (one, two) = (open(&a, ino, true).await, open(&a, ino, true).await);
    one.write(0, b"abc", false).await.unwrap();
    one.flush().await.unwrap();
    two.write(1, b"xyz", false).await.unwrap();
    one.release();
    two.flush().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.master().files[&ino].sealed.is_empty());
    two.release();
    until("the version is cut", || {
        cluster.master().files[&ino].sealed.len() == 1
    })
    .await;
    assert_eq!(cluster.master().files[&ino].sealed[0].1, 4);
    // Opened for writing and not written: nothing to cut.
    open(&a, ino, true).await.release();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.master().files[&ino].sealed.len(), 1);
    let old = a.open_version(ino, VersionNo(1), 4);
    put(&a, ino, 0, b"newer bytes").await;
    assert_eq!(read_all(&old).await, b"axyz");
}

#[tokio::test(start_paused = true)]
async fn regression_an_open_that_overtakes_the_release_before_it_begins_a_version() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let sealed = |ino| -> Vec<u64> {
        let files = &cluster.master().files;
        files[&ino].sealed.iter().map(|(_, size)| *size).collect()
    };
    for truncate in [false, true] {
        let ino = cluster.create(5 + u64::from(truncate));
        let mode = OpenMode {
            truncate,
            ..OpenMode::WRITE
        };
        let mut late = Vec::new();
        for len in 1..=3 {
            let file = a.open(ino, mode).await.unwrap();
            file.write(0, &vec![1; len], false).await.unwrap();
            file.flush().await.unwrap();
            late.push(file);
            until("what the one before wrote is cut", || {
                sealed(ino).len() == len - 1
            })
            .await;
        }
        late.iter().for_each(|f| f.release());
        until("all are cut", || sealed(ino).len() == 3).await;
    }
    // Flushed by the close of one of its descriptors and written again: still the same period.
    let ino = cluster.create(7);
    let file = open(&a, ino, true).await;
    for len in [1, 2] {
        file.write(0, &vec![1; len], false).await.unwrap();
        file.flush().await.unwrap();
    }
    file.write(0, b"xyz", false).await.unwrap();
    let other = open(&a, ino, true).await;
    other.write(3, b"abc", false).await.unwrap();
    file.release();
    other.release();
    until("one version is cut", || sealed(ino) == [6]).await;
    // Closed here before another mount opens it.
    let ino = cluster.create(8);
    let file = open(&a, ino, true).await;
    file.write(0, b"xyz", false).await.unwrap();
    file.flush().await.unwrap();
    let b = cluster.mount(2, FileConfig::default());
    let other = open(&b, ino, true).await;
    assert_eq!(sealed(ino), [3]);
    drop((file, other));
}

#[tokio::test(start_paused = true)]
async fn truncating_at_open_and_writing_is_one_put() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, &[9; 5000]).await;
    let mode = OpenMode {
        truncate: true,
        ..OpenMode::WRITE
    };
    let file = a.open(ino, mode).await.unwrap();
    assert_eq!(file.size(), 0);
    file.write(10, b"abc", false).await.unwrap();
    assert_eq!(read_all(&file).await, b"\0\0\0\0\0\0\0\0\0\0abc");
    file.flush().await.unwrap();
    assert_eq!(cluster.master().commits, 2);
    let b = cluster.mount(2, FileConfig::default());
    assert_eq!(
        read_all(&*open(&b, ino, false).await).await,
        b"\0\0\0\0\0\0\0\0\0\0abc"
    );
}

#[tokio::test(start_paused = true)]
async fn reopening_a_file_that_nobody_changed_is_local() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    put(&a, ino, 0, b"abc").await;
    let opens = cluster.master().opens;
    assert!(a.try_open(ino, OpenMode::READ).is_some());
    assert_eq!(cluster.master().opens, opens);
    put(&b, ino, 0, b"xyz").await;
    assert!(a.try_open(ino, OpenMode::READ).is_none());
    assert_eq!(read_all(&*open(&a, ino, false).await).await, b"xyz");
    until("everything is released", || {
        cluster.master().files[&ino].opens.is_empty()
    })
    .await;
    assert_eq!(a.stats().files, 0);
}

#[tokio::test(start_paused = true)]
async fn regression_an_open_that_was_refused_is_released() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    cluster.master().refuses_opens = true;
    assert!(a.open(ino, OpenMode::WRITE).await.is_err());
    assert_eq!(cluster.master().files[&ino].opens.len(), 1);
    until("it is released", || {
        cluster.master().files[&ino].opens.is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn regression_an_open_that_began_in_a_lost_session_is_released() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    cluster.master().loses_session_at_open = true;
    let file = a.open(ino, OpenMode::WRITE).await.unwrap();
    drop(file);
    until("it is released", || {
        cluster.master().files[&ino].opens.is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn data_and_holes_are_found() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    file.write(9_000_000, &[1; 1000], false).await.unwrap();
    file.extend(20_000_000).await.unwrap();
    assert_eq!(file.seek_data(0).await.unwrap(), 9_000_000);
    assert_eq!(file.seek_hole(9_000_500).await.unwrap(), 9_001_000);
    assert!(matches!(
        file.seek_data(9_001_000).await,
        Err(FileError::BeyondEnd)
    ));
    assert!(matches!(
        file.seek_hole(20_000_000).await,
        Err(FileError::BeyondEnd)
    ));
}

/// One step of the random test, applied to a file and to a plain vector.
async fn random_step(rng: &mut rand_chacha::ChaCha8Rng, file: &OpenFile, model: &mut Vec<u8>) {
    let span = 4 << 20;
    // Around the first chunk's end, and the start.
    let base = if rng.random_bool(0.5) { 0 } else { span - 3000 };
    let at = base + rng.random_range(0..6000usize);
    let len = rng.random_range(1..3000usize);
    match rng.random_range(0..12) {
        0 => {
            file.truncate(at as u64, false).await.unwrap();
            model.resize(at, 0);
        }
        1 => {
            file.punch(at as u64, len as u64).await.unwrap();
            let end = (at + len).min(model.len());
            if at < end {
                model[at..end].fill(0);
            }
        }
        2 => {
            file.extend((at + len) as u64).await.unwrap();
            let size = model.len().max(at + len);
            model.resize(size, 0);
        }
        3 if rng.random_bool(0.2) => {
            file.truncate(0, false).await.unwrap();
            model.clear();
        }
        3 => {
            let fill = rng.random();
            let offset = file.append(&vec![fill; len], false).await.unwrap();
            assert_eq!(offset as usize, model.len());
            model.extend(vec![fill; len]);
        }
        4 => file.flush().await.unwrap(),
        5 => tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await,
        6 | 7 => {
            let got = file.read(at as u64, len).await.unwrap().concat();
            let end = (at + len).min(model.len());
            let want = if at < end { &model[at..end] } else { &[] };
            assert!(got == want, "read {len} at {at}");
        }
        _ => {
            let fill: u8 = rng.random();
            file.write(at as u64, &vec![fill; len], false)
                .await
                .unwrap();
            let size = model.len().max(at + len);
            model.resize(size, 0);
            model[at..at + len].fill(fill);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn random_operations_read_as_a_plain_array_would_on_every_mount() {
    for seed in 0..30u64 {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let cluster = Cluster::new();
        cluster.master().notes = rng.random_bool(0.7);
        let mounts = [1, 2].map(|c| cluster.mount(c, FileConfig::default()));
        let ino = cluster.create(5);
        let mut model = Vec::new();
        for _ in 0..4 {
            let mount = &mounts[rng.random_range(0..2usize)];
            let file = open(mount, ino, true).await;
            for _ in 0..25 {
                random_step(&mut rng, &file, &mut model).await;
            }
            file.flush().await.unwrap();
            file.release();
            let reader = open(&mounts[rng.random_range(0..2usize)], ino, false).await;
            assert!(read_all(&reader).await == model, "seed {seed}");
        }
        for mount in &mounts {
            until("all is released", || mount.stats().files == 0).await;
            assert_eq!(mount.stats().dirty_bytes, 0, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_streamed_replacement_is_seen_whole_or_not_at_all() {
    let cluster = Cluster::new();
    let config = FileConfig {
        stream_max_bytes: 8 << 20,
        ..FileConfig::default()
    };
    let (a, b) = (
        cluster.mount(1, config),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    put(&b, ino, 0, b"old").await;
    let bytes = pattern(21_000_000, 5);
    let mut writer = a.replace(ino).await.unwrap();
    for piece in bytes.chunks(700_000) {
        writer.write(piece).await.unwrap();
    }
    assert_eq!(read_all(&*open(&b, ino, false).await).await, b"old");
    writer.finish().await.unwrap();
    let mut reader = FileReader::new(open(&b, ino, false).await);
    let mut got = Vec::new();
    loop {
        let piece = reader.next().await.unwrap().concat();
        if piece.is_empty() {
            break;
        }
        got.extend(piece);
    }
    assert!(got == bytes);
    assert_eq!(cluster.master().commits, 2);
    let mut writer = a.replace(ino).await.unwrap();
    writer.write(&bytes[..5_000_000]).await.unwrap();
    drop(writer);
    until("it is undone", || a.stats().files == 0).await;
    assert_eq!(cluster.master().files[&ino].layout.size, 21_000_000);
    assert!(
        cluster
            .master()
            .stores
            .values()
            .all(|s| s.marks[&ino].is_empty())
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_read_shows_its_access_time_at_once_and_the_master_hears_of_many_together() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let inos: Vec<Ino> = (5..8).map(|n| cluster.create(n)).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut shown = Vec::new();
    for ino in &inos {
        let mut attr = open(&a, *ino, false).await.attr().unwrap();
        let before = attr.atime;
        a.accessed(&attr);
        a.overlay(&mut attr);
        assert!(attr.atime > before);
        shown.push((*ino, attr.atime));
    }
    until("the master is told", || {
        !cluster.master().accessed.is_empty()
    })
    .await;
    assert_eq!(cluster.master().accessed, [shown]);
}

#[tokio::test(start_paused = true)]
async fn regression_a_time_that_a_program_sets_is_not_moved_by_what_it_read_before() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let (set, other) = (cluster.create(5), cluster.create(6));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for ino in [set, other] {
        a.accessed(&open(&a, ino, false).await.attr().unwrap());
    }
    a.access_time_set(set).await;
    until("the master is told", || {
        !cluster.master().accessed.is_empty()
    })
    .await;
    let told: Vec<Ino> = cluster.master().accessed[0].iter().map(|t| t.0).collect();
    assert_eq!(told, [other]);
}

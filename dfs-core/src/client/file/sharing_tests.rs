//! The file layer of several mounts, and what it does when a master, a lease or a store is lost.
use super::fake::{Cluster, open, read_all};
use super::tests::{pattern, put, until};
use super::{FileConfig, FileError, OpenMode};
use crate::wire::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn another_open_recalls_what_is_buffered_and_ends_write_behind() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let writer = open(&a, ino, true).await;
    writer.write(0, b"buffered", false).await.unwrap();
    assert_eq!(cluster.master().commits, 0);
    let reader = open(&b, ino, false).await;
    assert_eq!(read_all(&reader).await, b"buffered");
    assert!(writer.try_write(0, b"B", false).is_none() && writer.is_shared());
    writer.write(0, b"B", false).await.unwrap();
    assert_eq!(
        read_all(&reader).await,
        b"Buffered",
        "each write is a put, and is seen at once"
    );
}

#[tokio::test(start_paused = true)]
async fn two_appending_mounts_lose_nothing() {
    let cluster = Cluster::new();
    let mode = OpenMode {
        append: true,
        ..OpenMode::WRITE
    };
    let ino = cluster.create(5);
    let mut tasks = Vec::new();
    let mut layers = Vec::new();
    for client in 1..=3u64 {
        let layer = cluster.mount(client, FileConfig::default());
        layers.push(Arc::clone(&layer));
        tasks.push(tokio::spawn(async move {
            let file = layer.open(ino, mode).await.unwrap();
            let mut at = Vec::new();
            for n in 0..20u8 {
                at.push(
                    file.append(&[client as u8, n, n ^ 0xff], false)
                        .await
                        .unwrap(),
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            file.flush().await.unwrap();
            (client, at)
        }));
    }
    let mut seen = Vec::new();
    for task in tasks {
        let (client, at) = task.await.unwrap();
        seen.extend(
            at.into_iter()
                .enumerate()
                .map(|(n, at)| (client as u8, n as u8, at)),
        );
    }
    let late = cluster.mount(9, FileConfig::default());
    let bytes = read_all(&*open(&late, ino, false).await).await;
    assert_eq!(bytes.len(), 3 * 20 * 3);
    for (client, n, at) in seen {
        assert_eq!(bytes[at as usize..][..3], [client, n, n ^ 0xff]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_background_write_stays_with_every_handle_that_was_open() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, b"old").await;
    let (one, two) = (open(&a, ino, true).await, open(&a, ino, false).await);
    cluster
        .master()
        .stores
        .values_mut()
        .for_each(|s| s.full = true);
    one.write(0, b"new", false).await.unwrap();
    for file in [&one, &two] {
        assert_eq!(file.flush().await.unwrap_err().code(), ErrorCode::NoSpace);
        assert_eq!(file.flush().await.unwrap_err().code(), ErrorCode::NoSpace);
    }
    assert!(one.write(0, b"more", false).await.is_err());
    assert_eq!(read_all(&two).await, b"old", "what failed is not shown");
    assert_eq!(a.stats().dirty_bytes, 0);
    open(&a, ino, false).await.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_drops_what_was_buffered_and_the_next_handle_gets_a_new_one() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, b"old").await;
    let file = open(&a, ino, true).await;
    file.write(0, b"new", false).await.unwrap();
    let lease = cluster.master().files[&ino].lease.next();
    cluster.master().files.get_mut(&ino).unwrap().lease = lease;
    assert_eq!(
        file.flush().await.unwrap_err().code(),
        ErrorCode::StaleLease
    );
    assert_eq!(read_all(&file).await, b"old");
    assert!(file.write(0, b"NEW", false).await.is_err());
    let fresh = open(&a, ino, true).await;
    fresh.write(0, b"NEW", false).await.unwrap();
    fresh.flush().await.unwrap();
    assert_eq!(read_all(&fresh).await, b"NEW");
}

#[tokio::test(start_paused = true)]
async fn regression_what_was_buffered_under_a_lost_lease_is_not_put_under_the_next() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, b"old").await;
    let file = open(&a, ino, true).await;
    file.write(0, b"new", false).await.unwrap();
    let lease = cluster.master().files[&ino].lease.next();
    cluster.master().files.get_mut(&ino).unwrap().lease = lease;
    // As an open does while the mount may not trust what it knows.
    a.register(&a.find(ino).unwrap(), true).await.unwrap();
    assert!(matches!(file.flush().await, Err(FileError::Dropped(_))));
    assert_eq!(read_all(&file).await, b"old");
    assert_eq!(a.stats().dirty_bytes, 0);
    let fresh = open(&a, ino, true).await;
    fresh.write(0, b"NEW", false).await.unwrap();
    fresh.flush().await.unwrap();
    assert_eq!(read_all(&fresh).await, b"NEW");
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_drops_what_was_buffered_and_says_so() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, b"old").await;
    let file = open(&a, ino, true).await;
    file.write(0, b"new", false).await.unwrap();
    cluster.expire(1, 11);
    assert!(matches!(file.flush().await, Err(FileError::Dropped(_))));
    assert_eq!(read_all(&file).await, b"old");
    assert!(file.write(0, b"NEW", false).await.is_err());
    let fresh = open(&a, ino, true).await;
    fresh.write(0, b"NEW", false).await.unwrap();
    fresh.flush().await.unwrap();
    assert_eq!(
        cluster.master().files[&ino].opens.keys().next().unwrap().0,
        11
    );
}

#[tokio::test(start_paused = true)]
async fn one_dead_store_is_not_noticed_and_one_bad_copy_is_healed_by_another() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    cluster.master().stores.values_mut().next().unwrap().down = true;
    let began = tokio::time::Instant::now();
    let bytes = pattern(100_000, 4);
    put(&a, ino, 0, &bytes).await;
    {
        let mut master = cluster.master();
        let store = master.stores.values_mut().nth(1).unwrap();
        for object in store.objects.values_mut() {
            let mut bad = object.to_vec();
            bad[70_000] ^= 1;
            *object = bad.into();
        }
    }
    assert!(read_all(&*open(&b, ino, false).await).await == bytes);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn marks_without_notes_still_read_the_newest_revision() {
    let cluster = Cluster::new();
    cluster.master().notes = false;
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    put(&a, ino, 0, &[1; 200_000]).await;
    let reader = open(&b, ino, false).await;
    put(&a, ino, 0, &[2; 200_000]).await;
    assert!(read_all(&reader).await == vec![2; 200_000]);
}

#[tokio::test(start_paused = true)]
async fn without_a_vouching_master_nothing_known_is_used_unasked() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    put(&a, ino, 0, b"abc").await;
    let file = open(&a, ino, false).await;
    assert!(file.try_read_cached(0, 3).is_some());
    a.all_invalidated();
    assert!(file.try_read_cached(0, 3).is_none());
    assert_eq!(read_all(&file).await, b"abc");
    assert!(file.try_read_cached(0, 3).is_some());
}

/// The kernel kept bytes in its pages that nobody had stored, when no handle was left to hear of it.
#[tokio::test(start_paused = true)]
async fn regression_who_holds_copies_of_lost_bytes_is_told() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    a.on_lost(move |ino| tell.lock().unwrap().push(ino));
    let ino = cluster.create(5);
    put(&a, ino, 0, b"stored").await;
    let file = open(&a, ino, true).await;
    file.write(0, b"refused", false).await.unwrap();
    cluster.master().refuse = Some(ErrorCode::NoSpace);
    drop(file);
    let is_told = || told.lock().unwrap().contains(&ino);
    until("the put has failed", is_told).await;
    cluster.master().refuse = None;
    assert_eq!(read_all(&*open(&a, ino, false).await).await, b"stored");

    // The kernel has cut its pages.
    told.lock().unwrap().clear();
    let file = open(&a, ino, true).await;
    cluster.master().refuse = Some(ErrorCode::StaleLease);
    assert!(file.truncate(3, false).await.is_err());
    until("the cut is taken back", is_told).await;
    cluster.master().refuse = None;
    drop(file);

    let other = cluster.create(6);
    let file = open(&a, other, true).await;
    file.write(0, b"buffered", false).await.unwrap();
    cluster.expire(1, 11);
    until("the session is lost", || {
        told.lock().unwrap().contains(&other)
    })
    .await;
}

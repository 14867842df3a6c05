//! Closes that do not wait, and the versions of periods that follow each other closely.
use super::fake::{Cluster, open, read_all};
use super::tests::until;
use super::{FileConfig, OpenMode};
use crate::wire::ErrorCode;
use std::time::Duration;

fn behind() -> FileConfig {
    FileConfig {
        behind: true,
        ..FileConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_behind_returns_before_the_commit_and_fsync_after_it() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, behind());
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    file.write(0, b"soon", false).await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(cluster.master().commits, 0);
    assert!(!a.is_quiet(ino));
    assert_eq!(file.size(), 4, "programs of the mount see it");
    file.fsync().await.unwrap();
    assert_eq!(cluster.master().commits, 1);
    file.write(4, b"er", false).await.unwrap();
    file.flush().await.unwrap();
    file.release();
    let sealed = || -> Vec<u64> {
        let files = &cluster.master().files;
        files[&ino].sealed.iter().map(|(_, size)| *size).collect()
    };
    until("it is stored without anybody asking", || sealed() == [6]).await;
    until("nothing is on its way", || a.is_quiet(ino)).await;
    assert!(a.is_quiet(ino));
}

#[tokio::test(start_paused = true)]
async fn the_commit_of_what_was_closed_before_ends_its_period() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, behind());
    let ino = cluster.create(5);
    for (size, text) in [(3, &b"one"[..]), (6, b"second")] {
        let file = open(&a, ino, true).await;
        file.write(0, text, false).await.unwrap();
        file.flush().await.unwrap();
        file.release();
        until("stored", || a.is_quiet(ino)).await;
        let sealed = cluster.master().files[&ino].sealed.clone();
        assert_eq!(sealed.last().map(|s| s.1), Some(size));
    }
    assert_eq!(cluster.master().files[&ino].sealed.len(), 2);
    assert_eq!(cluster.master().seals, 0, "nobody had to ask for it");
    // Still open when it is committed: sealed at the close, by a word of its own.
    let file = open(&a, ino, true).await;
    file.write(0, b"third version", false).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(cluster.master().files[&ino].sealed.len(), 2);
    file.release();
    until("sealed", || cluster.master().files[&ino].sealed.len() == 3).await;
    assert_eq!(cluster.master().seals, 1);
}

#[tokio::test(start_paused = true)]
async fn another_mount_that_opens_a_file_sees_what_was_closed_behind() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, behind()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    file.write(0, b"seen", false).await.unwrap();
    file.flush().await.unwrap();
    file.release();
    assert_eq!(cluster.master().commits, 0);
    assert_eq!(read_all(&*open(&b, ino, false).await).await, b"seen");
}

#[tokio::test(start_paused = true)]
async fn a_close_behind_waits_when_too_much_is_under_way() {
    let cluster = Cluster::new();
    let few = FileConfig {
        behind_puts_max: 4,
        ..behind()
    };
    let a = cluster.mount(1, few);
    for i in 0..40 {
        let ino = cluster.create(5 + i);
        let file = open(&a, ino, true).await;
        file.write(0, b"one of many", false).await.unwrap();
        file.flush().await.unwrap();
        file.release();
        let stored = cluster.master().commits;
        assert!(i + 1 < stored + 4, "{} are under way", i + 1 - stored);
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_fails_behind_a_close_is_told_to_the_next_fsync() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, behind());
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    cluster.master().refuse = Some(ErrorCode::NoSpace);
    file.write(0, b"lost", false).await.unwrap();
    file.flush().await.unwrap();
    file.fsync().await.unwrap_err();
    file.flush().await.unwrap_err();
    cluster.master().refuse = None;
    assert_eq!(a.take_unheard(ino), Ok(()), "it has been heard of");
}

#[tokio::test(start_paused = true)]
async fn regression_a_put_that_fails_after_the_last_close_is_told_to_whoever_comes_next() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, behind());
    let (ino, other) = (cluster.create(5), cluster.create(6));
    for ino in [ino, other] {
        cluster.master().refuse = Some(ErrorCode::NoSpace);
        let file = open(&a, ino, true).await;
        file.write(0, b"lost", false).await.unwrap();
        file.flush().await.unwrap();
        file.release();
        a.drain_ino(ino).await;
        cluster.master().refuse = None;
    }
    a.take_unheard(ino).unwrap_err();
    assert_eq!(a.take_unheard(ino), Ok(()));
    // Not a reader, nor who writes anew: it is not their failure.
    let reader = open(&a, other, false).await;
    reader.fsync().await.unwrap();
    reader.flush().await.unwrap();
    let file = open(&a, other, true).await;
    file.write(0, b"more", false).await.unwrap();
    file.fsync().await.unwrap_err();
    file.fsync().await.unwrap();
}

/// Puts of one file are committed one after the other: whoever opens it waits for them all.
#[tokio::test(start_paused = true)]
async fn regression_closes_of_one_file_do_not_pile_up() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, behind());
    let ino = cluster.create(5);
    for i in 0..200u64 {
        let file = open(&a, ino, true).await;
        file.write(i, b"x", false).await.unwrap();
        file.flush().await.unwrap();
        file.release();
    }
    a.drain_ino(ino).await;
    let (commits, size) = {
        let master = cluster.master();
        (master.commits, master.files[&ino].layout.size)
    };
    assert_eq!(size, 200);
    assert!(
        commits <= 3,
        "{commits}: closed during a put, they follow it together"
    );
}

/// The first commit under a token seals what was committed under the one before.
#[tokio::test(start_paused = true)]
async fn periods_that_end_together_are_sealed_by_the_last() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    for len in 1..=5 {
        let file = a.open(ino, OpenMode::WRITE).await.unwrap();
        file.write(0, &vec![1; len], false).await.unwrap();
        file.flush().await.unwrap();
        file.release();
    }
    // Opened and not written: that seals nothing, and takes no other's place.
    a.open(ino, OpenMode::WRITE).await.unwrap().release();
    let sizes = || -> Vec<u64> {
        let files = &cluster.master().files;
        files[&ino].sealed.iter().map(|(_, size)| *size).collect()
    };
    until("the last is sealed", || sizes().last() == Some(&5)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(sizes().len() <= 2, "{:?}", sizes());
}

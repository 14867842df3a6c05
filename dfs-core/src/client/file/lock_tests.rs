//! Locks through handles: what is committed when, and what is left when the session is lost.
use super::fake::{Cluster, open, read_all};
use super::{FileConfig, FileError, FileLayer, OpenFile};
use crate::types::{Ino, Lock, LockSpace};
use crate::wire::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

const ME: (LockSpace, u64) = (LockSpace::Posix, 1);

fn whole() -> Lock {
    Lock {
        first: 0,
        last: Lock::LAST_MAX,
        exclusive: true,
        pid: 1,
    }
}

async fn lock(file: &OpenFile) {
    file.lock(ME, whole(), None).await.unwrap().unwrap();
}

async fn unlock(file: &OpenFile) {
    file.unlock(ME, (0, Lock::LAST_MAX)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_written_under_a_lock_is_committed_before_it_is_given_up() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    lock(&file).await;
    file.write(0, b"under the lock", false).await.unwrap();
    assert_eq!(
        cluster.master().commits,
        0,
        "buffered: nobody else has it open"
    );
    unlock(&file).await;
    let master = cluster.master();
    assert_eq!((master.commits, master.commits_at_unlock), (1, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn the_next_holder_reads_what_the_last_one_wrote() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let (one, two) = (open(&a, ino, true).await, open(&b, ino, true).await);
    for round in 0u8..20 {
        let (writer, reader) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        lock(writer).await;
        writer.write(0, &[round; 100], false).await.unwrap();
        unlock(writer).await;
        lock(reader).await;
        assert_eq!(read_all(reader).await, vec![round; 100]);
        unlock(reader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_master_hears_of_an_unlock_only_if_there_may_be_a_lock() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let file = open(&a, cluster.create(5), true).await;
    unlock(&file).await;
    file.unlock_owner(1).await.unwrap();
    assert_eq!(cluster.master().unlocks, 0);
    lock(&file).await;
    file.unlock(ME, (0, 9)).await.unwrap();
    file.unlock_owner(2).await.unwrap();
    file.unlock_owner(1).await.unwrap();
    file.unlock_owner(1).await.unwrap();
    assert_eq!(cluster.master().unlocks, 2);
}

#[tokio::test(start_paused = true)]
async fn a_closed_handle_gives_up_what_was_locked_through_it() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    let key = (LockSpace::Flock, 77);
    file.lock(key, whole(), None).await.unwrap();
    file.write(0, b"x", false).await.unwrap();
    let other = open(&b, ino, true).await;
    let refused = other.lock(ME, whole(), None).await;
    assert!(matches!(refused, Err(FileError::Refused(e)) if e.code == ErrorCode::Locked));
    file.release();
    let never = Box::pin(std::future::pending());
    let waiting = other.lock(ME, whole(), Some(never));
    let granted = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(granted.expect("it is granted").unwrap().is_some());
    assert_eq!(read_all(&other).await, b"x");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_has_no_lock() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let (one, two) = (open(&a, ino, true).await, open(&b, ino, true).await);
    lock(&one).await;
    let soon = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
    assert_eq!(two.lock(ME, whole(), Some(soon)).await.unwrap(), None);
    unlock(&one).await;
    two.unlock_owner(1).await.unwrap();
    assert_eq!(cluster.master().unlocks, 1, "it knows that it has nothing");
}

/// Two mounts, and a file that both have open.
async fn shared_file() -> (Arc<Cluster>, Arc<FileLayer>, Arc<OpenFile>, Ino) {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let b = cluster.mount(2, FileConfig::default());
    let ino = cluster.create(5);
    let other = open(&b, ino, true).await;
    (cluster, a, other, ino)
}

async fn is_refused(file: &OpenFile) {
    let refused = file.lock(ME, whole(), None).await;
    assert!(matches!(refused, Err(FileError::Refused(e)) if e.code == ErrorCode::Locked));
}

#[tokio::test(start_paused = true)]
async fn regression_a_closed_handle_takes_no_lock_from_the_next_one_with_its_name() {
    // An unlock is not heard of and sent again later, or its answer comes late.
    for (lost, delay) in [(1, 0), (0, 5_000)] {
        let (cluster, a, other, ino) = shared_file().await;
        cluster.master().lost_unlocks = lost;
        cluster.master().unlock_delay = Duration::from_millis(delay);
        let key = (LockSpace::Posix, 77);
        let old = open(&a, ino, true).await;
        old.lock(key, whole(), None).await.unwrap().unwrap();
        old.release();
        let new = open(&a, ino, true).await;
        new.lock(key, whole(), None).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
        is_refused(&other).await;
        new.release();
        let soon = Box::pin(tokio::time::sleep(Duration::from_secs(20)));
        let granted = other.lock(ME, whole(), Some(soon)).await.unwrap();
        assert!(granted.is_some(), "given up with its handle");
    }
}

#[tokio::test(start_paused = true)]
async fn regression_a_late_release_takes_no_lock_from_another_handle() {
    let (_cluster, a, other, ino) = shared_file().await;
    let key = (LockSpace::Posix, 77);
    let (old, new) = (open(&a, ino, true).await, open(&a, ino, true).await);
    old.lock(key, whole(), None).await.unwrap().unwrap();
    new.lock(key, whole(), None).await.unwrap().unwrap();
    old.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_refused(&other).await;
    new.release();
    let soon = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
    assert!(other.lock(ME, whole(), Some(soon)).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn regression_a_lock_after_a_close_does_not_meet_the_lock_that_went_with_it() {
    let (cluster, a, _other, ino) = shared_file().await;
    for owner in 0..3 {
        cluster.master().lost_unlocks = 1;
        let file = open(&a, ino, true).await;
        let locked = file.lock((LockSpace::Flock, owner), whole(), None).await;
        assert!(locked.unwrap().is_some());
        file.release();
    }
}

#[tokio::test(start_paused = true)]
async fn regression_a_lock_taken_while_its_owner_closes_another_descriptor_is_not_forgotten() {
    let (cluster, a, other, ino) = shared_file().await;
    let (one, two) = (open(&a, ino, true).await, open(&a, ino, true).await);
    lock(&one).await;
    cluster.master().unlock_delay = Duration::from_millis(5);
    // The master hears of the unlock first, its answer comes after that to the lock.
    let (closed, locked) = tokio::join!(one.unlock_owner(ME.1), async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        two.lock(ME, whole(), None).await
    });
    assert!(closed.is_ok() && locked.unwrap().is_some());
    is_refused(&other).await;
    two.unlock_owner(ME.1).await.unwrap();
    lock(&other).await;
}

async fn is_fenced(file: &OpenFile) {
    let lost = |e: &FileError| matches!(e, FileError::LocksLost);
    assert!(file.write(0, b"late", false).await.is_err_and(|e| lost(&e)));
    assert!(file.append(b"late", false).await.is_err_and(|e| lost(&e)));
    assert!(file.truncate(0, false).await.is_err_and(|e| lost(&e)));
    assert!(file.read(0, 10).await.is_err_and(|e| lost(&e)));
    assert!(file.try_read_cached(0, 10).is_none());
    assert!(file.flush().await.is_err_and(|e| lost(&e)));
    assert!(file.lock(ME, whole(), None).await.is_err_and(|e| lost(&e)));
}

#[tokio::test(start_paused = true)]
async fn a_handle_whose_lock_was_lost_with_the_session_does_nothing_any_more() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino: Ino = cluster.create(5);
    let (holder, bystander) = (open(&a, ino, true).await, open(&a, ino, true).await);
    holder.write(0, b"before", false).await.unwrap();
    lock(&holder).await;
    cluster.expire(1, 9);
    is_fenced(&holder).await;
    bystander.write(0, b"other", false).await.unwrap();
    bystander.flush().await.unwrap();
    is_fenced(&holder).await;
    // The owner closes it: that is the end of its locks.
    holder.unlock_owner(1).await.unwrap();
    drop(holder);
    let again = open(&a, ino, true).await;
    lock(&again).await;
    again.write(0, b"again", false).await.unwrap();
    unlock(&again).await;
    assert_eq!(read_all(&again).await, b"againe");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_under_one_session_is_not_committed_under_the_next() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let (holder, other) = (open(&a, ino, true).await, open(&b, ino, true).await);
    let bystander = open(&a, ino, true).await;
    lock(&holder).await;
    holder.write(0, b"first", false).await.unwrap();
    // The next session has begun, and the file layer has not heard of it.
    cluster.begin_next_session(1, 9);
    assert!(holder.write(0, b"late", false).await.is_err());
    assert!(bystander.write(0, b"late", false).await.is_err());
    assert_eq!(read_all(&other).await, b"first");
}

#[tokio::test(start_paused = true)]
async fn who_had_given_up_its_lock_loses_nothing_with_the_session() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let file: Arc<OpenFile> = open(&a, cluster.create(5), true).await;
    lock(&file).await;
    unlock(&file).await;
    cluster.expire(1, 9);
    lock(&file).await;
    file.write(0, b"fine", false).await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(read_all(&file).await, b"fine");
}

//! Logs of many small puts: their rows stay short, and nobody can tell.
use super::fake::{Cluster, open, read_all};
use super::{FileConfig, OpenFile};
use crate::types::layout::CROWDED_EXTENTS;
use crate::types::{ChunkNo, Ino};
use std::time::Duration;

fn extents(cluster: &Cluster, ino: Ino) -> usize {
    let master = cluster.master();
    master.files[&ino].layout.of_chunk(ChunkNo::HOME).len()
}

/// Waits (in virtual time) until so many chunks were compacted.
async fn compacted(cluster: &Cluster, at_least: u64) {
    for _ in 0..6000 {
        if cluster.master().compactions >= at_least {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never compacted: {}", cluster.master().compactions);
}

async fn line(file: &OpenFile, n: u32, expected: &mut Vec<u8>) {
    let text = format!("line {n}\n");
    file.append(text.as_bytes(), false).await.unwrap();
    file.fsync().await.unwrap();
    expected.extend(text.bytes());
}

#[tokio::test(start_paused = true)]
async fn a_log_synced_line_by_line_keeps_few_extents() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let mut expected = Vec::new();
    let file = open(&a, ino, true).await;
    for n in 0..4 * CROWDED_EXTENTS as u32 {
        line(&file, n, &mut expected).await;
        let extents = extents(&cluster, ino);
        assert!(extents < 2 * CROWDED_EXTENTS, "{extents} after {n}");
    }
    assert!(cluster.master().compactions >= 3);
    // A hole stays one, for readers.
    file.write(5_000_000, b"far", false).await.unwrap();
    file.flush().await.unwrap();
    file.release();
    expected.resize(5_000_000, 0);
    expected.extend(b"far");
    assert!(read_all(&*open(&b, ino, false).await).await == expected);
}

#[tokio::test(start_paused = true)]
async fn regression_appends_of_several_mounts_do_not_cost_more_with_every_append() {
    let cluster = Cluster::new();
    let mounts = [1, 2, 3].map(|n| cluster.mount(n, FileConfig::default()));
    let ino = cluster.create(5);
    let mut files = Vec::new();
    for mount in &mounts {
        files.push(open(mount, ino, true).await);
    }
    let mut expected = Vec::new();
    for n in 0..2 * CROWDED_EXTENTS as u32 {
        line(&files[n as usize % 3], n, &mut expected).await;
    }
    compacted(&cluster, 2).await;
    assert!(extents(&cluster, ino) < CROWDED_EXTENTS);
    for file in &files {
        assert!(read_all(file).await == expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_mount_writes_while_a_chunk_is_compacted_stays() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.mount(1, FileConfig::default()),
        cluster.mount(2, FileConfig::default()),
    );
    let ino = cluster.create(5);
    let (file, other) = (open(&a, ino, true).await, open(&b, ino, true).await);
    let mut expected = Vec::new();
    for n in 0..CROWDED_EXTENTS as u32 {
        line(&file, n, &mut expected).await;
    }
    // Neither is in the layout that the compaction has asked for by now, or will ask for.
    let writes = [(10, b"OVER"), (400, b"LAID")];
    for (at, bytes) in writes {
        other.write(at, bytes, false).await.unwrap();
        expected[at as usize..][..4].copy_from_slice(bytes);
    }
    other
        .truncate(expected.len() as u64 - 7, false)
        .await
        .unwrap();
    expected.truncate(expected.len() - 7);
    compacted(&cluster, 1).await;
    for file in [&file, &other] {
        assert!(read_all(file).await == expected);
    }
    assert!(extents(&cluster, ino) < 10);
}

#[tokio::test(start_paused = true)]
async fn a_compaction_is_no_local_change() {
    let cluster = Cluster::new();
    let a = cluster.mount(1, FileConfig::default());
    let ino = cluster.create(5);
    let file = open(&a, ino, true).await;
    let mut expected = Vec::new();
    for n in 0..CROWDED_EXTENTS as u32 {
        line(&file, n, &mut expected).await;
    }
    let mtime = cluster.master().files[&ino].mtime;
    for _ in 0..1000 {
        assert!(file.is_clean(), "nobody waits for it");
        if cluster.master().compactions == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    compacted(&cluster, 1).await;
    assert_eq!(cluster.master().files[&ino].mtime, mtime);
    line(&file, 0, &mut expected).await;
    assert!(read_all(&file).await == expected);
}

//! May this start begin a new cluster?
//!
//! `--bootstrap` stays on the command line of the first node for good, so it must begin a cluster
//! once, finish what an interrupted first start began, and never begin a second one when the node
//! comes back with an empty disk: the others would follow it into an empty namespace. Steps:
//! 1. a data directory that holds nothing of a node yet, and a key that this start makes: the mark
//!    `bootstrap.pending` is written first, then the key, then everything else;
//! 2. while the mark is there, a start goes on with beginning the cluster;
//! 3. once the first voter is on disk, the mark is removed.
//!
//! A key that exists says that its cluster may exist, too: then an empty data directory is refused.
use anyhow::{Context, bail};
use dfs_core::membership::durable;
use dfs_core::store::disk::Disk;
use std::path::Path;

const PENDING: &str = "bootstrap.pending";
/// What a node has once it was started: its own files, by any of these names.
const TRACES: [&str; 4] = ["store", "node", "raft.member", "master.redb"];

/// Decides, and leaves the mark. To be called before anything else is written to `data`.
///
/// # Errors
/// The node was lost, or the mark cannot be written; nothing was changed.
pub fn decide(
    disk: &dyn Disk,
    data: &Path,
    key_file: &Path,
    key_unused: bool,
) -> anyhow::Result<bool> {
    if durable::read(disk, PENDING)?.is_some() {
        return Ok(true);
    }
    if TRACES.iter().any(|name| data.join(name).exists()) {
        return Ok(false);
    }
    if key_file.exists() && !key_unused {
        bail!(
            "{} holds no node, but the cluster key {} exists: its cluster may live on other nodes, \
             and a second one under the same key would destroy it. To bring this node back, start it \
             with --join IP:PORT of a live node instead of --bootstrap. If no cluster was ever begun \
             with this key, add --key-unused",
            data.display(),
            key_file.display()
        );
    }
    durable::write(disk, PENDING, "a new cluster begins here\n")
        .with_context(|| format!("{}/{PENDING}", data.display()))?;
    Ok(true)
}

/// The first voter is on disk.
///
/// # Errors
/// The mark cannot be removed; the next start does it.
pub fn done(disk: &dyn Disk) -> anyhow::Result<()> {
    if durable::read(disk, PENDING)?.is_some() {
        disk.remove(PENDING)?;
        disk.sync_dir("")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::store::file_disk::FileDisk;

    struct Place {
        dir: tempfile::TempDir,
        disk: FileDisk,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let disk = FileDisk::open(dir.path()).unwrap();
            Self { dir, disk }
        }
        fn key(&self) -> std::path::PathBuf {
            self.dir.path().join("cluster.key")
        }
        fn decide(&self, key_unused: bool) -> anyhow::Result<bool> {
            decide(&self.disk, self.dir.path(), &self.key(), key_unused)
        }
    }

    #[test]
    fn a_first_start_that_was_interrupted_is_finished_by_the_next_and_only_then_is_over() {
        let place = Place::new();
        assert!(place.decide(false).unwrap());
        std::fs::write(place.key(), "made by that start").unwrap();
        std::fs::create_dir(place.dir.path().join("store")).unwrap();
        assert!(place.decide(false).unwrap(), "no voter was made yet");
        std::fs::write(place.dir.path().join("raft.member"), "7").unwrap();
        done(&place.disk).unwrap();
        assert!(!place.decide(false).unwrap());
    }

    /// The others followed the empty node, and everything was gone.
    #[test]
    fn regression_a_node_that_lost_its_disk_begins_no_second_cluster_under_the_same_key() {
        let place = Place::new();
        std::fs::write(place.key(), "known to other nodes").unwrap();
        let refused = place.decide(false).unwrap_err().to_string();
        assert!(refused.contains("--join") && refused.contains("--key-unused"));
        assert!(place.decide(false).is_err(), "nothing was changed");
        assert!(place.decide(true).unwrap(), "a key made in advance");
    }
}

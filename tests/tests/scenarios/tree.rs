//! A real source tree through the mount: copied in, compared, read by a second mount, copied out,
//! removed, purged.
use dfs_tests::proc::{
    Cluster, Mount, compare::same_trees, exclusive, fuse_or_skip, sh, source_tree, wait_for,
};
use std::time::Duration;

/// What was purged rests for a moment only.
const CONFIG: &str = "[repair]\ndelete_grace_ms = 2000\nquarantine_ms = 1000\n";

#[test]
fn a_source_tree_survives_the_way_in_and_out_and_a_purge_removes_its_bytes() {
    if !fuse_or_skip("tree") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start_with(5, CONFIG).unwrap();
    let local = cluster.scratch().join("local");
    source_tree::make(&local).unwrap();

    let first = Mount::new(&cluster, "first").unwrap();
    sh(&format!(
        "cp -a '{}' '{}/tree'",
        local.display(),
        first.path().display()
    ))
    .unwrap();
    same_trees(&local, &first.join("tree")).unwrap();

    // A second process, caches cold, after the first was killed.
    first.kill().unwrap();
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let second = Mount::new(&cluster, "second").unwrap();
    same_trees(&local, &second.join("tree")).unwrap();
    let out = cluster.scratch().join("out");
    sh(&format!(
        "cp -a '{}/tree' '{}'",
        second.path().display(),
        out.display()
    ))
    .unwrap();
    same_trees(&local, &out).unwrap();

    sh(&format!("rm -rf '{}/tree'", second.path().display())).unwrap();
    assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0);
    cluster.tools(&["purge", "--all", "--yes"]).unwrap();
    second.unmount().unwrap();
    let mut left = u64::MAX;
    let gone = wait_for(
        "bytes gone from every data directory",
        // Other programs are busy beside.
        Duration::from_secs(300),
        || {
            left = objects_left(&cluster);
            left == 0
        },
    );
    gone.unwrap_or_else(|e| {
        panic!(
            "{e}: {left} bytes of objects are left, of them {}",
            some_left(&cluster)
        )
    });
}

/// Some of the files that are left.
fn some_left(cluster: &Cluster) -> String {
    let find = format!(
        "find '{}'/node*/ -path '*objects*' -type f -printf '%p %s %t\\n' | head -20",
        cluster.dev_dir().display()
    );
    sh(&find).unwrap_or_else(|e| e.to_string())
}

/// Bytes of objects that the stores still hold, as they count them, plus object files on disk,
/// counted without our own code.
fn objects_left(cluster: &Cluster) -> u64 {
    let status = cluster.status().unwrap();
    let stores = status["stores"].as_array().unwrap();
    let counted: u64 = stores.iter().filter_map(|s| s["used_bytes"].as_u64()).sum();
    let script = format!(
        "find '{}'/node*/ -ignore_readdir_race -path '*objects*' -type f -printf '%s\\n' | awk '{{s+=$1}} END {{print s+0}}'",
        cluster.dev_dir().display()
    );
    counted + sh(&script).unwrap().trim().parse::<u64>().unwrap()
}

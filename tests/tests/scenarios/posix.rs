//! What programs observe on a mount is what they observe on a local directory.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip};
use std::path::Path;
use std::process::Command;

/// Runs the observations in a fresh directory below `dir`.
fn observe(dir: &Path) -> Vec<String> {
    let place = dir.join("observed");
    std::fs::create_dir(&place).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/posix.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(&place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert!(
        output.status.success() && lines.len() > 150,
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::remove_dir_all(&place).unwrap();
    lines
}

#[test]
fn a_program_cannot_tell_the_mount_from_a_local_directory() {
    if !fuse_or_skip("a_program_cannot_tell_the_mount_from_a_local_directory") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::with_options(&cluster, "posix", "dev,suid").unwrap();
    let local = cluster.scratch().join("local");
    std::fs::create_dir(&local).unwrap();
    let (want, got) = (observe(&local), observe(mount.path()));
    let mut differences = 0;
    for (want, got) in want.iter().zip(&got).filter(|(want, got)| want != got) {
        println!("local: {want}\nmount: {got}\n");
        differences += 1;
    }
    assert_eq!((differences, got.len()), (0, want.len()));
    mount.unmount().unwrap();
}

//! CPython's regression tests of what uses files, below a mount: those that take a few seconds. All 19 modules
//! are run by `bash .ci/long cpython`.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip};
use std::process::Command;
use std::time::Instant;

/// The system's, whose tests are a package of the system (Debian: libpython3.11-testsuite).
const PYTHON: &str = "/usr/bin/python3";

const MODULES: [&str; 11] = [
    "test_posix",
    "test_shutil",
    "test_mmap",
    "test_tempfile",
    "test_fcntl",
    "test_fileio",
    "test_file",
    "test_dbm",
    "test_posixpath",
    "test_stat",
    "test_tarfile",
];

#[test]
fn what_others_wrote_to_test_files_of_cpython_passes() {
    if !fuse_or_skip("what_others_wrote_to_test_files_of_cpython_passes") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::with_options(&cluster, "mnt", "dev,suid").unwrap();
    let began = Instant::now();
    let output = Command::new(PYTHON)
        .args(["-m", "test", "-j1", "--tempdir"])
        .arg(mount.path())
        .args(MODULES)
        .env("TMPDIR", mount.path())
        .env_remove("PYTHONDONTWRITEBYTECODE")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = MODULES
        .iter()
        .filter(|m| said.contains(&format!("] {m} passed")))
        .count();
    println!("{passed} modules pass in {:?}", began.elapsed());
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && passed == MODULES.len(),
        "{PYTHON} -m test (package libpython3.11-testsuite): {}\n{said}\n{complaints}",
        output.status
    );
    mount.unmount().unwrap();
}

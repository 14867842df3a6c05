//! A small tree: files of 1 to 16 KiB, 20 to a folder, 5 folders to a folder, written and removed.
use super::phase::nothing;
use super::runner::{Bench, make_file, sync_of};
use anyhow::Context;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of the longest file.
pub const LEN_MAX: u64 = 16 << 10;
/// Files in a folder.
const FILES: u64 = 20;
/// Folders in a folder.
const FOLDERS: u64 = 5;

/// Writes and removes it. A folder is made before its first file and removed after its last one, as
/// part of their times.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let dir = bench.dir().to_owned();
    let mut rng = bench.rng(0x73ee);
    let content = rng.bytes(LEN_MAX as usize);
    let op = |i| {
        let len = 1024 + rng.below(LEN_MAX - 1024 + 1);
        write(&dir, i, &content[..len as usize])
    };
    let limit = bench.sizes().of_small(bench.sizes().tree);
    let written = bench.phase(limit, op, || sync_of(&dir))?;
    bench.record("tree_write", written.rate())?;
    if !bench.wants("tree_rm") {
        return Ok(());
    }
    let limit = bench.sizes().of_small(written.ops);
    let op = |i| remove(&dir, i, i + 1 == written.ops);
    let removed = bench.phase(limit, op, nothing)?;
    bench.record("tree_rm", removed.rate())
}

/// Of the file `i`.
fn folder(dir: &Path, i: u64) -> PathBuf {
    let folder = i / FILES;
    dir.join(format!("d{}/e{}", folder / FOLDERS, folder % FOLDERS))
}

fn write(dir: &Path, i: u64, content: &[u8]) -> anyhow::Result<()> {
    let folder = folder(dir, i);
    if i.is_multiple_of(FILES) {
        let what = || format!("making {}", folder.display());
        std::fs::create_dir_all(&folder).with_context(what)?;
    }
    let path = folder.join(format!("f{i}"));
    let what = || format!("writing {}", path.display());
    make_file(&path)?.write_all(content).with_context(what)
}

/// With its folder, and that one's, if it is the last in there.
fn remove(dir: &Path, i: u64, is_last: bool) -> anyhow::Result<()> {
    let folder = folder(dir, i);
    let path = folder.join(format!("f{i}"));
    let what = || format!("removing {}", path.display());
    std::fs::remove_file(&path).with_context(what)?;
    let next = i + 1;
    if next.is_multiple_of(FILES) || is_last {
        std::fs::remove_dir(&folder).with_context(what)?;
    }
    if next.is_multiple_of(FILES * FOLDERS) || is_last {
        let above = folder.parent().expect("it is two below the group's");
        std::fs::remove_dir(above).with_context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_removed_with_all_folders() {
        let dir = tempfile::tempdir().unwrap();
        for files in [1, 20, 21, 100, 101, 130] {
            for i in 0..files {
                write(dir.path(), i, b"x").unwrap();
            }
            let folders = std::fs::read_dir(dir.path()).unwrap().count() as u64;
            assert_eq!(folders, files.div_ceil(FILES * FOLDERS));
            for i in 0..files {
                remove(dir.path(), i, i + 1 == files).unwrap();
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}

//! Space that a data directory takes: allocated blocks, as `du` counts them.
use dfs_core::wire::node::DiskUse;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of a block as `stat` counts them.
const BLOCK: u64 = 512;

/// Measures a data directory.
///
/// # Errors
/// It cannot be read.
pub fn disk_use(data_dir: &Path) -> io::Result<DiskUse> {
    let store = data_dir.join("store");
    let part = |path: &Path| {
        blocks(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    };
    Ok(DiskUse {
        objects: part(&store.join("objects"))?,
        tables: tables(&store, "tables.redb")?,
        journal: part(&store.join("journal"))?,
        voter: part(&data_dir.join("raft"))? + tables(data_dir, "master.redb")?,
        total: part(data_dir)?,
        set_aside: set_aside(data_dir)?,
    })
}

/// A table file with its copy and sums.
fn tables(dir: &Path, name: &str) -> io::Result<u64> {
    let parts = ["", ".copy", ".sums"].map(|end| blocks(&dir.join(format!("{name}{end}"))));
    parts.into_iter().sum()
}

/// What was set aside because of damage.
fn set_aside(data_dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if ["store.damaged-", "voter.damaged-"]
            .iter()
            .any(|p| name.starts_with(p))
        {
            sum += blocks(&entry.path())?;
        }
    }
    Ok(sum)
}

/// Allocated bytes of a file, or of a directory with all below it; what vanishes meanwhile counts
/// nothing.
fn blocks(path: &Path) -> io::Result<u64> {
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut sum = about.blocks() * BLOCK;
    if about.is_dir() {
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    sum += blocks(&entry?.path())?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_the_whole_are_counted_in_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |path: &str, len: usize| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("below the directory")).expect("made");
            fs::write(path, vec![7u8; len]).expect("written");
        };
        file("store/objects/00/a", 5000);
        file("store/journal/1", 100);
        file("store.damaged-1/objects/00/b", 9000);
        file("store/tables.redb", 100);
        file("store/tables.redb.copy", 100);
        let used = disk_use(dir.path()).expect("measured");
        assert!(used.set_aside >= 12288 && used.tables >= 8192, "{used:?}");
        assert!(used.total >= used.objects + used.tables + used.set_aside);
        assert!(used.objects >= 8192 && used.journal >= 4096 && used.voter == 0);
        assert!(used.total >= used.objects + used.journal);
    }
}

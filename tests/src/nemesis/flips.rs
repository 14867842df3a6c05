//! Bits that a disk gives back wrong: flipped in what a store keeps.
use rand::Rng;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files below `dir` that a store keeps objects in, in an order that is the same every time. The daemon
/// may remove some meanwhile.
fn object_files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let text = path.to_string_lossy();
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.len() > 0 && (text.contains("/objects/") || text.ends_with(".redb")) {
                found.push((path, meta.len()));
            }
        }
    }
    found.sort();
    found
}

/// Flips one bit at each of `count` places below a data directory; how many it found to flip.
pub fn flip(data: &Path, count: usize, rng: &mut impl Rng) -> usize {
    let files = object_files(data);
    let mut flipped = 0;
    for _ in 0..count {
        if files.is_empty() {
            break;
        }
        let (path, len) = &files[rng.random_range(0..files.len())];
        let (at, bit) = (rng.random_range(0..*len), rng.random_range(0..8u8));
        let one = || -> std::io::Result<()> {
            let file = File::options().read(true).write(true).open(path)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ (1 << bit)], at)
        };
        flipped += usize::from(one().is_ok());
    }
    flipped
}

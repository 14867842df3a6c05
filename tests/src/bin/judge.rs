//! Judges histories that a run has written: `judge FILE...`.
use dfs_tests::history::judge;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    for file in std::env::args().skip(1) {
        println!("{file}: {:?}", judge::file(Path::new(&file))?);
    }
    Ok(())
}

//! Installs the suites that the scenarios run, so that no test waits for a compiler.
use dfs_tests::proc::suite::{FSX, PJDFSTEST, suite};

fn main() -> anyhow::Result<()> {
    for wanted in [PJDFSTEST, FSX] {
        println!("{}", suite(wanted)?.display());
    }
    Ok(())
}

//! Suites that others wrote, installed with cargo below `target/suites`.
use super::run;
use anyhow::Context;
use std::path::PathBuf;
use std::process::Command;

/// Name and version of what [`suite`] installs, as on crates.io.
pub const PJDFSTEST: (&str, &str) = ("pjdfstest", "0.2.2");
/// See [`PJDFSTEST`].
pub const FSX: (&str, &str) = ("fsx", "0.3.2");

/// The program of a suite, which has the suite's name; installed first if it is missing.
///
/// # Errors
/// It cannot be built.
pub fn suite((name, version): (&str, &str)) -> anyhow::Result<PathBuf> {
    let root = super::program("dfs-mount")
        .parent()
        .and_then(|p| p.parent())
        .context("programs lie in a directory of the target directory")?
        .join("suites");
    let program = root.join("bin").join(name);
    if !program.is_file() {
        let mut install = Command::new(env!("CARGO"));
        // The flags and the target directory of our own build are not for theirs.
        install
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR");
        // What they do is mostly system calls: their own speed is not worth an optimised build.
        install.args(["install", "--debug", "--locked", "--quiet"]);
        install.args(["--version", version]);
        install.arg("--root").arg(&root).arg(name);
        run(&mut install).with_context(|| format!("installing the suite {name} {version}"))?;
    }
    Ok(program)
}

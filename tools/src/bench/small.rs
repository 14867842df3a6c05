//! Small files written, read and removed; written with an fsync each; and one file appended to.
use super::phase::{Limit, nothing};
use super::runner::{Bench, forget, make_file, open_file, sync_of};
use anyhow::{Context, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of one append.
pub const APPEND: usize = 128;

/// Files of 4 KiB.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run_4k(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let rows = ["small4k_write", "small4k_read", "small4k_rm"];
    run(bench, rows, 4 << 10)
}

/// Files of 64 KiB.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run_64k(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let rows = ["small64k_write", "small64k_read", "small64k_rm"];
    run(bench, rows, 64 << 10)
}

fn path(dir: &Path, i: u64) -> PathBuf {
    dir.join(format!("s{i}"))
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<File> {
    let mut file = make_file(path)?;
    let what = || format!("writing {}", path.display());
    file.write_all(content).with_context(what)?;
    Ok(file)
}

fn run(bench: &mut Bench<'_>, rows: [&'static str; 3], len: usize) -> anyhow::Result<()> {
    let dir = bench.dir().to_owned();
    let content = bench.rng(0x5311).bytes(len);
    let op = |i| write(&path(&dir, i), &content).map(drop);
    let limit = bench.sizes().of_small(bench.sizes().small);
    let written = bench.phase(limit, op, || sync_of(&dir))?;
    bench.record(rows[0], written.rate())?;
    let limit = bench.sizes().of_small(written.ops);
    if bench.wants(rows[1]) {
        for i in 0..written.ops {
            bench.stop.check()?;
            forget(&open_file(&path(&dir, i))?);
        }
        let mut buffer = vec![0; len];
        let op = |i| read(&path(&dir, i), &mut buffer);
        let done = bench.phase(limit, op, nothing)?;
        bench.record(rows[1], done.rate())?;
    }
    if bench.wants(rows[2]) {
        let done = bench.phase(limit, |i| remove(&path(&dir, i)), nothing)?;
        bench.record(rows[2], done.rate())?;
    }
    Ok(())
}

/// Fails if it is shorter than it was written.
fn read(path: &Path, buffer: &mut [u8]) -> anyhow::Result<()> {
    let what = || format!("reading {}", path.display());
    open_file(path)?.read_exact(buffer).with_context(what)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
}

/// Files of 4 KiB, each fsynced before the next.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run_synced(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let content = bench.rng(0x5f5f).bytes(4 << 10);
    let op = |i| {
        let path = path(bench.dir(), i);
        let file = write(&path, &content)?;
        file.sync_all()
            .with_context(|| format!("syncing {}", path.display()))
    };
    let limit = bench.sizes().of_small(bench.sizes().synced);
    let done = bench.phase(limit, op, nothing)?;
    bench.record("small4k_fsync", done.rate())
}

/// One file opened, appended to and closed, again and again.
///
/// # Errors
/// The filesystem refuses; an append was lost; interrupted.
pub fn run_append(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let path = bench.dir().join("log");
    let what = || format!("appending to {}", path.display());
    let line = bench.rng(0xa99e).bytes(APPEND);
    let op = |_| {
        let opened = File::options().create(true).append(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(&line));
        written.with_context(what)
    };
    let limit: Limit = bench.sizes().of_small(bench.sizes().appends);
    let done = bench.phase(limit, op, nothing)?;
    let len = std::fs::metadata(&path).with_context(what)?.len();
    let want = done.ops * APPEND as u64;
    ensure!(len == want, "{}: {len} B came of {want}", what());
    bench.record("append_128", done.rate())
}

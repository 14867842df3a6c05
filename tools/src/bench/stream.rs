//! One file written and read from its beginning to its end, in blocks of a MiB.
use super::phase::{Done, Limit, nothing};
use super::runner::{Bench, forget, make_file, open_file};
use anyhow::Context;
use rustix::fs::Advice;
use std::io::{Read, Write};
use std::path::Path;

/// Bytes of a block.
const BLOCK: u64 = 1 << 20;

/// Writes and fsyncs, reads as cold as possible, reads once more.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let path = bench.dir().join("big");
    let block = bench.rng(0x5eed).bytes(BLOCK as usize);
    let file = make_file(&path)?;
    let what = || format!("writing {}", path.display());
    let mut to = &file;
    let write = |_| to.write_all(&block).with_context(what);
    let sync = || file.sync_all().with_context(what);
    let written = bench.phase(bench.sizes().big(), write, sync)?;
    bench.record("seqwrite_1f", written.mb_rate(BLOCK))?;
    if !(bench.wants("seqread_1f") || bench.wants("seqread_warm")) {
        return Ok(());
    }
    forget(&file);
    drop(file);
    let cold = read(bench, &path, written.ops)?;
    bench.record("seqread_1f", cold.mb_rate(BLOCK))?;
    if !bench.wants("seqread_warm") {
        return Ok(());
    }
    // No more than what the reading before has left in memory, should its time have ended it.
    let warm = read(bench, &path, cold.ops)?;
    bench.record("seqread_warm", warm.mb_rate(BLOCK))
}

fn read(bench: &Bench<'_>, path: &Path, blocks: u64) -> anyhow::Result<Done> {
    // As another program would: what the handle knows that wrote is not what a later reader has.
    let mut file = open_file(path)?;
    // Only a hint.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
    let mut block = vec![0; BLOCK as usize];
    let limit = Limit {
        count: blocks,
        ..bench.sizes().big()
    };
    let what = || format!("reading {}", path.display());
    let op = |_| file.read_exact(&mut block).with_context(what);
    bench.phase(limit, op, nothing)
}

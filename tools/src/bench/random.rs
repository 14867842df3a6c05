//! Reads and writes of 4 KiB anywhere in one file.
use super::phase::{Latencies, Limit, nothing};
use super::rng::Rng;
use super::runner::{Bench, forget, make_file};
use anyhow::Context;
use rustix::fs::Advice;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes of one read or write.
const LEN: u64 = 4 << 10;
/// Bytes of one write of those that make the file.
const LAID: u64 = 1 << 20;

/// The file, and what is written to it.
struct Target {
    path: PathBuf,
    file: File,
    /// Blocks of [`LEN`] that it has.
    blocks: u64,
    block: Vec<u8>,
}

/// Makes the file, reads it, writes with a sync each, writes without.
///
/// # Errors
/// The filesystem refuses; interrupted.
pub fn run(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let target = lay(bench)?;
    if bench.wants("randread_4k") {
        read(bench, &target)?;
    }
    if bench.wants("randwrite_4k_sync") {
        write_synced(bench, &target)?;
    }
    if bench.wants("randwrite_4k_buf") {
        write_buffered(bench, &target)?;
    }
    Ok(())
}

fn limit(bench: &Bench<'_>, count: u64) -> Limit {
    let time = bench.sizes().random_time;
    Limit { count, time }
}

/// Not timed. As long as its time allows, so that a slow filesystem gets a shorter file.
fn lay(bench: &Bench<'_>) -> anyhow::Result<Target> {
    let path = bench.dir().join("random");
    let content = bench.rng(0x1a1d).bytes(LAID as usize);
    let file = make_file(&path)?;
    let what = || format!("writing {}", path.display());
    let mut to = &file;
    let write = |_| to.write_all(&content).with_context(what);
    let sync = || file.sync_all().with_context(what);
    let count = bench.sizes().random_mib;
    let done = bench.phase(limit(bench, count), write, sync)?;
    Ok(Target {
        blocks: done.ops * (LAID / LEN),
        block: bench.rng(0xb10c).bytes(LEN as usize),
        path,
        file,
    })
}

/// No block twice, so that none is in memory because of us.
fn read(bench: &mut Bench<'_>, target: &Target) -> anyhow::Result<()> {
    let what = || format!("reading {}", target.path.display());
    forget(&target.file);
    // Else the kernel reads ahead what is not asked for. Only a hint.
    let _ = rustix::fs::fadvise(&target.file, 0, None, Advice::Random);
    let order = bench.rng(0x5ead).order(target.blocks);
    let mut block = vec![0; LEN as usize];
    let mut latencies = Latencies::default();
    let op = |i: u64| {
        let at = order[i as usize] * LEN;
        latencies.time(|| target.file.read_exact_at(&mut block, at).with_context(what))
    };
    let done = bench.phase(limit(bench, target.blocks), op, nothing)?;
    bench.record("randread_4k", done.rate())?;
    bench.record("randread_4k_p50", latencies.percentile_us(50))?;
    bench.record("randread_4k_p99", latencies.percentile_us(99))
}

fn write_synced(bench: &mut Bench<'_>, target: &Target) -> anyhow::Result<()> {
    let what = || format!("writing {}", target.path.display());
    let mut rng: Rng = bench.rng(0x57ac);
    let mut latencies = Latencies::default();
    let op = |_| {
        let at = rng.below(target.blocks) * LEN;
        latencies.time(|| {
            let written = target.file.write_all_at(&target.block, at);
            let synced = written.and_then(|()| target.file.sync_data());
            synced.with_context(what)
        })
    };
    let done = bench.phase(limit(bench, target.blocks), op, nothing)?;
    bench.record("randwrite_4k_sync", done.rate())?;
    bench.record("randwrite_4k_sync_p50", latencies.percentile_us(50))?;
    bench.record("randwrite_4k_sync_p99", latencies.percentile_us(99))?;
    bench.record("randwrite_4k_sync_max", latencies.percentile_us(100))
}

/// With one fsync at the end, which is part of the time.
fn write_buffered(bench: &mut Bench<'_>, target: &Target) -> anyhow::Result<()> {
    let what = || format!("writing {}", target.path.display());
    let order = bench.rng(0xb0ff).order(target.blocks);
    let op = |i: u64| {
        let at = order[i as usize] * LEN;
        target
            .file
            .write_all_at(&target.block, at)
            .with_context(what)
    };
    let sync = || target.file.sync_all().with_context(what);
    let done = bench.phase(limit(bench, target.blocks), op, sync)?;
    bench.record("randwrite_4k_buf", done.rate())
}

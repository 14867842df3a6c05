//! `bench`: how fast a directory is, by a short workload. Needs no cluster: any filesystem will do.
use crate::bench::place::Place;
use crate::bench::print::{heading, line};
use crate::bench::rows::Selection;
use crate::bench::runner::{self, Config};
use crate::bench::saved::{Run, SavedRow};
use crate::bench::sizes::Sizes;
use crate::bench::stop::Stop;
use crate::format::time_iso;
use crate::output::{Out, note};
use crate::transfer::local::LocalFile;
use anyhow::Context;
use clap::Args;
use dfs_core::types::Timestamp;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

/// For `--help`.
const ABOUT: &str = "\
Writes, reads and removes files in a new directory DIR/.dfs-bench-PID, which is removed at the end.
Each row has a value and a unit:

  seqwrite_1f, seqread_1f   one file in blocks of 1 MiB, with fsync at the end; read as cold as the
  seqread_warm              kernel can be told to (a filesystem's own cache stays), and once more
  randread_4k               4 KiB anywhere in a file, each block once; p50, p99: time of one read
  randwrite_4k_sync         4 KiB anywhere and fdatasync; p50, p99, max: time of one write
  randwrite_4k_buf          4 KiB anywhere, one fsync at the end
  meta1_, meta8_            files and directories by one thread, by eight at once
  small4k_, small64k_       files of that size: written (with syncfs at the end), read, removed
  small4k_fsync             files of 4 KiB with fsync each
  tree_write, tree_rm       small files in folders
  append_128                opening, appending 128 B, closing

A phase ends after a count or a time. To compare: --save FILE, later or elsewhere --compare FILE;
ratios above 1 are better now. Other programs at work disturb: repeat what surprises.";

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_long_help = ABOUT)]
pub struct BenchArgs {
    /// Directory to measure: a mount of DFS, or any other
    pub dir: PathBuf,
    /// A few seconds in all, with larger errors
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose names begin so (comma-separated)
    #[arg(long, value_name = "PATTERN")]
    pub rows: Option<Selection>,
    /// Chooses random offsets and contents
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Save the run as JSON
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Show a saved run beside it, and how many times better this one is
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// The directory cannot be used, has too little room or refuses an operation; a bad file to compare
/// with, or one that cannot be saved; interrupted. The directory is as before in each case, unless
/// it is said that something is left.
pub fn run(args: &BenchArgs, out: &mut Out) -> anyhow::Result<()> {
    let earlier = args.compare.as_deref().map(Run::read).transpose()?;
    let save = args.save.as_deref().map(LocalFile::create).transpose();
    let save = save.context("--save")?;
    let config = config(args);
    let stop = Stop::at_signals(Place::name(&args.dir))?;
    let need = config.selection.room(&config.sizes);
    let place = Place::make(&args.dir, need)?;
    let mut result = Run::new(&args.dir, now(), args.seed, args.quick);
    note(format!(
        "measuring {} with up to {} MiB, --seed {}",
        args.dir.display(),
        need.div_ceil(1 << 20),
        args.seed
    ));
    if let Some(earlier) = &earlier {
        warn(&result, earlier);
        out.confirm(heading())?;
    }
    let began = Instant::now();
    runner::run(&config, place.dir(), &stop, &mut |measured| {
        let row = SavedRow::new(measured, earlier.as_ref());
        out.confirm(line(&row, earlier.is_some()))?;
        result.rows.push(row);
        // Whoever waits sees each row when it is there.
        out.flush()
    })?;
    result.seconds = began.elapsed().as_secs_f64().round();
    // Before the end of the directory, which may fail: the values are good.
    if let Some(mut file) = save {
        file.write(&serde_json::to_vec_pretty(&result)?)?;
        file.finish(0o666)?;
    }
    if out.json {
        out.json(&result)?;
    }
    Ok(place.remove()?)
}

fn config(args: &BenchArgs) -> Config {
    Config {
        sizes: match args.quick {
            true => Sizes::quick(),
            false => Sizes::full(),
        },
        selection: args.rows.clone().unwrap_or_default(),
        seed: args.seed,
    }
}

/// Says what makes a comparison worth less.
fn warn(run: &Run, earlier: &Run) {
    let length = |quick| match quick {
        true => "quick",
        false => "full",
    };
    if run.quick != earlier.quick {
        let (now, then) = (length(run.quick), length(earlier.quick));
        note(format!(
            "this run is a {now} one and the saved one a {then} one: ratios say little"
        ));
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 makes no difference to what is measured.
    let since = since.unwrap_or_default();
    let secs = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    time_iso(Timestamp { secs, nanos: 0 }, 0)
}

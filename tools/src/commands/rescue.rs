//! `rescue`: rebuilds a tree from data directories when every master is lost. Needs no daemon.
use crate::error::{Exit, ToolError};
use crate::format::{size, unix_time};
use crate::output::Out;
use crate::rescue::report::Report;
use crate::rescue::write::TreeWriter;
use anyhow::{Context, bail};
use clap::Args;
use dfs_core::rescue::{Directory, Inventory, InventoryError, plan};
use dfs_core::store::MemKv;
use std::path::{Path, PathBuf};

/// Files named in what is printed; all are in the report.
const SHOWN: usize = 20;

/// Arguments of `rescue`.
#[derive(Debug, Args)]
pub struct RescueArgs {
    /// New directory for the tree
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Use no namespace snapshot: only what the objects say of themselves
    #[arg(long)]
    pub no_snapshot: bool,
    /// Also what was deleted and still rests in quarantine: deleted files go below `quarantined`
    #[arg(long)]
    pub quarantined: bool,
    /// Data directories of daemons (which must be stopped); they are only read
    #[arg(required = true, value_name = "DATA_DIR")]
    pub dirs: Vec<PathBuf>,
}

/// Reads the directories, writes the tree and says what is not whole.
///
/// # Errors
/// A directory is in use or of another cluster, or nothing can be read (nothing was written then);
/// `Damaged` when a file is not whole or a directory could not be read: the rest was written.
pub fn run(args: &RescueArgs, to: &mut Out) -> anyhow::Result<()> {
    prepare_out(&args.out)?;
    let mut inventory = match args.quarantined {
        true => Inventory::with_quarantined(),
        false => Inventory::default(),
    };
    let mut unread = Vec::new();
    for path in &args.dirs {
        match Directory::open(path) {
            Ok(dir) => inventory.add(dir)?,
            // Damage of one is what the others are for.
            Err(e @ (InventoryError::Store { .. } | InventoryError::Meta { .. })) => {
                unread.push(e.to_string());
            }
            Err(e) => return Err(e.into()),
        }
    }
    if inventory.dirs().is_empty() {
        return Err(ToolError::Damaged(unread.join("; ")).into());
    }
    let snapshot = match args.no_snapshot {
        true => None,
        false => inventory.snapshot(),
    };
    let (manifest, kv) = snapshot.unzip();
    let kv = kv.unwrap_or_else(MemKv::default);
    let planned = plan(&inventory, &kv);
    drop(kv);
    let mut report = Report::new(&inventory, manifest.as_ref());
    report.removed = planned.removed;
    report.unread = unread;
    report.troubles.clone_from(&inventory.troubles);
    report.troubles.extend(planned.troubles);
    TreeWriter::new(&args.out, &inventory, &mut report).write(planned.entries)?;
    report.write(&args.out)?;
    tell(&report, &args.out, to)?;
    if report.is_whole() {
        return Ok(());
    }
    let failed = report.incomplete.len() + report.unread.len() + report.troubles.len();
    Err(ToolError::Parts {
        failed,
        all: report.names + report.unread.len(),
        exit: Exit::Damaged,
    }
    .into())
}

/// An empty directory that nobody else reads.
fn prepare_out(out: &Path) -> anyhow::Result<()> {
    let what = || format!("--out {}", out.display());
    match std::fs::read_dir(out) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!("{}: it is not empty; name a new directory", what());
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(out).with_context(what)
        }
        Err(e) => Err(e).with_context(what),
    }
}

fn tell(report: &Report, out: &Path, line: &mut Out) -> anyhow::Result<()> {
    if line.json {
        return line.json(report);
    }
    match &report.snapshot {
        Some(s) => line.line(format!(
            "names as of {} (log index {}), and what was written later",
            unix_time(dfs_core::types::Time(s.taken_at_ms * 1_000_000)),
            s.index
        ))?,
        None => line.line("no namespace snapshot: names are what the objects tell")?,
    }
    line.line(format!(
        "{} files ({}), {} directories, {} other names in {}",
        report.files,
        size(report.bytes),
        report.directories,
        report.others,
        out.display()
    ))?;
    for words in report.unread.iter().chain(&report.troubles).take(SHOWN) {
        line.line(format!("not read: {words}"))?;
    }
    for file in report.incomplete.iter().take(SHOWN) {
        line.line(format!(
            "incomplete: {}: {} in {} holes",
            file.path,
            size(file.missing.iter().map(|m| m.len).sum()),
            file.missing.len()
        ))?;
    }
    let doubts = report.doubtful.len();
    line.line(format!(
        "{} files incomplete, {doubts} with doubts: all of them in RESCUE-REPORT there",
        report.incomplete.len()
    ))
}

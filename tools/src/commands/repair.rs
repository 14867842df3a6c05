//! `repair pause|resume|status|log`.
use crate::cluster::Tools;
use crate::format::{Table, duration, size, unix_time};
use crate::view::{ReceiptView, RepairLeft};
use clap::Subcommand;
use serde::Serialize;
use std::time::Duration;

/// What to do about repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum RepairCommand {
    /// Copy nothing until resumed
    Pause,
    /// Go on
    Resume,
    /// What is left to copy
    Status,
    /// Finished repairs, newest last
    Log,
}

#[derive(Serialize)]
struct RepairView {
    repair_paused: bool,
    repair_left: RepairLeft,
    filling: u32,
    copying: u32,
}

/// Runs it.
///
/// # Errors
/// The cluster does not answer.
pub async fn run(command: &RepairCommand, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    match command {
        RepairCommand::Pause => client.repair_control(true).await?,
        RepairCommand::Resume => client.repair_control(false).await?,
        RepairCommand::Log => return log(tools).await,
        RepairCommand::Status => {}
    }
    let status = client.status().await?;
    let (files, bytes) = status.repair_left;
    let filling = status.stores.iter().map(|s| s.filling).sum();
    if tools.out.json {
        return tools.out.json(&RepairView {
            repair_paused: status.repair_paused,
            repair_left: RepairLeft { files, bytes },
            filling,
            copying: status.pgs.2,
        });
    }
    let state = match (status.repair_paused, filling, files) {
        (true, ..) => "paused",
        (false, 0, 0) => "idle",
        _ => "running",
    };
    tools.out.line(format!(
        "repair is {state}; {files} chunks ({}) left in {filling} replicas of {} placement groups",
        size(bytes),
        status.pgs.2
    ))
}

async fn log(tools: &mut Tools) -> anyhow::Result<()> {
    let receipts = tools.reader().await?.repair_log().await?;
    if tools.out.json {
        let views: Vec<_> = receipts.iter().map(ReceiptView::from).collect();
        return tools.out.json(&views);
    }
    let mut table = Table::new(&[
        "BEGAN",
        "TOOK>",
        "CHUNKS>",
        "BYTES>",
        "PGS>",
        "LOWEST COPIES>",
        "CAUSE",
    ]);
    for r in &receipts {
        table.row([
            unix_time(r.began),
            duration(Duration::from_millis(r.took_ms)),
            r.files.to_string(),
            size(r.bytes),
            r.pgs.to_string(),
            r.lowest_copies.to_string(),
            r.cause.clone(),
        ]);
    }
    match table.is_empty() {
        true => tools.out.line("no repairs yet"),
        false => tools.out.table(&table),
    }
}

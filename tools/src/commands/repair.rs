//! `repair pause|resume|boost|status|log`.
use crate::cluster::Tools;
use crate::format::{Table, duration, size, unix_time};
use crate::view::{ReceiptView, RepairLeft};
use clap::Subcommand;
use dfs_core::wire::master::ClusterStatus;
use dfs_core::wire::repair::RepairRecord;
use serde::Serialize;
use std::time::Duration;

/// How long `boost` lasts unless told.
const BOOST: Duration = Duration::from_secs(3600);

/// What to do about repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum RepairCommand {
    /// Copy nothing until resumed
    Pause,
    /// Go on
    Resume,
    /// Copy as fast as can be for a while, even if programs get slower
    Boost {
        /// `on` (an hour), `off`, or for how long: 90s, 30m, 2h
        #[arg(default_value = "on", value_parser = boost)]
        lasts: Duration,
    },
    /// What is left to copy, how fast it goes, and how long it will take
    Status,
    /// Finished repairs, newest last
    Log,
}

fn boost(text: &str) -> Result<Duration, String> {
    match text {
        "on" => return Ok(BOOST),
        "off" => return Ok(Duration::ZERO),
        _ => {}
    }
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err("must be `on`, `off`, or a time such as 90s, 30m or 2h".to_owned()),
    };
    let number: u64 = text[..text.len() - 1]
        .parse()
        .map_err(|_| "not a whole number before the unit".to_owned())?;
    match number.checked_mul(unit) {
        Some(secs) if secs <= 7 * 24 * 3600 => Ok(Duration::from_secs(secs)),
        _ => Err("at most seven days".to_owned()),
    }
}

#[derive(Serialize)]
struct RepairView {
    repair_paused: bool,
    repair_left: RepairLeft,
    filling: u32,
    copying: u32,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
    boosted_seconds: u64,
}

impl From<&ClusterStatus> for RepairView {
    fn from(status: &ClusterStatus) -> Self {
        let (files, bytes) = status.repair_left;
        let rate = status.repair_rate;
        Self {
            repair_paused: status.repair_paused,
            repair_left: RepairLeft { files, bytes },
            filling: status.stores.iter().map(|s| s.filling).sum(),
            copying: status.pgs.2,
            bytes_per_second: rate,
            seconds_left: (rate > 0 && !status.repair_paused).then(|| bytes.div_ceil(rate)),
            boosted_seconds: status.boosted.as_secs(),
        }
    }
}

impl RepairView {
    fn text(&self) -> String {
        let state = match (self.repair_paused, self.filling) {
            (true, _) => "paused",
            (false, 0) => "idle",
            _ if self.boosted_seconds > 0 => "boosted",
            _ => "running",
        };
        let left = &self.repair_left;
        let mut text = format!(
            "repair is {state}; about {} files ({}) left in {} replicas of {} placement groups; {}/s",
            left.files,
            size(left.bytes),
            self.filling,
            self.copying,
            size(self.bytes_per_second),
        );
        if let Some(secs) = self.seconds_left.filter(|_| self.filling > 0) {
            text += &format!(", {} to go", duration(Duration::from_secs(secs)));
        }
        if self.boosted_seconds > 0 {
            let ends = duration(Duration::from_secs(self.boosted_seconds));
            text += &format!("; the boost ends in {ends}");
        }
        text
    }
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
        RepairCommand::Boost { lasts } => client.repair_boost(*lasts).await?,
        RepairCommand::Log => return log(tools).await,
        RepairCommand::Status => {}
    }
    let view = RepairView::from(&client.status().await?);
    match tools.out.json {
        true => tools.out.json(&view),
        false => tools.out.line(view.text()),
    }
}

/// What it waited for, longest first.
fn waited(r: &RepairRecord) -> String {
    let mut all = r.waited.clone();
    all.sort_by_key(|(_, ms)| std::cmp::Reverse(*ms));
    let word = |(kind, ms): &(dfs_core::wire::repair::WaitKind, u64)| {
        format!("{} {}", kind.word(), duration(Duration::from_millis(*ms)))
    };
    all.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn cause(r: &RepairRecord) -> String {
    match (r.wiped_groups, r.pgs) {
        (0, 0) => format!("{}: caught up", r.cause),
        (0, _) => r.cause.clone(),
        (wiped, _) => format!("{}: wiped {wiped} replicas, caught up", r.cause),
    }
}

async fn log(tools: &mut Tools) -> anyhow::Result<()> {
    let records = tools.reader().await?.repair_log().await?;
    if tools.out.json {
        let views: Vec<_> = records.iter().map(ReceiptView::from).collect();
        return tools.out.json(&views);
    }
    let mut table = Table::new(&[
        "BEGAN",
        "TOOK>",
        "FILES>",
        "BYTES>",
        "PGS>",
        "LOWEST COPIES>",
        "WAITED FOR",
        "CAUSE",
    ]);
    for r in &records {
        let lowest = match (r.pgs, r.lowest_copies) {
            (0, _) | (_, u8::MAX) => "-".to_owned(),
            (_, lowest) => lowest.to_string(),
        };
        table.row([
            unix_time(r.began),
            duration(Duration::from_millis(r.took_ms)),
            r.files.to_string(),
            size(r.bytes),
            r.pgs.to_string(),
            lowest,
            waited(r),
            cause(r),
        ]);
    }
    match table.is_empty() {
        true => tools.out.line("no repairs yet"),
        false => tools.out.table(&table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boost_lasts_as_long_as_it_is_told() {
        assert_eq!(boost("on"), Ok(BOOST));
        assert_eq!(boost("off"), Ok(Duration::ZERO));
        assert_eq!(boost("30m"), Ok(Duration::from_secs(1800)));
        assert!(boost("30").is_err() && boost("m").is_err() && boost("200h").is_err());
    }
}

//! `status`: one line of health, then stores, voters, sessions and repair.
use crate::cluster::Tools;
use crate::error::{ToolError, words};
use crate::format::{Table, duration, short_id, size};
use crate::nodes;
use crate::view::{StatusView, health, member_state};
use clap::Args;
use dfs_core::client::{Client, ClientError};
use dfs_core::net::clock::unix_ms;
use dfs_core::types::Time;
use dfs_core::wire::ErrorCode;
use dfs_core::wire::master::{ClusterStatus, Health, StoreInfo};
use std::time::Duration;

/// How long an answer of the leader is waited for, unless told.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// What takes the space of each node instead: newest contents, versions, the rest
    #[arg(long)]
    pub space: bool,
}

/// Runs it.
///
/// # Errors
/// No leader answers: then the first line says UNAVAILABLE, and what the nodes say follows.
pub async fn run(tools: &mut Tools) -> anyhow::Result<()> {
    // Whoever asks how the cluster is does not want to wait for what it is not.
    tools.global.timeout.get_or_insert(PATIENCE);
    let client = tools.reader().await?;
    match client.status().await {
        Ok(status) if tools.out.json => tools.out.json(&StatusView::from(&status)),
        Ok(status) => tools.out.text(text(&status, Time(unix_ms() * 1_000_000))),
        Err(e) => without_leader(&client, e, tools).await,
    }
}

async fn without_leader(
    client: &Client,
    error: ClientError,
    tools: &mut Tools,
) -> anyhow::Result<()> {
    let refused = matches!(
        error.code(),
        ErrorCode::Unauthorized | ErrorCode::WrongCluster
    );
    let why = words(&anyhow::Error::from(error));
    if refused {
        return Err(ToolError::Unreachable(why).into());
    }
    let reason = format!("no leader answers: {why}");
    if tools.out.json {
        let view = StatusView {
            health: health(Health::Unavailable),
            reasons: vec![reason.clone()],
            ..StatusView::default()
        };
        tools.out.json(&view)?;
    } else {
        tools
            .out
            .line(format!("{}  {reason}", health(Health::Unavailable)))?;
        members_instead(client, tools).await?;
    }
    Err(ToolError::Unreachable("no leader answers".into()).into())
}

/// What any node can tell without a leader.
async fn members_instead(client: &Client, tools: &mut Tools) -> anyhow::Result<()> {
    let Ok(me) = nodes::any(client).await else {
        return tools.out.line("no node answers either");
    };
    let mut table = Table::new(&["NODE", "ADDRESS", "LOOKS"]);
    for m in nodes::members(client, me.tcp).await.unwrap_or_default() {
        table.row([
            short_id(m.node.0),
            m.tcp.to_string(),
            member_state(m.state).to_owned(),
        ]);
    }
    tools.out.line(format!(
        "\nas node {} at {} sees it:",
        short_id(me.node.0),
        me.tcp
    ))?;
    tools.out.table(&table)
}

/// `HEALTHY` and the like, with the reasons in short.
fn headline(status: &ClusterStatus) -> String {
    let word = health(status.health);
    let up = status.stores.iter().filter(|s| s.up).count();
    let mut parts = status.reasons.clone();
    if parts.is_empty() {
        let (active, fencing, copying) = status.pgs;
        let all = active + fencing + copying;
        parts.push(format!(
            "{up} stores up, all {all} placement groups complete"
        ));
    }
    if status.repair_paused {
        parts.push("repair is paused".to_owned());
    }
    parts.extend(status.notices.iter().cloned());
    format!("{word}  {}\n", parts.join("; "))
}

fn text(status: &ClusterStatus, now: Time) -> String {
    let mut text = headline(status);
    text.push('\n');
    let mut table = Table::new(&[
        "NODE", "ADDRESS", "STATE", "ROLE", "USED>", "FREE>", "TOTAL>", "PGS>", "FILLING>",
        "BEHIND>",
    ]);
    let mut stores: Vec<&StoreInfo> = status.stores.iter().collect();
    stores.sort_by_key(|s| s.addr);
    for s in stores {
        table.row([
            short_id(s.node.0),
            s.addr.to_string(),
            state(s, now),
            role(s).to_owned(),
            size(s.used_bytes),
            size(s.free_bytes),
            size(s.total_bytes),
            s.pgs.to_string(),
            s.filling.to_string(),
            s.behind.to_string(),
        ]);
    }
    text.push_str(&table.render());
    let voters = status.stores.iter().filter(|s| s.voter).count();
    let live = status.stores.iter().filter(|s| s.voter && s.up).count();
    let (active, fencing, copying) = status.pgs;
    let (files, bytes) = status.repair_left;
    let repair = match (status.repair_paused, files) {
        (true, _) => "paused".to_owned(),
        (false, 0) => "idle".to_owned(),
        (false, _) => "running".to_owned(),
    };
    let fs = &status.statfs;
    text.push('\n');
    for (key, value) in [
        (
            "voters",
            format!(
                "{live} of {voters} up, {} wanted; term {}, applied {}",
                status.voters_wanted, status.term, status.applied
            ),
        ),
        (
            "groups",
            format!("{active} active, {copying} copying, {fencing} fencing"),
        ),
        (
            "files",
            format!(
                "{} inodes, {} live, {} free of {} at full replication",
                fs.inodes,
                size(fs.live_bytes),
                size(fs.free_bytes),
                size(fs.total_bytes)
            ),
        ),
        (
            "repair",
            format!("{repair}; about {files} files ({}) to copy", size(bytes)),
        ),
        (
            "deletes",
            format!(
                "{} waiting; {} orphans held open",
                status.deletes_waiting, status.orphans
            ),
        ),
        (
            "locks",
            format!("{} held, {} waited for", status.locks.0, status.locks.1),
        ),
        ("sessions", status.sessions.len().to_string()),
    ] {
        text.push_str(&format!("{key:<9} {value}\n"));
    }
    for (client, label) in &status.sessions {
        text.push_str(&format!("          {}  {label}\n", short_id(client.0)));
    }
    text
}

fn state(s: &StoreInfo, now: Time) -> String {
    let mut words = match (s.up, s.down_since) {
        (true, _) => "up".to_owned(),
        (false, Some(since)) => format!("down {}", duration(now.since(since))),
        (false, None) => "silent".to_owned(),
    };
    if s.failed {
        words.push_str(", failed");
    }
    if s.slow {
        words.push_str(", SLOW");
    }
    if s.full {
        words.push_str(", full");
    }
    if s.wiping > 0 {
        words.push_str(&format!(", wiping {}", s.wiping));
    }
    if s.draining {
        words.push_str(", draining");
    }
    words
}

fn role(s: &StoreInfo) -> &'static str {
    match (s.leader, s.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::types::{Incarnation, LogIndex, NodeId, StoreId, Term};
    use dfs_core::wire::master::StatFsInfo;

    fn store(up: bool, leader: bool) -> StoreInfo {
        StoreInfo {
            store: StoreId(1),
            node: NodeId(0xab << 120),
            incarnation: Incarnation(1),
            addr: "127.0.0.1:7400".parse().unwrap(),
            up,
            down_since: (!up).then_some(Time(5_000_000_000)),
            voter: leader,
            leader,
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            used_bytes: 1 << 20,
            pgs: 154,
            filling: 0,
            behind: 0,
            draining: false,
            failed: false,
            slow: false,
            full: false,
            starved: 0,
            disk_ms: 0,
            wiping: 0,
            read_bytes: 0,
        }
    }

    fn status(health: Health, reasons: &[&str]) -> ClusterStatus {
        ClusterStatus {
            health,
            reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
            notices: Vec::new(),
            stores: vec![store(true, true), store(false, false)],
            pgs: (256, 0, 0),
            term: Term(3),
            applied: LogIndex(9),
            voters_wanted: 3,
            sessions: vec![],
            repair_paused: false,
            repair_left: (0, 0),
            deletes_waiting: 0,
            statfs: StatFsInfo::default(),
            orphans: 0,
            locks: (0, 0),
            repair_rate: 0,
            boosted: Duration::ZERO,
        }
    }

    #[test]
    fn the_first_line_begins_with_the_health_and_gives_the_reasons() {
        let now = Time(12_000_000_000);
        let well = text(&status(Health::Healthy, &[]), now);
        assert!(well.starts_with("HEALTHY  1 stores up, all 256 placement groups complete\n"));
        let ill = text(&status(Health::AtRisk, &["3 groups at one copy"]), now);
        assert!(ill.starts_with("AT-RISK  3 groups at one copy\n"), "{ill}");
        assert!(ill.contains("down 7.0s") && ill.contains("leader"), "{ill}");
    }

    #[test]
    fn json_has_stable_names() {
        let view = StatusView::from(&status(Health::Degraded, &["why"]));
        let json = serde_json::to_value(view).unwrap();
        assert_eq!(json["health"], "DEGRADED");
        assert_eq!(json["reasons"][0], "why");
        assert_eq!(json["stores"][0]["node"], format!("ab{}", "0".repeat(30)));
        assert_eq!(json["stores"][0]["addr"], "127.0.0.1:7400");
        assert_eq!(json["stores"][0]["leader"], true);
        assert_eq!(json["repair_paused"], false);
        assert_eq!(json["term"], 3);
    }
}

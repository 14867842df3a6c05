//! `status`: one line of health, then stores, their space, voters, sessions and repair.
use crate::cluster::Tools;
use crate::error::{ToolError, words};
use crate::format::{Table, duration, short_id, size};
use crate::nodes;
use crate::space::{self, NodeSpace};
use crate::view::{StatusView, health, member_state};
use clap::Args;
use dfs_core::client::{Client, ClientError};
use dfs_core::net::clock::unix_ms;
use dfs_core::types::{StoreId, Time};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::master::{ClusterStatus, Health, StoreInfo};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer of the leader is waited for, unless told.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a node is waited for to tell its space.
const SPACE_PATIENCE: Duration = Duration::from_secs(1);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only what takes the space of each node, counted anew: newest contents, versions, the rest
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
        Ok(status) => {
            let spaces = spaces(&client, &status).await;
            if tools.out.json {
                let mut view = StatusView::from(&status);
                for (store, view) in status.stores.iter().zip(&mut view.stores) {
                    let space = spaces.as_ref().ok().and_then(|all| all.get(&store.store));
                    view.space = space.and_then(|space| space.clone().ok());
                }
                return tools.out.json(&view);
            }
            let now = Time(unix_ms() * 1_000_000);
            tools.out.text(text(&status, &spaces, now))
        }
        Err(e) => without_leader(&client, e, tools).await,
    }
}

/// What takes the space of each node that is up, or why that is not known.
type Spaces = Result<BTreeMap<StoreId, Result<NodeSpace, String>>, String>;

async fn spaces(client: &Arc<Client>, status: &ClusterStatus) -> Spaces {
    let up = status.stores.iter().filter(|s| s.up).cloned();
    let up: Vec<_> = up.collect();
    let counting = space::of_nodes(client, &up, SPACE_PATIENCE, false);
    match tokio::time::timeout(2 * SPACE_PATIENCE, counting).await {
        Ok(counted) => counted.map_err(|e| words(&e)),
        Err(_) => Err("it takes longer to count; see status --space".to_owned()),
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

/// How each store is.
fn stores_table(stores: &[&StoreInfo], now: Time) -> Table {
    let mut table = Table::new(&[
        "NODE", "ADDRESS", "STATE", "ROLE", "OBJECTS>", "FREE>", "TOTAL>", "PGS>", "FILLING>",
        "BEHIND>",
    ]);
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
    table
}

fn text(status: &ClusterStatus, spaces: &Spaces, now: Time) -> String {
    let mut text = headline(status);
    text.push('\n');
    let mut stores: Vec<&StoreInfo> = status.stores.iter().collect();
    stores.sort_by_key(|s| s.addr);
    text.push_str(&stores_table(&stores, now).render());
    text.push('\n');
    match spaces {
        Ok(spaces) => {
            let told = stores
                .iter()
                .filter_map(|s| Some((*s, spaces.get(&s.store)?.clone())));
            text.push_str(&super::space::table(told).render());
        }
        Err(why) => text.push_str(&format!("space of the nodes: {why}\n")),
    }
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
            lacking: Vec::new(),
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
        let none = Ok(BTreeMap::new());
        let well = text(&status(Health::Healthy, &[]), &none, now);
        assert!(well.starts_with("HEALTHY  1 stores up, all 256 placement groups complete\n"));
        let ill = text(
            &status(Health::AtRisk, &["3 groups at one copy"]),
            &none,
            now,
        );
        assert!(ill.starts_with("AT-RISK  3 groups at one copy\n"), "{ill}");
        assert!(ill.contains("down 7.0s") && ill.contains("leader"), "{ill}");
    }

    #[test]
    fn the_space_of_each_node_is_shown_by_what_it_is_for() {
        let space = NodeSpace {
            live: 3 << 20,
            version: 5 << 10,
            quarantine: 7,
            reclaimable: 11 << 10,
            metadata: 13 << 20,
            ballast: 64 << 20,
            set_aside: 17 << 20,
            total: 1 << 30,
            ..NodeSpace::default()
        };
        let spaces = Ok(BTreeMap::from([(StoreId(1), Ok(space))]));
        let shown = text(&status(Health::Healthy, &[]), &spaces, Time(0));
        let row = |text: &str, first: &str| {
            let mut lines = text.lines().filter(|l| l.starts_with(first));
            let words: Vec<_> = lines.next_back().unwrap().split_whitespace().collect();
            words.join(" ")
        };
        let head = "NODE LIVE VERSIONS QUARANTINE RECLAIMABLE METADATA BALLAST ON DISK";
        assert_eq!(row(&shown, "NODE"), head, "{shown}");
        let cells = "3.0 MiB 5.0 KiB 7 B 11.0 KiB 13.0 MiB 64.0 MiB 1.0 GiB 17.0 MiB set aside";
        assert_eq!(row(&shown, "ab000000"), format!("ab000000 {cells}"));
        let failed = Ok(BTreeMap::from([(StoreId(1), Err("no answer".to_owned()))]));
        let shown = text(&status(Health::Healthy, &[]), &failed, Time(0));
        assert_eq!(row(&shown, "ab000000"), "ab000000 ? ? ? ? ? ? ? no answer");
        let none = Err("no time".to_owned());
        let shown = text(&status(Health::Healthy, &[]), &none, Time(0));
        assert!(shown.contains("space of the nodes: no time\n"), "{shown}");
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

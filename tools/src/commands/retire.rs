//! `drain`, `safe-to-stop`, `remove`, `lost`: nodes that go, and what depends on them.
use crate::cluster::Tools;
use crate::error::ToolError;
use crate::format::{escape, size};
use crate::nodes::{self, Known};
use crate::output::note;
use clap::Args;
use dfs_core::client::{Client, ClientError};
use dfs_core::types::{Ino, NodeId, PgId, PgInfo, PgMap, PgPhase, StoreId};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::master::{ClusterStatus, StoreInfo};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(300);
/// Between lines of progress.
const SAID_EVERY: Duration = Duration::from_secs(2);
/// Files named unless told.
const NAMED: usize = 20;
const PAGE: u32 = 4096;

/// Arguments of `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Which node
    pub node: String,
    /// Do not wait until it is empty
    #[arg(long)]
    pub no_wait: bool,
    /// Let the node be a full one again
    #[arg(long, conflicts_with = "no_wait")]
    pub cancel: bool,
}

/// Arguments of `safe-to-stop` and `lost`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Which node
    pub node: String,
    /// Name all files at risk, not only the first
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Which node, or the id of a store that a node had before
    pub node: String,
}

/// Arguments of `lost`.
#[derive(Debug, Args)]
pub struct LostArgs {
    /// Name all files, not only the first
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Serialize)]
struct FileView {
    ino: u64,
    path: String,
    bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Files {
    count: u64,
    named: Vec<FileView>,
}

#[derive(Debug, Serialize)]
struct StopView {
    node: String,
    safe: bool,
    reasons: Vec<String>,
    files_at_risk: Files,
}

#[derive(Debug, Serialize)]
struct DrainView {
    node: String,
    draining: bool,
    groups_left: usize,
}

/// Empties a node.
///
/// # Errors
/// No such node, or it cannot be emptied in time (the wait goes on until interrupted).
pub async fn drain(args: &DrainArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let known = nodes::known_of(tools, &args.node).await?;
    let ordered = client.drain(known.node, !args.cancel).await;
    ordered.map_err(|e| known_or(e, known.node))?;
    let mut left = left_of(&client, &known).await?.0;
    if !args.no_wait && !args.cancel {
        left = wait_empty(&client, &known).await?;
    }
    if tools.out.json {
        return tools.out.json(&DrainView {
            node: known.node.to_string(),
            draining: !args.cancel,
            groups_left: left,
        });
    }
    let node = known.node;
    tools.out.line(match (args.cancel, left) {
        (true, _) => format!("node {node} is no longer drained; it gets its share again"),
        (false, 0) => format!("node {node} is empty; `dfs-tools leave` stops it"),
        (false, left) => format!("node {node} is being drained: {left} placement groups left"),
    })
}

async fn wait_empty(client: &Client, known: &Known) -> anyhow::Result<usize> {
    let mut said: Option<(std::time::Instant, usize)> = None;
    loop {
        let (left, is_draining, room) = left_of(client, known).await?;
        if left == 0 {
            return Ok(0);
        }
        if !is_draining {
            let words = format!("the drain of node {} was cancelled", known.node);
            return Err(ToolError::Usage(words).into());
        }
        if said.is_none_or(|(at, before)| before != left && at.elapsed() >= SAID_EVERY) {
            let more = if room {
                ""
            } else {
                " (too few other nodes are up to take them)"
            };
            note(format!("{left} placement groups left{more}"));
            said = Some((std::time::Instant::now(), left));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Groups in which the node counts; that it is drained; that enough others are up.
async fn left_of(client: &Client, known: &Known) -> anyhow::Result<(usize, bool, bool)> {
    let (status, map) = (client.status().await?, client.pg_map_now().await?);
    let own = stores_of(&status, known.node);
    let counts = |pg: &&PgInfo| pg.members.iter().chain(&pg.prior).any(|s| own.contains(s));
    let is_draining = |s: &&StoreInfo| own.contains(&s.store) && s.draining;
    let others = status.stores.iter().filter(|s| s.up && !s.draining);
    let room = others.count() >= usize::from(map.quorum.n);
    let left = map.pgs.iter().filter(counts).count();
    Ok((left, status.stores.iter().any(|s| is_draining(&s)), room))
}

fn stores_of(status: &ClusterStatus, node: NodeId) -> BTreeSet<StoreId> {
    let of = status.stores.iter().filter(|s| s.node == node);
    of.map(|s| s.store).collect()
}

/// Stores that lack objects of a group, besides those that are being filled.
type Lacking = BTreeSet<(StoreId, PgId)>;

fn lacking(status: &ClusterStatus) -> Lacking {
    let of = |s: &StoreInfo| {
        s.lacking
            .iter()
            .map(|pg| (s.store, *pg))
            .collect::<Vec<_>>()
    };
    status.stores.iter().flat_map(of).collect()
}

/// Groups that cannot be read or written once `gone` is stopped, given who is up and lacks what.
fn at_risk(
    map: &PgMap,
    up: &BTreeSet<StoreId>,
    lacking: &Lacking,
    gone: &BTreeSet<StoreId>,
) -> Vec<PgId> {
    let least = usize::from(map.quorum.w.max(map.quorum.r));
    let lives = |s: &&StoreId| up.contains(s) && !gone.contains(s);
    let concerned = |pg: &PgInfo| pg.members.iter().chain(&pg.prior).any(|s| gone.contains(s));
    let is_at_risk = |id: PgId, pg: &PgInfo| {
        let live = pg.members.iter().filter(lives).count();
        let has_all = |s: &&StoreId| !pg.filling.contains(s) && !lacking.contains(&(**s, id));
        let complete = pg.members.iter().filter(has_all);
        concerned(pg)
            && (live < least || complete.filter(lives).count() == 0 || pg.phase == PgPhase::Fencing)
    };
    numbered(map)
        .filter(|(id, pg)| is_at_risk(*id, pg))
        .map(|(id, _)| id)
        .collect()
}

/// Groups none of whose complete copies is on a node that is up: of each, some file may be lost.
fn without_copy(map: &PgMap, up: &BTreeSet<StoreId>, lacking: &Lacking) -> Vec<PgId> {
    let holds = |id: PgId, pg: &PgInfo| {
        let complete = pg.members.iter().filter(|s| !pg.filling.contains(s));
        let mut holders = complete.chain(&pg.prior);
        holders.any(|s| up.contains(s) && !lacking.contains(&(*s, id)))
    };
    let lost = numbered(map).filter(|(id, pg)| !pg.members.is_empty() && !holds(*id, pg));
    lost.map(|(id, _)| id).collect()
}

fn numbered(map: &PgMap) -> impl Iterator<Item = (PgId, &PgInfo)> {
    (0u16..).map(PgId).zip(&map.pgs)
}

fn up(status: &ClusterStatus) -> BTreeSet<StoreId> {
    status
        .stores
        .iter()
        .filter(|s| s.up && !s.failed)
        .map(|s| s.store)
        .collect()
}

/// Files with bytes in these groups, counted; the first are named.
async fn files_in(client: &Client, pgs: &[PgId], named_max: usize) -> anyhow::Result<Files> {
    let mut files = Files::default();
    let mut after = Ino(0);
    while !pgs.is_empty() {
        let (page, end) = client.files_in(pgs, after, PAGE).await?;
        files.count += page.len() as u64;
        after = page.last().map_or(after, |(ino, ..)| *ino);
        let room = named_max.saturating_sub(files.named.len());
        let view = |(ino, path, bytes): &(Ino, Vec<u8>, u64)| FileView {
            ino: ino.0,
            path: if path.is_empty() {
                "(only in the history)".to_owned()
            } else {
                escape(path)
            },
            bytes: *bytes,
        };
        files.named.extend(page.iter().take(room).map(view));
        if end || page.is_empty() {
            break;
        }
    }
    Ok(files)
}

fn list(files: &Files, tools: &mut Tools) -> anyhow::Result<()> {
    for file in &files.named {
        let (bytes, path) = (size(file.bytes), &file.path);
        tools.out.line(format!("  {bytes:>10}  {path}"))?;
    }
    match files.count as usize - files.named.len() {
        0 => Ok(()),
        more => tools
            .out
            .line(format!("  and {more} more (--all names them)")),
    }
}

/// Says whether a node can be stopped without making anything unavailable: exit code 0 or 1.
///
/// # Errors
/// It cannot, or no such node.
pub async fn safe_to_stop(args: &StopArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let known = nodes::known_of(tools, &args.node).await?;
    let (status, map) = (client.status().await?, client.pg_map_now().await?);
    let own = stores_of(&status, known.node);
    let groups = at_risk(&map, &up(&status), &lacking(&status), &own);
    let named_max = if args.all { usize::MAX } else { NAMED };
    let files = files_in(&client, &groups, named_max).await?;
    let mut reasons = Vec::new();
    if !groups.is_empty() {
        let q = map.quorum;
        reasons.push(format!(
            "{} placement groups would have fewer than W={} or R={} nodes, or no complete copy",
            groups.len(),
            q.w,
            q.r
        ));
    }
    reasons.extend(voters_lost(&status, known.node));
    let view = StopView {
        node: known.node.to_string(),
        safe: reasons.is_empty(),
        reasons,
        files_at_risk: files,
    };
    if tools.out.json {
        tools.out.json(&view)?;
    } else if view.safe {
        tools
            .out
            .line(format!("node {} can be stopped", view.node))?;
    } else {
        tools
            .out
            .line(format!("node {} cannot be stopped safely now:", view.node))?;
        for reason in &view.reasons {
            tools.out.line(format!("- {reason}"))?;
        }
        tools
            .out
            .line(format!("{} files at risk", view.files_at_risk.count))?;
        list(&view.files_at_risk, tools)?;
    }
    match view.safe {
        true => Ok(()),
        false => Err(anyhow::anyhow!(
            "not safe; wait until `dfs-tools status` says HEALTHY, or drain the node first"
        )),
    }
}

/// Why the masters would have no majority without the node.
fn voters_lost(status: &ClusterStatus, node: NodeId) -> Option<String> {
    // A node votes once, however many stores of it are known.
    let of = |is_wanted: &dyn Fn(&StoreInfo) -> bool| {
        let voters = status.stores.iter().filter(|s| s.voter && is_wanted(s));
        voters.map(|s| s.node).collect::<BTreeSet<_>>()
    };
    let all = of(&|_| true);
    let rest = of(&|s| s.up && s.node != node).len();
    let (votes, all) = (all.contains(&node), all.len());
    let majority = all / 2 + 1;
    (votes && rest < majority)
        .then(|| format!("{rest} of {all} masters would be up, {majority} are needed"))
}

/// Forgets a node for good, or one store that a node had before.
///
/// # Errors
/// It is still needed, with what to do; no such node.
pub async fn remove(args: &RemoveArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    if let Some(store) = store_named(&client.status().await?, &args.node) {
        client.remove_store(store).await?;
        return tools.out.confirm(format!("store {store} is removed"));
    }
    let known = nodes::known_of(tools, &args.node).await?;
    let removed = client.remove_node(known.node).await;
    removed.map_err(|e| known_or(e, known.node))?;
    tools.out.confirm(format!(
        "node {} is removed; its data directory can be deleted",
        known.node
    ))
}

/// The only store whose id begins with `text`, if that is no beginning of a node's id.
fn store_named(status: &ClusterStatus, text: &str) -> Option<StoreId> {
    let wanted = text.replace('-', "").to_ascii_lowercase();
    let names = |id: String| wanted.len() >= 4 && id.starts_with(&wanted);
    if status.stores.iter().any(|s| names(s.node.to_string())) {
        return None;
    }
    let mut stores = status.stores.iter().map(|s| s.store);
    let first = stores.find(|s| names(s.to_string()))?;
    stores.all(|s| !names(s.to_string())).then_some(first)
}

fn known_or(error: ClientError, node: NodeId) -> anyhow::Error {
    match error {
        ClientError::Refused(e) if e.code == ErrorCode::NotFound => {
            ToolError::NotFound(format!("no store of node {node}")).into()
        }
        e => e.into(),
    }
}

/// Names the files with bytes in groups of which no complete copy is on a node that is up. What an
/// incomplete one holds of them can still be read.
///
/// # Errors
/// No leader answers.
pub async fn lost(args: &LostArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let (status, map) = (client.status().await?, client.pg_map_now().await?);
    let groups = without_copy(&map, &up(&status), &lacking(&status));
    let named_max = if args.all || tools.out.json {
        usize::MAX
    } else {
        NAMED
    };
    let files = files_in(&client, &groups, named_max).await?;
    if tools.out.json {
        return tools.out.json(&files);
    }
    if files.count == 0 {
        return tools
            .out
            .line("every file has complete copies of all its bytes on nodes that are up");
    }
    let (n, pgs) = (files.count, groups.len());
    tools.out.line(format!(
        "{n} files have bytes in {pgs} placement groups of which no complete copy is up:"
    ))?;
    list(&files, tools)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::types::{Epoch, LogIndex, QuorumSizes};

    fn map(members: &[&[u128]]) -> PgMap {
        let pg = |ids: &&[u128]| PgInfo {
            epoch: Epoch(1),
            members: ids.iter().copied().map(StoreId).collect(),
            filling: vec![],
            prior: vec![],
            phase: PgPhase::Active,
        };
        PgMap {
            version: LogIndex(1),
            quorum: QuorumSizes::DEFAULT,
            pgs: members.iter().map(pg).collect(),
        }
    }

    fn ids(ids: &[u128]) -> BTreeSet<StoreId> {
        ids.iter().copied().map(StoreId).collect()
    }

    #[test]
    fn a_group_is_at_risk_when_less_than_a_quorum_stays() {
        let map = map(&[&[1, 2, 3], &[1, 4, 5], &[3, 4, 5]]);
        let (all, none) = (ids(&[1, 2, 3, 4, 5]), Lacking::new());
        assert!(at_risk(&map, &all, &none, &ids(&[1])).is_empty());
        assert_eq!(
            at_risk(&map, &ids(&[1, 2, 4, 5]), &none, &ids(&[1])),
            [PgId(0)]
        );
        let mut filling = map.clone();
        filling.pgs[1].filling = vec![StoreId(4), StoreId(5)];
        assert_eq!(at_risk(&filling, &all, &none, &ids(&[1])), [PgId(1)]);
    }

    #[test]
    fn a_file_is_lost_when_no_complete_copy_is_up() {
        let mut map = map(&[&[1, 2, 3], &[1, 4, 5]]);
        assert_eq!(without_copy(&map, &ids(&[4]), &Lacking::new()), [PgId(0)]);
        map.pgs[1].filling = vec![StoreId(4)];
        assert_eq!(
            without_copy(&map, &ids(&[4]), &Lacking::new()),
            [PgId(0), PgId(1)]
        );
        map.pgs[1].prior = vec![StoreId(4)];
        assert_eq!(without_copy(&map, &ids(&[4]), &Lacking::new()), [PgId(0)]);
    }

    #[test]
    fn regression_a_copy_that_lacks_objects_is_no_complete_one() {
        let map = map(&[&[1, 2, 3], &[1, 4, 5]]);
        let all = ids(&[1, 2, 3, 4, 5]);
        let mut lacking: Lacking = [(StoreId(2), PgId(0)), (StoreId(2), PgId(1))].into();
        assert!(at_risk(&map, &all, &lacking, &ids(&[1])).is_empty());
        lacking.insert((StoreId(3), PgId(0)));
        assert_eq!(at_risk(&map, &all, &lacking, &ids(&[1])), [PgId(0)]);
        assert_eq!(without_copy(&map, &ids(&[2, 3, 4]), &lacking), [PgId(0)]);
        assert!(without_copy(&map, &ids(&[1, 4]), &lacking).is_empty());
        // Nor is the source of a group that lacks some of it.
        let mut moved = map.clone();
        moved.pgs[0].prior = vec![StoreId(5)];
        assert_eq!(without_copy(&moved, &ids(&[5]), &lacking), []);
        lacking.insert((StoreId(5), PgId(0)));
        assert_eq!(without_copy(&moved, &ids(&[5]), &lacking), [PgId(0)]);
    }
}

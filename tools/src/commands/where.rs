//! `where`: file to nodes. Every copy of every object is verified on its store, and every member of
//! the home group is asked for its stamp.
//!
//! 1. The layout says which objects the content is made of, chunk by chunk.
//! 2. Each (chunk, placement group) has members; each member is asked to verify the objects.
//! 3. A copy counts as *good* if all objects are there and are the bytes the master knows, else it is
//!    *damaged*, *missing* or *unreachable*. A chunk without a good copy is an error (exit code 6).
use crate::cluster::{Tools, walk};
use crate::error::ToolError;
use crate::format::{Table, size};
use crate::path::ClusterPath;
use anyhow::Context;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{Attr, ChunkNo, FileKind, Ino, ObjectId, ObjectSum, PgId, PgMap, StoreId};
use dfs_core::wire::replica::{CheckState, StampRequest};
use dfs_core::wire::{ReplicaRequest, ReplicaResponse, Stamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Chunks asked for at once.
const CHUNKS: u32 = 64;
/// Objects verified in one request: 64 MiB of bytes at most.
const OBJECTS: usize = 16;
/// Requests in flight.
const AT_ONCE: usize = 12;

/// Arguments of `where`.
#[derive(Debug, Args)]
pub struct WhereArgs {
    /// File
    pub file: OsString,
}

/// How one copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum CopyState {
    Good,
    Missing,
    Damaged,
    Unreachable,
}

impl CopyState {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Debug, Serialize)]
struct ReplicaView {
    node: Option<String>,
    store: String,
    addr: Option<String>,
    /// Revision of the newest commit this store was told of; only members of the home group have one.
    stamp: Option<u64>,
    /// `clean`, `dirty`, `unknown`, or why there is none.
    stamp_state: Option<String>,
    verifies: bool,
    state: CopyState,
    /// Being filled, or holding the data only until others have it.
    role: &'static str,
}

#[derive(Debug, Serialize)]
struct ChunkView {
    chunk: u32,
    pg: u16,
    epoch: u64,
    extents: usize,
    bytes: u64,
    replicas: Vec<ReplicaView>,
}

#[derive(Debug, Serialize)]
struct WhereView {
    path: String,
    ino: u64,
    revision: u64,
    size: u64,
    chunks: Vec<ChunkView>,
}

/// Objects of one chunk in one placement group.
#[derive(Debug, Default)]
struct Part {
    objects: BTreeMap<ObjectId, ObjectSum>,
    extents: usize,
    bytes: u64,
}

type Parts = BTreeMap<(ChunkNo, PgId), Part>;
type States = BTreeMap<(ChunkNo, PgId, StoreId), CopyState>;
type Stamps = BTreeMap<StoreId, (Option<u64>, String)>;

/// Runs it.
///
/// # Errors
/// No such file, no leader answers, or some chunk has no good copy.
pub async fn run(args: &WhereArgs, tools: &mut Tools) -> anyhow::Result<()> {
    // The addresses of stores come with a session.
    let client = tools.writer().await?;
    let path = tools.path(&args.file)?;
    let attr = walk(&client, &path, true).await?;
    if attr.kind != FileKind::File {
        let words = format!("{path} is no regular file; files of a node: dfs-tools store NODE");
        return Err(ToolError::Usage(words).into());
    }
    let map = client.pg_map().await?;
    let status = client.status().await?;
    let (revision, parts) = parts(&client, &attr, &map)
        .await
        .with_context(|| path.to_string())?;
    let addrs: BTreeMap<StoreId, _> = status
        .stores
        .iter()
        .map(|s| (s.store, (s.node, s.addr)))
        .collect();
    let asker = Asker {
        client: client.clone(),
        addrs: Arc::new(addrs),
        within: within(tools),
    };
    let states = asker.check(&parts, &map).await?;
    let stamps = asker.stamps(attr.ino, &map).await?;
    let view = asker.view(&path, &attr, revision, &parts, &map, &states, &stamps);
    if tools.out.json {
        tools.out.json(&view)?;
    } else {
        print(&view, tools)?;
    }
    let is_lost =
        |c: &&ChunkView| c.bytes > 0 && c.replicas.iter().all(|r| r.state != CopyState::Good);
    let lost: Vec<_> = view.chunks.iter().filter(is_lost).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let unreachable = |c: &&ChunkView| c.replicas.iter().any(|r| r.state == CopyState::Unreachable);
    let words = format!(
        "{} chunks of {path} have no good copy that can be reached",
        lost.len()
    );
    match lost.iter().all(unreachable) {
        true => Err(ToolError::Unreachable(words).into()),
        false => Err(ToolError::Damaged(words).into()),
    }
}

fn within(tools: &Tools) -> Duration {
    tools.global.timeout.unwrap_or(Duration::from_secs(30))
}

/// The objects of the current content by chunk and group; the home group is always there.
async fn parts(client: &Client, attr: &Attr, map: &PgMap) -> anyhow::Result<(u64, Parts)> {
    let mut parts = Parts::new();
    let (home, _) = map.of_chunk(attr.ino, ChunkNo::HOME);
    parts.insert((ChunkNo::HOME, home), Part::default());
    let mut first = ChunkNo::HOME;
    let mut revision;
    loop {
        let layout = client.layout(attr.ino, None, first, CHUNKS).await?;
        revision = layout.revision.0;
        for chunk in &layout.chunks {
            for extent in &chunk.extents {
                let part = parts.entry((chunk.chunk, extent.pg)).or_default();
                part.objects.insert(extent.object, extent.sum);
                part.extents += 1;
                part.bytes += u64::from(extent.len);
            }
        }
        let Some(next) = first.0.checked_add(CHUNKS) else {
            break;
        };
        first = ChunkNo(next);
        if first.start() >= layout.size {
            break;
        }
    }
    Ok((revision, parts))
}

/// Members of a group with their role: complete ones, those being filled, and former ones.
fn members(map: &PgMap, pg: PgId) -> Vec<(StoreId, &'static str)> {
    let Some(info) = map.pgs.get(usize::from(pg.0)) else {
        return Vec::new();
    };
    let role = |s: &StoreId| {
        if info.filling.contains(s) {
            "filling"
        } else {
            "member"
        }
    };
    let mut all: Vec<_> = info.members.iter().map(|s| (*s, role(s))).collect();
    let former = info.prior.iter().filter(|s| !info.members.contains(s));
    all.extend(former.map(|s| (*s, "former")));
    all
}

struct Asker {
    client: Arc<Client>,
    addrs: Arc<BTreeMap<StoreId, (dfs_core::types::NodeId, std::net::SocketAddr)>>,
    within: Duration,
}

impl Asker {
    async fn ask(
        client: &Client,
        store: StoreId,
        request: ReplicaRequest,
        within: Duration,
    ) -> anyhow::Result<ReplicaResponse> {
        let deadline = Instant::now() + within;
        Ok(client
            .replica_call(store, request, Vec::new(), deadline)
            .await?
            .0)
    }

    /// Verifies every object on every store that should hold it.
    async fn check(&self, parts: &Parts, map: &PgMap) -> anyhow::Result<States> {
        let mut states = States::new();
        let mut running = JoinSet::new();
        for ((chunk, pg), part) in parts {
            for (store, _) in members(map, *pg) {
                let key = (*chunk, *pg, store);
                states.insert(key, CopyState::Good);
                let all: Vec<_> = part.objects.iter().map(|(id, sum)| (*id, *sum)).collect();
                for some in all.chunks(OBJECTS) {
                    if running.len() >= AT_ONCE {
                        note(running.join_next().await, &mut states)?;
                    }
                    let (client, within) = (self.client.clone(), self.within);
                    let wanted = some.to_vec();
                    running.spawn(async move {
                        let objects = wanted.iter().map(|(id, _)| *id).collect();
                        let request = ReplicaRequest::Check { objects };
                        let answer = Self::ask(&client, store, request, within).await;
                        (key, judge(&wanted, answer))
                    });
                }
            }
        }
        while !running.is_empty() {
            note(running.join_next().await, &mut states)?;
        }
        Ok(states)
    }

    /// Asks every member of the home group what it knows of the inode.
    async fn stamps(&self, ino: Ino, map: &PgMap) -> anyhow::Result<Stamps> {
        let (pg, info) = map.of_chunk(ino, ChunkNo::HOME);
        let mut stamps = Stamps::new();
        let Some(info) = info else { return Ok(stamps) };
        let mut running = JoinSet::new();
        for store in info.members.clone() {
            let (client, within) = (self.client.clone(), self.within);
            let request = ReplicaRequest::Stamp(StampRequest {
                ino,
                pg,
                epoch: info.epoch,
            });
            running.spawn(async move { (store, Self::ask(&client, store, request, within).await) });
        }
        while let Some(done) = running.join_next().await {
            let (store, answer) = done?;
            stamps.insert(store, stamp(answer));
        }
        Ok(stamps)
    }

    #[allow(clippy::too_many_arguments)] // Everything that was found out, put together.
    fn view(
        &self,
        path: &ClusterPath,
        attr: &Attr,
        revision: u64,
        parts: &Parts,
        map: &PgMap,
        states: &States,
        stamps: &Stamps,
    ) -> WhereView {
        let chunk = |((chunk, pg), part): (&(ChunkNo, PgId), &Part)| {
            let replica = |(store, role): (StoreId, &'static str)| {
                let known = self.addrs.get(&store);
                let state = states.get(&(*chunk, *pg, store)).copied();
                let mut state = state.unwrap_or(CopyState::Unreachable);
                let stamp = stamps.get(&store);
                // Without objects to verify, its stamp shows whether it answers.
                let silent = stamp.is_some_and(|(_, words)| words.starts_with("unreachable"));
                if part.objects.is_empty() && silent {
                    state = CopyState::Unreachable;
                }
                ReplicaView {
                    node: known.map(|(node, _)| node.to_string()),
                    store: store.to_string(),
                    addr: known.map(|(_, addr)| addr.to_string()),
                    stamp: stamp.and_then(|(revision, _)| *revision),
                    stamp_state: stamp.map(|(_, words)| words.clone()),
                    verifies: state == CopyState::Good,
                    state,
                    role,
                }
            };
            ChunkView {
                chunk: chunk.0,
                pg: pg.0,
                epoch: map.pgs.get(usize::from(pg.0)).map_or(0, |p| p.epoch.0),
                extents: part.extents,
                bytes: part.bytes,
                replicas: members(map, *pg).into_iter().map(replica).collect(),
            }
        };
        WhereView {
            path: path.to_string(),
            ino: attr.ino.0,
            revision,
            size: attr.size,
            chunks: parts.iter().map(chunk).collect(),
        }
    }
}

type Checked = ((ChunkNo, PgId, StoreId), CopyState);

fn note(
    done: Option<Result<Checked, tokio::task::JoinError>>,
    states: &mut States,
) -> anyhow::Result<()> {
    if let Some(done) = done {
        let (key, state) = done?;
        let worst = states.entry(key).or_insert(CopyState::Good);
        *worst = state.max(*worst);
    }
    Ok(())
}

/// What a store's answer says of the wanted objects together.
fn judge(wanted: &[(ObjectId, ObjectSum)], answer: anyhow::Result<ReplicaResponse>) -> CopyState {
    let Ok(ReplicaResponse::Checked(found)) = answer else {
        return CopyState::Unreachable;
    };
    if found.len() != wanted.len() {
        return CopyState::Unreachable;
    }
    let state = |((_, sum), found): (&(ObjectId, ObjectSum), &CheckState)| match found {
        CheckState::Good(held) if held == sum => CopyState::Good,
        CheckState::Good(_) | CheckState::Damaged => CopyState::Damaged,
        CheckState::Missing => CopyState::Missing,
    };
    wanted
        .iter()
        .zip(&found)
        .map(state)
        .max()
        .unwrap_or(CopyState::Good)
}

/// Revision and state of a stamp.
fn stamp(answer: anyhow::Result<ReplicaResponse>) -> (Option<u64>, String) {
    match answer {
        Ok(ReplicaResponse::Stamp(Stamp::Known {
            clean: (revision, _),
            dirty,
        })) => {
            let words = if dirty.is_empty() { "clean" } else { "dirty" };
            (Some(revision.0), words.to_owned())
        }
        Ok(ReplicaResponse::Stamp(Stamp::Unknown)) => (None, "unknown".to_owned()),
        Ok(_) => (None, "refused: the answer does not fit".to_owned()),
        Err(e) => {
            use crate::error::{Exit, exit_of, words};
            let silent = exit_of(&e) == Exit::Unreachable || exit_of(&e) == Exit::Unknown;
            let why = if silent { "unreachable" } else { "refused" };
            (None, format!("{why}: {}", words(&e)))
        }
    }
}

fn print(view: &WhereView, tools: &mut Tools) -> anyhow::Result<()> {
    let (path, ino, revision) = (&view.path, view.ino, view.revision);
    tools.out.line(format!(
        "{path}  inode {ino}, revision {revision}, {}",
        size(view.size)
    ))?;
    let mut table = Table::new(&[
        "CHUNK>", "GROUP>", "EPOCH>", "EXTENTS>", "BYTES>", "NODE", "ADDRESS", "STAMP", "COPY", "",
    ]);
    for c in &view.chunks {
        for (i, r) in c.replicas.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            let node = r.node.as_deref().map_or("?", |n| n.get(..8).unwrap_or(n));
            let stamp = match (r.stamp, r.stamp_state.as_deref()) {
                (Some(revision), Some("clean")) => revision.to_string(),
                (Some(revision), Some(state)) => format!("{revision} {state}"),
                (None, Some(state)) => state.split(':').next().unwrap_or(state).to_owned(),
                (_, None) => "-".to_owned(),
            };
            table.row([
                first(c.chunk.to_string()),
                first(c.pg.to_string()),
                first(c.epoch.to_string()),
                first(c.extents.to_string()),
                first(c.bytes.to_string()),
                node.to_owned(),
                r.addr.clone().unwrap_or_default(),
                stamp,
                r.state.word().to_owned(),
                if r.role == "member" {
                    String::new()
                } else {
                    r.role.to_owned()
                },
            ]);
        }
    }
    tools.out.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::types::{OpId, Revision};
    use dfs_core::wire::{ErrorCode, WireError};

    fn object(index: u32) -> (ObjectId, ObjectSum) {
        let id = ObjectId {
            op: OpId::default(),
            index,
        };
        (
            id,
            ObjectSum {
                len: index,
                ..ObjectSum::default()
            },
        )
    }

    #[test]
    fn the_worst_object_decides_how_a_copy_is() {
        let wanted = [object(1), object(2)];
        let answer = |a, b| judge(&wanted, Ok(ReplicaResponse::Checked(vec![a, b])));
        let good = |i: usize| CheckState::Good(wanted[i].1);
        assert_eq!(answer(good(0), good(1)), CopyState::Good);
        assert_eq!(answer(good(0), CheckState::Missing), CopyState::Missing);
        assert_eq!(
            answer(CheckState::Damaged, CheckState::Missing),
            CopyState::Damaged
        );
        assert_eq!(
            answer(good(0), good(0)),
            CopyState::Damaged,
            "other bytes than wanted"
        );
        let lost = WireError::new(ErrorCode::Unavailable, "down");
        assert_eq!(judge(&wanted, Err(lost.into())), CopyState::Unreachable);
        let short = ReplicaResponse::Checked(vec![good(0)]);
        assert_eq!(judge(&wanted, Ok(short)), CopyState::Unreachable);
    }

    #[test]
    fn stamps_are_told_apart() {
        let known = |dirty| {
            let clean = (Revision(7), OpId::default());
            stamp(Ok(ReplicaResponse::Stamp(Stamp::Known { clean, dirty })))
        };
        assert_eq!(known(vec![]), (Some(7), "clean".into()));
        assert_eq!(known(vec![OpId::default()]), (Some(7), "dirty".into()));
        let unknown = stamp(Ok(ReplicaResponse::Stamp(Stamp::Unknown)));
        assert_eq!(unknown, (None, "unknown".into()));
        let refused = stamp(Err(WireError::new(ErrorCode::WrongEpoch, "epoch 4").into()));
        assert_eq!(refused, (None, "refused: epoch 4".into()));
    }
}

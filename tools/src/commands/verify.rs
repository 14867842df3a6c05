//! `verify PATH [-r]`: compares all replicas of files with the master's record, now.
//!
//! 1. Each file's chunks are laid out as its current content has them and, unless only that is
//!    wanted, as each version kept has them: the objects that must be there, with their identities.
//! 2. Every member of each object's group is asked to verify them on its disk, many at a time.
//! 3. A line per disagreement says which path, chunk and node, and what; the last line is a summary.
//!
//! A verdict is against the identity that the master recorded, never against a copy's own header.
use crate::cluster::{Tools, entries, place, walk};
use crate::error::ToolError;
use crate::format::size;
use crate::path::ClusterPath;
use anyhow::Context;
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{
    Attr, ChunkNo, FileKind, Ino, NodeId, ObjectId, ObjectSum, PgId, PgMap, StoreId, VersionNo,
};
use dfs_core::wire::replica::CheckState;
use dfs_core::wire::{ErrorCode, ReplicaRequest, ReplicaResponse};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Chunks asked for at once.
const CHUNKS: u32 = 64;
/// Objects verified in one request: 64 MiB of bytes at most.
const OBJECTS: usize = 16;
/// Requests in flight.
const AT_ONCE: usize = 12;
/// Between two lines of progress on standard error.
const PROGRESS: Duration = Duration::from_secs(2);

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// File or directory
    pub path: OsString,
    /// A directory with all below it
    #[arg(short, long)]
    pub recursive: bool,
    /// Only the current content (default: all versions that are kept)
    #[arg(long)]
    pub current: bool,
}

/// One replica that is not what the master recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Disagreement {
    path: String,
    chunk: u32,
    pg: u16,
    node: Option<String>,
    addr: Option<String>,
    store: String,
    object: String,
    /// `damaged`, `missing`, `other bytes` or `unreachable`.
    what: &'static str,
}

#[derive(Debug, Serialize)]
struct VerifyView {
    files: u64,
    objects: u64,
    replicas: u64,
    bytes: u64,
    damaged: u64,
    missing: u64,
    unreachable: u64,
    disagreements: Vec<Disagreement>,
}

/// Objects of one member, to be verified in one request.
struct Wanted {
    path: Arc<str>,
    chunk: ChunkNo,
    pg: PgId,
    store: StoreId,
    objects: Vec<(ObjectId, ObjectSum)>,
}

type Known = BTreeMap<StoreId, (NodeId, SocketAddr)>;

struct Verifier {
    client: Arc<Client>,
    map: Arc<PgMap>,
    known: Known,
    within: Duration,
    running: JoinSet<(Wanted, anyhow::Result<ReplicaResponse>)>,
    view: VerifyView,
    told: Instant,
}

/// Runs it.
///
/// # Errors
/// No such path; no leader answers; some replica disagrees (exit code of damage) or was not reached.
pub async fn run(args: &VerifyArgs, tools: &mut Tools) -> anyhow::Result<()> {
    // The addresses of stores come with a session.
    let client = tools.writer().await?;
    let path = tools.path(&args.path)?;
    let attr = walk(&client, &path, true).await?;
    if attr.kind == FileKind::Dir && !args.recursive {
        let words = format!("{path} is a directory: say -r to verify all below it");
        return Err(ToolError::Usage(words).into());
    }
    let status = client.status().await?;
    let mut verifier = Verifier {
        map: client.pg_map().await?,
        client: client.clone(),
        known: status
            .stores
            .iter()
            .map(|s| (s.store, (s.node, s.addr)))
            .collect(),
        within: tools.global.timeout.unwrap_or(Duration::from_secs(30)),
        running: JoinSet::new(),
        view: VerifyView {
            files: 0,
            objects: 0,
            replicas: 0,
            bytes: 0,
            damaged: 0,
            missing: 0,
            unreachable: 0,
            disagreements: Vec::new(),
        },
        told: Instant::now(),
    };
    let mut seen = BTreeSet::new();
    let mut todo = vec![(path, attr, None)];
    while let Some((path, attr, parent)) = todo.pop() {
        match attr.kind {
            FileKind::Dir => {
                let mut below = entries(&client, attr.ino, true).await?;
                // Taken from the end: by name.
                below.reverse();
                for entry in below {
                    let path = path.join(&entry.name);
                    let below_attr = match entry.attr {
                        Some(attr) => attr,
                        None => client.getattr(entry.ino).await?,
                    };
                    todo.push((path, below_attr, Some(attr.ino)));
                }
            }
            // Hard links have one content.
            FileKind::File if seen.insert(attr.ino) => {
                let parent = if args.current { None } else { Some(parent) };
                verifier.file(&path, &attr, parent, tools).await?;
            }
            _ => {}
        }
    }
    while !verifier.running.is_empty() {
        verifier.take(tools).await?;
    }
    finish(&verifier.view, tools)
}

impl Verifier {
    async fn file(
        &mut self,
        path: &ClusterPath,
        attr: &Attr,
        history_of: Option<Option<Ino>>,
        tools: &mut Tools,
    ) -> anyhow::Result<()> {
        let shown: Arc<str> = path.to_string().into();
        let mut contents = vec![None];
        if let Some(parent) = history_of {
            contents.extend(self.versions(path, parent).await?);
        }
        let mut parts: BTreeMap<(ChunkNo, PgId), BTreeMap<ObjectId, ObjectSum>> = BTreeMap::new();
        for content in contents {
            let (ino, version) = content.map_or((attr.ino, None), |(ino, v)| (ino, Some(v)));
            let laid_out = self.layout(ino, version, &mut parts).await;
            laid_out.with_context(|| path.to_string())?;
        }
        self.view.files += 1;
        for ((chunk, pg), objects) in parts {
            self.view.objects += objects.len() as u64;
            let info = self.map.pgs.get(usize::from(pg.0));
            let members = info.map_or(Vec::new(), |info| {
                let is_full = |s: &&StoreId| !info.filling.contains(s);
                info.members.iter().filter(is_full).copied().collect()
            });
            let all: Vec<_> = objects.into_iter().collect();
            for store in members {
                for some in all.chunks(OBJECTS) {
                    while self.running.len() >= AT_ONCE {
                        self.take(tools).await?;
                    }
                    self.ask(Wanted {
                        path: shown.clone(),
                        chunk,
                        pg,
                        store,
                        objects: some.to_vec(),
                    });
                }
            }
        }
        self.progress(tools);
        Ok(())
    }

    /// The versions kept of a name in a directory (looked for if it is not known).
    async fn versions(
        &self,
        path: &ClusterPath,
        parent: Option<Ino>,
    ) -> anyhow::Result<Vec<Option<(Ino, VersionNo)>>> {
        let history = match (parent, path.name()) {
            (Some(parent), Some(name)) => self.client.history(parent, name).await,
            _ => {
                let place = place(&self.client, path).await?;
                self.client.history(place.parent, &place.name).await
            }
        };
        match history {
            Ok(kept) => Ok(kept
                .iter()
                .map(|v| Some((v.ino, v.inode_version)))
                .collect()),
            // Never written.
            Err(e) if e.code() == ErrorCode::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).with_context(|| path.to_string()),
        }
    }

    async fn layout(
        &self,
        ino: Ino,
        version: Option<VersionNo>,
        parts: &mut BTreeMap<(ChunkNo, PgId), BTreeMap<ObjectId, ObjectSum>>,
    ) -> anyhow::Result<()> {
        let mut first = ChunkNo::HOME;
        loop {
            let layout = self.client.layout(ino, version, first, CHUNKS).await?;
            for chunk in &layout.chunks {
                for extent in &chunk.extents {
                    let part = parts.entry((chunk.chunk, extent.pg)).or_default();
                    part.insert(extent.object, extent.sum);
                }
            }
            let Some(next) = first.0.checked_add(CHUNKS) else {
                return Ok(());
            };
            first = ChunkNo(next);
            if first.start() >= layout.size {
                return Ok(());
            }
        }
    }

    fn ask(&mut self, wanted: Wanted) {
        let (client, within) = (self.client.clone(), self.within);
        self.running.spawn(async move {
            let objects = wanted.objects.iter().map(|(id, _)| *id).collect();
            let request = ReplicaRequest::Check { objects };
            let deadline = Instant::now() + within;
            let answer = client
                .replica_call(wanted.store, request, Vec::new(), deadline)
                .await;
            (wanted, answer.map(|(body, _)| body).map_err(Into::into))
        });
    }

    /// Waits for one answer and judges it.
    async fn take(&mut self, tools: &mut Tools) -> anyhow::Result<()> {
        let Some(done) = self.running.join_next().await else {
            return Ok(());
        };
        let (wanted, answer) = done?;
        self.view.replicas += wanted.objects.len() as u64;
        let found = judge(&wanted.objects, answer);
        for ((object, sum), what) in wanted.objects.iter().zip(found) {
            let Some(what) = what else {
                self.view.bytes += u64::from(sum.len);
                continue;
            };
            match what {
                "missing" => self.view.missing += 1,
                "unreachable" => self.view.unreachable += 1,
                _ => self.view.damaged += 1,
            }
            let known = self.known.get(&wanted.store);
            let line = Disagreement {
                path: wanted.path.to_string(),
                chunk: wanted.chunk.0,
                pg: wanted.pg.0,
                node: known.map(|(node, _)| node.to_string()),
                addr: known.map(|(_, addr)| addr.to_string()),
                store: wanted.store.to_string(),
                object: object.to_string(),
                what,
            };
            if !tools.out.json {
                let node = line
                    .node
                    .as_deref()
                    .map_or("?", |n| n.get(..8).unwrap_or(n));
                let addr = line.addr.as_deref().unwrap_or("?");
                tools.out.line(format!(
                    "{}: chunk {}, node {node} ({addr}): {what}, object {object}",
                    line.path, line.chunk
                ))?;
            }
            self.view.disagreements.push(line);
        }
        Ok(())
    }

    /// Says how far it is, for trees that take a while; not into what a program reads.
    fn progress(&mut self, tools: &Tools) {
        use std::io::{IsTerminal, Write};
        let mut stderr = std::io::stderr();
        if tools.out.json || !stderr.is_terminal() || self.told.elapsed() < PROGRESS {
            return;
        }
        self.told = Instant::now();
        let (files, bytes) = (self.view.files, size(self.view.bytes));
        let bad = self.view.disagreements.len();
        // Nowhere to report to if this fails.
        let _ = writeln!(
            stderr,
            "{files} files, {bytes} verified, {bad} disagreements"
        );
    }
}

/// What is wrong with each object, in the order asked; `None` if nothing.
fn judge(
    wanted: &[(ObjectId, ObjectSum)],
    answer: anyhow::Result<ReplicaResponse>,
) -> Vec<Option<&'static str>> {
    let found = match answer {
        Ok(ReplicaResponse::Checked(found)) if found.len() == wanted.len() => found,
        _ => return vec![Some("unreachable"); wanted.len()],
    };
    let state = |((_, sum), found): (&(ObjectId, ObjectSum), &CheckState)| match found {
        CheckState::Good(held) if held == sum => None,
        CheckState::Good(_) => Some("other bytes"),
        CheckState::Damaged => Some("damaged"),
        CheckState::Missing => Some("missing"),
    };
    wanted.iter().zip(&found).map(state).collect()
}

fn finish(view: &VerifyView, tools: &mut Tools) -> anyhow::Result<()> {
    let summary = format!(
        "{} files, {} objects in {} replicas, {} verified: {} damaged, {} missing, {} unreachable",
        view.files,
        view.objects,
        view.replicas,
        size(view.bytes),
        view.damaged,
        view.missing,
        view.unreachable
    );
    if tools.out.json {
        tools.out.json(view)?;
    } else {
        tools.out.line(&summary)?;
    }
    if view.damaged + view.missing > 0 {
        return Err(ToolError::Damaged("replicas disagree with the master's record; they are being repaired: see `dfs-tools scrub status`".into()).into());
    }
    match view.unreachable {
        0 => Ok(()),
        n => Err(ToolError::Unreachable(format!("{n} replicas could not be verified")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::types::OpId;
    use dfs_core::wire::WireError;

    #[test]
    fn each_object_is_judged_by_the_masters_sum() {
        let object = |index| {
            let id = ObjectId {
                op: OpId::default(),
                index,
            };
            let sum = ObjectSum {
                len: index,
                ..ObjectSum::default()
            };
            (id, sum)
        };
        let wanted: Vec<_> = (1..=4).map(object).collect();
        let states = vec![
            CheckState::Good(wanted[0].1),
            CheckState::Good(wanted[0].1),
            CheckState::Damaged,
            CheckState::Missing,
        ];
        let found = judge(&wanted, Ok(ReplicaResponse::Checked(states)));
        let expected = [None, Some("other bytes"), Some("damaged"), Some("missing")];
        assert_eq!(found, expected);
        let lost = WireError::new(ErrorCode::Unavailable, "down");
        let silent = vec![Some("unreachable"); 4];
        assert_eq!(judge(&wanted, Err(lost.into())), silent);
        let short = ReplicaResponse::Checked(vec![CheckState::Missing]);
        assert_eq!(judge(&wanted, Ok(short)), silent);
    }
}

//! `fsck`: checks everything, and names what is wrong.
//!
//! 1. Every voter audits its tables, a slice per request, over a state that does not change meanwhile
//!    ([`tables`]); voters at the same index of the log must agree to the last bit.
//! 2. For every placement group the leader lists what any kept version of any file refers to; every
//!    complete member must have every object, on its list, under the right group, with the right
//!    bytes ([`copies`]).
//! 3. Every store lists what it holds: each object must be referred to, undecided, or wait for its
//!    deletion; and every stamp and mark must fit what the master says ([`holdings`]).
//! 4. The cluster goes on working meanwhile. So what looks wrong is only a *suspect*; it is looked at
//!    again, with what the master says by then, until it is right or has been wrong for a while after
//!    the store had caught up ([`suspects`]).
//!
//! Kinds of damage, by name: the list in [`FaultKind`].
mod copies;
mod holdings;
mod suspects;
mod tables;

use crate::cluster::Tools;
use crate::error::ToolError;
use crate::format::{escape, size};
use clap::Args;
use dfs_core::client::Client;
use dfs_core::types::{Ino, PgMap, StoreId};
use dfs_core::wire::audit::FaultKind;
use dfs_core::wire::master::{ClusterStatus, StoreInfo};
use dfs_core::wire::{ReplicaRequest, ReplicaResponse};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests in flight.
const AT_ONCE: usize = 8;

/// Arguments of `fsck`.
#[derive(Debug, Args)]
#[command(after_help = kinds_help())]
pub struct FsckArgs {
    /// Do not read the bytes of objects
    #[arg(long)]
    pub fast: bool,
}

/// For `--help`.
fn kinds_help() -> String {
    let mut text = String::from("Kinds of damage:\n");
    for kinds in FaultKind::ALL.chunks(4) {
        let names: Vec<_> = kinds.iter().map(|k| format!("{:<24}", k.name())).collect();
        text.push_str(&format!("  {}\n", names.concat().trim_end()));
    }
    text.push_str("Exit code 0: no problems; 1: problems were found.");
    text
}

/// One thing that is wrong, as it is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    kind: FaultKind,
    store: Option<StoreId>,
    ino: Ino,
    what: String,
}

#[derive(Debug, Serialize)]
struct ProblemView {
    kind: &'static str,
    node: Option<String>,
    addr: Option<String>,
    ino: u64,
    path: Option<String>,
    what: String,
    advice: &'static str,
}

/// What was looked at.
#[derive(Debug, Default, Serialize)]
struct Checked {
    voters: u64,
    rows: u64,
    objects: u64,
    copies: u64,
    bytes_read: u64,
    held: u64,
    stamps: u64,
    rechecked: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct FsckView {
    problems: Vec<ProblemView>,
    checked: Checked,
}

/// One run.
struct Run {
    client: Arc<Client>,
    within: Duration,
    is_fast: bool,
    status: ClusterStatus,
    map: Arc<PgMap>,
    problems: BTreeSet<Problem>,
    checked: Checked,
    /// Stores that did not answer: asked no more.
    silent: BTreeSet<StoreId>,
}

impl Run {
    fn info(&self, store: StoreId) -> Option<&StoreInfo> {
        self.status.stores.iter().find(|s| s.store == store)
    }

    fn add(&mut self, kind: FaultKind, store: Option<StoreId>, ino: Ino, what: String) {
        self.problems.insert(Problem {
            kind,
            store,
            ino,
            what,
        });
    }

    /// Asks a store; one that does not answer is a problem, once.
    async fn ask(&mut self, store: StoreId, request: ReplicaRequest) -> Option<ReplicaResponse> {
        if self.silent.contains(&store) {
            return None;
        }
        let answer = ask(&self.client, store, request, self.within).await;
        match answer {
            Ok(answer) => Some(answer),
            Err(e) => {
                self.is_silent(store, &e);
                None
            }
        }
    }

    fn is_silent(&mut self, store: StoreId, why: &anyhow::Error) {
        if self.silent.insert(store) {
            let what = format!("could not be checked: {why:#}");
            self.add(FaultKind::NodeUnreachable, Some(store), Ino(0), what);
        }
    }

    /// Stores that some group needs, or that answer.
    fn stores(&self) -> Vec<StoreId> {
        let member = |s: &StoreId| self.map.pgs.iter().any(|pg| pg.members.contains(s));
        let all = self.status.stores.iter();
        all.filter(|s| s.up || member(&s.store))
            .map(|s| s.store)
            .collect()
    }
}

/// Asks a store once more before giving up: it may just be restarting.
async fn ask(
    client: &Client,
    store: StoreId,
    request: ReplicaRequest,
    within: Duration,
) -> anyhow::Result<ReplicaResponse> {
    let deadline = Instant::now() + within;
    loop {
        let answer = client
            .replica_call(store, request.clone(), Vec::new(), deadline)
            .await;
        match answer {
            Ok((answer, _)) => return Ok(answer),
            Err(e) if Instant::now() + Duration::from_secs(1) > deadline => return Err(e.into()),
            Err(e) if e.code == dfs_core::wire::ErrorCode::BadRequest => return Err(e.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

/// Runs it.
///
/// # Errors
/// No leader answers, or problems were found.
pub async fn run(args: &FsckArgs, tools: &mut Tools) -> anyhow::Result<()> {
    let began = Instant::now();
    // The addresses of stores come with a session.
    let client = tools.writer().await?;
    let mut run = Run {
        within: tools.global.timeout.unwrap_or(Duration::from_secs(10)),
        is_fast: args.fast,
        status: client.status().await?,
        map: client.pg_map().await?,
        problems: BTreeSet::new(),
        checked: Checked::default(),
        silent: BTreeSet::new(),
        client,
    };
    run.check_tables().await?;
    let mut suspects = suspects::Suspects::default();
    run.check_copies(&mut suspects).await?;
    run.check_holdings(&mut suspects).await?;
    run.settle(suspects).await?;
    run.checked.seconds = began.elapsed().as_secs_f64();
    let view = run.view().await;
    let count = view.problems.len();
    match tools.out.json {
        true => tools.out.json(&view)?,
        false => print(&view, tools)?,
    }
    match count {
        0 => Ok(()),
        _ => Err(ToolError::Problems(count).into()),
    }
}

impl Run {
    async fn view(self) -> FsckView {
        let mut paths: BTreeMap<Ino, Option<String>> = BTreeMap::new();
        let mut problems = Vec::new();
        for problem in &self.problems {
            let ino = problem.ino;
            if ino.0 > 0 && !paths.contains_key(&ino) && paths.len() < 1000 {
                let found = self.client.paths(ino).await.ok();
                let first = found.and_then(|all| all.first().map(|path| escape(path)));
                paths.insert(ino, first);
            }
            let info = problem.store.and_then(|s| self.info(s));
            problems.push(ProblemView {
                kind: problem.kind.name(),
                node: info.map(|i| i.node.to_string()),
                addr: info.map(|i| i.addr.to_string()),
                ino: ino.0,
                path: paths.get(&ino).cloned().flatten(),
                what: problem.what.clone(),
                advice: problem.kind.advice(),
            });
        }
        FsckView {
            problems,
            checked: self.checked,
        }
    }
}

fn print(view: &FsckView, tools: &mut Tools) -> anyhow::Result<()> {
    for p in &view.problems {
        let at = p.addr.as_deref().unwrap_or("all nodes");
        let path = match (&p.path, p.ino) {
            (Some(path), _) => format!("  {path}"),
            (None, 0) => String::new(),
            (None, ino) => format!("  inode {ino} (no name)"),
        };
        tools
            .out
            .line(format!("{}  {at}{path}  {}", p.kind, p.what))?;
        tools.out.line(format!("    {}", p.advice))?;
    }
    let c = &view.checked;
    let words = match view.problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    tools.out.line(format!(
        "{words}: {} rows on {} voters, {} objects in {} copies ({} read), {} held, {} stamps, \
         {} looked at twice, {:.1} s",
        c.rows,
        c.voters,
        c.objects,
        c.copies,
        size(c.bytes_read),
        c.held,
        c.stamps,
        c.rechecked,
        c.seconds
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_kind() {
        let help = kinds_help();
        for kind in FaultKind::ALL {
            assert!(help.contains(kind.name()), "{}", kind.name());
        }
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}

//! Reads: confirmed by a round of ReadIndex, or at once under the leader's lease, then answered from the state.
//!
//! All that came in before a round begins share it. Interest is registered at the same instant as
//! the state is read, so that no change can slip in between.
use super::event::MasterAction;
use super::leading::{Leading, OpenAsked, Read, ReadKind};
use super::machine::{Master, answered, refusal};
use super::requests::no_session;
use super::unsettled::{Depends, depends};
use crate::consensus::RaftEvent;
use crate::master::state::StateError;
use crate::types::{ChunkNo, ClientId, FileKind, Ino, LogIndex, PgId, StoreId};
use crate::wire::master::{MasterResponse, QueryAnswer, RepairReceipt};
use crate::wire::{ErrorCode, Query, WireError};
use std::collections::BTreeSet;

/// Chunks whose extents an open brings along.
const OPEN_CHUNKS: u32 = 16;
/// Rows of a listing at most.
const LISTING_MAX: u32 = 4096;
/// Bytes of a listing, about.
const LISTING_BYTES_MAX: usize = 2 << 20;

impl Master {
    /// Begins a round for what is waiting.
    pub(super) fn start_round(&mut self) {
        let is_due = |l: &mut Box<Leading>| std::mem::take(&mut l.round_due) && !l.reads.is_empty();
        if !self.leading.as_mut().is_some_and(is_due) {
            return;
        }
        let token = self.next_token();
        if let Some(leading) = self.leading.as_deref_mut() {
            let reads = std::mem::take(&mut leading.reads);
            leading.rounds.insert(token, reads);
            self.feed_raft(RaftEvent::ReadIndex { token });
        }
    }

    pub(super) fn round_ready(&mut self, token: u64, index: LogIndex, out: &mut Vec<MasterAction>) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if let Some(reads) = leading.rounds.remove(&token) {
            leading.confirmed.push((index, reads));
            self.answer_confirmed(out);
        }
    }

    pub(super) fn round_dropped(&mut self, token: u64, out: &mut Vec<MasterAction>) {
        let error = self.not_leader();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let reads = leading.rounds.remove(&token).unwrap_or_default();
        leading.reads_count -= reads.len();
        out.extend(
            reads
                .into_iter()
                .map(|read| refusal(read.to, error.clone())),
        );
    }

    /// Answers confirmed reads whose index is applied.
    pub(super) fn answer_confirmed(&mut self, out: &mut Vec<MasterAction>) {
        let applied = self.state.applied().index;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let (ready, later): (Vec<_>, Vec<_>) = std::mem::take(&mut leading.confirmed)
            .into_iter()
            .partition(|(i, _)| *i <= applied);
        leading.confirmed = later;
        for read in ready.into_iter().flat_map(|(_, reads)| reads) {
            if let Some(leading) = self.leading.as_deref_mut() {
                leading.reads_count -= 1;
            }
            self.answer(read, out);
        }
    }

    fn answer(&mut self, read: Read, out: &mut Vec<MasterAction>) {
        if let ReadKind::Query { client, body, .. } = &read.what
            && depends(body, Vec::new()) != Depends::Nothing
            && client.is_none_or(|client| !self.has_session(client))
        {
            // One that has ended meanwhile looks from outside, too.
            return self.look_from_outside(read, out);
        }
        self.answer_seen(read, out);
    }

    /// Answers, whoever looks.
    pub(super) fn answer_seen(&mut self, read: Read, out: &mut Vec<MasterAction>) {
        let (to, arrived) = (read.to, read.arrived);
        if let ReadKind::TryLock(asked) = read.what {
            return self.lock_confirmed(asked, out);
        }
        let answer = match read.what {
            ReadKind::Query {
                client,
                interest,
                body,
            } => {
                let (answer, on) = self.answer_query(client.filter(|_| interest), &body, out);
                return self.answer_settled(to, client, &on, answer, out);
            }
            ReadKind::Open(asked) => {
                let answer = self.answer_open(asked, out);
                let on = Depends::On(vec![asked.ino]);
                return self.answer_settled(to, Some(asked.client), &on, answer, out);
            }
            ReadKind::TryLock(_) => return,
            ReadKind::KeepAlive { client } => self.answer_keep_alive(client, arrived, out),
            ReadKind::Heartbeat(heartbeat) => self.answer_heartbeat(&heartbeat),
            ReadKind::PgListing { pg, after, limit } => self.answer_listing(pg, after, limit),
            ReadKind::Status => self.status().map(|s| MasterResponse::Status(Box::new(s))),
            ReadKind::FilesOf {
                store,
                after,
                limit,
            } => self.answer_files(store, after, limit),
            ReadKind::GroupSpace(after) => self.answer_space(after),
            ReadKind::ObjectFates(objects) => self.answer_fates(&objects),
            ReadKind::RepairRecords => self
                .state
                .repair_records()
                .map(MasterResponse::Records)
                .map_err(broken),
            ReadKind::FilesIn { pgs, after, limit } => {
                let pgs = pgs.into_iter().collect();
                self.answer_files_in(&pgs, after, limit)
            }
            ReadKind::RepairLog => self
                .state
                .repair_records()
                .map(|all| MasterResponse::Receipts(all.iter().map(RepairReceipt::from).collect()))
                .map_err(broken),
        };
        out.push(answered(to, answer));
    }

    /// The answer, and what it depends on.
    fn answer_query(
        &mut self,
        interested: Option<ClientId>,
        body: &Query,
        out: &mut Vec<MasterAction>,
    ) -> (Result<MasterResponse, WireError>, Depends) {
        if let Some(client) = interested.filter(|client| !self.has_session(*client)) {
            return (Err(no_session(client)), Depends::Nothing);
        }
        let answer = match body {
            Query::StatFs => self.statfs_now().map(QueryAnswer::StatFs).map_err(broken),
            _ => self.state.query(body),
        };
        let now = self.now;
        let concerned = concerns(body, &answer);
        if let (Some(client), Some(leading)) = (interested, self.leading.as_deref_mut()) {
            for ino in &concerned {
                leading.coherence.register(client, *ino, out, now);
            }
        }
        let as_of = self.state.applied().index;
        let answer = answer.map(|body| MasterResponse::Answer { as_of, body });
        (answer, depends(body, concerned))
    }

    fn answer_open(
        &mut self,
        asked: OpenAsked,
        out: &mut Vec<MasterAction>,
    ) -> Result<MasterResponse, WireError> {
        let OpenAsked {
            client, ino, write, ..
        } = asked;
        let now = self.now;
        let has_session = self.has_session(client);
        let attr = match self.state.query(&Query::GetAttr { ino }) {
            Ok(QueryAnswer::Attr(attr)) if has_session => Ok(attr),
            Ok(_) if !has_session => Err(no_session(client)),
            Ok(_) => Err(ErrorCode::Internal.into()),
            Err(error) => Err(error),
        };
        let layout = match &attr {
            Ok(attr) if attr.kind == FileKind::File => {
                let (version, first, count) = (None, ChunkNo::HOME, OPEN_CHUNKS);
                match self.state.query(&Query::Layout {
                    ino,
                    version,
                    first,
                    count,
                }) {
                    Ok(QueryAnswer::Layout(layout)) => Some(layout),
                    _ => None,
                }
            }
            _ => None,
        };
        let Some(leading) = self.leading.as_deref_mut() else {
            return Err(self.not_leader());
        };
        match attr {
            Ok(attr) => {
                if asked.interest {
                    leading.coherence.register(client, ino, out, now);
                }
                leading.opens.confirm(client, ino, write);
                // An open that comes during a recall may be answered before one that waits for it, and lasts.
                // And nobody keeps to himself what a session that is silent may write too.
                let shared = leading.opens.shared(ino, client)
                    || leading.coherence.is_recalled(client, ino)
                    || (write && leading.coherence.is_silent_any_but(client));
                let lease = attr.lease;
                Ok(MasterResponse::Opened {
                    attr,
                    lease,
                    shared,
                    layout,
                })
            }
            Err(error) => Err(error),
        }
    }

    fn answer_listing(
        &self,
        pg: PgId,
        after: Option<(Ino, ChunkNo)>,
        limit: u32,
    ) -> Result<MasterResponse, WireError> {
        let limit = limit.clamp(1, LISTING_MAX) as usize;
        let (mut rows, end) = self.state.pg_listing(pg, after, limit).map_err(broken)?;
        let whole = cut_to_size(&mut rows, |row| 96 + 64 * row.objects.len());
        let as_of = self.state.applied().index;
        Ok(MasterResponse::PgListing(rows, as_of, end && whole))
    }

    fn answer_files(
        &self,
        store: StoreId,
        after: Ino,
        limit: u32,
    ) -> Result<MasterResponse, WireError> {
        let holds = |state: &crate::master::state::PgState| {
            state.info.members.contains(&store) || state.info.prior.contains(&store)
        };
        let pgs: BTreeSet<PgId> = self
            .state
            .pgs()
            .filter(|(_, state)| holds(state))
            .map(|(pg, _)| pg)
            .collect();
        if !self.state.stores().contains_key(&store) {
            let detail = format!("no store {store} is known");
            return Err(WireError::new(ErrorCode::NotFound, detail));
        }
        self.answer_files_in(&pgs, after, limit)
    }

    fn answer_files_in(
        &self,
        pgs: &BTreeSet<PgId>,
        after: Ino,
        limit: u32,
    ) -> Result<MasterResponse, WireError> {
        let limit = limit.clamp(1, LISTING_MAX) as usize;
        let (mut files, end) = self.state.files_of(pgs, after, limit).map_err(broken)?;
        let whole = cut_to_size(&mut files, |(_, path, _)| 32 + path.len());
        Ok(MasterResponse::Files(files, end && whole))
    }
}

/// Drops rows from the end until the answer fits a frame's header; false if any went. One stays.
fn cut_to_size<T>(rows: &mut Vec<T>, size: impl Fn(&T) -> usize) -> bool {
    let mut bytes = 0;
    let fitting = rows.iter().take_while(|row| {
        bytes += size(row);
        bytes <= LISTING_BYTES_MAX
    });
    let fitting = fitting.count().max(1);
    let whole = fitting >= rows.len();
    rows.truncate(fitting);
    whole
}

/// Inodes that an answer says something about: a later change of them makes it stale.
fn concerns(query: &Query, answer: &Result<QueryAnswer, WireError>) -> Vec<Ino> {
    let mut inos = match query {
        Query::Lookup { parent, .. } => vec![*parent],
        Query::GetAttr { ino }
        | Query::ReadDir { ino, .. }
        | Query::Parent { ino }
        | Query::ReadLink { ino }
        | Query::Xattrs { ino }
        | Query::Layout { ino, .. } => vec![*ino],
        _ => Vec::new(),
    };
    match answer {
        Ok(QueryAnswer::Attr(attr)) => inos.push(attr.ino),
        Ok(QueryAnswer::Entries(entries, _)) => {
            inos.extend(entries.iter().filter(|e| e.attr.is_some()).map(|e| e.ino));
        }
        _ => {}
    }
    inos
}

#[allow(clippy::needless_pass_by_value)]
pub(super) fn broken(e: StateError) -> WireError {
    tracing::error!(error = %e, "the master's tables are damaged");
    WireError::new(ErrorCode::Internal, e.to_string())
}

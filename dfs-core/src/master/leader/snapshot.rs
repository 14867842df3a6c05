//! Flushing the tables, compacting the log, and moving the state to a voter that lags.
//!
//! *Flush*: the tables reach the disk lazily, in one transaction that holds the applied index; then
//! the log before it may go. *Serve*: pages of one pinned state; each begins with the state's meta
//! under [`INSTALLED`], so that a puller notices if it is served from another state. *Install*:
//! pull all pages, replace the tables in one transaction (meta included), flush, then tell Raft.
//! Until that flush is durable the old tables are on disk, and a restart begins again.
use super::event::MasterAction;
use super::machine::{Master, refusal};
use crate::consensus::{RaftEvent, SnapshotMeta};
use crate::master::state::StateError;
use crate::store::{FlushDone, Kv, KvError, KvPair, KvRead, LazyKv};
use crate::types::{LogIndex, RaftId, Time};
use crate::wire::node::NodeResponse;
use crate::wire::rpc::{Call, CallResult, CallTarget, Reply, ReplyTo};
use crate::wire::{ErrorCode, NodeRequest, Request, Response, WireError};
use std::time::Duration;

/// Meta of the state that was installed last: beside the tables, and no part of the state.
const INSTALLED: &[u8] = &[0xf0];
/// Keys of the state are below this.
const STATE_END: &[u8] = &[0xf0];
/// A pinned state that nobody asked about for this long is let go.
const SERVED_IDLE: Duration = Duration::from_secs(60);
/// Unflushed tables are flushed after this long.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Pairs read at once.
const PAIRS: usize = 1024;
/// Bytes of a page.
const PAGE_BYTES: u32 = 2 << 20;
/// Wait after a failed installation.
const RETRY: Duration = Duration::from_millis(500);

/// Which state was installed last, if any.
pub(super) fn installed_meta(kv: &LazyKv) -> Result<Option<SnapshotMeta>, StateError> {
    let Some(value) = kv.get(INSTALLED)? else {
        return Ok(None);
    };
    let decode = |_| StateError::Decode {
        table: "installed",
        key: "f0".into(),
    };
    postcard::from_bytes(&value).map(Some).map_err(decode)
}

struct Served {
    index: LogIndex,
    meta: SnapshotMeta,
    tables: Box<dyn KvRead + Send + Sync>,
    used_at: Time,
}

#[derive(Debug)]
enum Install {
    /// Pages are being pulled.
    Pulling {
        token: u64,
        announced: LogIndex,
        from: RaftId,
        meta: Option<SnapshotMeta>,
        pairs: Vec<KvPair>,
    },
    /// Everything is in memory; waits for a flush of the old tables to end.
    Loaded {
        meta: SnapshotMeta,
        pairs: Vec<KvPair>,
    },
    /// The new tables are being flushed.
    Flushing { meta: SnapshotMeta },
    /// It failed: Raft is told a little later.
    Failed { at: Time },
}

/// Flushes, and states on their way in and out.
pub(super) struct Snapshots {
    pub applied_since_flush: u64,
    flushed_at: Time,
    /// Applied index that the running flush covers.
    flushing: Option<LogIndex>,
    served: Option<Served>,
    install: Option<Install>,
}

impl Snapshots {
    pub fn new(_applied: LogIndex) -> Self {
        Self {
            applied_since_flush: 0,
            flushed_at: Time::ZERO,
            flushing: None,
            served: None,
            install: None,
        }
    }
}

impl Master {
    pub(super) fn flush_if_due(&mut self, out: &mut Vec<MasterAction>) {
        self.audits.forget_idle(self.now);
        let s = &mut self.snapshots;
        if s.served
            .as_ref()
            .is_some_and(|served| self.now.since(served.used_at) > SERVED_IDLE)
        {
            s.served = None;
        }
        if s.flushing.is_some() || s.install.is_some() || s.applied_since_flush == 0 {
            return;
        }
        if s.flushed_at == Time::ZERO {
            s.flushed_at = self.now;
        }
        let due = s.applied_since_flush >= self.config.snapshot_entries
            || self.state.kv().unflushed_bytes() >= self.config.flush_bytes
            || self.now.since(s.flushed_at) >= FLUSH_EVERY;
        if due {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<MasterAction>) {
        if let Some(job) = self.state.kv_mut().freeze() {
            self.snapshots.flushing = Some(self.state.applied().index);
            self.snapshots.applied_since_flush = 0;
            out.push(MasterAction::Flush(job));
        }
    }

    pub(super) fn on_flushed(
        &mut self,
        result: Result<FlushDone, KvError>,
        out: &mut Vec<MasterAction>,
    ) {
        if !self.state.kv().is_flushing() {
            return; // of a voter that ran here before
        }
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                self.state.kv_mut().abandon_flush();
                return self.fail(&format!("tables cannot be flushed: {error}"), out);
            }
        };
        self.state.kv_mut().finish(done);
        self.snapshots.flushed_at = self.now;
        let upto = self.snapshots.flushing.take();
        match self.snapshots.install.take() {
            Some(Install::Flushing { meta }) => {
                tracing::info!(index = %meta.index, "state installed");
                self.feed_raft(RaftEvent::SnapshotInstalled { meta });
            }
            Some(Install::Loaded { meta, pairs }) => self.replace(meta, pairs, out),
            other => {
                self.snapshots.install = other;
                if let Some(upto) = upto {
                    self.feed_raft(RaftEvent::Compact { upto });
                }
            }
        }
    }

    /// Answers one page of a pinned state.
    pub(super) fn serve_page(
        &mut self,
        to: ReplyTo,
        index: LogIndex,
        after: &[u8],
        bytes_max: u32,
        out: &mut Vec<MasterAction>,
    ) {
        out.push(match self.page(index, after, bytes_max) {
            Ok(pairs) => {
                let body = Ok(Response::Node(NodeResponse::SnapshotPage(pairs)));
                MasterAction::Reply(Reply {
                    to,
                    body,
                    payload: Vec::new(),
                })
            }
            Err(error) => refusal(to, error),
        });
    }

    fn page(
        &mut self,
        index: LogIndex,
        after: &[u8],
        bytes_max: u32,
    ) -> Result<Vec<KvPair>, WireError> {
        let is_pinned = self
            .snapshots
            .served
            .as_ref()
            .is_some_and(|s| s.index == index);
        if !is_pinned {
            if !after.is_empty() || self.state.applied().index < index {
                let detail = format!("the state at {index} is not held here");
                return Err(WireError::new(ErrorCode::NotFound, detail));
            }
            let applied = self.state.applied();
            let conf = self.raft.conf().clone();
            let meta = SnapshotMeta {
                index: applied.index,
                term: applied.term,
                conf,
            };
            let tables = self.state.kv_mut().snapshot();
            self.snapshots.served = Some(Served {
                index,
                meta,
                tables,
                used_at: self.now,
            });
        }
        let served = self.snapshots.served.as_mut().expect("pinned above");
        served.used_at = self.now;
        let meta = postcard::to_stdvec(&served.meta).expect("plain structs always encode");
        let mut pairs = vec![(INSTALLED.to_vec(), meta)];
        let mut bytes = 0;
        let mut from = after.to_vec();
        from.push(0);
        while bytes < bytes_max.min(PAGE_BYTES) as usize {
            let broken = |e: KvError| WireError::new(ErrorCode::Internal, e.to_string());
            let found = served
                .tables
                .scan(&from, STATE_END, PAIRS)
                .map_err(broken)?;
            let Some((last, _)) = found.last() else { break };
            from.clone_from(last);
            from.push(0);
            for pair in found {
                if bytes >= bytes_max.min(PAGE_BYTES) as usize {
                    break;
                }
                bytes += pair.0.len() + pair.1.len() + 8;
                pairs.push(pair);
            }
        }
        Ok(pairs)
    }

    pub(super) fn begin_install(
        &mut self,
        meta: &SnapshotMeta,
        from: RaftId,
        out: &mut Vec<MasterAction>,
    ) {
        tracing::info!(index = %meta.index, ?from, "pulling the state");
        self.pull(meta.index, from, None, Vec::new(), out);
    }

    fn pull(
        &mut self,
        announced: LogIndex,
        from: RaftId,
        meta: Option<SnapshotMeta>,
        pairs: Vec<KvPair>,
        out: &mut Vec<MasterAction>,
    ) {
        let Some(addr) = self.addr_of(from) else {
            self.snapshots.install = Some(Install::Failed { at: self.now });
            return;
        };
        let token = self.next_token();
        let after = pairs.last().map_or_else(Vec::new, |(key, _)| key.clone());
        let request = NodeRequest::SnapshotPage {
            index: announced,
            after,
            bytes_max: PAGE_BYTES,
        };
        let node = self
            .state
            .raft_nodes()
            .get(&from)
            .map_or_else(Default::default, |(n, _)| *n);
        let (to, request) = (CallTarget::Node(node, addr), Request::Node(request));
        out.push(MasterAction::Call(Call {
            token,
            to,
            request,
            payload: Vec::new(),
        }));
        self.snapshots.install = Some(Install::Pulling {
            token,
            announced,
            from,
            meta,
            pairs,
        });
    }

    pub(super) fn page_arrived(
        &mut self,
        token: u64,
        result: CallResult,
        out: &mut Vec<MasterAction>,
    ) {
        if !matches!(&self.snapshots.install, Some(Install::Pulling { token: t, .. }) if *t == token)
        {
            return;
        }
        let Some(Install::Pulling {
            announced,
            from,
            meta: seen,
            mut pairs,
            ..
        }) = self.snapshots.install.take()
        else {
            return;
        };
        let page = match result {
            Ok((Response::Node(NodeResponse::SnapshotPage(page)), _)) => sound_page(page),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "a page of the state did not arrive");
                None
            }
        };
        let good = page.filter(|(meta, rows)| {
            let same = seen.as_ref().is_none_or(|seen| seen == meta);
            let follows = match (pairs.last(), rows.first()) {
                (Some((last, _)), Some((first, _))) => last < first,
                _ => true,
            };
            same && follows && meta.index >= announced && meta.conf.contains(self.config.raft_id)
        });
        match good {
            None => self.snapshots.install = Some(Install::Failed { at: self.now }),
            Some((meta, rows)) if rows.is_empty() => {
                if self.state.kv().is_flushing() {
                    self.snapshots.install = Some(Install::Loaded { meta, pairs });
                } else {
                    self.replace(meta, pairs, out);
                }
            }
            Some((meta, rows)) => {
                pairs.extend(rows);
                self.pull(announced, from, Some(meta), pairs, out);
            }
        }
    }

    /// Replaces the tables, all in one flush.
    fn replace(&mut self, meta: SnapshotMeta, pairs: Vec<KvPair>, out: &mut Vec<MasterAction>) {
        let kv = self.state.kv_mut();
        let mut from = Vec::new();
        loop {
            let old = match kv.scan(&from, STATE_END, PAIRS) {
                Ok(old) => old,
                Err(error) => return self.fail(&error.to_string(), out),
            };
            let Some((last, _)) = old.last() else { break };
            from.clone_from(last);
            old.iter().for_each(|(key, _)| kv.delete(key));
        }
        for (key, value) in pairs {
            kv.put(key, value);
        }
        let encoded = postcard::to_stdvec(&meta).expect("plain structs always encode");
        kv.put(INSTALLED.to_vec(), encoded);
        if let Err(error) = self.state.reload() {
            return self.fail(&error.to_string(), out);
        }
        if self.state.applied().index != meta.index {
            return self.fail("a pulled state is not the one that was announced", out);
        }
        self.hint_changed();
        self.snapshots.install = Some(Install::Flushing { meta });
        self.flush(out);
    }

    /// Tells Raft of a failed installation after a pause; the leader announces again.
    pub(super) fn retry_install(&mut self, _out: &mut [MasterAction]) {
        if let Some(Install::Failed { at }) = &self.snapshots.install
            && self.now.since(*at) >= RETRY
        {
            self.snapshots.install = None;
            self.feed_raft(RaftEvent::SnapshotFailed);
        }
    }
}

/// A page's meta and rows, if it is well-formed: keys ascending and below the end of the state.
fn sound_page(page: Vec<KvPair>) -> Option<(SnapshotMeta, Vec<KvPair>)> {
    let mut rows = page.into_iter();
    let (key, value) = rows.next()?;
    let meta: SnapshotMeta = postcard::from_bytes(&value).ok()?;
    let rows: Vec<KvPair> = rows.collect();
    let ascending = rows.windows(2).all(|w| w[0].0 < w[1].0);
    let bounded = rows
        .last()
        .is_none_or(|(last, _)| last.as_slice() < STATE_END);
    (key == INSTALLED && ascending && bounded && meta.validate().is_ok()).then_some((meta, rows))
}

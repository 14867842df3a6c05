//! What tests of the client share: a master that follows a script.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test.
use super::{Client, ClientConfig};
use crate::net::{ClusterKey, Credentials, Handler, Server, ServerConfig, ServerHandle};
use crate::types::{
    Attr, ClientId, FileKind, Ino, LeaseSeq, LogIndex, OpId, Revision, Term, Timestamp, VersionNo,
};
use crate::wire::master::OpenInode;
use crate::wire::node::LeaderHint;
use crate::wire::rpc::{ConnId, Reply, ReplyTo};
use crate::wire::{
    ErrorCode, MasterRequest, MasterResponse, Mutation, MutationOk, NodeRequest, NodeResponse,
    Push, Query, QueryAnswer, Request, Response, WireError,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Attributes of a small file.
pub(crate) fn attr(ino: u64) -> Attr {
    Attr {
        ino: Ino(ino),
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        crtime: Timestamp::default(),
        revision: Revision(0),
        version: VersionNo(0),
        lease: LeaseSeq(0),
        has_xattrs: false,
    }
}

pub(crate) fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

/// What a scripted node does.
#[derive(Debug)]
pub(crate) struct Script {
    /// Whom it says leads (itself if equal to its own address).
    pub leader: Option<SocketAddr>,
    pub term: u64,
    pub caches_valid: Duration,
    /// Tell the session that it is the only one.
    pub sole: bool,
    /// Mutations to swallow without an answer (they are applied).
    pub swallow: usize,
    /// Answer keep-alives.
    pub alive: bool,
    /// Answer queries (else they are held in `held`).
    pub answering: bool,
    pub expired: Vec<ClientId>,
    pub held: Vec<(ReplyTo, Query)>,
    /// Attribute answers by inode.
    pub attrs: BTreeMap<Ino, Attr>,
    /// Applied mutations, with their result: asked again, the same answer.
    pub applied: BTreeMap<OpId, MutationOk>,
    /// What renames move.
    pub moved: Ino,
    /// What they find under the new name.
    pub met: Option<Ino>,
    /// Changes refused, by the name that they make.
    pub refused: BTreeMap<crate::types::Name, ErrorCode>,
    /// Leave queued changes unanswered, and unapplied.
    pub deaf: bool,
    /// Every mutation request.
    pub asked: Vec<(OpId, Mutation)>,
    pub queries: usize,
    /// Lock requests so far.
    pub locks: usize,
    /// Answers to them, one each; without one left they are not answered.
    pub lock_answers: VecDeque<Result<MasterResponse, WireError>>,
    pub keep_alives: Vec<(ClientId, u64, Term, Vec<OpenInode>)>,
    pub acks: Vec<u64>,
    pub bound: Option<ConnId>,
}

/// One scripted node.
pub(crate) struct Node {
    pub addr: SocketAddr,
    pub script: Arc<Mutex<Script>>,
    pub handle: ServerHandle,
    server: Option<Server>,
}

struct Behaviour {
    addr: SocketAddr,
    script: Arc<Mutex<Script>>,
    handle: ServerHandle,
}

impl Node {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let handle = ServerHandle::new(None);
        let script = Arc::new(Mutex::new(Script {
            leader: Some(addr),
            term: 1,
            caches_valid: Duration::from_secs(60),
            sole: false,
            swallow: 0,
            alive: true,
            answering: true,
            expired: Vec::new(),
            held: Vec::new(),
            attrs: (1..10).map(|i| (Ino(i), attr(i))).collect(),
            applied: BTreeMap::new(),
            moved: Ino(0),
            met: None,
            refused: BTreeMap::new(),
            deaf: false,
            asked: Vec::new(),
            queries: 0,
            locks: 0,
            lock_answers: VecDeque::new(),
            keep_alives: Vec::new(),
            acks: Vec::new(),
            bound: None,
        }));
        let behaviour = Arc::new(Behaviour {
            addr,
            script: Arc::clone(&script),
            handle: handle.clone(),
        });
        let config = ServerConfig::default();
        let credentials = Credentials::new(key());
        let server = Server::start(listener, &credentials, config, handle.clone(), behaviour);
        Self {
            addr,
            script,
            handle,
            server: Some(server.unwrap()),
        }
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// As kill -9: connections reset, port refused.
    pub(crate) fn die(&mut self) {
        self.server = None;
    }

    /// Pushes on the connection that the session is bound to.
    pub(crate) fn push(&self, push: Push) {
        let conn = self.script().bound.expect("a session is bound");
        assert!(self.handle.push(conn, push));
    }

    /// Answers the held queries.
    pub(crate) fn release(&self) {
        let held = {
            let mut script = self.script();
            script.answering = true;
            std::mem::take(&mut script.held)
        };
        for (to, query) in held {
            let body = answer(&mut self.script(), query);
            self.handle.reply(reply(to, body));
        }
    }
}

fn reply(to: ReplyTo, body: Result<MasterResponse, WireError>) -> Reply {
    Reply {
        to,
        body: body.map(Response::Master),
        payload: Vec::new(),
    }
}

fn answer(script: &mut Script, query: Query) -> Result<MasterResponse, WireError> {
    script.queries += 1;
    let ino = match query {
        Query::GetAttr { ino } => ino,
        // "5" is a name of inode 5.
        Query::Lookup { name, .. } => Ino(name.to_string().parse().unwrap_or(0)),
        _ => Ino(0),
    };
    let attr = script.attrs.get(&ino).cloned();
    let body = QueryAnswer::Attr(attr.ok_or(ErrorCode::NotFound)?);
    let as_of = LogIndex(1);
    Ok(MasterResponse::Answer { as_of, body })
}

impl Behaviour {
    fn master(
        &self,
        script: &mut Script,
        from: ReplyTo,
        request: MasterRequest,
    ) -> Option<Result<MasterResponse, WireError>> {
        if script.leader != Some(self.addr) {
            let hint = script.leader.map(|a| a.to_string()).unwrap_or_default();
            return Some(Err(WireError::new(ErrorCode::NotLeader, hint)));
        }
        let session = MasterResponse::Session {
            term: Term(script.term),
            caches_valid: script.caches_valid,
            session_valid: Duration::from_secs(10),
            map_version: LogIndex(0),
            stores: Vec::new(),
            sole: script.sole,
            as_of: LogIndex(1),
        };
        match request {
            MasterRequest::OpenSession { .. } => Some(Ok(session)),
            MasterRequest::KeepAlive {
                client,
                low,
                clean_term,
                opens,
                ..
            } => {
                if script.expired.contains(&client) {
                    return Some(Err(ErrorCode::SessionExpired.into()));
                }
                script.keep_alives.push((client, low, clean_term, opens));
                script.bound = Some(from.conn);
                script.alive.then_some(Ok(session))
            }
            MasterRequest::Mutate { op, body, .. } => mutate(script, op, body),
            MasterRequest::MutateAfter {
                op,
                low,
                after,
                body,
                ..
            } => mutate_after(script, (op, low, after), body),
            MasterRequest::Query { body, .. } => {
                if !script.answering {
                    script.held.push((from, body));
                    return None;
                }
                Some(answer(script, body))
            }
            MasterRequest::Lock { .. } => {
                script.locks += 1;
                script.lock_answers.pop_front()
            }
            MasterRequest::PushAck { seq, .. } => {
                script.acks.push(seq);
                Some(Ok(MasterResponse::Done))
            }
            MasterRequest::Open { ino, .. } => Some(Ok(MasterResponse::Opened {
                attr: attr(ino.0),
                lease: LeaseSeq(1),
                shared: false,
                layout: None,
            })),
            _ => Some(Ok(MasterResponse::Done)),
        }
    }
}

fn mutate(
    script: &mut Script,
    op: OpId,
    body: Mutation,
) -> Option<Result<MasterResponse, WireError>> {
    if script.expired.contains(&op.client) {
        return Some(Err(ErrorCode::SessionExpired.into()));
    }
    let ok = match body {
        Mutation::Rename { .. } => MutationOk::Renamed {
            moved: script.moved,
            met: script.met,
            orphan: None,
        },
        Mutation::Reserve { .. } => MutationOk::Reserved { first: Ino(1000) },
        _ => MutationOk::Done,
    };
    script.asked.push((op, body));
    script.applied.entry(op).or_insert(ok);
    if script.swallow > 0 {
        script.swallow -= 1;
        return None;
    }
    let ok = script.applied[&op].clone();
    Some(Ok(MasterResponse::Mutated(ok.into())))
}

/// As the state machine: in order, once each.
fn mutate_after(
    script: &mut Script,
    (op, low, after): (OpId, u64, u64),
    body: Mutation,
) -> Option<Result<MasterResponse, WireError>> {
    if script.deaf {
        return None;
    }
    let before = OpId { seq: after, ..op };
    if after >= low.max(1) && !script.applied.contains_key(&before) {
        return Some(Err(ErrorCode::NotReady.into()));
    }
    let ok = match &body {
        Mutation::CreateAs { ino, name, .. } => {
            if let Some(code) = script.refused.get(name) {
                script.applied.insert(op, MutationOk::Done);
                return Some(Err((*code).into()));
            }
            MutationOk::Entry {
                attr: attr(ino.0),
                created: true,
            }
        }
        _ => MutationOk::Done,
    };
    if !script.applied.contains_key(&op) {
        script.asked.push((op, body));
        script.applied.insert(op, ok);
    }
    if script.swallow > 0 {
        script.swallow -= 1;
        return None;
    }
    let ok = script.applied[&op].clone();
    Some(Ok(MasterResponse::Mutated(ok.into())))
}

impl Handler for Behaviour {
    fn request(&self, from: ReplyTo, request: Request, _: Bytes) {
        let mut script = self.script.lock().unwrap();
        match request {
            Request::Master(request) => {
                if let Some(body) = self.master(&mut script, from, request) {
                    drop(script);
                    self.handle.reply(reply(from, body));
                }
            }
            Request::Node(NodeRequest::WhoLeads) => {
                let hint = LeaderHint {
                    leader: script.leader,
                    term: Term(script.term),
                    ..LeaderHint::default()
                };
                self.handle.reply(Reply {
                    to: from,
                    body: Ok(Response::Node(NodeResponse::Leader(hint))),
                    payload: Vec::new(),
                });
            }
            _ => {}
        }
    }
    fn cast(&self, _: ConnId, _: Request, _: Bytes) {}
    fn conn_closed(&self, _: ConnId) {}
}

/// Settings with short times.
pub(crate) fn config(nodes: &[&Node]) -> ClientConfig {
    let seeds = nodes.iter().map(|n| n.addr).collect();
    ClientConfig {
        deadline_meta: Duration::from_secs(10),
        attempt_timeout: Duration::from_millis(300),
        keep_alive_every: Duration::from_millis(20),
        ..ClientConfig::new(seeds, key())
    }
}

pub(crate) async fn connect(nodes: &[&Node]) -> Arc<Client> {
    Client::connect(config(nodes)).await.unwrap()
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "not reached: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

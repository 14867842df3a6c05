//! Contact with the master: finds the leader, binds the session to it, keeps the session alive.
//!
//! One task owns this; callers wait for what it publishes. Steps, for ever:
//! 1. Ask all known nodes at once who leads ([`probe`]); try what a refusal hinted at first.
//! 2. Connect to the leader named. Drop every cache (pushes may have been lost with the former
//!    connection), then open the session, or tell it to the leader by a keep-alive; if the leader's
//!    term is new, declare caches clean and all opens under it.
//! 3. Publish the connection. Keep alive until it closes (a silent one closes itself), or the answer
//!    is a refusal; then begin again.
//!
//! Invariants: requests of the session travel only on a bound connection; the window in which caches
//! may be used counts from the sending of a keep-alive; when it lapses, caches are dropped and the
//! listeners told.
use super::core::Client;
use super::hooks::Ack;
use crate::net::clock::boottime;
use crate::net::conn::deadline_in;
use crate::net::{Conn, ConnOptions, PushHandler};
use crate::types::{LogIndex, Term, Time};
use crate::wire::node::LeaderHint;
use crate::wire::{
    ErrorCode, MasterRequest, MasterResponse, NodeRequest, NodeResponse, Push, Request, Response,
    WireError,
};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::task::JoinSet;

/// Nodes asked at once who leads.
const PROBES_MAX: usize = 16;
/// Keep-alives in a row that may go unanswered while there are other signs of life.
const KEEP_ALIVE_FAILURES_MAX: u32 = 3;
/// Sessions tried in a row when each is refused at once.
const SESSIONS_MAX: u32 = 3;
/// Pauses between rounds of looking for a leader.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Where nodes of the cluster may be found.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// A refusal named this leader; tried first, once.
    pub(super) hint: Option<SocketAddr>,
    /// The leader that contact was lost with: its own word that it leads is heard last.
    lost: Option<SocketAddr>,
    voters: Vec<SocketAddr>,
    members: Vec<SocketAddr>,
    /// Why there is no leader, for people.
    pub(super) trouble: String,
}

/// What the answer to a keep-alive says.
struct Answered {
    term: Term,
    /// Caches may be used until then.
    until: Time,
    /// No other session exists.
    sole: bool,
    as_of: LogIndex,
}

/// Pushes of one connection to a leader.
struct Pushes {
    client: Weak<Client>,
    conn: OnceLock<Weak<Conn>>,
}

impl PushHandler for Pushes {
    fn push(&self, push: Push) {
        let Some(client) = self.client.upgrade() else {
            return;
        };
        let conn = self.conn.get().cloned().unwrap_or_default();
        let ack = |seq| Ack::new(conn, client.session.client(), seq);
        match push {
            Push::Invalidate {
                seq,
                as_of,
                touched,
            } => client.invalidated(&touched, as_of, ack(seq)),
            Push::Recall { seq, ino, shared } => client.recalled(ino, shared, ack(seq)),
            Push::Poke | Push::Watch { .. } => {}
        }
    }
}

impl Client {
    /// The task's body; ends when the client is dropped or shut down.
    pub(super) async fn run_contact(this: Weak<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            let Some(client) = this.upgrade() else { return };
            if client.is_stopped() {
                return;
            }
            client.check_lapse();
            match client.find_leader().await {
                Ok(conn) => {
                    pause = PAUSE_MIN;
                    client.contact.send_replace(Some(Arc::clone(&conn)));
                    let stop = client.stopped();
                    drop(client);
                    Self::keep_contact(&this, &conn, stop).await;
                    // A shutdown ends the session on this connection, then closes it itself.
                    if this.upgrade().is_some_and(|client| client.is_stopped()) {
                        return;
                    }
                    conn.close();
                    if let Some(client) = this.upgrade() {
                        client.known().lost = Some(conn.peer());
                        client.contact.send_replace(None);
                    }
                }
                Err(error) => {
                    client.known().trouble = error.to_string();
                    drop(client);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Step 3: until the connection is of no use any more.
    async fn keep_contact(
        this: &Weak<Self>,
        conn: &Arc<Conn>,
        mut stop: tokio::sync::watch::Receiver<bool>,
    ) {
        let mut failures = 0;
        loop {
            let every = match this.upgrade() {
                Some(client) => client.config.keep_alive_every,
                None => return,
            };
            tokio::select! {
                () = conn.closed() => return,
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(every) => {}
            }
            let Some(client) = this.upgrade() else { return };
            client.check_lapse();
            if !client.config.session {
                continue;
            }
            let Err(error) = client.keep_alive(conn).await else {
                failures = 0;
                continue;
            };
            failures += 1;
            tracing::info!(leader = %conn.peer(), %error, "lost contact with the master");
            client.known().trouble = error.to_string();
            let slow = error.code == ErrorCode::UnknownOutcome && !conn.is_closed();
            if !slow || failures >= KEEP_ALIVE_FAILURES_MAX {
                return;
            }
        }
    }

    /// Steps 1 and 2, one round.
    async fn find_leader(self: &Arc<Self>) -> Result<Arc<Conn>, WireError> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut error = WireError::new(ErrorCode::Unavailable, "no node knows a leader");
        let mut probes = self.start_probes();
        let (hint, lost) = {
            let mut known = self.known();
            (known.hint.take(), known.lost)
        };
        let mut next = hint;
        let mut last_resort = None;
        loop {
            if let Some(addr) = next.filter(|a| !tried.contains(a)) {
                tried.push(addr);
                match self.contact_leader(addr).await {
                    Ok(conn) => return Ok(conn),
                    Err(e) => {
                        if e.code == ErrorCode::NotLeader {
                            self.known().hint = e.detail.parse().ok();
                        }
                        error = e;
                    }
                }
                next = self.known().hint.take();
                continue;
            }
            match probes.join_next().await {
                None => match last_resort.take() {
                    Some(addr) => next = Some(addr),
                    None => return Err(error),
                },
                Some(Ok((from, Ok(hint)))) => {
                    let leader = self.note_hint(hint);
                    // Stuck, but not its network, it still believes what it was.
                    if leader == Some(from) && lost == leader {
                        last_resort = leader;
                    } else {
                        next = leader;
                    }
                }
                Some(Ok((_, Err(e)))) if tried.is_empty() => error = e,
                Some(_) => {}
            }
        }
    }

    fn start_probes(&self) -> JoinSet<(SocketAddr, Result<LeaderHint, WireError>)> {
        let mut all: Vec<SocketAddr> = Vec::new();
        {
            let known = self.known();
            for addr in known
                .voters
                .iter()
                .chain(&self.config.seeds)
                .chain(&known.members)
            {
                if !all.contains(addr) && all.len() < PROBES_MAX {
                    all.push(*addr);
                }
            }
        }
        let mut probes = JoinSet::new();
        for addr in all {
            let pool = self.pool.clone();
            let deadline = deadline_in(self.config.connect_timeout);
            probes.spawn(async move { (addr, probe(&pool, addr, deadline).await) });
        }
        probes
    }

    fn note_hint(&self, hint: LeaderHint) -> Option<SocketAddr> {
        let mut known = self.known();
        if !hint.voters.is_empty() {
            known.voters = hint.voters;
        }
        if !hint.members.is_empty() {
            known.members = hint.members;
        }
        hint.leader
    }

    /// Step 2.
    async fn contact_leader(self: &Arc<Self>, addr: SocketAddr) -> Result<Arc<Conn>, WireError> {
        let pushes = Arc::new(Pushes {
            client: Arc::downgrade(self),
            conn: OnceLock::new(),
        });
        let options = ConnOptions {
            bandwidth: Some(Arc::clone(&self.bandwidth)),
            pushes: Some(pushes.clone()),
            silence_max: self.config.attempt_timeout * 9 / 10,
            ..ConnOptions::default()
        };
        let deadline = deadline_in(self.config.connect_timeout);
        let conn = Conn::connect(addr, &self.config.credentials(), deadline, options).await?;
        let conn = Arc::new(conn);
        // Set once, here.
        let _ = pushes.conn.set(Arc::downgrade(&conn));
        if self.config.session {
            self.bind(&conn).await?;
        }
        Ok(conn)
    }

    async fn bind(&self, conn: &Conn) -> Result<(), WireError> {
        self.drop_caches();
        let mut tries = 0;
        loop {
            tries += 1;
            let input = self.session.keep_alive();
            if !input.opened {
                let label = self.config.label.clone();
                let client = input.client;
                let open = MasterRequest::OpenSession { client, label };
                self.session_call(conn, open).await?;
                self.session.set_opened(client);
            }
            match self.keep_alive(conn).await {
                Err(e) if e.code == ErrorCode::SessionExpired && tries < SESSIONS_MAX => {}
                other => return other,
            }
        }
    }

    /// One keep-alive, or two when the leader's term is new.
    async fn keep_alive(&self, conn: &Conn) -> Result<(), WireError> {
        let mut opens = Vec::new();
        let mut declared = None;
        loop {
            let input = self.session.keep_alive();
            let client = input.client;
            let clean_term = declared.unwrap_or(input.clean_term);
            let request = MasterRequest::KeepAlive {
                client,
                low: input.low,
                clean_term,
                opens: std::mem::take(&mut opens),
                queued: self.behind.outstanding().is_some(),
            };
            let token = self.cache_token();
            match self.session_call(conn, request).await {
                Ok(Answered {
                    term,
                    until,
                    sole,
                    as_of,
                }) => {
                    if term == clean_term {
                        // Not before it has answered: it may not have heard.
                        self.session.set_clean(client, term);
                        // Not if it was lost meanwhile.
                        self.session.if_current(client, || {
                            self.open_window(until);
                            self.lend_if(sole, as_of, token);
                        });
                        return Ok(());
                    }
                    // Another leader than the one that knows our interests: they are gone.
                    let lent_until = self.drop_caches();
                    // What others see from now on does not wait for what is still lent.
                    tokio::time::sleep(lent_until.since(boottime())).await;
                    opens = self.session.declare();
                    declared = Some(term);
                }
                Err(mut e) => {
                    if matches!(e.code, ErrorCode::SessionExpired | ErrorCode::NotFound) {
                        e.code = ErrorCode::SessionExpired;
                        self.lose_session(client);
                    }
                    return Err(e);
                }
            }
        }
    }

    /// Sends a request that is answered by `Session`.
    async fn session_call(
        &self,
        conn: &Conn,
        request: MasterRequest,
    ) -> Result<Answered, WireError> {
        let sent = boottime();
        let deadline = deadline_in(self.config.attempt_timeout);
        let body = self.send(conn, request, deadline).await?;
        let Response::Master(MasterResponse::Session {
            term,
            caches_valid,
            session_valid: _,
            map_version,
            stores,
            sole,
            as_of,
        }) = body
        else {
            return Err(WireError::new(
                ErrorCode::BadRequest,
                "the answer to a keep-alive does not fit",
            ));
        };
        self.note_stores(stores);
        self.note_map_version(map_version);
        let until = sent + caches_valid;
        Ok(Answered {
            term,
            until,
            sole,
            as_of,
        })
    }
}

impl Client {
    /// The leader did not answer a request in time although it is connected: if others follow
    /// another one by now, leaves it.
    pub(super) async fn doubt_leader(&self, conn: &Conn) {
        let mut probes = self.start_probes();
        let own_term = self.session.keep_alive().clean_term;
        while let Some(answer) = probes.join_next().await {
            let Ok((_, Ok(hint))) = answer else { continue };
            let term = hint.term;
            match self.note_hint(hint) {
                Some(leader) if term > own_term && leader != conn.peer() => {
                    self.known().hint = Some(leader);
                    return conn.close();
                }
                _ => {}
            }
        }
    }
}

/// Asks a node who leads.
pub(super) async fn probe(
    pool: &crate::net::Pool,
    addr: SocketAddr,
    deadline: std::time::Instant,
) -> Result<LeaderHint, WireError> {
    let request = Request::Node(NodeRequest::WhoLeads);
    match pool.call(addr, request, Vec::new(), deadline).await? {
        (Response::Node(NodeResponse::Leader(hint)), _) => Ok(hint),
        _ => Err(WireError::new(
            ErrorCode::BadRequest,
            format!("{addr}: the answer to who leads does not fit"),
        )),
    }
}

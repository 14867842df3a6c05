//! Requests to the master: repeated until answered, or until the deadline.
//!
//! * `Redirect` and the `Retry` codes that only say "not now" are tried again after a short, growing
//!   pause; `WrongEpoch`, `StaleLease` and `Locked` go to the caller, who has something to do first.
//! * No answer: asked again, a mutation with the same op-id, so that it happens once.
//! * At the deadline a mutation that may have been sent is [`ClientError::Unknown`]; it is never
//!   called failed or done. So is one whose session expired before its answer was heard.
use super::behind::NUMBERS;
use super::core::Client;
use super::error::{ClientError, Result};
use crate::net::Conn;
use crate::types::{ClientId, Ino, LogIndex, OpId};
use crate::wire::master::Mutated;
use crate::wire::{
    ErrorClass, ErrorCode, MasterRequest, MasterResponse, Mutation, MutationOk, Query, QueryAnswer,
    Request, Response, WireError,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// First and longest pause before a request is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// No change is sent with less time than this left: a master that takes no longer answers somebody who
/// still listens.
const ATTEMPT_MIN: Duration = Duration::from_millis(300);

/// How a request ended without an answer.
pub(super) struct Given {
    /// The last attempt's error.
    pub(super) last: WireError,
    /// Some attempt may have reached the master.
    pub(super) maybe_sent: bool,
    /// The deadline passed (else the answer is final).
    pub(super) timed_out: bool,
}

impl Client {
    /// A bound connection to the leader, waiting for one until `deadline`.
    pub(super) async fn leader(&self, deadline: Instant) -> Result<Arc<Conn>, WireError> {
        if let Some(conn) = self.contact.borrow().as_ref()
            && !conn.is_closed()
        {
            return Ok(Arc::clone(conn));
        }
        let mut watch = self.contact.subscribe();
        let live = |c: &Option<Arc<Conn>>| c.as_ref().is_some_and(|c| !c.is_closed());
        let found = timeout_at(deadline.into(), watch.wait_for(live)).await;
        match found {
            Ok(Ok(conn)) => Ok(Arc::clone(conn.as_ref().expect("just seen to be there"))),
            _ => Err(WireError::new(
                ErrorCode::Unavailable,
                format!("no master reached: {}", self.known().trouble),
            )),
        }
    }

    /// Sends a request to the leader once. All requests of a session go through here, to be counted.
    pub(super) async fn send(
        &self,
        conn: &Conn,
        request: MasterRequest,
        deadline: Instant,
    ) -> Result<Response, WireError> {
        self.trips.to_master(&request);
        let answer = conn.call(Request::Master(request), Vec::new(), deadline);
        answer.await.map(|(answer, _)| answer)
    }

    /// Asks until there is an answer that another attempt would not change.
    pub(super) async fn persist(
        &self,
        make: &(dyn Fn(ClientId) -> MasterRequest + Send + Sync),
        deadline: Instant,
        is_mutation: bool,
    ) -> Result<MasterResponse, Given> {
        let mut pause = PAUSE_MIN;
        let mut attempt = self.config.attempt_timeout;
        let mut given = Given {
            last: WireError::new(ErrorCode::TimedOut, "not tried"),
            maybe_sent: false,
            timed_out: false,
        };
        loop {
            let conn = match self.leader(deadline).await {
                Ok(conn) => conn,
                Err(e) => {
                    if given.last.code == ErrorCode::TimedOut {
                        given.last = e;
                    }
                    given.timed_out = true;
                    return Err(given);
                }
            };
            if is_mutation && deadline.saturating_duration_since(Instant::now()) < ATTEMPT_MIN {
                given.timed_out = true;
                return Err(given);
            }
            let session = self.session.client();
            let until = deadline.min(Instant::now() + attempt);
            let request = make(session);
            // An op stays with the session that it was begun in.
            let asked_as = match &request {
                MasterRequest::Mutate { op, .. }
                | MasterRequest::MutateAfter { op, .. }
                | MasterRequest::Lock { op, .. } => op.client,
                _ => session,
            };
            let error = match self.send(&conn, request, until).await {
                Ok(Response::Master(answer)) => return Ok(answer),
                Ok(_) => WireError::new(ErrorCode::BadRequest, "not an answer of a master"),
                Err(e) => e,
            };
            let code = error.code;
            given.last = error;
            match code.class() {
                ErrorClass::Redirect => {
                    self.known().hint = given.last.detail.parse().ok();
                    conn.close();
                }
                ErrorClass::Unknown => {
                    given.maybe_sent = true;
                    attempt *= 2;
                    pause = PAUSE_MIN;
                    if !conn.is_closed() {
                        // No answer by the deadline ends the doubting too.
                        let doubting = self.doubt_leader(&conn);
                        let _ = timeout_at(deadline.into(), doubting).await;
                    }
                }
                ErrorClass::Retry if !is_for_caller(code) => {}
                ErrorClass::Permanent if code == ErrorCode::SessionExpired => {
                    self.lose_session(asked_as);
                    if asked_as == session {
                        conn.close();
                    }
                    if is_mutation {
                        return Err(given);
                    }
                }
                ErrorClass::Retry | ErrorClass::Permanent => return Err(given),
            }
            if Instant::now() + pause >= deadline {
                given.timed_out = true;
                return Err(given);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks the master something that changes nothing that matters if asked twice.
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::TimedOut`].
    pub async fn master_call(
        &self,
        make: impl Fn(ClientId) -> MasterRequest + Send + Sync,
        within: Duration,
    ) -> Result<MasterResponse> {
        self.check_usable(false)?;
        let deadline = Instant::now() + within;
        self.wait_behind(deadline).await?;
        self.call_now(make, deadline).await
    }

    /// The same of something whose answer depends on nothing that is queued but what concerns `ino`.
    ///
    /// # Errors
    /// As [`master_call`](Self::master_call).
    pub(super) async fn master_call_of(
        &self,
        ino: Ino,
        make: impl Fn(ClientId) -> MasterRequest + Send + Sync,
        within: Duration,
    ) -> Result<MasterResponse> {
        self.check_usable(false)?;
        let deadline = Instant::now() + within;
        self.wait_behind_of(ino, deadline).await?;
        self.call_now(make, deadline).await
    }

    /// The same of something that nothing queued matters to.
    ///
    /// # Errors
    /// As [`master_call`](Self::master_call).
    pub(super) async fn call_now(
        &self,
        make: impl Fn(ClientId) -> MasterRequest + Send + Sync,
        deadline: Instant,
    ) -> Result<MasterResponse> {
        self.check_usable(false)?;
        let within = deadline.saturating_duration_since(Instant::now());
        self.persist(&make, deadline, false)
            .await
            .map_err(|g| not_done(g, within))
    }

    /// A linearizable read; with a session and `interest` the answer may be cached.
    ///
    /// # Errors
    /// As [`master_call`](Self::master_call).
    pub async fn query(&self, body: Query, interest: bool) -> Result<QueryAnswer> {
        let session = self.config.session;
        let make = |client| MasterRequest::Query {
            client: session.then_some(client),
            interest: interest && session,
            body: body.clone(),
        };
        let within = self.config.deadline_meta;
        let answer = match &body {
            Query::Layout { ino, .. } => self.master_call_of(*ino, make, within).await,
            _ => self.master_call(make, within).await,
        };
        match answer? {
            MasterResponse::Answer { body, .. } => Ok(body),
            _ => Err(ClientError::Mismatch { asked: "query" }),
        }
    }

    /// A change under an op-id of the caller's. Asked again with the same one it is done once.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] when it may have happened; any other error: it has not, and will
    /// not under this op-id.
    pub async fn mutate_as(
        &self,
        op: OpId,
        body: Mutation,
        within: Duration,
    ) -> Result<MutationOk> {
        let done = self.change_as(op, body, None, within).await;
        done.map(|done| done.ok)
    }

    /// A change of when no other session existed as of `sole_at`.
    pub(super) async fn change_in_time(
        &self,
        body: Mutation,
        sole_at: LogIndex,
    ) -> Result<MutationOk> {
        let deadline = Instant::now() + self.config.deadline_meta;
        self.follow_behind(deadline).await?;
        let ticket = self.session.begin_op();
        let op = ticket.op();
        let make = |_| MasterRequest::MutateAfter {
            op,
            low: self.session.low_for(op),
            after: 0,
            sole_at,
            listens: patience(deadline),
            body: body.clone(),
            open: None,
        };
        self.ask_change(op, &make, deadline)
            .await
            .map(|done| done.ok)
    }

    /// Sets inode numbers aside; waits for nothing that is queued.
    pub(super) async fn reserve_now(&self) -> Result<(ClientId, MutationOk)> {
        let ticket = self.session.begin_op();
        let (body, within) = (
            Mutation::Reserve { count: NUMBERS },
            self.config.deadline_meta,
        );
        let deadline = Instant::now() + within;
        let op = ticket.op();
        let done = self.change_now(op, body, None, deadline).await;
        done.map(|done| (op.client, done.ok))
    }

    async fn change_as(
        &self,
        op: OpId,
        body: Mutation,
        open: Option<bool>,
        within: Duration,
    ) -> Result<Mutated> {
        let deadline = Instant::now() + within;
        match body {
            // Whoever waits for one of these hurries himself.
            Mutation::Commit(_)
            | Mutation::CommitLast(_)
            | Mutation::Seal { .. }
            | Mutation::Accessed { .. } => {
                self.follow_behind(deadline).await?;
            }
            _ => self.wait_behind(deadline).await?,
        }
        self.change_now(op, body, open, deadline).await
    }

    async fn change_now(
        &self,
        op: OpId,
        body: Mutation,
        open: Option<bool>,
        deadline: Instant,
    ) -> Result<Mutated> {
        let make = |_| MasterRequest::Mutate {
            op,
            low: self.session.low_for(op),
            body: body.clone(),
            open,
        };
        self.ask_change(op, &make, deadline).await
    }

    async fn ask_change(
        &self,
        op: OpId,
        make: &(dyn Fn(ClientId) -> MasterRequest + Send + Sync),
        deadline: Instant,
    ) -> Result<Mutated> {
        self.check_usable(true)?;
        let within = deadline.saturating_duration_since(Instant::now());
        match self.persist(make, deadline, true).await {
            Ok(MasterResponse::Mutated(done)) => Ok(done),
            Ok(_) => Err(ClientError::Unknown {
                op,
                last: WireError::new(ErrorCode::BadRequest, "the answer does not fit a mutation"),
            }),
            Err(g) => {
                let untold = g.timed_out || g.last.code == ErrorCode::SessionExpired;
                if g.maybe_sent && untold {
                    return Err(ClientError::Unknown { op, last: g.last });
                }
                Err(not_done(g, within))
            }
        }
    }

    /// A change under a fresh op-id; once more under a new session if the old one had expired
    /// before anything was done.
    ///
    /// # Errors
    /// As [`mutate_as`](Self::mutate_as).
    pub async fn mutate(&self, body: Mutation) -> Result<MutationOk> {
        self.change(body, None).await.map(|done| done.ok)
    }

    /// The same with all that the master answers; `open` asks it to open what is made.
    ///
    /// # Errors
    /// As [`mutate_as`](Self::mutate_as).
    pub(super) async fn change(&self, body: Mutation, open: Option<bool>) -> Result<Mutated> {
        let within = self.config.deadline_meta;
        let ticket = self.session.begin_op();
        let done = self.change_as(ticket.op(), body.clone(), open, within);
        match done.await {
            Err(e) if e.code() == ErrorCode::SessionExpired => {
                let ticket = self.session.begin_op();
                self.change_as(ticket.op(), body, open, within).await
            }
            other => other,
        }
    }
}

/// How long the author of a change listens for its answer for sure, whatever its way to the master takes.
pub(super) fn patience(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.saturating_sub(ATTEMPT_MIN * 2 / 3)
}

/// A refusal that asking again at once would not change.
fn is_for_caller(code: ErrorCode) -> bool {
    use ErrorCode as C;
    matches!(code, C::WrongEpoch | C::StaleLease | C::Locked)
}

pub(super) fn not_done(given: Given, after: Duration) -> ClientError {
    if given.timed_out {
        let last = given.last;
        ClientError::TimedOut { after, last }
    } else {
        ClientError::Refused(given.last)
    }
}

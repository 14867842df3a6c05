//! Locks of programs at the master.
//!
//! Every lock is asked for under an op of the session that the caller names: a lock of a session that
//! has ended is no lock. One that waits is asked for again and again: the master answers when it is
//! free, and keeps the place of whoever goes on asking. Now and then it is asked for under a fresh
//! op, since an op that is never decided would make the master keep the results of all later ones.
//!
//! 1. An op that was not answered is disowned before anybody hears that the lock was not had: so no
//!    lock is granted that nobody knows of.
//! 2. Waiting has no deadline and survives a change of the leader; whoever waits can give up.
use super::core::Client;
use super::error::{ClientError, Result};
use crate::net::Conn;
use crate::types::{Attr, ClientId, HeldLock, Ino, LockRequest, LockSpace, LogIndex, OpId};
use crate::wire::master::Layout;
use crate::wire::{
    ErrorClass, ErrorCode, MasterRequest, MasterResponse, Mutation, MutationOk, Query, QueryAnswer,
    Response, WireError,
};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a lock that is waited for is asked for again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long under one op.
const RENEW_AFTER: Duration = Duration::from_secs(8);
/// Pause when the master has no answer at all.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an interrupted program waits to hear whether it has the lock after all.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);
/// Waiting questions on the connection at a time; more take turns.
pub(super) const WAITING_MAX: usize = 256;

/// A lock that is held.
#[derive(Debug, Clone, PartialEq)]
pub struct LockGrant {
    /// Attributes of the file, as committed when the lock was granted or later.
    pub attr: Attr,
    /// Of this log index.
    pub as_of: LogIndex,
    /// The first chunk.
    pub layout: Option<Layout>,
}

impl Client {
    /// Locks a range for an owner of `session`, if nobody excludes it.
    ///
    /// # Errors
    /// `Locked`; `SessionExpired` if `session` is not the current one (any more); `NoLocks`; those of
    /// [`mutate_as`](Self::mutate_as), of which `Unknown` means that the lock may be held.
    pub async fn try_lock(&self, session: ClientId, ask: LockRequest) -> Result<LockGrant> {
        self.check_usable(true)?;
        let within = self.config.deadline_meta;
        let deadline = Instant::now() + within;
        self.wait_behind(deadline).await?;
        let ticket = self.begin_op();
        let op = ticket.op();
        if op.client != session {
            return Err(ErrorCode::SessionExpired.into());
        }
        match self
            .persist(&self.lock_question(op, ask, None), deadline, true)
            .await
        {
            Ok(answer) => granted(answer),
            Err(given) if given.maybe_sent => match self.disown_lock(op, ask, GIVE_UP_MAX).await? {
                Some(grant) => Ok(grant),
                None if given.timed_out => {
                    let (after, last) = (within, given.last);
                    Err(ClientError::TimedOut { after, last })
                }
                None => Err(given.last.into()),
            },
            Err(given) => Err(super::calls::not_done(given, within)),
        }
    }

    /// As [`try_lock`](Self::try_lock), waiting until nobody excludes it; `None` when `give_up` came
    /// first.
    ///
    /// # Errors
    /// As [`try_lock`](Self::try_lock), but for `Locked`, and for want of a master only when given up.
    pub async fn wait_lock(
        &self,
        session: ClientId,
        ask: LockRequest,
        mut give_up: impl Future<Output = ()> + Unpin,
    ) -> Result<Option<LockGrant>> {
        self.check_usable(true)?;
        self.wait_behind(Instant::now() + self.config.deadline_meta)
            .await?;
        let number = rand::random();
        loop {
            let ticket = self.begin_op();
            let op = ticket.op();
            if op.client != session {
                return Err(ErrorCode::SessionExpired.into());
            }
            loop {
                let given_up = tokio::select! {
                    asked = self.ask_for_lock(op, ask, number) => match asked {
                        Ok(Some(grant)) => return Ok(Some(grant)),
                        Ok(None) => false,
                        // It was disowned before, and the answer to that was not heard.
                        Err(e) if e.code() == ErrorCode::OpAborted => false,
                        Err(e) => return Err(e),
                    },
                    () = &mut give_up => true,
                };
                match self.disown_lock(op, ask, GIVE_UP_MAX).await {
                    Ok(Some(grant)) => return Ok(Some(grant)),
                    Ok(None) if given_up => return Ok(None),
                    Ok(None) => break,
                    Err(e) if given_up || is_final(&e) => return Err(e),
                    // No master just now: it is still this op that is asked for.
                    Err(_) => {}
                }
            }
        }
    }

    /// Asks for a while; `None` if there is no answer yet.
    async fn ask_for_lock(
        &self,
        op: OpId,
        ask: LockRequest,
        number: u64,
    ) -> Result<Option<LockGrant>> {
        let until = Instant::now() + RENEW_AFTER;
        let question = self.lock_question(op, ask, Some(number));
        while Instant::now() < until {
            let Ok(conn) = self.leader(until).await else {
                self.check_usable(true)?;
                return Ok(None);
            };
            let answer = {
                let _turn = self.lock_turns.acquire().await.expect("never closed");
                let deadline = until.min(Instant::now() + ASK_EVERY);
                self.send(&conn, question(op.client), deadline).await
            };
            let error = match answer {
                Ok(Response::Master(answer)) => return granted(answer).map(Some),
                Ok(_) => return Err(ClientError::Mismatch { asked: "lock" }),
                Err(error) => error,
            };
            if error.code == ErrorCode::UnknownOutcome && !conn.is_closed() {
                continue; // It is not free yet.
            }
            self.after_refusal(op.client, &conn, error)?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// What a refusal means for one that goes on asking.
    fn after_refusal(&self, session: ClientId, conn: &Arc<Conn>, error: WireError) -> Result<()> {
        match error.code.class() {
            ErrorClass::Redirect => {
                self.known().hint = error.detail.parse().ok();
                conn.close();
                Ok(())
            }
            ErrorClass::Unknown | ErrorClass::Retry => Ok(()),
            ErrorClass::Permanent => {
                if error.code == ErrorCode::SessionExpired {
                    self.lose_session(session);
                }
                Err(error.into())
            }
        }
    }

    fn lock_question(
        &self,
        op: OpId,
        body: LockRequest,
        waiter: Option<u64>,
    ) -> impl Fn(ClientId) -> MasterRequest + Send + Sync + '_ {
        move |_| MasterRequest::Lock {
            op,
            low: self.session.low_for(op),
            body,
            waiter,
        }
    }

    /// The lock asked for under `op` shall not be granted any more; if it has been, here it is.
    async fn disown_lock(
        &self,
        op: OpId,
        ask: LockRequest,
        within: Duration,
    ) -> Result<Option<LockGrant>> {
        let ticket = self.begin_op();
        if ticket.op().client != op.client {
            return Err(ErrorCode::SessionExpired.into());
        }
        let body = Mutation::Abandon { op };
        let disowned = match self.mutate_as(ticket.op(), body, within).await {
            // It was not said that the lock shall not be granted.
            Err(ClientError::TimedOut { last, .. }) => Err(ClientError::Unknown { op, last }),
            other => other,
        };
        match disowned? {
            MutationOk::Locked => {
                // Decided: asked again, it is answered in full.
                let deadline = Instant::now() + within;
                let question = self.lock_question(op, ask, None);
                match self.persist(&question, deadline, true).await {
                    Ok(answer) => granted(answer).map(Some),
                    Err(given) => Err(ClientError::Unknown {
                        op,
                        last: given.last,
                    }),
                }
            }
            _ => Ok(None),
        }
    }

    /// An owner of `session` gives up what it has locked in a range. Nothing is left to be done when
    /// the session has ended.
    ///
    /// # Errors
    /// Those of [`mutate_as`](Self::mutate_as).
    pub async fn unlock(
        &self,
        session: ClientId,
        (ino, space, owner): (Ino, LockSpace, u64),
        (first, last): (u64, u64),
    ) -> Result<()> {
        let ticket = self.begin_op();
        if ticket.op().client != session {
            return Ok(());
        }
        let body = Mutation::Unlock {
            ino,
            space,
            owner,
            first,
            last,
        };
        let within = self.config.deadline_meta;
        match self.mutate_as(ticket.op(), body, within).await {
            Err(e) if e.code() == ErrorCode::SessionExpired => Ok(()),
            other => other.map(drop),
        }
    }

    /// The first lock that keeps an owner of this session from having this one.
    ///
    /// # Errors
    /// Those of [`query`](Self::query).
    pub async fn lock_conflict(&self, body: LockRequest) -> Result<Option<HeldLock>> {
        let client = self.client_id();
        match self
            .query(Query::LockConflict { client, body }, false)
            .await?
        {
            QueryAnswer::Conflict(held) => Ok(held),
            _ => Err(ClientError::Mismatch {
                asked: "conflicting lock",
            }),
        }
    }
}

fn granted(answer: MasterResponse) -> Result<LockGrant> {
    match answer {
        MasterResponse::Locked {
            attr,
            as_of,
            layout,
        } => Ok(LockGrant {
            attr,
            as_of,
            layout,
        }),
        _ => Err(ClientError::Mismatch { asked: "lock" }),
    }
}

/// Asking again would not change it.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(e) => e.code.class() == ErrorClass::Permanent,
        ClientError::Unknown { .. } | ClientError::TimedOut { .. } => false,
        ClientError::Mismatch { .. } | ClientError::Config(_) | ClientError::Unusable(_) => true,
    }
}

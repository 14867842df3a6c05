//! Requests to the master: repeated until answered, or until the deadline; a mutation always under
//! the same op-id, and never called failed or done when that is not known.
use super::bugs::Bug;
use super::client::{CallKind, Client, ClientTimer, Cx};
use bytes::Bytes;
use dfs_core::types::{ClientId, Ino, OpId};
use dfs_core::wire::{
    ErrorClass, ErrorCode, MasterRequest, MasterResponse, Mutation, Query, Request, Response,
    WireError,
};
use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
const ATTEMPT: Duration = Duration::from_millis(1000);

/// What is asked.
#[derive(Debug, Clone)]
pub(super) enum What {
    Mutate(OpId, Mutation),
    Query { body: Query, interest: bool },
    Open { ino: Ino, write: bool },
    Release(Ino),
}

/// For which part of its job a worker asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Whole,
    Open,
    Map,
    Layout,
    Commit,
    Abandon,
    /// Nobody waits.
    Nothing,
}

/// Who waits: worker, job, purpose.
pub(super) type Owner = (usize, u64, Purpose);

/// A request that did not get its answer.
#[derive(Debug, Clone)]
pub(super) struct AskError {
    pub last: WireError,
    /// It may have been done, or may be yet.
    pub unknown: bool,
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Ask {
    owner: Owner,
    what: What,
    attempt: Duration,
    pause: Duration,
    last: WireError,
    maybe_sent: bool,
    /// Not sent, nor to be sent by a timer: waits for contact.
    waits: bool,
    /// The cache's epoch when it was sent last.
    pub cache_epoch: u64,
    /// The session it was sent under last.
    session: ClientId,
}

impl Client {
    pub(super) fn ask(&mut self, owner: Owner, what: What, within: Duration, cx: &mut Cx<'_>) {
        let id = cx.fx.id();
        let ask = Ask {
            owner,
            what,
            attempt: ATTEMPT,
            pause: PAUSE_MIN,
            last: WireError::new(ErrorCode::TimedOut, "not tried"),
            maybe_sent: false,
            waits: true,
            cache_epoch: self.cache_epoch,
            session: self.session,
        };
        self.asks.insert(id, ask);
        self.later(within, ClientTimer::AskOver(id), cx.fx);
        self.ask_again(id, cx);
    }

    pub(super) fn send_waiting_asks(&mut self, cx: &mut Cx<'_>) {
        let waiting = self.asks.iter().filter(|(_, ask)| ask.waits);
        let waiting: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.ask_again(id, cx);
        }
    }

    pub(super) fn ask_again(&mut self, id: u64, cx: &mut Cx<'_>) {
        let bound = self.bound();
        let epoch = self.cache_epoch;
        let Some(mut ask) = self.asks.remove(&id) else {
            return;
        };
        ask.waits = bound.is_none();
        ask.cache_epoch = epoch;
        ask.session = self.session;
        if let Some(conn) = bound {
            if cx.plan.has(Bug::ClientForgetsOpIds)
                && ask.maybe_sent
                && let What::Mutate(op, _) = &mut ask.what
                && op.client == self.session
            {
                *op = self.begin_op();
            }
            let client = self.session;
            let request = match &ask.what {
                What::Mutate(op, body) => {
                    let (op, low) = (*op, self.low_for(*op));
                    MasterRequest::Mutate {
                        op,
                        low,
                        body: body.clone(),
                        open: None,
                    }
                }
                What::Query { body, interest } => MasterRequest::Query {
                    client: Some(client),
                    interest: *interest,
                    body: body.clone(),
                },
                What::Open { ino, write } => MasterRequest::Open {
                    client,
                    ino: *ino,
                    write: *write,
                    interest: false,
                },
                What::Release(ino) => MasterRequest::Release {
                    client,
                    inos: vec![*ino],
                },
            };
            let budget = (Bytes::new(), ask.attempt);
            self.call(
                conn,
                CallKind::Ask(id),
                Request::Master(request),
                budget,
                cx.fx,
            );
        }
        self.asks.insert(id, ask);
    }

    pub(super) fn ask_answered(
        &mut self,
        id: u64,
        result: Result<Response, WireError>,
        cx: &mut Cx<'_>,
    ) {
        let Some(ask) = self.asks.get_mut(&id) else {
            return;
        };
        let error = match result {
            Ok(Response::Master(answer)) => return self.finish_ask(id, Ok(answer), cx),
            Ok(_) => WireError::new(ErrorCode::BadRequest, "not an answer of a master"),
            Err(e) => e,
        };
        let code = error.code;
        let detail = error.detail.clone();
        ask.last = error;
        let is_mutation = matches!(ask.what, What::Mutate(..));
        match code.class() {
            ErrorClass::Redirect => {
                self.hint = detail.parse().ok().and_then(super::settings::node_at);
                self.leave_leader(cx);
            }
            ErrorClass::Unknown => {
                ask.maybe_sent = true;
                ask.attempt *= 2;
                ask.pause = PAUSE_MIN;
                self.leave_leader(cx);
            }
            ErrorClass::Retry if !matches!(code, ErrorCode::WrongEpoch | ErrorCode::StaleLease) => {
            }
            ErrorClass::Permanent if code == ErrorCode::SessionExpired => {
                let lost = match &ask.what {
                    What::Mutate(op, _) => op.client,
                    _ => ask.session,
                };
                self.lose_session(lost, cx);
                self.leave_leader(cx);
                if is_mutation {
                    return self.give_up_ask(id, cx);
                }
            }
            ErrorClass::Retry | ErrorClass::Permanent => return self.give_up_ask(id, cx),
        }
        let Some(ask) = self.asks.get_mut(&id) else {
            return;
        };
        let pause = ask.pause;
        ask.pause = (pause * 2).min(PAUSE_MAX);
        self.later(pause, ClientTimer::AskAgain(id), cx.fx);
    }

    fn leave_leader(&mut self, cx: &mut Cx<'_>) {
        if let Some(conn) = self.bound() {
            self.leave(conn, cx.fx);
        }
    }

    /// The deadline.
    pub(super) fn ask_over(&mut self, id: u64, cx: &mut Cx<'_>) {
        let under_way = self
            .calls
            .iter()
            .find(|(_, (_, kind))| *kind == CallKind::Ask(id));
        let under_way = under_way.map(|(call, _)| *call);
        if let Some(ask) = self.asks.get_mut(&id) {
            ask.maybe_sent |= under_way.is_some();
            if let Some(call) = under_way {
                self.calls.remove(&call);
            }
            let Some(ask) = self.asks.get(&id) else {
                return;
            };
            let unknown = ask.maybe_sent && matches!(ask.what, What::Mutate(..));
            let code = if unknown {
                ErrorCode::UnknownOutcome
            } else {
                ErrorCode::TimedOut
            };
            let last = WireError::new(code, format!("deadline; {}", ask.last));
            self.finish_ask(id, Err(AskError { last, unknown }), cx);
        }
    }

    /// An answer that another attempt would not change.
    fn give_up_ask(&mut self, id: u64, cx: &mut Cx<'_>) {
        let Some(ask) = self.asks.get(&id) else {
            return;
        };
        let last = ask.last.clone();
        let unknown = last.code == ErrorCode::SessionExpired && ask.maybe_sent;
        self.finish_ask(id, Err(AskError { last, unknown }), cx);
    }

    fn finish_ask(&mut self, id: u64, result: Result<MasterResponse, AskError>, cx: &mut Cx<'_>) {
        let Some(ask) = self.asks.remove(&id) else {
            return;
        };
        let (worker, job, purpose) = ask.owner;
        let is_cacheable = ask.cache_epoch == self.cache_epoch;
        if purpose == Purpose::Nothing {
            if let What::Mutate(op, _) = ask.what {
                self.finish_op(op);
            }
        } else if self.job_numbers[worker] == job {
            self.job_answered(worker, purpose, result, is_cacheable, cx);
        }
    }
}
